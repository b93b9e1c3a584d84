"""The network contract: encode an image to features, decode them to a pyramid of maps, and a head to logits."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from ssl4seg.axes import interpolated
from ssl4seg.keys import expect, whole


class Network(nn.Module, ABC):
    """A segmentation network in parts, so that methods can perturb features, add decoders, and add heads to maps.

    `features` uses `encoder` alone, `pyramid` uses `decoder` alone.

    Args:
        in_channels: C of the images.
        num_classes: K of the logits, background included.
    """

    encoder: nn.Module
    decoder: nn.Module
    head: nn.Module
    """Maps the finest decoder map to logits."""
    axes: int = 2
    """Axes of the images: 2, or 3 of volumes."""
    upsamplings: ClassVar[tuple[str, ...]] = ()
    """Values of the constructor's key `upsampling`; empty if it has no such key."""

    def __init__(self, *, in_channels: int, num_classes: int) -> None:
        super().__init__()
        expect("network.in_channels", in_channels, whole(1))
        expect("network.num_classes", num_classes, whole(2))
        self.in_channels, self.num_classes = in_channels, num_classes
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
        """[N, C, H, W] -> feature maps, finest first."""
        if self.mean is not None and self.std is not None:
            image = (image - self.mean) / self.std
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
        """Feature maps -> logits [N, K, h, w] at the network's own output resolution."""
        logits: Tensor = self.head(self.pyramid(features)[0])
        return logits

    def forward(self, image: Tensor) -> Tensor:
        """[N, C, H, W] -> logits [N, K, H, W] float32 at the input's size."""
        return resized(self.decode(self.encode(image)), image)


def weighted_layers(module: nn.Module) -> list[nn.Module]:
    """The children with weights; an only child, a list, or a sequence of sequences is replaced by its own children."""
    children = [child for child in module.children() if any(True for _ in child.parameters())]
    layers: list[nn.Module] = []
    for child in children:
        stages = isinstance(child, nn.Sequential) and all(isinstance(stage, nn.Sequential) for stage in child)
        inner = weighted_layers(child) if len(children) == 1 or stages or isinstance(child, nn.ModuleList) else []
        layers += inner or [child]
    return layers


def fitted(image: Tensor, stride: int, least: int = 1) -> Tensor:
    """The image, bilinearly resized where a side is no multiple of `stride`: to the next multiple, at least `least`
    strides.

    One pixel too many counts as none: the literature's crops of 321, 513 and 801 pixels lose it.
    """
    return interpolated(image, [stride * max(least, -(-(side - 1) // stride)) for side in image.shape[2:]])


def resized(logits: Tensor, image: Tensor) -> Tensor:
    """Logits in float32, bilinearly resized to the size of the image."""
    return interpolated(logits.float(), image.shape[2:])
