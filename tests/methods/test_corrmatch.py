"""CorrMatch against its loss in NumPy; its regions and their classes one by one."""

import math

import numpy as np
import pytest
import torch
from adversaries import tiny_unet
from pixelwise import HALFWAY, K, Pixelwise, losses, made, numpy_dice, numpy_supervised, softmax

from ssl4seg.augment.mixing import cutmix_boxes
from ssl4seg.errors import UserError
from ssl4seg.keys import IGNORE
from ssl4seg.methods import corrmatch
from ssl4seg.methods.corrmatch import Correlated, CorrMatch, carried, correlation, divergence, regions_of, spread
from ssl4seg.types import Batch

H, W = 6, 5


@pytest.fixture
def views() -> Batch:
    unlabeled = 3 * torch.randn(3, 1, H, W)
    label = torch.randint(K, (2, H, W))
    label[0, 0] = IGNORE
    return Batch(torch.randn(2, 1, H, W), label, unlabeled, (unlabeled + torch.randn_like(unlabeled),))


def sharpened(**keys: object) -> CorrMatch:
    """Confident in some pixels; its projection neither drops channels nor looks at the rest of the batch."""
    method = made(CorrMatch, dropout=0.0, channels=8, threshold_momentum=1.0, **keys)
    with torch.no_grad():
        method.student.head.weight.mul_(4)
    method.correlated.eval()
    return method


def numpy_correlation(method: CorrMatch, image: torch.Tensor) -> np.ndarray:
    """q [N, P, P] of the features, which are the image; its sides are not changed on the way."""
    a, b = (part.detach().double().flatten(2).numpy() for part in method.correlated(image))
    return softmax(np.einsum("nki,nkj->nji", a, b) / math.sqrt(K)).transpose(0, 2, 1)


def numpy_carried(method: CorrMatch, image: torch.Tensor) -> np.ndarray:
    z = method.student.numpy(image)
    return np.einsum("nki,nij->nkj", z.reshape(len(z), K, -1), numpy_correlation(method, image)).reshape(z.shape)


def numpy_spread(y: np.ndarray, regions: np.ndarray, tau: float) -> np.ndarray:
    """Region after region; each looks at the classes before the first one."""
    found = y.copy()
    for region in regions:
        classes = [int(k) for k in y[region] if k != IGNORE]
        top = max(range(K), key=lambda k: (classes.count(k), -k))
        if classes and len(classes) / region.sum() >= tau and classes.count(top) / len(classes) > tau:
            found[region] = top
    return found


def masked_entropy(z: np.ndarray, y: np.ndarray) -> float:
    p = softmax(z)
    return float(np.sum([-np.log(p[n, y[n, i, j], i, j]) for n, i, j in np.argwhere(y != IGNORE)]) / y.size)


@pytest.mark.parametrize("name", ["cross_entropy", "dice"])
@pytest.mark.parametrize("cutmix", [0.0, 1.0])
def test_the_loss_is_that_of_the_equations(views, name, cutmix):
    method = sharpened(loss=name, threshold=0.6, cutmix=cutmix, num_regions=40)
    loss = {"cross_entropy": masked_entropy, "dice": numpy_dice}[name]
    torch.manual_seed(1)
    found = losses(method, views)
    torch.manual_seed(1)
    torch.rand(3, 1)  # of the features' channels
    box = cutmix_boxes(views.strong[0], cutmix).numpy().astype(bool)
    assert box.any() == bool(cutmix)
    rows = torch.randint(H * W, (40,)).numpy()

    def boxed(x: np.ndarray) -> np.ndarray:
        return np.where(box.reshape(box.shape if x.ndim == 4 else box[:, 0].shape), np.roll(x, 1, axis=0), x)

    x_s = torch.from_numpy(boxed(views.strong[0].numpy()))
    z_l, z_w, z_s = (method.student.numpy(x) for x in (views.image, views.unlabeled, x_s))
    z_lc, z_wc, z_sc = (numpy_carried(method, x) for x in (views.image, views.unlabeled, x_s))
    p_w = softmax(z_w)
    y = np.where(p_w.max(axis=1) >= 0.6, p_w.argmax(axis=1), IGNORE)
    y_m, p_m = boxed(y), boxed(p_w)
    q = numpy_correlation(method, views.unlabeled)[:, rows].reshape(3, 40, H, W)
    middle = (q.max(axis=(2, 3), keepdims=True) + q.min(axis=(2, 3), keepdims=True)) / 2
    y_s = np.stack([numpy_spread(*each, 0.6) for each in zip(y_m, (q > middle) & ~box, strict=True)])
    assert (y_s != y_m).any()
    kl = (p_m * np.log(p_m / softmax(z_s))).sum(axis=1)
    truth = views.label.numpy()
    expected = {
        "supervised": (numpy_supervised(z_l, truth) + numpy_supervised(z_lc, truth)) / 4,
        "strong": loss(z_s, y_s) / 8,
        "soft": (kl * (y_m != IGNORE)).mean() / 8,
        "feature_dropout": loss(z_w, y) / 8,
        "correlation": (loss(z_sc, y_s) + loss(z_wc, y)) / 16,
    }
    assert found == pytest.approx(expected, rel=1e-3)


def test_a_region_takes_its_class_only_if_enough_of_it_is_sure_and_of_one_class():
    n = IGNORE
    y = torch.tensor([[0, 0, 0, n, 1, 1, 2, n, n, n]])
    at = torch.zeros(6, 1, 10, dtype=torch.bool)
    at[0, 0, :4] = True  # three of four are sure, all of class 0: taken
    at[1, 0, 4:8] = True  # three of four are sure, two of these of class 1: not taken with tau = 0.75
    at[2, 0, 5:10] = True  # two of five are sure: not taken
    at[3, 0, 7:10] = True  # nothing is sure: not taken
    at[5, 0, 4:6] = True  # all sure of class 1; number 4 is empty
    assert spread(y, at, 3, torch.tensor(0.75)).tolist() == [[0, 0, 0, 0, 1, 1, 2, n, n, n]]
    assert spread(y, at, 3, torch.tensor(0.6)).tolist() == [[0, 0, 0, 0, 1, 1, 1, 1, n, n]]
    assert spread(y, at, 3, torch.tensor(0.76)).tolist() == y.tolist()  # three of four are not 76 %


def test_where_regions_overlap_the_last_one_wins():
    y = torch.tensor([[0, 0, IGNORE, 1, 1]])
    at = torch.tensor([[True, True, True, False, False], [False, False, True, True, True]])[:, None]
    assert spread(y, at, 2, torch.tensor(0.6)).tolist() == [[0, 0, 1, 1, 1]]
    assert spread(y, at.flip(0), 2, torch.tensor(0.6)).tolist() == [[0, 0, 0, 1, 1]]


def test_a_region_lies_above_the_middle_of_its_row_and_an_even_row_has_none():
    rows = torch.tensor([[[0.1, 0.2, 0.31, 0.5]], [[0.25, 0.25, 0.25, 0.25]]])
    assert regions_of(rows).tolist() == [[[False, False, True, True]], [[False] * 4]]


def test_tau_moves_towards_the_mean_of_the_largest_probabilities_of_the_classes_that_are_seen():
    method = made(CorrMatch, threshold_momentum=0.9)
    p = torch.tensor([[0.9, 0.1, 0.0], [0.6, 0.4, 0.0], [0.3, 0.7, 0.0]])  # two pixels of class 0, one of class 1
    method.adapt(p.clamp(min=1e-6).log().T[None, :, :, None])
    assert method.tau.item() == pytest.approx(0.9 * 0.85 + 0.1 * (0.9 + 0.7) / 2, rel=1e-5)
    assert method.weights(HALFWAY)["threshold"] == method.tau.item()


def test_a_row_of_the_correlation_adds_up_to_one_and_carries_logits_between_places():
    a, b = torch.randn(2, K, 2, 3), torch.randn(2, K, 2, 3)
    q = correlation(a, b)
    torch.testing.assert_close(q.weights.sum(dim=2), torch.ones(2, 6))
    expected = (a[1, :, 0, 2] @ b[1, :, 1, 0] / math.sqrt(K) - (a[1, :, 0, 2] @ b[1, :, 0, 0] / math.sqrt(K))).exp()
    torch.testing.assert_close(q.weights[1, 2, 3] / q.weights[1, 2, 0], expected)
    z = torch.randn(2, K, 2, 3)
    moved = sum(z[1, :, i // 3, i % 3] * q.weights[1, i, 4] for i in range(6))
    torch.testing.assert_close(carried(z, q)[1, :, 1, 1], moved)


def test_equal_predictions_do_not_diverge():
    z = torch.randn(2, K, 4, 4)
    torch.testing.assert_close(divergence(z.softmax(dim=1), z), torch.zeros(2, 4, 4), atol=1e-6, rtol=0)


def test_a_map_of_too_many_places_is_resized(monkeypatch):
    monkeypatch.setattr(corrmatch, "MAX_PLACES", 100)
    a, _ = Correlated(4, 8, K, axes=2)(torch.randn(1, 4, 40, 10))
    assert a.shape == (1, K, 20, 5)
    a, _ = Correlated(4, 8, K, axes=3)(torch.randn(1, 4, 10, 10, 10))
    assert a.shape == (1, K, 4, 4, 4)


@pytest.mark.parametrize("term", ["supervised", "correlation"])
def test_the_correlation_learns_and_so_do_the_features_below_it(views, term):
    method = CorrMatch(network=tiny_unet, threshold=0.0, dropout=0.0).train()
    views = Batch(
        torch.rand(2, 1, 32, 32), torch.randint(2, (2, 32, 32)), torch.rand(2, 1, 32, 32), (torch.rand(2, 1, 32, 32),)
    )
    value = method("segmenter", views, HALFWAY)[term]
    if term == "correlation":
        method.student.decoder.requires_grad_(False)
    value.backward()
    trained = [*method.correlated.parameters(), *method.student.encoder.parameters()]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)
    assert all(p.grad.abs().sum() > 0 for p in method.correlated.first.parameters())
    if term == "correlation":  # z itself is a constant of the carried logits
        assert all(p.grad is None for p in method.student.head.parameters())


def test_pseudo_labels_count_from_tau_on(views):
    method = sharpened(threshold=0.7)
    p, used = method.pseudo_labels(views.unlabeled, HALFWAY)
    expected = softmax(method.student.numpy(views.unlabeled))
    np.testing.assert_allclose(p.detach(), expected, atol=1e-6)
    assert np.array_equal(used, expected.max(axis=1) >= 0.7)


@pytest.mark.parametrize(
    "keys", [{"threshold": 1.0}, {"threshold_momentum": 1.1}, {"num_regions": 0}, {"channels": 0}, {"loss": "mse"}]
)
def test_a_wrong_value_is_refused_by_its_key(keys):
    with pytest.raises(UserError, match=f"method.{next(iter(keys))}"):
        CorrMatch(network=Pixelwise, **keys)
