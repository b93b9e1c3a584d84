"""Mixing images: CutMix boxes, ClassMix masks, copy-paste boxes, mixup, patches.

Masks are [N, 1, H, W] float, 1 where the other image replaces this one. Random numbers come from PyTorch's global
generator on the CPU, which the engine seeds in every step.
"""

import math

import torch
from torch import Tensor


def mix(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    """`b` inside the mask, `a` outside; a mask between 0 and 1 blends (mixup)."""
    return torch.lerp(a, b, mask)


def mix_labels(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    """`mix` for maps [N, H, W] of any type, such as labels."""
    return torch.where(mask[:, 0] > 0.5, b, a)


def cutmix_mask(images: Tensor, area: float = 0.5) -> Tensor:
    """A box for each image [N, C, H, W] (French et al., BMVC 2020).

    The box covers the share `area` of the image. Its height / the image's is log-uniform in [area, 1]; its place is
    uniform.
    """
    num, _, height, width = images.shape
    u = torch.rand((3, num))
    tall = torch.exp(u[0] * math.log(area))
    return _boxes(images, (tall * height).round(), (area / tall * width).round(), u[1:])


def cutmix_boxes(
    images: Tensor, p: float = 0.5, area: tuple[float, float] = (0.02, 0.4), ratio: tuple[float, float] = (0.3, 1 / 0.3)
) -> Tensor:
    """A box for a share `p` of the images, an empty mask for the others (UniMatch, Yang et al. 2023, as AugSeg before).

    The box's area, as a share of the image's, is uniform in `area`, its height : width in `ratio`, and its place in the
    image. A box that does not fit is clipped to the image's sides.
    """
    num, _, height, width = images.shape
    u = torch.rand((5, num))
    size = (area[0] + u[0] * (area[1] - area[0])) * height * width
    shape = ratio[0] + u[1] * (ratio[1] - ratio[0])
    rows = (size * shape).sqrt().round().clamp(1, height)
    columns = (size / shape).sqrt().round().clamp(1, width)
    return _boxes(images, rows, columns, u[2:4]) * (u[4] < p).to(images.device)[:, None, None, None]


def beta_boxes(images: Tensor, a: float, b: float) -> Tensor:
    """A box of the image's proportions for each image; its share of the image's area is Beta(a, b), its place uniform.

    CutMix (Yun et al. 2019) has Beta(1, 1); AugSeg (Zhao et al. 2023) has Beta(4, 4), which favours a middle size.
    """
    num, _, height, width = images.shape
    side = torch.distributions.Beta(*torch.tensor([a, b], dtype=torch.float32)).sample((num,)).sqrt()
    return _boxes(images, (side * height).round(), (side * width).round(), torch.rand(2, num))


def copy_paste_mask(images: Tensor, side: float = 2 / 3) -> Tensor:
    """A box with the share `side` of the image's height and width, its place uniform (BCP, Bai et al. 2023)."""
    num, _, height, width = images.shape
    rows, columns = (torch.full((num,), int(side * length)) for length in (height, width))
    return _boxes(images, rows, columns, torch.rand(2, num))


def classmix_mask(label: Tensor, num_classes: int) -> Tensor:
    """The pixels of half (rounded down) of the classes in each label [N, H, W] (ClassMix, Olsson et al. 2021)."""
    present = torch.stack([(label == k).flatten(1).any(dim=1) for k in range(num_classes)], dim=1)
    order = torch.where(present, torch.rand(present.shape).to(label.device), 2.0).argsort(dim=1).argsort(dim=1)
    taken = (order < present.sum(dim=1, keepdim=True) // 2).float()  # [N, K]
    counted = label < num_classes
    mask = taken.gather(1, label.masked_fill(~counted, 0).flatten(1)).view_as(label) * counted
    return mask[:, None]


def cut_patches(maps: Tensor, num: int) -> Tensor:
    """[N, C, H, W] -> num x num equal patches [N, num^2, C, h, w], row by row; pixels left over are dropped."""
    h, w = maps.shape[-2] // num, maps.shape[-1] // num
    grid: Tensor = maps[..., : num * h, : num * w].unflatten(3, (num, w)).unflatten(2, (num, h))
    return grid.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)


def paste_patch(maps: Tensor, num: int, to: Tensor, patch: Tensor) -> Tensor:
    """Copy `maps` [N, C, H, W], and replace patch number `to` [N] of its num x num patches by `patch` [N, C, h, w]."""
    rows = torch.arange(len(maps), device=maps.device)
    patches = cut_patches(maps, num).index_put((rows, to), patch)
    grid = patches.unflatten(1, (num, num)).permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
    pasted = maps.clone()
    pasted[..., : grid.shape[2], : grid.shape[3]] = grid
    return pasted


def _boxes(images: Tensor, rows: Tensor, columns: Tensor, place: Tensor) -> Tensor:
    """Boxes of `rows` x `columns` [N] pixels; `place` [2, N] runs from 0 at the top or left edge to 1 at the other."""
    height, width = images.shape[-2:]
    size = torch.stack([rows, columns]).view(2, -1, 1, 1, 1)
    room = torch.tensor([height, width]).view(2, 1, 1, 1, 1) - size
    start = (place.view(2, -1, 1, 1, 1) * room).round()
    row = torch.arange(height)[:, None]
    column = torch.arange(width)
    inside = (row >= start[0]) & (row < start[0] + size[0]) & (column >= start[1]) & (column < start[1] + size[1])
    return inside.float().to(images.device)
