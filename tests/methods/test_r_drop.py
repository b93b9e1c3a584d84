"""R-Drop against its formula in NumPy."""

import numpy as np
import pytest
import torch
from pixelwise import HALFWAY, W_HALFWAY, Pixelwise, losses, numpy_supervised, softmax
from torch import Tensor, nn

from ssl4seg.errors import UserError
from ssl4seg.keys import IGNORE
from ssl4seg.methods.r_drop import RDrop, symmetric_kl
from ssl4seg.networks.unet import UNet


class Shifted(Pixelwise):
    """Adds a constant to the logits of the second half of its batch: a "dropout" that can be written down."""

    shift = torch.tensor([0.5, -1.0, 2.0])

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)  # not used, but it lets the network pass

    def decode(self, features: list[Tensor]) -> Tensor:
        z = super().decode(features)
        half = len(z) // 2
        return torch.cat([z[:half], z[half:] + self.shift[:, None, None]])


def kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return (p * np.log(p / q)).sum(axis=1)


@pytest.mark.parametrize(("labelled", "unlabelled"), [(2, 3), (1, 1)])
def test_loss_is_two_supervised_losses_and_the_mean_of_both_divergences_of_all_images(batch, labelled, unlabelled):
    method = RDrop(network=Shifted)
    image, label, unlabeled = batch.image[:labelled], batch.label[:labelled], batch.unlabeled[:unlabelled]
    found = losses(method, batch._replace(image=image, label=label, unlabeled=unlabeled))
    z_1 = method.student.numpy(torch.cat([image, unlabeled]))
    z_2 = z_1 + Shifted.shift.numpy().reshape(1, -1, 1, 1)
    supervised = sum(numpy_supervised(z[:labelled], label.numpy()) for z in (z_1, z_2))
    assert found["supervised"] == pytest.approx(supervised, rel=1e-5)
    p_1, p_2 = softmax(z_1), softmax(z_2)
    assert found["consistency"] == pytest.approx(10 * W_HALFWAY * (kl(p_1, p_2) + kl(p_2, p_1)).mean() / 2, rel=1e-5)


def test_divergence_sums_over_classes_and_is_symmetric():
    a, b = torch.randn(2, 4, 3, 5), torch.randn(2, 4, 3, 5)
    p, q = (softmax(z.double().numpy()) for z in (a, b))
    np.testing.assert_allclose(symmetric_kl(a, b), (kl(p, q) + kl(q, p)) / 2, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(symmetric_kl(a, b), symmetric_kl(b, a))
    assert symmetric_kl(a, a).eq(0).all()


def test_divergence_of_sure_and_opposite_predictions_has_a_finite_gradient():
    a = torch.tensor([300.0, 0, -300]).view(1, 3, 1, 1).requires_grad_()
    b = torch.tensor([-300.0, 0, 300]).view(1, 3, 1, 1).requires_grad_()
    symmetric_kl(a, b).sum().backward()
    assert a.grad.isfinite().all()
    assert b.grad.isfinite().all()


def tiny(**changes: object) -> UNet:
    return UNet(**{"in_channels": 1, "num_classes": 3, "channels": (4, 8), "dropout": (0, 0), **changes})


@pytest.mark.parametrize(
    ("network", "keys"),
    [(lambda: tiny(dropout=(0.5, 0.5)), {}), (tiny, {"feature_dropout": 0.5})],
    ids=["the network's dropout", "feature dropout"],
)
def test_the_two_passes_of_a_network_with_dropout_differ(batch, network, keys):
    method = RDrop(network=network, **keys).train()
    assert losses(method, batch)["consistency"] > 1e-6
    method.eval()
    assert losses(method, batch)["consistency"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("term", ["supervised", "consistency"])
def test_each_term_reaches_the_student(term, batch):
    method = RDrop(network=lambda: tiny(dropout=(0.5, 0.5))).train()
    method("segmenter", batch, HALFWAY)[term].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.student.parameters())
    assert method.student.head.weight.grad.abs().sum() > 0
    assert method.student.encoder[0][0].weight.grad.abs().sum() > 0


def test_without_a_label_only_the_divergence_is_left(batch):
    found = losses(RDrop(network=Shifted), batch._replace(label=torch.full_like(batch.label, IGNORE)))
    assert found["supervised"] == pytest.approx(0, abs=1e-6)
    assert found["consistency"] > 0


def test_a_network_without_dropout_is_refused_unless_its_features_get_one():
    with pytest.raises(UserError, match="network=UNet: has no dropout"):
        RDrop(network=tiny)
    RDrop(network=tiny, feature_dropout=0.1)


@pytest.mark.parametrize(
    "keys", [{"consistency_weight": -1}, {"rampup_steps": -1}, {"feature_dropout": 1.0}, {"feature_dropout": -0.1}]
)
def test_a_wrong_value_is_refused_by_its_key(keys):
    with pytest.raises(UserError, match=f"method.{next(iter(keys))}"):
        RDrop(network=Shifted, **keys)
