"""DAN against its equations in NumPy, with the discriminator stated once more."""

import math

import numpy as np
import pytest
import torch
from adversaries import bce, check_phases_keep_apart, judged, reaches, some_batch, tiny_unet
from pixelwise import HALFWAY, W_HALFWAY, losses, made, numpy_supervised, softmax
from torch import Tensor

from ssl4seg.errors import UserError
from ssl4seg.keys import IGNORE
from ssl4seg.methods.dan import DAN
from ssl4seg.types import Batch, Progress


def decisions(method: DAN, image: Tensor) -> np.ndarray:
    """[N, 1] logits that an image is labelled."""
    p = softmax(method.student.numpy(image))
    return judged(method.discriminator, np.concatenate([p, image.double().numpy()], axis=1), side=32)


@pytest.mark.parametrize("num", [1, 3])
def test_the_segmenter_wants_its_unlabelled_predictions_taken_for_labelled_ones(batch, num):
    method, batch = made(DAN), batch._replace(unlabeled=batch.unlabeled[:num])
    assert losses(method, batch) == pytest.approx(
        {
            "supervised": numpy_supervised(method.student.numpy(batch.image), batch.label.numpy()),
            "adversarial": W_HALFWAY * bce(decisions(method, batch.unlabeled), 1).mean(),
        },
        rel=1e-5,
    )


@pytest.mark.parametrize(("labeled", "unlabeled"), [(2, 3), (1, 3), (2, 1), (1, 1)])
def test_the_discriminator_tells_labelled_from_unlabelled_each_image_counting_once(batch, labeled, unlabeled):
    method = made(DAN)
    batch = Batch(batch.image[:labeled], batch.label[:labeled], batch.unlabeled[:unlabeled])
    found = method("discriminator", batch, HALFWAY)
    each = [bce(decisions(method, batch.image), 1), bce(decisions(method, batch.unlabeled), 0)]
    assert list(found) == ["discriminator"]
    assert found["discriminator"].item() == pytest.approx(np.concatenate(each).mean(), rel=1e-5)


def test_a_discriminator_that_does_not_know_gives_ln_2(batch):
    method = made(DAN, consistency_weight=1.0, rampup_steps=1)
    torch.nn.init.zeros_(method.discriminator.decide[-1].weight)
    torch.nn.init.zeros_(method.discriminator.decide[-1].bias)
    assert losses(method, batch)["adversarial"] == pytest.approx(math.log(2))
    assert method("discriminator", batch, HALFWAY)["discriminator"].item() == pytest.approx(math.log(2))


def test_the_discriminator_sees_the_image_beside_the_mask(batch):
    method = made(DAN)
    p = torch.rand(2, 3, 4, 5).softmax(dim=1)
    assert not torch.allclose(method.discriminator(p, batch.image), method.discriminator(p, batch.image + 1))


def test_labels_do_not_matter_to_the_adversarial_terms(batch):
    method = made(DAN)
    ignored = batch._replace(label=torch.full_like(batch.label, IGNORE))
    assert losses(method, ignored)["adversarial"] == losses(method, batch)["adversarial"]
    assert torch.equal(*(method("discriminator", b, HALFWAY)["discriminator"] for b in (batch, ignored)))


def test_each_phase_moves_its_network_alone():
    check_phases_keep_apart(DAN(network=tiny_unet), some_batch())


def test_both_terms_reach_the_segmenter():
    method = DAN(network=tiny_unet).train()
    found = method("segmenter", some_batch(), HALFWAY)
    assert all(reaches(term, method.student) for term in found.values())
    assert found.keys() == {"supervised", "adversarial"}


@pytest.mark.parametrize("step", [0, 30, 99])
def test_the_weight_ramps_up(step, batch):
    method = made(DAN, consistency_weight=2.0)
    w = 2 * math.exp(-5 * (1 - step / 100) ** 2)
    assert method.weights(Progress(step, 100)) == pytest.approx({"consistency_weight": w})
    expected = w * bce(decisions(method, batch.unlabeled), 1).mean()
    assert losses(method, batch, Progress(step, 100))["adversarial"] == pytest.approx(expected, rel=1e-5)


def test_the_segmenter_predicts_and_there_are_no_pseudo_labels(batch):
    method = made(DAN)
    assert method.predictor is method.student
    assert method.pseudo_labels(batch.unlabeled, HALFWAY) is None


@pytest.mark.parametrize("keys", [{"consistency_weight": -1}, {"rampup_steps": -1}])
def test_a_wrong_value_is_refused_by_its_key(keys):
    with pytest.raises(UserError, match=f"method.{next(iter(keys))}"):
        made(DAN, **keys)
