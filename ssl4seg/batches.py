"""The batch of a step: a pure function of (seed, step), assembled from the two streams and their views."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ssl4seg.data.store import Order, Store
from ssl4seg.errors import UserError
from ssl4seg.photometric import Operation
from ssl4seg.seeding import generator
from ssl4seg.types import Batch
from ssl4seg.views import WeakView, fit, sample, strong_view


class Batches:
    """Labelled and unlabelled batches, a process's own part of the global batch.

    All processes draw the order and the weak views of the global batch and take their part, so the number of processes
    changes neither. Strong views are drawn by each process for its own part.

    Args:
        labeled, unlabeled: the two stores; `unlabeled` is None for a method that uses none.
        sizes: images of each kind in a process's batch.
        side: pixels of the square input.
        weak, strong: the views; `num_strong` strong ones are made.
        rank, world: this process among all.
        device: where the batch is needed.
    """

    def __init__(
        self,
        labeled: Store,
        unlabeled: Store | None,
        *,
        sizes: tuple[int, int],
        side: int,
        weak: WeakView,
        strong: Sequence[Operation],
        num_strong: int,
        seed: int,
        device: torch.device,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if num_strong and not strong:
            raise UserError("views.strong is empty, but the method needs strong views: choose operations in conf/views")
        self.labeled, self.unlabeled, self.sizes, self.side = labeled, unlabeled, sizes, side
        self.weak, self.strong, self.num_strong = weak, strong, num_strong
        self.seed, self.device, self.rank, self.world = seed, device, rank, world
        self.chosen: list[int] | None = None
        self.orders = {
            name: Order(len(store), seed, name)
            for name, store in (("labeled", labeled), ("unlabeled", unlabeled))
            if store
        }

    def restrict(self, chosen: Tensor | None) -> None:
        """Draw the unlabelled images from the indices `chosen` only; None draws from all."""
        if self.unlabeled is not None:
            self.chosen = None if chosen is None else chosen.tolist()
            self.orders["unlabeled"] = Order(len(self.chosen or self.unlabeled), self.seed, "unlabeled")

    def plain(self) -> Sequence[Tensor]:
        """All unlabelled images at the training size, without augmentation, in batches made as they are asked for."""
        return _Plain(self)

    def __call__(self, step: int) -> Batch:
        """The batch of `step`, images in channels_last memory format."""
        image, label = self._weak("labeled", self.labeled, self.sizes[0], step)
        if self.unlabeled is None:
            return Batch(image, label, image[:0])
        unlabeled, _ = self._weak("unlabeled", self.unlabeled, self.sizes[1], step)
        strong = tuple(
            strong_view(unlabeled, self.strong, generator(self.seed, "strong", view, step, self.rank))
            for view in range(self.num_strong)
        )
        return Batch(image, label, unlabeled, strong)

    def _weak(self, name: str, store: Store, size: int, step: int) -> tuple[Tensor, Tensor]:
        whole = size * self.world
        part = slice(self.rank * size, (self.rank + 1) * size)
        order = self.orders[name]
        indices = [order[step * whole + i] for i in range(whole)]
        if name == "unlabeled" and self.chosen is not None:
            indices = [self.chosen[i] for i in indices]
        thetas = self.weak.thetas(store.sizes[indices], generator(self.seed, name, "weak", step))
        image, label = sample(store.take(indices[part]), thetas[part], self.side, self.weak.fill_label)
        return image.to(self.device, memory_format=torch.channels_last), label.to(self.device)


class _Plain(Sequence[Tensor]):
    def __init__(self, batches: Batches) -> None:
        self.batches, self.size = batches, batches.sizes[1]

    def __len__(self) -> int:
        return -(-len(self.batches.unlabeled or ()) // self.size)

    def __getitem__(self, index: Any) -> Any:
        store = self.batches.unlabeled
        if store is None or not 0 <= index < len(self):
            raise IndexError(index)
        indices = range(index * self.size, min((index + 1) * self.size, len(store)))
        image, _ = sample(store.take(indices), fit(store.sizes[list(indices)]), self.batches.side)
        return image.to(self.batches.device, memory_format=torch.channels_last)
