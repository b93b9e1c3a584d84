"""Hard pseudo-labels above a threshold, against the formula in NumPy."""

import numpy as np
import pytest
import torch
from pixelwise import Pixelwise, losses, made, numpy_supervised, softmax

from ssl4seg.errors import UserError
from ssl4seg.keys import IGNORE
from ssl4seg.methods.pseudo_label import PseudoLabel
from ssl4seg.types import Progress

ROUND = Progress(60, 100)


def taught(**keys: object) -> PseudoLabel:
    """In its first round, with a labeller that is not its student and sure of some pixels only."""
    method = made(PseudoLabel, rounds=1, **keys)
    with torch.no_grad():
        method.labeller.network.head.weight.copy_(torch.tensor([-1.0, 0.2, 1]).view(3, 1, 1, 1))
        method.labeller.network.head.bias.zero_()
    return method


def labelled(method: PseudoLabel, image: torch.Tensor, threshold: float) -> np.ndarray:
    p = softmax(method.labeller.network.numpy(image))
    return np.where(p.max(axis=1) >= threshold, p.argmax(axis=1), IGNORE)


@pytest.mark.parametrize("num", [1, 3])
@pytest.mark.parametrize("weight", [1.0, 0.3])
@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.9])
def test_confident_pixels_teach_as_true_labels_do_and_the_rest_is_ignored(batch, threshold, weight, num):
    method = taught(threshold=threshold, pseudo_weight=weight)
    batch = batch._replace(unlabeled=batch.unlabeled[:num])
    label = labelled(method, batch.unlabeled, threshold)
    assert (label == IGNORE).any() == (threshold > 0)
    assert (label != IGNORE).any()
    assert losses(method, batch, ROUND) == pytest.approx(
        {
            "supervised": numpy_supervised(method.student.numpy(batch.image), batch.label.numpy()),
            "pseudo_label": weight * numpy_supervised(method.student.numpy(batch.unlabeled), label),
        },
        rel=1e-5,
    )


def test_without_a_confident_pixel_the_term_is_zero_with_zero_gradient(batch):
    method = made(PseudoLabel, rounds=1, threshold=0.99)
    with torch.no_grad():
        method.labeller.network.head.weight.zero_()
    value = method("segmenter", batch, ROUND)["pseudo_label"]
    value.backward()
    assert value.item() == 0
    assert all(p.grad.eq(0).all() for p in method.student.parameters())


def test_pseudo_labels_are_the_labellers_and_used_where_it_is_confident(batch):
    method = taught(threshold=0.5)
    found = method.pseudo_labels(batch.unlabeled, ROUND)
    np.testing.assert_allclose(found.probability, softmax(method.labeller.network.numpy(batch.unlabeled)), rtol=1e-5)
    assert np.array_equal(found.used, labelled(method, batch.unlabeled, 0.5) != IGNORE)


@pytest.mark.parametrize("threshold", [-0.1, 1.0])
def test_a_wrong_threshold_is_refused(threshold):
    with pytest.raises(UserError, match=f"method.threshold={threshold}"):
        PseudoLabel(network=Pixelwise, threshold=threshold)
