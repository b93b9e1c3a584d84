"""What a user does in the first hours: mend a mistake and go on, sweep, score again, predict in place."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
import pytest
import torch
import yaml
from folders import write_root
from helpers import (
    MACHINE,
    PHANTOM,
    SMALL,
    acdc,
    composed,
    refused,
    results,
    run_two,
    save_nifti,
    succeed,
    table,
    write_h5,
)
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from ssl4seg.commands.conf import Laid, conf_dir, laid
from ssl4seg.commands.evaluation import circumstances, evaluate_checkpoint
from ssl4seg.commands.help import help_text
from ssl4seg.data.phantom import Phantom
from ssl4seg.networks.unet import UNet
from ssl4seg.report.collect import collect

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


def test_eval_that_measures_otherwise_writes_beside_the_runs_own_files(home: Path) -> None:
    before = {file: file.read_bytes() for file in (home / RUN).rglob("*") if file.is_file()}
    scored = {
        "test": (),
        "test-ssl4mis": ("protocol=ssl4mis",),
        "val-last": ("split=val", "checkpoint=last"),
        "test-metrics.unit=mm": ("metrics.unit=mm", "metrics.empty=nan"),  # the run has nan too
        "test-last-dataset.num_test=2": ("dataset.num_test=2", "checkpoint=last"),
        "test-inference=sliding": ("inference=sliding",),
    }
    for ending, keys in scored.items():
        output = succeed("eval", f"run={RUN}", "device=cpu", *keys, cwd=home)
        assert f"{RUN}/results_{ending}.json" in output
    names = {file.name for file in (home / RUN).iterdir()} - {file.name for file in before}
    cases = {f"cases_{ending}.csv" for ending in scored if ending != "test"}
    assert names - {"tensorboard"} == {f"results_{ending}.json" for ending in scored} | cases
    assert {file: file.read_bytes() for file in before} == before


SCALES = "inference.scales=[0.5,0.75,1.0,1.25,1.5,1.75]"


def evaluation(*overrides: str) -> Laid:
    """What ssl4seg-eval hands to `evaluate_checkpoint`."""
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        composition: Any = compose("eval", [*overrides], return_hydra_config=True)
    config = OmegaConf.masked_copy(composition, [*composition.keys() - {"hydra"}])
    return laid("eval", config, composition.hydra)


@pytest.mark.parametrize(
    ("trained", "overrides", "ending"),
    [
        ("inference=whole", "inference=sliding", "-inference=sliding"),
        ("inference=sliding", "inference=sliding", ""),
        (
            "inference=whole",
            f"inference=sliding {SCALES} inference.flip=true",
            "-inference=sliding-inference.flip=True-inference.scales=0.5_0.75_1.0_1.25_1.5_1.75",
        ),
        (f"inference=whole {SCALES}", SCALES, ""),
        # As the run's scales, but not as inference=sliding alone would be.
        (
            f"inference=whole {SCALES}",
            f"inference=sliding {SCALES}",
            "-inference=sliding-inference.scales=0.5_0.75_1.0_1.25_1.5_1.75",
        ),
        ("", "dataset=folder num_threads=1", "-dataset=folder"),
        ("inference=sliding", "inference.window=48", "-inference.window=48"),  # a key that the default choice has not
        ("method=mean_teacher", "method.predict_with=teacher", "-method.predict_with=teacher"),
        (
            "",
            "postprocess=[crf,superpixels] postprocess.crf.iterations=3",
            "-postprocess=crf+superpixels-postprocess.crf.iterations=3",
        ),
    ],
)
def test_the_files_of_an_evaluation_are_named_by_what_was_chosen(
    trained: str, overrides: str, ending: str, tmp_path: Path
) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(composed(*trained.split())))
    assert circumstances(evaluation(f"run={tmp_path}", *overrides.split())) == ending


class Counted(Phantom):
    """Knows how often it was made."""

    made: ClassVar[int] = 0

    def __init__(self, **keys: Any) -> None:
        super().__init__(**keys)
        Counted.made += 1


def test_eval_of_bare_weights_makes_the_dataset_once(tmp_path: Path) -> None:
    torch.save(UNet(in_channels=1, num_classes=4, channels=[4, 8], dropout=[0, 0]).state_dict(), tmp_path / "a.pt")
    data = [key for key in PHANTOM if key.startswith(("dataset", "network", "device", "num_threads"))]
    weights = (f"network.weights={tmp_path}/a.pt", f"output={tmp_path}")
    evaluate_checkpoint(evaluation(*weights, *data, "split=val", f"dataset._target_={__name__}.Counted"))
    assert Counted.made == 1
    assert results(tmp_path, "results_val.json")["val"]["num_cases"] == 2


def test_eval_never_writes_into_the_folder_of_another_run(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / RUN, tmp_path / "other")
    for source in ((f"run={home / RUN}",), (f"network.weights={home / RUN}/best.pt", *SMALL)):
        output = refused("eval", *source, "device=cpu", "output=other", cwd=tmp_path)
        assert "output=other: is the folder of another run" in output


def test_eval_of_bare_weights_has_a_folder_of_its_own(home: Path, tmp_path: Path) -> None:
    data = [key for key in PHANTOM if key.startswith(("dataset", "network"))]
    weights = home / RUN / "best.pt"
    common = ("device=cpu", "precision=32", *data)
    output = succeed("eval", f"network.weights={weights}", *common, "protocol=ssl4mis", cwd=tmp_path)
    (found,) = (tmp_path / "outputs/eval/phantom-unet-best").glob("results_*.json")
    assert str(found.relative_to(tmp_path)) in output
    assert "ssl4mis" in found.name
    shutil.copy(weights, tmp_path / "best.pt")
    output = refused("eval", "network.weights=best.pt", *common, "protocol=ssl4mis", cwd=tmp_path)
    assert "output=DIR" in output


def test_eval_of_two_folders_overwrites_nothing(tmp_path: Path) -> None:
    torch.save(UNet(in_channels=1, num_classes=2, channels=[4, 8], dropout=[0, 0]).state_dict(), tmp_path / "a.pt")
    common = ("network.weights=a.pt", *MACHINE, *SMALL, "dataset=folder")
    for name in ("left", "right", "more/left"):
        write_root(tmp_path / name)
    for root in ("left", "right"):
        assert f"outputs/eval/{root}-unet-a/" in succeed("eval", *common, f"dataset.root={root}", cwd=tmp_path)
    first = (tmp_path / "outputs/eval/left-unet-a").glob("results_*.json")
    before = {file: file.read_bytes() for file in first}
    told = refused("eval", *common, "dataset.root=more/left", cwd=tmp_path)
    assert "holds the results on left; for more/left give another folder, output=DIR" in told
    assert {file: file.read_bytes() for file in before} == before
    assert len(before) == 1
    told = succeed("eval", *common, "dataset.root=more/left", "dataset.name=other", cwd=tmp_path)
    assert "outputs/eval/other-unet-a/" in told


def test_a_run_of_two_logged_spans_knows_its_speed(tmp_path: Path) -> None:
    succeed("train", *PHANTOM, "eval_every=1", cwd=tmp_path)
    assert results(tmp_path / RUN)["speed"]["step_seconds"] > 0


def test_the_time_of_a_run_includes_that_before_it_was_stopped(tmp_path: Path) -> None:
    folder = tmp_path / RUN
    succeed("train", *PHANTOM, cwd=tmp_path)
    assert 0 < results(folder)["speed"]["run_seconds"] < 100
    state = torch.load(folder / "last.pt", weights_only=True)
    torch.save(state | {"seconds": state["seconds"] + 1000}, folder / "last.pt")
    (folder / "results.json").unlink()
    succeed("train", *PHANTOM, cwd=tmp_path)
    assert 1000 < results(folder)["speed"]["run_seconds"] < 1100


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
        ("engine.eval_batch_size=0", "engine.eval_batch_size=0: expected a whole number from 1"),
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
    (tmp_path / "mine/experiment").mkdir(parents=True)
    (tmp_path / "mine/experiment/few.yaml").write_text("# @package _global_\nlabeled_cases: 2\n")
    mine = ("--config-dir", "mine", "experiment=few")
    for keys in (
        ("labeled_cases=1", "labeled_list=x"),
        ("labeled_ratio=0.5", "labeled_cases=1"),
        ("labeled_ratio=0.5", "labeled_list=x"),
        (*mine, "labeled_ratio=0.5"),
    ):
        output = refused("train", *keys, *PHANTOM, cwd=tmp_path)
        assert "only one of labeled_ratio, labeled_cases, labeled_list can be given" in output
    succeed("train", *mine, *PHANTOM, "labeled_cases=null", "labeled_ratio=0.5", "tag=half", cwd=tmp_path)
    assert results(tmp_path / RUN.with_name("unet-0.5-s0-half"))["labeled"]["cases"] == 2


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
    succeed("report", "outputs", "--no-figures", cwd=tmp_path)
    rows, runs = (table(tmp_path / "outputs" / name) for name in ("report.csv", "runs.csv"))
    assert [row["seeds"] for row in rows] == ["2", "2"]
    assert len(runs) == 4


def test_the_report_says_in_which_keys_rows_of_one_name_differ(home: Path, tmp_path: Path) -> None:
    for number, change in enumerate(({}, {"iterations": 6, "recipe.iterations": 6}, {"tag": "t"})):
        folder = tmp_path / f"run{number}"
        shutil.copytree(home / RUN, folder)
        config = yaml.safe_load((folder / "config.yaml").read_text())
        for key, value in change.items():
            group = config["recipe"] if key.startswith("recipe") else config
            group[key.rpartition(".")[2]] = value
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        if "tag" in change:
            (folder / "results.json").write_text(json.dumps(results(folder) | {"tag": "t"}))
    succeed("report", ".", "--no-figures", cwd=tmp_path)
    for name in ("report.csv", "runs.csv"):
        assert [row["differs"] for row in table(tmp_path / name)] == ["iterations=4", "iterations=6", ""]
    rows, _ = collect([tmp_path])
    assert [(row.key[-1], row.differs) for row in rows] == [("", "iterations=4"), ("", "iterations=6"), ("t", "")]
    assert not any(row.differs for row in collect([tmp_path / "run0", tmp_path / "run2"])[0])


def test_two_processes_end_together_where_the_run_is_finished_or_refused(home: Path) -> None:
    same = ("train", *PHANTOM, *SETTINGS)
    first, second = run_two(*same, cwd=home)
    assert (first.code, second.code) == (0, 0), first.output + second.output
    assert (first.output + second.output).count("is finished") == 1
    first, second = run_two(*same, "iterations=6", cwd=home)
    assert first.code == 1
    assert "another configuration" in first.output
    assert "Traceback" not in first.output + second.output


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
    succeed("train", *arguments, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})
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
