"""Metrics against hand-made masks, medpy on whole masks, and the literature's evaluation loop."""

import csv
import math
import threading
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from medpy.metric import binary
from scipy.ndimage import zoom

from ssl4seg.data.case import Case, Spacing, Volume
from ssl4seg.data.dataset import Dataset
from ssl4seg.data.reading import read_all
from ssl4seg.errors import UserError
from ssl4seg.keys import IGNORE
from ssl4seg.networks.unet import UNet
from ssl4seg.scoring.inference import Predict, Resized
from ssl4seg.scoring.metrics import Scores, confusion, score, score_classes
from ssl4seg.scoring.predictor import Measures, Predictor, distance_unit, evaluate, nearest, table_of, zoomed
from ssl4seg.scoring.selection import selection_of
from ssl4seg.scoring.tables import TRUE_PIXELS, CaseTable, PixelTable, Table

NAN = math.nan
CPU = torch.device("cpu")
MASKS = hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=9).flatmap(
    lambda shape: st.tuples(hnp.arrays(bool, shape), hnp.arrays(bool, shape))
)


def scores(dice: float, hd95: float, asd: float, iou: float) -> Scores:
    return {"dice": dice, "hd95": hd95, "asd": asd, "iou": iou}


def predictor_for(predict: Predict, side: int, **keys: object) -> Predictor:
    return Predictor(predict=predict, inference=Resized(shape=(side, side)), device=CPU, **keys)


def block(shape: tuple[int, ...], *box: slice) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[box] = True
    return mask


# -- one class of one case --------------------------------------------------------------------------------------------


def test_scores_of_two_bars_worked_out_by_hand():
    # Rows 0-1 and rows 1-2 of three columns share 3 of 6 pixels each: Dice 6/12, IoU 3/9. Every pixel is border:
    # the prediction's are 0 (row 1) or 1 (row 0) away from the truth, and the other way round likewise.
    result = score(block((8, 3), slice(0, 2)), block((8, 3), slice(1, 3)))
    assert result == scores(dice=0.5, hd95=1.0, asd=0.5, iou=pytest.approx(1 / 3))


def test_distances_are_in_the_unit_of_the_spacing():
    # Two voxels, 1 slice and 2 columns apart, at 10 mm and 1.5 mm.
    a, b = block((3, 4, 5), 0, 2, 1), block((3, 4, 5), 1, 2, 3)
    assert score(a, b)["hd95"] == pytest.approx(math.sqrt(1 + 4))
    assert score(a, b, (10, 2, 1.5))["hd95"] == score(a, b, (10, 2, 1.5))["asd"] == pytest.approx(math.hypot(10, 3))


@settings(deadline=None, max_examples=60)
@given(MASKS, st.booleans())
def test_cropping_changes_no_bit_of_medpys_distances(masks, spaced):
    a, b = masks
    assume(a.any() and b.any())
    spacing = (10.0, 1.5, 1.25)[-a.ndim :] if spaced else None
    result = score(a, b, spacing)
    assert result["hd95"] == binary.hd95(a, b, spacing)
    assert result["asd"] == binary.asd(a, b, spacing)
    assert result["dice"] == pytest.approx(binary.dc(a, b))
    assert result["iou"] == pytest.approx(binary.jc(a, b))


@settings(deadline=None, max_examples=30)
@given(MASKS)
def test_overlap_and_hd95_are_symmetric(masks):
    a, b = masks
    one, other = score(a, b), score(b, a)
    assert (one["dice"], one["iou"], one["hd95"]) == (other["dice"], other["iou"], other["hd95"])
    assert one["iou"] == pytest.approx(one["dice"] / (2 - one["dice"]))


@pytest.mark.parametrize(
    ("policy", "predicted", "true", "expected"),
    [
        # The diagonal of 3 x 3 x 2 voxels is sqrt(2^2 + 2^2 + 1^2) = 3.
        ("worst", True, False, scores(0, 3, 3, 0)),
        ("worst", False, True, scores(0, 3, 3, 0)),
        ("worst", False, False, scores(1, 0, 0, 1)),
        ("nan", True, False, scores(0, NAN, NAN, 0)),
        ("nan", False, True, scores(0, NAN, NAN, 0)),
        ("nan", False, False, scores(NAN, NAN, NAN, NAN)),
        ("zero", True, False, scores(0, 0, 0, 0)),
        ("zero", False, True, scores(0, 0, 0, 0)),
        ("zero", False, False, scores(0, 0, 0, 0)),
    ],
)
def test_empty_masks_score_what_the_policy_says(policy, predicted, true, expected):
    a, b = (np.full((3, 3, 2), full) for full in (predicted, true))
    assert score(a, b, empty=policy) == pytest.approx(expected, nan_ok=True)


def test_the_worst_distance_is_the_diagonal_in_mm():
    nothing, something = np.zeros((3, 3, 2), bool), np.ones((3, 3, 2), bool)
    assert score(nothing, something, (2, 4, 8))["hd95"] == 12  # sqrt(4^2 + 8^2 + 8^2)


# -- all classes of a case --------------------------------------------------------------------------------------------


def test_every_foreground_class_is_scored_against_itself():
    rng = np.random.default_rng(0)
    p, y = rng.integers(0, 4, (2, 3, 9, 9), dtype=np.uint8)
    expected = [(binary.dc(p == k, y == k), binary.hd95(p == k, y == k)) for k in (1, 2, 3)]
    assert [(s["dice"], s["hd95"]) for s in score_classes(p, y, 4)] == pytest.approx(np.array(expected))


def test_ignored_pixels_are_background_in_both():
    rng = np.random.default_rng(0)
    p, y = rng.integers(0, 3, (2, 3, 9, 9), dtype=np.uint8)
    ignored = rng.random(y.shape) < 0.4
    marked = np.where(ignored, IGNORE, y).astype(np.uint8)
    assert score_classes(p, marked, 3) == score_classes(np.where(ignored, 0, p), np.where(ignored, 0, y), 3)


def test_a_single_slice_is_measured_as_an_image():
    # As a volume of one slice all 16 pixels of the block would be surface; as an image only its rim is.
    y, p = (np.zeros((1, 12, 12), np.uint8) for _ in range(2))
    y[0, 3:7, 3:7], p[0, 5:9, 5:9] = 1, 1
    (result,) = score_classes(p, y, 2, (10.0, 2.0, 1.0))
    assert result["asd"] == binary.asd(p[0], y[0], (2.0, 1.0)) != binary.asd(p, y, (10.0, 2.0, 1.0))


# -- tables -----------------------------------------------------------------------------------------------------------

CLASSES = ["background", "a", "b"]
HELD = {TRUE_PIXELS: 9.0}
TABLE = CaseTable(CLASSES, unit="mm")
TABLE.rows = {
    "one": [scores(0.5, 4.0, 2.0, 0.4) | HELD, scores(1.0, NAN, NAN, 1.0) | HELD],
    "two": [scores(0.7, 2.0, 1.0, 0.6) | HELD, scores(0.0, 8.0, 6.0, 0.0) | HELD],
}


def test_summary_is_the_mean_over_cases_then_over_classes_without_nan():
    summary = TABLE.summary()
    assert summary["dice"] == pytest.approx({"a": 0.6, "b": 0.5, "mean": 0.55})
    assert summary["hd95"] == pytest.approx({"a": 3.0, "b": 8.0, "mean": 5.5})  # b: only case two; over all rows 4.67
    assert (summary["distance_unit"], summary["num_cases"]) == ("mm", 2)


@pytest.mark.parametrize("empty", ["worst", "zero"])
def test_a_class_that_no_mask_holds_is_in_no_mean(empty):
    table = CaseTable(CLASSES, empty=empty)
    label, prediction = np.zeros((1, 2, 4), np.uint8), np.zeros((1, 2, 4), np.uint8)
    label[0, 0], prediction[0, 0, :2] = 1, 1  # 4 pixels, of which 2 are found: Dice 2 * 2 / (4 + 2)
    table.add("one", prediction, label, None)
    prediction[0, 1] = 2
    table.add("two", prediction, label, None)
    summary = table.summary()["dice"]
    assert summary["mean"] == summary["a"] == pytest.approx(2 / 3)
    assert math.isnan(summary["b"])
    table.add("three", np.full((1, 1, 1), 2, np.uint8), np.full((1, 1, 1), 2, np.uint8), None)
    assert table.summary()["dice"]["b"] == (1 / 3 if empty == "zero" else 2 / 3)  # nothing, wrong, right


def test_all_masks_empty_is_no_score():
    table = CaseTable(CLASSES)
    table.add("one", np.zeros((1, 2, 2), np.uint8), np.zeros((1, 2, 2), np.uint8), None)
    assert math.isnan(table.summary()["dice"]["mean"])


def test_csv_has_a_row_for_each_case_and_class(tmp_path):
    TABLE.write_csv(tmp_path / "cases.csv")
    rows = list(csv.DictReader((tmp_path / "cases.csv").open()))
    assert [(row["case"], row["class"]) for row in rows] == [("one", "a"), ("one", "b"), ("two", "a"), ("two", "b")]
    assert rows[1]["hd95"] == "nan"
    assert float(rows[3]["hd95"]) == 8
    assert [file.name for file in tmp_path.iterdir()] == ["cases.csv"]


def unread(spacing: Spacing | None) -> Case:
    """A case that nobody needs to read."""

    def read() -> Volume:
        raise AssertionError("its spacing is known without")

    return Case(name="c", group="c", num_images=1, size=(1, 1), labeled=True, read=read, spacing=spacing)


@pytest.mark.parametrize(
    ("unit", "spacings", "expected"),
    [
        ("auto", [(1, 1, 1), (2, 1, 1)], "mm"),
        ("auto", [(1, 1, 1), None], "voxel"),
        ("voxel", [(1, 1, 1)], "voxel"),
        ("mm", [(1, 1, 1)], "mm"),
    ],
)
def test_distance_unit(unit, spacings, expected):
    assert distance_unit(unit, [unread(spacing) for spacing in spacings]) == expected


def test_an_impossible_unit_is_refused():
    with pytest.raises(UserError, match=r"metrics\.unit=mm"):
        distance_unit("mm", [unread(None)])


# -- from images to label maps ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network() -> UNet:
    """Untrained, but its head is shifted so that every class wins somewhere."""
    torch.manual_seed(0)
    network = UNet(in_channels=1, num_classes=4, channels=[8, 8], dropout=[0, 0]).eval()
    with torch.no_grad():
        network.head.bias -= network(torch.rand(4, 1, 32, 32)).mean(dim=(0, 2, 3))
    return network


@pytest.fixture
def volume() -> np.ndarray:
    return np.random.default_rng(0).random((5, 1, 37, 54), dtype=np.float32)


@pytest.mark.parametrize("shape", [(37, 54), (32, 32), (71, 20), (64, 16)])
@torch.inference_mode()
def test_protocol_ssl4mis_is_the_literatures_loop_over_slices(network, shape):
    image = np.random.default_rng(0).random((5, 1, *shape), dtype=np.float32)
    expected = np.zeros((5, *shape), np.uint8)
    for i, slice_ in enumerate(image[:, 0]):
        square = zoom(slice_, (32 / shape[0], 32 / shape[1]), order=0)
        logits = network(torch.from_numpy(square)[None, None])
        label = logits.softmax(dim=1).argmax(dim=1)[0].numpy()
        expected[i] = zoom(label, (shape[0] / 32, shape[1] / 32), order=0)
    predictor = predictor_for(network, 32, batch_size=2, protocol="ssl4mis")
    assert np.array_equal(predictor(image), expected)
    assert len(np.unique(expected)) == 4


@pytest.mark.parametrize(("shape", "size"), [((256, 200), (216, 256)), ((216, 232), (256, 256)), ((32, 9), (16, 1))])
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_zoom_is_scipys_even_where_that_leaves_the_last_line_black(shape, size, dtype):
    pixels = (1 + 200 * np.random.default_rng(0).random((2, *shape))).astype(dtype)  # 256 -> 216: black in SciPy
    expected = [zoom(slice_, np.divide(size, shape), order=0) for slice_ in pixels]
    assert np.array_equal(zoomed(pixels, size), expected)


@given(st.integers(1, 400), st.integers(1, 400))
def test_nearest_has_the_targets_length_and_minus_one_where_scipy_has_nothing(length, target):
    expected = zoom(np.arange(1.0, length + 1), target / length, order=0)
    assert np.array_equal(nearest(length, target) + 1, expected)
    assert len(expected) == target


@torch.inference_mode()
def test_default_protocol_resizes_logits_not_labels(network, volume):
    square = F.interpolate(torch.from_numpy(volume), size=(32, 32), mode="bilinear", align_corners=False)
    native = F.interpolate(network(square), size=(37, 54), mode="bilinear", align_corners=False)
    prediction = predictor_for(network, 32)(volume)
    assert prediction.dtype == np.uint8
    assert (prediction == native.argmax(dim=1).numpy()).mean() > 0.999  # all but ties in the last bit


@pytest.mark.parametrize("protocol", ["default", "ssl4mis"])
def test_the_size_of_the_forward_pass_changes_no_prediction(network, volume, protocol):
    one, all_ = (predictor_for(network, 32, batch_size=n, protocol=protocol)(volume) for n in (1, 5))
    assert (one == all_).mean() > 0.999


def levels(image: torch.Tensor) -> torch.Tensor:
    """Logits that find the class of images whose grey is their class."""
    return -(image - torch.arange(3.0).view(1, 3, 1, 1)).abs()


@pytest.fixture
def cases(make_case):
    rng = np.random.default_rng(0)
    labels = [rng.integers(0, 3, (2, 16, 16)) for _ in range(3)]
    made = [make_case(f"c{i}", label, label, spacing=(5.0, 2.0, 2.0)) for i, label in enumerate(labels)]
    return [(case, case.read()) for case in made]


def scored(predictor: Predictor, cases: Sequence[tuple[Case, Volume]], **keys: slice) -> CaseTable:
    table = CaseTable(CLASSES, unit="mm")
    evaluate(predictor, cases, table, **keys)
    return table


def test_a_perfect_prediction_scores_one_and_no_distance(cases):
    summary = scored(predictor_for(levels, 16), cases).summary()
    assert summary["dice"] == summary["iou"] == {"mean": 1, "a": 1, "b": 1}
    assert summary["hd95"] == summary["asd"] == {"mean": 0, "a": 0, "b": 0}
    assert (summary["distance_unit"], summary["num_cases"]) == ("mm", 3)


def test_the_parts_of_the_processes_make_up_the_table(cases):
    predictor = predictor_for(levels, 8)
    parts = [scored(predictor, cases, part=slice(rank, None, 2)).rows for rank in range(2)]
    assert parts[0] | parts[1] == scored(predictor, cases).rows
    assert not parts[0].keys() & parts[1].keys()


def test_cases_that_are_not_resident_are_scored_alike(cases):
    predictor = predictor_for(levels, 8)
    disk = read_all([case for case, _ in cases], 3, resident=False)
    assert scored(predictor, disk).rows == scored(predictor, cases).rows
    part = slice(1, None, 2)
    assert scored(predictor, disk, part=part).rows == scored(predictor, cases, part=part).rows


@pytest.mark.parametrize(("num_images", "ahead"), [(1, 8), (20, 1)])
def test_while_a_case_is_scored_the_next_are_read_but_not_more(make_case, num_images, ahead):
    begun = [threading.Event() for _ in range(12)]

    def made(number: int) -> Case:
        case = make_case(f"c{number}", *np.zeros((2, num_images, 4, 4)))
        return replace(case, read=lambda: begun[number].set() or case.read())

    found = []
    for case, _ in read_all([made(number) for number in range(12)], 3, resident=False):
        found.append(case.name)
        assert all(event.wait(10) for event in begun[: len(found) + ahead])
        assert not any(event.is_set() for event in begun[len(found) + ahead :])
    assert found == [f"c{number}" for number in range(12)]


def test_what_is_wrong_with_a_case_is_told_at_its_turn(make_case, cases):
    disk = read_all([cases[0][0], cases[1][0], make_case("bare", np.zeros((1, 16, 16)))], 3, resident=False)
    coming = iter(disk)
    assert [next(coming)[0].name for _ in range(2)] == ["c0", "c1"]
    with pytest.raises(UserError, match="bare: has no mask"):
        next(coming)


# -- which table ------------------------------------------------------------------------------------------------------


class Levels(Dataset):
    """No cases, three classes."""

    name = "levels"

    def cases(self, split: str) -> list[Case]:
        return []


@pytest.fixture
def table_for(cases):
    def make(scoring: str = "cases", protocol: str = "default", background: bool = True, **metrics: object) -> Table:
        common = {"classes": CLASSES, "num_classes": 3, "channels": 1, "image_size": 16}
        dataset = Levels(**common, scoring=scoring, background=background)
        return table_of(dataset, [case for case, _ in cases], Measures(**metrics), protocol)

    return make


def test_protocol_ssl4mis_measures_in_voxels_and_scores_empty_masks_zero(cases, table_for):
    def nothing(image: torch.Tensor) -> torch.Tensor:
        return torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(len(image), 3, *image.shape[2:])

    table = table_for(protocol="ssl4mis", unit="mm", empty="worst")
    predictor = predictor_for(nothing, 16, protocol="ssl4mis")
    evaluate(predictor, cases, table)
    summary = table.summary()
    assert (summary["distance_unit"], summary["dice"]["mean"], summary["hd95"]["mean"]) == ("voxel", 0, 0)


def test_the_dataset_says_how_it_is_scored_and_a_key_adds_distances(cases, table_for):
    predictor = predictor_for(levels, 8)
    by_case, by_pixel, both = table_for(), table_for("pixels"), table_for("pixels", distances=True)
    for table in (by_case, by_pixel, both):
        evaluate(predictor, cases, table)
    assert (by_case.main, by_pixel.main) == ("dice", "iou")
    assert "hd95" not in by_pixel.summary()
    for key in ("hd95", "asd", "distance_unit"):
        assert both.summary()[key] == by_case.summary()[key]
    assert both.summary()["iou"] == by_pixel.summary()["iou"]


@pytest.mark.parametrize(("scoring", "metrics"), [("cases", {}), ("pixels", {"distances": True})])
def test_class_0_is_scored_as_the_others_where_it_is_no_background(cases, table_for, scoring, metrics):
    def shifted(image: torch.Tensor) -> torch.Tensor:  # one pixel to the right, so that every class has a distance
        return levels(image.roll(1, dims=-1))

    found = {}
    for background in (True, False):
        table = table_for(scoring, background=background, **metrics)
        evaluate(predictor_for(shifted, 16), cases, table)
        found[background] = table.summary()["asd"]
    assert list(found[False]) == ["mean", "background", "a", "b"]
    assert list(found[True]) == ["mean", "a", "b"]
    assert found[False].items() >= {name: found[True][name] for name in ("a", "b")}.items()
    road = [binary.asd(np.roll(label == 0, 1, 2), label == 0, (5.0, 2.0, 2.0)) for _, (_, label) in cases]
    assert found[False]["background"] == pytest.approx(np.mean(road))


# -- pixels -----------------------------------------------------------------------------------------------------------


def test_confusion_counts_true_classes_in_rows_and_leaves_ignored_pixels_out():
    label = np.array([[[0, 0, 1], [2, IGNORE, 1]]], np.uint8)
    prediction = np.array([[[0, 1, 1], [2, 2, 0]]], np.uint8)
    assert confusion(prediction, label, 4).tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0] * 4]


def test_a_tumour_that_is_not_found_scores_as_such_whatever_the_background_scores():
    """Issue 13, A6: the background alone made 49 % of it."""
    table = PixelTable(["background", "tumour"])
    label = np.zeros((1, 100, 100), np.uint8)
    label[0, :10, :10] = 1
    table.add("scan", np.zeros_like(label), label, None)
    summary = table.summary()
    assert summary["iou"] == {"mean": 0.495, "foreground_mean": 0, "background": 0.99, "tumour": 0}
    assert summary["miou"] == 0.495  # as published tables have it
    assert selection_of("auto", table).value(summary) == 0
    assert table.headline(summary) == "foreground IoU 0.00 %, mIoU 49.50 %"


def test_where_class_0_is_no_background_there_is_one_mean():
    table = PixelTable(["road", "car"], background=False)
    table.add("street", np.array([[[0, 1]]], np.uint8), np.array([[[0, 0]]], np.uint8), None)
    assert table.summary()["iou"] == {"mean": 0.25, "road": 0.5, "car": 0}
    assert table.headline(table.summary()) == "mIoU 25.00 %"


def test_pixels_of_all_cases_are_pooled_and_a_class_that_nobody_has_is_left_out(tmp_path):
    table = PixelTable([*CLASSES, "never"])
    first, second = np.zeros((2, 1, 1, 4), np.uint8)
    first[:], second[:] = [0, 0, 1, 1], [2, 2, 2, IGNORE]
    table.add("one", np.array([[[0, 1, 1, 1]]], np.uint8), first, None)
    table.add("two", np.array([[[2, 0, 2, 1]]], np.uint8), second, None)
    summary = table.summary()
    # background: 1 of 2 right, and a b is taken for it; a: 2 of 2, and a background is; b: 2 of 3.
    assert summary["iou"] == pytest.approx(
        {"background": 1 / 3, "a": 2 / 3, "b": 2 / 3, "never": NAN, "mean": 5 / 9, "foreground_mean": 2 / 3},
        nan_ok=True,
    )
    assert summary["dice"] == pytest.approx(
        {"background": 1 / 2, "a": 4 / 5, "b": 4 / 5, "never": NAN, "mean": 0.7, "foreground_mean": 0.8}, nan_ok=True
    )
    assert summary["miou"] == summary["iou"]["mean"]
    assert summary["pixel_accuracy"] == pytest.approx(5 / 7)
    assert summary["mean_accuracy"] == pytest.approx((1 / 2 + 1 + 2 / 3) / 3)
    assert table.headline(table.summary()) == "foreground IoU 66.67 %, mIoU 55.56 %"
    table.write_csv(tmp_path / "cases.csv")
    rows = [(row["case"], row["class"], row["iou"]) for row in csv.DictReader((tmp_path / "cases.csv").open())]
    assert rows == [
        ("one", "background", "0.5"),
        ("one", "a", "0.666667"),
        ("two", "background", "0"),
        ("two", "b", "0.666667"),
    ]
