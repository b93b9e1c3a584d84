"""CorrMatch (Sun et al., CVPR 2024)."""

import math
from collections.abc import Iterable
from typing import ClassVar, NamedTuple, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Parameter

from ssl4seg.augment.mixing import cutmix_boxes, mix, mix_labels
from ssl4seg.axes import LAYERS, along_axes, interpolated
from ssl4seg.keys import IGNORE, expect, number_in, whole
from ssl4seg.methods.base import MakeNetwork
from ssl4seg.methods.parts.losses import batch_mean
from ssl4seg.methods.parts.predictions import confidence, confident_label, used_where_confident
from ssl4seg.methods.unimatch import UniMatch, UniMatchKeys
from ssl4seg.networks.base import resized
from ssl4seg.networks.batch_norm import accept_single_values
from ssl4seg.processes import all_rows
from ssl4seg.seeding import sent
from ssl4seg.types import Batch, Losses, Progress, PseudoLabels

MAX_PLACES = 10201
"""Places of the coarsest feature map; a larger map is resized. The authors' largest is of 101 x 101, at 801 pixels."""


class Correlation(NamedTuple):
    """q of each image."""

    weights: Tensor
    """[N, P, P]; each row has the sum 1."""
    size: torch.Size
    """Of the map, whose places are P."""


class CorrMatch(UniMatch):
    """L = (L_sup(z_l) + L_sup(z_l^c)) / 4 + (l(z_s, y^s) + KL(p^m, p_s) + l(z_f, y) + l^c) / 8

    l^c = (l(z_s^c, y^s) + l(z_w^c, y)) / 2.

    As in `UniMatch`, z_l, z_w, z_f are logits of labelled images, weak view, and weak view with dropped channels; y
    [U, H, W] is the class of z_w where its probability is at least tau; l is cross-entropy as a mean over all pixels,
    where ignored ones count as 0. z_s, p_s: logits and softmax output of one strong view, in which, with probability
    0.5, a box shows the batch's next image; p^m, y^m: softmax output of the weak view, and y, with the same boxes; KL:
    the divergence of p_s from p^m in nats, as a mean over all pixels, where those that y^m ignores count as 0.

    Correlation: q = softmax_j(a_i . b_j / sqrt K) [P, P], a and b [K, P] two linear maps of the projected coarsest
    features (conv 3x3 to 256 channels, batch norm, ReLU, dropout 0.1), i and j its P places; z^c = z q [K, P], z
    without a gradient and of the map's size; z^c is resized to the image's.

    y^s: y^m after propagation. M = 128 rows of q of the weak view, drawn at random, are resized to the image; a region
    is where a row is above the middle between its least and its largest value, outside of the box. If at least tau of
    its pixels are confident, and more than tau of these have one class, the whole region has that class and is
    confident.

    tau = 0.85 at the start; each step moves it by 0.001 of the way towards the mean, over the classes in the weak view,
    of each class's largest probability. The paper could not be read: equations and constants are those of the authors'
    code on VOC.

    Differs from the authors' code:
    - A region there sees the classes that earlier regions have set, here those of y^m; where regions overlap, the last
      one wins here as there.
    - p^m there is p_w, without the boxes that the strong view and y^m have.
    - The last place's row of q is never drawn there.
    - Their boxes show a second unlabelled batch, predicted in evaluation mode; here they show the batch rolled by one.
    - Coarsest maps of more than 10,201 places are resized here.
    - What `UniMatch` says of dropped channels, L_sup and padding holds here too.

    Args:
        threshold: tau at the start.
        threshold_momentum: 0.999.
        loss: as in `UniMatch`; the authors' l is cross-entropy.
        num_regions: M.
        channels: of the projected features.
        common: the other keys of `UniMatch`.
    """

    strong_views: ClassVar[int] = 1
    tau: Tensor

    def __init__(
        self,
        *,
        network: MakeNetwork,
        threshold: float = 0.85,
        threshold_momentum: float = 0.999,
        loss: str = "cross_entropy",
        num_regions: int = 128,
        channels: int = 256,
        **common: Unpack[UniMatchKeys],
    ) -> None:
        super().__init__(network=network, threshold=threshold, loss=loss, **common)
        expect("method.threshold_momentum", threshold_momentum, number_in("[0, 1]"))
        expect("method.num_regions", num_regions, whole(1))
        expect("method.channels", channels, whole(1))
        student = self.student
        self.correlated = Correlated(student.feature_channels[-1], channels, student.num_classes, axes=student.axes)
        self.register_buffer("tau", torch.tensor(float(threshold)))
        self.momentum, self.num_regions = threshold_momentum, num_regions

    def forward(self, phase: str, batch: Batch, progress: Progress) -> Losses:
        f_l, f_u = self.through(self.student.encode, batch.image, batch.unlabeled)
        z_l, z_w, z_f = self.weak_logits(batch, f_l, f_u)
        q_l, q_w = (correlation(*ab) for ab in self.through(self.correlated, f_l[-1], f_u[-1]))
        self.adapt(z_w)
        y, p_w = confident_label(z_w, self.tau), z_w.detach().softmax(dim=1)
        box = cutmix_boxes(batch.strong[0], self.cutmix)
        y_m, p_m = mix_labels(y, y.roll(1, 0), box), mix(p_w, p_w.roll(1, 0), box)
        y_s = self.propagated(q_w, y_m, box)
        f_s = self.student.encode(mix(batch.strong[0], batch.strong[0].roll(1, 0), box))
        z_s = resized(self.student.decode(f_s), batch.unlabeled)
        z_lc, z_wc = carried(z_l, q_l), carried(z_w, q_w)
        z_sc = carried(z_s, correlation(*self.correlated(f_s[-1])))
        w = self.w(progress)
        return {
            "supervised": (self.supervised(z_l, batch.label) + self.supervised(z_lc, batch.label)) / 4,
            "strong": w * self.unlabeled_loss(z_s, y_s) / 8,
            "soft": w * batch_mean((y_m != IGNORE) * divergence(p_m, z_s)) / 8,
            "feature_dropout": w * self.unlabeled_loss(z_f, y) / 8,
            "correlation": w * (self.unlabeled_loss(z_sc, y_s) + self.unlabeled_loss(z_wc, y)) / 16,
        }

    @torch.no_grad()
    def adapt(self, z_w: Tensor) -> None:
        """Move tau by the weak view's logits [U, K, H, W] of all processes."""
        value, label = confidence(z_w)
        best = torch.stack([value.masked_fill(label != k, -1).amax() for k in range(z_w.shape[1])])
        best = all_rows(best[None]).amax(dim=0)
        mean = (best.clamp(min=0).sum() / (best >= 0).sum()).to(self.tau.dtype)
        self.tau.lerp_(mean, 1 - self.momentum)

    @torch.no_grad()
    def propagated(self, q: Correlation, y_m: Tensor, box: Tensor) -> Tensor:
        """y^s [U, H, W] from y^m [U, H, W] and the boxes [U, 1, H, W]."""
        drawn = sent(torch.randint(q.weights.shape[1], (self.num_regions,)), y_m.device)
        rows = q.weights.detach().float().index_select(1, drawn).unflatten(2, q.size)
        size = y_m.shape[1:]
        images = []
        for row, y, inside in zip(
            rows, y_m, box[:, 0] > 0.5, strict=True
        ):  # all at once would need U times as much memory
            regions = regions_of(interpolated(row[None], size, align_corners=True)[0]) & ~inside
            images.append(spread(y, regions, self.student.num_classes, self.tau))
        return torch.stack(images)

    def parameters_of(self, phase: str) -> Iterable[Parameter]:
        return [*self.student.parameters(), *self.correlated.parameters()]

    def weights(self, progress: Progress) -> dict[str, float]:
        return {"threshold": float(self.tau), **super().weights(progress)}

    def pseudo_labels(self, image: Tensor, progress: Progress) -> PseudoLabels:
        """The student's classes before their propagation."""
        return used_where_confident(self.student(image).softmax(dim=1), self.tau)


class Correlated(nn.Module):
    """Coarsest features [N, C, h, w] -> a and b [N, K, h, w]."""

    def __init__(self, in_channels: int, channels: int, num_classes: int, *, axes: int) -> None:
        super().__init__()
        layers = LAYERS[axes]
        self.project = nn.Sequential(
            layers.conv(in_channels, channels, 3, padding=1),
            layers.batch_norm(channels),
            nn.ReLU(inplace=True),
            layers.dropout(0.1),
        )
        accept_single_values(self.project)
        self.first, self.second = layers.conv(channels, num_classes, 1), layers.conv(channels, num_classes, 1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        shrink = min(1.0, (MAX_PLACES / math.prod(features.shape[2:])) ** (1 / (features.ndim - 2)))
        features = interpolated(features, [max(1, int(side * shrink)) for side in features.shape[2:]])
        projected = self.project(features)
        return self.first(projected), self.second(projected)


def correlation(a: Tensor, b: Tensor) -> Correlation:
    """softmax_j(a_i . b_j / sqrt K) of a and b [N, K, h, w]."""
    alike = a.flatten(2).transpose(1, 2) @ b.flatten(2)
    return Correlation((alike.float() / math.sqrt(a.shape[1])).softmax(dim=2), a.shape[2:])


def carried(z: Tensor, q: Correlation) -> Tensor:
    """z^c [N, K, H, W] of the logits z [N, K, H, W]."""
    small = interpolated(z.detach(), q.size, align_corners=True).flatten(2)
    moved = (small @ q.weights).float().unflatten(2, q.size)
    return interpolated(moved, z.shape[2:], align_corners=True)


def divergence(p: Tensor, z: Tensor) -> Tensor:
    """KL of softmax z from p [N, H, W] in nats, both [N, K, H, W]."""
    return (torch.xlogy(p, p) - p * z.float().log_softmax(dim=1)).sum(dim=1)


def regions_of(rows: Tensor) -> Tensor:
    """Where each of the rows [M, H, W] is above the middle between its least and its largest value; bool."""
    flat = rows.flatten(1)
    low, high = (along_axes(value, rows) for value in flat.aminmax(dim=1))
    return rows - low > (high - low) / 2


def spread(y: Tensor, regions: Tensor, num_classes: int, tau: Tensor) -> Tensor:
    """The label y [H, W] after the propagation of one class over each of the regions [M, H, W] that tau accepts."""
    region = regions.flatten(1)
    confident = F.one_hot(y.flatten().masked_fill(y.flatten() == IGNORE, num_classes), num_classes + 1)[:, :num_classes]
    with torch.autocast(y.device.type, enabled=False):
        count = region.float() @ confident.float()  # [M, K], whole numbers
    num, (most, top) = count.sum(dim=1), count.max(dim=1)
    accepted = (num > 0) & (num >= tau * region.sum(dim=1)) & (most > tau * num)
    number = torch.arange(1, len(region) + 1, device=y.device, dtype=torch.int32) * accepted
    last = (region * number[:, None]).amax(dim=0).long()  # the last accepted region at a pixel, from 1; 0 without any
    return torch.where(last > 0, top[(last - 1).clamp(min=0)], y.flatten()).view_as(y)
