"""Ramps: weights of losses that rise over the run, as pure functions of the step."""

import math

from ssl4seg.keys import at_least, expect, optional, whole
from ssl4seg.types import Progress


def sigmoid_rampup(fraction: float) -> float:
    """exp(-5 (1 - x)^2) with x = fraction clipped to [0, 1] (Laine & Aila 2017): 0.0067 at the start, 1 at the end."""
    x = min(max(fraction, 0.0), 1.0)
    return math.exp(-5.0 * (1.0 - x) ** 2)


class Rampup:
    """A loss weight w(t) = weight x exp(-5 (1 - min(floor(t / width), stairs) / stairs)^2).

    Args:
        weight: w at the end of the ramp.
        steps: length of the ramp in steps; 0 is none, w is `weight` from the first step on; None takes `share` of the
            run. With 30,000 steps and 200 stairs a stair is 150 steps wide, as in the SSL4MIS recipe.
        stairs: number of stairs.
        share: share of the run in (0, 1].
    """

    def __init__(self, *, weight: float, steps: int | None = None, stairs: int = 200, share: float = 1.0) -> None:
        expect("method.consistency_weight", weight, at_least(0))
        expect("method.rampup_steps", steps, optional(whole(0)))
        self.weight, self.steps, self.stairs, self.share = weight, steps, stairs, share

    def __call__(self, progress: Progress) -> float:
        if self.steps == 0:
            return self.weight
        stair = progress.step * self.stairs // (self.steps or self.longest(progress.total))
        return self.weight * sigmoid_rampup(stair / self.stairs)

    def longest(self, total: int) -> int:
        """The length in steps of the ramp of `steps=None` in a run of `total` steps."""
        return max(1, round(self.share * total))

    def remedy(self, total: int) -> str:
        """The key that weakens w, see `Method.remedy`: a longer ramp, or if it is as long as can be a tenth of w."""
        if self.steps is not None and self.steps < self.longest(total):
            return "method.rampup_steps=null"
        return f"method.consistency_weight={self.weight / 10:g}" if self.weight else ""
