"""ST++ against its formulas in NumPy."""

import numpy as np
import pytest
import torch
from adversaries import some_batch, tiny_unet
from pixelwise import K, Pixelwise, losses, made, numpy_supervised, softmax
from torch import Tensor

from ssl4seg.errors import UserError
from ssl4seg.keys import IGNORE
from ssl4seg.methods.st_plus_plus import STPlusPlus
from ssl4seg.types import Batch, Progress

FIRST, SECOND, THIRD = Progress(32, 99), Progress(33, 99), Progress(66, 99)


@pytest.fixture
def views(batch) -> Batch:
    """The unlabelled images and a strong view of them."""
    return batch._replace(strong=(batch.unlabeled + torch.randn_like(batch.unlabeled),))


def taught(**keys: object) -> STPlusPlus:
    """With checkpoints that all differ from the student and from each other."""
    method = made(STPlusPlus, **keys)
    with torch.no_grad():
        for p in method.checkpoints.parameters():
            p.normal_()
    return method


def stability(method: STPlusPlus, image: Tensor) -> list[float]:
    """Of each image, by counting pixels."""
    *earlier, last = (checkpoint.network.numpy(image).argmax(axis=1) for checkpoint in method.checkpoints)

    def mean_iou(a: np.ndarray, b: np.ndarray) -> float:
        held = [k for k in range(K) if k in a or k in b]
        return np.mean([np.sum((a == k) & (b == k)) / np.sum((a == k) | (b == k)) for k in held])

    return [sum(mean_iou(label[n], last[n]) for label in earlier) for n in range(len(image))]


# -- the loss ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num", [1, 3])
def test_after_stage_0_both_losses_count_half_and_the_labeller_labels_the_weak_view(views, num):
    views = views._replace(unlabeled=views.unlabeled[:num], strong=(views.strong[0][:num],))
    method = taught(cutout=0.0)
    label = method.checkpoints[-1].network.numpy(views.unlabeled).argmax(axis=1)
    alone = numpy_supervised(method.student.numpy(views.image), views.label.numpy())
    assert losses(method, views, FIRST) == pytest.approx({"supervised": alone}, rel=1e-5)
    both = {
        "supervised": 0.5 * alone,
        "pseudo_label": 0.5 * numpy_supervised(method.student.numpy(views.strong[0]), label),
    }
    assert losses(method, views, SECOND) == pytest.approx(both, rel=1e-5)
    assert losses(method, views, THIRD) == pytest.approx(both, rel=1e-5)


def test_a_cut_box_is_seen_as_noise_and_its_label_ignored():
    label = torch.zeros(2, 16, 16, dtype=torch.int64)
    batch = Batch(torch.randn(2, 1, 16, 16), label, torch.randn(3, 1, 16, 16), (torch.randn(3, 1, 16, 16),))
    method = taught(cutout=1.0)
    torch.manual_seed(1)
    cut, erased = method.cut_out(batch.strong[0])
    assert erased.flatten(1).any(dim=1).all()
    assert not erased.flatten(1).all(dim=1).any()
    label = np.where(erased, IGNORE, method.labeller.network.numpy(batch.unlabeled).argmax(axis=1))
    expected = 0.5 * numpy_supervised(method.student.numpy(cut), label)
    torch.manual_seed(1)
    assert losses(method, batch, SECOND)["pseudo_label"] == pytest.approx(expected, rel=1e-5)


def test_cutout_takes_the_asked_share_of_the_images_and_stays_in_their_range():
    method = made(STPlusPlus, cutout=0.5)
    image = torch.rand(1000, 1, 16, 16) * torch.arange(1, 1001).view(-1, 1, 1, 1)
    cut, erased = method.cut_out(image)
    assert erased.flatten(1).any(dim=1).float().mean().item() == pytest.approx(0.5, abs=0.06)
    assert torch.equal(cut[:, 0][~erased], image[:, 0][~erased])
    assert (cut[:, 0][erased] != image[:, 0][erased]).all()
    assert (cut.amax(dim=(1, 2, 3)) <= image.amax(dim=(1, 2, 3))).all()
    assert (cut.amin(dim=(1, 2, 3)) >= image.amin(dim=(1, 2, 3))).all()


# -- the stages -------------------------------------------------------------------------------------------------------


def test_stage_0_leaves_checkpoints_at_its_thirds_and_later_stages_none():
    method = made(STPlusPlus)
    for step in range(99):
        with torch.no_grad():
            method.student.head.bias.fill_(step)
        method.after_step(Progress(step, 99))
    assert [checkpoint.network.head.bias[0].item() for checkpoint in method.checkpoints] == [10, 21, 32]


@pytest.mark.parametrize("sizes", [[4, 3], [7], [1] * 7])
@pytest.mark.parametrize(("share", "num"), [(0.5, 3), (0.1, 1), (1.0, 7)])
def test_stage_1_takes_the_most_stable_images_and_stage_2_all(sizes, share, num):
    method = taught(reliable=share)
    image = torch.randn(7, 1, 6, 6)
    s = np.array(stability(method, image))
    assert len(set(s)) > 2
    np.testing.assert_allclose(method.stability(image), s, rtol=1e-5)
    with torch.no_grad():
        method.student.load_state_dict(method.checkpoints[-1].network.state_dict())
    chosen = method.begin_stage(1, image.split(sizes))
    assert len(set(chosen.tolist())) == num
    assert sorted(s[chosen.numpy()]) == pytest.approx(sorted(s)[-num:])
    assert method.begin_stage(2, image.split(sizes)) is None


def test_an_image_on_which_all_checkpoints_agree_has_the_largest_stability():
    method = made(STPlusPlus)
    assert torch.equal(method.stability(torch.randn(2, 1, 6, 6)), torch.tensor([2.0, 2.0]))


@pytest.mark.parametrize("reinitialize", [False, True])
def test_each_stage_is_labelled_by_the_last_ones_student(reinitialize):
    method = STPlusPlus(network=tiny_unet, reinitialize=reinitialize).train()
    image = torch.rand(2, 1, 8, 8)
    for stage in (1, 2):
        method.student(image)
        before = {name: value.clone() for name, value in method.student.state_dict().items()}
        torch.manual_seed(7)
        method.begin_stage(stage, [image])
        torch.manual_seed(7)
        expected = tiny_unet().state_dict() if reinitialize else before
        for name, value in method.labeller.network.state_dict().items():
            assert torch.equal(value, before[name])
            assert torch.equal(method.student.state_dict()[name], expected[name])


# -- gradients, and what is told --------------------------------------------------------------------------------------


@pytest.mark.parametrize("term", ["supervised", "pseudo_label"])
@pytest.mark.parametrize("num", [1, 3])
def test_each_term_reaches_the_student_and_never_a_checkpoint(term, num):
    method, batch = STPlusPlus(network=tiny_unet, cutout=1.0).train(), some_batch(labeled=1, unlabeled=num)
    batch = batch._replace(strong=(torch.rand_like(batch.unlabeled),))
    method("segmenter", batch, SECOND)[term].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.student.parameters())
    assert any(p.grad.abs().sum() > 0 for p in method.student.parameters())
    assert all(p.grad is None and not p.requires_grad for p in method.checkpoints.parameters())
    assert not any(module.training for module in method.checkpoints.modules() if module is not method.checkpoints)


def test_pseudo_labels_are_the_labellers_and_all_are_used(views):
    method = taught()
    assert method.pseudo_labels(views.unlabeled, FIRST) is None
    found = method.pseudo_labels(views.unlabeled, SECOND)
    np.testing.assert_allclose(found.probability, softmax(method.labeller.network.numpy(views.unlabeled)), rtol=1e-5)
    assert found.used.all()


@pytest.mark.parametrize(
    "keys", [{"num_checkpoints": 1}, {"reliable": 0.0}, {"labels_only": 1.0}, {"cutout": 1.1}, {"cutout": -0.1}]
)
def test_a_wrong_value_is_refused_by_its_key(keys):
    with pytest.raises(UserError, match=f"method.{next(iter(keys))}"):
        STPlusPlus(network=Pixelwise, **keys)
