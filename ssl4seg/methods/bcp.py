"""BCP, bidirectional copy-paste (Bai et al., CVPR 2023)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ssl4seg.augment.mixing import copy_paste_mask, mix
from ssl4seg.keys import IGNORE, above, at_least, expect, number_in
from ssl4seg.methods.base import MakeNetwork
from ssl4seg.methods.parts.components import largest_components
from ssl4seg.methods.parts.losses import CrossEntropyDice
from ssl4seg.methods.parts.predictions import one_hot, used_everywhere
from ssl4seg.methods.parts.self_training import longer
from ssl4seg.methods.parts.teacher import EMADecay, WithTeacher
from ssl4seg.types import Batch, Losses, Progress, PseudoLabels

Halves = tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Indices of the two halves of the labelled images, and of those of the unlabelled images; all have one length."""


class BCP(WithTeacher):
    """L = L_in(z1, y_l) + a L_out(z1, y_u) + L_out(z2, y_l) + a L_in(z2, y_u)

    z1 = f(a box of a labelled image on an unlabelled one), z2 = f(a box of an unlabelled image on a labelled one), each
    for half of the batch; L_in, L_out: (cross-entropy + Dice) / 2 over the pixels inside and outside the box (the paper
    calls the two mixed images "in" and "out"); y_u: the EMA teacher's argmax, in which each class but the background
    keeps its largest component; a = 0.5. The box has 2/3 of the image's height and width and is the same for the whole
    batch. A region of a few images often lacks a class, so the Dice of a region is smoothed by 1e-10 as in the authors'
    code; the 1e-5 of whole images pushes that class away (docs/decisions/dice-smoothing.md).

    Stage 0, before that, pastes boxes of labelled images on labelled ones: L = L_in(z, y_b) + L_out(z, y_a). It takes a
    quarter of the run, 10,000 of 40,000 steps in the authors' code. The teacher starts as its student, and its average
    includes the batch norm's running statistics. The student predicts, as in the authors' test.

    Differs from the authors' code:
    - Their stage 0 hands on its best student on val and the optimiser's state; here it hands on its last student alone.
    - Their two mixed batches pass the student apart, and the two halves the teacher; here they share one pass, and so
      the batch norm's statistics. With `passes=apart`, as in the recipes of BCP, the teacher's halves still share one.
    - Their learning rate is constant; here that is `schedule=constant`.
    - Here the shorter of the two streams is repeated, and a batch of one is mixed with itself.

    Args:
        pretrain: share of the run that stage 0 takes.
        side: of the box, as a share of the image's.
        pseudo_weight: a.
        smooth: s of a region's Dice.
        ema_decay: of the teacher.
    """

    def __init__(
        self,
        *,
        network: MakeNetwork,
        pretrain: float = 0.25,
        side: float = 0.66667,
        pseudo_weight: float = 0.5,
        smooth: float = 1e-10,
        ema_decay: EMADecay = 0.99,
    ) -> None:
        super().__init__()
        expect("method.pretrain", pretrain, number_in("(0, 1)", "a share of the run"))
        expect("method.side", side, number_in("(0, 1)", "a share of the image's side"))
        expect("method.pseudo_weight", pseudo_weight, at_least(0))
        expect("method.smooth", smooth, above(0))
        self.student = network()
        self.add_teacher(ema_decay=ema_decay, buffers=True)
        self.stages = (pretrain,)
        self.side, self.pseudo_weight, self.smooth = side, pseudo_weight, smooth

    def forward(self, phase: str, batch: Batch, progress: Progress) -> Losses:
        x_l, y_l, x_u = batch.image, batch.label, batch.unlabeled
        box = copy_paste_mask(x_l[:1], self.side)
        if self.stage(progress)[0] == 0:
            a, b = _halves(x_l, len(x_l))
            z = self.student(mix(x_l[a], x_l[b], box))
            return {"supervised": self.over(box, z, y_l[b]) + self.over(1 - box, z, y_l[a])}
        halves = halves_of(x_l, x_u)
        y_u = self.labels(x_u)
        z = self.through(self.student, *pasted(x_l, x_u, box, halves))
        supervised, pseudo = self.pasted_losses(z, y_l, y_u, box, halves)
        return {"supervised": supervised, "pseudo_label": self.pseudo_weight * pseudo}

    def pasted_losses(
        self, z: Sequence[Tensor], y_l: Tensor, y_u: Tensor, box: Tensor, halves: Halves
    ) -> tuple[Tensor, Tensor]:
        """L_in(z1, y_l) + L_out(z2, y_l) and L_out(z1, y_u) + L_in(z2, y_u), of the logits of what `pasted` returns."""
        (z1, z2), ((l1, l2), (u1, u2)) = z, halves
        return (
            self.over(box, z1, y_l[l1]) + self.over(1 - box, z2, y_l[l2]),
            self.over(1 - box, z1, y_u[u1]) + self.over(box, z2, y_u[u2]),
        )

    def over(self, region: Tensor, logits: Tensor, label: Tensor) -> Tensor:
        """L_sup over the pixels of `region` [1, 1, H, W]."""
        loss = self.supervised
        if isinstance(loss, CrossEntropyDice):
            loss = loss.smoothed_by(self.smooth)
        return loss(logits, torch.where(region[:, 0] > 0.5, label, IGNORE))

    def labels(self, image: Tensor) -> Tensor:
        """y_u [U, H, W]."""
        return largest_components(self.teacher(image).argmax(dim=1), self.student.num_classes)

    def begin_stage(self, stage: int, unlabeled: Sequence[Tensor]) -> Tensor | None:
        self.teacher.copy(self.student)
        return None

    def after_step(self, progress: Progress) -> None:
        if self.stage(progress)[0] == 1:
            super().after_step(progress)

    def remedy(self, total: int) -> str:
        return longer("pretrain", self.stages[0])

    def pseudo_labels(self, image: Tensor, progress: Progress) -> PseudoLabels | None:
        if self.stage(progress)[0] == 0:
            return None
        return used_everywhere(one_hot(self.labels(image), self.student.num_classes))


def halves_of(x_l: Tensor, x_u: Tensor) -> Halves:
    """The halves of labelled and of unlabelled images; the shorter of the two streams is repeated."""
    num = max(len(x_l), len(x_u))
    return _halves(x_l, num), _halves(x_u, num)


def pasted(x_l: Tensor, x_u: Tensor, box: Tensor, halves: Halves) -> tuple[Tensor, Tensor]:
    """Boxes of labelled images on unlabelled ones, and boxes of unlabelled images on labelled ones."""
    (l1, l2), (u1, u2) = halves
    return mix(x_u[u1], x_l[l1], box), mix(x_l[l2], x_u[u2], box)


def _halves(x: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """Indices of the first and second half of `num` images, taken from x in turn; both halves have the same length."""
    half = (num + 1) // 2
    order = torch.arange(2 * half, device=x.device) % len(x)
    return order[:half], order[half:]
