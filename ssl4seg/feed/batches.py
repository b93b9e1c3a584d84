"""The batch of a step, a pure function of (seed, step): labelled and unlabelled images in their views."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ssl4seg.augment.operations import Operation
from ssl4seg.axes import channels_last
from ssl4seg.errors import UserError
from ssl4seg.feed.store import Images, Order, Raw
from ssl4seg.feed.stream import Ahead, Stream
from ssl4seg.feed.views import View, boxes, moved, sample, strong_view
from ssl4seg.seeding import generator, sent
from ssl4seg.types import Batch

Drawn = tuple[Raw, Tensor]
"""The parts of images that the weak views show, and the theta [B, n, n + 1] that samples each view from its part."""


class Sampler:
    """Draws which of the labelled or of the unlabelled images a step takes, and the weak view of each.

    Args:
        name: "labeled" or "unlabeled"; a word of the seed.
        images: in memory or on the disk.
        size: images in the batch of each process.
        rank, world: number of this process, and number of processes.
    """

    def __init__(self, name: str, images: Images, *, size: int, weak: View, seed: int, rank: int, world: int) -> None:
        self.name, self.images, self.size, self.weak, self.seed = name, images, size, weak, seed
        self.rank, self.world = rank, world
        self.restrict(None)

    def restrict(self, chosen: Sequence[int] | None) -> None:
        """Draw from the images `chosen` only; None draws from all."""
        self.chosen = range(len(self.images)) if chosen is None else chosen
        self.order = Order(len(self.chosen), self.seed, self.name)

    def __call__(self, step: int) -> Drawn:
        """This process's part of the step, on the device that holds the images: a pure function of the step."""
        whole = self.size * self.world
        part = slice(self.rank * self.size, (self.rank + 1) * self.size)
        indices = [self.chosen[self.order[step * whole + i]] for i in range(whole)]
        native = self.images.sizes[indices]
        thetas = self.weak.thetas(native, generator(self.seed, self.name, "weak", step))
        if self.weak.foreground and self.name == "labeled":
            thetas = self.weak.centred(thetas, native, self._foreground(indices, step))
        return self.drawn(indices[part], native[part], thetas[part])

    def _foreground(self, indices: Sequence[int], step: int) -> Tensor:
        """A pixel [B, n] of a class for a share of the images; NaN for the others, and for images of background."""
        u = torch.rand((3, len(indices)), generator=generator(self.seed, self.name, "foreground", step)).tolist()
        pixels = torch.full_like(self.images.sizes[indices], math.nan)
        for row, (index, chosen, kind, place) in enumerate(zip(indices, *u, strict=True)):
            if chosen < self.weak.foreground and (classes := self.images.foreground(index)):
                points = classes[int(kind * len(classes))]
                pixels[row] = points[int(place * len(points))]
        return pixels

    def plain(self, indices: Sequence[int]) -> Drawn:
        """The whole images `indices`, without random numbers."""
        native = self.images.sizes[indices]
        return self.drawn(indices, native, self.weak.plain(native))

    def drawn(self, indices: Sequence[int], native: Tensor, thetas: Tensor) -> Drawn:
        """Read the parts of the images `indices`, of sizes `native`, that thetas sample."""
        parts = boxes(thetas, native)
        return self.images.take(indices, parts), moved(thetas, native, parts)


class Batches:
    """The batches of one process, each its part of a global batch.

    All processes draw the order and the weak views of the global batch and take their part of it, so that the images of
    a step do not depend on the number of processes. Each process draws the strong views of its own part.

    Args:
        labeled, unlabeled: images in memory or on the disk; `unlabeled` is None for a method that uses none.
        sizes: labelled and unlabelled images in the batch of each process.
        shape: pixels of the network's input along each axis.
        weak: the weak view.
        strong: the operations of a strong view; `num_strong` such views are made.
        rank, world: number of this process, and number of processes.
        num_workers: processes that read ahead from the disk, see `Ahead`.
        device: receives the batch.
    """

    def __init__(
        self,
        labeled: Images,
        unlabeled: Images | None,
        *,
        sizes: tuple[int, int],
        shape: Sequence[int],
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
        self.sizes, self.shape, self.weak, self.strong, self.num_strong = sizes, shape, weak, strong, num_strong
        self.seed, self.device, self.rank = seed, device, rank
        images = {"labeled": labeled} | ({"unlabeled": unlabeled} if unlabeled is not None else {})
        self.samplers = {
            name: Sampler(name, part, size=size, weak=weak, seed=seed, rank=rank, world=world)
            for (name, part), size in zip(images.items(), sizes, strict=False)
        }
        self.read: Callable[[int], dict[str, Drawn]] = partial(_read, self.samplers)
        self.ahead: Ahead[dict[str, Drawn]] | None = None
        if any(isinstance(part, Stream) for part in images.values()):
            self.read = self.ahead = Ahead(self.read, num_workers=num_workers, pinned=device.type == "cuda")

    def restrict(self, chosen: Tensor | None) -> None:
        """Draw the unlabelled images from the indices `chosen` only; None draws from all."""
        if "unlabeled" in self.samplers:
            self.samplers["unlabeled"].restrict(None if chosen is None else chosen.tolist())
            self.close()

    def close(self) -> None:
        """End the processes that read ahead; the next step starts new ones."""
        if self.ahead:
            self.ahead.close()

    def plain(self) -> Sequence[Tensor]:
        """All unlabelled images at the training size, without augmentation, in batches that are made on demand."""
        return _Plain(self)

    def __call__(self, step: int) -> Batch:
        """The batch of `step`, images in channels_last memory format."""
        drawn = self.read(step)
        image, label = self.sampled(*drawn["labeled"])
        if "unlabeled" not in drawn:
            return Batch(image, label, image[:0])
        unlabeled, _ = self.sampled(*drawn["unlabeled"])
        strong = tuple(
            strong_view(unlabeled, self.strong, generator(self.seed, "strong", view, step, self.rank))
            for view in range(self.num_strong)
        )
        return Batch(image, label, unlabeled, strong)

    def weak_views(self, step: int) -> Tensor:
        """The weak views [B, C, *shape] of any step, the labelled images first; from the disk none is read ahead."""
        return torch.cat([self.sampled(*drawn)[0] for drawn in _read(self.samplers, step).values()])

    def sampled(self, raw: Raw, theta: Tensor) -> tuple[Tensor, Tensor]:
        """The weak views [B, C, *shape] and their labels [B, *shape], on the device."""
        image, label = (sent(part, self.device) for part in raw[:2])
        image, label = sample(
            Raw(image, label, raw.size), theta, self.shape, self.weak.fill_label, mirror=self.weak.mirror
        )
        return channels_last(image), label


def _read(samplers: Mapping[str, Sampler], step: int) -> dict[str, Drawn]:
    return {name: sampler(step) for name, sampler in samplers.items()}


class _Plain(Sequence[Tensor]):
    def __init__(self, batches: Batches) -> None:
        self.batches, self.sampler = batches, batches.samplers.get("unlabeled")
        self.num = len(self.sampler.images) if self.sampler else 0

    def __len__(self) -> int:
        return -(-self.num // self.batches.sizes[1]) if self.num else 0

    def __getitem__(self, index: Any) -> Any:
        if self.sampler is None or not 0 <= index < len(self):
            raise IndexError(index)
        size = self.sampler.size
        indices = list(range(index * size, min((index + 1) * size, self.num)))
        image, _ = self.batches.sampled(*self.sampler.plain(indices))
        return image
