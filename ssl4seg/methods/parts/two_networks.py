"""The base of methods with two networks that learn side by side, as cross pseudo supervision and deep co-training."""

import math
from abc import ABC
from collections.abc import Iterable
from typing import TypedDict

from torch import Tensor, nn
from torch.nn import Parameter

from ssl4seg.keys import expect, one_of
from ssl4seg.methods.base import MakeNetwork, Method
from ssl4seg.methods.parts.losses import dice
from ssl4seg.methods.parts.ramps import Rampup
from ssl4seg.networks.base import Network
from ssl4seg.types import Progress


class TwoNetworksKeys(TypedDict, total=False):
    """The keys of `TwoNetworks`."""

    consistency_weight: float
    rampup_steps: int | None
    predict_with: str


class TwoNetworks(Method, ABC):
    """The student and a peer of the same build, initialised independently and moved by one optimiser.

    Both start from `network.weights`, if it is given: then dropout alone makes them differ.

    Args:
        consistency_weight, rampup_steps: w and the length of its ramp; None is the whole run.
        predict_with: "student", the first network, or "mean", the mean of both networks' probabilities.
    """

    def __init__(
        self,
        *,
        network: MakeNetwork,
        consistency_weight: float = 0.1,
        rampup_steps: int | None = None,
        predict_with: str = "student",
    ) -> None:
        super().__init__()
        expect("method.predict_with", predict_with, one_of("student", "mean"))
        self.student, self.peer = network(), network()
        self.mean = MeanOf(self.student, self.peer)
        self.w = Rampup(weight=consistency_weight, steps=rampup_steps)
        self.predict_with = predict_with

    def parameters_of(self, phase: str) -> Iterable[Parameter]:
        return [*self.student.parameters(), *self.peer.parameters()]

    def weights(self, progress: Progress) -> dict[str, float]:
        return {"consistency_weight": self.w(progress)}

    @property
    def predictor(self) -> nn.Module:
        return self.mean if self.predict_with == "mean" else self.student


class MeanOf(nn.Module):
    """The logarithm of the mean of two networks' probabilities, as logits. It does not own the networks."""

    def __init__(self, *networks: Network) -> None:
        super().__init__()
        self.networks = networks  # a tuple, so that their owner alone lists and saves their parameters

    def forward(self, image: Tensor) -> Tensor:
        """[N, C, H, W] -> logits [N, K, H, W]."""
        a, b = (network(image).log_softmax(dim=1) for network in self.networks)
        return log_mean(a, b)


def log_mean(log_p: Tensor, log_q: Tensor) -> Tensor:
    """ln((p + q) / 2)."""
    return log_p.logaddexp(log_q) - math.log(2)


def cross_dice(z_1: Tensor, z_2: Tensor) -> Tensor:
    """Dice of each network's logits [N, K, H, W] with the other network's classes, which get no gradient."""
    return dice(z_1, z_2.argmax(dim=1)) + dice(z_2, z_1.argmax(dim=1))
