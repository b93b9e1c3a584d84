"""The method contract.

A method owns its networks and proposes losses; the engine optimises. It never sees a file, a config object, a logger or
an optimiser step. A new method is one file here (or anywhere) and one YAML in conf/method; the contract test finds it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import Parameter

from ssl4seg.networks.base import Network
from ssl4seg.types import Batch, Losses, Progress

MakeNetwork = Callable[[], Network]
"""Builds a freshly initialised network; call it once for each network of the method."""


class Method(nn.Module, ABC):
    """A semi-supervised method; the simplest owns one network, the student, which learns and predicts."""

    needs_unlabeled: ClassVar[bool] = True
    """Whether unlabelled images are loaded; if so, a run without any is refused."""
    strong_views: ClassVar[int] = 0
    """How many strong views of the unlabelled images `Batch.strong` holds."""
    phases: tuple[str, ...] = ("segmenter",)
    """One optimiser each, in the order of a step; adversarial methods add "discriminator"."""

    student: Network

    @abstractmethod
    def forward(self, phase: str, batch: Batch, progress: Progress) -> Losses:
        """Weighted losses of a phase. One forward a phase, so that a distributed wrapper sees every gradient."""

    def parameters_of(self, phase: str) -> Iterable[Parameter]:
        """What the optimiser of `phase` moves."""
        return self.student.parameters()

    def after_step(self, progress: Progress) -> None:
        """Called once the optimisers have stepped, with the progress that `forward` saw: EMA teachers follow here."""

    def weights(self, progress: Progress) -> dict[str, float]:
        """Scheduled weights and thresholds at this step, logged as `train/<name>`."""
        return {}

    @property
    def predictor(self) -> nn.Module:
        """The network that predicts: it is what is validated, and what the best checkpoint is chosen by."""
        return self.student

    def predict(self, image: Tensor) -> Tensor:
        """[N, C, H, W] -> logits [N, K, H, W]."""
        logits: Tensor = self.predictor(image)
        return logits
