"""How intensities are scaled."""

from pathlib import Path

import numpy as np
import pytest

from ssl4seg.data.intensities import NORMALIZATIONS, Normalizer, Scaling, normalized
from ssl4seg.errors import UserError


def test_minmax_spans_zero_to_one_over_the_whole_volume_and_is_idempotent():
    image = np.array([[[-50, 0]], [[50, 150]]], np.float32)
    scaled = normalized(image, "minmax")
    assert scaled.tolist() == [[[0, 0.25]], [[0.5, 1]]]
    assert np.array_equal(normalized(scaled, "minmax"), scaled)
    assert scaled.dtype == np.float32


def test_a_constant_volume_becomes_zero_and_nan_stays_for_the_check_to_find():
    assert normalized(np.full((1, 2, 2), 9, np.float32), "minmax").tolist() == [[[0, 0], [0, 0]]]
    assert np.isnan(normalized(np.array([[0, np.nan]], np.float32), "minmax")).any()


def test_none_leaves_intensities_alone():
    image = np.array([[3.0, -7.0]], np.float32)
    assert normalized(image, "none") is image


def test_an_unknown_normalisation_is_refused():
    with pytest.raises(UserError, match=r"dataset\.normalize=z-score"):
        normalized(np.zeros((1, 1), np.float32), "z-score")


def test_auto_scales_what_does_not_lie_in_zero_to_one():
    bytes_image, inside = np.array([[3, 9]], np.uint8), np.array([[0.2, 0.7]], np.float32)
    assert normalized(bytes_image, "auto") is bytes_image
    assert normalized(inside, "auto") is inside
    assert normalized(np.array([[-100, 0, 300]], np.float32), "auto").tolist() == [[0, 0.25, 1]]


# -- each channel alone -----------------------------------------------------------------------------------------------

TWO = np.array([[[[0, 2], [4, 6]], [[10, 10], [10, 10]]]], np.float32)
"""[1, 2, 2, 2]: the second channel is constant."""


def test_zscore_gives_each_channel_mean_0_and_deviation_1_and_a_constant_one_0():
    first = np.array([-3, -1, 1, 3]) / np.sqrt(5)  # the mean of 0, 2, 4, 6 is 3, their variance (9 + 1 + 1 + 9) / 4
    assert normalized(TWO, "zscore")[0, 0].ravel() == pytest.approx(first)
    assert not normalized(TWO, "zscore")[0, 1].any()


def test_zscore_nonzero_leaves_zeros_and_counts_the_others():
    found = normalized(TWO, "zscore_nonzero")[0, 0].ravel()  # 2, 4, 6: mean 4, variance 8 / 3
    assert found == pytest.approx([0, -2 / np.sqrt(8 / 3), 0, 2 / np.sqrt(8 / 3)])
    # Cut off at 3, the zero is still one: 3, 4, 6 have the mean 13 / 3.
    found = normalized(TWO, "zscore_nonzero", [3, 9])[0, 0].ravel()
    assert found[0] == 0
    assert found[1:] == pytest.approx((np.array([3, 4, 6]) - 13 / 3) / np.std([3, 4, 6]))
    assert not normalized(np.zeros((1, 1, 2, 2), np.float32), "zscore_nonzero").any()


def test_percentile_cuts_off_half_a_percent_at_both_ends():
    image = np.stack([np.arange(1001), 1000 - np.arange(1001), np.arange(1001) == 7]).astype(np.float32)[
        None, ..., None
    ]
    up, down, rare = normalized(image, "percentile")[0, :, :, 0]
    assert up == pytest.approx(np.clip((np.arange(1001) - 5) / 990, 0, 1))  # percentiles 5 and 995
    assert down == pytest.approx(up[::-1])
    assert np.flatnonzero(rare).tolist() == [7]  # both percentiles are 0: the lowest and the highest value count
    assert rare[7] == 1


def test_a_window_cuts_values_off_first_and_leaves_infinite_ones_for_the_check_to_find():
    image = np.array([-1000, -160, 40, 240, 3000], np.float32).reshape(1, 1, 5)
    assert normalized(image, "none", [-160, 240]).ravel().tolist() == [-160, -160, 40, 240, 240]
    assert normalized(image, "minmax", [-160, 240]).ravel().tolist() == [0, 0, 0.5, 1, 1]
    assert normalized(image, "auto", [-160, 240]).ravel().tolist() == [0, 0, 0.5, 1, 1]
    image[0, 0, 1] = np.inf
    for normalize in NORMALIZATIONS:
        assert np.isinf(normalized(image, normalize, [-160, 240])).sum() == 1


def test_pictures_of_8_bit_are_cut_off_in_0_to_1():
    image = np.array([0, 51, 102, 255], np.uint8).reshape(1, 1, 4)
    assert normalized(image, "none", [0.2, 0.5]).ravel() == pytest.approx([0.2, 0.2, 0.4, 0.5])
    assert normalized(image, "zscore").ravel() == pytest.approx((image - 102.0).ravel() / image.std())
    kept = [n for n in NORMALIZATIONS if Scaling(n).keeps_bytes]
    assert kept == ["none", "auto"]
    assert not Scaling("none", [0, 1]).keeps_bytes
    assert all(normalized(image, n).dtype == (np.uint8 if n in kept else np.float32) for n in NORMALIZATIONS)


@pytest.mark.parametrize("window", [None, [-2, 3]])
@pytest.mark.parametrize("normalize", NORMALIZATIONS)
def test_a_part_is_scaled_as_the_whole_to_the_last_bit(normalize, window):
    image = np.random.default_rng(0).normal(0, 3, (4, 2, 9, 8)).astype(np.float32)
    image[:, :, :2] = 0
    part = (slice(1, 3), slice(1, 6), slice(2, 7))
    asked = []

    def read(of):
        asked.append(of)
        return image[of[0], :, of[1], of[2]] if of else image

    parts = Normalizer(Scaling(normalize, window))
    expected = normalized(image, normalize, window)[1:3, :, 1:6, 2:7]
    assert all(np.array_equal(parts(Path("a"), read, part), expected) for _ in range(2))
    assert asked == [(), part, part]
