"""AugSeg (Zhao et al., CVPR 2023)."""

import math
from typing import ClassVar

import torch
from torch import Tensor

from ssl4seg.augment import operations as ph
from ssl4seg.augment.mixing import beta_boxes, mix, mix_labels
from ssl4seg.axes import along_axes
from ssl4seg.keys import expect, whole
from ssl4seg.methods.base import MakeNetwork
from ssl4seg.methods.fixmatch import FixMatch
from ssl4seg.methods.parts.losses import masked_cross_entropy
from ssl4seg.methods.parts.predictions import entropy, used_where_confident
from ssl4seg.methods.parts.teacher import EMADecay, WithTeacher
from ssl4seg.seeding import sent
from ssl4seg.types import Batch, Losses, Progress, PseudoLabels


class AugSeg(WithTeacher, FixMatch):
    """L = L_sup + w(t) mean_px[1(c >= tau) H(y, p_s)]   (their section 3.1)

    y, c [U, H, W]: class and probability max_k p_t of the EMA teacher's prediction p_t [U, K, H, W] of the weak view;
    p_s: the student's softmax output of the weak view after two augmentations; H: cross-entropy in nats; the mean is
    over all pixels.

    1. Intensities (their section 3.2): 1 to 3 operations, drawn for each image with replacement, of uniform magnitudes.
    2. Adaptive CutMix (their section 3.3), of x, y and c alike: with probability 1 - rho an image gets a box of a
       labelled one, where c = 1; then every image gets a box of the image before it as it is after the first step. rho
       = mean_px[max_k p_t (1 - H(p_t) / ln K)] in [0, 1] is the image's confidence. The boxes' areas are Beta(2, 8) and
       Beta(4, 4) of the image's: one fifth and one half on average.

    w = 1, tau = 0.95 and the operations' ranges are those of the authors' code for Pascal VOC; for Cityscapes it has no
    tau (`threshold=0`). Hue and saturation leave images of one channel as they are.

    Differs from the authors' code:
    - One size of box serves their whole batch, and boxes are cut off at the image's sides; here each image has a box of
      its own.
    - A random permutation pairs their images, labelled or not; here each image is paired with the image before it, or
      with a labelled one drawn at random.
    - Their teacher is the student in the first of 80 epochs; here it averages from the start.
    - Their teacher is in evaluation mode with averaged batch-norm statistics; here it teaches in training mode
      (docs/decisions/teacher-batch-norm.md).
    - Their decay is 0.999 (Cityscapes 0.996); here it is that from 25,000 steps on, and less in shorter runs.
    - Their teacher predicts; here the student does unless `predict_with=teacher`.

    Args:
        threshold: tau.
        consistency_weight, rampup_steps: w and the length of its ramp; 0 is none, as the authors, None the whole run.
        num_operations: the largest number of operations.
        ema_decay: of the teacher.
        predict_with: "student" or "teacher".
    """

    strong_views: ClassVar[int] = 0  # it makes its own
    published_decay: ClassVar[float] = 0.999

    def __init__(
        self,
        *,
        network: MakeNetwork,
        threshold: float = 0.95,
        consistency_weight: float = 1.0,
        rampup_steps: int | None = 0,
        num_operations: int = 3,
        ema_decay: EMADecay = "auto",
        predict_with: str = "student",
    ) -> None:
        super().__init__(
            network=network, threshold=threshold, consistency_weight=consistency_weight, rampup_steps=rampup_steps
        )
        expect("method.num_operations", num_operations, whole(1, 100))
        self.add_teacher(ema_decay=ema_decay, predict_with=predict_with)
        self.intensities = ph.SomeOf(
            operations=[
                ph.Identity(),
                ph.Autocontrast(),
                ph.Equalize(),
                ph.GaussianBlur(magnitude=(0.1, 2.0)),
                ph.Contrast(magnitude=(0.05, 0.95)),
                ph.Brightness(magnitude=(0.05, 0.95)),
                ph.Saturation(magnitude=(0.05, 0.95)),
                ph.Sharpness(magnitude=(0.05, 0.95)),
                ph.Posterize(magnitude=(4, 8)),
                ph.Solarize(magnitude=(1 / 255, 1)),
                ph.Hue(magnitude=(-0.5, 0.5)),
            ],
            num=(1, num_operations),
        )

    def forward(self, phase: str, batch: Batch, progress: Progress) -> Losses:
        p_t = self.teacher(batch.unlabeled).softmax(dim=1)
        x, y, c = self.mixed(self.intensities(batch.unlabeled), p_t, batch)
        z_l, z_s = self.through(self.student, batch.image, x)
        return {
            "supervised": self.supervised(z_l, batch.label),
            "consistency": self.w(progress) * masked_cross_entropy(z_s, y, (c >= self.threshold).float()),
        }

    def mixed(self, x: Tensor, p_t: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """x [U, C, H, W], y and c [U, H, W] after adaptive CutMix."""
        c, y = p_t.max(dim=1)
        rho = (c * (1 - entropy(p_t) / math.log(p_t.shape[1]))).flatten(1).mean(dim=1)
        doubted = sent(torch.rand(len(x)), x.device) > rho
        box = beta_boxes(x, 2, 8) * along_axes(doubted, x)
        labeled = sent(torch.randint(len(batch.image), (len(x),)), x.device)
        x_l = mix(x, batch.image[labeled], box)
        y_l = mix_labels(y, batch.label[labeled], box)
        c_l = mix_labels(c, torch.ones_like(c), box)
        box = beta_boxes(x, 4, 4)
        return (
            mix(x, x_l.roll(1, 0), box),
            mix_labels(y, y_l.roll(1, 0), box),
            mix_labels(c, c_l.roll(1, 0), box),
        )

    def pseudo_labels(self, image: Tensor, progress: Progress) -> PseudoLabels:
        return used_where_confident(self.teacher(image).softmax(dim=1), self.threshold)
