"""DINOv2 (Oquab et al. 2023) with a DPT decoder (Ranftl et al., ICCV 2021): the network of UniMatch V2."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ssl4seg.keys import expect, list_of, whole
from ssl4seg.networks.base import Network, fitted
from ssl4seg.networks.pretrained import load_encoder
from ssl4seg.networks.timm_vit import PlainTransformer, from_timm, layers_of, vision_transformer


class DINOv2DPT(Network):
    """Four maps from evenly spaced blocks of the transformer, after its last norm, all at 1/patch of the image; each by
    conv 1x1 to its own channels, then to 4, 2, 1 and 1/2 times that size; conv 3x3 to `channels`; fused coarse to fine
    (`Fusion`), which ends at 8 times that size; conv 3x3, ReLU, conv 1x1 to K logits.

    Only the patches' tokens go to the decoder, which has no batch norm. Sizes are those of UniMatch V2's code: ViT-S
    with 64 and [48, 96, 192, 384] channels (ViT-B: 128 and [96, 192, 384, 768]; ViT-L: 256 and [256, 512, 1024, 1024]).
    24,721,397 parameters for 3 -> 21 with ViT-S, of which 22,056,192 are the encoder's. A file of DINOv2's authors
    loads as encoder_weights.

    Differs from UniMatch V2's code:
    - ViT-L gives its blocks 5, 12, 18 and 24 there; here it gives 6, 12, 18 and 24.

    Args:
        encoder: timm's name of a plain vision transformer; its patches may have another size than 14, as those of
            DINOv3 (vit_small_patch16_dinov3).
        encoder_weights: timm's tag (lvd142m for DINOv2, lvd1689m for DINOv3), imagenet (the tag that timm prefers), a
            file, or None to start anew.
        channels: of the decoder.
        reassembled: channels of the four maps, finest first.
    """

    encoder: PlainTransformer

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        encoder: str = "vit_small_patch14_dinov2",
        encoder_weights: str | None = None,
        channels: int = 64,
        reassembled: Sequence[int] = (48, 96, 192, 384),
    ) -> None:
        super().__init__(in_channels=in_channels, num_classes=num_classes)
        expect("network.channels", channels, whole(1))
        expect("network.reassembled", reassembled, list_of(whole(1), 4, 4))
        self.encoder = vit = vision_transformer(encoder, in_channels=in_channels)
        load_encoder(vit, encoder, encoder_weights, from_timm(encoder))
        self.blocks = [len(vit.blocks) * i // 4 - 1 for i in (1, 2, 3, 4)]
        self.patch, self.width, self.channels = vit.patch_embed.patch_size[0], vit.embed_dim, channels
        self.decoder = Decoder(self.width, reassembled, channels)
        self.head = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(channels, num_classes, 1)
        )

    @property
    def encoder_layers(self) -> list[nn.Module]:
        return layers_of(self.encoder)

    @property
    def feature_channels(self) -> tuple[int, ...]:
        return (self.width,) * 4

    def features(self, image: Tensor) -> list[Tensor]:
        features = self.encoder.forward_intermediates(
            fitted(image, self.patch), indices=self.blocks, norm=True, intermediates_only=True
        )
        assert isinstance(features, list)  # timm can return other types too
        return features

    @property
    def pyramid_channels(self) -> tuple[int, ...]:
        return (self.channels,) * 4

    def pyramid(self, features: list[Tensor]) -> list[Tensor]:
        maps: list[Tensor] = self.decoder(features)
        return maps


class Decoder(nn.Module):
    """Features, finest first -> fused maps, finest first."""

    def __init__(self, in_channels: int, reassembled: Sequence[int], channels: int) -> None:
        super().__init__()
        self.reassemble = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(in_channels, c, 1), _rescale(c, factor), nn.Conv2d(c, channels, 3, padding=1, bias=False)
            )
            for c, factor in zip(reassembled, (4, 2, 1, 0.5), strict=True)
        )
        self.fuse = nn.ModuleList(Fusion(channels, coarsest=i == 3) for i in range(4))

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        scales = [part(x) for part, x in zip(self.reassemble, features, strict=True)]
        height, width = scales[0].shape[2:]
        sizes = [(2 * height, 2 * width), *(scale.shape[2:] for scale in scales[:-1])]
        maps: list[Tensor] = []
        for fuse, scale, size in reversed(list(zip(self.fuse, scales, sizes, strict=True))):
            maps.insert(0, fuse(scale, maps[0] if maps else None, size))
        return maps


class Fusion(nn.Module):
    """project(resize(r_2(y + r_1(x)))); at the coarsest scale project(resize(r_2(x))).

    x: a scale [N, C, h, w]; y: the fused coarser scales; r: `Residual`; resizing is bilinear, corners aligned; project:
    conv 1x1.
    """

    def __init__(self, channels: int, *, coarsest: bool) -> None:
        super().__init__()
        self.of_scale = None if coarsest else Residual(channels)
        self.of_sum = Residual(channels)
        self.project = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, y: Tensor | None, size: tuple[int, int]) -> Tensor:
        if self.of_scale is not None:
            x = y + self.of_scale(x)
        x = F.interpolate(self.of_sum(x), size=size, mode="bilinear", align_corners=True)
        projected: Tensor = self.project(x)
        return projected


class Residual(nn.Module):
    """x + conv 3x3 (ReLU (conv 3x3 (ReLU x)))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        changed: Tensor = self.second(self.first(x.relu()).relu_())
        return x + changed


def _rescale(channels: int, factor: float) -> nn.Module:
    if factor > 1:
        return nn.ConvTranspose2d(channels, channels, int(factor), stride=int(factor))
    return nn.Identity() if factor == 1 else nn.Conv2d(channels, channels, 3, stride=2, padding=1)
