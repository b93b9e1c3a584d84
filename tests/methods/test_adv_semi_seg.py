"""Adversarial semi-supervised segmentation against its equations in NumPy, with the discriminator stated once more."""

import numpy as np
import pytest
import torch
from adversaries import bce, check_phases_keep_apart, judged, reaches, some_batch, tiny_unet
from pixelwise import HALFWAY, K, losses, made, numpy_supervised, softmax
from torch import Tensor

from ssl4seg.errors import UserError
from ssl4seg.keys import IGNORE
from ssl4seg.methods.adv_semi_seg import AdvSemiSeg
from ssl4seg.types import Batch, Progress

WEIGHTS = {"adversarial_weight": 0.3, "unlabeled_adversarial_weight": 0.2, "self_taught_weight": 0.7}


def decisions(method: AdvSemiSeg, maps: np.ndarray) -> np.ndarray:
    """[N, 4, 5] logits of the pixels. So small a map lies in a margin of zeros and gets one decision for all pixels."""
    return np.broadcast_to(judged(method.discriminator, maps, side=32, last_stride=2)[:, 0], (len(maps), 4, 5))


def predictions(method: AdvSemiSeg, image: Tensor) -> np.ndarray:
    return softmax(method.student.numpy(image))


def divided(method: AdvSemiSeg, *maps: np.ndarray) -> float:
    """A threshold with a decision on each side, the discriminator's last layer being turned up to tell them apart."""
    with torch.no_grad():
        method.discriminator.decide.weight.mul_(1000)
    d = np.sort(np.concatenate([decisions(method, m)[:, 0, 0] for m in maps]))
    method.threshold = float(1 / (1 + np.exp(-(d[0] + d[1]) / 2)))
    assert d[1] - d[0] > 1e-3
    return method.threshold


@pytest.mark.parametrize("num", [2, 3])
def test_the_segmenters_terms(batch, num):
    method, batch = made(AdvSemiSeg, **WEIGHTS), batch._replace(unlabeled=batch.unlabeled[:num])
    p_l, p_u = predictions(method, batch.image), predictions(method, batch.unlabeled)
    threshold = divided(method, p_u)
    d_l, d_u = decisions(method, p_l), decisions(method, p_u)
    used = 1 / (1 + np.exp(-d_u)) > threshold
    assert 0 < used.sum() < used.size
    assert losses(method, batch) == pytest.approx(
        {
            "supervised": numpy_supervised(method.student.numpy(batch.image), batch.label.numpy()),
            "adversarial": 0.3 * bce(d_l, 1)[batch.label.numpy() != IGNORE].mean(),
            "unlabeled_adversarial": 0.2 * bce(d_u, 1).mean(),
            "self_taught": 0.7 * -np.log(p_u.max(axis=1))[used].mean(),
        },
        rel=1e-4,
    )


@pytest.mark.parametrize("num", [1, 2])
def test_the_discriminator_tells_truths_from_labelled_predictions_on_the_pixels_that_count(batch, num):
    method, batch = made(AdvSemiSeg), batch._replace(image=batch.image[-num:], label=batch.label[-num:])
    with torch.no_grad():  # to tell truths from predictions, one way or the other
        method.discriminator.decide.weight.mul_(1000)
    batch.label[-1, 2:4] = IGNORE
    label, p = batch.label.numpy(), predictions(method, batch.image)
    counted = label != IGNORE
    truth = np.where(counted[:, None], np.eye(K)[np.where(counted, label, 0)].transpose(0, 3, 1, 2), p)
    d_y, d_p = decisions(method, truth)[counted], decisions(method, p)[counted]
    expected = bce(d_y, 1).mean() + bce(d_p, 0).mean()
    assert expected != pytest.approx(bce(d_y, 0).mean() + bce(d_p, 1).mean(), rel=0.01)
    found = method("discriminator", batch, HALFWAY)
    assert list(found) == ["discriminator"]
    assert found["discriminator"].item() == pytest.approx(expected, rel=1e-4)


def test_supervision_does_not_depend_on_the_unlabelled_images_in_the_batch():
    method, batch = AdvSemiSeg(network=tiny_unet).train(), some_batch(side=32)
    values = [
        method("segmenter", batch._replace(unlabeled=unlabeled), HALFWAY)["supervised"].item()
        for unlabeled in (batch.unlabeled, batch.unlabeled[:1], 9 * batch.unlabeled)
    ]
    assert values[0] == values[1] == values[2]


def test_the_discriminator_sees_what_the_segmenter_makes_of_the_labelled_images_by_themselves():
    method, batch = AdvSemiSeg(network=tiny_unet).train(), some_batch(side=32)
    z_l = method.student(batch.image)
    seen: list[Tensor] = []
    method.discriminator.register_forward_pre_hook(lambda _, maps: seen.append(maps[0]))
    method("discriminator", batch, HALFWAY)
    torch.testing.assert_close(seen[0][len(batch.image) :], z_l.softmax(dim=1))


def test_a_large_map_has_decisions_that_differ_from_place_to_place():
    method = AdvSemiSeg(network=tiny_unet, adversarial_weight=1.0).train()
    batch = some_batch(side=64)
    batch.label[:, :, :32] = IGNORE
    p = method.student(batch.image).softmax(dim=1)
    d = method.discriminator(p)
    assert d.shape == (2, 1, 64, 64)
    assert d.std(dim=(2, 3)).min() > 0
    expected = bce(d.detach().double().numpy()[:, 0], 1)[batch.label.numpy() != IGNORE].mean()
    # The segmenter's batch norm sees the unlabelled images beside the labelled ones.
    alone = batch._replace(unlabeled=batch.image[:0])
    assert method("segmenter", alone, HALFWAY)["adversarial"].item() == pytest.approx(expected, rel=1e-4)


def test_where_nothing_is_believed_the_self_taught_term_is_zero_with_zero_gradient(batch):
    method = made(AdvSemiSeg, threshold=0.999)
    value = method("segmenter", batch, HALFWAY)["self_taught"]
    value.backward()
    assert value.item() == 0
    assert all(p.grad.eq(0).all() for p in method.student.parameters())


def test_without_a_label_the_labelled_terms_are_zero(batch):
    method = made(AdvSemiSeg)
    batch = batch._replace(label=torch.full_like(batch.label, IGNORE))
    assert losses(method, batch)["adversarial"] == 0
    value = method("discriminator", batch, HALFWAY)["discriminator"]
    value.backward()
    assert value.item() == 0
    assert all(p.grad.eq(0).all() for p in method.discriminator.parameters())


@pytest.mark.parametrize("one", [1, 2])
def test_one_unlabelled_image_is_enough(batch, one):
    method = made(AdvSemiSeg, threshold=0.0)
    batch = Batch(batch.image[:one], batch.label[:one], batch.unlabeled[:1])
    p = predictions(method, batch.unlabeled)
    assert losses(method, batch)["self_taught"] == pytest.approx(0.1 * -np.log(p.max(axis=1)).mean(), rel=1e-4)


def test_unlabelled_images_take_part_from_a_quarter_of_the_run(batch):
    method = made(AdvSemiSeg, threshold=0.0)
    before, after = (losses(method, batch, Progress(step, 100)) for step in (24, 25))
    assert before["unlabeled_adversarial"] == before["self_taught"] == 0
    assert after["unlabeled_adversarial"] > 0
    assert after["self_taught"] > 0
    assert method.weights(Progress(24, 100)) == {"unlabeled_adversarial_weight": 0, "self_taught_weight": 0}
    assert method.weights(Progress(25, 100)) == {"unlabeled_adversarial_weight": 0.001, "self_taught_weight": 0.1}
    early = made(AdvSemiSeg, adversarial_start=0.0)
    assert early.weights(Progress(0, 100)) == {"unlabeled_adversarial_weight": 0.001, "self_taught_weight": 0}


def test_pseudo_labels_are_the_predictions_that_the_discriminator_takes_for_truths(batch):
    method = made(AdvSemiSeg).eval()
    p = predictions(method, batch.unlabeled)
    threshold = divided(method, p)
    with torch.no_grad():
        found = method.pseudo_labels(batch.unlabeled, HALFWAY)
        none = method.pseudo_labels(batch.unlabeled, Progress(24, 100))
    np.testing.assert_array_equal(found.probability, np.eye(K)[p.argmax(axis=1)].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(found.used, 1 / (1 + np.exp(-decisions(method, p))) > threshold)
    assert not none.used.any()


def test_each_phase_moves_its_network_alone():
    check_phases_keep_apart(AdvSemiSeg(network=tiny_unet, threshold=0.0), some_batch())


def test_every_term_reaches_the_segmenter():
    method = AdvSemiSeg(network=tiny_unet, threshold=0.0).train()
    found = method("segmenter", some_batch(side=33), HALFWAY)
    assert len(found) == 4
    assert all(reaches(term, method.student) for term in found.values())


@pytest.mark.parametrize(
    "keys",
    [
        {"adversarial_weight": -0.1},
        {"unlabeled_adversarial_weight": float("nan")},
        {"self_taught_weight": -1},
        {"threshold": 1.0},
        {"adversarial_start": 1.0},
        {"self_taught_start": -0.1},
    ],
)
def test_a_wrong_value_is_refused_by_its_key(keys):
    with pytest.raises(UserError, match=f"method.{next(iter(keys))}"):
        made(AdvSemiSeg, **keys)
