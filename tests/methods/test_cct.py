"""CCT against its equations in NumPy."""

import itertools

import numpy as np
import pytest
import torch
from pixelwise import HALFWAY, W_HALFWAY, K, Pixelwise, losses, made, numpy_supervised, softmax
from torch import Tensor

from ssl4seg.errors import UserError
from ssl4seg.keys import IGNORE
from ssl4seg.methods.cct import CCT
from ssl4seg.networks.unet import UNet
from ssl4seg.types import Batch

ALL = ["feature_noise", "dropout", "feature_drop"]
QUIET = {"noise": 0.0, "dropout": 0.0, "drop_threshold": (1.0, 1.0)}


def unet() -> UNet:
    return UNet(in_channels=1, num_classes=K, channels=(4, 8), dropout=(0, 0))


@pytest.fixture
def images() -> Batch:
    return Batch(torch.randn(2, 1, 8, 8), torch.randint(K, (2, 8, 8)), torch.randn(3, 1, 8, 8))


def numpy_cct(method: CCT, image: Tensor, seen: list[np.ndarray]) -> float:
    """The mean square over the auxiliary decoders, of which each sees its own image."""
    p = softmax(method.student.numpy(image))
    each = [softmax(a.numpy(torch.from_numpy(x))) for a, x in zip(method.auxiliary, seen, strict=True)]
    return float(np.mean([((p_a - p) ** 2).mean() for p_a in each]))


@pytest.mark.parametrize("num", [1, 3])
@pytest.mark.parametrize("perturbations", [["feature_noise"], ["dropout"], ["feature_noise", "dropout", "dropout"]])
def test_the_loss_is_the_mean_square_over_auxiliary_decoders_pixels_and_classes(batch, num, perturbations):
    method = made(CCT, perturbations=perturbations, **QUIET)
    batch = batch._replace(unlabeled=batch.unlabeled[:num])
    expected = numpy_cct(method, batch.unlabeled, [batch.unlabeled.numpy()] * len(perturbations))
    assert losses(method, batch) == pytest.approx(
        {
            "supervised": numpy_supervised(method.student.numpy(batch.image), batch.label.numpy()),
            "consistency": W_HALFWAY * expected,
        },
        rel=1e-5,
    )


def test_the_main_decoder_sees_features_as_they_are_and_the_auxiliary_ones_without_their_peaks(batch):
    method = made(CCT, perturbations=["feature_drop"], drop_threshold=(0.5, 0.5))
    x = batch.unlabeled.numpy()
    dropped = np.where(x < 0.5 * x.max(axis=(1, 2, 3), keepdims=True), x, 0)
    assert (dropped != x).any()
    expected = W_HALFWAY * numpy_cct(method, batch.unlabeled, [dropped])
    assert losses(method, batch)["consistency"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_every_feature_map_is_perturbed(name):
    method = CCT(network=unet)
    for f in method.student.encode(torch.randn(2, 1, 8, 8)):
        assert not torch.equal(method.perturbed(f, name), f)


def test_dropout_drops_whole_channels_and_keeps_the_mean():
    x = torch.ones(64, 32, 3, 3)
    kept = made(CCT, dropout=0.3).perturbed(x, "dropout")
    assert torch.equal(kept, kept[:, :, :1, :1].expand_as(kept))
    assert kept.eq(0).float().mean().item() == pytest.approx(0.3, abs=0.04)
    assert kept.max().item() == pytest.approx(1 / 0.7)


def test_consistency_reaches_the_encoder_and_the_auxiliary_decoders_alone(images):
    method = CCT(network=unet).train()
    method("segmenter", images, HALFWAY)["consistency"].backward()
    assert method.student.encoder[0][0].weight.grad.abs().sum() > 0
    assert all(a.head.weight.grad.abs().sum() > 0 for a in method.auxiliary)
    main = [*method.student.decoder.parameters(), *method.student.head.parameters()]
    assert all(p.grad is None or p.grad.eq(0).all() for p in main)


def test_supervision_never_reaches_an_auxiliary_decoder(images):
    method = CCT(network=unet).train()
    method("segmenter", images, HALFWAY)["supervised"].backward()
    assert all(p.grad is None for p in method.auxiliary.parameters())
    assert method.student.head.weight.grad.abs().sum() > 0
    assert set(method.parameters_of("segmenter")) == set(method.parameters())


def test_auxiliary_decoders_have_no_encoder_and_weights_of_their_own():
    method = CCT(network=unet, perturbations=["dropout", "dropout"])
    assert all(not list(a.encoder.parameters()) for a in method.auxiliary)
    heads = [method.student.head.weight, *(a.head.weight for a in method.auxiliary)]
    assert all(not torch.equal(a, b) for a, b in itertools.pairwise(heads))


def test_nothing_labelled_leaves_the_consistency(batch):
    method = made(CCT, **QUIET, perturbations=["dropout"])
    told = losses(method, batch._replace(label=torch.full_like(batch.label, IGNORE)))
    assert told == pytest.approx({"supervised": 0, "consistency": losses(method, batch)["consistency"]})


def test_pseudo_labels_are_the_main_prediction(batch):
    method = made(CCT).eval()
    found = method.pseudo_labels(batch.unlabeled, HALFWAY)
    np.testing.assert_allclose(found.probability.detach(), softmax(method.student.numpy(batch.unlabeled)), rtol=1e-5)
    assert found.used.all()


@pytest.mark.parametrize(
    "keys",
    [
        {"perturbations": []},
        {"perturbations": "dropout"},
        {"perturbations": ["cutout"]},
        {"noise": -0.1},
        {"dropout": 1.0},
        {"drop_threshold": [0.9, 0.6]},
        {"drop_threshold": [0.6]},
        {"drop_threshold": [0.6, 1.1]},
    ],
)
def test_a_wrong_value_is_refused_by_its_key(keys):
    with pytest.raises(UserError, match=f"method.{next(iter(keys))}"):
        CCT(network=Pixelwise, **keys)
