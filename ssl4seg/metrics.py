"""Segmentation metrics of a case: Dice, IoU, HD95 and ASD per foreground class.

Distances are medpy's, computed in the box that holds both masks: the same numbers to the last bit (a voxel's nearest
border voxel lies in the box), an order of magnitude sooner.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
from medpy.metric import binary

from ssl4seg.data.case import LabelArray
from ssl4seg.errors import UserError
from ssl4seg.keys import IGNORE

Mask = npt.NDArray[np.bool_]
Empty = Literal["worst", "nan", "zero"]
"""What an empty mask scores, see `score`."""


class Score(NamedTuple):
    """One class of one case. Dice and IoU in [0, 1]; distances in voxels or mm."""

    dice: float
    hd95: float
    asd: float
    iou: float


METRICS = Score._fields

# What medpy's own `hd95` and `asd` call, three times for two directions; here each direction is taken once.
_surface_distances = getattr(binary, "__surface_distances")


def check_empty(policy: str) -> Empty:
    """The policy itself, or a UserError."""
    for known in get_args(Empty):
        if policy == known:
            return policy  # type: ignore[return-value]
    raise UserError(f"metrics.empty={policy}: expected one of {', '.join(get_args(Empty))}")


def score(prediction: Mask, truth: Mask, spacing: Sequence[float] | None = None, empty: Empty = "worst") -> Score:
    """Compare two masks of the same shape, [S, H, W] or [H, W].

    HD95 is the 95th percentile of both directed surface distances together, ASD the mean distance of the prediction's
    surface to the truth's (medpy's definitions).

    Args:
        spacing: mm per axis; None measures in voxels.
        empty: what is scored where a mask is empty.
            worst: one empty: Dice and IoU 0, distances the diagonal of the volume; both empty: 1, 1, 0, 0.
            nan: distances are NaN; Dice and IoU too where both are empty. NaN is left out of means.
            zero: all 0, the literature's habit (it flatters HD95 and ASD).
    """
    p, t = int(prediction.sum()), int(truth.sum())
    if p and t:
        both = int((prediction & truth).sum())
        box = _box(prediction | truth)
        a, b = prediction[box], truth[box]
        there, back = _surface_distances(a, b, spacing, 1), _surface_distances(b, a, spacing, 1)
        hd95 = float(np.percentile(np.hstack((there, back)), 95))
        return Score(2 * both / (p + t), hd95, float(there.mean()), both / (p + t - both))
    overlap = 0.0 if p or t or empty == "zero" else 1.0
    if empty == "nan":
        overlap = 0.0 if p or t else math.nan
        return Score(overlap, math.nan, math.nan, overlap)
    if empty == "zero" or overlap:
        return Score(overlap, 0.0, 0.0, overlap)
    steps = spacing or (1.0,) * truth.ndim
    diagonal = math.hypot(*((n - 1) * s for n, s in zip(truth.shape, steps, strict=True)))
    return Score(0.0, diagonal, diagonal, 0.0)


def score_classes(
    prediction: LabelArray,
    label: LabelArray,
    num_classes: int,
    spacing: tuple[float, float, float] | None = None,
    empty: Empty = "worst",
    *,
    first: int = 1,
) -> list[Score]:
    """Scores of the classes first..K-1 of a case, both [S, H, W]; ignored pixels count as none in both."""
    counted = label != IGNORE
    if label.shape[0] == 1:  # one slice is an image: medpy would take its whole area for the surface of a volume
        prediction, label, counted = prediction[0], label[0], counted[0]
        spacing = spacing and spacing[1:]  # type: ignore[assignment]
    masks = (((prediction == k) & counted, (label == k) & counted) for k in range(first, num_classes))
    return [score(p, y, spacing, empty) for p, y in masks]


def confusion(prediction: LabelArray, label: LabelArray, num_classes: int) -> npt.NDArray[np.int64]:
    """Pixels [K, K] by true class (row) and predicted class (column); ignored pixels are left out."""
    counted = label != IGNORE
    pairs = label[counted].astype(np.int64) * num_classes + prediction[counted]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def _box(mask: Mask) -> tuple[slice, ...]:
    """The smallest box that holds the mask, plus one voxel on each side."""
    box = []
    for axis in range(mask.ndim):
        line = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        box.append(slice(max(int(line[0]) - 1, 0), int(line[-1]) + 2))
    return tuple(box)
