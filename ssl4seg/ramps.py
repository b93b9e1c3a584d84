"""Ramps: weights of losses that rise over the run, as pure functions of the step."""

import math

from ssl4seg.errors import UserError
from ssl4seg.types import Progress


def sigmoid_rampup(fraction: float) -> float:
    """exp(-5 (1 - x)^2) with x = fraction clipped to [0, 1] (Laine & Aila 2017); 0.0067 at the start, 1 at the end."""
    x = min(max(fraction, 0.0), 1.0)
    return math.exp(-5.0 * (1.0 - x) ** 2)


class Rampup:
    """A loss weight w(t) = weight x exp(-5 (1 - min(floor(t / width), stairs) / stairs)^2).

    Args:
        weight: w at the end of the ramp.
        steps: length of the ramp in steps; None is `share` of the run. With 30,000 steps and 200 stairs a stair is 150
            steps wide, which is the SSL4MIS recipe.
        stairs: number of stairs.
        share: in (0, 1], the whole run as a rule.
    """

    def __init__(self, *, weight: float, steps: int | None = None, stairs: int = 200, share: float = 1.0) -> None:
        if not weight >= 0:
            raise UserError(f"method.consistency_weight={weight}: expected a number of at least 0")
        if steps is not None and steps < 1:
            raise UserError(f"method.rampup_steps={steps}: expected at least 1, or null for one that follows the run")
        self.weight, self.steps, self.stairs, self.share = weight, steps, stairs, share

    def __call__(self, progress: Progress) -> float:
        stair = progress.step * self.stairs // (self.steps or max(1, round(self.share * progress.total)))
        return self.weight * sigmoid_rampup(stair / self.stairs)
