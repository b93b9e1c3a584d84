"""Figures of a dataset and network: score against labelled cases and against step, and over patients.

Figure sizes are in inches. Colours are Okabe and Ito's, which the colour-blind tell apart; markers and dashes besides.
"""

import itertools
import logging
import math
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from ssl4seg.errors import UserError
from ssl4seg.report.collect import MAIN, Row, Run
from ssl4seg.report.compare import scores_of_patients
from ssl4seg.report.words import short

BOUND = "supervised"
"""The method that bounds the others: from below with the same labels, from above with all of them."""
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f4f24", "#999999")
MARKERS = "osD^vP*X"
DASHES = ("-", "--", ":", "-.")
TOGETHER = len(COLORS)
"""Lines in one pair of axes; more get a panel each."""
BLUE: dict[str, Any] = {"color": COLORS[0], "marker": "o", "linestyle": "-"}
"""A method alone."""
BLACK: dict[str, Any] = {"color": "black", "marker": "s", "linestyle": "--"}
"""The bound."""
STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e5e5e5",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "text.parse_math": False,  # a $ in a tag is a $
    "svg.hashsalt": "ssl4seg",
}

Curve = dict[int, float]
"""Step -> score in [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A figure with what is written below it."""

    name: str
    """Stem of its files."""
    caption: str
    figure: Figure

    def save(self, file: Path) -> None:
        """PNG and SVG, the same bytes for the same figure.

        Args:
            file: without the ending.
        """
        with rc_context(STYLE):
            self.figure.savefig(f"{file}.png", dpi=150, metadata={"Software": None})
            self.figure.savefig(f"{file}.svg", metadata={"Date": None})


@dataclass(frozen=True, kw_only=True)
class Line:
    """Points of a row's name: x, mean and standard deviation over seeds, in %."""

    name: str
    label: str
    """What it is called in the figure."""
    bound: bool
    x: Sequence[float]
    mean: Sequence[float]
    deviation: Sequence[float]


@dataclass(frozen=True, kw_only=True)
class Group:
    """The rows of a dataset and network."""

    rows: tuple[Row, ...]

    @property
    def dataset(self) -> str:
        return self.rows[0].dataset

    @property
    def network(self) -> str:
        return self.rows[0].network

    @property
    def stem(self) -> str:
        return file_name(f"{self.dataset}-{self.network}-{self.rows[0].main}")

    @property
    def score(self) -> str:
        """Dice or mIoU."""
        return MAIN[self.rows[0].main]

    @property
    def words(self) -> str:
        """For titles."""
        return ", ".join(filter(None, (self.dataset, self.network, self.tag)))

    @property
    def tag(self) -> str:
        """Of all rows, which then need not be called by it."""
        tags = {row.key[4] for row in self.rows}
        return tags.pop() if len(tags) == 1 else ""

    @property
    def labels(self) -> dict[str, list[Row]]:
        """Rows by labels, as few as possible first."""
        found: dict[str, list[Row]] = {}
        for row in sorted(self.rows, key=lambda row: (row.cases, row.first["labeled"]["images"])):
            found.setdefault(row.labels, []).append(row)
        return found

    @property
    def upper(self) -> list[Row]:
        """The bound with all labels, of each setting that it was computed with."""
        return [row for row in self.rows if row.all_labeled and row.method == BOUND]

    @cached_property
    def called(self) -> dict[str, str]:
        """What a row's name is in figures."""
        names = {row.name: f"{row.method} {row.differs}".strip() if self.tag else row.name for row in self.rows}
        cut = short(names.values())
        return {name: cut[called] for name, called in names.items()}

    def style(self, line: Line) -> dict[str, Any]:
        """The same for a name in all figures; bounds are black."""
        alike = [row.name for row in self.rows if (row.method == BOUND) == line.bound]
        i = list(dict.fromkeys(alike)).index(line.name)
        if line.bound:
            return BLACK | {"linestyle": ("--", "-.", ":", "-")[i % 4]}
        dash = DASHES[i // len(COLORS) % len(DASHES)]
        return {"color": COLORS[i % len(COLORS)], "marker": MARKERS[i % len(MARKERS)], "linestyle": dash}


def file_name(words: str) -> str:
    """What of them can stand in the name of a file."""
    return re.sub(r"[^\w.=+-]+", "_", words).strip("_")


def groups(rows: Sequence[Row]) -> list[Group]:
    """Rows by dataset, network and the metric that chose the model."""
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        found.setdefault((row.dataset, row.network, row.main), []).append(row)
    return [Group(rows=tuple(group)) for group in found.values()]


def draw(group: Group, patient: re.Pattern[str], notes: list[str]) -> Iterator[Drawing]:
    """All figures of a group; what cannot be drawn is said in `notes`."""
    with rc_context(STYLE):
        few = [row for row in group.rows if row not in group.upper]
        if scored := [row for row in few if _scored(row, notes)]:
            yield labels(group, scored)
        counts = [rows[0].cases for rows in group.labels.values()]
        for key, rows in group.labels.items():
            if few and all(row in group.upper for row in rows):
                continue  # nothing to compare it with
            stem = f"{group.stem}-{rows[0].cases}cases"
            if counts.count(rows[0].cases) > 1:
                stem += f"-{rows[0].first['labeled']['images']}images"
            if drawing := steps(group, key, rows, stem, notes):
                yield drawing
            if drawing := patients(group, key, rows, stem, patient, notes):
                yield drawing


def _scored(row: Row, notes: list[str]) -> bool:
    lost = [run.seed for run in row.runs if math.isnan(run.score("test", row.main))]
    if lost:
        notes.append(f"{row.name}, {row.labels}, among the labels: no test {MAIN[row.main]} with seed {lost[0]}")
    return not lost


# -- score against labelled cases -------------------------------------------------------------------------------------


def labels(group: Group, rows: Sequence[Row]) -> Drawing:
    """Lines over the numbers of labelled cases; where there is one number only, the methods in order."""
    counts = sorted({row.cases for row in rows})
    caption = f"Test {group.score} {{}} ({group.words}). "
    if max(len(row.runs) for row in rows) > 1:
        caption += "Mean and standard deviation over seeds. "
    caption += f"Lower bound: {BOUND} with as many labels. "
    if group.upper:
        caption += f"Upper bound: {BOUND} with all {group.upper[0].cases} labelled."
    if len(counts) == 1:
        where, figure = f"with {_labelled(rows)} labelled", _ranking(group, rows)
    else:
        where, figure = "against labelled cases", _over_labels(group, rows, counts)
    return Drawing(name=f"{group.stem}-labels", caption=caption.format(where).strip(), figure=figure)


def _labelled(rows: Sequence[Row]) -> str:
    """ "2 of 40", with the share of the images if they all have the same."""
    cases, of_cases = rows[0].runs[0].cases
    return rows[0].labels if len({row.labels for row in rows}) == 1 else f"{cases} of {of_cases}"


def _over_labels(group: Group, rows: Sequence[Row], counts: Sequence[int]) -> Figure:
    found = {row.name: sorted((r for r in rows if r.name == row.name), key=lambda r: r.cases) for row in rows}
    together = sum(mine[0].method != BOUND for mine in found.values()) <= TOGETHER
    shifts = _shifts(len(found) if together else 2, counts)
    lines = []
    for i, (name, mine) in enumerate(found.items()):
        shift = shifts[i if together else int(mine[0].method != BOUND)]
        mean, deviation = zip(*(percent(row.values("test", row.main)) for row in mine), strict=True)
        x = [row.cases * shift for row in mine]
        bound = mine[0].method == BOUND
        label = f"{group.called[name]} (lower bound)" if bound else group.called[name]
        lines.append(Line(name=name, label=label, bound=bound, x=x, mean=mean, deviation=deviation))
    figure, axes = _lines(group, lines, group.words, dots=True)
    for each in axes:
        each.set_xscale("log")
        each.xaxis.set_minor_locator(NullLocator())
        each.set_xticks(counts, [str(count) for count in counts])
        for row in group.upper:
            _bound(each, row)
    _label(figure, axes, x="labelled cases", y=f"test {group.score} (%)")
    _legend(figure, axes, lines, {"upper bound": {"color": "black", "linestyle": ":"}} if group.upper else {})
    return figure


def _shifts(num: int, counts: Sequence[int]) -> list[float]:
    """Factors of x, so that the error bars of `num` lines do not cover one another."""
    nearest = min(math.log(b / a) for a, b in itertools.pairwise(counts))
    reach = min(0.01 * (num - 1), nearest / 4)
    return [math.exp(reach * (2 * i / max(1, num - 1) - 1)) for i in range(num)]


def _ranking(group: Group, rows: Sequence[Row]) -> Figure:
    """A line a method, the best on top; small dots are seeds."""
    ordered = sorted(rows, key=lambda row: percent(row.values("test", row.main))[0])
    figure = Figure(figsize=(6.4, 1.2 + 0.22 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    for y, row in enumerate(ordered):
        mean, deviation = percent(row.values("test", row.main))
        style = BLACK if row.method == BOUND else BLUE
        axes.errorbar(mean, y, xerr=deviation or None, markersize=6, capsize=2, **{**style, "linestyle": "none"})
        if len(row.runs) > 1:
            axes.plot([100 * v for v in row.values("test", row.main)], [y] * len(row.runs), "k.", markersize=2.5)
    for kind, found, dash in (
        ("lower", [row for row in rows if row.method == BOUND], "--"),
        ("upper", group.upper, ":"),
    ):
        for number, row in enumerate(found):
            mean, _ = percent(row.values("test", row.main))
            label = "_" if number else f"{kind} bound"
            axes.axvline(mean, color="black", linestyle=dash, linewidth=1, label=label)
    axes.set_yticks(range(len(ordered)), [group.called[row.name] for row in ordered])
    axes.set_ylim(-0.7, len(ordered) - 0.3)
    axes.set_xlabel(f"test {group.score} (%)")
    axes.set_title(f"{group.words}: {_labelled(rows)} labelled")
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside lower right", ncols=2)
    return figure


def _bound(axes: Axes, row: Row) -> None:
    mean, deviation = percent(row.values("test", row.main))
    axes.axhline(mean, color="black", linestyle=":", linewidth=1.2)
    if deviation:
        axes.axhspan(mean - deviation, mean + deviation, color="black", alpha=0.06, linewidth=0)


def percent(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation (0 for a single value) in %; NaN and 0 where there is a NaN."""
    scaled = [100 * value for value in values]
    if any(map(math.isnan, scaled)):
        return math.nan, 0.0
    return statistics.fmean(scaled), statistics.stdev(scaled) if len(scaled) > 1 else 0.0


# -- score against step -----------------------------------------------------------------------------------------------


def steps(group: Group, labels: str, rows: Sequence[Row], stem: str, notes: list[str]) -> Drawing | None:
    """Validation curves, mean and standard deviation over seeds where all of them were validated."""
    lines = []
    for row in rows:
        try:
            curves = [curve(run, row.main) for run in row.runs]
        except UserError as error:
            notes.append(f"the curve of {row.name}, {labels}: {error}")
            continue
        x = sorted(set.intersection(*(set(one) for one in curves)))
        scores = [percent([one[step] for one in curves]) for step in x]
        mean, deviation = [m for m, _ in scores], [d for _, d in scores]
        called, bound = group.called[row.name], row.method == BOUND
        lines.append(Line(name=row.name, label=called, bound=bound, x=x, mean=mean, deviation=deviation))
    if not any(len(line.x) > 1 for line in lines):
        return None
    figure, axes = _lines(group, lines, f"{group.words}: {labels} labelled")
    for each in axes:
        each.xaxis.set_major_locator(MaxNLocator(4 if len(axes) > 1 else 8, integer=True, steps=[1, 2, 5, 10]))
    _label(figure, axes, x="step", y=f"val {group.score} (%)")
    _legend(figure, axes, lines)
    spread = " Bands: standard deviation over seeds." if any(max(line.deviation, default=0) for line in lines) else ""
    caption = f"Val {group.score} against step ({group.words}, {labels} labelled).{spread}"
    return Drawing(name=f"{stem}-steps", caption=caption, figure=figure)


def curve(run: Run, metric: str) -> Curve:
    """Of the TensorBoard files of a run; of steps that were done twice (a run that was gone on with) the later."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # warns of every run that was gone on with
    folder, tag = run.folder / "tensorboard", f"val/{metric}/mean"
    kept = {"scalars": 0, "images": 1, "tensors": 1, "histograms": 1, "audio": 1, "compressedHistograms": 1}
    events = EventAccumulator(str(folder), size_guidance=kept)
    if not folder.is_dir() or tag not in events.Reload().Tags()["scalars"]:
        raise UserError(f"{folder}: holds no curve {tag}")
    return {event.step: event.value for event in events.Scalars(tag)}


# -- over patients ----------------------------------------------------------------------------------------------------


def patients(
    group: Group, labels: str, rows: Sequence[Row], stem: str, patient: re.Pattern[str], notes: list[str]
) -> Drawing | None:
    """Boxes of the patients' scores, the best median on top."""
    found: list[tuple[Row, list[float]]] = []
    for row in rows:
        try:
            found.append((row, [100 * score for score in scores_of_patients(row, patient).values()]))
        except UserError as error:
            notes.append(f"the patients of {row.name}, {labels}: {error}")
    found = sorted((one for one in found if one[1]), key=lambda one: statistics.median(one[1]))
    if not found:
        return None
    figure = Figure(figsize=(6.4, 1.0 + 0.28 * len(found)), layout="constrained")
    axes = figure.add_subplot()
    boxes = axes.boxplot(
        [scores for _, scores in found],
        orientation="horizontal",
        widths=0.6,
        patch_artist=True,
        showfliers=False,
        medianprops={"color": "black", "linewidth": 1.4},
    )
    for at, ((row, scores), box) in enumerate(zip(found, boxes["boxes"], strict=True), start=1):
        box.set(facecolor="#cccccc" if row.method == BOUND else "#9ecae1", edgecolor="#444444", linewidth=0.8)
        jitter = np.random.default_rng(at).uniform(-0.16, 0.16, len(scores))
        few = len(scores) <= 100  # more than that hide the box
        axes.plot(scores, at + jitter, ".", color="#222222", markersize=2.5, alpha=0.6 if few else 0)
    axes.set_yticks(range(1, len(found) + 1), [group.called[row.name] for row, _ in found])
    axes.set_xlabel(f"test {group.score} of a patient (%)")
    axes.set_title(f"{group.words}: {labels} labelled")
    num = max(len(scores) for _, scores in found)
    caption = (
        f"Test {group.score} of {num} patients, each the mean over classes, volumes and seeds ({group.words}, "
        f"{labels} labelled). Boxes: quartiles and median; whiskers: the furthest patient within 1.5 times the box."
    )
    return Drawing(name=f"{stem}-patients", caption=caption, figure=figure)


# -- lines, together or in panels -------------------------------------------------------------------------------------


def _lines(group: Group, lines: Sequence[Line], title: str, *, dots: bool = False) -> tuple[Figure, list[Axes]]:
    """All in one pair of axes, or, where they are many, a panel each with the bound in all of them."""
    base = [line for line in lines if line.bound]
    others = [line for line in lines if not line.bound]
    together = len(others) <= TOGETHER
    panels = 1 if together else len(others)
    columns = min(panels, 5)
    rows = math.ceil(panels / columns)
    size = (7.2, 4.0) if together else (1.9 * columns + 0.4, 1.5 * rows + 0.8)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel().tolist()
    axes: list[Axes] = grid[:panels]
    for spare in grid[panels:]:
        spare.remove()
    for i, each in enumerate(axes):
        shown = [*base, *others] if together else [*base, others[i]]
        for line in shown:
            style = group.style(line) if together or line.bound else BLUE
            _line(each, line, {**style, "label": line.label}, dots=dots)
        if not together:
            each.set_title(others[i].label, fontsize=8)
            each.tick_params(labelbottom=i + columns >= panels)  # the last of its column
    if together:
        axes[0].set_title(title)
    else:
        figure.suptitle(title, fontsize=10, x=0.01, horizontalalignment="left")
    return figure, axes


def _line(axes: Axes, line: Line, style: Mapping[str, Any], *, dots: bool) -> None:
    x, mean, deviation = (np.array(values, dtype=float) for values in (line.x, line.mean, line.deviation))
    shown = {**style, "markersize": 5} if dots else {**style, "marker": None}
    if dots:
        axes.errorbar(x, mean, yerr=deviation if deviation.any() else None, capsize=2, **shown)
        return
    axes.plot(x, mean, **shown)
    if deviation.any():
        axes.fill_between(x, mean - deviation, mean + deviation, color=style["color"], alpha=0.15, linewidth=0)


def _label(figure: Figure, axes: Sequence[Axes], *, x: str, y: str) -> None:
    if len(axes) == 1:
        axes[0].set_xlabel(x)
        axes[0].set_ylabel(y)
    else:
        figure.supxlabel(x, fontsize=9)
        figure.supylabel(y, fontsize=9)


def _legend(
    figure: Figure, axes: Sequence[Axes], lines: Sequence[Line], more: Mapping[str, Mapping[str, Any]] | None = None
) -> None:
    """Beside the axes; of panels, whose titles name their lines, only the bounds.

    Args:
        more: styles of lines that are in no axes' legend, by name.
    """
    told = {line.label for line in lines if line.bound or len(axes) == 1}
    shown = [(handle, word) for handle, word in zip(*axes[0].get_legend_handles_labels(), strict=True) if word in told]
    shown += [(axes[0].plot([], [], linewidth=1.2, **style)[0], name) for name, style in (more or {}).items()]
    if not shown:
        return
    where: Any = "outside right upper" if len(axes) == 1 else "outside lower right"
    handles, words = zip(*shown, strict=True)
    figure.legend(handles, words, loc=where, ncols=1 if len(axes) == 1 else 3)
