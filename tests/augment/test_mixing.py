"""Mixing two images, slices or volumes, against the definitions in the papers."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from ssl4seg.augment.mixing import (
    beta_boxes,
    classmix_mask,
    copy_paste_mask,
    cut_patches,
    cutmix_boxes,
    cutmix_mask,
    low_frequencies,
    mix,
    mix_labels,
    mixup_shares,
    paste_patch,
    swap_low_frequencies,
)
from ssl4seg.keys import IGNORE

IMAGES = [torch.zeros(40, 1, 16, 20), torch.zeros(40, 1, 12, 16, 20)]
of_slices_and_volumes = pytest.mark.parametrize("images", IMAGES, ids=["slices", "volumes"])


def sides(masks: Tensor) -> Tensor:
    """The lengths [n, N] of the boxes along the axes; each mask is one filled box, or empty."""
    num, axes = len(masks), masks.ndim - 2
    box, full, lengths = masks[:, 0], torch.ones(()), []
    for axis in range(1, axes + 1):
        line = box.amax(dim=[other for other in range(1, axes + 1) if other != axis])
        assert (line.diff(dim=1).abs().sum(dim=1) + line[:, 0] + line[:, -1]).le(2).all()  # at most one run of ones
        full = full * line.view(num, *(-1 if other == axis else 1 for other in range(1, axes + 1)))
        lengths.append(line.sum(dim=1))
    assert torch.equal(box, full)
    return torch.stack(lengths)


# -- ClassMix ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("present", "taken"), [([3], 0), ([0, 2], 1), ([0, 1, 4], 1), ([0, 1, 2, 5], 2), ([*range(6)], 3)]
)
@pytest.mark.parametrize("shape", [(2, -1), (2, 3, -1)])
def test_half_of_the_classes_that_are_there_are_taken_rounded_down_and_whole(present, taken, shape):
    label = torch.tensor(present).repeat(40, 6)[:, torch.randperm(6 * len(present))].view(40, *shape)
    mask = classmix_mask(label, 6)[:, 0]
    assert mask.shape == label.shape
    chosen = []
    for one, where in zip(label, mask, strict=True):
        inside, outside = ({*one[where == v].tolist()} for v in (1, 0))
        assert inside | outside == {*present}
        assert not inside & outside
        assert len(inside) == taken
        chosen += sorted(inside)
    if taken:  # each image draws its own, and every class has its turn
        assert {*chosen} == {*present}


def test_classes_are_taken_with_the_same_probability_and_ignored_pixels_never():
    label = torch.tensor([0, 0, 0, 1, 2, IGNORE]).repeat(3000, 1)[:, None]
    mask = classmix_mask(label, 3)[:, 0, 0]
    assert mask[:, 5].eq(0).all()
    np.testing.assert_allclose(mask[:, 2:5].mean(dim=0), 1 / 3, atol=0.04)


# -- boxes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "side", "box"),
    [((256, 256), 2 / 3, (170, 170)), ((30, 60), 0.5, (15, 30)), ((12, 16, 20), 2 / 3, (8, 10, 13))],
)
def test_a_copied_box_has_the_asked_share_of_each_side_and_lies_anywhere(size, side, box):
    masks = copy_paste_mask(torch.zeros(200, 3, *size), side)
    assert torch.equal(sides(masks), torch.tensor(box).float()[:, None].expand(-1, 200))
    firsts = np.unravel_index(masks[:, 0].flatten(1).argmax(dim=1).numpy(), size)
    for place, length, of_box in zip(firsts, size, box, strict=True):
        room = length - of_box
        assert place.min() < 0.1 * room
        assert place.max() > 0.9 * room
        assert place.mean() == pytest.approx(room / 2, rel=0.15)


@of_slices_and_volumes
def test_a_cutmix_box_has_its_share_of_the_image_and_the_axes_share_alike(images):
    axes = images.ndim - 2
    masks = cutmix_mask(torch.zeros(200, 1, *[40] * axes), 0.5)
    torch.testing.assert_close(masks.flatten(1).mean(dim=1), torch.full((200,), 0.5), atol=0.03, rtol=0)
    lengths = (sides(masks) / 40).log().mean(dim=1)
    assert lengths.tolist() == pytest.approx([math.log(0.5) / axes] * axes, abs=0.05)


@of_slices_and_volumes
def test_beta_boxes_have_the_images_proportions_and_their_share_is_betas(images):
    lengths = sides(beta_boxes(images, 4, 4)) / torch.tensor(images.shape[2:])[:, None]
    assert (lengths - lengths.mean(dim=0)).abs().max() < 0.06
    assert lengths.prod(dim=0).mean().item() == pytest.approx(0.5, abs=0.1)  # standard error 0.026


def test_half_of_the_images_have_a_cutmix_box_of_2_to_40_percent_up_to_three_times_as_long_as_wide():
    masks = cutmix_boxes(torch.zeros(4000, 1, 64, 64))
    rows, columns = sides(masks)
    has = masks.flatten(1).any(dim=1)
    assert has.float().mean().item() == pytest.approx(0.5, abs=0.03)
    area = (rows * columns)[has] / 64**2
    assert 0.015 < area.min() < 0.03
    assert 0.38 < area.max() < 0.42
    shape = (rows / columns)[has]
    assert 0.25 < shape.min() < 0.4
    assert 2.8 < shape.max() < 4
    # Uniform: half lie below the middle of the range; clipping at the image's sides moves neither much.
    assert area.median().item() == pytest.approx(0.21, abs=0.02)
    assert shape.median().item() == pytest.approx((0.3 + 1 / 0.3) / 2, abs=0.15)


@pytest.mark.parametrize(("p", "share"), [(0.0, 0), (1.0, 1)])
def test_every_image_has_a_box_or_none(p, share):
    assert cutmix_boxes(torch.zeros(50, 1, 32, 32), p).flatten(1).any(dim=1).float().mean() == share


def test_unimatchs_boxes_are_2_to_40_percent_of_a_volume_too():
    shares = sides(cutmix_boxes(torch.zeros(300, 1, 30, 30, 30), p=1)).prod(dim=0) / 30**3
    assert shares.min() > 0.01
    assert shares.max() < 0.42
    assert 0.15 < shares.mean() < 0.25


# -- mixing -----------------------------------------------------------------------------------------------------------


@of_slices_and_volumes
def test_images_and_labels_are_mixed_by_the_same_box(images):
    mask = copy_paste_mask(images, 0.5)
    zeros = torch.zeros(images.shape[:1] + images.shape[2:], dtype=torch.int64)
    assert torch.equal(mix_labels(zeros, zeros + 1, mask), mask[:, 0].long())
    assert torch.equal(mix(images, images + 1, mask), mask)
    assert mix(images, images + 1, torch.tensor(0.25)).eq(0.25).all()


@pytest.mark.parametrize(
    ("shape", "number", "part"),
    [
        ((6, 8), 1, (slice(0, 3), slice(4, 8))),
        ((6, 8), 2, (slice(3, 6), slice(0, 4))),
        ((4, 6, 8), 1, (slice(0, 2), slice(0, 3), slice(4, 8))),
        ((4, 6, 8), 6, (slice(2, 4), slice(3, 6), slice(0, 4))),
    ],
)
def test_patches_are_cut_in_reading_order_and_pasted_back(shape, number, part):
    image = torch.arange(1.0 + math.prod(shape))[1:].view(1, 1, *shape)
    patches = cut_patches(image, 2)
    assert patches.shape[:3] == (1, 2 ** len(shape), 1)
    assert torch.equal(patches[0, number, 0], image[0, 0][part])
    pasted = paste_patch(image, 2, torch.tensor([number]), torch.zeros_like(patches[:, 0]))
    assert pasted[0, 0][part].eq(0).all()
    pasted[0, 0][part] = image[0, 0][part]
    assert torch.equal(pasted, image)


# -- mixup ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.1, 1.0, 5.0])
def test_shares_follow_beta_of_alpha_and_alpha(alpha):
    share = mixup_shares(torch.zeros(1 << 16, 1, 1, 1), alpha).double()
    assert 0 <= share.min() < share.max() <= 1
    variance = 1 / (4 * (2 * alpha + 1))
    assert share.mean().item() == pytest.approx(0.5, abs=6 * math.sqrt(variance / len(share)))
    assert share.var().item() == pytest.approx(variance, rel=0.03)


def test_shares_come_from_the_global_generator_and_differ_between_the_images():
    def drawn(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return mixup_shares(IMAGES[1][:3], 0.2)

    assert drawn(1).shape == (3, 1, 1, 1, 1)
    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))
    assert len(drawn(1).unique()) == 3


# -- low frequencies --------------------------------------------------------------------------------------------------


def numpy_low(x: np.ndarray, below: float) -> np.ndarray:
    """By the whole complex spectrum."""
    axes = range(2, x.ndim)
    spectrum = np.fft.fftn(x, axes=axes)
    for axis in axes:
        low = np.abs(np.fft.fftfreq(x.shape[axis])) < below
        spectrum = spectrum * low.reshape(-1, *(1 for _ in range(axis + 1, x.ndim)))
    return np.fft.ifftn(spectrum, axes=axes).real


@pytest.mark.parametrize("shape", [(8, 9), (9, 8), (5, 5), (1, 7), (8, 9, 6), (5, 6, 7), (4, 1, 8)])
@pytest.mark.parametrize("below", [0.1, 0.25, 0.5])
def test_low_frequencies_are_those_of_the_whole_spectrum(shape, below):
    x = torch.randn(2, 3, *shape)
    np.testing.assert_allclose(low_frequencies(x, below), numpy_low(x.double().numpy(), below), atol=1e-5)


@pytest.mark.parametrize("shape", [(16, 24), (16, 24, 8)])
def test_a_wave_is_low_or_not_by_its_cycles_a_pixel(shape):
    place = torch.arange(24).view(24, *(1 for _ in shape[2:]))
    for cycles, low in ((0, True), (2, True), (3, False), (12, False)):  # 3 of 24 are not below 0.125
        wave = (2 * math.pi * cycles * place / 24).cos().expand(1, 2, *shape)
        torch.testing.assert_close(low_frequencies(wave, 0.125), wave * low, atol=1e-5, rtol=0)


def test_images_that_exchange_their_low_frequencies_have_each_others_and_keep_their_sum():
    a, b = torch.randn(2, 1, 12, 11), torch.randn(2, 1, 12, 11)
    x, y = swap_low_frequencies(a, b, 0.2)
    torch.testing.assert_close(low_frequencies(x, 0.2), low_frequencies(b, 0.2), atol=1e-5, rtol=0)
    torch.testing.assert_close(x - low_frequencies(x, 0.2), a - low_frequencies(a, 0.2), atol=1e-5, rtol=0)
    torch.testing.assert_close(x + y, a + b)
