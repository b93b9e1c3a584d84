"""CCT, cross-consistency training (Ouali et al., CVPR 2020)."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from ssl4seg.keys import at_least, expect, list_of, low_high, number_in, one_of
from ssl4seg.methods.base import MakeNetwork, Method, new_decoder
from ssl4seg.methods.parts.losses import batch_mean, softmax_mse
from ssl4seg.methods.parts.perturbation import feature_drop, feature_noise
from ssl4seg.methods.parts.predictions import used_everywhere
from ssl4seg.methods.parts.ramps import Rampup
from ssl4seg.networks.base import Network, resized
from ssl4seg.types import Batch, Losses, Progress, PseudoLabels

PERTURBATIONS = ("feature_noise", "dropout", "feature_drop")


class CCT(Method):
    """L = L_sup(p, y) + w(t) mean_a mean[(p_a - p)^2]   (their section 3.1)

    p: softmax output [U, K, H, W] of the main decoder on the encoder's features, not differentiated in the second term;
    p_a: the softmax output of auxiliary decoder a = 1..A on perturbed features; the inner mean is over pixels and
    classes. The auxiliary decoders see unlabelled images alone and are never supervised; through them the encoder
    learns. Perturbations (section 3.2): feature_noise is x + x e with e ~ U(-0.3, 0.3); dropout drops whole channels;
    feature_drop removes the places whose mean activation is at least g times the image's peak, g ~ U(0.6, 0.9). w(t) =
    0.1 exp(-5 (1 - t/T)^2) and dropout 0.3 are the SSL4MIS recipe's; for VOC, the authors have 30 after a tenth of the
    run, and 0.5.

    The paper's encoder has one output. If the network has skip connections, all features are perturbed, as in SSL4MIS;
    otherwise the finest would pass unperturbed.

    Differs from SSL4MIS:
    - It supervises the auxiliary decoders (with four terms of a quarter each; its w beside one whole term is a quarter
      as large); here they are never supervised.
    - It does not detach p; here p is detached.
    - It drops single units; here whole channels.

    Differs from the authors' code:
    - It has six decoders of each kind; here one for each entry of `perturbations`.
    - It passes labelled and unlabelled images apart; here they pass together, unless `passes=apart`.
    - It has g ~ U(0.7, 0.9); here U(0.6, 0.9).
    - It draws noise and g once a batch; here once an image.
    - Its perturbations that need the task (VAT, Con-Msk, Obj-Msk, G-Cutout) are left out here.

    Args:
        perturbations: one for each auxiliary decoder; a name that is repeated gets several decoders.
        noise: limit of e.
        dropout: probability that a channel is dropped.
        drop_threshold: range of g.
        consistency_weight, rampup_steps: w and the length of its ramp; None is the whole run.
    """

    def __init__(
        self,
        *,
        network: MakeNetwork,
        perturbations: Sequence[str] = PERTURBATIONS,
        noise: float = 0.3,
        dropout: float = 0.3,
        drop_threshold: Sequence[float] = (0.6, 0.9),
        consistency_weight: float = 0.1,
        rampup_steps: int | None = None,
    ) -> None:
        super().__init__()
        expect("method.perturbations", perturbations, list_of(one_of(*PERTURBATIONS)))
        expect("method.noise", noise, at_least(0))
        expect("method.dropout", dropout, number_in("[0, 1)", "a probability"))
        expect("method.drop_threshold", drop_threshold, low_high(highest=1))
        self.student = network()
        self.auxiliary = nn.ModuleList(new_decoder(network) for _ in perturbations)
        self.perturbations, self.noise, self.dropout = tuple(perturbations), noise, dropout
        self.low, self.high = drop_threshold
        self.w = Rampup(weight=consistency_weight, steps=rampup_steps)

    def forward(self, phase: str, batch: Batch, progress: Progress) -> Losses:
        (z_l, _), (z_u, features) = self.through(self.seen, batch.image, batch.unlabeled)
        z_u = z_u.detach()
        each = [batch_mean(softmax_mse(z_a, z_u)) for z_a in self.views(features, z_u)]
        return {
            "supervised": self.supervised(z_l, batch.label),
            "consistency": self.w(progress) * torch.stack(each).mean(),
        }

    def seen(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The student's logits [N, K, H, W] and features."""
        features = self.student.encode(image)
        return resized(self.student.decode(features), image), features

    def views(self, features: list[Tensor], like: Tensor) -> list[Tensor]:
        """Logits of each auxiliary decoder on features with its perturbation, at the size of `like`."""
        decoders: Iterable[Network] = [*self.auxiliary]
        pairs = zip(decoders, self.perturbations, strict=True)
        return [resized(decoder.decode([self.perturbed(f, name) for f in features]), like) for decoder, name in pairs]

    def perturbed(self, x: Tensor, name: str) -> Tensor:
        """A feature map [N, C, h, w] after the perturbation called `name`."""
        if name == "feature_noise":
            return feature_noise(x, self.noise)
        return (
            torch.feature_dropout(x, self.dropout, True) if name == "dropout" else feature_drop(x, self.low, self.high)
        )

    def parameters_of(self, phase: str) -> Iterable[Parameter]:
        return self.parameters()

    def pseudo_labels(self, image: Tensor, progress: Progress) -> PseudoLabels:
        return used_everywhere(self.student(image).softmax(dim=1))

    def weights(self, progress: Progress) -> dict[str, float]:
        return {"consistency_weight": self.w(progress)}
