"""Self-training in rounds: a frozen network labels the unlabelled images for the next one."""

import copy
from abc import abstractmethod
from collections.abc import Sequence
from typing import Self, TypedDict

import torch
from torch import Tensor, nn

from ssl4seg.keys import at_least, expect, number_in, true_or_false, whole
from ssl4seg.methods.base import MakeNetwork, Method
from ssl4seg.networks.base import Network
from ssl4seg.types import Batch, Losses, Progress


class Frozen(nn.Module):
    """A copy of a network at some step: without a gradient, and in evaluation mode in any mode of the method.

    It is part of the method's state, so that a resumed run goes on with it.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).requires_grad_(False).eval()

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """[N, C, H, W] -> logits [N, K, H, W] without a graph."""
        logits: Tensor = self.network(image)
        return logits

    @torch.no_grad()
    def take(self, network: Network) -> None:
        """Copy the network's current weights and buffers."""
        self.network.load_state_dict(network.state_dict())

    def train(self, mode: bool = True) -> Self:
        return super().train(False)


def longer(key: str, share: float) -> str:
    """A longer first stage on labels alone, see `Method.remedy`: half of what is left of the run is added to it."""
    return f"method.{key}={(1 + share) / 2:.2g}" if share < 0.95 else ""


class SelfTrainingKeys(TypedDict, total=False):
    """The keys of `SelfTraining`; a method that refines it takes them as `**common: Unpack[SelfTrainingKeys]`."""

    rounds: int
    labels_only: float
    pseudo_weight: float
    reinitialize: bool


class SelfTraining(Method):
    """L = L_sup(f(x_l), y_l) in stage 0, + v L_pseudo(f(x_u), f'(x_u)) in the R rounds after it.

    f: the student; f': the labeller, a copy of the student at the start of the round, in evaluation mode; v >= 0:
    `pseudo_weight`. Stage 0 takes half of the run, because no later round mends a poor labeller's faults; the rounds
    share the rest, and with each the optimiser and its schedule start afresh. Pseudo-labels are made in the step, from
    the weak view: they equal labels that are stored and transformed with the image, except for interpolation.

    Args:
        rounds: R.
        labels_only: share of the run that stage 0 takes.
        pseudo_weight: v.
        reinitialize: each round trains a new student; otherwise it goes on with the last one.
    """

    def __init__(
        self,
        *,
        network: MakeNetwork,
        rounds: int = 3,
        labels_only: float = 0.5,
        pseudo_weight: float = 1.0,
        reinitialize: bool = False,
    ) -> None:
        super().__init__()
        expect("method.rounds", rounds, whole(1, 1000))
        expect("method.labels_only", labels_only, number_in("(0, 1)", "a share of the run"))
        expect("method.pseudo_weight", pseudo_weight, at_least(0))
        expect("method.reinitialize", reinitialize, true_or_false)
        self.fresh = network
        self.student = network()
        self.labeller = Frozen(self.student)
        self.stages = tuple(labels_only + (1 - labels_only) * i / rounds for i in range(rounds))
        self.pseudo_weight, self.reinitialize = pseudo_weight, reinitialize

    def forward(self, phase: str, batch: Batch, progress: Progress) -> Losses:
        stage, _ = self.stage(progress)
        if stage == 0:
            return {"supervised": self.supervised(self.student(batch.image), batch.label)}
        z_l, z_u = self.through(self.student, batch.image, batch.unlabeled)
        return {
            "supervised": self.supervised(z_l, batch.label),
            "pseudo_label": self.pseudo_weight * self.pseudo_loss(z_u, self.labeller(batch.unlabeled)),
        }

    def remedy(self, total: int) -> str:
        return longer("labels_only", self.stages[0])

    @abstractmethod
    def pseudo_loss(self, z_u: Tensor, z_f: Tensor) -> Tensor:
        """L_pseudo of the student's logits z_u and the labeller's z_f, both [U, K, H, W]."""

    def begin_stage(self, stage: int, unlabeled: Sequence[Tensor]) -> Tensor | None:
        self.labeller.take(self.student)
        if self.reinitialize:
            self.student.load_state_dict(self.fresh().state_dict())
        return None
