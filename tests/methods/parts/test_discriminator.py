"""The discriminator against its layers stated once more, its losses, and passes that leave a network as it is."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from adversaries import bce as numpy_bce
from adversaries import judged, tiny_unet
from torch import nn

from ssl4seg.keys import IGNORE
from ssl4seg.methods.parts.discriminator import Discriminator, bce, least_squares, one_hot_truth, unmoved


@torch.no_grad()
def with_life(module: nn.Module) -> nn.Module:
    """Affine weights and biases that are not those of a fresh network."""
    for p in module.parameters():
        if p.ndim == 1:
            p.uniform_(-0.5, 0.5)
    return module


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize(
    ("decision", "size", "last_stride", "shape"),
    [
        ("patches", (64, 96), 1, (2, 1, 1, 3)),
        ("pooled", (35, 50), None, (2, 1)),
    ],
)
@torch.no_grad()
def test_logits_are_those_of_the_printed_layers(decision, size, last_stride, shape, batch_norm):
    discriminator = with_life(Discriminator(in_channels=4, decision=decision, batch_norm=batch_norm))
    image, mask = torch.rand(2, 1, *size), torch.rand(2, 3, *size)
    expected = judged(discriminator, torch.cat([image, mask], dim=1).numpy(), last_stride=last_stride)
    assert expected.shape == shape
    np.testing.assert_allclose(discriminator(image, mask), expected, atol=1e-4)


@torch.no_grad()
def test_a_dense_decision_is_brought_to_the_size_of_the_image():
    discriminator = with_life(Discriminator(in_channels=3, decision="dense"))
    mask = torch.rand(2, 3, 70, 96)
    coarse = torch.from_numpy(judged(discriminator, mask.numpy(), last_stride=2))
    assert coarse.shape == (2, 1, 2, 3)
    expected = F.interpolate(coarse, size=(70, 96), mode="bilinear", align_corners=False)
    torch.testing.assert_close(discriminator(mask).double(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("decision", ["patches", "dense", "pooled"])
@pytest.mark.parametrize("size", [(1, 1), (5, 4), (33, 100)])
def test_any_size_and_a_batch_of_one_give_a_decision(decision, size, batch_norm):
    mask = torch.rand(1, 3, *size, requires_grad=True)
    logits = Discriminator(in_channels=3, decision=decision, batch_norm=batch_norm)(mask)
    assert logits.isfinite().all()
    if decision == "dense":
        assert logits.shape == (1, 1, *size)
    logits.sum().backward()
    assert mask.grad.abs().sum() > 0


def test_widths_and_norms_are_the_printed_ones():
    layers = list(Discriminator(in_channels=5, decision="patches", batch_norm=True).modules())
    convolutions = [m for m in layers if isinstance(m, nn.Conv2d)]
    assert [m.in_channels for m in convolutions] == [5, 64, 128, 256, 512]
    assert [m.out_channels for m in convolutions] == [64, 128, 256, 512, 1]
    assert {m.kernel_size for m in convolutions} == {(4, 4)}
    assert [(m.stride[0], m.padding[0]) for m in convolutions] == [(2, 1)] * 4 + [(1, 0)]
    assert [m.num_features for m in layers if isinstance(m, nn.BatchNorm2d)] == [128, 256, 512]
    assert {m.negative_slope for m in layers if isinstance(m, nn.LeakyReLU)} == {0.2}


@pytest.mark.parametrize("real", [0, 1])
def test_losses_of_a_decision(real):
    logits = torch.linspace(-5, 5, 11)
    np.testing.assert_allclose(bce(logits, real), numpy_bce(logits.double().numpy(), real), rtol=1e-5)
    np.testing.assert_allclose(least_squares(logits, real), (logits.numpy() - real) ** 2, rtol=1e-6)


def test_a_truth_is_one_hot_and_takes_the_prediction_where_it_is_ignored():
    p = torch.rand(1, 3, 1, 3).softmax(dim=1).requires_grad_()
    truth = one_hot_truth(torch.tensor([[[2, IGNORE, 0]]]), p)
    assert truth[0, :, 0, 0].tolist() == [0, 0, 1]
    assert torch.equal(truth[0, :, 0, 1], p[0, :, 0, 1])
    assert truth[0, :, 0, 2].tolist() == [1, 0, 0]
    assert not truth.requires_grad


def test_an_unmoved_pass_gives_the_output_of_a_pass_and_leaves_no_trace():
    network, image = tiny_unet(), torch.rand(2, 1, 16, 16, requires_grad=True)
    before = copy.deepcopy(network.state_dict())
    output = unmoved(network, image)
    output.square().sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())
    assert image.grad.abs().sum() > 0
    assert torch.equal(output, network(image))  # by the statistics of the batch in both
    assert not all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
