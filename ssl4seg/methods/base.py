"""The method contract.

A method owns its networks and proposes losses; the engine optimises. It never sees a file, a config object, a logger or
an optimiser step. A new method is one file here (or anywhere) and one YAML in conf/method; the contract test finds it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from ssl4seg.keys import Key, expect
from ssl4seg.methods.parts.losses import CrossEntropyDice, SupervisedLoss
from ssl4seg.networks.base import Network
from ssl4seg.types import Batch, Losses, Progress, PseudoLabels

MakeNetwork = Callable[..., Network]
"""Builds a freshly initialised network; call it once for each network of the method. Keywords override its keys."""


def together(network: Callable[[Tensor], Tensor], *images: Tensor) -> tuple[Tensor, ...]:
    """The logits of several batches from one pass, in which they share the batch norm's statistics."""
    logits: Tensor = network(torch.cat(images))
    return tuple(logits.split([len(batch) for batch in images]))


def new_decoder(network: MakeNetwork, **keys: object) -> Network:
    """A network without its encoder: another decoder, freshly initialised, for another network's features."""
    decoder = network(**keys)
    decoder.encoder = nn.Identity()
    return decoder


def built_like(network: Network, make: MakeNetwork, key: str) -> Network:
    """A network of another kind for the same images and classes.

    Args:
        make: builds it from the keywords in_channels and num_classes.
        key: the key that names `make`, for messages.
    """
    expect(key, make, Key(callable, "the _target_ of a network and _partial_: true"))
    return make(in_channels=network.in_channels, num_classes=network.num_classes)


class Method(nn.Module, ABC):
    """A semi-supervised method; the simplest owns one network, the student, which learns and predicts."""

    needs_unlabeled: ClassVar[bool] = True
    """Whether unlabelled images are loaded; if so, a run without any is refused."""
    strong_views: ClassVar[int] = 0
    """How many strong views of the unlabelled images `Batch.strong` holds."""
    phases: tuple[str, ...] = ("segmenter",)
    """One optimiser each, in the order of a step; adversarial methods add "discriminator"."""
    stages: tuple[float, ...] = ()
    """Shares of the run, rising in (0, 1), at which another stage starts; see `begin_stage`."""

    supervised: SupervisedLoss = CrossEntropyDice()
    """L_sup, the loss of labelled pixels, which the run chooses: (logits [N, K, H, W], label [N, H, W]) -> scalar."""

    student: Network

    @abstractmethod
    def forward(self, phase: str, batch: Batch, progress: Progress) -> Losses:
        """Weighted losses of a phase. One forward a phase, so that a distributed wrapper sees every gradient."""

    def parameters_of(self, phase: str) -> Iterable[Parameter]:
        """What the optimiser of `phase` moves."""
        return self.student.parameters()

    def after_step(self, progress: Progress) -> None:
        """Called once the optimisers have stepped, with the progress that `forward` saw: EMA teachers follow here."""

    def begin_stage(self, stage: int, unlabeled: Sequence[Tensor]) -> Tensor | None:
        """Called before the first step of stage 1, 2, ...; the optimisers' state and the schedule then start afresh.

        Args:
            unlabeled: all unlabelled images without augmentation, in batches [u, C, H, W]; each is made when it is
                asked for.

        Returns:
            Indices of the unlabelled images that this stage's batches are drawn from; None for all.
        """
        return None

    def stage(self, progress: Progress) -> tuple[int, Progress]:
        """The stage that `progress` lies in, 0 being the first, and the progress within it."""
        starts = [0, *(round(share * progress.total) for share in self.stages), progress.total]
        stage = max(i for i, start in enumerate(starts[:-1]) if start <= progress.step)
        return stage, Progress(progress.step - starts[stage], starts[stage + 1] - starts[stage])

    def pseudo_labels(self, image: Tensor, progress: Progress) -> PseudoLabels | None:
        """What the method would teach about unlabelled images [U, C, H, W]; None if it has no such targets.

        Read by the diagnostics only, in evaluation mode and without a graph; it must change nothing.
        """
        return None

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
