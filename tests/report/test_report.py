"""The report on run folders made by hand: every number is worked out here."""

import csv
import json
import logging
import math
import os
import re
import shutil
import struct
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from helpers import PHANTOM, refused, results, succeed, table
from matplotlib.figure import Figure
from PIL import Image
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c as crc
from torch.utils.tensorboard import SummaryWriter

from ssl4seg.data.case import Volume
from ssl4seg.errors import UserError
from ssl4seg.files import unquoted
from ssl4seg.report import command, compare, figures, patients, sheets
from ssl4seg.report.collect import Main, Run, collect
from ssl4seg.report.figure_folder import FigureFolder
from ssl4seg.report.names import PATIENT, short
from ssl4seg.run.folder import FAILURES, read_config
from ssl4seg.run.settings import RunSettings, read
from ssl4seg.scoring.metrics import score
from ssl4seg.scoring.pictures import palette

CASES = ("patient1_frame01", "patient1_frame02", "patient2_frame01", "patient2_frame02", "other")


def make_run(
    root: Path,
    method: str,
    dice: Sequence[float],
    *,
    cases: int = 1,
    seed: int = 0,
    main: str = "dice",
    tag: str = "",
    config: Mapping[str, Any] | None = None,
    labeled: Mapping[str, Any] | None = None,
) -> Path:
    """Make a finished run of one class, in which the CASES of test score `dice`; on val it scores 0.1 less.

    Args:
        config, labeled: entries that replace or join those of config.yaml, and of `labeled` in results.json.
    """
    folder = root / f"{method}-{cases}-{seed}{tag and '-'}{re.sub('[^a-z0-9]', '', tag)}"
    (folder / "tensorboard").mkdir(parents=True)
    settings = {"method": {"_target_": method}, "labeled_cases": cases, "seed": seed, "iterations": 20, "tag": tag}
    (folder / "config.yaml").write_text(yaml.safe_dump({**settings, **(config or {})}))
    mean = sum(dice) / len(dice)
    distances = {"hd95": {"mean": 10 * mean, "heart": 10 * mean}, "distance_unit": "mm"} if main == "dice" else {}
    test = {main: {"mean": mean, "heart": mean}, "num_cases": len(dice), **distances}
    result = {
        "dataset": "hearts",
        "method": method,
        "network": "unet",
        "seed": seed,
        "tag": tag or None,
        "labeled": {
            **dict.fromkeys(("of_cases", "of_images"), 8),
            **dict.fromkeys(("cases", "images"), cases),
            "ratio": cases / 8,
            **(labeled or {}),
        },
        "iterations": 20,
        "status": "finished",
        "selected_by": f"val {main} mean",
        "tested_on": "test" if main == "dice" else "val",
        "empty": "worst",
        "best_step": 20,
        "speed": {"run_seconds": 60.0 + 20 * seed},
        "val": {**test, main: {"mean": mean - 0.1, "heart": mean - 0.1}},
        "test": test,
    }
    (folder / "results.json").write_text(json.dumps(result))
    with (folder / "cases_test.csv").open("w") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "class", main])
        writer.writerows((case, "heart", value) for case, value in zip(CASES, dice, strict=True))
    with SummaryWriter(str(folder / "tensorboard")) as events:
        for step in (10, 20):
            events.add_scalar(f"val/{main}/mean", mean * step / 20, step)
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two methods, two seeds, one and two labelled cases; the bound with all 8."""
    for cases, more in ((1, 0.0), (2, 0.1)):
        make_run(tmp_path / "runs", "supervised", [0.2 + more] * 5, cases=cases)
        make_run(tmp_path / "runs", "supervised", [0.4 + more] * 5, cases=cases, seed=1)
        make_run(tmp_path / "runs", "a_teacher", [0.5, 0.3, 0.4, 0.4, 0.2], cases=cases)
        make_run(tmp_path / "runs", "a_teacher", [0.7, 0.5, 0.2, 0.4, 0.2], cases=cases, seed=1)
    make_run(tmp_path / "runs", "supervised", [0.9] * 5, cases=8)
    return tmp_path / "runs"


Tell = Callable[..., str]


@pytest.fixture
def tell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Tell:
    """Run the command in this process; returns its output on both streams and its last message."""

    def call(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["ssl4seg-report", *map(str, arguments)])
        try:
            command.main()
        except SystemExit as end:
            return "".join(capsys.readouterr()) + str(end.code)
        return "".join(capsys.readouterr())

    return call


def report(root: Path, *arguments: object) -> tuple[str, Path]:
    """Run the command; returns its output on the screen, and the folder of its files."""
    output = root.parent / "report"
    return succeed("report", root, "--output", output, *arguments, cwd=root.parent), output


# -- tables -----------------------------------------------------------------------------------------------------------


def test_val_and_test_stand_side_by_side_as_mean_and_deviation_over_seeds(root: Path) -> None:
    _, output = report(root, "--no-figures")
    rows = [list(row.values()) for row in table(output / "report.csv")]
    assert [row[:1] + row[1:4] + row[6:7] + row[8:] for row in rows] == [
        ["hearts", "supervised", "unet", "1 of 8 (12.5 %)", "2", "20.00 ± 14.14", "30.00 ± 14.14", "3.00 ± 1.41"],
        ["hearts", "a_teacher", "unet", "1 of 8 (12.5 %)", "2", "28.00 ± 2.83", "38.00 ± 2.83", "3.80 ± 0.28"],
        ["hearts", "supervised", "unet", "2 of 8 (25 %)", "2", "30.00 ± 14.14", "40.00 ± 14.14", "4.00 ± 1.41"],
        ["hearts", "a_teacher", "unet", "2 of 8 (25 %)", "2", "28.00 ± 2.83", "38.00 ± 2.83", "3.80 ± 0.28"],
        ["hearts", "supervised", "unet", "8 of 8 (100 %)", "1", "80.00", "90.00", "9.00"],
    ]
    runs = table(output / "runs.csv")
    assert [float(run["test_dice"]) for run in runs[:4]] == pytest.approx([0.2, 0.4, 0.36, 0.4])
    assert [run["seed"] for run in runs] == ["0", "1"] * 4 + ["0"]
    assert [row["minutes"] for row in table(output / "report.csv")] == ["1.17"] * 4 + ["1"]
    assert [float(run["seconds"]) for run in runs[:2]] == [60, 80]


def test_markdown_says_once_what_all_lines_share(root: Path) -> None:
    _, output = report(root, "--no-figures")
    text = (output / "report.md").read_text()
    assert "\nDataset hearts, network unet. Minutes: wall time of a run. 20 steps. Mean ± " in text
    assert "\n| method | labels | seeds | minutes | val Dice % | test Dice % | test HD95 mm |\n" in text
    assert "\n| a_teacher | 1 of 8 (12.5 %) | 2 | 1.17 | 28.00 ± 2.83 | 38.00 ± 2.83 | 3.80 ± 0.28 |\n" in text


def test_the_caption_tells_the_steps_and_the_image_size_that_all_runs_share(tmp_path: Path) -> None:
    make_run(tmp_path, "uamt", [0.5] * 5, config={"dataset": {"image_size": 64}})
    make_run(tmp_path, "dan", [0.5] * 5, config={"dataset": {"image_size": 64}})
    assert "20 steps, image_size 64. " in sheets.results(collect([tmp_path])[0], classes=False)[0].caption
    make_run(tmp_path, "ict", [0.5] * 5, config={"iterations": 30, "dataset": {"image_size": 64}})
    caption = sheets.results(collect([tmp_path])[0], classes=False)[0].caption
    assert "image_size 64. " in caption
    assert "20 steps" not in caption


def test_other_settings_of_rows_are_told_beneath_tables_and_figures(tmp_path: Path) -> None:
    make_run(tmp_path, "supervised", [0.5] * 5, config={"iterations": 8, "optimizer": {"lr": 0.1}})
    make_run(tmp_path, "uamt", [0.5] * 5, config={"iterations": 40, "method": {"weight": 2}})
    make_run(tmp_path, "dan", [0.5] * 5, config={"iterations": 40})
    told = "Other settings differ between rows: iterations (8 supervised, 40 dan and uamt), optimizer.lr."
    rows, _ = collect([tmp_path])
    assert told in sheets.results(rows, classes=False)[0].caption
    (group,) = figures.groups(rows)
    drawings = [*figures.draw(group, re.compile(PATIENT), [])]
    assert len(drawings) == 3
    assert all(told in drawing.caption for drawing in drawings)
    same = [row for row in rows if row.method != "supervised"]
    assert "Other settings" not in sheets.results(same, classes=False)[0].caption


def test_what_a_column_tells_of_each_row_needs_no_note(tmp_path: Path) -> None:
    for steps in (8, 40):
        make_run(tmp_path / str(steps), "uamt", [0.5] * 5, config={"iterations": steps})
    rows, _ = collect([tmp_path])
    assert [row.differs for row in rows] == ["iterations=40", "iterations=8"]
    assert "Other settings" not in sheets.results(rows, classes=False)[0].caption


def test_of_many_other_settings_the_number_is_told(tmp_path: Path) -> None:
    make_run(tmp_path, "dan", [0.5] * 5, config={"views": {f"v{number}": 0 for number in range(9)}})
    make_run(tmp_path, "uamt", [0.5] * 5, config={"views": {f"v{number}": 1 for number in range(9)}})
    caption = sheets.results(collect([tmp_path])[0], classes=False)[0].caption
    assert "rows: views.v0, views.v1, views.v2, views.v3, views.v4, views.v5, 3 more." in caption


def test_latex_has_rules_of_booktabs_and_no_bare_special_characters(root: Path) -> None:
    _, output = report(root, "--no-figures")
    lines = (output / "report.tex").read_text().splitlines()
    assert (
        r"    a\_teacher & 1 of 8 (12.5 \%) & 2 & 1.17 & 28.00 $\pm$ 2.83 & 38.00 $\pm$ 2.83 & 3.80 $\pm$ 0.28 \\"
        in lines
    )
    assert [line.strip() for line in (*lines[:2], *lines[3:7])] == [
        r"\begin{table}",
        r"\centering",
        r"\label{tab:results-on-hearts}",
        r"\begin{adjustbox}{max width=\linewidth}",
        r"\begin{tabular}{llrrrrr}",
        r"\toprule",
    ]
    for line in lines:
        assert not re.search(r"(?<!\\)[%#_]|[±Δ−…]|[ (]-\d", line), line
    assert sum(r"$-$5.00 & $-$20.00 to +10.00 &" in line for line in lines) == 1


def test_columns_for_every_class(root: Path) -> None:
    shown, output = report(root, "--no-figures", "--classes")
    row = table(output / "report.csv")[1]
    assert (row["heart Dice %"], row["heart HD95 mm"]) == ("38.00 ± 2.83", "3.80 ± 0.28")
    assert len(table(output / "report.csv")) == 5
    assert shown.index("Test Dice % of each class on hearts") < shown.index("Test HD95 mm of each class on hearts")
    assert "\n| method | labels | seeds | heart |\n" in (output / "report.md").read_text()


def test_tables_of_many_classes_are_cut_before_their_names_are(tmp_path: Path, tell: Tell) -> None:
    names = [f"a_rather_long_class_{number}" for number in range(8)]
    folder = make_run(tmp_path, "a_method_with_a_rather_long_name", [0.5] * 5)
    result = results(folder)
    result["test"]["dice"] |= dict.fromkeys(names, 0.25)
    (folder / "results.json").write_text(json.dumps(result))
    shown = tell(tmp_path, "--classes", "--no-figures")
    assert shown.count("a_method_with_a_rather_long_name") == 4  # results, Dice in two parts, HD95
    assert "Test Dice % of each class on hearts (2 of 2)" in shown
    assert "…" not in shown
    tables = [line for line in (tmp_path / "report.tex").read_text().splitlines() if r"\label" in line]
    assert len(set(tables)) == 4


def test_runs_that_are_scored_by_pixels(tmp_path: Path) -> None:
    for method, level in (("supervised", 0.3), ("fixmatch", 0.5)):
        make_run(tmp_path / "runs", method, [level] * 5, main="iou")
    shown, output = report(tmp_path / "runs", "--classes")
    row = table(output / "report.csv")[1]
    assert (row["val mIoU %"], row["test mIoU %"], row["heart IoU %"]) == ("40.00", "50.00", "50.00")
    assert not [name for name in row if "HD95" in name or "Dice" in name]
    assert "Test is val" in shown
    assert (output / "figures/hearts-unet-iou-1cases-patients.png").exists()


def pixel_run(root: Path, method: str, tumour: float, *, old: bool = False, **keys: Any) -> Path:
    """A run on pictures of a tumour and background; `old`: as version 0.1 chose and wrote it, by the mean over both."""
    folder = make_run(root, method, [tumour] * 5, main="iou", **keys)
    result = results(folder)
    means = {"mean": (tumour + 0.9) / 2} | ({} if old else {"foreground_mean": tumour})
    scores = {"iou": {**means, "background": 0.9, "tumour": tumour}, "miou": means["mean"], "num_cases": 3}
    chosen = "mean" if old else "foreground_mean"
    selected = {"split": "val", "metric": "iou", "class": chosen}
    result |= {"val": scores, "test": scores, "selected_by": "val iou mean" if old else selected}
    (folder / "results.json").write_text(json.dumps(result))
    lines = [("a", "background", 0.9), ("a", "tumour", tumour), ("b", "background", 1.0), ("c", "tumour", tumour / 2)]
    with (folder / "cases_test.csv").open("w") as file:
        csv.writer(file).writerows([("case", "class", "iou"), *lines])
    with SummaryWriter(str(folder / "tensorboard")) as events:
        for step in (10, 20):
            events.add_scalar(f"val/iou/{chosen}", tumour, step)
    return folder


def test_the_two_means_of_pixels_have_columns_of_their_own(tmp_path: Path, tell: Tell) -> None:
    for method, level in (("supervised", 0.1), ("fixmatch", 0.5)):
        pixel_run(tmp_path / "runs", method, level)
        pixel_run(tmp_path / "runs", method, level, old=True, seed=1)
    shown = tell(tmp_path / "runs", "--output", tmp_path / "report", "--classes")
    rows = {(row["method"], row["seeds"], row["differs"]): row for row in table(tmp_path / "report/report.csv")}
    new, old = "select=iou/foreground_mean", "select=iou/mean"
    assert set(rows) == {(method, "1", key) for method in ("supervised", "fixmatch") for key in (new, old)}
    for key, foreground in ((new, "50.00"), (old, "")):
        row = rows["fixmatch", "1", key]
        assert (row["test foreground IoU %"], row["test mIoU %"], row["tumour IoU %"]) == (foreground, "70.00", "50.00")
        assert row["val foreground IoU %"] == foreground
    assert "best on val by foreground IoU or mIoU" in shown
    names = {file.name for file in (tmp_path / "report/figures").iterdir()}
    assert {f"hearts-unet-{score}-1cases-steps.png" for score in ("iou", "foreground_iou")} <= names
    comparisons, _ = compared(tmp_path / "runs")
    assert [(c.row.main, c.baseline.main.title) for c in comparisons] == [
        (("iou", "foreground_mean"), "foreground IoU"),
        (("iou", "mean"), "mIoU"),
    ]
    with_runs = {row["folder"].rpartition("/")[2]: row for row in table(tmp_path / "report/runs.csv")}
    assert with_runs["fixmatch-1-0"]["test_foreground_iou"] == "0.5"
    assert with_runs["fixmatch-1-1"]["test_foreground_iou"] == ""


def test_a_patient_without_foreground_that_is_found_to_have_none_scores_1(tmp_path: Path) -> None:
    (row,), _ = collect([pixel_run(tmp_path, "fixmatch", 0.5)])
    assert compare.scores_of_cases(row.runs[0], row.main) == {"a": 0.5, "b": 1, "c": 0.25}
    assert compare.scores_of_cases(row.runs[0], Main("iou", "mean")) == {"a": 0.7, "b": 1, "c": 0.25}


def test_a_metric_of_ones_own_is_a_column_with_its_unit_and_direction(tmp_path: Path, tell: Tell) -> None:
    described = {"title": "surface Dice", "unit": "share", "higher_is_better": True}
    millimetres = {"title": "volume gap", "unit": "distance", "higher_is_better": False}
    for seed, value in ((0, 0.4), (1, 0.6)):
        folder = make_run(tmp_path / "runs", "supervised", [0.5] * 5, seed=seed)
        result = results(folder) | {"own_metrics": {"nsd": described, "gap": millimetres}}
        result["test"] |= {"nsd": {"mean": value, "heart": value}, "gap": 3.0}
        (folder / "results.json").write_text(json.dumps(result))
    make_run(tmp_path / "runs", "fixmatch", [0.5] * 5)
    other = make_run(tmp_path / "runs", "uamt", [0.5] * 5)
    number = {"nsd": described | {"unit": "number"}}  # another metric of the same name
    result = results(other) | {"own_metrics": number}
    result["test"]["nsd"] = {"mean": 7.0}
    (other / "results.json").write_text(json.dumps(result))
    shown = tell(tmp_path / "runs", "--no-figures", "--classes", "--output", tmp_path / "report")
    rows = {row["method"]: row for row in table(tmp_path / "report/report.csv")}
    heads = ("test surface Dice %", "test volume gap mm", "heart surface Dice %", "test surface Dice")
    assert [rows["supervised"][head] for head in heads] == ["50.00 ± 14.14", "3.00 ± 0.00", "50.00 ± 14.14", ""]
    assert [rows["fixmatch"][head] for head in heads] == ["", "", "", ""]
    assert [rows["uamt"][head] for head in heads] == ["", "", "", "7.00"]
    assert "Higher surface Dice is better. Lower volume gap is better." in " ".join(shown.split())
    assert "test surface Dice %" in (tmp_path / "report/report.md").read_text()
    runs = table(tmp_path / "report/runs.csv")
    assert sorted(row["test_nsd"] for row in runs) == ["", "0.4", "0.6", "7.0"]
    assert sorted(row["test_gap"] for row in runs) == ["", "", "3.0", "3.0"]


def test_a_run_below_two_of_the_folders_counts_once(root: Path) -> None:
    rows, _ = collect([root, root / "a_teacher-1-0", root.parent])
    assert [len(row.runs) for row in rows] == [2, 2, 2, 2, 1]


def test_files_that_never_end_or_hold_no_events_are_told(root: Path, tell: Tell) -> None:
    os.mkfifo(root / FAILURES)
    (root / "a_teacher-1-0/cases_test.csv").unlink()
    os.mkfifo(root / "a_teacher-1-0/cases_test.csv")
    os.mkfifo(root / "a_teacher-1-1/tensorboard/events.out.tfevents.9")
    (events,) = (root / "a_teacher-2-0/tensorboard").iterdir()
    record = b"\xff" * 20  # not an event, with right check sums
    head = struct.pack("<Q", len(record))
    events.write_bytes(head + struct.pack("<I", crc(head)) + record + struct.pack("<I", crc(record)))
    shown = tell(root)
    assert f"{FAILURES}: is a FIFO" in shown
    assert "a_teacher-1-0/cases_test.csv: is a FIFO" in shown
    assert "a_teacher-1-1/tensorboard/events.out.tfevents.9: is a FIFO" in shown
    assert "a_teacher-2-0/tensorboard: its curves cannot be read" in shown


# -- runs without results ---------------------------------------------------------------------------------------------


def test_runs_without_results_are_listed_with_the_reason(root: Path) -> None:
    for name, status in (("a", {"status": "failed", "error": "no <memory>\nleft"}), ("b", None)):
        (root / name).mkdir()
        (root / name / "config.yaml").write_text("seed: 0\n")
        if status:
            (root / name / "results.json").write_text(json.dumps(status))
    (root / "c").mkdir()
    (root / "c/config.yaml").write_text("seed: 0\n")
    (root / "c/results.json").write_text("{")
    failures = [("d", "seed=7", "first"), ("d", "seed=7", "later"), ("a", "seed=8", "has a folder now")]
    lines = [json.dumps({"sweep": "", "folder": f, "overrides": o, "error": error}) for f, o, error in failures]
    (root / FAILURES).write_text("\n".join(lines) + '\n{"sweep": "ab')  # the last is cut off
    shown, output = report(root, "--no-figures")
    assert f"{root}/a: failed\n    no <memory>\n    left\n" in shown
    assert f"{root}/b: not finished\n    no results.json yet\n" in shown
    assert f"{root}/c: damaged\n" in shown
    assert "seed=7: refused\n    later\n" in shown
    assert "first" not in shown
    assert "seed=8" not in shown
    assert f"{root}/{FAILURES}: damaged\n    1 of its lines cannot be read\n" in shown
    assert "no &lt;memory&gt;" in (output / "report.html").read_text()
    text = (output / "report.md").read_text()
    assert "\n- `seed=7`: refused\n\n      later\n" in text
    assert f"\n- `{root}/a`: failed\n\n      no <memory>\n      left\n" in text


def test_nothing_finished_is_an_error(tmp_path: Path) -> None:
    assert "holds no run folder" in refused("report", ".", cwd=tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text("seed: 0\n")
    assert "no run is finished yet" in refused("report", ".", cwd=tmp_path)


def test_when_all_runs_have_failed_nothing_of_an_earlier_report_stays(root: Path, tell: Tell) -> None:
    tell(root)
    (root / "figures/mine.png").write_text("not the report's")
    for file in root.rglob("results.json"):
        file.write_text(json.dumps({"status": "failed", "error": "no <memory>"}))
    assert tell(root).endswith("error: no run is finished yet")
    text = (root / "report.html").read_text()
    assert text.count("failed\n    no &lt;memory&gt;") == 9
    assert "<table>" not in text
    assert "figure>" not in text
    assert table(root / "report.csv") == table(root / "comparison.csv") == table(root / "runs.csv") == []
    assert [file.name for file in (root / "figures").iterdir()] == ["mine.png"]


def test_figures_that_are_no_longer_drawn_are_removed(root: Path, tell: Tell) -> None:
    tell(root)
    before = {file.name for file in (root / "figures").iterdir()}
    for folder in root.glob("*-2-*"):
        shutil.rmtree(folder)
    tell(root)
    gone = before - {file.name for file in (root / "figures").iterdir()}
    kinds = [f"{kind}.{ending}" for kind in ("patients", "steps") for ending in ("png", "svg")]
    assert sorted(gone) == [f"hearts-unet-dice-2cases-{kind}" for kind in kinds]
    tell(root, "--no-figures")
    assert not (root / "figures").exists()


@pytest.mark.parametrize(
    ("change", "lacks"),
    [
        ({"dataset": None}, "dataset"),
        ({"val": None}, "val.dice.mean"),
        ({"test": {"iou": {"mean": 1}}}, "test.dice.mean"),
        ({"selected_by": "val loss mean"}, "selected_by"),
        ({"labeled": {"cases": 1}}, "labeled.ratio"),
        ({"own_metrics": {"nsd": {"title": "NSD", "unit": "apples", "higher_is_better": True}}}, "own_metrics"),
        ({"own_metrics": {"dice": {"title": "Dice", "unit": "share", "higher_is_better": True}}}, "own_metrics"),
        ({"own_metrics": [1]}, "own_metrics"),
    ],
)
def test_a_finished_run_that_lacks_an_entry_of_a_row_is_damaged(root: Path, change: dict[str, Any], lacks: str) -> None:
    file = root / "a_teacher-1-0/results.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    rows, (missing,) = collect([root])
    assert [len(row.runs) for row in rows] == [2, 1, 2, 2, 1]
    assert missing.status == "damaged"
    assert f"{file}: the run is finished, but there is no {lacks}" in missing.reason


def test_a_copy_of_a_run_counts_once(root: Path) -> None:
    for name in ("a_teacher-1-0", "a_teacher-1-1"):
        shutil.copytree(root / name, root.parent / "copies" / name)
    file = root.parent / "copies/a_teacher-1-1/results.json"
    file.write_text(file.read_text().replace('"heart": 0', '"heart": 1'))
    rows, (same, other) = collect([root, root.parent / "copies"])
    assert [len(row.runs) for row in rows] == [2, 2, 2, 2, 1]
    assert {run.folder.parent for run in rows[1].runs} == {root}
    assert same.run == str(root.parent / "copies/a_teacher-1-0")
    assert same.reason == f"has the settings and the seed of {root}/a_teacher-1-0; only that one is counted"
    assert other.reason.startswith(f"has the settings and the seed of {root}/a_teacher-1-1, though other scores;")


# -- names ------------------------------------------------------------------------------------------------------------


def test_long_names_are_shortened_and_stay_different() -> None:
    names = {
        "lr0.028183784439970383-w0.7558042041572239": "lr0.02818-w0.7558",
        "lr0.028183784439970383-w0.7558042041572240": "lr0.02818-w0.7558 #2",
        "uamt": "uamt",
        "uamt optimizer.momentum=0.9 method.ema=0.99": "uamt momentum=0.9 ema=0.99",
        "x" * 40: "x" * 29 + "…",
        "x" * 41: "x" * 26 + "… #2",
    }
    assert short(names) == names


def test_lists_of_views_differ_by_a_key_and_a_value_in_any_order(tmp_path: Path) -> None:
    first, again = (
        {"_target_": "Blur", "p": 0.5, "magnitude": [1, 2]},
        {"magnitude": [1, 2], "p": 0.5, "_target_": "Blur"},
    )
    for seed, views in enumerate(([first], [again], [{**first, "p": 0.2}])):
        make_run(tmp_path, "uamt", [0.5] * 5, seed=seed, config={"views": {"strong": views}})
    rows, _ = collect([tmp_path])
    assert [(len(row.runs), row.differs) for row in rows] == [(2, "views.strong.0.p=0.5"), (1, "views.strong.0.p=0.2")]


def test_a_method_is_called_alike_with_any_labels(tmp_path: Path) -> None:
    make_run(tmp_path, "uamt", [0.5] * 5, cases=1, config={"iterations": 30, "lr": 0.1})
    make_run(tmp_path, "uamt", [0.5] * 5, cases=2, config={"iterations": 20, "lr": 0.1})
    make_run(tmp_path, "uamt", [0.5] * 5, cases=2, tag="x", config={"iterations": 20, "lr": 0.1})
    assert [row.name for row in collect([tmp_path])[0]] == ["uamt", "uamt", "uamt x"]
    make_run(tmp_path, "uamt", [0.5] * 5, cases=2, seed=1, config={"iterations": 20, "lr": 0.2})
    names = ["uamt lr=0.1", "uamt lr=0.1", "uamt lr=0.2", "uamt x"]
    assert sorted(row.name for row in collect([tmp_path])[0]) == names


def test_a_tag_of_all_rows_stands_in_the_title_of_a_figure_alone(tmp_path: Path) -> None:
    make_run(tmp_path, "uamt", [0.5] * 5, tag="small", config={"lr": 0.1})
    make_run(tmp_path, "uamt", [0.5] * 5, seed=1, tag="small", config={"lr": 0.2})
    group = figures.Group(rows=tuple(collect([tmp_path])[0]))
    assert (group.title, sorted(group.names.values())) == ("hearts, unet, small", ["uamt lr=0.1", "uamt lr=0.2"])
    make_run(tmp_path, "dan", [0.5] * 5)
    group = figures.Group(rows=tuple(collect([tmp_path])[0]))
    assert group.title == "hearts, unet"
    assert sorted(group.names.values()) == ["dan", "uamt small lr=0.1", "uamt small lr=0.2"]


# -- comparison -------------------------------------------------------------------------------------------------------


def test_a_patients_score_is_the_mean_over_volumes_and_seeds(root: Path) -> None:
    row = collect([root])[0][1]
    scores = compare.scores_of_patients(row, re.compile(PATIENT))
    assert scores == pytest.approx({"patient1": 0.5, "patient2": 0.35, "other": 0.2})


def test_the_difference_is_paired_over_patients(root: Path) -> None:
    # patients: teacher 0.5, 0.35, 0.2; supervised 0.3 each
    report(root, "--no-figures")
    first = table(root.parent / "report/comparison.csv")[0]
    assert (first["method"], first["baseline"], first["labels"]) == ("a_teacher", "supervised", "1 of 8 (12.5 %)")
    assert float(first["difference"]) == pytest.approx((0.2 + 0.05 - 0.1) / 3)
    assert (first["better"], first["patients"]) == ("2", "3")
    assert (first["seeds"], first["p_holm"]) == (
        "2",
        "1.0",
    )  # the other, of 0.5, 0.35, 0.2 and 0.4 each, has a p of 0.75
    # signed ranks 3, 1, -2: of the 8 ways to sign 1, 2, 3 six have a negative sum of at least 2, or a positive one
    assert float(first["p"]) == pytest.approx(0.75)


def test_each_name_may_be_a_patient_of_its_own(root: Path) -> None:
    report(root, "--no-figures", "--patient", "(.+)")
    assert {row["patients"] for row in table(root.parent / "report/comparison.csv")} == {"5"}
    for wrong in ("(", ".+", "(.)(.)"):
        assert "--patient" in refused("report", root, "--patient", wrong, cwd=root)


def test_the_bootstrap_interval() -> None:
    # of two values 0 and 1 the mean of a resample is 0, 1/2, 1 with chances 1/4, 1/2, 1/4
    assert compare.interval([0.0, 1.0]) == (0.0, 1.0)
    assert compare.interval([0.25] * 7) == (0.25, 0.25)
    differences = np.random.default_rng(1).normal(0.5, 1, 400)
    low, high = compare.interval(differences)
    half = 1.96 * differences.std() / 20  # the normal approximation
    assert (low, high) == pytest.approx((differences.mean() - half, differences.mean() + half), abs=0.01)
    assert compare.interval(differences) == (low, high)


def test_wilcoxon_and_holm() -> None:
    assert compare.wilcoxon(np.array([0.1, 0.2, 0.3, 0.4, 0.5])) == pytest.approx(2 / 2**5)
    assert compare.wilcoxon(np.zeros(5)) == 1
    assert compare.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert compare.holm([0.5, 0.6]) == [1, 1]


def test_another_baseline_and_what_cannot_be_compared(root: Path) -> None:
    for seed in (0, 1):
        file = root / f"a_teacher-2-{seed}/cases_test.csv"
        file.write_text(file.read_text().replace("other", "another"))
    shown, output = report(root, "--no-figures", "--baseline", "a_teacher")
    assert [(row["method"], row["baseline"]) for row in table(output / "comparison.csv")] == [
        ("supervised", "a_teacher")
    ]
    assert "left out: supervised, 2 of 8 (25 %): not compared with a_teacher: 2 test patients are not in both" in shown
    reason = "it has no run with the same dataset, network and number of labelled cases"
    assert f"left out: supervised, 8 of 8 (100 %): not compared with a_teacher: {reason}" in shown
    assert "no finished run has this method" in refused("report", root, "--baseline", "uamt", cwd=root)


def test_other_settings_than_the_methods_are_named(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", "supervised", [0.3] * 5)
    make_run(tmp_path / "runs", "uamt", [0.4] * 5, config={"iterations": 30, "method": {"weight": 1}})
    report(tmp_path / "runs", "--no-figures")
    assert table(tmp_path / "report/comparison.csv")[0]["other settings"] == "iterations"


def compared(root: Path, method: str = "supervised") -> tuple[list[compare.Comparison], list[str]]:
    return compare.compare(collect([root])[0], method, re.compile(PATIENT))


def test_other_cases_with_labels_are_compared_and_it_is_said(tmp_path: Path) -> None:
    make_run(tmp_path, "supervised", [0.3] * 5, labeled={"images": 9, "ratio": 0.09, "of_images": 100})
    make_run(tmp_path, "uamt", [0.4] * 5, labeled={"images": 10, "ratio": 0.1, "of_images": 100})
    (comparison,), notes = compared(tmp_path)
    assert (comparison.difference, comparison.other, notes) == (pytest.approx(0.1), ("labelled cases",), [])
    assert comparison.row.labels == "1 of 8 (10 % of images)"
    make_run(tmp_path, "supervised", [0.1] * 5, tag="t", labeled={"images": 10, "ratio": 0.1, "of_images": 100})
    (comparison,), _ = compared(tmp_path)  # the same labels count for more than the tag
    assert (comparison.baseline.name, comparison.other) == ("supervised t", ())
    (comparison.row.runs[0].folder / "split.json").write_text('{"sha256": "a"}')
    (comparison.baseline.runs[0].folder / "split.json").write_text('{"sha256": "b"}')
    assert compared(tmp_path)[0][0].other == ("labelled cases",)


def test_without_a_run_of_the_baseline_it_is_said(root: Path, tell: Tell) -> None:
    for folder in root.glob("supervised*"):
        shutil.rmtree(folder)
    shown = tell(root, "--no-figures")
    assert "left out: the comparison: no finished run has the method supervised" in shown


def test_only_seeds_that_both_have_are_compared(tmp_path: Path) -> None:
    make_run(tmp_path, "supervised", [0.3] * 5, seed=1)
    make_run(tmp_path, "supervised", [0.5] * 5, seed=2)
    make_run(tmp_path, "uamt", [0.9] * 5, seed=0)
    assert compared(tmp_path) == (
        [],
        ["uamt, 1 of 8 (12.5 %): not compared with supervised: they have no seed in common"],
    )
    make_run(tmp_path, "uamt", [0.6] * 5, seed=2)
    (comparison,), _ = compared(tmp_path)
    assert (comparison.num_seeds, comparison.difference) == (1, pytest.approx(0.1))


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (lambda lines: lines[:-1], "holds 4 cases, but results.json counts 5"),
        (lambda lines: [*lines, lines[-1]], "its cases differ in their number of classes"),
        (lambda lines: [*lines[:-1], "other,he"], "cannot be read"),
        (lambda lines: [*lines[:-1], "another,heart,0.2"], "its cases are not those of seed 0, for example another"),
    ],
)
def test_a_table_of_cases_that_is_not_complete_is_not_used(
    root: Path, cut: Callable[[list[str]], list[str]], message: str
) -> None:
    file = root / "a_teacher-1-1/cases_test.csv"
    file.write_text("\n".join(cut(file.read_text().splitlines())))
    (comparison,), (note,) = compared(root)
    assert comparison.row.cases == 2
    assert note.startswith("a_teacher, 1 of 8 (12.5 %): not compared with supervised: ")
    assert str(file) in note
    assert message in note


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--pictures", "a_techer"),
            "--pictures a_techer: no finished run has this method; there are a_teacher, supervised",
        ),
        (("--baseline", "uamt"), "--baseline uamt: no finished run has this method"),
        (("--pictures", "--no-figures"), "--pictures: --no-figures leaves the pictures out"),
        (("--patient", "("), "--patient (: is no regular expression"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_written(
    root: Path, tell: Tell, words: tuple[str, ...], message: str
) -> None:
    shown = tell(root, "--output", root.parent / "report", *words)
    assert shown.startswith(f"error: {message}")
    assert not (root.parent / "report").exists()


# -- figures and the page ---------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Tags and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_figures_are_written_and_the_page_holds_them_all(root: Path) -> None:
    _, output = report(root)
    names = sorted(file.stem for file in (output / "figures").glob("*.png"))
    of_labels = [f"hearts-unet-dice-{n}cases-{kind}" for n in (1, 2) for kind in ("patients", "steps")]
    assert names == [*of_labels, "hearts-unet-dice-labels"]
    for name in names:
        with Image.open(output / f"figures/{name}.png") as picture:
            assert min(picture.size) > 100
        assert ElementTree.parse(output / f"figures/{name}.svg").getroot().tag.endswith("svg")
    tags = Page((output / "report.html").read_text()).tags
    sources = [attributes["src"] for tag, attributes in tags if tag == "img"]
    assert len(sources) == len(names)
    assert all(str(source).startswith("data:image/svg+xml;base64,") for source in sources)
    assert all(attributes["alt"] for tag, attributes in tags if tag == "img")
    assert not {"script", "link", "iframe"} & {tag for tag, _ in tags}
    assert sum(tag == "table" for tag, _ in tags) == 2
    before = {file: file.read_bytes() for file in (output / "figures").iterdir()}
    report(root)
    assert {file: file.read_bytes() for file in before} == before


def drawn(root: Path) -> dict[str, figures.Drawing]:
    notes: list[str] = []
    (group,) = figures.groups(collect([root])[0])
    drawings = {drawing.name: drawing for drawing in figures.draw(group, re.compile(PATIENT), notes)}
    assert notes == []
    return drawings


def test_the_lines_show_the_scores(root: Path) -> None:
    drawings = drawn(root)
    axes = drawings["hearts-unet-dice-labels"].figure.axes[0]
    lines = [(line.get_xdata(), line.get_ydata()) for line in axes.lines if line.get_linestyle() in ("-", "--")]
    assert [list(x) for x, _ in lines] == [pytest.approx([f, 2 * f]) for f in (math.exp(-0.01), math.exp(0.01))]
    assert [list(y) for _, y in lines] == [pytest.approx([30, 40]), pytest.approx([38, 38])]
    (bound,) = [line for line in axes.lines if line.get_linestyle() == ":" and len(line.get_xdata())]
    assert list(bound.get_ydata()) == pytest.approx([90, 90])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("labelled cases", "test Dice (%)")

    axes = drawings["hearts-unet-dice-1cases-steps"].figure.axes[0]
    curves = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines}
    assert curves["a_teacher"] == ([10, 20], pytest.approx([19, 38]))
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("step", "val Dice (%)")

    axes = drawings["hearts-unet-dice-1cases-patients"].figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["supervised", "a_teacher"]  # bottom to top
    points = [sorted(line.get_xdata()) for line in axes.lines if line.get_marker() == "."]
    assert points == [pytest.approx([30, 30, 30]), pytest.approx([20, 35, 50])]


def test_with_one_number_of_labels_the_methods_stand_in_order(tmp_path: Path) -> None:
    for number in range(12):
        make_run(tmp_path, f"m{number:02d}", [0.1 + number / 20] * 5)
    make_run(tmp_path, "supervised", [0.31] * 5)
    drawings = drawn(tmp_path)
    axes = drawings["hearts-unet-dice-labels"].figure.axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == [f"m{n:02d}" for n in range(5)] + ["supervised"] + [f"m{n:02d}" for n in range(5, 12)]
    panels = drawings["hearts-unet-dice-1cases-steps"].figure.axes
    assert [panel.get_title("left") for panel in panels] == [f"m{n:02d}" for n in range(12)]
    assert all(len(panel.lines) == 2 for panel in panels[1:])  # its own, and the bound's


def test_the_curve_of_a_resumed_run_has_each_step_once_without_a_warning(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = root / "a_teacher-1-0"
    (before,) = events(root)
    before.rename(
        before.with_name("events.out.tfevents.1")
    )  # a second earlier: TensorBoard reads in the order of names
    with SummaryWriter(str(folder / "tensorboard"), purge_step=15) as writer:
        writer.add_scalar("val/dice/mean", 0.75, 20)
    warned: list[logging.LogRecord] = []
    monkeypatch.setattr(logging.getLogger("tensorboard"), "handle", warned.append)
    run = Run(folder=folder, result={}, settings={})
    assert figures.curve(run, Main("dice", "mean")) == pytest.approx({10: 0.18, 20: 0.75})
    assert not warned


def test_missing_curves_and_cases_are_told(root: Path) -> None:
    for name in ("a_teacher-1-0/cases_test.csv", *(f"a_teacher-1-0/tensorboard/{f.name}" for f in events(root))):
        (root / name).unlink()
    shutil.rmtree(root / "supervised-2-0/tensorboard")
    shown, output = report(root)
    message = f"{root}/a_teacher-1-0/tensorboard: holds no curve val/dice/mean"
    assert f"left out: the curve of a_teacher, 1 of 8 (12.5 %): {message}" in shown
    assert f"{root}/supervised-2-0/tensorboard: holds no curve val/dice/mean" in shown
    assert "cases_test.csv: there is no such file" in shown
    assert "holds no curve" in (output / "report.html").read_text()
    assert (output / "figures/hearts-unet-dice-1cases-steps.png").exists()


def events(root: Path) -> list[Path]:
    return list((root / "a_teacher-1-0/tensorboard").iterdir())


def test_help_and_figures_do_without_torch(root: Path) -> None:
    code = (
        "import sys; from ssl4seg.report import command as c; c.parser().format_help(); "
        "print(sorted({'torch', 'matplotlib', 'scipy', 'numpy'} & set(sys.modules))); "
        f"sys.argv[1:] = ['{root}']; c.main(); print(sorted({{'torch', 'matplotlib'}} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0] == "[]"
    assert done.stdout.splitlines()[-1] == "['matplotlib']"


def test_figures_of_other_labels_have_files_of_their_own(tmp_path: Path, tell: Tell) -> None:
    for method in ("supervised", "uamt"):
        for images in (9, 10):
            labeled = {"images": images, "ratio": images / 100, "of_images": 100}
            make_run(tmp_path, method, [images / 20] * 5, tag=f"{images}", labeled=labeled)
    tell(tmp_path)
    names = {file.stem for file in (tmp_path / "figures").glob("*.svg")}
    kinds = ("patients", "steps")
    assert names == {f"hearts-unet-dice-1cases-{n}images-{kind}" for n in (9, 10) for kind in kinds} | {
        "hearts-unet-dice-labels"
    }
    tags = Page((tmp_path / "report.html").read_text()).tags
    assert len({attributes["src"] for tag, attributes in tags if tag == "img"}) == 5


def test_figures_are_not_written_through_links(tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    (tmp_path / "private").touch()
    for name in ("written.txt", "a.svg"):
        (tmp_path / "figures" / name).symlink_to(tmp_path / "private")
        with pytest.raises(UserError, match=f"{name}: is a link; nothing is written through it"):
            FigureFolder(tmp_path / "figures").save(figures.Drawing(name="a", caption="", figure=Figure()))
        (tmp_path / "figures" / name).unlink()
    assert not (tmp_path / "private").read_text()


def test_two_figures_of_one_name_are_two_files(tmp_path: Path) -> None:
    folder = FigureFolder(tmp_path / "figures")
    drawings = [figures.Drawing(name=name, caption="", figure=Figure()) for name in ("a", "A", "a")]
    assert [folder.save(drawing).name for drawing in drawings] == ["a", "A-2", "a-3"]


def test_bounds_are_of_the_method_whatever_its_settings(tmp_path: Path) -> None:
    make_run(tmp_path, "supervised", [0.9] * 5, cases=8, tag="a")
    make_run(tmp_path, "supervised", [0.8] * 5, cases=8, config={"lr": 0.1})
    make_run(tmp_path, "supervised", [0.7] * 5, cases=8, seed=1, config={"lr": 0.2})
    for cases in (1, 2):
        make_run(tmp_path, "supervised", [0.3] * 5, cases=cases, tag="a")
        make_run(tmp_path, "uamt", [0.4] * 5, cases=cases)
    axes = drawn(tmp_path)["hearts-unet-dice-labels"].figure.axes[0]
    upper = [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == ":" and len(line.get_xdata())]
    assert sorted(upper) == pytest.approx([70, 80, 90])
    (legend,) = axes.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["supervised a (lower bound)", "uamt", "upper bound"]
    assert [len(line.get_xdata()) for line in axes.lines if line.get_color() == figures.COLORS[0]] == [2]
    ranked = drawn_of(tmp_path.glob("*-1-0*"), tmp_path.glob("supervised-8*"))["hearts-unet-dice-labels"].figure
    assert sorted(line.get_xdata()[0] for line in ranked.axes[0].lines if line.get_linestyle() == ":") == sorted(upper)
    assert [text.get_text() for text in ranked.legends[0].get_texts()] == ["lower bound", "upper bound"]


def drawn_of(*folders: Iterable[Path]) -> dict[str, figures.Drawing]:
    (group,) = figures.groups(collect([folder for some in folders for folder in some])[0])
    return {drawing.name: drawing for drawing in figures.draw(group, re.compile(PATIENT), [])}


def test_a_seed_without_a_score_is_told_and_the_rest_is_drawn(root: Path) -> None:
    file = root / "a_teacher-1-0/results.json"
    result = json.loads(file.read_text())
    result["test"]["dice"]["mean"] = None
    file.write_text(json.dumps(result))
    (group,) = figures.groups(collect([root])[0])
    notes: list[str] = []
    drawings = {drawing.name: drawing for drawing in figures.draw(group, re.compile(PATIENT), notes)}
    assert notes == ["a_teacher, 1 of 8 (12.5 %), among the labels: no test Dice with seed 0"]
    lines = drawings["hearts-unet-dice-labels"].figure.axes[0].lines
    assert next(len(line.get_xdata()) for line in lines if line.get_color() == figures.COLORS[0]) == 1


def test_names_of_a_search_and_of_mathematics_are_drawn(tmp_path: Path) -> None:
    make_run(tmp_path, "supervised", [0.3] * 5)
    for number in range(10):
        tag = f"lr0.02818378443997038{number}-w0.7558042041572239"
        make_run(tmp_path, "uamt", [0.4] * 5, seed=number, tag=tag, config={"views": [number] * 40, "lr": number})
    make_run(tmp_path, "uamt", [0.4] * 5, tag=r"$\nosuch{$")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a layout that fails is no more than a warning
        drawings = drawn(tmp_path)
        for drawing in drawings.values():
            drawing.save(tmp_path / drawing.name)
    axes = drawings["hearts-unet-dice-1cases-patients"].figure.axes[0]
    names = {label.get_text() for label in axes.get_yticklabels()}
    assert len(names) == 12
    assert "uamt lr0.02818-w0.7558 #10" in names
    assert r"uamt $\nosuch{$" in names


# -- pictures ---------------------------------------------------------------------------------------------------------


def test_pictures_of_the_worst_the_median_and_the_best_case(tmp_path: Path) -> None:
    succeed("train", *PHANTOM, "dataset.num_test=2", "iterations=30", "optimizer.lr=0.1", cwd=tmp_path)
    shown, output = report(tmp_path / "outputs", "--pictures")
    assert "left out:" not in shown
    (file,) = (output / "figures").glob("*-pictures.png")
    assert file.name == "phantom-unet-1cases-supervised-pictures.png"
    assert 'src="data:image/png;base64,' in (output / "report.html").read_text()

    (row,) = collect([tmp_path / "outputs"])[0]
    scores = compare.scores_of_cases(row.runs[0], Main("dice", "mean"))
    of_patient = {name[:-3]: [scores[f"{name[:-3]}_{phase}"] for phase in ("ed", "es")] for name in scores}
    worst, best = sorted(of_patient, key=lambda name: sum(of_patient[name]))
    titles = [axes.get_title("left").split("\n") for axes in patients.draw(row, re.compile(PATIENT)).figure.axes]
    assert [title[1] for title in titles] == [
        f"{name}_ed ({100 * of_patient[name][0]:.1f} %)" for name in (worst, worst, best)
    ]
    assert titles[2][0] == f"best: Dice {50 * sum(of_patient[best]):.1f} %"
    titles = [axes.get_title("left").split("\n") for axes in patients.draw(row, re.compile("(.+)")).figure.axes]
    ordered = sorted(scores, key=lambda name: scores[name])
    assert [title[1] for title in titles] == [ordered[0], ordered[1], ordered[3]]  # each case a patient of its own

    predictions = patients.predict(row.runs[0], read(RunSettings, read_config(row.runs[0].folder)), ordered)
    for name, (volume, prediction) in predictions.items():
        dices = [score(prediction == k, volume.label == k)["dice"] for k in (1, 2, 3)]
        assert sum(dices) / 3 == pytest.approx(scores[name], abs=1e-3)

    (row.runs[0].folder / "best.pt").unlink()
    assert "left out: pictures of supervised, 1 of 4" in report(tmp_path / "outputs", "--pictures", "supervised")[0]
    assert results(row.runs[0].folder)["status"] == "finished"


def volume_of(label: np.ndarray) -> Volume:
    return Volume(image=np.zeros((1, 1, *label.shape), np.float32), label=label[None].astype(np.uint8))


def test_pictures_are_of_one_size_with_whole_titles_and_all_classes() -> None:
    labels = [np.zeros(shape, int) for shape in ((64, 64), (64, 90), (80, 60))]
    labels[0][10:20, 10:20] = 1
    labels[1][30:60, 5:85] = 2  # wider than any window of the others' shape within the image
    labels[2][70:75, 50:55] = 3
    panels = [(volume_of(label), label[None]) for label in labels]
    titles = [f"{which}: Dice 43.7 %\n{'a' * 32}" for which in patients.WHICH]
    classes = ("background", "one", "two", "three")
    figure = patients._figure(panels, titles, classes, palette())
    figure.draw_without_rendering()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [*classes[1:], "truth", "prediction"]
    legend = figure.legends[0].get_window_extent()
    sizes = []
    for axes, label in zip(figure.axes, labels, strict=True):
        title, frame = axes._left_title.get_window_extent(), axes.get_window_extent()
        sizes.append((frame.width, frame.height))
        assert figure.bbox.y0 < legend.y0 < legend.y1 < frame.y0 < frame.y1 < title.y0 < title.y1 < figure.bbox.y1
        assert title.x0 >= frame.x0
        assert title.x1 <= frame.x1 + 1
        (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
        rows, columns = np.nonzero(label)
        assert left < columns.min() <= columns.max() < right
        assert top < rows.min() <= rows.max() < bottom
        assert (right - left) / (bottom - top) == pytest.approx(sizes[0][0] / sizes[0][1])
    assert np.ptp(sizes, axis=0) == pytest.approx([0, 0], abs=1e-6)


def test_a_sheet_of_words_and_numbers_keeps_what_differs() -> None:
    sheet = sheets.Sheet(title="T", caption="C.", head=("dataset", "method", "tag", "n"), lines=(("d", "m", "", "1"),))
    shown = sheet.shown()
    assert (shown.head, shown.lines, shown.caption) == (("method", "n"), (("m", "1"),), "Dataset d. C.")


def test_a_strangers_words_are_text_in_every_file_of_the_report(tmp_path: Path) -> None:
    tags = (
        "{a} {0}",
        "$x_",
        "=1+1",
        "<img src=x onerror=alert(1)>",
        "[a](javascript:b) `c` |d|",
        "[red]\x1b[31m",
        "\\n",
    )
    for number, tag in enumerate(tags):
        make_run(tmp_path / str(number), "uamt", (0.5, 0.6, 0.7, 0.8, 0.9), tag=tag)
        make_run(tmp_path / str(number), "uamt", (0.5, 0.6, 0.7, 0.8, 0.9), tag=tag, seed=1)
    shown, output = report(tmp_path)
    assert "\x1b" not in shown
    assert "[red]\\x1b[31m" in shown
    rows = table(output / "report.csv")
    assert {unquoted(row["tag"]) for row in rows} == {tag.replace("\x1b", "\\x1b") for tag in tags}
    assert not any(cell[:1] in ("=", "+", "@") for row in rows for cell in row.values())
    for name in ("report.md", "report.html", "report.tex"):
        text = (output / name).read_text()
        assert "<img src=x" not in text
        assert "\x1b" not in text
    assert "\\[a\\](javascript:b) \\`c\\` \\|d\\|" in (output / "report.md").read_text()
