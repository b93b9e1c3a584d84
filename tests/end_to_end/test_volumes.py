"""Volumes by the command line: training on two datasets, eval, and predictions in the input's own axes."""

from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
from bodies import affine_of
from helpers import MACHINE, PHANTOM, refused, results, succeed, table

SHAPE = (20, 24, 16)
SMALL = (*MACHINE, "network.channels=[4,8]", "network.dropout=[0,0]", "iterations=4", "eval_every=2", "batch_size=2")


def ball(number: int) -> tuple[np.ndarray, np.ndarray]:
    """An image and its mask, x y z."""
    rng = np.random.default_rng(number)
    at = np.indices(SHAPE) - rng.uniform(7, 9, 3)[:, None, None, None]
    mask = (np.sqrt((at**2).sum(axis=0)) < 5).astype(np.uint8)
    return (rng.normal(0, 0.1, SHAPE) + mask).astype(np.float32), mask


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve NIfTI volumes, stored z, x, y with x mirrored."""
    root = tmp_path_factory.mktemp("volumes") / "balls"
    affine = affine_of([(2, 3.0), (0, -1.0), (1, 1.0)], np.zeros(3))
    for number in range(12):
        for part, array in zip(("images", "masks"), ball(number), strict=True):
            (root / part).mkdir(parents=True, exist_ok=True)
            stored = array.transpose(2, 0, 1)[:, ::-1]
            nibabel.save(nibabel.Nifti1Image(stored, affine), root / part / f"c{number}.nii.gz")
    (root / "dataset.yaml").write_text("classes: [background, ball]\n")
    return root


def test_the_phantom_is_trained_on_in_three_axes(tmp_path: Path) -> None:
    succeed("train", *PHANTOM, "dataset.image_size=[32,32,8]", "method=mean_teacher", cwd=tmp_path)
    assert results(tmp_path / "outputs/phantom/mean_teacher/unet-0.1-s0")["status"] == "finished"


def test_patches_of_a_folder_are_trained_on_scored_and_predicted_in_the_inputs_own_axes(
    root: Path, tmp_path: Path
) -> None:
    words = ("dataset=folder", f"dataset.root={root}", "dataset.image_size=[16,16,16]", "labeled_ratio=0.5")
    views = ("views=volumes", "inference=volumes", "views.weak.foreground=0.5", "method=uamt")
    output = succeed("train", *SMALL, *words, *views, cwd=tmp_path)
    assert "of 8 volumes" in output or "of 9 volumes" in output
    run = tmp_path / "outputs/balls/uamt/unet-0.5-s0"
    assert results(run)["test"]["distance_unit"] == "mm"
    succeed("eval", f"run={run}", "split=val", "device=cpu", "output=out", cwd=tmp_path)
    assert results(tmp_path / "out", "results_val.json")["val"]["dice"] == results(run)["val"]["dice"]
    succeed("predict", f"run={run}", f"input={root}/images", "output=masks", "overlay=true", "device=cpu", cwd=tmp_path)
    found, given = (nibabel.load(folder / "c0.nii.gz") for folder in (tmp_path / "masks", root / "images"))
    assert found.shape == given.shape == (16, 20, 24)
    assert np.array_equal(found.affine, given.affine)
    assert (tmp_path / "masks/c0_overlay.png").exists()


def write_la(root: Path) -> None:
    names = [f"case{number:02d}" for number in range(8)]
    for number, name in enumerate(names):
        place = root / "2018LA_Seg_Training Set" / name
        place.mkdir(parents=True)
        with h5py.File(place / "mri_norm2.h5", "w") as file:
            file["image"], file["label"] = ball(number)
    (root / "train.list").write_text("\n".join(names[:6]) + "\n")
    (root / "test.list").write_text("\n".join(names[6:]) + "\n")


def la(home: Path) -> tuple[str, ...]:
    words = ("dataset=la", f"dataset.root={home / 'LA'}", "dataset.image_size=[16,16,16]")
    return (*words, "network=unet", "labeled_cases=2")


def test_la_holds_out_the_last_training_cases_as_val_and_says_so(tmp_path: Path) -> None:
    write_la(tmp_path / "LA")
    output = succeed("train", *SMALL, *la(tmp_path), "dataset.val_cases=2", cwd=tmp_path)
    assert "labelled: 2 of 4 cases" in output
    assert "val: the last 2 cases of train.list, which are not trained on (dataset.val_cases)" in output
    assert results(tmp_path / "outputs/la/supervised/unet-2cases-s0")["test"]["num_cases"] == 2


def test_la_without_val_takes_the_last_model_of_all_training_cases(tmp_path: Path) -> None:
    write_la(tmp_path / "LA")
    words = (*SMALL, *la(tmp_path), "dataset.val_cases=0", "method=mean_teacher")
    output = refused("train", *words, cwd=tmp_path)
    assert "select=auto: val has no case that could choose the best model; set select=last" in output
    assert not (tmp_path / "outputs/la").exists()
    output = succeed("train", *words, "select=last", cwd=tmp_path)
    assert "labelled: 2 of 6 cases" in output
    assert "step 4: saved" in output
    assert "nan" not in output
    run = tmp_path / "outputs/la/mean_teacher/unet-2cases-s0"
    found = results(run)
    assert (found["selected"], found["best_step"], found["val"]["num_cases"]) == ("last", 4, 0)
    assert found["val"]["dice"]["mean"] is None
    assert table(run / "cases_val.csv") == []
    assert "is finished" in succeed("train", *words, "select=last", cwd=tmp_path)
    assert "split=val: the dataset has no case there" in refused(
        "eval", f"run={run}", "split=val", "device=cpu", cwd=tmp_path
    )
    succeed("report", run, "--no-figures", cwd=tmp_path)
    assert "selected: last" in (run / "report.md").read_text()
