"""From images of any size to a network's logits at that size: `inference=` resized, whole or sliding."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl4seg.errors import UserError
from ssl4seg.keys import is_list, is_number, is_whole
from ssl4seg.store import Raw
from ssl4seg.views import fit, sample

Predict = Callable[[Tensor], Tensor]
"""[N, C, H, W] -> logits [N, K, H, W]."""


class Inference(ABC):
    """One way to bring an image to the network.

    Args:
        side: pixels of the square training input.
        scales: the image is predicted at each of these multiples of its size; the probabilities are averaged.
        flip: at each scale also mirrored.
    """

    def __init__(self, *, side: int, scales: Sequence[float] = (1.0,), flip: bool = False) -> None:
        if not is_list(scales) or not scales or not all(is_number(scale) and scale > 0 for scale in scales):
            told = list(scales) if is_list(scales) else scales
            raise UserError(f"inference.scales={told}: expected a list of factors above 0, as [0.5,1.0]")
        if not isinstance(flip, bool):
            raise UserError(f"inference.flip={flip}: expected true or false")
        self.side, self.scales, self.flip = side, tuple(scales), flip

    @property
    def averages(self) -> bool:
        """Whether the scores are probabilities; otherwise they are logits."""
        return self.flip or self.scales != (1.0,)

    @torch.inference_mode()
    def __call__(self, predict: Predict, image: Tensor) -> Tensor:
        """[N, C, H, W] -> scores [N, K, H, W] at native size: logits, or averaged probabilities of several passes."""
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
        """Logits at native size of the image at `scale` times its size."""


class Resized(Inference):
    """The whole image in the training square, whatever its proportions; logits back linearly."""

    def logits(self, predict: Predict, image: Tensor, scale: float) -> Tensor:
        size = torch.tensor([image.shape[-2:]], dtype=torch.float32).expand(len(image), 2)
        raw = Raw(image, torch.zeros_like(image[:, 0], dtype=torch.uint8), size)
        square, _ = sample(raw, fit(size), max(1, round(self.side * scale)))
        logits = predict(square.contiguous(memory_format=torch.channels_last))
        return _resized(logits, image.shape[-2:])


class Whole(Inference):
    """The image as it is."""

    def logits(self, predict: Predict, image: Tensor, scale: float) -> Tensor:
        scaled = _scaled(image, scale)
        return _resized(predict(scaled.contiguous(memory_format=torch.channels_last)), image.shape[-2:])


class Sliding(Inference):
    """Windows that overlap; where several cover a pixel, their logits are averaged.

    Args:
        window: side of the windows in pixels, None is that of the training input; a shorter side of the image is taken
            whole.
        overlap: of neighbouring windows, as a share of the window; the last one ends at the image's edge.
        batch_size: windows in one forward pass, of one image or several.
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
        if window is not None and not (is_whole(window) and window >= 16):
            raise UserError(f"inference.window={window}: expected at least 16 pixels, or null")
        if not is_number(overlap) or not 0 <= overlap < 1:
            raise UserError(f"inference.overlap={overlap}: expected a share in [0, 1)")
        if not is_whole(batch_size) or batch_size < 1:
            raise UserError(f"inference.batch_size={batch_size}: expected a whole number of at least 1")
        self.window, self.overlap, self.batch_size = window or side, overlap, batch_size

    def starts(self, length: int) -> list[int]:
        """Where windows begin along a side of `length` pixels."""
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
    if scale == 1:
        return image
    # Plain also where it shrinks: training samples its views so (`views.sample`), and the literature's evaluation at
    # several scales does; smoothing before would show the network less noise than it knows.
    size = [max(1, round(side * scale)) for side in image.shape[-2:]]
    return F.interpolate(image, size=size, mode="bilinear", align_corners=False)


def _resized(logits: Tensor, size: Sequence[int]) -> Tensor:
    if list(logits.shape[-2:]) == list(size):
        return logits
    return F.interpolate(logits, size=list(size), mode="bilinear", align_corners=False)
