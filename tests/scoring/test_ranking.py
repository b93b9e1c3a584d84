"""Uncertainty and distances by hand, and the orders that they give."""

import math

import numpy as np
import pytest

from ssl4seg.scoring.ranking import Candidate, entropy, k_centre, ranked, uncertainty


def pixels(*rows: tuple[float, ...]) -> np.ndarray:
    """One image, a pixel for each row of probabilities: [1, K, pixels, 1]."""
    return np.array(rows, np.float32).T[None, :, :, None]


def at(*degrees: float) -> np.ndarray:
    """Features of length 1, 2, 3, ... at these angles: [n, 2]."""
    angle = np.radians(degrees)
    return np.arange(1, len(degrees) + 1)[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def candidates(**disagreement: float) -> list[Candidate]:
    """Cases at 10, 90, 100, 180 degrees."""
    features = at(10, 90, 100, 180)
    return [
        Candidate(name=name, num_images=1, entropy=1 - value, disagreement=value, feature=features[number])
        for number, (name, value) in enumerate(disagreement.items())
    ]


def test_entropy_is_0_for_a_sure_pixel_and_1_for_one_that_knows_nothing():
    found = entropy(pixels((1, 0, 0), (1 / 3, 1 / 3, 1 / 3), (0.5, 0.25, 0.25)))
    assert found.shape == (1, 3, 1)
    assert found.ravel() == pytest.approx([0, 1, 1.5 * math.log(2) / math.log(3)], abs=1e-6)


def test_passes_that_are_unsure_alike_do_not_disagree_and_sure_ones_that_differ_do():
    """Pixel 1: both say 1/2. Pixel 2: sure of one class each. Pixels 3, 4: sure of the same class."""
    one = pixels((0.5, 0.5), (1, 0), (1, 0), (1, 0))
    other = pixels((0.5, 0.5), (0, 1), (1, 0), (1, 0))
    scores = uncertainty(iter([one, other]))
    assert scores.entropy == pytest.approx([2 / 4])
    assert scores.disagreement == pytest.approx([1 / 4])
    assert one[0, :, 1, 0].tolist() == [1, 0]  # what was given is not changed
    assert uncertainty([one]).disagreement == pytest.approx([0])


def test_k_centre_takes_the_farthest_from_all_labelled_and_chosen_ones_by_hand():
    """From 0 degrees: 180 is 2 away. Then 90 is 1 from both, 100 is 1 - cos 80 from 180, and 10 is 1 - cos 10."""
    chosen, distances, last = k_centre(at(10, 90, 100, 180), at(0), 2)
    assert chosen == [3, 1]
    assert distances == pytest.approx([2, 1])
    cos = {angle: math.cos(math.radians(angle)) for angle in (10,)}
    assert last == pytest.approx([1 - cos[10], 0, 1 - cos[10], 0], abs=1e-12)


def test_k_centre_takes_each_case_once_though_two_are_the_same():
    chosen, distances, _ = k_centre(at(90, 90, 0), at(0), 9)
    assert chosen == [0, 1, 2]
    assert distances == pytest.approx([1, 0, 0])


def test_the_orders():
    cases = candidates(a=0.1, b=0.4, c=0.3, d=0.2)

    def order(by: str, count: int) -> str:
        return "".join(place.candidate.name for place in ranked(cases, by, count, at(0)))

    assert order("disagreement", 1) == "bcda"
    assert order("entropy", 1) == "adcb"
    assert order("diversity", 2) == "dbac"  # a and c are as far from the nearest: in their own order
    assert order("combined", 1) == "cbda"  # of b and c, the two with most disagreement, c is farther from 0 degrees
    assert order("combined", 2) == "dbca"
    places = ranked(cases, "combined", 1, at(0))
    assert [place.chosen for place in places] == [True, False, False, False]
    assert [place.distance is None for place in places] == [False, False, True, True]
    assert places[0].distance == pytest.approx(1 - math.cos(math.radians(100)))
