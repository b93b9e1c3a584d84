"""The generators of image-to-image GANs as segmentation networks: a strided encoder, a transposed decoder, no skips.

An image whose sides are no multiples of 16, or below 32, goes through resized (see `fitted`); the logits come back to
the image's own.
"""

from collections.abc import Callable

from torch import Tensor, nn

from ssl4seg.networks.base import Network, fitted


class Generator(Network):
    """Each block of `encoder` gives a feature map, each block of `decoder` a map of the pyramid."""

    encoder: nn.ModuleList
    decoder: nn.ModuleList

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
    """conv 4x4 stride 2 pad 1 to 64, 128, 256, 512 channels, LeakyReLU 0.2, batch norm but after the first; transposed
    conv 4x4 stride 2 pad 1 to 256, 128, 64 channels, batch norm, ReLU; one more to K logits at full resolution."""

    def __init__(self, *, in_channels: int, num_classes: int) -> None:
        super().__init__(in_channels=in_channels, num_classes=num_classes)
        first = nn.Sequential(nn.Conv2d(in_channels, 64, 4, stride=2, padding=1), _leaky())
        down = [(64, 128), (128, 256), (256, 512)]
        up = [(512, 256), (256, 128), (128, 64)]
        self.encoder = nn.ModuleList(
            [first, *(_block(nn.Conv2d(a, b, 4, stride=2, padding=1), b, _leaky) for a, b in down)]
        )
        self.decoder = nn.ModuleList(_block(nn.ConvTranspose2d(a, b, 4, stride=2, padding=1), b, _relu) for a, b in up)
        self.head = nn.ConvTranspose2d(64, num_classes, 4, stride=2, padding=1)

    @property
    def feature_channels(self) -> tuple[int, ...]:
        return (64, 128, 256, 512)

    @property
    def pyramid_channels(self) -> tuple[int, ...]:
        return (64, 128, 256)


class GANGeneratorStrided(Generator):
    """conv 3x3 pad 1 to 64 channels, then with stride 2 to 128, 256, 512, 1024, each batch norm, ReLU; transposed conv
    3x3 stride 2 pad 1 output padding 1 to 512, 256, 128, 64, each batch norm, ReLU; conv 1x1 to K logits."""

    def __init__(self, *, in_channels: int, num_classes: int) -> None:
        super().__init__(in_channels=in_channels, num_classes=num_classes)
        down = [(in_channels, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2), (512, 1024, 2)]
        up = [(1024, 512), (512, 256), (256, 128), (128, 64)]
        self.encoder = nn.ModuleList(
            _block(nn.Conv2d(a, b, 3, stride=stride, padding=1), b, _relu) for a, b, stride in down
        )
        self.decoder = nn.ModuleList(
            _block(nn.ConvTranspose2d(a, b, 3, stride=2, padding=1, output_padding=1), b, _relu) for a, b in up
        )
        self.head = nn.Conv2d(64, num_classes, 1)

    @property
    def feature_channels(self) -> tuple[int, ...]:
        return (64, 128, 256, 512, 1024)

    @property
    def pyramid_channels(self) -> tuple[int, ...]:
        return (64, 128, 256, 512)
