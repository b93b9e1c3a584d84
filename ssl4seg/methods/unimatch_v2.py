"""UniMatch V2 (Yang, Zhao & Zhao, TPAMI 2025)."""

from typing import ClassVar, Unpack

import torch
from torch import Tensor

from ssl4seg.keys import expect, share
from ssl4seg.methods.base import MakeNetwork
from ssl4seg.methods.parts.predictions import confident_label, used_where_confident
from ssl4seg.methods.parts.teacher import EMADecay, WithTeacher
from ssl4seg.methods.unimatch import StrongKeys, UniMatch, channel_mask
from ssl4seg.networks.base import resized
from ssl4seg.seeding import sent
from ssl4seg.types import Batch, Losses, Progress, PseudoLabels


class UniMatchV2(WithTeacher, UniMatch):
    """L = 1/2 [L_sup + w(t)/2 (l(z_1, y_1) + l(z_2, y_2))]   (one stream, Complementary Dropout)

    As `UniMatch`, but an EMA teacher (0.996) gives y [U, H, W], and the features of the two strong views lose channels:
    the features [U, C, h, w] of one view are multiplied by M, 0 or 2 for each channel with probability 1/2, those of
    the other by 2 - M, so that each view has the channels that the other lacks. This happens to half of the images,
    drawn at random; the others keep all channels. l is cross-entropy, which counts pixels below tau as 0. The constants
    are those of the authors' code.

    Differs from the authors' code:
    - All their scales share M, because all scales of the DINOv2 encoder have the same channels; here each scale has its
      own.
    - Their boxes show the batch reversed; here they show the batch rolled by one.
    - Their teacher is in evaluation mode with averaged batch-norm statistics (their DPT has no batch norm); here it
      teaches in training mode like every `EMATeacher`, because averaged statistics lag (phantom, 2 labelled patients,
      400 steps, one seed: test Dice 13.6 against 70.8).
    - Their network is DINOv2 with DPT, trained by AdamW with 5e-6 (the rest 2e-4); here `network` chooses it, and
      `optimizer=adamw optimizer.lr=2e-4 transfer.encoder_lr_scale=0.025` the optimiser.

    Args:
        threshold, loss: as in `UniMatch`.
        dropout: share of the images whose views lose channels.
        ema_decay: of the teacher.
        predict_with: "student" or "teacher".
        common: the other keys of `UniMatch` that concern strong views.
    """

    ways: ClassVar[tuple[str, ...]] = ("apart",)
    published_decay: ClassVar[float] = 0.996

    def __init__(
        self,
        *,
        network: MakeNetwork,
        threshold: float = 0.95,
        loss: str = "cross_entropy",
        dropout: float = 0.5,
        ema_decay: EMADecay = "auto",
        predict_with: str = "student",
        **common: Unpack[StrongKeys],
    ) -> None:
        super().__init__(network=network, threshold=threshold, loss=loss, **common)
        expect("method.dropout", dropout, share)
        self.add_teacher(ema_decay=ema_decay, predict_with=predict_with)
        self.dropout = dropout

    def forward(self, phase: str, batch: Batch, progress: Progress) -> Losses:
        y = confident_label(self.teacher(batch.unlabeled), self.threshold)
        (x_1, x_2), ((y_1, y_2),) = self.cutmixed(batch.strong, y)
        z_1, z_2 = self.complementary(x_1, x_2)
        return {
            "supervised": self.supervised(self.student(batch.image), batch.label) / 2,
            "strong": self.w(progress) * (self.unlabeled_loss(z_1, y_1) + self.unlabeled_loss(z_2, y_2)) / 4,
        }

    def complementary(self, x_1: Tensor, x_2: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of two views [U, C, H, W], one from the channels M of its features, the other from 2 - M."""
        num = len(x_1)
        whole = sent(torch.randperm(num)[: int(num * (1 - self.dropout))], x_1.device)
        features = self.student.encode(torch.cat([x_1, x_2]))
        masks = [channel_mask(f[:num], 0.5).index_fill(0, whole, 1) for f in features]
        dropped = [f * torch.cat([mask, 2 - mask]) for f, mask in zip(features, masks, strict=True)]
        z_1, z_2 = resized(self.student.decode(dropped), x_1).split(num)
        return z_1, z_2

    def pseudo_labels(self, image: Tensor, progress: Progress) -> PseudoLabels:
        return used_where_confident(self.teacher(image).softmax(dim=1), self.threshold)
