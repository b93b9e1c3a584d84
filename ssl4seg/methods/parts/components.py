"""The largest connected component of each class, on the CPU by SciPy, on a GPU without waiting for it."""

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from ssl4seg.axes import layers_for


def largest_components(label: Tensor, num_classes: int) -> Tensor:
    """Labels [N, *X] in which each class but the background 0 keeps its largest component; the rest becomes 0.

    Pixels that touch at a corner are connected; of equally large components the first in reading order is kept.
    """
    return by_scipy(label) if label.device.type == "cpu" else by_merging(label, num_classes)


def by_scipy(label: Tensor) -> Tensor:
    """`largest_components` of labels on the CPU, mask after mask."""
    found = label.to(torch.uint8).numpy()
    kept = np.zeros_like(found)
    for image, result in zip(found, kept, strict=True):
        for k, around in enumerate(ndimage.find_objects(image), start=1):
            if around is not None:
                component, _ = ndimage.label(image[around] == k, structure=np.ones((3,) * image.ndim))
                sizes = np.bincount(component.ravel())[1:]
                result[around][component == sizes.argmax() + 1] = k
    return torch.from_numpy(kept).long()


def by_merging(label: Tensor, num_classes: int) -> Tensor:
    """`largest_components` on any device, all masks at once, without asking the device for anything."""
    foreground = F.one_hot(label, num_classes)[..., 1:].movedim(-1, 1).bool()  # [N, K - 1, *X]
    root = components(label, foreground).flatten(1)
    num, pixels = root.shape
    place = torch.arange(pixels, device=label.device).expand_as(root)
    # One flat count of whole numbers, which repeats to the last bit on a GPU too.
    slot = (root + pixels * torch.arange(num, device=label.device)[:, None]).flatten()
    size = torch.zeros_like(slot).scatter_add_(0, slot, torch.ones_like(slot)).view_as(root)
    first = place.scatter_reduce(1, root, place, "amin")
    rank = (size * pixels - first).gather(1, root)[:, None]  # the larger component, then the earlier one
    rank = torch.where(foreground.flatten(2), rank, -pixels)
    best = (rank == rank.amax(dim=2, keepdim=True)) & foreground.flatten(2)
    return torch.where(best.any(dim=1).view_as(label), label, 0)


def components(label: Tensor, foreground: Tensor) -> Tensor:
    """The connected components of equal labels [N, *X]: of each pixel the number of one pixel, its root, which is the
    same in the whole component. A pixel of the background is its own root.

    At first each pixel is a tree of its own (Boruvka's rounds, with pointer jumping as Shiloach & Vishkin 1982). In a
    round each tree joins the neighbouring tree with the largest root; if its own is larger, the one with the smallest.
    Roots rise along such joins. They fall only from a tree larger than all its neighbours, and the next join rises to
    at least that tree again. So no ring has more than two trees, and of two the larger root stays. Each tree that has a
    neighbour joins one: a component's trees at least halve in a round, and log2(pixels) rounds are always enough. To
    ask whether fewer were enough would wait for the device in every round.

    Args:
        foreground: [N, K - 1, *X] bool, where the label is 1, 2, ...
    """
    pixels = label[0].numel()
    root = torch.arange(pixels, device=label.device).expand(len(label), -1)
    place, rounds = root, (pixels - 1).bit_length()
    for left in range(rounds, 0, -1):  # at most 2 ** left trees
        largest, smallest = extrema(root.view_as(label), foreground)
        up = root.scatter_reduce(1, root, largest.flatten(1), "amax")
        down = root.scatter_reduce(1, root, smallest.flatten(1), "amin")
        joined = torch.where(root != place, root, torch.where(up > place, up, down))
        in_pair = (joined.gather(1, joined) == place) & (place > joined)
        root = torch.where(in_pair, place, joined)
        for _ in range(left + 1):
            root = root.gather(1, root)
    return root.view_as(label)


def extrema(number: Tensor, foreground: Tensor) -> tuple[Tensor, Tensor]:
    """The largest and the smallest of the numbers [N, *X] of a pixel and its neighbours of the same class.

    Numbers are from 0 to the pixels of an image; a pixel of the background has its own number alone.
    """
    end = number[0].numel()
    exact = torch.float32 if end < 2**24 else torch.float64  # whole numbers that pooling knows
    up, down = number.to(exact)[:, None] + 1, end - number.to(exact)[:, None]
    values = torch.cat([up * foreground, down * foreground], dim=1)
    pooled = layers_for(values).max_pool(values, 3, stride=1, padding=1)
    largest, fewest = ((part * foreground).amax(dim=1).long() for part in pooled.chunk(2, dim=1))
    background = ~foreground.any(dim=1)
    return torch.where(background, number, largest - 1), torch.where(background, number, end - fewest)
