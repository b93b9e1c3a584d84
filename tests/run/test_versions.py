"""Run folders of version 0.1 (made by that version) evaluate, predict, resume and are reported."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers import MACHINE, results, run, succeed, table
from PIL import Image

from ssl4seg.run.folder import read_config
from ssl4seg.run.settings import RunSettings, read
from ssl4seg.run.versions import current

WORDS = (
    *MACHINE,
    "method=mean_teacher",
    "method.ema_decay=0.99",
    "network.channels=[2,4]",
    "network.dropout=[0.1,0.1]",
    "dataset.image_size=32",
    "dataset.num_train=4",
    "dataset.num_val=1",
    "dataset.num_test=1",
    "batch_size=2",
    "unlabeled_batch_size=2",
    "iterations=4",
    "eval_every=2",
    "engine.log_every=1",
    "labeled_cases=1",
)
"""The command that made the runs, but for their tags, and with what was a default then."""


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """outputs/phantom/mean_teacher with a run that is finished and one that was killed after two of its four steps."""
    folder = tmp_path / "outputs/phantom/mean_teacher"
    folder.mkdir(parents=True)
    with tarfile.open(Path(__file__).parents[1] / "fixtures/runs_of_0.1.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    for name in ("finished", "stopped"):
        (folder / name).rename(folder / f"unet-1cases-s0-{name}")
    return folder


def test_a_finished_run_is_evaluated_to_the_scores_that_it_had(old: Path, tmp_path: Path) -> None:
    folder = old / "unet-1cases-s0-finished"
    succeed("eval", f"run={folder}", "device=cpu", cwd=tmp_path)
    then, now = results(folder)["test"], results(folder, "results_test.json")["test"]
    assert now["dice"] == pytest.approx(then["dice"], abs=1e-4)
    assert now["hd95"] == pytest.approx(then["hd95"], abs=0.5)


def test_a_finished_run_predicts_and_is_reported(old: Path, tmp_path: Path) -> None:
    Image.fromarray(np.arange(1600, dtype=np.uint8).reshape(40, 40)).save(tmp_path / "a.png")
    folder = old / "unet-1cases-s0-finished"
    succeed("predict", f"run={folder}", "input=a.png", "output=masks", "device=cpu", cwd=tmp_path)
    assert Image.open(tmp_path / "masks/a.png").size == (40, 40)
    succeed("report", "outputs", "--no-figures", cwd=tmp_path)
    (row,) = table(tmp_path / "outputs/report.csv")
    assert (row["method"], row["val Dice %"]) == ("mean_teacher", "1.46")


def test_the_command_of_a_finished_run_shows_its_results_and_changes_nothing(old: Path, tmp_path: Path) -> None:
    folder = old / "unet-1cases-s0-finished"
    before = {file: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    assert "is finished" in succeed("train", *WORDS, "tag=finished", cwd=tmp_path)
    assert {file: file.read_bytes() for file in before} == before


def test_a_stopped_run_goes_on_to_the_weights_of_one_that_was_not_stopped(old: Path, tmp_path: Path) -> None:
    output = succeed("train", *WORDS, "tag=stopped", cwd=tmp_path)
    assert "going on from step 2 of 4" in output
    ends = [torch.load(old / f"unet-1cases-s0-{name}/last.pt", weights_only=True) for name in ("finished", "stopped")]
    assert ends[0]["method"].keys() == ends[1]["method"].keys()
    for key, value in ends[0]["method"].items():
        torch.testing.assert_close(
            ends[1]["method"][key], value, rtol=1e-4, atol=1e-5
        )  # another machine rounds otherwise
    assert results(old / "unet-1cases-s0-stopped")["selected_by"]["metric"] == "dice"


def test_another_setting_of_an_old_run_is_still_another_run(old: Path, tmp_path: Path) -> None:
    code, output = run("train", *WORDS, "tag=stopped", "optimizer.lr=0.5", cwd=tmp_path)
    assert code == 1
    first, differing = output.partition("error: ")[2].splitlines()
    assert "holds a run of another configuration (optimizer.lr). Give this run a name of its own" in first
    assert differing.split() == ["optimizer.lr:", "0.03", "there,", "0.5", "now"]


def test_a_default_that_has_changed_since_is_named(old: Path, tmp_path: Path) -> None:
    code, output = run("train", *(word for word in WORDS if "ema_decay" not in word), "tag=stopped", cwd=tmp_path)
    assert code == 1
    assert "holds a run of another configuration (method.ema_decay)" in output
    assert "method.ema_decay: 0.99 there, auto now" in output


def test_the_configuration_is_brought_to_the_keys_and_places_of_this_version(old: Path) -> None:
    folder = old / "unet-1cases-s0-finished"
    written, now = yaml.safe_load((folder / "config.yaml").read_text()), read_config(folder)
    assert now["recipe"] == written["dataset"]["recipe"]
    assert "recipe" not in now["dataset"]
    assert (now["select"], now["metrics"]["more"], now["passes"]) == ("auto", [], "auto")
    assert current(now) == now
    read(RunSettings, now)
    text = json.dumps(now)
    targets = [word.split('"')[1] for word in text.split('"_target_": ')[1:]]
    for target in targets:
        module, _, name = target.rpartition(".")
        assert hasattr(__import__(module, fromlist=[name]), name), target


def test_a_run_whose_results_know_no_hash_is_not_doubted(old: Path, tmp_path: Path) -> None:
    folder = old / "unet-1cases-s0-finished"
    assert "weights_sha256" not in results(folder)
    assert "best.pt is not" not in succeed("eval", f"run={folder}", "device=cpu", cwd=tmp_path)


def test_volumes_of_a_folder_are_read_as_version_01_read_them() -> None:
    written = {"dataset": {"_target_": "ssl4seg.data.folder.Folder", "root": "mine"}}
    assert current(written)["dataset"].items() >= {"orientation": "stored", "slice_axis": "z"}.items()
    keys = {"orientation": "canonical", "slice_axis": "x", "skip_orphans": True, "channel_files": True}
    now = {"dataset": {"_target_": "ssl4seg.data.folder.Folder", **keys}}
    assert current(now)["dataset"] == now["dataset"]
    assert "orientation" not in current({"dataset": {"_target_": "ssl4seg.data.acdc.ACDC"}})["dataset"]


def test_auto_stays_the_published_mean_for_voc() -> None:
    voc = {"dataset": {"_target_": "ssl4seg.data.voc2012.VOC2012"}, "recipe": {"lr": 0.007}}
    for select, expected in (("auto", "iou/mean"), ("dice", "dice")):
        found = current(voc | {"select": select})
        assert (found["select"], found["recipe"]["select"]) == (expected, "iou/mean")
        assert current(found) == found
    now = voc | {"select": "auto", "recipe": {"select": "iou/mean"}}  # somebody typed select=auto
    assert current(now)["select"] == "auto"


def test_a_class_that_has_another_name_now_is_found() -> None:
    former = {"_target_": "ssl4seg.networks.dinov2_dpt.DINOv2DPT", "channels": 64}
    assert current({"network": former})["network"] == former | {"_target_": "ssl4seg.networks.vit_dpt.ViTDPT"}
