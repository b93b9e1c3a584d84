"""Self-training with hard pseudo-labels (Lee, ICML workshop 2013), in rounds and above a threshold."""

from typing import Unpack

from torch import Tensor

from ssl4seg.keys import expect, number_in
from ssl4seg.methods.base import MakeNetwork
from ssl4seg.methods.parts.predictions import confidence, confident_label
from ssl4seg.methods.parts.self_training import SelfTraining, SelfTrainingKeys
from ssl4seg.types import Progress, PseudoLabels


class PseudoLabel(SelfTraining):
    """L_pseudo = L_sup(f(x_u), yhat)   with yhat = argmax_k p' where max_k p' >= tau, else ignored   (Lee's eq. 14)

    p' [U, K, H, W]: the labeller's softmax output; tau in [0, 1). L_sup = (cross-entropy + Dice) / 2 over the pixels
    that are not ignored, as for true labels; 0 if there are none.

    Differs from Lee:
    - The network that learns labels each batch anew there; here a round's labeller is frozen.
    - Every label is kept there; here an unsure pixel teaches nothing, unless tau = 0.

    Args:
        threshold: tau.
        common: the keys of `SelfTraining`.
    """

    def __init__(self, *, network: MakeNetwork, threshold: float = 0.9, **common: Unpack[SelfTrainingKeys]) -> None:
        super().__init__(network=network, **common)
        expect("method.threshold", threshold, number_in("[0, 1)", "a confidence"))
        self.threshold = threshold

    def pseudo_loss(self, z_u: Tensor, z_f: Tensor) -> Tensor:
        return self.supervised(z_u, confident_label(z_f, self.threshold))

    def pseudo_labels(self, image: Tensor, progress: Progress) -> PseudoLabels | None:
        if self.stage(progress)[0] == 0:
            return None
        z_f = self.labeller(image)
        return PseudoLabels(z_f.softmax(dim=1), confidence(z_f)[0] >= self.threshold)
