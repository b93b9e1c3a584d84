"""The network contract: encode an image to features, decode them to a pyramid of maps, and a head to logits."""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ssl4seg.axes import interpolated
from ssl4seg.errors import UserError
from ssl4seg.keys import expect, whole

FOR_VOLUMES = ("unet", "vnet", "dynunet", "segresnet", "swin_unetr", "unetr")
"""The choices `network=` whose images may have three axes, for messages."""

Names = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]
"""Patterns of the beginnings of keys, and what replaces them."""


class Network(nn.Module, ABC):
    """A segmentation network in parts, so that methods can perturb features, add decoders, and add heads to maps.

    `features` uses `encoder` alone, `pyramid` uses `decoder` alone. Images and maps are [N, C, *X], where X are the two
    axes of a slice or the three of a volume.

    Args:
        in_channels: C of the images.
        num_classes: K of the logits, background included.
        axes: number of the images' axes, one of `possible_axes`.
    """

    encoder: nn.Module
    decoder: nn.Module
    head: nn.Module
    """Maps the finest decoder map to logits."""
    upsamplings: ClassVar[tuple[str, ...]] = ()
    """Values of the constructor's key `upsampling`; empty if it has no such key."""
    possible_axes: ClassVar[tuple[int, ...]] = (2,)
    """Numbers of axes that images may have. A network with more than one has the constructor's argument `axes`."""
    free_sizes: ClassVar[bool] = True
    """Whether torch.export is asked for a graph of images of any size; not where its solver works for minutes."""

    def __init__(self, *, in_channels: int, num_classes: int, axes: int = 2) -> None:
        super().__init__()
        expect("network.in_channels", in_channels, whole(1))
        expect("network.num_classes", num_classes, whole(2))
        axes_argument(type(self), axes)
        self.in_channels, self.num_classes, self.axes = in_channels, num_classes, axes
        self.mean: Tensor | None
        self.std: Tensor | None
        self.register_buffer("mean", None)
        self.register_buffer("std", None)

    def standardize(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Let `encode` begin with (image - mean) / std, one number a channel; the state holds both."""
        self.mean, self.std = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))

    @property
    def encoder_layers(self) -> list[nn.Module]:
        """The encoder's layers with weights, from input to output; a learning rate may decay along them."""
        return weighted_layers(self.encoder)

    @property
    @abstractmethod
    def feature_channels(self) -> tuple[int, ...]:
        """Channels of each feature map that `features` returns, finest first."""

    def encode(self, image: Tensor) -> list[Tensor]:
        """[N, C, *X] -> feature maps, finest first."""
        if self.mean is not None and self.std is not None:
            mean, std = (values.view(-1, *[1] * (image.ndim - 2)) for values in (self.mean, self.std))
            image = (image - mean) / std
        return self.features(image)

    @abstractmethod
    def features(self, image: Tensor) -> list[Tensor]:
        """`encode` of an image that is already standardised."""

    @property
    @abstractmethod
    def pyramid_channels(self) -> tuple[int, ...]:
        """Channels of each decoder map that `pyramid` returns, finest first."""

    @abstractmethod
    def pyramid(self, features: list[Tensor]) -> list[Tensor]:
        """Feature maps -> decoder maps, finest first; at least one."""

    def decode(self, features: list[Tensor]) -> Tensor:
        """Feature maps -> logits [N, K, *x] at the network's own output resolution."""
        logits: Tensor = self.head(self.pyramid(features)[0])
        return logits

    def forward(self, image: Tensor) -> Tensor:
        """[N, C, *X] -> logits [N, K, *X] float32 at the input's size."""
        return resized(self.decode(self.encode(image)), image)


def axes_argument(kind: Any, axes: int, key: str = "network") -> dict[str, int]:
    """The argument `axes` for the constructor of a kind of network; none for one that knows slices alone.

    Args:
        key: the key that chose the kind, for the message.

    Raises:
        UserError: the kind does not know this number of axes.
    """
    possible: tuple[int, ...] = getattr(kind, "possible_axes", (2,))
    if axes not in possible:
        known = " or ".join(map(str, possible))
        raise UserError(
            f"{key}: {kind.__name__} takes images of {known} axes, but dataset.image_size has {axes}; the "
            f"networks for volumes are {', '.join(FOR_VOLUMES)}; slices have one number (dataset.image_size=256)"
        )
    return {} if possible == (2,) else {"axes": axes}


def weighted_layers(module: nn.Module) -> list[nn.Module]:
    """The children with weights; an only child, a list, or a sequence of sequences is replaced by its own children."""
    children = [child for child in module.children() if any(True for _ in child.parameters())]
    layers: list[nn.Module] = []
    for child in children:
        stages = isinstance(child, nn.Sequential) and all(isinstance(stage, nn.Sequential) for stage in child)
        inner = weighted_layers(child) if len(children) == 1 or stages or isinstance(child, nn.ModuleList) else []
        layers += inner or [child]
    return layers


def fitted(image: Tensor, stride: int | Sequence[int], least: int = 1, places: int = 1) -> Tensor:
    """The image, linearly resized where a side is no multiple of `stride`: to the next multiple, at least `least`
    strides.

    One pixel too many counts as none: the literature's crops of 321, 513 and 801 pixels lose it.

    Args:
        stride: of all axes, or one of each.
        places: number of strides that the whole image must have, on all axes together: two for a norm of each image's
            own values. Every side of a smaller image is doubled.
    """
    sides = image.shape[2:]
    strides = [stride] * len(sides) if isinstance(stride, int) else stride
    # Rounded up without numbers below 0, which the division of ONNX would round towards 0.
    size = [by * max(least, (side - (by > 1) + by - 1) // by) for side, by in zip(sides, strides, strict=True)]
    if math.prod(size) < places * math.prod(strides):
        size = [2 * side for side in size]
    return interpolated(image, size)


def resized(logits: Tensor, image: Tensor) -> Tensor:
    """Logits in float32, linearly resized to the size of the image."""
    return interpolated(logits.float(), image.shape[2:])


def renamed(state: Mapping[str, Tensor], names: Names) -> dict[str, Tensor]:
    """Rename each key of a state dict by the first pattern that its beginning matches."""

    def ours(key: str) -> str:
        return next((re.sub(pattern, name, key, count=1) for pattern, name in names if re.match(pattern, key)), key)

    return {ours(key): value for key, value in state.items()}
