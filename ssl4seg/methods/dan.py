"""DAN, deep adversarial network for unannotated images (Zhang et al., MICCAI 2017)."""

from collections.abc import Iterable
from functools import partial

import torch
from torch.nn import Parameter

from ssl4seg.methods.base import MakeNetwork, Method
from ssl4seg.methods.parts.discriminator import Discriminator, bce, unmoved
from ssl4seg.methods.parts.losses import batch_mean
from ssl4seg.methods.parts.passes import joined
from ssl4seg.methods.parts.ramps import Rampup
from ssl4seg.types import Batch, Losses, Progress


class DAN(Method):
    """Segmenter: L = L_sup + w(t) mean_u bce(D(p_u, x_u), 1); discriminator: L_D = mean_{l, u} bce(D(p, x), [labelled])

    p = softmax [N, K, H, W] of the segmenter; D(p, x) [N, 1]: the discriminator's logit that the image x, with p
    stacked on its channels, is a labelled one; bce: the binary cross-entropy. The segmenter learns to predict so well
    on unlabelled images that D takes them for labelled ones. w(t) ramps up as in `MeanTeacher`, to 0.1 as in the
    SSL4MIS recipe, whose D has Adam 1e-4 with betas (0.9, 0.99), as in our YAML.

    Differs from the paper:
    - D sees image times probabilities there; here, as in the SSL4MIS script, D sees both stacked.

    Differs from the SSL4MIS script:
    - The script has one image size built in; here any image size works, because the mean over D's last features comes
      before the decision.
    - The script's D has dropout; here D has none.
    - The script's D has two first convolutions, for image and prediction, whose outputs are added without an
      activation; here D has one on the stack, with an activation.
    - The script's learning rate of D is constant; here it falls with the segmenter's.
    - In D's phase the segmenter runs in training mode here, so that D sees what it will judge.

    In each phase the other network's parameters get no gradient, and its batch norm's running statistics stay.

    Args:
        consistency_weight, rampup_steps: w and the length of its ramp; None is the whole run.
    """

    phases = ("segmenter", "discriminator")

    def __init__(
        self, *, network: MakeNetwork, consistency_weight: float = 0.1, rampup_steps: int | None = None
    ) -> None:
        super().__init__()
        self.student = network()
        in_channels = self.student.in_channels + self.student.num_classes
        self.discriminator = Discriminator(in_channels=in_channels, axes=self.student.axes, decision="pooled")
        self.w = Rampup(weight=consistency_weight, steps=rampup_steps)

    def forward(self, phase: str, batch: Batch, progress: Progress) -> Losses:
        return self.discriminate(batch) if phase == "discriminator" else self.segment(batch, progress)

    def segment(self, batch: Batch, progress: Progress) -> Losses:
        z_l, z_u = self.through(self.student, batch.image, batch.unlabeled)
        d_u = unmoved(self.discriminator, z_u.softmax(dim=1), batch.unlabeled)
        return {
            "supervised": self.supervised(z_l, batch.label),
            "adversarial": self.w(progress) * batch_mean(bce(d_u, 1)),
        }

    def discriminate(self, batch: Batch) -> Losses:
        x = torch.cat([batch.image, batch.unlabeled])
        with torch.no_grad():
            p = joined(self.through(partial(unmoved, self.student), batch.image, batch.unlabeled)).softmax(dim=1)
        d_l, d_u = self.discriminator(p, x).split([len(batch.image), len(batch.unlabeled)])
        return {"discriminator": batch_mean(torch.cat([bce(d_l, 1), bce(d_u, 0)]))}

    def parameters_of(self, phase: str) -> Iterable[Parameter]:
        return (self.discriminator if phase == "discriminator" else self.student).parameters()

    def weights(self, progress: Progress) -> dict[str, float]:
        return {"consistency_weight": self.w(progress)}
