"""Training images by their numbers; `Store` holds all of them decoded in memory, so that no step opens a file."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ssl4seg.data.case import Case, checked
from ssl4seg.keys import IGNORE
from ssl4seg.seeding import generator


class Raw(NamedTuple):
    """Images at native size, padded at the bottom and right to the largest of the batch."""

    image: Tensor
    """[B, C, H, W] float32, or uint8 where 255 stands for 1; zero in the padding."""
    label: Tensor
    """[B, H, W] uint8; IGNORE in the padding and where there is no mask."""
    size: Tensor
    """[B, 2] float32, on the CPU: height and width of each image without padding."""


class Box(NamedTuple):
    """A part of an image: rows top..bottom - 1 and columns left..right - 1, in pixels."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """The index of the part in [..., H, W]."""
        return slice(self.top, self.bottom), slice(self.left, self.right)


Boxes = Sequence[Box]


def packed(images: Sequence[Tensor], labels: Sequence[Tensor | None]) -> Raw:
    """Images [C, h, w] of any sizes, and their labels [h, w], as one batch."""
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


class Images(ABC):
    """All slices of some cases, numbered in the order of the cases."""

    sizes: Tensor
    """[num, 2] float32: height and width of each slice."""

    def __len__(self) -> int:
        return len(self.sizes)

    @abstractmethod
    def one(self, index: int) -> tuple[Tensor, Tensor | None]:
        """Slice `index` [C, H, W] and its label [H, W]; None without a mask."""

    def take(self, indices: Sequence[int], boxes: Boxes | None = None) -> Raw:
        """The slices `indices`, in that order; with `boxes` only the part of each in its box."""
        images: list[Tensor] = []
        labels: list[Tensor | None] = []
        for row, index in enumerate(indices):
            image, label = self.one(index)
            part = boxes[row].slices if boxes else ()
            images.append(image[:, *part])
            labels.append(None if label is None else label[part])
        return packed(images, labels)


class Store(Images):
    """Images in memory.

    Args:
        cases: each is read once and checked.
        num_classes: K, to check the masks against.
        channels: C, to check the images against; None: any number.
        labels: whether masks are read and held.
        device: holds the images.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        *,
        num_classes: int,
        channels: int | None = None,
        labels: bool,
        device: torch.device | str,
    ) -> None:
        self.images: list[Tensor] = []
        self.labels: list[Tensor | None] = []
        for case in cases:
            volume = checked(case.volume(label=labels), case.name, num_classes, channels)
            self.images += torch.from_numpy(volume.image).to(device).unbind()
            if labels and volume.label is not None:
                self.labels += torch.from_numpy(volume.label).to(device).unbind()
            else:
                self.labels += [None] * len(volume.image)
        self.sizes = torch.tensor([image.shape[-2:] for image in self.images], dtype=torch.float32).reshape(-1, 2)

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in self.images) + sum(t.nbytes for t in self.labels if t is not None)

    def one(self, index: int) -> tuple[Tensor, Tensor | None]:
        return self.images[index], self.labels[index]


class Order:
    """An endless order of `num` images: a new permutation every epoch, each a function of the seed and the epoch.

    Args:
        words: the words of the seed, see `seeding.seed_of`.
    """

    def __init__(self, num: int, *words: int | str) -> None:
        self.num, self.words = num, words
        self._epoch, self._permutation = -1, [0]

    def __getitem__(self, position: int) -> int:
        epoch, place = divmod(position, self.num)
        if epoch != self._epoch:
            self._epoch = epoch
            self._permutation = torch.randperm(self.num, generator=generator(*self.words, epoch)).tolist()
        return self._permutation[place]
