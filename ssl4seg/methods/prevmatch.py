"""PrevMatch (Shin et al., WACV 2026)."""

from typing import Unpack

import torch
from torch import Tensor, nn

from ssl4seg.keys import expect, number_in, whole
from ssl4seg.methods.base import MakeNetwork
from ssl4seg.methods.parts.passes import together
from ssl4seg.methods.parts.predictions import confident_label
from ssl4seg.methods.parts.self_training import Frozen
from ssl4seg.methods.unimatch import UniMatch, UniMatchKeys
from ssl4seg.types import Batch, Losses, Progress


class PrevMatch(UniMatch):
    """L = (L_sup + L_u(y) + v(t) L_u(y')) / (2 + v(t)),  L_u(y) = 1/2 l(z_f, y) + 1/4 (l(z_1, y_1) + l(z_2, y_2))

    y [U, H, W], z_f, z_1, z_2 and l are those of `UniMatch`, whose loss L becomes where v(t) = 0. y' [U, H, W]: the
    class of the weak view by former students, where its probability is at least tau' = 0.9, ignored elsewhere; y'_1,
    y'_2: y' with the boxes of the strong views, which are those of y. The former students' logits are added up with
    weights from a flat Dirichlet distribution; each step draws anew how many of them are asked, 1 to k = 3, which, and
    the weights. They are in evaluation mode. The last M = 8 are kept. v(t) rises linearly from 0 to 1 in the first half
    of the run and falls to 0 in the second; it is 0 as long as there is no former student. The paper could not be read
    in full: equations and constants are those of the authors' code on VOC.

    Differs from the authors' code:
    - They keep the student after each epoch in which it was the best so far on val. A method sees no val score, and val
      is to choose the model alone, so here a student is kept at even distances, 25 in a run (`every` = 0.04): their
      logs on VOC have 22 (92 labels) and 25 (366 labels), the early ones in closer order.
    - Their v(t) has a stair an epoch; here it is straight.
    - On Cityscapes their tau and tau' are 0, and the former students' l is weighted by the mean confidence of the
      image; that weight is not here.
    - What `UniMatch` says of boxes, dropped channels, L_sup and padding holds here too.

    Args:
        threshold, loss: as in `UniMatch`; the authors' l is cross-entropy.
        previous_threshold: tau'.
        previous_models: M.
        previous_drawn: k.
        every: share of the run between two students that are kept.
        common: the other keys of `UniMatch`.
    """

    def __init__(
        self,
        *,
        network: MakeNetwork,
        threshold: float = 0.95,
        loss: str = "cross_entropy",
        previous_threshold: float = 0.9,
        previous_models: int = 8,
        previous_drawn: int = 3,
        every: float = 0.04,
        **common: Unpack[UniMatchKeys],
    ) -> None:
        super().__init__(network=network, threshold=threshold, loss=loss, **common)
        expect("method.previous_threshold", previous_threshold, number_in("[0, 1)", "a confidence"))
        expect("method.previous_models", previous_models, whole(1, 100))
        expect("method.previous_drawn", previous_drawn, whole(1))
        expect("method.every", every, number_in("(0, 1)", "a share of the run"))
        self.previous = nn.ModuleList(Frozen(self.student) for _ in range(previous_models))
        self.previous_threshold, self.previous_drawn, self.every = previous_threshold, previous_drawn, every

    def forward(self, phase: str, batch: Batch, progress: Progress) -> Losses:
        v, w = self.v(progress), self.w(progress)
        f_l, f_u = self.through(self.student.encode, batch.image, batch.unlabeled)
        z_l, z_w, z_f = self.weak_logits(batch, f_l, f_u)
        labels = [confident_label(z_w, self.threshold)]
        if v > 0:
            labels.append(
                confident_label(self.guidance(batch.unlabeled, self.num_kept(progress)), self.previous_threshold)
            )
        x_s, y_s = self.cutmixed(batch.strong, *labels)
        z_s = together(self.student, *x_s)
        dropped = [self.unlabeled_loss(z_f, y) / 2 for y in labels]
        strong = [sum(map(self.unlabeled_loss, z_s, ys), z_f.new_zeros(())) / 4 for ys in y_s]
        losses = {
            "supervised": self.supervised(z_l, batch.label),
            "feature_dropout": w * dropped[0],
            "strong": w * strong[0],
        }
        if v > 0:
            losses["previous"] = w * v * (dropped[1] + strong[1])
        return {name: loss / (2 + v) for name, loss in losses.items()}

    @torch.no_grad()
    def guidance(self, image: Tensor, num_kept: int) -> Tensor:
        """The weighted sum of the logits [U, K, H, W] of some of the `num_kept` former students."""
        num = min(int(torch.randint(1, self.previous_drawn + 1, ())), num_kept)
        chosen = torch.randperm(num_kept)[:num].tolist()
        weights = torch.distributions.Dirichlet(torch.ones(num)).sample().tolist()
        logits = [weight * self.previous[i](image) for i, weight in zip(chosen, weights, strict=True)]
        return torch.stack(logits).sum(dim=0)

    def v(self, progress: Progress) -> float:
        """v(t) in [0, 1]."""
        return 1 - abs(2 * progress.fraction - 1) if self.num_kept(progress) else 0.0

    def num_kept(self, progress: Progress) -> int:
        """Number of former students that there are before this step."""
        return min(progress.step // self.distance(progress), len(self.previous))

    def distance(self, progress: Progress) -> int:
        """Steps between two students that are kept."""
        return max(1, round(self.every * progress.total))

    def after_step(self, progress: Progress) -> None:
        number, rest = divmod(progress.step + 1, self.distance(progress))
        if rest == 0:
            oldest = self.previous[(number - 1) % len(self.previous)]
            assert isinstance(oldest, Frozen)
            oldest.take(self.student)

    def weights(self, progress: Progress) -> dict[str, float]:
        return {"previous_weight": self.v(progress), **super().weights(progress)}
