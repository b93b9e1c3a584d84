"""The contract of a post-processing step, which maps a label map to a better one."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

from ssl4seg.data.case import FloatArray, ImageArray, LabelArray, Spacing
from ssl4seg.errors import UserError
from ssl4seg.keys import Key, expect


class Given(NamedTuple):
    """Inputs of a step besides the label map."""

    image: ImageArray
    """[S, C, *X] as in `Volume`."""
    probability: FloatArray | None
    """[S, K, *X], the network's probabilities; None if no step reads them."""
    spacing: Spacing | None
    """In mm per axis; None if unknown."""


class Step(ABC):
    """One step: a class, and a YAML in conf/postprocess whose keys are the constructor's arguments."""

    name: ClassVar[str]
    """The name of the YAML."""
    reads_probabilities: ClassVar[bool] = False
    """Whether it starts from the probabilities and does not read the label map."""
    needs_background: bool = False
    """Whether it turns other classes into class 0."""

    @abstractmethod
    def __call__(self, label: LabelArray, given: Given) -> LabelArray:
        """[S, *X] -> [S, *X] of the same classes."""

    def resolve(self, classes: Sequence[str]) -> None:  # noqa: B027
        """Replace names of classes in the step's keys by numbers.

        Args:
            classes: names of all classes of the dataset.

        Raises:
            UserError: a name or number is none of the dataset's classes.
        """

    def require(self, key: Key, **values: object) -> None:
        """Refuse arguments of the constructor that do not fit, by their names in the configuration."""
        for name, value in values.items():
            expect(f"postprocess.{self.name}.{name}", value, key)


def check_steps(steps: Sequence[Step], *, probabilities: bool, classes: Sequence[str], background: bool) -> None:
    """Refuse steps whose result a later one would discard, or which the dataset or the protocol does not allow.

    Args:
        probabilities: whether the predictions have probabilities at native size.
        classes: names of all classes of the dataset.
        background: whether class 0 is a background.
    """
    names = [step.name for step in steps]
    for place, step in enumerate(steps):
        step.resolve(classes)
        if step.reads_probabilities and place:
            raise UserError(
                f"postprocess=[{','.join(names)}]: {step.name} starts from the probabilities, not from the result "
                "of the steps before it; put it first"
            )
        if step.reads_probabilities and not probabilities:
            raise UserError(
                f"postprocess={step.name} needs probabilities at native size, but protocol=ssl4mis resizes label "
                "maps; use protocol=default"
            )
        if step.needs_background and not background:
            raise UserError(
                f"postprocess={step.name} turns the pixels it removes into class 0, which is no background in this "
                "dataset (dataset.background=false); leave it out, or use small_regions with into=surrounding"
            )
