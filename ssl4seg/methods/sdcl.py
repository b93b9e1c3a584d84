"""SDCL, students' discrepancy-informed correction learning (Song & Wang, MICCAI 2024)."""

from collections.abc import Iterable, Sequence
from typing import Unpack

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from ssl4seg.keys import IGNORE, at_least, expect, one_of
from ssl4seg.methods.base import MakeNetwork, built_like
from ssl4seg.methods.bcp import BCP, BCPKeys, Mixed
from ssl4seg.methods.parts.losses import ratio
from ssl4seg.methods.parts.predictions import one_hot
from ssl4seg.methods.parts.two_networks import MeanOf
from ssl4seg.types import Batch, Losses, Progress


class SDCL(BCP):
    """L = sum_n [L_BCP(z_n) + sum_m (d L_dis(z_nm) + e L_ent(z_nm))]   (students n, mixed batches m = 1, 2)

    z_nm: student n's logits [N, K, H, W] of mixed batch m of `BCP`, which both students see; L_BCP: the loss of `BCP`,
    in both its stages; y [N, H, W]: the mask in labelled pixels, elsewhere the largest components of the EMA teacher's
    classes; v [N, H, W]: 1 in labelled pixels, a = 0.5 elsewhere. The teacher follows the first student alone.

    The discrepancy D [N, H, W] is 1 where the students' classes differ, W_n where student n's class differs from y. In
    D both students review what y says, and where they err they lose their certainty:

    - L_dis = sum_D v mean_k (p_n - onehot(y))^2 / sum D, d = 0.5;
    - L_ent = sum_DW v mean_k (-ln p_n) / sum D W_n, e = 0.05: the Kullback-Leibler divergence of p_n from the uniform
      distribution but for the constant ln K. Its least value is at the largest entropy.

    Both terms begin with the stage of the unlabelled images; they are 0 where the students agree. The constants are
    those of the authors' code, which is the source here: the paper was not at hand.

    Differs from the authors' code:
    - Their second student is another network (a U-Net with a residual encoder, for volumes a V-Net with residual
      blocks); here both are of the same build and start from weights of their own, unless `peer` names another.
    - Adam with 1e-3 moves each student there; here that is `optimizer=adam optimizer.lr=0.001`.
    - They validate and test each student and the mean of both, and print all three; here `predict_with` names one of
      the first student and the mean.
    - Pixels that are ignored count in no term here.
    - The differences of `BCP`, but for the learning rate.

    Args:
        peer: builds the second student from the keywords in_channels and num_classes; None builds the run's network
            once more.
        distance_weight: d.
        entropy_weight: e.
        predict_with: "student", the first one, or "mean", the mean of both students' probabilities.
        common: the keys of `BCP`.
    """

    def __init__(
        self,
        *,
        network: MakeNetwork,
        peer: MakeNetwork | None = None,
        distance_weight: float = 0.5,
        entropy_weight: float = 0.05,
        predict_with: str = "student",
        **common: Unpack[BCPKeys],
    ) -> None:
        super().__init__(network=network, **common)
        expect("method.distance_weight", distance_weight, at_least(0))
        expect("method.entropy_weight", entropy_weight, at_least(0))
        expect("method.predict_with", predict_with, one_of("student", "mean"))
        self.peer = network() if peer is None else built_like(self.student, peer, "method.peer")
        self.mean = MeanOf(self.student, self.peer)
        self.distance_weight, self.entropy_weight, self.predict_with = distance_weight, entropy_weight, predict_with

    def forward(self, phase: str, batch: Batch, progress: Progress) -> Losses:
        mixed = self.mixed(batch, progress)
        z_1, z_2 = (self.logits(network, mixed) for network in (self.student, self.peer))
        first, second = (self.copy_paste(z, mixed) for z in (z_1, z_2))
        losses = {name: first[name] + second[name] for name in first}
        return losses | self.corrections(z_1, z_2, mixed) if mixed.pseudo else losses

    def corrections(self, z_1: Sequence[Tensor], z_2: Sequence[Tensor], mixed: Mixed) -> Losses:
        """d L_dis and e L_ent of both students' logits of the mixed batches."""
        distances, entropies = [], []
        for m, (truth, guess) in enumerate(zip(mixed.labeled, mixed.pseudo, strict=True)):
            labeled = truth.mask[:, 0] > 0.5
            y = torch.where(labeled, truth.label, guess.label)
            v = torch.where(labeled, 1.0, self.pseudo_weight)
            discrepancy = (z_1[m].argmax(dim=1) != z_2[m].argmax(dim=1)) & (y != IGNORE)
            for z in (z_1[m], z_2[m]):
                distances.append(distance(z, y, v, discrepancy))
                entropies.append(uncertainty(z, v, discrepancy & (z.argmax(dim=1) != y)))
        return {
            "distance": self.distance_weight * torch.stack(distances).sum(),
            "entropy": self.entropy_weight * torch.stack(entropies).sum(),
        }

    def parameters_of(self, phase: str) -> Iterable[Parameter]:
        return [*self.student.parameters(), *self.peer.parameters()]

    @property
    def predictor(self) -> nn.Module:
        return self.mean if self.predict_with == "mean" else self.student


def distance(logits: Tensor, label: Tensor, weight: Tensor, where: Tensor) -> Tensor:
    """L_dis: the mean, over the pixels of `where` [N, H, W] bool, of weight x mean_k (p - onehot(label))^2."""
    target = one_hot(label.masked_fill(label == IGNORE, 0), logits.shape[1])
    square = (logits.float().softmax(dim=1) - target).square().mean(dim=1)
    return ratio((weight * square * where).sum(), where.sum().float())


def uncertainty(logits: Tensor, weight: Tensor, where: Tensor) -> Tensor:
    """L_ent: the mean, over the pixels of `where` [N, H, W] bool, of weight x mean_k (-ln p)."""
    each = -logits.float().log_softmax(dim=1).mean(dim=1)
    return ratio((weight * each * where).sum(), where.sum().float())
