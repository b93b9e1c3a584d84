"""Photometric operations: the magnitudes and samples they draw, and the arguments they refuse."""

import inspect
from functools import partial

import pytest
import torch
from torch import Generator

from ssl4seg.augment import operations as ops
from ssl4seg.augment import photometric as ph
from ssl4seg.errors import UserError

COLOR = {"saturation", "hue", "grayscale"}


def gen(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


JITTER = partial(ops.ColorJitter, brightness=0.5, contrast=0.5, saturation=0.5, hue=0.25)
CLASSES = {
    "brightness": partial(ops.Brightness, magnitude=(0.2, 1.8)),
    "contrast": partial(ops.Contrast, magnitude=(0.2, 1.8)),
    "saturation": partial(ops.Saturation, magnitude=(0.2, 1.8)),
    "hue": partial(ops.Hue, magnitude=(-0.5, 0.5)),
    "gamma": partial(ops.Gamma, magnitude=(0.5, 2)),
    "sharpness": partial(ops.Sharpness, magnitude=(0, 2)),
    "solarize": partial(ops.Solarize, magnitude=(0, 1)),
    "posterize": partial(ops.Posterize, magnitude=(1, 5)),
    "blur": partial(ops.GaussianBlur, magnitude=(0.5, 2)),
    "noise": partial(ops.Noise, magnitude=(0.05, 0.2)),
    "clipped_noise": partial(ops.ClippedNoise, magnitude=(0.05, 0.2)),
    "cutout": partial(ops.Cutout, magnitude=(0.3, 0.5)),
    "grayscale": ops.Grayscale,
    "invert": ops.Invert,
    "autocontrast": ops.Autocontrast,
    "equalize": ops.Equalize,
    "jitter": JITTER,
    "some": partial(ops.SomeOf, operations=[ops.Invert(), ops.GaussianBlur(magnitude=(0.5, 2))], num=(1, 2)),
    "own_range": partial(ops.OwnRange, operations=[ops.Invert(), ops.GaussianBlur(magnitude=(0.5, 2))]),
}
WHOLE = {"grayscale", "invert", "autocontrast", "equalize"}
each_class = pytest.mark.parametrize("name", CLASSES)


def test_every_operation_is_among_those_tested():
    public = {kind for kind in vars(ops).values() if isinstance(kind, type) and issubclass(kind, ops.Photometric)}
    tested = {getattr(make, "func", make) for make in CLASSES.values()}
    assert {kind for kind in public if not inspect.isabstract(kind)} - tested == {ops.Identity}


@each_class
@pytest.mark.parametrize("shape", [(200, 1, 20, 15), (200, 3, 20, 15)])
def test_a_share_p_of_the_samples_changes_and_the_others_do_not(name, shape):
    image = 0.9 * torch.rand(shape)
    before = image.clone()
    changed = (CLASSES[name](p=0.3)(image, gen()) != image).flatten(1).any(dim=1)
    expected = 0 if shape[1] == 1 and name in COLOR else 60
    assert abs(changed.sum() - expected) <= min(expected, 20)  # deviation 6.5
    assert torch.equal(image, before)


@each_class
@pytest.mark.parametrize("p", [0.5, 1.0])
def test_the_result_is_a_function_of_the_generator_alone_and_none_is_the_global_one(name, p):
    image, operation = torch.rand(6, 3, 20, 15), CLASSES[name](p=p)
    state = torch.get_rng_state()
    first = operation(image, gen(1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(operation(image, gen(1)), first)
    if p < 1 or name not in WHOLE:
        assert not torch.equal(operation(image, gen(2)), first)
    torch.manual_seed(1)
    assert torch.equal(operation(image), first)


@each_class
def test_a_samples_result_does_not_depend_on_its_neighbours_pixels(name):
    image, other = torch.rand(2, 8, 3, 9, 8).unbind()
    other[3] = image[3]
    operation = CLASSES[name](p=0.7)
    assert torch.equal(operation(image, gen())[3], operation(other, gen())[3])


def test_magnitudes_are_uniform_in_their_range():
    image = torch.full((3000, 1, 1, 1), 0.5)
    factors = ops.Brightness(magnitude=(0.4, 1.6))(image, gen()).flatten() / 0.5
    assert torch.histc(factors, bins=4, min=0.4, max=1.6).min() > 670  # 750, deviation 24
    bits = ops.Posterize(magnitude=(4, 8))(torch.full((3000, 1, 1, 1), 0.999), gen()).flatten()
    kinds, counts = (1 / (1 - bits)).log2().round().unique(return_counts=True)
    assert kinds.tolist() == [4, 5, 6, 7]
    assert counts.min() > 670


def test_operations_in_the_own_range_of_an_image_see_it_from_0_to_1_and_give_its_range_back():
    image = torch.tensor([[-3.0, 0.0, 1.0], [2.0, 2.0, 2.0]]).view(2, 1, 1, 3)
    inverted = ops.OwnRange(operations=[ops.Invert(), ops.Brightness(magnitude=(0.5, 0.5))])(image, gen())
    # (-3, 0, 1) is (0, 3/4, 1), inverted and halved (1/2, 1/8, 0). A constant image is (0, 0, 0), so (1/2, 1/2, 1/2).
    torch.testing.assert_close(inverted.flatten(1), torch.tensor([[-1.0, -2.5, -3.0], [2.5, 2.5, 2.5]]))


def test_clipped_noise_is_cut_off_at_twice_its_deviation_and_takes_any_range():
    image = torch.full((1, 1, 300, 300), -7.0)
    added = ops.ClippedNoise(magnitude=(0.5, 0.5))(image, gen()) + 7
    assert added.abs().max().item() == pytest.approx(1, abs=1e-6)
    # z clipped to +-2 has the variance P(|z| < 2) - 4 phi(2) + 4 P(|z| > 2) = 0.9545 - 0.2160 + 0.1820.
    assert added.std().item() == pytest.approx(0.5 * 0.9205**0.5, rel=0.01)


def test_color_jitter_is_its_parts_in_every_order():
    def chained(order, factors, image):
        ops = (ph.brightness, ph.contrast)
        for k in order:
            image = ops[k](image, factors[k : k + 1])
        return image

    # Of a bright image both clip, so that their order shows.
    image = (0.4 + 0.6 * torch.rand(1, 1, 9, 8)).repeat(100, 1, 1, 1)
    result = ops.ColorJitter(brightness=0.5, contrast=0.5)(image, gen())
    generator = gen()
    torch.rand(100, generator=generator)  # p
    torch.rand((100, 2), generator=generator)  # order
    factors = 0.5 + torch.rand((100, 2), generator=generator)
    orders = [0, 0]
    for i in range(100):
        both = [chained(order, factors[i], image[i : i + 1]) for order in ((0, 1), (1, 0))]
        near = [(result[i : i + 1] - each).abs().max() < 1e-6 for each in both]
        assert any(near)
        if not all(near):
            orders[near.index(True)] += 1
    assert min(orders) > 20


def test_color_jitter_of_grey_images_draws_brightness_and_contrast_only():
    image = torch.rand(20, 1, 6, 5)
    assert torch.equal(ops.ColorJitter(saturation=0.9, hue=0.5)(image, gen()), image)
    assert not torch.equal(ops.ColorJitter(brightness=0.9)(image, gen()), image)


class Times(ops.Photometric):
    """Multiplies by a prime: the factors of the result tell which operations ran, and how often."""

    def __init__(self, prime: int) -> None:
        super().__init__()
        self.prime = prime

    def apply(self, image, chosen, generator):
        return torch.where(chosen[:, None, None, None], image * self.prime, image)


@pytest.mark.parametrize("replace", [True, False])
def test_some_of_chooses_number_and_operations_for_each_sample(replace):
    chain = ops.SomeOf(operations=[Times(2), Times(3), Times(5)], num=(1, 3), replace=replace)
    products = chain(torch.ones(3000, 1, 1, 1), gen()).flatten().int().tolist()
    factors = [[f for f in (2, 3, 5) for power in (1, 2, 3) if product % f**power == 0] for product in products]
    lengths = torch.tensor([len(f) for f in factors])
    assert torch.bincount(lengths).tolist()[0] == 0
    assert torch.bincount(lengths)[1:].min() > 900  # 1000, deviation 26
    assert lengths.max() == 3
    for prime in (2, 3, 5):
        once = sum(f.count(prime) for f in factors)
        assert abs(once - 2000) < 200
    assert any(len(set(f)) < len(f) for f in factors) == replace


def test_some_of_applies_one_after_the_other():
    image = torch.randint(256, (40, 3, 9, 8)) / 255
    operations = [ops.Invert(), ops.Posterize(magnitude=(2, 2))]
    result = ops.SomeOf(operations=operations, num=(2, 2), replace=False)(image, gen())
    invert, posterize = (lambda x: 1 - x), (lambda x: ph.posterize(x, torch.full((40,), 2.0)))
    both = posterize(invert(image)), invert(posterize(image))
    near = [(result - each).abs().flatten(1).amax(dim=1) < 1e-6 for each in both]
    assert (near[0] ^ near[1]).all()
    assert 8 < near[0].sum() < 32


@pytest.mark.parametrize("name", [name for name in CLASSES if name not in ("clipped_noise", "own_range")])
def test_images_outside_zero_to_one_are_refused_at_once(name):
    with pytest.raises(UserError, match=r"expect images in \[0, 1\].* -2 to 3"):
        CLASSES[name]()(torch.linspace(-2, 3, 60).view(1, 3, 4, 5))
    CLASSES[name]()(torch.rand(0, 3, 4, 5))


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: ops.Brightness(magnitude=(0.5, 1), p=1.5), r"Brightness\.p=1.5"),
        (lambda: ops.Brightness(magnitude=(1, 0.5)), r"Brightness\.magnitude=\[1, 0.5\]"),
        (lambda: ops.Brightness(magnitude=0.5), r"Brightness\.magnitude=0.5: expected \[low, high\]"),
        (lambda: ops.Brightness(magnitude=(-1, 0.5)), r"Brightness\.magnitude"),
        (lambda: ops.Hue(magnitude=(0, 0.6)), r"Hue\.magnitude"),
        (lambda: ops.Posterize(magnitude=(0, 4)), r"Posterize\.magnitude"),
        (lambda: ops.GaussianBlur(magnitude=(1,)), r"GaussianBlur\.magnitude"),
        (lambda: ops.ColorJitter(hue=0.6), r"ColorJitter\.hue=0.6"),
        (lambda: ops.ColorJitter(contrast=-1), r"ColorJitter\.contrast=-1"),
        (lambda: ops.SomeOf(operations=[], num=(1, 1)), r"SomeOf\.operations"),
        (lambda: ops.SomeOf(operations=[ops.Invert()], num=(2, 1)), r"SomeOf\.num=\[2, 1\]"),
        (lambda: ops.SomeOf(operations=[ops.Invert()], num=2), r"SomeOf\.num=2"),
        (lambda: ops.SomeOf(operations=ops.Invert(), num=(1, 1)), r"SomeOf\.operations"),
        (lambda: ops.SomeOf(operations=[ops.Invert()], num=(1, 2), replace=False), r"SomeOf\.num"),
    ],
)
def test_a_wrong_value_is_refused_by_its_key(make, key):
    with pytest.raises(UserError, match=rf"views\.strong\.{key}"):
        make()
