"""Views against PyTorch's, NumPy's and SciPy's own resizing and turning."""

import itertools
import math

import numpy as np
import pytest
import scipy.ndimage
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor

from ssl4seg.errors import UserError
from ssl4seg.feed.store import Raw, Store, packed
from ssl4seg.feed.views import CropView, WeakView, boxes, fit, moved, sample, strong_view
from ssl4seg.keys import IGNORE


def gen(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def raw_of(*images: Tensor) -> Raw:
    """A batch of images [H, W], their labels the images in tenths."""
    height, width = (max(image.shape[d] for image in images) for d in (0, 1))
    pad = [(0, width - image.shape[1], 0, height - image.shape[0]) for image in images]
    image = torch.stack([F.pad(image, p) for image, p in zip(images, pad, strict=True)])[:, None]
    label = [F.pad((image * 10).to(torch.uint8), p, value=IGNORE) for image, p in zip(images, pad, strict=True)]
    return Raw(image, torch.stack(label), torch.tensor([image.shape for image in images], dtype=torch.float32))


def resized(image: Tensor, side: int) -> Tensor:
    return F.interpolate(image[None, None], size=(side, side), mode="bilinear", align_corners=False)[0, 0]


def rotation(degrees: float, side: int) -> Tensor:
    """theta that turns a square image."""
    a = math.radians(degrees)
    linear = torch.tensor([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]]) * side / 2
    return torch.cat([linear, torch.zeros(2, 1)], dim=1)[None]


def reflections(image: Tensor) -> list[Tensor]:
    """All results of the recipe's quarter turn and flip on an image: np.flip after np.rot90."""
    turned = itertools.product(range(4), range(2))
    return [torch.from_numpy(np.flip(np.rot90(image.numpy(), k), axis).copy()) for k, axis in turned]


TURN = WeakView(rot90_flip=1, rotate=0, max_angle=0)
TILT = WeakView(rot90_flip=0, rotate=1, max_angle=20)
RECIPE = WeakView(rot90_flip=0.5, rotate=1, max_angle=20)


# -- resizing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(24, 24), (30, 20), (17, 41), (8, 9)])
@pytest.mark.parametrize("side", [16, 24, 33])
def test_fit_is_linear_interpolation_of_images_and_the_nearest_label(shape, side):
    raw = raw_of(torch.rand(shape), torch.rand(shape))
    image, label = sample(raw, fit(raw.size), (side, side))
    expected = F.interpolate(raw.image, size=(side, side), mode="bilinear", align_corners=False)
    nearest = F.interpolate(raw.label[:, None].float(), size=(side, side), mode="nearest-exact")[:, 0]
    torch.testing.assert_close(image, expected, atol=1e-4, rtol=0)
    assert torch.equal(label, nearest.long())
    assert (image.dtype, label.dtype) == (torch.float32, torch.int64)


def test_fit_to_the_same_size_changes_nothing():
    raw = raw_of(torch.rand(16, 16))
    image, label = sample(raw, fit(raw.size), (16, 16))
    torch.testing.assert_close(image, raw.image)
    assert torch.equal(label, raw.label.long())


# -- turning ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(16, 16), (20, 30), (31, 18)])
def test_quarter_turn_and_flip_are_numpys_and_the_turned_frame_is_resized(shape):
    picture = torch.rand(shape)
    raw = raw_of(*[picture] * 200)
    image, _ = sample(raw, TURN.thetas(raw.size, gen()), (16, 16))
    expected = torch.stack([resized(turned, 16) for turned in reflections(picture)])
    distance = (image[:, 0][:, None] - expected[None]).abs().amax(dim=(-2, -1))
    assert distance.amin(dim=1).max() < 1e-4
    # Four turns and two axes make four different pictures, all equally likely: 50 of 200 each, deviation 6.
    kinds = distance.argmin(dim=1).unique(return_counts=True)[1]
    assert len(kinds) == 4
    assert kinds.min() > 20


def test_a_turned_label_stays_on_its_pixel():
    raw = raw_of(*(torch.randint(10, (16, 16)) / 10 + 0.05 for _ in range(8)))
    image, label = sample(raw, TURN.thetas(raw.size, gen()), (16, 16))
    assert torch.equal(label, (image[:, 0] * 10).long())


@pytest.mark.parametrize("degrees", [20, -20, 7])
def test_rotation_is_scipys_in_the_interior(degrees):
    picture = torch.from_numpy(scipy.ndimage.gaussian_filter(np.random.default_rng(0).random((32, 32)), 2)).float()
    raw = raw_of(picture)
    image, label = sample(raw, rotation(degrees, 32), (32, 32))
    inner = (slice(8, 24),) * 2
    expected = scipy.ndimage.rotate(picture.numpy(), degrees, reshape=False, order=1)
    np.testing.assert_allclose(image[0, 0][inner], expected[inner], atol=1e-5)
    nearest = scipy.ndimage.rotate(raw.label[0].numpy(), degrees, reshape=False, order=0)
    assert np.array_equal(label[0][inner], nearest[inner])


def test_drawn_rotations_are_uniform_within_the_angle():
    thetas = TILT.thetas(torch.full((2000, 2), 32.0), gen())
    angle = torch.rad2deg(torch.atan2(thetas[:, 1, 0], thetas[:, 0, 0]))
    torch.testing.assert_close(thetas, torch.cat([rotation(a, 32) for a in angle.tolist()]), atol=1e-4, rtol=0)
    assert angle.abs().max() <= 20
    counts = torch.histc(angle, bins=4, min=-20, max=20)  # 500 each, deviation 19
    assert counts.min() > 400


def test_rotation_happens_in_pixels_so_shapes_keep_their_angles():
    # A disc in an image twice as wide as high becomes an ellipse half as wide, however the image is rotated.
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(64.0), indexing="ij")
    disc = (torch.hypot(y - 15.5, x - 31.5) < 12).float()
    raw = raw_of(*[disc] * 20)
    plain, _ = sample(raw, fit(raw.size), (32, 32))
    tilted, _ = sample(raw, TILT.thetas(raw.size, gen()), (32, 32))
    assert (tilted - plain).abs().mean(dim=(1, 2, 3)).max() < 0.02


def test_half_the_recipes_images_are_reflected_and_the_others_rotated():
    thetas = RECIPE.thetas(torch.full((2000, 2), 32.0), gen())[:, :, :2]
    reflected = torch.linalg.det(thetas) < 0
    assert 880 < reflected.sum() < 1120  # 1000, deviation 22
    assert (thetas[reflected].abs() / 16 - 0.5).abs().allclose(torch.tensor(0.5))  # quarter turns only
    assert (thetas[~reflected][:, 0, 1] != 0).all()


def test_no_share_is_no_change():
    size = torch.tensor([[20.0, 30.0], [16.0, 16.0]])
    assert torch.equal(WeakView(rot90_flip=0, rotate=0, max_angle=90).thetas(size, gen()), fit(size))


@pytest.mark.parametrize(("zoom", "pixels"), [(0.5, 16), (0.25, 8), (1.0, 32), (2.0, 32)])
def test_zoom_out_shrinks_the_image_into_the_square(zoom, pixels):
    view = WeakView(rot90_flip=0, rotate=0, max_angle=0, scale=(zoom, zoom))
    raw = raw_of(torch.ones(20, 40))
    image, label = sample(raw, view.thetas(raw.size, gen()), (32, 32), fill_label=IGNORE)
    assert image.sum() == pixels**2
    edge = (32 - pixels) // 2
    assert image[0, 0, edge : edge + pixels, edge : edge + pixels].eq(1).all()
    assert torch.equal(label == IGNORE, image[:, 0] == 0)


def test_zoom_is_uniform_in_its_range():
    view = WeakView(rot90_flip=0, rotate=0, max_angle=0, scale=(0.5, 2.0))
    zoom = 16 / view.thetas(torch.full((2000, 2), 32.0), gen())[:, 0, 0]
    assert torch.histc(zoom, bins=3, min=0.5, max=2).min() > 550  # 667, deviation 21


# -- outside the image ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fill_label", [0, 7, IGNORE])
def test_outside_is_black_and_has_the_fill_label(fill_label):
    raw = raw_of(torch.full((32, 32), 0.35))
    image, label = sample(raw, rotation(45, 32), (32, 32), fill_label)
    # A square turned by 45 degrees leaves triangles that cover 1 - 2 (sqrt(2) - 1) = 17 % of it.
    outside = image[0, 0] == 0
    assert outside.float().mean() == pytest.approx(3 - 2 * math.sqrt(2), abs=0.01)
    assert torch.allclose(image[0, 0][~outside], torch.tensor(0.35))  # no darkening towards the edge
    assert label[0][outside].eq(fill_label).all()
    assert label[0][~outside].eq(3).all()


def test_the_padding_of_smaller_images_never_bleeds_in():
    small, large = torch.rand(19, 13), torch.rand(40, 50)
    raw = raw_of(small, large)
    raw.image[0, :, 19:], raw.image[0, :, :, 13:] = 1000, 1000
    thetas = torch.cat([RECIPE.thetas(raw.size[:1].repeat(30, 1), gen()), fit(raw.size[:1])])
    many = Raw(raw.image[:1].repeat(31, 1, 1, 1), raw.label[:1].repeat(31, 1, 1), raw.size[:1].repeat(31, 1))
    image, label = sample(many, thetas, (24, 24))
    alone = raw_of(small)
    expected, expected_label = sample(
        Raw(alone.image.repeat(31, 1, 1, 1), alone.label.repeat(31, 1, 1), alone.size.repeat(31, 1)), thetas, (24, 24)
    )
    # A rounding error of 1e-6 in the weight of a padded pixel of 1000 would show as 1e-3.
    torch.testing.assert_close(image, expected, atol=1e-2, rtol=0)
    assert torch.equal(label, expected_label)


# -- parameters -------------------------------------------------------------------------------------------------------


def test_every_sample_has_parameters_of_its_own():
    raw = raw_of(*(torch.rand(20, 30) for _ in range(6)))
    thetas = TILT.thetas(raw.size, gen())
    assert len(thetas.unique(dim=0)) == 6
    together = sample(raw, thetas, (16, 16))
    for i in range(6):
        image, label = sample(Raw(*(part[i : i + 1] for part in raw)), thetas[i : i + 1], (16, 16))
        assert torch.equal(image[0], together[0][i])
        assert torch.equal(label[0], together[1][i])


def test_views_are_a_function_of_the_generator():
    size = torch.full((8, 2), 32.0)
    assert torch.equal(RECIPE.thetas(size, gen(1)), RECIPE.thetas(size, gen(1)))
    assert not torch.equal(RECIPE.thetas(size, gen(1)), RECIPE.thetas(size, gen(2)))


def test_the_size_of_an_image_shifts_no_draw():
    square, wide = (torch.tensor([shape]).repeat(50, 1) for shape in ([32.0, 32.0], [32.0, 96.0]))
    one, other = (TILT.thetas(size, gen())[:, :, 0] for size in (square, wide))
    torch.testing.assert_close(3 * one, other)  # the same angles, three times as wide


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rot90_flip", 1.5),
        ("rotate", -0.1),
        ("max_angle", 181),
        ("scale", (2, 1)),
        ("scale", (0, 1)),
        ("scale", (1,)),
        ("fill_label", 256),
        ("fill_label", -1),
    ],
)
def test_a_wrong_value_is_refused_by_its_key(key, value):
    with pytest.raises(UserError, match=f"views.weak.{key}"):
        WeakView(**{"rot90_flip": 0.5, "rotate": 1, "max_angle": 20, key: value})


# -- strong views -----------------------------------------------------------------------------------------------------


def add_noise(image: Tensor, generator: Generator) -> Tensor:
    return image.add_(torch.rand(len(image), 1, 1, 1, generator=generator))


def double(image: Tensor, generator: Generator) -> Tensor:
    return image * 2


def test_strong_operations_follow_one_another_on_a_copy():
    weak = torch.rand(4, 1, 8, 8)
    before = weak.clone()
    strong = strong_view(weak, [add_noise, double], gen())
    torch.testing.assert_close(strong, 2 * (weak + torch.rand(4, 1, 1, 1, generator=gen())))
    assert torch.equal(weak, before)  # though add_noise works in place


def test_no_operation_is_the_weak_view_itself_but_not_its_memory():
    weak = torch.rand(2, 1, 8, 8)
    strong = strong_view(weak, [], gen())
    assert torch.equal(strong, weak)
    assert strong.data_ptr() != weak.data_ptr()


def test_a_store_hands_over_what_sample_needs(make_case):
    store = Store([make_case("a", np.ones((1, 9, 5)))], num_classes=2, labels=True, device="cpu")
    raw = store.take([0])
    image, _ = sample(raw, fit(raw.size), (16, 16))
    assert image.eq(1).all()


# -- crops ------------------------------------------------------------------------------------------------------------


def crop(**changes: object) -> CropView:
    return CropView(**{"side": 32, "scale": (1, 1), "flip": 0, **changes})


def window(theta: Tensor, size: Tensor) -> Tensor:
    """Left, right, top and bottom of the part that theta shows, in pixels of the image [B, 4]."""
    reach = theta[:, :, :2].abs().sum(dim=2)
    low, high = (theta[:, :, 2] + size.flip(1) / 2 + sign * reach for sign in (-1, 1))
    return torch.stack([low[:, 0], high[:, 0], low[:, 1], high[:, 1]], dim=1)


def uniform(values: Tensor, low: float, high: float) -> bool:
    """Whether 2000 values fill their range evenly: 500 in each quarter, deviation 19."""
    assert low - 1e-3 <= values.min() < values.max() <= high + 1e-3
    return bool(torch.histc(values, bins=4, min=low, max=high).min() > 400)


def test_the_zoom_of_crops_is_uniform_and_the_given_share_is_mirrored():
    thetas = crop(scale=(0.5, 2.0), flip=0.25).thetas(torch.full((2000, 2), 100.0), gen())
    assert uniform(16 / thetas[:, 1, 1], 0.5, 2.0)
    assert torch.equal(thetas[:, 0, 0].abs(), thetas[:, 1, 1])  # proportions are kept
    assert 420 < (thetas[:, 0, 0] < 0).sum() < 580  # 500, deviation 19
    assert thetas[:, 0, 1].eq(0).all()
    assert thetas[:, 1, 0].eq(0).all()


@pytest.mark.parametrize("zoom", [1.0, 2.0])
def test_crops_lie_anywhere_in_an_image_that_is_larger(zoom):
    size = torch.tensor([[100.0, 60.0]]).expand(2000, 2)
    left, right, top, bottom = window(crop(scale=(zoom, zoom)).thetas(size, gen()), size).unbind(1)
    torch.testing.assert_close(right - left, torch.full((2000,), 32 / zoom), atol=1e-3, rtol=0)
    assert uniform(left, 0, 60 - 32 / zoom)
    assert uniform(top, 0, 100 - 32 / zoom)
    assert abs(torch.corrcoef(torch.stack([left, top]))[0, 1]) < 0.1  # deviation 0.02
    assert (bottom <= 100 + 1e-3).all()


def test_a_smaller_image_lies_anywhere_in_the_crop_and_is_whole():
    size = torch.tensor([[20.0, 60.0]]).expand(2000, 2)
    left, right, top, bottom = window(crop(scale=(0.5, 0.5)).thetas(size, gen()), size).unbind(1)  # 10 x 30 of 32 x 32
    assert uniform(left, 60 - 64, 0)
    assert uniform(top, 20 - 64, 0)
    assert (right >= 60 - 1e-3).all()
    assert (bottom >= 20 - 1e-3).all()


@pytest.mark.parametrize("shape", [(20, 24), (9, 40)])  # mirrored once, and three times
def test_outside_a_smaller_image_a_crop_is_mirrored_and_has_the_fill_label(shape):
    raw = raw_of(torch.rand(shape))
    view = crop(fill_label=IGNORE)
    theta = view.thetas(raw.size, gen())
    left, _, top, _ = window(theta, raw.size)[0].round().int().tolist()
    theta[0, :, 2] = torch.tensor([left + 16 - shape[1] / 2, top + 16 - shape[0] / 2])  # at whole pixels
    image, label = sample(raw, theta, (32, 32), view.fill_label, mirror=view.mirror)
    around = np.pad(raw.image[0, 0].numpy(), 32, mode="symmetric")[top + 32 :, left + 32 :][:32, :32]
    torch.testing.assert_close(image[0, 0], torch.from_numpy(around), atol=1e-4, rtol=0)
    row, column = (torch.arange(32) + first for first in (top, left))
    inside = ((row >= 0) & (row < shape[0]))[:, None] & (column >= 0) & (column < shape[1])
    assert torch.equal(label[0] == IGNORE, ~inside)
    assert inside.sum() == shape[0] * min(32, shape[1])


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_crop_at_whole_pixels_is_a_slice(mirrored):
    raw = raw_of(torch.rand(50, 70))
    theta = crop(flip=float(mirrored)).thetas(raw.size, gen())
    left, _, top, _ = window(theta, raw.size)[0].round().int().tolist()
    theta[0, :, 2] = torch.tensor([left + 16 - 35, top + 16 - 25])
    image, label = sample(raw, theta, (32, 32))
    expected, mask = (part[0, ..., top : top + 32, left : left + 32] for part in (raw.image, raw.label))
    expected, mask = (part.flip(-1) if mirrored else part for part in (expected, mask))
    torch.testing.assert_close(image[0], expected, atol=1e-4, rtol=0)
    assert torch.equal(label[0], mask.long())


@pytest.mark.parametrize("side", [16, 40, 64])
def test_a_scaled_crop_is_pytorchs_resize_of_the_slice(side):
    picture = torch.rand(60, 80)
    raw = raw_of(picture)
    theta = torch.tensor([[[16.0, 0, 20 + 16 - 40], [0, 16.0, 10 + 16 - 30]]])  # 32 x 32 from row 10, column 20
    image, _ = sample(raw, theta, (side, side))
    expected = resized(picture[10:42, 20:52], side)
    inner = slice(math.ceil(side / 32), side - math.ceil(side / 32))  # at its border the slice ends, the image does not
    torch.testing.assert_close(image[0, 0, inner, inner], expected[inner, inner], atol=1e-4, rtol=0)


def test_crops_are_pytorchs_own_sampling_of_the_image():
    raw = raw_of(*[torch.rand(45, 70)] * 20)
    theta = crop(scale=(0.5, 2.0), flip=0.5).thetas(raw.size, gen())
    image, _ = sample(raw, theta, (32, 32))
    normalized = theta / (raw.size.flip(1) / 2)[:, :, None]
    grid = F.affine_grid(normalized, [20, 1, 32, 32], align_corners=False)
    expected = F.grid_sample(raw.image, grid, padding_mode="border", align_corners=False)
    inside = (grid.abs() < 1).all(dim=-1)
    assert 0.5 < inside.float().mean() < 1
    torch.testing.assert_close(image[:, 0], expected[:, 0] * inside, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", [(30, 60), (60, 30), (40, 40)])
def test_plain_shows_the_whole_image_with_its_proportions(shape):
    raw = raw_of(torch.rand(shape))
    image, label = sample(raw, crop().plain(raw.size), (32, 32), IGNORE)
    height, width = (round(32 * length / max(shape)) for length in shape)
    top, left = (32 - height) // 2, (32 - width) // 2
    inner = (slice(top, top + height), slice(left, left + width))
    expected = F.interpolate(raw.image, size=(height, width), mode="bilinear", align_corners=False)
    torch.testing.assert_close(image[0, 0][inner], expected[0, 0], atol=1e-4, rtol=0)
    assert image.count_nonzero() <= height * width
    outside = torch.ones(32, 32, dtype=torch.bool)
    outside[inner] = False
    assert label[0][outside].eq(IGNORE).all()
    assert label[0][inner].ne(IGNORE).all()


def test_the_size_of_an_image_shifts_no_draw_of_a_crop():
    view = crop(scale=(0.5, 2), flip=0.5)
    small, large = (view.thetas(torch.full((50, 2), length), gen())[:, :, :2] for length in (20.0, 500.0))
    assert torch.equal(small, large)


@pytest.mark.parametrize(("key", "value"), [("flip", 1.5), ("scale", (2, 1)), ("scale", (0, 1)), ("fill_label", 256)])
def test_a_wrong_value_of_a_crop_is_refused_by_its_key(key, value):
    with pytest.raises(UserError, match=f"views.weak.{key}"):
        crop(**{key: value})


# -- parts of images --------------------------------------------------------------------------------------------------

VIEWS = [
    TURN,
    WeakView(rot90_flip=0.3, rotate=1, max_angle=180, scale=(0.3, 3), fill_label=7),
    crop(scale=(0.3, 3), flip=0.5),
    crop(side=8, scale=(0.1, 1)),
]


@pytest.mark.parametrize("view", VIEWS)
@given(data=st.data())
def test_sampling_the_parts_is_sampling_the_whole(view, data):
    shapes = data.draw(st.lists(st.tuples(st.integers(1, 70), st.integers(1, 70)), min_size=1, max_size=3))
    seed = data.draw(st.integers(0, 1000))
    raw = raw_of(*(torch.rand(shape, generator=gen(seed)) for shape in shapes))
    size = raw.size
    theta = view.thetas(size, gen(seed)) if seed % 10 else view.plain(size)
    parts = boxes(theta, size)
    cut = packed(
        [raw.image[i][:, *box.slices] for i, box in enumerate(parts)],
        [raw.label[i][box.slices] for i, box in enumerate(parts)],
    )
    for box, (height, width) in zip(parts, shapes, strict=True):
        (top, left), (bottom, right) = box
        assert 0 <= top < bottom <= height
        assert 0 <= left < right <= width
    image, label = sample(raw, theta, (16, 16), IGNORE, mirror=view.mirror)
    again, mask = sample(cut, moved(theta, size, parts), (16, 16), IGNORE, mirror=view.mirror)
    # Positions are rounded otherwise: one that falls on the border of two pixels, or of the image, may go either way.
    near = label != mask
    assert near.sum() <= max(1, 0.02 * near.numel())
    torch.testing.assert_close(image[:, 0][~near], again[:, 0][~near], atol=1e-3, rtol=0)


def test_a_part_is_hardly_larger_than_what_the_view_shows():
    size = torch.full((200, 2), 500.0)
    for box in boxes(crop(side=100, scale=(2, 2)).thetas(size, gen()), size):
        (top, left), (bottom, right) = box
        assert 50 <= bottom - top <= 54
        assert 50 <= right - left <= 54
