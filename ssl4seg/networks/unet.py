"""The U-Net of the ACDC literature (Ronneberger et al. 2015, in the form of PyMIC and SSL4MIS): 1.8 M parameters."""

import itertools
import re
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl4seg.errors import UserError
from ssl4seg.keys import expect, list_of, number_in, one_of, whole
from ssl4seg.networks.base import Network, fitted
from ssl4seg.networks.dropout import Dropout


class ConvBlock(nn.Sequential):
    """Two times conv 3x3, batch norm, LeakyReLU; dropout between them."""

    def __init__(self, in_channels: int, out_channels: int, dropout: float = 0.0) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.LeakyReLU(inplace=True),
            Dropout(dropout),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.LeakyReLU(inplace=True),
        )


def concatenate(a: Tensor, b: Tensor) -> Tensor:
    """Stack maps on the channels; NHWC maps stay NHWC, and `torch.cat` then copies longer runs on the CPU."""
    if a.is_contiguous(memory_format=torch.channels_last) and b.is_contiguous(memory_format=torch.channels_last):
        return torch.cat([a.permute(0, 2, 3, 1), b.permute(0, 2, 3, 1)], dim=3).permute(0, 3, 1, 2)
    return torch.cat([a, b], dim=1)


class UpBlock(nn.Module):
    """1x1 conv to the skip's channels and interpolation to its size (or a transposed conv 2x2), concatenation (skip
    first), ConvBlock."""

    def __init__(self, in_channels: int, skip_channels: int, upsampling: str) -> None:
        super().__init__()
        self.upsampling = upsampling
        transposed = upsampling == "transposed"
        self.project: nn.Module = (
            nn.ConvTranspose2d(in_channels, skip_channels, 2, stride=2)
            if transposed
            else nn.Conv2d(in_channels, skip_channels, 1)
        )
        self.block = ConvBlock(2 * skip_channels, skip_channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        up, size = self.project(x), skip.shape[-2:]
        if self.upsampling == "bilinear":
            up = F.interpolate(up, size=size, mode="bilinear", align_corners=True)
        elif up.shape[-2:] != size:  # a transposed conv falls one short of an odd size
            up = F.interpolate(up, size=size, mode="nearest")
        merged: Tensor = self.block(concatenate(skip, up))
        return merged


class UNet(Network):
    """Five scales, each half the size of the one before.

    Images may have any size. An image with a side below 16 pixels is resized first (see `fitted`), because nothing
    would be left at the coarsest scale.

    Args:
        channels: channels of each scale; the recipe has 16, 32, 64, 128, 256: 1,813,764 parameters for 1 -> 4.
        dropout: dropout probability of each scale of the encoder.
        upsampling: in the decoder: bilinear (the recipe), nearest or transposed.
    """

    encoder: nn.ModuleList
    decoder: nn.ModuleList
    upsamplings = ("bilinear", "transposed", "nearest")

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        channels: Sequence[int] = (16, 32, 64, 128, 256),
        dropout: Sequence[float] = (0.05, 0.1, 0.2, 0.3, 0.5),
        upsampling: str = "bilinear",
    ) -> None:
        super().__init__(in_channels=in_channels, num_classes=num_classes)
        expect("network.channels", channels, list_of(whole(1), 2))
        expect("network.dropout", dropout, list_of(number_in("[0, 1)", "a probability")))
        expect("network.upsampling", upsampling, one_of(*self.upsamplings))
        if len(channels) != len(dropout):
            raise UserError(
                f"network.channels={list(channels)} and network.dropout={list(dropout)}: expected one of each a scale"
            )
        self._channels = tuple(channels)
        inputs = (in_channels, *channels[:-1])
        self.encoder = nn.ModuleList(ConvBlock(*sizes) for sizes in zip(inputs, channels, dropout, strict=True))
        steps = itertools.pairwise(self._channels[::-1])
        self.decoder = nn.ModuleList(UpBlock(coarse, fine, upsampling) for coarse, fine in steps)
        self.head = nn.Conv2d(self._channels[0], num_classes, 3, padding=1)

    @property
    def feature_channels(self) -> tuple[int, ...]:
        return self._channels

    def features(self, image: Tensor) -> list[Tensor]:
        features: list[Tensor] = []
        least = 2 ** (len(self.encoder) - 1)
        x = fitted(image, least) if min(image.shape[-2:]) < least else image
        for block in self.encoder:
            x = block(F.max_pool2d(x, 2) if features else x)
            features.append(x)
        return features

    @property
    def pyramid_channels(self) -> tuple[int, ...]:
        return self._channels[:-1]

    def pyramid(self, features: list[Tensor]) -> list[Tensor]:
        maps = [features[-1]]
        for up, skip in zip(self.decoder, features[-2::-1], strict=True):
            maps.insert(0, up(maps[0], skip))
        return maps[:-1]

    @staticmethod
    def rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state dict of the public 2-D ACDC scripts (SSL4MIS, BCP, UniMatch) under our names; ours stays as it is."""
        return {_ours(name): value for name, value in state.items()}


def _ours(name: str) -> str:
    for pattern, ours in _PUBLIC:
        if match := re.fullmatch(pattern, name):
            return ours(match)
    return name


_PUBLIC: tuple[tuple[str, Callable[[re.Match[str]], str]], ...] = (
    (r"encoder\.in_conv\.conv_conv\.(.+)", lambda m: f"encoder.0.{m[1]}"),
    (r"encoder\.down(\d)\.maxpool_conv\.1\.conv_conv\.(.+)", lambda m: f"encoder.{m[1]}.{m[2]}"),
    (r"decoder\.up(\d)\.conv1x1\.(.+)", lambda m: f"decoder.{int(m[1]) - 1}.project.{m[2]}"),
    (r"decoder\.up(\d)\.conv\.conv_conv\.(.+)", lambda m: f"decoder.{int(m[1]) - 1}.block.{m[2]}"),
    (r"decoder\.out_conv\.(.+)", lambda m: f"head.{m[1]}"),
)
