"""Photometric operations: they change intensities and move no pixel, so labels stay valid.

Images are [B, C, H, W] float32 in [0, 1], which is what the datasets deliver; every operation maps [0, 1] to [0, 1] and
clips to it. Colour means three channels (RGB); with another number of channels, colour operations change nothing.

Two layers: pure functions `op(image, magnitude [B])`, batched on the image's device, one magnitude for each sample, no
gradient; and classes for conf/views, which draw the magnitudes on the CPU, so that devices agree.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ssl4seg.errors import UserError

Operation = Callable[[Tensor, Generator], Tensor]
"""What a strong view is made of: ([B, C, H, W] float32, CPU generator for its parameters) -> the same shape."""

LUMA = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in grey (ITU-R BT.601)."""
LEVELS = 256
"""Greys that `equalize` tells apart."""
TOLERANCE = 1e-3
"""Rounding that images in [0, 1] may have."""


# -- functions --------------------------------------------------------------------------------------------------------


def brightness(image: Tensor, factor: Tensor) -> Tensor:
    """factor x; 0 is black, 1 the image."""
    return (image * _each(factor)).clamp_(0, 1)


def contrast(image: Tensor, factor: Tensor) -> Tensor:
    """From the image's mean grey (0) to the image (1) and beyond."""
    return _blend(_grey(image).mean(dim=(1, 2, 3), keepdim=True), image, factor)


def saturation(image: Tensor, factor: Tensor) -> Tensor:
    """From grey (0) to the image (1) and beyond."""
    return _blend(_grey(image), image, factor) if _colored(image) else image.clone()


def hue(image: Tensor, turn: Tensor) -> Tensor:
    """Colours turned on their circle, by a share in [-0.5, 0.5] of it."""
    if not _colored(image):
        return image.clone()
    red, green, blue = image.unbind(1)
    value = image.amax(dim=1)
    chroma = value - image.amin(dim=1)
    safe = chroma.clamp(min=1e-12)
    angle = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    angle += 6 * turn.view(-1, 1, 1)
    turned = [value - chroma * _hat((angle + n) % 6) for n in (5, 3, 1)]
    return torch.stack(turned, dim=1).clamp_(0, 1)


def grayscale(image: Tensor, amount: Tensor) -> Tensor:
    """From the image (0) to its grey in all channels (1)."""
    return _blend(image, _grey(image).expand_as(image), amount) if _colored(image) else image.clone()


def gamma(image: Tensor, exponent: Tensor) -> Tensor:
    """x^exponent; 1 is the image, less is brighter."""
    return image.clamp(0, 1).pow_(_each(exponent))


def invert(image: Tensor, amount: Tensor) -> Tensor:
    """From the image (0) to 1 - x (1)."""
    return _blend(image, 1 - image, amount)


def solarize(image: Tensor, threshold: Tensor) -> Tensor:
    """1 - x where x is at least the threshold; above 1 it is the image."""
    return torch.where(image >= _each(threshold), 1 - image, image).clamp_(0, 1)


def posterize(image: Tensor, bits: Tensor) -> Tensor:
    """The lower edge of x's step on a stair of 2^bits steps; 8 bits and more are the image, of which nobody sees it."""
    steps = _each(2**bits)
    stair = (image * steps).floor_().minimum(steps - 1).clamp_(min=0).div_(steps)
    return torch.where(_each(bits) >= 8, image, stair)


def autocontrast(image: Tensor, amount: Tensor) -> Tensor:
    """From the image (0) to each channel stretched to [0, 1] (1); a constant channel stays as it is."""
    low, high = image.amin(dim=(2, 3), keepdim=True), image.amax(dim=(2, 3), keepdim=True)
    flat = high <= low
    stretched = (image - torch.where(flat, 0, low)) / torch.where(flat, 1, high - low)
    return _blend(image, stretched, amount)


def equalize(image: Tensor, amount: Tensor) -> Tensor:
    """From the image (0) to each channel with a flat histogram of 256 bins (1), in PIL's arithmetic."""
    num = image.shape[0] * image.shape[1]
    grey = (image.clamp(0, 1) * (LEVELS - 1)).round_().long().flatten(0, 1).flatten(1)  # [B * C, H * W]
    flat = (grey + LEVELS * torch.arange(num, device=image.device)[:, None]).flatten()
    count = flat.new_zeros(num * LEVELS).scatter_add_(0, flat, torch.ones_like(flat)).view(num, LEVELS)
    last = count.gather(1, grey.amax(dim=1, keepdim=True))
    step = (grey.shape[1] - last) // (LEVELS - 1)
    table = (count.cumsum(dim=1) - count + step // 2) // step.clamp(min=1)
    equal = table.clamp_(0, LEVELS - 1).div(LEVELS - 1).gather(1, grey).view(image.shape)
    return _blend(image, torch.where((step > 0).view(*image.shape[:2], 1, 1), equal, image), amount)


def sharpness(image: Tensor, factor: Tensor) -> Tensor:
    """From slightly smoothed (0; 3 x 3 pixels, the middle one 5 of 13 parts) to the image (1) and beyond.

    The outermost pixels stay as they are, as in PIL.
    """
    smooth = image.clone()
    if min(image.shape[-2:]) > 2:
        three = image[..., :-2, :] + image[..., 1:-1, :] + image[..., 2:, :]
        nine = three[..., :-2] + three[..., 1:-1] + three[..., 2:]
        smooth[..., 1:-1, 1:-1].mul_(4 / 13).add_(nine, alpha=1 / 13)
    return _blend(smooth, image, factor)


def blur(image: Tensor, sigma: Tensor, radius: int = 6) -> Tensor:
    """Gaussian of standard deviation sigma pixels, cut off at `radius`; 0 is the image. Edges are continued outwards.

    Sums of shifted images, five times as fast on a CPU as a grouped convolution, and float32 even under autocast.
    """
    at = torch.arange(radius + 1, device=image.device)
    kernel = torch.exp(-0.5 * (at / sigma[:, None].clamp(min=1e-3)) ** 2)
    kernel = kernel / (2 * kernel.sum(dim=1, keepdim=True) - 1)
    for dim in (2, 3):
        edges = (0, 0, radius, radius) if dim == 2 else (radius, radius, 0, 0)
        wide, size = F.pad(image, edges, mode="replicate"), image.shape[dim]
        image = image * _each(kernel[:, 0])
        for i in range(1, radius + 1):
            pair = wide.narrow(dim, radius - i, size) + wide.narrow(dim, radius + i, size)
            image.addcmul_(pair, _each(kernel[:, i]))
    return image.clamp_(0, 1)


def noise(image: Tensor, std: Tensor, generator: Generator | None = None) -> Tensor:
    """Plus N(0, std) in every pixel and channel, drawn on the image's device from a seed of the CPU generator."""
    seed = int(torch.randint(2**62, (), generator=generator))
    own = Generator(image.device).manual_seed(seed)
    added = torch.randn(image.shape, generator=own, device=image.device)
    return added.mul_(_each(std)).add_(image).clamp_(0, 1)


def cutout(image: Tensor, side: Tensor, place: Tensor | None = None, fill: float = 0.5) -> Tensor:
    """A grey square of `side`, a share of the shorter side; its centre at `place` [B, 2] in [0, 1] (row, column)."""
    height, width = image.shape[-2:]
    centre = side.new_full((len(image), 2), 0.5) if place is None else place
    half = (side * min(height, width) / 2).view(-1, 1)
    row, column = (torch.arange(n, device=image.device) + 0.5 for n in (height, width))
    inside = [
        (at - centre[:, i : i + 1] * n).abs() < half for i, (at, n) in enumerate(((row, height), (column, width)))
    ]
    return image.masked_fill((inside[0][:, :, None] & inside[1][:, None])[:, None], fill)


def _each(magnitude: Tensor) -> Tensor:
    return magnitude.view(-1, 1, 1, 1)


def _blend(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """a at weight 0, b at weight 1, and beyond."""
    return torch.lerp(a, b, _each(weight)).clamp_(0, 1)


def _colored(image: Tensor) -> bool:
    return image.shape[1] == 3


def _grey(image: Tensor) -> Tensor:
    """[B, 1, H, W]: the luminance of RGB, else the mean of the channels."""
    if not _colored(image):
        return image.mean(dim=1, keepdim=True)
    red, green, blue = (image[:, i : i + 1] for i in range(3))
    return (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def _hat(angle: Tensor) -> Tensor:
    """Share of the chroma that a channel lacks, `angle` sixths of the circle from where it begins to."""
    return torch.minimum(angle, 4 - angle).clamp_(0, 1)


# -- operations with random magnitudes, for conf/views ----------------------------------------------------------------


def check_range(image: Tensor) -> None:
    """Raise a UserError if the image's values do not lie in [0, 1]. It waits for the device: call it once."""
    low, high = (float(bound) for bound in image.aminmax()) if image.numel() else (0, 1)
    if low < -TOLERANCE or high > 1 + TOLERANCE:
        raise UserError(
            f"photometric operations expect images in [0, 1], but these hold values from {low:.3g} to {high:.3g}: "
            "set dataset.normalize=minmax"
        )


class Photometric(ABC):
    """An operation on a share `p` of the samples; the image that it is given stays as it is.

    Every sample's parameters are drawn, needed or not: what one sample gets shifts no other's.
    """

    def __init__(self, *, p: float = 1.0) -> None:
        if not 0 <= p <= 1:
            raise UserError(f"{self._key('p')}={p}: expected a share in [0, 1]")
        self.p = p
        self._checked = False

    def __call__(self, image: Tensor, generator: Generator | None = None) -> Tensor:
        """Apply to [B, C, H, W]; the draws come from `generator`, None being PyTorch's global one."""
        if not self._checked:
            check_range(image)
            self._checked = True
        return self.on(image, torch.ones(len(image), dtype=torch.bool), generator)

    def on(self, image: Tensor, chosen: Tensor, generator: Generator | None) -> Tensor:
        """Apply to a share p of the samples `chosen` [B] (bool, on the CPU)."""
        return self.apply(image, chosen & (torch.rand(len(image), generator=generator) < self.p), generator)

    @abstractmethod
    def apply(self, image: Tensor, chosen: Tensor, generator: Generator | None) -> Tensor:
        """Draw for all samples and apply to those `chosen`."""

    @classmethod
    def _key(cls, key: str) -> str:
        return f"views.strong.{cls.__name__}.{key}"


class _Drawn(Photometric):
    """One magnitude for each sample, uniform in `magnitude` = [low, high]."""

    limits: ClassVar[tuple[float, float]] = (0, math.inf)

    def __init__(self, *, magnitude: Sequence[float], p: float = 1.0) -> None:
        super().__init__(p=p)
        low, high = self.limits
        if not _pair(magnitude) or not low <= magnitude[0] <= magnitude[1] <= high:
            raise UserError(
                f"{self._key('magnitude')}={magnitude}: expected [low, high] with {low} <= low <= high <= {high}"
            )
        self.low, self.high = magnitude

    def apply(self, image: Tensor, chosen: Tensor, generator: Generator | None) -> Tensor:
        return on_samples(self.op, image, chosen, self.magnitude(torch.rand(len(image), generator=generator)))

    def magnitude(self, u: Tensor) -> Tensor:
        """The magnitude at u in [0, 1] of the range."""
        return self.low + u * (self.high - self.low)

    @staticmethod
    @abstractmethod
    def op(image: Tensor, magnitude: Tensor, /) -> Tensor:
        """The pure function."""


def on_samples(op: Callable[..., Tensor], image: Tensor, chosen: Tensor, *parameters: Tensor) -> Tensor:
    """op(image, *parameters) for the samples `chosen` [B]; that and the parameters [B, ...] lie on the CPU."""
    rows = chosen.nonzero()[:, 0]
    if not len(rows):
        return image
    moved = [parameter[rows].to(image.device) for parameter in parameters]
    if len(rows) == len(image):
        return op(image, *moved)
    rows = rows.to(image.device)
    return image.index_copy(0, rows, op(image[rows], *moved))


def _pair(value: object) -> bool:
    return isinstance(value, Sequence) and len(value) == 2


class Brightness(_Drawn):
    """Magnitude: the factor; 0 is black, 1 the image."""

    op = staticmethod(brightness)


class Contrast(_Drawn):
    """Magnitude: the factor; 0 is the mean grey, 1 the image."""

    op = staticmethod(contrast)


class Saturation(_Drawn):
    """Magnitude: the factor; 0 is grey, 1 the image."""

    op = staticmethod(saturation)


class Hue(_Drawn):
    """Magnitude: the turn, as a share in [-0.5, 0.5] of the circle of colours; 0 is the image."""

    op = staticmethod(hue)
    limits = (-0.5, 0.5)


class Gamma(_Drawn):
    """Magnitude: the exponent; 1 is the image, less is brighter."""

    op = staticmethod(gamma)


class Sharpness(_Drawn):
    """Magnitude: the factor; 0 is smoothed, 1 the image, 2 sharpened."""

    op = staticmethod(sharpness)


class Solarize(_Drawn):
    """Magnitude: the threshold from which on pixels are inverted."""

    op = staticmethod(solarize)


class Posterize(_Drawn):
    """Magnitude: bits, rounded down to whole ones; [4, 8] are 4 to 7."""

    limits = (1, 8)

    @staticmethod
    def op(image: Tensor, bits: Tensor, /) -> Tensor:
        return posterize(image, bits.floor())


class GaussianBlur(_Drawn):
    """Magnitude: sigma in pixels."""

    def apply(self, image: Tensor, chosen: Tensor, generator: Generator | None) -> Tensor:
        sigma = self.magnitude(torch.rand(len(image), generator=generator))
        radius = math.ceil(3 * self.high)  # of the largest: it must not depend on what the neighbours draw
        return on_samples(lambda part, s: blur(part, s, radius), image, chosen, sigma)

    op = staticmethod(blur)


class Noise(_Drawn):
    """Magnitude: standard deviation."""

    def apply(self, image: Tensor, chosen: Tensor, generator: Generator | None) -> Tensor:
        std = self.magnitude(torch.rand(len(image), generator=generator))
        return noise(image, (std * chosen).to(image.device), generator)

    op = staticmethod(noise)


class Cutout(_Drawn):
    """Magnitude: side of the grey square, as a share of the image's shorter side; the centre lies anywhere."""

    limits = (0, 1)

    def apply(self, image: Tensor, chosen: Tensor, generator: Generator | None) -> Tensor:
        u = torch.rand((len(image), 3), generator=generator)
        return on_samples(cutout, image, chosen, self.magnitude(u[:, 0]), u[:, 1:])

    op = staticmethod(cutout)


class _Whole(Photometric):
    """No magnitude: wholly applied."""

    def apply(self, image: Tensor, chosen: Tensor, generator: Generator | None) -> Tensor:
        return on_samples(self.op, image, chosen, torch.ones(len(image)))

    @staticmethod
    @abstractmethod
    def op(image: Tensor, amount: Tensor, /) -> Tensor:
        """The pure function."""


class Grayscale(_Whole):
    """Grey in all three channels."""

    op = staticmethod(grayscale)


class Invert(_Whole):
    """1 - x."""

    op = staticmethod(invert)


class Autocontrast(_Whole):
    """Each channel stretched to [0, 1]."""

    op = staticmethod(autocontrast)


class Equalize(_Whole):
    """Each channel with a flat histogram."""

    op = staticmethod(equalize)


class Identity(_Whole):
    """Nothing: for a random choice that may leave the image as it is."""

    @staticmethod
    def op(image: Tensor, amount: Tensor, /) -> Tensor:
        return image


class ColorJitter(Photometric):
    """Brightness, contrast, saturation and hue, one after the other, in an order of each sample's own.

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
        given = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}
        for key, value in given.items():
            if not 0 <= value <= (most := 0.5 if key == "hue" else math.inf):
                raise UserError(f"{self._key(key)}={value}: expected a number from 0 to {most}")
        factors = [(max(0.0, 1 - value), 1 + value) for value in (brightness, contrast, saturation)]
        self.gray: list[_Drawn] = [Brightness(magnitude=factors[0]), Contrast(magnitude=factors[1])]
        self.color: list[_Drawn] = [Saturation(magnitude=factors[2]), Hue(magnitude=(-hue, hue))]

    def apply(self, image: Tensor, chosen: Tensor, generator: Generator | None) -> Tensor:
        operations = self.gray + self.color if _colored(image) else self.gray
        order = torch.rand((len(image), len(operations)), generator=generator).argsort(dim=1)
        u = torch.rand((len(image), len(operations)), generator=generator)
        for place in range(len(operations)):
            for k, operation in enumerate(operations):
                if operation.low < operation.high:
                    here = chosen & (order[:, place] == k)
                    image = on_samples(operation.op, image, here, operation.magnitude(u[:, k]))
        return image


class SomeOf(Photometric):
    """A random number of randomly chosen operations, one after the other, each sample's own.

    Args:
        operations: to choose from.
        num: [low, high], the number of operations, uniform.
        replace: whether an operation may be chosen more than once.
        p: share of the samples.
    """

    def __init__(
        self, *, operations: Sequence[Photometric], num: Sequence[int], replace: bool = True, p: float = 1.0
    ) -> None:
        super().__init__(p=p)
        most = math.inf if replace else len(operations)
        if (
            not isinstance(operations, Sequence)
            or not operations
            or not all(isinstance(operation, Photometric) for operation in operations)
        ):
            raise UserError(f"{self._key('operations')}: expected a list of photometric operations, not empty")
        if not _pair(num) or not 0 <= num[0] <= num[1] <= most:
            raise UserError(f"{self._key('num')}={num}: expected [low, high] with 0 <= low <= high <= {most}")
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
