"""How the axes of volumes that know their place in the body become slices, rows and columns, and back.

A NIfTI file may store a scan along any axes; its affine says which. Volumes of one dataset are laid alike: canonical,
so that x runs from left to right, y from posterior to anterior and z from inferior to superior, with slices along one
of these. "Stored" here is the file's own order, reversed: [z, y, x].
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import nibabel
import numpy as np
import numpy.typing as npt

from ssl4seg.data.case import Spacing
from ssl4seg.errors import UserError

ORIENTATIONS = ("canonical", "stored")
NAMES = ("z", "y", "x")
"""Of the axes, in the order of stored arrays."""
CLEARLY = 1.01
"""A spacing counts as the largest if it is more than this times the next."""
ROUNDING = 0.1
"""Image and mask lie at the same place if they differ by at most this share of the smallest spacing."""
Triple = tuple[int, int, int]
Affine = npt.NDArray[np.float64]


class Space(NamedTuple):
    """How the volumes of a dataset are laid: its keys `orientation` and `slice_axis`."""

    orientation: str = "stored"
    slice_axis: str = "z"
    """Along which slices follow one another: x, y or z, of the body if canonical, else of the file."""


AS_STORED = Space()


class Axes(NamedTuple):
    """The way of one file's axes."""

    order: Triple
    """Which stored axes become slices, rows and columns."""
    backwards: tuple[bool, ...]
    """Which stored axes run backwards."""


STORED = Axes((0, 1, 2), (False, False, False))


def axes_of(shape: Sequence[int], affine: Affine | None, space: Space) -> Axes:
    """The way of a volume's axes. In canonical orientation a single slice stays one, along whichever axis it lies.

    Args:
        shape: stored, [z, y, x].
        affine: from the file's voxels (x, y, z) to the body, right, anterior, superior; None if unknown: as stored.
    """
    places, backwards = [0, 1, 2], [False, False, False]  # of the body's z, y, x: the stored axis
    single: list[int] = []
    if affine is not None and space.orientation == "canonical":
        for axis, (of_body, direction) in enumerate(nibabel.io_orientation(affine)):
            places[2 - int(of_body)], backwards[2 - axis] = 2 - axis, bool(direction < 0)
        single = [place for place in places if shape[place] == 1]
    first = single[0] if len(single) == 1 else places[NAMES.index(space.slice_axis)]
    slices, rows, columns = first, *(place for place in places if place != first)
    return Axes((slices, rows, columns), tuple(backwards))


def laid(pixels: npt.NDArray[Any], axes: Axes, at: Triple) -> npt.NDArray[Any]:
    """A stored array as slices, rows and columns.

    Args:
        at: where z, y and x are among the array's axes, and slices, rows and columns will be.
    """
    if axes == STORED:
        return pixels
    flipped = np.flip(pixels, tuple(at[axis] for axis in range(3) if axes.backwards[axis]))
    return np.ascontiguousarray(np.moveaxis(flipped, [at[axis] for axis in axes.order], at))


def back(label: npt.NDArray[Any], axes: Axes) -> npt.NDArray[Any]:
    """Slices, rows and columns as the file stores them: the inverse of `laid`."""
    stored = np.moveaxis(label, (0, 1, 2), axes.order)
    return np.flip(stored, tuple(axis for axis in range(3) if axes.backwards[axis]))


def corners(shape: Sequence[int], affine: Affine, axes: Axes) -> npt.NDArray[np.float64]:
    """[8, 3] Where the corners of the laid volume are in the body; `shape` is stored."""
    ends = [(n - 1, 0) if axes.backwards[axis] else (0, n - 1) for axis, n in enumerate(shape)]
    laid_corners = itertools.product(*(ends[axis] for axis in axes.order))
    stored = [[corner[axes.order.index(axis)] for axis in range(3)] for corner in laid_corners]
    points: npt.NDArray[np.float64] = np.array(stored)[:, ::-1] @ affine[:3, :3].T + affine[:3, 3]
    return points


def thickest(spacing: Spacing) -> str | None:
    """The axis with the largest of the spacings along z, y and x; None if it is not clearly larger than the next."""
    _, second, largest = sorted(spacing)
    return NAMES[spacing.index(largest)] if largest > CLEARLY * second else None


def check_affine(source: str, affine: Affine) -> None:
    """Refuse an affine that leads to no place."""
    if not np.isfinite(affine).all() or np.linalg.matrix_rank(affine[:3, :3]) < 3:
        raise UserError(f"{source}: its affine is none ({affine[:3].tolist()}); mend the header")
