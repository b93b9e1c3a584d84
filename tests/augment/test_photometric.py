"""Photometric operations against torchvision, PIL and SciPy."""

import itertools
import math

import numpy as np
import pytest
import scipy.ndimage
import torch
import torchvision.transforms.v2.functional as tv
from PIL import Image, ImageFilter
from torch import Generator, Tensor

from ssl4seg.augment import photometric as ph

SHAPES = [(3, 1, 21, 17), (3, 3, 21, 17)]


def gen(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def pictures(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Smooth pictures, each of its own contrast, on the grid of 8 bits."""
    rng = np.random.default_rng(seed)
    smooth = scipy.ndimage.gaussian_filter(rng.random(shape), (0, 0, 2, 2))
    span = rng.uniform(0.3, 1, (shape[0], 1, 1, 1))
    smooth = (smooth - smooth.min((2, 3), keepdims=True)) / np.ptp(smooth, (2, 3), keepdims=True) * span
    return torch.from_numpy((smooth * 255).round() / 255).float()


def bytes_of(image: Tensor) -> Tensor:
    return (image * 255).round().to(torch.uint8)


def through_bytes(function):
    """A torchvision operation as it is for 8-bit images."""
    return lambda image, *more: function(bytes_of(image), *more).float() / 255


# operation, magnitudes to try, torchvision's for one image [1, C, H, W] and one magnitude
AGAINST_TORCHVISION = {
    "brightness": (ph.brightness, [0, 0.4, 1, 1.7], tv.adjust_brightness),
    "contrast": (ph.contrast, [0, 0.4, 1, 1.7], tv.adjust_contrast),
    "saturation": (ph.saturation, [0, 0.4, 1, 1.7], tv.adjust_saturation),
    "hue": (ph.hue, [-0.5, -0.2, 0, 0.01, 0.25, 0.5], tv.adjust_hue),
    "gamma": (ph.gamma, [0.3, 1, 2.2], tv.adjust_gamma),
    "sharpness": (ph.sharpness, [0, 0.5, 1, 2.5], tv.adjust_sharpness),
    "solarize": (ph.solarize, [0, 0.3, 0.8], tv.solarize),
    "posterize": (ph.posterize, [1, 2, 4, 7], lambda x, bits: tv.posterize(x, int(bits))),
    "invert": (ph.invert, [1], lambda x, _: tv.invert(x)),
    "autocontrast": (ph.autocontrast, [1], lambda x, _: tv.autocontrast(x)),
    "equalize": (ph.equalize, [1], lambda x, _: through_bytes(tv.equalize)(x)),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", AGAINST_TORCHVISION)
def test_is_torchvisions(name, shape):
    op, magnitudes, reference = AGAINST_TORCHVISION[name]
    image = pictures(shape)
    for drawn in itertools.product(magnitudes, repeat=2):
        magnitude = torch.tensor([*drawn, magnitudes[0]], dtype=torch.float32)
        expected = torch.cat([reference(x[None], m.item()) for x, m in zip(image, magnitude, strict=True)])
        torch.testing.assert_close(op(image, magnitude), expected, atol=2e-5, rtol=0)


def test_grayscale_is_torchvisions_in_every_channel():
    image = pictures(SHAPES[1])
    expected = tv.rgb_to_grayscale(image, num_output_channels=3)
    torch.testing.assert_close(ph.grayscale(image, torch.ones(3)), expected, atol=1e-6, rtol=0)


def test_sharpness_at_zero_is_pils_smooth_filter():
    image = bytes_of(pictures(SHAPES[0]))
    smooth = [np.asarray(Image.fromarray(x[0].numpy()).filter(ImageFilter.SMOOTH)) for x in image]
    mine = ph.sharpness(image / 255, torch.zeros(3))
    torch.testing.assert_close(255 * mine[:, 0], torch.from_numpy(np.stack(smooth)).float(), atol=0.51, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_blur_is_scipys_gaussian(shape):
    image, sigma = pictures(shape), [0.3, 1.0, 1.9]
    expected = [
        scipy.ndimage.gaussian_filter(x, (0, s, s), mode="nearest", radius=6) for x, s in zip(image, sigma, strict=True)
    ]
    blurred = ph.blur(image, torch.tensor(sigma), radius=6)
    torch.testing.assert_close(blurred, torch.from_numpy(np.stack(expected)), atol=1e-5, rtol=0)


def test_blur_of_a_point_is_centred_symmetric_and_keeps_its_mass():
    image = torch.zeros(2, 1, 31, 31)
    image[:, :, 15, 15] = 1
    spot = ph.blur(image, torch.tensor([0.8, 1.6]))
    for turned in (spot.flip(2), spot.flip(3), spot.transpose(2, 3)):
        torch.testing.assert_close(spot, turned)
    torch.testing.assert_close(spot.sum(dim=(1, 2, 3)), torch.ones(2))
    at = torch.arange(31.0) - 15
    variance = (spot.sum(dim=(1, 2)) * at**2).sum(dim=1)
    torch.testing.assert_close(variance.sqrt(), torch.tensor([0.8, 1.6]), atol=0.01, rtol=0)


def test_blends_run_from_the_image_to_the_whole_operation():
    image = pictures(SHAPES[1])
    for op in (ph.grayscale, ph.invert, ph.autocontrast, ph.equalize):
        whole = op(image, torch.ones(3))
        torch.testing.assert_close(op(image, torch.full((3,), 0.25)), 0.75 * image + 0.25 * whole, atol=1e-6, rtol=0)


def test_cutout_is_a_square_of_its_side_clipped_to_the_image():
    image = pictures((3, 3, 20, 40))
    place = torch.tensor([[0.5, 0.5], [0.0, 0.0], [0.95, 0.25]])
    cut = ph.cutout(image, torch.tensor([0.5, 0.5, 0.2]), place)
    expected = image.clone()
    expected[0, :, 5:15, 15:25] = 0.5
    expected[1, :, :5, :5] = 0.5
    expected[2, :, 17:20, 8:12] = 0.5
    assert torch.equal(cut, expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_noise_has_its_standard_deviation_and_is_independent_in_pixels_and_channels(shape):
    image = torch.full((3, shape[1], 100, 100), 0.5)
    added = ph.noise(image, torch.tensor([0.0, 0.05, 0.1]), gen()) - 0.5
    torch.testing.assert_close(added.std(dim=(1, 2, 3)), torch.tensor([0, 0.05, 0.1]), atol=0.003, rtol=0)
    assert added.mean().abs() < 0.002
    assert (added[2, 0, 1:] * added[2, 0, :-1]).mean().abs() < 3e-4
    assert (added[2, 0] * added[2, -1]).mean().abs() < (3e-4 if shape[1] == 3 else math.inf)


# -- what all functions keep ------------------------------------------------------------------------------------------

# Operation, the magnitude that leaves the image as it is, and a strong one.
OPS = {
    "brightness": (ph.brightness, 1, 1.8),
    "contrast": (ph.contrast, 1, 0.2),
    "saturation": (ph.saturation, 1, 0.2),
    "hue": (ph.hue, 0, 0.3),
    "gamma": (ph.gamma, 1, 2.5),
    "grayscale": (ph.grayscale, 0, 1),
    "invert": (ph.invert, 0, 1),
    "solarize": (ph.solarize, 1.1, 0.2),
    "posterize": (ph.posterize, 8, 2),
    "autocontrast": (ph.autocontrast, 0, 1),
    "equalize": (ph.equalize, 0, 1),
    "sharpness": (ph.sharpness, 1, 0),
    "blur": (ph.blur, 0, 1.5),
    "cutout": (ph.cutout, 0, 0.5),
    "noise": (lambda x, m: ph.noise(x, m, gen()), 0, 0.2),
}
COLOR = {"saturation", "hue", "grayscale"}
each_op = pytest.mark.parametrize("name", OPS)


@each_op
@pytest.mark.parametrize("shape", SHAPES)
def test_the_identity_magnitude_leaves_the_image_as_it_is_and_a_strong_one_does_not(name, shape):
    op, identity, strong = OPS[name]
    image = torch.rand(shape)  # not on the grid of 8 bits
    torch.testing.assert_close(op(image, torch.full((3,), float(identity))), image, atol=1e-6, rtol=0)
    changed = op(image, torch.full((3,), float(strong)))
    assert torch.equal(changed, image) == (name in COLOR and shape[1] == 1)


@each_op
@pytest.mark.parametrize("shape", SHAPES)
def test_a_sample_does_not_depend_on_its_neighbours(name, shape):
    op, identity, strong = OPS[name]
    image, others = torch.rand(shape), torch.rand(shape)
    magnitude = torch.tensor([identity, strong, (identity + strong) / 2], dtype=torch.float32)
    together = op(image, magnitude)
    others[1] = image[1]
    other_magnitude = torch.tensor([strong, strong, identity], dtype=torch.float32)
    assert torch.equal(op(others, other_magnitude)[1], together[1])
    if name != "noise":  # which is drawn for the whole batch
        torch.testing.assert_close(op(image[2:], magnitude[2:]), together[2:], atol=1e-6, rtol=0)


@each_op
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0, 100 / 255])
def test_a_constant_image_stays_constant_and_finite(name, shape, value):
    op, _, strong = OPS[name]
    result = op(torch.full(shape, value), torch.full((3,), float(strong)))
    assert result.isfinite().all()
    if name not in ("cutout", "noise"):
        torch.testing.assert_close(result, result[:, :, :1, :1].expand_as(result), atol=1e-6, rtol=0)


@each_op
@pytest.mark.parametrize("shape", [*SHAPES, (2, 2, 1, 1), (2, 3, 2, 5), (0, 1, 4, 4)])
def test_zero_to_one_goes_to_zero_to_one_and_the_input_stays_as_it_was(name, shape):
    op, _, strong = OPS[name]
    image = torch.rand(shape)
    if image.numel():
        image.view(-1)[0], image.view(-1)[-1] = 0, 1
    before = image.clone()
    result = op(image, torch.full(shape[:1], float(strong)))
    assert torch.equal(image, before)
    assert (result.shape, result.dtype) == (image.shape, torch.float32)
    assert ((result >= 0) & (result <= 1)).all()


@each_op
def test_no_pixel_moves(name):
    op, _, strong = OPS[name]
    if name in ("cutout", "noise"):
        strong = 0.1
    image = torch.full((2, 3, 24, 24), 0.2) + torch.tensor([0.0, 0.1, 0.2]).view(3, 1, 1)
    image[0, :, 6:18, 6:18] += 0.5
    image[1, :, :, :12] += 0.5  # half of the second image
    change = op(image, torch.full((2,), float(strong)))
    for picture, changed in zip(image[:, 0], change.mean(dim=1), strict=True):
        inside = picture > 0.5
        edge = scipy.ndimage.binary_dilation(inside, iterations=3) & ~scipy.ndimage.binary_erosion(inside, iterations=3)
        clear = torch.from_numpy(~edge)
        if name != "cutout":  # far from the edge both regions keep a colour of their own
            assert changed[inside & clear].std() < 0.11 > changed[~inside & clear].std()
        turned = op(image.flip(3), torch.full((2,), float(strong))).flip(3)
        if name != "noise":
            torch.testing.assert_close(turned, change, atol=1e-6, rtol=0)


@each_op
def test_channels_last_and_autocast_change_nothing(name):
    op, _, strong = OPS[name]
    image, magnitude = torch.rand(SHAPES[1]), torch.full((3,), float(strong))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = op(image.contiguous(memory_format=torch.channels_last), magnitude)
    torch.testing.assert_close(result, op(image, magnitude), atol=1e-6, rtol=0)
