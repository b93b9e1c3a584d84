"""The training images, decoded and resident in memory: no step opens a file."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ssl4seg.data.case import Case, checked
from ssl4seg.keys import IGNORE
from ssl4seg.seeding import generator


class Raw(NamedTuple):
    """Images at native size, padded at the bottom right to the largest of the batch."""

    image: Tensor
    """[B, C, H, W] float32, or uint8 that stands for 255 times the value; zero in the padding."""
    label: Tensor
    """[B, H, W] uint8, IGNORE where there is no mask and in the padding."""
    size: Tensor
    """[B, 2] float32, on the CPU: the true height and width of each image."""


class Box(NamedTuple):
    """A part of an image, in pixels; the last row and column are outside."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """To take it from [..., H, W]."""
        return slice(self.top, self.bottom), slice(self.left, self.right)


Boxes = Sequence[Box]


def packed(images: Sequence[Tensor], labels: Sequence[Tensor | None]) -> Raw:
    """Images [C, h, w] of any sizes and their labels [h, w] as one batch."""
    sizes = [(image.shape[1], image.shape[2]) for image in images]
    height, width = (max(lengths) for lengths in zip(*sizes, strict=True))
    first = images[0]
    image = first.new_zeros((len(images), first.shape[0], height, width))
    label = torch.full((len(images), height, width), IGNORE, dtype=torch.uint8, device=first.device)
    for row, (pixels, mask, (h, w)) in enumerate(zip(images, labels, sizes, strict=True)):
        image[row, :, :h, :w] = pixels
        if mask is not None:
            label[row, :h, :w] = mask
    return Raw(image, label, torch.tensor(sizes, dtype=torch.float32))


class Store:
    """Every slice of some cases. With `labels=False` the masks are not even read into it.

    Args:
        cases: read once, each checked.
        num_classes: K, to check the masks against.
        device: where the images live.
    """

    def __init__(self, cases: Sequence[Case], *, num_classes: int, labels: bool, device: torch.device | str) -> None:
        self.images: list[Tensor] = []
        self.labels: list[Tensor | None] = []
        for case in cases:
            volume = checked(case.volume(label=labels), case.name, num_classes)
            self.images += torch.from_numpy(volume.image).to(device).unbind()
            if labels and volume.label is not None:
                self.labels += torch.from_numpy(volume.label).to(device).unbind()
            else:
                self.labels += [None] * len(volume.image)
        self.sizes = torch.tensor([image.shape[-2:] for image in self.images], dtype=torch.float32).reshape(-1, 2)
        """[num, 2] height and width of each image."""

    def __len__(self) -> int:
        return len(self.images)

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in self.images) + sum(t.nbytes for t in self.labels if t is not None)

    def take(self, indices: Sequence[int], boxes: Boxes | None = None) -> Raw:
        """The images at `indices`, in that order, or the parts `boxes` of them."""
        images, labels = [], []
        for row, i in enumerate(indices):
            part = boxes[row].slices if boxes else ()
            mask = self.labels[i]
            images.append(self.images[i][:, *part])
            labels.append(None if mask is None else mask[part])
        return packed(images, labels)


class Order:
    """An endless, stateless order over `num` images: every epoch is a fresh permutation, a function of the seed."""

    def __init__(self, num: int, *words: int | str) -> None:
        self.num, self.words = num, words
        self._epoch, self._permutation = -1, [0]

    def __getitem__(self, position: int) -> int:
        epoch, place = divmod(position, self.num)
        if epoch != self._epoch:
            self._epoch = epoch
            self._permutation = torch.randperm(self.num, generator=generator(*self.words, epoch)).tolist()
        return self._permutation[place]
