"""DTC, dual-task consistency (Luo et al., AAAI 2021)."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import Parameter

from ssl4seg.axes import LAYERS, image_dims
from ssl4seg.keys import IGNORE, above, at_least, expect
from ssl4seg.methods.base import MakeNetwork, Method
from ssl4seg.methods.parts.losses import batch_mean, ratio
from ssl4seg.methods.parts.passes import joined
from ssl4seg.methods.parts.predictions import used_everywhere
from ssl4seg.methods.parts.ramps import Rampup
from ssl4seg.networks.base import resized
from ssl4seg.types import Batch, Losses, Progress, PseudoLabels


class DTC(Method):
    """L = L_sup(p, y) + b mean[(z - T(y))^2] + w(t) mean[(T'(z) - p)^2]   (their L_Dice, L_LSF and L_DTC)

    p: softmax output [L + U, K, H, W]; z: tanh of a second head (conv 1x1) on the finest decoder map, in [-1, 1]: the
    signed distance maps; T(y): the signed distance maps of the label (`signed_distance`), negative inside, 0 on the
    boundary, positive outside, no unit; T'(z) = sigmoid(-k z) in [0, 1]: the mask that z stands for, k = 1500. The
    third mean is over labelled and unlabelled images, and the gradient flows into both z and p. b = 0.3, w(t) = exp(-5
    (1 - t/T_max)^2).

    Differs from the paper and the authors' code:
    - They have one class (left atrium, 3-D); here each foreground class k = 1..K-1 has a map of its own, computed in
      the slice and compared with p_k, and means are over pixels and foreground classes.
    - The code gives 0 to a class that is absent, which stands for a boundary in every pixel; here a class that is
      absent from a slice is everywhere outside, T(y) = 1.
    - Their L_sup is Dice; here it is (cross-entropy + Dice) / 2.

    Args:
        distance_weight: b.
        steepness: k.
        consistency_weight, rampup_steps: w and the length of its ramp; None is the whole run.
    """

    def __init__(
        self,
        *,
        network: MakeNetwork,
        distance_weight: float = 0.3,
        steepness: float = 1500.0,
        consistency_weight: float = 1.0,
        rampup_steps: int | None = None,
    ) -> None:
        super().__init__()
        expect("method.distance_weight", distance_weight, at_least(0))
        expect("method.steepness", steepness, above(0))
        self.student = network()
        self.distance_head = LAYERS[self.student.axes].conv(
            self.student.pyramid_channels[0], self.student.num_classes - 1, 1
        )
        self.distance_weight, self.steepness = distance_weight, steepness
        self.w = Rampup(weight=consistency_weight, steps=rampup_steps)

    def forward(self, phase: str, batch: Batch, progress: Progress) -> Losses:
        num_labeled = len(batch.image)
        logits, z = joined(self.through(self.both, batch.image, batch.unlabeled))
        truth = signed_distance(batch.label, self.student.num_classes)
        counted = (batch.label != IGNORE)[:, None].expand_as(truth).float()
        distance = ratio((counted * (z[:num_labeled] - truth).square()).sum(), counted.sum())
        consistency = batch_mean((self.mask(z) - logits.softmax(dim=1)[:, 1:]).square())
        return {
            "supervised": self.supervised(logits[:num_labeled], batch.label),
            "distance": self.distance_weight * distance,
            "consistency": self.w(progress) * consistency,
        }

    def both(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [N, K, *X] and distance maps z [N, K - 1, *X]."""
        finest = self.student.pyramid(self.student.encode(image))[0]
        return resized(self.student.head(finest), image), resized(self.distance_head(finest), image).tanh()

    def mask(self, z: Tensor) -> Tensor:
        """T'(z)."""
        return (-self.steepness * z).sigmoid()

    def parameters_of(self, phase: str) -> Iterable[Parameter]:
        return self.parameters()

    def pseudo_labels(self, image: Tensor, progress: Progress) -> PseudoLabels:
        """The targets that the distance maps give p: T'(z), and the rest as background, scaled to a sum of 1."""
        mask = self.mask(self.both(image)[1])
        p = torch.cat([1 - mask.amax(dim=1, keepdim=True), mask], dim=1)
        return used_everywhere(p / p.sum(dim=1, keepdim=True))

    def weights(self, progress: Progress) -> dict[str, float]:
        return {"consistency_weight": self.w(progress)}


@torch.no_grad()
def signed_distance(label: Tensor, num_classes: int) -> Tensor:
    """T(y): signed distance maps [N, K - 1, H, W] in [-1, 1] of the foreground classes of a label [N, H, W].

    Outside of a class its value is the distance to the class, inside minus the distance to the nearest pixel of another
    class, each divided by its largest value in the image. The value is 0 on the boundary, which are the inner pixels
    that share a side with a pixel of another class; 1 where the class is absent; -1 where there is no other class.
    Ignored pixels are of no class: distances pass over them, and their own value is 0.
    """
    inside = torch.stack([label == k for k in range(num_classes)], dim=1)
    outside = ~inside & (label != IGNORE)[:, None]
    to_class = distance_to(inside)
    to_other = to_class.masked_fill(inside, float(sum(label.shape[1:]))).amin(dim=1, keepdim=True)

    def scaled(distance: Tensor) -> Tensor:
        return distance / distance.amax(dim=image_dims(distance), keepdim=True).clamp(min=1)

    inner = scaled(to_other * inside) * (to_other > 1)
    return (scaled(to_class * outside) - inner)[:, 1:]


def distance_to(mask: Tensor) -> Tensor:
    """Euclidean distance in pixels [N, K, *X] to the nearest pixel of a mask [N, K, *X]; the sum of the image's sides
    where the mask is empty.

    Exact, on any device and without waiting for it: running extrema give the distance along the last axis, then all
    lines along each other axis are compared.
    """
    far = float(sum(mask.shape[2:]))
    at = torch.arange(mask.shape[-1], device=mask.device, dtype=torch.float32)
    before = at - torch.where(mask, at, -far).cummax(dim=-1).values
    after = torch.where(mask, at, 2 * far).flip(-1).cummin(dim=-1).values.flip(-1) - at
    square = torch.minimum(before, after).clamp(max=far).square()
    for dim in range(mask.ndim - 2, 1, -1):
        near, length = torch.full_like(square, far**2), mask.shape[dim]
        away = torch.arange(length, device=mask.device, dtype=torch.float32).view(-1, *(1,) * (mask.ndim - 1 - dim))
        for i in range(length):
            torch.minimum(near, square.narrow(dim, i, 1) + (away - i).square(), out=near)
        square = near
    return square.sqrt()
