"""ClassMix against its loss in NumPy."""

import numpy as np
import pytest
import torch
from pixelwise import HALFWAY, K, Pixelwise, losses, made, softmax

from ssl4seg.augment.mixing import classmix_mask
from ssl4seg.errors import UserError
from ssl4seg.methods.classmix import ClassMix
from ssl4seg.types import Batch


@pytest.fixture
def views(batch) -> Batch:
    return batch._replace(strong=(batch.unlabeled + torch.randn_like(batch.unlabeled),))


def expected_loss(method: ClassMix, batch: Batch, pasted: np.ndarray, threshold: float) -> float:
    """c H, where `pasted` [U, H, W] says which pixels of an image replace those of the next."""
    p_t = softmax(method.teacher.network.numpy(batch.unlabeled))
    x = batch.strong[0].numpy()
    x_m = np.where(pasted[:, None], x, np.roll(x, -1, axis=0))
    p_m = np.where(pasted[:, None], p_t, np.roll(p_t, -1, axis=0))
    p_s = softmax(method.student.numpy(torch.from_numpy(x_m)))
    picked = np.take_along_axis(p_s, p_m.argmax(axis=1)[:, None], axis=1)
    return float((p_m.max(axis=1) >= threshold).mean() * -np.log(picked).mean())


@pytest.mark.parametrize("threshold", [0.0, 0.6, 0.9])
def test_half_of_the_classes_are_pasted_onto_the_next_image_and_the_share_of_sure_pixels_weights(views, threshold):
    method = made(ClassMix, threshold=threshold)
    torch.manual_seed(1)
    found = losses(method, views)
    torch.manual_seed(1)
    label = method.teacher.network.numpy(views.unlabeled).argmax(axis=1)
    pasted = classmix_mask(torch.from_numpy(label), K)[:, 0].numpy().astype(bool)
    assert pasted.any()
    assert not pasted.all()
    expected = expected_loss(method, views, pasted, threshold)
    assert found["consistency"] == pytest.approx(expected, rel=1e-5)


def test_an_image_of_one_class_gives_nothing_away_and_shows_the_next(views):
    method = made(ClassMix, threshold=0.0)
    with torch.no_grad():
        method.teacher.network.head.weight.zero_()
        method.teacher.network.head.bias.copy_(torch.tensor([0.0, 0, 5]))
    nothing = np.zeros((3, 4, 5), bool)
    expected = expected_loss(method, views, nothing, 0.0)
    assert losses(method, views)["consistency"] == pytest.approx(expected, rel=1e-5)


def test_one_unlabelled_image_is_mixed_with_itself(views):
    one = views._replace(unlabeled=views.unlabeled[:1], strong=(views.strong[0][:1],))
    method = made(ClassMix, threshold=0.0)
    expected = expected_loss(method, one, np.ones((1, 4, 5), bool), 0.0)
    assert losses(method, one)["consistency"] == pytest.approx(expected, rel=1e-5)


def test_without_a_sure_pixel_consistency_is_zero_with_zero_gradient(views):
    method = made(ClassMix, threshold=0.9999)
    with torch.no_grad():
        method.teacher.network.head.weight.zero_()
    value = method("segmenter", views, HALFWAY)["consistency"]
    value.backward()
    assert value.item() == 0
    assert all(p.grad.eq(0).all() for p in method.student.parameters())


def test_consistency_reaches_the_student_and_never_the_teacher(views):
    method = made(ClassMix, threshold=0.0)
    method("segmenter", views, HALFWAY)["consistency"].backward()
    assert all(p.grad.abs().sum() > 0 for p in method.student.parameters())
    assert all(p.grad is None and not p.requires_grad for p in method.teacher.parameters())


def test_pseudo_labels_are_the_teachers_everywhere(views):
    method = made(ClassMix)
    p, used = method.pseudo_labels(views.unlabeled, HALFWAY)
    np.testing.assert_allclose(p, softmax(method.teacher.network.numpy(views.unlabeled)), atol=1e-6)
    assert used.all()


@pytest.mark.parametrize("keys", [{"threshold": 1.0}, {"threshold": -0.1}, {"ema_decay": 1.0}])
def test_a_wrong_value_is_refused_by_its_key(keys):
    with pytest.raises(UserError, match=f"method.{next(iter(keys))}"):
        ClassMix(network=Pixelwise, **keys)
