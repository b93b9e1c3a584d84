"""Statistics of predictions, pixel by pixel: class, confidence, entropy; and pseudo-labels for the diagnostics."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl4seg.keys import IGNORE
from ssl4seg.types import PseudoLabels


def confidence(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The largest class probability [N, H, W] in (1/K, 1], and its class [N, H, W] int64."""
    best = logits.float().softmax(dim=1).max(dim=1)
    return best.values, best.indices


def confident_label(logits: Tensor, threshold: float | Tensor) -> Tensor:
    """The most probable class [N, H, W] int64, without a gradient; IGNORE where less probable than `threshold`."""
    value, label = confidence(logits.detach())
    return label.masked_fill(value < threshold, IGNORE)


def one_hot(label: Tensor, num_classes: int) -> Tensor:
    """Class probabilities [N, K, H, W] float32, 1 for the class of the label [N, H, W]."""
    return F.one_hot(label, num_classes).movedim(-1, 1).float()


def used_everywhere(probability: Tensor) -> PseudoLabels:
    """Targets p [U, K, H, W] that count in every pixel."""
    return PseudoLabels(probability, torch.ones_like(probability[:, 0], dtype=torch.bool))


def used_where_confident(probability: Tensor, threshold: float | Tensor) -> PseudoLabels:
    """Targets p [U, K, H, W] that count where their largest probability is at least the threshold."""
    return PseudoLabels(probability, probability.amax(dim=1) >= threshold)


def entropy(probability: Tensor) -> Tensor:
    """Entropy over the classes [N, H, W] in nats, in [0, ln K], of p [N, K, H, W]; p = 0 contributes 0."""
    return -torch.xlogy(probability, probability).sum(dim=1)


def log_entropy(log_p: Tensor) -> Tensor:
    """Entropy over the classes [N, H, W] in nats of log p [N, K, H, W].

    Minimise this one: its gradient is finite where p underflows to 0; the gradient of `entropy` is infinite there.
    """
    return -(log_p.exp() * log_p).sum(dim=1)
