"""Images with two and with three axes: what PyTorch names by their number.

Nothing else asks how many axes an image has: of a tensor [N, C, *X] it is `x.ndim - 2`.
"""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


class Layers(NamedTuple):
    """The layers of networks for images of one number of axes."""

    conv: type[nn.Conv2d] | type[nn.Conv3d]
    conv_transposed: type[nn.ConvTranspose2d] | type[nn.ConvTranspose3d]
    batch_norm: type[nn.BatchNorm2d] | type[nn.BatchNorm3d]
    instance_norm: type[nn.InstanceNorm2d] | type[nn.InstanceNorm3d]
    dropout: type[nn.Dropout2d] | type[nn.Dropout3d]
    """Of whole channels."""
    max_pool: type[nn.MaxPool2d] | type[nn.MaxPool3d]
    average_pool: type[nn.AdaptiveAvgPool2d] | type[nn.AdaptiveAvgPool3d]
    linear: str
    """What `F.interpolate` calls linear interpolation."""
    channels_last: torch.memory_format


LAYERS = {
    2: Layers(
        nn.Conv2d,
        nn.ConvTranspose2d,
        nn.BatchNorm2d,
        nn.InstanceNorm2d,
        nn.Dropout2d,
        nn.MaxPool2d,
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
        nn.MaxPool3d,
        nn.AdaptiveAvgPool3d,
        "trilinear",
        torch.channels_last_3d,
    ),
}
"""By the number of axes."""


def image_dims(maps: Tensor) -> tuple[int, ...]:
    """The dimensions of [N, C, *X] that are an image's axes, for sums and means over its pixels."""
    return tuple(range(2, maps.ndim))


def per_image(values: Tensor, maps: Tensor) -> Tensor:
    """One value for each image [N], shaped to compute with all values of [N, ...]."""
    return values.view(-1, *(1 for _ in maps.shape[1:]))


def interpolated(maps: Tensor, size: Sequence[int], *, align_corners: bool = False) -> Tensor:
    """[N, C, *X] linearly resized to `size`; as it is if it has that size."""
    if list(maps.shape[2:]) == list(size):
        return maps
    return F.interpolate(maps, size=list(size), mode=LAYERS[len(size)].linear, align_corners=align_corners)


def channels_last(images: Tensor) -> Tensor:
    """[N, C, *X] in the channels-last memory format, in which convolutions are fastest; a copy unless it has it."""
    return images.contiguous(memory_format=LAYERS[images.ndim - 2].channels_last)


def module_channels_last(module: Module) -> Module:
    """Bring the weights of all convolutions, whatever their axes, to channels-last format, in place."""

    def lay(tensor: Tensor) -> Tensor:
        return channels_last(tensor) if tensor.ndim - 2 in LAYERS else tensor

    module._apply(lay)  # type: ignore[no-untyped-call]
    return module
