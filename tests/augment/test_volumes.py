"""Mixing and photometric operations on volumes, against hand-made boxes and against the slices they consist of."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Generator

from ssl4seg.augment import photometric as ph
from ssl4seg.augment.mixing import (
    beta_boxes,
    copy_paste_mask,
    cut_patches,
    cutmix_boxes,
    cutmix_mask,
    mix_labels,
    paste_patch,
)

VOLUMES = torch.zeros(40, 1, 12, 16, 20)


def sides(mask: torch.Tensor) -> np.ndarray:
    """[N, 3]: the sides of each box, which must be full; zeros for an empty one."""
    found = []
    for box in mask[:, 0].numpy():
        slices = ndimage.find_objects(box.astype(int))
        assert not slices or box[slices[0]].all()
        found.append([side.stop - side.start for side in slices[0]] if slices else [0, 0, 0])
    return np.array(found)


def test_a_copied_box_has_the_asked_share_of_each_side():
    assert (sides(copy_paste_mask(VOLUMES, 2 / 3)) == [8, 10, 13]).all()


def test_a_cutmix_box_has_its_share_of_the_volume():
    shares = cutmix_mask(torch.zeros(40, 1, 60, 60, 60), 0.5).flatten(1).mean(dim=1)
    torch.testing.assert_close(shares, torch.full((40,), 0.5), atol=0.02, rtol=0)
    lengths = sides(cutmix_mask(torch.zeros(200, 1, 60, 60, 60), 0.5)) / 60
    assert np.log(lengths).mean(axis=0) == pytest.approx([np.log(0.5) / 3] * 3, abs=0.05)


def test_unimatchs_boxes_are_2_to_40_percent_of_the_volume():
    lengths = sides(cutmix_boxes(torch.zeros(300, 1, 50, 50, 50), p=1))
    shares = lengths.prod(axis=1) / 50**3
    assert shares.min() > 0.01
    assert shares.max() < 0.42
    assert 0.15 < shares.mean() < 0.25


def test_beta_boxes_have_the_volumes_proportions():
    lengths = sides(beta_boxes(VOLUMES, 4, 4)) / [12, 16, 20]
    assert np.abs(lengths - lengths.mean(axis=1, keepdims=True)).max() < 0.06


def test_patches_are_cut_in_reading_order_and_pasted_back():
    volume = torch.arange(4 * 6 * 8.0).view(1, 1, 4, 6, 8)
    patches = cut_patches(volume, 2)
    assert torch.equal(patches[0, 1, 0], volume[0, 0, :2, :3, 4:])
    assert torch.equal(patches[0, 6, 0], volume[0, 0, 2:, 3:, :4])
    pasted = paste_patch(volume, 2, torch.tensor([6]), torch.zeros(1, 1, 2, 3, 4))
    assert torch.equal(pasted[0, 0, 2:, 3:, :4], torch.zeros(2, 3, 4))
    pasted[0, 0, 2:, 3:, :4] = volume[0, 0, 2:, 3:, :4]
    assert torch.equal(pasted, volume)


def test_labels_are_mixed_by_the_box():
    a, b = torch.zeros(40, 12, 16, 20, dtype=torch.int64), torch.ones(40, 12, 16, 20, dtype=torch.int64)
    mask = copy_paste_mask(VOLUMES, 0.5)
    assert torch.equal(mix_labels(a, b, mask), mask[:, 0].long())


POINTWISE = {
    "brightness": 0.5,
    "contrast": 0.5,
    "saturation": 0.5,
    "hue": 0.2,
    "grayscale": 0.5,
    "gamma": 2.0,
    "invert": 1.0,
    "solarize": 0.5,
    "posterize": 3.0,
    "autocontrast": 1.0,
    "equalize": 1.0,
    "cutout": 0.5,
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", [*POINTWISE, "blur"])
def test_a_volume_of_one_slice_is_changed_as_the_slice_is(name, channels):
    image = torch.rand(2, channels, 9, 12, generator=Generator().manual_seed(0))
    magnitude = torch.full((2,), POINTWISE.get(name, 1.5))
    op = getattr(ph, name)
    torch.testing.assert_close(op(image[..., None], magnitude)[..., 0], op(image, magnitude), atol=1e-6, rtol=1e-5)


def test_a_volume_is_blurred_along_all_axes():
    volume = torch.rand(1, 1, 12, 13, 14, generator=Generator().manual_seed(0))
    expected = ndimage.gaussian_filter(volume[0, 0].numpy().astype(np.float64), 1.5, mode="nearest", radius=6)
    blurred = ph.blur(volume, torch.tensor([1.5]))[0, 0].double()
    torch.testing.assert_close(blurred, torch.from_numpy(expected), atol=1e-6, rtol=0)


def test_a_volume_is_sharpened_with_27_neighbours():
    volume = torch.zeros(1, 1, 5, 5, 5)
    volume[0, 0, 2, 2, 2] = 0.62
    smooth = ph.sharpness(volume, torch.zeros(1))[0, 0]
    assert smooth[2, 2, 2].item() == pytest.approx(0.62 * 5 / 31)
    assert smooth[1, 1, 1].item() == pytest.approx(0.62 / 31)
    assert smooth[0, 2, 2] == 0
