"""A ResNet encoder and a decoder of two convolutions, each followed by an upsampling; no skips."""

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models
from torchvision.models import get_model, list_models
from torchvision.models.resnet import ResNet

from ssl4seg.keys import expect, one_of
from ssl4seg.networks.base import Network, fitted
from ssl4seg.networks.batch_norm import accept_single_values
from ssl4seg.networks.pretrained import from_torchvision, load_encoder, take_channels


class ResNet50Decoder(Network):
    """The coarsest features of torchvision's ResNet at 1/32; conv 3x3 to 512 channels, batch norm, ReLU, upsampling x2;
    conv 3x3 to 256 likewise; conv 1x1 to K logits at 1/8.

    Upsampling is bilinear with aligned corners.

    Differs from the article:
    - The decoder gets the vector after the classifier's pooling there, and so cannot run as printed; here it gets the
      map before the pooling.

    Args:
        encoder: torchvision's name of a ResNet; the article has resnet50.
        encoder_weights: imagenet, torchvision's name, a file, or None to start anew; see `pretrained`.
    """

    encoder: nn.Sequential
    decoder: nn.ModuleList

    def __init__(
        self, *, in_channels: int, num_classes: int, encoder: str = "resnet50", encoder_weights: str | None = None
    ) -> None:
        super().__init__(in_channels=in_channels, num_classes=num_classes)
        known = list_models(models, include=["resnet*", "resnext*", "wide_resnet*"])
        expect("network.encoder", encoder, one_of(*known))
        resnet: ResNet = get_model(encoder)
        self._channels = resnet.fc.in_features
        layers = OrderedDict(resnet.named_children())
        del layers["avgpool"], layers["fc"]
        self.encoder = nn.Sequential(layers)
        take_channels(self.encoder, in_channels)
        load_encoder(self.encoder, encoder, encoder_weights, from_torchvision(encoder))
        self.decoder = nn.ModuleList(_block(a, b) for a, b in ((self._channels, 512), (512, 256)))
        self.head = nn.Conv2d(256, num_classes, 1)
        accept_single_values(self)

    @property
    def feature_channels(self) -> tuple[int, ...]:
        return (self._channels,)

    def features(self, image: Tensor) -> list[Tensor]:
        return [self.encoder(fitted(image, 32))]

    @property
    def pyramid_channels(self) -> tuple[int, ...]:
        return (256, 512)

    def pyramid(self, features: list[Tensor]) -> list[Tensor]:
        maps = features
        for block in self.decoder:
            maps = [F.interpolate(block(maps[0]), scale_factor=2, mode="bilinear", align_corners=True), *maps]
        return maps[:-1]


def _block(in_channels: int, out_channels: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1), nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)
    )
