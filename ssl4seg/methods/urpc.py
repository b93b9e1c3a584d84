"""URPC, uncertainty rectified pyramid consistency (Luo et al., MICCAI 2021; Medical Image Analysis 2022)."""

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Parameter

from ssl4seg.axes import LAYERS
from ssl4seg.errors import UserError
from ssl4seg.keys import at_least, expect, number_in, whole
from ssl4seg.methods.base import MakeNetwork, Method
from ssl4seg.methods.parts.losses import batch_mean, ratio
from ssl4seg.methods.parts.perturbation import feature_noise
from ssl4seg.methods.parts.predictions import used_everywhere
from ssl4seg.methods.parts.ramps import Rampup
from ssl4seg.networks.base import resized
from ssl4seg.networks.dropout import Dropout
from ssl4seg.types import Batch, Losses, Progress, PseudoLabels


class URPC(Method):
    """L = mean_i L_sup(p_i) + w(t) mean_i [ sum((p_i - pbar)^2 v_i) / sum(v_i) + mean(D_i) ]   (their section 2)

    p_i: softmax output [U, K, H, W] of scale i = 1..S of the decoder at the image's size, pbar their mean over i; D_i =
    sum_k p_i ln(p_i / pbar) [U, H, W] in nats, in [0, ln S]: the distance of scale i from the mean; v_i = exp(-D_i) in
    [1/S, 1] lowers the weight of pixels where the scales disagree. The square is a mean over classes, the sums run over
    pixels; the gradient flows into p_i and pbar. w(t) = 0.1 exp(-5 (1 - t/T)^2) is the SSL4MIS recipe's.

    Scale 1 is the network's own output, which predicts; each other scale gets a head of conv 3x3, behind dropout and
    feature noise while training. With fewer maps in the decoder than `num_scales`, S is their number.

    Differs from the paper:
    - Dropout and noise stand before each head there; here the finest scale has none, as in the authors' code.

    Differs from the authors' 2-D code:
    - It has dropout 0.5 before the coarsest head, feature drop before the next, noise +-0.3 before the third; here
      dropout and noise stand before all three.
    - Its D_i is KL(pbar || p_i), which has no upper bound; here it is the paper's KL(p_i || pbar).
    - It takes the logarithm of a softmax output that may be 0; here log-softmax gives the logarithms.
    - Its upsampling is nearest; here it is bilinear.
    - It draws the noise once a batch; here it is drawn for each image.

    Args:
        num_scales: the largest S; the finest scales are taken.
        dropout: probability before the heads of the coarser scales.
        feature_noise: limit of the noise there, as a share of the activation.
        consistency_weight, rampup_steps: w and the length of its ramp; None is the whole run.
    """

    def __init__(
        self,
        *,
        network: MakeNetwork,
        num_scales: int = 4,
        dropout: float = 0.5,
        feature_noise: float = 0.3,
        consistency_weight: float = 0.1,
        rampup_steps: int | None = None,
    ) -> None:
        super().__init__()
        expect("method.num_scales", num_scales, whole(2, 16))
        expect("method.dropout", dropout, number_in("[0, 1)", "a probability"))
        expect("method.feature_noise", feature_noise, at_least(0))
        self.student = network()
        channels = self.student.pyramid_channels[:num_scales]
        if len(channels) < 2:
            raise UserError(
                f"network={type(self.student).__name__}: has one decoder map; urpc compares at least 2 scales"
            )
        self.heads = nn.ModuleList(
            LAYERS[self.student.axes].conv(c, self.student.num_classes, 3, padding=1) for c in channels[1:]
        )
        self.dropout, self.feature_noise = Dropout(dropout), feature_noise
        self.w = Rampup(weight=consistency_weight, steps=rampup_steps)

    def forward(self, phase: str, batch: Batch, progress: Progress) -> Losses:
        z_l, z_u = self.through(lambda image: [*self.scales(image)], batch.image, batch.unlabeled)
        return {
            "supervised": torch.stack([self.supervised(z_i, batch.label) for z_i in z_l]).mean(),
            "consistency": self.w(progress) * self.consistency(torch.stack(z_u)),
        }

    def scales(self, image: Tensor) -> Tensor:
        """Logits of each scale [S, N, K, H, W], finest first."""
        finest, *coarser = self.student.pyramid(self.student.encode(image))
        z = [self.student.head(finest)]
        for head, x in zip(self.heads, coarser, strict=False):
            x = feature_noise(self.dropout(x), self.feature_noise) if self.training else x
            z.append(head(x))
        return torch.stack([resized(z_i, image) for z_i in z])

    def consistency(self, z: Tensor) -> Tensor:
        """The mean over the scales of both consistency terms, for logits [S, U, K, H, W]."""
        log_p = F.log_softmax(z, dim=2)
        log_mean = log_p.logsumexp(dim=0) - math.log(len(z))
        p, mean = log_p.exp(), log_mean.exp()
        d = (p * (log_p - log_mean)).sum(dim=2)
        v = (-d).exp()
        square = (p - mean).square().mean(dim=2)
        pixels = tuple(range(1, d.ndim))
        return ratio((square * v).sum(pixels), v.sum(pixels)).mean() + batch_mean(d)

    def parameters_of(self, phase: str) -> Iterable[Parameter]:
        return self.parameters()

    def pseudo_labels(self, image: Tensor, progress: Progress) -> PseudoLabels:
        mean = self.scales(image).softmax(dim=2).mean(dim=0)
        return used_everywhere(mean)

    def weights(self, progress: Progress) -> dict[str, float]:
        return {"consistency_weight": self.w(progress)}
