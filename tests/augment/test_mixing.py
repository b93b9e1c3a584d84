"""The masks that mix two images, against the definitions in their papers."""

import numpy as np
import pytest
import torch
from torch import Tensor

from ssl4seg.augment.mixing import classmix_mask, copy_paste_mask, cutmix_boxes
from ssl4seg.keys import IGNORE


def sides(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns [N] of the boxes; each mask is one filled rectangle."""
    rows, columns = masks.amax(dim=3)[:, 0], masks.amax(dim=2)[:, 0]
    assert torch.equal(masks[:, 0], rows[:, :, None] * columns[:, None, :])
    for line in (rows, columns):  # at most one run of ones
        assert (line.diff(dim=1).abs().sum(dim=1) + line[:, 0] + line[:, -1]).le(2).all()
    return rows.sum(dim=1), columns.sum(dim=1)


# -- ClassMix ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("present", "taken"), [([3], 0), ([0, 2], 1), ([0, 1, 4], 1), ([0, 1, 2, 5], 2), ([*range(6)], 3)]
)
def test_half_of_the_classes_that_are_there_are_taken_rounded_down_and_whole(present, taken):
    label = torch.tensor(present).repeat(40, 6)[:, torch.randperm(6 * len(present))].view(40, 2, -1)
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


@pytest.mark.parametrize(("size", "side", "box"), [((256, 256), 2 / 3, (170, 170)), ((30, 60), 0.5, (15, 30))])
def test_a_copied_box_has_the_asked_share_of_each_side_and_lies_anywhere(size, side, box):
    masks = copy_paste_mask(torch.zeros(200, 3, *size), side)
    rows, columns = sides(masks)
    assert rows.eq(box[0]).all()
    assert columns.eq(box[1]).all()
    first = masks[:, 0].flatten(1).argmax(dim=1)
    for place, room in ((first // size[1], size[0] - box[0]), (first % size[1], size[1] - box[1])):
        assert place.min() < 0.1 * room
        assert place.max() > 0.9 * room
        assert place.float().mean().item() == pytest.approx(room / 2, rel=0.15)


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
