"""TraCoCo, translation consistent co-training (Liu et al. 2022)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl4seg.augment.mixing import beta_boxes, mix, mix_labels
from ssl4seg.keys import at_least, expect, number_in, true_or_false
from ssl4seg.methods.base import MakeNetwork
from ssl4seg.methods.parts.components import largest_components
from ssl4seg.methods.parts.losses import batch_mean, dice, ratio
from ssl4seg.methods.parts.predictions import log_entropy, one_hot
from ssl4seg.methods.parts.two_networks import TwoNetworks
from ssl4seg.networks.base import Network
from ssl4seg.types import Batch, Losses, Progress, PseudoLabels

UNLIKELY = 0.1
"""Where the other network gives its least probable class less than this, the classes but y are learned as wrong."""


class TraCoCo(TwoNetworks):
    """L = sum_n [L_sup(z_n) + w(t) (L_crc(z_n^m) + b L_tra(z_n, z_n') - h H(p_n, p_n'))]   (n = 1, 2: two networks)

    Translation consistency: x' is x, labelled and unlabelled images alike, moved by whole pixels, up to a quarter of
    each side in either direction, one translation a step; the rest is 0. z_n, z_n' [N, K, H, W]: network n's logits of
    x and x'. A pixel that both views show has other surroundings in x', and must keep its prediction:
    L_tra = mean KL(p_n' || p_n), over the pixels of the overlap and in nats; gradients flow into both. H: the mean
    entropy there, in nats, which is kept from collapsing. b = 0.6 and h = 0.01.

    Confident cross-entropy (CRC): q [U, K, H, W] is the other network's softmax output of x_u, without a gradient; y:
    its class, of which each but the background keeps its largest component, the rest becoming background; c = q_y. z^m:
    the logits of x_u in which a box, whose area is Beta(4, 4) of the image's, shows the batch's next image; q, y and c
    have the same box. With p the softmax of z^m:

    L_crc = sum [c >= tau] c (-ln p_y) / sum [c >= tau] + sum [m < 0.1] m mean_{k != y} (-ln(1 - p_k)) / sum [m < 0.1],

    m = min_k q_k [U, H, W] and tau = 0.65; it is averaged with Dice(p, y). Each pass of x, x' and x^m has noise of its
    own, U(-0.05, 0.05). w(t) = exp(-5 (1 - t/440)^2) in 200 stairs, and 1 from there on: 40 epochs of 11 steps on ACDC
    with 7 patients. The constants are those of the authors' ACDC code, which is the source here: the paper was not at
    hand. b is their 0.1 x a sum over 24 images x a mean over 4 classes, where this one is a mean and a sum: on LA 0.3 x
    4 / 2 is 0.6 too. On LA they have noise of 0.2, h = 0.1 and neither Dice nor components.

    Differs from the authors' code:
    - Their x and x' are two crops of a larger image; a method here sees no more than the training square, so what x'
      shows beyond it is 0. On ACDC theirs differ in 15 % of the images, of which most are padded by 0 to just the crop
      and a pixel or two, so that little moves there.
    - They cut the logits off to [1e-6, 1], as if they were probabilities, before the softmax in L_tra and H, which in
      L_tra runs along the image's height; here it is over the classes of the whole logits.
    - On slices their term of m counts -2 ln(1 - p_y) besides, from a bitwise negation of 0 and 1, and is a mean over K
      classes; here it is a mean over the K - 1 others, which for two classes is their LA code's.
    - They zero the logits of all classes but y, and take the softmax of that as q; here c = q_y, so that pixels that
      lost their component are not confident.
    - Their boxes may show labelled images with the other network's classes, have one size for the batch and are cut off
      at the sides; on LA the first network sees no boxes.
    - They test each network, and choose the best model on val and test together; here the first network predicts.

    Args:
        threshold: tau.
        shift: the longest translation, as a share of each side.
        translation_weight, entropy_weight: b and h.
        noise: bound of the noise, in units of the image.
        dice: whether L_crc is averaged with Dice.
        components: whether each class keeps its largest component alone.
        consistency_weight, rampup_steps: w and the length of its ramp; None is the whole run.
        predict_with: "student", the first network, or "mean", the mean of both networks' probabilities.
    """

    def __init__(
        self,
        *,
        network: MakeNetwork,
        threshold: float = 0.65,
        shift: float = 0.25,
        translation_weight: float = 0.6,
        entropy_weight: float = 0.01,
        noise: float = 0.05,
        dice: bool = True,
        components: bool = True,
        consistency_weight: float = 1.0,
        rampup_steps: int | None = 440,
        predict_with: str = "student",
    ) -> None:
        super().__init__(
            network=network,
            consistency_weight=consistency_weight,
            rampup_steps=rampup_steps,
            predict_with=predict_with,
        )
        expect("method.threshold", threshold, number_in("[0, 1)", "a confidence"))
        expect("method.shift", shift, number_in("[0, 1)", "a share of the side"))
        expect("method.translation_weight", translation_weight, at_least(0))
        expect("method.entropy_weight", entropy_weight, at_least(0))
        expect("method.noise", noise, at_least(0))
        expect("method.dice", dice, true_or_false)
        expect("method.components", components, true_or_false)
        self.threshold, self.shift, self.noise = threshold, shift, noise
        self.translation_weight, self.entropy_weight = translation_weight, entropy_weight
        self.dice, self.components = dice, components

    def forward(self, phase: str, batch: Batch, progress: Progress) -> Losses:
        by = self.translation(batch.image)
        learned = [
            self.learned(pupil, teacher, batch, by)
            for pupil, teacher in ((self.student, self.peer), (self.peer, self.student))
        ]
        supervised, cross, translation, entropy = (torch.stack(terms).sum() for terms in zip(*learned, strict=True))
        w = self.w(progress)
        return {
            "supervised": supervised,
            "cross": w * cross,
            "translation": w * self.translation_weight * translation,
            "entropy": -w * self.entropy_weight * entropy,
        }

    def learned(
        self, pupil: Network, teacher: Network, batch: Batch, by: Sequence[int]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """L_sup, L_crc, L_tra and H of one network, which the other teaches."""
        images = (batch.image, batch.unlabeled)
        z_l, z_u = self.through(pupil, *(self.noisy(x) for x in images))
        moved = self.through(pupil, *(self.noisy(translated(x, by)) for x in images))
        log_p = torch.cat([z_l, z_u])[here(by)].log_softmax(dim=1)
        log_moved = torch.cat(moved)[there(by)].log_softmax(dim=1)
        divergence = (log_moved.exp() * (log_moved - log_p)).sum(dim=1)
        entropies = (batch_mean(log_entropy(each)) for each in (log_p, log_moved))
        return (
            self.supervised(z_l, batch.label),
            self.cross(pupil, teacher, batch.unlabeled),
            batch_mean(divergence),
            torch.stack([*entropies]).mean(),
        )

    def noisy(self, image: Tensor) -> Tensor:
        """x + e with e ~ U(-noise, noise) in every pixel."""
        return image + torch.empty_like(image).uniform_(-self.noise, self.noise)

    def translation(self, image: Tensor) -> list[int]:
        """Pixels along each axis, at random."""
        farthest = [int(self.shift * length) for length in image.shape[2:]]
        return [int(torch.randint(-most, most + 1, ())) for most in farthest]

    def cross(self, pupil: Network, teacher: Network, x_u: Tensor) -> Tensor:
        """L_crc, with Dice if that is chosen, of the pupil's logits of mixed images."""
        with torch.no_grad():
            q = teacher(x_u).softmax(dim=1)
        y = self.classes(q)
        box = beta_boxes(x_u, 4, 4)
        c, m, y = (mix_labels(each, each.roll(1, 0), box) for each in (sureness(q, y), q.amin(dim=1), y))
        z = pupil(self.noisy(mix(x_u, x_u.roll(1, 0), box)))
        regional = confident_cross_entropy(z, y, c, m, self.threshold)
        return (regional + dice(z, y)) / 2 if self.dice else regional

    def classes(self, q: Tensor) -> Tensor:
        """y [U, H, W] of q [U, K, H, W]."""
        y = q.argmax(dim=1)
        return largest_components(y, q.shape[1]) if self.components else y

    def pseudo_labels(self, image: Tensor, progress: Progress) -> PseudoLabels:
        """The student's targets: the peer's probabilities where y is confident."""
        q = self.peer(image).softmax(dim=1)
        return PseudoLabels(q, sureness(q, self.classes(q)) >= self.threshold)


def translated(image: Tensor, by: Sequence[int]) -> Tensor:
    """Move images [N, C, *X] by whole pixels along each axis; what comes into view is 0."""
    ends = [end for pixels in reversed(by) for end in (max(pixels, 0), max(-pixels, 0))]
    return F.pad(image[here(by)], ends)


def here(by: Sequence[int]) -> tuple[slice, ...]:
    """Where maps [N, C, *X] show what they still show after `translated`."""
    return (slice(None), slice(None), *(slice(max(-pixels, 0), -max(pixels, 0) or None) for pixels in by))


def there(by: Sequence[int]) -> tuple[slice, ...]:
    """Where maps show the same after `translated`."""
    return here([-pixels for pixels in by])


def sureness(q: Tensor, y: Tensor) -> Tensor:
    """c = q_y [U, H, W]."""
    return q.gather(1, y[:, None])[:, 0]


def confident_cross_entropy(logits: Tensor, y: Tensor, c: Tensor, m: Tensor, threshold: float) -> Tensor:
    """L_crc of logits [U, K, H, W] with classes y, their probabilities c and the least probabilities m [U, H, W]."""
    log_p = logits.float().log_softmax(dim=1)
    confident, unlikely = (c >= threshold).float(), (m < UNLIKELY).float()
    positive = -c * log_p.gather(1, y[:, None])[:, 0]
    others = (1 - one_hot(y, logits.shape[1])) * -(1 - log_p.exp()).clamp(min=1e-6).log()
    negative = m * others.sum(dim=1) / (logits.shape[1] - 1)
    return ratio((confident * positive).sum(), confident.sum()) + ratio((unlikely * negative).sum(), unlikely.sum())
