"""beta-FFT (Hu et al., CVPR 2025)."""

from collections.abc import Iterable, Sequence
from typing import ClassVar, Unpack

import torch
from torch import Tensor
from torch.nn import Parameter

from ssl4seg.augment.mixing import copy_paste_mask, mix, mixup_shares, swap_low_frequencies
from ssl4seg.augment.operations import ColorJitter
from ssl4seg.keys import above, expect, number_in
from ssl4seg.methods.base import MakeNetwork
from ssl4seg.methods.bcp import BCP, BCPKeys, halves, pasted
from ssl4seg.methods.parts.components import largest_components
from ssl4seg.methods.parts.losses import batch_mean
from ssl4seg.methods.parts.passes import joined
from ssl4seg.methods.parts.ramps import Rampup
from ssl4seg.methods.parts.two_networks import cross_dice
from ssl4seg.types import Batch, Losses, Progress


class BetaFFT(BCP):
    """L = sum_n [L_bcp(f_n) + Dice(z_n, c_m) + Dice(z_n^F, c_m^F)] + sum_v [L_sup(f_1(x_l)) + w(t) R]

    n, m = 1, 2 and 2, 1. L_bcp(f_n): the loss of `BCP` after its stage 0, of network 1 on weak views, of network 2 on
    strong views, with the teacher's largest components of the same views and one box for both; z_n [U, K, H, W]:
    network n's logits of its mixed images; c_m: the other network's classes, without a gradient. z_n^F [2U, K, H, W]:
    logits of the mixed images of both views, in which the weak and the strong one have exchanged their frequencies
    below `low_frequencies` cycles a pixel along both axes.

    The second sum is over weak and strong views v, and trains network 1 alone: L_sup on the whole labelled images, and
    R = mean[(softmax f_1(mix(u_1, u_2)) - mix(p_t(u_1), p_t(u_2)))^2], u_1 and u_2 the two halves of the unlabelled
    images, mix(a, b) = (1 - lambda) a + lambda b with lambda ~ Beta(alpha, alpha) drawn for each pair, p_t the EMA
    teacher's softmax output. w(t) as in `MeanTeacher`, from the end of stage 0 on.

    Stage 0 is that of `BCP`; networks 1 and 2 and the teacher start from it. The teacher follows network 1, which
    predicts. The paper could not be read: equations and constants are those of the authors' ACDC code, 10,000 + 30,000
    steps of 12 + 12 slices. low_frequencies: 30 of 256 pixels; alpha = 0.1; w = 0.5.

    Differs from the authors' code:
    - Their low frequencies are the absolute value of the inverse transform of the square [-30, 30) of frequencies; here
      they are the real image of the frequencies up to 29, so that images may have values below 0 too.
    - Every strong view of theirs has a cut-out of random pixels in half of the images, labelled background, and colour
      jitter of 0.8; here the labelled ones have the jitter alone, the unlabelled ones `views.strong`.
    - Their script for 7 patients has boxes of 3/5. The one for 3 patients has boxes of 2/3, as here, but in the weak
      view's p_t and in the strong view's images it mixes the first half with itself; here both halves are mixed, as
      with 7.
    - Both networks' best models on val are saved there; here network 1 predicts.
    - What `BCP` says of its stages, passes, schedule and repeated images holds here too.

    Args:
        pretrain, side, pseudo_weight, smooth, ema_decay: as in `BCP`.
        low_frequencies: in cycles a pixel.
        alpha: both parameters of the Beta distribution.
        consistency_weight, rampup_steps: w and the length of its ramp; None is what follows stage 0.
        jitter: strength of the labelled strong views' jitter of brightness, contrast and saturation; hue gets a quarter
            of it.
    """

    strong_views: ClassVar[int] = 1

    def __init__(
        self,
        *,
        network: MakeNetwork,
        low_frequencies: float = 0.117,
        alpha: float = 0.1,
        consistency_weight: float = 0.5,
        rampup_steps: int | None = None,
        jitter: float = 0.8,
        **common: Unpack[BCPKeys],
    ) -> None:
        super().__init__(network=network, **common)
        expect("method.low_frequencies", low_frequencies, number_in("(0, 0.5]", "a frequency in cycles a pixel"))
        expect("method.alpha", alpha, above(0))
        expect("method.jitter", jitter, number_in("[0, 2]"))
        self.peer = network()
        self.w = Rampup(weight=consistency_weight, steps=rampup_steps)
        self.low_frequencies, self.alpha = low_frequencies, alpha
        self.jitter = ColorJitter(brightness=jitter, contrast=jitter, saturation=jitter, hue=jitter / 4)

    def forward(self, phase: str, batch: Batch, progress: Progress) -> Losses:
        if self.stage(progress)[0] == 0:
            losses = super().forward(phase, batch, progress)
            # A distributed run waits for the gradient of every parameter, also of the network that has not begun.
            nothing = torch.stack([0 * p.sum() for p in self.peer.parameters()]).sum()
            return {**losses, "supervised": losses["supervised"] + nothing}
        weak, strong = (batch.image, batch.unlabeled), (self.jitter(batch.image), batch.strong[0])
        box = copy_paste_mask(batch.image[:1], self.side)
        z_t = [self.teacher(x_u) for _, x_u in (weak, strong)]
        y_u = [largest_components(z.argmax(dim=1), self.student.num_classes) for z in z_t]
        views = [pasted(x_l, batch.label, x_u, y, box) for (x_l, x_u), y in zip((weak, strong), y_u, strict=True)]
        z_1, z_2 = (self.logits(f, view) for f, view in zip((self.student, self.peer), views, strict=True))
        first, second = (self.copy_paste(z, view) for z, view in zip((z_1, z_2), views, strict=True))
        x_f = joined(swap_low_frequencies(joined(views[0].images), joined(views[1].images), self.low_frequencies))
        alone = [self.alone(*view, batch.label, z) for view, z in zip((weak, strong), z_t, strict=True)]
        return {
            **{name: first[name] + second[name] for name in first},
            "cross": cross_dice(joined(z_1), joined(z_2)),
            "cross_frequencies": cross_dice(self.student(x_f), self.peer(x_f)),
            "alone_supervised": alone[0][0] + alone[1][0],
            "consistency": self.weight(progress) * (alone[0][1] + alone[1][1]),
        }

    def alone(self, x_l: Tensor, x_u: Tensor, y_l: Tensor, z_t: Tensor) -> tuple[Tensor, Tensor]:
        """L_sup(f_1(x_l)) and R of a view, z_t the teacher's logits [U, K, H, W] of it."""
        u_1, u_2 = halves(x_u, max(len(x_l), len(x_u)))
        share = mixup_shares(x_u[u_1], self.alpha)
        z_l, z_m = self.through(self.student, x_l, mix(x_u[u_1], x_u[u_2], share))
        p_t = z_t.softmax(dim=1)
        square = (z_m.softmax(dim=1) - mix(p_t[u_1], p_t[u_2], share)).square()
        return self.supervised(z_l, y_l), batch_mean(square)

    def weight(self, progress: Progress) -> float:
        """w(t), which is 0 in stage 0."""
        stage, within = self.stage(progress)
        return self.w(within) if stage else 0.0

    def parameters_of(self, phase: str) -> Iterable[Parameter]:
        return [*self.student.parameters(), *self.peer.parameters()]

    def begin_stage(self, stage: int, unlabeled: Sequence[Tensor]) -> Tensor | None:
        self.peer.load_state_dict(self.student.state_dict())
        return super().begin_stage(stage, unlabeled)

    def weights(self, progress: Progress) -> dict[str, float]:
        return {"consistency_weight": self.weight(progress)}
