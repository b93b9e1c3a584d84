"""ICT against its formula in NumPy."""

import math

import numpy as np
import pytest
import torch
from pixelwise import HALFWAY, W_HALFWAY, Pixelwise, losses, made, numpy_supervised, softmax

from ssl4seg.augment.mixing import mixup_shares
from ssl4seg.errors import UserError
from ssl4seg.keys import IGNORE
from ssl4seg.methods.ict import ICT


def expected(method, batch, share: np.ndarray) -> float:
    """w mean[(p_s(mix(u_1, u_2)) - mix(p_t(u_1), p_t(u_2)))^2] with the share of u_2."""
    u_1 = batch.unlabeled.double().numpy()
    u_2 = np.roll(u_1, 1, axis=0)
    p_1, p_2 = (softmax(method.teacher.network.numpy(torch.from_numpy(u))) for u in (u_1, u_2))
    p_s = softmax(method.student.numpy(torch.from_numpy((1 - share) * u_1 + share * u_2)))
    return W_HALFWAY * ((p_s - (1 - share) * p_1 - share * p_2) ** 2).mean()


@pytest.mark.parametrize("num", [1, 2, 3])
@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_loss_compares_the_mixed_image_with_the_mixed_teacher(batch, num, alpha):
    method = made(ICT, alpha=alpha)
    batch = batch._replace(unlabeled=batch.unlabeled[:num])
    torch.manual_seed(1)
    found = losses(method, batch)
    torch.manual_seed(1)
    share = mixup_shares(batch.unlabeled, alpha).double().numpy()
    assert share.shape == (num, 1, 1, 1)
    assert found["consistency"] == pytest.approx(expected(method, batch, share), rel=1e-5)
    supervised = numpy_supervised(method.student.numpy(batch.image), batch.label.numpy())
    assert found["supervised"] == pytest.approx(supervised, rel=1e-5)


def test_the_teacher_sees_the_images_without_noise(batch):
    method = made(ICT)
    seen = []
    method.teacher.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    losses(method, batch)
    assert len(seen) == 1
    assert torch.equal(seen[0], batch.unlabeled)


@pytest.mark.parametrize("term", ["supervised", "consistency"])
def test_each_term_reaches_the_student_and_never_the_teacher(term, batch):
    method = made(ICT)
    method("segmenter", batch, HALFWAY)[term].backward()
    assert all(p.grad.abs().sum() > 0 for p in method.student.parameters())
    assert all(p.grad is None and not p.requires_grad for p in method.teacher.parameters())


def test_without_a_label_only_the_consistency_is_left(batch):
    found = losses(made(ICT), batch._replace(label=torch.full_like(batch.label, IGNORE)))
    assert found["supervised"] == pytest.approx(0, abs=1e-6)
    assert found["consistency"] > 0


def test_pseudo_labels_are_the_teachers_probabilities_of_every_pixel(batch):
    method = made(ICT)
    probability, used = method.pseudo_labels(batch.unlabeled, HALFWAY)
    np.testing.assert_allclose(probability, softmax(method.teacher.network.numpy(batch.unlabeled)), rtol=1e-5)
    assert used.all()


@pytest.mark.parametrize("keys", [{"alpha": 0.0}, {"alpha": math.inf}, {"alpha": math.nan}, {"ema_decay": 1.0}])
def test_a_wrong_value_is_refused_by_its_key(keys):
    with pytest.raises(UserError, match=f"method.{next(iter(keys))}"):
        ICT(network=Pixelwise, **keys)
