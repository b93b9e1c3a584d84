"""Self-training in which every pixel counts by its confidence."""

from typing import Unpack

from torch import Tensor

from ssl4seg.keys import at_least, expect
from ssl4seg.methods.base import MakeNetwork
from ssl4seg.methods.parts.losses import masked_cross_entropy
from ssl4seg.methods.parts.predictions import confidence, used_everywhere
from ssl4seg.methods.parts.self_training import SelfTraining, SelfTrainingKeys
from ssl4seg.types import Progress, PseudoLabels


class ConfidenceWeighted(SelfTraining):
    """L_pseudo = mean_px[ q CE(f(x_u), argmax_k p') ]   with q = ((K c - 1) / (K - 1))^gamma,   c = max_k p'

    p' [U, K, H, W]: the labeller's softmax output; c in [1/K, 1]; q [U, H, W] in [0, 1]: 0 for a guess (c = 1/K), 1 for
    certainty, for any K. gamma = 4 lets low confidence weigh next to nothing: with K = 4, c = 0.5, 0.7, 0.9, 0.99 weigh
    0.01, 0.13, 0.56, 0.95.

    No paper defines the method; q is ours. The mean is over all pixels, so that unsure images move the student little.
    There is no Dice term: in its ratio a weight that all pixels share cancels, and a batch that is unsure everywhere
    would count as much as a sure one.

    Args:
        gamma: of the weight; 0 weighs all pixels alike.
        common: the keys of `SelfTraining`.
    """

    def __init__(self, *, network: MakeNetwork, gamma: float = 4.0, **common: Unpack[SelfTrainingKeys]) -> None:
        super().__init__(network=network, **common)
        expect("method.gamma", gamma, at_least(0))
        self.gamma = gamma

    def pseudo_loss(self, z_u: Tensor, z_f: Tensor) -> Tensor:
        c, label = confidence(z_f)
        num_classes = z_f.shape[1]
        certainty = (num_classes * c - 1) / (num_classes - 1)
        return masked_cross_entropy(z_u, label, certainty.clamp(0, 1) ** self.gamma)

    def pseudo_labels(self, image: Tensor, progress: Progress) -> PseudoLabels | None:
        if self.stage(progress)[0] == 0:
            return None
        return used_everywhere(self.labeller(image).softmax(dim=1))
