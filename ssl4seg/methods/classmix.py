"""ClassMix (Olsson et al., WACV 2021)."""

from typing import ClassVar

from ssl4seg.augment.mixing import classmix_mask, mix, mix_labels
from ssl4seg.keys import expect, number_in
from ssl4seg.methods.base import MakeNetwork
from ssl4seg.methods.mean_teacher import MeanTeacher
from ssl4seg.methods.parts.losses import batch_mean, cross_entropy
from ssl4seg.methods.parts.predictions import confidence
from ssl4seg.methods.parts.teacher import EMADecay
from ssl4seg.types import Batch, Losses, Progress


class ClassMix(MeanTeacher):
    """L = L_sup + w c mean_px H(mix(y_b, y_a), p_s(mix(x_b, x_a)))   (their section 3)

    x_a: strong views [U, C, H, W] of the unlabelled images; x_b: the strong view of the batch's next image; y_a, y_b:
    the EMA teacher's classes of the weak views; mix: half of the classes of y_a (rounded down, drawn at random) are
    pasted onto b; H: cross-entropy in nats with the student's softmax output p_s; c: the share of pixels where the
    mixed teacher's confidence is at least 0.968, one weight for all pixels. w = 1 without a ramp, as in the authors'
    code, because c rises by itself.

    Differs from the authors' code:
    - On Cityscapes they jitter and blur the mixed image as a whole, on VOC they have no strong augmentation; here each
      of the two images brings its own strong view.
    - Their labelled images pass the student apart (phantom, 2 labelled patients, seeds 0 and 1: test Dice 64.5 and
      16.6); here they pass together with the mixed images (76.4 and 77.7), unless `passes=apart`.

    Args:
        threshold: of the confidence.
        consistency_weight, rampup_steps, ema_decay, predict_with: as in `MeanTeacher`; the teacher's inputs get no
            noise.
    """

    strong_views: ClassVar[int] = 1

    def __init__(
        self,
        *,
        network: MakeNetwork,
        threshold: float = 0.968,
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
        self.threshold = threshold

    def forward(self, phase: str, batch: Batch, progress: Progress) -> Losses:
        (x_a,) = batch.strong
        value, y_a = confidence(self.teacher(batch.unlabeled))
        mask = classmix_mask(y_a, self.student.num_classes)
        z_l, z_m = self.through(self.student, batch.image, mix(x_a.roll(-1, 0), x_a, mask))
        y_m, value_m = (mix_labels(of.roll(-1, 0), of, mask) for of in (y_a, value))
        c = batch_mean((value_m >= self.threshold).float())
        return {
            "supervised": self.supervised(z_l, batch.label),
            "consistency": self.w(progress) * c * cross_entropy(z_m, y_m),
        }
