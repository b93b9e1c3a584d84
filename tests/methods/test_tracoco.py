"""TraCoCo against its equations in NumPy."""

import math

import numpy as np
import pytest
import torch
from pixelwise import K, Pixelwise, entropies, flooded, losses, numpy_dice, numpy_supervised, softmax
from torch import Tensor

from ssl4seg.augment.mixing import beta_boxes
from ssl4seg.errors import UserError
from ssl4seg.methods.tracoco import TraCoCo, confident_cross_entropy, here, there, translated
from ssl4seg.types import Batch, Progress

HALFWAY = Progress(220, 1000)
W = math.exp(-5 / 4)


class Surrounded(Pixelwise):
    """z = W (x + 10 times the image's mean) + b: a pixel's logits depend on its surroundings."""

    def features(self, image: Tensor) -> list[Tensor]:
        return [image + 10 * image.mean(dim=(1, 2, 3), keepdim=True)]

    def numpy(self, image: Tensor) -> np.ndarray:
        return super().numpy(image + 10 * image.mean(dim=(1, 2, 3), keepdim=True))


@pytest.fixture
def batch() -> Batch:
    return Batch(torch.randn(2, 1, 12, 10), torch.randint(K, (2, 12, 10)), 2 * torch.randn(3, 1, 12, 10))


def made(**keys: object) -> TraCoCo:
    return TraCoCo(**{"network": Surrounded, "noise": 0.0, **keys}).train()


def drawn(batch: Batch) -> tuple[list[int], list[np.ndarray]]:
    """The translation, and the boxes of both networks."""
    torch.manual_seed(5)
    by = [int(torch.randint(-most, most + 1, ())) for most in (3, 3)]
    boxes = []
    for _ in range(2):
        for x in (batch.image, batch.unlabeled) * 2:
            torch.empty_like(x).uniform_(0, 0)  # of the noise
        boxes.append(beta_boxes(batch.unlabeled, 4, 4).numpy().astype(bool))
        torch.empty_like(batch.unlabeled).uniform_(0, 0)
    return by, boxes


def moved(x: np.ndarray, by: list[int]) -> np.ndarray:
    """Pixel by pixel; 0 where nothing is known."""
    result, (height, width) = np.zeros_like(x), x.shape[2:]
    for i, j in np.ndindex(height, width):
        if 0 <= i - by[0] < height and 0 <= j - by[1] < width:
            result[:, :, i, j] = x[:, :, i - by[0], j - by[1]]
    return result


def numpy_translation(network: Surrounded, x: Tensor, by: list[int]) -> tuple[float, float]:
    """L_tra and H."""
    z, z_moved = network.numpy(x), network.numpy(torch.from_numpy(moved(x.numpy(), by)))
    divergence, entropy = [], []
    for n, i, j in np.ndindex(len(x), *x.shape[2:]):
        if 0 <= i + by[0] < x.shape[2] and 0 <= j + by[1] < x.shape[3]:
            p, p_moved = softmax(z)[n, :, i, j], softmax(z_moved)[n, :, i + by[0], j + by[1]]
            divergence.append((p_moved * np.log(p_moved / p)).sum())
            entropy += [entropies(each)[n, a, b] for each, a, b in ((z, i, j), (z_moved, i + by[0], j + by[1]))]
    return float(np.mean(divergence)), float(np.mean(entropy))


def numpy_cross(pupil: Surrounded, teacher: Surrounded, x: Tensor, box: np.ndarray, tau: float) -> float:
    """The mean of L_crc and Dice."""
    q = softmax(teacher.numpy(x))
    y = flooded(q.argmax(axis=1))
    q, y, x = (np.where(m, np.roll(a, 1, 0), a) for a, m in ((q, box), (y, box[:, 0]), (x.numpy(), box)))
    z = pupil.numpy(torch.from_numpy(x))
    p, positive, negative = softmax(z), [], []
    for n, i, j in np.ndindex(*y.shape):
        k, of_teacher = y[n, i, j], q[n, :, i, j]
        if of_teacher[k] >= tau:
            positive.append(-of_teacher[k] * np.log(p[n, k, i, j]))
        if (m := of_teacher.min()) < 0.1:
            negative.append(-m * np.mean([np.log(1 - p[n, c, i, j]) for c in range(K) if c != k]))
    assert 0 < len(positive) < y.size
    assert negative
    return float(np.mean(positive) + np.mean(negative) + numpy_dice(z, y)) / 2


def test_the_terms_are_those_of_the_equations(batch):
    method = made(threshold=0.8, translation_weight=0.7, entropy_weight=0.2, shift=0.3)
    by, boxes = drawn(batch)
    assert all(by)
    networks = (method.student, method.peer)
    cross = sum(
        numpy_cross(pupil, teacher, batch.unlabeled, box, 0.8)
        for pupil, teacher, box in zip(networks, networks[::-1], boxes, strict=True)
    )
    pairs = [numpy_translation(network, torch.cat([batch.image, batch.unlabeled]), by) for network in networks]
    expected = {
        "supervised": sum(numpy_supervised(network.numpy(batch.image), batch.label.numpy()) for network in networks),
        "cross": W * cross,
        "translation": 0.7 * W * sum(pair[0] for pair in pairs),
        "entropy": -0.2 * W * sum(pair[1] for pair in pairs),
    }
    torch.manual_seed(5)
    assert losses(method, batch, HALFWAY) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("by", [[2, -3], [0, 1], [-4, 0], [0, 0]])
def test_what_stays_in_view_is_found_where_it_moved_to(by):
    x = torch.arange(1.0, 121).view(1, 1, 12, 10)
    np.testing.assert_array_equal(translated(x, by), moved(x.numpy(), by))
    assert torch.equal(translated(x, by)[there(by)], x[here(by)])
    assert x[here(by)].numel() == (12 - abs(by[0])) * (10 - abs(by[1]))


def test_translations_reach_the_given_share_of_each_side_in_both_directions():
    method, x = made(shift=0.25), torch.zeros(1, 1, 16, 8, 4)
    seen = torch.tensor([method.translation(x) for _ in range(300)])
    assert seen.amin(dim=0).tolist() == [-4, -2, -1]
    assert seen.amax(dim=0).tolist() == [4, 2, 1]


def test_the_gradient_of_the_confident_cross_entropy():
    """Of three pixels one is sure, two have an unlikely class: c (p - onehot) from the first sum; from the second
    m p_k / (1 - p_k) (onehot_k - p), k != y, a mean over two pixels and K - 1 classes."""
    z = torch.randn(1, K, 1, 3, dtype=torch.float64, requires_grad=True)
    y, c, m = torch.tensor([[[1, 2, 0]]]), torch.tensor([[[0.9, 0.4, 0.6]]]), torch.tensor([[[0.02, 0.05, 0.2]]])
    confident_cross_entropy(z, y, c, m, 0.65).backward()
    p, expected = softmax(z.detach().numpy())[0, :, 0], np.zeros((K, 3))
    expected[:, 0] = 0.9 * (p[:, 0] - np.eye(K)[1])
    for j, label in enumerate((1, 2)):
        for k in {*range(K)} - {label}:
            pull = p[k, j] / (1 - p[k, j]) * (np.eye(K)[k] - p[:, j])
            expected[:, j] += m[0, 0, j].item() * pull / (K - 1) / 2
    np.testing.assert_allclose(z.grad[0, :, 0], expected, rtol=1e-4, atol=1e-6)


def test_a_pixel_that_lost_its_component_is_not_taught(batch):
    method = made(threshold=0.5)
    label = torch.zeros(1, 12, 10, dtype=torch.int64)
    label[0, :3, :3], label[0, 8, 8] = 1, 1
    logits = 6 * torch.nn.functional.one_hot(label, K).movedim(-1, 1).float()
    method.peer.forward = lambda image: logits
    used = method.pseudo_labels(batch.unlabeled[:1], HALFWAY).used
    assert not used[0, 8, 8]
    assert used.sum() == label.numel() - 1
    method.components = False
    assert method.pseudo_labels(batch.unlabeled[:1], HALFWAY).used.all()


def test_noise_is_bounded_and_new_in_each_pass(batch):
    method, seen = made(noise=0.05, shift=0.0), []
    method.student.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    losses(method, batch, HALFWAY)
    plain = torch.cat([batch.image, batch.unlabeled])
    first, second = seen[0] - plain, seen[1] - plain
    assert 0.04 < first.abs().max() <= 0.0501
    assert not torch.equal(first, second)


@pytest.mark.parametrize("term", ["supervised", "cross", "translation", "entropy"])
def test_each_term_reaches_both_networks(batch, term):
    method = made()
    torch.manual_seed(5)
    method("segmenter", batch, HALFWAY)[term].backward()
    for network in (method.student, method.peer):
        assert all(p.grad.abs().sum() > 0 for p in network.parameters())


@pytest.mark.parametrize(
    "keys",
    [
        {"threshold": 1.0},
        {"shift": 1.0},
        {"translation_weight": -1.0},
        {"entropy_weight": -1.0},
        {"noise": -0.1},
        {"dice": 1},
        {"components": "yes"},
        {"consistency_weight": -1.0},
        {"rampup_steps": -1},
        {"predict_with": "peer"},
    ],
)
def test_a_wrong_value_is_refused_by_its_key(keys):
    with pytest.raises(UserError, match=f"method.{next(iter(keys))}"):
        TraCoCo(network=Pixelwise, **keys)
