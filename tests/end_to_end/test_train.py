"""Whole runs of ssl4seg-train: what they leave behind, and that each key does what it says."""

import json
import math
import shutil
import statistics
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from helpers import (
    CLASSES,
    PHANTOM,
    acdc,
    composed,
    curve,
    differing,
    events,
    lasting,
    load,
    refused,
    results,
    run,
    script,
    shell,
    succeed,
    table,
    write_h5,
)

from ssl4seg.run.record import Record
from ssl4seg.run.training import Training, train
from ssl4seg.scoring.tables import TRUE_PIXELS, CaseTable

UAMT = ("method=uamt", "labeled_ratio=0.5", "engine.num_overlays=4")
RUN = Path("outputs/phantom/uamt/unet-0.5-s0")
NAMES = {"dataset": "phantom", "method": "supervised", "network": "unet"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a run started from the installed command, and what it printed."""
    home = tmp_path_factory.mktemp("whole")
    code, output = shell(script("train"), *PHANTOM, *UAMT, cwd=home)
    assert code == 0, output
    return home / RUN, output


# -- what a run leaves behind -----------------------------------------------------------------------------------------


def test_a_run_leaves_the_files_of_the_design_and_no_others(whole: tuple[Path, str]) -> None:
    files = {path.name for path in whole[0].iterdir() if not path.name.startswith(".")}
    tables = {"cases_val.csv", "cases_test.csv"}
    assert files == {
        "config.yaml",
        "split.json",
        "best.pt",
        "last.pt",
        "results.json",
        "tensorboard",
        "train.log",
        *tables,
    }


def test_the_screen_shows_split_validations_and_the_test_table(whole: tuple[Path, str]) -> None:
    output = whole[1]
    assert "2 of 4 patients, 30 of 60 slices" in output
    assert "step 2: val Dice" in output
    assert "step 4: val Dice" in output
    assert all(word in output for word in (*CLASSES, "mean", "Dice %", "HD95 mm", "ASD mm", "IoU %"))


def test_the_progress_bar_shows_dice_in_percent_as_the_tables_do() -> None:
    record = Record(None, step=0, total=1)
    table = CaseTable(["background", "organ"])
    table.rows = {"case": [{"dice": 0.8123, "hd95": 3.0, "asd": 1.0, "iou": 0.7, TRUE_PIXELS: 9}]}
    summary = table.summary()
    record.scores("val", 1, summary, {}, table.headline(summary))
    assert record.bar.tasks[0].fields["score"].startswith("Dice 81.23 %")


def test_results_hold_what_is_promised(whole: tuple[Path, str]) -> None:
    found = results(whole[0])
    assert {key: found[key] for key in ("dataset", "method", "network", "seed")} == {
        **NAMES,
        "method": "uamt",
        "seed": 0,
    }
    assert found["labeled"] == {"ratio": 0.5, "cases": 2, "images": 30, "of_cases": 4, "of_images": 60}
    assert (found["status"], found["iterations"]) == ("finished", 4)
    assert found["best_step"] in (2, 4)
    assert found["selected_by"] == {"split": "val", "metric": "dice", "class": "mean"}
    assert set(found["speed"]) == {"step_seconds", "images_per_second", "eval_seconds", "run_seconds"}
    assert found["peak_memory_bytes"] > 0
    assert "torch" in found["versions"]
    for split in ("val", "test"):
        assert found[split]["distance_unit"] == "mm"
        for metric in ("dice", "hd95", "asd", "iou"):
            scores = found[split][metric]
            assert list(scores) == ["mean", *CLASSES]
            assert scores["mean"] == pytest.approx(statistics.fmean(scores[name] for name in CLASSES))


@pytest.mark.parametrize("split", ["val", "test"])
def test_case_tables_average_to_the_results(whole: tuple[Path, str], split: str) -> None:
    rows, scores = table(whole[0] / f"cases_{split}.csv"), results(whole[0])[split]
    assert len(rows) == 2 * len(CLASSES)
    for metric in ("dice", "hd95", "asd", "iou"):
        for name in CLASSES:
            mean = statistics.fmean(float(row[metric]) for row in rows if row["class"] == name)
            assert mean == pytest.approx(scores[metric][name], rel=1e-5)


def test_split_file_lists_every_training_case_once(whole: tuple[Path, str]) -> None:
    split = json.loads((whole[0] / "split.json").read_text())
    assert split["labeled_groups"] == ["phantom0000", "phantom0001"]
    assert split["labeled"] == [f"phantom000{n}_{phase}" for n in (0, 1) for phase in ("ed", "es")]
    assert split["unlabeled"] == [f"phantom000{n}_{phase}" for n in (2, 3) for phase in ("ed", "es")]


def test_best_model_is_the_one_of_the_best_validation(acdc_run: Path) -> None:
    best, found = load(acdc_run / "best.pt"), results(acdc_run)
    dice = curve(acdc_run, "val/dice/mean")
    assert len(set(dice.values())) > 10
    assert found["val"]["dice"]["mean"] == pytest.approx(max(dice.values()))
    assert best["step"] == found["best_step"] == max(dice, key=lambda step: (dice[step], -step))


# -- TensorBoard ------------------------------------------------------------------------------------------------------


def test_tensorboard_holds_the_promised_tags(whole: tuple[Path, str]) -> None:
    tags = events(whole[0]).Tags()
    metrics = {
        f"{split}/{metric}/{name}"
        for split in ("val", "test")
        for metric in ("dice", "hd95", "asd", "iou")
        for name in ("mean", *CLASSES)
    }
    terms = {"loss", "supervised", "consistency", "lr", "consistency_weight", "entropy_threshold"}
    final = {f"final/{split}/{metric}/mean" for split in ("val", "test") for metric in ("dice", "hd95", "asd", "iou")}
    pseudo = {tag for tag in tags["scalars"] if tag.startswith("pseudo/")}
    assert {"pseudo/coverage", "pseudo/calibration_error", "pseudo/teacher_distance"} <= pseudo
    assert set(tags["scalars"]) - pseudo == metrics | final | {f"train/{term}" for term in terms}
    pictures = {f"val/overlay/phantom1000_{phase}" for phase in ("ed", "es")}
    assert pictures <= set(tags["images"])
    assert any(tag.startswith("config") for tag in tags["tensors"])


def test_tensorboard_curves_have_a_point_a_step(whole: tuple[Path, str]) -> None:
    for tag in ("loss", "supervised", "consistency", "lr", "entropy_threshold"):
        assert list(curve(whole[0], f"train/{tag}")) == [1, 2, 3, 4]
    for tag in ("val/dice/mean", "val/dice/myocardium", "val/hd95/mean", "val/iou/mean"):
        assert list(curve(whole[0], tag)) == [2, 4]
    assert len(curve(whole[0], "test/dice/mean")) == 1


def test_tensorboard_loss_is_the_sum_of_its_terms(whole: tuple[Path, str]) -> None:
    total, *terms = (curve(whole[0], f"train/{tag}") for tag in ("loss", "supervised", "consistency"))
    assert total == pytest.approx({step: sum(term[step] for term in terms) for step in total}, rel=1e-6)


def test_tensorboard_holds_the_configuration_and_the_hparams(whole: tuple[Path, str]) -> None:
    accumulator = events(whole[0])
    tag = next(tag for tag in accumulator.Tags()["tensors"] if tag.startswith("config"))
    text = accumulator.Tensors(tag)[0].tensor_proto.string_val[0].decode()
    assert "labeled_ratio: 0.5" in text
    assert "num_passes: 8" in text
    hparams = accumulator.PluginTagToContent("hparams")
    start = next(content for name, content in hparams.items() if "session_start" in name)
    assert all(word in start for word in (b"labeled_ratio", b"uamt", b"method.num_passes", b"seed"))
    assert b"test/dice/mean" in next(content for name, content in hparams.items() if "experiment" in name)


def test_overlays_show_image_label_and_prediction_side_by_side(whole: tuple[Path, str]) -> None:
    accumulator = events(whole[0])
    for tag in ("val/overlay/phantom1000_ed", "val/overlay/phantom1000_es"):
        pictures = accumulator.Images(tag)
        assert [picture.step for picture in pictures] == [2, 4]
        assert all(picture.width % 3 == 0 for picture in pictures)


# -- the same folder again --------------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_same_command_again_says_finished_and_changes_nothing(whole: tuple[Path, str]) -> None:
    before = contents(whole[0])
    output = succeed("train", *PHANTOM, *UAMT, cwd=whole[0].parents[3])
    assert "is finished" in output
    assert "Dice %" in output
    assert contents(whole[0]) == before


def test_where_a_run_is_computed_may_differ(whole: tuple[Path, str]) -> None:
    before = contents(whole[0])
    others = ("engine.log_every=3", "num_threads=2", "engine.eval_batch_size=7")
    assert "is finished" in succeed("train", *PHANTOM, *UAMT, *others, cwd=whole[0].parents[3])
    assert contents(whole[0]) == before


def test_another_configuration_is_refused_with_the_keys_that_differ(whole: tuple[Path, str]) -> None:
    before = contents(whole[0])
    output = refused("train", *PHANTOM, *UAMT, "iterations=6", "optimizer.lr=0.5", cwd=whole[0].parents[3])
    assert "iterations: 4 there, 6 now" in output
    assert "optimizer.lr: 0.03 there, 0.5 now" in output
    assert "batch_size" not in output
    assert "tag=" in output
    assert contents(whole[0]) == before


def test_resume_false_refuses_a_folder_that_holds_a_run(whole: tuple[Path, str]) -> None:
    before = contents(whole[0])
    assert "resume=false" in refused("train", *PHANTOM, *UAMT, "resume=false", cwd=whole[0].parents[3])
    assert contents(whole[0]) == before


def test_tag_makes_a_folder_of_its_own(tmp_path: Path) -> None:
    succeed("train", *PHANTOM, "tag=mine", "resume=false", "split_seed=3", cwd=tmp_path)
    assert results(tmp_path / "outputs/phantom/supervised/unet-0.1-p3-s0-mine")["tag"] == "mine"


def test_two_runs_of_one_configuration_are_equal_to_the_last_bit(whole: tuple[Path, str], tmp_path: Path) -> None:
    succeed("train", *PHANTOM, *UAMT, cwd=tmp_path)
    for checkpoint in ("best.pt", "last.pt"):
        assert not differing(load(whole[0] / checkpoint), load(tmp_path / RUN / checkpoint))
    assert lasting(whole[0]) == lasting(tmp_path / RUN)


def test_another_seed_is_another_run(whole: tuple[Path, str], tmp_path: Path) -> None:
    succeed("train", *PHANTOM, *UAMT, "seed=1", cwd=tmp_path)
    other = load(tmp_path / RUN.with_name("unet-0.5-s1") / "last.pt")["method"]
    assert differing(load(whole[0] / "last.pt")["method"], other)


# -- one step by hand -------------------------------------------------------------------------------------------------

ONE_STEP = (
    *PHANTOM,
    "iterations=1",
    "network.dropout=[0,0]",
    "schedule=constant",
    "optimizer.lr=0.1",
    "optimizer.momentum=0",
    "optimizer.weight_decay=0",
)


def trained(path: Path, *overrides: str) -> dict[str, torch.Tensor]:
    """The student's weights after the run."""
    train(composed(*ONE_STEP, *overrides), NAMES, path)
    return load(path / "last.pt")["method"]


def by_hand(batches: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The student's parameters before the step, and their gradients averaged over so many batches."""
    training = Training(composed(*ONE_STEP), NAMES, None)
    method = training.method.to(memory_format=torch.channels_last).train()
    losses = [method("segmenter", training.batches(number), None)["supervised"] for number in range(batches)]
    parameters = dict(method.named_parameters())
    gradients = [torch.autograd.grad(loss, list(parameters.values())) for loss in losses]
    mean = [torch.stack(parts).mean(0) for parts in zip(*gradients, strict=True)]
    return {name: p.detach() for name, p in parameters.items()}, dict(zip(parameters, mean, strict=True))


@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_a_step_follows_the_gradient_averaged_over_the_accumulated_batches(tmp_path: Path, accumulate: int) -> None:
    after = trained(tmp_path / "run", f"engine.accumulate={accumulate}")
    for name, (start, gradient) in paired(*by_hand(accumulate)).items():
        torch.testing.assert_close(after[name], start - 0.1 * gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("share", [0.5, 2.0])
def test_clip_norm_shortens_a_gradient_that_is_longer(tmp_path: Path, share: float) -> None:
    start, gradient = by_hand(1)
    norm = math.sqrt(sum(float(g.square().sum()) for g in gradient.values()))
    after = trained(tmp_path / "run", f"engine.clip_norm={share * norm}")
    moved = math.sqrt(sum(float((after[name] - start[name]).square().sum()) for name in start))
    assert moved == pytest.approx(0.1 * min(share, 1) * norm, rel=1e-4)


def paired(first: dict[str, Any], second: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {name: (first[name], second[name]) for name in first}


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        (["schedule=constant"], [1, 1, 1, 1]),
        (["schedule=poly"], [(1 - t / 4) ** 0.9 for t in range(4)]),
        (["schedule=poly", "schedule.power=2"], [1, 9 / 16, 1 / 4, 1 / 16]),
        (["schedule=cosine", "schedule.final=0.5"], [0.75 + 0.25 * math.cos(math.pi * t / 4) for t in range(4)]),
        (["schedule=constant", "schedule.warmup=4"], [0.25, 0.5, 0.75, 1]),
        (["schedule=constant", "optimizer=adamw"], [1, 1, 1, 1]),
    ],
    ids=lambda value: ",".join(value) if isinstance(value[0], str) else "",
)
def test_the_learning_rate_follows_the_schedule(tmp_path: Path, schedule: list[str], factors: list[float]) -> None:
    train(composed(*PHANTOM, *schedule, "optimizer.lr=0.02"), NAMES, tmp_path / "run")
    rates = curve(tmp_path / "run", "train/lr")
    assert rates == pytest.approx({step: 0.02 * factor for step, factor in enumerate(factors, start=1)})


# -- what training must not see ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def h5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_h5(tmp_path_factory.mktemp("h5") / "ACDC")


def weights_with(source: Path, folder: Path, *changed: int, arrays: tuple[str, ...]) -> dict[str, Any]:
    """best.pt of a UA-MT run with one labelled patient, the given arrays of some patients replaced by noise."""
    root = folder / "ACDC"
    shutil.copytree(source, root)
    rng = np.random.default_rng(0)
    for number in changed:
        for path in (root / "data").glob(f"patient{number:03d}_*.h5"):
            with h5py.File(path, "r+") as file:
                for array in arrays:
                    noise = rng.integers(0, 4, file[array].shape) if array == "label" else rng.random(file[array].shape)
                    file[array][:] = noise
    succeed("train", *acdc(root), "method=uamt", "labeled_cases=1", cwd=folder)
    return load(folder / "outputs/acdc/uamt/unet-1cases-s0/best.pt")


@pytest.fixture(scope="module")
def untouched(h5: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return weights_with(h5, tmp_path_factory.mktemp("untouched"), arrays=())


def test_masks_of_unlabelled_cases_change_no_weight(h5: Path, untouched: dict[str, Any], tmp_path: Path) -> None:
    paths = differing(untouched, weights_with(h5, tmp_path, 2, 3, arrays=("label",)))
    assert paths  # the diagnosis has seen them, and nothing else
    assert all("/pseudo_labels/" in path for path in paths)


def test_images_of_unlabelled_cases_do(h5: Path, untouched: dict[str, Any], tmp_path: Path) -> None:
    assert differing(untouched["method"], weights_with(h5, tmp_path, 2, 3, arrays=("image",))["method"])


def test_the_test_split_changes_neither_weights_nor_selection(
    h5: Path, untouched: dict[str, Any], tmp_path: Path
) -> None:
    assert not differing(untouched, weights_with(h5, tmp_path, 5, arrays=("image", "label")))


# -- sweeps -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str]:
    """2 methods x 2 seeds, and as many runs that ask for 99 of 4 patients and so must fail."""
    home = tmp_path_factory.mktemp("sweep")
    axes = ("method=supervised,mean_teacher", "labeled_cases=99,1", "seed=0,1")
    code, output = run("train", "-m", *PHANTOM, *axes, "iterations=40", "eval_every=20", "optimizer.lr=0.2", cwd=home)
    return home, code, output


def test_a_multirun_makes_one_tree(sweep: tuple[Path, int, str]) -> None:
    finished = {path.parent for path in sweep[0].rglob("results.json") if results(path.parent)["status"] == "finished"}
    assert finished == {
        sweep[0] / f"outputs/phantom/{method}/unet-1cases-s{seed}"
        for method in ("supervised", "mean_teacher")
        for seed in (0, 1)
    }


def test_a_failing_run_does_not_stop_the_others_but_is_told(sweep: tuple[Path, int, str]) -> None:
    _, code, output = sweep
    assert code == 1
    assert "4 run(s) failed" in output
    assert "method=supervised labeled_cases=99 seed=0 " in output.replace("\n", " ")
    assert "\n  labeled_cases=99: expected 1 to 4" in output
    assert "Traceback" not in output


def test_a_run_that_is_refused_before_its_first_step_leaves_no_folder(sweep: tuple[Path, int, str]) -> None:
    assert not list(sweep[0].rglob("*99cases*"))


def test_the_report_gives_mean_and_deviation_over_seeds(sweep: tuple[Path, int, str]) -> None:
    output = succeed("report", "outputs", "--no-figures", cwd=sweep[0])
    lines = (sweep[0] / "outputs/report.csv").read_text().splitlines()
    assert len(lines) == 3
    for method, line in zip(("supervised", "mean_teacher"), lines[1:], strict=True):
        tests = [results(sweep[0] / f"outputs/phantom/{method}/unet-1cases-s{seed}")["test"] for seed in (0, 1)]
        cells = line.split(",")
        assert cells[:4] == ["phantom", method, "unet", "1 of 4 (26.7 % of images)"]
        for cell, metric, scale in ((cells[-2], "dice", 100), (cells[-1], "hd95", 1)):
            a, b = (scale * test[metric]["mean"] for test in tests)
            assert cell == f"{(a + b) / 2:.2f} ± {abs(a - b) / math.sqrt(2):.2f}"
            assert cell in output
    written = {(row["method"], row["seed"]): row for row in table(sweep[0] / "outputs/runs.csv")}
    assert len(written) == 4
    first = results(sweep[0] / "outputs/phantom/supervised/unet-1cases-s0")
    assert float(written["supervised", "0"]["test_dice"]) == first["test"]["dice"]["mean"]


def test_the_report_tells_which_runs_are_not_finished(sweep: tuple[Path, int, str]) -> None:
    folder = sweep[0] / "outputs/phantom/uamt/unet-1cases-s0"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("seed: 0\n")
    (folder / "results.json").write_text(json.dumps({"status": "failed", "error": "what\nand what to do"}))
    output = succeed("report", "outputs", "--no-figures", cwd=sweep[0])
    assert "unet-1cases-s0: failed\n    what\n    and what to do\n" in output
