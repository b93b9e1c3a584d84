"""ssl4seg-prepare acdc: from the challenge's NIfTI folders to h5 files that train."""

import json
import shutil
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import yaml
from helpers import (
    FRAMES,
    SHAPE,
    SPACING,
    TEST,
    TRAIN,
    VAL,
    acdc,
    pixels,
    refused,
    results,
    save_nifti,
    script,
    shell,
    succeed,
)

from ssl4seg.commands.conf import conf_dir
from ssl4seg.data.acdc_challenge import PUBLISHED, published

ALL = (*TRAIN, *VAL, *TEST)


@pytest.fixture
def source(challenge: Path, tmp_path: Path) -> Path:
    """A copy of the challenge's folder, to be spoilt."""
    return shutil.copytree(challenge, tmp_path / "source")


def prepare(source: Path) -> str:
    return succeed("prepare", "acdc", source, source.parent / "ACDC", cwd=source.parent)


def volumes(source: Path) -> dict[str, Path]:
    return {path.stem: path for path in (source.parent / "ACDC/data").iterdir()}


def test_the_command_says_what_it_did_and_how_to_train(challenge: Path, tmp_path: Path) -> None:
    code, output = shell(script("prepare"), "acdc", challenge, tmp_path / "ACDC", cwd=tmp_path)
    assert code == 0, output
    assert "10 volumes written, 0 already there" in output
    assert f"ssl4seg-train dataset=acdc dataset.root={tmp_path / 'ACDC'}" in output
    assert (
        "5 of the 100 patients of the published split (70 / 10 / 20) are there, 95 are missing (patient006," in output
    )


def test_the_published_patients_are_those_of_the_configuration(tmp_path: Path) -> None:
    patients = yaml.safe_load((conf_dir() / "dataset/acdc.yaml").read_text())["dataset"]["patients"]
    assert [len(patients[split]) for split in ("train", "val", "test")] == [70, 10, 20]
    assert {f"patient{number:03d}" for numbers in patients.values() for number in numbers} == {*PUBLISHED}
    (tmp_path / "data").mkdir()
    for name in (*PUBLISHED, "patient101"):
        (tmp_path / "data" / f"{name}_frame01.h5").touch()
    assert published(tmp_path) == "100 of the 100 patients of the published split (70 / 10 / 20) are there"


def test_every_frame_becomes_one_h5_and_the_series_none(prepared: Path) -> None:
    names = {f"patient{number:03d}_frame{frame:02d}.h5" for number in ALL for frame in FRAMES}
    assert {path.name for path in (prepared / "data").iterdir()} == names


@pytest.mark.parametrize("number", ALL)
@pytest.mark.parametrize("frame", FRAMES)
def test_values_orientation_and_spacing_are_those_of_the_source(prepared: Path, number: int, frame: int) -> None:
    image, label = pixels(number, frame)
    with h5py.File(prepared / f"data/patient{number:03d}_frame{frame:02d}.h5") as file:
        np.testing.assert_allclose(file["image"], (image - image.min()) / np.ptp(image), atol=1e-6)
        assert np.array_equal(file["label"], label)
        assert file["image"].shape == SHAPE
        assert file["image"].dtype == np.float32
        assert tuple(file.attrs["spacing"]) == pytest.approx(SPACING)


def test_running_again_touches_no_whole_file_and_mends_a_damaged_one(source: Path) -> None:
    prepare(source)
    damaged, *others = volumes(source).values()
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[: len(whole) // 2])
    before = {path: path.stat().st_mtime_ns for path in others}
    assert "1 volumes written, 9 already there" in prepare(source)
    assert damaged.read_bytes() == whole
    assert {path: path.stat().st_mtime_ns for path in others} == before


def test_a_newer_source_is_converted_again(source: Path) -> None:
    prepare(source)
    changed = np.roll(pixels(1, 1)[0], 3, axis=2)
    save_nifti(source / "patient001/patient001_frame01.nii.gz", changed)
    assert "1 volumes written, 9 already there" in prepare(source)
    with h5py.File(volumes(source)["patient001_frame01"]) as file:
        np.testing.assert_allclose(file["image"], (changed - changed.min()) / np.ptp(changed), atol=1e-6)


def test_a_frame_without_mask_becomes_an_unlabelled_training_case(source: Path) -> None:
    for frame in FRAMES:
        (source / f"patient001/patient001_frame{frame:02d}_gt.nii.gz").unlink()
    prepare(source)
    with h5py.File(volumes(source)["patient001_frame01"]) as file:
        assert set(file) == {"image"}
    root = source.parent / "ACDC"
    succeed("train", *acdc(root), "method=mean_teacher", "labeled_ratio=1", cwd=source.parent)
    run = source.parent / "outputs/acdc/mean_teacher/unet-1-s0"
    split = json.loads((run / "split.json").read_text())
    assert split["unlabeled"] == ["patient001_frame01", "patient001_frame12"]
    assert split["labeled_groups"] == ["patient002", "patient003"]
    assert results(run)["status"] == "finished"


def test_a_mask_that_comes_later_is_taken_in(source: Path, challenge: Path) -> None:
    mask = source / "patient001/patient001_frame01_gt.nii.gz"
    mask.unlink()
    prepare(source)
    shutil.copy2(challenge / "patient001" / mask.name, mask)  # with its old date
    assert "1 volumes written" in prepare(source)
    with h5py.File(volumes(source)["patient001_frame01"]) as file:
        assert np.array_equal(file["label"], pixels(1, 1)[1])


def test_all_faults_are_listed_at_once_and_the_rest_is_written(source: Path) -> None:
    image, label = pixels(1, 1)
    nan = image.astype(np.float32)
    nan[0, 0, 0] = np.nan
    save_nifti(source / "patient001/patient001_frame01.nii.gz", nan)
    save_nifti(source / "patient002/patient002_frame01_gt.nii.gz", label * 2)
    save_nifti(source / "patient003/patient003_frame01_gt.nii.gz", label[:, 1:])
    save_nifti(source / "patient005/patient005_frame01.nii.gz", np.stack([image, image]))
    truncated = source / "patient004/patient004_frame01.nii.gz"
    truncated.write_bytes(truncated.read_bytes()[:900])
    output = refused("prepare", "acdc", source, source.parent / "ACDC", cwd=source.parent)
    assert "5 of 10 volumes could not be prepared" in output
    faults = {line.partition(": ")[0].rpartition("/")[2]: line for line in output.splitlines()}
    assert "NaN" in faults["patient001_frame01.nii.gz"]
    assert "label values [4, 6]" in faults["patient002_frame01_gt.nii.gz"]
    assert "differ in shape" in faults["patient003_frame01.nii.gz"]
    assert "perhaps truncated" in faults["patient004_frame01.nii.gz"]
    assert "4 dimensions" in faults["patient005_frame01.nii.gz"]
    assert set(volumes(source)) == {f"patient{number:03d}_frame12" for number in ALL}


def test_masks_may_be_unpacked_as_the_challenge_names_them(source: Path) -> None:
    packed = source / "patient001/patient001_frame01_gt.nii.gz"
    nibabel.save(nibabel.load(packed), packed.with_suffix(""))
    packed.unlink()
    prepare(source)
    with h5py.File(volumes(source)["patient001_frame01"]) as file:
        assert np.array_equal(file["label"], pixels(1, 1)[1])


def test_what_was_prepared_trains(acdc_run: Path) -> None:
    found = results(acdc_run)
    assert found["labeled"] == {"ratio": 1, "cases": 3, "images": 18, "of_cases": 3, "of_images": 18}
    assert (found["test"]["distance_unit"], found["test"]["num_cases"]) == ("mm", 2)


def test_a_root_of_nifti_files_says_the_command_that_prepares_it(challenge: Path, tmp_path: Path) -> None:
    output = refused("train", *acdc(challenge), cwd=tmp_path)
    assert f"ssl4seg-prepare acdc {challenge} DEST" in output


@pytest.mark.parametrize(
    ("given", "dest", "named"),
    [
        ("nowhere", "out", "nowhere: there is no such folder"),
        ("empty", "out", "empty: holds no patient"),
        ("twice", "out", "more than one file is named patient001_frame01"),
        ("source", "file/out", "file/out: cannot be written"),
    ],
)
def test_a_wrong_folder_is_named(source: Path, tmp_path: Path, given: str, dest: str, named: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("a file")
    for copy in ("a", "b"):
        shutil.copytree(source / "patient001", tmp_path / "twice" / copy)
    assert named in refused("prepare", "acdc", given, dest, cwd=tmp_path)
