"""Deep co-training against its formulas in NumPy."""

import copy
import math

import numpy as np
import pytest
import torch
from pixelwise import HALFWAY, K, Pixelwise, losses, made, numpy_supervised, softmax
from torch import Tensor, nn

from ssl4seg.errors import UserError
from ssl4seg.keys import IGNORE
from ssl4seg.methods.deep_co_training import DeepCoTraining
from ssl4seg.networks.unet import UNet
from ssl4seg.types import Batch

W = 0.5 * math.exp(-5 / 4)


def kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return (p * np.log(p / q)).sum(axis=1)


def attacked(network: Pixelwise, image: Tensor, label: np.ndarray, epsilon: float) -> np.ndarray:
    """x + epsilon sign(dCE/dx), dCE/dx = sum_k W_k (p_k - y_k) in each pixel that is not ignored."""
    p = softmax(network.numpy(image))
    y = np.moveaxis(np.eye(K)[np.where(label == IGNORE, 0, label)], -1, 1)
    slope = network.head.weight.detach().double().numpy().reshape(1, K, 1, 1)
    gradient = (slope * (p - y)).sum(axis=1, keepdims=True) * (label != IGNORE)[:, None]
    return image.double().numpy() + epsilon * np.sign(gradient)


def expected(method: DeepCoTraining, batch: Batch) -> dict[str, float]:
    x, nets = torch.cat([batch.image, batch.unlabeled]), (method.student, method.peer)
    p = [softmax(network.numpy(x)) for network in nets]
    u = [each[len(batch.image) :] for each in p]
    agreement = entropy(np.mean(u, axis=0)) - (entropy(u[0]) + entropy(u[1])) / 2
    diversity = np.zeros(())
    for i, (one, other) in enumerate((nets, nets[::-1])):
        label = np.concatenate([batch.label.numpy(), one.numpy(batch.unlabeled).argmax(axis=1)])
        g = attacked(one, x, label, method.epsilon)
        diversity = diversity + kl(p[i], softmax(other.numpy(torch.from_numpy(g)))) / 2
    return {
        "agreement": W * agreement.mean(),
        "diversity": W * method.diversity_weight * diversity.mean(),
    }


def entropy(p: np.ndarray) -> np.ndarray:
    return -(p * np.log(p)).sum(axis=1)


@pytest.mark.parametrize(("labelled", "unlabelled"), [(2, 3), (1, 1)])
@pytest.mark.parametrize("epsilon", [0.03, 0.5])
def test_loss_is_agreement_and_resistance_to_the_others_adversarial_examples(batch, labelled, unlabelled, epsilon):
    method = made(DeepCoTraining, epsilon=epsilon)
    batch = Batch(batch.image[:labelled], batch.label[:labelled], batch.unlabeled[:unlabelled])
    nets = (method.student, method.peer)
    supervised = sum(numpy_supervised(network.numpy(batch.image), batch.label.numpy()) for network in nets)
    assert losses(method, batch) == pytest.approx({"supervised": supervised, **expected(method, batch)}, rel=1e-4)


def test_networks_that_agree_have_no_divergence_and_the_example_raises_their_loss(batch):
    method = made(DeepCoTraining, epsilon=0.05)
    method.peer.load_state_dict(method.student.state_dict())
    found = losses(method, batch)
    assert found["agreement"] == pytest.approx(0, abs=1e-7)
    assert found["diversity"] > 0
    x = torch.cat([batch.image, batch.unlabeled]).requires_grad_()
    z = method.student(x)
    g = method.adversarial(x, z, batch.label)
    label = torch.cat([batch.label, z[2:].argmax(dim=1)])
    before, after = (nn.functional.cross_entropy(method.student(i), label, ignore_index=IGNORE) for i in (x, g))
    assert after > before
    assert torch.equal(g[:1, :, 0], x[:1, :, 0])  # ignored: nothing to attack


def test_networks_that_are_sure_of_different_classes_disagree_by_ln_2(batch):
    method = made(DeepCoTraining)
    with torch.no_grad():
        for network, k in ((method.student, 0), (method.peer, 1)):
            network.head.weight.zero_()
            network.head.bias.copy_(400.0 * nn.functional.one_hot(torch.tensor(k), K))
    value = method("segmenter", batch, HALFWAY)
    assert value["agreement"].item() == pytest.approx(W * math.log(2), rel=1e-5)
    torch.stack(list(value.values())).sum().backward()
    assert all(p.grad.isfinite().all() for p in method.parameters())


def test_without_a_label_the_labelled_images_are_not_attacked(batch):
    method = made(DeepCoTraining)
    batch = batch._replace(label=torch.full_like(batch.label, IGNORE))
    found = losses(method, batch)
    assert found["supervised"] == pytest.approx(0, abs=1e-6)
    assert found["diversity"] == pytest.approx(expected(method, batch)["diversity"], rel=1e-4)


@pytest.mark.parametrize("term", ["supervised", "agreement", "diversity"])
def test_each_term_reaches_both_networks(term, batch):
    method = made(DeepCoTraining)
    method("segmenter", batch, HALFWAY)[term].backward()
    assert all(p.grad.abs().sum() > 0 for p in method.parameters_of("segmenter"))


def test_the_prediction_of_the_clean_image_is_a_constant_target(batch):
    """The student's gradient of L_div is that of KL(p_2(x) || p_1(g_2(x))) with p_2 and g_2 as constants."""
    method = made(DeepCoTraining)
    student = copy.deepcopy(method.student)
    method("segmenter", batch, HALFWAY)["diversity"].backward()
    x = torch.cat([batch.image, batch.unlabeled])
    label = np.concatenate([batch.label.numpy(), method.peer.numpy(batch.unlabeled).argmax(axis=1)])
    g = torch.from_numpy(attacked(method.peer, x, label, method.epsilon)).float()
    target = torch.from_numpy(softmax(method.peer.numpy(x))).float()
    divergence = (target * (target.log() - student(g).log_softmax(dim=1))).sum(dim=1).mean() / 2
    (W * method.diversity_weight * divergence).backward()
    for ours, theirs in zip(method.student.parameters(), student.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-7)


def test_making_the_examples_leaves_no_gradient_behind():
    method = DeepCoTraining(network=lambda: UNet(in_channels=1, num_classes=K, channels=(4, 8), dropout=(0, 0)))
    image = torch.rand(2, 1, 8, 8)
    batch = Batch(image, torch.randint(K, (2, 8, 8)), torch.rand(3, 1, 8, 8))
    terms = method("segmenter", batch, HALFWAY)
    assert all(p.grad is None for p in method.parameters())
    assert image.grad is None
    assert not image.requires_grad
    torch.stack(list(terms.values())).sum().backward()
    assert all(p.grad.isfinite().all() for p in method.parameters())


def test_pseudo_labels_are_the_mean_of_both_networks(batch):
    method = made(DeepCoTraining)
    probability, used = method.pseudo_labels(batch.unlabeled, HALFWAY)
    p = [softmax(network.numpy(batch.unlabeled)) for network in (method.student, method.peer)]
    np.testing.assert_allclose(probability.detach(), np.mean(p, axis=0), rtol=1e-5)
    assert used.all()


@pytest.mark.parametrize(
    "keys",
    [
        {"diversity_weight": -1},
        {"epsilon": -0.1},
        {"epsilon": math.inf},
        {"consistency_weight": -1},
        {"predict_with": "teacher"},
    ],
)
def test_a_wrong_value_is_refused_by_its_key(keys):
    with pytest.raises(UserError, match=f"method.{next(iter(keys))}"):
        DeepCoTraining(network=Pixelwise, **keys)
