"""A run on nnU-Net's channel files, and the masks that it predicts: one a case, in the case's own grid."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from bodies import affine_of
from helpers import MACHINE, refused, results, succeed

SHAPE = (16, 20, 12)
"""x, y, z of the file, which stores the body's z, x, y with x mirrored."""
AFFINE = affine_of([(2, 3.0), (0, -1.0), (1, 1.0)], np.zeros(3))
SMALL = ("network.channels=[4,8]", "network.dropout=[0,0]", "iterations=2", "eval_every=2", "batch_size=2")


def save(file: Path, voxels: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, AFFINE), file)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with Dataset001_Box and a run on it."""
    home = tmp_path_factory.mktemp("channels")
    root, rng = home / "Dataset001_Box", np.random.default_rng(0)
    for number in range(6):
        mask = np.zeros(SHAPE, np.uint8)
        mask[4:12, 5 : 14 + number % 3, 3:9] = 1
        for channel in (0, 1):
            image = (mask * (1.0 - 2 * channel) + rng.normal(0, 0.1, SHAPE)).astype(np.float32)
            save(root / f"imagesTr/c{number}_{channel:04d}.nii.gz", image)
        save(root / f"labelsTr/c{number}.nii.gz", mask)
    labels = {"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "box": 1}, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(labels))
    succeed(
        "train", *MACHINE, *SMALL, "dataset=folder", f"dataset.root={root}", "dataset.image_size=[16,16,8]", cwd=home
    )
    return home


def predict(home: Path, source: Path, output: str, *words: str) -> tuple[str, ...]:
    run = home / "outputs/Dataset001_Box/supervised/unet-0.1-s0"
    return (f"run={run}", f"input={source}", f"output={output}", "device=cpu", *words)


def test_the_files_of_a_case_become_one_mask_in_its_own_grid(home: Path, tmp_path: Path) -> None:
    assert results(home / "outputs/Dataset001_Box/supervised/unet-0.1-s0")["status"] == "finished"
    succeed("predict", *predict(home, home / "Dataset001_Box/imagesTr", "masks"), cwd=tmp_path)
    assert sorted(file.name for file in (tmp_path / "masks").iterdir()) == [f"c{n}.nii.gz" for n in range(6)]
    mask = nibabel.load(tmp_path / "masks/c3.nii.gz")
    assert mask.shape == SHAPE
    assert np.array_equal(mask.affine, AFFINE)


def test_channels_in_one_file_give_the_same_mask_of_three_axes(home: Path, tmp_path: Path) -> None:
    parts = [nibabel.load(home / f"Dataset001_Box/imagesTr/c3_{channel:04d}.nii.gz") for channel in (0, 1)]
    save(tmp_path / "in/c3.nii.gz", np.stack([part.get_fdata(dtype=np.float32) for part in parts], axis=3))
    succeed("predict", *predict(home, tmp_path / "in", "one"), cwd=tmp_path)
    succeed("predict", *predict(home, home / "Dataset001_Box/imagesTr", "several"), cwd=tmp_path)
    one, several = (nibabel.load(tmp_path / place / "c3.nii.gz") for place in ("one", "several"))
    assert one.shape == SHAPE
    assert np.array_equal(one.dataobj, several.dataobj)
    assert np.array_equal(one.affine, several.affine)


def test_a_case_that_lacks_a_channel_is_named_and_the_others_have_their_masks(home: Path, tmp_path: Path) -> None:
    for name in ("c1_0000", "c1_0001", "c2_0000"):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / f"in/{name}.nii.gz").symlink_to(home / f"Dataset001_Box/imagesTr/{name}.nii.gz")
    output = refused("predict", *predict(home, tmp_path / "in", "masks"), cwd=tmp_path)
    assert "1 of 2 inputs could not be predicted" in output
    assert "c2_0001.nii.gz: is missing; c2 has 1 channel file(s), as c2_0000.nii.gz, expected 2" in output
    assert [file.name for file in (tmp_path / "masks").iterdir()] == ["c1.nii.gz"]


def test_one_file_given_by_name_stands_for_its_case(home: Path, tmp_path: Path) -> None:
    succeed("predict", *predict(home, home / "Dataset001_Box/imagesTr/c3_0000.nii.gz", "masks"), cwd=tmp_path)
    assert [file.name for file in (tmp_path / "masks").iterdir()] == ["c3.nii.gz"]
