"""S4L against its equations in NumPy."""

import numpy as np
import pytest
import torch
from pixelwise import HALFWAY, K, Pixelwise, losses, made, numpy_supervised
from torch import Tensor

from ssl4seg.errors import UserError
from ssl4seg.keys import IGNORE
from ssl4seg.methods.s4l import S4L, square, turned
from ssl4seg.networks.unet import UNet
from ssl4seg.types import Batch


@pytest.fixture
def batch() -> Batch:
    label = torch.randint(K, (2, 6, 6))
    label[0, 0] = IGNORE
    return Batch(torch.randn(2, 1, 6, 6), label, torch.randn(3, 1, 6, 6))


def same_draw(method: S4L, num: int) -> np.ndarray:
    """The rotations that the next forward draws."""
    state = torch.get_rng_state()
    r = method.draw(num).numpy()
    torch.set_rng_state(state)
    return r


def rotated(image: Tensor, r: np.ndarray, plane: tuple[int, int] = (-2, -1)) -> np.ndarray:
    return np.stack([np.rot90(x, k, plane) for x, k in zip(image.numpy(), r, strict=True)])


@pytest.mark.parametrize("copies", [1, 2, 3])
@pytest.mark.parametrize("num", [1, 3])
def test_the_loss_is_the_papers(batch, copies, num):
    method, batch = made(S4L, turned_copies=copies), batch._replace(unlabeled=batch.unlabeled[:num])
    with torch.no_grad():  # so that a mean over places, which no rotation changes, still gives a loss to compare
        method.rotation_head.bias.copy_(torch.tensor([0.5, -1, 2, 0]))
    everything = torch.cat([batch.image, batch.unlabeled])
    r = same_draw(method, 2 + num)
    weight, bias = (p.detach().double().numpy() for p in method.rotation_head.parameters())
    h = everything.double().numpy().mean(axis=(2, 3)) @ weight.T + bias
    log_p = h - np.log(np.exp(h).sum(axis=1, keepdims=True))
    x_r = torch.from_numpy(np.concatenate([rotated(batch.image, r_i[:2]) for r_i in r[1:]]))
    y_r = np.concatenate([rotated(batch.label, r_i[:2]) for r_i in r[1:]])
    assert losses(method, batch) == pytest.approx(
        {
            "supervised": numpy_supervised(method.student.numpy(batch.image), batch.label.numpy()),
            "turned": 0.1 * numpy_supervised(method.student.numpy(x_r), y_r),
            "rotation": 0.1 * np.mean([-log_p[n, r_i[n]] for r_i in r for n in range(2 + num)]),
        },
        rel=1e-5,
    )


def test_each_image_comes_upright_and_in_other_positions_all_equally_often():
    r = made(S4L, turned_copies=3).draw(50)
    assert torch.equal(r.sort(dim=0).values, torch.arange(4)[:, None].expand(4, 50))
    assert r[0].eq(0).all()
    once = made(S4L).draw(6000)
    assert once.shape == (2, 6000)
    assert [once[1].eq(k).float().mean().item() for k in range(4)] == pytest.approx([0, *[1 / 3] * 3], abs=0.03)


def test_turning_takes_image_and_label_alike():
    x = torch.randint(9, (4, 5, 5))
    r = torch.tensor([0, 1, 2, 3])
    np.testing.assert_array_equal(turned(x, r, 1), rotated(x, r.numpy()))
    assert torch.equal(turned(x[:, None], r, 2)[:, 0], turned(x, r, 1))


def test_volumes_are_turned_in_the_plane_of_their_first_two_axes():
    x = torch.randint(9, (4, 5, 5, 3))
    r = torch.tensor([0, 1, 2, 3])
    np.testing.assert_array_equal(turned(x, r, 1), rotated(x, r.numpy(), (0, 1)))
    assert torch.equal(turned(x[:, None], r, 2)[:, 0], turned(x, r, 1))
    for level in range(3):
        assert torch.equal(turned(x, r, 1)[..., level], turned(x[..., level], r, 1))


@pytest.mark.parametrize(("size", "kept"), [((4, 7, 9), (4, 4, 9)), ((6, 4, 2), (4, 4, 2)), ((5, 5, 3), (5, 5, 3))])
def test_of_volumes_the_third_axis_is_kept_whole(size, kept):
    x = torch.randn(2, 3, *size)
    rows, columns = (slice((n - k) // 2, (n - k) // 2 + k) for n, k in zip(size[:2], kept[:2], strict=True))
    assert torch.equal(square(x, 2), x[:, :, rows, columns])
    assert square(x[:, 0], 1).shape == (2, *kept)


@pytest.mark.parametrize(
    ("size", "rows", "columns"), [((4, 4), (0, 4), (0, 4)), ((4, 7), (0, 4), (1, 5)), ((6, 4), (1, 5), (0, 4))]
)
def test_of_other_images_the_square_in_the_middle_is_taken(size, rows, columns):
    x = torch.randn(2, 3, *size)
    assert torch.equal(square(x, 2), x[:, :, slice(*rows), slice(*columns)])


def test_images_that_are_not_square_work(batch):
    wide = Batch(torch.randn(2, 1, 4, 7), torch.randint(K, (2, 4, 7)), torch.randn(3, 1, 4, 7))
    assert all(np.isfinite(value) for value in losses(made(S4L), wide).values())


def test_the_rotation_term_reaches_the_encoder_and_its_head_alone(batch):
    method = S4L(network=lambda: UNet(in_channels=1, num_classes=K, channels=(4, 8), dropout=(0, 0))).train()
    method("segmenter", batch, HALFWAY)["rotation"].backward()
    assert all(p.grad.abs().sum() > 0 for p in method.rotation_head.parameters())
    assert method.student.encoder[0][0].weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in [*method.student.decoder.parameters(), *method.student.head.parameters()])
    assert set(method.parameters_of("segmenter")) == set(method.parameters())


@pytest.mark.parametrize("term", ["supervised", "turned"])
def test_the_supervised_terms_never_reach_the_rotation_head(batch, term):
    method = made(S4L)
    method("segmenter", batch, HALFWAY)[term].backward()
    assert all(p.grad is None for p in method.rotation_head.parameters())
    assert all(p.grad.abs().sum() > 0 for p in method.student.parameters())


def test_nothing_labelled_leaves_the_rotation(batch):
    told = losses(made(S4L), batch._replace(label=torch.full_like(batch.label, IGNORE)))
    assert (told["supervised"], told["turned"]) == (0, 0)
    assert told["rotation"] > 0


def test_rotations_are_learned_from_images_that_have_an_upright():
    method = S4L(network=lambda: UNet(in_channels=1, num_classes=2, channels=(4, 8), dropout=(0, 0))).train()
    optimizer = torch.optim.Adam(method.parameters(), 0.02)
    ramp = torch.linspace(0, 1, 8).view(1, 1, 8, 1).expand(4, 1, 8, 8)  # dark above, bright below
    batch = Batch(ramp, torch.zeros(4, 8, 8, dtype=torch.int64), ramp)
    for _ in range(40):
        told = method("segmenter", batch, HALFWAY)
        optimizer.zero_grad()
        torch.stack(list(told.values())).sum().backward()
        optimizer.step()
    assert told["rotation"].item() < 0.01  # 0.124 for the frequencies 1/2, 1/6, 1/6, 1/6 alone


@pytest.mark.parametrize(
    "keys", [{"turned_copies": 0}, {"turned_copies": 4}, {"turned_weight": -0.1}, {"rotation_weight": -1}]
)
def test_a_wrong_value_is_refused_by_its_key(keys):
    with pytest.raises(UserError, match=f"method.{next(iter(keys))}"):
        S4L(network=Pixelwise, **keys)
