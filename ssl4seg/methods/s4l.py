"""S4L, rotation prediction (Zhai et al., ICCV 2019), for segmentation as in PixelSSL."""

from collections.abc import Iterable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Parameter

from ssl4seg.axes import image_dims
from ssl4seg.keys import at_least, expect, whole
from ssl4seg.methods.base import MakeNetwork, Method
from ssl4seg.methods.parts.losses import batch_mean
from ssl4seg.networks.base import resized
from ssl4seg.seeding import sent
from ssl4seg.types import Batch, Losses, Progress


class S4L(Method):
    """L = L_sup(f(x_l), y) + a L_sup(f(x_l^r), y^r) + b mean CE(h(x^r), r)   (their eq. 1 and 2, rotation)

    x^r: an image turned by r x 90 degrees, r in {0, 1, 2, 3}; the last mean is over labelled and unlabelled images,
    each as it is (r = 0) and in `turned_copies` other positions, drawn without repetition. h [N, 4]: logits of r, a
    linear layer on the mean over the places of the encoder's coarsest features. a = b = 0.1. Only labelled images pass
    the decoder.

    The paper classifies images and has all four positions of each (turned_copies=3, at twice the cost of 1). PixelSSL
    carried the method over to segmentation with one turned copy and a = b = 0.1, the defaults here.

    Differs from PixelSSL:
    - Its h reads the segmentation's logits through two convolutions, and so teaches the decoder too; here h reads the
      encoder's features, because those convolutions need larger maps than every network has.

    The image must show which side is up: views that turn by quarters (`views.weak.rot90_flip`, half of the images in
    the ACDC recipe) hide it in the images that they turn; set it to 0 to keep the whole task. Of images that are not
    square, the square in the middle is taken. Volumes are turned in the plane of their first two axes.

    Args:
        turned_copies: of each image, 1 to 3.
        turned_weight: a.
        rotation_weight: b.
    """

    ways: ClassVar[tuple[str, ...]] = ("together",)

    def __init__(
        self,
        *,
        network: MakeNetwork,
        turned_copies: int = 1,
        turned_weight: float = 0.1,
        rotation_weight: float = 0.1,
    ) -> None:
        super().__init__()
        expect("method.turned_copies", turned_copies, whole(1, 3))
        expect("method.turned_weight", turned_weight, at_least(0))
        expect("method.rotation_weight", rotation_weight, at_least(0))
        self.student = network()
        self.rotation_head = nn.Linear(self.student.feature_channels[-1], 4)
        self.turned_copies = turned_copies
        self.turned_weight, self.rotation_weight = turned_weight, rotation_weight

    def forward(self, phase: str, batch: Batch, progress: Progress) -> Losses:
        x, y = square(torch.cat([batch.image, batch.unlabeled]), 2), square(batch.label, 1)
        num, num_labeled = len(x), len(y)
        r = self.draw(num)  # [1 + copies, L + U]
        x_r = torch.cat([turned(x, r_i, 2) for r_i in r])
        y_r = torch.cat([turned(y, r_i[:num_labeled], 1) for r_i in r])
        features = self.student.encode(x_r)
        labeled = [f.unflatten(0, (-1, num))[:, :num_labeled].flatten(0, 1) for f in features]
        z = resized(self.student.decode(labeled), x)
        rotation = F.cross_entropy(self.rotation(features), sent(r.flatten(), x.device), reduction="none")
        return {
            "supervised": self.supervised(z[:num_labeled], y),
            "turned": self.turned_weight * self.supervised(z[num_labeled:], y_r[num_labeled:]),
            "rotation": self.rotation_weight * batch_mean(rotation),
        }

    def draw(self, num: int) -> Tensor:
        """r of each image and copy, [1 + copies, num] on the CPU: zeros first, then different ones of 1, 2, 3."""
        r = torch.rand(3, num).argsort(dim=0)[: self.turned_copies] + 1
        return torch.cat([torch.zeros_like(r[:1]), r])

    def rotation(self, features: list[Tensor]) -> Tensor:
        """h [N, 4] float32."""
        logits: Tensor = self.rotation_head(features[-1].mean(dim=image_dims(features[-1])))
        return logits.float()

    def remedy(self, total: int) -> str:
        return f"method.rotation_weight={self.rotation_weight / 10:g}" if self.rotation_weight else ""

    def parameters_of(self, phase: str) -> Iterable[Parameter]:
        return self.parameters()


def square(image: Tensor, first: int) -> Tensor:
    """The square in the middle of the plane of an image's first two axes, the shorter of them its side.

    Args:
        first: the dimension of the first axis: 2 of images [N, C, *X], 1 of labels [N, *X].
    """
    side = min(image.shape[first : first + 2])
    for dim in (first, first + 1):
        image = image.narrow(dim, (image.shape[dim] - side) // 2, side)
    return image


def turned(image: Tensor, quarters: Tensor, first: int) -> Tensor:
    """Images, each turned counter-clockwise in the plane of its first two axes by its number [N] of quarters.

    Args:
        first: see `square`.
    """
    every = torch.stack([torch.rot90(image, k, (first, first + 1)) for k in range(4)])
    return every[sent(quarters, image.device), torch.arange(len(image), device=image.device)]
