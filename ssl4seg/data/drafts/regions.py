"""The regions of a label and the polygons around them.

A region is a connected part of a class (pixels that share a side). Its polygon runs through the middles of the sides of
pixels, less the corners that can be left out without passing TOLERANCE, so the centre of each pixel stays on its side:
whoever fills the polygon by the centres of pixels has the region back. Coordinates are those of COCO, LabelMe and CVAT:
the pixel in column x and row y fills the square from (x, y) to (x + 1, y + 1).
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from skimage.measure import approximate_polygon, find_contours, regionprops
from skimage.measure import label as connected

from ssl4seg.data.case import LabelArray

TOLERANCE = 0.3
"""Pixels by which a polygon may leave the line through the middles of the sides, which is sqrt(1/8) from any centre."""

Outline = npt.NDArray[np.float64]
"""[N, 2] The corners (x, y) of a polygon."""


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

    @property
    def left_top_width_height(self) -> list[int]:
        """Column and row of its box, then width and height: the box as COCO holds it."""
        return [self.corner[1], self.corner[0], self.pixels.shape[1], self.pixels.shape[0]]

    def outline(self) -> Outline:
        """The polygon around the region and its holes."""
        (contour,) = find_contours(np.pad(self.filled, 1).astype(np.float32), 0.5)
        corners = approximate_polygon(contour, TOLERANCE)[:-1]  # the last is the first
        place: Outline = (corners - 0.5 + self.corner)[:, ::-1]
        return place

    def exact_outline(self) -> Outline | None:
        """The polygon that is the region again where COCO's rule fills it; None if there is none, as of holes."""
        from pycocotools import mask

        if self.has_holes:
            return None
        outline = self.outline()
        inner = (outline - self.corner[::-1]).ravel().tolist()
        decoded = mask.decode(mask.frPyObjects([inner], *self.pixels.shape))[..., 0]
        return outline if np.array_equal(decoded, self.pixels) else None


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
