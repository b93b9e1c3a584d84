"""FixMatch (Sohn et al., NeurIPS 2020), pixel by pixel."""

from typing import ClassVar

from torch import Tensor

from ssl4seg.keys import IGNORE, expect, number_in
from ssl4seg.methods.base import MakeNetwork, Method
from ssl4seg.methods.parts.losses import masked_cross_entropy
from ssl4seg.methods.parts.predictions import confident_label, used_where_confident
from ssl4seg.methods.parts.ramps import Rampup
from ssl4seg.types import Batch, Losses, Progress, PseudoLabels


class FixMatch(Method):
    """L = L_sup + w(t) mean_px[1(max_k p_w >= tau) H(argmax_k p_w, p_s)]   (their eq. 4, w their lambda_u)

    p_w, p_s: the student's softmax outputs [U, K, H, W] of the weak view, without a gradient, and of the strong view;
    H: cross-entropy in nats; tau = 0.95 and w = 1 without a ramp, as in the paper. The mean is over all pixels; an
    unconfident pixel counts as 0. The three views share one pass, in training mode, as in the authors' code.

    Without a ramp a short run can collapse: where background is confident first, nothing else is ever taught. With
    `rampup_steps=null` w(t) rises over the run as in `MeanTeacher`.

    Differs from the authors' code, for classification:
    - An average of the student's weights predicts there (decay 0.999); here the student predicts.
    - Their strong views are CTAugment's with a Cutout of half the side (here `fixmatch_cta`); here they are
      `views.strong`.
    - Their step has seven unlabelled images to one labelled (here `unlabeled_batch_size`).

    Differs from the public 2-D ACDC script (SSL4MIS, standard augmentations):
    - A pixel of low confidence becomes background there; here it is ignored.
    - It asks for 0.8 of (p - min_k p) / max_k p instead of p. Wherever the least probable class has less than a fifth
      of the largest probability, the pixel passes: (0.4, 0.3, 0.25, 0.05) does, which is ignored here.
    - Its w ramps up to 0.1, like `MeanTeacher`'s; here it is 1 from the first step on.
    - It adds Dice to the cross-entropy, and a complementary loss: the cross-entropy of 1 - p_s with the least probable
      class of the weak view, on labelled images too; here the cross-entropy stands alone.
    - Its L_sup is cross-entropy plus Dice; here it is half of that.
    - Weak and strong views pass one after the other, each with the labelled images; here all share one pass.

    Args:
        threshold: tau.
        consistency_weight, rampup_steps: w and the length of its ramp; 0 is none, None the whole run.
    """

    strong_views: ClassVar[int] = 1

    def __init__(
        self,
        *,
        network: MakeNetwork,
        threshold: float = 0.95,
        consistency_weight: float = 1.0,
        rampup_steps: int | None = 0,
    ) -> None:
        super().__init__()
        expect("method.threshold", threshold, number_in("[0, 1)", "a confidence"))
        self.student = network()
        self.threshold, self.w = threshold, Rampup(weight=consistency_weight, steps=rampup_steps)

    def forward(self, phase: str, batch: Batch, progress: Progress) -> Losses:
        z_l, z_w, z_s = self.through(self.student, batch.image, batch.unlabeled, batch.strong[0])
        target = confident_label(z_w, self.threshold)
        return {
            "supervised": self.supervised(z_l, batch.label),
            "consistency": self.w(progress) * masked_cross_entropy(z_s, target, (target != IGNORE).float()),
        }

    def weights(self, progress: Progress) -> dict[str, float]:
        return {"consistency_weight": self.w(progress)}

    def pseudo_labels(self, image: Tensor, progress: Progress) -> PseudoLabels:
        return used_where_confident(self.student(image).softmax(dim=1), self.threshold)
