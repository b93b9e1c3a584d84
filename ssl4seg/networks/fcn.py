"""FCN, fully convolutional networks (Long, Shelhamer & Darrell, CVPR 2015): FCN-32s, FCN-16s and FCN-8s on VGG."""

from typing import Any

import torch
from torch import Tensor, nn

from ssl4seg.keys import Key, expect, one_of
from ssl4seg.networks.vgg import OnVGG


class FCN(OnVGG):
    """s_32 = score(h_32); s_16 = up(s_32) + score(pool_4); s_8 = up(s_16) + score(pool_3)

    h_32: conv 7x7 and conv 1x1 to 4096 channels on VGG's last pooling, which start from VGG's classifier if
    `encoder_weights` holds it; score: conv 1x1 to K channels; up: x2. The finest s is resized to the image's size. The
    decoder maps are the scores themselves, so a method's heads on them see K channels.

    Differs from the authors' code:
    - It pads by 100 pixels at the start and crops later; here convolutions are padded to keep the size.
    - Its scores begin with zeros; here they begin as PyTorch draws convolutions.
    - Its last upsampling stays bilinear; here it learns too with upsampling=transposed.

    Args:
        stride: of the finest scores: 32, 16 or 8.
        upsampling: bilinear, or transposed convolutions that start as bilinear.
        keys: encoder, encoder_weights, hidden and dropout, see `OnVGG`.
    """

    kernel = 7
    upsamplings = ("bilinear", "transposed")

    def __init__(
        self, *, in_channels: int, num_classes: int, stride: int = 8, upsampling: str = "bilinear", **keys: Any
    ) -> None:
        super().__init__(in_channels=in_channels, num_classes=num_classes, **keys)
        expect("network.stride", stride, Key(lambda v: v in (32, 16, 8), "32, 16 or 8"))
        expect("network.upsampling", upsampling, one_of(*self.upsamplings))
        self.upsampling = upsampling
        self._channels = {32: (512,), 16: (512, 512), 8: (256, 512, 512)}[stride]
        scores = [nn.Conv2d(channels, num_classes, 1) for channels in (self.hidden, *self._channels[-2::-1])]
        self.decoder = Scores(self.decoder, scores, [_up(num_classes, 2, upsampling) for _ in scores[1:]])
        self.head = _up(num_classes, stride, upsampling)

    @property
    def feature_channels(self) -> tuple[int, ...]:
        return self._channels

    def features(self, image: Tensor) -> list[Tensor]:
        return self.pooled(image)[-len(self._channels) :]

    @property
    def pyramid_channels(self) -> tuple[int, ...]:
        return (self.num_classes,) * len(self._channels)

    def pyramid(self, features: list[Tensor]) -> list[Tensor]:
        maps: list[Tensor] = self.decoder(features)
        return maps


class Scores(nn.Module):
    """Features, finest first -> s, finest first."""

    def __init__(self, hidden: nn.Module, scores: list[nn.Conv2d], ups: list[nn.Module]) -> None:
        super().__init__()
        self.hidden, self.scores, self.ups = hidden, nn.ModuleList(scores), nn.ModuleList(ups)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        coarsest, *finer = features[::-1]
        first, *scores = self.scores
        maps: list[Tensor] = [first(self.hidden(coarsest))]
        for up, score, feature in zip(self.ups, scores, finer, strict=True):
            maps.insert(0, up(maps[0]) + score(feature))
        return maps


def _up(channels: int, factor: int, kind: str) -> nn.Module:
    """Upsampling by `factor`; each channel starts as its own bilinear interpolation, and stays so unless transposed."""
    if kind == "bilinear":
        return nn.Upsample(scale_factor=factor, mode="bilinear", align_corners=False)
    up = nn.ConvTranspose2d(channels, channels, 2 * factor, stride=factor, padding=factor // 2, bias=False)
    reach = (torch.arange(2 * factor) + 0.5) / factor  # in (0, 2), of the input's pixels
    tent = 1 - (reach - 1).abs()
    with torch.no_grad():
        up.weight.zero_()
        up.weight[range(channels), range(channels)] = tent[:, None] * tent
    return up
