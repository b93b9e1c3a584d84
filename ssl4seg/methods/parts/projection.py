"""Projection heads, which map a decoder map to representations for a contrastive loss."""

import math

import torch
from torch import nn

from ssl4seg.networks.base import Network


class Projection(nn.Sequential):
    """[N, C, h, w] -> [N, D, h, w]: two times conv 3x3, batch norm, ReLU, dropout; then conv 1x1 (U2PL, 2022)."""

    def __init__(self, in_channels: int, channels: int, dropout: float = 0.1) -> None:
        def block(inputs: int) -> list[nn.Module]:
            conv = nn.Conv2d(inputs, channels, 3, padding=1)
            return [conv, nn.BatchNorm2d(channels), nn.ReLU(inplace=True), nn.Dropout2d(dropout)]

        super().__init__(*block(in_channels), *block(channels), nn.Conv2d(channels, channels, 1))


@torch.no_grad()
def level_at(network: Network, share: float) -> int:
    """Index in `pyramid` of the map whose side is nearest to `share` of the image's; found by a trial pass."""
    side, training = 224, network.training
    maps = network.eval().pyramid(network.encode(torch.zeros(1, network.in_channels, side, side)))
    network.train(training)
    return min(range(len(maps)), key=lambda i: abs(math.log(maps[i].shape[-1] / (share * side))))
