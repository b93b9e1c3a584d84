"""Passes of several batches: what a network sees, and what comes out."""

import pytest
import torch
from pixelwise import Pixelwise
from torch import Tensor

from ssl4seg.methods.cps import CPS
from ssl4seg.methods.gan import GAN
from ssl4seg.methods.parts.passes import joined, parted, together

ONES, TWOS, THREES = (torch.full((n, 1, 2, 2), float(n)) for n in (1, 2, 3))


def test_batches_are_joined_in_their_order_and_parted_again() -> None:
    a, b = [ONES, ONES[..., :1]], [TWOS, TWOS[..., :1]]
    whole = joined([a, b])
    assert [part.flatten(1)[:, 0].tolist() for part in whole] == [[1, 2, 2]] * 2
    for found, expected in zip(parted(whole, [1, 2]), (a, b), strict=True):
        assert all(map(torch.equal, found, expected))


def test_together_gives_each_batch_its_part_of_what_the_network_makes_of_all() -> None:
    one, three = together(lambda x: (x - x.mean(), [2 * x]), ONES, THREES)  # the mean of 1, 3, 3, 3 is 2.5
    assert one[0].eq(-1.5).all()
    assert three[0].eq(0.5).all()
    assert (one[1][0].shape, three[1][0].shape) == (ONES.shape, THREES.shape)
    assert three[1][0].eq(6).all()


@pytest.mark.parametrize(
    ("kind", "passes", "seen"),
    [
        (CPS, "auto", [6]),
        (CPS, "together", [6]),
        (CPS, "apart", [1, 5]),  # the labelled image by itself, the others in one
        (GAN, "auto", [1, 5]),
        (GAN, "together", [6]),
    ],
)
def test_auto_is_the_methods_own_way_and_the_run_may_choose_the_other(kind, passes, seen) -> None:
    method, sizes = kind(network=Pixelwise), list[int]()
    method.passes = passes

    def network(image: Tensor) -> Tensor:
        sizes.append(len(image))
        return -image

    outputs = method.through(network, ONES, TWOS, THREES)
    assert sizes == seen
    assert all(map(torch.equal, outputs, (-ONES, -TWOS, -THREES)))
