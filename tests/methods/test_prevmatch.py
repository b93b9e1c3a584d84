"""PrevMatch against its loss in NumPy, and which former students it keeps and asks."""

import numpy as np
import pytest
import torch
from pixelwise import K, Pixelwise, losses, made, numpy_dice, numpy_supervised, softmax

from ssl4seg.augment.mixing import cutmix_boxes
from ssl4seg.errors import UserError
from ssl4seg.keys import IGNORE
from ssl4seg.methods.prevmatch import PrevMatch
from ssl4seg.methods.unimatch import UniMatch
from ssl4seg.types import Batch, Progress

QUARTER = Progress(25, 100)  # v = 1/2


@pytest.fixture
def views() -> Batch:
    unlabeled = 3 * torch.randn(3, 1, 12, 10)
    strong = tuple(unlabeled + torch.randn_like(unlabeled) for _ in range(2))
    return Batch(torch.randn(2, 1, 12, 10), torch.randint(K, (2, 12, 10)), unlabeled, strong)


def unlike(**keys: object) -> PrevMatch:
    """With a student that is confident in some pixels, and former ones that are others."""
    method = made(PrevMatch, **keys)
    with torch.no_grad():
        method.student.head.weight.mul_(4)
        for former in method.previous:
            former.network.head.weight.normal_(0, 3)
    return method


def target(logits: np.ndarray, threshold: float) -> np.ndarray:
    p = softmax(logits)
    return np.where(p.max(axis=1) >= threshold, p.argmax(axis=1), IGNORE)


def masked_entropy(z: np.ndarray, y: np.ndarray) -> float:
    p = softmax(z)
    return float(np.sum([-np.log(p[n, y[n, i, j], i, j]) for n, i, j in np.argwhere(y != IGNORE)]) / y.size)


def boxed(x: np.ndarray, box: np.ndarray) -> np.ndarray:
    return np.where(box, np.roll(x, 1, axis=0), x)


@pytest.mark.parametrize("name", ["cross_entropy", "dice"])
def test_two_targets_have_the_same_boxes_and_the_second_weighs_v_and_all_is_over_two_plus_v(views, name):
    method = unlike(loss=name, dropout=0.0, cutmix=1.0, previous_models=1, previous_threshold=0.6, threshold=0.8)
    loss = {"cross_entropy": masked_entropy, "dice": numpy_dice}[name]
    torch.manual_seed(1)
    found = losses(method, views, QUARTER)
    torch.manual_seed(1)
    torch.rand(3, 1), torch.randint(1, 4, ()), torch.randperm(1), torch.distributions.Dirichlet(torch.ones(1)).sample()
    boxes = [cutmix_boxes(view, 1.0).numpy().astype(bool) for view in views.strong]
    z_w, parts = method.student.numpy(views.unlabeled), []
    z_s = [
        method.student.numpy(torch.from_numpy(boxed(v.numpy(), b))) for v, b in zip(views.strong, boxes, strict=True)
    ]
    for y in (target(z_w, 0.8), target(method.previous[0].network.numpy(views.unlabeled), 0.6)):
        assert (y == IGNORE).any()
        assert (y != IGNORE).any()
        strong = sum(loss(z, boxed(y, box[:, 0])) for z, box in zip(z_s, boxes, strict=True))
        parts.append((loss(z_w, y) / 2, strong / 4))
    expected = {
        "supervised": numpy_supervised(method.student.numpy(views.image), views.label.numpy()) / 2.5,
        "feature_dropout": parts[0][0] / 2.5,
        "strong": parts[0][1] / 2.5,
        "previous": 0.5 * sum(parts[1]) / 2.5,
    }
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("step", [0, 3])
def test_it_is_unimatch_until_there_is_a_former_student(views, step):
    method, other = unlike(), made(UniMatch, loss="cross_entropy")
    other.student.load_state_dict(method.student.state_dict())
    found = []
    for each in (method, other):
        torch.manual_seed(0)
        found.append(losses(each, views, Progress(step, 100)))
    assert found[0] == found[1]


@pytest.mark.parametrize(("step", "v"), [(0, 0), (3, 0), (4, 0.08), (25, 0.5), (50, 1), (75, 0.5), (99, 0.02)])
def test_v_rises_to_the_middle_of_the_run_and_falls(step, v):
    assert made(PrevMatch).weights(Progress(step, 100))["previous_weight"] == pytest.approx(v)


def test_the_last_students_are_kept_at_even_distances():
    method = made(PrevMatch, previous_models=3)
    for step in range(30):
        progress = Progress(step, 100)
        assert method.num_kept(progress) == min(step // 4, 3)
        with torch.no_grad():
            method.student.head.bias.fill_(step + 1.0)  # as the optimiser's step does
        method.after_step(progress)
    assert sorted(former.network.head.bias[0].item() for former in method.previous) == [20, 24, 28]


def test_some_former_students_are_asked_with_weights_that_add_up_to_one(views):
    method = made(PrevMatch, previous_models=4, previous_drawn=3)
    for number, former in enumerate(method.previous):
        with torch.no_grad():
            former.network.head.weight.zero_()
            former.network.head.bias.copy_(torch.tensor([1.0, 10.0**number, 0.0]))
    seen, weights = set(), []
    for _ in range(200):
        one, mixed, _ = method.guidance(views.unlabeled, 3)[0, :, 0, 0].tolist()
        assert one == pytest.approx(1)
        assert 0.999 < mixed < 100.001  # of the first three alone, which are kept
        seen |= {number for number in range(3) if mixed == pytest.approx(10.0**number)}
        weights.append(mixed)
    assert seen == {0, 1, 2}  # each was asked alone
    assert len(set(weights)) > 100
    assert np.mean(weights) == pytest.approx(37, abs=9)  # every one of them as much as the others


def test_former_students_predict_in_evaluation_mode_and_get_no_gradient(views):
    method = unlike().train()
    assert not any(former.network.training for former in method.previous)
    method("segmenter", views, QUARTER)["previous"].backward()
    assert all(p.grad is None for former in method.previous for p in former.parameters())
    assert all(p.grad.abs().sum() > 0 for p in method.parameters_of("segmenter"))


@pytest.mark.parametrize(
    "keys",
    [{"previous_threshold": 1.0}, {"previous_models": 0}, {"previous_drawn": 0}, {"every": 1.0}, {"threshold": 1.0}],
)
def test_a_wrong_value_is_refused_by_its_key(keys):
    with pytest.raises(UserError, match=f"method.{next(iter(keys))}"):
        PrevMatch(network=Pixelwise, **keys)
