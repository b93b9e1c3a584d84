"""For golden tests of methods: networks whose outputs can be written down, and the formulas in NumPy."""

import math

import numpy as np
import torch
from test_losses import numpy_supervised, softmax
from torch import Tensor, nn

from ssl4seg.methods.base import Method
from ssl4seg.methods.mean_teacher import MeanTeacher
from ssl4seg.networks.base import Network
from ssl4seg.types import Batch, Progress

__all__ = ["HALFWAY", "W_HALFWAY", "K", "Pixelwise", "entropies", "losses", "made", "numpy_supervised"]
__all__ += ["softmax", "squares"]

K = 3
HALFWAY = Progress(50, 100)
W_HALFWAY = 0.1 * math.exp(-5 / 4)


class Pixelwise(Network):
    """z = W x + b in every pixel."""

    def __init__(self) -> None:
        super().__init__(in_channels=1, num_classes=K)
        self.encoder, self.decoder, self.head = nn.Identity(), nn.Identity(), nn.Conv2d(1, K, 1)

    @property
    def feature_channels(self) -> tuple[int, ...]:
        return (1,)

    def features(self, image: Tensor) -> list[Tensor]:
        return [image]

    @property
    def pyramid_channels(self) -> tuple[int, ...]:
        return (1,)

    def pyramid(self, features: list[Tensor]) -> list[Tensor]:
        return features

    def numpy(self, image: Tensor) -> np.ndarray:
        """Its logits, by NumPy in double precision."""
        weight, bias = (p.detach().double().numpy().reshape(1, K, 1, 1) for p in self.head.parameters())
        return weight * image.double().numpy() + bias


def made(kind: type[Method], **keys: object) -> Method:
    """A method whose teacher, if it has one, is not its student."""
    method = kind(network=Pixelwise, **keys)
    if isinstance(method, MeanTeacher):
        with torch.no_grad():
            for p in method.teacher.parameters():
                p.add_(torch.randn_like(p))
    return method.train()


def losses(method: Method, batch: Batch, progress: Progress = HALFWAY) -> dict[str, float]:
    return {name: value.item() for name, value in method("segmenter", batch, progress).items()}


def squares(method: MeanTeacher, image: Tensor) -> np.ndarray:
    """(p_s - p_t)^2 [U, K, H, W] without noise."""
    return (softmax(method.student.numpy(image)) - softmax(method.teacher.network.numpy(image))) ** 2


def entropies(logits: np.ndarray) -> np.ndarray:
    p = softmax(logits)
    return -(p * np.log(p)).sum(axis=1)
