"""Training images that do not fit in memory: read again each time, by worker processes, ahead of their step."""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ssl4seg.data.case import Case, Volume, checked
from ssl4seg.data.store import Boxes, Raw, packed
from ssl4seg.errors import UserError

Item = TypeVar("Item")
FOREVER = 2**62


class Stream:
    """Every slice of some cases, as `Store`, but on the disk.

    Args:
        cases: each is checked whenever it is read.
        num_classes: K, to check the masks against.
        labels: whether masks are read.
    """

    def __init__(self, cases: Sequence[Case], *, num_classes: int, labels: bool) -> None:
        self.cases, self.num_classes, self.labels = cases, num_classes, labels
        self.places = [(number, i) for number, case in enumerate(cases) for i in range(case.num_images)]
        self.sizes = torch.tensor([cases[number].size for number, _ in self.places], dtype=torch.float32).reshape(-1, 2)
        self.volume: Callable[[int], Volume] = lru_cache(maxsize=2)(self._volume)  # slices of a volume come one by one

    def __len__(self) -> int:
        return len(self.places)

    def _volume(self, number: int) -> Volume:
        case = self.cases[number]
        return checked(case.read(), case.name, self.num_classes)

    def take(self, indices: Sequence[int], boxes: Boxes | None = None) -> Raw:
        """The images at `indices`, in that order, or the parts `boxes` of them."""
        images: list[Tensor] = []
        labels: list[Tensor | None] = []
        for row, index in enumerate(indices):
            number, i = self.places[index]
            image, label, _ = self.volume(number)
            part = boxes[row].slices if boxes else ()
            images.append(torch.from_numpy(image[i])[:, *part])
            labels.append(torch.from_numpy(label[i])[part] if self.labels and label is not None else None)
        return packed(images, labels)


class Ahead(Generic[Item]):
    """What `read` gives for each step, made by worker processes a few steps ahead.

    Args:
        read: step -> item, a pure function; a UserError in it is raised where the step is asked for.
        num_workers: processes; None is one a CPU core, 8 at most.
        pinned: whether tensors lie in page-locked memory, from which a GPU copies while it computes.
    """

    def __init__(self, read: Callable[[int], Item], *, num_workers: int | None, pinned: bool) -> None:
        self.read, self.pinned = read, pinned
        self.num_workers = min(os.cpu_count() or 1, 8) if num_workers is None else num_workers
        self.next, self.item = -1, None
        self.items: Iterator[Any] = iter(())

    def __call__(self, step: int) -> Item:
        """The item of `step`; steps are asked for in their order, each once or several times."""
        if self.item is not None and step == self.next - 1:
            return self.item
        if step != self.next:
            self.items = iter(
                DataLoader(
                    _Steps(self.read),
                    batch_size=None,
                    sampler=range(step, FOREVER),
                    num_workers=self.num_workers,
                    pin_memory=self.pinned,
                )
            )
        item = next(self.items)
        if isinstance(item, str):
            raise UserError(item)
        self.next, self.item = step + 1, item
        return item  # type: ignore[no-any-return]

    def restart(self) -> None:
        """Forget what was read ahead: `read` gives something else now."""
        self.next, self.item, self.items = -1, None, iter(())


class _Steps(Dataset[Any]):
    def __init__(self, read: Callable[[int], Any]) -> None:
        self.read = read

    def __getitem__(self, step: int) -> Any:
        try:
            return self.read(step)
        except UserError as error:  # an exception would come out of a worker with its traceback as the message
            return str(error)
