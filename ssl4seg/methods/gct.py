"""GCT, guided collaborative training (Ke et al., ECCV 2020)."""

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from ssl4seg.keys import IGNORE, Key, at_least, expect, is_whole, number_in, whole
from ssl4seg.methods.base import MakeNetwork, Method
from ssl4seg.methods.parts.discriminator import unmoved
from ssl4seg.methods.parts.flaw_detector import FlawDetector, comparable, flaw_target
from ssl4seg.methods.parts.losses import batch_mean, ratio
from ssl4seg.methods.parts.passes import joined
from ssl4seg.methods.parts.ramps import Rampup
from ssl4seg.types import Batch, Losses, Progress, PseudoLabels

EVEN = Key(lambda v: is_whole(v) and v >= 2 and v % 2 == 0, "an even number of at least 2")


AUTHORS_CLASSES = 21
"""Of VOC, over which their consistency is a mean."""


class GCT(Method):
    """L = sum_{k = 1, 2} L_sup(z_k) + w(t) / 21 mean([f_k > f_j] |p_k - p_j|^2) + c mean([f_1, f_2 > T] F(x, p_k)^2)

    The second term is the dynamic consistency, the third the flaw correction. Two networks of one architecture, j the
    other network of k; p_k = softmax(z_k) [N, K, H, W]; p_j has no gradient; x: labelled and unlabelled images. F is
    the flaw detector: F(x, p) [N, H, W] says where a prediction is wrong, from 0 to 1. f_k is F(x, p_k) without a
    gradient, smoothed and stretched over each image (`comparable`), and 1 where it exceeds T. So in each pixel the less
    flawed network teaches the other one; where both are flawed, F does. Means are over pixels.

    Detector: L_F = mean over k and the labelled pixels of (F(x, p_k) - C(p_k, y))^2, C = `flaw_target`.

    The authors' constants for semantic segmentation: w = 100 at the end of its ramp, c = 1, T = 0.6, one dilation in C;
    Adam 1e-4 with betas (0.9, 0.99) for F.

    Differs from the authors' code:
    - Their w multiplies a mean over classes, 21 of them; here |.|^2 is the sum over the K classes, divided by 21, so
      that a pixel weighs the same with any K. (With K = 4 a mean would weigh it 5.25 times as much.)
    - Their ramp takes 3 of 20 epochs (PSPNet: 5); here it takes `rampup_steps`.
    - They multiply L_F by 10; here the factor is left out, because Adam does not notice it.
    - An ignored pixel is half a flaw there; here it is no flaw and does not count in L_F.
    - An image without flaws gets a negative constant there; here it gets f = 0.
    - Here F is finer on images below 256 pixels.
    - Networks and F step in turn there, on predictions from before the step; here the networks step at once, and F sees
      their predictions after that step.

    In each phase the other phase's parameters get no gradient, and their batch norm's running statistics stay. Network
    1 predicts.

    Args:
        consistency_weight, rampup_steps: w and the length of its ramp; None is the whole run.
        correction_weight: c.
        threshold: T.
        dilations: of C.
        detector_width: channels of the detector's first convolution; the others have up to eight times as many.
    """

    phases = ("segmenter", "detector")

    def __init__(
        self,
        *,
        network: MakeNetwork,
        consistency_weight: float = 100.0,
        rampup_steps: int | None = None,
        correction_weight: float = 1.0,
        threshold: float = 0.6,
        dilations: int = 1,
        detector_width: int = 64,
    ) -> None:
        super().__init__()
        expect("method.correction_weight", correction_weight, at_least(0))
        expect("method.threshold", threshold, number_in("[0, 1)"))
        expect("method.dilations", dilations, whole(0, 1000))
        expect("method.detector_width", detector_width, EVEN)
        self.student, self.partner = network(), network()
        in_channels = self.student.in_channels + self.student.num_classes
        self.detector = FlawDetector(in_channels=in_channels, axes=self.student.axes, width=detector_width)
        self.w = Rampup(weight=consistency_weight, steps=rampup_steps)
        self.c, self.threshold, self.dilations = correction_weight, threshold, dilations

    def forward(self, phase: str, batch: Batch, progress: Progress) -> Losses:
        return self.detect(batch) if phase == "detector" else self.segment(batch, progress)

    def segment(self, batch: Batch, progress: Progress) -> Losses:
        x, num = torch.cat([batch.image, batch.unlabeled]), len(batch.image)
        z_1, z_2 = (self.logits(network, batch) for network in (self.student, self.partner))
        p_1, p_2 = z_1.softmax(dim=1), z_2.softmax(dim=1)
        flaws_1, flaws_2 = (unmoved(self.detector, x, p) for p in (p_1, p_2))
        f_1, f_2 = self.clipped(flaws_1), self.clipped(flaws_2)
        both = ((f_1 == 1) & (f_2 == 1)).float()
        consistency = taught(f_1 > f_2, p_1, p_2) + taught(f_2 > f_1, p_2, p_1)
        return {
            "supervised": self.supervised(z_1[:num], batch.label) + self.supervised(z_2[:num], batch.label),
            "consistency": self.w(progress) * consistency,
            "correction": self.c * batch_mean(both * (flaws_1.square() + flaws_2.square())),
        }

    def detect(self, batch: Batch) -> Losses:
        x, num = torch.cat([batch.image, batch.unlabeled]), len(batch.image)
        counted = (batch.label != IGNORE).float()
        total = counted.new_zeros(())
        for network in (self.student, self.partner):
            with torch.no_grad():
                p = self.logits(partial(unmoved, network), batch).softmax(dim=1)
            target = flaw_target(p[:num], batch.label, self.dilations)
            # The unlabelled images pass for the batch norm alone, which sees them in the other phase too.
            error = (self.detector(x, p)[:num] - target).square()
            total = total + ratio((counted * error).sum(), counted.sum()) / 2
        return {"detector": total}

    def logits(self, network: Callable[[Tensor], Tensor], batch: Batch) -> Tensor:
        """z [L + U, K, H, W] of a network."""
        z: Tensor = joined(self.through(network, batch.image, batch.unlabeled))
        return z

    def clipped(self, flaws: Tensor) -> Tensor:
        """f: comparable flaws [N, H, W] without a graph, 1 above the threshold."""
        f = comparable(flaws.detach())
        return f.masked_fill(f > self.threshold, 1)

    def pseudo_labels(self, image: Tensor, progress: Progress) -> PseudoLabels:
        p_1, p_2 = (network(image).softmax(dim=1) for network in (self.student, self.partner))
        f_1, f_2 = (self.clipped(self.detector(image, p)) for p in (p_1, p_2))
        return PseudoLabels(p_2, f_1 > f_2)

    def remedy(self, total: int) -> str:
        """Both terms of the unlabelled images: each has been seen to collapse alone."""
        return f"{super().remedy(total)} method.correction_weight={self.c / 10:g}"

    def parameters_of(self, phase: str) -> Iterable[Parameter]:
        networks = [self.detector] if phase == "detector" else [self.student, self.partner]
        return nn.ModuleList(networks).parameters()

    def weights(self, progress: Progress) -> dict[str, float]:
        return {"consistency_weight": self.w(progress)}


def taught(where: Tensor, p: Tensor, other: Tensor) -> Tensor:
    """mean([where] |p - other|^2) / 21, in which `other` teaches."""
    return batch_mean(where * (p - other.detach()).square().sum(dim=1)) / AUTHORS_CLASSES
