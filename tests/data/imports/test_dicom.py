"""DICOM series become volumes, their segmentations masks of the same voxels; series that are no grid are refused."""

from collections.abc import Callable
from pathlib import Path

import dicoms
import nibabel
import numpy as np
import pydicom
import pytest
from folders import folder
from sources import imported

from ssl4seg.commands.check_folder import check_folder
from ssl4seg.data.dataset import SPLITS
from ssl4seg.data.dicom import _centres_on
from ssl4seg.errors import UserError


def stored(file: Path) -> np.ndarray:
    """[S, H, W]"""
    return np.asarray(nibabel.load(file).dataobj).transpose(2, 1, 0)


def test_a_series_and_its_segmentation_become_a_volume_and_its_mask(tmp_path: Path) -> None:
    out = imported(dicoms.some_series(tmp_path / "in"), tmp_path / "out")
    for number in range(3):
        image = out / f"images/case{number}/ct.nii.gz"
        assert np.array_equal(stored(image), dicoms.voxels(number))
        affine = nibabel.load(image).affine
        row_and_column = affine @ [[1, 0], [0, 1], [0, 0], [0, 0]]  # to posterior; to inferior, in RAS
        assert np.allclose(row_and_column[:3].T, [[0, -1.5, 0], [0, 0, -2]])
        assert np.allclose(affine @ [0, 0, 1, 1], [*(dicoms.position(1) * [-1, -1, 1]), 1])
    assert np.array_equal(stored(out / "masks/case1/ct.nii.gz"), dicoms.classes(1))
    assert not (out / "masks/case2/ct.nii.gz").exists()
    dataset = folder(out, val_ratio=0.5, test_ratio=0)
    assert dataset.classes == ("background", *dicoms.NAMES)
    read = {case.name: case.read() for split in SPLITS for case in dataset.cases(split)}
    assert {name: volume.label is not None for name, volume in read.items()} == {
        "case0/ct": True,
        "case1/ct": True,
        "case2/ct": False,
    }


def test_classes_are_joined_by_the_names_of_segments(tmp_path: Path) -> None:
    first, second = (dicoms.slices(dicoms.voxels(n), patient=str(n)) for n in range(2))
    dicoms.save(first, tmp_path / "in/a")
    dicoms.save(second, tmp_path / "in/b", ending="")  # as scanners name files
    dicoms.segmentation(first, dicoms.classes(), tmp_path / "in/a.dcm")
    dicoms.segmentation(second, dicoms.classes(1), tmp_path / "in/b.dcm", ["tumour", "liver"])
    out = imported(tmp_path / "in", tmp_path / "out")
    assert np.array_equal(stored(out / "masks/b.nii.gz"), np.array([0, 2, 1])[dicoms.classes(1)])


def test_outlines_are_filled_and_an_outline_within_is_a_hole(tmp_path: Path) -> None:
    series = dicoms.slices(dicoms.voxels())
    dicoms.save(series, tmp_path / "in/ct")
    box = [(0.5, 0.5), (0.5, 4.5), (5.5, 4.5), (5.5, 0.5)]
    hole = [(2.5, 1.5), (2.5, 3.5), (4.5, 3.5), (4.5, 1.5)]
    dicoms.outlines(series, {"liver": [(1, box), (1, hole), (3, hole)], "tumour": [(3, hole)]}, tmp_path / "in/rt.dcm")
    label = stored(imported(tmp_path / "in", tmp_path / "out") / "masks/ct.nii.gz")
    expected = np.zeros(dicoms.SHAPE, int)
    expected[1, 1:6, 1:5] = 1
    expected[1, 3:5, 2:4] = 0
    expected[3, 3:5, 2:4] = 2
    assert np.array_equal(label, expected)


@pytest.mark.parametrize("kind", ["CLOSED_PLANAR", "CLOSEDPLANAR_XOR"])
def test_centres_on_an_outline_belong_to_the_region_also_on_that_of_its_hole(tmp_path: Path, kind: str) -> None:
    series = dicoms.slices(dicoms.voxels())
    dicoms.save(series, tmp_path / "in/ct")
    around, hole = (np.array([(a, a), (a, b), (c, b), (c, a)], float) for a, b, c in ((0, 4, 5), (1, 3, 4)))
    noise = np.random.default_rng(0)
    drawn = [(at, ring + noise.uniform(-1e-3, 1e-3, ring.shape)) for at in (1, 2) for ring in (around, hole)]
    file = dicoms.outlines(series, {"liver": [*drawn, (3, around[[0, 2]])]}, tmp_path / "in/rt.dcm")
    head = dicoms.read(file)
    for contour in head.ROIContourSequence[0].ContourSequence:
        contour.ContourGeometricType = kind
    head.save_as(file)
    label = stored(imported(tmp_path / "in", tmp_path / "out") / "masks/ct.nii.gz")
    expected = np.zeros(dicoms.SHAPE, int)
    expected[1:3] = 1
    expected[1:3, 2:4, 2] = 0  # the pixels whose centres lie within the hole
    assert np.array_equal(label, expected)


def test_centres_on_outlines_are_found_on_every_line_within_the_image() -> None:
    y, x = np.array([-3.0, 6, 6, 1e30]), np.array([-3.0, 6, 2.5, 2.5])
    found = {(row, column) for row, column in _centres_on(y, x, (5, 9)).tolist()}
    assert found == {(at, at) for at in range(5)}
    many = np.tile([[0.0, 4], [4, 0]], (3000, 1)).T
    assert {*map(tuple, _centres_on(*many, (5, 5)).tolist())} == {(at, 4 - at) for at in range(5)}


BOX = [(0.5, 0.5), (0.5, 2.5), (3.5, 2.5), (3.5, 0.5)]
OUTSIDE = [(row + 9, column) for row, column in BOX]


def test_classes_that_nothing_draws_are_left_out_and_empty_masks_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    series = [dicoms.slices(dicoms.voxels(number), patient=str(number)) for number in range(5)]
    for number, each in enumerate(series):
        dicoms.save(each, tmp_path / f"in/{number}")
    regions = {"no contour": [], "outside": [(1, OUTSIDE)], "liver": [(1, BOX)]}
    for number in (0, 1):
        dicoms.outlines(series[number], regions, tmp_path / f"in/{number}.dcm")
    label = dicoms.classes()
    dicoms.segmentation(series[2], np.where(label == 1, 2, 0).astype(np.uint8), tmp_path / "in/2.dcm", ["gap", "liver"])
    dicoms.outlines(series[3], {"liver": []}, tmp_path / "in/3.dcm")
    dicoms.segmentation(series[4], 0 * label, tmp_path / "in/4.dcm", ["liver"])
    out = imported(tmp_path / "in", tmp_path / "out")
    said = capsys.readouterr().out
    assert "classes of which no mask holds a pixel are left out: no contour, outside, gap\n" in said
    assert "2 masks are background everywhere: 3, 4\n" in said
    assert folder(out).classes == ("background", "liver")
    assert np.array_equal(stored(out / "masks/2.nii.gz"), label == 1)
    assert stored(out / "masks/0.nii.gz").sum() == 6
    check_folder(out, sheet=tmp_path / "sheet.png")
    for number in range(3):
        (tmp_path / f"in/{number}.dcm").unlink()
    with pytest.raises(UserError, match=r"in: no mask holds a pixel of liver, and nothing is left to tell apart"):
        imported(tmp_path / "in", tmp_path / "out2")


def test_contours_that_are_cut_off_or_left_out_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    series = dicoms.slices(dicoms.voxels())
    dicoms.save(series, tmp_path / "in/ct")
    across = [(row, column - 2.4) for row, column in BOX]
    drawn = [(1, BOX), (2, across), (2, OUTSIDE), (2, BOX[:2]), (2, BOX[:1]), (2, BOX)]
    file = dicoms.outlines(series, {"liver": drawn}, tmp_path / "in/rt.dcm")
    head = dicoms.read(file)
    for place, kind in ((4, "POINT"), (5, "OPEN_PLANAR")):
        head.ROIContourSequence[0].ContourSequence[place].ContourGeometricType = kind
    head.save_as(file)
    label = stored(imported(tmp_path / "in", tmp_path / "out") / "masks/ct.nii.gz")
    expected = np.zeros(dicoms.SHAPE, int)
    expected[1, 1:4, 1:3], expected[2, 1:4, 0] = 1, 1
    assert np.array_equal(label, expected)
    said = capsys.readouterr().out
    for note in (
        "1 outlines reach beyond their image, and are cut off at its edge",
        "1 outlines lie outside of their image, and are left out",
        "1 outlines of fewer than three points are left out",
        "2 lines and points have no area, and are left out",
    ):
        assert f"note: {note}\n" in said


@pytest.mark.parametrize("kind", ["FRACTIONAL", "LABELMAP"])
def test_fractions_count_from_one_half_on_and_label_maps_hold_numbers(tmp_path: Path, kind: str) -> None:
    series = dicoms.slices(dicoms.voxels())
    dicoms.save(series, tmp_path / "in/ct")
    label = dicoms.classes()
    shares = np.array([0.0, 0.4, 0.6])[label]
    given, names = (shares, ["liver"]) if kind == "FRACTIONAL" else (label, dicoms.NAMES)
    dicoms.segmentation(series, given, tmp_path / "in/seg.dcm", names, kind)
    mask = stored(imported(tmp_path / "in", tmp_path / "out") / "masks/ct.nii.gz")
    assert np.array_equal(mask, label == 2 if kind == "FRACTIONAL" else label)


def test_series_of_one_patient_stay_together(tmp_path: Path) -> None:
    for patient in range(3):
        for visit in "ab":
            series = dicoms.slices(dicoms.voxels(), patient=f"Doe {patient}")
            dicoms.save(series, tmp_path / f"in/{patient}{visit}")
            dicoms.segmentation(series, dicoms.classes(), tmp_path / f"in/{patient}{visit}.dcm")
    out = imported(tmp_path / "in", tmp_path / "out")
    assert "Doe" not in "".join(map(str, out.rglob("*")))
    dataset = folder(out, val_ratio=0.3, test_ratio=0)
    assert {case.group for case in dataset.cases("val")} == {dataset.cases("val")[0].group}
    assert len(dataset.cases("val")) == 2


def moved(by: list[float], at: int = 2) -> Callable[[list], list]:
    """The series with one slice moved by mm."""

    def move(series: list) -> list:
        series[at].ImagePositionPatient = (np.array(series[at].ImagePositionPatient, float) + by).tolist()
        return series

    return move


def tilted(series: list) -> list:
    for number, head in enumerate(series):
        moved([0, 0.8 * number, 0], number)(series)
        assert head
    return series


def turned(series: list) -> list:
    series[1].ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    return series


def without(key: str) -> Callable[[list], list]:
    def remove(series: list) -> list:
        delattr(series[0], key)
        return series

    return remove


def set_in_one(key: str, value: int) -> Callable[[list], list]:
    def change(series: list) -> list:
        setattr(series[1], key, value)
        return series

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda series: [*series[:1], *series[2:]],
            r"1 slice\(s\) are missing before it: .* 10 mm after .*others 5",
        ),
        (turned, r"its orientation differs from that of .* in the same series"),
        (tilted, r"shifted against one another by a tilt of the gantry of 9\.09 degrees"),
        (lambda series: moved([-5, 0, 0], 1)(series), "lies at the same place as .*two scans in one series"),
        (moved([1, 0, 0]), "steps between slices differ, from 4 to 6 mm"),
        (moved([0, 2, 0]), "mm beside the line of the other slices"),
        (set_in_one("Rows", 7), r"its size differs from that of .* \(\[6, 5\] and \[7, 5\]\)"),
        (set_in_one("SamplesPerPixel", 3), "holds colours or several frames; expected one grey slice"),
        (set_in_one("NumberOfFrames", 2), "holds colours or several frames; expected one grey slice"),
        (without("PixelSpacing"), "has no PixelSpacing of 2 numbers; expected a single slice"),
        (without("PixelData"), "cannot be read as DICOM"),
    ],
    ids=[
        *("missing", "orientation", "tilt", "twice", "uneven", "aside"),
        *("size", "colours", "frames", "no spacing", "no pixels"),
    ],
)
def test_slices_that_are_no_grid_are_refused(tmp_path: Path, change: Callable, words: str) -> None:
    series = dicoms.slices(dicoms.voxels())
    dicoms.segmentation(series, dicoms.classes(), tmp_path / "in/seg.dcm")
    dicoms.save(change(series), tmp_path / "in/ct")
    with pytest.raises(UserError, match=words):
        imported(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_two_series_in_a_folder(tmp_path: Path) -> None:
    first, second = dicoms.slices(dicoms.voxels()), dicoms.slices(dicoms.voxels(1), SeriesDescription="scout")
    dicoms.save(first, tmp_path / "in")
    dicoms.save(second, tmp_path / "in", ending=".ima")
    with pytest.raises(UserError, match=r"holds 2 series \(.*scout, 4 files.*\), none of them with a segmentation"):
        imported(tmp_path / "in", tmp_path / "out")
    dicoms.segmentation(first, dicoms.classes(), tmp_path / "in/seg.dcm")
    out = imported(tmp_path / "in", tmp_path / "out")
    assert np.array_equal(stored(out / "images/in.nii.gz"), dicoms.voxels())


def test_masks_that_lie_elsewhere_are_refused(tmp_path: Path) -> None:
    series, other = dicoms.slices(dicoms.voxels()), dicoms.slices(dicoms.voxels(1))
    dicoms.save(series, tmp_path / "in/ct")
    seg = dicoms.segmentation(series, dicoms.classes(), tmp_path / "in/seg.dcm")
    head = dicoms.read(seg)
    frame = head.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0]
    frame.ImagePositionPatient = [x + 1 for x in frame.ImagePositionPatient]
    head.save_as(seg)
    with pytest.raises(UserError, match=r"seg\.dcm: frame 1 at .* lies on no slice of its series"):
        imported(tmp_path / "in", tmp_path / "out")
    dicoms.segmentation(other, dicoms.classes(), seg)
    with pytest.raises(UserError, match=r"seg\.dcm: is a segmentation of the series .*, which is not here"):
        imported(tmp_path / "in", tmp_path / "out")
    seg.unlink()
    with pytest.raises(UserError, match=r"^[^\n]*in: holds 1 series, but no DICOM-SEG or RTSTRUCT of one[^\n]*$"):
        imported(tmp_path / "in", tmp_path / "out")
    dicoms.outlines(series, {"liver": [(1.5, [(0, 0), (0, 4), (4, 4)])]}, tmp_path / "in/rt.dcm")
    with pytest.raises(UserError, match=r"rt\.dcm: an outline of region 1 at .* lies on no slice"):
        imported(tmp_path / "in", tmp_path / "out")


def spaced(head: pydicom.Dataset) -> None:
    head.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [2, 2]


def of_other_rows(head: pydicom.Dataset) -> None:
    head.Rows = 5


def of_an_unknown_segment(head: pydicom.Dataset) -> None:
    head.SegmentSequence[0].SegmentNumber = 9


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (spaced, "frame 1 has another orientation or pixel spacing than its series"),
        (of_other_rows, r"is 5 x 5 \(height x width\), but its series 6 x 5"),
        (of_an_unknown_segment, "a frame belongs to segment 1, which it does not describe"),
    ],
)
def test_a_segmentation_on_another_grid_is_refused(tmp_path: Path, change: Callable, words: str) -> None:
    series = dicoms.slices(dicoms.voxels())
    dicoms.save(series, tmp_path / "in/ct")
    seg = dicoms.segmentation(series, dicoms.classes(), tmp_path / "in/seg.dcm")
    head = dicoms.read(seg)
    change(head)
    head.save_as(seg)
    with pytest.raises(UserError, match=rf"seg\.dcm: {words}"):
        imported(tmp_path / "in", tmp_path / "out")


def test_contours_of_a_region_without_a_name_are_a_fault(tmp_path: Path) -> None:
    series = dicoms.slices(dicoms.voxels())
    dicoms.save(series, tmp_path / "in/ct")
    file = dicoms.outlines(series, {"liver": [(1, BOX)]}, tmp_path / "in/rt.dcm")
    head = dicoms.read(file)
    head.ROIContourSequence[0].ReferencedROINumber = 4
    head.save_as(file)
    with pytest.raises(UserError, match=r"rt\.dcm: an outline belongs to region 4, which it does not describe"):
        imported(tmp_path / "in", tmp_path / "out")
