"""Statistics of predictions against numbers worked out by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssl4seg.keys import IGNORE
from ssl4seg.methods.parts.predictions import confident_label, entropy, log_entropy


@pytest.mark.parametrize(("threshold", "expected"), [(0.0, 1), (0.7, 1), (0.8, IGNORE)])
def test_confident_label_ignores_what_lies_below_the_threshold(threshold, expected):
    logits = torch.tensor([0.0, math.log(3)]).view(1, 2, 1, 1).requires_grad_()  # p = 1/4, 3/4
    label = confident_label(logits, threshold)
    assert (label.item(), label.dtype, label.requires_grad) == (expected, torch.int64, False)


@pytest.mark.parametrize(
    ("p", "expected"),
    [([1.0, 0.0, 0.0], 0.0), ([1 / 3] * 3, math.log(3)), ([0.5, 0.5, 0.0], math.log(2)), ([0.25, 0.75, 0], 0.5623351)],
)
def test_entropy_in_nats(p, expected):
    assert entropy(torch.tensor(p).view(1, 3, 1, 1)).item() == pytest.approx(expected, abs=1e-6)


@given(st.lists(st.floats(-80, 80), min_size=2, max_size=21))
def test_entropy_lies_between_zero_and_ln_k(logits):
    value = entropy(torch.tensor(logits).view(1, -1, 1, 1).softmax(1)).item()
    assert -1e-6 <= value <= math.log(len(logits)) + 1e-5


@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_entropy_of_log_probabilities_is_the_entropy(scale):
    z = scale * torch.randn(2, 5, 3, 4)
    torch.testing.assert_close(log_entropy(z.log_softmax(dim=1)), entropy(z.softmax(dim=1)))


def test_entropy_of_log_probabilities_has_a_finite_gradient_where_a_probability_underflows():
    z = torch.tensor([300.0, 0.0, -300.0]).view(1, 3, 1, 1).requires_grad_()
    assert z.softmax(dim=1).min() == 0
    log_entropy(z.log_softmax(dim=1)).sum().backward()
    assert z.grad.isfinite().all()
