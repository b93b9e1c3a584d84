"""UA-MT, uncertainty-aware mean teacher (Yu et al., MICCAI 2019)."""

import math
from typing import Unpack

import torch
from torch import Tensor

from ssl4seg.keys import above, expect, optional, whole
from ssl4seg.methods.base import MakeNetwork
from ssl4seg.methods.mean_teacher import MeanTeacher, MeanTeacherKeys
from ssl4seg.methods.parts.losses import ratio, softmax_mse
from ssl4seg.methods.parts.predictions import entropy
from ssl4seg.methods.parts.ramps import sigmoid_rampup
from ssl4seg.types import Progress, PseudoLabels


class UAMT(MeanTeacher):
    """L = L_sup + w(t) sum([H < tau] (p_s - p_t)^2) / (2 sum [H < tau])   (their eq. 3; the 2 is from their code)

    H = -sum_k pbar ln pbar [U, H, W] in nats, with pbar the mean softmax of T = 8 teacher passes over x_u + e with
    dropout (their eq. 2); tau(t) = (0.75 + 0.25 exp(-5 (1 - t/T_max)^2)) U_max; p_t is one more noisy pass. The square
    is summed over the classes, the mask counts pixels. x_u, e, w, p_s, p_t: as in `MeanTeacher`.

    Differs from the authors' code:
    - Their U_max is ln 2, which is right for their two classes but was carried over to ACDC's four; here it is ln K,
      the largest possible entropy (`max_entropy=0.6931` restores theirs).
    - Their passes go through the network in pairs; here all passes of one call share its batch statistics.

    Args:
        num_passes: T.
        max_entropy: U_max in nats; None is ln K.
        passes_per_call: teacher passes in one forward call; None is all T + 1. Fewer take less memory.
        common: the keys of `MeanTeacher`.
    """

    def __init__(
        self,
        *,
        network: MakeNetwork,
        num_passes: int = 8,
        max_entropy: float | None = None,
        passes_per_call: int | None = None,
        **common: Unpack[MeanTeacherKeys],
    ) -> None:
        super().__init__(network=network, **common)
        expect("method.num_passes", num_passes, whole(1, 1000))
        expect("method.max_entropy", max_entropy, optional(above(0)))
        expect("method.passes_per_call", passes_per_call, optional(whole(1)))
        self.num_passes, self.passes_per_call = num_passes, passes_per_call or num_passes + 1
        self.max_entropy = max_entropy or math.log(self.student.num_classes)

    def consistency(self, z_u: Tensor, x_u: Tensor, progress: Progress) -> Tensor:
        z_t, p_mean = self.teach(x_u)
        certain = (entropy(p_mean) < self.threshold(progress)).float()
        return ratio((certain * softmax_mse(z_u, z_t).sum(dim=1)).sum(), 2 * certain.sum())

    def teach(self, x_u: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of one noisy pass, and the mean softmax of T other passes, both [U, K, H, W]."""
        calls = torch.arange(self.num_passes + 1).split(self.passes_per_call)
        z = [self.teacher(self.perturbed(torch.cat([x_u] * len(call)))) for call in calls]
        z_t, *others = torch.cat(z).split(len(x_u))
        return z_t, torch.stack([other.softmax(dim=1) for other in others]).mean(dim=0)

    def pseudo_labels(self, image: Tensor, progress: Progress) -> PseudoLabels:
        z_t, p_mean = self.teach(image)
        return PseudoLabels(z_t.softmax(dim=1), entropy(p_mean) < self.threshold(progress))

    def threshold(self, progress: Progress) -> float:
        """tau(t) in nats."""
        return (0.75 + 0.25 * sigmoid_rampup(progress.fraction)) * self.max_entropy

    def weights(self, progress: Progress) -> dict[str, float]:
        return {**super().weights(progress), "entropy_threshold": self.threshold(progress)}
