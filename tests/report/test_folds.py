"""The report pools the folds of a seed over all their cases, and never averages seeds over different folds."""

import csv
import json
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import yaml
from helpers import PHANTOM, results, succeed, table

from ssl4seg.report.collect import Missing, Row, collect
from ssl4seg.report.compare import scores_of_cases
from ssl4seg.report.folds import pooled

Scores = dict[str, dict[str, float]]
"""Case -> class -> Dice."""


def make_fold(root: Path, fold: str | None, scores: Scores, *, seed: int = 0, **result: Any) -> Path:
    """A finished run that tested these cases; val scores the same."""
    folder = root / f"s{seed}-{str(fold).replace('/', 'of')}"
    folder.mkdir(parents=True)
    data = {"fold": fold} if fold else {}
    (folder / "config.yaml").write_text(yaml.safe_dump({"dataset": data, "seed": seed, "iterations": 5}))
    classes = list(dict.fromkeys(name for case in scores.values() for name in case))
    means = {name: fmean(case[name] for case in scores.values()) for name in classes}
    summary = {"dice": {"mean": fmean(means.values()), **means}, "num_cases": len(scores)}
    labeled = {"ratio": 0.5, "cases": 2, "images": 2, "of_cases": 4, "of_images": 4}
    content = {"dataset": "hearts", "method": "uamt", "network": "unet", "seed": seed, "fold": fold, "labeled": labeled}
    content |= {"status": "finished", "selected_by": "val dice mean", "val": summary, "test": summary}
    (folder / "results.json").write_text(json.dumps(content | result))
    for split in ("val", "test"):
        with (folder / f"cases_{split}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["case", "class", "dice"])
            writer.writerows((case, name, dice) for case, of in scores.items() for name, dice in of.items())
    return folder


def of(**dice: float) -> Scores:
    """Cases with one class."""
    return {case: {"heart": value} for case, value in dice.items()}


def report(root: Path) -> tuple[list[Row], list[Missing]]:
    rows, missing = collect([root])
    assert not missing
    return pooled(rows)


def test_a_case_counts_once_however_many_its_fold_has(tmp_path: Path) -> None:
    make_fold(tmp_path, "1/3", of(a=0.1, b=0.2, c=0.3))
    make_fold(tmp_path, "2/3", of(d=0.9))
    make_fold(tmp_path, "3/3", of(e=0.5, f=0.5))
    ((row,), missing) = report(tmp_path)
    assert not missing
    assert row.values("test", "dice") == pytest.approx([(0.1 + 0.2 + 0.3 + 0.9 + 0.5 + 0.5) / 6])
    assert (row.folds, len(row.runs), row.first["test"]["num_cases"]) == ("3 of 3", 1, 6)
    assert scores_of_cases(row.runs[0], row.main) == pytest.approx(
        {"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.9, "e": 0.5, "f": 0.5}
    )


def test_the_label_of_folds_is_the_range_of_theirs(tmp_path: Path) -> None:
    for number, cases in ((1, 8), (2, 9), (3, 9)):
        labeled = {"ratio": 2 / cases, "cases": 2, "images": 2, "of_cases": cases, "of_images": cases}
        make_fold(tmp_path, f"{number}/3", of(**{f"case{number}": 0.5}), labeled=labeled)
    ((row,), _) = report(tmp_path)
    assert row.labels == "2 of 8 to 9 (22.2 to 25 %)"
    assert row.runs[0].counts == "2 of 8 to 9"
    assert row.runs[0].parts[0].counts == "2 of 8"


def test_folds_are_labelled_wholly_only_if_each_is(tmp_path: Path) -> None:
    for number, cases in ((1, 8), (2, 9), (3, 9)):
        labeled = {"ratio": 8 / cases, "cases": 8, "images": 8, "of_cases": cases, "of_images": cases}
        make_fold(tmp_path, f"{number}/3", of(**{f"case{number}": 0.5}), labeled=labeled)
    ((row,), _) = report(tmp_path)
    assert not row.all_labeled
    assert row.labels == "8 of 8 to 9 (88.9 to 100 %)"


def test_a_class_that_no_mask_of_a_fold_holds_has_no_score_there(tmp_path: Path) -> None:
    """Fold 2 has no ring: its mean is that of the other folds' cases."""
    make_fold(tmp_path, "1/3", {"a": {"heart": 0.2, "ring": 0.4}})
    file = make_fold(tmp_path, "2/3", {"b": {"heart": 0.4, "ring": 0.0}}) / "results.json"
    content = json.loads(file.read_text())
    content["test"]["dice"]["ring"] = None
    file.write_text(json.dumps(content))
    make_fold(tmp_path, "3/3", {"c": {"heart": 0.9, "ring": 0.8}})
    ((row,), _) = report(tmp_path)
    assert row.values("test", "dice", "heart") == pytest.approx([0.5])
    assert row.values("test", "dice", "ring") == pytest.approx([0.6])
    assert row.values("test", "dice") == pytest.approx([0.55])


def test_seeds_are_averaged_only_over_the_same_folds(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        make_fold(tmp_path, f"{number}/3", of(**{f"a{number}": 0.4}))
        make_fold(tmp_path, f"{number}/3", of(**{f"a{number}": 0.6}), seed=1)
    make_fold(tmp_path, "1/3", of(a1=0.9), seed=2)
    ((row,), missing) = report(tmp_path)
    assert [run.seed for run in row.runs] == [0, 1]
    assert row.values("test", "dice") == pytest.approx([0.4, 0.6])
    (left,) = missing
    assert left.run == str(tmp_path / "s2-1of3")
    assert left.reason.startswith("seed 2 has fold 1, but seed 0 folds 1, 2, 3: seeds are averaged only over the same")


def test_folds_of_different_data_other_numbers_of_folds_and_whole_runs_are_not_pooled(tmp_path: Path) -> None:
    make_fold(tmp_path / "three", "1/3", of(a=0.1))
    make_fold(tmp_path / "four", "1/4", of(a=0.2))
    make_fold(tmp_path / "none", None, of(a=0.3))
    rows, missing = report(tmp_path)
    assert sorted((row.folds, row.values("test", "dice")[0]) for row in rows) == [
        ("", pytest.approx(0.3)),
        ("1 of 3", pytest.approx(0.1)),
        ("1 of 4", pytest.approx(0.2)),
    ]
    assert not missing
    make_fold(tmp_path / "three", "2/3", of(a=0.5))
    rows, missing = report(tmp_path)
    assert len(rows) == 2
    assert [left.reason for left in missing] == ["a is in val of two folds; they are folds of different data"] * 2


def test_pixels_of_all_images_are_counted_together(tmp_path: Path) -> None:
    """IoU of `yes`: (1 + 8) / (2 + 10), not the mean of 1/2 and 8/10."""
    for fold, name, true, predicted, right in (("1/3", "a", 2, 1, 1), ("2/3", "b", 9, 9, 8)):
        iou = {"mean": 0.5, "foreground_mean": 0.5, "no": 0.5, "yes": 0.5}
        summary = {"iou": iou, "miou": 0.5, "pixel_accuracy": 0.5, "num_cases": 1}
        folder = make_fold(tmp_path, fold, of(x=1), val=summary, test=summary, selected_by="val iou foreground_mean")
        for split in ("val", "test"):
            head = "case,class,true_pixels,predicted_pixels,right_pixels,iou"
            rows = f"{name},no,90,90,90,1\n{name},yes,{true},{predicted},{right},0"
            (folder / f"cases_{split}.csv").write_text(f"{head}\n{rows}\n")
    ((row,), missing) = report(tmp_path)
    assert not missing
    assert row.values("test", "iou", "yes") == pytest.approx([9 / 12])
    assert row.values("test", "iou") == pytest.approx([(1 + 9 / 12) / 2])
    assert row.main.name == "foreground_mean"


def test_three_folds_of_the_phantom_are_trained_scored_again_and_pooled(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        succeed("train", *PHANTOM, "labeled_cases=1", f"dataset.fold={number}/3", "split_seed=4", cwd=tmp_path)
    runs = [tmp_path / f"outputs/phantom/supervised/unet-1cases-p4-fold{number}of3-s0" for number in (1, 2, 3)]
    split = [json.loads((run / "split.json").read_text()) for run in runs]
    tested = [case for each in split for case in each["fold"]["test"]]
    assert len(tested) == len({*tested}) == 2 * (4 + 1 + 1)
    assert all(
        sorted([*each["labeled"], *each["unlabeled"], *each["fold"]["val"], *each["fold"]["test"]]) == sorted(tested)
        for each in split
    )
    succeed("eval", f"run={runs[1]}", "split=test", "num_threads=1", f"output={tmp_path}", cwd=tmp_path)
    assert results(tmp_path, "results_test.json")["test"] == results(runs[1])["test"]
    told = succeed("report", "outputs", "--no-figures", cwd=tmp_path)
    assert "With folds a score is the mean over the cases of all of them" in " ".join(told.split())
    (line,) = table(tmp_path / "outputs/report.csv")
    assert (line["seeds"], line["folds"]) == ("1", "3 of 3")
    dice = [float(row["dice"]) for run in runs for row in table(run / "cases_test.csv")]
    assert float(line["test Dice %"]) == pytest.approx(100 * fmean(dice), abs=0.006)
    assert [row["fold"] for row in table(tmp_path / "outputs/runs.csv")] == ["1/3", "2/3", "3/3"]
