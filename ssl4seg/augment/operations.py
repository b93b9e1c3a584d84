"""Photometric operations with random magnitudes, the items of `views.strong`.

An operation applies a function of photometric.py to a random share of the samples, with one magnitude for each sample.
It draws on the CPU, so that every device gets the same magnitudes.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from ssl4seg.augment import photometric as ph
from ssl4seg.augment.photometric import check_range, is_rgb, on_samples
from ssl4seg.axes import along_axes
from ssl4seg.keys import Key, at_least, expect, is_list, is_number, is_whole, number_in, share
from ssl4seg.seeding import sent

Operation = Callable[[Tensor, Generator], Tensor]
"""One step of a strong view: (image [B, C, *X] float32, CPU generator for its draws) -> the same shape."""


def range_in(least: float, most: float, is_kind: Callable[[Any], bool] = is_number) -> Key:
    """A pair [low, high] with `least` <= low <= high <= `most`."""

    def fits(value: Any) -> bool:
        return is_list(value) and len(value) == 2 and all(map(is_kind, value)) and least <= value[0] <= value[1] <= most

    return Key(fits, f"[low, high] with {least:g} <= low <= high <= {most:g}")


class Photometric(ABC):
    """An operation on a share `p` of the samples. It returns a new image and leaves its argument as it is.

    Parameters are drawn for all samples, whether chosen or not, so that no sample's draws depend on another's.
    """

    any_range: ClassVar[bool] = False
    """Whether images may have values outside [0, 1], as z-scores."""

    def __init__(self, *, p: float = 1.0) -> None:
        self.require(share, p=p)
        self.p = p
        self._checked = False

    def __call__(self, image: Tensor, generator: Generator | None = None) -> Tensor:
        """Apply the operation to [B, C, *X]; draw from `generator`, or with None from PyTorch's global one."""
        if not (self.any_range or self._checked):
            check_range(image)
            self._checked = True
        return self.on(image, torch.ones(len(image), dtype=torch.bool), generator)

    def on(self, image: Tensor, chosen: Tensor, generator: Generator | None) -> Tensor:
        """Apply the operation to a share p of the samples `chosen` [B] (bool, on the CPU)."""
        return self.apply(image, chosen & (torch.rand(len(image), generator=generator) < self.p), generator)

    @abstractmethod
    def apply(self, image: Tensor, chosen: Tensor, generator: Generator | None) -> Tensor:
        """Draw parameters for all samples, and apply the operation to the samples `chosen`."""

    def require(self, key: Key, **values: object) -> None:
        """Refuse arguments of the constructor that do not fit, by their names in the configuration."""
        for name, value in values.items():
            expect(f"views.strong.{type(self).__name__}.{name}", value, key)


class _Drawn(Photometric):
    """One magnitude for each sample, uniform in `magnitude` = [low, high]."""

    limits: ClassVar[tuple[float, float]] = (0, math.inf)

    def __init__(self, *, magnitude: Sequence[float], p: float = 1.0) -> None:
        super().__init__(p=p)
        self.require(range_in(*self.limits), magnitude=magnitude)
        self.low, self.high = magnitude

    def apply(self, image: Tensor, chosen: Tensor, generator: Generator | None) -> Tensor:
        return on_samples(self.op, image, chosen, self.magnitude(torch.rand(len(image), generator=generator)))

    def magnitude(self, u: Tensor) -> Tensor:
        """The magnitude at u in [0, 1] of the range."""
        return self.low + u * (self.high - self.low)

    @staticmethod
    @abstractmethod
    def op(image: Tensor, magnitude: Tensor, /) -> Tensor:
        """The function of photometric.py."""


class Brightness(_Drawn):
    """Magnitude: the factor; 0 is black, 1 the image."""

    op = staticmethod(ph.brightness)


class Contrast(_Drawn):
    """Magnitude: the factor; 0 is the mean grey, 1 the image."""

    op = staticmethod(ph.contrast)


class Saturation(_Drawn):
    """Magnitude: the factor; 0 is grey, 1 the image."""

    op = staticmethod(ph.saturation)


class Hue(_Drawn):
    """Magnitude: the turn, as a share in [-0.5, 0.5] of the circle of colours; 0 is the image."""

    op = staticmethod(ph.hue)
    limits = (-0.5, 0.5)


class Gamma(_Drawn):
    """Magnitude: the exponent; 1 is the image, less is brighter."""

    op = staticmethod(ph.gamma)


class Sharpness(_Drawn):
    """Magnitude: the factor; 0 is smoothed, 1 the image, 2 sharpened."""

    op = staticmethod(ph.sharpness)


class Solarize(_Drawn):
    """Magnitude: the threshold from which on pixels are inverted."""

    op = staticmethod(ph.solarize)


class Posterize(_Drawn):
    """Magnitude: bits, rounded down to a whole number; [4, 8] gives 4 to 7."""

    limits = (1, 8)

    @staticmethod
    def op(image: Tensor, bits: Tensor, /) -> Tensor:
        return ph.posterize(image, bits.floor())


class GaussianBlur(_Drawn):
    """Magnitude: sigma in pixels."""

    def apply(self, image: Tensor, chosen: Tensor, generator: Generator | None) -> Tensor:
        sigma = self.magnitude(torch.rand(len(image), generator=generator))
        radius = math.ceil(3 * self.high)  # of the largest sigma: it must not depend on the other samples' draws
        return on_samples(lambda part, s: ph.blur(part, s, radius), image, chosen, sigma)

    op = staticmethod(ph.blur)


class Noise(_Drawn):
    """Magnitude: standard deviation."""

    op = staticmethod(ph.noise)

    def apply(self, image: Tensor, chosen: Tensor, generator: Generator | None) -> Tensor:
        std = self.magnitude(torch.rand(len(image), generator=generator))
        return type(self).op(image, sent(std * chosen, image.device), generator)


class ClippedNoise(Noise):
    """Magnitude: standard deviation of the noise, cut off at twice that; images may have any range."""

    any_range = True
    op = staticmethod(ph.clipped_noise)


class Cutout(_Drawn):
    """Magnitude: side of the grey square, as a share of the image's shorter side; the centre lies anywhere."""

    limits = (0, 1)

    def apply(self, image: Tensor, chosen: Tensor, generator: Generator | None) -> Tensor:
        u = torch.rand((len(image), 3), generator=generator)
        return on_samples(ph.cutout, image, chosen, self.magnitude(u[:, 0]), u[:, 1:])

    op = staticmethod(ph.cutout)


class _Whole(Photometric):
    """An operation without a magnitude: it is applied in full."""

    def apply(self, image: Tensor, chosen: Tensor, generator: Generator | None) -> Tensor:
        return on_samples(self.op, image, chosen, torch.ones(len(image)))

    @staticmethod
    @abstractmethod
    def op(image: Tensor, amount: Tensor, /) -> Tensor:
        """The function of photometric.py."""


class Grayscale(_Whole):
    """Grey in all three channels."""

    op = staticmethod(ph.grayscale)


class Invert(_Whole):
    """The negative, 1 - image."""

    op = staticmethod(ph.invert)


class Autocontrast(_Whole):
    """Each channel stretched to [0, 1]."""

    op = staticmethod(ph.autocontrast)


class Equalize(_Whole):
    """Each channel with a flat histogram."""

    op = staticmethod(ph.equalize)


class Identity(_Whole):
    """No change; in `SomeOf` a choice that leaves the image as it is."""

    @staticmethod
    def op(image: Tensor, amount: Tensor, /) -> Tensor:
        return image


class ColorJitter(Photometric):
    """Brightness, contrast, saturation and hue, one after the other, in a random order for each sample.

    Args:
        brightness, contrast, saturation: the factor is uniform in [max(0, 1 - value), 1 + value].
        hue: the turn is uniform in +-hue.
        p: share of the samples.
    """

    def __init__(
        self,
        *,
        brightness: float = 0.0,
        contrast: float = 0.0,
        saturation: float = 0.0,
        hue: float = 0.0,
        p: float = 1.0,
    ) -> None:
        super().__init__(p=p)
        self.require(at_least(0), brightness=brightness, contrast=contrast, saturation=saturation)
        self.require(number_in("[0, 0.5]"), hue=hue)
        factors = [(max(0.0, 1 - value), 1 + value) for value in (brightness, contrast, saturation)]
        self.gray: list[_Drawn] = [Brightness(magnitude=factors[0]), Contrast(magnitude=factors[1])]
        self.color: list[_Drawn] = [Saturation(magnitude=factors[2]), Hue(magnitude=(-hue, hue))]

    def apply(self, image: Tensor, chosen: Tensor, generator: Generator | None) -> Tensor:
        operations = self.gray + self.color if is_rgb(image) else self.gray
        order = torch.rand((len(image), len(operations)), generator=generator).argsort(dim=1)
        u = torch.rand((len(image), len(operations)), generator=generator)
        for place in range(len(operations)):
            for k, operation in enumerate(operations):
                if operation.low < operation.high:
                    here = chosen & (order[:, place] == k)
                    image = on_samples(operation.op, image, here, operation.magnitude(u[:, k]))
        return image


class SomeOf(Photometric):
    """A random number of randomly chosen operations, one after the other, drawn for each sample.

    Args:
        operations: the operations to choose from.
        num: [low, high], the number of operations, uniform.
        replace: whether an operation may be chosen more than once.
        p: share of the samples.
    """

    def __init__(
        self, *, operations: Sequence[Photometric], num: Sequence[int], replace: bool = True, p: float = 1.0
    ) -> None:
        super().__init__(p=p)
        self.require(OPERATIONS, operations=operations)
        self.require(range_in(0, math.inf if replace else len(operations), is_whole), num=num)
        self.operations, self.num, self.replace = list(operations), (num[0], num[1]), replace

    def apply(self, image: Tensor, chosen: Tensor, generator: Generator | None) -> Tensor:
        size, kinds = len(image), len(self.operations)
        num = torch.randint(self.num[0], self.num[1] + 1, (size,), generator=generator)
        if self.replace:
            kind = torch.randint(kinds, (size, self.num[1]), generator=generator)
        else:
            kind = torch.rand((size, kinds), generator=generator).argsort(dim=1)
        for place in range(self.num[1]):
            for k, operation in enumerate(self.operations):
                image = operation.on(image, chosen & (place < num) & (kind[:, place] == k), generator)
        return image


class OwnRange(Photometric):
    """Operations on images of any range, as z-scores: to them the lowest value of each image is 0, the highest 1.

    Args:
        operations: applied one after the other; then the image gets its range back.
        p: share of the samples.
    """

    any_range = True

    def __init__(self, *, operations: Sequence[Photometric], p: float = 1.0) -> None:
        super().__init__(p=p)
        self.require(OPERATIONS, operations=operations)
        self.operations = list(operations)

    def apply(self, image: Tensor, chosen: Tensor, generator: Generator | None) -> Tensor:
        low, high = (along_axes(ends, image) for ends in image.flatten(1).aminmax(dim=1))
        width = torch.where(high > low, high - low, 1)
        inside = (image - low) / width
        for operation in self.operations:
            inside = operation.on(inside, chosen, generator)
        return torch.where(along_axes(sent(chosen, image.device), image), inside * width + low, image)


def _are_operations(value: Any) -> bool:
    return is_list(value) and len(value) > 0 and all(isinstance(operation, Photometric) for operation in value)


OPERATIONS = Key(_are_operations, "a list of photometric operations, not empty")
