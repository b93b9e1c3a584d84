"""What a user does in the first hours: mend a mistake and go on, sweep, score again, predict in place."""

import hashlib
import os
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers import PHANTOM, acdc, refused, results, save_nifti, shell, succeed, write_h5

from ssl4seg.cli import conf_dir, help_text

SETTINGS = ("metrics.unit=voxel", "metrics.empty=nan", "eval_every=4")
RUN = Path("outputs/phantom/supervised/unet-0.1-s0")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run, in voxels and with empty masks left out."""
    home = tmp_path_factory.mktemp("home")
    succeed("train", *PHANTOM, *SETTINGS, "engine.log_every=4", cwd=home)
    return home


def test_empty_masks_can_be_left_out_and_a_finished_run_shows_its_table_again(home: Path) -> None:
    assert results(home / RUN)["empty"] == "nan"
    again = succeed("train", *PHANTOM, *SETTINGS, cwd=home)
    assert "is finished" in again
    assert "left_ventricle" in again


def test_eval_measures_as_the_run_did(home: Path) -> None:
    succeed("eval", f"run={RUN}", "device=cpu", "output=scores", cwd=home)
    scores, run = results(home / "scores", "results_test.json"), results(home / RUN)
    assert scores["test"] == run["test"]
    assert (scores["empty"], scores["precision"]) == ("nan", "32-true")
    succeed("eval", f"run={RUN}", "device=cpu", "output=scores", "metrics.unit=mm", cwd=home)
    assert results(home / "scores", "results_test.json")["test"]["distance_unit"] == "mm"


def test_a_run_of_two_logged_spans_knows_its_speed(tmp_path: Path) -> None:
    succeed("train", *PHANTOM, "eval_every=1", cwd=tmp_path)
    assert results(tmp_path / RUN)["speed"]["step_seconds"] > 0


def test_a_run_that_failed_at_once_is_mended_by_the_right_key(tmp_path: Path) -> None:
    root = write_h5(tmp_path / "data")
    refused("train", *acdc(tmp_path / "wrong"), cwd=tmp_path)
    succeed("train", *acdc(root), cwd=tmp_path)
    root.rename(tmp_path / "moved")
    assert "is finished" in succeed("train", *acdc(tmp_path / "moved"), cwd=tmp_path)


def test_the_home_folder_and_m_in_any_place(tmp_path: Path) -> None:
    output = refused("train", "dataset=acdc", "dataset.root=~/nowhere", cwd=tmp_path)
    assert f"{Path.home()}/nowhere: there is no such" in output
    succeed("train", *PHANTOM, "-m", "seed=1,2", "tag=m", cwd=tmp_path)
    assert {path.name for path in (tmp_path / RUN.parent).iterdir()} == {"unet-0.1-s1-m", "unet-0.1-s2-m"}


def test_a_value_that_the_grammar_refuses_is_quoted_for_the_user(tmp_path: Path) -> None:
    output = refused("train", "dataset.root=/data (1)", cwd=tmp_path)
    assert "'dataset.root=\"/data (1)\"'" in output


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("engine.accumulate=two", "engine.accumulate=two: expected a whole number"),
        ("engine.eval_batch_size=0", "engine.eval_batch_size=0: expected at least 1"),
        ("engine.num_overlays=x", "engine.num_overlays=x: expected a whole number"),
        ("resume=no_way", "resume=no_way: expected true or false"),
        ("uamt", "uamt: expected KEY=VALUE"),
        ("+experiment=bad", "iterations=abc: expected a whole number"),
    ],
)
def test_numbers_are_checked_wherever_they_come_from(override: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "bad.yaml").write_text("# @package _global_\niterations: abc\n")
    arguments = ("--config-dir", "mine", override.lstrip("+"))
    assert expected in refused("train", *arguments, cwd=tmp_path)


def test_a_label_of_255_is_no_class_unless_it_is_the_ignored_one(tmp_path: Path) -> None:
    root = write_h5(tmp_path / "data")
    with h5py.File(root / "data" / "patient001_frame01.h5", "r+") as file:
        file["label"][0, 0, 0] = 255
    output = refused("train", *acdc(root), cwd=tmp_path)
    assert "patient001_frame01.h5: label value 255" in output
    succeed("train", *acdc(root), "dataset.ignore_index=255", cwd=tmp_path)


def test_labelled_cases_and_a_list_are_not_both_taken(tmp_path: Path) -> None:
    output = refused("train", *PHANTOM, "labeled_cases=1", "labeled_list=x", cwd=tmp_path)
    assert "labeled_cases and labeled_list are both set" in output


def test_prediction_never_writes_over_an_input(home: Path) -> None:
    inputs = home / "in"
    (inputs / "deep").mkdir(parents=True)
    for name in ("a.nii.gz", "deep/b.nii.gz"):
        save_nifti(inputs / name, np.random.default_rng(0).integers(0, 900, (3, 40, 48)).astype(np.int16))
    before = {file: hashlib.md5(file.read_bytes()).digest() for file in inputs.rglob("*.nii.gz")}
    output = refused("predict", f"run={RUN}", "input=in", "output=in", cwd=home)
    assert "would overwrite an input" in output
    for _ in range(2):  # the second time, the masks of the first are no inputs
        succeed("predict", f"run={RUN}", "input=in", "output=in/masks", cwd=home)
    assert {file: hashlib.md5(file.read_bytes()).digest() for file in before} == before
    assert sorted(str(f.relative_to(inputs / "masks")) for f in (inputs / "masks").rglob("*.nii.gz")) == [
        "a.nii.gz",
        "deep/b.nii.gz",
    ]


def test_the_report_keeps_other_settings_apart(home: Path, tmp_path: Path) -> None:
    common = (*PHANTOM, "labeled_cases=1")
    succeed("train", "-m", *common, "split_seed=0,1", "seed=0,1", cwd=tmp_path)
    succeed("report", "outputs", cwd=tmp_path)
    lines = (tmp_path / "outputs" / "report.csv").read_text().splitlines()
    assert [line.split(",")[5] for line in lines[1:]] == ["2", "2"]
    assert len((tmp_path / "outputs" / "runs.csv").read_text().splitlines()) == 1 + 4


def test_two_processes_end_together_where_the_run_is_finished_or_refused(home: Path) -> None:
    launch = (
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "ssl4seg.train",
    )
    same = (*PHANTOM, *SETTINGS)
    code, output = shell(*launch, *same, cwd=home, env={"OMP_NUM_THREADS": "1"})
    assert code == 0, output
    assert output.count("is finished") == 1
    code, output = shell(*launch, *same, "iterations=6", cwd=home, env={"OMP_NUM_THREADS": "1"})
    assert code != 0
    assert "another configuration" in output


DATASET = """
from ssl4seg.data.phantom import Phantom


class Heart(Phantom):
    name = "heart"
"""


def test_a_dataset_from_outside_is_one_module_and_one_yaml(tmp_path: Path) -> None:
    (tmp_path / "dataset").mkdir()
    (tmp_path / "heart.py").write_text(DATASET)
    yaml = (conf_dir() / "dataset" / "phantom.yaml").read_text().replace("ssl4seg.data.phantom.Phantom", "heart.Heart")
    (tmp_path / "dataset" / "heart.yaml").write_text(yaml)
    arguments = ("--config-dir", ".", "dataset=heart", *PHANTOM)
    code, output = shell(sys.executable, "-m", "ssl4seg.train", *arguments, cwd=tmp_path, env={"PYTHONPATH": os.curdir})
    assert code == 0, output
    assert results(tmp_path / "outputs/heart/supervised/unet-0.1-s0")["dataset"] == "heart"


@pytest.mark.parametrize(
    ("choice", "line"),
    [
        ("dataset=acdc", "dataset.patients.val: [28,"),
        ("views=default", "views.weak.rot90_flip: 0.5  #"),
        ("experiment=acdc_small", "dataset.image_size: 128"),
    ],
)
def test_help_names_the_keys_of_a_choice_as_they_are_given(choice: str, line: str) -> None:
    lines = help_text("train", [choice], [conf_dir()]).splitlines()
    assert any(found.strip().startswith(line) for found in lines)
    assert not any("_target_" in found for found in lines)
