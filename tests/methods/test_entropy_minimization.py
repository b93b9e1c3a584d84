"""Entropy minimisation against its formula in NumPy."""

import math

import numpy as np
import pytest
import torch
from pixelwise import HALFWAY, W_HALFWAY, K, Pixelwise, entropies, losses, made, numpy_supervised

from ssl4seg.errors import UserError
from ssl4seg.keys import IGNORE
from ssl4seg.methods.entropy_minimization import EntropyMinimization


def test_loss_is_the_mean_entropy_of_all_images_as_a_share_of_the_largest(batch):
    method = made(EntropyMinimization)
    z = [method.student.numpy(images) for images in (batch.image, batch.unlabeled)]
    found = losses(method, batch)
    assert found["supervised"] == pytest.approx(numpy_supervised(z[0], batch.label.numpy()), rel=1e-5)
    expected = W_HALFWAY * entropies(np.concatenate(z)).mean() / math.log(K)
    assert found["entropy"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("logits", "expected"), [((0.0, 0.0, 0.0), 1.0), ((0.0, 0.0, -500.0), math.log(2) / math.log(3))]
)
def test_entropy_is_1_where_all_classes_are_equally_likely(batch, logits, expected):
    method = made(EntropyMinimization, consistency_weight=2.0, rampup_steps=1)
    with torch.no_grad():
        method.student.head.weight.zero_()
        method.student.head.bias.copy_(torch.tensor(logits))
    assert losses(method, batch)["entropy"] == pytest.approx(2 * expected, rel=1e-6)


def test_a_sure_prediction_costs_nothing_and_has_a_finite_gradient(batch):
    method = made(EntropyMinimization)
    with torch.no_grad():
        method.student.head.weight.zero_()
        method.student.head.bias.copy_(torch.tensor([300.0, 0, -300]))
    value = method("segmenter", batch, HALFWAY)["entropy"]
    value.backward()
    assert value.item() == 0
    assert all(p.grad.isfinite().all() for p in method.student.parameters())


def test_the_entropy_of_one_labelled_and_one_unlabelled_image_counts_ignored_pixels_too(batch):
    method = made(EntropyMinimization)
    ignored = torch.full_like(batch.label[:1], IGNORE)
    found = losses(method, batch._replace(image=batch.image[:1], label=ignored, unlabeled=batch.unlabeled[:1]))
    z = method.student.numpy(torch.cat([batch.image[:1], batch.unlabeled[:1]]))
    assert found["supervised"] == pytest.approx(0, abs=1e-6)
    assert found["entropy"] == pytest.approx(W_HALFWAY * entropies(z).mean() / math.log(K), rel=1e-5)


@pytest.mark.parametrize("term", ["supervised", "entropy"])
def test_each_term_reaches_the_student(term, batch):
    method = made(EntropyMinimization)
    method("segmenter", batch, HALFWAY)[term].backward()
    assert all(p.grad.abs().sum() > 0 for p in method.student.parameters())


def test_descending_the_entropy_sharpens_the_prediction(batch):
    method = made(EntropyMinimization)
    before = entropies(method.student.numpy(batch.unlabeled)).mean()
    optimizer = torch.optim.SGD(method.parameters_of("segmenter"), lr=1.0)
    for _ in range(20):
        optimizer.zero_grad()
        method("segmenter", batch, HALFWAY)["entropy"].backward()
        optimizer.step()
    assert entropies(method.student.numpy(batch.unlabeled)).mean() < before


def test_it_has_no_pseudo_labels_and_tells_its_weight(batch):
    method = made(EntropyMinimization)
    assert method.pseudo_labels(batch.unlabeled, HALFWAY) is None
    assert method.weights(HALFWAY) == pytest.approx({"consistency_weight": W_HALFWAY})


@pytest.mark.parametrize("keys", [{"consistency_weight": -1}, {"rampup_steps": -1}])
def test_a_wrong_value_is_refused_by_its_key(keys):
    with pytest.raises(UserError, match=f"method.{next(iter(keys))}"):
        EntropyMinimization(network=Pixelwise, **keys)
