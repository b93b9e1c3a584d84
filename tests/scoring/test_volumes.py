"""Inference, metrics, post-processing and pictures of volumes, against hand-made averages and medpy."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from medpy.metric.binary import asd, dc, hd95, jc
from torch import Generator, Tensor

from ssl4seg.data.dataset import Dataset
from ssl4seg.errors import UserError
from ssl4seg.scoring.inference import PLACES, Resized, Sliding, Whole, literal_windows
from ssl4seg.scoring.metrics import score_classes
from ssl4seg.scoring.pictures import overlay, palette, planes
from ssl4seg.scoring.postprocess.base import Given
from ssl4seg.scoring.postprocess.crf import DenseCRF
from ssl4seg.scoring.postprocess.regions import LargestComponent
from ssl4seg.scoring.postprocess.superpixels import Superpixels
from ssl4seg.scoring.predictor import Measures, Predictor, table_of
from ssl4seg.scoring.tables import CaseTable


def volume(*shape: int) -> Tensor:
    return torch.rand(1, 2, *shape, generator=Generator().manual_seed(0))


def test_windows_lie_at_the_strides_and_end_at_the_edge():
    places = Sliding(shape=(112, 112, 80), stride=(18, 18, 4)).places((130, 112, 85))
    starts = [sorted({place[axis].start for place in places}) for axis in range(3)]
    assert starts == [[0, 18], [0], [0, 4, 5]]
    assert len(places) == 6


def test_probabilities_of_windows_are_averaged_by_hand():
    """A network that says more the further the window lies along x shows which windows a voxel was averaged over."""
    image = torch.arange(6.0).view(1, 1, 6, 1, 1).expand(1, 2, 6, 4, 4)
    network = lambda x: torch.cat([x[:, :1] * 0, x[:, :1, :1].expand(-1, 1, *x.shape[2:])], dim=1)  # noqa: E731
    way = Sliding(shape=(4, 4, 4), window=None, stride=1, average="probabilities")
    p = way(network, image)[0, 1, :, 0, 0]
    first = torch.tensor([0.0, 1.0, 2.0]).sigmoid()  # of the windows that start at 0, 1 and 2
    expected = [first[0], first[:2].mean(), first.mean(), first.mean(), first[1:].mean(), first[2]]
    torch.testing.assert_close(p, torch.stack(expected))
    assert way.averages


def test_gaussian_weights_favour_the_middle_and_sum_to_one():
    image = volume(20, 18, 16)
    way = Sliding(shape=(16, 16, 16), stride=4, weights="gaussian")
    torch.testing.assert_close(way(lambda x: x, image), image)
    weight = way._weight((16, 16, 16), image)
    assert weight[7, 7, 7] > 0.9 * weight.max()
    assert weight[0, 0, 0] == pytest.approx(1e-3 * weight.max())
    ratio = np.exp(-((7.5 - 4) ** 2 - 0.5**2) / 2 / 2**2)
    assert weight[4, 7, 7] / weight[7, 7, 7] == pytest.approx(ratio, rel=1e-5)


def test_a_volume_smaller_than_the_window_is_filled_up_on_both_sides():
    seen = []
    image = volume(10, 20, 13)
    scores = Sliding(shape=(16, 16, 16), pad=True)(lambda x: seen.append(x) or x, image)
    assert scores.shape == image.shape
    torch.testing.assert_close(scores, image)
    assert all(x.shape[2:] == (16, 16, 16) for x in seen)
    assert torch.equal(seen[0][0, :, 3:13, :, 1:14], image[0, :, :, :16])
    assert seen[0][0, :, :3].eq(0).all()


def test_resized_and_whole_are_trilinear():
    image = volume(10, 12, 8)
    seen = []
    scores = Resized(shape=(16, 16, 16))(lambda x: seen.append(x) or x, image)
    expected = F.interpolate(image, size=(16, 16, 16), mode="trilinear", align_corners=False)
    torch.testing.assert_close(seen[0], expected)
    torch.testing.assert_close(scores, F.interpolate(expected, size=(10, 12, 8), mode="trilinear", align_corners=False))
    assert torch.equal(Whole(shape=(16, 16, 16))(lambda x: x, image), image)
    flipped = Whole(shape=(16, 16, 16), flip=True)(lambda x: x.cumsum(3), image)
    both = (image.cumsum(3).softmax(1) + image.flip(3).cumsum(3).flip(3).softmax(1)) / 2
    torch.testing.assert_close(flipped, both)


def test_all_three_axes_of_a_volume_may_be_mirrored():
    """A network that asks for the place of a voxel: of eight passes it is that of the middle of the axis."""
    image = volume(6, 8, 10)
    place = torch.arange(10.0).log().clamp(min=-9).expand(1, 1, 6, 8, 10)
    logits = torch.cat([place, torch.zeros_like(place)], dim=1)
    seen = []
    scores = Whole(shape=(16, 16, 16), flip=[0, 1, 2])(lambda x: seen.append(x) or logits, image)
    assert {tuple(a for a in (2, 3, 4) if torch.equal(x, image.flip(a))) for x in seen} >= {(2,), (3,), (4,)}
    assert len({x.numpy().tobytes() for x in seen}) == 8
    p = logits.softmax(1)
    torch.testing.assert_close(scores, (p + p.flip(4)) / 2)


@pytest.mark.parametrize(
    ("accumulate_on", "free", "device", "expected"),
    [
        ("auto", 16001, "cuda", "cuda"),  # 2 x 10 x 10 x 10 sums of 4 bytes, twice
        ("auto", 16000, "cuda", "cpu"),
        ("auto", None, "cpu", "cpu"),
        ("device", None, "cuda", "cuda"),
        ("device", None, "cpu", "cpu"),
        ("cpu", None, "cuda", "cpu"),
    ],
)
def test_sums_are_held_on_the_device_that_has_room_for_two_copies_or_where_asked_for(
    accumulate_on, free, device, expected, monkeypatch
):
    asked = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda place: asked.append(place) or (free, 2**40))
    way = Sliding(shape=(16, 16, 16), accumulate_on=accumulate_on)
    assert way._place((1, 2, 10, 10, 10), torch.device(device)) == torch.device(expected)
    assert asked == ([] if free is None else [torch.device("cuda")])  # no other way waits for the driver


@pytest.mark.parametrize(
    "keys", [{"window": [96, 96]}, {"stride": 0}, {"average": "labels"}, {"weights": "flat"}, {"pad": 1}]
)
def test_a_wrong_key_is_refused(keys):
    (key,) = keys
    with pytest.raises(UserError, match=rf"inference\.{key}"):
        Sliding(shape=(96, 96, 96), **keys)


def predictor(**keys) -> Predictor:
    predict = lambda x: torch.cat([1 - x[:, :1], x[:, :1]], dim=1)  # noqa: E731
    return Predictor(predict=predict, inference=Whole(shape=(16, 16, 16)), device=torch.device("cpu"), **keys)


def test_a_volume_is_predicted_whole():
    image = volume(9, 10, 11)[:, :1].numpy()
    assert np.array_equal(predictor()(image), (image[:, 0] > 0.5).astype(np.uint8))


def test_the_protocol_of_slices_is_refused():
    with pytest.raises(UserError, match="protocol=ssl4mis resizes slices"):
        predictor(protocol="ssl4mis")


def by_loops(network, image: np.ndarray, patch: tuple[int, ...], stride: tuple[int, ...]) -> np.ndarray:
    """The labels [X, Y, Z] of an image [X, Y, Z] as the literature on LA finds them, one window after the other."""
    missing = [max(p - n, 0) for p, n in zip(patch, image.shape, strict=True)]
    padded = np.pad(image, [(m // 2, m - m // 2) for m in missing])
    counts = [math.ceil((n - p) / s) + 1 for n, p, s in zip(padded.shape, patch, stride, strict=True)]
    total, count = np.zeros((2, *padded.shape), np.float64), np.zeros(padded.shape)
    for number in np.ndindex(*counts):
        start = [min(s * i, n - p) for s, i, n, p in zip(stride, number, padded.shape, patch, strict=True)]
        window = tuple(slice(at, at + p) for at, p in zip(start, patch, strict=True))
        logits = network(torch.from_numpy(padded[window])[None, None])[0].double().numpy()
        total[(slice(None), *window)] += np.exp(logits) / np.exp(logits).sum(axis=0)
        count[window] += 1
    inner = tuple(slice(m // 2, m // 2 + n) for m, n in zip(missing, image.shape, strict=True))
    return (total / count).argmax(axis=0).astype(np.uint8)[inner]


class Atria(Dataset):
    def cases(self, split):
        return []


@pytest.mark.parametrize(("shape", "stride"), [((25, 14, 13), (5, 4, 3)), ((40, 19, 12), None)])
def test_protocol_la_is_the_literatures_loop_over_windows(shape, stride):
    """Labels and the four published metrics, in voxels though the spacing is known."""
    generator = Generator().manual_seed(1)
    image, weight = torch.randn(*shape, generator=generator), torch.randn(2, 1, 3, 3, 3, generator=generator)
    network = lambda x: F.conv3d(x, weight, padding=1)  # noqa: E731
    expected = by_loops(network, image.numpy(), (20, 20, 8), stride or (18, 18, 4))
    way = literal_windows((20, 20, 8), stride)
    case_of = Predictor(predict=network, inference=way, device=torch.device("cpu"), protocol="la")
    found = case_of(image[None, None].numpy())[0]
    assert np.array_equal(found, expected)

    truth = (image.numpy() > 0.3).astype(np.uint8)
    data = Atria(classes=["background", "atrium"], num_classes=2, channels=1, image_size=[12, 12, 8], scoring="cases")
    table = table_of(data, [], Measures(unit="mm", empty="worst"), "la")
    table.add("a", found[None], truth[None], (2.0, 2.0, 2.0))
    summary = table.summary()
    assert summary["distance_unit"] == "voxel"
    for name, measure in (("dice", dc), ("iou", jc), ("hd95", hd95), ("asd", asd)):
        assert summary[name]["atrium"] == pytest.approx(measure(expected, truth), abs=1e-6)
    table.add("b", 0 * found[None], truth[None], (2.0, 2.0, 2.0))
    assert table.summary()["hd95"]["atrium"] == pytest.approx(summary["hd95"]["atrium"] / 2)


def test_protocol_la_is_for_volumes():
    with pytest.raises(UserError, match="protocol=la slides windows over volumes"):
        Predictor(predict=None, inference=Whole(shape=(16, 16)), device=torch.device("cpu"), protocol="la")


def test_strides_that_leave_voxels_between_the_windows_are_refused():
    with pytest.raises(UserError, match=r"inference\.stride=\[18, 18, 4\].*windows of \[12, 12, 8\]"):
        literal_windows((12, 12, 8), None)


@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_sums_are_the_same_wherever_they_are_held(average):
    image, keys = volume(20, 18, 16), {"shape": (8, 8, 8), "stride": 5, "average": average, "weights": "gaussian"}
    found = [Sliding(accumulate_on=place, **keys)(lambda x: x.cumsum(dim=2), image) for place in PLACES]
    assert all(torch.equal(scores, found[0]) for scores in found)
    with pytest.raises(UserError, match=r"inference\.accumulate_on"):
        Sliding(accumulate_on="gpu", **keys)


# -- metrics and steps ------------------------------------------------------------------------------------------------


def blobs() -> tuple[np.ndarray, np.ndarray]:
    truth, prediction = np.zeros((1, 12, 14, 9), np.uint8), np.zeros((1, 12, 14, 9), np.uint8)
    truth[0, 3:8, 4:9, 2:6], prediction[0, 4:9, 4:10, 2:5] = 1, 1
    return prediction, truth


def test_distances_of_a_volume_are_medpys_with_its_spacing():
    prediction, truth = blobs()
    spacing = (0.5, 1.0, 3.0)
    (found,) = score_classes(prediction, truth, 2, spacing)
    assert found["hd95"] == pytest.approx(hd95(prediction[0], truth[0], spacing))
    assert found["asd"] == pytest.approx(asd(prediction[0], truth[0], spacing))
    assert found["dice"] == pytest.approx(2 * (4 * 5 * 3) / (5 * 5 * 4 + 5 * 6 * 3))


def test_a_table_takes_volumes():
    table = CaseTable(["background", "blob"], unit="mm")
    table.add("a", *blobs(), (0.5, 1.0, 3.0))
    assert table.summary()["dice"]["blob"] == pytest.approx(2 * 60 / 190)


def test_the_largest_component_of_a_volume():
    label = np.zeros((1, 8, 8, 8), np.uint8)
    label[0, 1:4, 1:4, 1:4], label[0, 4, 4, 4], label[0, 6:, 6:, 6:] = 1, 1, 1
    kept = LargestComponent()(label, Given(label[:, None].astype(np.float32), None, None))
    assert kept.sum() == 28  # the voxel that touches at a corner belongs to it
    assert LargestComponent(corners=False)(label, Given(label[:, None], None, None)).sum() == 27


def test_crf_and_superpixels_clean_a_volume():
    """Two halves whose values differ, with one voxel of the wrong class in each."""
    image = np.zeros((1, 1, 12, 12, 8), np.float32)
    image[:, :, 6:] = 1
    truth = image[:, 0].astype(np.uint8)
    label = truth.copy()
    label[0, 3, 3, 3], label[0, 9, 9, 4] = 1, 0
    p = np.stack([np.where(label == k, 0.7, 0.3) for k in range(2)], axis=1).astype(np.float32)
    assert np.array_equal(DenseCRF(iterations=3)(label, Given(image, p, None)), truth)
    assert np.array_equal(Superpixels(size=64)(label, Given(image, p, None)), truth)


# -- pictures ---------------------------------------------------------------------------------------------------------


def test_three_planes_go_through_the_structure():
    image = np.random.default_rng(0).random((1, 1, 6, 7, 8), np.float32)
    label = np.zeros((1, 6, 7, 8), np.uint8)
    label[0, 2, 3:5, 1:6], label[0, 1, 4, 5] = 1, 1
    axial, coronal, sagittal = planes(image, [label], palette())
    assert [plane.words for plane in (axial, coronal, sagittal)] == ["z 6 of 8", "y 5 of 7", "x 3 of 6"]
    assert np.array_equal(axial.image[0], image[0, 0, :, :, 5].T)
    assert np.array_equal(coronal.image[0], image[0, 0, :, 4].T[::-1])
    assert np.array_equal(sagittal.labels[0], label[0, 2].T[::-1])
    assert overlay(image, [label, label], palette()).shape[2] == 3


def test_planes_are_as_high_and_wide_as_their_millimetres():
    """64 x 80 x 64 voxels of 1 x 1 x 2.5 mm; each plane is bare on the left, painted on the right."""
    image, label = np.zeros((1, 1, 64, 80, 64), np.float32), np.ones((1, 64, 80, 64), np.uint8)
    sizes = [plane.pixel for plane in planes(image, [label], palette(), (1, 1, 2.5))]
    assert sizes == [(1, 1), (2.5, 1), (2.5, 1)]
    square, true = (overlay(image, [label], palette(), spacing).shape for spacing in (None, (1, 1, 2.5)))
    enlarged = square[0] / (80 + 64 + 64)
    assert true[0] == enlarged * (80 + 2.5 * 64 + 2.5 * 64)
    assert true[1] == square[1]
    mistaken = overlay(image, [label], palette(), (1, 1, 1e6)).shape
    assert mistaken[0] == enlarged * (80 + 16 * 64 + 16 * 64)
