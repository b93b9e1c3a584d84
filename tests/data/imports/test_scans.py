"""Scans with masks beside them, as 3D Slicer and ITK-SNAP save them, become a folder with the same voxels."""

from pathlib import Path

import dicoms
import numpy as np
import pytest
import SimpleITK
from folders import folder
from sources import imported

from ssl4seg.commands.check_folder import check_folder
from ssl4seg.data.dataset import SPLITS
from ssl4seg.errors import UserError


def test_each_scan_has_the_mask_beside_it(tmp_path: Path) -> None:
    out = imported(dicoms.some_scans(tmp_path / "in"), tmp_path / "out")
    assert {file.name for file in (out / "images").iterdir()} == {
        "case0.nrrd",
        "case1.mha",
        "case2.nii.gz",
        "case3.mha",
    }
    dataset = folder(out, test_ratio=0, orientation="stored", normalize="none")
    read = {case.name: case.read() for split in SPLITS for case in dataset.cases(split)}
    for number in range(4):
        image, label = read[f"case{number}"]
        assert np.array_equal(image[:, 0], dicoms.voxels(number))
        assert label is None if number == 3 else np.array_equal(label, dicoms.classes(number))
    assert dataset.classes == ("background", "class_1", "class_2")


def test_masks_that_number_every_voxel_have_no_background(tmp_path: Path) -> None:
    source = dicoms.some_scans(tmp_path / "in")
    for file in (*source.glob("*/*eg*.n*"), *source.glob("*/*label.mha")):
        SimpleITK.WriteImage(SimpleITK.ReadImage(str(file)) + 3, str(file))
    out = imported(source, tmp_path / "out")
    check_folder(out, sheet=tmp_path / "sheet.png")
    dataset = folder(out, test_ratio=0, orientation="stored")
    assert (dataset.classes, dataset.background) == (("class_3", "class_4", "class_5"), False)
    labels = {case.name: case.read().label for split in SPLITS for case in dataset.cases(split)}
    assert np.array_equal(labels["case1"], dicoms.classes(1))


def test_scans_and_masks_that_do_not_fit_are_listed_at_once(tmp_path: Path) -> None:
    source = dicoms.some_scans(tmp_path / "in")
    moved = SimpleITK.ReadImage(str(source / "case0/Segmentation.seg.nrrd"))
    moved.SetOrigin((0, 3, 0))
    SimpleITK.WriteImage(moved, str(source / "case0/Segmentation.seg.nrrd"))
    SimpleITK.WriteImage(moved[:, :, :2], str(source / "case1/mr-label.mha"))
    SimpleITK.WriteImage(moved, str(source / "case2/mr_mask.nrrd"))
    for name in ("a", "b", "c_seg"):
        (source / "case4").mkdir(exist_ok=True)
        SimpleITK.WriteImage(moved, str(source / f"case4/{name}.nrrd"))
    with pytest.raises(UserError) as raised:
        imported(source, tmp_path / "out", every=True)
    for words in (
        "case0/Segmentation.seg.nrrd: the affines of the mask and its image mr.nrrd differ, by 3 mm",
        "case1/mr-label.mha: is 2 x 6 x 5 (slices x height x width), but its scan mr.mhd is 4 x 6 x 5",
        "case2/mr_seg.nii: is a second mask of mr.nii.gz, beside mr_mask.nrrd",
        "case4/c_seg.nrrd: is a mask, but its folder holds 2 scans, none of them of its name",
    ):
        assert words in str(raised.value)


def test_capitals_in_the_word_for_a_mask_make_no_difference(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for number, name in enumerate(("A", "B")):
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(dicoms.voxels(number)), str(source / f"{name}.nrrd"))
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(dicoms.classes(number)), str(source / f"{name}_MASK.nrrd"))
    out = imported(source, tmp_path / "out", kind="scans")
    assert sorted(file.stem for file in (out / "masks").iterdir()) == ["A", "B"]


def test_a_broken_file_is_a_fault_and_an_empty_mask_is_no_class(tmp_path: Path) -> None:
    source = dicoms.some_scans(tmp_path / "in")
    whole = (source / "case0/Segmentation.seg.nrrd").read_bytes()
    for file, content in (("case0/Segmentation.seg.nrrd", whole[:-9]), ("case1/mr-label.mha", b"broken")):
        (source / file).write_bytes(content)
    with pytest.raises(UserError) as refusal:
        imported(source, tmp_path / "out")
    assert "case0/Segmentation.seg.nrrd: declares 120 bytes of voxels, but holds 111; copy the file again" in str(
        refusal.value
    )
    assert "case1/mr-label.mha: is no MetaImage file; expected a header" in str(refusal.value)
    blank = SimpleITK.ReadImage(str(source / "case2/mr_seg.nii")) * 0
    for file in ("case0/Segmentation.seg.nrrd", "case1/mr-label.mha", "case2/mr_seg.nii"):
        SimpleITK.WriteImage(blank, str(source / file))
    with pytest.raises(UserError, match=r"in: 1 classes are used \('background'\); expected a list of 2 to 255"):
        imported(source, tmp_path / "out")
