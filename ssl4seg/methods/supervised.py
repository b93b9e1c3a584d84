"""Supervised training on the labelled images alone: the baseline, and with labeled_ratio=1 the upper bound."""

from typing import ClassVar

from ssl4seg.methods.base import MakeNetwork, Method
from ssl4seg.types import Batch, Losses, Progress


class Supervised(Method):
    """L = L_sup(f(x_l), y_l), with L_sup = (cross-entropy + Dice) / 2; the recipe of SSL4MIS."""

    needs_unlabeled: ClassVar[bool] = False

    def __init__(self, *, network: MakeNetwork) -> None:
        super().__init__()
        self.student = network()

    def forward(self, phase: str, batch: Batch, progress: Progress) -> Losses:
        return {"supervised": self.supervised(self.student(batch.image), batch.label)}
