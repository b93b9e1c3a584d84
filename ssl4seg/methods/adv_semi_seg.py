"""Adversarial learning for semi-supervised semantic segmentation (Hung et al., BMVC 2018)."""

from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import Parameter

from ssl4seg.keys import IGNORE, at_least, expect, number_in
from ssl4seg.methods.base import MakeNetwork, Method
from ssl4seg.methods.parts.discriminator import Discriminator, bce, one_hot_truth, unmoved
from ssl4seg.methods.parts.losses import batch_mean, cross_entropy, ratio
from ssl4seg.methods.parts.passes import together
from ssl4seg.methods.parts.predictions import one_hot
from ssl4seg.types import Batch, Losses, Progress, PseudoLabels


class AdvSemiSeg(Method):
    """L = L_sup + a_l mean_l bce(D(p_l), 1) + a_u mean_u bce(D(p_u), 1) + s mean_{D(p_u) > T} ce(z_u, argmax z_u)

    (their eqs. 2 to 5), and for the discriminator L_D = mean_l bce(D(y), 1) + mean_l bce(D(p_l), 0)   (their eq. 1).

    p = softmax(z) [N, K, H, W] of the segmenter; y: the one-hot truth; D(.) [N, 1, H, W]: the discriminator's logit in
    every pixel that a map is a truth, taken as a probability where it is compared with T; bce and ce: cross-entropies.
    In the last, self-taught term the segmenter learns its own class where D takes it for the truth. Labelled pixels
    that are ignored do not count.

    The paper's constants: a_l = 0.01, a_u = 0.001, s = 0.1, T = 0.2; unlabelled images take part after 5,000 of 20,000
    steps; Adam 1e-4 with betas (0.9, 0.99) for D. (Others quote 0.001 and 0.0001 for a_l and a_u.)

    Labelled and unlabelled images pass the segmenter apart, as in the authors' code, so that the batch norm does not
    mix their statistics (phantom, 2 labelled patients, seeds 0, 1, 2: test Dice 65.9, 54.7, 62.7 mixed, 73.7, 66.3,
    69.6 apart).

    Differs from the authors' code:
    - Their D learns from predictions made before the segmenter's step; here from predictions made after it.
    - Their D also learns that unlabelled predictions are no truths; here it learns from labelled images alone.
    - Their L_D is halved, which Adam does not notice.
    - Their truths and predictions are of different labelled images; here of the same.
    - Their adversarial term of the unlabelled images starts at once (here `adversarial_start=0`).
    - A truth is 0 where it is ignored there; here D sees the prediction in its place.
    - Neither code nor paper has Dice in L_sup.

    In each phase the other network's parameters get no gradient, and its batch norm's running statistics stay.

    Args:
        adversarial_weight: a_l.
        unlabeled_adversarial_weight: a_u.
        self_taught_weight: s.
        threshold: T, a probability.
        adversarial_start, self_taught_start: shares of the run from which a_u and s hold; the terms are 0 before.
    """

    ways: ClassVar[tuple[str, ...]] = ("apart", "together")
    phases = ("segmenter", "discriminator")

    def __init__(
        self,
        *,
        network: MakeNetwork,
        adversarial_weight: float = 0.01,
        unlabeled_adversarial_weight: float = 0.001,
        self_taught_weight: float = 0.1,
        threshold: float = 0.2,
        adversarial_start: float = 0.25,
        self_taught_start: float = 0.25,
    ) -> None:
        super().__init__()
        expect("method.adversarial_weight", adversarial_weight, at_least(0))
        expect("method.unlabeled_adversarial_weight", unlabeled_adversarial_weight, at_least(0))
        expect("method.self_taught_weight", self_taught_weight, at_least(0))
        expect("method.threshold", threshold, number_in("[0, 1)", "a probability"))
        expect("method.adversarial_start", adversarial_start, number_in("[0, 1)", "a share of the run"))
        expect("method.self_taught_start", self_taught_start, number_in("[0, 1)", "a share of the run"))
        self.student = network()
        self.discriminator = Discriminator(
            in_channels=self.student.num_classes, axes=self.student.axes, decision="dense"
        )
        self.a_l, self.a_u, self.s = adversarial_weight, unlabeled_adversarial_weight, self_taught_weight
        self.threshold, self.adversarial_start, self.self_taught_start = threshold, adversarial_start, self_taught_start

    def forward(self, phase: str, batch: Batch, progress: Progress) -> Losses:
        return self.discriminate(batch) if phase == "discriminator" else self.segment(batch, progress)

    def segment(self, batch: Batch, progress: Progress) -> Losses:
        z_l, z_u = self.through(self.student, batch.image, batch.unlabeled)
        d_l, d_u = together(lambda z: unmoved(self.discriminator, z.softmax(dim=1)), z_l, z_u)
        weights = self.weights(progress)
        believed = z_u.argmax(dim=1).masked_fill(~self.trusted(d_u), IGNORE)
        return {
            "supervised": self.supervised(z_l, batch.label),
            "adversarial": self.a_l * mean_over(batch.label != IGNORE, bce(d_l, 1)),
            "unlabeled_adversarial": weights["unlabeled_adversarial_weight"] * batch_mean(bce(d_u, 1)),
            "self_taught": weights["self_taught_weight"] * cross_entropy(z_u, believed),
        }

    def discriminate(self, batch: Batch) -> Losses:
        with torch.no_grad():
            p = unmoved(self.student, batch.image).softmax(dim=1)
        d_y, d_p = together(self.discriminator, one_hot_truth(batch.label, p), p)
        return {"discriminator": mean_over(batch.label != IGNORE, bce(d_y, 1) + bce(d_p, 0))}

    def trusted(self, d: Tensor) -> Tensor:
        """[N, H, W] bool, where D takes a prediction for a truth."""
        return d[:, 0].sigmoid() > self.threshold

    def pseudo_labels(self, image: Tensor, progress: Progress) -> PseudoLabels:
        p = self.student(image).softmax(dim=1)
        started = progress.fraction >= self.self_taught_start
        return PseudoLabels(
            one_hot(p.argmax(dim=1), self.student.num_classes), self.trusted(self.discriminator(p)) & started
        )

    def remedy(self, total: int) -> str:
        return f"method.self_taught_weight={self.s / 10:g}" if self.s else ""

    def parameters_of(self, phase: str) -> Iterable[Parameter]:
        return (self.discriminator if phase == "discriminator" else self.student).parameters()

    def weights(self, progress: Progress) -> dict[str, float]:
        return {
            "unlabeled_adversarial_weight": self.a_u * (progress.fraction >= self.adversarial_start),
            "self_taught_weight": self.s * (progress.fraction >= self.self_taught_start),
        }


def mean_over(counted: Tensor, value: Tensor) -> Tensor:
    """Mean of [N, 1, H, W] over the pixels [N, H, W] that count in the global batch; 0 if no pixel counts."""
    return ratio((counted * value[:, 0]).sum(), counted.sum().float())
