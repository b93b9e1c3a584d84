"""Ways to bring images of any size to a network, and its logits back to that size (the group `inference`)."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import chain, combinations, product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl4seg.axes import channels_last, interpolated
from ssl4seg.errors import UserError
from ssl4seg.feed.store import Raw
from ssl4seg.feed.views import fit, sample
from ssl4seg.keys import (
    Key,
    by_axis,
    expect,
    for_axes,
    is_list,
    is_whole,
    number_in,
    one_of,
    optional,
    true_or_false,
    whole,
)

Predict = Callable[[Tensor], Tensor]
"""Images [N, C, *X] -> logits [N, K, *X], with two or three axes."""

LA_STRIDE = (18, 18, 4)
"""Published for patches of 112 x 112 x 80 of the left atrium."""
PLACES = ("auto", "cpu", "device")
"""Where sums may be held."""
SCALES = Key(
    lambda value: is_list(value) and 0 < len(value) <= 100 and all(map(number_in("(0, 10]").fits, value)),
    "a list of factors above 0, at most 10, as [0.5,1.0]",
)


def _flip(axes: int) -> Key:
    """What `flip` may be for images of `axes` axes."""
    names = "0 rows, 1 columns" if axes == 2 else "0 x, 1 y, 2 z"

    def fits(value: Any) -> bool:
        several = is_list(value) and all(is_whole(axis) and 0 <= axis < axes for axis in value)
        return isinstance(value, bool) or (several and 0 < len(value) == len({*value}))

    return Key(fits, f"true or false, or a list of different axes ({names}), as [0,1]")


class Inference(ABC):
    """One way to bring an image to the network.

    Args:
        shape: pixels of the training input along each axis.
        scales: multiples of its size at which the image is predicted; the probabilities are averaged.
        flip: axes along which the image is mirrored, counted from 0: rows and columns, or x, y and z. It is predicted
            mirrored along every combination of them too, at each scale: 2, 4 or 8 passes. true is the second axis alone
            (left and right in a picture), false none.
    """

    probabilities = False
    """Whether `scores` returns probabilities."""

    def __init__(
        self, *, shape: Sequence[int], scales: Sequence[float] = (1.0,), flip: bool | Sequence[int] = False
    ) -> None:
        expect("inference.scales", scales, SCALES)
        expect("inference.flip", flip, _flip(len(shape)))
        self.shape, self.scales = tuple(shape), tuple(scales)
        axes = ([1] if flip else []) if isinstance(flip, bool) else flip
        chosen = chain.from_iterable(combinations(axes, number) for number in range(len(axes) + 1))
        self.mirrors = [tuple(2 + axis for axis in some) for some in chosen]
        """The axes of [N, C, *X] that are mirrored in each pass; the first pass mirrors none."""

    @property
    def averages(self) -> bool:
        """Whether the scores are averaged probabilities; otherwise they are logits."""
        return self.probabilities or len(self.mirrors) > 1 or self.scales != (1.0,)

    @torch.inference_mode()
    def __call__(self, predict: Predict, image: Tensor) -> Tensor:
        """[N, C, *X] -> scores [N, K, *X] at native size: logits, or averaged probabilities (see `averages`)."""
        if len(self.mirrors) == 1 and self.scales == (1.0,):
            return self.scores(predict, image, 1.0)
        total = torch.zeros(())
        for scale, axes in product(self.scales, self.mirrors):
            z = self.scores(predict, image.flip(axes) if axes else image, scale)
            p = z if self.probabilities else z.softmax(dim=1)
            p = p.flip(axes) if axes else p
            total = p if total.ndim == 0 else total.add_(p)
        return total / (len(self.scales) * len(self.mirrors))

    @abstractmethod
    def scores(self, predict: Predict, image: Tensor, scale: float) -> Tensor:
        """Predict the image at `scale` times its size, and return logits, or `probabilities`, at native size."""


class Resized(Inference):
    """Resize the whole image to the training input, whatever its proportions, and the logits back."""

    def scores(self, predict: Predict, image: Tensor, scale: float) -> Tensor:
        size = torch.tensor([image.shape[2:]], dtype=torch.float32).expand(len(image), -1)
        raw = Raw(image, torch.zeros_like(image[:, 0], dtype=torch.uint8), size)
        fitted, _ = sample(raw, fit(size), [max(1, round(side * scale)) for side in self.shape])
        return interpolated(predict(channels_last(fitted)), image.shape[2:])


class Whole(Inference):
    """Predict the image at its own size."""

    def scores(self, predict: Predict, image: Tensor, scale: float) -> Tensor:
        scaled = _scaled(image, scale)
        return interpolated(predict(channels_last(scaled)), image.shape[2:])


class Sliding(Inference):
    """Predict overlapping windows, and average where several cover a pixel.

    Args:
        window: pixels of the windows along each axis, or one number for all; None takes the training input. A side of
            the image that is shorter than the window is covered by one window.
        overlap: overlap of neighbouring windows, as a share of the window; the last window ends at the image's edge.
        stride: instead, pixels from window to window along each axis, or one number for all.
        pad: whether sides shorter than the window are filled up with zeros on both sides, for networks that see patches
            of one size only.
        average: what is averaged, logits or probabilities.
        weights: of a window's pixels, uniform or gaussian (standard deviation of an eighth of the window, as nnU-Net).
        accumulate_on: where the sums of the image are held: device, cpu, or auto (the device if it has the memory).
        batch_size: windows in one forward pass, from one image or several.
    """

    def __init__(
        self,
        *,
        shape: Sequence[int],
        window: int | Sequence[int] | None = None,
        overlap: float = 1 / 3,
        stride: int | Sequence[int] | None = None,
        pad: bool = False,
        average: str = "logits",
        weights: str = "uniform",
        accumulate_on: str = "auto",
        batch_size: int = 4,
        scales: Sequence[float] = (1.0,),
        flip: bool | Sequence[int] = False,
    ) -> None:
        super().__init__(shape=shape, scales=scales, flip=flip)
        expect("inference.window", window, optional(for_axes(len(shape), 16)))
        expect("inference.overlap", overlap, number_in("[0, 0.95]", "a share"))
        expect("inference.stride", stride, optional(for_axes(len(shape))))
        expect("inference.pad", pad, true_or_false)
        expect("inference.average", average, one_of("logits", "probabilities"))
        expect("inference.weights", weights, one_of("uniform", "gaussian"))
        expect("inference.accumulate_on", accumulate_on, one_of(*PLACES))
        expect("inference.batch_size", batch_size, whole(1))
        self.window = by_axis(window or shape, len(shape))
        self.stride = by_axis(stride, len(shape)) if stride else [max(1, round(w * (1 - overlap))) for w in self.window]
        if any(step > side for step, side in zip(self.stride, self.window, strict=True)):
            raise UserError(
                f"inference.stride={list(self.stride)}: leaves pixels between windows of {list(self.window)}; "
                "give a stride of at most the window"
            )
        self.pad, self.probabilities, self.weights = pad, average == "probabilities", weights
        self.accumulate_on, self.batch_size = accumulate_on, batch_size

    def places(self, lengths: Sequence[int]) -> list[tuple[slice, ...]]:
        """The windows of an image."""
        axes = []
        for length, window, stride in zip(lengths, self.window, self.stride, strict=True):
            room = max(0, length - window)
            starts = sorted({*range(0, room, stride), room})
            axes.append([slice(start, start + window) for start in starts])
        return list(product(*axes))

    def scores(self, predict: Predict, image: Tensor, scale: float) -> Tensor:
        scaled = _scaled(image, scale)
        inner = (slice(None),) * scaled.ndim
        if self.pad:
            scaled, inner = self._padded(scaled)
        lengths = scaled.shape[2:]
        places = self.places(lengths)
        weight = self._weight([min(w, n) for w, n in zip(self.window, lengths, strict=True)], scaled)
        windows = [(number, place) for place in places for number in range(len(image))]
        count = scaled.new_zeros(lengths)
        for place in places:
            count[place] += weight
        total = torch.zeros(())
        for first in range(0, len(windows), self.batch_size):
            chosen = windows[first : first + self.batch_size]
            pixels = torch.stack([scaled[number][(slice(None), *place)] for number, place in chosen])
            scores = predict(channels_last(pixels))
            scores = scores.softmax(dim=1) if self.probabilities else scores
            if total.ndim == 0:
                shape = (len(image), scores.shape[1], *lengths)
                total = scores.new_zeros(shape, device=self._place(shape, scores.device))
            for (number, place), part in zip(chosen, (scores * weight).to(total.device), strict=True):
                total[number][(slice(None), *place)] += part
        return interpolated(total.div_(count.to(total.device))[inner], image.shape[2:])

    def _place(self, shape: Sequence[int], device: torch.device) -> torch.device:
        """Where sums of that shape are held."""
        if self.accumulate_on == "auto" and device.type == "cuda":
            # The label map and a step of post-processing need another copy.
            fits = 2 * 4 * math.prod(shape) < torch.cuda.mem_get_info(device)[0]
            return device if fits else torch.device("cpu")
        return torch.device("cpu") if self.accumulate_on == "cpu" else device

    def _padded(self, image: Tensor) -> tuple[Tensor, tuple[slice, ...]]:
        """The image filled up to the window with zeros, and the index of the image in it."""
        missing = [max(0, w - n) for w, n in zip(self.window, image.shape[2:], strict=True)]
        before = [more // 2 for more in missing]
        sides = [end for more, low in zip(missing, before, strict=True) for end in (more - low, low)]
        inner = (slice(low, low + n) for low, n in zip(before, image.shape[2:], strict=True))
        return F.pad(image, sides[::-1]), (slice(None), slice(None), *inner)

    def _weight(self, window: Sequence[int], like: Tensor) -> Tensor:
        """The weights [*w] of a window's pixels, the largest 1."""
        weight = like.new_ones(())
        if self.weights == "gaussian":
            for length in window:
                at = (torch.arange(length, device=like.device) - (length - 1) / 2) / (length / 8)
                weight = weight[..., None] * torch.exp(-(at**2) / 2)
            weight = weight.clamp(min=1e-3 * float(weight.max()))
        return weight


def literal_windows(shape: Sequence[int], stride: int | Sequence[int] | None = None, **machine: Any) -> Sliding:
    """The windows of the literature on volumes (UA-MT, Yu et al. 2019): zeros up to the patch, softmax averaged.

    Args:
        shape: of the patch, which is the window.
        stride: None is that of LA, 18 x 18 x 4; published for Pancreas-CT: 16, for BraTS: 64.
        machine: batch_size and accumulate_on of `Sliding`, which change no score.
    """
    return Sliding(shape=shape, stride=stride or LA_STRIDE, pad=True, average="probabilities", **machine)


def _scaled(image: Tensor, scale: float) -> Tensor:
    """The image at `scale` times its size.

    It is not smoothed before it shrinks: training does not do so either (`views.sample`), nor does the literature's
    evaluation at several scales, and the network would see less noise than it was trained with.
    """
    return interpolated(image, [max(1, round(side * scale)) for side in image.shape[2:]])
