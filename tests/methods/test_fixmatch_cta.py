"""CTAugment's weights against their update rule in plain Python; the loss is that of FixMatch."""

import copy
import math

import numpy as np
import pytest
import torch
from pixelwise import HALFWAY, K, Pixelwise, losses, softmax

from ssl4seg.augment import photometric as ph
from ssl4seg.errors import UserError
from ssl4seg.keys import IGNORE
from ssl4seg.methods.fixmatch import FixMatch
from ssl4seg.methods.fixmatch_cta import OPERATIONS, FixMatchCTA
from ssl4seg.types import Batch

NUM_BINS = 17


@pytest.fixture
def batch() -> Batch:
    """Four labelled images, one of them wholly ignored, and five unlabelled ones, in [0, 1]."""
    label = torch.randint(K, (4, 6, 5))
    label[0, :2] = IGNORE
    label[3] = IGNORE
    return Batch(torch.rand(4, 1, 6, 5), label, torch.rand(5, 1, 6, 5))


def made(**keys: object) -> FixMatchCTA:
    return FixMatchCTA(network=Pixelwise, **keys).train()


def omega(method: FixMatchCTA, image: torch.Tensor, label: torch.Tensor) -> float:
    """1 - 1/2 sum_k |p - y| as the paper writes it, mean over the pixels or over the classes that there are."""
    p = softmax(method.student.numpy(image[None]))[0]
    y = np.eye(K)[label.masked_fill(label == IGNORE, 0).numpy()].transpose(2, 0, 1)
    right = 1 - 0.5 * np.abs(p - y).sum(axis=0)
    if not method.balanced:
        return float(right[(label != IGNORE).numpy()].mean())
    return float(np.mean([right[(label == k).numpy()].mean() for k in label.unique().tolist() if k != IGNORE]))


def test_the_loss_is_that_of_fixmatch_with_the_view_that_it_made(batch):
    method = made(threshold=0.4)
    plain = FixMatch(network=Pixelwise, threshold=0.4).train()
    plain.load_state_dict({k: v for k, v in method.state_dict().items() if k != "rates"})
    torch.manual_seed(5)
    found = losses(copy.deepcopy(method), batch)
    torch.manual_seed(5)  # the same draws again, to know what the student saw
    method.learn(batch)
    kinds = torch.randint(len(OPERATIONS), (2, 5))
    strong = method.cut_out(method.augmented(batch.unlabeled, kinds, method.levels(kinds)))
    assert not torch.equal(strong, batch.unlabeled)
    assert found == losses(plain, batch._replace(strong=(strong,)))


@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("decay", [0.99, 0.5])
def test_learning_is_the_papers_update_image_after_image(batch, decay, balanced):
    method = made(decay=decay, balanced=balanced)
    batch.label[1][batch.label[1] == 2] = 0  # holds two of the three classes, unevenly
    method.rates.uniform_(0.5, 1)
    expected = method.rates.double().numpy().copy()
    torch.manual_seed(5)
    method.learn(batch)
    torch.manual_seed(5)
    kinds, levels = torch.randint(len(OPERATIONS), (2, 4)), torch.rand(2, 4)
    seen = method.augmented(batch.image, kinds, levels)
    bins = (levels * NUM_BINS).long()
    places = [(k, b) for k, b in zip(kinds.flatten().tolist(), bins.flatten().tolist(), strict=True)]
    assert len(set(places)) == len(places)  # no bin is hit twice, so that the order does not matter
    for i in range(3):  # not the one that is ignored
        for place in range(2):
            k, b = kinds[place, i], bins[place, i]
            expected[k, b] = decay * expected[k, b] + (1 - decay) * omega(method, seen[i], batch.label[i])
    np.testing.assert_allclose(method.rates, expected, rtol=1e-6)


def test_a_bin_that_several_images_hit_moves_as_often_towards_their_mean(batch):
    method = made(num_bins=1)  # one bin for each operation
    method.rates.fill_(0.9)
    many = batch._replace(image=batch.image[:1].repeat(600, 1, 1, 1), label=batch.label[:1].repeat(600, 1, 1))
    torch.manual_seed(5)
    method.learn(many)
    torch.manual_seed(5)
    kinds, levels = torch.randint(len(OPERATIONS), (2, 600)), torch.rand(2, 600)
    seen = method.augmented(many.image, kinds, levels)
    value = [omega(method, image, batch.label[0]) for image in seen]
    for k in range(len(OPERATIONS)):
        hits = [value[i] for place in range(2) for i in range(600) if kinds[place, i] == k]
        expected = 0.99 ** len(hits) * 0.9 + (1 - 0.99 ** len(hits)) * np.mean(hits)
        assert method.rates[k].item() == pytest.approx(expected, rel=1e-5)


def test_a_student_that_is_always_right_leaves_the_weights_at_one_and_one_that_is_wrong_lowers_them(batch):
    right, wrong = made(), made()
    for method, k in ((right, 0), (wrong, 1)):
        with torch.no_grad():
            method.student.head.weight.zero_()
            method.student.head.bias.copy_(30 * torch.eye(K)[k])
    zeros = batch._replace(label=torch.zeros_like(batch.label))
    for method in (right, wrong):
        method.learn(zeros)
    torch.testing.assert_close(right.rates, torch.ones_like(right.rates))
    lowered = wrong.rates[wrong.rates != 1]
    assert len(lowered) == 8
    torch.testing.assert_close(lowered, torch.full_like(lowered, 0.99))


def test_bins_below_the_threshold_are_never_drawn_and_the_others_by_their_weight():
    method = made(num_bins=5)
    method.rates[0] = torch.tensor([0.5, 0.9, 1.0, 0.79, 0.85])
    levels = method.levels(torch.zeros(1, 60_000, dtype=torch.int64))[0]
    count = torch.histc(levels, bins=5, min=0, max=1) / len(levels)
    m = np.array([0, 0.91, 1.01, 0, 0.86])  # 0.80 / 1.01 is below 0.8
    np.testing.assert_allclose(count, m / m.sum(), atol=0.01)
    within = (levels * 5) % 1
    assert torch.histc(within, bins=4, min=0, max=1).min() > 14_500  # uniform in the bin
    assert method.weights(HALFWAY)["bins_in_use"] == pytest.approx((11 * 5 + 3) / 60)


def test_the_threshold_is_relative_so_that_one_bin_always_remains():
    method = made()
    method.rates.zero_()
    assert method.m_hat().gt(0).all()
    method.rates[:, 3] = 0.2
    assert method.m_hat().gt(0).sum(dim=1).eq(1).all()
    levels = method.levels(torch.randint(len(OPERATIONS), (2, 50)))
    assert (levels * NUM_BINS).floor().eq(3).all()


def test_levels_run_over_every_operations_range():
    image = torch.rand(3, 3, 9, 8)
    ends = {  # what the lowest and the highest level make of an image; None: anything but the image
        "autocontrast": (image, ph.autocontrast(image, torch.ones(3))),
        "blur": (image, ph.blur(image, torch.full((3,), 2.0))),
        "brightness": (0.1 * image, (2 * image).clamp(max=1)),
        "contrast": (None, None),
        "cutout": (image, None),
        "equalize": (image, ph.equalize(image, torch.ones(3))),
        "invert": (image, 1 - image),
        "posterize": ((image >= 0.5) / 2, image),
        "saturation": (None, None),
        "sharpness": (None, None),
        "smooth": (image, ph.sharpness(image, torch.zeros(3))),
        "solarize": (1 - image, image),
    }
    method = made()
    assert ends.keys() == OPERATIONS.keys()
    for k, (name, expected) in enumerate(ends.items()):
        for level, result in zip((0, 1 - 1e-6), expected, strict=True):
            changed = method.augmented(image, torch.full((1, 3), k), torch.full((1, 3), float(level)))
            if result is None:
                assert not torch.equal(changed, image), name
            else:
                torch.testing.assert_close(changed, result, atol=1e-4, rtol=0, msg=name)


def test_each_image_gets_two_operations_of_its_own(batch):
    image = torch.rand(3, 1, 9, 8)
    kinds = torch.tensor([[2, 6, 6], [6, 2, 6]])  # brightness, invert
    levels = torch.tensor([[0.2, 1, 1], [1, 0.2, 1]])
    dark = 0.1 + 1.9 * 0.2
    expected = torch.stack([1 - dark * image[0], dark * (1 - image[1]), image[2]])
    torch.testing.assert_close(made().augmented(image, kinds, levels), expected)


@pytest.mark.parametrize(("share", "side"), [(0.5, 8), (0.25, 4), (0.0, 0)])
def test_a_grey_square_ends_every_strong_view(share, side, monkeypatch):
    image = torch.full((200, 1, 16, 20), 0.7)
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(FixMatch, "forward", lambda self, phase, batch, progress: seen.append(batch.strong[0]))
    label = torch.zeros(2, 16, 20, dtype=torch.int64)
    method = made(cutout=share)
    monkeypatch.setattr(method, "augmented", lambda image, kinds, levels: image)
    method("segmenter", Batch(image[:2], label, image), HALFWAY)
    (strong,) = seen
    gone = strong[:, 0] == 0.5
    assert torch.equal(strong[:, 0][~gone], image[:, 0][~gone])
    height, width = (gone.any(dim=dim).sum(dim=1) for dim in (2, 1))
    assert torch.equal(gone.sum(dim=(1, 2)), height * width)
    assert (height.max(), width.max()) == (side, side)  # less where it overhangs the border
    assert len(gone.unique(dim=0)) > 100 or not share


def test_the_weights_are_part_of_the_state_and_learning_moves_nothing_else(batch):
    method = made()
    before = copy.deepcopy(method.state_dict())
    method.learn(batch)
    changed = [key for key, value in method.state_dict().items() if not torch.equal(value, before[key])]
    assert changed == ["rates"]
    assert method.training
    assert method.student.training


def test_the_probe_gives_no_gradient_and_nothing_labelled_teaches_nothing(batch):
    method = made()
    nothing = batch._replace(label=torch.full_like(batch.label, IGNORE))
    found = losses(method, nothing)
    assert all(math.isfinite(value) for value in found.values())
    assert method.rates.eq(1).all()
    assert not method.rates.requires_grad


def test_images_outside_zero_to_one_are_refused(batch):
    with pytest.raises(UserError, match="expect images in"):
        made()("segmenter", batch._replace(unlabeled=3 * batch.unlabeled), HALFWAY)


@pytest.mark.parametrize(
    "keys", [{"depth": 0}, {"num_bins": 0}, {"decay": 1.0}, {"bin_threshold": 1.5}, {"threshold": -1}, {"cutout": 1.5}]
)
def test_a_wrong_value_is_refused_by_its_key(keys):
    with pytest.raises(UserError, match=f"method.{next(iter(keys))}"):
        made(**keys)
