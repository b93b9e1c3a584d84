"""Ramps of loss weights against the published formulas."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssl4seg.errors import UserError
from ssl4seg.methods.parts.ramps import Rampup, sigmoid_rampup
from ssl4seg.types import Progress


@pytest.mark.parametrize(
    ("fraction", "expected"), [(-1, math.exp(-5)), (0, math.exp(-5)), (0.5, math.exp(-1.25)), (1, 1.0), (7, 1.0)]
)
def test_sigmoid_rampup(fraction, expected):
    assert sigmoid_rampup(fraction) == pytest.approx(expected)


@given(st.integers(0, 29_999))
def test_over_30000_steps_the_ramp_is_that_of_ssl4mis(step):
    expected = 0.1 * math.exp(-5 * (1 - min(step // 150, 200) / 200) ** 2)
    assert Rampup(weight=0.1)(Progress(step, 30_000)) == pytest.approx(expected, rel=1e-12)


@given(st.integers(1, 500), st.integers(1, 2000))
def test_ramp_never_falls_and_stays_at_its_weight(steps, total):
    ramp = Rampup(weight=2.0, steps=steps)
    values = [ramp(Progress(step, total)) for step in range(0, 2 * steps, max(1, steps // 20))]
    assert values == sorted(values)
    assert ramp(Progress(steps, total)) == ramp(Progress(10 * steps, total)) == 2.0


def test_ramp_without_length_spans_the_run():
    assert Rampup(weight=1.0)(Progress(30, 100)) == Rampup(weight=1.0, steps=100)(Progress(30, 12345))


def test_a_ramp_of_no_steps_is_at_its_weight_from_the_first_step_on():
    assert Rampup(weight=2.0, steps=0)(Progress(0, 100)) == 2.0


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: Rampup(weight=-0.1), "consistency_weight"),
        (lambda: Rampup(weight=math.nan), "consistency_weight"),
        (lambda: Rampup(weight=1.0, steps=-1), "rampup_steps"),
    ],
)
def test_a_wrong_value_is_refused_by_its_key(make, key):
    with pytest.raises(UserError, match=key):
        make()


def test_fraction_is_the_share_of_the_run_that_is_done():
    assert Progress(3, 12).fraction == 0.25
