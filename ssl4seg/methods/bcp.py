"""BCP, bidirectional copy-paste (Bai et al., CVPR 2023)."""

from collections.abc import Sequence
from typing import NamedTuple, TypedDict

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
from ssl4seg.networks.base import Network
from ssl4seg.types import Batch, Losses, Progress, PseudoLabels


class Region(NamedTuple):
    """The pixels of a batch of mixed images that come from one source."""

    mixed: int
    """Index of the batch in `Mixed.images`."""
    mask: Tensor
    """[1, 1, H, W], 1 in the region."""
    label: Tensor
    """[N, H, W]."""


class Mixed(NamedTuple):
    """Batches of mixed images [N, C, H, W], and where their pixels and labels come from."""

    images: list[Tensor]
    labeled: list[Region]
    pseudo: list[Region]
    """Of unlabelled images, one for each of `labeled`; empty in stage 0."""


class BCPKeys(TypedDict, total=False):
    """The keys of `BCP`; a method that refines it takes them as `**common: Unpack[BCPKeys]`."""

    pretrain: float
    side: float
    pseudo_weight: float
    smooth: float
    ema_decay: EMADecay


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
        ema_decay: EMADecay = "auto",
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
        mixed = self.mixed(batch, progress)
        return self.copy_paste(self.logits(self.student, mixed), mixed)

    def mixed(self, batch: Batch, progress: Progress) -> Mixed:
        """Paste boxes between labelled images in stage 0, between labelled and unlabelled ones after it."""
        x_l, y_l, x_u = batch.image, batch.label, batch.unlabeled
        box = copy_paste_mask(x_l[:1], self.side)
        if self.stage(progress)[0] == 0:
            a, b = halves(x_l, len(x_l))
            return Mixed([mix(x_l[a], x_l[b], box)], [Region(0, box, y_l[b]), Region(0, 1 - box, y_l[a])], [])
        return pasted(x_l, y_l, x_u, self.labels(x_u), box)

    def logits(self, network: Network, mixed: Mixed) -> list[Tensor]:
        """What a network makes of each mixed batch."""
        return self.through(network, *mixed.images) if mixed.pseudo else [network(mixed.images[0])]

    def copy_paste(self, z: Sequence[Tensor], mixed: Mixed) -> Losses:
        """L of a network's logits z of the mixed batches."""

        def summed(regions: Sequence[Region]) -> Tensor:
            return torch.stack([self.over(mask, z[i], label) for i, mask, label in regions]).sum()

        losses = {"supervised": summed(mixed.labeled)}
        if mixed.pseudo:
            losses["pseudo_label"] = self.pseudo_weight * summed(mixed.pseudo)
        return losses

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


def halves(x: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """Indices of the first and second half of `num` images, taken from x in turn; both halves have the same length."""
    half = (num + 1) // 2
    order = torch.arange(2 * half, device=x.device) % len(x)
    return order[:half], order[half:]


def pasted(x_l: Tensor, y_l: Tensor, x_u: Tensor, y_u: Tensor, box: Tensor) -> Mixed:
    """A box of a labelled image on an unlabelled one and the reverse, each for half of the images."""
    (l1, l2), (u1, u2) = (halves(x, max(len(x_l), len(x_u))) for x in (x_l, x_u))
    return Mixed(
        [mix(x_u[u1], x_l[l1], box), mix(x_l[l2], x_u[u2], box)],
        [Region(0, box, y_l[l1]), Region(1, 1 - box, y_l[l2])],
        [Region(0, 1 - box, y_u[u1]), Region(1, box, y_u[u2])],
    )
