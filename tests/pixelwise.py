"""For golden tests of methods: networks whose outputs can be written down, and the formulas in NumPy."""

import math

import numpy as np
import torch
from torch import Tensor, nn

from ssl4seg.keys import IGNORE
from ssl4seg.methods.base import Method
from ssl4seg.methods.mean_teacher import MeanTeacher
from ssl4seg.networks.base import Network
from ssl4seg.types import Batch, Progress

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


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def numpy_cross_entropy(z: np.ndarray, y: np.ndarray) -> float:
    p = softmax(z)
    return float(np.mean([-np.log(p[n, y[n, *x], *x]) for n, *x in np.argwhere(y != IGNORE)]))


def numpy_dice(z: np.ndarray, y: np.ndarray, smooth: float = 1e-5) -> float:
    p, counted, total = softmax(z), y != IGNORE, 0.0
    for k in range(z.shape[1]):
        a, b = p[:, k][counted], (y == k)[counted].astype(float)
        total += 1 - (2 * (a * b).sum() + smooth) / ((a * a).sum() + (b * b).sum() + smooth)
    return total / z.shape[1]


def numpy_supervised(z: np.ndarray, y: np.ndarray, smooth: float = 1e-5) -> float:
    return (numpy_cross_entropy(z, y) + numpy_dice(z, y, smooth)) / 2


def squares(method: MeanTeacher, image: Tensor) -> np.ndarray:
    """(p_s - p_t)^2 [U, K, H, W] without noise."""
    return (softmax(method.student.numpy(image)) - softmax(method.teacher.network.numpy(image))) ** 2


def entropies(logits: np.ndarray) -> np.ndarray:
    p = softmax(logits)
    return -(p * np.log(p)).sum(axis=1)


def flooded(label: np.ndarray) -> np.ndarray:
    """The largest component of each class in labels [N, *X], by flooding from every pixel; the rest is 0."""
    kept = np.zeros_like(label)
    around = [np.subtract(step, 1) for step in np.ndindex((3,) * (label.ndim - 1))]
    for n, k in np.ndindex(len(label), K):
        left, largest = {tuple(place) for place in np.argwhere(label[n] == k)} if k else set(), set()
        while left:
            component = [min(left)]
            left -= {component[0]}
            for place in component:
                near = {tuple(place + step) for step in around} & left
                component += near
                left -= near
            largest = max(largest, set(component), key=len)
        for place in largest:
            kept[n][place] = k
    return kept
