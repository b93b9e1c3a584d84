"""The layers and functions of torch that depend on the number of an image's axes: two of a slice, three of a volume.

A network knows its number from its constructor's `axes`; of a tensor [N, C, *X] it is `ndim - 2`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Make = Callable[..., nn.Module]


class Layers(NamedTuple):
    """What torch has under another name for each number of axes."""

    conv: Make
    transposed: Make
    batch_norm: Make
    instance_norm: Make
    dropout: Make
    """Drops whole channels."""
    max_pool: Callable[[Tensor, int], Tensor]
    linear: str
    """The mode of `F.interpolate`."""
    channels_last: torch.memory_format


LAYERS = {
    2: Layers(
        nn.Conv2d,
        nn.ConvTranspose2d,
        nn.BatchNorm2d,
        nn.InstanceNorm2d,
        nn.Dropout2d,
        F.max_pool2d,
        "bilinear",
        torch.channels_last,
    ),
    3: Layers(
        nn.Conv3d,
        nn.ConvTranspose3d,
        nn.BatchNorm3d,
        nn.InstanceNorm3d,
        nn.Dropout3d,
        F.max_pool3d,
        "trilinear",
        torch.channels_last_3d,
    ),
}


def layers_for(x: Tensor) -> Layers:
    """The layers for images or maps [N, C, *X]."""
    return LAYERS[x.ndim - 2]


def interpolated(x: Tensor, size: Sequence[int], *, align_corners: bool = False) -> Tensor:
    """[N, C, *X] -> [N, C, *size], linearly along every axis."""
    return F.interpolate(x, size=list(size), mode=layers_for(x).linear, align_corners=align_corners)


def along_axes(values: Tensor, x: Tensor) -> Tensor:
    """Values [N] or [N, C] or [C, 1, ...] as a view that multiplies x [N, C, *X]: axes of length 1 are appended."""
    return values.reshape(*values.shape, *[1] * (x.ndim - values.ndim))
