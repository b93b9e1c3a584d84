"""AD-MT against its loss in NumPy, in the turns of both teachers."""

import math

import numpy as np
import pytest
import torch
from pixelwise import HALFWAY, K, Pixelwise, entropies, losses, numpy_dice, numpy_supervised, softmax

from ssl4seg.augment.mixing import beta_boxes
from ssl4seg.errors import UserError
from ssl4seg.keys import IGNORE
from ssl4seg.methods.ad_mt import ADMT
from ssl4seg.types import Batch, Progress


@pytest.fixture
def views() -> Batch:
    unlabeled = 3 * torch.randn(3, 1, 12, 12)
    image, label = torch.randn(2, 1, 12, 12), torch.randint(K, (2, 12, 12))
    return Batch(image, label, unlabeled, (unlabeled + torch.randn_like(unlabeled),))


def unlike(**keys: object) -> ADMT:
    """With teachers that disagree around 0, where the student is surer but near -1/12, and agree elsewhere."""
    method = ADMT(network=Pixelwise, rampup_steps=1, **keys).train()
    heads = [method.student.head, *(teacher.network.head for teacher in method.teachers)]
    weights = ([-6.0, 0, 6], [-3.0, 0, 3], [-2.0, 0, 5])
    biases = ([0.0, 0, 1], [0.0, 0, 0], [0.0, 1, 0])
    with torch.no_grad():
        for head, weight, bias in zip(heads, weights, biases, strict=True):
            head.weight.copy_(torch.tensor(weight).view(K, 1, 1, 1))
            head.bias.copy_(torch.tensor(bias))
    return method


def step_of(method: ADMT, turn: int) -> Progress:
    return next(p for p in (Progress(step, 1000) for step in range(500, 600)) if method.turn(p) == turn)


def teachings(method: ADMT, image: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """What is taught [U, K, H, W], and where the student takes the teachers' place."""
    z_1, z_2 = (teacher.network.numpy(image) for teacher in method.teachers)
    p = softmax(method.student.numpy(image))
    w_1, w_2 = (np.exp(-entropies(z) / np.log(2))[:, None] for z in (z_1, z_2))
    q = (w_1 * softmax(z_1) + w_2 * softmax(z_2)) / (w_1 + w_2)
    h_q, h_p = (-(a * np.log(a)).sum(axis=1) for a in (q, p))
    student = (z_1.argmax(axis=1) != z_2.argmax(axis=1)) & (h_p < h_q)
    return np.where(student[:, None], p, q), student


@pytest.mark.parametrize("threshold", [0.0, 0.6, 0.9])
@pytest.mark.parametrize("turn", [0, 1])
def test_a_strong_view_or_a_cutmix_learns_what_the_surer_of_teachers_and_student_say(views, turn, threshold):
    method = unlike(threshold=threshold)
    progress = step_of(method, turn)
    q, student = teachings(method, views.unlabeled)
    assert student.any()
    assert not student.all()
    y = np.where(q.max(axis=1) >= threshold, q.argmax(axis=1), IGNORE)
    assert (y != IGNORE).any()
    x_s = views.strong[0].numpy()
    torch.manual_seed(1)
    found = losses(method, views, progress)
    if turn == 1:
        torch.manual_seed(1)
        box = beta_boxes(views.unlabeled, 4, 4).numpy().astype(bool)
        weak = views.unlabeled.numpy()
        x_s = np.where(box, np.roll(weak, 1, axis=0), weak)
        y = np.where(box[:, 0], np.roll(y, 1, axis=0), y)
    assert found["consistency"] == pytest.approx(
        2 * numpy_dice(method.student.numpy(torch.from_numpy(x_s)), y), rel=1e-4
    )
    expected = numpy_supervised(method.student.numpy(views.image), views.label.numpy())
    assert found["supervised"] == pytest.approx(expected, rel=1e-5)


def test_on_volumes_the_mean_cross_entropy_of_the_confident_pixels_is_the_loss(views):
    method = unlike(threshold=0.6, loss="cross_entropy")
    q, _ = teachings(method, views.unlabeled)
    y = q.argmax(axis=1)
    log_p = np.log(softmax(method.student.numpy(views.strong[0])))
    each = -np.take_along_axis(log_p, y[:, None], axis=1)[:, 0]
    expected = 2 * each[q.max(axis=1) >= 0.6].mean()
    assert losses(method, views, step_of(method, 0))["consistency"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("turn", [0, 1])
def test_one_unlabelled_image_is_enough(views, turn):
    one = views._replace(unlabeled=views.unlabeled[:1], strong=(views.strong[0][:1],))
    method = unlike(threshold=0.0)
    q, _ = teachings(method, one.unlabeled)
    x_s = one.strong[0] if turn == 0 else one.unlabeled
    expected = 2 * numpy_dice(method.student.numpy(x_s), q.argmax(axis=1))
    assert losses(method, one, step_of(method, turn))["consistency"] == pytest.approx(expected, rel=1e-4)


def test_without_a_sure_pixel_consistency_is_zero_with_zero_gradient(views):
    method = ADMT(network=Pixelwise, threshold=0.9999).train()
    with torch.no_grad():
        for p in method.parameters():
            p.zero_()
    value = method("segmenter", views, HALFWAY)["consistency"]
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert all(p.grad.eq(0).all() for p in method.student.parameters())


@pytest.mark.parametrize("turn", [0, 1])
def test_consistency_reaches_the_student_through_the_strong_view_alone_and_never_a_teacher(views, turn):
    views.unlabeled.requires_grad_()
    views.strong[0].requires_grad_()
    method = unlike(threshold=0.0)
    method("segmenter", views, step_of(method, turn))["consistency"].backward()
    assert all(p.grad.abs().sum() > 0 for p in method.student.parameters())
    assert all(p.grad is None and not p.requires_grad for p in method.teachers.parameters())
    if turn == 0:
        assert views.unlabeled.grad.eq(0).all()
        assert views.strong[0].grad.ne(0).any()


@pytest.mark.parametrize("size", [(32, 32), (16, 64)])
def test_a_box_shows_half_of_the_image_before_on_average_whatever_the_images_shape(size):
    image = torch.tensor([0.0, 1]).repeat(100).view(200, 1, 1, 1).expand(-1, 1, *size)  # neighbours differ
    method, seen = unlike(), []
    method.student.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][-len(image) :]))
    label = torch.zeros(1, *size, dtype=torch.int64)
    losses(method, Batch(image[:1], label, image, (image,)), step_of(method, 1))
    areas = (seen[0] != image).float().mean(dim=(1, 2, 3))
    assert areas.mean().item() == pytest.approx(0.5, abs=0.04)  # Beta(4, 4) has mean 1/2 and deviation 1/6
    assert areas.std().item() == pytest.approx(1 / 6, abs=0.03)


def test_turns_alternate_and_last_one_to_fifty_steps():
    method = ADMT(network=Pixelwise)
    turns = np.array([method.turn(Progress(step, 30000)) for step in range(4000)])
    lengths = np.diff(np.flatnonzero(np.diff(turns, prepend=1, append=2)))
    assert turns[0] == 0
    assert 1 <= lengths[:-1].min() < 5
    assert 45 < lengths.max() <= 50
    assert lengths.mean() == pytest.approx(25.5, abs=4)


def test_turns_depend_on_the_seed_and_the_step_alone():
    def turns(seed: int, total: int) -> list[int]:
        torch.manual_seed(seed)
        method = ADMT(network=Pixelwise, period=50)
        torch.manual_seed(7)
        return [method.turn(Progress(step, total)) for step in range(200)]

    assert turns(0, 200) == turns(0, 500)
    assert turns(0, 200) != turns(1, 200)


@pytest.mark.parametrize(("total", "period", "copy_steps"), [(30_000, 50, 100), (3000, 5, 10), (300, 1, 1)])
def test_numbers_left_to_the_run_are_the_authors_at_their_length_and_the_same_share_of_others(
    total, period, copy_steps
):
    found = []
    for keys in ({"period": None, "copy_steps": None}, {"period": period, "copy_steps": copy_steps}):
        torch.manual_seed(0)
        method = unlike(**keys)
        turns = [method.turn(Progress(step, total)) for step in range(300)]
        method.after_step(Progress(copy_steps + 2, total))
        found.append((turns, [teacher.network.head.weight for teacher in method.teachers]))
    assert found[0][0] == found[1][0]
    assert all(map(torch.equal, found[0][1], found[1][1]))


@pytest.mark.parametrize(("step", "decay"), [(3, 0.0), (99, 0.0), (102, 0.5), (109, 0.8), (900, 0.99)])
def test_only_the_teacher_in_turn_follows_first_as_a_copy(step, decay):
    method = unlike()
    progress = Progress(step, 30000)
    before = [teacher.network.head.weight.clone() for teacher in method.teachers]
    method.after_step(progress)
    turn = method.turn(progress)
    expected = decay * before[turn] + (1 - decay) * method.student.head.weight
    torch.testing.assert_close(method.teachers[turn].network.head.weight, expected)
    assert torch.equal(method.teachers[1 - turn].network.head.weight, before[1 - turn])


@pytest.mark.parametrize(("steps", "total"), [(None, 30000), (7500, 10000)])
@pytest.mark.parametrize(("step", "w"), [(0, 2 * math.exp(-5)), (3750, 2 * math.exp(-5 / 4)), (7500, 2.0), (9999, 2.0)])
def test_the_weight_rises_over_a_quarter_of_the_run_or_the_steps_asked_for(step, w, steps, total):
    method = ADMT(network=Pixelwise, rampup_steps=steps)
    assert method.weights(Progress(step, total))["consistency_weight"] == pytest.approx(w)


def test_pseudo_labels_are_what_is_taught(views):
    method = unlike(threshold=0.6)
    p, used = method.pseudo_labels(views.unlabeled, HALFWAY)
    q, _ = teachings(method, views.unlabeled)
    np.testing.assert_allclose(p.detach(), q, atol=1e-6)
    assert np.array_equal(used, q.max(axis=1) >= 0.6)


@pytest.mark.parametrize("who", ["student", "teacher"])
def test_predict_with_says_which_network_predicts(views, who):
    method = unlike(predict_with=who).eval()
    network = method.student if who == "student" else method.teachers[0].network
    np.testing.assert_allclose(method.predict(views.image).detach(), network.numpy(views.image), atol=1e-5)


@pytest.mark.parametrize(
    "keys",
    [
        {"threshold": 1.0},
        {"loss": "focal"},
        {"period": 0},
        {"copy_steps": -1},
        {"consistency_weight": -1.0},
        {"rampup_steps": -1},
        {"ema_decay": 1.0},
        {"predict_with": "both"},
    ],
)
def test_a_wrong_value_is_refused_by_its_key(keys):
    with pytest.raises(UserError, match=f"method.{next(iter(keys))}"):
        ADMT(network=Pixelwise, **keys)
