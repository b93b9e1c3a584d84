"""Pictures, pixel by pixel."""

import numpy as np
import pytest
import yaml
from PIL import Image

from ssl4seg.commands.conf import conf_dir
from ssl4seg.keys import IGNORE
from ssl4seg.scoring.pictures import (
    COLORS,
    captioned,
    enlarged,
    fullest,
    grey,
    legend,
    painted,
    palette,
    panel,
    save_labels,
)

RED, BLUE, YELLOW = (230, 75, 53), (77, 187, 213), (242, 183, 5)  # "#e64b35", "#4dbbd5", "#f2b705"
RAMP = np.array([[[0.0, 1.0], [2.0, 4.0]]], np.float32)
"""One channel; stretched it is 0, 63, 127, 255."""
OWN = palette()


def data(name: str) -> dict:
    """conf/dataset/NAME.yaml."""
    return yaml.safe_load((conf_dir() / f"dataset/{name}.yaml").read_text())["dataset"]


def test_palette_has_black_background_white_ignored_pixels_and_repeats():
    assert (OWN.colors.shape, OWN.colors.dtype) == ((256, 3), np.uint8)
    assert [tuple(OWN.colors[value]) for value in (0, 1, 2, IGNORE)] == [(0, 0, 0), RED, BLUE, (255, 255, 255)]
    assert np.array_equal(OWN.colors[1 + len(COLORS)], OWN.colors[1])
    assert len(np.unique(OWN.colors[: len(COLORS) + 1], axis=0)) == len(COLORS) + 1


def test_a_class_0_that_is_no_background_has_a_colour():
    assert [tuple(palette(background=False).colors[value]) for value in (0, 1, IGNORE)] == [RED, BLUE, (255, 255, 255)]


def test_given_colours_are_those_of_the_first_classes():
    found = palette(["#010203", [4, 5, 6]])
    assert [tuple(found.colors[value]) for value in range(4)] == [(1, 2, 3), (4, 5, 6), BLUE, YELLOW]
    assert found.hex(1) == "#040506"


def test_the_colours_of_voc_are_those_of_its_bitmaps():
    # The development kit: the bits of k, three by three from the lowest, are the first of red, green and blue.
    published = {"background": 0, "aeroplane": 0x800000, "person": 0xC08080, "potted_plant": 0x004000}
    published |= {"cow": 0x408000, "dining_table": 0xC08000, "sheep": 0x804000, "tv_monitor": 0x004080}
    keys = data("voc2012")
    named = dict(zip(keys["classes"], keys["palette"], strict=True))
    assert {name: named[name] for name in published} == {name: f"#{code:06x}" for name, code in published.items()}
    assert len(set(keys["palette"])) == 21


def test_the_colours_of_cityscapes_are_those_of_its_scripts():
    published = {"road": (128, 64, 128), "sky": (70, 130, 180), "rider": (255, 0, 0), "bicycle": (119, 11, 32)}
    keys = data("cityscapes")
    colors = palette(keys["palette"], background=keys["background"]).colors
    named = dict(zip(keys["classes"], map(tuple, colors.tolist()), strict=False))
    assert {name: named[name] for name in published} == published
    assert len(set(keys["palette"])) == len(keys["palette"]) == 19


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


def grown(*rows: str) -> np.ndarray:
    return np.array([[IGNORE if c == "x" else int(c) for c in row] for row in rows], np.uint8)


def test_a_class_is_tinted_within_a_contour_of_its_full_colour():
    label = grown("11100", "11100", "11100", "00000")
    base = np.full((4, 5, 3), 100, np.uint8)
    shown = painted(base, label, OWN)
    assert shown[0, 0].tolist() == [int(100 * 0.65 + c * 0.35) for c in RED]  # an edge of the picture is no contour
    inside = [(0, 0), (0, 1), (1, 0), (1, 1)]
    for y, x in np.argwhere(label == 1).tolist():
        assert (tuple(shown[y, x]) == RED) == ((y, x) not in inside)
    assert (shown[label == 0] == 100).all()


def test_both_sides_of_a_border_have_a_contour_and_the_image_shows_where_nothing_is():
    shown = painted(np.zeros((1, 5, 3), np.uint8), grown("1122x"), OWN)
    assert [tuple(pixel) for pixel in shown[0, 1:]] == [RED, BLUE, BLUE, (255, 255, 255)]
    assert not painted(np.zeros((1, 2, 3), np.uint8), grown("00"), OWN).any()


def test_a_class_0_that_is_no_background_is_painted():
    shown = painted(np.zeros((1, 3, 3), np.uint8), grown("001"), palette(background=False))
    assert [tuple(pixel) for pixel in shown[0]] == [tuple(int(0.35 * c) for c in RED), RED, BLUE]


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        ((2, 2), (256, 256)),
        ((40, 48), (280, 336)),
        ((255, 300), (510, 600)),
        ((256, 999), (256, 999)),
        ((10, 500), (40, 2000)),
        ((10, 3000), (10, 3000)),
    ],
)
def test_small_pictures_are_enlarged_by_a_whole_factor(size, shown):
    label = np.arange(size[0] * size[1]).reshape(size).astype(np.uint8)
    found = enlarged(label)
    assert found.shape == shown
    factor = shown[0] // size[0]
    assert np.array_equal(found[::factor, ::factor], label)
    assert np.array_equal(found[factor - 1 :: factor, factor - 1 :: factor], label)


def test_panel_is_the_image_then_the_image_with_each_label():
    image, label = np.random.default_rng(0).random((1, 256, 300)), np.zeros((256, 300), np.uint8)
    label[50:99, 60:70] = 2
    picture = panel(image, [label, 0 * label], OWN)
    expected = [grey(image), painted(grey(image), label, OWN), grey(image)]
    assert np.array_equal(picture, np.concatenate(expected, axis=1))
    assert panel(RAMP, [label[:2, :2]], OWN).shape == (256, 512, 3)


def test_a_legend_names_the_classes_that_are_shown_in_their_colours():
    names = ["nothing", "one", "two", "three"]
    strip = legend(names, [1, 3], OWN, 400)
    held = {tuple(color) for color in strip.reshape(-1, 3).tolist()}
    assert {RED, YELLOW, (0, 0, 0), (255, 255, 255)} <= held
    assert BLUE not in held
    assert strip.shape[1] == 400
    lines = legend(names, [1, 2, 3], OWN, 60)
    assert len(lines) == 3 * len(strip)
    assert legend(names, [], OWN, 400).shape == (0, 400, 3)


def test_a_caption_lies_in_the_upper_left_corner_and_leaves_the_rest():
    picture = np.full((40, 200, 3), 77, np.uint8)
    changed = (captioned(picture, "slice 3 of 9") != picture).any(axis=2)
    assert changed[:16, :80].any()
    assert not changed[20:].any()
    assert not changed[:, 120:].any()


def test_the_fullest_slice_has_most_foreground_and_ignored_pixels_are_none():
    label = np.zeros((4, 3, 3), np.uint8)
    label[1, 0], label[2, :2], label[3] = 1, 3, IGNORE
    assert fullest(label, OWN) == 2
    assert fullest(0 * label, OWN) == len(label) // 2  # the middle one
    label[2, 2] = IGNORE
    assert fullest(label, palette(background=False)) == 0


def test_saved_labels_are_class_values_under_a_palette(tmp_path):
    label = np.array([[0, 1, 2], [3, 20, IGNORE]], np.uint8)
    save_labels(label, tmp_path / "mask.png", OWN)
    with Image.open(tmp_path / "mask.png") as picture:
        assert picture.mode == "P"
        assert np.array_equal(np.asarray(picture), label)
        assert np.array_equal(np.asarray(picture.convert("RGB")), OWN.colors[label])
