"""The quality of pseudo-labels, measured on unlabelled training cases whose masks exist (benchmarks).

Without masks it counts the classes that they teach.

Only this module reads these masks, no loss does. It changes nothing that training depends on: a run is the same to the
last bit with the diagnosis on or off.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from ssl4seg.axes import channels_last
from ssl4seg.data.case import Case
from ssl4seg.feed.store import Raw, Store
from ssl4seg.feed.views import View, sample
from ssl4seg.keys import IGNORE
from ssl4seg.methods.base import Method
from ssl4seg.methods.parts.teacher import EMATeacher
from ssl4seg.seeding import seed_of
from ssl4seg.types import Progress, PseudoLabels

NUM_BINS = 15


class Diagnosis:
    """Scores `Method.pseudo_labels` at the training size.

    Args:
        cases: the unlabelled training cases; if some have masks, the others are left out.
        labeled: the labelled training cases, in whose masks the classes have their `expected` shares.
        num_images: largest number of slices that are scored, evenly spaced over the cases.
        classes: the names of all K classes.
        background: whether class 0 is the background; no Dice is computed of the background.
        shape: pixels of the training input along each axis.
        view: the weak views.
        batch_size: images in one call of the method.
        autocast: the run's precision.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        labeled: Sequence[Case],
        *,
        num_images: int,
        classes: Sequence[str],
        background: bool,
        shape: Sequence[int],
        view: View,
        batch_size: int,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self.classes, self.background = classes, background
        self.batch_size, self.autocast, self.device = batch_size, autocast, device
        self.masks = any(case.labeled for case in cases)

        def sampled(cases: Sequence[Case]) -> list[tuple[Tensor, Tensor]]:
            chosen = _chosen(cases, num_images, len(classes))
            return [sample(raw, view.plain(raw.size), shape, IGNORE, mirror=view.mirror) for raw in chosen]

        parts = sampled([case for case in cases if case.labeled] or cases)
        self.images = [image for image, _ in parts]
        self.labels = [label for _, label in parts]
        """Without masks 0 in the image and IGNORE beside it."""
        self.expected = _shares([label for _, label in sampled(labeled)], len(classes)) if parts else []
        """The share of each class in the labelled masks; [] without unlabelled images."""

    @torch.no_grad()
    def __call__(self, method: Method, progress: Progress) -> dict[str, float]:
        """Scores by name; {} without unlabelled images, and in a stage on labels alone.

        Pixels are pooled over the images. Without masks there are coverage, share and teacher_distance; if the method
        has no pseudo-labels, only predicted/<class>: the share of the pixels that it predicts to be of the class.

        - coverage: share of the pixels that are used.
        - accuracy, dice/<class>, dice/mean (without background): over the used pixels.
        - calibration_error: mean |confidence - accuracy| over 15 bins, weighted by their pixels (ECE, Guo et al. 2017),
          over all pixels.
        - share/<class>: share of the used pixels; 0 is a class that collapsed. true_share/<class>: share of all pixels.
        - teacher_distance: ||teacher - student|| / ||student|| over the parameters.
        """
        method.eval()
        torch.manual_seed(seed_of("diagnosis", progress.step))
        if not self.images:
            return {}
        counts, found = Counts(len(self.classes), self.device), None
        for image, label in self.batches():
            with self.autocast():
                found = method.pseudo_labels(image, progress)
                if found is None and method.stages:
                    return {}
                counts.add(found or _predicted(method, image), label)
        scores = counts.scores(self.classes, background=self.background, masks=self.masks)
        if found is None:
            return {f"predicted/{n.removeprefix('share/')}": v for n, v in scores.items() if n.startswith("share/")}
        return {**scores, **_distance(method)}

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Images [N, C, *X] and labels [N, *X] on the device."""
        images, labels = (torch.cat(parts).split(self.batch_size) for parts in (self.images, self.labels))
        for image, label in zip(images, labels, strict=True):
            yield channels_last(image.to(self.device)), label.to(self.device)


class Counts:
    """Pixels counted over batches; they leave the device once, at the end."""

    def __init__(self, num_classes: int, device: torch.device) -> None:
        self.confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)
        """[true, pseudo] of the used pixels."""
        self.true = torch.zeros(num_classes, dtype=torch.int64, device=device)
        self.bins = torch.zeros(3, NUM_BINS, dtype=torch.float64, device=device)
        """Pixels, summed confidence and hits of each confidence bin."""

    def add(self, pseudo_labels: PseudoLabels, label: Tensor) -> None:
        num_classes = len(self.true)
        best = pseudo_labels.probability.float().max(dim=1)
        counted = label != IGNORE
        used, true, pseudo = counted & pseudo_labels.used, label[counted], best.indices[counted]
        self.true += torch.bincount(true, minlength=num_classes)
        pairs = label[used] * num_classes + best.indices[used]
        self.confusion += torch.bincount(pairs, minlength=num_classes**2).view_as(self.confusion)
        confidence = best.values[counted].double().clamp(0, 1)
        place = (confidence * NUM_BINS).long().clamp(max=NUM_BINS - 1)
        values = torch.stack([torch.ones_like(confidence), confidence, (true == pseudo).double()])
        # Bin by bin: bincount with weights has no deterministic form on GPUs.
        self.bins += torch.stack([(values * (place == i)).sum(dim=1) for i in range(NUM_BINS)], dim=1)

    def scores(self, classes: Sequence[str], *, background: bool, masks: bool = True) -> dict[str, float]:
        """The scores of `Diagnosis.__call__`; a score whose denominator is 0 is left out.

        Args:
            masks: whether the labels are the masks'; if not, only what needs none is scored.
        """
        confusion, true = self.confusion.double().cpu(), self.true.double().cpu()
        num, confidence, hits = self.bins.cpu()
        used, total = confusion.sum(), true.sum()
        shares = {f"share/{name}": value for name, value in zip(classes, confusion.sum(dim=0) / used, strict=True)}
        if not masks:
            return _numbers({"coverage": used / total, **shares})
        dice = 2 * confusion.diag() / (confusion.sum(dim=0) + confusion.sum(dim=1))
        first = int(background)
        known = dice[first:][~dice[first:].isnan()]
        values = {
            "coverage": used / total,
            "accuracy": confusion.diag().sum() / used,
            "calibration_error": (confidence - hits).abs().sum() / num.sum(),
            "dice/mean": known.mean(),
            **{f"dice/{name}": value for name, value in zip(classes[first:], dice[first:], strict=True)},
            **shares,
            **{f"true_share/{name}": value for name, value in zip(classes, true / total, strict=True)},
        }
        return _numbers(values)


def _predicted(method: Method, image: Tensor) -> PseudoLabels:
    """The predictions, as if each pixel of them was taught."""
    p = method.predict(image).softmax(dim=1)
    return PseudoLabels(p, torch.ones_like(p[:, 0], dtype=torch.bool))


def _numbers(values: dict[str, Tensor]) -> dict[str, float]:
    """The scores whose denominator is not 0."""
    return {name: float(value) for name, value in values.items() if not value.isnan()}


def _chosen(cases: Sequence[Case], num_images: int, num_classes: int) -> Iterator[Raw]:
    """At most `num_images` images, evenly spaced over the cases; the label of a case without a mask is 0."""
    total = sum(case.num_images for case in cases)
    wanted = {i * total // num_images for i in range(num_images)} if total > num_images else set(range(total))
    first = 0
    for case in cases:
        indices = [i - first for i in range(first, first + case.num_images) if i in wanted]
        first += case.num_images
        if indices:
            raw = Store([case], num_classes=num_classes, labels=case.labeled, device="cpu").take(indices)
            yield raw if case.labeled else raw._replace(label=torch.zeros_like(raw.label))


def _shares(labels: Sequence[Tensor], num_classes: int) -> list[float]:
    """The share of each class in labels; ignored pixels do not count."""
    known = [label[label != IGNORE] for label in labels]
    counts = sum((torch.bincount(label, minlength=num_classes) for label in known), torch.zeros(num_classes))
    return (counts / counts.sum().clamp(min=1)).tolist()


def _distance(method: Method) -> dict[str, float]:
    teachers = [module for module in method.modules() if isinstance(module, EMATeacher)]
    if not teachers:
        return {}
    student = torch.cat([p.flatten() for p in method.student.parameters()])
    teacher = torch.cat([p.flatten() for p in teachers[0].parameters()])
    return {"teacher_distance": float((teacher - student).norm() / student.norm())}
