"""ABD, adaptive bidirectional displacement (Chi et al., CVPR 2024)."""

from typing import ClassVar, Unpack

import torch
from torch import Tensor

from ssl4seg.augment.mixing import cut_patches, paste_patch
from ssl4seg.augment.operations import ColorJitter
from ssl4seg.axes import along_axes
from ssl4seg.keys import at_least, expect, number_in, share, whole
from ssl4seg.methods.base import MakeNetwork, built_like
from ssl4seg.methods.parts.predictions import confidence, used_everywhere
from ssl4seg.methods.parts.two_networks import MeanOf, TwoNetworks, TwoNetworksKeys, cross_dice
from ssl4seg.seeding import sent
from ssl4seg.types import Batch, Losses, Progress, PseudoLabels


class ABD(TwoNetworks):
    """L = sum_n [L_sup(z_n) + 2 L_sup(z_n^I)] + w(t) sum_n [Dice(z_n, c_m) + Dice(z_n^R, c_m^R)]   (n, m = 1, 2; 2, 1)

    Network 1 sees the weak views, network 2 the strong ones, labelled and unlabelled; c_m: the other network's classes,
    without a gradient. Images are cut into 4 x 4 patches [P = 16]; the confidence of a patch is the mean over its
    pixels of max_k of the softmax output of the network that sees it.

    ABD-R, unlabelled images: in each view, a patch of the other view replaces the least confident patch. Of the other
    view's four most confident patches, it is the one whose mean logits v [K] come closest to the mean logits u of the
    replaced patch, by KL(softmax u || softmax v) in nats. z_n^R [2U, K, H, W]: network n's logits of both views after
    that.

    ABD-I, labelled images, in half of the images, drawn at random: the other view's least confident patch replaces each
    view's most confident one, labels included. z_n^I [2L, K, H, W]: network n's logits of both views after that; the
    term ends after two thirds of the run.

    Every pixel counts. w(t) as in `MeanTeacher`. The constants are those of the authors' ACDC code with cross teaching.

    Differs from the authors' code:
    - Their network 2 is a pretrained Swin-UNet; here it is of the same build as network 1, unless `peer` names another.
    - Every strong view of theirs has a cut-out of random pixels in half of the images, labelled background, and colour
      jitter of 0.8; here the labelled ones have the jitter alone, the unlabelled ones `views.strong`.
    - Their images have 224 pixels, 8 + 8 a step.
    - Pixels that are left over when 4 does not divide the image's sides stay in place here.
    - Their other variant, on top of BCP and with the higher figures (89.0 with 3 ACDC patients), has ABD-R alone; it is
      not here.

    Args:
        peer: builds network 2 from the keywords in_channels and num_classes; None builds the run's network once more.
        patches: on each side of the image.
        candidates: number of most confident patches to choose from.
        displaced_weight: of L_sup(z^I).
        displaced_p: share of the labelled images that ABD-I displaces.
        displaced_until: share of the run after which ABD-I ends.
        jitter: strength of the labelled strong views' jitter of brightness, contrast and saturation; hue gets a quarter
            of it.
        common: the keys of `TwoNetworks`.
    """

    strong_views: ClassVar[int] = 1

    def __init__(
        self,
        *,
        network: MakeNetwork,
        peer: MakeNetwork | None = None,
        patches: int = 4,
        candidates: int = 4,
        displaced_weight: float = 2.0,
        displaced_p: float = 0.5,
        displaced_until: float = 0.6667,
        jitter: float = 0.8,
        **common: Unpack[TwoNetworksKeys],
    ) -> None:
        super().__init__(network=network, **common)
        expect("method.patches", patches, whole(2, 256))
        expect("method.candidates", candidates, whole(1, patches**2 - 1))
        expect("method.displaced_weight", displaced_weight, at_least(0))
        expect("method.displaced_p", displaced_p, share)
        expect("method.displaced_until", displaced_until, share)
        expect("method.jitter", jitter, number_in("[0, 2]"))
        if peer is not None:
            self.peer = built_like(self.student, peer, "method.peer")
            self.mean = MeanOf(self.student, self.peer)
        self.patches, self.candidates = patches, candidates
        self.displaced_weight, self.displaced_p, self.displaced_until = displaced_weight, displaced_p, displaced_until
        self.jitter = ColorJitter(brightness=jitter, contrast=jitter, saturation=jitter, hue=jitter / 4)

    def forward(self, phase: str, batch: Batch, progress: Progress) -> Losses:
        y, x_1l, x_2l = batch.label, batch.image, self.jitter(batch.image)
        z_1l, z_1u = self.through(self.student, x_1l, batch.unlabeled)
        z_2l, z_2u = self.through(self.peer, x_2l, batch.strong[0])
        x_r = self.reliable(batch.unlabeled, batch.strong[0], z_1u.detach(), z_2u.detach())
        losses = {
            "supervised": self.supervised(z_1l, y) + self.supervised(z_2l, y),
            "cross": self.w(progress) * (cross_dice(z_1u, z_2u) + cross_dice(self.student(x_r), self.peer(x_r))),
        }
        if progress.fraction < self.displaced_until:
            x_i, y_i = self.inverse(x_1l, x_2l, y, z_1l.detach(), z_2l.detach())
            displaced = self.supervised(self.student(x_i), y_i) + self.supervised(self.peer(x_i), y_i)
            losses["displaced"] = self.displaced_weight * displaced
        return losses

    def reliable(self, x_1: Tensor, x_2: Tensor, z_1: Tensor, z_2: Tensor) -> Tensor:
        """ABD-R: two views x [U, C, H, W] with their logits z -> both views after the replacement [2U, C, H, W]."""
        rows = torch.arange(len(x_1), device=x_1.device)
        sure_1, sure_2 = self.sureness(z_1), self.sureness(z_2)
        mean_1, mean_2 = self.means(z_1), self.means(z_2)
        least_1, least_2 = sure_1.argmin(dim=1), sure_2.argmin(dim=1)
        like_1 = self.closest(sure_2, mean_2, mean_1[rows, least_1])
        like_2 = self.closest(sure_1, mean_1, mean_2[rows, least_2])
        return torch.cat([self.displaced(x_1, least_1, x_2, like_1), self.displaced(x_2, least_2, x_1, like_2)])

    def inverse(self, x_1: Tensor, x_2: Tensor, y: Tensor, z_1: Tensor, z_2: Tensor) -> tuple[Tensor, Tensor]:
        """ABD-I: two views x [L, C, H, W] with their label y [L, H, W] and logits z -> images and labels of 2L."""
        sure_1, sure_2, y = self.sureness(z_1), self.sureness(z_2), y[:, None]
        most_1, least_1 = sure_1.argmax(dim=1), sure_1.argmin(dim=1)
        most_2, least_2 = sure_2.argmax(dim=1), sure_2.argmin(dim=1)
        chosen = along_axes(sent(torch.rand(len(y)) < self.displaced_p, y.device), y)
        x_i = [self.displaced(x_1, most_1, x_2, least_2), self.displaced(x_2, most_2, x_1, least_1)]
        y_i = [self.displaced(y, most_1, y, least_2), self.displaced(y, most_2, y, least_1)]
        x, label = torch.cat([x_1, x_2]), torch.cat([y, y])
        chosen = torch.cat([chosen, chosen])
        return torch.where(chosen, torch.cat(x_i), x), torch.where(chosen, torch.cat(y_i), label)[:, 0]

    def closest(self, sure: Tensor, mean: Tensor, u: Tensor) -> Tensor:
        """Indices [N] of the most confident patches whose mean logits come closest to u [N, K].

        Args:
            sure: confidence of the patches [N, P].
            mean: their mean logits [N, P, K].
        """
        top = sure.topk(self.candidates, dim=1).indices
        log_v = mean.gather(1, top[..., None].expand(-1, -1, mean.shape[2])).log_softmax(dim=2)
        log_u = u.log_softmax(dim=1)[:, None]
        best = (log_u.exp() * (log_u - log_v)).sum(dim=2).argmin(dim=1, keepdim=True)
        return top.gather(1, best)[:, 0]

    def sureness(self, z: Tensor) -> Tensor:
        """The confidence of each patch [N, P]."""
        return self.means(confidence(z)[0][:, None])[..., 0]

    def means(self, maps: Tensor) -> Tensor:
        """[N, K, H, W] -> the mean of each patch [N, P, K]."""
        return cut_patches(maps, self.patches).flatten(3).mean(dim=3)

    def displaced(self, maps: Tensor, to: Tensor, source: Tensor, at: Tensor) -> Tensor:
        """`maps` [N, C, H, W] in which patch `at` [N] of `source` replaces patch `to` [N]."""
        rows = torch.arange(len(maps), device=maps.device)
        return paste_patch(maps, self.patches, to, cut_patches(source, self.patches)[rows, at])

    def pseudo_labels(self, image: Tensor, progress: Progress) -> PseudoLabels:
        """The student's targets: the peer's probabilities, everywhere."""
        return used_everywhere(self.peer(image).softmax(dim=1))
