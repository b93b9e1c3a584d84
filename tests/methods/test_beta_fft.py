"""beta-FFT against its equations in NumPy."""

import math

import numpy as np
import pytest
import torch
from pixelwise import K, Pixelwise, flooded, losses, made, numpy_dice, numpy_supervised, softmax

from ssl4seg.augment.mixing import copy_paste_mask, mixup_shares
from ssl4seg.errors import UserError
from ssl4seg.keys import IGNORE
from ssl4seg.methods.bcp import BCP
from ssl4seg.methods.beta_fft import BetaFFT
from ssl4seg.types import Batch, Progress

PRETRAINING, LATER = Progress(24, 100), Progress(70, 100)
W_LATER = 0.5 * math.exp(-5 * (1 - 0.6) ** 2)  # 45 of the 75 steps after stage 0


def taught(**keys: object) -> BetaFFT:
    """With three different networks."""
    method = made(BetaFFT, jitter=0.0, **keys)
    with torch.no_grad():
        for p in method.teacher.parameters():
            p.normal_()
    return method


@pytest.fixture
def views() -> Batch:
    label = torch.randint(K, (4, 8, 9))
    label[:, 0, 0] = IGNORE
    unlabeled = 3 * torch.randn(4, 1, 8, 9)
    return Batch(torch.rand(4, 1, 8, 9), label, unlabeled, (unlabeled + torch.randn(4, 1, 8, 9),))


def numpy_low(x: np.ndarray, below: float) -> np.ndarray:
    """By the whole complex spectrum."""
    rows, columns = (np.abs(np.fft.fftfreq(n)) < below for n in x.shape[2:])
    return np.fft.ifft2(np.fft.fft2(x) * np.outer(rows, columns)).real


# -- golden values ----------------------------------------------------------------------------------------------------


def test_the_loss_is_that_of_the_equations(views):
    method = taught(low_frequencies=0.2)
    torch.manual_seed(1)
    found = losses(method, views, LATER)
    expected = dict.fromkeys(("supervised", "pseudo_label", "alone_supervised", "consistency"), 0.0)
    y_l, mixed, logits = views.label.numpy(), [], []
    torch.manual_seed(1)
    assert torch.equal(method.jitter(views.image), views.image)  # of strength 0, but it draws
    box = copy_paste_mask(views.image[:1], method.side).numpy().astype(bool)
    shares = [mixup_shares(views.unlabeled[:2], 0.1).numpy() for _ in range(2)]
    for network, x_u, share in zip(
        (method.student, method.peer), (views.unlabeled, views.strong[0]), shares, strict=True
    ):
        x_l, z_t = views.image.numpy(), method.teacher.network.numpy(x_u)
        y_u, p_t = flooded(z_t.argmax(axis=1)), softmax(z_t)
        x_u = x_u.numpy()
        x_1, x_2 = np.where(box, x_l[:2], x_u[:2]), np.where(box, x_u[2:], x_l[2:])
        z_1, z_2 = (network.numpy(torch.from_numpy(x)) for x in (x_1, x_2))
        inside, outside = box[:, 0], ~box[:, 0]

        def over(region: np.ndarray, z: np.ndarray, y: np.ndarray) -> float:
            return numpy_supervised(z, np.where(region, y, IGNORE), 1e-10)

        expected["supervised"] += over(inside, z_1, y_l[:2]) + over(outside, z_2, y_l[2:])
        expected["pseudo_label"] += 0.5 * (over(outside, z_1, y_u[:2]) + over(inside, z_2, y_u[2:]))
        x_m = (1 - share) * x_u[:2] + share * x_u[2:]
        p_m = (1 - share) * p_t[:2] + share * p_t[2:]
        expected["alone_supervised"] += numpy_supervised(method.student.numpy(views.image), y_l)
        square = (softmax(method.student.numpy(torch.from_numpy(x_m))) - p_m) ** 2
        expected["consistency"] += W_LATER * square.mean()
        mixed.append(np.concatenate([x_1, x_2]))
        logits.append(np.concatenate([z_1, z_2]))
    change = numpy_low(mixed[1], 0.2) - numpy_low(mixed[0], 0.2)
    x_f = torch.from_numpy(np.concatenate([mixed[0] + change, mixed[1] - change]))
    expected["cross"] = cross(*logits)
    expected["cross_frequencies"] = cross(method.student.numpy(x_f), method.peer.numpy(x_f))
    assert found == pytest.approx(expected, rel=1e-3)


def cross(z_1: np.ndarray, z_2: np.ndarray) -> float:
    return numpy_dice(z_1, z_2.argmax(axis=1)) + numpy_dice(z_2, z_1.argmax(axis=1))


# -- stages -----------------------------------------------------------------------------------------------------------


def test_before_the_second_stage_it_is_bcp(views):
    method, other = taught(), made(BCP)
    other.student.load_state_dict(method.student.state_dict())
    found = []
    for each in (method, other):
        torch.manual_seed(0)
        found.append(losses(each, views, PRETRAINING))
    assert found[0] == found[1]
    method("segmenter", views, PRETRAINING)["supervised"].backward()
    assert all(p.grad.abs().sum() > 0 for p in method.student.parameters())
    assert all(
        (p.grad == 0).all() for p in method.peer.parameters()
    )  # it has begun for no process of a distributed run
    assert method.weights(PRETRAINING) == {"consistency_weight": 0}
    assert method.weights(LATER) == pytest.approx({"consistency_weight": W_LATER})


def test_all_networks_start_the_second_stage_as_the_student(views):
    method = taught()
    method.begin_stage(1, [])
    for network in (method.peer, method.teacher.network):
        assert all(torch.equal(p, q) for p, q in zip(network.parameters(), method.student.parameters(), strict=True))


@pytest.mark.parametrize("term", ["supervised", "pseudo_label", "cross", "cross_frequencies"])
def test_both_networks_learn_from_what_they_share(views, term):
    method = taught()
    method("segmenter", views, LATER)[term].backward()
    assert all(p.grad.abs().sum() > 0 for p in method.parameters_of("segmenter"))


@pytest.mark.parametrize("term", ["alone_supervised", "consistency"])
def test_the_first_network_alone_learns_from_its_own_terms(views, term):
    method = taught()
    method("segmenter", views, LATER)[term].backward()
    assert all(p.grad.abs().sum() > 0 for p in method.student.parameters())
    assert all(p.grad is None for p in (*method.peer.parameters(), *method.teacher.parameters()))


@pytest.mark.parametrize(
    "keys",
    [
        {"low_frequencies": 0.0},
        {"low_frequencies": 0.6},
        {"alpha": 0.0},
        {"consistency_weight": -1.0},
        {"jitter": 3.0},
        {"side": 1.0},
    ],
)
def test_a_wrong_value_is_refused_by_its_key(keys):
    with pytest.raises(UserError, match=f"method.{next(iter(keys))}"):
        BetaFFT(network=Pixelwise, **keys)
