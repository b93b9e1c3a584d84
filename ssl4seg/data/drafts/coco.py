"""COCO: a JSON of all pictures, with an annotation for each region."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ssl4seg.data.case import LabelArray
from ssl4seg.data.drafts.base import Draft, origin
from ssl4seg.data.drafts.regions import Region, regions_of
from ssl4seg.files import write_text


class Coco(Draft):
    """The categories count from 1, in the order of the classes."""

    format = "coco"

    def __init__(self, folder: Path, names: Mapping[int, str], *, background: bool) -> None:
        super().__init__(folder, names, background=background)
        self.file = folder / "annotations.json"
        self.content: dict[str, list[dict[str, Any]]] = {
            "images": [],
            "annotations": [],
            "categories": [{"id": self.categories[number], "name": name} for number, name in self.annotated.items()],
        }

    def files(self, targets: Iterable[Path]) -> list[Path]:
        return [self.file]

    def add(self, label: LabelArray, picture: Path, name: str, target: Path) -> None:
        self._add_image(label, name)
        annotations = self.content["annotations"]
        for region in regions_of(label):
            if region.number not in self.categories:
                continue
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": len(self.content["images"]),
                    "category_id": self.categories[region.number],
                    "segmentation": segmentation(region, label.shape),
                    "area": int(region.pixels.sum()),
                    "bbox": region.left_top_width_height,
                    "iscrowd": 0,
                }
            )

    def _add_image(self, label: LabelArray, name: str) -> None:
        images, (height, width) = self.content["images"], label.shape
        images.append({"id": len(images) + 1, "file_name": name, "height": height, "width": width})

    def write(self) -> Path:
        write_text(self.file, json.dumps({"info": {"description": origin()}, **self.content}))
        return self.file


def segmentation(region: Region, shape: tuple[int, ...]) -> list[list[float]] | dict[str, Any]:
    """A region as COCO holds it: a polygon, or run lengths (compressed) of one with holes, which no polygon has.

    Args:
        shape: of the whole picture.
    """
    from pycocotools import mask

    if (outline := region.exact_outline()) is not None:
        return [outline.ravel().tolist()]
    whole = np.zeros(shape, np.uint8, order="F")
    whole[region.box] = region.pixels
    runs = mask.encode(whole)
    return {"size": [*shape], "counts": runs["counts"].decode()}
