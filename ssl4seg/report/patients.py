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
from ssl4seg.report.collect import Row, Run
from ssl4seg.report.compare import by_patient, scores_of_cases
from ssl4seg.report.figures import STYLE, Drawing, file_name
from ssl4seg.report.names import short
from ssl4seg.run import targets
from ssl4seg.run.assemble import dataset_of, predictor_of
from ssl4seg.run.device import fabric_of
from ssl4seg.run.folder import read_config
from ssl4seg.run.load import load_run
from ssl4seg.run.settings import RunSettings, read
from ssl4seg.scoring.metrics import mean_of_known
from ssl4seg.scoring.pictures import Palette, Plane, grey, palette, planes

WHICH = ("worst", "median", "best")

COLUMNS = 6
"""Entries in a line of the legend."""


def draw(row: Row, patient: re.Pattern[str], *, trust: bool = False) -> Drawing:
    """Draw a volume of each of the three patients, predicted by the run of the first seed (and its first fold).

    Args:
        trust: whether the run's config.yaml may name classes from outside of ssl4seg.

    Raises:
        UserError: no case has a score, the run's checkpoint or dataset is missing, the checkpoint is not the one that
            was tested, or config.yaml is not trusted.
    """
    run, fold = row.runs[0], ""
    if run.parts:
        run = run.parts[0]
        fold = f", fold {run.result['fold']}"
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
        volume, alone = _volume(patients[name]), len(patients[name]) == 1
        shown_volume = volume if alone else f"{volume} ({100 * patients[name][volume]:.1f} %)"
        titles.append(f"{which}: {row.main.title} {100 * means[name]:.1f} %\n{short([shown_volume], 32)[shown_volume]}")
    data = settings.dataset
    colors = palette(data.get("palette"), background=data.get("background", True))
    panels = [shown[_volume(patients[name])] for name in chosen]
    labels = file_name(f"{row.cases}cases-{row.name}")
    return Drawing(
        name=f"{file_name(f'{row.dataset}-{row.network}')}-{labels}-pictures",
        caption=(
            f"{row.name} ({row.dataset}, {row.network}, {row.labels} labelled, seed {run.seed}{fold}): the test "
            "patients with the worst, the median and the best score, the mean over their volumes. Shown is the volume "
            "nearest to it (its own score in brackets), the slice with most of the truth. Solid: truth; dashed: "
            "prediction."
        ),
        figure=_figure(panels, titles, data["classes"], colors),
    )


def _volume(cases: Mapping[str, float]) -> str:
    """The case whose score is nearest to the patient's mean; of several the first by name."""
    mean = mean_of_known([*cases.values()])
    return min(sorted(cases), key=lambda name: round(abs(cases[name] - mean), 9))


def predict(run: Run, settings: RunSettings, names: Sequence[str]) -> dict[str, tuple[Volume, LabelArray]]:
    """Predict the test cases `names` by the run's best model.

    Returns:
        name -> volume and prediction.
    """
    dataset = dataset_of(settings.dataset)
    cases = {case.name: case for case in dataset.cases(dataset.tested_on)}
    if gone := [name for name in names if name not in cases]:
        raise UserError(f"{run.folder}: the dataset has no test case {gone[0]} any more")
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
    """Draw panels of one size side by side, with a legend of all classes that any of them shows.

    Places are computed in inches, because an automatic layout leaves gaps that differ from figure to figure.
    """
    shown = [_plane(volume, prediction, colors) for volume, prediction in panels]
    shapes = [plane.image.shape[1:] for plane in shown]
    ratio = float(np.clip(np.median([width / height for height, width in shapes]), 0.5, 2.0))
    width, gap, title, legend = 2.4, 0.1, 0.45, 0.18
    height = width / ratio
    with rc_context(STYLE):
        lines = math.ceil((len(classes) + 2) / COLUMNS)
        size = (3 * width + 4 * gap, title + height + 2 * gap + legend * lines)
        figure = Figure(figsize=size)
        seen: set[int] = set()
        for i, (plane, text) in enumerate(zip(shown, titles, strict=True)):
            left, bottom = gap + i * (width + gap), size[1] - title - height
            axes = figure.add_axes((left / size[0], bottom / size[1], width / size[0], height / size[1]))
            seen |= _picture(axes, plane, colors, ratio)
            axes.set_title(text, fontsize=8)
        _legend(figure, classes, sorted(seen), colors)
    return figure


def _plane(volume: Volume, prediction: LabelArray, colors: Palette) -> Plane:
    """The slice, or the plane across the z axis, with most of the truth."""
    assert volume.label is not None  # `read_all` refuses a case without a mask
    return planes(volume.image, [volume.label, prediction], colors)[0]


def _picture(axes: Axes, plane: Plane, colors: Palette, ratio: float) -> set[int]:
    """Draw contours of truth and prediction, cropped to the foreground; return the visible classes."""
    image, (truth, predicted) = plane.image, plane.labels
    classes = colors.classes(np.stack([truth, predicted]))
    axes.imshow(grey(image), interpolation="nearest")
    axes.set_axis_off()
    seen = set()
    for k in classes:
        for label, style, width in ((truth, "solid", 1.6), (predicted, (0, (2, 1.2)), 1.2)):
            if (mask := label == k).any() and not mask.all():
                contour = axes.contour(mask, levels=[0.5], colors=[colors.hex(k)], linewidths=width, linestyles=[style])
                contour.set_path_effects([withStroke(linewidth=width + 1.2, foreground="black")])
                seen.add(k)
    x, y = _window(np.isin(truth, classes) | np.isin(predicted, classes), ratio)
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
