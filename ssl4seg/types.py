"""The types that all rooms share.

Shape letters, here and everywhere: B batch, L labelled, U unlabelled, S slices of a volume, C channels, K classes,
H height, W width.
"""

from typing import NamedTuple

from torch import Tensor

Losses = dict[str, Tensor]
"""Weighted scalar terms that the engine adds up; the keys are the TensorBoard names `train/<term>`."""


class Batch(NamedTuple):
    """The images and labels that a method gets in one step, on the training device."""

    image: Tensor
    """[L, C, H, W] float32, weak view of the labelled images."""
    label: Tensor
    """[L, H, W] int64 in 0..K-1 or IGNORE."""
    unlabeled: Tensor
    """[U, C, H, W] float32, weak view of the unlabelled images; U is 0 for a method that uses none."""
    strong: tuple[Tensor, ...] = ()
    """`Method.strong_views` tensors [U, C, H, W], each pixel-aligned with `unlabeled`."""


class PseudoLabels(NamedTuple):
    """The targets that a method sets for unlabelled images."""

    probability: Tensor
    """[U, K, H, W] the target's class probabilities, one-hot or soft."""
    used: Tensor
    """[U, H, W] bool, the pixels that enter the loss."""


class Progress(NamedTuple):
    """The position in a run: `step` of `total` optimiser steps are done."""

    step: int
    total: int

    @property
    def fraction(self) -> float:
        """Share of the run that is done, in [0, 1]."""
        return self.step / self.total
