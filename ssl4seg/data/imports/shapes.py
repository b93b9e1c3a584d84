"""Outlines and run lengths of annotations: checked when they are read, made a mask by pycocotools when it is drawn.

Nothing here takes memory by what an annotation claims: run lengths must fill their image exactly, and an outline may
not be longer than one that visits every pixel of it.
"""

import math
from collections.abc import Sequence
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from ssl4seg.data.imports.objects import Mask
from ssl4seg.errors import UserError, optional_package
from ssl4seg.keys import is_number, is_whole

FARTHEST = 10**6
"""Pixels from the corner of an image; no image has so many along an axis."""
Points = npt.NDArray[np.float64]
"""[N, 2], x and y in pixels; (0, 0) is the outer corner of the first pixel."""


def coco_mask() -> ModuleType:
    """`pycocotools.mask`.

    Raises:
        UserError: it is not installed.
    """
    with optional_package("this import", "import"):
        from pycocotools import mask
    return mask  # type: ignore[no-any-return]


# -- outlines ---------------------------------------------------------------------------------------------------------


def points_of(numbers: Any, size: tuple[int, int]) -> Points:
    """The points of an outline that is written x, y, x, y, ... or [x, y], [x, y], ...

    Args:
        size: height and width of the image.

    Raises:
        UserError: what is wrong, without the place, which the caller knows.
    """
    flat = numbers
    if isinstance(numbers, list) and numbers and all(isinstance(point, list) and len(point) == 2 for point in numbers):
        flat = [value for point in numbers for value in point]
    if not isinstance(flat, list) or len(flat) % 2 or not all(map(_is_finite, flat)):
        raise UserError("its outline is no list of x and y by turns")
    points = np.array(flat, float).reshape(-1, 2)
    if np.abs(points).max(initial=0) > FARTHEST:
        x, y = points[np.abs(points).max(axis=1).argmax()]
        raise UserError(f"its outline reaches to x={x:g}, y={y:g}, in an image of {size[0]} x {size[1]}")
    steps = np.abs(np.diff(points, axis=0, append=points[:1])).max(axis=1).sum() if len(points) else 0
    if steps > 4 * math.prod(size) + 1000:
        raise UserError(f"its outline is {steps:.0f} pixels long, in an image of {size[0]} x {size[1]}")
    return points


def _is_finite(value: Any) -> bool:
    return is_number(value) and math.isfinite(value)


def lies(points: Points, size: tuple[int, int]) -> str:
    """Where an outline lies: "inside", "across" (by more than a pixel), "outside"; "nowhere" without area."""
    if len(points) < 3:
        return "nowhere"
    (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
    height, width = size
    if left >= width or top >= height or right <= 0 or bottom <= 0:
        return "outside"
    return "inside" if min(left, top) >= -1 and right <= width + 1 and bottom <= height + 1 else "across"


OUTLINES = {
    "across": "{} outlines reach beyond their image, and are cut off at its edge",
    "outside": "{} outlines lie outside of their image, and are left out",
    "nowhere": "{} outlines of fewer than three points are left out",
}
"""What is said of outlines by where they lie."""
NO_AREA = "{} lines and points have no area, and are left out"


def outlined(outlines: Sequence[Points], size: tuple[int, int]) -> Mask:
    """The pixels [H, W] within any of the outlines, as the COCO tools draw them; those beyond the image are cut off."""
    mask, found = coco_mask(), np.zeros(size, bool)
    inside = [points.ravel().tolist() for points in outlines if lies(points, size) in ("inside", "across")]
    if inside:
        found |= mask.decode(mask.merge(mask.frPyObjects(inside, *size))).astype(bool)
    return found


# -- run lengths ------------------------------------------------------------------------------------------------------


def runs_of(counts: Any, size: tuple[int, int]) -> partial[Mask]:
    """How to draw COCO's run lengths: numbers of pixels, down the columns, off and on by turns, as a list or a string.

    Raises:
        UserError: what is wrong, without the place.
    """
    if isinstance(counts, str):
        lengths = _lengths(counts)
    elif isinstance(counts, list) and all(is_whole(count) and count >= 0 for count in counts):
        lengths = counts
    else:
        raise UserError("its run lengths (counts) are neither a list of whole numbers nor a string")
    total, pixels = sum(lengths), math.prod(size)
    if total != pixels or min(lengths, default=0) < 0:
        raise UserError(f"its run lengths (counts) are of {total} pixels, but its image has {pixels}")
    return partial(filled, counts, size)


def filled(counts: str | list[int], size: tuple[int, int]) -> Mask:
    """The mask [H, W] of COCO's run lengths, which `runs_of` has checked."""
    mask = coco_mask()
    run = {"size": [*size], "counts": counts}
    found: Mask = mask.decode(run if isinstance(counts, str) else mask.frPyObjects(run, *size)).astype(bool)
    return found


def _lengths(text: str) -> list[int]:
    """The run lengths that a string of COCO's API stands for.

    A character holds 5 bits of a number, the lowest first, bit 6 says that more follow; from the third number on it is
    the difference from the last but one. The library reads such a string without comparing its sum with the image.
    """
    lengths: list[int] = []
    value = place = 0
    for sign in text.encode():
        bits = sign - 48
        if not 0 <= bits < 64 or place > 60:
            raise UserError("its run lengths (counts) are no string of the COCO tools")
        value |= (bits & 31) << place
        place += 5
        if not bits & 32:
            value -= (bits & 16) << place - 4
            lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
            value = place = 0
    if place:
        raise UserError("its run lengths (counts) end within a number")
    return lengths
