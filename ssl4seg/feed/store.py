"""Training images by their numbers; `Store` holds all of them decoded in memory, so that no step opens a file."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, NotRequired, TypedDict, Unpack

import torch
from torch import Tensor

from ssl4seg.data.case import Case, Part, Volume, checked
from ssl4seg.keys import IGNORE
from ssl4seg.seeding import generator

MAX_POINTS = 10_000
"""Pixels of a class and image from which the centres of patches are drawn (as nnU-Net)."""


class Raw(NamedTuple):
    """Images at native size, padded at the far end of each axis to the largest of the batch."""

    image: Tensor
    """[B, C, *X] float32, or uint8 where 255 stands for 1; zero in the padding."""
    label: Tensor
    """[B, *X] uint8; IGNORE in the padding and where there is no mask."""
    size: Tensor
    """[B, n] float32, on the CPU: the lengths of each image along its n axes, without padding."""


class Box(NamedTuple):
    """A part of an image: along each of its axes the pixels from `low` to `high` - 1."""

    low: Sequence[int]
    high: Sequence[int]

    @property
    def slices(self) -> Part:
        """The index of the part in [..., *X]."""
        return tuple(map(slice, self.low, self.high))


Boxes = Sequence[Box]


def packed(images: Sequence[Tensor], labels: Sequence[Tensor | None]) -> Raw:
    """Images [C, *x] of any sizes, and their labels [*x], as one batch."""
    first, sizes = images[0], [image.shape[1:] for image in images]
    largest = [max(lengths) for lengths in zip(*sizes, strict=True)]
    image = _gathered(images, first.new_zeros(()), (first.shape[0], *largest))
    label = _gathered(labels, first.new_full((), IGNORE, dtype=torch.uint8), largest)
    return Raw(image, label, torch.tensor(sizes, dtype=torch.float32))


def _gathered(parts: Sequence[Tensor | None], fill: Tensor, shape: Sequence[int]) -> Tensor:
    """Parts at the near end of each axis of `shape`, and the number `fill` elsewhere.

    Parts that all have that shape are copied at once: a GPU gets one order instead of one for each part.
    """
    whole = [part for part in parts if part is not None and part.shape == torch.Size(shape)]
    if len(whole) == len(parts):
        return torch.stack(whole)
    batch = fill.expand(len(parts), *shape).clone(memory_format=torch.contiguous_format)
    for row, part in zip(batch, parts, strict=True):
        if part is not None:
            row[tuple(map(slice, part.shape))] = part
    return batch


class Expected(TypedDict):
    """What the cases are checked against, and whether their masks are read."""

    num_classes: int
    """K"""
    channels: NotRequired[int | None]
    """C; None or left out: any number."""
    labels: bool


class Images(ABC):
    """All images of some cases, slices or volumes, numbered in the order of the cases."""

    sizes: Tensor
    """[num, n] float32: the lengths of each image along its axes."""

    def __init__(self, cases: Sequence[Case], **expected: Unpack[Expected]) -> None:
        self.cases, self.labeled = cases, expected["labels"]
        self.num_classes, self.channels = expected["num_classes"], expected.get("channels")
        self._foreground: dict[int, list[Tensor]] = {}

    def __len__(self) -> int:
        return len(self.sizes)

    def checked(self, case: Case, volume: Volume) -> Volume:
        """The pixels of a case or of a part of it; a UserError if they are not as expected."""
        return checked(volume, case.name, self.num_classes, self.channels)

    @abstractmethod
    def one(self, index: int, part: Part = ()) -> tuple[Tensor, Tensor | None]:
        """Image `index` [C, *X] and its label [*X], or that part of both; None without a mask."""

    def foreground(self, index: int) -> Sequence[Tensor]:
        """The pixels of each class but class 0 that image `index` holds: [p, n] positions along its axes.

        They are looked for once, on the CPU: a GPU is waited for once in an image. At most MAX_POINTS of a class are
        kept, spread evenly.
        """
        if index not in self._foreground:
            _, label = self.one(index)
            label = torch.zeros(0) if label is None else label.cpu()
            present = [k for k in label.unique().tolist() if k not in (0, IGNORE)]
            self._foreground[index] = [_spread((label == k).nonzero()) for k in present]
        return self._foreground[index]

    def take(self, indices: Sequence[int], boxes: Boxes | None = None) -> Raw:
        """The images `indices`, in that order; with `boxes` only the part of each in its box."""
        images: list[Tensor] = []
        labels: list[Tensor | None] = []
        for row, index in enumerate(indices):
            image, label = self.one(index, boxes[row].slices if boxes else ())
            images.append(image)
            labels.append(label)
        return packed(images, labels)


def _spread(points: Tensor) -> Tensor:
    return points[:: -(-len(points) // MAX_POINTS)].to(torch.int16)


class Store(Images):
    """Images in memory.

    Args:
        cases: each is read once and checked.
        device: holds the images.
        expected: see `Expected`.
    """

    def __init__(self, cases: Sequence[Case], *, device: torch.device | str, **expected: Unpack[Expected]) -> None:
        super().__init__(cases, **expected)
        self.images: list[Tensor] = []
        self.labels: list[Tensor | None] = []
        for case in cases:
            volume = self.checked(case, case.volume(label=self.labeled))
            self.images += torch.from_numpy(volume.image).to(device).unbind()
            if self.labeled and volume.label is not None:
                self.labels += torch.from_numpy(volume.label).to(device).unbind()
            else:
                self.labels += [None] * len(volume.image)
        self.sizes = torch.tensor([image.shape[1:] for image in self.images], dtype=torch.float32)

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in self.images) + sum(t.nbytes for t in self.labels if t is not None)

    def one(self, index: int, part: Part = ()) -> tuple[Tensor, Tensor | None]:
        label = self.labels[index]
        return self.images[index][:, *part], None if label is None else label[part]


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
