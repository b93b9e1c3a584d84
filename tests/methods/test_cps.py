"""Cross pseudo supervision against its formula in NumPy, and what methods of two networks share."""

import copy

import numpy as np
import pytest
import torch
from pixelwise import HALFWAY, W_HALFWAY, K, Pixelwise, losses, made, numpy_supervised, softmax
from torch import Tensor

from ssl4seg.errors import UserError
from ssl4seg.keys import IGNORE
from ssl4seg.methods.cps import CPS


def cross_entropy(z: np.ndarray, label: np.ndarray) -> float:
    return -np.log(np.take_along_axis(softmax(z), label[:, None], axis=1)).mean()


def l_cps(method: CPS, image: Tensor) -> float:
    z_1, z_2 = method.student.numpy(image), method.peer.numpy(image)
    return cross_entropy(z_1, z_2.argmax(axis=1)) + cross_entropy(z_2, z_1.argmax(axis=1))


@pytest.mark.parametrize("on_labeled", [True, False])
@pytest.mark.parametrize(("labelled", "unlabelled"), [(2, 3), (1, 1)])
def test_loss_is_the_cross_entropy_with_the_other_networks_class(batch, on_labeled, labelled, unlabelled):
    method = made(CPS, on_labeled=on_labeled)
    image, label, unlabeled = batch.image[:labelled], batch.label[:labelled], batch.unlabeled[:unlabelled]
    found = losses(method, batch._replace(image=image, label=label, unlabeled=unlabeled))
    supervised = sum(numpy_supervised(n.numpy(image), label.numpy()) for n in (method.student, method.peer))
    assert found["supervised"] == pytest.approx(supervised, rel=1e-5)
    expected = l_cps(method, unlabeled) + on_labeled * l_cps(method, image)
    assert found["cps"] == pytest.approx(W_HALFWAY * expected, rel=1e-5)


def test_ignored_pixels_and_a_class_that_neither_network_predicts_leave_the_cross_loss_finite(batch):
    method = made(CPS)
    with torch.no_grad():
        for network in (method.student, method.peer):
            network.head.bias.copy_(torch.tensor([500.0, 0, -500]))
    found = losses(method, batch._replace(label=torch.full_like(batch.label, IGNORE)))
    assert found["supervised"] == pytest.approx(0, abs=1e-6)
    assert found["cps"] == pytest.approx(0, abs=1e-6)


def test_the_networks_start_apart():
    method = made(CPS)
    pairs = zip(method.student.parameters(), method.peer.parameters(), strict=True)
    assert all(not torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("term", ["supervised", "cps"])
def test_each_term_reaches_both_networks(term, batch):
    method = made(CPS)
    method("segmenter", batch, HALFWAY)[term].backward()
    assert all(p.grad.abs().sum() > 0 for p in method.parameters_of("segmenter"))
    assert sum(1 for _ in method.parameters_of("segmenter")) == 4


def test_a_network_learns_from_the_others_class_alone(batch):
    """The gradient of the student is that of CE(z_1, label) with the peer's class as a constant."""
    method = made(CPS, on_labeled=False)
    student = copy.deepcopy(method.student)
    method("segmenter", batch, HALFWAY)["cps"].backward()
    label = torch.from_numpy(method.peer.numpy(batch.unlabeled).argmax(axis=1))
    (W_HALFWAY * torch.nn.functional.cross_entropy(student(batch.unlabeled), label)).backward()
    for ours, theirs in zip(method.student.parameters(), student.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_pseudo_labels_are_the_peers_classes(batch):
    method = made(CPS)
    probability, used = method.pseudo_labels(batch.unlabeled, HALFWAY)
    label = method.peer.numpy(batch.unlabeled).argmax(axis=1)
    np.testing.assert_array_equal(probability, np.moveaxis(np.eye(K)[label], -1, 1))
    assert used.all()


@pytest.mark.parametrize("who", ["student", "mean"])
def test_predict_with_says_who_predicts(who, batch):
    method = made(CPS, predict_with=who).eval()
    p_1, p_2 = (softmax(network.numpy(batch.image)) for network in (method.student, method.peer))
    expected = p_1 if who == "student" else (p_1 + p_2) / 2
    np.testing.assert_allclose(softmax(method.predict(batch.image).detach().numpy()), expected, atol=1e-6)


def test_the_mean_is_a_part_of_the_method_but_owns_nothing():
    method = made(CPS, predict_with="mean")
    assert method.predictor in set(method.modules())
    assert list(method.predictor.parameters()) == []
    assert {name.split(".")[0] for name in method.state_dict()} == {"student", "peer"}


def test_a_copy_predicts_with_its_own_networks(batch):
    method = made(CPS, predict_with="mean").eval()
    before, other = method.predict(batch.image), copy.deepcopy(method)
    with torch.no_grad():
        other.peer.head.bias.add_(torch.tensor([1.0, 0, 0]))
    assert torch.equal(method.predict(batch.image), before)
    assert not torch.equal(other.predict(batch.image), before)


@pytest.mark.parametrize(
    "keys", [{"consistency_weight": -1}, {"rampup_steps": -1}, {"predict_with": "teacher"}, {"on_labeled": "no"}]
)
def test_a_wrong_value_is_refused_by_its_key(keys):
    with pytest.raises(UserError, match=f"method.{next(iter(keys))}"):
        CPS(network=Pixelwise, **keys)
