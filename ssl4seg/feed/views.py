"""Weak and strong views of images, in batches on the training device; each sample has random parameters of its own.

A weak view samples the image at native resolution by one affine map for flip, rotation, scale and resize together, so
that pixels are interpolated only once. A strong view applies photometric operations to the weak view and stays aligned
with it pixel by pixel.

theta [B, 2, 3] maps an output position (x, y) in [-1, 1] (align_corners=False) to source pixels (x, y), measured from
the centre of the image.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ssl4seg.augment.operations import Operation
from ssl4seg.feed.store import Box, Raw
from ssl4seg.keys import IGNORE, expect, low_high, number_in, share, whole


class View(ABC):
    """Draws the geometry of weak views.

    Args:
        fill_label: label outside the image: 0 (background) or IGNORE.
    """

    mirror: ClassVar[bool] = False
    """Whether the image continues as its mirror image beyond its edges; else it is black there."""

    def __init__(self, *, fill_label: int) -> None:
        expect("views.weak.fill_label", fill_label, whole(0, IGNORE))
        self.fill_label = fill_label

    @abstractmethod
    def thetas(self, size: Tensor, generator: Generator) -> Tensor:
        """Draw theta for images of `size` [B, 2] (height, width); the random numbers do not depend on the sizes."""

    @abstractmethod
    def plain(self, size: Tensor) -> Tensor:
        """theta that shows the whole image, without random numbers."""


class WeakView(View):
    """The usual weak view of the ACDC literature (SSL4MIS): quarter turns and flips, or a small rotation.

    Args:
        rot90_flip: share of the images that are turned by k x 90 degrees and flipped along one axis, both uniform.
        rotate: share of the other images that are rotated by an angle uniform in +-max_angle.
        max_angle: degrees.
        scale: range of the zoom factor, uniform; (1, 1) fits the whole image into the square, as the literature does.
        fill_label: label outside the image: 0 (background) or IGNORE.
    """

    def __init__(
        self,
        *,
        rot90_flip: float,
        rotate: float,
        max_angle: float,
        scale: Sequence[float] = (1.0, 1.0),
        fill_label: int = 0,
    ) -> None:
        super().__init__(fill_label=fill_label)
        expect("views.weak.rot90_flip", rot90_flip, share)
        expect("views.weak.rotate", rotate, share)
        expect("views.weak.max_angle", max_angle, number_in("[0, 180]", "degrees"))
        expect("views.weak.scale", scale, low_high())
        self.rot90_flip, self.rotate, self.max_angle = rot90_flip, rotate, max_angle
        self.scale = (scale[0], scale[1])

    def thetas(self, size: Tensor, generator: Generator) -> Tensor:
        u = torch.rand((6, len(size)), generator=generator)
        turned = u[0] < self.rot90_flip
        rotated = ~turned & (u[1] < self.rotate)
        quarter = torch.where(turned, (u[2] * 4).floor(), torch.zeros(()))
        angle = quarter * (math.pi / 2) + torch.where(rotated, (2 * u[3] - 1) * math.radians(self.max_angle), 0.0)
        flip_x = torch.where(turned & (u[4] < 0.5), -1.0, 1.0)
        flip_y = torch.where(turned & (u[4] >= 0.5), -1.0, 1.0)
        zoom = self.scale[0] + u[5] * (self.scale[1] - self.scale[0])
        half = size.flip(1) / 2  # half width, half height
        # After an odd number of quarter turns the turned frame is fitted into the square.
        half = torch.where((quarter % 2 == 1)[:, None], half.flip(1), half) / zoom[:, None]
        cos, sin = angle.cos(), angle.sin()
        linear = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)
        linear = linear * (half * torch.stack([flip_x, flip_y], -1))[:, None, :]
        return torch.cat([linear, torch.zeros(len(size), 2, 1)], dim=2)

    def plain(self, size: Tensor) -> Tensor:
        return fit(size)


class CropView(View):
    """The usual weak view of natural images: a random scale, a random crop, a horizontal flip.

    A scaled image that is smaller than the crop lies at a random place in it, surrounded by its mirror images with the
    label `fill_label`. The literature fills with black instead; on unlabelled images, whose padding the pseudo-labels
    do not leave out, the network would learn classes for black.

    Args:
        side: side of the crop in pixels.
        scale: range of the zoom factor, uniform; 1 is the image's own resolution.
        flip: share of the images that are mirrored.
        fill_label: label outside the image: IGNORE, or 0 (background).
    """

    mirror = True

    def __init__(self, *, side: int, scale: Sequence[float], flip: float, fill_label: int = IGNORE) -> None:
        super().__init__(fill_label=fill_label)
        expect("views.weak.side", side, whole(1))
        expect("views.weak.scale", scale, low_high())
        expect("views.weak.flip", flip, share)
        self.side, self.scale, self.flip = side, (scale[0], scale[1]), flip

    def thetas(self, size: Tensor, generator: Generator) -> Tensor:
        u = torch.rand((4, len(size)), generator=generator)
        zoom = (self.scale[0] + u[0] * (self.scale[1] - self.scale[0]))[:, None]
        room = size.flip(1) * zoom - self.side  # in pixels of the crop; negative for a smaller image
        centre = (u[1:3].T - 0.5) * room / zoom
        mirror = torch.stack([torch.where(u[3] < self.flip, -1.0, 1.0), torch.ones(len(size))], dim=1)
        return torch.cat([torch.diag_embed(self.side / 2 / zoom * mirror), centre[:, :, None]], dim=2)

    def plain(self, size: Tensor) -> Tensor:
        """theta that fits the whole image into the square and keeps its proportions."""
        half = (size.amax(dim=1) / 2)[:, None, None]
        return torch.cat([half * torch.eye(2), torch.zeros(len(size), 2, 1)], dim=2)


def fit(size: Tensor) -> Tensor:
    """theta [B, 2, 3] of a plain resize: the whole image fills the square, whatever its proportions."""
    return torch.cat([torch.diag_embed(size.flip(1) / 2), torch.zeros(len(size), 2, 1)], dim=2)


def boxes(theta: Tensor, size: Tensor) -> list[Box]:
    """The part of each image of `size` [B, 2] that `sample` reads with theta."""
    middle = size.flip(1) / 2
    reach = theta[:, :, :2].abs().sum(dim=2)
    # Bilinear interpolation reads one pixel more on each side.
    low, high = (theta[:, :, 2] + middle + side * reach for side in (-1, 1))
    first = torch.minimum((low - 1).floor().clamp(min=0), size.flip(1) - 1).int().tolist()
    last = torch.maximum(torch.minimum((high + 1).ceil(), size.flip(1)), torch.ones(())).int().tolist()
    return [
        Box(top, max(bottom, top + 1), left, max(right, left + 1))
        for (left, top), (right, bottom) in zip(first, last, strict=True)
    ]


def moved(theta: Tensor, size: Tensor, parts: Sequence[Box]) -> Tensor:
    """theta for `parts` of the images of `size`, measured from the centres of the parts."""
    centre = torch.tensor([((box.left + box.right) / 2, (box.top + box.bottom) / 2) for box in parts])
    return torch.cat([theta[:, :, :2], (theta[:, :, 2] + size.flip(1) / 2 - centre)[:, :, None]], dim=2)


def as_float(image: Tensor) -> Tensor:
    """Images as float32; uint8 values are divided by 255."""
    return image.float().div_(255) if image.dtype == torch.uint8 else image


def sample(raw: Raw, theta: Tensor, side: int, fill_label: int = 0, *, mirror: bool = False) -> tuple[Tensor, Tensor]:
    """Sample a square of `side` pixels from each image: bilinear for the image, nearest for the label.

    The outermost pixels extend half a pixel to the image's edge, so that a plain resize equals linear interpolation.
    Outside, the image is mirrored at its edges (`mirror`) or 0, and the label is `fill_label`.

    Returns:
        image [B, C, side, side] float32 and label [B, side, side] int64.
    """
    image, label, _ = raw
    device, (height, width) = image.device, image.shape[-2:]
    extent = raw.size.flip(1).to(device)[:, None, None, :]  # width, height of each image
    at = F.affine_grid(theta.to(device), [len(image), 1, side, side], align_corners=False) + extent / 2
    inside = ((at > 0) & (at < extent)).all(-1)
    if mirror:
        at = extent - (at % (2 * extent) - extent).abs()
    # Pixel centres are at 0.5, 1.5, ...; without the clamp the padding of smaller images would be interpolated in.
    at = at.clamp_(min=torch.full_like(extent, 0.5), max=extent - 0.5)
    column, row = at.long().unbind(-1)
    picked = label.flatten(1).gather(1, (row * width + column).flatten(1)).view_as(row).long()
    grid = at * (2 / torch.tensor([width, height], device=device)) - 1
    resampled = F.grid_sample(as_float(image), grid, mode="bilinear", align_corners=False)
    return resampled if mirror else resampled.mul_(inside[:, None]), torch.where(inside, picked, fill_label)


def strong_view(image: Tensor, operations: Sequence[Operation], generator: Generator) -> Tensor:
    """Apply the operations, one after the other, to a copy of the weak view [B, C, H, W]."""
    strong = image.clone()
    for operation in operations:
        strong = operation(strong, generator)
    return strong
