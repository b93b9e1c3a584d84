"""MC-Net, mutual consistency of decoders (Wu et al., MICCAI 2021), and MC-Net+ (Medical Image Analysis 2022)."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Parameter

from ssl4seg.errors import UserError
from ssl4seg.keys import at_least, expect, number_in, whole
from ssl4seg.methods.base import MakeNetwork, Method, new_decoder
from ssl4seg.methods.parts.losses import batch_mean
from ssl4seg.methods.parts.passes import joined
from ssl4seg.methods.parts.predictions import used_everywhere
from ssl4seg.methods.parts.ramps import Rampup
from ssl4seg.networks.base import Network, resized
from ssl4seg.types import Batch, Losses, Progress, PseudoLabels


class MCNet(Method):
    """L = a sum_i L_sup(p_i) + w(t) sum_{i != j} mean[(p_j - s(p_i))^2]   (MC-Net+, section 3)

    p_i: softmax output [L + U, K, H, W] of decoder i = 1..n, all on one encoder and each with another upsampling; s(p)
    = p^(1/T) / (p^(1/T) + (1 - p)^(1/T)) in [0, 1]: the sharpened soft pseudo-label of each class by itself (it does
    not sum to 1 for K > 2), T = 0.1. The mean is over pixels and classes of labelled and unlabelled images. a = 0.5 and
    w(t) = 0.1 exp(-5 (1 - t/T_max)^2) are from the authors' code for ACDC, whose weight is 1 of a Dice without the
    factor 2, half as steep. n = 2 is MC-Net, 3 MC-Net+.

    The first decoder is the network's own and predicts; the next are its other upsamplings in their order (of the
    U-Net: bilinear, transposed, nearest). As in the authors' code, the gradient flows into s(p_i) too.

    Differs from the authors' code:
    - L_sup is Dice alone there and in the paper (`supervised_loss.cross_entropy=0 supervised_loss.dice=1`); here it is
      (cross-entropy + Dice) / 2.
    - Their Dice has no smoothing that pushes absent classes away.

    Args:
        num_decoders: n.
        temperature: T of the sharpening; 1 sharpens nothing.
        supervised_weight: a.
        consistency_weight, rampup_steps: w and the length of its ramp; None is the whole run.
    """

    def __init__(
        self,
        *,
        network: MakeNetwork,
        num_decoders: int = 2,
        temperature: float = 0.1,
        supervised_weight: float = 0.5,
        consistency_weight: float = 0.1,
        rampup_steps: int | None = None,
    ) -> None:
        super().__init__()
        expect("method.num_decoders", num_decoders, whole(2, 3))
        expect("method.temperature", temperature, number_in("(0, 1]"))
        expect("method.supervised_weight", supervised_weight, at_least(0))
        self.student = network()
        others = other_upsamplings(self.student)
        if len(others) < num_decoders - 1:
            raise UserError(
                f"network={type(self.student).__name__}: its decoder has {len(self.student.upsamplings)} kinds of "
                f"upsampling to choose from; mc_net with method.num_decoders={num_decoders} needs {num_decoders}"
            )
        self.others = nn.ModuleList(new_decoder(network, upsampling=name) for name in others[: num_decoders - 1])
        self.temperature, self.supervised_weight = temperature, supervised_weight
        self.w = Rampup(weight=consistency_weight, steps=rampup_steps)

    def forward(self, phase: str, batch: Batch, progress: Progress) -> Losses:
        z, num = joined(self.through(self.decoded, batch.image, batch.unlabeled)), len(batch.image)
        p = [z_i.softmax(dim=1) for z_i in z]
        s = [self.sharpened(p_i).sigmoid() for p_i in p]
        pairs = [(p_j - s_i).square() for i, s_i in enumerate(s) for j, p_j in enumerate(p) if i != j]
        supervised = torch.stack([self.supervised(z_i[:num], batch.label) for z_i in z]).sum()
        return {
            "supervised": self.supervised_weight * supervised,
            "consistency": self.w(progress) * torch.stack([batch_mean(pair) for pair in pairs]).sum(),
        }

    def decoded(self, image: Tensor) -> list[Tensor]:
        """Logits [N, K, H, W] of each decoder, the network's own first."""
        features = self.student.encode(image)
        return [resized(decoder.decode(features), image) for decoder in self.decoders]

    def sharpened(self, p: Tensor) -> Tensor:
        """The logit of s(p): ln(p / (1 - p)) / T."""
        return torch.logit(p, eps=1e-6) / self.temperature

    @property
    def decoders(self) -> list[Network]:
        return [self.student, *self.others]

    def parameters_of(self, phase: str) -> Iterable[Parameter]:
        return self.parameters()

    def pseudo_labels(self, image: Tensor, progress: Progress) -> PseudoLabels:
        """The targets that the other decoders give the network's own: the mean of s(p_i), scaled to a sum of 1."""
        s = [F.logsigmoid(self.sharpened(z_i.softmax(dim=1))).softmax(dim=1) for z_i in self.decoded(image)[1:]]
        return used_everywhere(torch.stack(s).mean(dim=0))

    def weights(self, progress: Progress) -> dict[str, float]:
        return {"consistency_weight": self.w(progress)}


def other_upsamplings(network: Network) -> list[str]:
    """The upsamplings that the network offers, except its own; none if it offers no choice."""
    offered = network.upsamplings
    named = [getattr(module, "upsampling", None) for module in network.modules()]
    own = next((name for name in named if name in offered), offered[0] if offered else None)
    return [name for name in offered if name != own]
