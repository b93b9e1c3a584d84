"""The EMA teacher, the base of methods that have one, and the noise on the teacher's inputs."""

import copy
from abc import ABC
from typing import ClassVar

import torch
from torch import Tensor, nn

from ssl4seg.keys import expect, number_in, one_of, or_word
from ssl4seg.methods.base import Method
from ssl4seg.methods.parts.predictions import used_everywhere
from ssl4seg.networks.base import Network
from ssl4seg.types import Progress, PseudoLabels

PUBLISHED_DECAY = 0.99
"""Of the SSL4MIS recipe, and of most authors."""

EMADecay = float | str
"""The key `ema_decay`: a number in [0, 1), or "auto"."""

AUTO_STEPS = 25
"""T (1 - a) of `auto`: the average reaches back over T / 25 steps, 4 % of the run."""

STUDENT_OR_TEACHER = one_of("student", "teacher")
"""The key `predict_with` of a method with an EMA teacher."""


class EMATeacher(nn.Module):
    """Exponential moving average of a student (Tarvainen & Valpola 2017): theta' = a theta' + (1 - a) theta.

    The teacher teaches in training mode: its batch norm uses the statistics of its batch, and its dropout is active.
    Its running statistics come from its own passes, as in most public code: averages of the student's lag behind the
    averaged weights (measured in docs/decisions/teacher-batch-norm.md).

    Args:
        student: copied at the start; the copy never gets a gradient.
        decay: a at step t is min(1 - 1/(t + 1), decay), so that the first steps average evenly over the past. "auto" is
            min(published, 1 - 25 / T), at least 0, with the T steps of the run: in a short run the teacher follows
            sooner; from T = 2,500 on it is 0.99, from 6,250 on 0.996.
        published: the decay of the method's authors.
        buffers: average the batch norm's running statistics too, for methods that state so.
    """

    def __init__(
        self, student: Network, *, decay: EMADecay, published: float = PUBLISHED_DECAY, buffers: bool = False
    ) -> None:
        super().__init__()
        expect("method.ema_decay", decay, or_word("auto", number_in("[0, 1)")))
        self.decay, self.published, self.buffers_too = decay, published, buffers
        self.network = copy.deepcopy(student).requires_grad_(False)

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """[N, C, H, W] -> logits [N, K, H, W] without a graph."""
        logits: Tensor = self.network(image)
        return logits

    @torch.no_grad()
    def follow(self, student: Network, progress: Progress) -> None:
        """Move the average by one step."""
        weight = 1 - min(1 - 1 / (progress.step + 1), self.decay_of(progress.total))
        torch._foreach_lerp_(list(self.network.parameters()), list(student.parameters()), weight)
        if self.buffers_too:
            for mine, theirs in zip(self.network.buffers(), student.buffers(), strict=True):
                mine.lerp_(theirs, weight) if mine.is_floating_point() else mine.copy_(theirs)

    def decay_of(self, total: int) -> float:
        """The decay in a run of `total` steps, after its first steps."""
        return self.auto(total) if isinstance(self.decay, str) else self.decay

    def auto(self, total: int) -> float:
        """The decay "auto" in a run of `total` steps."""
        return min(self.published, max(0.0, 1 - AUTO_STEPS / total))

    def remedy(self, total: int) -> str:
        """The key that lets the teacher follow sooner, see `Method.remedy`; "" if it does already."""
        return "method.ema_decay=auto" if self.decay_of(total) > self.auto(total) else ""

    @torch.no_grad()
    def copy(self, student: Network) -> None:
        """Copy the student, buffers included, at the start of a stage."""
        self.network.load_state_dict(student.state_dict())


class WithTeacher(Method, ABC):
    """A method with a student and an EMA teacher that follows it; either may predict.

    The constructor of a subclass builds `student`, then calls `add_teacher`.
    """

    published_decay: ClassVar[float] = PUBLISHED_DECAY
    """The decay of the method's authors."""
    teacher: EMATeacher
    predict_with: str

    def add_teacher(self, *, ema_decay: EMADecay, predict_with: str = "student", buffers: bool = False) -> None:
        """Copy the student as its teacher.

        Args:
            ema_decay, buffers: of `EMATeacher`.
            predict_with: "student" or "teacher".
        """
        expect("method.predict_with", predict_with, STUDENT_OR_TEACHER)
        self.teacher = EMATeacher(self.student, decay=ema_decay, published=self.published_decay, buffers=buffers)
        self.predict_with = predict_with

    def after_step(self, progress: Progress) -> None:
        self.teacher.follow(self.student, progress)

    def remedy(self, total: int) -> str:
        """A teacher that follows sooner; after that, the remedy of the other terms."""
        return self.teacher.remedy(total) or super().remedy(total)

    def pseudo_labels(self, image: Tensor, progress: Progress) -> PseudoLabels | None:
        """The teacher's prediction, everywhere."""
        return used_everywhere(self.teacher(image).softmax(dim=1))

    @property
    def predictor(self) -> nn.Module:
        return self.teacher if self.predict_with == "teacher" else self.student


def noisy(image: Tensor, std: float = 0.1, limit: float = 0.2) -> Tensor:
    """x + e with e ~ N(0, std), clipped to +-limit; both in units of the image, whose range is [0, 1]."""
    return image + (torch.randn_like(image) * std).clamp_(-limit, limit)
