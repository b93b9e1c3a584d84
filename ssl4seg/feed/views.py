"""Weak and strong views of images, in batches on the training device; each sample has random parameters of its own.

Images have n axes: two (height, width) or three, in the order in which arrays have them; "pixel" is also a voxel.

A weak view samples the image at native resolution by one affine map for flip, rotation, scale and resize together, so
that pixels are interpolated only once. A strong view applies photometric operations to the weak view and stays aligned
with it pixel by pixel.

theta [B, n, n + 1] maps an output position in [-1, 1] (align_corners=False) to source pixels, measured from the centre
of the image. As in PyTorch, its coordinates stand in the opposite order of the array's axes: x, y for an array [H, W].
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ssl4seg.augment.operations import Operation
from ssl4seg.errors import UserError
from ssl4seg.feed.store import Box, Raw
from ssl4seg.keys import IGNORE, Key, expect, is_list, list_of, low_high, number_in, share, true_or_false, whole
from ssl4seg.seeding import sent


class View(ABC):
    """Draws the geometry of weak views.

    Args:
        fill_label: label outside the image: 0 (background) or IGNORE.
    """

    mirror: bool = False
    """Whether the image continues as its mirror image beyond its edges; else it is black there."""

    def __init__(self, *, fill_label: int) -> None:
        expect("views.weak.fill_label", fill_label, whole(0, IGNORE))
        self.fill_label = fill_label

    foreground: float = 0.0
    """Share of the views of labelled images that are centred on a pixel of a class; the caller draws the pixel."""

    @abstractmethod
    def thetas(self, size: Tensor, generator: Generator) -> Tensor:
        """Draw theta for images of `size` [B, n]; the random numbers do not depend on the sizes."""

    def centred(self, thetas: Tensor, size: Tensor, centre: Tensor) -> Tensor:
        """Move the views to `centre` [B, n], pixels along the axes; where it is NaN, and by default, they stay."""
        return thetas

    @abstractmethod
    def plain(self, size: Tensor) -> Tensor:
        """theta that shows the whole image, without random numbers."""

    def check(self, sizes: Sequence[Sequence[int]]) -> None:  # noqa: B027  # most views fit every image
        """Refuse training images of these sizes [num][n] if the view fits none of them."""


class WeakView(View):
    """The usual weak view of the ACDC literature (SSL4MIS): quarter turns and flips, or a small rotation.

    The whole image is fitted into the training input. Volumes are turned and flipped in the plane of their first two
    axes, as UA-MT's code does.

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
        half = size[:, :2].flip(1) / 2  # half width, half height
        # After an odd number of quarter turns the turned frame is fitted into the square.
        half = torch.where((quarter % 2 == 1)[:, None], half.flip(1), half) / zoom[:, None]
        cos, sin = angle.cos(), angle.sin()
        plane = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)
        theta = torch.zeros(*size.shape, size.shape[1] + 1)
        theta[:, -2:, -3:-1] = plane * (half * torch.stack([flip_x, flip_y], -1))[:, None, :]
        theta[:, :-2, :-3] = torch.diag_embed(size[:, 2:].flip(1) / 2 / zoom[:, None])
        return theta

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


class PatchView(View):
    """The usual weak view of volumes: a random patch at native resolution, turned, flipped, rotated and zoomed.

    All of it is one sampling. Axes are numbered from 0, in the order of `dataset.image_size`. An image that is shorter
    than the patch along an axis lies in its middle.

    Args:
        size: of the patch along each axis, in pixels.
        flips: the axes that are mirrored, each with probability 1/2.
        turns: pairs of axes; the patch is turned by k x 90 degrees in each of these planes, k uniform.
        rotate: share of the patches that are rotated by an angle uniform in +-max_angle, in the plane of the first two
            axes.
        max_angle: degrees.
        scale: range of the zoom factor, uniform; 1 is the image's own resolution.
        foreground: share of the labelled patches that are centred on a pixel of a class other than 0: first a class of
            the image is drawn, then its pixel (nnU-Net, Isensee et al. 2021: 0.33).
        mirror: whether the image continues as its mirror image beyond its edges; else it is 0 there.
        fill_label: label outside the image: 0 (background) or IGNORE.
    """

    def __init__(
        self,
        *,
        size: Sequence[int],
        flips: Sequence[int] = (0, 1),
        turns: Sequence[Sequence[int]] = ((0, 1),),
        rotate: float = 0.0,
        max_angle: float = 20.0,
        scale: Sequence[float] = (1.0, 1.0),
        foreground: float = 0.0,
        mirror: bool = False,
        fill_label: int = 0,
    ) -> None:
        super().__init__(fill_label=fill_label)
        expect("views.weak.size", size, list_of(whole(1), 2))
        axis = whole(0, len(size) - 1)
        expect("views.weak.flips", flips, Key(lambda v: is_list(v) and all(map(axis.fits, v)), f"a list of {axis}"))
        expect("views.weak.turns", turns, Key(lambda v: _are_planes(v, axis), f"a list of pairs of axes, each {axis}"))
        expect("views.weak.rotate", rotate, share)
        expect("views.weak.max_angle", max_angle, number_in("[0, 180]", "degrees"))
        expect("views.weak.scale", scale, low_high())
        expect("views.weak.foreground", foreground, share)
        expect("views.weak.mirror", mirror, true_or_false)
        self.size = tuple(size)
        # In theta the axes stand in the opposite order.
        self.flips = [len(size) - 1 - axis for axis in flips]
        self.turns = [(len(size) - 1 - b, len(size) - 1 - a) for a, b in turns]
        self.rotate, self.max_angle, self.scale = rotate, max_angle, (scale[0], scale[1])
        self.foreground, self.mirror = foreground, mirror

    def thetas(self, size: Tensor, generator: Generator) -> Tensor:
        num, axes = size.shape
        u = torch.rand((3 + len(self.flips) + len(self.turns), num), generator=generator)
        place = torch.rand((num, axes), generator=generator)
        signs = torch.ones(num, axes)
        for i, axis in enumerate(self.flips):
            signs[:, axis] = torch.where(u[3 + i] < 0.5, -1.0, 1.0)
        linear = torch.diag_embed(signs)
        for i, plane in enumerate(self.turns):
            quarter = (u[3 + len(self.flips) + i] * 4).floor()
            linear = _turn(quarter * (math.pi / 2), plane, axes).round() @ linear
        angle = torch.where(u[0] < self.rotate, (2 * u[1] - 1) * math.radians(self.max_angle), 0.0)
        linear = _turn(angle, (axes - 2, axes - 1), axes) @ linear
        zoom = self.scale[0] + u[2] * (self.scale[1] - self.scale[0])
        linear = linear * (self._half() / zoom[:, None])[:, None, :]
        centre = self._start(place, size, linear)
        return torch.cat([linear, centre[:, :, None]], dim=2)

    def centred(self, thetas: Tensor, size: Tensor, centre: Tensor) -> Tensor:
        at = centre.flip(1) + 0.5 - size.flip(1) / 2
        room = (size.flip(1) / 2 - thetas[:, :, :-1].abs().sum(dim=2)).clamp(min=0)
        moved = torch.where(at.isnan(), thetas[:, :, -1], _on_grid(at, thetas, size).clamp(-room, room))
        return torch.cat([thetas[:, :, :-1], moved[:, :, None]], dim=2)

    def plain(self, size: Tensor) -> Tensor:
        """theta of the patch in the middle of the image."""
        theta = torch.diag_embed(self._half().expand(len(size), -1))
        centre = self._start(torch.full_like(size, 0.5), size, theta)
        return torch.cat([theta, centre[:, :, None]], dim=2)

    def check(self, sizes: Sequence[Sequence[int]]) -> None:
        largest = [max(lengths) for lengths in zip(*sizes, strict=True)]
        if all(side > length for side, length in zip(self.size, largest, strict=True)):
            fitting = [max(4, length // 8 * 8) for length in largest]
            raise UserError(
                f"dataset.image_size={_typed(self.size)}: this patch is longer along every axis than every training "
                f"image, of which the longest axes have {_typed(largest)} pixels; patches have the resolution of the "
                f"images: give dataset.image_size={_typed(fitting)}, or views=default, which resizes whole images"
            )

    def _half(self) -> Tensor:
        return torch.tensor(self.size[::-1], dtype=torch.float32) / 2

    @staticmethod
    def _start(place: Tensor, size: Tensor, linear: Tensor) -> Tensor:
        """The centre of a patch at `place` in [0, 1] of the room that the image leaves it."""
        room = (size.flip(1) - 2 * linear.abs().sum(dim=2)).clamp(min=0)
        # One place more than there is room for: each whole pixel, the first and the last too, is as likely as another.
        centre = (place - 0.5) * (room + 1) * (room > 0)
        return torch.minimum(torch.maximum(_on_grid(centre, linear, size), -room / 2), room / 2)


def _typed(numbers: Sequence[int]) -> str:
    """A list as it is typed on the command line."""
    return f"[{','.join(map(str, numbers))}]"


def _on_grid(centre: Tensor, theta: Tensor, size: Tensor) -> Tensor:
    """The centre moved by less than a pixel, so that a patch that is only cut out is not interpolated."""
    corner = centre + size.flip(1) / 2 - theta[:, :, : size.shape[1]].abs().sum(dim=2)
    return centre + (corner.round() - corner)


def _are_planes(value: Any, axis: Key) -> bool:
    return is_list(value) and all(
        is_list(plane) and len(plane) == 2 and all(map(axis.fits, plane)) and plane[0] != plane[1] for plane in value
    )


def _turn(angle: Tensor, plane: tuple[int, int], axes: int) -> Tensor:
    """Rotations [B, n, n] by angles [B] in the plane of two axes."""
    a, b = plane
    turn = torch.eye(axes).repeat(len(angle), 1, 1)
    turn[:, a, a] = turn[:, b, b] = angle.cos()
    turn[:, b, a] = angle.sin()
    turn[:, a, b] = -turn[:, b, a]
    return turn


def fit(size: Tensor) -> Tensor:
    """theta [B, n, n + 1] of a plain resize: the whole image fills the training input, whatever its proportions."""
    return torch.cat([torch.diag_embed(size.flip(1) / 2), torch.zeros(*size.shape, 1)], dim=2)


def boxes(theta: Tensor, size: Tensor) -> list[Box]:
    """The part of each image of `size` [B, n] that `sample` reads with theta."""
    lengths = size.flip(1)
    reach = theta[:, :, :-1].abs().sum(dim=2)
    # Linear interpolation reads one pixel more on each side.
    low, high = (theta[:, :, -1] + lengths / 2 + side * reach for side in (-1, 1))
    first = torch.minimum((low - 1).floor().clamp(min=0), lengths - 1)
    last = torch.maximum(torch.minimum((high + 1).ceil(), lengths), first + 1)
    return [Box(*ends) for ends in zip(first.flip(1).int().tolist(), last.flip(1).int().tolist(), strict=True)]


def moved(theta: Tensor, size: Tensor, parts: Sequence[Box]) -> Tensor:
    """theta for `parts` of the images of `size`, measured from the centres of the parts."""
    ends = torch.tensor([[box.low, box.high] for box in parts], dtype=torch.float32)
    centre = ends.mean(dim=1).flip(1)
    return torch.cat([theta[:, :, :-1], (theta[:, :, -1] + size.flip(1) / 2 - centre)[:, :, None]], dim=2)


def as_float(image: Tensor) -> Tensor:
    """Images as float32; uint8 values are divided by 255."""
    return image.float().div_(255) if image.dtype == torch.uint8 else image


def sample(
    raw: Raw, theta: Tensor, shape: Sequence[int], fill_label: int = 0, *, mirror: bool = False
) -> tuple[Tensor, Tensor]:
    """Sample `shape` pixels from each image: linear for the image, nearest for the label.

    The outermost pixels extend half a pixel to the image's edge, so that a plain resize equals linear interpolation.
    Outside, the image is mirrored at its edges (`mirror`) or 0, and the label is `fill_label`.

    Returns:
        image [B, C, *shape] float32 and label [B, *shape] int64.
    """
    image, label, _ = raw
    device, lengths = image.device, image.shape[2:]
    extent = sent(raw.size.flip(1), device)  # of each image, in the order of theta
    extent = extent.view(len(image), *(1 for _ in lengths), len(lengths))
    at = F.affine_grid(sent(theta, device), [len(image), 1, *shape], align_corners=False) + extent / 2
    inside = ((at > 0) & (at < extent)).all(-1)
    if mirror:
        at = extent - (at % (2 * extent) - extent).abs()
    # Pixel centres are at 0.5, 1.5, ...; without the clamp the padding of smaller images would be interpolated in.
    at = at.clamp_(min=torch.full_like(extent, 0.5), max=extent - 0.5)
    place = torch.zeros((), dtype=torch.int64, device=device)
    for position, length in zip(at.long().unbind(-1)[::-1], lengths, strict=True):
        place = place * length + position
    picked = label.flatten(1).gather(1, place.flatten(1)).view_as(inside).long()
    grid = at * sent(2 / torch.tensor(lengths[::-1]), device) - 1
    resampled = F.grid_sample(as_float(image), grid, mode="bilinear", align_corners=False)
    return resampled if mirror else resampled.mul_(inside[:, None]), torch.where(inside, picked, fill_label)


def strong_view(image: Tensor, operations: Sequence[Operation], generator: Generator) -> Tensor:
    """Apply the operations, one after the other, to a copy of the weak view [B, C, *X]."""
    strong = image.clone()
    for operation in operations:
        strong = operation(strong, generator)
    return strong
