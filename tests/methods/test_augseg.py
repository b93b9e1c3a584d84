"""AugSeg against its paper in NumPy; where each pixel comes from is read off its value."""

import math

import numpy as np
import pytest
import torch
from pixelwise import HALFWAY, K, Pixelwise, entropies, losses, numpy_supervised, softmax
from torch import Tensor

from ssl4seg.augment.mixing import beta_boxes
from ssl4seg.errors import UserError
from ssl4seg.keys import IGNORE
from ssl4seg.methods.augseg import AugSeg
from ssl4seg.types import Batch

SIDE = 20


@pytest.fixture
def batch() -> Batch:
    """Two labelled images and five unlabelled ones in [0, 1]."""
    label = torch.randint(K, (2, SIDE, SIDE))
    label[0, :5] = IGNORE
    return Batch(torch.rand(2, 1, SIDE, SIDE), label, torch.rand(5, 1, SIDE, SIDE))


def made(**keys: object) -> AugSeg:
    """Its teacher is not its student, and is sure of some pixels."""
    method = AugSeg(network=Pixelwise, **keys)
    with torch.no_grad():
        method.teacher.network.head.weight.copy_(torch.tensor([-6.0, 0, 6]).view(K, 1, 1, 1))
        method.teacher.network.head.bias.copy_(torch.tensor([2.0, 0, -2]))
    return method.train()


def teacher_of(method: AugSeg, image: Tensor) -> np.ndarray:
    return softmax(method.teacher.network.numpy(image))


@pytest.mark.parametrize("weight", [1.0, 0.3])
@pytest.mark.parametrize("threshold", [0.0, 0.8, 0.95])
def test_the_loss_is_cross_entropy_of_confident_and_labelled_pixels_over_all_pixels(batch, threshold, weight):
    method = made(threshold=threshold, consistency_weight=weight)
    torch.manual_seed(3)
    found = losses(method, batch)
    torch.manual_seed(3)  # the same draws again, to know what the student saw
    with torch.no_grad():
        p_t = method.teacher(batch.unlabeled).softmax(dim=1)
        x, y, c = method.mixed(method.intensities(batch.unlabeled), p_t, batch)
    p_s, counted = softmax(method.student.numpy(x)), (c.numpy() >= threshold) & (y.numpy() != IGNORE)
    assert 0 < counted.sum() < counted.size
    each = -np.log(np.take_along_axis(p_s, np.where(counted, y, 0)[:, None], axis=1)[:, 0])
    assert found["consistency"] == pytest.approx(weight * (counted * each).mean(), rel=1e-5)
    assert found["supervised"] == pytest.approx(
        numpy_supervised(method.student.numpy(batch.image), batch.label.numpy()), rel=1e-5
    )
    assert len(found) == 2


def test_every_pixel_keeps_its_class_and_confidence_wherever_it_goes(batch):
    method, num = made(), 40
    # The value of a pixel tells its image and place: unlabelled ones from 0 to 39, labelled ones from 100.
    place = torch.arange(SIDE * SIDE).view(SIDE, SIDE) / SIDE**2
    x = torch.arange(num).view(-1, 1, 1, 1) + place
    coded = Batch((torch.tensor([100, 101]).view(-1, 1, 1, 1) + place), batch.label, x)
    p_t = torch.randn(num, K, SIDE, SIDE).mul(2).softmax(dim=1)
    p_t[::2] = 1 / K  # every other image is as doubtful as can be
    mixed, y, c = method.mixed(x, p_t, coded)
    source = mixed[:, 0].floor().long()
    torch.testing.assert_close(mixed[:, 0] - source, place.expand(num, -1, -1), atol=1e-4, rtol=0)
    for i in range(num):
        for k in source[i].unique().tolist():
            here = source[i] == k
            assert k in (i, (i - 1) % num, 100, 101)  # itself, the image before it, or a labelled one
            expected = (p_t[k].amax(0), p_t[k].argmax(0)) if k < 100 else (torch.ones_like(c[i]), batch.label[k - 100])
            assert torch.equal(c[i][here], expected[0][here].to(c))
            assert torch.equal(y[i][here], expected[1][here])


def test_doubtful_images_get_labelled_pixels_and_sure_ones_none(batch):
    method, num = made(), 400
    x = torch.zeros(num, 1, SIDE, SIDE)
    ones = batch._replace(image=torch.ones(2, 1, SIDE, SIDE))

    def share(p_t: Tensor) -> float:
        """Of the images whose box from the image before holds labelled pixels."""
        mixed, _, _ = method.mixed(x, p_t, ones)
        return (mixed == 1).flatten(1).any(dim=1).float().mean().item()

    sure = torch.eye(K)[0].view(1, K, 1, 1).expand(num, K, SIDE, SIDE)
    assert share(sure) == 0
    most = share(torch.full_like(sure, 1 / K))
    p = torch.tensor([0.8, 0.1, 0.1]).view(1, K, 1, 1).expand_as(sure)
    rho = 0.8 * (1 - entropies(np.log(p[:1].numpy())).mean() / math.log(K))
    assert most > 0.7  # though some boxes miss the labelled pixels
    assert share(p) == pytest.approx((1 - rho) * most, abs=0.1)


@pytest.mark.parametrize(("a", "b"), [(2, 8), (4, 4)])
def test_boxes_have_the_images_shape_and_an_area_of_their_beta_distribution(a, b):
    boxes = beta_boxes(torch.zeros(2000, 1, 40, 80), a, b)[:, 0]
    rows, columns = (boxes.amax(dim=d).sum(dim=1) for d in (2, 1))
    assert torch.equal(rows * columns, boxes.sum(dim=(1, 2)))  # filled rectangles
    assert (columns - 2 * rows).abs().max() <= 2
    area = boxes.mean(dim=(1, 2))
    assert area.mean() == pytest.approx(a / (a + b), abs=0.015)
    assert area.var() == pytest.approx(a * b / (a + b) ** 2 / (a + b + 1), rel=0.15)
    middle = boxes.mean(dim=0)  # uniform places are symmetric about the middle
    torch.testing.assert_close(middle, middle.flip(0, 1), atol=0.06, rtol=0)


def test_intensities_change_each_image_by_one_to_three_operations(batch):
    image = torch.rand(300, 3, 24, 24)
    changed = (made().intensities(image) != image).flatten(1).any(dim=1)
    # Nothing but identities: 1/3 (1/11 + 1/11^2 + 1/11^3) = 3 %.
    assert 0.92 < changed.float().mean() < 1
    once = AugSeg(network=Pixelwise, num_operations=1).intensities(image)
    assert 0.86 < (once != image).flatten(1).any(dim=1).float().mean() < 0.95  # 10/11


def test_one_unlabelled_image_is_enough(batch):
    found = losses(made(), batch._replace(unlabeled=batch.unlabeled[:1]))
    assert all(math.isfinite(value) for value in found.values())


def test_without_a_confident_or_labelled_pixel_consistency_is_zero_with_zero_gradient(batch):
    method = made(threshold=0.99999)
    nothing = batch._replace(label=torch.full_like(batch.label, IGNORE))
    value = method("segmenter", nothing, HALFWAY)["consistency"]
    value.backward()
    assert value.item() == 0
    assert all(p.grad.eq(0).all() for p in method.student.parameters())
    assert all(p.grad is None for p in method.teacher.parameters())


def test_the_teacher_teaches_and_follows_and_predicts_if_asked(batch):
    method = made(threshold=0.9, predict_with="teacher")
    p, used = method.pseudo_labels(batch.unlabeled, HALFWAY)
    expected = teacher_of(method, batch.unlabeled)
    np.testing.assert_allclose(p, expected, atol=1e-6)
    assert np.array_equal(used, expected.max(axis=1) >= 0.9)
    assert method.predictor is method.teacher
    before = [p.clone() for p in method.teacher.parameters()]
    method.after_step(HALFWAY)
    follow = 1 - min(1 - 1 / (HALFWAY.step + 1), 1 - 25 / HALFWAY.total)
    for mine, then, student in zip(method.teacher.parameters(), before, method.student.parameters(), strict=True):
        torch.testing.assert_close(mine, (1 - follow) * then + follow * student.detach())


@pytest.mark.parametrize(
    "keys",
    [
        {"threshold": 1.0},
        {"consistency_weight": -1.0},
        {"num_operations": 0},
        {"ema_decay": 1.0},
        {"predict_with": "x"},
    ],
)
def test_a_wrong_value_is_refused_by_its_key(keys):
    with pytest.raises(UserError, match=f"method.{next(iter(keys))}"):
        AugSeg(network=Pixelwise, **keys)
