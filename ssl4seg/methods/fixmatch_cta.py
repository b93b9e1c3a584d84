"""FixMatch with CTAugment (Sohn et al., NeurIPS 2020; CTAugment: Berthelot et al., ICLR 2020)."""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from ssl4seg.augment import photometric as ph
from ssl4seg.axes import image_dims
from ssl4seg.keys import expect, number_in, share, true_or_false, whole
from ssl4seg.methods.base import MakeNetwork
from ssl4seg.methods.fixmatch import FixMatch
from ssl4seg.processes import all_sum
from ssl4seg.seeding import sent
from ssl4seg.types import Batch, Losses, Progress

OPERATIONS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], float, float]] = {
    "autocontrast": (ph.autocontrast, 0, 1),
    "blur": (ph.blur, 0, 2),  # sigma in pixels
    "brightness": (ph.brightness, 0.1, 2),
    "contrast": (ph.contrast, 0.1, 2),
    "cutout": (lambda x, side: ph.cutout(x, side, sent(torch.rand(len(x), 2), x.device)), 0, 0.5),
    "equalize": (ph.equalize, 0, 1),
    "invert": (ph.invert, 0, 1),
    "posterize": (lambda x, bits: ph.posterize(x, bits.floor()), 1, 9),
    "saturation": (ph.saturation, 0.1, 2),  # leaves images of one channel as they are
    "sharpness": (ph.sharpness, 0.1, 2),
    "smooth": (ph.sharpness, 1, 0),
    "solarize": (ph.solarize, 0, 1),
}
"""The operation and its magnitudes at the levels 0 and 1."""


class FixMatchCTA(FixMatch):
    """L as in `FixMatch`, with strong views by CTAugment.

    Each of 12 operations has a level in [0, 1] in 17 bins, with weights m [12, 17] that begin at 1. The strong view of
    an unlabelled image: 2 operations drawn evenly, each with a bin drawn by m_hat, which is m + 1 - decay relative to
    its largest, and 0 below 0.8; then Cutout of half of the shorter side (FixMatch, section 2.3). m is learned from the
    labelled images: 2 operations and levels drawn evenly, without that Cutout, make x' of an image; in both bins

        m <- decay m + (1 - decay) omega,  omega = mean_k mean_px[1 - 1/2 sum |p(x') - y|] = mean_k mean_px p_k(x')

    with decay = 0.99, p [K, H, W] the student's softmax output in evaluation mode and y its one-hot label; the inner
    mean is over the pixels whose label is k, the outer over the classes k that the image holds. (The paper classifies
    whole images. `balanced=false` takes a mean over all pixels: where nine of ten are background, it stays near 1 and
    no bin is ever excluded.) A bin that n images of the batch hit is updated n times by their mean omega. m is part of
    the state and the same in all processes. With 12 labelled images a bin is hit every 8 steps or so: m settles within
    some 1,000 steps, and in shorter runs all levels stay in use.

    Constants and ranges are those of the authors' code. The paper compares m itself with 0.8; the code compares its
    ratio to the largest, as here, because otherwise all bins could be excluded.

    Differs from the authors' code:
    - Operations that move pixels (rotation, shear, translation, rescaling) are left out here, because strong views stay
      aligned, and so is the operation that does nothing.
    - Here posterize has 17 bins like the other operations.
    - Here blur is Gaussian.
    - An EMA predicts x' there; here the student does.

    Differs from the public 2-D ACDC script:
    - It learns m once an epoch from the training loss of one policy.
    - It applies no confidence threshold to the pseudo-labels.
    - It validates an EMA but saves the student.

    Args:
        threshold, consistency_weight, rampup_steps: of `FixMatch`.
        depth: operations on an image.
        cutout: side of the last Cutout, as a share of the image's shorter side; 0 is none.
        decay: of the bins' weights.
        bin_threshold: share of the largest weight below which a bin is not drawn, 0.8 above.
        num_bins: 17 above.
        balanced: whether omega is a mean over classes or over all pixels.
    """

    strong_views: ClassVar[int] = 0  # it makes its own
    rates: Tensor

    def __init__(
        self,
        *,
        network: MakeNetwork,
        threshold: float = 0.95,
        consistency_weight: float = 1.0,
        rampup_steps: int | None = 0,
        depth: int = 2,
        cutout: float = 0.5,
        decay: float = 0.99,
        bin_threshold: float = 0.8,
        num_bins: int = 17,
        balanced: bool = True,
    ) -> None:
        super().__init__(
            network=network, threshold=threshold, consistency_weight=consistency_weight, rampup_steps=rampup_steps
        )
        expect("method.depth", depth, whole(1, 100))
        expect("method.cutout", cutout, share)
        expect("method.decay", decay, number_in("[0, 1)"))
        expect("method.bin_threshold", bin_threshold, number_in("[0, 1]"))
        expect("method.num_bins", num_bins, whole(1, 10000))
        expect("method.balanced", balanced, true_or_false)
        self.depth, self.decay, self.bin_threshold, self.num_bins = depth, decay, bin_threshold, num_bins
        self.cutout, self.balanced = cutout, balanced
        self.checked = False
        self.register_buffer("rates", torch.ones(len(OPERATIONS), num_bins))

    def forward(self, phase: str, batch: Batch, progress: Progress) -> Losses:
        if not self.checked:
            ph.check_range(batch.unlabeled)
            self.checked = True
        self.learn(batch)
        kinds = torch.randint(len(OPERATIONS), (self.depth, len(batch.unlabeled)))
        strong = self.cut_out(self.augmented(batch.unlabeled, kinds, self.levels(kinds)))
        return super().forward(phase, batch._replace(strong=(strong,)), progress)

    def augmented(self, image: Tensor, kinds: Tensor, levels: Tensor) -> Tensor:
        """Apply the operations `kinds` [depth, B] (on the CPU) at `levels` [depth, B], one after the other."""
        for kind, level in zip(kinds, levels, strict=True):
            for k, (op, low, high) in enumerate(OPERATIONS.values()):
                image = ph.on_samples(op, image, kind == k, low + (high - low) * level)
        return image

    def cut_out(self, image: Tensor) -> Tensor:
        """Images with a grey square each, its centre anywhere."""
        place = sent(torch.rand(len(image), 2), image.device)
        return ph.cutout(image, place.new_full((len(image),), self.cutout), place)

    def levels(self, kinds: Tensor) -> Tensor:
        """Levels in [0, 1) for the operations `kinds`, uniform within bins that are drawn by m_hat."""
        u, within = sent(torch.rand((2, *kinds.shape)), self.rates.device).unbind()
        m_hat = self.m_hat()[sent(kinds, self.rates.device)]  # [depth, B, bins]
        at = torch.arange(self.num_bins, device=u.device)
        # The sum up to each bin, written out: cumsum has no deterministic form on GPUs.
        up_to = (m_hat[..., None, :] * (at <= at[:, None])).sum(dim=-1)
        bins = (u[..., None] * up_to[..., -1:] >= up_to).sum(dim=-1).clamp(max=self.num_bins - 1)
        return (bins + within) / self.num_bins

    def m_hat(self) -> Tensor:
        """Unnormalised probabilities of the bins [12, bins]."""
        m = self.rates + 1 - self.decay
        ratio: Tensor = m / m.amax(dim=1, keepdim=True)
        return ratio.masked_fill(ratio < self.bin_threshold, 0)

    @torch.no_grad()
    def learn(self, batch: Batch) -> None:
        """Update m from the labelled images."""
        kinds = torch.randint(len(OPERATIONS), (self.depth, len(batch.image)))
        levels = torch.rand(kinds.shape)
        p = self.predicted(self.augmented(batch.image, kinds, levels)).softmax(dim=1)
        omega, counted = self.omega(p, batch.label)
        place = torch.zeros(self.depth, len(kinds[0]), self.rates.numel())
        place.scatter_(2, (kinds * self.num_bins + (levels * self.num_bins).long())[..., None], 1)
        hits = sent(place, omega.device) * counted[:, None]  # [depth, L, 12 * bins]
        sums = torch.stack([hits.sum(dim=(0, 1)), (hits * omega[:, None]).sum(dim=(0, 1))])
        n, total = all_sum(sums).view(2, *self.rates.shape)
        self.rates.lerp_(total / n.clamp(min=1), 1 - self.decay**n)

    def omega(self, p: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """omega [L] in [0, 1], and whether the image has any labelled pixel [L]."""
        y = torch.stack([label == k for k in range(p.shape[1])], dim=1)
        right, num = (p * y).sum(dim=image_dims(p)), y.sum(dim=image_dims(p))  # [L, K]
        counted = num.sum(dim=1) > 0
        if self.balanced:
            return (right / num.clamp(min=1)).sum(dim=1) / (num > 0).sum(dim=1).clamp(min=1), counted
        return right.sum(dim=1) / num.sum(dim=1).clamp(min=1), counted

    def predicted(self, image: Tensor) -> Tensor:
        """The student's logits in evaluation mode."""
        before = self.student.training
        logits: Tensor = self.student.eval()(image)
        self.student.train(before)
        return logits

    def weights(self, progress: Progress) -> dict[str, float]:
        """w, and the share of the bins that can be drawn."""
        return {**super().weights(progress), "bins_in_use": float((self.m_hat() > 0).float().mean())}
