"""CutMix consistency for segmentation (French et al., BMVC 2020)."""

from typing import Unpack

import torch

from ssl4seg.errors import UserError
from ssl4seg.losses import batch_mean, supervised
from ssl4seg.methods.base import MakeNetwork
from ssl4seg.methods.mean_teacher import MeanTeacher, MeanTeacherKeys
from ssl4seg.mixing import cutmix_mask, mix
from ssl4seg.types import Batch, Losses, Progress


class CutMixSeg(MeanTeacher):
    """L = L_sup + w(t) c mean_px sum_k (p_s(mix(x_a, x_b)) - mix(p_t(x_a), p_t(x_b)))^2   (their eq. 1 and section 3.3)

    x_a, x_b: the unlabelled images and the same in another order; mix: a box of half the image's area from x_b;
    p_s, p_t: softmax outputs [U, K, H, W] of student and EMA teacher; c: share of the pixels where the mixed teacher's
    confidence max_k exceeds 0.97. Teacher inputs carry no noise. Constants are the paper's, w = 1 in our YAML too, but
    there it does not ramp up.

    Args:
        threshold: of the confidence.
        area: of the box.
        common: the keys of `MeanTeacher`.
    """

    def __init__(
        self, *, network: MakeNetwork, threshold: float = 0.97, area: float = 0.5, **common: Unpack[MeanTeacherKeys]
    ) -> None:
        super().__init__(network=network, **common)
        if not 0 <= threshold < 1:
            raise UserError(f"method.threshold={threshold}: expected a confidence in [0, 1)")
        if not 0 < area < 1:
            raise UserError(f"method.area={area}: expected a share of the image in (0, 1)")
        self.threshold, self.area = threshold, area

    def forward(self, phase: str, batch: Batch, progress: Progress) -> Losses:
        x_a = batch.unlabeled
        mask = cutmix_mask(x_a, self.area)
        z = self.student(torch.cat([batch.image, mix(x_a, x_a.roll(1, 0), mask)]))
        z_l, z_m = z.split([len(batch.image), len(x_a)])
        p_t = self.teacher(x_a).softmax(dim=1)
        p_t = mix(p_t, p_t.roll(1, 0), mask)
        square = (z_m.softmax(dim=1) - p_t).square().sum(dim=1)
        confident = (p_t.amax(dim=1) > self.threshold).float()
        c = batch_mean(confident)
        return {
            "supervised": supervised(z_l, batch.label),
            "consistency": self.w(progress) * c * batch_mean(square),
        }
