"""Methods against their papers' formulas in NumPy, on pixel-wise networks whose outputs can be written down."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from pixelwise import (
    HALFWAY,
    W_HALFWAY,
    K,
    Pixelwise,
    entropies,
    losses,
    made,
    numpy_supervised,
    softmax,
    squares,
)
from torch import Tensor, nn

from ssl4seg.augment.mixing import cutmix_mask, mix
from ssl4seg.errors import UserError
from ssl4seg.methods.mean_teacher import MeanTeacher
from ssl4seg.methods.parts.teacher import EMATeacher, noisy
from ssl4seg.methods.supervised import Supervised
from ssl4seg.methods.uamt import UAMT
from ssl4seg.types import Progress

# -- golden values ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Supervised, MeanTeacher, UAMT])
def test_the_supervised_term_is_cross_entropy_and_dice_of_the_labelled_images(kind, batch):
    method = made(kind)
    expected = numpy_supervised(method.student.numpy(batch.image), batch.label.numpy())
    assert losses(method, batch)["supervised"] == pytest.approx(expected, rel=1e-5)


def test_supervised_has_no_other_term(batch):
    assert list(losses(made(Supervised), batch)) == ["supervised"]


def test_mean_teacher_is_the_mean_square_over_pixels_and_classes(batch):
    method = made(MeanTeacher, noise=0)
    expected = W_HALFWAY * squares(method, batch.unlabeled).mean()
    assert losses(method, batch)["consistency"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("max_entropy", [None, 0.3, 0.6931, 0.9])
@pytest.mark.parametrize("step", [0, 50, 99])
def test_uamt_is_the_square_over_the_certain_pixels(batch, max_entropy, step):
    method = made(UAMT, noise=0, max_entropy=max_entropy)
    with torch.no_grad():  # the teacher doubts where x is 0, and the less the larger x is
        method.teacher.network.head.weight.copy_(torch.tensor([-2.0, 0, 2]).view(K, 1, 1, 1))
        method.teacher.network.head.bias.zero_()
    batch = batch._replace(unlabeled=torch.linspace(0, 3, 60).view(3, 1, 4, 5))
    u_max = max_entropy or math.log(K)
    tau = (0.75 + 0.25 * math.exp(-5 * (1 - step / 100) ** 2)) * u_max
    certain = entropies(method.teacher.network.numpy(batch.unlabeled)) < tau
    assert 0 < certain.sum() < certain.size
    total = (certain * squares(method, batch.unlabeled).sum(axis=1)).sum()
    w = 0.1 * math.exp(-5 * (1 - step / 100) ** 2)
    value = losses(method, batch, Progress(step, 100))["consistency"]
    assert value == pytest.approx(w * total / (2 * certain.sum()), rel=1e-5)


def test_uamt_without_a_certain_pixel_is_zero_with_zero_gradient(batch):
    method = made(UAMT, max_entropy=1e-9)
    value = method("segmenter", batch, HALFWAY)["consistency"]
    value.backward()
    assert value.item() == 0
    assert all(p.grad.eq(0).all() for p in method.student.parameters())


class Scripted(Pixelwise):
    """Adds a row of `script` to the logits of each image that it sees, whether they come in one call or in many."""

    script = torch.tensor([[2.0, 0, 0], [0, 1, 0], [0, 0, 3], [1, 1, 0]])

    def decode(self, features: list[Tensor]) -> Tensor:
        seen = getattr(self, "seen", 0)
        self.seen = seen + len(features[0])
        return super().decode(features) + self.script[seen : self.seen, :, None, None]


@pytest.mark.parametrize("passes_per_call", [None, 1, 2, 3])
def test_uamt_takes_the_entropy_of_the_mean_of_t_passes_and_the_target_from_one_more(passes_per_call):
    method = made(UAMT, noise=0, num_passes=3, passes_per_call=passes_per_call)
    image = torch.randn(1, 1, 4, 5)
    plain = method.teacher.network.numpy(image)
    method.teacher.network.__class__ = Scripted
    z_t, p_mean = method.teach(image)
    script = Scripted.script.double().numpy()[:, None, :, None, None]
    np.testing.assert_allclose(z_t, plain + script[0], rtol=1e-5)
    np.testing.assert_allclose(p_mean, np.mean([softmax(plain + row) for row in script[1:]], axis=0), rtol=1e-5)
    assert method.teacher.network.seen == 4


@pytest.mark.parametrize("kind", [MeanTeacher, UAMT])
def test_consistency_sees_the_unlabelled_images_alone_and_supervision_the_labelled(kind, batch):
    method = made(kind, noise=0)
    before = losses(method, batch)
    other_image = losses(method, batch._replace(image=torch.randn_like(batch.image)))
    other_unlabeled = losses(method, batch._replace(unlabeled=torch.randn_like(batch.unlabeled)))
    assert other_image["consistency"] == pytest.approx(before["consistency"])
    assert other_image["supervised"] != pytest.approx(before["supervised"])
    assert other_unlabeled["supervised"] == pytest.approx(before["supervised"])
    assert other_unlabeled["consistency"] != pytest.approx(before["consistency"])


@pytest.mark.parametrize("kind", [MeanTeacher, UAMT])
def test_a_teacher_that_agrees_costs_nothing(kind, batch):
    assert losses(kind(network=Pixelwise, noise=0), batch)["consistency"] == pytest.approx(0, abs=1e-12)


# -- mixing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("area", [0.1, 0.5, 0.9])
def test_a_cutmix_box_is_one_rectangle_of_the_asked_area_anywhere(area):
    masks = cutmix_mask(torch.zeros(1000, 3, 40, 60), area)
    assert masks.shape == (1000, 1, 40, 60)
    rows, columns = masks.amax(dim=3)[:, 0], masks.amax(dim=2)[:, 0]
    assert torch.equal(masks[:, 0], rows[:, :, None] * columns[:, None, :])
    for line in (rows, columns):  # each is one run: 0 ... 0 1 ... 1 0 ... 0
        assert (line.diff(dim=1).abs().sum(dim=1) + line[:, 0] + line[:, -1]).eq(2).all()
        assert line.amax(dim=0).all()
    assert masks.mean(dim=(1, 2, 3)).sub(area).abs().max() < 0.04  # whole pixels of 40 and 60


def test_mix_takes_b_inside_and_a_outside():
    a, b, mask = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4), torch.randint(2, (2, 1, 4, 4)).float()
    assert torch.equal(mix(a, b, mask), torch.where(mask == 1, b, a))


# -- noise ------------------------------------------------------------------------------------------------------------


def test_noise_is_gaussian_and_clipped():
    e = noisy(torch.zeros(1 << 18), std=0.1, limit=0.2)
    assert e.abs().max().item() == pytest.approx(0.2)
    # A Gaussian lies beyond two deviations with probability 0.0455, and within one with 0.6827.
    assert (e.abs() == e.abs().max()).float().mean().item() == pytest.approx(0.0455, abs=0.003)
    assert (e.abs() < 0.1).float().mean().item() == pytest.approx(0.6827, abs=0.006)
    assert e.mean().item() == pytest.approx(0, abs=0.0012)


def test_noise_reaches_the_teacher_but_not_the_student(batch):
    method = made(MeanTeacher, noise=0.1)
    seen: dict[str, Tensor] = {}
    for name, network in (("student", method.student), ("teacher", method.teacher.network)):
        network.register_forward_pre_hook(lambda _, inputs, name=name: seen.update({name: inputs[0]}))
    losses(method, batch)
    assert torch.equal(seen["student"], torch.cat([batch.image, batch.unlabeled]))
    distance = (seen["teacher"] - batch.unlabeled).abs()
    assert 0 < distance.min() < distance.max() <= 0.2 + 1e-6


def test_each_of_uamts_teacher_passes_has_a_noise_of_its_own(batch):
    method, seen = made(UAMT, noise=0.1, num_passes=2, passes_per_call=2), []
    method.teacher.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    losses(method, batch)
    noise = torch.stack(torch.cat(seen).split(3)) - batch.unlabeled
    assert len(noise) == 3
    assert 0 < noise.abs().min() < noise.abs().max() <= 0.2 + 1e-6
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(noise, 2))


# -- gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [MeanTeacher, UAMT])
@pytest.mark.parametrize("term", ["supervised", "consistency"])
def test_each_term_reaches_the_student_and_never_the_teacher(kind, term, batch):
    method = made(kind)
    method("segmenter", batch, HALFWAY)[term].backward()
    assert all(p.grad.abs().sum() > 0 for p in method.student.parameters())
    assert all(p.grad is None and not p.requires_grad for p in method.teacher.parameters())


@pytest.mark.parametrize("kind", [Supervised, MeanTeacher, UAMT])
def test_the_optimiser_moves_the_student_alone(kind):
    method = made(kind)
    assert method.phases == ("segmenter",)
    assert {id(p) for p in method.parameters_of("segmenter")} == {id(p) for p in method.student.parameters()}


# -- the EMA teacher --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [0.0, 0.9, 0.99])
@pytest.mark.parametrize("step", [0, 1, 2, 8, 98, 99, 100, 30_000])
def test_the_teacher_follows_to_the_letter(step, decay):
    student = Pixelwise()
    teacher = EMATeacher(student, decay=decay)
    with torch.no_grad():
        for p in student.parameters():
            p.normal_()
    before, now = copy.deepcopy(teacher.network.state_dict()), copy.deepcopy(student.state_dict())
    teacher.follow(student, Progress(step, 30_001))
    a = min(1 - 1 / (step + 1), decay)
    for name, value in teacher.network.state_dict().items():
        torch.testing.assert_close(value, a * before[name] + (1 - a) * now[name])
        assert torch.equal(student.state_dict()[name], now[name])


def test_the_teacher_has_no_graph_even_for_an_image_that_wants_one():
    assert not EMATeacher(Pixelwise(), decay=0.99)(torch.randn(1, 1, 2, 2, requires_grad=True)).requires_grad


def test_the_first_steps_average_evenly():
    student, history = Pixelwise(), []
    teacher = EMATeacher(student, decay=0.99)
    for step in range(20):
        with torch.no_grad():
            student.head.weight.normal_()
        history.append(student.head.weight.detach().clone())
        teacher.follow(student, Progress(step, 100))
    torch.testing.assert_close(teacher.network.head.weight, torch.stack(history).mean(dim=0))


def test_the_teacher_starts_as_a_copy_and_leaves_buffers_to_its_own_passes():
    student = Pixelwise()
    student.norm = nn.BatchNorm2d(K)
    teacher = EMATeacher(student, decay=0.99)
    assert all(torch.equal(a, b) for a, b in zip(teacher.parameters(), student.parameters(), strict=True))
    student.norm.running_mean.fill_(7)
    teacher.follow(student, Progress(3, 10))
    assert teacher.network.norm.running_mean.eq(0).all()


@pytest.mark.parametrize(
    ("published", "total", "decay"),
    [
        (0.99, 10, 0.0),
        (0.99, 100, 0.75),
        (0.99, 500, 0.95),
        (0.99, 2500, 0.99),
        (0.99, 30000, 0.99),
        (0.996, 2500, 0.99),
        (0.996, 6250, 0.996),
        (0.996, 39300, 0.996),
    ],
)
def test_the_decay_auto_is_the_published_one_unless_the_run_is_short_and_a_number_is_taken_as_it_is(
    published, total, decay
):
    student = Pixelwise()
    auto, fixed = (EMATeacher(student, decay=given, published=published) for given in ("auto", 0.5))
    assert auto.decay_of(total) == pytest.approx(decay)
    assert fixed.decay_of(total) == 0.5
    before = student.head.weight.detach().clone()
    with torch.no_grad():
        student.head.weight.add_(1)
    auto.follow(student, Progress(total - 1, total))
    expected = before + 1 - min(decay, 1 - 1 / total)
    torch.testing.assert_close(auto.network.head.weight.detach(), expected)


@pytest.mark.parametrize("kind", [MeanTeacher, UAMT])
def test_after_step_lets_the_teacher_follow(kind, batch):
    method = made(kind, ema_decay=0.9)
    before = method.teacher.network.head.weight.clone()
    method.after_step(Progress(50, 100))
    expected = 0.9 * before + 0.1 * method.student.head.weight
    torch.testing.assert_close(method.teacher.network.head.weight, expected)


# -- what is told, and who predicts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (lambda: made(Supervised), {}),
        (lambda: made(MeanTeacher), {"consistency_weight": W_HALFWAY}),
        (lambda: made(MeanTeacher, consistency_weight=2.0, rampup_steps=50), {"consistency_weight": 2.0}),
        (
            lambda: made(UAMT),
            {"consistency_weight": W_HALFWAY, "entropy_threshold": (0.75 + 0.25 * math.exp(-1.25)) * math.log(3)},
        ),
        (
            lambda: made(UAMT, max_entropy=0.6931, consistency_weight=0.0),
            {"consistency_weight": 0.0, "entropy_threshold": (0.75 + 0.25 * math.exp(-1.25)) * 0.6931},
        ),
    ],
)
def test_weights_tell_the_schedules_at_half_time(method, expected):
    assert method().weights(HALFWAY) == pytest.approx(expected)


@pytest.mark.parametrize("who", ["student", "teacher"])
def test_predict_with_says_which_network_predicts(who, batch):
    method = made(MeanTeacher, predict_with=who).eval()
    network = method.student if who == "student" else method.teacher.network
    np.testing.assert_allclose(method.predict(batch.image).detach(), network.numpy(batch.image), atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        (MeanTeacher, {"ema_decay": 1.0}),
        (MeanTeacher, {"ema_decay": -0.1}),
        (MeanTeacher, {"ema_decay": "fast"}),
        (MeanTeacher, {"noise": -1}),
        (MeanTeacher, {"noise_limit": -1}),
        (MeanTeacher, {"predict_with": "both"}),
        (MeanTeacher, {"consistency_weight": -1}),
        (MeanTeacher, {"rampup_steps": -1}),
        (UAMT, {"num_passes": 0}),
        (UAMT, {"max_entropy": 0.0}),
        (UAMT, {"max_entropy": math.inf}),
        (UAMT, {"passes_per_call": 0}),
        (UAMT, {"ema_decay": 1.0}),
    ],
)
def test_a_wrong_value_is_refused_by_its_key(kind, keys):
    with pytest.raises(UserError, match=f"method.{next(iter(keys))}"):
        kind(network=Pixelwise, **keys)
