"""URPC against its equations in NumPy."""

import math

import numpy as np
import pytest
import torch
from pixelwise import HALFWAY, W_HALFWAY, K, Pixelwise, losses, numpy_supervised, softmax

from ssl4seg.errors import UserError
from ssl4seg.keys import IGNORE
from ssl4seg.methods.urpc import URPC
from ssl4seg.networks.unet import UNet
from ssl4seg.types import Batch


def pyramid_unet() -> UNet:
    return UNet(in_channels=1, num_classes=K, channels=(4, 5, 6, 7, 8, 9), dropout=(0,) * 6)


def made(**keys: object) -> URPC:
    return URPC(network=pyramid_unet, **{"dropout": 0.0, "feature_noise": 0.0, **keys}).train()


@pytest.fixture
def batch() -> Batch:
    label = torch.randint(K, (2, 32, 32))
    label[0, :8] = IGNORE
    return Batch(torch.randn(2, 1, 32, 32), label, torch.randn(3, 1, 32, 32))


def numpy_consistency(z: np.ndarray) -> float:
    """Of logits [S, U, K, H, W]."""
    p = np.stack([softmax(z_i) for z_i in z])
    mean, total = p.mean(axis=0), 0.0
    for p_i in p:
        d = (p_i * np.log(p_i / mean)).sum(axis=1, keepdims=True)
        v = np.exp(-d)
        total += ((p_i - mean) ** 2 * v).mean() / v.mean() + d.mean()
    return total / len(p)


@pytest.mark.parametrize("num_scales", [2, 4, 9])
@pytest.mark.parametrize("num", [1, 3])
def test_the_loss_is_the_papers(batch, num_scales, num):
    method, batch = made(num_scales=num_scales), batch._replace(unlabeled=batch.unlabeled[:num])
    with torch.no_grad():
        z = method.scales(torch.cat([batch.image, batch.unlabeled])).double().numpy()
    assert len(z) == min(num_scales, 5)
    told = losses(method, batch)
    expected = np.mean([numpy_supervised(z_i[:2], batch.label.numpy()) for z_i in z])
    assert told["supervised"] == pytest.approx(expected, rel=1e-5)
    assert told["consistency"] == pytest.approx(W_HALFWAY * numpy_consistency(z[:, 2:]), rel=1e-4)


def test_scales_that_agree_cost_nothing():
    z = torch.randn(1, 2, K, 4, 4).expand(4, -1, -1, -1, -1)
    assert made().consistency(z).item() == pytest.approx(0, abs=1e-6)


def test_scales_that_are_sure_of_different_classes_cost_ln_s_and_the_square():
    # p_1 = (1, 0, 0), p_2 = (0, 1, 0), pbar = (1/2, 1/2, 0): D = ln 2, squares 1/4, 1/4, 0 in both
    z = 400.0 * torch.eye(K)[:2].view(2, 1, K, 1, 1).expand(2, 1, K, 3, 3)
    z = z.clone().requires_grad_()
    value = made().consistency(z)
    value.backward()
    assert value.item() == pytest.approx(math.log(2) + 1 / 6, rel=1e-6)
    assert z.grad.isfinite().all()


def test_the_finest_scale_is_what_the_network_predicts():
    method, image = made(), torch.randn(2, 1, 33, 40)
    scales = method.eval().scales(image)
    assert scales.shape == (4, 2, K, 33, 40)
    assert torch.equal(scales[0], method.predict(image))


@pytest.mark.parametrize("keys", [{"dropout": 0.5}, {"feature_noise": 0.3}])
def test_perturbations_reach_the_coarser_scales_while_training_and_no_other(keys):
    method, image = made(**keys), torch.randn(2, 1, 32, 32)
    one, two = method.scales(image), method.scales(image)
    assert torch.equal(one[0], two[0])
    assert all(not torch.equal(a, b) for a, b in zip(one[1:], two[1:], strict=True))
    assert torch.equal(method.eval().scales(image), method.scales(image))


@pytest.mark.parametrize("term", ["supervised", "consistency"])
def test_each_term_reaches_the_network_and_every_head(batch, term):
    method = made()
    method("segmenter", batch, HALFWAY)[term].backward()
    assert all(p.grad.abs().sum() > 0 for p in method.heads.parameters())
    assert all(p.grad.abs().sum() > 0 for n, p in method.student.named_parameters() if n.endswith("0.weight"))
    assert set(method.parameters_of("segmenter")) == set(method.parameters())


def test_nothing_labelled_leaves_the_consistency(batch):
    told = losses(made(), batch._replace(label=torch.full_like(batch.label, IGNORE)))
    assert told["supervised"] == 0
    assert told["consistency"] > 0


def test_pseudo_labels_are_the_mean_of_the_scales():
    method, image = made().eval(), torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        p = np.mean([softmax(z_i) for z_i in method.scales(image).double().numpy()], axis=0)
        found = method.pseudo_labels(image, HALFWAY)
    np.testing.assert_allclose(found.probability, p, rtol=1e-5)
    assert found.used.all()


@pytest.mark.parametrize("keys", [{"num_scales": 1}, {"dropout": 1.0}, {"feature_noise": -0.1}])
def test_a_wrong_value_is_refused_by_its_key(keys):
    with pytest.raises(UserError, match=f"method.{next(iter(keys))}"):
        made(**keys)


def test_a_network_of_one_scale_is_refused():
    with pytest.raises(UserError, match=r"^network=Pixelwise: "):
        URPC(network=Pixelwise)
