"""The discriminator of the adversarial methods, its losses, and passes that leave a network unchanged."""

import itertools
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from ssl4seg.axes import LAYERS
from ssl4seg.keys import IGNORE
from ssl4seg.networks.base import resized

Decision = Literal["patches", "dense", "pooled"]


class Discriminator(nn.Module):
    """conv 4x4 stride 2 pad 1 to 64, 128, 256, 512 channels, each LeakyReLU 0.2; then the decision, a logit of "real".

    Args:
        in_channels: of the stacked maps: the image's C, the mask's K, or C + K.
        axes: of the images, 2 or 3; kernels are as long along each.
        decision: patches: conv 4x4 stride 1 pad 0, one decision [N, 1, h, w] a patch; dense: conv 4x4 stride 2 pad 1,
            resized to the input's size, one decision a pixel [N, 1, H, W]; pooled: the mean of the features over the
            image, then linear, one decision an image [N, 1], for any size.
        batch_norm: behind each of the four convolutions but the first.
    """

    def __init__(self, *, in_channels: int, decision: Decision, axes: int = 2, batch_norm: bool = False) -> None:
        super().__init__()
        self.decision = decision
        self.min_side = 64 if decision == "patches" else 32  # a place for the last kernel; two for the batch norm
        conv, norms, layers = LAYERS[axes].conv, LAYERS[axes].batch_norm, list[nn.Module]()
        channels = (in_channels, 64, 128, 256, 512)
        for i, (inputs, outputs) in enumerate(itertools.pairwise(channels)):
            norm = [norms(outputs)] if batch_norm and i else []
            layers += [conv(inputs, outputs, 4, stride=2, padding=1), *norm, nn.LeakyReLU(0.2, inplace=True)]
        self.features = nn.Sequential(*layers)
        self.decide: nn.Module
        if decision == "pooled":
            self.decide = nn.Sequential(LAYERS[axes].average(1), nn.Flatten(), nn.Linear(512, 1))
        elif decision == "dense":
            self.decide = conv(512, 1, 4, stride=2, padding=1)
        else:
            self.decide = conv(512, 1, 4)

    def forward(self, *maps: Tensor) -> Tensor:
        """Maps [N, ., *X], stacked on the channels -> logits of "real" in float32."""
        x = torch.cat(maps, dim=1)
        inner = (slice(None), slice(None), *map(slice, x.shape[2:]))
        x = filled_up(x, self.min_side)  # maps that are too small to give a decision get a margin of zeros
        logits: Tensor = self.decide(self.features(x)).float()
        return resized(logits, x)[inner] if self.decision == "dense" else logits


def filled_up(maps: Tensor, side: int) -> Tensor:
    """Add zeros at the far ends of the axes that are shorter than `side`."""
    return F.pad(maps, [end for length in reversed(maps.shape[2:]) for end in (0, max(0, side - length))])


def bce(logits: Tensor, real: float) -> Tensor:
    """Binary cross-entropy of each decision with the target `real`, 1 or 0; not reduced."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, real), reduction="none")


def least_squares(logits: Tensor, real: float) -> Tensor:
    """(D - target)^2 of each decision (LSGAN, Mao et al. 2017); not reduced."""
    return (logits - real).square()


ADVERSARIAL: dict[str, Callable[[Tensor, float], Tensor]] = {"bce": bce, "least_squares": least_squares}


def one_hot_truth(label: Tensor, p: Tensor) -> Tensor:
    """The truth [N, K, *X] as a discriminator sees it; where it is ignored, the prediction p replaces it.

    Zeros there would tell truths from predictions at a glance, and no prediction could imitate them.
    """
    counted = label != IGNORE
    truth = F.one_hot(label.masked_fill(~counted, 0), p.shape[1]).movedim(-1, 1).to(p.dtype)
    return torch.where(counted[:, None], truth, p.detach())


def unmoved(network: nn.Module, *inputs: Tensor) -> Tensor:
    """The network's output in its current mode, without any effect on the network.

    Gradients flow to the inputs and none to the parameters. A batch norm in training mode uses the statistics of this
    batch, and its running statistics stay. The other phase of an adversarial method sees the network this way.
    """
    state = {name: value.detach() for name, value in network.named_parameters()}
    state |= {name: value.clone() for name, value in network.named_buffers()}
    output: Tensor = functional_call(network, state, inputs)
    return output
