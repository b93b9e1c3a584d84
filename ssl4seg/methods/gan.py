"""A conditional GAN whose generator is the segmenter (Goodfellow et al. 2014; Mao et al. 2017; Isola et al. 2017)."""

from collections.abc import Iterable
from functools import partial
from typing import ClassVar

import torch
from torch.nn import Parameter

from ssl4seg.keys import at_least, expect, one_of, true_or_false
from ssl4seg.methods.base import MakeNetwork, Method
from ssl4seg.methods.parts.discriminator import ADVERSARIAL, Discriminator, one_hot_truth, unmoved
from ssl4seg.methods.parts.losses import batch_mean
from ssl4seg.types import Batch, Losses, Progress


class GAN(Method):
    """Generator: L = L_sup + a mean_{l, u} loss(D(x, p), 1)
    Discriminator: L_D = [mean_l loss(D(x, y), 1) + mean_{l, u} loss(D(x, p), 0)] / 2

    x: images; p = softmax [N, K, H, W] of the generator, which is the segmenter and may be any network; y: the one-hot
    truths of the labelled images; D(x, m) [N, 1, h, w]: patch decisions (logits) on an image and a mask stacked on the
    channels, by conv 4x4 stride 2 with 64, 128, 256, 512 channels and batch norm; loss: binary cross-entropy, or least
    squares, (d - t)^2. Labelled images enter both losses; unlabelled images have no y, so only their predictions enter.
    The articles have `supervised_loss=cross_entropy`.

    No single paper defines the method. The cross-entropy is the original GAN's (their eq. 1, with the generator's loss
    that does not saturate), least squares are LSGAN's (their eq. 9; a absorbs the 1/2 of its generator), the condition,
    the patches, the 1/2 of L_D and a = 0.01 are pix2pix's, Adam 2e-4 with betas (0.5, 0.999) for both networks, as in
    our YAML, is DCGAN's. With a = 1 the adversarial term outweighs L_sup tenfold, because D soon tells one-hot truths
    from soft predictions.

    Labelled and unlabelled images pass the generator one after the other: in one pass, its batch norm's statistics are
    those of both, and with Adam it learns to recognise the few labelled images by how they stand out (phantom, 2
    labelled patients, 125 steps, one seed: val Dice 22 against 45).

    Where the truth is ignored, D sees the prediction in its place. D judges truths and predictions in two passes, so
    that its batch norm sees predictions by themselves in both phases. In each phase the other network's parameters get
    no gradient, and its batch norm's running statistics stay.

    Args:
        adversarial: the loss, "bce" or "least_squares".
        adversarial_weight: a.
        batch_norm: whether D has batch norm.
    """

    ways: ClassVar[tuple[str, ...]] = ("apart", "together")
    phases = ("segmenter", "discriminator")

    def __init__(
        self,
        *,
        network: MakeNetwork,
        adversarial: str = "bce",
        adversarial_weight: float = 0.01,
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        expect("method.adversarial", adversarial, one_of(*ADVERSARIAL))
        expect("method.adversarial_weight", adversarial_weight, at_least(0))
        expect("method.batch_norm", batch_norm, true_or_false)
        self.student = network()
        in_channels = self.student.in_channels + self.student.num_classes
        self.discriminator = Discriminator(
            in_channels=in_channels, axes=self.student.axes, decision="patches", batch_norm=batch_norm
        )
        self.loss, self.a = ADVERSARIAL[adversarial], adversarial_weight

    def forward(self, phase: str, batch: Batch, progress: Progress) -> Losses:
        return self.discriminate(batch) if phase == "discriminator" else self.generate(batch)

    def generate(self, batch: Batch) -> Losses:
        x = torch.cat([batch.image, batch.unlabeled])
        z_l, z_u = self.through(self.student, batch.image, batch.unlabeled)
        fake = unmoved(self.discriminator, x, torch.cat([z_l, z_u]).softmax(dim=1))
        return {
            "supervised": self.supervised(z_l, batch.label),
            "adversarial": self.a * batch_mean(self.loss(fake, 1)),
        }

    def discriminate(self, batch: Batch) -> Losses:
        x = torch.cat([batch.image, batch.unlabeled])
        with torch.no_grad():
            z_l, z_u = self.through(partial(unmoved, self.student), batch.image, batch.unlabeled)
            p_l, p_u = z_l.softmax(dim=1), z_u.softmax(dim=1)
        real = self.discriminator(batch.image, one_hot_truth(batch.label, p_l))
        fake = self.discriminator(x, torch.cat([p_l, p_u]))
        return {"discriminator": (batch_mean(self.loss(real, 1)) + batch_mean(self.loss(fake, 0))) / 2}

    def remedy(self, total: int) -> str:
        return f"method.adversarial_weight={self.a / 10:g}" if self.a else ""

    def parameters_of(self, phase: str) -> Iterable[Parameter]:
        return (self.discriminator if phase == "discriminator" else self.student).parameters()
