"""U2PL, unreliable pseudo-labels as negatives (Wang et al., CVPR 2022)."""

from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Parameter

from ssl4seg.augment.mixing import cutmix_mask, mix, mix_labels
from ssl4seg.keys import IGNORE, above, at_least, expect, number_in, whole
from ssl4seg.methods.base import MakeNetwork
from ssl4seg.methods.parts.losses import cross_entropy, ratio
from ssl4seg.methods.parts.memory_bank import MemoryBank, nth_true, spread_index, uniform_index
from ssl4seg.methods.parts.passes import joined
from ssl4seg.methods.parts.predictions import entropy
from ssl4seg.methods.parts.projection import Projection, level_at
from ssl4seg.methods.parts.self_training import longer
from ssl4seg.methods.parts.teacher import EMADecay, EMATeacher, WithTeacher
from ssl4seg.networks.base import Network, resized
from ssl4seg.processes import all_sum
from ssl4seg.seeding import sent
from ssl4seg.types import Batch, Losses, Progress, PseudoLabels


class U2PL(WithTeacher):
    """L = L_sup + lambda_u CE(f(x_m), y_m where H <= gamma) + lambda_c L_c   (their eqs. 1 to 3)

    x_m: with probability 1/2 a CutMix of the unlabelled images; y_m [U, H, W]: the EMA teacher's classes (in evaluation
    mode), mixed alike; H [U, H, W]: the entropy of the teacher's p_t of x_m in nats; gamma: its quantile that leaves
    the share alpha(t) = 0.2 (1 - t/T) above it (eqs. 5 to 7); the mean of CE is over the reliable pixels H <= gamma;
    lambda_u = eta (pixels / reliable pixels) (eq. 8); L_c: see `Contrast`.

    Representations are D = 256 channels of a projection head on the decoder map nearest to a quarter of the image's
    size; the pixels between its places are left out.

    The authors' encoder is pretrained. A network that starts from scratch calls everything background after so few
    steps on labels alone, and the rank of the entropies calls that reliable: raise `labels_only` (phantom, 2 labelled
    patients, 200 steps, one seed: val Dice at the end 4 with 0.0125, 45 with 0.5).

    D, the banks' sizes and the start on labels alone are from the authors' code; the teacher is tested, as there. As
    there, too, gamma is taken over the images of each process.

    Differs from the authors' code (and in `Contrast`):
    - On labels alone, their student passes the unlabelled images too; here it does not.
    - For one more epoch their teacher is the student; here it is the student on labels alone, and its average begins
      with the other terms.
    - Their L_sup has no Dice term beside the cross-entropy.

    Args:
        unreliable: alpha(0).
        pseudo_weight, contrastive_weight: eta and lambda_c.
        temperature, num_anchors, num_negatives, anchor_threshold, low_rank, high_rank, num_keys: as in `Contrast`.
        bank_size, background_bank_size: vectors held for each class and for class 0.
        projection_channels: D.
        cutmix: probability of CutMix.
        labels_only: share of the run before the other terms start; the teacher is its student until then.
        ema_decay: of the teacher.
        predict_with: "student" or "teacher".
    """

    def __init__(
        self,
        *,
        network: MakeNetwork,
        unreliable: float = 0.2,
        pseudo_weight: float = 1.0,
        contrastive_weight: float = 1.0,
        temperature: float = 0.5,
        num_anchors: int = 256,
        num_negatives: int = 50,
        anchor_threshold: float = 0.3,
        low_rank: int = 3,
        high_rank: int = 20,
        bank_size: int = 30_000,
        background_bank_size: int = 50_000,
        num_keys: int = 1024,
        projection_channels: int = 256,
        cutmix: float = 0.5,
        labels_only: float = 0.0125,
        ema_decay: EMADecay = "auto",
        predict_with: str = "teacher",
    ) -> None:
        super().__init__()
        expect("method.unreliable", unreliable, number_in("[0, 1)", "a share"))
        expect("method.pseudo_weight", pseudo_weight, at_least(0))
        expect("method.contrastive_weight", contrastive_weight, at_least(0))
        expect("method.bank_size", bank_size, whole(1))
        expect("method.background_bank_size", background_bank_size, whole(1))
        expect("method.projection_channels", projection_channels, whole(1))
        expect("method.cutmix", cutmix, number_in("[0, 1]", "a probability"))
        expect("method.labels_only", labels_only, number_in("[0, 1)", "a share of the run"))
        self.student = network()
        self.level = level_at(self.student, 1 / 4)
        axes = self.student.axes
        self.projection = Projection(self.student.pyramid_channels[self.level], projection_channels, axes=axes)
        self.add_teacher(ema_decay=ema_decay, predict_with=predict_with)
        # Any module can be averaged.
        self.teacher_projection = EMATeacher(cast(Network, self.projection), decay=ema_decay)
        other_sizes = [bank_size] * (self.student.num_classes - 1)
        self.bank = MemoryBank([background_bank_size, *other_sizes], projection_channels)
        self.contrast = Contrast(
            self.bank,
            temperature=temperature,
            num_anchors=num_anchors,
            num_negatives=num_negatives,
            anchor_threshold=anchor_threshold,
            low_rank=low_rank,
            high_rank=high_rank,
            num_keys=num_keys,
        )
        self.pseudo_weight, self.contrastive_weight = pseudo_weight, contrastive_weight
        self.unreliable, self.cutmix, self.labels_only = unreliable, cutmix, labels_only

    def forward(self, phase: str, batch: Batch, progress: Progress) -> Losses:
        started = self.steps_taught(progress) >= 0
        x_m, y_m = self.mixed(batch.unlabeled, self.label(batch.unlabeled).argmax(dim=1))
        num = [len(batch.image), len(x_m)]
        z, r = joined(self.through(partial(self.look, self.student, self.projection), batch.image, x_m))
        with torch.no_grad():
            look = partial(self.look, self.teacher.network, self.teacher_projection.network)
            z_t, r_t = joined(self.through(look, batch.image, x_m))
            p_t = z_t.softmax(dim=1)
            y_m = y_m.masked_fill(~self.reliable(p_t[num[0] :], progress), IGNORE)
        z_l, z_m = z.split(num)
        contrast = self.contrast(r, r_t, p_t, batch.label, y_m, queue=started)
        return {
            "supervised": self.supervised(z_l, batch.label),
            "pseudo_label": started * self.pseudo_weight * _over_reliable(z_m, y_m),
            "contrastive": started * self.contrastive_weight * contrast,
        }

    def look(self, network: Network, projection: nn.Module, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [N, K, H, W] and representations [N, D, h, w]."""
        maps = network.pyramid(network.encode(image))
        return resized(network.head(maps[0]), image), projection(maps[self.level]).float()

    def label(self, image: Tensor) -> Tensor:
        """The teacher's logits in evaluation mode."""
        training = self.teacher.training
        z_t: Tensor = self.teacher.eval()(image)
        self.teacher.train(training)
        return z_t

    def mixed(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """x_m and y_m; either all images are mixed or none."""
        mask = cutmix_mask(image) * sent((torch.rand(()) < self.cutmix).float(), image.device)
        return mix(image, image.roll(1, 0), mask), mix_labels(label, label.roll(1, 0), mask)

    def alpha(self, progress: Progress) -> float:
        """Share of the pixels that are unreliable."""
        return self.unreliable * (1 - progress.fraction)

    def reliable(self, p_t: Tensor, progress: Progress) -> Tensor:
        """Where H <= gamma [U, H, W]."""
        h = entropy(p_t.float())
        gamma = h.flatten().sort().values[max(1, round((1 - self.alpha(progress)) * h.numel())) - 1]
        return h <= gamma

    def steps_taught(self, progress: Progress) -> int:
        """Number of steps since the unlabelled images joined; negative before."""
        return progress.step - round(self.labels_only * progress.total)

    def after_step(self, progress: Progress) -> None:
        since = Progress(max(0, self.steps_taught(progress)), progress.total)
        super().after_step(since)
        self.teacher_projection.follow(cast(Network, self.projection), since)

    def parameters_of(self, phase: str) -> list[Parameter]:
        return [*self.student.parameters(), *self.projection.parameters()]

    def weights(self, progress: Progress) -> dict[str, float]:
        return {"unreliable_share": self.alpha(progress)}

    def remedy(self, total: int) -> str:
        return longer("labels_only", self.labels_only)

    def pseudo_labels(self, image: Tensor, progress: Progress) -> PseudoLabels:
        p_t = self.label(image).softmax(dim=1)
        return PseudoLabels(p_t, self.reliable(p_t, progress) & (self.steps_taught(progress) >= 0))


class Contrast:
    """The contrastive loss of U2PL, with a bank of negatives.

    L_c = mean_{c,i} -ln[ e^{<a_ci, z+_c>/tau} / (e^{<a_ci, z+_c>/tau} + sum_j e^{<a_ci, z-_cij>/tau}) ]   (their eq. 4)

    <,>: cosine, tau = 0.5. a_ci: M = 256 pixels of class c by truth or reliable pseudo-label, with p_t(c) > 0.3 (eqs. 9
    to 11). z+_c: the mean of all such pixels (eq. 12). z-_cij: N = 50 vectors of c's memory bank. Into the bank go
    labelled pixels of another class where c ranks in [0, r_l) of p_t, and unreliable pixels (H > gamma) where c ranks
    in [r_l, r_h) (eqs. 13 to 15), r_l = 3, r_h = 20. z+ and z- are the teacher's, without a gradient. A class without
    anchors or negatives is left out of the mean.

    r_l is made for some 20 classes; with fewer than four it becomes K - 1, so that the least probable class has
    negatives. M and N are from the authors' code.

    Differs from the authors' code:
    - No labelled pixel enters their banks, and of the unreliable pixels only those whose pseudo-label is c although c
      ranks in [r_l, r_h) of p_t of x_m, where the two views of the teacher disagree; here the banks follow eqs. 13 to
      15.
    - Their mean over classes counts classes without anchors too; here it leaves them out.
    - Their anchors of unlabelled images are the surest alpha(t) of the pixels alone; here all reliable pixels can be
      anchors.
    - Their z+ includes pixels with p_t(c) <= 0.3; here it is the mean of the pixels that anchors are drawn from.
    - Where a class is absent, their anchors of one class meet the bank of another; here anchors meet the bank of their
      class.
    - They queue every negative; here at most `num_keys` a class, step and process, so that the bank spans more than a
      few steps.

    Args:
        bank: the memory bank; it stays part of the method, and of its state.
        temperature: tau.
        num_anchors, num_negatives: M and N.
        anchor_threshold: of p_t(c).
        low_rank, high_rank: r_l and r_h.
        num_keys: vectors queued at most for each class in a step and process.
    """

    def __init__(
        self,
        bank: MemoryBank,
        *,
        temperature: float,
        num_anchors: int,
        num_negatives: int,
        anchor_threshold: float,
        low_rank: int,
        high_rank: int,
        num_keys: int,
    ) -> None:
        expect("method.temperature", temperature, above(0))
        expect("method.num_anchors", num_anchors, whole(1))
        expect("method.num_negatives", num_negatives, whole(1))
        expect("method.anchor_threshold", anchor_threshold, number_in("[0, 1)", "a probability"))
        expect("method.low_rank", low_rank, whole(1))
        expect("method.high_rank", high_rank, whole(low_rank + 1))
        expect("method.num_keys", num_keys, whole(1))
        self.bank, self.temperature = bank, temperature
        self.num_anchors, self.num_negatives, self.anchor_threshold = num_anchors, num_negatives, anchor_threshold
        self.low_rank, self.high_rank, self.num_keys = low_rank, high_rank, num_keys

    def __call__(self, r: Tensor, r_t: Tensor, p_t: Tensor, y_l: Tensor, y_m: Tensor, *, queue: bool) -> Tensor:
        """L_c. Puts the step's negatives into the bank first, if `queue`.

        Args:
            r, r_t: representations [L + U, D, h, w] by the student and by the teacher.
            p_t: the teacher's softmax output [L + U, K, H, W].
            y_l: truth [L, H, W].
            y_m: pseudo-labels [U, H, W], IGNORE where unreliable.
        """
        size = r.shape[2:]
        y_l, y_m, p_t = (_thinned(x, size) for x in (y_l, y_m, p_t))
        rank = p_t.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        classes = torch.arange(p_t.shape[1], device=r.device).view(-1, *(1 for _ in size))
        y_l, y_m, y = (x[:, None] for x in (y_l, y_m, torch.cat([y_l, y_m])))
        anchor = _by_class((y == classes) & (p_t > self.anchor_threshold))
        low_rank = min(self.low_rank, p_t.shape[1] - 1)
        low, high = (rank[: len(y_l)] < low_rank), (rank >= low_rank) & (rank < self.high_rank)
        negative_l = low & (y_l != classes) & (y_l != IGNORE)
        negative = _by_class(torch.cat([negative_l, high[len(y_l) :] & (y_m == IGNORE)]))
        r, r_t = (x.movedim(1, -1).flatten(0, -2) for x in (r, r_t))

        if queue:
            key, valid = spread_index(negative.sum(dim=1), self.num_keys)
            self.bank.push(r_t[nth_true(negative, key)], valid)
        with torch.autocast(r.device.type, enabled=False):
            count = anchor.sum(dim=1)
            a = F.normalize(r[nth_true(anchor, uniform_index(count, self.num_anchors))], dim=2)
            positive = F.normalize(all_sum(anchor.float() @ r_t) / all_sum(count.float()).clamp(min=1)[:, None], dim=1)
            drawn = self.bank.draw(self.num_anchors * self.num_negatives)
            drawn = drawn.unflatten(1, (self.num_anchors, self.num_negatives))
            alike = torch.einsum("kmd,kd->km", a, positive)[:, :, None]
            unlike = torch.einsum("kmd,kmnd->kmn", a, drawn)
            each = -(torch.cat([alike, unlike], dim=2) / self.temperature).log_softmax(dim=2)[:, :, 0].mean(dim=1)
        counted = ((count > 0) & (self.bank.held > 0)).float()
        return ratio((counted * each).sum(), counted.sum())


def _over_reliable(logits: Tensor, label: Tensor) -> Tensor:
    """(pixels / reliable pixels) times the mean cross-entropy over the reliable pixels."""
    reliable = (label != IGNORE).float()
    return ratio(reliable.new_full((), reliable.numel()), reliable.sum()) * cross_entropy(logits, label)


def _thinned(x: Tensor, size: torch.Size) -> Tensor:
    """[..., *X] -> [..., *size]: the pixel in the middle of each cell, so that label and probability stay together."""
    for dim, num in enumerate(size, start=x.ndim - len(size)):
        at = ((torch.arange(num, device=x.device) + 0.5) * (x.shape[dim] / num)).long()
        x = x.index_select(dim, at)
    return x


def _by_class(mask: Tensor) -> Tensor:
    """[N, K, *x] -> [K, pixels of all images]."""
    return mask.transpose(0, 1).flatten(1)
