"""CVAT's XML, "CVAT for images 1.1": all pictures, with a polygon for each region.

A region that no polygon gives back, as one with holes, is a mask: run lengths along the rows of its box, off and on by
turns. Source: https://docs.cvat.ai/docs/manual/advanced/formats/format-cvat/.
"""

from collections.abc import Iterable, Mapping
from itertools import groupby
from pathlib import Path
from xml.etree import ElementTree

from ssl4seg.data.case import LabelArray
from ssl4seg.data.drafts.base import Draft, origin
from ssl4seg.data.drafts.regions import Region, regions_of
from ssl4seg.files import write_text


class Cvat(Draft):
    """The task's labels must have the names of the classes."""

    format = "cvat"

    def __init__(self, folder: Path, names: Mapping[int, str], *, background: bool) -> None:
        super().__init__(folder, names, background=background)
        self.file, self.num = folder / "annotations.xml", 0
        self.root = ElementTree.Element("annotations")
        _text(self.root, "version", "1.1")
        meta = ElementTree.SubElement(self.root, "meta")
        labels = ElementTree.SubElement(ElementTree.SubElement(meta, "task"), "labels")
        for name in self.annotated.values():
            label = ElementTree.SubElement(labels, "label")
            _text(label, "name", name)
            _text(label, "attributes", "")
        _text(meta, "source", origin())

    def files(self, targets: Iterable[Path]) -> list[Path]:
        return [self.file]

    def add(self, label: LabelArray, picture: Path, name: str, target: Path) -> None:
        height, width = label.shape
        size = {"width": f"{width}", "height": f"{height}"}
        image = ElementTree.SubElement(self.root, "image", {"id": f"{self.num}", "name": name, **size})
        self.num += 1
        for region in regions_of(label):
            if region.number in self.categories:
                shape, keys = shape_of(region)
                drawn = {"label": self.names[region.number], "source": "auto", "occluded": "0", **keys, "z_order": "0"}
                ElementTree.SubElement(image, shape, drawn)

    def write(self) -> Path:
        ElementTree.indent(self.root)
        text = ElementTree.tostring(self.root, encoding="unicode")
        write_text(self.file, f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n')
        return self.file


def shape_of(region: Region) -> tuple[str, dict[str, str]]:
    """A region as CVAT holds it: the name of its element, and where it lies."""
    if (outline := region.exact_outline()) is not None:
        return "polygon", {"points": ";".join(f"{x:.2f},{y:.2f}" for x, y in outline)}
    left, top, width, height = region.left_top_width_height
    runs = [len([*same]) for _, same in groupby(region.pixels.ravel().tolist())]
    if region.pixels[0, 0]:
        runs.insert(0, 0)
    box = {"left": left, "top": top, "width": width, "height": height}
    return "mask", {"rle": ", ".join(map(str, runs)), **{key: f"{value}" for key, value in box.items()}}


def _text(parent: ElementTree.Element, name: str, text: str) -> None:
    ElementTree.SubElement(parent, name).text = text
