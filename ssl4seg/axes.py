"""Images with two and with three axes: what PyTorch names by their number.

Nothing else asks how many axes an image has: of a tensor [N, C, *X] it is `x.ndim - 2`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Make = Callable[..., nn.Module]
Module = TypeVar("Module", bound=nn.Module)


class Layers(NamedTuple):
    """What PyTorch has under another name for each number of axes."""

    conv: Make
    transposed: Make
    batch_norm: Make
    instance_norm: Make
    dropout: Make
    """Drops whole channels."""
    max_pool: Callable[..., Tensor]
    average: Make
    """Means over areas, as many as asked for."""
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
        nn.AdaptiveAvgPool2d,
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
        nn.AdaptiveAvgPool3d,
        "trilinear",
        torch.channels_last_3d,
    ),
}
"""By the number of axes."""


def layers_for(maps: Tensor) -> Layers:
    """The layers for images or maps [N, C, *X]."""
    return LAYERS[maps.ndim - 2]


def image_dims(maps: Tensor) -> tuple[int, ...]:
    """The dimensions of [N, C, *X] that are an image's axes, for sums and means over its pixels."""
    return tuple(range(2, maps.ndim))


def along_axes(values: Tensor, maps: Tensor) -> Tensor:
    """Values [N] or [N, C] as a view that multiplies maps [N, C, *X]: axes of length 1 are appended."""
    return values.reshape(*values.shape, *(1 for _ in maps.shape[values.ndim :]))


def interpolated(maps: Tensor, size: Sequence[int], *, align_corners: bool = False) -> Tensor:
    """[N, C, *X] linearly resized to `size`; as it is if it has that size."""
    if list(maps.shape[2:]) == list(size):
        return maps
    return F.interpolate(maps, size=list(size), mode=layers_for(maps).linear, align_corners=align_corners)


def channels_last(images: Tensor) -> Tensor:
    """[N, C, *X] in the channels-last memory format, in which convolutions are fastest; a copy unless it has it."""
    return images.contiguous(memory_format=layers_for(images).channels_last)


def module_channels_last(module: Module) -> Module:
    """Bring the weights of all convolutions, whatever their axes, to channels-last format, in place."""

    def lay(tensor: Tensor) -> Tensor:
        if tensor.ndim - 2 not in LAYERS:
            return tensor
        # `contiguous` would leave the strides of a single channel as they are, and another kernel would be chosen.
        return tensor.to(memory_format=layers_for(tensor).channels_last)

    module._apply(lay)  # type: ignore[no-untyped-call]
    return module
