"""ST++, self-training with selective re-training (Yang et al., CVPR 2022)."""

from collections.abc import Sequence
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from ssl4seg.augment.mixing import cutmix_boxes, mix
from ssl4seg.axes import image_dims
from ssl4seg.keys import IGNORE, expect, number_in, true_or_false, whole
from ssl4seg.methods.base import MakeNetwork, Method
from ssl4seg.methods.parts.predictions import used_everywhere
from ssl4seg.methods.parts.self_training import Frozen, longer
from ssl4seg.processes import all_sum
from ssl4seg.types import Batch, Losses, Progress, PseudoLabels


class STPlusPlus(Method):
    """L = L_sup(f(x_l), y_l) in stage 0, then L = [L_sup(f(x_l), y_l) + L_sup(f(A(x_u)), argmax_k p')] / 2

    p' = softmax(f'(x_u)) [U, K, H, W], f' the last stage's student, frozen; A: the strong view, in half of the images
    with Cutout, which fills a box with noise and ignores its label. Stage 1 has only the reliable half of the
    unlabelled images, stage 2 all; each starts from a new student. The reliability of an image is its stability s =
    sum_{j < M} mean_k IoU_k(argmax f_j(x), argmax f_M(x)) in [0, M - 1], over M = 3 checkpoints f_j at 1/3, 2/3 and the
    end of stage 0; classes in neither prediction do not count.

    As in the authors' code, each loss counts half, as in one batch that holds as many labelled as unlabelled images.
    Pseudo-labels are made in the step, from the weak view: they equal stored labels except for interpolation.

    Differs from the authors' code:
    - Their f' is the stage's best student on val; here it is the stage's last.
    - In stage 2 they label only the images that were not in stage 1, whose labels stay; here f' labels all images,
      because a batch does not say which image is which.
    - Their stages take equally many epochs of more and more images; here each takes a third of the run.
    - Their L_sup has no Dice term beside the cross-entropy.
    - They draw a box that does not fit again; here it is clipped.
    - Their f' sees each image at several scales; here at one.

    Args:
        num_checkpoints: M.
        reliable: share of the unlabelled images in stage 1.
        labels_only: share of the run that stage 0 takes; the other two share the rest.
        cutout: probability of Cutout.
        reinitialize: stages 1 and 2 train a new student; otherwise they go on with the last one.
    """

    strong_views: ClassVar[int] = 1
    checkpoints: Sequence[Frozen]

    def __init__(
        self,
        *,
        network: MakeNetwork,
        num_checkpoints: int = 3,
        reliable: float = 0.5,
        labels_only: float = 1 / 3,
        cutout: float = 0.5,
        reinitialize: bool = True,
    ) -> None:
        super().__init__()
        expect("method.num_checkpoints", num_checkpoints, whole(2, 1000))
        expect("method.reliable", reliable, number_in("(0, 1]", "a share of the images"))
        expect("method.labels_only", labels_only, number_in("(0, 1)", "a share of the run"))
        expect("method.cutout", cutout, number_in("[0, 1]", "a probability"))
        expect("method.reinitialize", reinitialize, true_or_false)
        self.fresh = network
        self.student = network()
        frozen = nn.ModuleList(Frozen(self.student) for _ in range(num_checkpoints))
        self.checkpoints = cast(Sequence[Frozen], frozen)
        self.stages = (labels_only, (1 + labels_only) / 2)
        self.reliable, self.cutout, self.reinitialize = reliable, cutout, reinitialize

    @property
    def labeller(self) -> Frozen:
        """f': the last checkpoint, overwritten by later stages."""
        return self.checkpoints[-1]

    def forward(self, phase: str, batch: Batch, progress: Progress) -> Losses:
        if self.stage(progress)[0] == 0:
            return {"supervised": self.supervised(self.student(batch.image), batch.label)}
        strong, erased = self.cut_out(batch.strong[0])
        label = self.labeller(batch.unlabeled).argmax(dim=1).masked_fill(erased, IGNORE)
        z_l, z_u = self.through(self.student, batch.image, strong)
        return {
            "supervised": 0.5 * self.supervised(z_l, batch.label),
            "pseudo_label": 0.5 * self.supervised(z_u, label),
        }

    def cut_out(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Images with a box of noise in their own range, and the place of the box [U, H, W] bool."""
        box = cutmix_boxes(image, p=self.cutout)
        low, high = (f(image, dim=(1, *image_dims(image)), keepdim=True) for f in (torch.amin, torch.amax))
        return mix(image, torch.lerp(low, high, torch.rand_like(image)), box), box[:, 0] > 0.5

    def after_step(self, progress: Progress) -> None:
        stage, within = self.stage(progress)
        for j, checkpoint in enumerate(self.checkpoints, start=1):
            if stage == 0 and within.step + 1 == round(within.total * j / len(self.checkpoints)):
                checkpoint.take(self.student)

    def begin_stage(self, stage: int, unlabeled: Sequence[Tensor]) -> Tensor | None:
        chosen = self.most_stable(unlabeled) if stage == 1 else None
        self.labeller.take(self.student)
        if self.reinitialize:
            self.student.load_state_dict(self.fresh().state_dict())
        return chosen

    def most_stable(self, unlabeled: Sequence[Tensor]) -> Tensor:
        """Indices of the reliable share of the images."""
        s = torch.cat([self.stability(image) for image in unlabeled])
        s = all_sum(s)  # so that all processes sort alike, even if they round differently
        return s.argsort(descending=True, stable=True)[: max(1, int(self.reliable * len(s)))].cpu()

    def stability(self, image: Tensor) -> Tensor:
        """s [N] of images [N, C, H, W]."""
        *earlier, last = (checkpoint(image).argmax(dim=1) for checkpoint in self.checkpoints)
        return torch.stack([_mean_iou(label, last, self.student.num_classes) for label in earlier]).sum(dim=0)

    def remedy(self, total: int) -> str:
        return longer("labels_only", self.stages[0])

    def pseudo_labels(self, image: Tensor, progress: Progress) -> PseudoLabels | None:
        if self.stage(progress)[0] == 0:
            return None
        return used_everywhere(self.labeller(image).softmax(dim=1))


def _mean_iou(a: Tensor, b: Tensor, num_classes: int) -> Tensor:
    """Mean IoU [N] of two labels [N, H, W] over the classes that either label holds."""
    pairs = [((a == k).flatten(1), (b == k).flatten(1)) for k in range(num_classes)]
    both = torch.stack([(x & y).sum(dim=1) for x, y in pairs])
    either = torch.stack([(x | y).sum(dim=1) for x, y in pairs])
    return (both / either.clamp(min=1)).sum(dim=0) / (either > 0).sum(dim=0)
