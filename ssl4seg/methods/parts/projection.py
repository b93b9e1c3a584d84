"""Projection heads, which map a decoder map to representations for a contrastive loss."""

import math

import torch
from torch import nn

from ssl4seg.axes import LAYERS
from ssl4seg.networks.base import Network

TRIAL_SIDE = {2: 224, 3: 64}
"""Pixels of the trial image along each axis, by the number of axes."""


class Projection(nn.Sequential):
    """[N, C, h, w] -> [N, D, h, w]: two times conv 3x3, batch norm, ReLU, dropout; then conv 1x1 (U2PL, 2022)."""

    def __init__(self, in_channels: int, channels: int, dropout: float = 0.1, *, axes: int = 2) -> None:
        layers = LAYERS[axes]

        def block(inputs: int) -> list[nn.Module]:
            conv = layers.conv(inputs, channels, 3, padding=1)
            return [conv, layers.batch_norm(channels), nn.ReLU(inplace=True), layers.dropout(dropout)]

        super().__init__(*block(in_channels), *block(channels), layers.conv(channels, channels, 1))


@torch.no_grad()
def level_at(network: Network, share: float) -> int:
    """Index in `pyramid` of the map whose side is nearest to `share` of the image's; found by a trial pass."""
    side, training = TRIAL_SIDE[network.axes], network.training
    maps = network.eval().pyramid(network.encode(torch.zeros(1, network.in_channels, *(side,) * network.axes)))
    network.train(training)
    return min(range(len(maps)), key=lambda i: abs(math.log(maps[i].shape[-1] / (share * side))))
