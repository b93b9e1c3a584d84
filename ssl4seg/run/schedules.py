"""Schedules: factors of the learning rate as pure functions of the step."""

import math
from abc import ABC, abstractmethod

from ssl4seg.keys import above, expect, number_in, whole
from ssl4seg.types import Progress


class Schedule(ABC):
    """The factor in [0, 1] of the base learning rate at a step; it rises linearly over the first `warmup` steps."""

    def __init__(self, *, warmup: int = 0) -> None:
        expect("schedule.warmup", warmup, whole(0))
        self.warmup = warmup

    def __call__(self, progress: Progress) -> float:
        rise = min(1.0, (progress.step + 1) / self.warmup) if self.warmup else 1.0
        return rise * self.factor(progress)

    @abstractmethod
    def factor(self, progress: Progress) -> float:
        """The factor without the warm-up."""


class Poly(Schedule):
    """(1 - t/T)^power (Chen et al., DeepLab 2017)."""

    def __init__(self, *, power: float = 0.9, warmup: int = 0) -> None:
        super().__init__(warmup=warmup)
        expect("schedule.power", power, above(0))
        self.power = power

    def factor(self, progress: Progress) -> float:
        return float((1 - progress.fraction) ** self.power)


class Constant(Schedule):
    """1 in every step after the warm-up."""

    def factor(self, progress: Progress) -> float:
        return 1.0


class Step(Schedule):
    """gamma^floor(t / every), as torch's StepLR."""

    def __init__(self, *, every: int, gamma: float = 0.1, warmup: int = 0) -> None:
        super().__init__(warmup=warmup)
        expect("schedule.every", every, whole(1))
        expect("schedule.gamma", gamma, number_in("(0, 1]"))
        self.every, self.gamma = every, gamma

    def factor(self, progress: Progress) -> float:
        return float(self.gamma ** (progress.step // self.every))


class Cosine(Schedule):
    """Half a cosine from 1 to `final` (Loshchilov & Hutter, SGDR 2017)."""

    def __init__(self, *, final: float = 0.0, warmup: int = 0) -> None:
        super().__init__(warmup=warmup)
        expect("schedule.final", final, number_in("[0, 1]"))
        self.final = final

    def factor(self, progress: Progress) -> float:
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * progress.fraction)) / 2
