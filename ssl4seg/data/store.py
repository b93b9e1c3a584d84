"""The training images, decoded and resident in memory: no step opens a file."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ssl4seg.data.case import Case, checked
from ssl4seg.seeding import generator
from ssl4seg.types import IGNORE


class Raw(NamedTuple):
    """Images at native size, padded at the bottom right to the largest of the batch."""

    image: Tensor
    """[B, C, H, W] float32, zero in the padding."""
    label: Tensor
    """[B, H, W] uint8, IGNORE where there is no mask and in the padding."""
    size: Tensor
    """[B, 2] float32, on the CPU: the true height and width of each image."""


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
            volume = checked(case.read(), case.name, num_classes)
            self.images += torch.from_numpy(volume.image).to(device).unbind()
            if labels and volume.label is not None:
                self.labels += torch.from_numpy(volume.label).to(device).unbind()
            else:
                self.labels += [None] * len(volume.image)
        self.sizes = torch.tensor([image.shape[-2:] for image in self.images], dtype=torch.float32).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in self.images) + sum(t.nbytes for t in self.labels if t is not None)

    def take(self, indices: Sequence[int]) -> Raw:
        """The images at `indices`, in that order."""
        chosen = [self.images[i] for i in indices]
        height, width = (max(image.shape[d] for image in chosen) for d in (-2, -1))
        image = chosen[0].new_zeros((len(chosen), chosen[0].shape[0], height, width))
        label = torch.full((len(chosen), height, width), IGNORE, dtype=torch.uint8, device=image.device)
        for row, i in enumerate(indices):
            h, w = chosen[row].shape[-2:]
            image[row, :, :h, :w] = chosen[row]
            if (mask := self.labels[i]) is not None:
                label[row, :h, :w] = mask
        return Raw(image, label, self.sizes[list(indices)])


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
