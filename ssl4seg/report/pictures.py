"""The worst, the median and the best test patient of a run, with contours of prediction and truth."""

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from ssl4seg.data.case import LabelArray, Volume
from ssl4seg.data.reading import read_all
from ssl4seg.errors import UserError
from ssl4seg.report.collect import MAIN, Row, Run
from ssl4seg.report.compare import by_patient, mean_of_known, scores_of_cases
from ssl4seg.report.figures import STYLE, Drawing, file_name
from ssl4seg.report.words import short
from ssl4seg.run import targets
from ssl4seg.run.assemble import dataset_of, predictor_of
from ssl4seg.run.device import fabric_of
from ssl4seg.run.folder import read_config
from ssl4seg.run.load import load_run
from ssl4seg.run.settings import RunSettings, read
from ssl4seg.scoring.pictures import Palette, fullest, grey, palette

WHICH = ("worst", "median", "best")

COLUMNS = 6
"""Of the legend."""


def draw(row: Row, patient: re.Pattern[str], *, trust: bool = False) -> Drawing:
    """Of the first seed's run: of each of the three patients a volume.

    Args:
        trust: whether the run's config.yaml may name classes from outside of ssl4seg.

    Raises:
        UserError: its checkpoint or its dataset is not there, its checkpoint is not the one that was tested, or its
            config.yaml is not trusted.
    """
    run = row.runs[0]
    patients = by_patient(scores_of_cases(run, row.main), patient)
    means = {name: mean_of_known([*cases.values()]) for name, cases in patients.items()}
    ordered = sorted(means, key=lambda name: means[name])
    if not ordered:
        raise UserError(f"{run.folder}: no test case has a score")
    chosen = [ordered[0], ordered[(len(ordered) - 1) // 2], ordered[-1]]
    config = read_config(run.folder)
    targets.check(config, run.folder / "config.yaml", "add --trust", trust=trust)
    try:
        settings = read(RunSettings, config)
    except UserError as error:
        raise UserError(f"{run.folder}: {error}") from None
    shown = predict(run, settings, [_volume(patients[name]) for name in chosen])
    titles = []
    for which, name in zip(WHICH, chosen, strict=True):
        volume, few = _volume(patients[name]), len(patients[name]) == 1
        told = volume if few else f"{volume} ({100 * patients[name][volume]:.1f} %)"
        titles.append(f"{which}: {MAIN[row.main]} {100 * means[name]:.1f} %\n{short([told], 32)[told]}")
    data = settings.dataset
    colors = palette(data.get("palette"), background=data.get("background", True))
    panels = [shown[_volume(patients[name])] for name in chosen]
    labels = file_name(f"{row.cases}cases-{row.name}")
    return Drawing(
        name=f"{file_name(f'{row.dataset}-{row.network}')}-{labels}-pictures",
        caption=(
            f"{row.name} ({row.dataset}, {row.network}, {row.labels} labelled, seed {run.seed}): the test patients "
            "with the worst, the median and the best score, the mean over their volumes. Shown is the volume nearest "
            "to it (its own score in brackets), the slice with most of the truth. Solid: truth; dashed: prediction."
        ),
        figure=_figure(panels, titles, data["classes"], colors),
    )


def _volume(cases: Mapping[str, float]) -> str:
    """The case whose score is nearest to the mean, of several the first."""
    mean = mean_of_known([*cases.values()])
    return min(sorted(cases), key=lambda name: round(abs(cases[name] - mean), 9))


def predict(run: Run, settings: RunSettings, names: Sequence[str]) -> dict[str, tuple[Volume, LabelArray]]:
    """Cases of the split that the run was tested on, by name, with the predictions of its best model."""
    dataset = dataset_of(settings.dataset)
    cases = {case.name: case for case in dataset.cases(dataset.tested_on)}
    if lost := [name for name in names if name not in cases]:
        raise UserError(f"{run.folder}: the dataset has no test case {lost[0]} any more")
    fabric = fabric_of()
    model = load_run(run.folder, settings, "best", fabric.device, tested=True)
    predictor = predictor_of(model, fabric, settings, batch_size=settings.engine.eval_batch_size)
    return {
        case.name: (volume, predictor(volume.image))
        for case, volume in read_all([cases[name] for name in names], dataset.num_classes)
    }


def _figure(
    panels: Sequence[tuple[Volume, LabelArray]], titles: Sequence[str], classes: Sequence[str], colors: Palette
) -> Figure:
    """Panels of one size, side by side, with a legend of all classes that are seen in any of them.

    The places are given in inches: what an automatic layout leaves between titles, panels and legend differs.
    """
    shapes = [volume.image.shape[-2:] for volume, _ in panels]
    ratio = float(np.clip(np.median([width / height for height, width in shapes]), 0.5, 2.0))
    width, gap, title, legend = 2.4, 0.1, 0.45, 0.18
    height = width / ratio
    with rc_context(STYLE):
        lines = math.ceil((len(classes) + 2) / COLUMNS)
        size = (3 * width + 4 * gap, title + height + 2 * gap + legend * lines)
        figure = Figure(figsize=size)
        seen: set[int] = set()
        for i, ((volume, prediction), told) in enumerate(zip(panels, titles, strict=True)):
            left, bottom = gap + i * (width + gap), size[1] - title - height
            axes = figure.add_axes((left / size[0], bottom / size[1], width / size[0], height / size[1]))
            seen |= _picture(axes, volume, prediction, colors, ratio)
            axes.set_title(told, fontsize=8)
        _legend(figure, classes, sorted(seen), colors)
    return figure


def _picture(axes: Axes, volume: Volume, prediction: LabelArray, colors: Palette, ratio: float) -> set[int]:
    """Contours over the slice with most of the truth, enlarged to the foreground; which classes are seen."""
    assert volume.label is not None  # `read_all` refuses a case without
    at = fullest(volume.label, colors)
    truth, found = volume.label[at], prediction[at]
    classes = colors.classes(np.stack([truth, found]))
    axes.imshow(grey(volume.image[at]), interpolation="nearest")
    axes.set_axis_off()
    seen = set()
    for k in classes:
        for label, style, width in ((truth, "solid", 1.6), (found, (0, (2, 1.2)), 1.2)):
            if (mask := label == k).any() and not mask.all():
                contour = axes.contour(mask, levels=[0.5], colors=[colors.hex(k)], linewidths=width, linestyles=[style])
                contour.set_path_effects([withStroke(linewidth=width + 1.2, foreground="black")])
                seen.add(k)
    x, y = _window(np.isin(truth, classes) | np.isin(found, classes), ratio)
    axes.set_xlim(*x)
    axes.set_ylim(*y[::-1])
    return seen


def _window(shown: npt.NDArray[np.bool_], ratio: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """Left and right, top and bottom of a window of width / height `ratio`.

    It holds `shown` [H, W] and, as far as the image goes, half as much again on each side.
    """
    rows, columns = np.nonzero(shown if shown.any() else np.ones_like(shown))
    sides = shown.shape
    bare = max(8.0, float(np.ptp(rows)) + 4, (float(np.ptp(columns)) + 4) / ratio)
    height = max(bare, min(2 * bare, sides[0], sides[1] / ratio))
    ends = []
    for at, size, side in ((columns, height * ratio, sides[1]), (rows, height, sides[0])):
        middle = (at.min() + at.max()) / 2
        low = min(max(middle - size / 2, -0.5), side - 0.5 - size) if size <= side else (side - 1 - size) / 2
        ends.append((low, low + size))
    return ends[0], ends[1]


def _legend(figure: Figure, classes: Sequence[str], seen: Sequence[int], colors: Palette) -> None:
    lines = [Line2D([], [], color=colors.hex(k), label=classes[k]) for k in seen]
    kinds = [
        Line2D([], [], color="#555555", linestyle="-", label="truth"),
        Line2D([], [], color="#555555", linestyle="--", label="prediction"),
    ]
    figure.legend(handles=[*lines, *kinds], loc="lower center", ncols=COLUMNS, fontsize=8, borderaxespad=0.2)
