"""Mixing images: CutMix boxes, ClassMix masks, copy-paste boxes, mixup, patches, low frequencies.

Images have two or three axes. Masks are [N, 1, *X] float, 1 where the other image replaces this one. Random numbers
come from PyTorch's global generator on the CPU, which the engine seeds in every step.
"""

import math

import torch
from torch import Tensor

from ssl4seg.axes import along_axes
from ssl4seg.seeding import sent


def mix(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    """`b` inside the mask, `a` outside; a mask between 0 and 1 blends (mixup)."""
    return torch.lerp(a, b, mask)


def mix_labels(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    """`mix` for maps [N, *X] of any type, such as labels."""
    return torch.where(mask[:, 0] > 0.5, b, a)


def mixup_shares(images: Tensor, alpha: float) -> Tensor:
    """Shares [N, 1, ...] of another image for the images [N, C, *X], from Beta(alpha, alpha) (mixup, Zhang 2018)."""
    both = torch.tensor(float(alpha))
    shares = torch.distributions.Beta(both, both).sample((len(images),))
    return sent(along_axes(shares, images), images.device)


def cutmix_mask(images: Tensor, area: float = 0.5) -> Tensor:
    """A box for each image [N, C, *X] (French et al., BMVC 2020).

    The box covers the share `area` of the image. Its height / the image's is log-uniform in [area, 1]; its place is
    uniform. With three axes the logarithm of the share is divided among them at two uniform places.
    """
    num, _, *lengths = images.shape
    u = torch.rand((2 * len(lengths) - 1, num))
    cuts = torch.exp(u[: len(lengths) - 1].sort(dim=0).values * math.log(area))
    whole = torch.ones(1, num)
    shares = torch.cat([cuts, whole * area]) / torch.cat([whole, cuts])
    return _boxes(images, (shares * torch.tensor(lengths)[:, None]).round(), u[len(lengths) - 1 :])


def cutmix_boxes(
    images: Tensor, p: float = 0.5, area: tuple[float, float] = (0.02, 0.4), ratio: tuple[float, float] = (0.3, 1 / 0.3)
) -> Tensor:
    """A box for a share `p` of the images, an empty mask for the others (UniMatch, Yang et al. 2023, as AugSeg before).

    The box's area, as a share of the image's, is uniform in `area`, its height : width in `ratio`, and its place in the
    image. A box that does not fit is clipped to the image's sides. With three axes `area` is the share of the volume,
    and each further side is as long as the geometric mean of the first two, in proportion to the image.
    """
    num, _, *lengths = images.shape
    u = torch.rand((3 + len(lengths), num))
    share = area[0] + u[0] * (area[1] - area[0])
    size = share ** (2 / len(lengths)) * lengths[0] * lengths[1]
    shape = ratio[0] + u[1] * (ratio[1] - ratio[0])
    sides = [(size * shape).sqrt(), (size / shape).sqrt()]
    sides += [share ** (1 / len(lengths)) * length for length in lengths[2:]]
    sizes = torch.stack([side.round().clamp(1, length) for side, length in zip(sides, lengths, strict=True)])
    return _boxes(images, sizes, u[2:-1]) * along_axes(sent(u[-1] < p, images.device), images)


def beta_boxes(images: Tensor, a: float, b: float) -> Tensor:
    """A box of the image's proportions for each image; its share of the image's area is Beta(a, b), its place uniform.

    CutMix (Yun et al. 2019) has Beta(1, 1); AugSeg (Zhao et al. 2023) has Beta(4, 4), which favours a middle size.
    """
    num, _, *lengths = images.shape
    share = torch.distributions.Beta(*torch.tensor([a, b], dtype=torch.float32)).sample((num,))
    side = share.sqrt() if len(lengths) == 2 else share ** (1 / len(lengths))
    return _boxes(images, (side * torch.tensor(lengths)[:, None]).round(), torch.rand(len(lengths), num))


def copy_paste_mask(images: Tensor, side: float = 2 / 3) -> Tensor:
    """A box with the share `side` of each of the image's sides, its place uniform (BCP, Bai et al. 2023)."""
    num, _, *lengths = images.shape
    sizes = torch.tensor([[int(side * length)] * num for length in lengths])
    return _boxes(images, sizes, torch.rand(len(lengths), num))


def classmix_mask(label: Tensor, num_classes: int) -> Tensor:
    """The pixels of half (rounded down) of the classes in each label [N, *X] (ClassMix, Olsson et al. 2021)."""
    present = torch.stack([(label == k).flatten(1).any(dim=1) for k in range(num_classes)], dim=1)
    order = torch.where(present, sent(torch.rand(present.shape), label.device), 2.0).argsort(dim=1).argsort(dim=1)
    taken = (order < present.sum(dim=1, keepdim=True) // 2).float()  # [N, K]
    counted = label < num_classes
    mask = taken.gather(1, label.masked_fill(~counted, 0).flatten(1)).view_as(label) * counted
    return mask[:, None]


def cut_patches(maps: Tensor, num: int) -> Tensor:
    """[N, C, *X] -> equal patches [N, num^n, C, *x], num along each of the n axes; pixels left over are dropped."""
    axes = maps.ndim - 2
    for axis in range(2, 2 * axes + 2, 2):  # each axis becomes two: patch, and pixel in the patch
        size = maps.shape[axis] // num
        maps = maps.narrow(axis, 0, num * size).unflatten(axis, (num, size))
    grid = maps.permute(0, *range(2, 2 * axes + 2, 2), 1, *range(3, 2 * axes + 2, 2))
    return grid.flatten(1, axes)


def paste_patch(maps: Tensor, num: int, to: Tensor, patch: Tensor) -> Tensor:
    """Copy `maps` [N, C, *X], and replace patch number `to` [N] of its num^n patches by `patch` [N, C, *x]."""
    axes = maps.ndim - 2
    rows = torch.arange(len(maps), device=maps.device)
    patches = cut_patches(maps, num).index_put((rows, to), patch)
    grid = patches.unflatten(1, (num,) * axes)
    order = [place for axis in range(1, axes + 1) for place in (axis, axes + 1 + axis)]
    grid = grid.permute(0, axes + 1, *order)
    for axis in range(2, axes + 2):
        grid = grid.flatten(axis, axis + 1)
    pasted = maps.clone()
    pasted[(slice(None), slice(None), *map(slice, grid.shape[2:]))] = grid
    return pasted


def low_frequencies(images: Tensor, below: float) -> Tensor:
    """The part of [N, C, *X] whose frequency is below `below` cycles a pixel along every axis, by FFT, in float32."""
    lengths = images.shape[2:]
    axes = tuple(range(2, images.ndim))
    spectrum = torch.fft.rfftn(images.float(), dim=axes)
    for axis, length in zip(axes, lengths, strict=True):
        cycles = torch.arange(spectrum.shape[axis], device=images.device)
        if axis < axes[-1]:  # the last axis has the frequencies from 0 on alone
            cycles = torch.minimum(cycles, length - cycles)
        spectrum = spectrum * (cycles < below * length).view(-1, *(1 for _ in range(axis + 1, images.ndim)))
    low: Tensor = torch.fft.irfftn(spectrum, s=lengths, dim=axes)
    return low


def swap_low_frequencies(a: Tensor, b: Tensor, below: float) -> tuple[Tensor, Tensor]:
    """Images a and b [N, C, *X], each with the low frequencies of the other (beta-FFT, Hu et al. 2025)."""
    change = low_frequencies(b, below) - low_frequencies(a, below)
    return a + change, b - change


def _boxes(images: Tensor, sizes: Tensor, place: Tensor) -> Tensor:
    """Boxes of `sizes` [n, N] pixels along the n axes.

    Args:
        place: [n, N] from 0 at the first pixels of an axis to 1 at the last.
    """
    num, _, *lengths = images.shape
    inside = torch.ones(num, 1, *lengths, dtype=torch.bool, device=images.device)
    for axis, length in enumerate(lengths):
        start = (place[axis] * (length - sizes[axis])).round()[:, None]
        at = torch.arange(length)
        line = (at >= start) & (at < start + sizes[axis][:, None])
        inside &= sent(line, images.device).view(num, 1, *(length if k == axis else 1 for k in range(len(lengths))))
    return inside.float()
