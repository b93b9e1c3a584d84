"""Pixels weighted by their confidence, against the formula in NumPy."""

import math

import numpy as np
import pytest
import torch
from pixelwise import K, Pixelwise, losses, made, numpy_supervised, softmax

from ssl4seg.errors import UserError
from ssl4seg.methods.confidence_weighted import ConfidenceWeighted
from ssl4seg.types import Progress

ROUND = Progress(60, 100)


def taught(**keys: object) -> ConfidenceWeighted:
    """In its first round, with a labeller that is not its student."""
    method = made(ConfidenceWeighted, rounds=1, **keys)
    with torch.no_grad():
        for p in method.labeller.parameters():
            p.normal_()
    return method


@pytest.mark.parametrize("num", [1, 3])
@pytest.mark.parametrize("weight", [1.0, 0.3])
@pytest.mark.parametrize("gamma", [0.0, 1.0, 4.0])
def test_each_pixel_counts_by_a_power_of_its_confidence_above_chance(batch, gamma, weight, num):
    method = taught(gamma=gamma, pseudo_weight=weight)
    batch = batch._replace(unlabeled=batch.unlabeled[:num])
    p_f = softmax(method.labeller.network.numpy(batch.unlabeled))
    p_s = softmax(method.student.numpy(batch.unlabeled))
    q = ((K * p_f.max(axis=1) - 1) / (K - 1)) ** gamma
    each = -np.log(np.take_along_axis(p_s, p_f.argmax(axis=1)[:, None], axis=1)[:, 0])
    assert losses(method, batch, ROUND) == pytest.approx(
        {
            "supervised": numpy_supervised(method.student.numpy(batch.image), batch.label.numpy()),
            "pseudo_label": weight * (q * each).mean(),
        },
        rel=1e-4,
    )


@pytest.mark.parametrize("num_classes", [2, 4, 21])
@pytest.mark.parametrize(("share", "expected"), [(0.0, 0.0), (0.5, 0.0625), (1.0, 1.0)])
def test_a_guess_weighs_nothing_and_certainty_one_whatever_the_number_of_classes(num_classes, share, expected):
    """The confidence lies `share` of the way from 1/K to 1; the student is undecided, so that its entropy is ln K."""
    c = 1 / num_classes + share * (1 - 1 / num_classes)
    p = torch.full((1, num_classes, 1, 1), (1 - c) / (num_classes - 1))
    p[0, 0] = c
    loss = made(ConfidenceWeighted).pseudo_loss(torch.zeros_like(p), p.clamp(min=1e-30).log())
    assert loss.item() == pytest.approx(expected * math.log(num_classes), abs=1e-6)


def test_a_labeller_that_guesses_everywhere_moves_nothing(batch):
    method = made(ConfidenceWeighted, rounds=1)
    with torch.no_grad():
        for p in method.labeller.parameters():
            p.zero_()
    value = method("segmenter", batch, ROUND)["pseudo_label"]
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-20)
    assert all(p.grad.abs().max() < 1e-20 for p in method.student.parameters())


def test_pseudo_labels_are_the_labellers_and_all_are_used(batch):
    method = taught()
    found = method.pseudo_labels(batch.unlabeled, ROUND)
    np.testing.assert_allclose(found.probability, softmax(method.labeller.network.numpy(batch.unlabeled)), rtol=1e-5)
    assert found.used.all()


def test_a_wrong_gamma_is_refused():
    with pytest.raises(UserError, match=r"method.gamma=-1"):
        ConfidenceWeighted(network=Pixelwise, gamma=-1)
