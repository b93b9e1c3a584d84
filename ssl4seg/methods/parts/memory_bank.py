"""A memory bank: a queue of representations for each class, which reaches back over earlier batches."""

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl4seg.processes import all_rows
from ssl4seg.seeding import sent


class MemoryBank(nn.Module):
    """K queues of unit vectors [D], first in, first out; part of the method's state, so that a resumed run has them.

    The vectors are float16, which moves a cosine by less than 0.001. Nothing here waits for the device.

    Args:
        sizes: number of vectors that each class's queue holds.
        channels: D.
    """

    vectors: Tensor
    written: Tensor
    size: Tensor
    first: Tensor

    def __init__(self, sizes: Sequence[int], channels: int) -> None:
        super().__init__()
        first = list(itertools.accumulate(sizes, initial=0))
        # The queues lie one after the other; vectors that are not kept go to the row behind them.
        self.register_buffer("vectors", torch.zeros(first[-1] + 1, channels, dtype=torch.float16))
        self.register_buffer("written", torch.zeros(len(sizes), dtype=torch.int64))
        self.register_buffer("size", torch.tensor(sizes), persistent=False)
        self.register_buffer("first", torch.tensor(first[:-1]), persistent=False)

    @property
    def held(self) -> Tensor:
        """Number of vectors in each queue [K]."""
        return torch.minimum(self.written, self.size)

    @torch.no_grad()
    def push(self, vectors: Tensor, valid: Tensor) -> None:
        """Put the `valid` [K, n] ones of the vectors [K, n, D] of all processes into their class's queue."""
        vectors, valid = all_rows(vectors, dim=1), all_rows(valid, dim=1)
        number = valid.cumsum(dim=1)
        total = number[:, -1:]
        kept = valid & (number > total - self.size[:, None])
        place = self.first[:, None] + (self.written[:, None] + number - 1) % self.size[:, None]
        row = torch.where(kept, place, len(self.vectors) - 1)
        self.vectors[row] = (F.normalize(vectors.float(), dim=2) * kept[:, :, None]).to(self.vectors.dtype)
        self.written += total[:, 0]

    @torch.no_grad()
    def draw(self, num: int) -> Tensor:
        """[K, num, D] vectors of each queue, drawn with replacement; zeros from an empty queue."""
        index = uniform_index(self.held, num)
        return self.vectors[self.first[:, None] + index].float() * (self.held > 0)[:, None, None]


def uniform_index(count: Tensor, num: int) -> Tensor:
    """[K, num] int64 in 0..count - 1 of each row, uniform, with replacement; 0 where the count [K] is 0."""
    u = sent(torch.rand(len(count), num), count.device)
    return torch.minimum((u * count[:, None]).long(), count[:, None] - 1).clamp(min=0)


def spread_index(count: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """[K, num] int64 in 0..count - 1: all indices if there are at most `num`, else one at random in each `num`-th part.

    The second tensor [K, num] says which of the entries exist.
    """
    order = torch.arange(num, device=count.device).expand(len(count), num)
    part = count[:, None] / num
    u = sent(torch.rand(len(count), num), count.device)
    index = torch.where(part > 1, ((order + u) * part).long(), order)
    return torch.minimum(index, count[:, None] - 1).clamp(min=0), order < count[:, None]


def nth_true(mask: Tensor, index: Tensor) -> Tensor:
    """Place of the `index`-th true element (from 0) of each row of mask [K, P]: [K, n]; P - 1 if there is none."""
    return torch.searchsorted(mask.cumsum(dim=1), index + 1).clamp(max=mask.shape[1] - 1)
