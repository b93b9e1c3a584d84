"""MC-Net against its equations in NumPy."""

import itertools

import numpy as np
import pytest
import torch
from pixelwise import HALFWAY, W_HALFWAY, K, Pixelwise, losses, numpy_supervised, softmax

from ssl4seg.errors import UserError
from ssl4seg.keys import IGNORE
from ssl4seg.methods.mc_net import MCNet
from ssl4seg.networks.unet import UNet
from ssl4seg.types import Batch


def unet(**keys: object) -> UNet:
    return UNet(in_channels=1, num_classes=K, **{"channels": (4, 8), "dropout": (0, 0), **keys})


def made(**keys: object) -> MCNet:
    return MCNet(network=unet, **keys).train()


@pytest.fixture
def batch() -> Batch:
    label = torch.randint(K, (2, 8, 8))
    label[0, :2] = IGNORE
    return Batch(torch.randn(2, 1, 8, 8), label, torch.randn(3, 1, 8, 8))


def sharpened(p: np.ndarray, temperature: float) -> np.ndarray:
    a, b = p ** (1 / temperature), (1 - p) ** (1 / temperature)
    return a / (a + b)


@pytest.mark.parametrize("num_decoders", [2, 3])
@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("num", [1, 3])
def test_the_loss_is_the_papers(batch, num_decoders, temperature, num):
    method = made(num_decoders=num_decoders, temperature=temperature)
    batch = batch._replace(unlabeled=batch.unlabeled[:num])
    with torch.no_grad():
        z = [z_i.double().numpy() for z_i in method.decoded(torch.cat([batch.image, batch.unlabeled]))]
    p, told = [softmax(z_i) for z_i in z], losses(method, batch)
    expected = sum(
        ((p[j] - sharpened(p[i], temperature)) ** 2).mean() for i, j in itertools.permutations(range(num_decoders), 2)
    )
    assert told["supervised"] == pytest.approx(0.5 * sum(numpy_supervised(z_i[:2], batch.label.numpy()) for z_i in z))
    assert told["consistency"] == pytest.approx(W_HALFWAY * expected, rel=1e-4)


def test_sharpening_of_sure_predictions_is_finite():
    p = torch.tensor([0.0, 1e-30, 1e-3, 0.5, 1 - 1e-3, 1.0], requires_grad=True)
    s = made(temperature=0.01).sharpened(p).sigmoid()
    s.sum().backward()
    torch.testing.assert_close(s, torch.tensor([0.0, 0.0, 0.0, 0.5, 1.0, 1.0]))
    assert p.grad.isfinite().all()


@pytest.mark.parametrize("own", UNet.upsamplings)
@pytest.mark.parametrize("num_decoders", [2, 3])
def test_every_decoder_has_an_upsampling_of_its_own_and_the_networks_own_comes_first(own, num_decoders):
    method = MCNet(network=lambda **keys: unet(**{"upsampling": own, **keys}), num_decoders=num_decoders)
    used = [decoder.decoder[0].upsampling for decoder in method.decoders]
    assert used[0] == own
    assert len(set(used)) == len(used) == num_decoders


def test_one_encoder_serves_all_and_the_first_decoder_predicts():
    method, image = made(num_decoders=3).eval(), torch.randn(2, 1, 8, 8)
    assert all(not list(other.encoder.parameters()) for other in method.others)
    assert torch.equal(method.predict(image), method.decoded(image)[0])
    assert set(method.parameters_of("segmenter")) == set(method.parameters())


@pytest.mark.parametrize("term", ["supervised", "consistency"])
def test_each_term_reaches_the_encoder_and_every_decoder(batch, term):
    method = made(num_decoders=3)
    method("segmenter", batch, HALFWAY)[term].backward()
    for decoder in method.decoders:
        assert decoder.head.weight.grad.abs().sum() > 0
    assert method.student.encoder[0][0].weight.grad.abs().sum() > 0


def test_consistency_sees_labelled_and_unlabelled_images_and_needs_no_label(batch):
    method = made()
    before = losses(method, batch)
    assert losses(method, batch._replace(label=torch.full_like(batch.label, IGNORE))) == pytest.approx(
        {"supervised": 0, "consistency": before["consistency"]}
    )
    for other in (batch._replace(image=torch.randn(2, 1, 8, 8)), batch._replace(unlabeled=torch.randn(3, 1, 8, 8))):
        assert losses(method, other)["consistency"] != pytest.approx(before["consistency"], rel=1e-4)


@pytest.mark.parametrize("num_decoders", [2, 3])
def test_pseudo_labels_are_the_sharpened_predictions_of_the_other_decoders(num_decoders):
    method, image = made(num_decoders=num_decoders).eval(), torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        s = [sharpened(softmax(z_i.double().numpy()), 0.1) for z_i in method.decoded(image)[1:]]
        found = method.pseudo_labels(image, HALFWAY)
    np.testing.assert_allclose(found.probability, np.mean([a / a.sum(1, keepdims=True) for a in s], axis=0), atol=1e-4)
    assert found.used.all()


@pytest.mark.parametrize(
    "keys",
    [{"num_decoders": 1}, {"num_decoders": 4}, {"temperature": 0.0}, {"temperature": 1.5}, {"supervised_weight": -1}],
)
def test_a_wrong_value_is_refused_by_its_key(keys):
    with pytest.raises(UserError, match=f"method.{next(iter(keys))}"):
        made(**keys)


def test_a_network_with_too_few_upsamplings_is_refused():
    with pytest.raises(UserError, match=r"^network=Pixelwise: .* 0 kinds"):
        MCNet(network=Pixelwise)
    two = type("Two", (UNet,), {"upsamplings": ("bilinear", "nearest")})
    keys = {"in_channels": 1, "num_classes": K, "channels": (4, 8), "dropout": (0, 0)}
    assert len(MCNet(network=lambda **more: two(**keys, **more)).decoders) == 2
    with pytest.raises(UserError, match=r"^network=Two: .* 2 kinds"):
        MCNet(network=lambda **more: two(**keys, **more), num_decoders=3)
