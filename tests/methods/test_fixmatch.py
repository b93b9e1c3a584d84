"""FixMatch against eq. 4 of Sohn et al. in NumPy."""

import numpy as np
import pytest
import torch
from pixelwise import HALFWAY, Pixelwise, losses, made, numpy_supervised, softmax

from ssl4seg.errors import UserError
from ssl4seg.methods.fixmatch import FixMatch
from ssl4seg.types import Batch, Progress


@pytest.fixture
def views(batch) -> Batch:
    """The unlabelled images and a strong view of them."""
    return batch._replace(strong=(batch.unlabeled + torch.randn_like(batch.unlabeled),))


def sharpened(**keys: object) -> FixMatch:
    """With weights that make it confident in some pixels."""
    method = made(FixMatch, **keys)
    with torch.no_grad():
        method.student.head.weight.mul_(4)
    return method


def masked_entropy(method: FixMatch, batch: Batch, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """1(max p_w >= tau) and -ln p_s of p_w's class, both [U, H, W]."""
    p_w, p_s = (softmax(method.student.numpy(view)) for view in (batch.unlabeled, batch.strong[0]))
    picked = np.take_along_axis(p_s, p_w.argmax(axis=1)[:, None], axis=1)[:, 0]
    return p_w.max(axis=1) >= threshold, -np.log(picked)


@pytest.mark.parametrize("weight", [1.0, 0.3])
@pytest.mark.parametrize("threshold", [0.0, 0.6, 0.9])
def test_consistency_is_the_cross_entropy_of_confident_pixels_over_all_pixels(views, threshold, weight):
    method = sharpened(threshold=threshold, consistency_weight=weight)
    mask, each = masked_entropy(method, views, threshold)
    assert mask.any()
    assert mask.all() == (threshold == 0)
    found = losses(method, views)
    assert found["consistency"] == pytest.approx(weight * (mask * each).mean(), rel=1e-5)
    expected = numpy_supervised(method.student.numpy(views.image), views.label.numpy())
    assert found["supervised"] == pytest.approx(expected, rel=1e-5)
    assert len(found) == 2


def test_one_unlabelled_image_is_enough(views):
    one = views._replace(unlabeled=views.unlabeled[:1], strong=(views.strong[0][:1],))
    method = sharpened(threshold=0.6)
    mask, each = masked_entropy(method, one, 0.6)
    assert losses(method, one)["consistency"] == pytest.approx((mask * each).mean(), rel=1e-5)


def test_a_pixel_that_the_public_script_teaches_is_ignored_and_the_weight_is_1_from_the_first_step(views):
    """Its threshold of 0.8 is on (p - min p) / max p, which few classes all but always exceed."""
    p = np.array([0.55, 0.43, 0.02])
    assert (p.max() - p.min()) / p.max() > 0.8
    method = sharpened(threshold=0.0)
    with torch.no_grad():
        method.student.head.weight.zero_()
        method.student.head.bias.copy_(torch.from_numpy(np.log(p)))
    assert losses(method, views, Progress(0, 10))["consistency"] == pytest.approx(-np.log(0.55), rel=1e-5)
    method.threshold = 0.95
    assert losses(method, views, Progress(0, 10))["consistency"] == 0


def test_without_a_confident_pixel_consistency_is_zero_with_zero_gradient(views):
    method = made(FixMatch, threshold=0.99999)
    with torch.no_grad():
        method.student.head.weight.zero_()
    value = method("segmenter", views, HALFWAY)["consistency"]
    value.backward()
    assert value.item() == 0
    assert all(p.grad.eq(0).all() for p in method.student.parameters())


def test_the_gradient_flows_through_the_strong_view_and_not_the_weak(views):
    views.unlabeled.requires_grad_()
    views.strong[0].requires_grad_()
    made(FixMatch, threshold=0.0)("segmenter", views, HALFWAY)["consistency"].backward()
    assert views.unlabeled.grad.eq(0).all()
    assert views.strong[0].grad.ne(0).any(dim=1).all()


def test_a_network_that_is_sure_and_consistent_costs_nothing(views):
    method = made(FixMatch)
    with torch.no_grad():
        method.student.head.weight.zero_()
        method.student.head.bias.copy_(torch.tensor([0.0, 30, 0]))
    assert losses(method, views)["consistency"] == pytest.approx(0, abs=1e-6)


def test_pseudo_labels_are_the_students_probabilities_and_used_where_confident(views):
    method = sharpened(threshold=0.6)
    p, used = method.pseudo_labels(views.unlabeled, HALFWAY)
    expected = softmax(method.student.numpy(views.unlabeled))
    np.testing.assert_allclose(p.detach(), expected, atol=1e-6)
    assert np.array_equal(used, expected.max(axis=1) >= 0.6)


@pytest.mark.parametrize("keys", [{"threshold": 1.0}, {"threshold": -0.1}, {"consistency_weight": -1.0}])
def test_a_wrong_value_is_refused_by_its_key(keys):
    with pytest.raises(UserError, match=f"method.{next(iter(keys))}"):
        FixMatch(network=Pixelwise, **keys)
