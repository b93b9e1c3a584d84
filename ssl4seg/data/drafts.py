"""Predicted labels as annotations of polygons, with which an annotation tool goes on: COCO and LabelMe.

A region is a connected part of a class (pixels that share a side). Its polygon runs through the middles of the sides of
pixels, less the corners that can be left out without passing TOLERANCE, so the centre of each pixel stays on its side:
whoever fills the polygon by the centres of pixels has the region back. Coordinates are those of both formats: the pixel
in column x and row y fills the square from (x, y) to (x + 1, y + 1).
"""

import json
import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from skimage.measure import approximate_polygon, find_contours, regionprops
from skimage.measure import label as connected

from ssl4seg.data.case import LabelArray
from ssl4seg.errors import optional_package
from ssl4seg.files import write_text

TOLERANCE = 0.3
"""Pixels by which a polygon may leave the line through the middles of the sides, which is sqrt(1/8) from any centre."""


class Region(NamedTuple):
    """A connected region of a class."""

    number: int
    """Of the class."""
    corner: tuple[int, int]
    """Row and column of the box around it."""
    pixels: npt.NDArray[np.bool_]
    """[h, w] of the box."""
    filled: npt.NDArray[np.bool_]
    """The same with its holes."""

    @property
    def has_holes(self) -> bool:
        return bool((self.pixels != self.filled).any())

    @property
    def box(self) -> tuple[slice, slice]:
        (row, column), (height, width) = self.corner, self.pixels.shape
        return slice(row, row + height), slice(column, column + width)

    def outline(self) -> npt.NDArray[np.float64]:
        """[N, 2] The polygon (x, y) around the region and its holes."""
        (contour,) = find_contours(np.pad(self.filled, 1).astype(np.float32), 0.5)
        corners = approximate_polygon(contour, TOLERANCE)[:-1]  # the last is the first
        place: npt.NDArray[np.float64] = (corners - 0.5 + self.corner)[:, ::-1]
        return place


def regions_of(label: LabelArray) -> list[Region]:
    """The regions of a label [H, W], of every class in it."""
    numbered = connected(label.astype(np.int32), background=-1, connectivity=1)
    found = []
    for part in regionprops(numbered):
        row, column = part.bbox[:2]
        first = int(np.flatnonzero(part.image[0])[0])
        number = int(label[row, column + first])
        found.append(Region(number, (row, column), part.image, part.image_filled))
    return found


# -- COCO -------------------------------------------------------------------------------------------------------------


class Coco:
    """The annotations of many pictures, as one COCO file.

    Args:
        names: of the classes that are annotated, by their numbers. The categories count from 1, in this order.
    """

    def __init__(self, names: Mapping[int, str]) -> None:
        with optional_package("format=coco", "import"):
            import pycocotools.mask  # noqa: F401
        self.categories = {number: place for place, number in enumerate(names, 1)}
        self.content: dict[str, list[dict[str, Any]]] = {
            "images": [],
            "annotations": [],
            "categories": [{"id": place, "name": name} for place, name in enumerate(names.values(), 1)],
        }

    def add(self, label: LabelArray, name: str) -> None:
        """Add a picture with an annotation for each region of its label [H, W].

        Args:
            name: the path of the picture below the folder of all.
        """
        images, annotations = self.content["images"], self.content["annotations"]
        height, width = label.shape
        images.append({"id": len(images) + 1, "file_name": name, "height": height, "width": width})
        for region in regions_of(label):
            if region.number not in self.categories:
                continue
            (rows, columns), (row, column) = region.pixels.shape, region.corner
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": len(images),
                    "category_id": self.categories[region.number],
                    "segmentation": segmentation(region, label.shape),
                    "area": int(region.pixels.sum()),
                    "bbox": [column, row, columns, rows],
                    "iscrowd": 0,
                }
            )

    def write(self, file: Path) -> None:
        write_text(file, json.dumps({"info": {"description": _origin()}, **self.content}))


def segmentation(region: Region, shape: tuple[int, ...]) -> list[list[float]] | dict[str, Any]:
    """A region as COCO holds it: a polygon, or run lengths (compressed) of one with holes, which no polygon has.

    Args:
        shape: of the whole picture.
    """
    from pycocotools import mask

    if not region.has_holes:
        outline = region.outline()
        inner = (outline - region.corner[::-1]).ravel().tolist()
        decoded = mask.decode(mask.frPyObjects([inner], *region.pixels.shape))[..., 0]
        if np.array_equal(decoded, region.pixels):
            return [outline.ravel().tolist()]
    whole = np.zeros(shape, np.uint8, order="F")
    whole[region.box] = region.pixels
    runs = mask.encode(whole)
    return {"size": [*shape], "counts": runs["counts"].decode()}


# -- LabelMe ----------------------------------------------------------------------------------------------------------


def write_labelme(file: Path, label: LabelArray, picture: Path, names: Mapping[int, str], *, background: bool) -> None:
    """Write a label [H, W] as a LabelMe file: a polygon for each region, the outer ones first.

    LabelMe's polygons have no holes. Where the file is read, later polygons are painted over earlier ones, so a region
    with holes is drawn whole, and what lies in its holes after it: other classes, and the background, by its name.

    Args:
        picture: its file, which the LabelMe file names by the way from its own folder.
        names: of all classes, by their numbers.
        background: whether class 0 is a background, which is drawn in holes only.
    """
    drawn: list[Region] = []
    left: list[Region] = []
    covered = np.zeros(label.shape, bool)
    for region in regions_of(label):
        (left if background and region.number == 0 else drawn).append(region)
    for region in drawn:
        covered[region.box] |= region.filled
    drawn += [region for region in left if covered[region.box][region.pixels].any()]
    content = {
        "version": "5.5.0",
        "flags": {},
        "shapes": [
            {
                "label": names[region.number],
                "points": region.outline().tolist(),
                "group_id": None,
                "description": "",
                "shape_type": "polygon",
                "flags": {},
                "mask": None,
            }
            for region in sorted(drawn, key=lambda region: -int(region.filled.sum()))
        ],
        "imagePath": Path(os.path.relpath(picture, file.parent)).as_posix(),
        "imageData": None,
        "imageHeight": label.shape[0],
        "imageWidth": label.shape[1],
    }
    write_text(file, json.dumps(content, indent=1))


def _origin() -> str:
    return f"predicted by ssl4seg {version('ssl4seg')}"
