"""CVAT's XML, "CVAT for images 1.1": outlines, masks, boxes and ellipses.

    annotations.xml  images/...    or, as Datumaro writes it, train.xml  val.xml  images/...

Shapes are drawn as CVAT's own export of masks draws them: by their z_order, then by their order in the file. Only an
ellipse is drawn as CVAT shows it: the export rounds its middle and its axes to whole pixels. Tracks, which are of
videos, are skipped. Source: https://docs.cvat.ai/docs/manual/advanced/formats/format-cvat/.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from ssl4seg.data.dataset import Split
from ssl4seg.data.imports.content import (
    EMPTY,
    Choices,
    Classes,
    Content,
    Example,
    Images,
    Source,
    attempt,
    counted,
    holds,
    size_in,
    split_of,
)
from ssl4seg.data.imports.objects import Mask, Object, drawn
from ssl4seg.data.imports.shapes import OUTLINES, coco_mask, lies, outlined, points_of
from ssl4seg.errors import UserError
from ssl4seg.keys import is_rgb_color
from ssl4seg.userfiles import MAX_TEXT, read_xml

NAME = "cvat"
TITLE = "CVAT XML (CVAT for images 1.1)"
CHOICES: tuple[str, ...] = ("images", "order", "empty", "boundary")
SHAPES = ("polygon", "mask", "box", "ellipse")
WITHOUT_AREA = ("polyline", "points", "skeleton", "cuboid", "tag")
LABELS = "./meta//labels/label"
ELLIPSE = np.linspace(0, 2 * math.pi, 128, endpoint=False)
"""Angles of the points by which an ellipse is drawn."""


def recognise(source: Source) -> bool:
    return bool(_files(source))


def _files(source: Source) -> list[Path]:
    return [file for file in source.files(".xml") if holds(file, b"<annotations", b"<meta")]


def read(source: Source, choices: Choices) -> Content:
    coco_mask()
    files = _files(source) or [source.only(".xml", "annotations and meta")]
    told = source.with_splits(files)
    reader = _Reader(source.images(choices), choices)
    reader.faults += source.broken(".xml", files)
    return reader.content(told)


class _Reader:
    def __init__(self, images: Images, choices: Choices) -> None:
        self.images, self.choices = images, choices
        self.classes = Classes()
        self.faults: list[str] = []
        self.counts: Counter[str] = Counter()

    def content(self, files: Sequence[tuple[Path, Split | None]]) -> Content:
        roots = {file: root for file, _ in files if (root := attempt(self.faults, partial(_root, file))) is not None}
        colors = self._add_labels(roots)
        boundary = self.classes.boundary(self.choices)
        if tracks := sum(len(root.findall("track")) for root in roots.values()):
            self.counts["{} tracks are of a video, and are skipped"] += tracks
        examples = [
            example
            for file, split in files
            for image in (roots[file].iter("image") if file in roots else ())
            for example in self._example(file, image, split, boundary)
        ]
        palette = None
        if len(colors) > 1 and all(name in colors for name in self.classes.names[1:]):
            palette = ["#000000", *(colors[name] for name in self.classes.names[1:])]
        notes = [*self.classes.notes(), *counted(self.counts)]
        names = self.classes.names
        return Content(classes=names, examples=examples, palette=palette, faults=self.faults, notes=notes)

    def _add_labels(self, roots: Mapping[Path, ElementTree.Element]) -> dict[str, str]:
        """Add the labels of the heads that a shape uses; return their colours."""
        images = [image for root in roots.values() for image in root.iter("image")]
        used = {shape.get("label") for image in images for shape in image if shape.tag in SHAPES}
        colors: dict[str, str] = {}
        for file, label in ((file, each) for file, root in roots.items() for each in root.iterfind(LABELS)):
            name, color = (label.findtext(key) or "" for key in ("name", "color"))
            if not name.strip():
                self.faults.append(f"{file}: a label of the head has no name")
                continue
            self.classes.add(name, name.strip(), used=name in used)
            if is_rgb_color(color.lower()):
                colors[name.strip()] = color.lower()
        return colors

    def _example(
        self, file: Path, image: ElementTree.Element, split: Split | None, boundary: int | None
    ) -> Iterator[Example]:
        """An image; none if it has a fault."""
        name = image.get("name") or ""
        where = f"{file}: image {name or image.get('id')}"
        try:
            size = size_in({key: _whole(image.get(key)) for key in ("height", "width")}, "height", "width")
            path = self.images.find(name, near=file.parent, subset=image.get("subset") or "")
        except UserError as error:
            self.faults.append(f"{where}: {error}")
            return
        objects: list[tuple[int, Object]] = []
        for place, shape in enumerate(image):
            if shape.tag in WITHOUT_AREA:
                self.counts["{} lines, points and tags have no area, and are left out"] += 1
            elif shape.tag in SHAPES:
                try:
                    objects += [(_whole(shape.get("z_order")) or 0, each) for each in self._object(shape, size)]
                except UserError as error:
                    self.faults.append(f"{where}: shape {place} ({shape.tag}): {error}")
        objects.sort(key=lambda each: each[0])
        mask, by_area = None, self.choices.order == "area"
        if objects or self.choices.empty == "background":
            mask = partial(drawn, [each for _, each in objects], size, by_area=by_area, boundary=boundary)
        if not objects:
            self.counts[EMPTY[self.choices.empty]] += 1
        split = split_of(Path(image.get("subset") or "")) or split
        yield Example(name=self.images.name_of(path), image=path, mask=mask, size=size, split=split)

    def _object(self, shape: ElementTree.Element, size: tuple[int, int]) -> Iterator[Object]:
        label = shape.get("label") or ""
        if label not in self.classes.numbers:
            raise UserError(f"its label {label!r} is none of the head")
        number = self.classes.numbers[label]
        if shape.tag == "mask":
            yield Object(number, _mask_of(shape, size))
            return
        outline = {"polygon": _polygon, "box": _box, "ellipse": _ellipse}[shape.tag](shape)
        points = points_of(outline, size)
        if (place := lies(points, size)) in OUTLINES:
            self.counts[OUTLINES[place]] += 1
        if place in ("inside", "across"):
            yield Object(number, partial(outlined, [points], size))


def _root(file: Path) -> ElementTree.Element:
    root = read_xml(file, MAX_TEXT)
    if root.find("track") is not None and root.find("image") is None:
        raise UserError(f"{file}: holds tracks of a video, which are not read; export the task as CVAT for images 1.1")
    return root


def _whole(text: str | None) -> int | None:
    try:
        return int(text or "")
    except ValueError:
        return None


def _number(shape: ElementTree.Element, key: str, default: str = "") -> float:
    try:
        number = float(shape.get(key, default))
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"its {key} is {shape.get(key)!r}; expected a number")
    return number


def _polygon(shape: ElementTree.Element) -> list[list[float]]:
    try:
        return [[float(value) for value in point.split(",")] for point in (shape.get("points") or "").split(";")]
    except ValueError:
        raise UserError("its points are not written x,y;x,y;...") from None


def _box(shape: ElementTree.Element) -> list[list[float]]:
    corners = np.array([_number(shape, key) for key in ("xtl", "ytl", "xbr", "ybr")]).reshape(2, 2)
    (left, top), (right, bottom) = corners
    return _turned(np.array([[left, top], [right, top], [right, bottom], [left, bottom]]), shape)


def _ellipse(shape: ElementTree.Element) -> list[list[float]]:
    x, y, across, down = (_number(shape, key) for key in ("cx", "cy", "rx", "ry"))
    return _turned(np.stack([x + across * np.cos(ELLIPSE), y + down * np.sin(ELLIPSE)], axis=1), shape)


def _turned(points: np.ndarray, shape: ElementTree.Element) -> list[list[float]]:
    """Points turned clockwise around their middle by the degrees that the shape says."""
    angle, middle = math.radians(_number(shape, "rotation", "0")), (points.min(axis=0) + points.max(axis=0)) / 2
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    turned: list[list[float]] = ((points - middle) @ turn.T + middle).tolist()
    return turned


def _mask_of(shape: ElementTree.Element, size: tuple[int, int]) -> partial[Mask]:
    """A mask: run lengths along the rows of its box, off and on by turns."""
    left, top, width, height = (_whole(shape.get(key)) for key in ("left", "top", "width", "height"))
    if left is None or top is None or width is None or height is None or min(left, top) < 0 or min(width, height) < 1:
        raise UserError("its left, top, width and height are no numbers of pixels")
    if left + width > size[1] or top + height > size[0]:
        raise UserError(f"its box of {height} x {width} at row {top}, column {left} reaches out of the image")
    try:
        runs = [int(run) for run in (shape.get("rle") or "").split(",")]
    except ValueError:
        raise UserError("its rle is no list of numbers") from None
    if min(runs) < 0 or sum(runs) != width * height:
        raise UserError(f"its rle is of {sum(runs)} pixels, but its box of {height} x {width} has {width * height}")
    return partial(_filled, runs, (slice(top, top + height), slice(left, left + width)), size)


def _filled(runs: list[int], box: tuple[slice, slice], size: tuple[int, int]) -> Mask:
    mask = np.zeros(size, bool)
    mask[box] = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(mask[box].shape)
    return mask
