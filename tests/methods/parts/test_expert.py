"""The frozen expert, and the losses of relations and predictions against loops over places."""

import functools

import numpy as np
import pytest
import torch
from adversaries import tiny_unet
from pixelwise import K, Pixelwise

from ssl4seg.errors import UserError
from ssl4seg.methods.parts.expert import Expert, cosines, pooled, prediction_loss, relation_loss


def test_a_relation_is_the_cosine_of_two_places_and_the_loss_their_mean_square_difference():
    a, b = torch.randn(2, 5, 2, 3), torch.randn(2, 7, 2, 3)
    expected = []
    for n in range(2):
        x, y = (maps[n].double().numpy().reshape(len(maps[n]), 6).T for maps in (a, b))
        for i, j in np.ndindex(6, 6):
            pair = [m[i] @ m[j] / np.linalg.norm(m[i]) / np.linalg.norm(m[j]) for m in (x, y)]
            expected.append((pair[0] - pair[1]) ** 2)
    assert relation_loss(a, b, 256).item() == pytest.approx(np.mean(expected), rel=1e-5)


def test_relations_depend_on_neither_the_scale_nor_a_rotation_of_the_features():
    a = torch.randn(2, 6, 4, 4, requires_grad=True)
    turn = torch.linalg.qr(torch.randn(6, 6)).Q
    other = 3 * torch.einsum("dc,nchw->ndhw", turn, a.detach())
    loss = relation_loss(a, other, 256)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-10)
    assert a.grad.abs().max() < 1e-6


def test_the_gradient_of_two_places_in_the_plane():
    """The cosine of unit vectors at an angle t: d (cos t - 0)^2 / dt = -2 cos t sin t, in two of the four pairs."""
    t = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    zero = torch.zeros_like(t)
    a = torch.stack([torch.stack([zero + 1, zero]), torch.stack([t.cos(), t.sin()])], dim=1).view(1, 2, 1, 2)
    b = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).view(1, 2, 1, 2)
    relation_loss(a, b, 256).backward()
    assert t.grad.item() == pytest.approx(-2 * np.cos(0.7) * np.sin(0.7) / 2, rel=1e-5)


@pytest.mark.parametrize(
    ("shape", "places", "left"),
    [((32, 32), 256, (16, 16)), ((33, 16), 256, (11, 16)), ((5, 4), 256, (5, 4)), ((12, 12, 7), 64, (4, 4, 4))],
)
def test_finer_maps_are_averaged_to_as_many_places_as_are_allowed(shape, places, left):
    maps = torch.rand(2, 3, *shape)
    found = pooled(maps, places)
    assert found.shape[2:] == left
    block = tuple(slice(0, -(-length // number)) for length, number in zip(shape, left, strict=True))
    torch.testing.assert_close(found[(0, 0, *(0 for _ in shape))], maps[0, 0][block].mean())


def test_the_experts_map_may_have_another_size_and_its_own_channels():
    coarse = torch.randn(1, 4, 2, 2)
    fine = coarse.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert relation_loss(coarse, fine, 256).item() == pytest.approx(0, abs=1e-10)
    assert cosines(fine).shape == (1, 16, 16)


def test_the_prediction_loss_is_the_cross_entropy_with_the_experts_probabilities():
    z, other = torch.randn(2, K, 3, 4), torch.randn(2, K, 3, 4)
    p, q = (np.exp(each.double().numpy()) for each in (z, other))
    p, q = p / p.sum(axis=1, keepdims=True), q / q.sum(axis=1, keepdims=True)
    assert prediction_loss(z, other).item() == pytest.approx(-(q * np.log(p)).sum(axis=1).mean(), rel=1e-5)


# -- the expert -------------------------------------------------------------------------------------------------------


def test_it_stays_frozen_and_in_evaluation_mode_and_is_saved():
    student = tiny_unet()
    expert = Expert(student, None).train()
    before = {name: value.clone() for name, value in expert.state_dict().items()}
    logits, features = expert.seen(torch.rand(2, 1, 16, 16))
    assert not any(module.training for module in expert.modules())
    assert not any(p.requires_grad for p in expert.parameters())
    assert not any(each.requires_grad for each in (logits, *features))
    assert logits.shape == (2, K, 16, 16)
    with torch.no_grad():
        for p in student.parameters():
            p.zero_()
    assert all(torch.equal(value, before[name]) for name, value in expert.state_dict().items())


def test_its_images_are_standardised_by_its_own_numbers_or_by_the_students():
    student, x = tiny_unet(), torch.rand(2, 1, 16, 16)
    student.standardize([0.2], [0.5])
    peer = functools.partial(Pixelwise3)
    for keys, mean, std in (({}, 0.2, 0.5), ({"mean": [0.4], "std": [0.1]}, 0.4, 0.1)):
        found = Expert(student, peer, **keys).features(x)[0]
        torch.testing.assert_close(found, (x - mean) / std)


class Pixelwise3(Pixelwise):
    """With the keywords that an expert is built with."""

    def __init__(self, *, in_channels: int, num_classes: int) -> None:
        assert (in_channels, num_classes) == (1, K)
        super().__init__()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"mean": [0.5]}, "expert_std=None: give both"),
        ({"mean": [0.5, 0.5], "std": [1.0]}, "expert_mean=.* a list of length 1"),
        ({"mean": [0.5], "std": [0.0]}, "expert_std=.* above 0"),
    ],
)
def test_wrong_numbers_are_refused_by_their_key(keys, message):
    with pytest.raises(UserError, match=f"method.{message}|method.*{message}"):
        Expert(tiny_unet(), None, **keys)
