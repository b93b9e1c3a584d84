"""CPS, cross pseudo supervision (Chen et al., CVPR 2021)."""

from typing import Unpack

from torch import Tensor

from ssl4seg.keys import expect, true_or_false
from ssl4seg.methods.base import MakeNetwork
from ssl4seg.methods.parts.losses import cross_entropy
from ssl4seg.methods.parts.predictions import one_hot, used_everywhere
from ssl4seg.methods.parts.two_networks import TwoNetworks, TwoNetworksKeys
from ssl4seg.types import Batch, Losses, Progress, PseudoLabels


class CPS(TwoNetworks):
    """L = L_sup(z_1) + L_sup(z_2) + w(t) (L_cps^u + L_cps^l)   (their L_s + lambda L_cps)

    L_cps = CE(z_1, argmax_k z_2) + CE(z_2, argmax_k z_1), without a gradient in the argmax, as the mean over the pixels
    of the unlabelled images (u) and of the labelled images (l); z_1, z_2: logits [L, K, H, W] and [U, K, H, W] of the
    student and of a peer of another initialisation; CE in nats. w as in `MeanTeacher`, 0.1 as in the SSL4MIS recipe;
    the paper has 1.5 (VOC) and 6 (Cityscapes) without a ramp. The first network predicts, as in the paper.

    Differs from the authors' code:
    - Labelled and unlabelled images pass each network apart there; here they pass together, unless `passes=apart`.
    - Their L_cps is one mean over the pixels of labelled and unlabelled images together, which is half of the sum here
      if there are as many of each.

    Differs from the SSL4MIS script:
    - The script has L_cps on the unlabelled images alone (here `on_labeled=false`).

    Args:
        on_labeled: whether L_cps^l is part of the loss.
        common: the keys of `TwoNetworks`.
    """

    def __init__(self, *, network: MakeNetwork, on_labeled: bool = True, **common: Unpack[TwoNetworksKeys]) -> None:
        super().__init__(network=network, **common)
        expect("method.on_labeled", on_labeled, true_or_false)
        self.on_labeled = on_labeled

    def forward(self, phase: str, batch: Batch, progress: Progress) -> Losses:
        z_1l, z_1u = self.through(self.student, batch.image, batch.unlabeled)
        z_2l, z_2u = self.through(self.peer, batch.image, batch.unlabeled)
        l_cps = cross(z_1u, z_2u)
        if self.on_labeled:
            l_cps = l_cps + cross(z_1l, z_2l)
        return {
            "supervised": self.supervised(z_1l, batch.label) + self.supervised(z_2l, batch.label),
            "cps": self.w(progress) * l_cps,
        }

    def pseudo_labels(self, image: Tensor, progress: Progress) -> PseudoLabels:
        """The student's targets: the peer's most probable class, everywhere."""
        return used_everywhere(one_hot(self.peer(image).argmax(dim=1), self.peer.num_classes))


def cross(z_1: Tensor, z_2: Tensor) -> Tensor:
    """L_cps of two logits [N, K, H, W]."""
    return cross_entropy(z_1, z_2.argmax(dim=1)) + cross_entropy(z_2, z_1.argmax(dim=1))
