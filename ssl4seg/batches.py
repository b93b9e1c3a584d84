"""The batch of a step: a pure function of (seed, step), assembled from the two streams and their views."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ssl4seg.data.store import Order, Raw, Store
from ssl4seg.data.stream import Ahead, Stream
from ssl4seg.errors import UserError
from ssl4seg.photometric import Operation
from ssl4seg.seeding import generator
from ssl4seg.types import Batch
from ssl4seg.views import View, boxes, moved, sample, strong_view


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
        self.stores = {name: store for name, store in (("labeled", labeled), ("unlabeled", unlabeled)) if store}
        self.unlabeled, self.sizes, self.side = unlabeled, sizes, side
        self.weak, self.strong, self.num_strong = weak, strong, num_strong
        self.seed, self.device, self.rank, self.world = seed, device, rank, world
        self.chosen: list[int] | None = None
        self.orders = {name: Order(len(store), seed, name) for name, store in self.stores.items()}
        self.ahead: Ahead[dict[str, tuple[Raw, Tensor]]] | None = None
        if any(isinstance(store, Stream) for store in self.stores.values()):
            self.ahead = Ahead(self.read, num_workers=num_workers, pinned=device.type == "cuda")

    def restrict(self, chosen: Tensor | None) -> None:
        """Draw the unlabelled images from the indices `chosen` only; None draws from all."""
        if self.unlabeled is not None:
            self.chosen = None if chosen is None else chosen.tolist()
            self.orders["unlabeled"] = Order(len(self.chosen or self.unlabeled), self.seed, "unlabeled")
            if self.ahead:
                self.ahead.restart()

    def plain(self) -> Sequence[Tensor]:
        """All unlabelled images at the training size, without augmentation, in batches made as they are asked for."""
        return _Plain(self)

    def __call__(self, step: int) -> Batch:
        """The batch of `step`, images in channels_last memory format."""
        read = self.ahead(step) if self.ahead else self.read(step)
        image, label = self._sampled(*read["labeled"])
        if self.unlabeled is None:
            return Batch(image, label, image[:0])
        unlabeled, _ = self._sampled(*read["unlabeled"])
        strong = tuple(
            strong_view(unlabeled, self.strong, generator(self.seed, "strong", view, step, self.rank))
            for view in range(self.num_strong)
        )
        return Batch(image, label, unlabeled, strong)

    def read(self, step: int) -> dict[str, tuple[Raw, Tensor]]:
        """Of each stream the parts of its images that the weak views of `step` show, and theta."""
        return {name: self._read(name, store, step) for name, store in self.stores.items()}

    def _read(self, name: str, store: Store | Stream, step: int) -> tuple[Raw, Tensor]:
        size = self.sizes[name == "unlabeled"]
        whole = size * self.world
        part = slice(self.rank * size, (self.rank + 1) * size)
        order = self.orders[name]
        indices = [order[step * whole + i] for i in range(whole)]
        if name == "unlabeled" and self.chosen is not None:
            indices = [self.chosen[i] for i in indices]
        native = store.sizes[indices]
        thetas = self.weak.thetas(native, generator(self.seed, name, "weak", step))
        return cropped(store, indices[part], native[part], thetas[part])

    def _sampled(self, raw: Raw, theta: Tensor) -> tuple[Tensor, Tensor]:
        image, label = (part.to(self.device, non_blocking=True) for part in raw[:2])
        image, label = sample(Raw(image, label, raw.size), theta, self.side, self.weak.fill_label)
        return image.contiguous(memory_format=torch.channels_last), label


def cropped(store: Store | Stream, indices: Sequence[int], size: Tensor, theta: Tensor) -> tuple[Raw, Tensor]:
    """The parts of images of `size` that theta samples, and theta as measured from their centres."""
    parts = boxes(theta, size)
    return store.take(indices, parts), moved(theta, size, parts)


class _Plain(Sequence[Tensor]):
    def __init__(self, batches: Batches) -> None:
        self.batches, self.size = batches, batches.sizes[1]

    def __len__(self) -> int:
        return -(-len(self.batches.unlabeled or ()) // self.size)

    def __getitem__(self, index: Any) -> Any:
        store = self.batches.unlabeled
        if store is None or not 0 <= index < len(self):
            raise IndexError(index)
        indices = list(range(index * self.size, min((index + 1) * self.size, len(store))))
        size = store.sizes[indices]
        image, _ = self.batches._sampled(*cropped(store, indices, size, self.batches.weak.plain(size)))
        return image
