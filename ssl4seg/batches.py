"""The batch of a step: a pure function of (seed, step), assembled from the two streams and their views."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ssl4seg.errors import UserError
from ssl4seg.operations import Operation
from ssl4seg.seeding import generator
from ssl4seg.store import Order, Raw, Store
from ssl4seg.stream import Ahead, Stream
from ssl4seg.types import Batch
from ssl4seg.views import View, boxes, moved, sample, strong_view

Drawn = tuple[Raw, Tensor]
"""Parts of images, and the theta that samples each weak view from its part."""


class Source:
    """The labelled or the unlabelled images: which of them a step takes, and what of each its weak view shows.

    Args:
        name: "labeled" or "unlabeled"; a word of the seed.
        store: in memory or on the disk.
        size: images in a process's batch.
        rank, world: this process among all.
    """

    def __init__(
        self, name: str, store: Store | Stream, *, size: int, weak: View, seed: int, rank: int, world: int
    ) -> None:
        self.name, self.store, self.size, self.weak, self.seed = name, store, size, weak, seed
        self.rank, self.world = rank, world
        self.restrict(None)

    def restrict(self, chosen: Sequence[int] | None) -> None:
        """Take only the images `chosen`; None takes all."""
        self.chosen = range(len(self.store)) if chosen is None else chosen
        self.order = Order(len(self.chosen), self.seed, self.name)

    def __call__(self, step: int) -> Drawn:
        """A pure function of the step, on the CPU or where the store is."""
        whole = self.size * self.world
        part = slice(self.rank * self.size, (self.rank + 1) * self.size)
        indices = [self.chosen[self.order[step * whole + i]] for i in range(whole)]
        native = self.store.sizes[indices]
        thetas = self.weak.thetas(native, generator(self.seed, self.name, "weak", step))
        return self.drawn(indices[part], native[part], thetas[part])

    def plain(self, indices: Sequence[int]) -> Drawn:
        """Whole images."""
        native = self.store.sizes[indices]
        return self.drawn(indices, native, self.weak.plain(native))

    def drawn(self, indices: Sequence[int], native: Tensor, thetas: Tensor) -> Drawn:
        """The parts of images of `native` size that thetas sample, and thetas as measured from their centres."""
        parts = boxes(thetas, native)
        return self.store.take(indices, parts), moved(thetas, native, parts)


class Batches:
    """Labelled and unlabelled batches, a process's own part of the global batch.

    All processes draw the order and the weak views of the global batch and take their part, so the number of processes
    changes neither. Strong views are drawn by each process for its own part.

    Args:
        labeled, unlabeled: in memory or on the disk; `unlabeled` is None for a method that uses none.
        sizes: images of each kind in a process's batch.
        side: pixels of the square input.
        weak, strong: the views; `num_strong` strong ones are made.
        rank, world: this process among all.
        num_workers: processes that read ahead from the disk, see `Ahead`.
        device: where the batch is needed.
    """

    def __init__(
        self,
        labeled: Store | Stream,
        unlabeled: Store | Stream | None,
        *,
        sizes: tuple[int, int],
        side: int,
        weak: View,
        strong: Sequence[Operation],
        num_strong: int,
        seed: int,
        device: torch.device,
        rank: int = 0,
        world: int = 1,
        num_workers: int | None = None,
    ) -> None:
        if num_strong and not strong:
            raise UserError("views.strong is empty, but the method needs strong views: choose operations in conf/views")
        self.sizes, self.side, self.weak, self.strong, self.num_strong = sizes, side, weak, strong, num_strong
        self.seed, self.device, self.rank = seed, device, rank
        stores = {"labeled": labeled} | ({"unlabeled": unlabeled} if unlabeled is not None else {})
        self.sources = {
            name: Source(name, store, size=size, weak=weak, seed=seed, rank=rank, world=world)
            for (name, store), size in zip(stores.items(), sizes, strict=False)
        }
        self.read: Callable[[int], dict[str, Drawn]] = partial(_read, self.sources)
        self.ahead: Ahead[dict[str, Drawn]] | None = None
        if any(isinstance(store, Stream) for store in stores.values()):
            self.read = self.ahead = Ahead(self.read, num_workers=num_workers, pinned=device.type == "cuda")

    def restrict(self, chosen: Tensor | None) -> None:
        """Draw the unlabelled images from the indices `chosen` only; None draws from all."""
        if "unlabeled" in self.sources:
            self.sources["unlabeled"].restrict(None if chosen is None else chosen.tolist())
            self.close()

    def close(self) -> None:
        """End the processes that read ahead; the next step starts others."""
        if self.ahead:
            self.ahead.close()

    def plain(self) -> Sequence[Tensor]:
        """All unlabelled images at the training size, without augmentation, in batches made as they are asked for."""
        return _Plain(self)

    def __call__(self, step: int) -> Batch:
        """The batch of `step`, images in channels_last memory format."""
        read = self.read(step)
        image, label = self._sampled(*read["labeled"])
        if "unlabeled" not in read:
            return Batch(image, label, image[:0])
        unlabeled, _ = self._sampled(*read["unlabeled"])
        strong = tuple(
            strong_view(unlabeled, self.strong, generator(self.seed, "strong", view, step, self.rank))
            for view in range(self.num_strong)
        )
        return Batch(image, label, unlabeled, strong)

    def _sampled(self, raw: Raw, theta: Tensor) -> tuple[Tensor, Tensor]:
        image, label = (part.to(self.device, non_blocking=True) for part in raw[:2])
        image, label = sample(
            Raw(image, label, raw.size), theta, self.side, self.weak.fill_label, mirror=self.weak.mirror
        )
        return image.contiguous(memory_format=torch.channels_last), label


def _read(sources: Mapping[str, Source], step: int) -> dict[str, Drawn]:
    return {name: source(step) for name, source in sources.items()}


class _Plain(Sequence[Tensor]):
    def __init__(self, batches: Batches) -> None:
        self.batches, self.source = batches, batches.sources.get("unlabeled")
        self.num = len(self.source.store) if self.source else 0

    def __len__(self) -> int:
        return -(-self.num // self.batches.sizes[1]) if self.num else 0

    def __getitem__(self, index: Any) -> Any:
        if self.source is None or not 0 <= index < len(self):
            raise IndexError(index)
        size = self.source.size
        indices = list(range(index * size, min((index + 1) * size, self.num)))
        image, _ = self.batches._sampled(*self.source.plain(indices))
        return image
