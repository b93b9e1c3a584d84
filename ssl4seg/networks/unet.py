"""The U-Nets of the literature (Ronneberger et al. 2015, Çiçek et al. 2016), in the forms of PyMIC and SSL4MIS: with
1.8 M parameters for the slices of ACDC, with 5.9 M for volumes."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl4seg.axes import LAYERS, interpolated, layers_for
from ssl4seg.errors import UserError
from ssl4seg.keys import expect, list_of, number_in, one_of, whole
from ssl4seg.networks.base import Names, Network, fitted, renamed
from ssl4seg.networks.dropout import Dropout


class Form(NamedTuple):
    """The choices of the literature's U-Net that differ between slices and volumes."""

    norm: Callable[[int], nn.Module]
    activation: Callable[..., nn.Module]
    dropout: tuple[float, ...]
    """Of each scale of the encoder."""
    dropout_at: int
    """Place of the dropout among the layers of the encoder's blocks."""
    dropout_last: bool
    """Whether the coarsest scale's dropout stands before the head too."""
    project: bool
    """Whether a coarse map gets the skip's channels before they are stacked."""
    align_corners: bool
    head: int
    """Side of the head's kernel."""
    kaiming: bool
    """Whether convolutions are drawn from N(0, 2 / inputs of a unit), and not as PyTorch draws them."""
    places: int
    """Places that the norm needs at the coarsest scale."""


FORMS = {
    2: Form(
        norm=nn.BatchNorm2d,
        activation=nn.LeakyReLU,
        dropout=(0.05, 0.1, 0.2, 0.3, 0.5),
        dropout_at=3,
        dropout_last=False,
        project=True,
        align_corners=True,
        head=3,
        kaiming=False,
        places=1,
    ),
    3: Form(
        norm=nn.InstanceNorm3d,
        activation=nn.ReLU,
        dropout=(0.0, 0.0, 0.0, 0.0, 0.3),
        dropout_at=6,
        dropout_last=True,
        project=False,
        align_corners=False,
        head=1,
        kaiming=True,
        places=2,
    ),
}


class ConvBlock(nn.Sequential):
    """Two times a convolution of side 3, norm and activation; dropout between them (slices) or after them (volumes)."""

    def __init__(self, axes: int, in_channels: int, out_channels: int, dropout: float = 0.0) -> None:
        conv, form = LAYERS[axes].conv, FORMS[axes]
        layers = [
            layer
            for inputs in (in_channels, out_channels)
            for layer in (
                conv(inputs, out_channels, 3, padding=1),
                form.norm(out_channels),
                form.activation(inplace=True),
            )
        ]
        layers.insert(form.dropout_at, Dropout(dropout))
        super().__init__(*layers)


def concatenate(a: Tensor, b: Tensor) -> Tensor:
    """Stack maps on the channels; maps with their channels last stay so, and `torch.cat` then copies longer runs on the
    CPU."""
    last = layers_for(a).channels_last
    if a.is_contiguous(memory_format=last) and b.is_contiguous(memory_format=last):
        return torch.cat([a.movedim(1, -1), b.movedim(1, -1)], dim=-1).movedim(-1, 1)
    return torch.cat([a, b], dim=1)


class UpBlock(nn.Module):
    """Interpolation to the skip's size (or a transposed conv of side 2), concatenation (skip first), ConvBlock. Slices
    first get the skip's channels by a conv 1x1, or by the transposed one."""

    def __init__(self, axes: int, in_channels: int, skip_channels: int, upsampling: str) -> None:
        super().__init__()
        self.upsampling, self.align_corners = upsampling, FORMS[axes].align_corners
        layers, project = LAYERS[axes], FORMS[axes].project
        channels = skip_channels if project else in_channels
        self.project: nn.Module = nn.Identity()
        if upsampling == "transposed":
            self.project = layers.transposed(in_channels, channels, 2, stride=2)
        elif project:
            self.project = layers.conv(in_channels, channels, 1)
        self.block = ConvBlock(axes, channels + skip_channels, skip_channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        up, size = self.project(x), skip.shape[2:]
        if self.upsampling == "bilinear":
            up = interpolated(up, size, align_corners=self.align_corners)
        elif up.shape[2:] != size:  # a transposed conv falls one short of an odd size
            up = F.interpolate(up, size=size, mode="nearest")
        merged: Tensor = self.block(concatenate(skip, up))
        return merged


class UNet(Network):
    """Five scales, each half the size of the one before.

    Slices have batch norm, LeakyReLU, a conv 1x1 before each interpolation, whose corners are aligned, and a head 3x3.
    Volumes have SSL4MIS's 3-D form: instance norm without weights, ReLU, interpolation without a convolution, a head
    1x1 with dropout before it, and convolutions that start from N(0, 2 / inputs of a unit). See `FORMS`.

    Images may have any size. An image with a side below 16 pixels is resized first (see `fitted`), because nothing
    would be left at the coarsest scale; so is a volume whose sides are all below 32, for its norm needs two places.

    Args:
        channels: channels of each scale. The recipes have 16, 32, 64, 128, 256: 1,813,764 parameters for slices and
            1 -> 4, 5,884,050 for volumes and 1 -> 2.
        dropout: dropout probability of each scale of the encoder; None is the recipe's: 0.05, 0.1, 0.2, 0.3, 0.5 for
            slices, and 0, 0, 0, 0, 0.3 for volumes, whose last value also holds before the head.
        upsampling: in the decoder: bilinear (the recipe; trilinear in volumes), nearest or transposed.
    """

    encoder: nn.ModuleList
    decoder: nn.ModuleList
    upsamplings = ("bilinear", "transposed", "nearest")
    possible_axes = (2, 3)

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        axes: int = 2,
        channels: Sequence[int] = (16, 32, 64, 128, 256),
        dropout: Sequence[float] | None = None,
        upsampling: str = "bilinear",
    ) -> None:
        super().__init__(in_channels=in_channels, num_classes=num_classes, axes=axes)
        form = FORMS[axes]
        dropout = form.dropout if dropout is None else dropout
        expect("network.channels", channels, list_of(whole(1), 2))
        expect("network.dropout", dropout, list_of(number_in("[0, 1)", "a probability")))
        expect("network.upsampling", upsampling, one_of(*self.upsamplings))
        if len(channels) != len(dropout):
            raise UserError(
                f"network.channels={list(channels)} and network.dropout={list(dropout)}: expected one of each a scale"
            )
        self._channels = tuple(channels)
        inputs = (in_channels, *channels[:-1])
        self.encoder = nn.ModuleList(ConvBlock(axes, *sizes) for sizes in zip(inputs, channels, dropout, strict=True))
        steps = itertools.pairwise(self._channels[::-1])
        self.decoder = nn.ModuleList(UpBlock(axes, coarse, fine, upsampling) for coarse, fine in steps)
        self.head = LAYERS[axes].conv(self._channels[0], num_classes, form.head, padding=form.head // 2)
        if form.dropout_last:
            self.head = nn.Sequential(Dropout(dropout[-1]), self.head)
        if form.kaiming:
            self.apply(draw_convolution)

    @property
    def feature_channels(self) -> tuple[int, ...]:
        return self._channels

    def features(self, image: Tensor) -> list[Tensor]:
        features: list[Tensor] = []
        least, places = 2 ** (len(self.encoder) - 1), FORMS[self.axes].places
        coarsest = [side // least for side in image.shape[2:]]
        x = image if math.prod(coarsest) >= places else fitted(image, least, places=places)
        max_pool = LAYERS[self.axes].max_pool
        for block in self.encoder:
            x = block(max_pool(x, 2) if features else x)
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
        """A state dict of the public scripts under our names; one of ours stays as it is.

        Of slices: the U-Net of the ACDC scripts (SSL4MIS, BCP, UniMatch); of volumes: SSL4MIS's `unet_3D`.
        """
        return renamed(state, _PUBLIC)


def draw_convolution(part: nn.Module) -> None:
    """Draw the weights of a convolution of volumes from N(0, 2 / inputs of a unit)."""
    if isinstance(part, nn.Conv3d):
        nn.init.kaiming_normal_(part.weight)


_PUBLIC: Names = (
    (r"encoder\.in_conv\.conv_conv\.", "encoder.0."),
    (r"encoder\.down(\d)\.maxpool_conv\.1\.conv_conv\.", r"encoder.\1."),
    (r"decoder\.up(\d)\.conv1x1\.", lambda m: f"decoder.{int(m[1]) - 1}.project."),
    (r"decoder\.up(\d)\.conv\.conv_conv\.", lambda m: f"decoder.{int(m[1]) - 1}.block."),
    (r"decoder\.out_conv\.", "head."),
    (r"conv(\d)\.conv(\d)\.0\.", lambda m: f"encoder.{int(m[1]) - 1}.{3 * int(m[2]) - 3}."),
    (r"center\.conv(\d)\.0\.", lambda m: f"encoder.4.{3 * int(m[1]) - 3}."),
    (r"up_concat(\d)\.conv\.conv(\d)\.0\.", lambda m: f"decoder.{4 - int(m[1])}.block.{3 * int(m[2]) - 3}."),
    (r"final\.", "head.1."),
)
