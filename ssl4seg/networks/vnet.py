"""The V-Net of the semi-supervised literature (Milletari et al. 2016, in the form of UA-MT): 9.4 M parameters."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from ssl4seg.axes import LAYERS
from ssl4seg.errors import UserError
from ssl4seg.keys import expect, number_in, one_of, whole
from ssl4seg.networks.base import Names, Network, fitted, renamed

CONVOLUTIONS = (1, 2, 3, 3, 3)
"""Convolutions of side 3 at each scale, finest first; the decoder has as many."""
GROUPS = 16
"""Groups of the normalisation by groups."""


class Parts(NamedTuple):
    """Builds the parts of a scale from layers: a convolution, a norm and a ReLU."""

    axes: int
    normalization: str
    upsampling: str

    def layer(self, convolution: nn.Module, channels: int) -> list[nn.Module]:
        layers = LAYERS[self.axes]
        norms: dict[str, Callable[[int], nn.Module]] = {
            "batch": layers.batch_norm,
            "instance": layers.instance_norm,
            "group": partial(nn.GroupNorm, GROUPS),
        }
        norm = [norms[self.normalization](channels)] if self.normalization in norms else []
        return [convolution, *norm, nn.ReLU(inplace=True)]

    def block(self, in_channels: int, channels: int, num: int) -> nn.Module:
        """`num` layers of side 3."""
        sizes = [in_channels, *[channels] * (num - 1)]
        convolutions = [LAYERS[self.axes].conv(size, channels, 3, padding=1) for size in sizes]
        return nn.Sequential(*(part for each in convolutions for part in self.layer(each, channels)))

    def down(self, channels: int) -> nn.Module:
        """From the next finer scale, which has half the channels."""
        return nn.Sequential(*self.layer(LAYERS[self.axes].conv(channels // 2, channels, 2, stride=2), channels))

    def up(self, channels: int) -> nn.Module:
        """From the next coarser scale, which has twice the channels."""
        layers = LAYERS[self.axes]
        if self.upsampling == "transposed":
            return nn.Sequential(*self.layer(layers.transposed(2 * channels, channels, 2, stride=2), channels))
        larger = nn.Upsample(scale_factor=2, mode=layers.linear if self.upsampling == "bilinear" else self.upsampling)
        return nn.Sequential(larger, *self.layer(layers.conv(2 * channels, channels, 3, padding=1), channels))


class Stage(nn.Module):
    """block(resample(x) + skip): the change of scale, the skip if there is one, and the scale's convolutions."""

    def __init__(self, resample: nn.Module, block: nn.Module) -> None:
        super().__init__()
        self.resample, self.block = resample, block

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        x = self.resample(x)
        found: Tensor = self.block(x if skip is None else x + skip)
        return found


class VNet(Network):
    """Five scales, each half the size of the one before; skips are added.

    Each layer is a convolution, a norm and a ReLU: 1, 2, 3, 3, 3 layers of side 3 down and 3, 3, 2, 1 up, with one of
    side 2 and stride 2 before each coarser scale, a transposed one after it, and a head of side 1. Dropout of whole
    channels stands behind the coarsest scale and before the head. 9,448,866 parameters for volumes and 1 -> 2, and
    37,778,126 for width=32 and 1 -> 14.

    An image whose sides are no multiples of 16 is resized first (see `fitted`); so is one whose sides are all 16, of
    which batch norm would see one value.

    Differs from Milletari et al., as UA-MT's code does:
    - No residual connections within a scale; kernels have side 3 and not 5; skips are added and not stacked.

    Args:
        width: channels of the finest scale; each coarser one has twice as many.
        normalization: batch (UA-MT, BCP on LA), instance without weights (BCP on Pancreas), group (16 groups), or none.
        dropout: probability of dropping a channel.
        upsampling: transposed (UA-MT), bilinear (trilinear in volumes) or nearest; the last two are followed by a
            convolution of side 3 (MC-Net).
    """

    encoder: nn.ModuleList
    decoder: nn.ModuleList
    upsamplings = ("transposed", "bilinear", "nearest")
    possible_axes = (2, 3)
    normalizations: ClassVar[tuple[str, ...]] = ("batch", "instance", "group", "none")

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        axes: int = 2,
        width: int = 16,
        normalization: str = "batch",
        dropout: float = 0.5,
        upsampling: str = "transposed",
    ) -> None:
        super().__init__(in_channels=in_channels, num_classes=num_classes, axes=axes)
        expect("network.width", width, whole(1))
        expect("network.normalization", normalization, one_of(*self.normalizations))
        expect("network.dropout", dropout, number_in("[0, 1)", "a probability"))
        expect("network.upsampling", upsampling, one_of(*self.upsamplings))
        if normalization == "group" and width % GROUPS:
            raise UserError(f"network.width={width}: expected a multiple of {GROUPS} with network.normalization=group")
        self.width, self.upsampling = width, upsampling
        parts = Parts(axes, normalization, upsampling)
        (finest, num), *coarser = scales = list(zip(self.feature_channels, CONVOLUTIONS, strict=True))
        self.encoder = nn.ModuleList([Stage(nn.Identity(), parts.block(in_channels, finest, num))])
        self.encoder.extend(Stage(parts.down(size), parts.block(size, size, num)) for size, num in coarser)
        self.decoder = nn.ModuleList(
            Stage(parts.up(size), parts.block(size, size, num)) for size, num in scales[-2::-1]
        )
        self.dropout = LAYERS[axes].dropout(dropout)
        self.head = nn.Sequential(LAYERS[axes].dropout(dropout), LAYERS[axes].conv(width, num_classes, 1))

    @property
    def feature_channels(self) -> tuple[int, ...]:
        return tuple(self.width * 2**i for i in range(len(CONVOLUTIONS)))

    def features(self, image: Tensor) -> list[Tensor]:
        features: list[Tensor] = []
        x = fitted(image, 16, places=2)
        for stage in self.encoder:
            x = stage(x)
            features.append(x)
        return [*features[:-1], self.dropout(x)]

    @property
    def pyramid_channels(self) -> tuple[int, ...]:
        return self.feature_channels[:-1]

    def pyramid(self, features: list[Tensor]) -> list[Tensor]:
        maps = [features[-1]]
        for stage, skip in zip(self.decoder, features[-2::-1], strict=True):
            maps.insert(0, stage(maps[0], skip))
        return maps[:-1]

    @staticmethod
    def rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state dict of the public scripts (UA-MT, SSL4MIS, DTC without its second head, BCP on LA and on Pancreas)
        under our names; one of ours stays as it is. BCP's heads of contrastive learning are left out."""
        return renamed({key: value for key, value in state.items() if not key.startswith(CONTRASTIVE)}, _PUBLIC)


CONTRASTIVE = ("projection_head.", "prediction_head.", "contrastive_class_selector_")
ORDER = {name: i for i, name in enumerate(["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])}
_PART = r"(?:encoder\.|decoder\.)?"
_PUBLIC: Names = (
    (rf"{_PART}block_(one|two|three|four|five)\.conv\.", lambda m: f"encoder.{ORDER[m[1]]}.block."),
    (rf"{_PART}block_(one|two|three|four)_dw\.conv\.", lambda m: f"encoder.{ORDER[m[1]] + 1}.resample."),
    (rf"{_PART}block_(five|six|seven|eight)_up\.conv\.", lambda m: f"decoder.{ORDER[m[1]] - 4}.resample."),
    (rf"{_PART}block_(six|seven|eight|nine)\.conv\.", lambda m: f"decoder.{ORDER[m[1]] - 5}.block."),
    (rf"{_PART}out_conv\.", "head.1."),
    (r"branchs\.0\.0\.conv\.", "decoder.3.block."),
    (r"branchs\.0\.[12]\.", "head.1."),
)
