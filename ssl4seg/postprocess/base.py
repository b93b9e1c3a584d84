"""The contract of a post-processing step: a label map in, a better one out."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

from ssl4seg.data.case import FloatArray, ImageArray, LabelArray, Spacing
from ssl4seg.errors import UserError


class Given(NamedTuple):
    """What a step may look at besides the label map."""

    image: ImageArray
    """[S, C, H, W] as in `Volume`."""
    probability: FloatArray | None
    """[S, K, H, W] of the network; None unless a step reads it."""
    spacing: Spacing | None
    """None where unknown."""


class Step(ABC):
    """One file in conf/postprocess; its class names its keys as they stand there."""

    name: ClassVar[str]
    """Of the file."""
    reads_probabilities: ClassVar[bool] = False
    """Whether it starts from the probabilities, whatever the label map is."""
    needs_background: bool = False
    """Whether it turns other classes into class 0."""

    @abstractmethod
    def __call__(self, label: LabelArray, given: Given) -> LabelArray:
        """[S, H, W] -> [S, H, W] of the same classes."""

    def resolve(self, classes: Sequence[str]) -> None:  # noqa: B027
        """Take names for numbers, and refuse what is none of the dataset's classes.

        Args:
            classes: all names.
        """

    def wrong(self, key: str, value: object, expected: str) -> UserError:
        """An error that names the key."""
        return UserError(f"postprocess.{self.name}.{key}={value}: expected {expected}")


def check_steps(steps: Sequence[Step], *, probabilities: bool, classes: Sequence[str], background: bool) -> None:
    """Refuse steps whose result a later one would throw away, or that need or name what is not there.

    Args:
        probabilities: whether the predictions have probabilities at native size.
        classes: names of the dataset's.
        background: whether class 0 belongs to nothing.
    """
    names = [step.name for step in steps]
    for place, step in enumerate(steps):
        step.resolve(classes)
        if step.reads_probabilities and place:
            raise UserError(
                f"postprocess=[{','.join(names)}]: {step.name} starts from the probabilities, not from what the steps "
                "before it made; put it first"
            )
        if step.reads_probabilities and not probabilities:
            raise UserError(
                f"postprocess={step.name} needs probabilities at native size, and protocol=ssl4mis brings label maps "
                "to it; use protocol=default"
            )
        if step.needs_background and not background:
            raise UserError(
                f"postprocess={step.name} turns what it takes away into class 0, which is no background in this "
                "dataset (dataset.background=false); leave it out, or use small_regions with into=surrounding"
            )
