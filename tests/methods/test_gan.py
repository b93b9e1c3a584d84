"""The GAN against its equations in NumPy, with the discriminator stated once more."""

import math

import numpy as np
import pytest
import torch
from adversaries import bce, check_phases_keep_apart, judged, reaches, some_batch, tiny_unet
from pixelwise import HALFWAY, K, losses, made, numpy_supervised, softmax
from torch import Tensor

from ssl4seg.errors import UserError
from ssl4seg.keys import IGNORE
from ssl4seg.methods.gan import GAN
from ssl4seg.types import Batch


def decisions(method: GAN, image: Tensor, mask: np.ndarray) -> np.ndarray:
    """Logits of the patches: so small an image lies in a margin of zeros and is one patch."""
    return judged(method.discriminator, np.concatenate([image.double().numpy(), mask], axis=1), side=64, last_stride=1)


def predictions(method: GAN, image: Tensor) -> np.ndarray:
    return softmax(method.student.numpy(image))


def squared(logits: np.ndarray, real: float) -> np.ndarray:
    return (logits - real) ** 2


@pytest.mark.parametrize(
    ("adversarial", "loss", "batch_norm", "labeled", "unlabeled"),
    [("bce", bce, True, 2, 3), ("least_squares", squared, False, 2, 1), ("bce", bce, False, 1, 1)],
)
def test_both_phases(batch, adversarial, loss, batch_norm, labeled, unlabeled):
    method = made(GAN, adversarial=adversarial, adversarial_weight=0.3, batch_norm=batch_norm)
    batch = Batch(batch.image[:labeled], batch.label[:labeled], batch.unlabeled[:unlabeled])
    x, label = torch.cat([batch.image, batch.unlabeled]), batch.label.numpy()
    p = predictions(method, x)
    counted = (label != IGNORE)[:, None]
    truth = np.where(counted, np.eye(K)[np.where(counted[:, 0], label, 0)].transpose(0, 3, 1, 2), p[:labeled])
    fake, real = decisions(method, x, p), decisions(method, batch.image, truth)
    assert losses(method, batch) == pytest.approx(
        {
            "supervised": numpy_supervised(method.student.numpy(batch.image), label),
            "adversarial": 0.3 * loss(fake, 1).mean(),
        },
        rel=1e-4,
    )
    found = method("discriminator", batch, HALFWAY)
    assert list(found) == ["discriminator"]
    expected = (loss(real, 1).mean() + loss(fake, 0).mean()) / 2
    assert found["discriminator"].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("adversarial", "segmenter", "discriminator"),
    [("bce", math.log(2), math.log(2)), ("least_squares", 1, 1 / 2)],
)
def test_a_discriminator_that_says_0_everywhere(batch, adversarial, segmenter, discriminator):
    method = made(GAN, adversarial=adversarial, adversarial_weight=1.0)
    torch.nn.init.zeros_(method.discriminator.decide.weight)
    torch.nn.init.zeros_(method.discriminator.decide.bias)
    assert losses(method, batch)["adversarial"] == pytest.approx(segmenter)
    assert method("discriminator", batch, HALFWAY)["discriminator"].item() == pytest.approx(discriminator)


def test_what_is_ignored_does_not_tell_a_truth_from_a_prediction(batch):
    method = made(GAN, batch_norm=False)
    seen: list[Tensor] = []
    method.discriminator.register_forward_pre_hook(lambda _, maps: seen.append(maps[1]))
    nothing = batch._replace(label=torch.full_like(batch.label, IGNORE))
    method("discriminator", nothing, HALFWAY)
    truth, prediction = seen
    assert torch.equal(truth, prediction[: len(batch.image)])


def test_each_phase_moves_its_network_alone():
    check_phases_keep_apart(GAN(network=tiny_unet), some_batch())


def test_supervision_is_of_the_labelled_images_and_the_adversarial_term_of_all():
    method = GAN(network=tiny_unet).train()
    found = method("segmenter", some_batch(), HALFWAY)
    assert found.keys() == {"supervised", "adversarial"}
    assert all(reaches(term, method.student) for term in found.values())
    nothing = some_batch()
    nothing = nothing._replace(label=torch.full_like(nothing.label, IGNORE))
    assert reaches(method("segmenter", nothing, HALFWAY)["adversarial"], method.student)


def test_supervision_does_not_depend_on_the_unlabelled_images_in_the_batch():
    method, batch = GAN(network=tiny_unet).train(), some_batch()
    values = [
        method("segmenter", batch._replace(unlabeled=unlabeled), HALFWAY)["supervised"].item()
        for unlabeled in (batch.unlabeled, batch.unlabeled[:1], 9 * batch.unlabeled)
    ]
    assert values[0] == values[1] == values[2]


def test_both_phases_judge_the_same_predictions():
    method, batch = GAN(network=tiny_unet).train(), some_batch()
    seen: list[Tensor] = []
    method.discriminator.register_forward_pre_hook(lambda _, maps: seen.append(maps[1].detach()))
    for phase in method.phases:
        method(phase, batch, HALFWAY)
    predictions, truths, predictions_again = seen
    assert truths.shape[0] == 2
    assert torch.equal(predictions, predictions_again)


def test_the_segmenter_predicts_and_there_are_no_pseudo_labels(batch):
    method = made(GAN)
    assert method.predictor is method.student
    assert method.pseudo_labels(batch.unlabeled, HALFWAY) is None


@pytest.mark.parametrize("keys", [{"adversarial": "hinge"}, {"adversarial_weight": -1}, {"batch_norm": 1}])
def test_a_wrong_value_is_refused_by_its_key(keys):
    with pytest.raises(UserError, match=f"method.{next(iter(keys))}"):
        made(GAN, **keys)
