"""Pictures, pixel by pixel."""

import numpy as np
import pytest
from PIL import Image

from ssl4seg.pictures import COLORS, captioned, fullest, grey, overlay, palette, panel, save_labels
from ssl4seg.types import IGNORE

RED, BLUE = (230, 75, 53), (77, 187, 213)  # "#e64b35", "#4dbbd5"
RAMP = np.array([[[0.0, 1.0], [2.0, 4.0]]], np.float32)
"""One channel; stretched it is 0, 63, 127, 255."""


def test_palette_has_black_background_white_ignored_pixels_and_repeats():
    colors = palette()
    assert (colors.shape, colors.dtype) == ((256, 3), np.uint8)
    assert [tuple(colors[value]) for value in (0, 1, 2, IGNORE)] == [(0, 0, 0), RED, BLUE, (255, 255, 255)]
    assert np.array_equal(colors[1 + len(COLORS)], colors[1])
    assert len(np.unique(colors[: len(COLORS) + 1], axis=0)) == len(COLORS) + 1


def test_grey_stretches_the_image_to_all_levels():
    assert grey(RAMP)[..., 0].tolist() == [[0, 63], [127, 255]]
    assert (grey(RAMP) == grey(RAMP)[..., :1]).all()


@pytest.mark.parametrize(("channels", "shown"), [(1, [0, 0, 0]), (2, [0, 0, 0]), (3, [0, 1, 2]), (5, [0, 1, 2])])
def test_grey_shows_the_first_channel_or_the_first_three(channels, shown):
    image = np.linspace(0, 1, 4 * channels, dtype=np.float32).reshape(channels, 2, 2)
    picture = grey(image)
    assert picture.shape == (2, 2, 3)
    used = image[: max(shown) + 1]
    expected = (image[shown] - used.min()) / np.ptp(used) * 255
    np.testing.assert_allclose(picture.transpose(2, 0, 1), expected, atol=1)


def test_a_constant_image_is_black():
    assert grey(np.full((1, 2, 2), 7, np.float32)).max() == 0


def test_overlay_mixes_the_colour_over_the_foreground_and_leaves_the_background():
    label = np.array([[0, 1], [0, IGNORE]], np.uint8)
    picture = overlay(RAMP, label, opacity=0.5)
    assert picture[0, 0].tolist() == [0, 0, 0]
    assert picture[1, 0].tolist() == [127, 127, 127]
    assert picture[0, 1].tolist() == [(63 + c) // 2 for c in RED]
    assert picture[1, 1].tolist() == [255, 255, 255]
    assert tuple(overlay(RAMP, label, opacity=1)[0, 1]) == RED


def test_panel_is_the_image_then_an_overlay_for_each_label():
    label = np.array([[0, 1], [2, 0]], np.uint8)
    picture = panel(RAMP, [label, 0 * label])
    assert picture.shape == (2, 6, 3)
    expected = [grey(RAMP), overlay(RAMP, label), grey(RAMP)]
    assert all(np.array_equal(picture[:, 2 * i : 2 * i + 2], part) for i, part in enumerate(expected))


def test_a_caption_lies_in_the_upper_left_corner_and_leaves_the_rest():
    picture = np.full((40, 200, 3), 77, np.uint8)
    changed = (captioned(picture, "slice 3 of 9") != picture).any(axis=2)
    assert changed[:16, :80].any()
    assert not changed[20:].any()
    assert not changed[:, 120:].any()


def test_the_fullest_slice_has_most_foreground_and_ignored_pixels_are_none():
    label = np.zeros((4, 3, 3), np.uint8)
    label[1, 0], label[2, :2], label[3] = 1, 3, IGNORE
    assert fullest(label) == 2
    assert fullest(0 * label) == 0


def test_saved_labels_are_class_values_under_a_palette(tmp_path):
    label = np.array([[0, 1, 2], [3, 20, IGNORE]], np.uint8)
    save_labels(label, tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as picture:
        assert picture.mode == "P"
        assert np.array_equal(np.asarray(picture), label)
        assert np.array_equal(np.asarray(picture.convert("RGB")), palette()[label])
