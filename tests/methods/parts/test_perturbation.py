"""Perturbations of features against what they promise."""

import pytest
import torch

from ssl4seg.methods.parts.perturbation import feature_drop, feature_noise


def test_noise_is_uniform_in_proportion_to_the_activation():
    x = torch.randn(4, 8, 64, 64).abs() + 1
    e = feature_noise(x, 0.3) / x - 1
    assert e.abs().max() <= 0.3 + 1e-6
    assert e.mean().item() == pytest.approx(0, abs=0.003)
    assert e.std().item() == pytest.approx(0.6 / 12**0.5, abs=0.002)
    assert not torch.equal(e[0], e[1])
    assert torch.equal(feature_noise(torch.zeros(1, 2, 3, 3), 0.3), torch.zeros(1, 2, 3, 3))


def test_drop_takes_the_most_active_places_of_each_image_in_all_channels():
    peak = torch.tensor([1.0, 50.0]).view(2, 1, 1, 1)
    x = torch.linspace(0.01, 1, 100).view(1, 1, 10, 10) * torch.tensor([0.5, 1.5]).view(1, 2, 1, 1) * peak
    kept = feature_drop(x, 0.75, 0.75)
    active = x.mean(dim=1, keepdim=True) >= 0.75 * peak
    assert active.sum() in range(50, 53)  # 26 of 100 in each, but for rounding
    assert torch.equal(kept, torch.where(active, 0, x))


def test_drop_draws_a_threshold_for_each_image():
    x = torch.linspace(0.001, 1, 1000).view(1, 1, 25, 40).expand(500, -1, -1, -1)
    share = feature_drop(x, 0.6, 0.9).eq(0).float().mean(dim=(1, 2, 3))
    assert share.min().item() == pytest.approx(0.1, abs=0.01)
    assert share.max().item() == pytest.approx(0.4, abs=0.01)
    assert share.mean().item() == pytest.approx(0.25, abs=0.02)


def test_drop_of_features_that_are_nowhere_active_is_finite():
    assert torch.equal(feature_drop(-torch.ones(1, 2, 3, 3), 0.6, 0.9), -torch.ones(1, 2, 3, 3))
    assert feature_drop(torch.zeros(1, 2, 3, 3), 0.6, 0.9).eq(0).all()
