"""Swin-UNet (Cao et al. 2021): a U-Net of shifted-window transformer blocks, without convolutions between them."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.swin_transformer import (  # type: ignore[import-untyped,unused-ignore]
    PatchMerging,
    SwinTransformerBlock,
)

from ssl4seg.errors import UserError
from ssl4seg.keys import expect, list_of, number_in, whole
from ssl4seg.networks.base import Network


class PatchEmbedding(nn.Module):
    """[N, C, H, W] -> [N, H / patch, W / patch, D]: a convolution whose kernel equals its stride, and layer norm."""

    def __init__(self, in_channels: int, out_channels: int, patch: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(in_channels, out_channels, patch, stride=patch)
        self.norm = nn.LayerNorm(out_channels)

    def forward(self, image: Tensor) -> Tensor:
        tokens: Tensor = self.norm(self.project(image).permute(0, 2, 3, 1))
        return tokens


class PatchExpand(nn.Module):
    """[N, h, w, D] -> [N, f h, f w, C]: a linear layer without bias from each token to f x f pixels, and layer norm."""

    def __init__(self, in_channels: int, out_channels: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.expand = nn.Linear(in_channels, factor**2 * out_channels, bias=False)
        self.norm = nn.LayerNorm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        pixels = self.expand(x).unflatten(-1, (self.factor, self.factor, -1))
        x = pixels.transpose(2, 3).flatten(3, 4).flatten(1, 2)
        normed: Tensor = self.norm(x)
        return normed


def blocks(channels: int, heads: int, window: int, drops: Sequence[float]) -> nn.Sequential:
    """Transformer blocks (NHWC), every second with shifted windows; `drops` are their stochastic depths."""
    shifts = [[window // 2 * (i % 2)] * 2 for i in range(len(drops))]
    return nn.Sequential(
        *(
            SwinTransformerBlock(channels, heads, [window] * 2, shift, stochastic_depth_prob=drop)
            for shift, drop in zip(shifts, drops, strict=True)
        )
    )


class UpStage(nn.Module):
    """Patch expansion, concatenation (skip last), linear layer to half the channels, transformer blocks; NHWC."""

    def __init__(self, channels: int, blocks: nn.Module) -> None:
        super().__init__()
        self.up = PatchExpand(2 * channels, channels, 2)
        self.merge = nn.Linear(2 * channels, channels)
        self.blocks = blocks

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        up = self.up(x)[:, : skip.shape[1], : skip.shape[2]]  # the merging padded an odd side by one
        merged: Tensor = self.blocks(self.merge(torch.cat([up, skip], dim=3)))
        return merged


def draw_linear(part: nn.Module) -> None:
    """Draw the weights of a linear layer from N(0, 0.02), cut at +-2, and set its bias to 0."""
    if isinstance(part, nn.Linear):
        nn.init.trunc_normal_(part.weight, std=0.02)
        if part.bias is not None:
            nn.init.zeros_(part.bias)


class SwinUNet(Network):
    """Four scales at 1/4, 1/8, 1/16 and 1/32 of the image, and a decoder that mirrors the encoder.

    27,165,348 parameters for 1 -> 4, as many as the authors' network with one input channel. Images may have any size:
    sides that the patch does not divide are interpolated to the next multiple, odd maps are padded where they are
    merged, and windows that overhang are padded.

    Differs from the authors' code:
    - Its skips are the stages' inputs; here they are the stages' outputs, as in the paper's figure.
    - Its encoder starts from ImageNet; here all weights are drawn anew.

    Args:
        patch: side of the patches in pixels, and the factor of the last expansion.
        window: side of the attention windows in tokens; every second block shifts them by half of it.
        embed_dim: channels of the finest scale; each coarser one has twice as many.
        depths: transformer blocks of each scale, in the encoder and again in the decoder (none at the coarsest).
        heads: attention heads of each scale.
        stochastic_depth: probability of leaving out the last block; it rises linearly from 0 at the first.
    """

    encoder: nn.ModuleList
    decoder: nn.ModuleList

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        patch: int = 4,
        window: int = 7,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 2, 2),
        heads: Sequence[int] = (3, 6, 12, 24),
        stochastic_depth: float = 0.2,
    ) -> None:
        super().__init__(in_channels=in_channels, num_classes=num_classes)
        expect("network.patch", patch, whole(1))
        expect("network.window", window, whole(1))
        expect("network.embed_dim", embed_dim, whole(1))
        expect("network.depths", depths, list_of(whole(1, 100), 2))
        expect("network.heads", heads, list_of(whole(1)))
        expect("network.stochastic_depth", stochastic_depth, number_in("[0, 1)", "a probability"))
        if len(depths) != len(heads):
            raise UserError(
                f"network.depths={list(depths)} and network.heads={list(heads)}: expected one of each a scale"
            )
        self.patch, self._channels = patch, tuple(embed_dim * 2**i for i in range(len(depths)))
        if any(c % h for c, h in zip(self._channels, heads, strict=True)):
            raise UserError(f"network.heads={list(heads)}: expected divisors of the channels {list(self._channels)}")
        drops = torch.linspace(0, stochastic_depth, sum(depths)).split(list(depths))
        scales = [(c, h, window, drop.tolist()) for c, h, drop in zip(self._channels, heads, drops, strict=True)]
        starts = [PatchEmbedding(in_channels, embed_dim, patch), *map(PatchMerging, self._channels[:-1])]
        ends = [nn.Identity() for _ in starts[1:]] + [nn.LayerNorm(self._channels[-1])]
        self.encoder = nn.ModuleList(
            nn.Sequential(start, blocks(*scale), end) for start, scale, end in zip(starts, scales, ends, strict=True)
        )
        ups = [UpStage(scale[0], blocks(*scale)) for scale in scales[-2::-1]]
        last = nn.Sequential(nn.LayerNorm(embed_dim), PatchExpand(embed_dim, embed_dim, patch))
        self.decoder = nn.ModuleList([*ups, last])
        self.head = nn.Conv2d(embed_dim, num_classes, 1, bias=False)
        self.apply(draw_linear)

    @property
    def feature_channels(self) -> tuple[int, ...]:
        return self._channels

    def features(self, image: Tensor) -> list[Tensor]:
        size = [(side + self.patch - 1) // self.patch * self.patch for side in image.shape[-2:]]
        if list(image.shape[-2:]) != size:
            image = F.interpolate(image, size=size, mode="bilinear", align_corners=False)
        features: list[Tensor] = []
        x = image
        for stage in self.encoder:
            x = stage(x)
            features.append(x.permute(0, 3, 1, 2))
        return features

    @property
    def pyramid_channels(self) -> tuple[int, ...]:
        return (self._channels[0], *self._channels[:-1])

    def pyramid(self, features: list[Tensor]) -> list[Tensor]:
        *skips, x = (feature.permute(0, 2, 3, 1) for feature in features)
        *ups, last = self.decoder
        maps: list[Tensor] = []
        for up, skip in zip(ups, reversed(skips), strict=True):
            x = up(x, skip)
            maps.insert(0, x)
        return [x.permute(0, 3, 1, 2) for x in (last(x), *maps)]
