"""Tables, and how they are written: Markdown, CSV, LaTeX (booktabs), the screen."""

import csv
import math
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table as RichTable

from ssl4seg.report.collect import HEAD, MAIN, Row

WORDS = (*HEAD, "differs")
"""The columns that name a row."""

EMPTY = {"worst": "HD95 is the volume's diagonal", "nan": "left out of the mean HD95", "zero": "HD95 0"}
"""What the policies for empty masks do."""


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A table."""

    title: str
    caption: str
    head: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    words: tuple[str, ...] = WORDS
    """Columns that hold words: on the left, and into the caption where all lines say the same."""

    def folded(self) -> "Sheet":
        """Without the columns that say the same on every line, which the caption says instead."""
        same: dict[str, str] = {}
        for name, *cells in zip(self.head, *self.lines, strict=True):
            if name in self.words and name != "method" and len(set(cells)) == 1:
                same[name] = cells[0]
        kept = [i for i, name in enumerate(self.head) if name not in same]
        told = ", ".join(f"{name} {value}" for name, value in same.items() if value)
        return Sheet(
            title=self.title,
            caption=f"{told[:1].upper()}{told[1:]}. {self.caption}" if told else self.caption,
            head=tuple(self.head[i] for i in kept),
            lines=tuple(tuple(line[i] for i in kept) for line in self.lines),
            words=self.words,
        )


def results(rows: Sequence[Row], *, classes: bool) -> list[Sheet]:
    """A table for each dataset: val and test, mean ± deviation over seeds; with `classes` also of every class."""
    datasets = {row.dataset: [other for other in rows if other.dataset == row.dataset] for row in rows}
    return [_results(dataset, group, classes=classes) for dataset, group in datasets.items()]


def _results(dataset: str, rows: Sequence[Row], *, classes: bool) -> Sheet:
    names = [name for name in ("dice", "iou") if any(row.main == name for row in rows)]
    units = {unit for row in rows if (unit := row.first["test"].get("distance_unit"))}
    unit = units.pop() if len(units) == 1 else ""
    columns: list[tuple[str, str, str, str]] = []  # head, split, metric, class
    for metric in names:
        columns += [(f"{split} {MAIN[metric]} %", split, metric, "mean") for split in ("val", "test")]
    columns += [(f"test HD95 {unit}".rstrip(), "test", "hd95", "mean")] if unit or units else []
    for metric in (*names, "hd95") if classes else ():
        word = f"HD95 {unit}".rstrip() if metric == "hd95" else f"{MAIN[metric].removeprefix('m')} %"
        found = {name: None for row in rows for name in row.first["test"].get(metric, {}) if name != "mean"}
        columns += [(f"{name} {word}", "test", metric, name) for name in found]
    lines = []
    for row in rows:
        told = "" if unit else f" {row.first['test'].get('distance_unit', '')}".rstrip()
        cells = [spread(row.values(split, m, name), 1 if m == "hd95" else 100) for _, split, m, name in columns]
        cells = [f"{cell}{told}" if c[2] == "hd95" and cell else cell for c, cell in zip(columns, cells, strict=True)]
        lines.append((*row.key, row.differs, str(len(row.runs)), *cells))
    return Sheet(
        title=f"Results on {dataset}",
        caption=_conventions(rows),
        head=(*WORDS, "seeds", *(column[0] for column in columns)),
        lines=tuple(lines),
    )


def _conventions(rows: Sequence[Row]) -> str:
    """What the numbers of these rows are."""
    told = []
    if any(len(row.runs) > 1 for row in rows):
        told.append("Mean ± standard deviation over seeds.")
    told.append(f"The model is the one that is best on val by {' or '.join(MAIN[m] for m in _mains(rows))}.")
    if any(row.first.get("tested_on") == "val" for row in rows):
        told.append("Test is val: the dataset's test split has no masks.")
    policies = sorted({EMPTY[row.first["empty"]] for row in rows if row.first.get("empty") in EMPTY})
    if policies and any("hd95" in row.first["test"] for row in rows):
        told.append(f"A class that is there and not found: {' or '.join(policies)}.")
    return " ".join(told)


def _mains(rows: Sequence[Row]) -> list[str]:
    return [name for name in MAIN if any(row.main == name for row in rows)]


def spread(values: Sequence[float], scale: float = 1.0) -> str:
    """ "mean ± standard deviation" (of the sample; none for a single seed); nothing where a seed has no value."""
    if any(math.isnan(value) for value in values):
        return "" if all(math.isnan(value) for value in values) else "nan"
    mean = statistics.fmean(values) * scale
    return f"{mean:.2f} ± {statistics.stdev(values) * scale:.2f}" if len(values) > 1 else f"{mean:.2f}"


# -- how they are written ---------------------------------------------------------------------------------------------


def markdown(sheet: Sheet) -> str:
    """A heading, the caption and a table of GitHub's Markdown."""
    rule = ["---" if name in sheet.words else "---:" for name in sheet.head]
    lines = [[cell.replace("|", "\\|") for cell in line] for line in (sheet.head, rule, *sheet.lines)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"## {sheet.title}\n\n{sheet.caption}\n\n{table}\n"


def latex(sheet: Sheet) -> str:
    """A floating table with booktabs' rules."""
    kind = "".join("l" if name in sheet.words else "r" for name in sheet.head)
    rows = [" & ".join(map(_escaped, line)) + r" \\" for line in sheet.lines]
    head = " & ".join(map(_escaped, sheet.head)) + r" \\"
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{_escaped(sheet.title)}. {_escaped(sheet.caption)}}}",
            rf"  \begin{{tabular}}{{{kind}}}",
            *(f"    {line}" for line in (r"\toprule", head, r"\midrule", *rows, r"\bottomrule")),
            r"  \end{tabular}",
            r"\end{table}",
            "",
        ]
    )


_LATEX = {"\\": r"\textbackslash{}", "±": r"$\pm$", "Δ": r"$\Delta$", "~": r"\textasciitilde{}", "^": r"\^{}"}
_LATEX |= {sign: f"\\{sign}" for sign in "&%$#_{}"} | {"<": "$<$", ">": "$>$", "−": "$-$"}


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in text)


def write_csv(sheets: Iterable[Sheet], file: Path) -> None:
    """All of them as one table: a column that a sheet does not have is empty on its lines."""
    sheets = list(sheets)
    head = list(dict.fromkeys(name for sheet in sheets for name in sheet.head))
    with file.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, head)
        writer.writeheader()
        for sheet in sheets:
            writer.writerows(dict(zip(sheet.head, line, strict=True)) for line in sheet.lines)


def show(sheet: Sheet) -> None:
    """On the screen."""
    table = RichTable(title=sheet.title, title_justify="left", caption=sheet.caption, caption_justify="left")
    for name in sheet.head:
        table.add_column(name, justify="left" if name in sheet.words else "right")
    for line in sheet.lines:
        table.add_row(*line)
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def write_runs(rows: Sequence[Row], file: Path) -> None:
    """A line a run, numbers as they are."""
    numbers = ("val_dice", "test_dice", "val_iou", "test_iou", "test_hd95")
    with file.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow([*WORDS, "seed", "best_step", *numbers, "distance_unit", "folder"])
        for row in rows:
            for run in row.runs:
                scores = [run.score(*name.split("_")) for name in numbers]
                cells = ["" if math.isnan(score) else score for score in scores]
                unit = run.result["test"].get("distance_unit", "")
                writer.writerow(
                    [*row.key, row.differs, run.seed, run.result["best_step"], *cells, unit, str(run.folder)]
                )
