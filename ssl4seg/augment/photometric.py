"""Photometric functions: they change intensities and move no pixel, so labels stay valid.

Each is `function(image, magnitude [B])`: one magnitude for each sample, computed on the image's device, no gradient.
Images are [B, C, *X] with two or three axes, float32 in [0, 1], as the datasets deliver them, and so are the results,
which are clipped to [0, 1]. Images of three channels are RGB; on other images the functions that change colours do
nothing.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ssl4seg.axes import along_axes, image_dims
from ssl4seg.errors import UserError
from ssl4seg.seeding import sent

TORCHVISION_LUMA = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in grey, as torchvision has them: ITU-R BT.601 with red rounded as MATLAB does."""
LEVELS = 256
"""Greys that `equalize` distinguishes."""
TOLERANCE = 1e-3
"""Rounding may take values this far out of [0, 1]."""


def brightness(image: Tensor, factor: Tensor) -> Tensor:
    """image x factor: 0 is black, 1 the image."""
    return (image * along_axes(factor, image)).clamp_(0, 1)


def contrast(image: Tensor, factor: Tensor) -> Tensor:
    """From the image's mean grey (0) to the image (1) and beyond."""
    return _blend(_grey(image).mean(dim=tuple(range(1, image.ndim)), keepdim=True), image, factor)


def saturation(image: Tensor, factor: Tensor) -> Tensor:
    """From grey (0) to the image (1) and beyond."""
    return _blend(_grey(image), image, factor) if is_rgb(image) else image.clone()


def hue(image: Tensor, turn: Tensor) -> Tensor:
    """Turn every colour on the circle of hues, by a share in [-0.5, 0.5] of the circle; 0 is the image."""
    if not is_rgb(image):
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
    angle += along_axes(6 * turn, angle)
    turned = [value - chroma * _hat((angle + n) % 6) for n in (5, 3, 1)]
    return torch.stack(turned, dim=1).clamp_(0, 1)


def grayscale(image: Tensor, amount: Tensor) -> Tensor:
    """From the image (0) to its grey in all channels (1)."""
    return _blend(image, _grey(image).expand_as(image), amount) if is_rgb(image) else image.clone()


def gamma(image: Tensor, exponent: Tensor) -> Tensor:
    """image ^ exponent: 1 is the image, less is brighter."""
    return image.clamp(0, 1).pow_(along_axes(exponent, image))


def invert(image: Tensor, amount: Tensor) -> Tensor:
    """From the image (0) to its negative, 1 - image (1)."""
    return _blend(image, 1 - image, amount)


def solarize(image: Tensor, threshold: Tensor) -> Tensor:
    """Invert the pixels of at least the threshold; with a threshold above 1 none."""
    return torch.where(image >= along_axes(threshold, image), 1 - image, image).clamp_(0, 1)


def posterize(image: Tensor, bits: Tensor) -> Tensor:
    """Round down to one of 2^bits steps. From 8 bits on the image is returned unchanged: nobody would see the steps."""
    steps = along_axes(2**bits, image)
    stair = (image * steps).floor_().minimum(steps - 1).clamp_(min=0).div_(steps)
    return torch.where(along_axes(bits, image) >= 8, image, stair)


def autocontrast(image: Tensor, amount: Tensor) -> Tensor:
    """From the image (0) to each channel stretched to [0, 1] (1); a constant channel does not change."""
    low, high = (f(image, dim=image_dims(image), keepdim=True) for f in (torch.amin, torch.amax))
    flat = high <= low
    stretched = (image - torch.where(flat, 0, low)) / torch.where(flat, 1, high - low)
    return _blend(image, stretched, amount)


def equalize(image: Tensor, amount: Tensor) -> Tensor:
    """From the image (0) to each channel with a flat histogram of 256 bins (1), in PIL's arithmetic."""
    num = image.shape[0] * image.shape[1]
    grey = (image.clamp(0, 1) * (LEVELS - 1)).round_().long().flatten(0, 1).flatten(1)  # [B * C, pixels]
    flat = (grey + LEVELS * torch.arange(num, device=image.device)[:, None]).flatten()
    count = flat.new_zeros(num * LEVELS).scatter_add_(0, flat, torch.ones_like(flat)).view(num, LEVELS)
    last = count.gather(1, grey.amax(dim=1, keepdim=True))
    step = (grey.shape[1] - last) // (LEVELS - 1)
    table = (count.cumsum(dim=1) - count + step // 2) // step.clamp(min=1)
    equal = table.clamp_(0, LEVELS - 1).div(LEVELS - 1).gather(1, grey).view(image.shape)
    return _blend(
        image, torch.where((step > 0).view(*image.shape[:2], *(1 for _ in image.shape[2:])), equal, image), amount
    )


def sharpness(image: Tensor, factor: Tensor) -> Tensor:
    """From the smoothed image (0) to the image (1) and beyond.

    Smoothing takes the mean of 3 x 3 pixels (of a volume 3 x 3 x 3), the middle one with weight 5; as in PIL, it leaves
    out the pixels at the edges.
    """
    smooth = image.clone()
    if min(image.shape[2:]) > 2:
        near = image
        for axis in range(2, image.ndim):
            before, here, after = (near.narrow(axis, start, near.shape[axis] - 2) for start in range(3))
            near = before + here + after
        inner = (slice(None), slice(None), *(slice(1, -1) for _ in image.shape[2:]))
        total = 3 ** (image.ndim - 2) + 4
        smooth[inner].mul_(4 / total).add_(near, alpha=1 / total)
    return _blend(smooth, image, factor)


def blur(image: Tensor, sigma: Tensor, radius: int = 6) -> Tensor:
    """Blur by a Gaussian of standard deviation sigma pixels, cut off at `radius` pixels; 0 is the image.

    Beyond the edges the outermost pixels are repeated. The blur is a sum of shifted images: on a CPU five times as fast
    as a grouped convolution, and float32 even under autocast.
    """
    at = torch.arange(radius + 1, device=image.device)
    kernel = torch.exp(-0.5 * (at / sigma[:, None].clamp(min=1e-3)) ** 2)
    kernel = kernel / (2 * kernel.sum(dim=1, keepdim=True) - 1)
    for dim in range(2, image.ndim):
        edges = [radius if axis == dim else 0 for axis in range(image.ndim - 1, 1, -1) for _ in range(2)]
        wide, size = F.pad(image, edges, mode="replicate"), image.shape[dim]
        image = image * along_axes(kernel[:, 0], image)
        for i in range(1, radius + 1):
            pair = wide.narrow(dim, radius - i, size) + wide.narrow(dim, radius + i, size)
            image.addcmul_(pair, along_axes(kernel[:, i], image))
    return image.clamp_(0, 1)


def noise(image: Tensor, std: Tensor, generator: Generator | None = None) -> Tensor:
    """Add N(0, std) to every pixel and channel.

    The noise is drawn on the image's device, from a seed that the CPU generator draws (None: PyTorch's global one).
    """
    return _normal(image, generator).mul_(along_axes(std, image)).add_(image).clamp_(0, 1)


def clipped_noise(image: Tensor, std: Tensor, generator: Generator | None = None) -> Tensor:
    """Add N(0, std), cut off at +-2 std, to every pixel and channel of an image of any range; see `noise`."""
    return _normal(image, generator).clamp_(-2, 2).mul_(along_axes(std, image)).add_(image)


def _normal(image: Tensor, generator: Generator | None) -> Tensor:
    own = Generator(image.device).manual_seed(int(torch.randint(2**62, (), generator=generator)))
    return torch.randn(image.shape, generator=own, device=image.device)


def cutout(image: Tensor, side: Tensor, place: Tensor | None = None, fill: float = 0.5) -> Tensor:
    """Paint a grey square in the plane of the first two axes; in a volume it runs along the whole third axis.

    Args:
        side: its side [B], as a share of the shorter side of that plane.
        place: its centre [B, 2], as shares of these sides; None is the middle.
    """
    height, width, *depth = image.shape[2:]
    centre = side.new_full((len(image), 2), 0.5) if place is None else place
    half = (side * min(height, width) / 2).view(-1, 1)
    row, column = (torch.arange(n, device=image.device) + 0.5 for n in (height, width))
    inside = [
        (at - centre[:, i : i + 1] * n).abs() < half for i, (at, n) in enumerate(((row, height), (column, width)))
    ]
    square = (inside[0][:, :, None] & inside[1][:, None])[:, None]
    return image.masked_fill(square.view(*square.shape, *(1 for _ in depth)), fill)


def _blend(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """a at weight 0, b at weight 1, and beyond."""
    return torch.lerp(a, b, along_axes(weight, a)).clamp_(0, 1)


def is_rgb(image: Tensor) -> bool:
    return image.shape[1] == 3


def _grey(image: Tensor) -> Tensor:
    """[B, 1, *X]: the luminance of RGB, else the mean of the channels."""
    if not is_rgb(image):
        return image.mean(dim=1, keepdim=True)
    red, green, blue = (image[:, i : i + 1] for i in range(3))
    return (red * TORCHVISION_LUMA[0]).add_(green, alpha=TORCHVISION_LUMA[1]).add_(blue, alpha=TORCHVISION_LUMA[2])


def _hat(angle: Tensor) -> Tensor:
    """The share of the chroma that a channel lacks; `angle` counts sixths of the circle from where the lack begins."""
    return torch.minimum(angle, 4 - angle).clamp_(0, 1)


def on_samples(op: Callable[..., Tensor], image: Tensor, chosen: Tensor, *parameters: Tensor) -> Tensor:
    """Apply op(image, *parameters) to the samples `chosen` only.

    Args:
        chosen: [B] bool, on the CPU.
        parameters: [B, ...], on the CPU or the image's device.
    """
    rows = chosen.nonzero()[:, 0]
    if not len(rows):
        return image
    moved = [sent(parameter, image.device) for parameter in parameters]
    if len(rows) == len(image):
        return op(image, *moved)
    rows = sent(rows, image.device)
    moved = [parameter[rows] for parameter in moved]
    return image.index_copy(0, rows, op(image[rows], *moved))


def check_range(image: Tensor) -> None:
    """Refuse an image with values outside [0, 1]. It waits for the device, so call it once, not in every step.

    Raises:
        UserError: with the lowest and the highest value.
    """
    low, high = (float(bound) for bound in image.aminmax()) if image.numel() else (0, 1)
    if low < -TOLERANCE or high > 1 + TOLERANCE:
        raise UserError(
            f"photometric operations expect images in [0, 1], but these hold values from {low:.3g} to {high:.3g}: "
            "set dataset.normalize=percentile, or minmax; or views=zscores, if the method takes its strong views there"
        )
