"""Training images that do not fit in memory: read again each time, by worker processes, ahead of their step."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ssl4seg.data.case import Case, ImageArray, LabelArray, Volume, checked
from ssl4seg.errors import UserError
from ssl4seg.store import Boxes, Raw, packed

Item = TypeVar("Item")
FOREVER = 2**62
KEPT_BYTES = 2**27
"""Of each process and stream: some fifty volumes of ACDC, or one of computed tomography."""
KILLED = (
    "a process that reads images ahead was killed, perhaps for want of memory: lower engine.num_workers; a container "
    "may need more shared memory (docker run --shm-size=8g)"
)


class Stream:
    """Every slice of some cases, as `Store`, but on the disk.

    Args:
        cases: each is checked whenever it is read.
        num_classes: K, to check the masks against.
        labels: whether masks are read.
        kept_bytes: of decoded cases are kept, those of last use, and always the last one.
    """

    def __init__(self, cases: Sequence[Case], *, num_classes: int, labels: bool, kept_bytes: int = KEPT_BYTES) -> None:
        self.cases, self.num_classes, self.labels, self.kept_bytes = cases, num_classes, labels, kept_bytes
        self.places = [(number, i) for number, case in enumerate(cases) for i in range(case.num_images)]
        self.sizes = torch.tensor([cases[number].size for number, _ in self.places], dtype=torch.float32).reshape(-1, 2)
        self.kept: dict[int, Volume] = {}
        self.seen: set[int] = set()

    def __len__(self) -> int:
        return len(self.places)

    def volume(self, number: int) -> Volume:
        """A case, whole."""
        found = self.kept.pop(number, None)
        if found is None:
            # Before it is read: a large one is gone by then.
            while self.kept and sum(map(_nbytes, self.kept.values())) > self.kept_bytes:
                del self.kept[next(iter(self.kept))]
            found = self._checked(number, self.cases[number].volume(label=self.labels))
            self.seen.add(number)
        self.kept[number] = found
        return found

    def slice(self, number: int, i: int) -> tuple[ImageArray, LabelArray | None]:
        """One slice of a case [C, H, W] and its mask [H, W]; a case is read whole, and checked, at first."""
        read = self.cases[number].read_slice
        if read and number in self.seen and number not in self.kept:
            image, label = self._checked(number, read(i, self.labels and self.cases[number].labeled))
            i = 0
        else:
            image, label = self.volume(number)
        return image[i], label[i] if self.labels and label is not None else None

    def _checked(self, number: int, volume: Volume) -> Volume:
        return checked(volume, self.cases[number].name, self.num_classes)

    def take(self, indices: Sequence[int], boxes: Boxes | None = None) -> Raw:
        """The images at `indices`, in that order, or the parts `boxes` of them."""
        images: list[Tensor] = []
        labels: list[Tensor | None] = []
        for row, index in enumerate(indices):
            image, label = self.slice(*self.places[index])
            part = boxes[row].slices if boxes else ()
            images.append(torch.from_numpy(image)[:, *part])
            labels.append(None if label is None else torch.from_numpy(label)[part])
        return packed(images, labels)


def _nbytes(volume: Volume) -> int:
    return volume.image.nbytes + (0 if volume.label is None else volume.label.nbytes)


class _Refusal(NamedTuple):
    message: str


class Ahead(Generic[Item]):
    """What `read` gives for each step, made by worker processes a few steps ahead.

    Args:
        read: step -> item, a pure function; a UserError in it is raised where the step is asked for.
        num_workers: processes; None is one a CPU core, 8 at most; with 0 nothing is read ahead.
        pinned: whether tensors lie in page-locked memory, from which a GPU copies while it computes.
    """

    def __init__(self, read: Callable[[int], Item], *, num_workers: int | None, pinned: bool) -> None:
        self.read, self.pinned = read, pinned
        self.num_workers = min(_cores(), 8) if num_workers is None else num_workers
        self.items: Iterator[Item | _Refusal] = iter(())
        self.last: tuple[int, Item] | None = None

    def __call__(self, step: int) -> Item:
        """The item of `step`; steps are asked for in their order, each once or several times."""
        if self.last and step == self.last[0]:
            return self.last[1]
        if not self.last or step != self.last[0] + 1:
            self.items = self._items(step)
        item = self._next()
        if isinstance(item, _Refusal):
            self.close()
            raise UserError(item.message)
        self.last = step, item
        return item

    def _next(self) -> Item | _Refusal:
        try:
            return next(self.items)
        except (RuntimeError, EOFError, OSError) as error:
            if not self.num_workers or str(error).startswith("Caught "):  # what `read` itself raised
                raise
        # Out of the block, whose traceback holds on to the processes that are to end.
        with suppress(RuntimeError):  # of the signal that a worker has died, if it comes only now
            time.sleep(0.1)
        self.close()
        raise UserError(KILLED)

    def close(self) -> None:
        """End the worker processes and forget what was read ahead: it is not needed, or `read` gives something else."""
        self.items, self.last = iter(()), None

    def _items(self, first: int) -> Iterator[Item | _Refusal]:
        self.close()
        forked = self.num_workers > 0 and sys.platform == "linux"
        return iter(
            DataLoader(
                _Steps(self.read),
                batch_size=None,
                sampler=range(first, FOREVER),
                num_workers=self.num_workers,
                pin_memory=self.pinned,
                multiprocessing_context="fork" if forked else None,  # starts at once, and pickles nothing
                worker_init_fn=_out_of_the_group,
                generator=torch.Generator(),  # or it would draw from the run's, once more in a run that is gone on with
            )
        )


class _Steps(Dataset[Any]):
    def __init__(self, read: Callable[[int], Any]) -> None:
        self.read = read

    def __getitem__(self, step: int) -> Any:
        try:
            return self.read(step)
        except UserError as error:  # an exception would come out of a worker with its traceback as the message
            return _Refusal(str(error))


def _out_of_the_group(worker: int) -> None:
    """Ctrl-C reaches all processes of a group, but is a message to the run, which ends its workers itself."""
    os.setpgrp()


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
