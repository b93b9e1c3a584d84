"""UniMatch V2 (Yang, Zhao & Zhao, TPAMI 2025)."""

import torch
from torch import Tensor

from ssl4seg.keys import expect, share
from ssl4seg.methods.base import MakeNetwork
from ssl4seg.methods.parts.predictions import confident_label, used_where_confident
from ssl4seg.methods.parts.teacher import WithTeacher
from ssl4seg.methods.unimatch import UniMatch, channel_mask
from ssl4seg.networks.base import resized
from ssl4seg.types import Batch, Losses, Progress, PseudoLabels


class UniMatchV2(WithTeacher, UniMatch):
    """L = 1/2 [L_sup + 1/2 (l(z_1, y_1) + l(z_2, y_2))]   (one stream, Complementary Dropout)

    As `UniMatch`, but y [U, H, W] comes from an EMA teacher (0.996), and the two strong views are those whose features
    lose channels: the features [U, C, h, w] of one are multiplied by M, each channel's 0 or 2 with probability 1/2,
    those of the other by 2 - M, so that one has what the other lacks. That befalls half of the images, drawn at random;
    the others keep all. l is cross-entropy, which counts pixels below tau as 0. Constants of the authors' code.

    Differs from the authors' code: there all scales share M, since all scales of its DINOv2 encoder have the same
    channels; here each has its own. Boxes show the batch rolled by one, there the batch reversed. There the teacher is
    in evaluation mode with averaged batch norm statistics, of which its DPT has none; here it teaches in training mode
    like every `EMATeacher`: averaged, they lag (phantom, 2 labelled patients, 400 steps, one seed: test Dice 13.6
    against 70.8). DINOv2 and DPT are a matter of `network`; AdamW with 5e-6 (the rest 2e-4) is `optimizer=adamw
    optimizer.lr=2e-4 transfer.encoder_lr_scale=0.025`.

    Args:
        threshold, loss, cutmix: as in `UniMatch`.
        dropout: share of the images whose views lose channels.
        ema_decay: of the teacher.
        predict_with: "teacher" or "student".
    """

    def __init__(
        self,
        *,
        network: MakeNetwork,
        threshold: float = 0.95,
        loss: str = "cross_entropy",
        cutmix: float = 0.5,
        dropout: float = 0.5,
        ema_decay: float = 0.996,
        predict_with: str = "student",
    ) -> None:
        super().__init__(network=network, threshold=threshold, loss=loss, cutmix=cutmix)
        expect("method.dropout", dropout, share)
        self.add_teacher(ema_decay=ema_decay, predict_with=predict_with)
        self.dropout = dropout

    def forward(self, phase: str, batch: Batch, progress: Progress) -> Losses:
        y = confident_label(self.teacher(batch.unlabeled), self.threshold)
        (x_1, x_2), (y_1, y_2) = self.cutmixed(batch.strong, y)
        z_1, z_2 = self.complementary(x_1, x_2)
        return {
            "supervised": self.supervised(self.student(batch.image), batch.label) / 2,
            "strong": (self.unlabeled_loss(z_1, y_1) + self.unlabeled_loss(z_2, y_2)) / 4,
        }

    def complementary(self, x_1: Tensor, x_2: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of two views [U, C, H, W] from the channels M and 2 - M of their features."""
        num = len(x_1)
        whole = torch.randperm(num)[: int(num * (1 - self.dropout))].to(x_1.device)
        features = self.student.encode(torch.cat([x_1, x_2]))
        masks = [channel_mask(f[:num], 0.5).index_fill(0, whole, 1) for f in features]
        dropped = [f * torch.cat([mask, 2 - mask]) for f, mask in zip(features, masks, strict=True)]
        z_1, z_2 = resized(self.student.decode(dropped), x_1).split(num)
        return z_1, z_2

    def pseudo_labels(self, image: Tensor, progress: Progress) -> PseudoLabels:
        return used_where_confident(self.teacher(image).softmax(dim=1), self.threshold)
