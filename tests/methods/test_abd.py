"""ABD against its loss in NumPy, patch by patch."""

import functools
import math

import numpy as np
import pytest
import torch
from pixelwise import HALFWAY, W_HALFWAY, K, Pixelwise, losses, made, numpy_dice, numpy_supervised, softmax

from ssl4seg.augment.mixing import cut_patches, paste_patch
from ssl4seg.errors import UserError
from ssl4seg.keys import IGNORE
from ssl4seg.methods.abd import ABD
from ssl4seg.networks.unet import UNet
from ssl4seg.types import Batch, Progress

N, H, W = 3, 4, 3  # patches on a side; their height and width
PLAIN = {"patches": N, "candidates": 2, "jitter": 0.0}


@pytest.fixture
def views() -> Batch:
    """Images of 3 x 3 patches with one row and two columns left over."""
    label = torch.randint(K, (2, N * H + 1, N * W + 2))
    label[0, 0] = IGNORE
    image, unlabeled = torch.rand(2, 1, *label.shape[1:]), torch.rand(3, 1, *label.shape[1:])
    return Batch(image, label, unlabeled, (torch.rand_like(unlabeled),))


def sharpened(**keys: object) -> ABD:
    method = made(ABD, **PLAIN, **keys)
    with torch.no_grad():
        for p in method.parameters():
            p.mul_(5)
    return method


def place(index: int) -> tuple[slice, slice]:
    row, column = divmod(int(index), N)
    return slice(row * H, (row + 1) * H), slice(column * W, (column + 1) * W)


def sureness(z: np.ndarray) -> np.ndarray:
    """[P], of the logits [K, H, W] of one image."""
    value = softmax(z[None])[0].max(axis=0)
    return np.array([value[place(i)].mean() for i in range(N * N)])


def mean_logits(z: np.ndarray, index: int) -> np.ndarray:
    return z[:, *place(index)].mean(axis=(1, 2))


def closest(z: np.ndarray, u: np.ndarray) -> int:
    """Of z's two most confident patches that whose mean logits diverge the least from u."""
    q = softmax(u[None])[0]

    def divergence(index: int) -> float:
        return float((q * np.log(q / softmax(mean_logits(z, index)[None])[0])).sum())

    return min(np.argsort(sureness(z))[-2:], key=divergence)


def displaced(image: np.ndarray, to: int, source: np.ndarray, at: int) -> np.ndarray:
    image = image.copy()
    image[..., *place(to)] = source[..., *place(at)]
    return image


def reliable(x_1: np.ndarray, x_2: np.ndarray, z_1: np.ndarray, z_2: np.ndarray) -> np.ndarray:
    first, second = [], []
    for a, b, z_a, z_b in zip(x_1, x_2, z_1, z_2, strict=True):
        least_a, least_b = sureness(z_a).argmin(), sureness(z_b).argmin()
        first.append(displaced(a, least_a, b, closest(z_b, mean_logits(z_a, least_a))))
        second.append(displaced(b, least_b, a, closest(z_a, mean_logits(z_b, least_b))))
    return np.stack(first + second)


def networks(method: ABD, image: np.ndarray | torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    image = torch.as_tensor(image)
    return method.student.numpy(image), method.peer.numpy(image)


def cross(z_1: np.ndarray, z_2: np.ndarray) -> float:
    return numpy_dice(z_1, z_2.argmax(axis=1)) + numpy_dice(z_2, z_1.argmax(axis=1))


@pytest.mark.parametrize("num", [1, 3])
def test_networks_teach_each_other_on_two_views_and_on_both_with_their_least_sure_patch_replaced(views, num):
    views = views._replace(unlabeled=views.unlabeled[:num], strong=(views.strong[0][:num],))
    method = sharpened()
    x_1, x_2 = views.unlabeled.numpy(), views.strong[0].numpy()
    z_1, z_2 = networks(method, x_1)[0], networks(method, x_2)[1]
    x_r = reliable(x_1, x_2, z_1, z_2)
    assert (x_r != np.concatenate([x_1, x_2])).any(axis=(1, 2, 3)).all()
    expected = W_HALFWAY * (cross(z_1, z_2) + cross(*networks(method, x_r)))
    found = losses(method, views)
    assert found["cross"] == pytest.approx(expected, rel=1e-4)
    z_l = networks(method, views.image)
    supervised = sum(numpy_supervised(z, views.label.numpy()) for z in z_l)
    assert found["supervised"] == pytest.approx(supervised, rel=1e-5)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_labelled_images_get_the_other_views_least_sure_patch_for_their_surest(views, share):
    method = sharpened(displaced_p=share, displaced_weight=3.0)
    x, y = views.image.numpy(), views.label.numpy()
    x_i, y_i = [*x, *x], [*y, *y]
    if share:
        pairs = [[sureness(z) for z in each] for each in networks(method, x)]
        for i, (a, b) in enumerate(zip(*pairs, strict=True)):
            x_i[i], y_i[i] = (displaced(of[i], a.argmax(), of[i], b.argmin()) for of in (x, y))
            x_i[2 + i], y_i[2 + i] = (displaced(of[i], b.argmax(), of[i], a.argmin()) for of in (x, y))
    expected = 3 * sum(numpy_supervised(z, np.stack(y_i)) for z in networks(method, np.stack(x_i)))
    assert losses(method, views)["displaced"] == pytest.approx(expected, rel=1e-4)


def test_the_other_views_patch_comes_with_its_own_jitter(views):
    method = sharpened(displaced_p=1.0)
    x_2 = 1 - views.image
    z_1, z_2 = method.student(views.image).detach(), method.peer(x_2).detach()
    x_i, _ = method.inverse(views.image, x_2, views.label, z_1, z_2)
    for i in range(2):
        a, b = sureness(z_1[i].numpy()), sureness(z_2[i].numpy())
        pairs = (views.image[i].numpy(), x_2[i].numpy())
        np.testing.assert_array_equal(x_i[i], displaced(pairs[0], a.argmax(), pairs[1], b.argmin()))
        np.testing.assert_array_equal(x_i[2 + i], displaced(pairs[1], b.argmax(), pairs[0], a.argmin()))


def test_half_of_the_labelled_images_are_displaced(views):
    method = sharpened()
    many = views.image[:1].expand(400, -1, -1, -1)
    z = method.student(many).detach()
    x_i, _ = method.inverse(many, many, views.label[:1].expand(400, -1, -1), z, z)
    changed = (x_i != many.repeat(2, 1, 1, 1)).flatten(1).any(dim=1).view(2, 400)
    assert torch.equal(*changed)
    assert changed.float().mean().item() == pytest.approx(0.5, abs=0.1)


def test_only_the_second_networks_labelled_images_are_jittered_and_in_the_range(views):
    method = made(ABD, patches=N, candidates=2)
    seen = []
    for network in (method.student, method.peer):
        network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    losses(method, views)
    assert torch.equal(seen[0][:2], views.image)
    assert (seen[1][:2] != views.image).any()
    assert seen[1].min() >= 0
    assert seen[1].max() <= 1
    assert torch.equal(seen[1][2:], views.strong[0])


@pytest.mark.parametrize(("step", "there"), [(0, True), (66, True), (67, False), (99, False)])
def test_displaced_labelled_images_are_learned_for_two_thirds_of_the_run(views, step, there):
    assert ("displaced" in losses(sharpened(), views, Progress(step, 100))) == there


def test_networks_that_are_sure_of_one_class_and_agree_have_no_cross_loss(views):
    method = made(ABD, **PLAIN)
    with torch.no_grad():
        for network in (method.student, method.peer):
            network.head.weight.zero_()
            network.head.bias.copy_(torch.tensor([0.0, 50, 0]))
    value = method("segmenter", views, HALFWAY)["cross"]
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-5)
    assert all(p.grad.isfinite().all() for p in method.parameters())


@pytest.mark.parametrize("term", ["supervised", "cross", "displaced"])
def test_each_term_reaches_both_networks(views, term):
    method = sharpened()
    method("segmenter", views, HALFWAY)[term].backward()
    for network in (method.student, method.peer):
        assert all(p.grad.abs().sum() > 0 for p in network.parameters())


@pytest.mark.parametrize("who", ["student", "mean"])
def test_the_second_network_may_be_of_another_build(views, who):
    peer = functools.partial(UNet, channels=(4, 8), dropout=(0, 0))
    method = ABD(network=Pixelwise, peer=peer, predict_with=who, patches=N).train()
    assert isinstance(method.peer, UNet)
    torch.stack(list(method("segmenter", views, HALFWAY).values())).sum().backward()
    assert all(p.grad is not None for p in method.parameters_of("segmenter"))
    p, q = (network(views.image).softmax(dim=1) for network in (method.eval().student, method.peer))
    torch.testing.assert_close(method.predict(views.image).softmax(dim=1), p if who == "student" else (p + q) / 2)


def test_weights_tell_the_ramp():
    assert made(ABD).weights(HALFWAY) == pytest.approx({"consistency_weight": 0.1 * math.exp(-1.25)})


def test_pseudo_labels_are_the_peers_everywhere(views):
    method = sharpened()
    p, used = method.pseudo_labels(views.unlabeled, HALFWAY)
    np.testing.assert_allclose(p.detach(), softmax(method.peer.numpy(views.unlabeled)), atol=1e-5)
    assert used.all()


def test_patches_are_numbered_row_by_row_and_pasting_one_moves_no_other_pixel():
    maps = torch.arange(2 * 5 * 7).view(2, 1, 5, 7)
    patches = cut_patches(maps, 2)
    assert patches.shape == (2, 4, 1, 2, 3)
    assert torch.equal(patches[1, 2, 0], maps[1, 0, 2:4, :3])
    before = maps.clone()
    pasted = paste_patch(maps, 2, torch.tensor([1, 2]), torch.full((2, 1, 2, 3), -1))
    assert torch.equal(maps, before)
    expected = before.clone()
    expected[0, 0, :2, 3:6] = -1
    expected[1, 0, 2:4, :3] = -1
    assert torch.equal(pasted, expected)


@pytest.mark.parametrize(
    "keys",
    [
        {"peer": "swin_unet"},
        {"patches": 1},
        {"candidates": 0},
        {"candidates": 16},
        {"displaced_weight": -1.0},
        {"displaced_p": 1.1},
        {"displaced_until": -0.1},
        {"jitter": 3.0},
        {"consistency_weight": -1.0},
        {"predict_with": "peer"},
    ],
)
def test_a_wrong_value_is_refused_by_its_key(keys):
    with pytest.raises(UserError, match=f"method.{next(iter(keys))}"):
        ABD(network=Pixelwise, **keys)
