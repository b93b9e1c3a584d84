"""GCT's flaw detector: its layers stated once more, and its maps against NumPy and SciPy."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flaws import gaussian, target
from torch import nn

from ssl4seg.keys import IGNORE
from ssl4seg.methods.parts.flaw_detector import FlawDetector, blurred, comparable, flaw_target


@pytest.mark.parametrize("dilations", [0, 1, 2])
@pytest.mark.parametrize("size", [(4, 5), (16, 24), (41, 33)])
def test_the_target_is_where_a_prediction_is_wrong_blurred_dilated_and_stretched(size, dilations):
    p, label = torch.randn(2, 3, *size).softmax(dim=1), torch.randint(3, (2, *size))
    label[1, 1:3] = IGNORE
    found = flaw_target(p, label, dilations)
    for each, p_n, label_n in zip(found, p.double().numpy(), label.numpy(), strict=True):
        np.testing.assert_allclose(each, target(p_n, label_n, dilations), atol=1e-5)


@pytest.mark.parametrize("label", [0, IGNORE])
def test_what_is_right_or_ignored_has_no_flaw(label):
    right = torch.zeros(1, 3, 16, 16).index_fill_(1, torch.tensor([0]), 1)
    assert flaw_target(right, torch.full((1, 16, 16), label)).eq(0).all()


def test_comparable_flaws_are_positive_smooth_and_stretched():
    flaws = torch.randn(3, 48, 64)
    for found, raw in zip(comparable(flaws), flaws.double().numpy(), strict=True):
        smooth = gaussian(np.maximum(raw, 0), 48 // 16)
        expected = (smooth - smooth.min()) / (smooth.max() - smooth.min())
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_an_image_with_small_flaws_alone_has_none():
    flaws = torch.zeros(2, 8, 8)
    flaws[0, 3, 3], flaws[1, 3, 3] = 0.099, 0.11  # a kernel of one pixel, for so small an image
    found = comparable(flaws)
    assert found[0].eq(0).all()
    assert found[1].max().item() == pytest.approx(1)


def test_flaws_are_compared_without_a_graph():
    assert not comparable(torch.rand(1, 8, 8, requires_grad=True)).requires_grad
    p = torch.rand(1, 2, 8, 8, requires_grad=True).softmax(dim=1)
    assert not flaw_target(p, torch.zeros(1, 8, 8, dtype=torch.int64)).requires_grad


def test_a_blur_keeps_float32_under_autocast():
    maps = torch.rand(1, 1, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = blurred(maps, 4)
    assert found.dtype == torch.float32
    assert torch.equal(found, blurred(maps, 4))


@torch.no_grad()
def test_the_detector_has_the_authors_layers():
    detector = FlawDetector(in_channels=4).double()
    for p in detector.parameters():
        if p.ndim == 1:
            p.uniform_(-0.5, 0.5)
    image, prediction = torch.rand(2, 1, 96, 100).double(), torch.rand(2, 3, 96, 100).double()
    x = torch.cat([image, prediction], dim=1)
    weights = iter([(m.weight, m.bias) for m in detector.modules() if isinstance(m, nn.Conv2d)])
    affine = iter([(m.weight, m.bias) for m in detector.modules() if isinstance(m, nn.BatchNorm2d)])
    for width, stride in [
        (64, 2),
        (128, 2),
        (128, 1),
        (256, 2),
        (256, 1),
        (512, 1),
        (512, 1),
    ]:  # 512: 2 from 256 pixels
        x = F.conv2d(x, *next(weights), stride, padding=1)
        assert x.shape[1] == width
        of_batch, of_image = x.chunk(2, dim=1)
        gamma, beta = (value.view(1, -1, 1, 1) for value in next(affine))
        mean, var = of_batch.mean(dim=(0, 2, 3), keepdim=True), of_batch.var(dim=(0, 2, 3), correction=0, keepdim=True)
        of_batch = (of_batch - mean) / (var + 1e-5).sqrt() * gamma + beta
        mean, var = of_image.mean(dim=(2, 3), keepdim=True), of_image.var(dim=(2, 3), correction=0, keepdim=True)
        x = torch.cat([of_batch, (of_image - mean) / (var + 1e-5).sqrt()], dim=1)
        x = torch.where(x > 0, x, 0.2 * x)
    x = F.conv2d(x, *next(weights), stride=1, padding=1)
    assert x.shape[2:] == (7, 8)
    expected = F.interpolate(x, size=(96, 100), mode="bilinear", align_corners=True)[:, 0]
    found = detector(image, prediction).double()
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found[:, [0, -1]][:, :, [0, -1]], x[:, 0, [0, -1]][:, :, [0, -1]], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("side", "strides"),
    [
        (321, (2, 2, 1, 2, 1, 2, 1, 2)),  # the authors'
        (256, (2, 2, 1, 2, 1, 2, 1, 2)),
        (128, (2, 2, 1, 2, 1, 1, 1, 1)),
        (64, (2, 2, 1, 1, 1, 1, 1, 1)),
        (15, (1, 1, 1, 1, 1, 1, 1, 1)),
    ],
)
def test_strides_leave_at_least_seven_places(side, strides):
    assert FlawDetector(in_channels=4).strides(side) == strides
    x = torch.empty(1, 1, side, side, device="meta")
    for stride in strides:
        x = F.conv2d(x, torch.empty(1, 1, 4, 4, device="meta"), stride=stride, padding=1)
    assert x.shape[2] >= 7


@pytest.mark.parametrize("size", [(1, 1), (5, 4), (33, 100)])
def test_any_size_and_a_batch_of_one_give_a_map_of_flaws(size):
    p = torch.rand(1, 3, *size, requires_grad=True)
    flaws = FlawDetector(in_channels=4)(torch.rand(1, 1, *size), p)
    assert (flaws.shape, flaws.dtype) == ((1, *size), torch.float32)
    flaws.sum().backward()
    assert p.grad.isfinite().all()
    assert p.grad.abs().sum() > 0


def test_half_of_the_channels_is_batch_normalised():
    norms = [m for m in FlawDetector(in_channels=4).modules() if isinstance(m, nn.BatchNorm2d | nn.InstanceNorm2d)]
    assert [m.num_features for m in norms] == [32, 32, 64, 64, 64, 64, 128, 128, 128, 128, 256, 256, 256, 256]
