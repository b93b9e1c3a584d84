"""Precise batch norm: means and variances of the features as prediction has them, without dropout."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Autocast = Callable[[], AbstractContextManager[None]]


@contextmanager
def precise(network: nn.Module, images: Iterable[Tensor], autocast: Autocast) -> Iterator[None]:
    """Let a network predict with the statistics that `estimate` gives it, and give it back its own afterwards."""
    kept = [(norm, norm.running_mean, norm.running_var) for norm in batch_norms(network)]
    for norm, mean, var in kept:
        norm.running_mean, norm.running_var = _copy(mean), _copy(var)
    estimate(network, images, autocast)
    try:
        yield
    finally:
        for norm, mean, var in kept:
            norm.running_mean, norm.running_var = mean, var


@torch.no_grad()
def estimate(network: nn.Module, images: Iterable[Tensor], autocast: Autocast) -> None:
    """Give the batch norms of a network the mean of the statistics of some batches (Wu and Johnson 2021, section 3).

    In training a batch norm averages the statistics of features that dropout has changed: dropout keeps their mean, but
    makes their variance larger, up to 1 / (1 - p) times. Prediction drops nothing, so it divides by deviations that
    are too large (the variance shift of Li et al., CVPR 2019). Here the network is in evaluation mode but for its batch
    norms, where Wu and Johnson leave all of it in training mode.

    A batch norm that is in evaluation mode, as in a frozen encoder, and one through which no image passes keep their
    statistics. Afterwards all of the network is in evaluation mode.

    Args:
        images: batches [B, C, *X] of training images.
        autocast: the run's precision.
    """
    norms = [norm for norm in batch_norms(network) if norm.training]
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    network.eval()
    for norm in norms:
        # Without a momentum the average is a plain one, and the first batch replaces what was there.
        norm.momentum, norm.num_batches_tracked = None, torch.zeros((), dtype=torch.int64)
        norm.train()
    for image in images:
        with autocast():
            network(image)
    for norm, (momentum, num_batches_tracked) in zip(norms, kept, strict=True):
        norm.momentum, norm.num_batches_tracked = momentum, num_batches_tracked
        norm.eval()


def batch_norms(network: nn.Module) -> list[_BatchNorm]:
    """The batch norms that keep statistics."""
    return [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]


def _copy(statistic: Tensor | None) -> Tensor | None:
    return None if statistic is None else statistic.clone()
