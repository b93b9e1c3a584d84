"""CutMix consistency for segmentation (French et al., BMVC 2020)."""

from ssl4seg.augment.mixing import cutmix_mask, mix
from ssl4seg.keys import expect, number_in
from ssl4seg.methods.base import MakeNetwork
from ssl4seg.methods.mean_teacher import MeanTeacher
from ssl4seg.methods.parts.losses import batch_mean
from ssl4seg.methods.parts.teacher import EMADecay
from ssl4seg.types import Batch, Losses, Progress


class CutMixSeg(MeanTeacher):
    """L = L_sup + w c mean_px sum_k (p_s(mix(x_a, x_b)) - mix(p_t(x_a), p_t(x_b)))^2

    x_a, x_b: the unlabelled images [U, C, H, W], and the same images in another order; mix: a box of half the image's
    area shows x_b; p_s, p_t: softmax outputs [U, K, H, W] of student and EMA teacher; c: the share of pixels where the
    mixed teacher's confidence max_k exceeds 0.97, one weight for all pixels. The constants are the paper's; w = 1
    without a ramp, as there, because c rises by itself. The teacher's inputs carry no noise.

    Differs from the authors' code:
    - Their x_b is a batch of its own; here it is x_a in another order.
    - Their teacher averages the batch norm's running statistics too, and predicts; here it leaves them to its own
      passes, and the student predicts unless `predict_with=teacher`.
    - Their teacher's decay is 0.99 from the first step on; here the first steps average evenly (see `EMATeacher`).
    - Their labelled images pass the student apart (phantom, 2 labelled patients, seeds 0 and 1: test Dice 70.6 and
      63.9); here they pass together with the mixed images (74.3 and 67.1), unless `passes=apart`.
    - Pixels outside of an image count as 0 there.
    - On VOC and Cityscapes they freeze the batch norm; here `transfer.frozen_batchnorm` freezes the encoder's. They
      also jitter the colours of the student's images there.

    Args:
        threshold: of the confidence.
        area: of the box, as a share of the image.
        consistency_weight, rampup_steps, ema_decay, predict_with: as in `MeanTeacher`.
    """

    def __init__(
        self,
        *,
        network: MakeNetwork,
        threshold: float = 0.97,
        area: float = 0.5,
        consistency_weight: float = 1.0,
        rampup_steps: int | None = 1,
        ema_decay: EMADecay = "auto",
        predict_with: str = "student",
    ) -> None:
        super().__init__(
            network=network,
            consistency_weight=consistency_weight,
            rampup_steps=rampup_steps,
            ema_decay=ema_decay,
            predict_with=predict_with,
        )
        expect("method.threshold", threshold, number_in("[0, 1)", "a confidence"))
        expect("method.area", area, number_in("(0, 1)", "a share of the image"))
        self.threshold, self.area = threshold, area

    def forward(self, phase: str, batch: Batch, progress: Progress) -> Losses:
        x_a = batch.unlabeled
        mask = cutmix_mask(x_a, self.area)
        z_l, z_m = self.through(self.student, batch.image, mix(x_a, x_a.roll(1, 0), mask))
        p_t = self.teacher(x_a).softmax(dim=1)
        p_t = mix(p_t, p_t.roll(1, 0), mask)
        square = (z_m.softmax(dim=1) - p_t).square().sum(dim=1)
        c = batch_mean((p_t.amax(dim=1) > self.threshold).float())
        return {
            "supervised": self.supervised(z_l, batch.label),
            "consistency": self.w(progress) * c * batch_mean(square),
        }
