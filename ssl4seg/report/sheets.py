"""The tables of the report, written as Markdown, CSV and LaTeX (booktabs) and shown on the screen."""

import math
import re
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from ssl4seg import files
from ssl4seg.errors import plain
from ssl4seg.keys import MEAN, MEANS
from ssl4seg.report.collect import BUDGET, HEAD, Row, note_on_settings, takes_last
from ssl4seg.report.names import short
from ssl4seg.scoring.metrics import METRICS, Metric

WORDS = (*HEAD, "differs")
"""The columns that name a row."""

MAX_NAME = 60
"""Characters of a name in a table; longer names are cut."""

MAX_CLASSES = 6
"""Classes in one table; more classes are spread over several tables."""

EMPTY = {"worst": "HD95 is the volume's diagonal", "nan": "left out of the mean HD95", "zero": "HD95 0"}
"""What each policy for empty masks does to HD95, in words."""


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A table."""

    title: str
    caption: str
    head: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    words: tuple[str, ...] = WORDS
    """The columns of text: aligned left, and moved into the caption if all lines hold the same."""

    def shown(self) -> "Sheet":
        """The table for reading: long names are cut; a column of text with one value only moves into the caption."""
        columns = {name: list(cells) for name, *cells in zip(self.head, *self.lines, strict=True)}
        same: dict[str, str] = {}
        for name in (name for name in self.head if name in self.words):
            shortened = short(columns[name], MAX_NAME)
            columns[name] = [shortened[cell] for cell in columns[name]]
            if name != "method" and len(shortened) == 1:
                same[name] = columns.pop(name)[0]
        shared = ", ".join(f"{name} {value}" for name, value in same.items() if value)
        return replace(
            self,
            caption=f"{shared[:1].upper()}{shared[1:]}. {self.caption}" if shared else self.caption,
            head=tuple(columns),
            lines=tuple(zip(*columns.values(), strict=True)),
        )


@dataclass(frozen=True, kw_only=True)
class Column:
    """Scores of a table of results."""

    head: str
    split: str
    metric: Metric
    name: str = MEAN

    def cell(self, row: Row, unit: str) -> str:
        """Mean ± deviation; a distance has the row's own unit behind it if the rows share no `unit`."""
        metric = self.metric
        if not _has(row, metric):
            return ""
        cell = spread(row.values(self.split, metric.name, self.name), metric.factor)
        own_unit = str(row.first["test"].get("distance_unit", "")) if metric.unit == "distance" and not unit else ""
        return f"{cell} {own_unit}".rstrip() if cell else cell


def results(rows: Sequence[Row], *, classes: bool) -> list[Sheet]:
    """One table for each dataset: val and test, mean ± deviation over seeds; with `classes` also of every class."""
    return [
        _results(
            f"Results on {group[0].dataset}", group, [*_means(group), *(_classes(group) if classes else ())], timed=True
        )
        for group in _by_dataset(rows)
    ]


def results_of_classes(rows: Sequence[Row]) -> list[Sheet]:
    """One table for each dataset, metric and MAX_CLASSES classes."""
    sheets = []
    for group in _by_dataset(rows):
        of_metric = groupby(_classes(group), key=lambda column: column.metric)
        for metric, columns in ((metric, list(same)) for metric, same in of_metric):
            word = metric.head(_unit(group))
            parts = [columns[i : i + MAX_CLASSES] for i in range(0, len(columns), MAX_CLASSES)]
            for number, part in enumerate(parts, start=1):
                count = f" ({number} of {len(parts)})" if len(parts) > 1 else ""
                named = [replace(column, head=column.name) for column in part]
                sheets.append(_results(f"Test {word} of each class on {group[0].dataset}{count}", group, named))
    return sheets


def _by_dataset(rows: Sequence[Row]) -> list[list[Row]]:
    return [[row for row in rows if row.dataset == dataset] for dataset in dict.fromkeys(row.dataset for row in rows)]


def _has(row: Row, metric: Metric) -> bool:
    """Whether a metric's columns show a row: rows compared by Dice of cases and by IoU of pixels do not mix."""
    if metric.name in METRICS:
        return metric.name in (row.main.metric, "hd95")
    return metric in row.own_metrics.values()


def _metrics(rows: Sequence[Row]) -> dict[Metric, list[str]]:
    """The metrics with columns, each with its means and classes on test; one number for all pixels counts as a mean."""
    own = dict.fromkeys(metric for row in rows for metric in row.own_metrics.values())
    entries: dict[Metric, list[str]] = {}
    for metric in (*(METRICS[name] for name in ("dice", "iou", "hd95")), *own):
        scores = [row.first["test"].get(metric.name) for row in rows if _has(row, metric)]
        names = [list(each) if isinstance(each, Mapping) else [MEAN] for each in scores if each is not None]
        if names:
            entries[metric] = list(dict.fromkeys(name for each in names for name in each))
    return entries


def _means(rows: Sequence[Row]) -> list[Column]:
    unit, mains = _unit(rows), {row.main.metric for row in rows}
    return [
        Column(
            head=f"{split} {metric.title_of(name)} {metric.unit_word(unit)}".rstrip(),
            split=split,
            metric=metric,
            name=name,
        )
        for metric, entries in _metrics(rows).items()
        for name in reversed(MEANS)
        if name in entries
        for split in (("val", "test") if metric.name in mains else ("test",))
    ]


def _classes(rows: Sequence[Row]) -> list[Column]:
    return [
        Column(head=f"{name} {metric.head(_unit(rows))}", split="test", metric=metric, name=name)
        for metric, entries in _metrics(rows).items()
        for name in entries
        if name not in MEANS
    ]


def _unit(rows: Sequence[Row]) -> str:
    """The unit of distances, if all rows that have distances share it; else empty."""
    units = {unit for row in rows if (unit := row.first["test"].get("distance_unit"))}
    return str(units.pop()) if len(units) == 1 else ""


def _results(title: str, rows: Sequence[Row], columns: Sequence[Column], *, timed: bool = False) -> Sheet:
    unit = _unit(rows)
    times = [statistics.fmean(run.seconds for run in row.runs) / 60 for row in rows]
    timed = timed and not all(map(math.isnan, times))
    folds = any(row.folds for row in rows)
    lines = []
    for row, minutes in zip(rows, times, strict=True):
        time = ("" if math.isnan(minutes) else f"{minutes:.3g}",) if timed else ()
        cells = (column.cell(row, unit) for column in columns)
        lines.append((*row.key, row.differs, str(len(row.runs)), *((row.folds,) if folds else ()), *time, *cells))
    minutes_mean = "Minutes: wall time of a run. " if timed else ""
    return Sheet(
        title=title,
        caption=minutes_mean + _conventions(rows),
        head=(
            *WORDS,
            "seeds",
            *(("folds",) if folds else ()),
            *(("minutes",) if timed else ()),
            *(column.head for column in columns),
        ),
        lines=tuple(lines),
    )


def _conventions(rows: Sequence[Row]) -> str:
    """Sentences on how the numbers of these rows came about, for the caption."""
    sentences = [_budget(rows), note_on_settings(rows)]
    if any(len(row.runs) > 1 for row in rows):
        sentences.append("Mean ± standard deviation over seeds.")
    if any(row.folds for row in rows):
        sentences.append(
            "With folds a score is the mean over the cases of all of them, each scored by its fold's model."
        )
    sentences.append(f"The model is {' or '.join(_chosen(rows))}.")
    own = dict.fromkeys(metric for row in rows for metric in row.own_metrics.values())
    sentences += [f"{'Higher' if metric.higher_is_better else 'Lower'} {metric.title} is better." for metric in own]
    if any(row.first.get("tested_on") == "val" for row in rows):
        sentences.append("Test is val: the dataset's test split has no masks.")
    policies = sorted({EMPTY[row.first["empty"]] for row in rows if row.first.get("empty") in EMPTY})
    if policies and any("hd95" in row.first["test"] for row in rows):
        sentences.append(f"A class that is there and not found: {' or '.join(policies)}.")
    return " ".join(filter(None, sentences))


def _chosen(rows: Sequence[Row]) -> list[str]:
    """Which model of a run these rows show, in words."""
    scores = dict.fromkeys(row.selected_by for row in rows if not takes_last(row.first))
    best = [f"the one that is best on val by {' or '.join(scores)}"] if scores else []
    return best + ["that of the last step (selected: last)"] * any(takes_last(row.first) for row in rows)


def _budget(rows: Sequence[Row]) -> str:
    """Steps and image size, if all runs share them: scores are comparable only with the same ones."""
    shared = []
    for key, words in zip(BUDGET, ("{} steps", "image_size {}"), strict=True):
        values = {str(run.settings.get(key)) for row in rows for run in row.runs}
        shared += [words.format(values.pop())] if len(values) == 1 and "None" not in values else []
    return f"{', '.join(shared)}." if shared else ""


def spread(values: Sequence[float], scale: float = 1.0) -> str:
    """ "mean ± standard deviation" (of the sample; a single seed has none); "nan" if a value is NaN, "" if all are."""
    if any(math.isnan(value) for value in values):
        return "" if all(math.isnan(value) for value in values) else "nan"
    mean = statistics.fmean(values) * scale
    return f"{mean:.2f} ± {statistics.stdev(values) * scale:.2f}" if len(values) > 1 else f"{mean:.2f}"


# -- writing tables --------------------------------------------------------------------------------------------------


def markdown(sheet: Sheet) -> str:
    """A heading, the caption and a table of GitHub's Markdown."""
    rule = ["---" if name in sheet.words else "---:" for name in sheet.head]
    head, *lines = ([markdown_text(cell) for cell in line] for line in (sheet.head, *sheet.lines))
    table = "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *lines))
    return f"## {markdown_text(sheet.title)}\n\n{markdown_text(sheet.caption)}\n\n{table}\n"


def markdown_text(text: str) -> str:
    """A line in which no sign is HTML, a link, an image or another mark of Markdown's."""
    line = " ".join(plain(text).split())
    return re.sub(r"[\\`*\[\]|!~]|(?<!\w)_|_(?!\w)", r"\\\g<0>", line.replace("&", "&amp;").replace("<", "&lt;"))


def latex(sheet: Sheet) -> str:
    """A floating table with booktabs' rules, shrunk if it is wider than a line."""
    kind = "".join("l" if name in sheet.words else "r" for name in sheet.head)
    rows = [" & ".join(map(_escaped, line)) + r" \\" for line in sheet.lines]
    head = " & ".join(map(_escaped, sheet.head)) + r" \\"
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{_escaped(sheet.title)}. {_escaped(sheet.caption)}}}",
            rf"  \label{{tab:{re.sub('[^a-z0-9]+', '-', sheet.title.lower()).strip('-')}}}",
            r"  \begin{adjustbox}{max width=\linewidth}",
            rf"  \begin{{tabular}}{{{kind}}}",
            *(f"    {line}" for line in (r"\toprule", head, r"\midrule", *rows, r"\bottomrule")),
            r"  \end{tabular}",
            r"  \end{adjustbox}",
            r"\end{table}",
            "",
        ]
    )


_LATEX = {"\\": r"\textbackslash{}", "±": r"$\pm$", "Δ": r"$\Delta$", "~": r"\textasciitilde{}", "^": r"\^{}"}
_LATEX |= {sign: f"\\{sign}" for sign in "&%$#_{}"} | {"<": "$<$", ">": "$>$", "|": "$|$", "−": "$-$", "…": r"\dots{}"}


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in " ".join(plain(text).split()))


def write_csv(sheets: Iterable[Sheet], file: Path) -> None:
    """Write all sheets as one table; on a sheet's lines the columns that it lacks are empty."""
    sheets = list(sheets)
    head = list(dict.fromkeys(name for sheet in sheets for name in sheet.head))
    lines = [dict(zip(sheet.head, line, strict=True)) for sheet in sheets for line in sheet.lines]
    files.write_csv(file, [head, *([line.get(name, "") for name in head] for line in lines)])


def show(sheet: Sheet) -> None:
    """Print a sheet on the screen."""
    title, caption = Text(plain(sheet.title)), Text(plain(sheet.caption))
    table = RichTable(title=title, title_justify="left", caption=caption, caption_justify="left")
    for name in sheet.head:
        head, right = Text(plain(name)), name not in sheet.words
        table.add_column(head, justify="right" if right else "left", overflow="fold", no_wrap=name == "method")
    for line in sheet.lines:
        table.add_row(*(Text(plain(cell)) for cell in line))
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def write_runs(rows: Sequence[Row], file: Path) -> None:
    """Write one line for each run, also of each fold, numbers not rounded."""
    columns = [(split, name, mean) for name in ("dice", "iou") for mean in MEANS for split in ("val", "test")]
    columns.append(("test", "hd95", MEAN))
    own = [metric.name for metric in _metrics(rows) if metric.name not in METRICS]
    columns += [(split, name, mean) for name in dict.fromkeys(own) for mean in MEANS for split in ("val", "test")]
    each = [(row, part) for row in rows for run in row.runs for part in run.parts or (run,)]
    runs = [run for _, run in each]
    folds = ("fold",) if any(run.fold for run in runs) else ()
    used = [c for c in columns if c[2] == MEAN or not all(math.isnan(run.score(*c)) for run in runs)]
    heads = [f"{split}_{'' if mean == MEAN else 'foreground_'}{name}" for split, name, mean in used]
    lines: list[Sequence[object]] = [
        (*WORDS, "seed", *folds, "best_step", *heads, "distance_unit", "seconds", "folder")
    ]
    for row, run in each:
        scores = [*(run.score(*column) for column in used), run.seconds]
        *cells, seconds = ["" if math.isnan(score) else score for score in scores]
        unit, step = run.result["test"].get("distance_unit", ""), run.result.get("best_step", "")
        place = (run.seed, *(run.result.get("fold") for _ in folds))
        lines.append((*row.key, row.differs, *place, step, *cells, unit, seconds, str(run.folder)))
    files.write_csv(file, lines)
