"""UniMatch against its objective in NumPy: CutMix and feature dropout one at a time."""

import itertools

import numpy as np
import pytest
import torch
from pixelwise import HALFWAY, K, Pixelwise, losses, made, numpy_dice, numpy_supervised, softmax
from torch import Tensor

from ssl4seg.augment.mixing import cutmix_boxes
from ssl4seg.errors import UserError
from ssl4seg.keys import IGNORE
from ssl4seg.methods.unimatch import UniMatch, channel_mask
from ssl4seg.networks.unet import UNet
from ssl4seg.types import Batch


@pytest.fixture
def views(batch) -> Batch:
    """Larger unlabelled images, so that boxes have pixels, and two strong views of them."""
    unlabeled = 3 * torch.randn(3, 1, 12, 10)
    strong = tuple(unlabeled + torch.randn_like(unlabeled) for _ in range(2))
    return batch._replace(
        image=torch.randn(2, 1, 12, 10), label=torch.randint(K, (2, 12, 10)), unlabeled=unlabeled, strong=strong
    )


def sharpened(**keys: object) -> UniMatch:
    """With weights that make it confident in some pixels."""
    method = made(UniMatch, **keys)
    with torch.no_grad():
        method.student.head.weight.mul_(4)
    return method


def target(logits: np.ndarray, threshold: float) -> np.ndarray:
    p = softmax(logits)
    return np.where(p.max(axis=1) >= threshold, p.argmax(axis=1), IGNORE)


def numpy_masked_entropy(z: np.ndarray, y: np.ndarray) -> float:
    """Cross-entropy summed over the pixels that are not ignored, over the number of all."""
    p = softmax(z)
    return float(np.sum([-np.log(p[n, y[n, i, j], i, j]) for n, i, j in np.argwhere(y != IGNORE)]) / y.size)


NUMPY = {"dice": numpy_dice, "cross_entropy": numpy_masked_entropy}


@pytest.mark.parametrize("loss", ["dice", "cross_entropy"])
@pytest.mark.parametrize("threshold", [0.0, 0.6, 0.95])
def test_without_perturbations_the_weights_are_a_half_an_eighth_and_a_quarter(views, loss, threshold):
    method = sharpened(loss=loss, threshold=threshold, cutmix=0.0, dropout=0.0)
    y = target(method.student.numpy(views.unlabeled), threshold)
    assert (y != IGNORE).any()
    assert (y != IGNORE).all() == (threshold == 0)
    weak, *strong = (NUMPY[loss](method.student.numpy(x), y) for x in (views.unlabeled, *views.strong))
    expected = {
        "supervised": numpy_supervised(method.student.numpy(views.image), views.label.numpy()) / 2,
        "feature_dropout": weak / 4,
        "strong": sum(strong) / 8,
    }
    assert losses(method, views) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("loss", ["dice", "cross_entropy"])
def test_boxes_show_the_next_image_in_a_strong_view_and_in_its_target(views, loss):
    method = sharpened(loss=loss, threshold=0.6, cutmix=1.0, dropout=0.0)
    torch.manual_seed(1)
    value = losses(method, views)["strong"]
    torch.manual_seed(1)
    torch.rand(3, 1)  # of the features' channels
    y, expected = target(method.student.numpy(views.unlabeled), 0.6), 0.0
    for view in views.strong:
        box = cutmix_boxes(view, 1.0).numpy().astype(bool)
        assert box.any(axis=(1, 2, 3)).all()
        mixed = np.where(box, np.roll(view.numpy(), 1, axis=0), view.numpy())
        y_s = np.where(box[:, 0], np.roll(y, 1, axis=0), y)
        expected += NUMPY[loss](method.student.numpy(torch.from_numpy(mixed)), y_s) / 8
    assert value == pytest.approx(expected, rel=1e-4)


def test_dropped_features_are_zero_or_scaled_and_only_the_unlabelled(views):
    method = sharpened(loss="cross_entropy", threshold=0.6, cutmix=0.0, dropout=0.75)
    y = target(method.student.numpy(views.unlabeled), 0.6)
    possible = [
        numpy_masked_entropy(method.student.numpy(views.unlabeled * torch.tensor(keep).view(3, 1, 1, 1) * 4), y) / 4
        for keep in itertools.product([0, 1], repeat=3)
    ]
    supervised = numpy_supervised(method.student.numpy(views.image), views.label.numpy()) / 2
    seen = set()
    for _ in range(64):
        found = losses(method, views)
        match = np.isclose(found["feature_dropout"], possible, rtol=1e-4)
        assert match.any()
        seen |= {*np.flatnonzero(match)}
        assert found["supervised"] == pytest.approx(supervised, rel=1e-4)
    assert len(seen) > 4  # of the eight ways in which three images keep or lose their channel


def test_a_channel_is_dropped_as_a_whole_and_the_mean_is_kept():
    mask = channel_mask(torch.zeros(200, 100, 2, 2), 0.75)
    assert mask.shape == (200, 100, 1, 1)
    assert {*mask.unique().tolist()} == {0.0, 4.0}
    assert mask.mean().item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("loss", ["dice", "cross_entropy"])
def test_without_a_confident_pixel_the_terms_are_zero_with_zero_gradient(views, loss):
    method = made(UniMatch, loss=loss, threshold=0.99999)
    with torch.no_grad():
        method.student.head.weight.zero_()
    found = method("segmenter", views, HALFWAY)
    (found["strong"] + found["feature_dropout"]).backward()
    assert found["strong"].item() == pytest.approx(0, abs=1e-6)
    assert found["feature_dropout"].item() == pytest.approx(0, abs=1e-6)
    assert all(p.grad.eq(0).all() for p in method.student.parameters())


@pytest.mark.parametrize("loss", ["dice", "cross_entropy"])
def test_one_unlabelled_image_and_one_class_are_enough(views, loss):
    one = views._replace(unlabeled=views.unlabeled[:1], strong=tuple(view[:1] for view in views.strong))
    method = made(UniMatch, loss=loss, threshold=0.0, cutmix=1.0, dropout=0.0)
    with torch.no_grad():
        method.student.head.weight.mul_(0.01)
        method.student.head.bias.copy_(torch.tensor([0.0, 2, 0]))
    expected = sum(NUMPY[loss](method.student.numpy(x), np.ones((1, 12, 10), int)) / 8 for x in one.strong)
    assert losses(method, one)["strong"] == pytest.approx(expected, rel=1e-3)


def test_the_weak_view_teaches_without_a_gradient(views):
    views.unlabeled.requires_grad_()
    method = sharpened(threshold=0.0)
    method("segmenter", views, HALFWAY)["strong"].backward()
    assert views.unlabeled.grad is None or views.unlabeled.grad.eq(0).all()
    assert all(p.grad.ne(0).any() for p in method.student.parameters())


class Watched(UNet):
    """Keeps the features that its decoder gets."""

    def __init__(self) -> None:
        super().__init__(in_channels=1, num_classes=K, channels=(4, 8), dropout=(0, 0))
        self.seen: list[list[Tensor]] = []

    def pyramid(self, features: list[Tensor]) -> list[Tensor]:
        self.seen.append(features)
        return super().pyramid(features)


def test_every_scale_of_the_encoder_loses_channels_of_its_own(views):
    method = UniMatch(network=Watched).train()
    method("segmenter", views, HALFWAY)
    perturbed, strong = method.student.seen
    num_l, num_u = len(views.image), len(views.unlabeled)
    for features in perturbed:
        plain, dropped = features[num_l : num_l + num_u], features[num_l + num_u :]
        gone = dropped.eq(0).all(dim=(2, 3))  # LeakyReLU leaves no zeros: what is zero was dropped
        assert 0 < gone.sum() < gone.numel()
        torch.testing.assert_close(dropped[~gone], 2 * plain[~gone])
    assert [len(features) for features in strong] == [2 * num_u] * 2


def test_labelled_features_that_lose_channels_change_what_the_batch_norm_sees_and_so_every_gradient(views):
    """The authors' way: the decoder sees each image twice; the loss still reads the whole labelled features alone."""
    gradients = []
    for drop_labeled in (False, True):
        torch.manual_seed(0)
        method = UniMatch(network=Watched, drop_labeled=drop_labeled, threshold=0.0, cutmix=0.0).train()
        torch.manual_seed(1)
        losses = method("segmenter", views, HALFWAY)
        torch.stack([*losses.values()]).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in method.student.parameters()]))
    num_l, num_u = len(views.image), len(views.unlabeled)
    for features in method.student.seen[0]:
        plain, dropped = features[:num_l], features[num_l : 2 * num_l]
        assert len(features) == 2 * (num_l + num_u)
        gone = dropped.eq(0).all(dim=(2, 3))
        assert 0 < gone.sum() < gone.numel()
        torch.testing.assert_close(dropped[~gone], 2 * plain[~gone])
    assert (gradients[0] - gradients[1]).norm() > 0.05 * gradients[0].norm()


def test_pseudo_labels_are_the_students_probabilities_and_used_where_confident(views):
    method = sharpened(threshold=0.6)
    p, used = method.pseudo_labels(views.unlabeled, HALFWAY)
    expected = softmax(method.student.numpy(views.unlabeled))
    np.testing.assert_allclose(p.detach(), expected, atol=1e-6)
    assert np.array_equal(used, expected.max(axis=1) >= 0.6)


@pytest.mark.parametrize(
    "keys",
    [
        {"threshold": 1.0},
        {"loss": "mse"},
        {"cutmix": 1.1},
        {"cutmix": -0.1},
        {"dropout": 1.0},
        {"dropout": -1},
        {"drop_labeled": 1},
    ],
)
def test_a_wrong_value_is_refused_by_its_key(keys):
    with pytest.raises(UserError, match=f"method.{next(iter(keys))}"):
        UniMatch(network=Pixelwise, **keys)
