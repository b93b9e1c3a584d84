"""SDCL against its equations in NumPy."""

import functools

import numpy as np
import pytest
import torch
from adversaries import some_batch, tiny_unet
from pixelwise import K, Pixelwise, flooded, losses, made, numpy_supervised, softmax
from torch import Tensor

from ssl4seg.augment.mixing import copy_paste_mask
from ssl4seg.errors import UserError
from ssl4seg.keys import IGNORE
from ssl4seg.methods.sdcl import SDCL, uncertainty
from ssl4seg.types import Batch, Progress

PRETRAINING, LATER = Progress(24, 100), Progress(25, 100)


@pytest.fixture
def batch() -> Batch:
    label = torch.randint(K, (4, 8, 9))
    label[:, 0, 0] = IGNORE
    return Batch(torch.randn(4, 1, 8, 9), label, 3 * torch.randn(4, 1, 8, 9))


def taught(**keys: object) -> SDCL:
    """With a teacher that is not its student."""
    method = made(SDCL, **keys)
    with torch.no_grad():
        for p in method.teacher.parameters():
            p.normal_()
    return method


def drawn_box(method: SDCL, image: Tensor) -> np.ndarray:
    torch.manual_seed(1)
    return copy_paste_mask(image[:1], method.side).numpy().astype(bool)


def two_mixed(method: SDCL, batch: Batch) -> list[tuple[Tensor, np.ndarray, np.ndarray]]:
    """Images, labels, and where these are masks, of both mixed batches."""
    box = drawn_box(method, batch.image)
    x_l, y_l, x_u = batch.image.numpy(), batch.label.numpy(), batch.unlabeled.numpy()
    y_u = flooded(method.teacher.network.numpy(batch.unlabeled).argmax(axis=1))
    first = np.where(box, x_l[:2], x_u[:2]), np.where(box[:, 0], y_l[:2], y_u[:2]), box[:, 0]
    second = np.where(box, x_u[2:], x_l[2:]), np.where(box[:, 0], y_u[2:], y_l[2:]), ~box[:, 0]
    return [(torch.from_numpy(x), y, np.broadcast_to(truth, y.shape)) for x, y, truth in (first, second)]


def corrections(z: np.ndarray, other: np.ndarray, y: np.ndarray, truth: np.ndarray, a: float) -> tuple[float, float]:
    """L_dis and L_ent of a student's logits, pixel by pixel."""
    p, dis, ent = softmax(z), [], []
    for n, i, j in np.argwhere((z.argmax(axis=1) != other.argmax(axis=1)) & (y != IGNORE)):
        v, q, k = 1 if truth[n, i, j] else a, p[n, :, i, j], y[n, i, j]
        dis.append(v * sum((q[c] - (c == k)) ** 2 for c in range(K)) / K)
        if q.argmax() != k:
            ent.append(-v * np.log(q).mean())
    assert dis
    assert ent
    return float(np.mean(dis)), float(np.mean(ent))


# -- golden values ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("a", [0.5, 2.0])
def test_both_students_learn_as_bcp_and_review_the_labels_where_they_differ(batch, a):
    method = taught(pseudo_weight=a, distance_weight=0.7, entropy_weight=0.3)
    expected = dict.fromkeys(("supervised", "pseudo_label", "distance", "entropy"), 0.0)
    for x, y, truth in two_mixed(method, batch):
        z = [network.numpy(x) for network in (method.student, method.peer)]
        for mine, other in (z, z[::-1]):
            expected["supervised"] += numpy_supervised(mine, np.where(truth, y, IGNORE), 1e-10)
            expected["pseudo_label"] += a * numpy_supervised(mine, np.where(truth, IGNORE, y), 1e-10)
            distance, entropy = corrections(mine, other, y, truth, a)
            expected["distance"] += 0.7 * distance
            expected["entropy"] += 0.3 * entropy
    torch.manual_seed(1)
    assert losses(method, batch, LATER) == pytest.approx(expected, rel=1e-4)


def test_pretraining_is_bcps_of_both_students(batch):
    method = taught()
    box, y = drawn_box(method, batch.image)[:, 0], batch.label.numpy()
    x = torch.where(torch.from_numpy(box[:, None]), batch.image[2:], batch.image[:2])
    expected = 0.0
    for network in (method.student, method.peer):
        z = network.numpy(x)
        expected += numpy_supervised(z, np.where(box, y[2:], IGNORE), 1e-10)
        expected += numpy_supervised(z, np.where(box, IGNORE, y[:2]), 1e-10)
    torch.manual_seed(1)
    assert losses(method, batch, PRETRAINING) == pytest.approx({"supervised": expected}, rel=1e-4)


# -- gradients --------------------------------------------------------------------------------------------------------


def test_the_gradient_of_uncertainty_leads_to_equal_probabilities():
    """d mean_k(-ln p_k) / dz_j = p_j - 1/K."""
    z = torch.randn(1, K, 1, 2, dtype=torch.float64, requires_grad=True)
    where, v = torch.tensor([[[True, False]]]), torch.tensor([[[0.5, 1.0]]])
    uncertainty(z, v, where).backward()
    expected = torch.zeros_like(z)
    expected[..., 0] = 0.5 * (z.detach().softmax(dim=1)[..., 0] - 1 / K)
    torch.testing.assert_close(z.grad, expected, atol=1e-6, rtol=1e-5)


def test_students_that_agree_have_nothing_to_correct_and_no_gradient_of_it(batch):
    method = taught()
    method.peer.load_state_dict(method.student.state_dict())
    found = method("segmenter", batch, LATER)
    (found["distance"] + found["entropy"]).backward()
    assert found["distance"].item() == found["entropy"].item() == 0
    assert all(p.grad.eq(0).all() for p in method.student.parameters())


@pytest.mark.parametrize("term", ["supervised", "pseudo_label", "distance", "entropy"])
def test_each_term_reaches_both_students_and_not_the_teacher(term):
    torch.manual_seed(0)
    method = SDCL(network=tiny_unet).train()
    method("segmenter", some_batch(labeled=2, unlabeled=2), LATER)[term].backward()
    for network in (method.student, method.peer):
        assert all(p.grad.isfinite().all() for p in network.parameters())
        assert any(p.grad.abs().sum() > 0 for p in network.parameters())
    assert all(p.grad is None and not p.requires_grad for p in method.teacher.parameters())


# -- keys -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["student", "mean"])
def test_the_second_student_may_be_of_another_build_and_one_or_both_predict(batch, who):
    peer = functools.partial(tiny_unet, in_channels=1, num_classes=K)
    method = SDCL(network=Pixelwise, peer=peer, predict_with=who).eval()
    p, q = (network(batch.image).softmax(dim=1) for network in (method.student, method.peer))
    torch.testing.assert_close(method.predict(batch.image).softmax(dim=1), p if who == "student" else (p + q) / 2)


@pytest.mark.parametrize(
    "keys",
    [
        {"peer": "vnet"},
        {"distance_weight": -1.0},
        {"entropy_weight": -1.0},
        {"predict_with": "teacher"},
        {"pretrain": 0.0},
    ],
)
def test_a_wrong_value_is_refused_by_its_key(keys):
    with pytest.raises(UserError, match=f"method.{next(iter(keys))}"):
        SDCL(network=Pixelwise, **keys)
