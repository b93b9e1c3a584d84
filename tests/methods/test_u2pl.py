"""U2PL against its equations in NumPy."""

import math

import numpy as np
import pytest
import torch
from adversaries import some_batch
from pixelwise import HALFWAY, Pixelwise, entropies, losses, made, numpy_supervised, softmax
from torch import Tensor

from ssl4seg.augment.mixing import cutmix_mask
from ssl4seg.errors import UserError
from ssl4seg.keys import IGNORE
from ssl4seg.methods.parts.projection import Projection, level_at
from ssl4seg.methods.u2pl import U2PL
from ssl4seg.networks.unet import UNet
from ssl4seg.types import Progress

SMALL = {"num_anchors": 3, "num_negatives": 2, "bank_size": 40, "background_bank_size": 50, "num_keys": 40}
SMALL |= {"projection_channels": 4}
START = Progress(0, 100)


def unet(num_classes: int = 3) -> UNet:
    """Its third decoder map has a quarter of the image's side."""
    return UNet(in_channels=1, num_classes=num_classes, channels=(4, 4, 4, 8), dropout=(0, 0, 0, 0))


def small(**keys: object) -> U2PL:
    return U2PL(network=unet, **{**SMALL, **keys}).train()


def pixelwise(**keys: object) -> U2PL:
    """With a teacher that is not its student and doubts some pixels."""
    method = made(U2PL, **{**SMALL, **keys})
    with torch.no_grad():
        for p in method.teacher.parameters():
            p.normal_()
    return method


# -- pseudo-labels ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num", [1, 3])
@pytest.mark.parametrize(("cutmix", "weight"), [(0.0, 1.0), (1.0, 1.0), (1.0, 0.3)])
@pytest.mark.parametrize("step", [50, 90])
def test_the_reliable_pixels_teach_and_their_scarcity_is_made_up_for(batch, num, cutmix, weight, step):
    method = pixelwise(cutmix=cutmix, pseudo_weight=weight, unreliable=0.4)
    batch = batch._replace(unlabeled=batch.unlabeled[:num])
    torch.manual_seed(1)
    box = cutmix_mask(batch.unlabeled).numpy().astype(bool) & (cutmix == 1)
    a, b = batch.unlabeled.numpy(), np.roll(batch.unlabeled.numpy(), 1, axis=0)
    label_a, label_b = (method.teacher.network.numpy(torch.from_numpy(x)).argmax(axis=1) for x in (a, b))
    x_m, y_m = torch.from_numpy(np.where(box, b, a)), np.where(box[:, 0], label_b, label_a)
    h = entropies(method.teacher.network.numpy(x_m))
    share = 0.4 * (1 - step / 100)
    reliable = h <= np.sort(h, axis=None)[round((1 - share) * h.size) - 1]
    assert (~reliable).sum() == round(share * h.size)
    each = -np.log(np.take_along_axis(softmax(method.student.numpy(x_m)), y_m[:, None], axis=1)[:, 0])
    expected = weight * (h.size / reliable.sum()) * each[reliable].mean()
    torch.manual_seed(1)
    found = losses(method, batch, Progress(step, 100))
    assert found["pseudo_label"] == pytest.approx(expected, rel=1e-4)
    assert found["supervised"] == pytest.approx(
        numpy_supervised(method.student.numpy(batch.image), batch.label.numpy()), rel=1e-5
    )


def test_pseudo_labels_are_the_teachers_in_evaluation_mode_and_used_where_the_entropy_ranks_low(batch):
    method = pixelwise(unreliable=0.4)
    found = method.pseudo_labels(batch.unlabeled, HALFWAY)
    z_t = method.teacher.network.numpy(batch.unlabeled)
    np.testing.assert_allclose(found.probability, softmax(z_t), rtol=1e-5)
    assert (~found.used).sum() == 0.2 * found.used.numel()
    assert entropies(z_t)[found.used].max() < entropies(z_t)[~found.used].min()
    assert method.weights(HALFWAY) == pytest.approx({"unreliable_share": 0.2})


def test_the_teacher_labels_in_evaluation_mode_and_then_goes_on_in_training_mode():
    method = small()
    before, image = [value.clone() for value in method.teacher.buffers()], torch.rand(3, 1, 16, 16)
    torch.testing.assert_close(method.label(image)[:1], method.label(image[:1]))
    assert all(torch.equal(now, then) for now, then in zip(method.teacher.buffers(), before, strict=True))
    assert all(module.training for module in method.teacher.modules())


# -- the contrastive loss ---------------------------------------------------------------------------------------------


class Given:
    """Maps of 2 labelled and 3 unlabelled images, and L_c of them in NumPy."""

    def __init__(self, num_classes: int, channels: int = 4, size: tuple[int, int] = (5, 6)) -> None:
        self.num_classes = num_classes
        self.r, self.r_t = torch.randn(5, channels, *size), torch.randn(5, channels, *size)
        self.p_t = (2 * torch.randn(5, num_classes, *size)).softmax(dim=1)
        self.y_l = torch.randint(num_classes, (2, *size))
        self.y_l[:, 0] = IGNORE
        self.y_m = torch.where(torch.rand(3, *size) < 0.3, IGNORE, self.p_t[2:].argmax(dim=1))

    def maps(self) -> tuple[Tensor, ...]:
        return self.r, self.r_t, self.p_t, self.y_l, self.y_m

    def expected(self, method: U2PL, low: int = 3, high: int = 20) -> tuple[float, list[int]]:
        """L_c with the draws of seed 1 and an empty bank before, and the number of negatives of each class."""
        contrast = method.contrast
        torch.manual_seed(1)
        u_key, u_anchor, u_bank = (
            torch.rand(self.num_classes, n).double().numpy()
            for n in (contrast.num_keys, contrast.num_anchors, contrast.num_anchors * contrast.num_negatives)
        )
        del u_key  # all negatives fit
        r, r_t = (x.double().numpy().transpose(0, 2, 3, 1).reshape(-1, 4) for x in (self.r, self.r_t))
        r, r_t = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (r, r_t))
        raw = self.r_t.double().numpy().transpose(0, 2, 3, 1).reshape(-1, 4)
        p = self.p_t.numpy().transpose(0, 2, 3, 1).reshape(-1, self.num_classes)
        y = np.concatenate([self.y_l.numpy().ravel(), self.y_m.numpy().ravel()])
        labelled = np.arange(len(y)) < self.y_l.numel()
        low = min(low, self.num_classes - 1)
        values, counts = [], []
        for c in range(self.num_classes):
            rank = (p > p[:, c : c + 1]).sum(axis=1)
            hard = labelled & (y != c) & (y != IGNORE) & (rank < low)
            unsure = ~labelled & (y == IGNORE) & (rank >= low) & (rank < high)
            anchors, negatives = np.flatnonzero((y == c) & (p[:, c] > 0.3)), np.flatnonzero(hard | unsure)
            counts.append(len(negatives))
            if not len(anchors) or not len(negatives):
                continue
            bank = r_t[negatives].astype(np.float16).astype(float)
            positive = raw[anchors].mean(axis=0)
            a = r[anchors[(u_anchor[c] * len(anchors)).astype(int)]]
            z = bank[(u_bank[c] * len(bank)).astype(int)].reshape(contrast.num_anchors, contrast.num_negatives, 4)
            top = np.exp(a @ positive / np.linalg.norm(positive) / 0.5)
            values.append(-np.log(top / (top + np.exp((a[:, None] * z).sum(axis=2) / 0.5).sum(axis=1))).mean())
        return float(np.mean(values)) if values else 0.0, counts


@pytest.mark.parametrize(
    ("num_classes", "ranks"), [(2, {}), (3, {}), (4, {}), (6, {}), (6, {"low_rank": 1, "high_rank": 3})]
)
def test_anchors_are_pulled_to_their_class_and_pushed_from_its_bank(num_classes, ranks):
    sizes = {"num_keys": 200, "bank_size": 200, "background_bank_size": 200}
    method = U2PL(network=lambda: unet(num_classes), **{**SMALL, **sizes, **ranks})
    given = Given(num_classes)
    expected, counts = given.expected(method, *ranks.values())
    torch.manual_seed(1)
    value = method.contrast(*given.maps(), queue=True)
    assert value.item() == pytest.approx(expected, rel=1e-4)
    assert method.bank.held.tolist() == counts
    assert min(counts) > 0


def test_a_class_without_anchors_or_negatives_is_left_out():
    method = U2PL(network=lambda: unet(4), **{**SMALL, "num_keys": 200, "bank_size": 200, "background_bank_size": 200})
    given = Given(4)
    for y in (given.y_l, given.y_m):
        y[y == 1] = 2  # no anchors
    given.p_t = torch.tensor([0.1, 0.2, 0.3, 0.4]).view(1, 4, 1, 1).expand(5, 4, 5, 6).clone()  # class 2 and 3 alone
    given.p_t[:, :, 0, 0] = torch.tensor([0.1, 0.2, 0.4, 0.3])
    expected, counts = given.expected(method)
    assert expected > 0
    torch.manual_seed(1)
    assert method.contrast(*given.maps(), queue=True).item() == pytest.approx(expected, rel=1e-4)
    assert method.bank.held.tolist() == counts


@pytest.mark.parametrize("lack", ["labels", "bank", "sure pixels"])
def test_without_a_pair_the_loss_is_zero_with_zero_gradient(lack):
    method, given = small(), Given(3)
    if lack == "labels":
        given.y_l.fill_(IGNORE)
        given.y_m.fill_(IGNORE)
    if lack == "sure pixels":
        given.p_t.fill_(0.3)
    given.r.requires_grad_()
    value = method.contrast(*given.maps(), queue=lack != "bank")
    value.backward()
    assert value.item() == 0
    assert given.r.grad.eq(0).all()


def test_labels_and_probabilities_of_a_fine_map_are_read_in_the_middle_of_each_cell():
    given = Given(3)
    fine = [x.repeat_interleave(4, dim=-2).repeat_interleave(4, dim=-1) for x in given.maps()[2:]]
    for x in fine:  # all but the pixel that is read
        keep = torch.zeros(x.shape[-2:], dtype=torch.bool)
        keep[2::4, 2::4] = True
        x[..., ~keep] = x.flatten()[0] if x.is_floating_point() else IGNORE
    values = []
    for p_t, y_l, y_m in (given.maps()[2:], fine):
        method = small()
        torch.manual_seed(1)
        values.append(method.contrast(given.r, given.r_t, p_t, y_l, y_m, queue=True).item())
    assert values[0] == values[1] > 0


# -- the run ----------------------------------------------------------------------------------------------------------


def test_the_first_steps_are_on_labels_alone_and_fill_no_bank():
    method, batch = small(labels_only=0.1), some_batch()
    for step, alone in ((0, True), (9, True), (10, False)):
        found = losses(method, batch, Progress(step, 100))
        assert (found["pseudo_label"] == found["contrastive"] == 0) == alone
        assert (method.bank.held.sum() == 0) == alone
        with torch.no_grad():
            for p in method.parameters_of("segmenter"):
                p.add_(0.01)
        before = method.teacher.network.head.weight.clone()
        method.after_step(Progress(step, 100))
        if step <= 10:  # the average starts with the first step that it is made of
            assert torch.equal(method.teacher.network.head.weight, method.student.head.weight)
            for mine, theirs in zip(
                method.teacher_projection.parameters(), method.projection.parameters(), strict=True
            ):
                assert torch.equal(mine, theirs)
        assert not torch.equal(before, method.student.head.weight)


@pytest.mark.parametrize("num", [1, 3])
@pytest.mark.parametrize("progress", [START, HALFWAY])
@pytest.mark.parametrize("ignored", [False, True])
def test_every_parameter_gets_a_gradient_and_no_teacher_does(num, progress, ignored):
    method, batch = small(), some_batch(labeled=1, unlabeled=num)
    if ignored:
        batch = batch._replace(label=torch.full_like(batch.label, IGNORE))
    found = method("segmenter", batch, progress)
    torch.stack(list(found.values())).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters_of("segmenter"))
    assert all(p.grad is None for p in (*method.teacher.parameters(), *method.teacher_projection.parameters()))


@pytest.mark.parametrize(
    ("term", "projection"), [("supervised", False), ("pseudo_label", False), ("contrastive", True)]
)
def test_only_the_contrastive_term_reaches_the_projection(term, projection):
    method, batch = small(), some_batch()
    method("segmenter", batch, HALFWAY)[term].backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in method.projection.parameters()) == projection
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in method.student.parameters())


def test_the_projection_reads_the_map_nearest_to_a_quarter_of_the_image():
    network = unet()
    assert level_at(network, 1 / 4) == 2
    assert level_at(network, 1) == 0
    assert network.training
    assert level_at(Pixelwise(), 1 / 4) == 0
    method = small()
    image = torch.rand(2, 1, 16, 16)
    z, r = method.look(method.student, method.projection, image)
    assert (z.shape, r.shape) == ((2, 3, 16, 16), (2, 4, 4, 4))
    torch.testing.assert_close(z, method.student(image))
    assert Projection(3, 8)(torch.rand(2, 3, 5, 7)).shape == (2, 8, 5, 7)


@pytest.mark.parametrize("who", ["student", "teacher"])
def test_predict_with_says_which_network_predicts(who):
    method = small(predict_with=who)
    assert method.predictor is (method.student if who == "student" else method.teacher)


@pytest.mark.parametrize(
    "keys",
    [
        *({key: 0} for key in ("num_anchors", "num_negatives", "bank_size", "background_bank_size", "num_keys")),
        *({key: 0} for key in ("projection_channels", "low_rank", "temperature")),
        *({key: 1.0} for key in ("unreliable", "anchor_threshold", "labels_only", "ema_decay")),
        *({key: -1.0} for key in ("pseudo_weight", "contrastive_weight", "cutmix")),
        {"high_rank": 3},
        {"temperature": math.nan},
        {"predict_with": "both"},
    ],
)
def test_a_wrong_value_is_refused_by_its_key(keys):
    with pytest.raises(UserError, match=f"method.{next(iter(keys))}"):
        small(**keys)
