"""Losses of slices and of volumes against numbers worked out by hand and against NumPy."""

import math

import numpy as np
import pytest
import torch
from pixelwise import numpy_cross_entropy, numpy_dice, numpy_supervised, softmax
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ssl4seg.keys import IGNORE
from ssl4seg.methods.parts.losses import (
    CrossEntropyDice,
    HardPixels,
    batch_mean,
    cross_entropy,
    dice,
    masked_cross_entropy,
    ratio,
    softmax_mse,
)
from ssl4seg.processes import all_sum

supervised = CrossEntropyDice()
LOSSES = [cross_entropy, dice, supervised, HardPixels()]
SHAPES = [(5, 6), (4, 3, 5)]
of_slices_and_volumes = pytest.mark.parametrize("shape", SHAPES, ids=["slices", "volumes"])


def sharp(label: Tensor, num_classes: int) -> Tensor:
    """Logits that are sure of `label`."""
    return 200.0 * torch.nn.functional.one_hot(label, num_classes).movedim(-1, 1)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (cross_entropy, math.log(2)),  # p = 1/2 everywhere
        (dice, 1 / 3),  # each class: 1 - 2 (1/2) / (2 (1/4) + 1)
        (supervised, (math.log(2) + 1 / 3) / 2),
    ],
)
@pytest.mark.parametrize("shape", [(1, 2), (1, 1, 2)])
def test_undecided_logits_score_what_a_hand_calculation_gives(loss, expected, shape):
    label = torch.tensor([0, 1]).view(1, *shape)
    assert loss(torch.zeros(1, 2, *shape), label).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("loss", "reference"), [(cross_entropy, numpy_cross_entropy), (dice, numpy_dice), (supervised, numpy_supervised)]
)
@pytest.mark.parametrize("num_classes", [2, 4, 21])
@of_slices_and_volumes
def test_losses_equal_numpy_with_a_third_of_the_pixels_ignored(loss, reference, num_classes, shape):
    z, y = 3 * torch.randn(3, num_classes, *shape), torch.randint(num_classes, (3, *shape))
    y[torch.rand(y.shape) < 1 / 3] = IGNORE
    expected = reference(z.double().numpy(), y.numpy())
    assert loss(z, y).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
@of_slices_and_volumes
def test_a_sure_and_right_prediction_costs_nothing(loss, shape):
    y = torch.randint(3, (2, *shape))
    assert loss(sharp(y, 3), y).item() == pytest.approx(0, abs=1e-5)


def test_dice_of_a_sure_and_wrong_prediction_is_one():
    y = torch.tensor([[[0, 1]]])
    assert dice(sharp(1 - y, 2), y).item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("loss", LOSSES)
@of_slices_and_volumes
def test_ignored_pixels_are_as_if_cropped_away(loss, shape):
    z, y = torch.randn(2, 4, *shape), torch.randint(4, (2, *shape))
    y[:, 2:] = IGNORE
    torch.testing.assert_close(loss(z, y), loss(z[:, :, :2], y[:, :2]))


@pytest.mark.parametrize("loss", LOSSES)
@of_slices_and_volumes
def test_everything_ignored_is_zero_with_zero_gradient(loss, shape):
    z = torch.randn(2, 4, *shape, requires_grad=True)
    value = loss(z, torch.full((2, *shape), IGNORE))
    value.backward()
    assert value.item() == 0
    assert z.grad.eq(0).all()


@pytest.mark.parametrize(
    ("threshold", "min_share"), [(0.7, 0.1), (0.2, 0.3), (1, 0), (0.01, 0), (0.01, 0.9), (0.01, 1)]
)
@of_slices_and_volumes
def test_hard_pixels_equal_numpy(threshold, min_share, shape):
    z, y = 2 * torch.randn(2, 3, *shape), torch.randint(3, (2, *shape))
    y[torch.rand(y.shape) < 0.3] = IGNORE
    own = np.moveaxis(softmax(z.double().numpy()), 1, -1)[y != IGNORE]
    own = np.sort(own[np.arange(len(own)), y[y != IGNORE].numpy()])  # the hardest first
    num = max((own <= threshold).sum(), 1, round(min_share * y.numel()))
    expected = -np.log(own[:num]).mean()
    assert HardPixels(threshold=threshold, min_share=min_share)(z, y).item() == pytest.approx(expected, rel=1e-5)


@of_slices_and_volumes
def test_the_weights_of_cross_entropy_and_dice(shape):
    z, y = torch.randn(2, 3, *shape), torch.randint(3, (2, *shape))
    torch.testing.assert_close(CrossEntropyDice(cross_entropy=1, dice=0)(z, y), cross_entropy(z, y))
    expected = 0.25 * cross_entropy(z, y) + 2 * dice(z, y)
    torch.testing.assert_close(CrossEntropyDice(cross_entropy=0.25, dice=2)(z, y), expected)


def test_the_smoothing_of_dice():
    z, y = torch.zeros(1, 2, 1, 1), torch.tensor([[[0]]])  # p = 1/2
    loss = CrossEntropyDice(cross_entropy=0, dice=3, smooth=0.25)
    assert loss(z, y).item() == pytest.approx(1)  # 3 x the mean of 1 - 1.25 / 1.5 and 1 - 0.25 / 0.5
    assert loss.smoothed_by(0.5)(z, y).item() == pytest.approx(3 * (1 / 7 + 1 / 3) / 2)  # 1 - 1.5/1.75, 1 - 0.5/0.75


@pytest.mark.parametrize("smooth", [1e-5, 1e-10])
def test_dice_pushes_an_absent_class_away_once_its_squares_are_near_the_smoothing(smooth):
    z, y = torch.zeros(1, 2, 4, 4, dtype=torch.float32), torch.zeros(1, 4, 4, dtype=torch.int64)
    z[:, 1] = -6.0  # p = 0.0025, sum p^2 = 1e-4
    z.requires_grad_()
    dice(z, y, smooth).backward()
    p = 1 / (1 + math.exp(6))
    # of class 1: d/dp [1 - s / (16 p^2 + s)] / 2 = 16 p s / (16 p^2 + s)^2 for all pixels; of class 0, p = q:
    # d/dp [1 - (32 q + s) / (16 q^2 + 16 + s)] / 2 with q = 1 - p
    absent = 2 * 16 * p * smooth / (16 * p**2 + smooth) ** 2 / 2
    q, total = 1 - p, 16 * (1 - p) ** 2 + 16 + smooth
    present = -(32 * total - (32 * 16 * q + smooth) * 2 * q) / total**2 / 2
    assert z.grad[:, 1].sum().item() == pytest.approx((absent - present) * p * q, rel=1e-3)
    assert (absent > 10 * abs(present)) == (smooth == 1e-5)


@pytest.mark.parametrize("shape", [(2, 2), (2, 1, 2)])
def test_gradient_of_cross_entropy_is_p_minus_y_over_the_counted_pixels(shape):
    z, y = torch.randn(1, 3, *shape, requires_grad=True), torch.tensor([0, 2, IGNORE, 1]).view(1, *shape)
    cross_entropy(z, y).backward()
    counted = y != IGNORE
    one_hot = torch.nn.functional.one_hot(y.masked_fill(~counted, 0), 3).movedim(-1, 1)
    torch.testing.assert_close(z.grad, (z.detach().softmax(1) - one_hot) * counted[:, None] / 3)


@pytest.mark.parametrize("loss", LOSSES)
@of_slices_and_volumes
def test_half_precision_logits_are_computed_in_float32(loss, shape):
    z, y = torch.randn(2, 4, *shape).bfloat16(), torch.randint(4, (2, *shape))
    assert loss(z, y).dtype == torch.float32
    assert torch.equal(loss(z, y), loss(z.float(), y))


@pytest.mark.parametrize("shape", [(1, 1), (1, 1, 1)])
def test_softmax_mse_is_the_square_per_pixel_and_class(shape):
    # softmax(0, 0) = 1/2, 1/2 and softmax(ln 3, 0) = 3/4, 1/4
    a, b = torch.zeros(1, 2, *shape), torch.tensor([math.log(3), 0.0]).view(1, 2, *shape)
    torch.testing.assert_close(softmax_mse(a, b), torch.full((1, 2, *shape), 1 / 16))


@of_slices_and_volumes
def test_a_masked_pixel_is_a_zero_in_the_mean_over_all(shape):
    z, y, weight = torch.randn(2, 3, *shape), torch.randint(3, (2, *shape)), torch.rand(2, *shape).round()
    p = np.moveaxis(softmax(z.double().numpy()), 1, -1)
    expected = -(weight.numpy() * np.log(np.take_along_axis(p, y.numpy()[..., None], -1)[..., 0])).mean()
    assert masked_cross_entropy(z, y, weight).item() == pytest.approx(expected, rel=1e-5)


class Operations(TorchDispatchMode):
    """Notes what is called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))


def test_batch_mean_is_the_mean_and_brings_nothing_from_the_host():
    value = torch.randn(2, 3, 4)
    with Operations() as operations:
        mean = batch_mean(value)
    torch.testing.assert_close(mean, value.mean())
    assert "aten::lift_fresh" not in operations.names  # a tensor made on the host: its copy waits for the device


@pytest.mark.parametrize(("over", "under", "expected"), [(3.0, 2.0, 1.5), (0.0, 0.0, 0.0)])
def test_ratio_is_zero_where_nothing_counts(over, under, expected):
    assert ratio(torch.tensor(over), torch.tensor(under)).item() == expected


def test_a_single_process_sums_over_itself():
    value = torch.randn(3, requires_grad=True)
    assert all_sum(value) is value
