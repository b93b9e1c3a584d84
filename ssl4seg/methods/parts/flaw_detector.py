"""The flaw detector of GCT (Ke et al. 2020), which says where a prediction is wrong; its target, and map scaling."""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl4seg.methods.parts.discriminator import one_hot_truth
from ssl4seg.networks.base import resized


class FlawDetector(nn.Module):
    """conv 4x4 pad 1 to 64, 128, 128, 256, 256, 512, 512 channels (`width` times 1, 2, 2, 4, 4, 8, 8) with stride 2, 2,
    1, 2, 1, 2, 1, each `HalfNorm` and LeakyReLU 0.2; conv 4x4 stride 2 pad 1 to 1, resized to the input's size. The
    output is linear, for a squared error.

    Of the authors' images of 321 pixels, 9 x 9 places remain, of 256 pixels 7 x 7, of 64 pixels one; but flaws are
    compared within an image. So where fewer than 7 would remain, the last of the strides 2 become 1.

    Args:
        in_channels: C + K, of image and prediction stacked.
        width: channels of the first convolution.
    """

    min_places = 7
    min_side = 15  # the least that leaves 7 places if all strides are 1

    def __init__(self, *, in_channels: int, width: int = 64) -> None:
        super().__init__()
        channels = (in_channels, *(width * times for times in (1, 2, 2, 4, 4, 8, 8)), 1)
        self.convolutions = nn.ModuleList(Convolution(a, b, 4) for a, b in itertools.pairwise(channels))
        self.norms = nn.ModuleList(HalfNorm(width) for width in channels[1:-1])

    def forward(self, image: Tensor, p: Tensor) -> Tensor:
        """Images [N, C, H, W] and predictions [N, K, H, W] -> flaws [N, H, W] float32, near 0 (none) to 1."""
        x = torch.cat([image, p], dim=1)
        height, width = x.shape[-2:]
        x = padded = F.pad(x, (0, max(0, self.min_side - width), 0, max(0, self.min_side - height)))
        *strides, last = self.strides(min(x.shape[-2:]))
        *inner, decide = self.convolutions
        for convolution, norm, stride in zip(inner, self.norms, strides, strict=True):
            x = F.leaky_relu(norm(convolution(x, stride)), 0.2)
        return resized(decide(x, last), padded)[:, 0, :height, :width]

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


class Convolution(nn.Conv2d):
    """A convolution with pad 1 that takes its stride as an argument."""

    def forward(self, input: Tensor, stride: int = 1) -> Tensor:
        return F.conv2d(input, self.weight, self.bias, stride, 1)


class HalfNorm(nn.Module):
    """Batch norm of the first half of the channels, instance norm without weights of the second half."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.batched = channels // 2
        self.batch_norm = nn.BatchNorm2d(self.batched)
        self.instance_norm = nn.InstanceNorm2d(channels - self.batched)

    def forward(self, x: Tensor) -> Tensor:
        a, b = x[:, : self.batched], x[:, self.batched :]
        return torch.cat([self.batch_norm(a), self.instance_norm(b)], dim=1)


@torch.no_grad()
def flaw_target(p: Tensor, label: Tensor, dilations: int = 1) -> Tensor:
    """Where p [N, K, H, W] differs from the truth [N, H, W], spread out: [N, H, W] from 0 to 1 in each image.

    |p - y| summed over the classes and halved, in [0, 1], and 0 where the truth is ignored; blurred by a kernel of 1/8
    of the image; `dilations` times dilated by 3x3 and blurred by a kernel of 1/4; stretched to [0, 1].
    """
    side = min(label.shape[-2:])
    flaws = (one_hot_truth(label, p) - p).abs().sum(dim=1, keepdim=True) / 2
    flaws = blurred(flaws, side // 8)
    for _ in range(dilations):
        flaws = blurred(F.max_pool2d(flaws, 3, stride=1, padding=1), side // 4)
    return stretched(flaws[:, 0])


@torch.no_grad()
def comparable(flaws: Tensor, floor: float = 0.1) -> Tensor:
    """Detected flaws [N, H, W] without a graph, blurred by a kernel of 1/16 of the image and stretched to [0, 1].

    Negative flaws count as 0. An image whose largest flaw is at most `floor` has no flaws at all.
    """
    flaws = blurred(flaws.clamp(min=0)[:, None], min(flaws.shape[-2:]) // 16)[:, 0]
    return stretched(flaws) * (flaws.amax(dim=(1, 2), keepdim=True) > floor)


def stretched(flaws: Tensor) -> Tensor:
    """Scale each image's least value to 0 and its greatest to 1; 0 everywhere where they are equal."""
    least, greatest = flaws.amin(dim=(1, 2), keepdim=True), flaws.amax(dim=(1, 2), keepdim=True)
    return (flaws - least) / (greatest - least + 1e-9)


def blurred(maps: Tensor, size: int) -> Tensor:
    """Blur [N, 1, H, W] by a Gaussian kernel of `size` pixels, or of the next odd number; borders are mirrored.

    The kernel's standard deviation is OpenCV's: 0.3 ((size - 1) / 2 - 1) + 0.8.
    """
    reach = size // 2
    sigma = 0.3 * (reach - 1) + 0.8
    weight = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=maps.device) / sigma) ** 2)
    weight = (weight / weight.sum()).view(1, 1, 1, -1)
    with torch.autocast(maps.device.type, enabled=False):
        maps = F.pad(maps.float(), (reach, reach, reach, reach), mode="reflect")
        return F.conv2d(F.conv2d(maps, weight), weight.transpose(2, 3))
