"""Training images that do not fit in memory: worker processes read them from the disk, ahead of the step."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Generic, NamedTuple, TypeVar, Unpack

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ssl4seg.data.case import Case, Part, Volume
from ssl4seg.errors import UserError
from ssl4seg.feed.store import Expected, Images
from ssl4seg.processes import cores

Item = TypeVar("Item")
FOREVER = 2**62
CACHE_BYTES = 2**27
"""Memory for decoded cases in each process and stream: about fifty volumes of ACDC, or one of computed tomography."""
KILLED = (
    "a process that reads images ahead was killed, perhaps for lack of memory: lower engine.num_workers; a container "
    "may need more shared memory (docker run --shm-size=8g)"
)


class Stream(Images):
    """Images on the disk.

    Args:
        cases: each is checked whenever it is read.
        cache_bytes: memory for the decoded cases used last; the very last one always stays.
        expected: see `Expected`.
    """

    def __init__(self, cases: Sequence[Case], *, cache_bytes: int = CACHE_BYTES, **expected: Unpack[Expected]) -> None:
        super().__init__(cases, **expected)
        self.cache_bytes = cache_bytes
        self.places = [(number, i) for number, case in enumerate(cases) for i in range(case.num_images)]
        self.sizes = torch.tensor([cases[number].size for number, _ in self.places], dtype=torch.float32)
        self.cache: dict[int, Volume] = {}
        self.seen: set[int] = set()

    def volume(self, number: int) -> Volume:
        """All pixels of a case."""
        volume = self.cache.pop(number, None)
        if volume is None:
            # Make room before reading, so that two large cases are never held at once.
            while self.cache and sum(map(_nbytes, self.cache.values())) > self.cache_bytes:
                del self.cache[next(iter(self.cache))]
            volume = self.checked(self.cases[number], self.cases[number].volume(label=self.labeled))
            self.seen.add(number)
        self.cache[number] = volume  # last in the order of use
        return volume

    def one(self, index: int, part: Part = ()) -> tuple[Tensor, Tensor | None]:
        """The first time, the whole case is read and checked; later the part alone, where the file allows it."""
        number, i = self.places[index]
        case = self.cases[number]
        if case.read_part and number in self.seen and number not in self.cache:
            found = case.read_part((slice(i, i + 1), *part), self.labeled and case.labeled)
            i, part, (image, label) = 0, (), self.checked(case, found)
        else:
            image, label = self.volume(number)
        mask = label[i][part] if self.labeled and label is not None else None
        return torch.from_numpy(image[i])[:, *part], None if mask is None else torch.from_numpy(mask)


def _nbytes(volume: Volume) -> int:
    return volume.image.nbytes + (0 if volume.label is None else volume.label.nbytes)


class _Refusal(NamedTuple):
    """A UserError on its way out of a worker process."""

    message: str


class Ahead(Generic[Item]):
    """Calls `read` for each step in worker processes, a few steps ahead.

    Args:
        read: step -> item, a pure function; its UserError is raised when its step is asked for.
        num_workers: processes; None is one for each CPU core, 8 at most; with 0 nothing is read ahead.
        pinned: whether tensors lie in page-locked memory, from which a GPU copies while it computes.
    """

    def __init__(self, read: Callable[[int], Item], *, num_workers: int | None, pinned: bool) -> None:
        self.read, self.pinned = read, pinned
        self.num_workers = min(cores(), 8) if num_workers is None else num_workers
        self.items: Iterator[Item | _Refusal] = iter(())
        self.last: tuple[int, Item] | None = None

    def __call__(self, step: int) -> Item:
        """The item of `step`. A step other than the last one or its successor makes reading ahead start anew."""
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
            if not self.num_workers or str(error).startswith("Caught "):  # raised by `read`
                raise
        # After the `except` block: its traceback would keep the processes alive.
        with suppress(RuntimeError):  # PyTorch's signal handler raises this, perhaps only now, when a worker has died
            time.sleep(0.1)
        self.close()
        raise UserError(KILLED)

    def close(self) -> None:
        """End the worker processes and forget what they have read ahead, which is no longer needed or valid."""
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
                worker_init_fn=_leave_group,
                generator=torch.Generator(),  # else it draws from the global one, once more in a resumed run
            )
        )


class _Steps(Dataset[Any]):
    def __init__(self, read: Callable[[int], Any]) -> None:
        self.read = read

    def __getitem__(self, step: int) -> Any:
        try:
            return self.read(step)
        except UserError as error:  # leaving a worker, an exception's message becomes its whole traceback
            return _Refusal(str(error))


def _leave_group(worker: int) -> None:
    """Keep Ctrl-C, which reaches every process of a group, from the workers: the run ends them itself."""
    os.setpgrp()
