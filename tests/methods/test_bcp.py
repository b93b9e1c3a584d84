"""BCP against its equations in NumPy."""

import numpy as np
import pytest
import torch
from adversaries import some_batch, tiny_unet
from pixelwise import K, Pixelwise, flooded, losses, made, numpy_supervised
from torch import Tensor

from ssl4seg.augment.mixing import copy_paste_mask
from ssl4seg.errors import UserError
from ssl4seg.keys import IGNORE
from ssl4seg.methods.bcp import BCP
from ssl4seg.methods.parts.losses import CrossEntropyDice, HardPixels
from ssl4seg.types import Batch, Progress

PRETRAINING, LATER = Progress(24, 100), Progress(25, 100)


def taught(**keys: object) -> BCP:
    """With a teacher that is not its student."""
    method = made(BCP, **keys)
    with torch.no_grad():
        for p in method.teacher.parameters():
            p.normal_()
    return method


def sized(labeled: int, unlabeled: int) -> Batch:
    label = torch.randint(K, (labeled, 8, 9))
    label[:, 0, 0] = IGNORE
    return Batch(torch.randn(labeled, 1, 8, 9), label, 3 * torch.randn(unlabeled, 1, 8, 9))


def pasted(method: BCP, inside: tuple[Tensor, np.ndarray], around: tuple[Tensor, np.ndarray]) -> tuple[float, float]:
    """L_seg (s = 1e-10) in- and outside of the box that comes from the one (images, labels) and lies in the other."""
    torch.manual_seed(1)
    box = copy_paste_mask(inside[0][:1], method.side).numpy().astype(bool)
    assert 0 < box.sum() < box.size
    z = method.student.numpy(torch.from_numpy(np.where(box, inside[0].numpy(), around[0].numpy())))
    within, without = np.where(box[:, 0], inside[1], IGNORE), np.where(box[:, 0], IGNORE, around[1])
    return numpy_supervised(z, within, 1e-10), numpy_supervised(z, without, 1e-10)


# -- golden values ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [0.5, 2.0])
@pytest.mark.parametrize(
    ("labeled", "unlabeled", "l1", "l2", "u1", "u2"),
    [
        (4, 4, [0, 1], [2, 3], [0, 1], [2, 3]),
        (3, 3, [0, 1], [2, 0], [0, 1], [2, 0]),
        (2, 4, [0, 1], [0, 1], [0, 1], [2, 3]),
        (4, 1, [0, 1], [2, 3], [0, 0], [0, 0]),
        (1, 1, [0], [0], [0], [0]),
    ],
)
def test_halves_are_pasted_both_ways_and_each_region_has_its_own_labels(labeled, unlabeled, l1, l2, u1, u2, weight):
    method, batch = taught(pseudo_weight=weight), sized(labeled, unlabeled)
    x_l, y_l, x_u = batch.image, batch.label.numpy(), batch.unlabeled
    y_u = flooded(method.teacher.network.numpy(x_u).argmax(axis=1))
    in_1, out_1 = pasted(method, (x_l[l1], y_l[l1]), (x_u[u1], y_u[u1]))
    in_2, out_2 = pasted(method, (x_u[u2], y_u[u2]), (x_l[l2], y_l[l2]))
    torch.manual_seed(1)
    assert losses(method, batch, LATER) == pytest.approx(
        {"supervised": in_1 + out_2, "pseudo_label": weight * (out_1 + in_2)}, rel=1e-4
    )


@pytest.mark.parametrize(("num", "a", "b"), [(4, [0, 1], [2, 3]), (3, [0, 1], [2, 0]), (2, [0], [1]), (1, [0], [0])])
def test_pretraining_pastes_labelled_images_on_one_another(num, a, b):
    method, batch = taught(), sized(num, 2)
    x_l, y_l = batch.image, batch.label.numpy()
    expected = sum(pasted(method, (x_l[b], y_l[b]), (x_l[a], y_l[a])))
    torch.manual_seed(1)
    assert losses(method, batch, PRETRAINING) == pytest.approx({"supervised": expected}, rel=1e-4)


@pytest.mark.parametrize("loss", [CrossEntropyDice(smooth=0.3), CrossEntropyDice(dice=0), HardPixels()])
def test_a_region_that_lacks_a_class_has_a_dice_of_the_methods_own_smoothing(loss):
    method = made(BCP)
    method.supervised = loss
    z = torch.tensor([0.0, 0.0, -8.0]).view(1, K, 1, 1).repeat(2, 1, 8, 9)
    label, region = torch.randint(2, (2, 8, 9)), torch.zeros(1, 1, 8, 9)
    region[..., 2:7] = 1
    within = torch.where(region[:, 0] > 0, label, IGNORE)
    expected = loss(z, within).item()
    if isinstance(loss, CrossEntropyDice) and loss.dice:
        # sum p^2 of class 2 is 2e-6, so that 1 - s / (sum p^2 + s) is 1; it is 0.2 with s = 1e-5 and 0 with s = 0.3
        expected = numpy_supervised(z.double().numpy(), within.numpy(), 1e-10)
    assert method.over(region, z, label).item() == pytest.approx(expected, rel=1e-5)


def test_an_unlabelled_image_does_not_matter_in_pretraining_and_does_later():
    method, batch = taught(), sized(4, 4)
    other = batch._replace(unlabeled=torch.randn_like(batch.unlabeled))
    for progress, same in ((PRETRAINING, True), (LATER, False)):
        torch.manual_seed(1)
        before = losses(method, batch, progress)
        torch.manual_seed(1)
        assert (losses(method, other, progress) == before) == same


# -- gradients, the teacher, and what is told -------------------------------------------------------------------------


@pytest.mark.parametrize(("progress", "terms"), [(PRETRAINING, 1), (LATER, 2)])
@pytest.mark.parametrize("ignored", [False, True])
def test_each_term_gives_every_parameter_of_the_student_a_gradient_and_the_teacher_none(progress, terms, ignored):
    batch = some_batch(labeled=1, unlabeled=1)
    if ignored:
        batch = batch._replace(label=torch.full_like(batch.label, IGNORE))
    method = BCP(network=tiny_unet).train()
    found = method("segmenter", batch, progress)
    assert len(found) == terms
    for name, value in found.items():
        method.zero_grad()
        value.backward(retain_graph=True)
        assert all(p.grad is not None and p.grad.isfinite().all() for p in method.student.parameters())
        moved = any(p.grad.abs().sum() > 0 for p in method.student.parameters())
        assert moved == (name == "pseudo_label" or not ignored)
    assert all(p.grad is None and not p.requires_grad for p in method.teacher.parameters())


def test_the_teacher_starts_as_the_pretrained_student_and_then_averages_it_statistics_too():
    method = BCP(network=tiny_unet).train()
    method.student(torch.rand(2, 1, 8, 8))
    with torch.no_grad():
        for p in method.student.parameters():
            p.normal_()
    start = {name: value.clone() for name, value in method.teacher.network.state_dict().items()}
    method.after_step(Progress(2499, 10000))
    assert all(torch.equal(value, start[name]) for name, value in method.teacher.network.state_dict().items())
    assert method.begin_stage(1, []) is None
    start = {name: value.clone() for name, value in method.student.state_dict().items()}
    assert all(torch.equal(value, start[name]) for name, value in method.teacher.network.state_dict().items())
    with torch.no_grad():
        for value in method.student.state_dict().values():
            value.add_(1)
    method.after_step(Progress(2500, 10000))
    for name, value in method.teacher.network.state_dict().items():
        expected = start[name] + (0.01 if value.is_floating_point() else 1)
        torch.testing.assert_close(value, expected)


def test_pseudo_labels_are_what_is_pasted_and_the_student_predicts(batch):
    method = taught()
    assert method.pseudo_labels(batch.unlabeled, PRETRAINING) is None
    found = method.pseudo_labels(batch.unlabeled, LATER)
    expected = flooded(method.teacher.network.numpy(batch.unlabeled).argmax(axis=1))
    assert np.array_equal(found.probability.argmax(dim=1), expected)
    assert found.probability.unique().tolist() == [0, 1]
    assert found.used.all()
    assert method.predictor is method.student


@pytest.mark.parametrize(
    "keys",
    [
        {"pretrain": 0.0},
        {"pretrain": 1.0},
        {"side": 0.0},
        {"side": 1.0},
        {"pseudo_weight": -1},
        {"smooth": 0.0},
        {"ema_decay": 1.0},
    ],
)
def test_a_wrong_value_is_refused_by_its_key(keys):
    with pytest.raises(UserError, match=f"method.{next(iter(keys))}"):
        BCP(network=Pixelwise, **keys)
