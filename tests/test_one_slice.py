"""A volume of one slice is the slice, to the last bit.

What is not compared, because it differs by its definition:
- Where a box is drawn: a CutMix box has its share of the volume, and the third axis takes its part. To mix with a given
  box is compared, and methods that draw boxes with those of the slice.
- Networks with convolutions along the third axis, or that resize a volume to multiples of their strides. Whole methods
  are compared with a network, and heads of their own, that see each pixel alone.
- Sampled views, whose weights are rounded once more; tests/feed/test_patch_view.py compares them.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pixelwise import HALFWAY, K, Pixelwise
from torch import Tensor, nn

from ssl4seg.augment.mixing import _boxes, classmix_mask, mix, mix_labels
from ssl4seg.keys import IGNORE
from ssl4seg.methods import (
    bcp,
    classmix,
    cps,
    cutmix_seg,
    deep_co_training,
    dtc,
    entropy_minimization,
    fixmatch,
    ict,
    mean_teacher,
    pseudo_label,
    supervised,
    uamt,
    unimatch,
    urpc,
)
from ssl4seg.methods.base import Method
from ssl4seg.methods.dtc import signed_distance
from ssl4seg.methods.parts import losses, predictions
from ssl4seg.methods.parts.components import by_merging, by_scipy
from ssl4seg.methods.parts.perturbation import feature_drop, feature_noise
from ssl4seg.methods.parts.teacher import WithTeacher
from ssl4seg.run.diagnose import Counts
from ssl4seg.scoring.metrics import confusion, score_classes
from ssl4seg.scoring.postprocess.base import Given
from ssl4seg.scoring.postprocess.regions import LargestComponent, SmallRegions
from ssl4seg.types import Batch, PseudoLabels

SIZES = {"size": st.tuples(st.integers(2, 9), st.integers(2, 9)), "seed": st.integers(0, 999)}


def sizes(test: Callable[..., None]) -> Callable[..., None]:
    return settings(max_examples=12, deadline=None)(given(**SIZES)(test))


def drawn(size: tuple[int, int], num: int = 2) -> tuple[Tensor, Tensor]:
    """Logits [N, K, H, W] and labels [N, H, W], a fifth of them ignored."""
    label = torch.randint(K, (num, *size))
    return 3 * torch.randn(num, K, *size), label.masked_fill(torch.rand(label.shape) < 0.2, IGNORE)


def same(function: Callable[..., Any], *slices: Tensor) -> None:
    """Whether a function gives for slices and for volumes of one slice the same, with the same random numbers."""
    found = []
    for inputs in (slices, [part[..., None] for part in slices]):
        torch.manual_seed(1)
        found.append(function(*inputs))
    flat, deep = (result if isinstance(result, tuple) else (result,) for result in found)
    for a, b in zip(flat, deep, strict=True):
        assert torch.equal(a, b if b.ndim == 0 else b[..., 0])


OF_LABELS = [
    losses.cross_entropy,
    losses.dice,
    losses.CrossEntropyDice(),
    losses.HardPixels(),
    lambda z, y: losses.masked_cross_entropy(z, y, (y == 1).float()),
]
OF_LOGITS = [
    predictions.confidence,
    lambda z: predictions.confident_label(z, 0.7),
    lambda z: predictions.entropy(z.softmax(dim=1)),
    lambda z: predictions.log_entropy(z.log_softmax(dim=1)),
    lambda z: losses.softmax_mse(z, z.flip(0)),
    lambda z: feature_noise(z, 0.3),
    lambda z: feature_drop(z, 0.7, 0.9),
    lambda z: classmix_mask(z.argmax(dim=1), K),
    lambda z: signed_distance(z.argmax(dim=1), K),
    lambda z: by_scipy(z.argmax(dim=1)),
    lambda z: by_merging(z.argmax(dim=1), K),
]


@sizes
def test_losses_statistics_and_perturbations(size, seed):
    torch.manual_seed(seed)
    z, y = drawn(size)
    for function in OF_LABELS:
        same(function, z, y)
    for function in OF_LOGITS:
        same(function, z)


@sizes
def test_mixing_with_a_box(size, seed):
    torch.manual_seed(seed)
    (a, y), (b, t) = drawn(size), drawn(size)
    place, sides = torch.rand(3, 2), torch.ones(3, 2)
    sides[:2] = (torch.rand(2, 2) * torch.tensor(size)[:, None]).round()

    def box(images: Tensor) -> Tensor:
        axes = images.ndim - 2
        return _boxes(images, sides[:axes], place[:axes])

    same(lambda a, b: mix(a, b, box(a)), a, b)
    same(lambda a, y, t: mix_labels(y, t, box(a)), a, y, t)


@sizes
def test_the_diagnosis_of_pseudo_labels(size, seed):
    torch.manual_seed(seed)
    z, y = drawn(size)
    p = z.softmax(dim=1)
    found = []
    for probability, label in ((p, y), (p[..., None], y[..., None])):
        counts = Counts(K, torch.device("cpu"))
        counts.add(PseudoLabels(probability, probability.amax(dim=1) > 0.6), label)
        found.append(counts.scores(["background", "a", "b"], background=True))
    assert found[0] == found[1]


@sizes
def test_metrics(size, seed):
    torch.manual_seed(seed)
    prediction, label = (y.byte().numpy() for y in drawn(size, 1)[1].expand(2, *size).clone()[:, None])
    prediction[prediction == IGNORE] = 0
    prediction = np.roll(prediction, 1, axis=2)
    flat = score_classes(prediction, label, K, (9.0, 0.5, 1.5))
    deep = score_classes(prediction[..., None], label[..., None], K, (0.5, 1.5, 9.0))
    np.testing.assert_equal(deep, flat)  # NaN equals NaN
    assert np.array_equal(confusion(prediction, label, K), confusion(prediction[..., None], label[..., None], K))


INTO = ("surrounding", "background")
STEPS = [
    *(LargestComponent(corners=corners) for corners in (True, False)),
    *(SmallRegions(min_size=3, into=into, corners=corners) for into in INTO for corners in (True, False)),
]


@sizes
def test_regions_even_where_two_are_of_one_size(size, seed):
    label = np.random.default_rng(seed).integers(K, size=(1, *size), dtype=np.uint8)
    beside = Given(label[:, None].astype(np.float32), None, None)
    for step in STEPS:
        assert np.array_equal(step(label[..., None], beside)[..., 0], step(label, beside))


# -- whole methods ----------------------------------------------------------------------------------------------------


class EachPixel(nn.Module):
    """The convolution of side 1 from one channel to `outputs`, for any number of axes."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(outputs)), nn.Parameter(torch.randn(outputs))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = (p.view(-1, *(1 for _ in x.shape[2:])) for p in (self.weight, self.bias))
        return x * weight + bias


class AnyAxes(Pixelwise):
    """Its decoder has two maps, as URPC needs."""

    def __init__(self) -> None:
        super().__init__()
        self.head = EachPixel(K)

    @property
    def pyramid_channels(self) -> tuple[int, ...]:
        return (1, 1)

    def pyramid(self, features: list[Tensor]) -> list[Tensor]:
        return [features[0], 2 * features[0]]


def any_axes(kind: type[Method]) -> Method:
    """A method of networks, and heads of its own, that see each pixel alone; a teacher is not its student."""
    method = kind(network=AnyAxes).train()
    for name, module in [*method.named_modules()]:
        if isinstance(module, nn.Conv2d):
            method.set_submodule(name, EachPixel(module.out_channels))
    if isinstance(method, WithTeacher):
        for p in method.teacher.parameters():
            p.data.add_(0.3 * torch.randn_like(p))
    return method


BOXES = [(bcp, "copy_paste_mask"), (cutmix_seg, "cutmix_mask"), (unimatch, "cutmix_boxes")]


def of_the_slice(draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Draws the boxes of the slice for a volume of one slice too."""
    return lambda images, *keys: draw(images, *keys) if images.ndim == 4 else draw(images[..., 0], *keys)[..., None]


METHODS: list[type[Method]] = [
    supervised.Supervised,
    entropy_minimization.EntropyMinimization,
    mean_teacher.MeanTeacher,
    uamt.UAMT,
    ict.ICT,
    classmix.ClassMix,
    cps.CPS,
    deep_co_training.DeepCoTraining,
    fixmatch.FixMatch,
    pseudo_label.PseudoLabel,
    bcp.BCP,
    cutmix_seg.CutMixSeg,
    unimatch.UniMatch,
    dtc.DTC,
    urpc.URPC,
]


@pytest.mark.parametrize("kind", METHODS)
def test_losses_of_a_method(kind, monkeypatch):
    for module, name in BOXES:
        monkeypatch.setattr(module, name, of_the_slice(getattr(module, name)))
    method = any_axes(kind)
    image, label = torch.randn(2, 1, 6, 8), drawn((6, 8))[1]
    unlabeled = 8 * torch.randn(2, 1, 6, 8)  # of which pixels pass every threshold

    def terms(image: Tensor, label: Tensor, unlabeled: Tensor) -> tuple[Tensor, ...]:
        strong = tuple(unlabeled + 0.1 * i for i in range(1, 1 + method.strong_views))
        losses = method("segmenter", Batch(image, label, unlabeled, strong), HALFWAY).values()
        assert all(loss > 0 for loss in losses)
        return tuple(losses)

    same(terms, image, label, unlabeled)
