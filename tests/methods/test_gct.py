"""GCT against its equations in NumPy, with a detector whose flaws can be written down."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from adversaries import check_phases_keep_apart, reaches, some_batch, tiny_unet
from flaws import target
from pixelwise import HALFWAY, K, Pixelwise, losses, numpy_supervised, softmax
from torch import Tensor, nn

from ssl4seg.errors import UserError
from ssl4seg.keys import IGNORE
from ssl4seg.methods.gct import GCT, taught
from ssl4seg.types import Batch, Progress

W = 100 * math.exp(-5 / 4)


class PixelwiseDetector(nn.Module):
    """F(x, p) = v . (x, p) + b in every pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1 + K, 1, 1)

    def forward(self, image: Tensor, p: Tensor) -> Tensor:
        return self.layer(torch.cat([image, p], dim=1))[:, 0]

    def numpy(self, image: Tensor, p: np.ndarray) -> np.ndarray:
        v, b = (parameter.detach().double().numpy() for parameter in self.layer.parameters())
        return np.einsum("c,nchw->nhw", v[0, :, 0, 0], np.concatenate([image.double().numpy(), p], axis=1)) + b


def made(**keys: object) -> GCT:
    """Network 1 prefers class 0 where x is negative, network 2 where it is positive; class 0 is a flaw, and so is a
    large x."""
    method = GCT(network=Pixelwise, **keys)
    method.detector = PixelwiseDetector()
    with torch.no_grad():
        method.student.head.weight.copy_(torch.tensor([-2.0, 0.5, 2.0]).view(K, 1, 1, 1))
        method.partner.head.weight.copy_(torch.tensor([1.5, 0.0, -2.0]).view(K, 1, 1, 1))
        method.detector.layer.weight.copy_(torch.tensor([0.3, 1.0, 0.5, -0.1]).view(1, 1 + K, 1, 1))
    return method.train()


def comparable(flaws: np.ndarray, threshold: float) -> np.ndarray:
    """f of images so small that nothing is blurred."""
    f = np.zeros_like(flaws)
    for n, raw in enumerate(np.maximum(flaws, 0)):
        if raw.max() > 0.1:
            f[n] = (raw - raw.min()) / (raw.max() - raw.min())
    return np.where(f > threshold, 1, f)


def seen(method: GCT, x: Tensor) -> list[np.ndarray]:
    """p_1, p_2, and the flaws that the detector finds in them."""
    p = [softmax(network.numpy(x)) for network in (method.student, method.partner)]
    return [*p, *(method.detector.numpy(x, each) for each in p)]


@pytest.mark.parametrize("threshold", [0.2, 0.6])
@pytest.mark.parametrize(("labeled", "unlabeled"), [(2, 3), (1, 1)])
def test_the_networks_terms(batch, threshold, labeled, unlabeled):
    method = made(threshold=threshold, correction_weight=0.7)
    batch = Batch(batch.image[:labeled], batch.label[:labeled], batch.unlabeled[:unlabeled])
    p_1, p_2, raw_1, raw_2 = seen(method, torch.cat([batch.image, batch.unlabeled]))
    f_1, f_2 = comparable(raw_1, threshold), comparable(raw_2, threshold)
    taught_1, taught_2, both = f_1 > f_2, f_2 > f_1, (f_1 > threshold) & (f_2 > threshold)
    assert taught_1.any()
    assert taught_2.any()
    assert both.any()
    assert not (both & (taught_1 | taught_2)).any()
    square = ((p_1 - p_2) ** 2).sum(axis=1)
    z = [network.numpy(batch.image) for network in (method.student, method.partner)]
    assert losses(method, batch) == pytest.approx(
        {
            "supervised": sum(numpy_supervised(each, batch.label.numpy()) for each in z),
            "consistency": W * ((taught_1 * square).mean() + (taught_2 * square).mean()) / 21,
            "correction": 0.7 * (both * (raw_1**2 + raw_2**2)).mean(),
        },
        rel=1e-4,
    )


@pytest.mark.parametrize("dilations", [0, 1])
@pytest.mark.parametrize("labeled", [1, 2])
def test_the_detector_learns_where_labelled_predictions_are_wrong(batch, labeled, dilations):
    method = made(dilations=dilations)
    batch = batch._replace(image=batch.image[:labeled], label=batch.label[:labeled])
    label = batch.label.numpy()
    errors = []
    for network in (method.student, method.partner):
        p = softmax(network.numpy(batch.image))
        wanted = np.stack([target(*each, dilations) for each in zip(p, label, strict=True)])
        errors.append((method.detector.numpy(batch.image, p) - wanted)[label != IGNORE] ** 2)
    found = method("detector", batch, HALFWAY)
    assert list(found) == ["detector"]
    assert found["detector"].item() == pytest.approx(np.concatenate(errors).mean(), rel=1e-4)


def test_without_a_label_the_detector_learns_nothing(batch):
    method = made()
    value = method("detector", batch._replace(label=torch.full_like(batch.label, IGNORE)), HALFWAY)["detector"]
    value.backward()
    assert value.item() == 0
    assert all(p.grad.eq(0).all() for p in method.detector.parameters())


def flawed(method: GCT, bias: float) -> GCT:
    """Its detector finds the same flaw everywhere in everything."""
    nn.init.zeros_(method.detector.layer.weight)
    nn.init.constant_(method.detector.layer.bias, bias)
    return method


def test_networks_that_are_equally_flawed_do_not_teach(batch):
    method = flawed(made(), 0.05)
    found = method("segmenter", batch, HALFWAY)
    (found["consistency"] + found["correction"]).backward()
    assert found["consistency"].item() == found["correction"].item() == 0
    for network in (method.student, method.partner):
        assert all(p.grad.eq(0).all() for p in network.parameters())


@pytest.mark.parametrize("worse", ["student", "partner"])
def test_the_less_flawed_network_teaches_and_is_not_taught(batch, worse):
    method = flawed(made(), 0.0)
    with torch.no_grad():  # the detector finds a flaw where class 1 is likely, and the worse network loves class 1
        method.detector.layer.weight[0, 2] = 0.2
        for name in ("student", "partner"):
            getattr(method, name).head.bias.copy_(torch.tensor([0.0, 3.0 if name == worse else -9.0, 0.0]))
    method("segmenter", batch, HALFWAY)["consistency"].backward()
    better = method.partner if worse == "student" else method.student
    assert any(p.grad.abs().sum() > 0 for p in getattr(method, worse).parameters())
    assert all(p.grad is None or p.grad.eq(0).all() for p in better.parameters())


def test_a_pixel_weighs_as_with_the_authors_21_classes_whatever_their_number():
    p, other = torch.randn(2, 2, 21, 4, 5).softmax(dim=2)
    where = torch.ones(2, 4, 5)
    assert taught(where, p, other).item() == pytest.approx((p - other).square().mean().item())
    more = [F.pad(q, (0, 0, 0, 0, 0, 9)) for q in (p, other)]  # classes that nobody predicts
    assert taught(where, *more).item() == pytest.approx(taught(where, p, other).item())


def test_pseudo_labels_are_the_partners_where_the_student_is_more_flawed(batch):
    method = made().eval()
    _, p_2, raw_1, raw_2 = seen(method, batch.unlabeled)
    with torch.no_grad():
        found = method.pseudo_labels(batch.unlabeled, HALFWAY)
    np.testing.assert_allclose(found.probability, p_2, atol=1e-6)
    used = comparable(raw_1, 0.6) > comparable(raw_2, 0.6)
    assert 0 < used.sum() < used.size
    np.testing.assert_array_equal(found.used, used)


def test_each_phase_moves_its_networks_alone():
    check_phases_keep_apart(GCT(network=tiny_unet), some_batch())


def test_supervision_reaches_both_networks_which_start_apart():
    method = GCT(network=tiny_unet).train()
    value = method("segmenter", some_batch(), HALFWAY)["supervised"]
    assert reaches(value, method.student)
    assert reaches(value, method.partner)
    assert not torch.equal(method.student.head.weight, method.partner.head.weight)
    assert method.predictor is method.student


@pytest.mark.parametrize("step", [0, 50, 99])
def test_the_weight_ramps_up(step):
    w = 100 * math.exp(-5 * (1 - step / 100) ** 2)
    assert made().weights(Progress(step, 100)) == pytest.approx({"consistency_weight": w})


@pytest.mark.parametrize(
    "keys",
    [
        {"consistency_weight": -1},
        {"rampup_steps": -1},
        {"correction_weight": -1},
        {"detector_width": 7},
        {"threshold": 1.0},
        {"dilations": -1},
    ],
)
def test_a_wrong_value_is_refused_by_its_key(keys):
    with pytest.raises(UserError, match=f"method.{next(iter(keys))}"):
        made(**keys)
