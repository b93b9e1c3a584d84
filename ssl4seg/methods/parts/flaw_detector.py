"""The flaw detector of GCT (Ke et al. 2020), which says where a prediction is wrong; its target, and map scaling."""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl4seg.axes import LAYERS, along_axes, interpolated, layers_for
from ssl4seg.methods.parts.discriminator import filled_up, one_hot_truth

CONVOLVE = {2: F.conv2d, 3: F.conv3d}
"""By the number of axes."""


class FlawDetector(nn.Module):
    """conv 4x4 pad 1 to 64, 128, 128, 256, 256, 512, 512 channels (`width` times 1, 2, 2, 4, 4, 8, 8) with stride 2, 2,
    1, 2, 1, 2, 1, each `HalfNorm` and LeakyReLU 0.2; conv 4x4 stride 2 pad 1 to 1, resized to the input's size,
    linearly and with corners on corners (align_corners), as the authors do: of so few places the other way makes maps
    that differ by up to 40 %. The output is linear, for a squared error.

    Of the authors' images of 321 pixels, 9 x 9 places remain, of 256 pixels 7 x 7, of 64 pixels one; but flaws are
    compared within an image. So where fewer than 7 would remain, the last of the strides 2 become 1.

    Args:
        in_channels: C + K, of image and prediction stacked.
        axes: of the images, 2 or 3; kernels are as long along each.
        width: channels of the first convolution.
    """

    min_places = 7
    min_side = 15  # the least that leaves 7 places if all strides are 1

    def __init__(self, *, in_channels: int, axes: int = 2, width: int = 64) -> None:
        super().__init__()
        channels = (in_channels, *(width * times for times in (1, 2, 2, 4, 4, 8, 8)), 1)
        self.convolutions = nn.ModuleList(LAYERS[axes].conv(a, b, 4) for a, b in itertools.pairwise(channels))
        self.norms = nn.ModuleList(HalfNorm(width, axes) for width in channels[1:-1])

    def forward(self, image: Tensor, p: Tensor) -> Tensor:
        """Images [N, C, *X] and predictions [N, K, *X] -> flaws [N, *X] float32, near 0 (none) to 1."""
        x = torch.cat([image, p], dim=1)
        inner_part = (slice(None), *map(slice, x.shape[2:]))
        x = padded = filled_up(x, self.min_side)
        *strides, last = self.strides(min(x.shape[2:]))
        *inner, decide = self.convolutions
        for convolution, norm, stride in zip(inner, self.norms, strides, strict=True):
            x = F.leaky_relu(norm(_strided(convolution, x, stride)), 0.2)
        places = _strided(decide, x, last).float()
        return interpolated(places, padded.shape[2:], align_corners=True)[:, 0][inner_part]

    def strides(self, side: int) -> tuple[int, ...]:
        """The strides of the eight convolutions for an image whose shorter side is `side`."""
        for twos in range(5, 0, -1):
            halves = iter([2] * twos + [1] * (5 - twos))
            strides = tuple(next(halves) if halving else 1 for halving in (1, 1, 0, 1, 0, 1, 0, 1))
            places = side
            for stride in strides:
                places = (places - 2) // stride + 1
            if places >= self.min_places:
                return strides
        return (1,) * 8


def _strided(convolution: nn.Module, x: Tensor, stride: int) -> Tensor:
    """A convolution with pad 1 and another stride than its own."""
    assert isinstance(convolution, nn.Conv2d | nn.Conv3d)
    return CONVOLVE[x.ndim - 2](x, convolution.weight, convolution.bias, stride, 1)


class HalfNorm(nn.Module):
    """Batch norm of the first half of the channels, instance norm without weights of the second half."""

    def __init__(self, channels: int, axes: int) -> None:
        super().__init__()
        self.batched = channels // 2
        self.batch_norm = LAYERS[axes].batch_norm(self.batched)
        self.instance_norm = LAYERS[axes].instance_norm(channels - self.batched)

    def forward(self, x: Tensor) -> Tensor:
        a, b = x[:, : self.batched], x[:, self.batched :]
        return torch.cat([self.batch_norm(a), self.instance_norm(b)], dim=1)


@torch.no_grad()
def flaw_target(p: Tensor, label: Tensor, dilations: int = 1) -> Tensor:
    """Where p [N, K, *X] differs from the truth [N, *X], spread out: [N, *X] from 0 to 1 in each image.

    |p - y| summed over the classes and halved, in [0, 1], and 0 where the truth is ignored; blurred by a kernel of 1/8
    of the image; `dilations` times dilated by 3x3 and blurred by a kernel of 1/4; stretched to [0, 1].
    """
    side = min(label.shape[1:])
    flaws = (one_hot_truth(label, p) - p).abs().sum(dim=1, keepdim=True) / 2
    flaws = blurred(flaws, side // 8)
    for _ in range(dilations):
        flaws = blurred(layers_for(flaws).max_pool(flaws, 3, stride=1, padding=1), side // 4)
    return stretched(flaws[:, 0])


@torch.no_grad()
def comparable(flaws: Tensor, floor: float = 0.1) -> Tensor:
    """Detected flaws [N, *X] without a graph, blurred by a kernel of 1/16 of the image and stretched to [0, 1].

    Negative flaws count as 0. An image whose largest flaw is at most `floor` has no flaws at all.
    """
    flaws = blurred(flaws.clamp(min=0)[:, None], min(flaws.shape[1:]) // 16)[:, 0]
    return stretched(flaws) * (along_axes(flaws.flatten(1).amax(dim=1), flaws) > floor)


def stretched(flaws: Tensor) -> Tensor:
    """Scale each image's least value to 0 and its greatest to 1; 0 everywhere where they are equal."""
    least, greatest = (along_axes(end, flaws) for end in flaws.flatten(1).aminmax(dim=1))
    return (flaws - least) / (greatest - least + 1e-9)


def blurred(maps: Tensor, size: int) -> Tensor:
    """Blur [N, 1, *X] by a Gaussian kernel of `size` pixels, or of the next odd number; borders are mirrored.

    The kernel's standard deviation is OpenCV's: 0.3 ((size - 1) / 2 - 1) + 0.8.
    """
    reach = size // 2
    sigma = 0.3 * (reach - 1) + 0.8
    weight = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=maps.device) / sigma) ** 2)
    weight = weight / weight.sum()
    axes = maps.ndim - 2
    with torch.autocast(maps.device.type, enabled=False):
        maps = F.pad(maps.float(), (reach, reach) * axes, mode="reflect")
        for axis in reversed(range(axes)):
            kernel = weight.view(1, 1, *(-1 if k == axis else 1 for k in range(axes)))
            maps = CONVOLVE[axes](maps, kernel)
    return maps
