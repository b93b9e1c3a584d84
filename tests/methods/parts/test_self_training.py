"""What the self-training methods share: stages, the frozen labeller, and the student that goes on or starts afresh."""

import copy

import pytest
import torch
from adversaries import some_batch, tiny_unet
from pixelwise import Pixelwise, made

from ssl4seg.errors import UserError
from ssl4seg.methods.confidence_weighted import ConfidenceWeighted
from ssl4seg.methods.parts.self_training import Frozen
from ssl4seg.methods.pseudo_label import PseudoLabel
from ssl4seg.types import Progress

KINDS = [PseudoLabel, ConfidenceWeighted]


def state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return copy.deepcopy(module.state_dict())


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("kind", KINDS)
def test_r_rounds_of_equal_length_follow_a_stage_on_labels_alone(kind):
    method = made(kind, rounds=3, labels_only=0.4)
    stages = [method.stage(Progress(step, 100)) for step in (0, 39, 40, 59, 60, 80, 99)]
    assert [stage for stage, _ in stages] == [0, 0, 1, 1, 2, 3, 3]
    assert [within.total for _, within in stages] == [40, 40, 20, 20, 20, 20, 20]


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_stage_neither_sees_nor_labels_an_unlabelled_image(kind, batch):
    method = made(kind, rounds=1)
    assert list(method("segmenter", batch, Progress(49, 100))) == ["supervised"]
    assert list(method("segmenter", batch, Progress(50, 100))) == ["supervised", "pseudo_label"]
    seen = []
    method.student.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    method.labeller.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    method("segmenter", batch, Progress(0, 100))
    assert [len(image) for image in seen] == [2]
    assert torch.equal(seen[0], batch.image)
    assert method.pseudo_labels(batch.unlabeled, Progress(49, 100)) is None
    assert method.pseudo_labels(batch.unlabeled, Progress(50, 100)) is not None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reinitialize", [False, True])
def test_a_round_freezes_the_student_which_goes_on_or_starts_afresh(kind, reinitialize):
    method = kind(network=tiny_unet, reinitialize=reinitialize).train()
    method.student(torch.rand(2, 1, 8, 8))  # moves the batch norm
    before = state(method.student)
    torch.manual_seed(7)
    assert method.begin_stage(1, []) is None
    assert same(state(method.labeller.network), before)
    torch.manual_seed(7)
    expected = state(tiny_unet()) if reinitialize else before
    assert same(state(method.student), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_the_labeller_is_in_evaluation_mode_and_no_step_changes_it(kind):
    method, batch = kind(network=lambda: tiny_unet(dropout=(0.5, 0.5)), rounds=1), some_batch()
    optimizer = torch.optim.SGD(method.parameters_of("segmenter"), lr=1.0)
    before = state(method.labeller)
    labels = method.train().labeller(batch.unlabeled)
    for step in (50, 51):
        torch.stack(list(method("segmenter", batch, Progress(step, 100)).values())).sum().backward()
        optimizer.step()
        method.after_step(Progress(step, 100))
    assert same(state(method.labeller), before)
    assert torch.equal(method.labeller(batch.unlabeled), labels)
    assert method.student.training
    assert not method.labeller.network.training
    assert not same(state(method.student), state(method.labeller.network))


@pytest.mark.parametrize("kind", KINDS)
def test_the_pseudo_label_term_reaches_the_student_and_never_the_labeller(kind, batch):
    method = made(kind, rounds=1)
    with torch.no_grad():
        method.labeller.network.head.weight.mul_(10)  # confident
    method("segmenter", batch, Progress(50, 100))["pseudo_label"].backward()
    assert all(p.grad.abs().sum() > 0 for p in method.student.parameters())
    assert all(p.grad is None and not p.requires_grad for p in method.labeller.parameters())
    assert {id(p) for p in method.parameters_of("segmenter")} == {id(p) for p in method.student.parameters()}


def test_frozen_gives_no_graph_even_for_an_image_that_wants_one():
    assert not Frozen(Pixelwise())(torch.randn(1, 1, 2, 2, requires_grad=True)).requires_grad


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keys", [{"rounds": 0}, {"labels_only": 0.0}, {"labels_only": 1.0}, {"pseudo_weight": -1}])
def test_a_wrong_value_is_refused_by_its_key(kind, keys):
    with pytest.raises(UserError, match=f"method.{next(iter(keys))}"):
        kind(network=Pixelwise, **keys)
