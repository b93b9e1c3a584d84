"""The largest component: SciPy's way against flooding, and the GPU's way against SciPy's on shapes that resist it."""

import numpy as np
import pytest
import torch
from pixelwise import K, flooded
from torch import Tensor

from ssl4seg.methods.parts.components import by_merging, by_scipy, components, largest_components


def drawn(seed: int, *shape: int, share: float = 0.7) -> Tensor:
    """Random labels, background on the other pixels."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(1, K, shape, generator=generator)
    return label * (torch.rand(shape, generator=generator) < share)


def both(label: Tensor) -> Tensor:
    """The components by one way, which must be those of the other."""
    kept = by_scipy(label)
    assert torch.equal(by_merging(label, K), kept)
    return kept


@pytest.mark.parametrize("shape", [(3, 9, 11), (2, 4, 5, 6)])
def test_the_largest_component_of_each_class_is_kept(shape):
    label = drawn(0, *shape)
    assert np.array_equal(both(label), flooded(label.numpy()))


def test_corners_connect_the_background_is_left_and_equal_ones_go_by_reading_order():
    label = torch.tensor([[1, 0, 0, 2, 0, 2], [0, 1, 0, 0, 0, 0], [1, 0, 0, 1, 1, 0]])[None]
    kept = torch.tensor([[1, 0, 0, 2, 0, 0], [0, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0]])[None]
    assert torch.equal(both(label), kept)
    nothing = torch.zeros(2, 4, 4, dtype=torch.int64)
    assert torch.equal(both(nothing), nothing)


@pytest.mark.parametrize("shape", [(4, 24, 31), (2, 9, 10, 11), (1, 1, 17), (1, 1, 1)])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7])
def test_both_ways_agree_on_noise_between_scattered_and_connected(shape, share):
    for seed in range(5):
        both(drawn(seed, *shape, share=share))


def spiral(side: int) -> Tensor:
    """A line of one pixel from the corner to the middle, turn after turn, two pixels apart."""
    label, place, step, length = torch.zeros(side, side, dtype=torch.int64), [0, -1], (0, 1), side
    while length > 0:
        for _ in range(2):
            for _ in range(length):
                place = [place[0] + step[0], place[1] + step[1]]
                label[tuple(place)] = 1
            step = (step[1], -step[0])
            if length == side:
                length -= 1
        length -= 2
    return label


def snake(side: int) -> Tensor:
    """Rows of one pixel, joined at their ends in turn."""
    label = torch.zeros(side, side, dtype=torch.int64)
    label[::2] = 1
    label[1::4, -1] = label[3::4, 0] = 1
    return label


def comb(side: int) -> Tensor:
    """Teeth that hang together at the last row only."""
    label = torch.zeros(side, side, dtype=torch.int64)
    label[:, ::2] = label[-1] = 1
    return label


def teeth(side: int) -> Tensor:
    """A comb whose teeth end at heights in bit-reversed order: neighbouring ends differ at every scale, and it takes
    more rounds than the others, five where they take two."""
    bits = side.bit_length() - 1
    label = torch.zeros(2**bits + 1, 2 ** (bits + 1), dtype=torch.int64)
    label[0] = 1
    for i in range(2**bits):
        label[: 1 + int(f"{i:0{bits}b}"[::-1], 2), 2 * i] = 1
    return label


@pytest.mark.parametrize("shape", [spiral, snake, comb, teeth])
def test_a_long_thin_component_is_one_however_it_lies_in_the_image(shape):
    label = shape(33)
    for turned in (label, label.T, label.flip(0), label.flip(1), label.rot90()):
        assert torch.equal(both(turned[None]), turned[None])
        cut = turned[None].clone()
        cut[0, 16] *= 2  # a row of the other class
        both(cut)


def test_a_snake_through_the_slices_of_a_volume_is_one():
    label = torch.zeros(7, 13, 13, dtype=torch.int64)
    label[::2] = snake(13)
    label[1::4, -1, -1] = label[3::4, 0, 0] = 1  # the last rows of two slices do not touch elsewhere
    kept = both(label[None])
    assert kept.sum() == 4 * snake(13).sum() + 3


def test_each_component_has_one_root_and_the_background_none():
    label = torch.tensor([[[1, 1, 0, 2], [0, 0, 0, 2], [1, 0, 2, 0]]])
    found = components(label, torch.stack([label == 1, label == 2], dim=1)).flatten()
    assert found[0] == found[1] != found[8]
    assert found[3] == found[7] == found[10]
    assert found[[2, 4, 5, 6, 9, 11]].tolist() == [2, 4, 5, 6, 9, 11]


def test_on_the_cpu_scipy_does_it():
    label = drawn(1, 2, 5, 5)
    assert torch.equal(largest_components(label, K), by_scipy(label))
