"""Paired comparison with a baseline over the test patients: mean difference, bootstrap interval, Wilcoxon's test."""

import csv
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ssl4seg.errors import UserError
from ssl4seg.report.collect import MAIN, Row, Run
from ssl4seg.report.sheets import WORDS, Sheet

RESAMPLES = 10_000

Scores = Mapping[str, float]
"""By patient, in [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A row against the baseline of the same dataset, network and labels.

    Differences are row minus baseline; a patient's score is the mean over the classes, volumes and seeds.
    """

    row: Row
    baseline: Row
    difference: float
    low: float
    high: float
    """95 % bootstrap interval of the mean difference."""
    p: float
    """Wilcoxon's signed-rank test, two-sided."""
    better: int
    num_patients: int
    other: tuple[str, ...] = field(default=())
    """Settings beside the method's own that differ from the baseline's."""


def patient_of(pattern: str) -> re.Pattern[str]:
    """The compiled pattern."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(f"--patient {pattern}: is no regular expression ({error})") from None
    if compiled.groups != 1:
        raise UserError(f"--patient {pattern}: expected one group in parentheses, which is the patient: '(.+)_scan.*'")
    return compiled


def scores_of_cases(run: Run, metric: str) -> dict[str, float]:
    """Of cases_test.csv, by case: mean over the classes that have a score."""
    file = run.folder / "cases_test.csv"
    found: dict[str, list[float]] = {}
    try:
        with file.open(newline="") as handle:
            for line in csv.DictReader(handle):
                found.setdefault(line["case"], []).append(float(line[metric]))
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise UserError(f"{file}: cannot be read ({type(error).__name__}: {error})") from None
    means = {case: mean_of_known(values) for case, values in found.items()}
    return {case: mean for case, mean in means.items() if not math.isnan(mean)}


def mean_of_known(values: Sequence[float]) -> float:
    """NaN is left out."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def scores_of_patients(row: Row, patient: re.Pattern[str]) -> dict[str, float]:
    """Mean over the volumes of a patient, of each the mean over seeds. What `patient` does not match is its own."""
    cases: dict[str, list[float]] = {}
    for run in row.runs:
        for case, score in scores_of_cases(run, row.main).items():
            cases.setdefault(case, []).append(score)
    patients: dict[str, list[float]] = {}
    for case, scores in cases.items():
        match = patient.match(case)
        patients.setdefault(match[1] if match else case, []).append(sum(scores) / len(scores))
    return {name: sum(scores) / len(scores) for name, scores in patients.items()}


def baseline_of(row: Row, rows: Sequence[Row], method: str) -> Row | None:
    """Of the rows of `method` with the same dataset, network and labels, the one of most alike settings."""
    same = [
        other
        for other in rows
        if other.method == method
        and (other.dataset, other.network, other.key[3]) == (row.dataset, row.network, row.key[3])
    ]
    return min(same, key=lambda other: len(_other_settings(row, other)), default=None)


def _other_settings(row: Row, other: Row) -> tuple[str, ...]:
    a, b = row.runs[0].settings, other.runs[0].settings
    keys = [key for key in {**a, **b} if not key.startswith(("method.", "dataset.recipe.")) and key != "tag"]
    return tuple(key for key in keys if repr(a.get(key)) != repr(b.get(key)))


def compare(rows: Sequence[Row], method: str, patient: re.Pattern[str]) -> tuple[list[Comparison], list[str]]:
    """Every row that has a baseline against it; and a message for each that cannot be compared."""
    found, notes = [], []
    for row in rows:
        baseline = baseline_of(row, rows, method)
        if baseline is None or row.method == method:
            continue
        try:
            found.append(_compared(row, baseline, patient))
        except UserError as error:
            notes.append(f"{row.name}, {row.key[3]}: not compared with {method}: {error}")
    return found, notes


def _compared(row: Row, baseline: Row, patient: re.Pattern[str]) -> Comparison:
    if row.main != baseline.main:
        raise UserError(f"one is chosen by {row.main}, the other by {baseline.main}")
    mine, theirs = scores_of_patients(row, patient), scores_of_patients(baseline, patient)
    if mine.keys() != theirs.keys():
        only = sorted(mine.keys() ^ theirs.keys())
        raise UserError(f"{len(only)} test cases are not in both, {only[0]} for one")
    differences = np.array([mine[name] - theirs[name] for name in theirs])
    low, high = interval(differences)
    return Comparison(
        row=row,
        baseline=baseline,
        difference=float(differences.mean()),
        low=low,
        high=high,
        p=wilcoxon(differences),
        better=int((differences > 0).sum()),
        num_patients=len(differences),
        other=_other_settings(row, baseline),
    )


def interval(differences: Any) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean; the same numbers give the same interval."""
    draws = np.random.default_rng(0).integers(len(differences), size=(RESAMPLES, len(differences)))
    low, high = np.percentile(np.asarray(differences)[draws].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def wilcoxon(differences: Any) -> float:
    """Two-sided p; 1 where nothing differs."""
    from scipy.stats import wilcoxon as test  # takes a moment, which --help is spared

    return float(test(differences).pvalue) if np.any(differences) else 1.0


def holm(p: Sequence[float]) -> list[float]:
    """p values adjusted for their number by Holm's step-down method."""
    adjusted, highest = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        highest = max(highest, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = highest
    return adjusted


def write_csv(comparisons: Sequence[Comparison], file: Path) -> None:
    """A line a comparison, numbers as they are (differences in [-1, 1])."""
    head = ("difference", "low", "high", "better", "patients", "p")
    with file.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow([*WORDS, "baseline", "metric", *head, "other settings"])
        for c in comparisons:
            numbers = (c.difference, c.low, c.high, c.better, c.num_patients, c.p)
            writer.writerow([*c.row.key, c.row.differs, c.baseline.name, c.row.main, *numbers, " ".join(c.other)])


def sheets(comparisons: Sequence[Comparison], method: str) -> list[Sheet]:
    """A table for each dataset."""
    datasets = {c.row.dataset: [d for d in comparisons if d.row.dataset == c.row.dataset] for c in comparisons}
    return [_sheet(dataset, group, method) for dataset, group in datasets.items()]


def _sheet(dataset: str, group: Sequence[Comparison], method: str) -> Sheet:
    words = " or ".join(dict.fromkeys(MAIN[c.row.main] for c in group))
    lines = [
        (
            *c.row.key,
            c.row.differs,
            f"{100 * c.difference:+.2f}",
            f"{100 * c.low:+.2f} to {100 * c.high:+.2f}",
            f"{c.better} of {c.num_patients}",
            _p(c.p),
            _p(adjusted),
            ", ".join(c.other),
        )
        for c, adjusted in zip(group, holm([c.p for c in group]), strict=True)
    ]
    num = len(group)
    return Sheet(
        title=f"Difference from {method} on {dataset}",
        caption=(
            f"Mean difference in test {words} (points) over patients, each patient's score the mean over classes, "
            f"volumes and seeds; 95 % bootstrap interval ({RESAMPLES:,} resamples of patients); how many patients are "
            "better; Wilcoxon's signed-rank test, two-sided"
            + (f", and adjusted by Holm for the {num} comparisons here." if num > 1 else ".")
        ),
        head=(*WORDS, "Δ points", "95 % interval", "better", "p", "p (Holm)", "other settings"),
        lines=tuple(lines),
        words=(*WORDS, "other settings"),
    )


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"
