"""Cross-validation in the report: the folds of a seed become one run, whose scores are means over all their cases."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ssl4seg import files
from ssl4seg.errors import UserError
from ssl4seg.keys import MEAN, MEANS
from ssl4seg.report.collect import Missing, Row, Run
from ssl4seg.scoring.metrics import METRICS, Pixels, mean_of_known, with_means
from ssl4seg.userfiles import read_text

Lines = Sequence[Mapping[str, str]]
"""Of cases_val.csv or cases_test.csv."""


def pooled(rows: Sequence[Row]) -> tuple[list[Row], list[Missing]]:
    """Replace the folds of each seed by one run; return also the runs that are in no row any more.

    Seeds are averaged only over the same folds: a seed that lacks folds which another has is left out.
    """
    found, missing = [], []
    for row in rows:
        if any(run.fold for run in row.runs):
            row, left_out = _pooled(row)
            missing += left_out
        if row.runs:
            found.append(row)
    return found, missing


def _pooled(row: Row) -> tuple[Row, list[Missing]]:
    seeds: dict[int, list[Run]] = {}
    for run in row.runs:
        seeds.setdefault(run.seed, []).append(run)
    numbers = {seed: [run.fold.number for run in runs if run.fold] for seed, runs in seeds.items()}
    fullest = max(numbers, key=lambda seed: len(numbers[seed]))  # of several the first
    whole, missing = [], []
    for seed, runs in seeds.items():
        try:
            if numbers[seed] != numbers[fullest]:
                raise UserError(
                    f"seed {seed} has {_words(numbers[seed])}, but seed {fullest} {_words(numbers[fullest])}: seeds "
                    "are averaged only over the same folds; run those that are missing"
                )
            whole.append(_joined(runs))
        except UserError as error:
            missing += [Missing(run=str(run.folder), status="left out", reason=str(error)) for run in runs]
    return replace(row, runs=tuple(whole)), missing


def _words(numbers: Sequence[int]) -> str:
    return f"fold{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def _joined(runs: Sequence[Run]) -> Run:
    """One run of the folds of a seed."""
    first = runs[0]
    seconds = [run.seconds for run in runs]
    result = {
        **{key: value for key, value in first.result.items() if key != "best_step"},
        **{split: _summary(runs, split) for split in ("val", "test")},
        "speed": {"run_seconds": sum(seconds)},
    }
    return replace(first, result=result, split=" ".join(run.split for run in runs), parts=tuple(runs))


def _summary(runs: Sequence[Run], split: str) -> dict[str, Any]:
    """The scores of all cases of the folds together, as results.json has them, without metrics that are one number.

    Raises:
        UserError: a case is in two folds, or a file of scores cannot be read or is not whole.
    """
    each = [_lines(run, split) for run in runs]
    names = [name for lines in each for name in dict.fromkeys(line["case"] for line in lines)]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{twice[0]} is in {split} of two folds; they are folds of different data")
    first: Mapping[str, Any] = runs[0].result[split]
    found: dict[str, Any] = {key: value for key, value in first.items() if key == "distance_unit"}
    for name, scores in first.items():
        if isinstance(scores, Mapping):
            classes = [key for key in scores if key not in MEANS]
            pixels = "true_pixels" in each[0][0]
            by_class = _of_pixels(each, name, classes) if pixels else _of_cases(runs, each, split, name, classes)
            found[name] = with_means(by_class, background={*MEANS} <= {*scores})
    if "miou" in first:  # the mark of scores of pixels
        found["miou"] = found["iou"][MEAN]
    return found | {"num_cases": len(names)}


def _lines(run: Run, split: str) -> Lines:
    file = run.folder / f"cases_{split}.csv"
    try:
        lines = [*csv.DictReader(io.StringIO(read_text(file), newline=""))]
        num = len({line["case"] for line in lines})
    except (KeyError, csv.Error) as error:
        raise UserError(f"{file}: cannot be read ({type(error).__name__}: {error})") from None
    if not lines or num != run.result[split].get("num_cases", num):
        raise UserError(f"{file}: holds {num} cases, but results.json counts another number; it is not complete")
    return lines


def _of_cases(
    runs: Sequence[Run], each: Sequence[Lines], split: str, metric: str, classes: Sequence[str]
) -> dict[str, float]:
    """The mean over the cases of each class; a fold without the class has no score of it, and counts in no mean."""
    values: dict[str, list[float]] = {name: [] for name in classes}
    try:
        for run, lines in zip(runs, each, strict=True):
            for line in lines:
                name = files.unquoted(line["class"])
                if run.result[split][metric][name] is not None:
                    values[name].append(float(line[metric]))
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(
            f"{runs[0].folder}: {split} {metric} cannot be pooled ({type(error).__name__}: {error})"
        ) from None
    return {name: mean_of_known(scores) for name, scores in values.items()}


def _of_pixels(each: Sequence[Lines], metric: str, classes: Sequence[str]) -> dict[str, float]:
    """The score of each class from the pixels of all cases together; NaN if it is not one of pixels."""
    counts = np.zeros((3, len(classes)), np.int64)
    try:
        for line in (line for lines in each for line in lines):
            parts = [int(line[f"{part}_pixels"]) for part in ("true", "predicted", "right")]
            counts[:, classes.index(files.unquoted(line["class"]))] += parts
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"the pixels of the folds cannot be pooled ({type(error).__name__}: {error})") from None
    known = METRICS.get(metric)
    values = known.of_pixels(Pixels(*counts)) if known and known.of_pixels else np.full(len(classes), np.nan)
    return dict(zip(classes, np.asarray(values).tolist(), strict=True))
