"""Many masks of single objects become one mask of classes."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ssl4seg.data.case import LabelArray

Mask = npt.NDArray[np.bool_]


class Object(NamedTuple):
    """An object of an image."""

    number: int
    """Its class."""
    mask: Callable[[], Mask]
    """[H, W]"""


def drawn(
    objects: Sequence[Object], size: tuple[int, int], *, by_area: bool = False, boundary: int | None = None
) -> LabelArray:
    """Paint objects over one another.

    Args:
        by_area: the smaller of two objects lies above, whatever the order; else the later one.
        boundary: the class of pixels at which two objects touch; None: there is none.

    Returns:
        [H, W], 0 where there is no object.
    """
    if by_area:
        areas = [int(each.mask().sum()) for each in objects]
        objects = [objects[place] for place in sorted(range(len(objects)), key=lambda place: -areas[place])]
    label = np.zeros(size, np.uint8)
    owner = np.zeros(size if boundary else (0, 0), np.int32)
    for place, each in enumerate(objects, 1):
        mask = each.mask()
        label[mask] = each.number
        if boundary:
            owner[mask] = place
    if boundary:
        label[touching(owner)] = boundary
    return label


def touching(owner: npt.NDArray[np.integer]) -> Mask:
    """The pixels of an object [H, W] beside a pixel of another one, also over a corner.

    Args:
        owner: the number of each pixel's object, 0 where there is none.
    """
    found = np.zeros(owner.shape, bool)
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        here = (slice(0, -down or None), slice(max(0, -right), -right if right > 0 else None))
        there = (slice(down, None), slice(max(0, right), right if right < 0 else None))
        one, other = owner[here], owner[there]
        differ = (one != other) & (one != 0) & (other != 0)
        found[here] |= differ
        found[there] |= differ
    return found
