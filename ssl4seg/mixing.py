"""Mixing images: the boxes of CutMix."""

import math

import torch
from torch import Tensor


def cutmix_mask(images: Tensor, area: float = 0.5) -> Tensor:
    """A box for each image [N, C, H, W]: [N, 1, H, W] float, 1 inside (French et al., BMVC 2020).

    The box covers `area` of the image; its height is log-uniform in [area, 1] of the image's, its place uniform.
    Drawn from PyTorch's global generator on the CPU.
    """
    num, _, height, width = images.shape
    u = torch.rand((3, num, 1, 1, 1))
    tall = torch.exp(u[0] * math.log(area))
    size = torch.stack([tall * height, area / tall * width]).round()
    start = (torch.stack([u[1] * (height - size[0]), u[2] * (width - size[1])])).round()
    row = torch.arange(height)[:, None]
    column = torch.arange(width)
    inside = (row >= start[0]) & (row < start[0] + size[0]) & (column >= start[1]) & (column < start[1] + size[1])
    return inside.float().to(images.device)


def mix(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    """`b` inside the mask, `a` outside."""
    return torch.lerp(a, b, mask)
