"""DTC against its equations in NumPy, its distance maps against SciPy's transform."""

import numpy as np
import pytest
import torch
from pixelwise import HALFWAY, W_HALFWAY, K, Pixelwise, losses, made, numpy_supervised, softmax
from scipy.ndimage import distance_transform_edt
from torch import Tensor, nn

from ssl4seg.errors import UserError
from ssl4seg.keys import IGNORE
from ssl4seg.methods.dtc import DTC, distance_to, signed_distance
from ssl4seg.networks.unet import UNet
from ssl4seg.types import Batch

W = 10 * W_HALFWAY  # the weight at the end is 1, there 0.1


def unet() -> UNet:
    return UNet(in_channels=1, num_classes=K, channels=(4, 8), dropout=(0, 0))


def numpy_signed_distance(label: np.ndarray, num_classes: int) -> np.ndarray:
    """Pixel by pixel from the definition, with SciPy's distances."""
    maps = np.zeros((len(label), num_classes - 1, *label.shape[1:]))
    for n, k in np.ndindex(maps.shape[:2]):
        y = label[n]
        own, other = y == k + 1, (y != k + 1) & (y != IGNORE)
        if not own.any():
            maps[n, k][other] = 1
        elif not other.any():
            maps[n, k][own] = -1
        else:
            out, into = distance_transform_edt(~own) * other, distance_transform_edt(~other) * own
            maps[n, k] = out / max(out.max(), 1) - np.where(into == 1, 0, into) / max(into.max(), 1)
    return maps


def discs(num: int = 3, size: tuple[int, ...] = (40, 30), num_classes: int = 4) -> Tensor:
    """Labels with a disc or ball of each foreground class, some of which hide others."""
    places = torch.meshgrid(*(torch.arange(n) for n in size), indexing="ij")
    label = torch.zeros(num, *size, dtype=torch.int64)
    for n in range(num):
        for k in range(1, num_classes):
            *centre, r = torch.rand(len(size) + 1).tolist()
            square = sum((at - c * side) ** 2 for at, c, side in zip(places, centre, size, strict=True))
            label[n][square < (3 + min(size) * 0.3 * r) ** 2] = k
    return label


# -- distance maps ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("density", [0.5, 0.05, 0.003])
@pytest.mark.parametrize("size", [(1, 17), (17, 1), (33, 20), (20, 33), (9, 13, 7), (6, 1, 11)])
def test_distances_are_euclidean(density, size):
    mask = torch.rand(4, 2, *size) < density
    mask.flatten(2)[:, :, 0] = True
    expected = np.stack([distance_transform_edt(~m) for m in mask.flatten(0, 1).numpy()])
    np.testing.assert_allclose(distance_to(mask).flatten(0, 1), expected, rtol=1e-6)


@pytest.mark.parametrize(("size", "far"), [((5, 7), 12), ((5, 7, 4), 16)])
def test_the_distance_to_nothing_is_beyond_every_other(size, far):
    assert distance_to(torch.zeros(1, 1, *size, dtype=torch.bool)).eq(far).all()


@pytest.mark.parametrize(("num_classes", "size"), [(2, (40, 30)), (4, (40, 30)), (21, (40, 30)), (4, (14, 10, 18))])
def test_signed_distances_are_those_of_the_definition(num_classes, size):
    label = discs(num_classes=num_classes, size=size)
    maps = signed_distance(label, num_classes)
    np.testing.assert_allclose(maps, numpy_signed_distance(label.numpy(), num_classes), atol=1e-6)
    assert maps.amin() >= -1
    assert maps.amax() == 1


def test_a_row_by_hand():
    label = torch.tensor([[[0, 0, 0, 1, 1, 1, 1, 1]]])
    expected = torch.tensor([[[[1, 2 / 3, 1 / 3, 0, -2 / 5, -3 / 5, -4 / 5, -1]]]])
    torch.testing.assert_close(signed_distance(label, 2), expected)


def test_distances_pass_over_ignored_pixels():
    label = torch.tensor([[[0, 0, IGNORE, IGNORE, 1, 1]]])
    expected = torch.tensor([[[[1, 3 / 4, 0, 0, -3 / 4, -1]]]])
    torch.testing.assert_close(signed_distance(label, 2), expected)
    for noisy in (discs(), discs(size=(14, 10, 18))):
        noisy[torch.rand(noisy.shape) < 0.3] = IGNORE
        np.testing.assert_allclose(signed_distance(noisy, 4), numpy_signed_distance(noisy.numpy(), 4), atol=1e-6)


def test_an_absent_class_is_outside_and_one_that_is_alone_inside_everywhere():
    maps = signed_distance(torch.full((1, 4, 6), 2), 4)
    assert maps[:, 0].eq(1).all()
    assert maps[:, 1].eq(-1).all()
    assert maps[:, 2].eq(1).all()
    assert signed_distance(torch.full((1, 4, 6), IGNORE), 4).eq(0).all()


@pytest.mark.parametrize("axes", [2, 3])
def test_a_class_of_single_pixels_is_boundary(axes):
    label = torch.zeros(1, *(5,) * axes, dtype=torch.int64)
    label[0][(2,) * axes] = 1
    assert signed_distance(label, 2)[0, 0][(2,) * axes] == 0


def test_a_cube_by_hand():
    """5 voxels a side in the middle of 9: its centre is 3 from the others, its layers 0, 2 / 3 and 1 inside."""
    label = torch.zeros(1, 9, 9, 9, dtype=torch.int64)
    label[:, 2:7, 2:7, 2:7] = 1
    found = signed_distance(label, 2)[0, 0]
    corner = 12**0.5  # from a corner of the image to the cube's: 2 voxels along each axis
    line = torch.tensor([2 / corner, 1 / corner, 0, -2 / 3, -1, -2 / 3, 0, 1 / corner, 2 / corner])
    for along in (found[:, 4, 4], found[4, :, 4], found[4, 4]):
        torch.testing.assert_close(along, line)
    assert found[0, 0, 0] == 1


# -- the loss ---------------------------------------------------------------------------------------------------------


def numpy_z(method: DTC, image: Tensor) -> np.ndarray:
    weight, bias = (p.detach().double().numpy().reshape(1, K - 1, 1, 1) for p in method.distance_head.parameters())
    return np.tanh(weight * image.double().numpy() + bias)


@pytest.mark.parametrize("num", [1, 3])
@pytest.mark.parametrize("steepness", [1.0, 1500.0])
def test_the_loss_is_the_papers(batch, num, steepness):
    method, batch = made(DTC, steepness=steepness), batch._replace(unlabeled=batch.unlabeled[:num])
    y, everything = batch.label.numpy(), torch.cat([batch.image, batch.unlabeled])
    p, z = softmax(method.student.numpy(everything)), numpy_z(method, everything)
    truth, counted = numpy_signed_distance(y, K), np.broadcast_to((y != IGNORE)[:, None], (2, K - 1, 4, 5))
    with np.errstate(over="ignore"):
        mask = 1 / (1 + np.exp(steepness * z))
    assert losses(method, batch) == pytest.approx(
        {
            "supervised": numpy_supervised(method.student.numpy(batch.image), y),
            "distance": 0.3 * ((z[:2] - truth) ** 2)[counted].mean(),
            "consistency": W * ((mask - p[:, 1:]) ** 2).mean(),
        },
        rel=1e-4,
    )


def test_nothing_labelled_leaves_the_consistency(batch):
    told = losses(made(DTC), batch._replace(label=torch.full_like(batch.label, IGNORE)))
    assert (told["supervised"], told["distance"]) == (0, 0)
    assert told["consistency"] > 0


def test_a_mask_and_a_map_that_agree_cost_nothing(batch):
    method = made(DTC)
    with torch.no_grad():  # class 1 in every pixel
        method.student.head.weight.zero_()
        method.student.head.bias.copy_(torch.tensor([0.0, 200, 0]))
        method.distance_head.weight.zero_()
        method.distance_head.bias.copy_(torch.tensor([-1.0, 1]))
    assert losses(method, batch)["consistency"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("term", "reached"),
    [("supervised", {"head"}), ("distance", {"distance_head"}), ("consistency", {"head", "distance_head"})],
)
def test_each_term_reaches_the_body_and_its_heads(term, reached):
    method = DTC(network=unet, steepness=1.0).train()
    label = discs(2, (8, 8), K)
    method("segmenter", Batch(torch.randn(2, 1, 8, 8), label, torch.randn(1, 1, 8, 8)), HALFWAY)[term].backward()
    heads: dict[str, nn.Module] = {"head": method.student.head, "distance_head": method.distance_head}
    for name, head in heads.items():
        assert (head.weight.grad is not None and head.weight.grad.abs().sum().item() > 0) == (name in reached)
    assert method.student.encoder[0][0].weight.grad.abs().sum() > 0
    assert set(method.parameters_of("segmenter")) == set(method.parameters())


def test_pseudo_labels_are_the_masks_of_the_distance_maps(batch):
    method = made(DTC, steepness=2.0).eval()
    mask = 1 / (1 + np.exp(2 * numpy_z(method, batch.unlabeled)))
    p = np.concatenate([1 - mask.max(axis=1, keepdims=True), mask], axis=1)
    found = method.pseudo_labels(batch.unlabeled, HALFWAY)
    np.testing.assert_allclose(found.probability.detach(), p / p.sum(axis=1, keepdims=True), rtol=1e-4, atol=1e-6)
    assert found.used.all()


@pytest.mark.parametrize("keys", [{"distance_weight": -0.1}, {"steepness": 0.0}, {"consistency_weight": -1}])
def test_a_wrong_value_is_refused_by_its_key(keys):
    with pytest.raises(UserError, match=f"method.{next(iter(keys))}"):
        DTC(network=Pixelwise, **keys)
