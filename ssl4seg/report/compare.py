"""Paired comparison with a baseline over the test patients: mean difference, bootstrap interval, Wilcoxon's test."""

import csv
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ssl4seg.errors import UserError
from ssl4seg.report.collect import LABELS, MAIN, Row, Run
from ssl4seg.report.sheets import WORDS, Sheet

RESAMPLES = 10_000

Scores = Mapping[str, float]
"""By patient, in [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A row against the baseline of the same dataset, network and number of labelled cases.

    Differences are row minus baseline; a patient's score is the mean over the classes, volumes and common seeds.
    """

    row: Row
    baseline: Row
    num_seeds: int
    """That both have; no other is used."""
    difference: float
    low: float
    high: float
    """95 % bootstrap interval of the mean difference."""
    p: float
    """Wilcoxon's signed-rank test, two-sided."""
    p_holm: float = math.nan
    """Adjusted for the number of comparisons on the dataset."""
    better: int
    num_patients: int
    other: tuple[str, ...] = ()
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
    """Of cases_test.csv, by case: mean over the classes that have a score, NaN where none has.

    Raises:
        UserError: the file cannot be read or does not hold all that results.json was computed from.
    """
    file = run.folder / "cases_test.csv"
    found: dict[str, list[float]] = {}
    try:
        with file.open(newline="") as handle:
            for line in csv.DictReader(handle):
                found.setdefault(line["case"], []).append(float(line[metric]))
    except (OSError, KeyError, ValueError, TypeError, csv.Error) as error:
        raise UserError(f"{file}: cannot be read ({type(error).__name__}: {error})") from None
    expected = run.result["test"].get("num_cases", len(found))
    if len(found) != expected or not found:
        raise UserError(f"{file}: holds {len(found)} cases, and results.json {expected}; it is not complete")
    if metric == "dice" and len(set(map(len, found.values()))) > 1:
        raise UserError(f"{file}: its cases have not all the same number of classes; it is not complete")
    return {case: mean_of_known(values) for case, values in found.items()}


def mean_of_known(values: Sequence[float]) -> float:
    """NaN is left out."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def by_patient(cases: Scores, patient: re.Pattern[str]) -> dict[str, dict[str, float]]:
    """The cases of each patient. What `patient` does not match is a patient of its own; NaN is left out."""
    patients: dict[str, dict[str, float]] = {}
    for case, score in cases.items():
        if not math.isnan(score):
            match = patient.match(case)
            patients.setdefault(match[1] if match else case, {})[case] = score
    return patients


def scores_of_patients(row: Row, patient: re.Pattern[str]) -> dict[str, float]:
    """Mean over the volumes of a patient, of each the mean over seeds."""
    each = [scores_of_cases(run, row.main) for run in row.runs]
    for run, scores in zip(row.runs, each, strict=True):
        if other := sorted(scores.keys() ^ each[0].keys()):
            first = row.runs[0].seed
            raise UserError(f"{run.folder}/cases_test.csv: has not the cases of seed {first}: {other[0]} for one")
    cases = {case: mean_of_known([scores[case] for scores in each]) for case in each[0]}
    return {name: mean_of_known([*volumes.values()]) for name, volumes in by_patient(cases, patient).items()}


def baseline_of(row: Row, bases: Sequence[Row]) -> Row | None:
    """The one of the same dataset, network and number of labelled cases that is most alike."""

    def unlike(other: Row) -> tuple[bool, bool, int]:
        return not _common(row, other), not _same_labels(row, other), len(_other_settings(row, other))

    place = (row.dataset, row.network, row.runs[0].cases)
    same = [other for other in bases if (other.dataset, other.network, other.runs[0].cases) == place]
    return min(same, key=unlike, default=None)


def _common(row: Row, other: Row) -> set[int]:
    """Seeds."""
    return {run.seed for run in row.runs} & {run.seed for run in other.runs}


def _same_labels(row: Row, other: Row) -> bool:
    """Whether the same cases are labelled, as far as it can be known."""
    a, b = row.runs[0], other.runs[0]
    if a.result["labeled"] != b.result["labeled"]:
        return False
    return a.split == b.split if a.split and b.split else a.settings.get("split_seed") == b.settings.get("split_seed")


def _other_settings(row: Row, other: Row) -> tuple[str, ...]:
    a, b = row.runs[0].settings, other.runs[0].settings
    left_out = (*LABELS, "split_seed", "tag")
    keys = [key for key in {**a, **b} if not key.startswith(("method.", "recipe.")) and key not in left_out]
    labels = () if _same_labels(row, other) else ("labelled cases",)
    return *labels, *(key for key in keys if repr(a.get(key)) != repr(b.get(key)))


def compare(rows: Sequence[Row], method: str, patient: re.Pattern[str]) -> tuple[list[Comparison], list[str]]:
    """Every row that has a baseline against it; and a message for each that cannot be compared."""
    bases = [row for row in rows if row.method == method]
    if rows and not bases:
        return [], [f"the comparison: no finished run has the method {method} (--baseline)"]
    found, notes = [], []
    for row in rows:
        if row.method == method:
            continue
        try:
            found.append(_compared(row, baseline_of(row, bases), patient))
        except UserError as error:
            notes.append(f"{row.name}, {row.labels}: not compared with {method}: {error}")
    return [one for group in _by_dataset(found) for one in _adjusted(group)], notes


def _compared(row: Row, baseline: Row | None, patient: re.Pattern[str]) -> Comparison:
    if baseline is None:
        raise UserError("it has no run with the same dataset, network and number of labelled cases")
    if row.main != baseline.main:
        raise UserError(f"one is scored by {row.main}, the other by {baseline.main}")
    if not (common := _common(row, baseline)):
        raise UserError("they have no seed in common")
    mine, theirs = (
        scores_of_patients(replace(one, runs=tuple(run for run in one.runs if run.seed in common)), patient)
        for one in (row, baseline)
    )
    if mine.keys() != theirs.keys():
        only = sorted(mine.keys() ^ theirs.keys())
        raise UserError(f"{len(only)} test cases are not in both, {only[0]} for one")
    differences = np.array([mine[name] - theirs[name] for name in theirs])
    low, high = interval(differences)
    return Comparison(
        row=row,
        baseline=baseline,
        num_seeds=len(common),
        difference=float(differences.mean()),
        low=low,
        high=high,
        p=wilcoxon(differences),
        better=int((differences > 0).sum()),
        num_patients=len(differences),
        other=_other_settings(row, baseline),
    )


def _by_dataset(comparisons: Sequence[Comparison]) -> list[list[Comparison]]:
    datasets = dict.fromkeys(c.row.dataset for c in comparisons)
    return [[c for c in comparisons if c.row.dataset == dataset] for dataset in datasets]


def _adjusted(group: Sequence[Comparison]) -> list[Comparison]:
    return [replace(c, p_holm=p) for c, p in zip(group, holm([c.p for c in group]), strict=True)]


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
    head = ("seeds", "difference", "low", "high", "better", "patients", "p", "p_holm")
    with file.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow([*WORDS, "baseline", "metric", *head, "other settings"])
        for c in comparisons:
            numbers = (c.num_seeds, c.difference, c.low, c.high, c.better, c.num_patients, c.p, c.p_holm)
            writer.writerow([*c.row.key, c.row.differs, c.baseline.name, c.row.main, *numbers, " ".join(c.other)])


def sheets(comparisons: Sequence[Comparison], method: str) -> list[Sheet]:
    """A table for each dataset."""
    return [_sheet(group, method) for group in _by_dataset(comparisons)]


def _sheet(group: Sequence[Comparison], method: str) -> Sheet:
    words = " or ".join(dict.fromkeys(MAIN[c.row.main] for c in group))
    lines = [
        (
            *c.row.key,
            c.row.differs,
            c.baseline.variant,
            str(c.num_seeds),
            _signed(c.difference),
            f"{_signed(c.low)} to {_signed(c.high)}",
            f"{c.better} of {c.num_patients}",
            _p(c.p),
            _p(c.p_holm),
            ", ".join(c.other),
        )
        for c in group
    ]
    num = len(group)
    return Sheet(
        title=f"Difference from {method} on {group[0].row.dataset}",
        caption=(
            f"Mean difference in test {words} (points) over patients, each patient's score the mean over classes, "
            f"volumes and the seeds that both have; 95 % bootstrap interval ({RESAMPLES:,} resamples of patients); how "
            "many patients are better; Wilcoxon's signed-rank test, two-sided"
            + (f", and adjusted by Holm for the {num} comparisons here." if num > 1 else ".")
        ),
        head=(*WORDS, "baseline", "seeds", "Δ points", "95 % interval", "better", "p", "p (Holm)", "other settings"),
        lines=tuple(lines),
        words=(*WORDS, "baseline", "other settings"),
    )


def _signed(difference: float) -> str:
    """In points."""
    return f"{100 * difference:+.2f}".replace("-", "−")


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"
