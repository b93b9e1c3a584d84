"""CutMix consistency against its loss in NumPy."""

import numpy as np
import pytest
import torch
from helpers import composed
from pixelwise import HALFWAY, Pixelwise, losses, made, numpy_supervised, softmax

from ssl4seg.augment.mixing import cutmix_mask
from ssl4seg.errors import UserError
from ssl4seg.methods.cutmix_seg import CutMixSeg
from ssl4seg.run.assemble import method_of
from ssl4seg.types import Batch, Progress


def expected_loss(method: CutMixSeg, batch: Batch, box: np.ndarray, threshold: float) -> float:
    """c times the mean squared length; `box` [U, 1, H, W] says which pixels of an image its neighbour replaces."""
    a, b = batch.unlabeled.numpy(), np.roll(batch.unlabeled.numpy(), 1, axis=0)
    p_s = softmax(method.student.numpy(torch.from_numpy(np.where(box, b, a))))
    p_a, p_b = (softmax(method.teacher.network.numpy(torch.from_numpy(x))) for x in (a, b))
    p_t = np.where(box, p_b, p_a)
    return float((p_t.max(axis=1) > threshold).mean() * ((p_s - p_t) ** 2).sum(axis=1).mean())


@pytest.mark.parametrize("area", [0.2, 0.5])
@pytest.mark.parametrize("threshold", [0.0, 0.6, 0.9])
def test_consistency_compares_mixed_images_with_mixed_predictions(batch, threshold, area):
    method = made(CutMixSeg, threshold=threshold, area=area)
    torch.manual_seed(1)
    found = losses(method, batch)
    torch.manual_seed(1)
    box = cutmix_mask(batch.unlabeled, area).numpy().astype(bool)
    assert 0 < box.sum() < box.size
    assert found == pytest.approx(
        {
            "supervised": numpy_supervised(method.student.numpy(batch.image), batch.label.numpy()),
            "consistency": expected_loss(method, batch, box, threshold),
        },
        rel=1e-5,
    )


def test_one_unlabelled_image_is_mixed_with_itself(batch):
    one = batch._replace(image=batch.image[:1], label=batch.label[:1], unlabeled=batch.unlabeled[:1])
    method = made(CutMixSeg, threshold=0.0)
    expected = expected_loss(method, one, np.zeros((1, 1, 4, 5), bool), 0.0)
    assert losses(method, one)["consistency"] == pytest.approx(expected, rel=1e-5)


def test_without_a_sure_pixel_consistency_is_zero_with_zero_gradient(batch):
    method = made(CutMixSeg, threshold=0.9999)
    with torch.no_grad():
        method.teacher.network.head.weight.zero_()
    value = method("segmenter", batch, HALFWAY)["consistency"]
    value.backward()
    assert value.item() == 0
    assert all(p.grad.eq(0).all() for p in method.student.parameters())


@pytest.mark.parametrize("term", ["supervised", "consistency"])
def test_each_term_reaches_the_student_and_never_the_teacher(term, batch):
    method = made(CutMixSeg, threshold=0.0)
    method("segmenter", batch, HALFWAY)[term].backward()
    assert all(p.grad.abs().sum() > 0 for p in method.student.parameters())
    assert all(p.grad is None and not p.requires_grad for p in method.teacher.parameters())


def test_pseudo_labels_are_the_teachers_everywhere(batch):
    method = made(CutMixSeg)
    p, used = method.pseudo_labels(batch.unlabeled, HALFWAY)
    np.testing.assert_allclose(p, softmax(method.teacher.network.numpy(batch.unlabeled)), atol=1e-6)
    assert used.all()


@pytest.mark.parametrize("step", [1, 50, 99])
def test_the_papers_weight_is_1_without_a_ramp(step):
    method = method_of(composed("method=cutmix_seg")["method"], Pixelwise)
    assert method.weights(Progress(step, 100)) == {"consistency_weight": 1.0}


@pytest.mark.parametrize("keys", [{"threshold": 1.0}, {"area": 0.0}, {"area": 1.0}, {"ema_decay": 1.0}])
def test_a_wrong_value_is_refused_by_its_key(keys):
    with pytest.raises(UserError, match=f"method.{next(iter(keys))}"):
        CutMixSeg(network=Pixelwise, **keys)
