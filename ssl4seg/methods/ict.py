"""ICT, interpolation consistency training (Verma et al., IJCAI 2019)."""

from typing import Unpack

from ssl4seg.augment.mixing import mix, mixup_shares
from ssl4seg.keys import above, expect
from ssl4seg.methods.base import MakeNetwork
from ssl4seg.methods.mean_teacher import MeanTeacher, MeanTeacherKeys
from ssl4seg.methods.parts.losses import batch_mean
from ssl4seg.types import Batch, Losses, Progress


class ICT(MeanTeacher):
    """L = L_sup + w(t) mean[(p_s(mix(u_1, u_2)) - mix(p_t(u_1), p_t(u_2)))^2]   (their algorithm 1)

    u_1, u_2: the unlabelled images [U, C, H, W], and the same images in another order; mix(a, b) = (1 - lambda) a +
    lambda b, with lambda ~ Beta(alpha, alpha) in [0, 1] drawn for each pair; p_s, p_t: softmax outputs [U, K, H, W] of
    student and EMA teacher; the mean is over pixels and classes; the teacher's inputs carry no noise. w as in
    `MeanTeacher`; alpha = 0.2 as in the SSL4MIS recipe, within the 0.1 to 1 of the paper.

    Differs from the SSL4MIS script:
    - The script pairs one half of the batch with the other, and so takes half as many mixed images; here each image is
      the first of one pair and the second of another, and the batch may be odd.

    Differs from the authors' code, for classification:
    - It mixes the teacher's logits; here the probabilities are mixed.
    - It has one lambda a batch; here each pair has its own.
    - It mixes labelled images too; here unlabelled images alone.
    - Its w is 100.

    Args:
        alpha: both parameters of the Beta distribution.
        common: the keys of `MeanTeacher`.
    """

    def __init__(self, *, network: MakeNetwork, alpha: float = 0.2, **common: Unpack[MeanTeacherKeys]) -> None:
        super().__init__(network=network, **common)
        expect("method.alpha", alpha, above(0))
        self.alpha = alpha

    def forward(self, phase: str, batch: Batch, progress: Progress) -> Losses:
        u_1 = batch.unlabeled
        u_2 = u_1.roll(1, 0)
        share = mixup_shares(u_1, self.alpha)
        z_l, z_m = self.through(self.student, batch.image, mix(u_1, u_2, share))
        p_t = self.teacher(u_1).softmax(dim=1)
        square = (z_m.softmax(dim=1) - mix(p_t, p_t.roll(1, 0), share)).square()
        return {
            "supervised": self.supervised(z_l, batch.label),
            "consistency": self.w(progress) * batch_mean(square),
        }
