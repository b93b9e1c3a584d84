"""The channels-last memory format of images with two and with three axes, in which convolutions are fastest."""

from typing import TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)
FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}
"""By the number of dimensions of the tensor, batch and channels included."""


def channels_last(images: Tensor) -> Tensor:
    """[N, C, H, W] or [N, C, X, Y, Z] in channels-last format; a copy unless it has that format."""
    return images.contiguous(memory_format=FORMATS[images.ndim])


def module_channels_last(module: Module) -> Module:
    """Bring the weights of all convolutions, whatever their axes, to channels-last format, in place."""

    def lay(tensor: Tensor) -> Tensor:
        return channels_last(tensor) if tensor.ndim in FORMATS else tensor

    return module._apply(lay)
