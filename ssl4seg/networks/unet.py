"""The U-Net of the ACDC literature (Ronneberger et al. 2015, in the form of PyMIC and SSL4MIS): 1.8 M parameters."""

import itertools
import re
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl4seg.errors import UserError
from ssl4seg.networks.base import Network
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
    """Along the channels; as NHWC where it is stored so, which `torch.cat` copies in longer runs on the CPU."""
    if a.is_contiguous(memory_format=torch.channels_last) and b.is_contiguous(memory_format=torch.channels_last):
        return torch.cat([a.permute(0, 2, 3, 1), b.permute(0, 2, 3, 1)], dim=3).permute(0, 3, 1, 2)
    return torch.cat([a, b], dim=1)


class UpBlock(nn.Module):
    """1x1 conv to the skip's channels, bilinear up to its size, concatenation (skip first), ConvBlock."""

    def __init__(self, in_channels: int, skip_channels: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(in_channels, skip_channels, 1)
        self.block = ConvBlock(2 * skip_channels, skip_channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        up = F.interpolate(self.project(x), size=skip.shape[-2:], mode="bilinear", align_corners=True)
        merged: Tensor = self.block(concatenate(skip, up))
        return merged


class Decoder(nn.Module):
    """From the coarsest feature map up to logits at the finest one's size."""

    def __init__(self, channels: Sequence[int], num_classes: int) -> None:
        super().__init__()
        coarse_first = channels[::-1]
        self.up = nn.ModuleList(UpBlock(c, s) for c, s in itertools.pairwise(coarse_first))
        self.head = nn.Conv2d(channels[0], num_classes, 3, padding=1)

    def forward(self, features: list[Tensor]) -> Tensor:
        x = features[-1]
        for up, skip in zip(self.up, features[-2::-1], strict=True):
            x = up(x, skip)
        logits: Tensor = self.head(x)
        return logits


class UNet(Network):
    """Five scales, each half the size of the one before.

    Args:
        channels: channels of each scale; the recipe has 16, 32, 64, 128, 256: 1,813,764 parameters for 1 -> 4.
        dropout: dropout probability of each scale of the encoder.
    """

    encoder: nn.ModuleList

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        channels: Sequence[int] = (16, 32, 64, 128, 256),
        dropout: Sequence[float] = (0.05, 0.1, 0.2, 0.3, 0.5),
    ) -> None:
        super().__init__(in_channels=in_channels, num_classes=num_classes)
        if len(channels) != len(dropout) or len(channels) < 2 or min(channels) < 1:
            raise UserError(
                f"network.channels={list(channels)} and network.dropout={list(dropout)}: "
                "expected one positive number of channels and one dropout for each of at least 2 scales"
            )
        if not all(0 <= p < 1 for p in dropout):
            raise UserError(f"network.dropout={list(dropout)}: expected probabilities in [0, 1)")
        self._channels = tuple(channels)
        inputs = (in_channels, *channels[:-1])
        self.encoder = nn.ModuleList(ConvBlock(*sizes) for sizes in zip(inputs, channels, dropout, strict=True))
        self.decoder = Decoder(self._channels, num_classes)

    @property
    def feature_channels(self) -> tuple[int, ...]:
        return self._channels

    def encode(self, image: Tensor) -> list[Tensor]:
        features: list[Tensor] = []
        x = image
        for block in self.encoder:
            x = block(F.max_pool2d(x, 2) if features else x)
            features.append(x)
        return features

    def decode(self, features: list[Tensor]) -> Tensor:
        logits: Tensor = self.decoder(features)
        return logits

    @staticmethod
    def rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state dict of the public 2-D ACDC scripts (SSL4MIS, BCP, UniMatch) under our names; ours as it is."""
        return {_ours(name): value for name, value in state.items()}


def _ours(name: str) -> str:
    for pattern, ours in _PUBLIC:
        if match := re.fullmatch(pattern, name):
            return ours(match)
    return name


_PUBLIC: tuple[tuple[str, Callable[[re.Match[str]], str]], ...] = (
    (r"encoder\.in_conv\.conv_conv\.(.+)", lambda m: f"encoder.0.{m[1]}"),
    (r"encoder\.down(\d)\.maxpool_conv\.1\.conv_conv\.(.+)", lambda m: f"encoder.{m[1]}.{m[2]}"),
    (r"decoder\.up(\d)\.conv1x1\.(.+)", lambda m: f"decoder.up.{int(m[1]) - 1}.project.{m[2]}"),
    (r"decoder\.up(\d)\.conv\.conv_conv\.(.+)", lambda m: f"decoder.up.{int(m[1]) - 1}.block.{m[2]}"),
    (r"decoder\.out_conv\.(.+)", lambda m: f"decoder.head.{m[1]}"),
)
