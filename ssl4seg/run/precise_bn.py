"""Precise batch norm: means and variances of the features as prediction has them, without dropout."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ssl4seg.methods.base import Method
from ssl4seg.processes import all_sum, world_size

COUNTING, STATISTICS = ("momentum", "num_batches_tracked"), ("running_mean", "running_var")


@contextmanager
def precise(
    method: Method, images: Iterable[Tensor], autocast: Callable[[], AbstractContextManager[None]]
) -> Iterator[None]:
    """Let a method predict with batch-norm statistics of some batches, and give it back its own afterwards.

    In training a batch norm averages the statistics of features that dropout has changed: behind dropout of
    probability p the mean is as before, and the variance at least 1 / (1 - p) times as large. Prediction drops nothing,
    so it divides by deviations that are too large (the variance shift of Li et al., CVPR 2019). Here the networks that
    predict are in evaluation mode but for their batch norms, and the statistics are means over the batches of all
    processes: of the batches' means, and of their unbiased variances (Ioffe and Szegedy 2015, algorithm 2; PreciseBN of
    Wu and Johnson 2021).

    A batch norm that stays in evaluation mode, as in a frozen encoder, and one through which no image passes predict
    with the statistics of training. Afterwards the method is in evaluation mode.

    Args:
        images: batches [B, C, *X] of this process's training images.
        autocast: the run's precision.
    """
    method.train()
    norms = [norm for norm in batch_norms(method) if norm.training]
    kept = [(norm, name, getattr(norm, name)) for norm in norms for name in (*COUNTING, *STATISTICS)]
    method.eval()
    try:
        for norm in norms:
            # Without a momentum the average is a plain one, and the first batch replaces what was there.
            norm.momentum, norm.num_batches_tracked = None, torch.zeros((), dtype=torch.int64)
            norm.running_mean, norm.running_var = _copy(norm.running_mean), _copy(norm.running_var)
            norm.train()
        _pass(method, images, autocast)
        for norm in norms:
            norm.running_mean, norm.running_var = _over_processes(norm.running_mean), _over_processes(norm.running_var)
        _give_back(kept, COUNTING)
        method.eval()
        yield
    finally:
        _give_back(kept, (*COUNTING, *STATISTICS))
        method.eval()


def batch_norms(network: nn.Module) -> list[_BatchNorm]:
    """The batch norms that keep statistics."""
    return [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]


@torch.no_grad()
def _pass(method: Method, images: Iterable[Tensor], autocast: Callable[[], AbstractContextManager[None]]) -> None:
    for image in images:
        with autocast():
            method.predict(image)


def _copy(statistic: Tensor | None) -> Tensor | None:
    return None if statistic is None else statistic.clone()


def _over_processes(statistic: Tensor | None) -> Tensor | None:
    """The mean over the processes."""
    return None if statistic is None else all_sum(statistic) / world_size()


def _give_back(kept: Iterable[tuple[nn.Module, str, object]], names: Sequence[str]) -> None:
    for norm, name, value in kept:
        if name in names:
            setattr(norm, name, value)
