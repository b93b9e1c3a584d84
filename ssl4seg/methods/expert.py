"""A frozen expert as a second teacher: structured distillation (Liu et al., CVPR 2019) beside a mean teacher."""

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor

from ssl4seg.keys import at_least, expect, whole
from ssl4seg.methods.base import MakeNetwork
from ssl4seg.methods.mean_teacher import MeanTeacher, MeanTeacherKeys
from ssl4seg.methods.parts.expert import Expert, prediction_loss, relation_loss
from ssl4seg.networks.base import resized
from ssl4seg.types import Batch, Losses, Progress


class ExpertTeacher(MeanTeacher):
    """L = L_sup + w(t) mean (p_s - p_t)^2 + r mean_ij (a_ij - a'_ij)^2 + s mean H(p', p_s)

    The first two terms are those of `MeanTeacher`. The expert is a frozen network, such as a foundation encoder
    (DINOv2) or a network trained on other data. It sees the labelled and the unlabelled images, and teaches

    - relations (pair-wise distillation of Liu et al.): a_ij, a'_ij in [-1, 1] are the cosines of the coarsest
      encoder features at the places i and j of an image, the student's [N, C, h, w] and the expert's [N, C', h', w'];
      so the expert needs neither the classes nor the channels of the student. r = 1.
    - predictions (their pixel-wise distillation): H(p', p_s) is the cross-entropy, in nats, of the student's softmax
      output with the expert's p' [N, K, H, W]. s = 0, because a foundation encoder has no head for the classes; try 1
      with an expert that knows them.

    r is that of their code, which is the source here: the paper was not at hand.

    Differs from Liu et al. and their code, whose expert is a larger network trained on the same labels:
    - The expert there is the only teacher, and a discriminator of score maps is a third term; here an EMA teacher takes
      the discriminator's place, as unlabelled images need a teacher that learns.
    - There maps are max-pooled to 2 x 2 places before a_ij; here they are averaged to at most `places`.
    - There the length of a feature has no gradient in a_ij; here the cosine is differentiated as a whole.
    - There s is 10, of a sum over the images of a batch; here it multiplies a mean over them.

    Args:
        expert: builds the expert from the keywords in_channels and num_classes; None freezes a copy of the student as
            it starts, which makes sense with `network.weights` or `network.encoder_weights`.
        expert_mean, expert_std: of the expert's images, one number a channel; None takes those of the expert's file,
            else the student's, if it has them.
        relation_weight, prediction_weight: r and s.
        places: the most places of a_ij.
        common: the keys of `MeanTeacher`.
    """

    def __init__(
        self,
        *,
        network: MakeNetwork,
        expert: MakeNetwork | None = None,
        expert_mean: Sequence[float] | None = None,
        expert_std: Sequence[float] | None = None,
        relation_weight: float = 1.0,
        prediction_weight: float = 0.0,
        places: int = 256,
        **common: Unpack[MeanTeacherKeys],
    ) -> None:
        super().__init__(network=network, **common)
        expect("method.relation_weight", relation_weight, at_least(0))
        expect("method.prediction_weight", prediction_weight, at_least(0))
        expect("method.places", places, whole(8, 4096))
        self.expert = Expert(self.student, expert, mean=expert_mean, std=expert_std)
        self.copies_student = expert is None
        self.relation_weight, self.prediction_weight, self.places = relation_weight, prediction_weight, places

    def forward(self, phase: str, batch: Batch, progress: Progress) -> Losses:
        (z_l, f_l), (z_u, f_u) = self.through(self.seen, batch.image, batch.unlabeled)
        losses = {
            "supervised": self.supervised(z_l, batch.label),
            "consistency": self.w(progress) * self.consistency(z_u, batch.unlabeled, progress),
        }
        images = torch.cat([batch.image, batch.unlabeled])
        z, features = self.expert.seen(images) if self.prediction_weight else (None, self.expert.features(images))
        of_student = torch.cat([f_l[-1], f_u[-1]])
        losses["relation"] = self.relation_weight * relation_loss(of_student, features[-1], self.places)
        if z is not None:
            losses["prediction"] = self.prediction_weight * prediction_loss(torch.cat([z_l, z_u]), z)
        return losses

    def doubts(self, *, pretrained: bool) -> list[str]:
        if pretrained or not self.copies_student:
            return []
        return [
            "the expert is the run's network with random weights: give it others, network.weights=FILE, "
            "network.encoder_weights or method.expert={...} (docs/methods.md)"
        ]

    def seen(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The student's logits [N, K, H, W] and features."""
        features = self.student.encode(image)
        return resized(self.student.decode(features), image), features
