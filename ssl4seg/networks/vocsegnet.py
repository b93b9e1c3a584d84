"""A small fully convolutional network of the PASCAL VOC literature: VGG features and a convolutional head."""

from typing import Any

from torch import Tensor, nn

from ssl4seg.networks.vgg import OnVGG


class VOCSegNet(OnVGG):
    """VGG features at 1/32; conv 3x3 to 4096 channels, ReLU, dropout; conv 1x1 likewise; conv 1x1 to K logits.

    Differs from the article:
    - The logits stay at 1/32 there, which full-size labels do not fit; here they are resized to the image's size.
    """

    kernel = 3

    def __init__(self, *, in_channels: int, num_classes: int, **keys: Any) -> None:
        super().__init__(in_channels=in_channels, num_classes=num_classes, **keys)
        self.head = nn.Conv2d(self.hidden, num_classes, 1)

    @property
    def feature_channels(self) -> tuple[int, ...]:
        return (512,)

    def features(self, image: Tensor) -> list[Tensor]:
        return self.pooled(image)[-1:]

    @property
    def pyramid_channels(self) -> tuple[int, ...]:
        return (self.hidden,)

    def pyramid(self, features: list[Tensor]) -> list[Tensor]:
        return [self.decoder(features[-1])]
