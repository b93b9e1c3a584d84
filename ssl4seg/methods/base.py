"""The method contract.

A method owns its networks and returns losses; the engine optimises. A method never sees a file, a configuration, a
logger or an optimiser's step. A new method is one file here (or anywhere) and one YAML in conf/method; the contract
test finds it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import Parameter

from ssl4seg.keys import Key, expect
from ssl4seg.methods.parts.losses import CrossEntropyDice, SupervisedLoss
from ssl4seg.methods.parts.passes import together
from ssl4seg.networks.base import Network, axes_argument
from ssl4seg.types import Batch, Losses, Progress, PseudoLabels

MakeNetwork = Callable[..., Network]
"""Builds a freshly initialised network; a method calls it once for each of its networks. Keywords override its keys."""


def new_decoder(network: MakeNetwork, **keys: object) -> Network:
    """A freshly initialised network without its encoder: one more decoder for another network's features."""
    decoder = network(**keys)
    decoder.encoder = nn.Identity()
    return decoder


def built_like(network: Network, make: MakeNetwork, key: str) -> Network:
    """Build a network of another kind for the same images and classes.

    Args:
        make: builds it from the keywords in_channels and num_classes, and axes if it knows volumes.
        key: the name of the key that holds `make`, for messages.
    """
    expect(key, make, Key(callable, "the _target_ of a network and _partial_: true"))
    axes = axes_argument(getattr(make, "func", make), network.axes, key)
    return make(in_channels=network.in_channels, num_classes=network.num_classes, **axes)


class Method(nn.Module, ABC):
    """A semi-supervised method; the simplest owns one network, the student, which learns and predicts."""

    needs_unlabeled: ClassVar[bool] = True
    """Whether unlabelled images are loaded; if so, a run without any is refused."""
    strong_views: ClassVar[int] = 0
    """Number of strong views of the unlabelled images in `Batch.strong`."""
    phases: tuple[str, ...] = ("segmenter",)
    """Phases of a step in their order, each with an optimiser of its own; adversarial methods add "discriminator"."""
    stages: tuple[float, ...] = ()
    """Shares of the run, rising in (0, 1), at which the next stage starts; see `begin_stage`."""

    supervised: SupervisedLoss = CrossEntropyDice()
    """L_sup, the loss of labelled pixels, chosen by the run: (logits [N, K, H, W], label [N, H, W]) -> scalar."""

    ways: ClassVar[tuple[str, ...]] = ("together", "apart")
    """How labelled and unlabelled images can pass a network, the way of `passes=auto` first: "together", in one pass,
    so that they share the batch norm's statistics, or "apart". A method that does not call `through` has one way."""
    passes: str = "auto"
    """The way that the run chose: "auto" or one of `ways`."""

    student: Network

    def through(self, network: Callable[[Any], Any], labeled: Any, *unlabeled: Any) -> list[Any]:
        """What the network makes of batches that pass it together, or the labelled one apart from the others.

        Args, returns: as of `passes.together`.
        """
        way = self.ways[0] if self.passes == "auto" else self.passes
        if way == "together":
            return together(network, labeled, *unlabeled)
        return [*together(network, labeled), *together(network, *unlabeled)]

    @abstractmethod
    def forward(self, phase: str, batch: Batch, progress: Progress) -> Losses:
        """The weighted losses of a phase, in one forward call, so that a distributed wrapper sees every gradient."""

    def parameters_of(self, phase: str) -> Iterable[Parameter]:
        """The parameters that the optimiser of `phase` updates."""
        return self.student.parameters()

    def after_step(self, progress: Progress) -> None:
        """Called after the optimisers' steps, with the progress that `forward` saw; EMA teachers follow here."""

    def begin_stage(self, stage: int, unlabeled: Sequence[Tensor]) -> Tensor | None:
        """Called before the first step of stage 1, 2, ...; the optimisers' state and the schedule then start afresh.

        Args:
            unlabeled: all unlabelled images without augmentation, in batches [u, C, H, W]; a batch is loaded when it is
                read.

        Returns:
            Indices of the unlabelled images that this stage draws from; None for all.
        """
        return None

    def stage(self, progress: Progress) -> tuple[int, Progress]:
        """The stage at `progress`, 0 for the first, and the progress within that stage."""
        starts = [0, *(round(share * progress.total) for share in self.stages), progress.total]
        stage = max(i for i, start in enumerate(starts[:-1]) if start <= progress.step)
        return stage, Progress(progress.step - starts[stage], starts[stage + 1] - starts[stage])

    def pseudo_labels(self, image: Tensor, progress: Progress) -> PseudoLabels | None:
        """The targets that the method would teach on unlabelled images [U, C, H, W]; None if it has none.

        Only the diagnostics call it, in evaluation mode and without a graph; it must change nothing.
        """
        return None

    def weights(self, progress: Progress) -> dict[str, float]:
        """Scheduled weights and thresholds at this step; logged as `train/<name>`."""
        return {}

    def doubts(self, *, pretrained: bool) -> list[str]:
        """What the log warns of when a run starts: settings that are probably mistakes.

        Args:
            pretrained: whether the run's network starts from weights.
        """
        return []

    @property
    def predictor(self) -> nn.Module:
        """The network that predicts: validation, the choice of the best checkpoint, eval and predict use it."""
        return self.student

    def predict(self, image: Tensor) -> Tensor:
        """[N, C, H, W] -> logits [N, K, H, W]."""
        logits: Tensor = self.predictor(image)
        return logits
