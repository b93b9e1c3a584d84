"""Paired comparison with a baseline over the test patients: mean difference, bootstrap interval, Wilcoxon's test."""

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ssl4seg import files
from ssl4seg.errors import UserError
from ssl4seg.keys import FOREGROUND_MEAN, MEANS
from ssl4seg.report.collect import Main, Row, Run, other_settings
from ssl4seg.report.sheets import WORDS, Sheet
from ssl4seg.scoring.metrics import mean_of_known
from ssl4seg.userfiles import read_text

RESAMPLES = 10_000

Scores = Mapping[str, float]
"""The score of each case, in [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A row against the baseline of the same dataset, network and number of labelled cases.

    Differences are row minus baseline; a patient's score is the mean over the classes, volumes and common seeds.
    """

    row: Row
    baseline: Row
    num_seeds: int
    """Seeds that both rows have; only these are used."""
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
    """Keys, beside the method's own, whose values differ from the baseline's."""


def patient_of(pattern: str) -> re.Pattern[str]:
    """Compile the pattern of --patient.

    Raises:
        UserError: it is no regular expression, or has not exactly one group.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(f"--patient {pattern}: is no regular expression ({error})") from None
    if compiled.groups != 1:
        raise UserError(f"--patient {pattern}: expected one group in parentheses, which is the patient: '(.+)_scan.*'")
    return compiled


def scores_of_cases(run: Run, main: Main) -> dict[str, float]:
    """Read from cases_test.csv each case's mean over the classes that have a score; NaN if none has one.

    In the mean over the foreground, an image scores 1 if neither its mask nor the prediction holds any.

    Raises:
        UserError: the file cannot be read, or lacks cases or classes that results.json counts.
    """
    if run.parts:
        return {case: score for part in run.parts for case, score in scores_of_cases(part, main).items()}
    file, metric = run.folder / "cases_test.csv", main.metric
    background = ""
    if main.name == FOREGROUND_MEAN:
        background = next((name for name in run.result["test"][metric] if name not in MEANS), "")
    of_case: dict[str, list[float]] = {}
    try:
        for line in csv.DictReader(io.StringIO(read_text(file), newline="")):
            values, score = of_case.setdefault(files.unquoted(line["case"]), []), float(line[metric])
            values += [] if files.unquoted(line["class"]) == background else [score]
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        raise UserError(f"{file}: cannot be read ({type(error).__name__}: {error})") from None
    expected = run.result["test"].get("num_cases", len(of_case))
    if len(of_case) != expected or not of_case:
        raise UserError(f"{file}: holds {len(of_case)} cases, but results.json counts {expected}; it is not complete")
    if metric == "dice" and len(set(map(len, of_case.values()))) > 1:
        raise UserError(f"{file}: its cases differ in their number of classes; it is not complete")
    return {case: mean_of_known(values) if values else 1.0 for case, values in of_case.items()}


def by_patient(cases: Scores, patient: re.Pattern[str]) -> dict[str, dict[str, float]]:
    """The cases of each patient, without NaN. A case whose name `patient` does not match is a patient of its own."""
    patients: dict[str, dict[str, float]] = {}
    for case, score in cases.items():
        if not math.isnan(score):
            match = patient.match(case)
            patients.setdefault(match[1] if match else case, {})[case] = score
    return patients


def scores_of_patients(row: Row, patient: re.Pattern[str]) -> dict[str, float]:
    """Each patient's score: the mean over its volumes, of which each has the mean over seeds.

    Raises:
        UserError: a cases_test.csv cannot be used, or the seeds have different cases.
    """
    each = [scores_of_cases(run, row.main) for run in row.runs]
    for run, scores in zip(row.runs, each, strict=True):
        if other := sorted(scores.keys() ^ each[0].keys()):
            first = row.runs[0].seed
            raise UserError(
                f"{run.folder}/cases_test.csv: its cases are not those of seed {first}, for example {other[0]}"
            )
    cases = {case: mean_of_known([scores[case] for scores in each]) for case in each[0]}
    return {name: mean_of_known([*volumes.values()]) for name, volumes in by_patient(cases, patient).items()}


def baseline_of(row: Row, bases: Sequence[Row]) -> Row | None:
    """The most similar of the `bases` with the same dataset, network and number of labelled cases.

    A common seed counts most, then the same labelled cases, then the number of different settings.
    """

    def distance(other: Row) -> tuple[bool, bool, int]:
        return not _common(row, other), not _same_labels(row, other), len(_other_settings(row, other))

    place = (row.dataset, row.network, row.runs[0].cases)
    same = [other for other in bases if (other.dataset, other.network, other.runs[0].cases) == place]
    return min(same, key=distance, default=None)


def _common(row: Row, other: Row) -> set[int]:
    """The seeds that both rows have."""
    return {run.seed for run in row.runs} & {run.seed for run in other.runs}


def _same_labels(row: Row, other: Row) -> bool:
    """Whether the same cases are labelled, by the hash of the split; without a hash by `split_seed`."""
    a, b = row.runs[0], other.runs[0]
    if a.result["labeled"] != b.result["labeled"]:
        return False
    return a.split == b.split if a.split and b.split else a.settings.get("split_seed") == b.settings.get("split_seed")


def _other_settings(row: Row, other: Row) -> tuple[str, ...]:
    a, b = row.runs[0].settings, other.runs[0].settings
    labels = () if _same_labels(row, other) else ("labelled cases",)
    return *labels, *other_settings([a, b])


def compare(rows: Sequence[Row], method: str, patient: re.Pattern[str]) -> tuple[list[Comparison], list[str]]:
    """Compare every row with its baseline; return also a message for each row that cannot be compared."""
    bases = [row for row in rows if row.method == method]
    if rows and not bases:
        return [], [f"the comparison: no finished run has the method {method} (--baseline)"]
    comparisons, notes = [], []
    for row in rows:
        if row.method == method:
            continue
        try:
            comparisons.append(_compared(row, baseline_of(row, bases), patient))
        except UserError as error:
            notes.append(f"{row.name}, {row.labels}: not compared with {method}: {error}")
    return [comparison for group in _by_dataset(comparisons) for comparison in _adjusted(group)], notes


def _compared(row: Row, baseline: Row | None, patient: re.Pattern[str]) -> Comparison:
    if baseline is None:
        raise UserError("it has no run with the same dataset, network and number of labelled cases")
    if row.main != baseline.main:
        raise UserError(f"one is scored by {row.main.title}, the other by {baseline.main.title}")
    if not (common := _common(row, baseline)):
        raise UserError("they have no seed in common")
    scores, base_scores = (
        scores_of_patients(replace(each, runs=tuple(run for run in each.runs if run.seed in common)), patient)
        for each in (row, baseline)
    )
    if only := sorted(scores.keys() ^ base_scores.keys()):
        raise UserError(f"{len(only)} test patients are not in both, for example {only[0]}")
    differences = np.array([scores[name] - base_scores[name] for name in base_scores])
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
    """95 % percentile bootstrap interval of the mean, drawn with a fixed seed."""
    draws = np.random.default_rng(0).integers(len(differences), size=(RESAMPLES, len(differences)))
    low, high = np.percentile(np.asarray(differences)[draws].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def wilcoxon(differences: Any) -> float:
    """Two-sided p of Wilcoxon's signed-rank test; 1 if all differences are 0."""
    from scipy.stats import wilcoxon as test  # slow to import, and --help does not need it

    return float(test(differences).pvalue) if np.any(differences) else 1.0


def holm(p: Sequence[float]) -> list[float]:
    """p values adjusted for their number by Holm's step-down method."""
    adjusted, highest = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        highest = max(highest, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = highest
    return adjusted


def write_csv(comparisons: Sequence[Comparison], file: Path) -> None:
    """Write one line for each comparison, numbers not rounded, differences in [-1, 1]."""
    head = ("seeds", "difference", "low", "high", "better", "patients", "p", "p_holm")
    lines: list[Sequence[object]] = [(*WORDS, "baseline", "metric", *head, "other settings")]
    for c in comparisons:
        numbers = (c.num_seeds, c.difference, c.low, c.high, c.better, c.num_patients, c.p, c.p_holm)
        lines.append((*c.row.key, c.row.differs, c.baseline.name, c.row.main.word, *numbers, " ".join(c.other)))
    files.write_csv(file, lines)


def sheets(comparisons: Sequence[Comparison], method: str) -> list[Sheet]:
    """One table for each dataset."""
    return [_sheet(group, method) for group in _by_dataset(comparisons)]


def _sheet(group: Sequence[Comparison], method: str) -> Sheet:
    metrics = " or ".join(dict.fromkeys(c.row.main.title for c in group))
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
            f"Mean difference in test {metrics} (points) over patients, each patient's score the mean over classes, "
            f"volumes and the seeds that both have; 95 % bootstrap interval ({RESAMPLES:,} resamples of patients); how "
            "many patients are better; Wilcoxon's signed-rank test, two-sided"
            + (f", and adjusted by Holm for the {num} comparisons here." if num > 1 else ".")
        ),
        head=(*WORDS, "baseline", "seeds", "Δ points", "95 % interval", "better", "p", "p (Holm)", "other settings"),
        lines=tuple(lines),
        words=(*WORDS, "baseline", "other settings"),
    )


def _signed(difference: float) -> str:
    """A difference in points, with its sign: "+1.25"."""
    return f"{100 * difference:+.2f}".replace("-", "−")


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"
