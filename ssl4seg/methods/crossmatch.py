"""CrossMatch (Zhao et al., IEEE JBHI 2024)."""

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor

from ssl4seg.keys import at_least, expect, number_in, share
from ssl4seg.methods.base import MakeNetwork
from ssl4seg.methods.parts.passes import together
from ssl4seg.methods.parts.predictions import confident_label
from ssl4seg.methods.unimatch import StrongKeys, UniMatch, dropped
from ssl4seg.networks.base import resized
from ssl4seg.types import Batch, Losses, Progress


class CrossMatch(UniMatch):
    """L = 1/2 [L_sup + 1/4 (l(z_1, y_1) + l(z_2, y_2)) + d L_kd]

    L_kd = (1 - e)/4 sum_p [l(z^p, y) + l(z_2^p, y_2)] + e/2 sum_p l(z_2^p, y_2^p)   (p = weak, strong)

    The same features are decoded three times: whole, and without some channels, each of which is dropped with
    probability 0.25 (weak) or 0.75 (strong); the decodings teach each other. z, z^p: the student's logits [U, K, H, W]
    of the weak view, decoded in these ways; z_1, z_2, z_2^p: of two strong views in which, with probability 0.5, a box
    shows the batch's next image. y [U, H, W]: the class of z where its probability is at least tau = 0.95, ignored
    elsewhere; y^p: likewise of z^p; y_1, y_2, y_2^p: these with the boxes of their views, without a gradient. l: Dice
    over the pixels that are not ignored, or cross-entropy as in `UniMatch`. e = 0.3; d = 0.5 on ACDC, 1 on LA. There is
    no ramp and no teacher. The constants are those of the authors' code, which is the source here: the paper was not at
    hand.

    Differs from the authors' code:
    - Their boxes show a second unlabelled batch, whose y and y^p come from two more passes; here they show the batch
      itself, rolled by one, with the y at hand.
    - On LA their threshold begins at 0.75 and then runs from 0.52 towards ln 2 = 0.69 with a ramp, as a
      threshold of entropies would; here it stays (`threshold=0.75`). Their Dice is that of the foreground alone there.
    - Nesterov's momentum moves their network; here that is `+optimizer.nesterov=true`.

    Args:
        weak_dropout, strong_dropout: probability that a channel is dropped; the others are scaled by 1 / (1 - p).
        distillation_weight: d.
        mutual: e, the share of the targets that come from the decoding with the same loss of channels.
        threshold, loss, common: as in `UniMatch`; w weighs all but L_sup.
    """

    def __init__(
        self,
        *,
        network: MakeNetwork,
        weak_dropout: float = 0.25,
        strong_dropout: float = 0.75,
        distillation_weight: float = 0.5,
        mutual: float = 0.3,
        threshold: float = 0.95,
        loss: str = "dice",
        **common: Unpack[StrongKeys],
    ) -> None:
        super().__init__(network=network, threshold=threshold, loss=loss, **common)
        expect("method.weak_dropout", weak_dropout, number_in("[0, 1)", "a probability"))
        expect("method.strong_dropout", strong_dropout, number_in("[0, 1)", "a probability"))
        expect("method.distillation_weight", distillation_weight, at_least(0))
        expect("method.mutual", mutual, share)
        self.dropouts = (weak_dropout, strong_dropout)
        self.distillation_weight, self.mutual = distillation_weight, mutual

    def forward(self, phase: str, batch: Batch, progress: Progress) -> Losses:
        f_l, f_u = self.through(self.student.encode, batch.image, batch.unlabeled)
        z_l, *z = self.logits(self.through(self.student.decode, f_l, f_u, *self.perturbed(f_u)), batch.image)
        y = [confident_label(each, self.threshold) for each in z]
        (x_1, x_2), mixed = self.cutmixed(batch.strong, *y)
        y_1, y_2 = mixed[0][0], [of_views[1] for of_views in mixed]
        f_1, f_2 = together(self.student.encode, x_1, x_2)
        z_1, *z_2 = self.logits(together(self.student.decode, f_1, f_2, *self.perturbed(f_2)), x_1)
        w = self.w(progress)
        return {
            "supervised": self.supervised(z_l, batch.label) / 2,
            "strong": w * (self.unlabeled_loss(z_1, y_1) + self.unlabeled_loss(z_2[0], y_2[0])) / 8,
            "distillation": w * self.distillation_weight / 2 * self.distilled(z, z_2, y, y_2),
        }

    def perturbed(self, features: list[Tensor]) -> list[list[Tensor]]:
        """Features [N, C, h, w] without few and without many of their channels."""
        return [dropped(features, p) for p in self.dropouts]

    def logits(self, decoded: Sequence[Tensor], image: Tensor) -> list[Tensor]:
        """Each decoding at the size of the image."""
        return [resized(each, image) for each in decoded]

    def distilled(
        self, z: Sequence[Tensor], z_2: Sequence[Tensor], y: Sequence[Tensor], y_2: Sequence[Tensor]
    ) -> Tensor:
        """L_kd of the decodings (whole, weak, strong) of the weak and the second strong view, and of their classes."""
        whole = [self.unlabeled_loss(each, y[0]) for each in z[1:]]
        whole += [self.unlabeled_loss(each, y_2[0]) for each in z_2[1:]]
        mutual = [self.unlabeled_loss(each, y_p) for each, y_p in zip(z_2[1:], y_2[1:], strict=True)]
        return torch.lerp(torch.stack(whole).mean(), torch.stack(mutual).mean(), self.mutual)
