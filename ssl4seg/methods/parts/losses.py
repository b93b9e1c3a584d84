"""Losses as pure functions of logits and targets; the losses of labelled images as classes with their constants.

Shapes: logits [N, K, H, W], label [N, H, W] int64 with IGNORE where no pixel counts. All losses compute in float32.

Where a loss is a ratio of two sums over the batch, the batch is the global one: `all_sum` adds over the processes of a
distributed run, so that the number of devices does not change the loss. (The gradient is right too: the backward of
`all_sum` adds the processes' gradients, and DDP's average divides by their number.)
"""

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl4seg.axes import image_dims
from ssl4seg.errors import UserError
from ssl4seg.keys import IGNORE, at_least, expect, number_in, share
from ssl4seg.processes import all_sum

SupervisedLoss = Callable[[Tensor, Tensor], Tensor]
"""(logits, label) -> scalar, 0 where every pixel is ignored."""


def ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Numerator over denominator, both summed over the processes; 0 where nothing counts."""
    total = all_sum(denominator)
    return all_sum(numerator) / torch.where(total > 0, total, 1)


def batch_mean(value: Tensor) -> Tensor:
    """Mean over every element of the global batch."""
    return ratio(value.sum(), value.new_full((), value.numel()))  # new_tensor would wait for the device


def cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Mean cross-entropy over the pixels that are not ignored; 0 if there are none."""
    each = F.cross_entropy(logits.float(), label, ignore_index=IGNORE, reduction="none")  # "sum" is not deterministic
    return ratio(each.sum(), (label != IGNORE).sum().float())


def masked_cross_entropy(logits: Tensor, label: Tensor, weight: Tensor) -> Tensor:
    """Mean over ALL pixels of weight x cross-entropy, weight [N, H, W]: a masked pixel counts as 0, not as absent.

    The form of FixMatch (Sohn et al. 2020, eq. 4): few confident pixels give a small loss.
    """
    each = F.cross_entropy(logits.float(), label, ignore_index=IGNORE, reduction="none")
    return batch_mean(weight * each)


def dice(logits: Tensor, label: Tensor, smooth: float = 1e-5) -> Tensor:
    """1 - soft Dice with squared terms (V-Net, Milletari et al. 2016), over the whole batch, mean over all K classes.

    The form of the SSL4MIS recipe: sum_k [1 - (2 sum p y + s) / (sum p^2 + sum y^2 + s)] / K, background included. A
    class that no label holds costs 1 - s / (sum p^2 + s), which pushes the class away once sum p^2 is not far above s:
    the larger s and the fewer the pixels, the sooner.
    """
    counted = label != IGNORE
    num_classes = logits.shape[1]
    target = F.one_hot(label.masked_fill(~counted, 0), num_classes).movedim(-1, 1).float() * counted[:, None]
    p = logits.float().softmax(dim=1) * counted[:, None]
    over = (0, *image_dims(p))
    sums = all_sum(torch.stack([(p * target).sum(over), (p * p).sum(over), target.sum(over)]))
    return (1 - (2 * sums[0] + smooth) / (sums[1] + sums[2] + smooth)).mean()


class CrossEntropyDice:
    """L_sup = a cross-entropy + b Dice; a = b = 1/2 is the SSL4MIS recipe, a = 1, b = 0 that of natural images.

    Args:
        cross_entropy: a.
        dice: b.
        smooth: s of `dice`.
    """

    def __init__(self, *, cross_entropy: float = 0.5, dice: float = 0.5, smooth: float = 1e-5) -> None:
        expect("supervised_loss.cross_entropy", cross_entropy, at_least(0))
        expect("supervised_loss.dice", dice, at_least(0))
        if cross_entropy == dice == 0:
            raise UserError("supervised_loss.cross_entropy=0 and supervised_loss.dice=0: one of them must be above 0")
        self.cross_entropy, self.dice, self.smooth = cross_entropy, dice, smooth

    def __call__(self, logits: Tensor, label: Tensor) -> Tensor:
        smoothed: SupervisedLoss = partial(dice, smooth=self.smooth)
        terms = [(self.cross_entropy, cross_entropy), (self.dice, smoothed)]
        return torch.stack([weight * loss(logits, label) for weight, loss in terms if weight]).sum()

    def smoothed_by(self, smooth: float) -> "CrossEntropyDice":
        """The same loss with another s."""
        return CrossEntropyDice(cross_entropy=self.cross_entropy, dice=self.dice, smooth=smooth)


class HardPixels:
    """Mean cross-entropy of the hard pixels alone (OHEM, Shrivastava et al., CVPR 2016, as in semantic segmentation).

    A pixel is hard if its own class has a probability of at most `threshold`. If fewer than `min_share` of all pixels
    of a process's batch are hard, the hardest pixels fill up that share. 0.7 and 200,000 of 2 x 801 x 801 pixels is the
    recipe of the literature on Cityscapes.
    """

    def __init__(self, *, threshold: float = 0.7, min_share: float = 0.156) -> None:
        expect("supervised_loss.threshold", threshold, number_in("(0, 1]", "a probability"))
        expect("supervised_loss.min_share", min_share, share)
        self.threshold, self.min_share = threshold, min_share

    def __call__(self, logits: Tensor, label: Tensor) -> Tensor:
        each = F.cross_entropy(logits.float(), label, ignore_index=IGNORE, reduction="none")
        counted = label != IGNORE
        hardest = each.detach().masked_fill(~counted, -1).flatten()
        num = max(1, round(self.min_share * label.numel()))
        kept = counted & (each >= hardest.topk(num).values[-1].clamp(max=-math.log(self.threshold)))
        return ratio((each * kept).sum(), kept.sum().float())


def softmax_mse(logits: Tensor, target: Tensor) -> Tensor:
    """Squared difference of the class probabilities of two logits, per pixel and class [N, K, H, W], not reduced.

    The gradient flows into both; detach the target.
    """
    return (logits.float().softmax(dim=1) - target.float().softmax(dim=1)).square()
