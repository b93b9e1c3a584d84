"""The method `expert`: the terms of a mean teacher, and those of a frozen network beside it."""

import functools

import numpy as np
import pytest
import torch
from adversaries import some_batch, tiny_unet
from pixelwise import HALFWAY, W_HALFWAY, Pixelwise, losses, made, numpy_supervised, softmax, squares

from ssl4seg.errors import UserError
from ssl4seg.methods.expert import ExpertTeacher
from ssl4seg.methods.parts.expert import relation_loss
from ssl4seg.types import Batch


def unlike(**keys: object) -> ExpertTeacher:
    """With an expert that has other weights than the student, and no noise."""
    method = made(ExpertTeacher, noise=0.0, **keys)
    with torch.no_grad():
        for p in method.expert.network.parameters():
            p.normal_()
    return method


@pytest.mark.parametrize("s", [0.0, 2.0])
def test_the_expert_teaches_its_classes_on_all_images_beside_the_mean_teacher(batch, s):
    method = unlike(prediction_weight=s, relation_weight=3.0)
    images = torch.cat([batch.image, batch.unlabeled])
    q, p = (softmax(network.numpy(images)) for network in (method.expert.network, method.student))
    expected = {
        "supervised": numpy_supervised(method.student.numpy(batch.image), batch.label.numpy()),
        "consistency": W_HALFWAY * squares(method, batch.unlabeled).mean(),
        "relation": 0.0,  # both encoders give the image
    }
    if s:
        expected["prediction"] = -s * (q * np.log(p)).sum(axis=1).mean()
    assert losses(method, batch) == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_relations_are_those_of_the_coarsest_features_of_both_encoders():
    torch.manual_seed(0)
    expert = functools.partial(tiny_unet, channels=(2, 4, 6), dropout=(0, 0, 0))
    method = ExpertTeacher(network=tiny_unet, expert=expert, relation_weight=0.5).train()
    batch = some_batch()
    images = torch.cat([batch.image, batch.unlabeled])
    expected = 0.5 * relation_loss(method.student.encode(images)[-1], method.expert.network.encode(images)[-1], 256)
    found = method("segmenter", batch, HALFWAY)["relation"]
    torch.testing.assert_close(found, expected)
    found.backward()
    assert all(p.grad.abs().sum() > 0 for p in method.student.encoder.parameters() if p.ndim > 1)
    assert all(p.grad is None for network in (method.expert, method.teacher) for p in network.parameters())


def test_a_student_that_starts_as_its_expert_is_pulled_back_to_it(batch):
    """Without labels and teacher the student's classes come back to the expert's."""
    method = made(ExpertTeacher, prediction_weight=1.0, consistency_weight=0.0)
    with torch.no_grad():
        for p in method.student.parameters():
            p.normal_()
    optimizer = torch.optim.SGD(method.student.parameters(), lr=1.0)
    for _ in range(300):
        optimizer.zero_grad()
        method("segmenter", batch, HALFWAY)["prediction"].backward()
        optimizer.step()
    p, q = (network(batch.unlabeled).softmax(dim=1) for network in (method.student, method.expert))
    assert (p - q).abs().max() < 0.02


def test_the_expert_neither_learns_nor_follows_nor_predicts(batch):
    method = unlike(prediction_weight=1.0)
    before = {name: value.clone() for name, value in method.expert.state_dict().items()}
    torch.stack(list(method("segmenter", batch, HALFWAY).values())).sum().backward()
    method.after_step(HALFWAY)
    assert all(torch.equal(value, before[name]) for name, value in method.expert.state_dict().items())
    assert method.predictor is method.student
    assert {id(p) for p in method.parameters_of("segmenter")} == {id(p) for p in method.student.parameters()}


@pytest.mark.parametrize(
    "keys",
    [
        {"expert": "vit_dpt"},
        {"expert_mean": [0.5]},
        {"relation_weight": -1.0},
        {"prediction_weight": -1.0},
        {"places": 4},
        {"noise": -1.0},
    ],
)
def test_a_wrong_value_is_refused_by_its_key(keys):
    with pytest.raises(UserError, match=f"method.{next(iter(keys))}"):
        ExpertTeacher(network=Pixelwise, **keys)


def test_an_expert_with_random_weights_is_doubted():
    own, other = ExpertTeacher(network=tiny_unet), ExpertTeacher(network=tiny_unet, expert=tiny_unet)
    assert "random weights" in own.doubts(pretrained=False)[0]
    assert own.doubts(pretrained=True) == other.doubts(pretrained=False) == []


def test_a_batch_of_one_has_relations(batch):
    one = Batch(batch.image[:1], batch.label[:1], batch.unlabeled[:1])
    assert set(losses(unlike(), one)) == {"supervised", "consistency", "relation"}
