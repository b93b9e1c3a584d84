"""CTCT, cross teaching between CNN and transformer (Luo et al., MIDL 2022)."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import Parameter

from ssl4seg.methods.base import MakeNetwork, Method, built_like
from ssl4seg.methods.parts.discriminator import unmoved
from ssl4seg.methods.parts.losses import dice
from ssl4seg.methods.parts.predictions import one_hot, used_everywhere
from ssl4seg.methods.parts.ramps import Rampup
from ssl4seg.networks.base import Network
from ssl4seg.types import Batch, Losses, Progress, PseudoLabels


class CTCT(Method):
    """L = L_sup(z_c) + L_sup(z_t) + w(t) [Dice(p_c, argmax_k z_t) + Dice(p_t, argmax_k z_c)]   (their section 2)

    z_c, z_t: logits [L, K, H, W] and [U, K, H, W] of a CNN, which is the run's network and predicts, and of a
    transformer; p: their softmax; Dice: the soft Dice loss in [0, 1] on the unlabelled images, without a gradient in
    the argmax. w(t) = 0.1 exp(-5 (1 - t/T)^2) as in `MeanTeacher`. Each network has a phase: in "segmenter" the run's
    optimiser moves the CNN, in "transformer" the transformer's own optimiser moves the transformer.

    Differs from the authors' code:
    - SGD moves both networks in one step there; here AdamW moves the transformer, as is usual for transformers, and the
      CNN has made its step before it teaches.
    - Their transformer's encoder starts from ImageNet; here it starts anew.
    - A network that teaches sees the unlabelled images alone here, and its batch norm's running statistics stay.
    - They train on 224 x 224 pixels, 8 labelled and 8 unlabelled.

    Args:
        transformer: builds the transformer from the keywords in_channels and num_classes.
        consistency_weight, rampup_steps: w and the length of its ramp; None is the whole run.
    """

    phases = ("segmenter", "transformer")

    def __init__(
        self,
        *,
        network: MakeNetwork,
        transformer: MakeNetwork,
        consistency_weight: float = 0.1,
        rampup_steps: int | None = None,
    ) -> None:
        super().__init__()
        self.student = network()
        self.transformer = built_like(self.student, transformer, "method.transformer")
        self.w = Rampup(weight=consistency_weight, steps=rampup_steps)

    def forward(self, phase: str, batch: Batch, progress: Progress) -> Losses:
        if phase == "transformer":
            return self.learn(self.transformer, self.student, batch, progress, prefix="transformer_")
        return self.learn(self.student, self.transformer, batch, progress)

    def learn(self, pupil: Network, teacher: Network, batch: Batch, progress: Progress, prefix: str = "") -> Losses:
        """The pupil's loss: L_sup(z) + w(t) Dice(p, argmax_k of the teacher)."""
        with torch.no_grad():
            label = unmoved(teacher, batch.unlabeled).argmax(dim=1)
        z_l, z_u = self.through(pupil, batch.image, batch.unlabeled)
        return {
            f"{prefix}supervised": self.supervised(z_l, batch.label),
            f"{prefix}cross_teaching": self.w(progress) * dice(z_u, label),
        }

    def parameters_of(self, phase: str) -> Iterable[Parameter]:
        return (self.transformer if phase == "transformer" else self.student).parameters()

    def weights(self, progress: Progress) -> dict[str, float]:
        return {"consistency_weight": self.w(progress)}

    def pseudo_labels(self, image: Tensor, progress: Progress) -> PseudoLabels:
        """The CNN's targets: the transformer's most probable class, everywhere."""
        return used_everywhere(one_hot(self.transformer(image).argmax(dim=1), self.student.num_classes))
