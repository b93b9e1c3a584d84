"""AD-MT, alternate diverse teaching (Zhao et al., ECCV 2024)."""

import math
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor, nn

from ssl4seg.augment.mixing import beta_boxes, mix, mix_labels
from ssl4seg.keys import expect, number_in, one_of, optional, whole
from ssl4seg.methods.base import MakeNetwork, Method
from ssl4seg.methods.parts.losses import cross_entropy, dice
from ssl4seg.methods.parts.predictions import confident_label, entropy, used_where_confident
from ssl4seg.methods.parts.ramps import Rampup
from ssl4seg.methods.parts.teacher import STUDENT_OR_TEACHER, EMADecay, EMATeacher
from ssl4seg.types import Batch, Losses, Progress, PseudoLabels


class ADMT(Method):
    """L = L_sup + w(t) l(z_s, y)   (their RPA and CCM modules)

    Random periodic alternation (RPA): one of two EMA teachers follows the student for a number of steps drawn from
    1..T/600 (1..50 of the authors' T = 30,000), then the other one does, and so on. In the first's turn x_s [U, C, H,
    W] is the strong view, in the second's the weak view with a CutMix box of the image before it, whose area is
    Beta(4, 4) of the image's: half of it on average.

    Conflict combating (CCM): q = (e^-H_1 p_1 + e^-H_2 p_2) / (e^-H_1 + e^-H_2) from the teachers' softmax outputs [U,
    K, H, W] of the weak view and their entropies H_i [U, H, W] in bits. Where the teachers' classes differ and the
    student's p of the weak view has less entropy than q, p replaces q. y [U, H, W]: the class of q where its
    probability is at least tau = 0.95, ignored elsewhere, and mixed as x_s is; z_s: the student's logits of x_s; l:
    `losses.dice`, or on volumes the mean cross-entropy of the pixels that are not ignored.

    w(t) = 2 exp(-5 (1 - 4 t/T)^2) in 50 stairs, and 2 from a quarter of the run on: 7,500 of 30,000 steps in the
    authors' ACDC recipe, from which all constants come. In the first T/300 steps, 100 of 30,000, the teacher in turn
    copies the student; then its average begins.

    Differs from the authors' code:
    - Their student replaces q where its class differs from q's and its probability is larger; here it needs less
      entropy, where the teachers' classes differ.
    - Inside a box they take the student's prediction of the image that the box hides; here the student's is mixed like
      the teachers'.
    - Their teacher in turn is in training mode and the other in evaluation mode; here both teach in training mode, like
      every `EMATeacher`.
    - Their teachers start from weights of their own; here both start as the student.
    - One size of box serves their whole batch, and boxes are cut off at the image's sides (0.36 of it on average); here
      each image has a box of its own.
    - Their blur has p = 0.2.

    The student predicts, as there.

    Args:
        threshold: tau.
        loss: l, "dice" or "cross_entropy".
        period: the longest turn, in steps; None is 1/600 of the run, the authors' 50 of 30,000 steps, and at least 1.
        copy_steps: number of steps in which the teachers copy the student; None is 1/300 of the run.
        consistency_weight, rampup_steps: w and the length of its ramp; None is a quarter of the run.
        ema_decay: of both teachers.
        predict_with: "student" or "teacher", the first one.
    """

    strong_views: ClassVar[int] = 1

    def __init__(
        self,
        *,
        network: MakeNetwork,
        threshold: float = 0.95,
        loss: str = "dice",
        period: int | None = None,
        copy_steps: int | None = None,
        consistency_weight: float = 2.0,
        rampup_steps: int | None = None,
        ema_decay: EMADecay = "auto",
        predict_with: str = "student",
    ) -> None:
        super().__init__()
        expect("method.threshold", threshold, number_in("[0, 1)", "a confidence"))
        expect("method.loss", loss, one_of("dice", "cross_entropy"))
        expect("method.period", period, optional(whole(1)))
        expect("method.copy_steps", copy_steps, optional(whole(0)))
        expect("method.predict_with", predict_with, STUDENT_OR_TEACHER)
        self.student = network()
        self.teachers = nn.ModuleList(EMATeacher(self.student, decay=ema_decay) for _ in range(2))
        self.w = Rampup(weight=consistency_weight, steps=rampup_steps, stairs=50, share=0.25)
        self.threshold, self.period, self.copy_steps, self.predict_with = threshold, period, copy_steps, predict_with
        self.unlabeled_loss = dice if loss == "dice" else cross_entropy
        self.seed = int(torch.randint(2**62, (), device="cpu"))  # the same in every process and after a resume

    def forward(self, phase: str, batch: Batch, progress: Progress) -> Losses:
        x_u, x_s = batch.unlabeled, batch.strong[0]
        box = torch.zeros_like(x_u[:, :1])
        if self.turn(progress) == 1:
            box = beta_boxes(x_u, 4, 4)
            x_s = mix(x_u, x_u.roll(1, 0), box)
        z_l, z_w, z_s = self.through(self.student, batch.image, x_u, x_s)
        q = self.targets(x_u, z_w.detach().softmax(dim=1))
        y = confident_label(q.log(), self.threshold)
        loss = self.unlabeled_loss(z_s, mix_labels(y, y.roll(1, 0), box))
        return {"supervised": self.supervised(z_l, batch.label), "consistency": self.w(progress) * loss}

    def targets(self, x_u: Tensor, p: Tensor) -> Tensor:
        """q [U, K, H, W] after conflict combating, given the student's softmax output p of x_u."""
        p_1, p_2 = (teacher(x_u).softmax(dim=1) for teacher in self.teachers)
        h_1, h_2 = (entropy(p_i)[:, None] / math.log(2) for p_i in (p_1, p_2))
        q = torch.lerp(p_1, p_2, torch.sigmoid(h_1 - h_2))  # e^-H_2 / (e^-H_1 + e^-H_2)
        conflict = p_1.argmax(dim=1) != p_2.argmax(dim=1)
        return torch.where((conflict & (entropy(p) < entropy(q)))[:, None], p, q)

    def turn(self, progress: Progress) -> int:
        """Whose turn it is, 0 or 1: a function of the step, so that all processes and resumed runs agree."""
        period = self.period or max(1, round(progress.total / 600))
        return int((ends_of_turns(self.seed, period, progress.total) <= progress.step).sum()) % 2

    def after_step(self, progress: Progress) -> None:
        copied = round(progress.total / 300) if self.copy_steps is None else self.copy_steps
        turns = max(progress.step - copied, 0) // 2  # about the steps that this teacher has averaged
        teacher = self.teachers[self.turn(progress)]
        assert isinstance(teacher, EMATeacher)
        teacher.follow(self.student, Progress(turns, progress.total))

    def remedy(self, total: int) -> str:
        teacher = self.teachers[0]
        assert isinstance(teacher, EMATeacher)
        return teacher.remedy(total) or super().remedy(total)

    def weights(self, progress: Progress) -> dict[str, float]:
        return {"consistency_weight": self.w(progress), "turn": float(self.turn(progress))}

    def pseudo_labels(self, image: Tensor, progress: Progress) -> PseudoLabels:
        q = self.targets(image, self.student(image).softmax(dim=1))
        return used_where_confident(q, self.threshold)

    @property
    def predictor(self) -> nn.Module:
        return self.teachers[0] if self.predict_with == "teacher" else self.student


@lru_cache(maxsize=4)
def ends_of_turns(seed: int, period: int, num: int) -> Tensor:
    """The steps [num] at which turns end; each turn lasts 1 to `period` steps."""
    return torch.randint(1, period + 1, (num,), generator=torch.Generator().manual_seed(seed)).cumsum(0)
