"""How intensities are scaled."""

import numpy as np
import pytest

from ssl4seg.data.intensities import normalized
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
