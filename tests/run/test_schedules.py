"""Learning-rate schedules against the published formulas."""

import math

import pytest
import torch

from ssl4seg.errors import UserError
from ssl4seg.run.schedules import Constant, Cosine, Poly, Step
from ssl4seg.types import Progress


@pytest.mark.parametrize(
    ("schedule", "step", "expected"),
    [
        (Poly(), 0, 1.0),
        (Poly(), 5, 0.5**0.9),
        (Poly(power=2.0), 9, 0.01),
        (Constant(), 7, 1.0),
        (Step(every=4), 3, 1.0),
        (Step(every=4), 4, 0.1),
        (Step(every=4, gamma=0.5), 9, 0.25),
        (Cosine(), 0, 1.0),
        (Cosine(), 5, 0.5),
        (Cosine(final=0.1), 5, 0.55),
        (Cosine(), 9, (1 + math.cos(0.9 * math.pi)) / 2),
        (Constant(warmup=4), 0, 0.25),
        (Constant(warmup=4), 2, 0.75),
        (Constant(warmup=4), 3, 1.0),
        (Poly(warmup=2), 0, 0.5),
        (Poly(warmup=2), 5, 0.5**0.9),
    ],
)
def test_learning_rate_factor_at_a_step_of_ten(schedule, step, expected):
    assert schedule(Progress(step, 10)) == pytest.approx(expected)


@pytest.mark.parametrize(
    "schedule", [Poly(), Cosine(), Constant(), Poly(warmup=7), Cosine(final=0.3, warmup=30), Step(every=9)]
)
def test_learning_rate_factor_stays_within_zero_and_one(schedule):
    assert all(0 < schedule(Progress(step, 100)) <= 1 for step in range(100))


def test_the_rate_of_steps_is_that_of_torch():
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    theirs = torch.optim.lr_scheduler.StepLR(optimizer, step_size=3, gamma=0.2)
    for step in range(10):
        assert Step(every=3, gamma=0.2)(Progress(step, 10)) == pytest.approx(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: Poly(power=0.0), "power"),
        (lambda: Poly(warmup=-1), "warmup"),
        (lambda: Cosine(final=1.5), "final"),
        (lambda: Step(every=0), "every"),
        (lambda: Step(every=1, gamma=0), "gamma"),
    ],
)
def test_a_wrong_value_is_refused_by_its_key(make, key):
    with pytest.raises(UserError, match=key):
        make()
