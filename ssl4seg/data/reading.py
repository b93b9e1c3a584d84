"""Whole splits: read now, or case by case and ahead of their use."""

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import overload

import numpy as np

from ssl4seg.data.case import Case, Volume, checked
from ssl4seg.data.dataset import Dataset
from ssl4seg.errors import UserError
from ssl4seg.processes import memory


class OnDemand(Sequence[tuple[Case, Volume]]):
    """The cases of a split, each read and checked when it is asked for; each must have a mask.

    One after the other they are read ahead by threads, which decode and wait for the disk while the network computes:
    up to eight images, but volumes, which take more memory, one at a time.
    """

    def __init__(self, cases: Sequence[Case], num_classes: int, channels: int | None = None) -> None:
        self.cases, self.num_classes, self.channels = cases, num_classes, channels
        self.ahead = max(1, 8 // max((case.num_images for case in cases), default=1))

    def __len__(self) -> int:
        return len(self.cases)

    @overload
    def __getitem__(self, index: int) -> tuple[Case, Volume]: ...
    @overload
    def __getitem__(self, index: slice) -> "OnDemand": ...
    def __getitem__(self, index: int | slice) -> "tuple[Case, Volume] | OnDemand":
        if isinstance(index, slice):
            return OnDemand(self.cases[index], self.num_classes, self.channels)
        return self._read(self.cases[index])

    def _read(self, case: Case) -> tuple[Case, Volume]:
        if not case.labeled:
            raise UserError(f"{case.name}: has no mask; every case of val and test needs one")
        return case, checked(case.read(), case.name, self.num_classes, self.channels)

    def __iter__(self) -> Iterator[tuple[Case, Volume]]:
        waiting, pool = iter(self.cases), ThreadPoolExecutor(self.ahead)
        try:
            coming = deque(pool.submit(self._read, case) for case in islice(waiting, self.ahead))
            while coming:
                found = coming.popleft().result()
                coming.extend(pool.submit(self._read, case) for case in islice(waiting, 1))
                yield found
        finally:
            pool.shutdown(cancel_futures=True)


def read_all(
    cases: Sequence[Case], num_classes: int, *, channels: int | None = None, resident: bool = True
) -> Sequence[tuple[Case, Volume]]:
    """Every case of a split, checked: read now (`resident`), or each when it is asked for."""
    found = OnDemand(cases, num_classes, channels)
    return [found[index] for index in range(len(found))] if resident else found


def classes_in_no_mask(cases: Iterable[Case], num_classes: int) -> list[int]:
    """The classes that no mask holds. It reads case after case until it has seen all classes, as a rule a few cases."""
    missing = {*range(num_classes)}
    for case in cases:
        if not missing:
            break
        label = case.read().label if case.labeled else None
        if label is not None:
            missing -= {*np.unique(label).tolist()}
    return sorted(missing)


def fits_in_memory(gib: float, resident_gib: float) -> bool:
    """Whether decoded images of this size are kept in memory: up to `resident_gib`, and never beyond the machine's."""
    return gib <= min(resident_gib, 0.9 * memory() / 2**30)


def decoded_gib(cases: Sequence[Case], dataset: Dataset) -> float:
    """The memory that the decoded cases take, in GiB."""
    pixels = sum(case.num_images * math.prod(case.size) for case in cases)
    return pixels * (dataset.channels * dataset.value_bytes + 1) / 2**30
