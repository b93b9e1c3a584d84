"""Perturbations of feature maps [N, C, h, w] (CCT, Ouali et al., CVPR 2020, section 3.2), of each image on its own."""

import torch
from torch import Tensor

from ssl4seg.axes import along_axes, image_dims
from ssl4seg.seeding import sent


def feature_noise(x: Tensor, limit: float) -> Tensor:
    """x + x e with e ~ U(-limit, limit) in every element: noise in proportion to the activation."""
    return x + x * torch.empty_like(x).uniform_(-limit, limit)


def feature_drop(x: Tensor, low: float, high: float) -> Tensor:
    """x without its most active places, where the mean over the channels is at least g x its peak, g ~ U(low, high)."""
    activity = x.mean(dim=1, keepdim=True)
    g = low + (high - low) * along_axes(sent(torch.rand(len(x)), x.device).to(x.dtype), x)
    return x * (activity < g * activity.amax(dim=image_dims(x), keepdim=True))
