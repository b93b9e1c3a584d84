"""UniMatch V2 against its objective in NumPy: CutMix and Complementary Dropout one at a time."""

import itertools

import numpy as np
import pytest
import torch
from pixelwise import HALFWAY, K, Pixelwise, losses, numpy_dice, numpy_supervised, softmax
from torch import Tensor

from ssl4seg.augment.mixing import cutmix_boxes
from ssl4seg.errors import UserError
from ssl4seg.keys import IGNORE
from ssl4seg.methods.unimatch_v2 import UniMatchV2
from ssl4seg.networks.unet import UNet
from ssl4seg.types import Batch, Progress

PLAIN = {"cutmix": 0.0, "dropout": 0.0}


@pytest.fixture
def views(batch) -> Batch:
    """Larger unlabelled images, so that boxes have pixels, and two strong views of them."""
    unlabeled = 3 * torch.randn(3, 1, 12, 10)
    return batch._replace(unlabeled=unlabeled, strong=tuple(unlabeled + torch.randn_like(unlabeled) for _ in range(2)))


def unlike(**keys: object) -> UniMatchV2:
    """With a teacher that is not the student, and confident in some pixels."""
    method = UniMatchV2(network=Pixelwise, **keys).train()
    with torch.no_grad():
        for p in method.teacher.parameters():
            p.add_(torch.randn_like(p)).mul_(2)
    return method


def target(method: UniMatchV2, image: Tensor, threshold: float) -> np.ndarray:
    p = softmax(method.teacher.network.numpy(image))
    return np.where(p.max(axis=1) >= threshold, p.argmax(axis=1), IGNORE)


def entropy_over_all(z: np.ndarray, y: np.ndarray) -> float:
    """Cross-entropy summed over the pixels that are not ignored, over the number of all."""
    p = softmax(z)
    return float(np.sum([-np.log(p[n, y[n, i, j], i, j]) for n, i, j in np.argwhere(y != IGNORE)]) / y.size)


@pytest.mark.parametrize(("loss", "reference"), [("dice", numpy_dice), ("cross_entropy", entropy_over_all)])
@pytest.mark.parametrize("threshold", [0.0, 0.6, 0.95])
def test_without_perturbations_each_strong_view_weighs_a_quarter(views, loss, reference, threshold):
    method = unlike(loss=loss, threshold=threshold, **PLAIN)
    y = target(method, views.unlabeled, threshold)
    assert (y != IGNORE).any()
    assert (y != IGNORE).all() == (threshold == 0)
    expected = {
        "supervised": numpy_supervised(method.student.numpy(views.image), views.label.numpy()) / 2,
        "strong": sum(reference(method.student.numpy(x), y) for x in views.strong) / 4,
    }
    assert losses(method, views) == pytest.approx(expected, rel=1e-4)


def test_boxes_show_the_next_image_in_a_strong_view_and_in_its_target(views):
    method = unlike(threshold=0.6, cutmix=1.0, dropout=0.0)
    torch.manual_seed(1)
    value = losses(method, views)["strong"]
    torch.manual_seed(1)
    y, expected = target(method, views.unlabeled, 0.6), 0.0
    for view in views.strong:
        box = cutmix_boxes(view, 1.0).numpy().astype(bool)
        mixed = np.where(box, np.roll(view.numpy(), 1, axis=0), view.numpy())
        y_s = np.where(box[:, 0], np.roll(y, 1, axis=0), y)
        expected += entropy_over_all(method.student.numpy(torch.from_numpy(mixed)), y_s) / 4
    assert value == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("num", [1, 3])
def test_what_one_view_loses_the_other_has_twice(views, num):
    views = views._replace(unlabeled=views.unlabeled[:num], strong=tuple(view[:num] for view in views.strong))
    method = unlike(threshold=0.6, cutmix=0.0, dropout=1.0)
    y = target(method, views.unlabeled, 0.6)
    possible = []
    for keep in itertools.product([0, 2], repeat=num):
        m = torch.tensor(keep).view(num, 1, 1, 1)
        pair = zip(views.strong, (m, 2 - m), strict=True)
        possible.append(sum(entropy_over_all(method.student.numpy(x * mask), y) for x, mask in pair) / 4)
    seen = set()
    for _ in range(64):
        match = np.isclose(losses(method, views)["strong"], possible, rtol=1e-4)
        assert match.any()
        seen |= {*np.flatnonzero(match)}
    assert len(seen) > 2 ** (num - 1)


class Watched(UNet):
    """Keeps the features that its encoder gives and that its decoder gets."""

    def __init__(self) -> None:
        super().__init__(in_channels=1, num_classes=K, channels=(4, 8), dropout=(0, 0))
        self.given: list[Tensor] = []
        self.got: list[Tensor] = []

    def features(self, image: Tensor) -> list[Tensor]:
        self.given = super().features(image)
        return self.given

    def pyramid(self, features: list[Tensor]) -> list[Tensor]:
        self.got = features
        return super().pyramid(features)


@pytest.mark.parametrize(("dropout", "num_dropped"), [(0.0, 0), (0.5, 2), (1.0, 3)])
def test_a_share_of_the_images_loses_channels_at_every_scale_and_the_rest_none(views, dropout, num_dropped):
    method = UniMatchV2(network=Watched, dropout=dropout).train()
    method.complementary(*views.strong)
    kept = []
    for given, got in zip(method.student.given, method.student.got, strict=True):
        factor = (got / given).flatten(2).nanmedian(dim=2).values
        torch.testing.assert_close(got, factor[:, :, None, None] * given)
        m, rest = factor.split(3)
        torch.testing.assert_close(m + rest, torch.full_like(m, 2))
        kept.append((m == 1).all(dim=1))
        assert {*m[~kept[-1]].unique().tolist()} <= {0.0, 2.0}
    assert [int((~rows).sum()) for rows in kept] == [num_dropped] * 2
    assert torch.equal(*kept)


def test_without_a_confident_pixel_the_term_is_zero_with_zero_gradient(views):
    method = unlike(threshold=0.9999)
    with torch.no_grad():
        method.teacher.network.head.weight.zero_()
    value = method("segmenter", views, HALFWAY)["strong"]
    value.backward()
    assert value.item() == 0
    assert all(p.grad.eq(0).all() for p in method.student.parameters())


@pytest.mark.parametrize("term", ["supervised", "strong"])
def test_each_term_reaches_the_student_and_never_the_teacher(views, term):
    method = unlike(threshold=0.0, cutmix=0.5, dropout=0.0)
    method("segmenter", views, HALFWAY)[term].backward()
    assert all(p.grad.abs().sum() > 0 for p in method.student.parameters())
    assert all(p.grad is None and not p.requires_grad for p in method.teacher.parameters())


def test_the_teacher_follows_with_its_decay():
    method = unlike()
    before = method.teacher.network.head.weight.clone()
    method.after_step(Progress(5000, 10000))
    expected = 0.996 * before + 0.004 * method.student.head.weight
    torch.testing.assert_close(method.teacher.network.head.weight, expected)


def test_pseudo_labels_are_the_teachers(views):
    method = unlike(threshold=0.6)
    p, used = method.pseudo_labels(views.unlabeled, HALFWAY)
    expected = softmax(method.teacher.network.numpy(views.unlabeled))
    np.testing.assert_allclose(p, expected, atol=1e-6)
    assert np.array_equal(used, expected.max(axis=1) >= 0.6)


@pytest.mark.parametrize("who", ["student", "teacher"])
def test_predict_with_says_which_network_predicts(views, who):
    method = unlike(predict_with=who).eval()
    network = method.student if who == "student" else method.teacher.network
    np.testing.assert_allclose(method.predict(views.image).detach(), network.numpy(views.image), atol=1e-5)


@pytest.mark.parametrize(
    "keys",
    [{"threshold": 1.0}, {"loss": "mse"}, {"cutmix": 2.0}, {"dropout": 1.1}, {"ema_decay": 1.0}, {"predict_with": "x"}],
)
def test_a_wrong_value_is_refused_by_its_key(keys):
    with pytest.raises(UserError, match=f"method.{next(iter(keys))}"):
        UniMatchV2(network=Pixelwise, **keys)
