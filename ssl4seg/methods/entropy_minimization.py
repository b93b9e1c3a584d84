"""Entropy minimisation (Grandvalet & Bengio, NeurIPS 2004), for segmentation as in ADVENT (Vu et al., CVPR 2019)."""

import math

from ssl4seg.methods.base import MakeNetwork, Method
from ssl4seg.methods.parts.losses import batch_mean
from ssl4seg.methods.parts.passes import joined
from ssl4seg.methods.parts.predictions import log_entropy
from ssl4seg.methods.parts.ramps import Rampup
from ssl4seg.types import Batch, Losses, Progress


class EntropyMinimization(Method):
    """L = L_sup + w(t) mean_px E,  E = -(1 / ln K) sum_k p_k ln p_k   (ADVENT's eq. 2 and 3)

    p: softmax output [L + U, K, H, W] of all images, labelled and unlabelled; E in [0, 1], 1 where all K classes are
    equally likely; w(t) as in `MeanTeacher`, 0.1 at the end as in the SSL4MIS recipe (ADVENT: 0.001, on the unlabelled
    images alone, without a ramp; its eq. 3 sums over the pixels, its code takes their mean).

    Differs from the SSL4MIS script:
    - The script divides by ln 4 for any K; here E is divided by ln K.

    Args:
        consistency_weight, rampup_steps: w and the length of its ramp; None is the whole run.
    """

    def __init__(
        self, *, network: MakeNetwork, consistency_weight: float = 0.1, rampup_steps: int | None = None
    ) -> None:
        super().__init__()
        self.student = network()
        self.w = Rampup(weight=consistency_weight, steps=rampup_steps)

    def forward(self, phase: str, batch: Batch, progress: Progress) -> Losses:
        z = joined(self.through(self.student, batch.image, batch.unlabeled))
        e = log_entropy(z.log_softmax(dim=1)) / math.log(self.student.num_classes)
        return {
            "supervised": self.supervised(z[: len(batch.image)], batch.label),
            "entropy": self.w(progress) * batch_mean(e),
        }

    def weights(self, progress: Progress) -> dict[str, float]:
        return {"consistency_weight": self.w(progress)}
