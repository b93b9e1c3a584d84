"""Sums over the pixels of images, which check and training take without large copies."""

import numpy as np
import pytest

from ssl4seg.data.dataset import PART, byte_counts, moments


def test_bytes_are_counted_part_by_part():
    values = np.random.default_rng(0).integers(0, 256, PART + 5, np.uint8)
    assert np.array_equal(byte_counts(values), [(values == number).sum() for number in range(256)])
    assert byte_counts(values[:0]).sum() == 0


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_moments_are_the_sums_of_float64_to_the_last_bit(dtype):
    image = (np.random.default_rng(0).random((3, 2, 50, 70)) * 255).astype(dtype)
    scale = 255 if dtype == np.uint8 else 1
    channels = [image[:, channel].astype(np.float64).ravel() for channel in (0, 1)]
    expected = [
        [3 * 50 * 70] * 2,
        [values.sum() / scale for values in channels],
        [(values**2).sum() / scale**2 for values in channels],
    ]
    assert np.array_equal(moments(image), expected)
