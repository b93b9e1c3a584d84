"""Photometric operations on volumes, against SciPy and against the slices they consist of."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Generator

from ssl4seg.augment import photometric as ph

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
