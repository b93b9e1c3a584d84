"""Figures of a dataset and network: score against labelled cases, against steps, and over patients.

Figure sizes are in inches. Colours are Okabe and Ito's, which the colour-blind can tell apart; lines also differ in
markers and dashes.
"""

import itertools
import logging
import math
import re
import statistics
import warnings
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
from ssl4seg.report.collect import Main, Row, Run, note_on_settings
from ssl4seg.report.compare import scores_of_patients
from ssl4seg.report.names import short
from ssl4seg.run.loggers.csv_file import FILE, rows
from ssl4seg.userfiles import expect_regular

BOUND = "supervised"
"""The method that bounds the others: from below with the same labels, from above with all labels."""
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f4f24", "#999999")
MARKERS = "osD^vP*X"
DASHES = ("-", "--", ":", "-.")
TOGETHER = len(COLORS)
"""Lines that share one pair of axes at most; more get a panel each."""
BLUE: dict[str, Any] = {"color": COLORS[0], "marker": "o", "linestyle": "-"}
"""The style of a method that has a panel or a line to itself."""
BLACK: dict[str, Any] = {"color": "black", "marker": "s", "linestyle": "--"}
"""The style of a bound."""
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
    """A figure and its caption."""

    name: str
    """The stem of its files' names."""
    caption: str
    figure: Figure

    def save(self, file: Path) -> None:
        """Write PNG and SVG; the same figure gives the same bytes.

        Args:
            file: the path without the ending.
        """
        with rc_context(STYLE), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a box stands for it in the figure
            self.figure.savefig(f"{file}.png", dpi=150, metadata={"Software": None})
            self.figure.savefig(f"{file}.svg", metadata={"Date": None})


@dataclass(frozen=True, kw_only=True)
class Line:
    """The points of all rows of one name: x, and mean and standard deviation over seeds in %."""

    name: str
    label: str
    """Its name in the figure."""
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
        return file_name(f"{self.dataset}-{self.network}-{self.rows[0].main.word}")

    @property
    def score(self) -> str:
        """Dice, mIoU or foreground IoU."""
        return self.rows[0].main.title

    @property
    def title(self) -> str:
        """Dataset, network, and the tag that all rows share."""
        return ", ".join(filter(None, (self.dataset, self.network, self.tag)))

    @property
    def tag(self) -> str:
        """The tag that all rows share, which their names then leave out; empty if they differ."""
        tags = {row.key[4] for row in self.rows}
        return tags.pop() if len(tags) == 1 else ""

    @property
    def labels(self) -> dict[str, list[Row]]:
        """The rows by their labels, fewest labels first."""
        by_labels: dict[str, list[Row]] = {}
        for row in sorted(self.rows, key=lambda row: (row.cases, row.first["labeled"]["images"])):
            by_labels.setdefault(row.labels, []).append(row)
        return by_labels

    @property
    def upper(self) -> list[Row]:
        """The rows of the bound with all labels; several if its settings differ."""
        return [row for row in self.rows if row.all_labeled and row.method == BOUND]

    @cached_property
    def names(self) -> dict[str, str]:
        """Name of a row -> its name in figures."""
        names = {row.name: f"{row.method} {row.differs}".strip() if self.tag else row.name for row in self.rows}
        shortened = short(names.values())
        return {name: shortened[long] for name, long in names.items()}

    def style(self, line: Line) -> dict[str, Any]:
        """The style of a name's line, the same in all figures; bounds are black."""
        names = [row.name for row in self.rows if (row.method == BOUND) == line.bound]
        i = list(dict.fromkeys(names)).index(line.name)
        if line.bound:
            return BLACK | {"linestyle": ("--", "-.", ":", "-")[i % 4]}
        dash = DASHES[i // len(COLORS) % len(DASHES)]
        return {"color": COLORS[i % len(COLORS)], "marker": MARKERS[i % len(MARKERS)], "linestyle": dash}


def file_name(words: str) -> str:
    """The words with "_" for all characters that may not stand in the name of a file."""
    return re.sub(r"[^\w.=+-]+", "_", words).strip("_")


def groups(rows: Sequence[Row]) -> list[Group]:
    """Group rows by dataset, network and the score by which they are compared."""
    by_key: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        by_key.setdefault((row.dataset, row.network, *row.main), []).append(row)
    return [Group(rows=tuple(group)) for group in by_key.values()]


def draw(group: Group, patient: re.Pattern[str], notes: list[str]) -> Iterator[Drawing]:
    """Draw all figures of a group; add a message to `notes` for each row that cannot be drawn."""
    with rc_context(STYLE):
        compared = [row for row in group.rows if row not in group.upper]
        if scored := [row for row in compared if _scored(row, notes)]:
            yield labels(group, scored)
        counts = [rows[0].cases for rows in group.labels.values()]
        for key, rows in group.labels.items():
            if compared and all(row in group.upper for row in rows):
                continue  # the upper bound alone: nothing is compared with it
            stem = f"{group.stem}-{rows[0].cases}cases"
            if counts.count(rows[0].cases) > 1:
                stem += f"-{rows[0].first['labeled']['images']}images"
            if drawing := steps(group, key, rows, stem, notes):
                yield drawing
            if drawing := patients(group, key, rows, stem, patient, notes):
                yield drawing


def _scored(row: Row, notes: list[str]) -> bool:
    """Whether all seeds have a test score; else a message is added to `notes`."""
    unscored = [run.seed for run in row.runs if math.isnan(run.score("test", *row.main))]
    if unscored:
        notes.append(f"{row.name}, {row.labels}, among the labels: no test {row.main.title} with seed {unscored[0]}")
    return not unscored


# -- score against labelled cases -------------------------------------------------------------------------------------


def labels(group: Group, rows: Sequence[Row]) -> Drawing:
    """Draw the scores against the number of labelled cases; if there is one number only, rank the methods."""
    counts = sorted({row.cases for row in rows})
    if len(counts) == 1:
        against, figure = f"with {_labelled(rows)} labelled", _ranking(group, rows)
    else:
        against, figure = "against labelled cases", _over_labels(group, rows, counts)
    caption = f"Test {group.score} {against} ({group.title}). "
    if max(len(row.runs) for row in rows) > 1:
        caption += "Mean and standard deviation over seeds. "
    caption += f"Lower bound: {BOUND} with as many labels. "
    if group.upper:
        of_cases = group.upper[0].runs[0].counts.rpartition(" of ")[2]
        caption += f"Upper bound: {BOUND} with all {of_cases} labelled. "
    caption += note_on_settings([*rows, *group.upper])
    return Drawing(name=f"{group.stem}-labels", caption=caption.strip(), figure=figure)


def _labelled(rows: Sequence[Row]) -> str:
    """ "2 of 40", with the share of labelled images if all rows have the same."""
    return rows[0].labels if len({row.labels for row in rows}) == 1 else rows[0].runs[0].counts


def _over_labels(group: Group, rows: Sequence[Row], counts: Sequence[int]) -> Figure:
    by_name = {row.name: sorted((r for r in rows if r.name == row.name), key=lambda r: r.cases) for row in rows}
    together = sum(named[0].method != BOUND for named in by_name.values()) <= TOGETHER
    shifts = _shifts(len(by_name) if together else 2, counts)
    lines = []
    for i, (name, named) in enumerate(by_name.items()):
        shift = shifts[i if together else int(named[0].method != BOUND)]
        mean, deviation = zip(*(percent(row.values("test", *row.main)) for row in named), strict=True)
        x = [row.cases * shift for row in named]
        bound = named[0].method == BOUND
        label = f"{group.names[name]} (lower bound)" if bound else group.names[name]
        lines.append(Line(name=name, label=label, bound=bound, x=x, mean=mean, deviation=deviation))
    figure, axes = _lines(group, lines, group.title, dots=True)
    for panel in axes:
        panel.set_xscale("log")
        panel.xaxis.set_minor_locator(NullLocator())
        panel.set_xticks(counts, [str(count) for count in counts])
        for row in group.upper:
            _bound(panel, row)
    _label(figure, axes, x="labelled cases", y=f"test {group.score} (%)")
    _legend(figure, axes, lines, {"upper bound": {"color": "black", "linestyle": ":"}} if group.upper else {})
    return figure


def _shifts(num: int, counts: Sequence[int]) -> list[float]:
    """Factors of x, so that the error bars of `num` lines do not cover one another."""
    nearest = min(math.log(b / a) for a, b in itertools.pairwise(counts))
    reach = min(0.01 * (num - 1), nearest / 4)
    return [math.exp(reach * (2 * i / max(1, num - 1) - 1)) for i in range(num)]


def _ranking(group: Group, rows: Sequence[Row]) -> Figure:
    """Draw one line for each method, the best on top; small dots are seeds."""
    ordered = sorted(rows, key=lambda row: percent(row.values("test", *row.main))[0])
    figure = Figure(figsize=(6.4, 1.2 + 0.22 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    for y, row in enumerate(ordered):
        mean, deviation = percent(row.values("test", *row.main))
        style = BLACK if row.method == BOUND else BLUE
        axes.errorbar(mean, y, xerr=deviation or None, markersize=6, capsize=2, **{**style, "linestyle": "none"})
        if len(row.runs) > 1:
            axes.plot([100 * v for v in row.values("test", *row.main)], [y] * len(row.runs), "k.", markersize=2.5)
    for kind, bounds, dash in (
        ("lower", [row for row in rows if row.method == BOUND], "--"),
        ("upper", group.upper, ":"),
    ):
        for number, row in enumerate(bounds):
            mean, _ = percent(row.values("test", *row.main))
            label = "_" if number else f"{kind} bound"
            axes.axvline(mean, color="black", linestyle=dash, linewidth=1, label=label)
    axes.set_yticks(range(len(ordered)), [group.names[row.name] for row in ordered])
    axes.set_ylim(-0.7, len(ordered) - 0.3)
    axes.set_xlabel(f"test {group.score} (%)")
    axes.set_title(f"{group.title}: {_labelled(rows)} labelled")
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside lower right", ncols=2)
    return figure


def _bound(axes: Axes, row: Row) -> None:
    mean, deviation = percent(row.values("test", *row.main))
    axes.axhline(mean, color="black", linestyle=":", linewidth=1.2)
    if deviation:
        axes.axhspan(mean - deviation, mean + deviation, color="black", alpha=0.06, linewidth=0)


def percent(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation (0 for a single value) in %; NaN and 0 if a value is NaN."""
    scaled = [100 * value for value in values]
    if any(map(math.isnan, scaled)):
        return math.nan, 0.0
    return statistics.fmean(scaled), statistics.stdev(scaled) if len(scaled) > 1 else 0.0


# -- score against step -----------------------------------------------------------------------------------------------


def steps(group: Group, labels: str, rows: Sequence[Row], stem: str, notes: list[str]) -> Drawing | None:
    """Draw validation curves, mean and standard deviation over seeds, at the steps where all seeds were validated."""
    lines = []
    for row in rows:
        try:
            curves = [curve(run, row.main) for run in row.runs]
        except UserError as error:
            notes.append(f"the curve of {row.name}, {labels}: {error}")
            continue
        x = sorted(set.intersection(*map(set, curves)))
        points = [percent([scores[step] for scores in curves]) for step in x]
        mean, deviation = [m for m, _ in points], [d for _, d in points]
        label, bound = group.names[row.name], row.method == BOUND
        lines.append(Line(name=row.name, label=label, bound=bound, x=x, mean=mean, deviation=deviation))
    if not any(len(line.x) > 1 for line in lines):
        return None
    figure, axes = _lines(group, lines, f"{group.title}: {labels} labelled")
    for panel in axes:
        panel.xaxis.set_major_locator(MaxNLocator(4 if len(axes) > 1 else 8, integer=True, steps=[1, 2, 5, 10]))
    _label(figure, axes, x="step", y=f"val {group.score} (%)")
    _legend(figure, axes, lines)
    spread = " Bands: standard deviation over seeds." if any(max(line.deviation, default=0) for line in lines) else ""
    caption = f"Val {group.score} against step ({group.title}, {labels} labelled).{spread} {note_on_settings(rows)}"
    return Drawing(name=f"{stem}-steps", caption=caption.strip(), figure=figure)


def curve(run: Run, main: Main) -> Curve:
    """Read a run's curve on val from its TensorBoard files and its scalars.csv (logger=csv).

    Of a step that a resumed run did twice, the later score.

    Of folds it is the mean, at the steps where all of them were validated.

    Raises:
        UserError: the run has no such curve, or it cannot be read.
    """
    if run.parts:
        each = [curve(part, main) for part in run.parts]
        return {step: statistics.fmean(c[step] for c in each) for step in set.intersection(*map(set, each))}
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped,unused-ignore]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it warns of every resumed run
    folder, tag = run.folder / "tensorboard", f"val/{main.metric}/{main.name}"
    limits = {"scalars": 0, "images": 1, "tensors": 1, "histograms": 1, "audio": 1, "compressedHistograms": 1}
    for file in folder.glob("*tfevents*"):
        expect_regular(file)
    events = EventAccumulator(str(folder), size_guidance=limits)  # 0 is no limit
    try:
        known = folder.is_dir() and tag in events.Reload().Tags()["scalars"]
    except DecodeError as error:
        raise UserError(f"{folder}: its curves cannot be read ({error})") from None
    points = {event.step: event.value for event in events.Scalars(tag)} if known else {}
    points |= {step: value for step, name, value in rows(run.folder / FILE) if name == tag}
    if not points:
        raise UserError(f"{folder}: holds no curve {tag}, which logger=tensorboard and logger=csv keep")
    return dict(sorted(points.items()))


# -- over patients ----------------------------------------------------------------------------------------------------


def patients(
    group: Group, labels: str, rows: Sequence[Row], stem: str, patient: re.Pattern[str], notes: list[str]
) -> Drawing | None:
    """Draw a box of the patients' scores for each row, the best median on top."""
    scored: list[tuple[Row, list[float]]] = []
    for row in rows:
        try:
            scored.append((row, [100 * score for score in scores_of_patients(row, patient).values()]))
        except UserError as error:
            notes.append(f"the patients of {row.name}, {labels}: {error}")
    scored = sorted((pair for pair in scored if pair[1]), key=lambda pair: statistics.median(pair[1]))
    if not scored:
        return None
    figure = Figure(figsize=(6.4, 1.0 + 0.28 * len(scored)), layout="constrained")
    axes = figure.add_subplot()
    boxes = axes.boxplot(
        [scores for _, scores in scored],
        orientation="horizontal",
        widths=0.6,
        patch_artist=True,
        showfliers=False,
        medianprops={"color": "black", "linewidth": 1.4},
    )
    for at, ((row, scores), box) in enumerate(zip(scored, boxes["boxes"], strict=True), start=1):
        box.set(facecolor="#cccccc" if row.method == BOUND else "#9ecae1", edgecolor="#444444", linewidth=0.8)
        jitter = np.random.default_rng(at).uniform(-0.16, 0.16, len(scores))
        few = len(scores) <= 100  # more dots would hide the box
        axes.plot(scores, at + jitter, ".", color="#222222", markersize=2.5, alpha=0.6 if few else 0)
    axes.set_yticks(range(1, len(scored) + 1), [group.names[row.name] for row, _ in scored])
    axes.set_xlabel(f"test {group.score} of a patient (%)")
    axes.set_title(f"{group.title}: {labels} labelled")
    num = max(len(scores) for _, scores in scored)
    caption = (
        f"Test {group.score} of {num} patients, each the mean over classes, volumes and seeds ({group.title}, "
        f"{labels} labelled). Boxes: quartiles and median; whiskers: the furthest patient within 1.5 times the box. "
        f"{note_on_settings([row for row, _ in scored])}"
    )
    return Drawing(name=f"{stem}-patients", caption=caption.strip(), figure=figure)


# -- lines, together or in panels -------------------------------------------------------------------------------------


def _lines(group: Group, lines: Sequence[Line], title: str, *, dots: bool = False) -> tuple[Figure, list[Axes]]:
    """Draw all lines in one pair of axes; more than TOGETHER in a panel each, with the bound in all panels."""
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
    for i, panel in enumerate(axes):
        shown = [*base, *others] if together else [*base, others[i]]
        for line in shown:
            style = group.style(line) if together or line.bound else BLUE
            _line(panel, line, {**style, "label": line.label}, dots=dots)
        if not together:
            panel.set_title(others[i].label, fontsize=8)
            panel.tick_params(labelbottom=i + columns >= panels)  # the last of its column
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
    """Add a legend beside the axes; with panels, whose titles name their lines, it holds only the bounds.

    Args:
        more: styles of further lines by their names.
    """
    wanted = {line.label for line in lines if line.bound or len(axes) == 1}
    shown = [
        (handle, word) for handle, word in zip(*axes[0].get_legend_handles_labels(), strict=True) if word in wanted
    ]
    shown += [(axes[0].plot([], [], linewidth=1.2, **style)[0], name) for name, style in (more or {}).items()]
    if not shown:
        return
    where: Any = "outside right upper" if len(axes) == 1 else "outside lower right"
    handles, words = zip(*shown, strict=True)
    figure.legend(handles, words, loc=where, ncols=1 if len(axes) == 1 else 3)
