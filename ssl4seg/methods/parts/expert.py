"""A frozen network that teaches beside a method's own teacher, and what it teaches: relations and predictions."""

import copy
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl4seg.axes import interpolated
from ssl4seg.errors import UserError
from ssl4seg.keys import Key, above, expect, is_number, list_of
from ssl4seg.methods.base import MakeNetwork, built_like
from ssl4seg.methods.parts.losses import batch_mean
from ssl4seg.methods.parts.self_training import Frozen
from ssl4seg.networks.base import Network, resized

NUMBER = Key(is_number, "a number")


class Expert(Frozen):
    """A network with weights from elsewhere: frozen, in evaluation mode, and part of the method's state.

    Args:
        student: whose images and classes it gets.
        make: builds the expert from the keywords in_channels and num_classes; None copies the student as it is, with
            the weights that it starts from.
        mean, std: of the images that the expert has learned from, one number a channel, as [0.485, 0.456, 0.406] and
            [0.229, 0.224, 0.225] of ImageNet; None: those of the expert's file, else the student's, else 0 and 1.
        key: the name of the key that holds `make`, for messages; those of mean and std begin with it.
    """

    def __init__(
        self,
        student: Network,
        make: MakeNetwork | None,
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        key: str = "method.expert",
    ) -> None:
        network = copy.deepcopy(student) if make is None else built_like(student, make, key)
        if (mean is None) != (std is None):
            raise UserError(f"{key}_mean={mean} and {key}_std={std}: give both, or neither")
        if mean is not None and std is not None:
            expect(f"{key}_mean", mean, list_of(NUMBER, student.in_channels, student.in_channels))
            expect(f"{key}_std", std, list_of(above(0), student.in_channels, student.in_channels))
            network.standardize(mean, std)
        elif network.mean is None:
            # It always has the numbers, because a checkpoint may hold those of the file that the expert came from.
            network.standardize([0.0] * student.in_channels, [1.0] * student.in_channels)
            if student.mean is not None and student.std is not None:
                network.standardize(student.mean.flatten().tolist(), student.std.flatten().tolist())
        super().__init__(network)

    @torch.no_grad()
    def seen(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Images [N, C, H, W] -> logits [N, K, H, W], and the encoder's feature maps, finest first."""
        features = self.network.encode(image)
        return resized(self.network.decode(features), image), features

    @torch.no_grad()
    def features(self, image: Tensor) -> list[Tensor]:
        """Images [N, C, H, W] -> the encoder's feature maps, finest first."""
        return self.network.encode(image)


def relation_loss(features: Tensor, of_expert: Tensor, places: int) -> Tensor:
    """mean (a_ij - a'_ij)^2 over the images and over all pairs of places i, j, for maps of any channels.

    Pair-wise distillation (Liu et al., CVPR 2019). a_ij in [-1, 1]: the cosine of the features at i and j.

    Args:
        features: [N, C, h, w]; averaged over equal blocks, the smallest that leave at most `places`.
        of_expert: [N, C', h', w'] without a gradient; linearly resized to the same places.
    """
    features = pooled(features.float(), places)
    of_expert = interpolated(of_expert.float(), features.shape[2:])
    return batch_mean((cosines(features) - cosines(of_expert)).square())


def pooled(features: Tensor, places: int) -> Tensor:
    """Means over equal blocks, which leave at most `places` of a map [N, C, *X]; the last blocks may be cut off."""
    axes = features.ndim - 2
    longest = math.floor(places ** (1 / axes) + 1e-9)
    blocks = [math.ceil(length / longest) for length in features.shape[2:]]
    if max(blocks) == 1:
        return features
    return (F.avg_pool2d if axes == 2 else F.avg_pool3d)(features, blocks, ceil_mode=True)


def cosines(features: Tensor) -> Tensor:
    """[N, C, *X] -> the cosine of each pair of places [N, P, P] in float32."""
    with torch.autocast(features.device.type, enabled=False):
        unit = F.normalize(features.flatten(2), dim=1)
        return unit.transpose(1, 2) @ unit


def prediction_loss(logits: Tensor, of_expert: Tensor) -> Tensor:
    """mean over the pixels of -sum_k p'_k ln p_k in nats, of logits [N, K, H, W] and the expert's.

    Pixel-wise distillation, theirs too but for the entropy of p', which has no gradient.
    """
    each = -(of_expert.float().softmax(dim=1) * logits.float().log_softmax(dim=1)).sum(dim=1)
    return batch_mean(each)
