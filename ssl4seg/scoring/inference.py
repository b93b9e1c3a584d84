"""Ways to bring images of any size to a network, and its logits back to that size (the group `inference`)."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl4seg.feed.store import Raw
from ssl4seg.feed.views import fit, sample
from ssl4seg.keys import SIDE, Key, expect, is_list, number_in, optional, true_or_false, whole

Predict = Callable[[Tensor], Tensor]
"""[N, C, H, W] -> logits [N, K, H, W]."""


SCALES = Key(
    lambda value: is_list(value) and 0 < len(value) <= 100 and all(map(number_in("(0, 10]").fits, value)),
    "a list of factors above 0, at most 10, as [0.5,1.0]",
)


class Inference(ABC):
    """One way to bring an image to the network.

    Args:
        side: side of the square training input in pixels.
        scales: multiples of its size at which the image is predicted; the probabilities are averaged.
        flip: whether the mirrored image is predicted too, at each scale.
    """

    def __init__(self, *, side: int, scales: Sequence[float] = (1.0,), flip: bool = False) -> None:
        expect("inference.scales", scales, SCALES)
        expect("inference.flip", flip, true_or_false)
        self.side, self.scales, self.flip = side, tuple(scales), flip

    @property
    def averages(self) -> bool:
        """Whether the scores are averaged probabilities; otherwise they are logits."""
        return self.flip or self.scales != (1.0,)

    @torch.inference_mode()
    def __call__(self, predict: Predict, image: Tensor) -> Tensor:
        """[N, C, H, W] -> scores [N, K, H, W] at native size: logits, or averaged probabilities (see `averages`)."""
        if not self.averages:
            return self.logits(predict, image, 1.0)
        total = torch.zeros(())
        for scale, flipped in product(self.scales, (False, True) if self.flip else (False,)):
            z = self.logits(predict, image.flip(-1) if flipped else image, scale)
            p = (z.flip(-1) if flipped else z).softmax(dim=1)
            total = p if total.ndim == 0 else total.add_(p)
        return total / (len(self.scales) * (1 + self.flip))

    @abstractmethod
    def logits(self, predict: Predict, image: Tensor, scale: float) -> Tensor:
        """Predict the image at `scale` times its size, and return the logits at native size."""


class Resized(Inference):
    """Resize the whole image to the square of training, whatever its proportions, and the logits back."""

    def logits(self, predict: Predict, image: Tensor, scale: float) -> Tensor:
        size = torch.tensor([image.shape[-2:]], dtype=torch.float32).expand(len(image), 2)
        raw = Raw(image, torch.zeros_like(image[:, 0], dtype=torch.uint8), size)
        square, _ = sample(raw, fit(size), max(1, round(self.side * scale)))
        logits = predict(square.contiguous(memory_format=torch.channels_last))
        return _resized(logits, image.shape[-2:])


class Whole(Inference):
    """Predict the image at its own size."""

    def logits(self, predict: Predict, image: Tensor, scale: float) -> Tensor:
        scaled = _scaled(image, scale)
        return _resized(predict(scaled.contiguous(memory_format=torch.channels_last)), image.shape[-2:])


class Sliding(Inference):
    """Predict overlapping windows, and average the logits where several cover a pixel.

    Args:
        window: side of the windows in pixels; None takes the side of the training input. A side of the image that is
            shorter than the window is covered by one window.
        overlap: overlap of neighbouring windows, as a share of the window; the last window ends at the image's edge.
        batch_size: windows in one forward pass, from one image or several.
    """

    def __init__(
        self,
        *,
        side: int,
        window: int | None = None,
        overlap: float = 1 / 3,
        batch_size: int = 4,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
    ) -> None:
        super().__init__(side=side, scales=scales, flip=flip)
        expect("inference.window", window, optional(SIDE))
        expect("inference.overlap", overlap, number_in("[0, 0.95]", "a share"))
        expect("inference.batch_size", batch_size, whole(1))
        self.window, self.overlap, self.batch_size = window or side, overlap, batch_size

    def starts(self, length: int) -> list[int]:
        """The first pixels of the windows along a side of `length` pixels."""
        stride = max(1, round(self.window * (1 - self.overlap)))
        room = max(0, length - self.window)
        return sorted({*range(0, room, stride), room})

    def logits(self, predict: Predict, image: Tensor, scale: float) -> Tensor:
        scaled = _scaled(image, scale)
        height, width = scaled.shape[-2:]
        places = [
            (slice(y, y + self.window), slice(x, x + self.window))
            for y, x in product(self.starts(height), self.starts(width))
        ]
        windows = [(number, place) for place in places for number in range(len(image))]
        total, count = torch.zeros(()), scaled.new_zeros((height, width))
        for place in places:
            count[place] += 1
        for first in range(0, len(windows), self.batch_size):
            chosen = windows[first : first + self.batch_size]
            pixels = torch.stack([scaled[number, :, *place] for number, place in chosen])
            logits = predict(pixels.contiguous(memory_format=torch.channels_last))
            if total.ndim == 0:
                total = logits.new_zeros((len(image), logits.shape[1], height, width))
            for (number, place), part in zip(chosen, logits, strict=True):
                total[number, :, *place] += part
        return _resized(total / count, image.shape[-2:])


def _scaled(image: Tensor, scale: float) -> Tensor:
    return _resized(image, [max(1, round(side * scale)) for side in image.shape[-2:]])


def _resized(image: Tensor, size: Sequence[int]) -> Tensor:
    """Resize [N, C, H, W] bilinearly.

    Images are not smoothed before they shrink: training does not do so either (`views.sample`), nor does the
    literature's evaluation at several scales, and the network would see less noise than it was trained with.
    """
    if list(image.shape[-2:]) == list(size):
        return image
    return F.interpolate(image, size=list(size), mode="bilinear", align_corners=False)
