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


class Conv3d(nn.Conv3d):
    """A convolution that computes maps which are shorter than its kernel along an axis in float32.

    oneDNN's bfloat16 weight gradient of such maps reads memory that nobody has written (torch 2.15, AVX-512): it
    differs from run to run, up to NaN. Patches of 32 pixels leave such maps at the coarsest of five scales.
    """

    def forward(self, image: Tensor) -> Tensor:
        if not _is_short(image, self.kernel_size):
            return super().forward(image)
        with torch.autocast("cpu", enabled=False):
            return super().forward(image.to(self.weight.dtype))


class ConvTranspose3d(nn.ConvTranspose3d):
    """Likewise."""

    def forward(self, image: Tensor, output_size: list[int] | None = None) -> Tensor:
        if not _is_short(image, self.kernel_size):
            return super().forward(image, output_size)
        with torch.autocast("cpu", enabled=False):
            return super().forward(image.to(self.weight.dtype), output_size)


def _is_short(image: Tensor, kernel: Sequence[int]) -> bool:
    """Whether maps on the CPU are shorter than a kernel along an axis; not asked of a graph, which is in float32."""
    if torch.compiler.is_exporting():
        return False
    return image.device.type == "cpu" and any(n < side for n, side in zip(image.shape[2:], kernel, strict=True))


def safe_convolutions(module: nn.Module) -> None:
    """Make the convolutions with three axes in a module of another library those of this one, in place."""
    for part in module.modules():
        for kind, safe in ((nn.Conv3d, Conv3d), (nn.ConvTranspose3d, ConvTranspose3d)):
            if type(part) is kind:
                part.__class__ = safe


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
        Conv3d,
        ConvTranspose3d,
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
    # An exported graph, which sees images of other sizes later, resizes in any case; to the same size changes nothing.
    if not torch.compiler.is_exporting() and list(maps.shape[2:]) == list(size):
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
