"""CrossMatch against its objective in NumPy."""

import numpy as np
import pytest
import torch
from pixelwise import HALFWAY, K, Pixelwise, losses, made, numpy_dice, numpy_supervised, softmax
from torch import Tensor

from ssl4seg.augment.mixing import cutmix_boxes
from ssl4seg.errors import UserError
from ssl4seg.keys import IGNORE
from ssl4seg.methods.crossmatch import CrossMatch
from ssl4seg.types import Batch

DROPOUTS = (0.25, 0.75)


@pytest.fixture
def views() -> Batch:
    image, unlabeled = torch.randn(2, 1, 12, 10), 3 * torch.randn(3, 1, 12, 10)
    strong = tuple(unlabeled + torch.randn_like(unlabeled) for _ in range(2))
    return Batch(image, torch.randint(K, (2, 12, 10)), unlabeled, strong)


def sharpened(**keys: object) -> CrossMatch:
    """With weights that make it confident in some pixels."""
    method = made(CrossMatch, **keys)
    with torch.no_grad():
        method.student.head.weight.mul_(4)
    return method


def target(z: np.ndarray, threshold: float) -> np.ndarray:
    p = softmax(z)
    return np.where(p.max(axis=1) >= threshold, p.argmax(axis=1), IGNORE)


def drawn_factors() -> list[Tensor]:
    """Of the one channel of each image in the weak and the strong decoding."""
    return [(torch.rand(3, 1) >= p).float()[..., None, None] / (1 - p) for p in DROPOUTS]


@pytest.mark.parametrize(("d", "e"), [(0.5, 0.3), (1.0, 0.0), (2.0, 1.0)])
def test_decodings_learn_from_the_whole_one_and_from_the_other_view_with_boxes(views, d, e):
    method = sharpened(threshold=0.6, cutmix=1.0, distillation_weight=d, mutual=e)
    torch.manual_seed(5)
    factors = drawn_factors()
    box_1, box_2 = (cutmix_boxes(view, 1.0).numpy().astype(bool) for view in views.strong)
    factors_2 = drawn_factors()
    assert len(np.unique(torch.stack(factors + factors_2))) > 2

    def decoded(image: Tensor, factors: list[Tensor]) -> list[np.ndarray]:
        return [method.student.numpy(image * f) for f in (torch.ones(3, 1, 1, 1), *factors)]

    def boxed(maps: np.ndarray, box: np.ndarray) -> np.ndarray:
        return np.where(box, np.roll(maps, 1, axis=0), maps)

    z = decoded(views.unlabeled, factors)
    y = [target(each, 0.6) for each in z]
    x_1, x_2 = (
        torch.from_numpy(boxed(view.numpy(), box)) for view, box in zip(views.strong, (box_1, box_2), strict=True)
    )
    y_1, y_2 = boxed(y[0], box_1[:, 0]), [boxed(each, box_2[:, 0]) for each in y]
    z_1, z_2 = method.student.numpy(x_1), decoded(x_2, factors_2)
    from_whole = [numpy_dice(z[p], y[0]) for p in (1, 2)] + [numpy_dice(z_2[p], y_2[0]) for p in (1, 2)]
    from_same = [numpy_dice(z_2[p], y_2[p]) for p in (1, 2)]
    expected = {
        "supervised": numpy_supervised(method.student.numpy(views.image), views.label.numpy()) / 2,
        "strong": (numpy_dice(z_1, y_1) + numpy_dice(z_2[0], y_2[0])) / 8,
        "distillation": d * ((1 - e) * sum(from_whole) / 4 + e * sum(from_same) / 2) / 2,
    }
    torch.manual_seed(5)
    assert losses(method, views) == pytest.approx(expected, rel=1e-4)


def test_targets_have_no_gradient(views):
    """The gradient in the whole decoding's weight is that of the other decodings: with all channels dropped, none."""
    method = sharpened(threshold=0.0, cutmix=0.0, weak_dropout=0.0, strong_dropout=0.0)
    method("segmenter", views, HALFWAY)["distillation"].backward()
    found = method.student.head.weight.grad.clone()
    method.zero_grad()
    y = torch.from_numpy(target(method.student.numpy(views.unlabeled), 0.0))
    z = [method.student(x) for x in (views.unlabeled, views.strong[1])]
    (0.25 * sum(method.unlabeled_loss(each, y) * w for each, w in zip(z, (0.35, 0.65), strict=True))).backward()
    torch.testing.assert_close(found, method.student.head.weight.grad)


def test_without_a_confident_pixel_the_terms_are_zero_with_zero_gradient(views):
    method = made(CrossMatch, threshold=0.99999)
    with torch.no_grad():
        method.student.head.weight.zero_()
    found = method("segmenter", views, HALFWAY)
    (found["strong"] + found["distillation"]).backward()
    assert found["strong"].item() == pytest.approx(0, abs=1e-6)
    assert found["distillation"].item() == pytest.approx(0, abs=1e-6)
    assert all(p.grad.eq(0).all() for p in method.student.parameters())


@pytest.mark.parametrize(
    "keys",
    [
        {"weak_dropout": 1.0},
        {"strong_dropout": -0.1},
        {"distillation_weight": -1.0},
        {"mutual": 1.1},
        {"threshold": 1.0},
        {"loss": "mse"},
        {"cutmix": 2.0},
    ],
)
def test_a_wrong_value_is_refused_by_its_key(keys):
    with pytest.raises(UserError, match=f"method.{next(iter(keys))}"):
        CrossMatch(network=Pixelwise, **keys)
