"""Mean Teacher (Tarvainen & Valpola, NeurIPS 2017), for segmentation as in the SSL4MIS recipe."""

from typing import TypedDict

from torch import Tensor

from ssl4seg.keys import at_least, expect
from ssl4seg.methods.base import MakeNetwork
from ssl4seg.methods.parts.losses import batch_mean, softmax_mse
from ssl4seg.methods.parts.ramps import Rampup
from ssl4seg.methods.parts.teacher import EMADecay, WithTeacher, noisy
from ssl4seg.types import Batch, Losses, Progress


class MeanTeacherKeys(TypedDict, total=False):
    """The keys of `MeanTeacher`; a method that refines it takes them as `**common: Unpack[MeanTeacherKeys]`."""

    consistency_weight: float
    rampup_steps: int | None
    ema_decay: EMADecay
    noise: float
    noise_limit: float
    predict_with: str


class MeanTeacher(WithTeacher):
    """L = L_sup + w(t) mean[(p_s(x_u) - p_t(x_u + e))^2]   (their section 2, J with MSE)

    p_s, p_t: softmax outputs [U, K, H, W] of student and EMA teacher; the mean is over pixels and classes; e ~ N(0,
    0.1), clipped to +-0.2; w(t) = 0.1 exp(-5 (1 - t/T)^2) in 200 stairs. The constants are those of the SSL4MIS recipe.

    Differs from the public 2-D script:
    - The script holds the consistency at 0 for its first 1,000 steps; here the ramp alone starts it.
    - The script's ramp takes 30,000 steps, however long the run is; here it takes the whole run, unless
      `rampup_steps=30000`.

    The student predicts, as in the public code, which gave the published ACDC figures; the paper predicts with the
    teacher (`predict_with=teacher`).

    Args:
        consistency_weight, rampup_steps: w and the length of its ramp; None is the whole run.
        ema_decay: of the teacher.
        noise, noise_limit: standard deviation and bound of e, in units of the image.
        predict_with: "student" or "teacher".
    """

    def __init__(
        self,
        *,
        network: MakeNetwork,
        consistency_weight: float = 0.1,
        rampup_steps: int | None = None,
        ema_decay: EMADecay = "auto",
        noise: float = 0.1,
        noise_limit: float = 0.2,
        predict_with: str = "student",
    ) -> None:
        super().__init__()
        expect("method.noise", noise, at_least(0))
        expect("method.noise_limit", noise_limit, at_least(0))
        self.student = network()
        self.add_teacher(ema_decay=ema_decay, predict_with=predict_with)
        self.w = Rampup(weight=consistency_weight, steps=rampup_steps)
        self.noise, self.noise_limit = noise, noise_limit

    def forward(self, phase: str, batch: Batch, progress: Progress) -> Losses:
        z_l, z_u = self.through(self.student, batch.image, batch.unlabeled)
        return {
            "supervised": self.supervised(z_l, batch.label),
            "consistency": self.w(progress) * self.consistency(z_u, batch.unlabeled, progress),
        }

    def consistency(self, z_u: Tensor, x_u: Tensor, progress: Progress) -> Tensor:
        """mean[(p_s - p_t)^2] of the images x_u, whose logits by the student are z_u."""
        return batch_mean(softmax_mse(z_u, self.teacher(self.perturbed(x_u))))

    def perturbed(self, image: Tensor) -> Tensor:
        """x + e."""
        return noisy(image, self.noise, self.noise_limit)

    def weights(self, progress: Progress) -> dict[str, float]:
        return {"consistency_weight": self.w(progress)}
