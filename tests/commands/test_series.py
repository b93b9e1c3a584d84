"""ssl4seg-predict: a DICOM series in, a DICOM-SEG out, pixel by pixel what a NIfTI input gets."""

from pathlib import Path

import dicoms
import highdicom
import nibabel
import numpy as np
import pytest
from helpers import CLASSES, MACHINE, pixels, refused, succeed

from ssl4seg.commands.series import series_in
from ssl4seg.data.dicom import read_head, series_of, write_scan_of, write_segmentation
from ssl4seg.errors import UserError


def read_back(file: Path, series: list) -> np.ndarray:
    """[S, H, W], in the order of the slices, by highdicom."""
    seg = highdicom.seg.segread(file)
    return seg.get_pixels_by_source_instance(
        [head.SOPInstanceUID for head in series], combine_segments=True, assert_missing_frames_are_empty=True
    )


@pytest.mark.parametrize("label", [dicoms.classes(), np.zeros(dicoms.SHAPE, np.uint8)], ids=["some", "empty"])
def test_a_written_segmentation_is_read_back_by_highdicom(tmp_path: Path, label: np.ndarray) -> None:
    series = dicoms.slices(dicoms.voxels())
    files = sorted(dicoms.save(series, tmp_path / "ct").iterdir())
    scan = series_of({file: read_head(file) for file in files})
    write_segmentation(tmp_path / "seg.dcm", np.array([0, 7, 3], np.uint8)[label], scan, {7: "liver", 3: "x" * 100})
    seg = dicoms.read(tmp_path / "seg.dcm")
    assert np.array_equal(read_back(tmp_path / "seg.dcm", series), label)
    assert [segment.SegmentLabel for segment in seg.SegmentSequence] == ["liver", "x" * 64]
    assert (seg.PatientID, seg.StudyInstanceUID) == ("one", series[0].StudyInstanceUID)
    assert seg.FrameOfReferenceUID == series[0].FrameOfReferenceUID


def test_a_series_gets_the_mask_of_its_nifti(acdc_run: Path, tmp_path: Path) -> None:
    image = pixels(5, 1)[0]
    voxels = (1000 * (image - image.min()) / np.ptp(image)).astype(np.int16)
    series = dicoms.slices(voxels, patient="Doe")
    folder = dicoms.save(series, tmp_path / "in/doe/ct", ending="")
    write_scan_of(series_of({file: read_head(file) for file in folder.iterdir()}), tmp_path / "in/scan.nii")
    dicoms.save(dicoms.slices(voxels[:3]), tmp_path / "in/two")
    dicoms.save(dicoms.slices(voxels[:3]), tmp_path / "in/two", ending=".ima")
    dicoms.save(dicoms.slices(voxels)[::2] + dicoms.slices(voxels)[1:2], tmp_path / "in/wild")
    keys = (f"run={acdc_run}", f"input={tmp_path / 'in'}", f"output={tmp_path / 'in/out'}", *MACHINE)
    output = refused("predict", *keys, cwd=tmp_path)
    assert "2 of 4 inputs could not be predicted:" in output
    assert "in/two: holds 2 series (CT, 3 files, CT, 3 files); put each into a folder of its own" in output
    assert "in/wild: holds 2 series" in output
    assert "not read" not in output
    expected = np.asarray(nibabel.load(tmp_path / "in/out/scan.nii").dataobj).transpose(2, 1, 0)
    mask = read_back(tmp_path / "in/out/doe/ct.dcm", series)
    assert np.array_equal(mask, expected)
    assert set(np.unique(mask)) == {0, 1, 2, 3}
    labels = [segment.SegmentLabel for segment in dicoms.read(tmp_path / "in/out/doe/ct.dcm").SegmentSequence]
    assert labels == list(CLASSES)
    again = (f"run={acdc_run}", f"input={folder}", f"output={folder}", *MACHINE)
    succeed("predict", *again, cwd=tmp_path)  # the name of the folder
    succeed("predict", *again, cwd=tmp_path)  # the earlier mask is no slice
    assert np.array_equal(read_back(folder / "ct.dcm", series), expected)


def test_the_mask_of_a_series_replaces_no_slice(tmp_path: Path) -> None:
    folder = dicoms.save(dicoms.slices(dicoms.voxels()), tmp_path / "00")
    with pytest.raises(UserError, match=r"the mask of .* would overwrite an input; give another folder"):
        series_in(folder, folder, [*folder.iterdir()])


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["format=coco"], "format=coco"),
        (["format=labelme"], "format=labelme"),
        (["probabilities=true"], "probabilities=true"),
        (["min_confidence=0.8"], "min_confidence=0.8"),
        (["probabilities=true", "min_confidence=0.8"], "probabilities=true, min_confidence=0.8"),
    ],
)
def test_of_a_series_nothing_but_a_mask_is_written(
    acdc_run: Path, tmp_path: Path, words: list[str], named: str
) -> None:
    folder = dicoms.save(dicoms.slices(dicoms.voxels()), tmp_path / "ct")
    keys = (f"run={acdc_run}", f"input={folder}", f"output={tmp_path / 'out'}", *MACHINE)
    told = refused("predict", *keys, *words, cwd=tmp_path)
    assert f"error: {named}: of a DICOM series, as in {folder}, only a DICOM-SEG is written; predict the" in told
    assert not (tmp_path / "out").exists()
