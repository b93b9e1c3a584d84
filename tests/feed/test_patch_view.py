"""Patches of volumes against NumPy's own slicing, turning and flipping, and volumes of one slice against the slice."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from torch import Generator, Tensor

from ssl4seg.data.case import Case, Volume
from ssl4seg.errors import UserError
from ssl4seg.feed.batches import Batches
from ssl4seg.feed.store import Raw, Store, packed
from ssl4seg.feed.views import CropView, PatchView, View, WeakView, boxes, moved, sample
from ssl4seg.keys import IGNORE


def gen(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def raw_of(*images: Tensor) -> Raw:
    """Volumes [X, Y, Z], their labels the images in tenths."""
    return packed([image[None] for image in images], [(image * 10).to(torch.uint8) for image in images])


def shown(view: View, raw: Raw, shape: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor]:
    return sample(raw, view.thetas(raw.size, gen(seed)), shape, view.fill_label, mirror=view.mirror)


def windows(image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """All patches of an image."""
    return np.lib.stride_tricks.sliding_window_view(image, shape).reshape(-1, *shape)


def is_among(patch: Tensor, patches: np.ndarray) -> bool:
    return bool((np.abs(patches - patch.numpy()).reshape(len(patches), -1).max(axis=1) < 1e-4).any())


@given(shape=st.tuples(*[st.integers(4, 9)] * 3), size=st.tuples(*[st.integers(1, 4)] * 3), seed=st.integers(0, 99))
def test_a_patch_is_cut_out_voxel_by_voxel(shape, size, seed):
    raw = raw_of(torch.rand(shape, generator=gen(seed)))
    image, label = shown(PatchView(size=size, flips=(), turns=()), raw, size, seed)
    assert is_among(image[0, 0], windows(raw.image[0, 0].numpy(), size))
    inside = (image[0, 0] * 10 % 1 - 0.5).abs() < 0.499  # where rounding cannot change the label
    assert torch.equal(label[0][inside], (image[0, 0] * 10).long()[inside])


def test_patches_lie_everywhere_alike():
    raw = raw_of(torch.arange(6.0)[:, None, None].expand(6, 3, 3) / 6)
    image, _ = shown(
        PatchView(size=(3, 3, 3), flips=(), turns=()),
        Raw(*(t.repeat(2000, *(1,) * (t.ndim - 1)) for t in raw)),
        (3, 3, 3),
    )
    starts = (image[:, 0, 0, 0, 0] * 6).round()
    assert [starts.eq(k).float().mean().item() for k in range(4)] == pytest.approx([1 / 4] * 4, abs=0.05)


@pytest.mark.parametrize("view", [PatchView(size=(4, 4, 3), flips=(0, 2), turns=((0, 1),))])
def test_turns_and_flips_are_numpys_and_all_of_them_come(view):
    image = torch.rand(4, 4, 3, generator=gen())
    ways = [
        np.flip(np.rot90(image.numpy(), k, (0, 1)), axes)
        for k in range(4)
        for axes in itertools.chain.from_iterable(itertools.combinations((0, 2), n) for n in range(3))
    ]
    raw = raw_of(image)
    found = {
        next((i for i, way in enumerate(ways) if np.allclose(way, patch, atol=1e-4)), None)
        for patch in shown(view, Raw(*(t.repeat(200, *(1,) * (t.ndim - 1)) for t in raw)), (4, 4, 3))[0][:, 0].numpy()
    }
    assert found == set(range(len(ways)))


def test_a_turned_patch_of_unequal_sides_keeps_the_resolution():
    raw = raw_of(torch.rand(8, 8, 8, generator=gen()))
    patches = np.concatenate(
        [windows(np.rot90(raw.image[0, 0].numpy(), k, (0, 2)).copy(), (4, 3, 2)) for k in range(4)]
    )
    view = PatchView(size=(4, 3, 2), flips=(), turns=((0, 2),))
    assert all(is_among(shown(view, raw, (4, 3, 2), seed)[0][0, 0], patches) for seed in range(12))


@pytest.mark.parametrize(("mirror", "beyond"), [(False, 0.0), (True, 1.0)])
def test_a_volume_shorter_than_the_patch_lies_in_its_middle(mirror, beyond):
    view = PatchView(size=(4, 4, 5), flips=(), turns=(), mirror=mirror, fill_label=IGNORE)
    image, label = shown(view, raw_of(torch.ones(4, 4, 3)), (4, 4, 5))
    torch.testing.assert_close(image[0, 0, 0, 0], torch.tensor([beyond, 1, 1, 1, beyond]))
    assert label[0, 0, 0].tolist() == [IGNORE, 10, 10, 10, IGNORE]


def test_only_the_part_that_a_patch_shows_is_read():
    size = torch.full((50, 3), 40.0)
    view = PatchView(size=(8, 8, 6), turns=((0, 1),), flips=(2,), scale=(0.8, 1.25))
    theta = view.thetas(size, gen())
    for box in boxes(theta, size):
        assert all(high - low <= bound for low, high, bound in zip(*box, (14, 14, 11), strict=True))
    raw = raw_of(*torch.rand(50, 40, 40, 40, generator=gen()))
    parts = boxes(theta, size)
    cut = packed(
        [raw.image[i][:, *box.slices] for i, box in enumerate(parts)],
        [raw.label[i][box.slices] for i, box in enumerate(parts)],
    )
    whole, again = sample(raw, theta, (8, 8, 6))[0], sample(cut, moved(theta, size, parts), (8, 8, 6))[0]
    torch.testing.assert_close(whole, again, atol=1e-3, rtol=0)


# -- rotation and zoom ------------------------------------------------------------------------------------------------


def angle_of(seed: int) -> float:
    """Degrees in +-20 that a view of one image, without turns and flips, draws: its second random number."""
    return float(2 * torch.rand((3, 1), generator=gen(seed))[1] - 1) * 20


@pytest.mark.parametrize("seed", range(4))
def test_a_small_rotation_is_scipys_in_the_plane_of_the_first_two_axes_of_image_and_mask(seed):
    raw = raw_of(torch.rand(12, 9, 4, generator=gen(seed)))
    view = PatchView(size=(12, 9, 4), flips=(), turns=(), rotate=1.0, max_angle=20)
    image, label = shown(view, raw, (12, 9, 4), seed)
    keys = {"angle": angle_of(seed), "axes": (0, 1), "reshape": False}
    assert 2 < abs(keys["angle"]) < 20
    inner = (slice(3, 9), slice(3, 6))  # of which no corner leaves the image
    expected = ndimage.rotate(raw.image[0, 0].double().numpy(), order=1, **keys)
    np.testing.assert_allclose(image[0, 0][inner], expected[inner], atol=1e-5)
    assert np.abs(expected - raw.image[0, 0].numpy())[inner].max() > 0.1
    mask = ndimage.rotate(raw.label[0].numpy(), order=0, **keys)
    np.testing.assert_array_equal(label[0][inner], mask[inner])


def test_rotations_are_uniform_in_both_directions_and_as_many_as_asked_for():
    view = PatchView(size=(4, 4, 4), flips=(), turns=(), rotate=0.25, max_angle=20)
    theta = view.thetas(torch.full((4000, 3), 8.0), gen())
    angle = torch.rad2deg(torch.atan2(theta[:, 2, 1], theta[:, 1, 1]))
    assert theta[:, 0, 0].eq(2).all()  # the third axis stays
    assert theta[:, 0, 1:3].eq(0).all()
    assert angle.ne(0).float().mean().item() == pytest.approx(0.25, abs=0.03)
    quarters = torch.histc(angle[angle != 0], 4, min=-20, max=20) / angle.ne(0).sum()
    assert quarters.tolist() == pytest.approx([0.25] * 4, abs=0.06)


@pytest.mark.parametrize(("zoom", "size"), [(1.5, (12, 9, 6)), (0.5, (4, 3, 2)), (2.0, (16, 12, 8))])
def test_a_zoom_is_a_trilinear_resize_and_nearest_for_the_mask(zoom, size):
    raw = raw_of(torch.rand(8, 6, 4, generator=gen()))
    image, label = shown(PatchView(size=size, flips=(), turns=(), scale=(zoom, zoom)), raw, size)
    expected = F.interpolate(raw.image, size=size, mode="trilinear", align_corners=False)
    torch.testing.assert_close(image, expected, atol=1e-5, rtol=0)
    mask = F.interpolate(raw.label[None].float(), size=size, mode="nearest-exact")[0].long()
    assert torch.equal(label, mask)


@pytest.mark.parametrize("seed", range(4))
def test_turn_flip_rotation_and_zoom_are_one_sampling_of_image_and_mask(seed):
    """An image that holds each voxel's own place shows where a patch was sampled: linear sampling is exact in it."""
    place = torch.stack(torch.meshgrid(*(torch.arange(6.0),) * 3, indexing="ij"))
    number = torch.arange(216, dtype=torch.uint8).view(6, 6, 6)
    view = PatchView(
        size=(6, 6, 6), flips=(0, 2), turns=((0, 2),), rotate=1.0, max_angle=20, scale=(1.5, 2.5), fill_label=IGNORE
    )
    image, label = shown(view, packed([place], [number]), (6, 6, 6), seed)
    at = image[0].double()
    shown_whole = ((at > 0.1) & (at < 4.9)).all(dim=0) & (label[0] != IGNORE)
    apart = ((at % 1 - 0.5).abs() > 1e-3).all(dim=0)  # where rounding cannot change the nearest voxel
    rows, columns, levels = at.round().long()
    assert (shown_whole & apart).sum() > 60
    assert torch.equal(label[0][shown_whole & apart], (36 * rows + 6 * columns + levels)[shown_whole & apart])
    middle = at[:, 2:4, 2:4, 2:4]
    steps = torch.stack([middle.diff(dim=axis).mean(dim=(1, 2, 3)) for axis in (1, 2, 3)])
    zoom = 1 / steps[0].norm()
    assert 1.5 <= zoom <= 2.5
    torch.testing.assert_close(steps @ steps.T * zoom**2, torch.eye(3).double(), atol=1e-4, rtol=0)  # no shear


# -- foreground -------------------------------------------------------------------------------------------------------


def a_case(label: np.ndarray) -> Case:
    volume = Volume(np.where(label, 1, 0).astype(np.float32)[None, None], label[None])
    return Case(name="a", group="a", num_images=1, size=label.shape, labeled=True, read=lambda: volume)


def batches(label: np.ndarray, foreground: float, size: tuple[int, ...] = (3, 3, 3)) -> Batches:
    store = Store([a_case(label)], num_classes=3, labels=True, device="cpu")
    view = PatchView(size=size, foreground=foreground, flips=(0, 1, 2), turns=())
    keys = {"sizes": (60, 2), "shape": size, "weak": view, "strong": [], "num_strong": 0, "seed": 0}
    return Batches(store, store, device=torch.device("cpu"), **keys)


def test_a_share_of_the_labelled_patches_is_centred_on_a_voxel_of_a_class_and_classes_come_alike():
    label = np.zeros((30, 30, 30), np.uint8)
    label[3, 4, 5], label[20:24, 20:24, 20:24] = 1, 2
    centres = torch.cat([batches(label, 0.5)(step).label[:, 1, 1, 1] for step in range(10)])
    shares = [centres.eq(k).float().mean().item() for k in range(3)]
    assert shares == pytest.approx([0.5, 0.25, 0.25], abs=0.05)


def test_patches_centred_at_the_edge_stay_inside():
    label = np.zeros((9, 9, 9), np.uint8)
    label[0, 8, 4] = 1
    shown = batches(label, 1.0)(0)
    assert shown.label.eq(1).flatten(1).sum(dim=1).eq(1).all()
    assert torch.equal(shown.image[:, 0].round().long(), shown.label)


def test_the_share_of_unlabelled_patches_does_not_know_the_masks():
    label = np.zeros((30, 30, 30), np.uint8)
    label[3, 4, 5] = 1
    torch.testing.assert_close(batches(label, 1.0)(0).unlabeled, batches(label, 0.0)(0).unlabeled)


def test_an_image_of_background_alone_is_cut_anywhere():
    assert batches(np.zeros((9, 9, 9), np.uint8), 1.0)(0).label.eq(0).all()


# -- slices and volumes -----------------------------------------------------------------------------------------------


@given(height=st.integers(1, 30), width=st.integers(1, 30), seed=st.integers(0, 99))
def test_a_volume_of_one_slice_is_seen_as_the_slice_is(height, width, seed):
    picture = torch.rand(height, width, generator=gen(seed))
    view = WeakView(rot90_flip=0.5, rotate=1, max_angle=20, scale=(0.5, 2))
    flat = packed([picture[None]], [(picture * 10).to(torch.uint8)])
    image, label = shown(view, flat, (16, 16), seed)
    volume, mask = shown(view, raw_of(picture[..., None]), (16, 16, 1), seed)
    torch.testing.assert_close(volume[..., 0], image, atol=1e-5, rtol=1e-5)
    assert torch.equal(mask[..., 0], label)


def test_a_volume_is_fitted_whole_and_its_third_axis_is_not_turned():
    view = WeakView(rot90_flip=1, rotate=0, max_angle=0)
    column = torch.arange(8.0) / 8
    image, _ = shown(view, raw_of(*[column.expand(8, 8, 8)] * 20), (8, 8, 8))
    torch.testing.assert_close(image, column.expand(20, 1, 8, 8, 8), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"size": [16]}, "views.weak.size"),
        ({"flips": [3]}, "views.weak.flips"),
        ({"turns": [0, 1]}, "views.weak.turns"),
        ({"turns": [[1, 1]]}, "views.weak.turns"),
        ({"foreground": 1.5}, "views.weak.foreground"),
        ({"mirror": 1}, "views.weak.mirror"),
    ],
)
def test_a_wrong_value_is_refused_by_its_key(keys, named):
    with pytest.raises(UserError, match=named):
        PatchView(**{"size": (8, 8, 8), **keys})


def test_the_crop_of_natural_images_is_of_two_axes():
    with pytest.raises(UserError, match=r"views\.weak\.side=\[8, 8, 8\]: expected a whole number"):
        CropView(side=[8, 8, 8], scale=(1, 1), flip=0)
