"""R-Drop, regularised dropout (Liang, Wu et al., NeurIPS 2021)."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ssl4seg.errors import UserError
from ssl4seg.keys import expect, number_in
from ssl4seg.methods.base import MakeNetwork, Method
from ssl4seg.methods.parts.losses import batch_mean
from ssl4seg.methods.parts.passes import joined
from ssl4seg.methods.parts.ramps import Rampup
from ssl4seg.networks.base import resized
from ssl4seg.networks.dropout import Dropout
from ssl4seg.types import Batch, Losses, Progress


class RDrop(Method):
    """L = L_sup(z_1) + L_sup(z_2) + w(t) mean_px (KL(p_1 || p_2) + KL(p_2 || p_1)) / 2   (their eq. 2 to 4)

    z_1, z_2: logits [L + U, K, H, W] of two passes of one network over all images, with different dropout masks; p_1,
    p_2: their softmax over the classes; KL is summed over the classes, in nats. The paper has labelled samples only, on
    which the KL stands beside the supervised losses; here the unlabelled images add theirs. Both copies of the images
    pass the network in one call, as in the paper, and so share its batch statistics.

    w ramps up as in `MeanTeacher`. The SSL4MIS script ends at 4 times a mean over pixels and K = 4 classes, which is 1
    here, because the classes are summed; the paper's alpha runs from 0.6 (image classification) to 5, without a ramp.

    Differs from the SSL4MIS script:
    - The script compares two networks; here two passes of one network are compared.
    - The script compares them on the unlabelled images alone; here on all images.
    - The script takes the softmax over the image's width; here over the classes.

    Differs from the authors' code for images:
    - It makes two passes; here one call holds both copies.
    - It sums the KL over a batch; here it is a mean over pixels.

    Args:
        consistency_weight, rampup_steps: w and the length of its ramp; None is the whole run.
        feature_dropout: probability of one more dropout, on the encoder's features, for networks that have none.
    """

    def __init__(
        self,
        *,
        network: MakeNetwork,
        consistency_weight: float = 1.0,
        rampup_steps: int | None = None,
        feature_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        expect("method.feature_dropout", feature_dropout, number_in("[0, 1)", "a probability"))
        self.student = network()
        self.w = Rampup(weight=consistency_weight, steps=rampup_steps)
        self.drop = Dropout(feature_dropout)
        if not any(dropouts(self)):
            raise UserError(
                f"network={type(self.student).__name__}: has no dropout, so that both passes would be the same; "
                "set method.feature_dropout=0.1 or so, or take a network with dropout"
            )

    def forward(self, phase: str, batch: Batch, progress: Progress) -> Losses:
        z_1, z_2 = joined(self.through(self.twice, batch.image, batch.unlabeled))
        num = len(batch.image)
        return {
            "supervised": self.supervised(z_1[:num], batch.label) + self.supervised(z_2[:num], batch.label),
            "consistency": self.w(progress) * batch_mean(symmetric_kl(z_1, z_2)),
        }

    def twice(self, image: Tensor) -> tuple[Tensor, ...]:
        """z_1 and z_2 [N, K, H, W] of images, whose copies pass in one call."""
        features = [self.drop(f) for f in self.student.encode(torch.cat([image, image]))]
        return resized(self.student.decode(features), image).chunk(2)

    def weights(self, progress: Progress) -> dict[str, float]:
        return {"consistency_weight": self.w(progress)}


def symmetric_kl(z_1: Tensor, z_2: Tensor) -> Tensor:
    """Half of KL(p_1 || p_2) + KL(p_2 || p_1) = sum_k (p_1 - p_2) (ln p_1 - ln p_2) of logits, [N, H, W] in nats."""
    l_1, l_2 = z_1.float().log_softmax(dim=1), z_2.float().log_softmax(dim=1)
    return ((l_1.exp() - l_2.exp()) * (l_1 - l_2)).sum(dim=1) / 2


def dropouts(module: nn.Module) -> Iterator[float]:
    """The probabilities of a module's dropout and stochastic-depth layers."""
    for part in module.modules():
        if "drop" in (name := type(part).__name__.lower()) or "stochastic" in name:
            yield getattr(part, "p", None) or getattr(part, "drop_prob", None) or 0.0
