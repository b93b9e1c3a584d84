"""What a trained model says of an unlabelled image: predictions of several passes, and the encoder's features."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from ssl4seg.axes import interpolated
from ssl4seg.data.case import FloatArray, ImageArray
from ssl4seg.data.dataset import shape_of
from ssl4seg.feed.views import as_float
from ssl4seg.run.model import Model
from ssl4seg.scoring.predictor import Predictor
from ssl4seg.seeding import seed_of


class Passes:
    """Several predictions of an image by the network of a model.

    Args:
        number: 1 predicts as ssl4seg-predict does. Of more every second one is of the mirrored image (left and right,
            as `inference.flip`), and all with dropout; without dropout in the network there are no more than 2.
    """

    def __init__(self, model: Model, number: int) -> None:
        self.member = model.members[0]
        self.dropout = [part for part in self.member.method.modules() if isinstance(part, _DropoutNd) and part.p > 0]
        self.number = number if self.dropout else min(number, 2)

    def __call__(self, image: ImageArray, name: str) -> Iterator[FloatArray]:
        """Yield probabilities [S, K, *X] of each pass; the dropout of an image follows from its name."""
        predictor = self.member.predictor
        if self.number == 1:
            yield _probabilities(predictor, image)
            return
        dropped = dataclasses.replace(predictor, predict=self._with_dropout)
        for number in range(self.number):
            with torch.random.fork_rng():
                torch.manual_seed(seed_of("rank", name, number))
                yield (
                    _mirrored(_probabilities(dropped, _mirrored(image)))
                    if number % 2
                    else _probabilities(dropped, image)
                )

    def _with_dropout(self, image: torch.Tensor) -> torch.Tensor:
        """The logits of one batch, with dropout as in training."""
        handles = [part.register_forward_pre_hook(_train) for part in self.dropout]
        try:
            return self.member.predictor.predict(image)
        finally:
            for handle in handles:
                handle.remove()


def _train(part: nn.Module, _: Any) -> None:
    """Put a layer into training mode; the predictor puts the whole network into evaluation mode at every call."""
    part.training = True


def _mirrored(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """[S, C, *X] with left and right exchanged."""
    return np.ascontiguousarray(np.flip(pixels, 3))


def _probabilities(predictor: Predictor, image: ImageArray) -> FloatArray:
    probability = predictor.bare(image, probabilities=True)[1]
    assert probability is not None
    return probability


@torch.inference_mode()
def features(model: Model, image: ImageArray) -> npt.NDArray[np.float64]:
    """The means over the pixels of the encoder's coarsest map, of images [S, C, *X] at the training size: [S, F]."""
    member = model.members[0]
    shape, device = shape_of(model.data["image_size"]), member.predictor.device
    encode = member.method.eval().student.encode
    size, found = member.settings.eval_batch_size, []
    for i in range(0, len(image), size):
        part = as_float(torch.from_numpy(image[i : i + size]).to(device))
        found.append(encode(interpolated(part, shape))[-1].float().flatten(2).mean(dim=2).cpu().numpy())
    return np.concatenate(found).astype(np.float64)
