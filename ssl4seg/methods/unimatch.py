"""UniMatch (Yang et al., CVPR 2023)."""

from collections.abc import Sequence
from typing import ClassVar, TypedDict

import torch
from torch import Tensor

from ssl4seg.augment.mixing import cutmix_boxes, mix, mix_labels
from ssl4seg.axes import along_axes
from ssl4seg.keys import IGNORE, expect, number_in, one_of, true_or_false
from ssl4seg.methods.base import MakeNetwork, Method
from ssl4seg.methods.parts.losses import dice, masked_cross_entropy
from ssl4seg.methods.parts.passes import joined, together
from ssl4seg.methods.parts.predictions import confident_label, used_where_confident
from ssl4seg.methods.parts.ramps import Rampup
from ssl4seg.networks.base import resized
from ssl4seg.seeding import sent
from ssl4seg.types import Batch, Losses, Progress, PseudoLabels


class StrongKeys(TypedDict, total=False):
    """Keys of `UniMatch` that every method with its strong views has."""

    cutmix: float
    consistency_weight: float
    rampup_steps: int | None


class UniMatchKeys(StrongKeys, total=False):
    """The same with those of the dropped features; a method that refines it takes them as `**common`."""

    dropout: float
    drop_labeled: bool


class UniMatch(Method):
    """L = 1/2 [L_sup + w(t) (1/2 l(z_f, y) + 1/4 (l(z_1, y_1) + l(z_2, y_2)))]   (their objective, lambda = mu = 0.5)

    y [U, H, W]: the student's class of the weak view where its probability is at least tau = 0.95, ignored elsewhere;
    z_f: logits of the weak view whose encoder features lose each channel with probability 0.5; z_1, z_2: logits of two
    strong views in which, with probability 0.5, a box shows the batch's next image; y_1, y_2: y with the same boxes. l:
    Dice over the pixels that are not ignored (the authors' ACDC code), or cross-entropy as a mean over all pixels,
    where ignored ones count as 0 (natural images). The student predicts the weak view in training mode, in one pass
    with the labelled images and z_f; there is no teacher. The constants are the paper's; it has no w, which is 1 here
    from the first step on unless `rampup_steps` says otherwise.

    Differs from the authors' code:
    - Their boxes show a second unlabelled batch, whose pseudo-labels come from a pass in evaluation mode (for natural
      images the same images in the same order, cropped anew); here they show the batch itself, rolled by one, with the
      y at hand, which saves that pass.
    - They drop channels of the labelled images' features and decode them too. No loss reads the result, but the
      decoder's batch norm takes its statistics from it, which changes the gradient (phantom, one step: by 0.17 to 0.24
      of its length). Here `drop_labeled=true` does so, as in the recipes of UniMatch; without it only the unlabelled
      images' features lose channels, and the decoder has a quarter less to do in that pass.
    - For natural images their L_sup is cross-entropy alone; here that is `supervised_loss=cross_entropy`.
    - For natural images they pad crops that reach beyond the image with black, which l leaves out; here such crops are
      mirrored.

    Args:
        threshold: tau.
        loss: l, "dice" or "cross_entropy".
        cutmix: probability of a box.
        dropout: probability that a channel is dropped; the others are scaled by 1 / (1 - p).
        drop_labeled: whether the labelled images' features are decoded with dropped channels too.
        consistency_weight, rampup_steps: w and the length of its ramp; 0 is none, as the authors, None the whole run.
    """

    strong_views: ClassVar[int] = 2

    def __init__(
        self,
        *,
        network: MakeNetwork,
        threshold: float = 0.95,
        loss: str = "dice",
        cutmix: float = 0.5,
        dropout: float = 0.5,
        drop_labeled: bool = False,
        consistency_weight: float = 1.0,
        rampup_steps: int | None = 0,
    ) -> None:
        super().__init__()
        expect("method.threshold", threshold, number_in("[0, 1)", "a confidence"))
        expect("method.loss", loss, one_of("dice", "cross_entropy"))
        expect("method.cutmix", cutmix, number_in("[0, 1]", "a probability"))
        expect("method.dropout", dropout, number_in("[0, 1)", "a probability"))
        expect("method.drop_labeled", drop_labeled, true_or_false)
        self.student = network()
        self.threshold, self.loss, self.cutmix = threshold, loss, cutmix
        self.dropout, self.drop_labeled = dropout, drop_labeled
        self.w = Rampup(weight=consistency_weight, steps=rampup_steps)

    def forward(self, phase: str, batch: Batch, progress: Progress) -> Losses:
        f_l, f_u = self.through(self.student.encode, batch.image, batch.unlabeled)
        z_l, z_w, z_f = self.weak_logits(batch, f_l, f_u)
        y = confident_label(z_w, self.threshold)
        x_s, (y_s,) = self.cutmixed(batch.strong, y)
        l_1, l_2 = map(self.unlabeled_loss, together(self.student, *x_s), y_s)
        w = self.w(progress)
        return {
            "supervised": self.supervised(z_l, batch.label) / 2,
            "feature_dropout": w * self.unlabeled_loss(z_f, y) / 4,
            "strong": w * (l_1 + l_2) / 8,
        }

    def weak_logits(self, batch: Batch, f_l: list[Tensor], f_u: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of the labelled images [L, K, H, W], of the weak view [U, K, H, W] and of its dropped features.

        Args:
            f_l, f_u: the features of the labelled images and of the weak view.
        """
        f_u = joined([f_u, dropped(f_u, self.dropout)])
        if self.drop_labeled:
            f_l = joined([f_l, dropped(f_l, self.dropout)])
        z_l, z_u = (resized(z, batch.image) for z in self.through(self.student.decode, f_l, f_u))
        z_w, z_f = z_u.chunk(2)
        return z_l[: len(batch.image)], z_w, z_f

    def weights(self, progress: Progress) -> dict[str, float]:
        return {"consistency_weight": self.w(progress)}

    def cutmixed(self, views: Sequence[Tensor], *labels: Tensor) -> tuple[list[Tensor], list[list[Tensor]]]:
        """Each view [U, C, H, W] with boxes of its own, and each label [U, H, W] with those boxes, once a view."""
        boxes = [cutmix_boxes(view, self.cutmix) for view in views]
        mixed = [mix(view, view.roll(1, 0), box) for view, box in zip(views, boxes, strict=True)]
        return mixed, [[mix_labels(y, y.roll(1, 0), box) for box in boxes] for y in labels]

    def unlabeled_loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """l of logits [U, K, H, W] and y [U, H, W]."""
        if self.loss == "dice":
            return dice(logits, y)
        return masked_cross_entropy(logits, y, (y != IGNORE).float())

    def pseudo_labels(self, image: Tensor, progress: Progress) -> PseudoLabels:
        return used_where_confident(self.student(image).softmax(dim=1), self.threshold)


def dropped(features: Sequence[Tensor], p: float) -> list[Tensor]:
    """Features [N, C, h, w] that have lost each channel with probability p."""
    return [f * channel_mask(f, p) for f in features]


def channel_mask(features: Tensor, p: float) -> Tensor:
    """A factor [N, C, 1, 1] for each channel of [N, C, h, w]: 0 with probability p, else 1 / (1 - p)."""
    kept = torch.rand(features.shape[:2]) >= p
    return along_axes(sent(kept / (1 - p), features.device).to(features.dtype), features)
