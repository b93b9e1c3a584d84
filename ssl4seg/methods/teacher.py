"""The EMA teacher, and the noise that its inputs get."""

import copy

import torch
from torch import Tensor, nn

from ssl4seg.errors import UserError
from ssl4seg.networks.base import Network
from ssl4seg.types import Progress


class EMATeacher(nn.Module):
    """Exponential moving average of a student (Tarvainen & Valpola 2017): theta' = a theta' + (1 - a) theta.

    While it teaches, its batch norm uses the statistics of its batch and its dropout is active. Its running statistics
    are those of its own passes, as in most public code: averaging the student's lags behind the averaged weights
    (measured in docs/decisions/teacher-batch-norm.md).

    Args:
        student: copied at the start; the copy never gets a gradient.
        decay: a at step t is min(1 - 1/(t + 1), decay), so that the first steps average over the past evenly.
        buffers: average the batch norm's running statistics too, for the methods that say so.
    """

    def __init__(self, student: Network, *, decay: float, buffers: bool = False) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise UserError(f"method.ema_decay={decay}: expected a number in [0, 1)")
        self.decay, self.buffers_too = decay, buffers
        self.network = copy.deepcopy(student).requires_grad_(False)

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """[N, C, H, W] -> logits [N, K, H, W] without a graph."""
        logits: Tensor = self.network(image)
        return logits

    @torch.no_grad()
    def follow(self, student: Network, progress: Progress) -> None:
        """One step of the average."""
        weight = 1 - min(1 - 1 / (progress.step + 1), self.decay)
        torch._foreach_lerp_(list(self.network.parameters()), list(student.parameters()), weight)
        if self.buffers_too:
            for mine, theirs in zip(self.network.buffers(), student.buffers(), strict=True):
                mine.lerp_(theirs, weight) if mine.is_floating_point() else mine.copy_(theirs)

    @torch.no_grad()
    def copy(self, student: Network) -> None:
        """Become the student, buffers and all: where a stage starts."""
        self.network.load_state_dict(student.state_dict())


def noisy(image: Tensor, std: float = 0.1, limit: float = 0.2) -> Tensor:
    """x + e with e ~ N(0, std), clipped to +-limit (in the units of the image, here [0, 1])."""
    return image + (torch.randn_like(image) * std).clamp_(-limit, limit)
