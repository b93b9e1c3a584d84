"""Deep co-training (Qiao et al., ECCV 2018), for segmentation as by Peng et al. (Pattern Recognition 2020)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl4seg.keys import IGNORE, at_least, expect
from ssl4seg.methods.base import MakeNetwork
from ssl4seg.methods.parts.losses import batch_mean
from ssl4seg.methods.parts.passes import joined
from ssl4seg.methods.parts.predictions import log_entropy, used_everywhere
from ssl4seg.methods.parts.two_networks import TwoNetworks, log_mean
from ssl4seg.networks.base import Network
from ssl4seg.types import Batch, Losses, Progress, PseudoLabels


class DeepCoTraining(TwoNetworks):
    """L = L_sup(z_1) + L_sup(z_2) + w(t) (L_cot + r L_div)   (Peng's L_cot and L_div, Qiao's L_cot and L_dif)

    L_cot = mean_px [H((p_1 + p_2) / 2) - (H(p_1) + H(p_2)) / 2], the Jensen-Shannon divergence, in [0, ln 2] nats
    L_div = mean_px [KL(p_1(x) || p_2(g_1(x))) + KL(p_2(x) || p_1(g_2(x)))] / 2, without a gradient in p_i(x)

    L_cot makes the networks agree on the unlabelled images; L_div makes each network resist the other's adversarial
    examples of all images, so that the networks do not become the same. p_1, p_2: softmax outputs [N, K, H, W] of the
    student and of a peer of another initialisation; H, KL: over the classes, in nats; g_i(x) = x + epsilon sign(d
    CE(z_i, y) / dx), y being the label or, on unlabelled images, the class that network i predicts; an ignored pixel
    has no CE. The weights of L_cot and L_div, 0.5 and 0.05 (r = 0.1), and epsilon = 0.03 for images in [0, 1] are from
    Peng's public configuration for ACDC; w ramps up as in `MeanTeacher`.

    Differs from Peng's code:
    - Its w reaches its end in 50 of 120 epochs; here the ramp takes the run.
    - Its L_div starts later than L_cot; here one ramp serves both.
    - Networks in evaluation mode make its examples; here the examples use the gradient of the training pass.
    - It clips the examples to [0, 1]; here images of any range are allowed.
    - Its networks may get different labelled images; here both see all labels.

    The script of this name in SSL4MIS is another method: one network that agrees with itself on a turned image, without
    adversarial examples.

    Args:
        diversity_weight: r, the weight of L_div relative to L_cot.
        epsilon: step of the adversarial example, in units of the image.
        consistency_weight, rampup_steps, predict_with: as in `TwoNetworks`.
    """

    def __init__(
        self,
        *,
        network: MakeNetwork,
        diversity_weight: float = 0.1,
        epsilon: float = 0.03,
        consistency_weight: float = 0.5,
        rampup_steps: int | None = None,
        predict_with: str = "student",
    ) -> None:
        super().__init__(
            network=network,
            consistency_weight=consistency_weight,
            rampup_steps=rampup_steps,
            predict_with=predict_with,
        )
        expect("method.diversity_weight", diversity_weight, at_least(0))
        expect("method.epsilon", epsilon, at_least(0))
        self.diversity_weight, self.epsilon = diversity_weight, epsilon

    def forward(self, phase: str, batch: Batch, progress: Progress) -> Losses:
        num, w = len(batch.image), self.w(progress)
        x = torch.cat([batch.image, batch.unlabeled])
        x_1, x_2 = (x.clone().requires_grad_() for _ in range(2))
        z_1, z_2 = self.logits(self.student, x_1, num), self.logits(self.peer, x_2, num)
        g_1, g_2 = self.adversarial(x_1, z_1, batch.label), self.adversarial(x_2, z_2, batch.label)
        l_1, l_2 = z_1.log_softmax(dim=1), z_2.log_softmax(dim=1)
        z_g1, z_g2 = self.logits(self.peer, g_1, num), self.logits(self.student, g_2, num)
        l_div = kl(l_1, z_g1.log_softmax(dim=1)) + kl(l_2, z_g2.log_softmax(dim=1))
        return {
            "supervised": self.supervised(z_1[:num], batch.label) + self.supervised(z_2[:num], batch.label),
            "agreement": w * batch_mean(jensen_shannon(l_1[num:], l_2[num:])),
            "diversity": w * self.diversity_weight * batch_mean(l_div / 2),
        }

    def logits(self, network: Network, x: Tensor, num: int) -> Tensor:
        """Logits [L + U, K, H, W] of images x, the first `num` of them labelled."""
        z: Tensor = joined(self.through(network, x[:num], x[num:]))
        return z

    def adversarial(self, x: Tensor, z: Tensor, label: Tensor) -> Tensor:
        """g(x) [L + U, C, H, W] of the network whose logits of x are z [L + U, K, H, W]; without a graph."""
        y = torch.cat([label, z[len(label) :].argmax(dim=1)])
        # The sum, because in half precision the gradient of a mean over pixels would round to 0.
        loss = F.cross_entropy(z.float(), y, ignore_index=IGNORE, reduction="none").sum()
        (gradient,) = torch.autograd.grad(loss, x, retain_graph=True)
        return x.detach() + self.epsilon * gradient.sign()

    def pseudo_labels(self, image: Tensor, progress: Progress) -> PseudoLabels:
        """The target of L_cot for both networks: the mean of their probabilities, everywhere."""
        p = self.mean(image).exp()
        return used_everywhere(p)


def jensen_shannon(l_1: Tensor, l_2: Tensor) -> Tensor:
    """H of the mean less the mean of H, [N, H, W], of log-probabilities [N, K, H, W]."""
    return log_entropy(log_mean(l_1, l_2)) - (log_entropy(l_1) + log_entropy(l_2)) / 2


def kl(l_target: Tensor, log_p: Tensor) -> Tensor:
    """KL(target || p) [N, H, W] of log-probabilities; no gradient flows into the target."""
    return F.kl_div(log_p, l_target.detach(), reduction="none", log_target=True).sum(dim=1)
