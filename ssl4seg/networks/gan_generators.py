"""The generators of image-to-image GANs as segmentation networks: a strided encoder, a transposed decoder, no skips.

An image with a side below 32 pixels or no multiple of 16 is resized first (see `fitted`), and the logits are resized
back to the image's size.
"""

import itertools
from collections.abc import Callable
from typing import ClassVar

from torch import Tensor, nn

from ssl4seg.keys import expect, whole
from ssl4seg.networks.base import Network, fitted


class Generator(Network):
    """A network whose encoder gives a feature map for each block, and whose decoder gives a pyramid map for each block.

    Args:
        width: channels of the first block, w; each next block has twice as many.
    """

    encoder: nn.ModuleList
    decoder: nn.ModuleList
    num_scales: ClassVar[int]

    def __init__(self, *, in_channels: int, num_classes: int, width: int) -> None:
        super().__init__(in_channels=in_channels, num_classes=num_classes)
        expect("network.width", width, whole(1))
        self.width = width

    @property
    def feature_channels(self) -> tuple[int, ...]:
        return tuple(self.width * 2**i for i in range(self.num_scales))

    @property
    def pyramid_channels(self) -> tuple[int, ...]:
        return self.feature_channels[:-1]

    def features(self, image: Tensor) -> list[Tensor]:
        # Two places at 1/16 give batch norm its statistics, even of one image.
        return _through(self.encoder, fitted(image, 16, least=2))

    def pyramid(self, features: list[Tensor]) -> list[Tensor]:
        return _through(self.decoder, features[-1])[::-1]


def _through(blocks: nn.ModuleList, x: Tensor) -> list[Tensor]:
    maps = []
    for block in blocks:
        x = block(x)
        maps.append(x)
    return maps


def _block(layer: nn.Module, channels: int, activation: Callable[[], nn.Module]) -> nn.Module:
    return nn.Sequential(layer, nn.BatchNorm2d(channels), activation())


def _leaky() -> nn.Module:
    return nn.LeakyReLU(0.2, inplace=True)


def _relu() -> nn.Module:
    return nn.ReLU(inplace=True)


class GANGeneratorDeconv(Generator):
    """conv 4x4 stride 2 pad 1 to w = 64, 128, 256, 512 channels, LeakyReLU 0.2, batch norm but after the first;
    transposed conv 4x4 stride 2 pad 1 to 256, 128, 64 channels, batch norm, ReLU; one more to K logits at full
    resolution."""

    num_scales = 4

    def __init__(self, *, in_channels: int, num_classes: int, width: int = 64) -> None:
        super().__init__(in_channels=in_channels, num_classes=num_classes, width=width)
        first = nn.Sequential(nn.Conv2d(in_channels, width, 4, stride=2, padding=1), _leaky())
        down = list(itertools.pairwise(self.feature_channels))
        up = [(b, a) for a, b in reversed(down)]
        self.encoder = nn.ModuleList(
            [first, *(_block(nn.Conv2d(a, b, 4, stride=2, padding=1), b, _leaky) for a, b in down)]
        )
        self.decoder = nn.ModuleList(_block(nn.ConvTranspose2d(a, b, 4, stride=2, padding=1), b, _relu) for a, b in up)
        self.head = nn.ConvTranspose2d(width, num_classes, 4, stride=2, padding=1)


class GANGeneratorStrided(Generator):
    """conv 3x3 pad 1 to w = 64 channels, then with stride 2 to 128, 256, 512, 1024, each batch norm, ReLU; transposed
    conv 3x3 stride 2 pad 1 output padding 1 to 512, 256, 128, 64, each batch norm, ReLU; conv 1x1 to K logits."""

    num_scales = 5

    def __init__(self, *, in_channels: int, num_classes: int, width: int = 64) -> None:
        super().__init__(in_channels=in_channels, num_classes=num_classes, width=width)
        steps = list(itertools.pairwise(self.feature_channels))
        down = [(in_channels, width, 1), *((a, b, 2) for a, b in steps)]
        up = [(b, a) for a, b in reversed(steps)]
        self.encoder = nn.ModuleList(
            _block(nn.Conv2d(a, b, 3, stride=stride, padding=1), b, _relu) for a, b, stride in down
        )
        self.decoder = nn.ModuleList(
            _block(nn.ConvTranspose2d(a, b, 3, stride=2, padding=1, output_padding=1), b, _relu) for a, b in up
        )
        self.head = nn.Conv2d(width, num_classes, 1)
