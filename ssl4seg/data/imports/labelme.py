"""LabelMe's JSON: a file for each image, with outlines, rectangles, circles and masks.

    a.jpg  a.json    labels.txt (optional: the order of the classes)

Shapes are drawn as LabelMe's own converters draw them: an outline belongs to its shape. The label `_background_` is the
background, `__ignore__` is what nothing counts. Source: labelme/utils/shape.py and its examples/semantic_segmentation.
"""

import base64
import io
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from ssl4seg.data.case import LabelArray
from ssl4seg.data.imports.content import (
    BACKGROUND,
    EMPTY,
    Choices,
    Classes,
    Content,
    Example,
    Images,
    Source,
    counted,
    holds,
    listed,
    size_in,
)
from ssl4seg.data.imports.objects import Mask, Object, drawn
from ssl4seg.data.imports.shapes import NO_AREA, OUTLINES, Points, lies, points_of
from ssl4seg.errors import UserError, did_you_mean
from ssl4seg.keys import IGNORE
from ssl4seg.userfiles import MAX_TEXT, read_json, read_text

NAME = "labelme"
TITLE = "LabelMe JSON (a file an image)"
CHOICES: tuple[str, ...] = ("images", "order", "empty", "boundary")
IGNORED = "__ignore__"
LABELS = "labels.txt"
WITHOUT_AREA = ("line", "linestrip", "point", "points")
NUM_POINTS = {"rectangle": (2, 4), "oriented_rectangle": (4,), "rotation": (4,), "circle": (2,), "mask": (2,)}
"""Of shapes but polygons. X-AnyLabeling writes all corners of a rectangle, and calls a turned one `rotation`."""
POLYGONS = ("polygon", "oriented_rectangle", "rotation")
LOOKS = 20
"""Files that are looked into before a folder is recognised."""


class _Shape(NamedTuple):
    label: str
    group: Any
    """Shapes of one label and group are one object; None: an object of its own."""
    draw: partial[Mask] | None
    """None: nothing is drawn of it, as of a line or of what lies outside of its image."""


def recognise(source: Source) -> bool:
    return any(_is_one(file) for file in source.files(".json")[:LOOKS])


def _is_one(file: Path) -> bool:
    return holds(file, b'"shapes"', b'"imagePath"')


def read(source: Source, choices: Choices) -> Content:
    """All JSON files with shapes; images of which none of them tells are unlabelled."""
    images, files = source.images(choices), source.files(".json")
    read = {file for file in files if _is_one(file)}
    faults, labels = source.broken(".json", read), _labels(source)
    counts: Counter[str] = Counter()
    seen: set[str] = set()
    found: dict[Path, tuple[Path, tuple[int, int], list[_Shape]]] = {}
    for file in files:
        if file not in read:
            counts["{} files .json hold no shapes, and are not read"] += 1
            continue
        try:
            path, size, shapes = _read(file, images, counts, labels)
        except UserError as error:
            faults += [line if line.startswith(str(file)) else f"{file}: {line}" for line in str(error).splitlines()]
        else:
            if path in found:
                faults.append(f"{file}: is about {path.name}, as {found[path][0].name} is; unite both")
            found[path] = file, size, [shape for shape in shapes if shape.draw]
            seen |= {shape.label for shape in shapes}
    if not files:
        raise UserError(f"{source.path}: holds no .json file")
    classes, boundary = _classes(labels, seen, [shapes for *_, shapes in found.values()], choices)
    content = Content(classes=classes.names, faults=faults)
    for path, (_, size, shapes) in found.items():
        mask = None
        if shapes or choices.empty == "background":
            mask = partial(_drawn, shapes, classes.numbers, size, choices.order == "area", boundary)
        if not shapes:
            counts[EMPTY[choices.empty]] += 1
        content.examples.append(Example(name=images.name_of(path), image=path, mask=mask, size=size))
    if source.path.is_dir():
        for path in images.pictures():
            if path not in found:
                counts["{} images without a LabelMe file are unlabelled"] += 1
                content.examples.append(Example(name=images.name_of(path), image=path))
    content.notes += [*classes.notes(), *counted(counts)]
    return content


def _labels(source: Source) -> list[str]:
    """The labels that labels.txt lists; none without the file."""
    file = source.top / LABELS
    return [line.strip() for line in read_text(file).splitlines() if line.strip()] if file.is_file() else []


def _read(
    file: Path, images: Images, counts: Counter[str], labels: Sequence[str]
) -> tuple[Path, tuple[int, int], list[_Shape]]:
    """The image of a file, its size and shapes.

    Raises:
        UserError: lists the faults, the first without the name of the file.
    """
    about = read_json(file, MAX_TEXT)
    shapes = about.get("shapes") if isinstance(about, dict) else None
    if not isinstance(shapes, list):
        raise UserError("shapes is no list")
    name = about.get("imagePath")
    if not isinstance(name, str) or not name:
        raise UserError(f"its imagePath is {name!r}; expected a text")
    size = size_in(about, "imageHeight", "imageWidth")
    path, found, faults = images.find(name, near=file.parent), [], []
    for place, shape in enumerate(shapes):
        try:
            found.append(_shape(shape, size, counts, labels))
        except UserError as error:
            faults.append(f"{file}: shape {place}: {error}")
    if faults:
        raise UserError("\n".join(faults))
    return path, size, found


def _shape(shape: Any, size: tuple[int, int], counts: Counter[str], labels: Sequence[str]) -> _Shape:
    """A shape, checked."""
    label = shape.get("label") if isinstance(shape, dict) else None
    if not isinstance(label, str) or not label.strip():
        raise UserError(f"its label is {label!r}; expected a text")
    kind = shape.get("shape_type") or "polygon"
    if kind in WITHOUT_AREA:
        counts[NO_AREA] += 1
        return _Shape(label.strip(), None, None)
    if kind not in ("polygon", *NUM_POINTS):
        raise UserError(f"its shape_type is {kind!r}; expected polygon, {', '.join(NUM_POINTS)}")
    _expect_listed(label.strip(), labels)
    points = points_of(shape.get("points"), size)
    if kind in NUM_POINTS and len(points) not in NUM_POINTS[kind]:
        raise UserError(f"is a {kind} of {len(points)} points; expected {' or '.join(map(str, NUM_POINTS[kind]))}")
    if kind != "mask" and (place := lies(_outline(kind, points), size)) in OUTLINES:
        counts[OUTLINES[place]] += 1
        if place != "across":
            return _Shape(label.strip(), None, None)
    group = shape.get("group_id")
    if kind == "mask":
        _check_mask(shape.get("mask"), points, size)
        return _Shape(label.strip(), group, partial(_placed, shape["mask"], points, size))
    return _Shape(label.strip(), group, partial(_area, kind, points, size))


def _expect_listed(label: str, labels: Sequence[str]) -> None:
    """Refuse a label that labels.txt lacks, as a misspelt one; LabelMe's own names of no class need not be there."""
    if labels and label not in (*labels, IGNORED) and label.strip("_") != BACKGROUND:
        raise UserError(
            f"its label {label!r} is none of {LABELS} ({listed(labels)}); add it there, or mend the shape"
            f"{did_you_mean(label, labels)}"
        )


def _outline(kind: str, points: Points) -> Points:
    """The points of a polygon; the corners around a rectangle or a circle."""
    if kind in POLYGONS:
        return points
    if kind == "circle":
        points = points[:1] + np.array([[-1], [1]]) * math.dist(*points)
    (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0) + 1  # the pixels of the line belong to it
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]])


def _check_mask(text: Any, points: Points, size: tuple[int, int]) -> None:
    """Refuse a mask that does not fill the box between its two corners, by the header of its PNG."""
    height, width = np.rint(points[1] - points[0])[::-1] + 1
    if not (0 < height <= size[0] and 0 < width <= size[1]) or (points < 0).any():
        raise UserError("is a mask whose corners do not lie within the image")
    with _png(text) as picture:
        declared = picture.height, picture.width
    if declared != (height, width):
        raise UserError(f"is a mask of {declared[0]} x {declared[1]} in a box of {height:g} x {width:g}")


@contextmanager
def _png(text: Any) -> Iterator[Image.Image]:
    """A picture whose pixels are not decoded yet."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=["PNG"]) as picture:
            yield picture
    except Exception:  # Pillow and base64 raise many types
        raise UserError("its mask is no PNG in base64") from None


def _placed(text: str, points: Points, size: tuple[int, int]) -> Mask:
    mask = np.zeros(size, bool)
    left, top = points[0].astype(int)  # LabelMe leaves out what is behind the point; a mask that was moved has some
    with _png(text) as picture:
        pixels = np.asarray(picture.convert("L")) > 0
    part = mask[top : top + pixels.shape[0], left : left + pixels.shape[1]]
    part |= pixels[: part.shape[0], : part.shape[1]]
    return mask


def _area(kind: str, points: Points, size: tuple[int, int]) -> Mask:
    """A polygon, a rectangle between two corners, or a circle through the second point around the first."""
    canvas = Image.new("1", size[::-1])
    draw, corners = ImageDraw.Draw(canvas), [(float(x), float(y)) for x, y in points]
    if kind in POLYGONS:
        draw.polygon(corners, outline=1, fill=1)
    elif kind == "rectangle":
        draw.rectangle([tuple(points.min(axis=0)), tuple(points.max(axis=0))], outline=1, fill=1)
    else:
        (x, y), radius = corners[0], math.dist(*corners)
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], outline=1, fill=1)
    return np.array(canvas, bool)


def _classes(
    labels: list[str], seen: set[str], shapes: list[list[_Shape]], choices: Choices
) -> tuple[Classes, int | None]:
    """The classes in the order of labels.txt, then of their names; and the number of the boundary."""
    classes, used = Classes(), {shape.label for each in shapes for shape in each}
    for label in [*dict.fromkeys(labels), *sorted(seen - {*labels})]:
        if label == IGNORED:
            classes.numbers[label] = IGNORE
        else:
            classes.add(label, label, used=label in used)
    return classes, classes.boundary(choices)


def _drawn(
    shapes: list[_Shape], numbers: dict[Any, int], size: tuple[int, int], by_area: bool, boundary: int | None
) -> LabelArray:
    together: dict[Any, list[_Shape]] = {}
    for place, shape in enumerate(shapes):
        key = (shape.label, str(shape.group)) if shape.group is not None else place
        together.setdefault(key, []).append(shape)
    objects = [Object(numbers[each[0].label], partial(_united, each)) for each in together.values()]
    return drawn(objects, size, by_area=by_area, boundary=boundary)


def _united(shapes: list[_Shape]) -> Mask:
    mask: Mask = np.logical_or.reduce([shape.draw() for shape in shapes if shape.draw])
    return mask
