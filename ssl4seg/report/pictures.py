"""The worst, the median and the best test case of a run, with contours of prediction and truth."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from ssl4seg.assemble import build, dataset_of, fabric_of, predictor_of, read_all
from ssl4seg.data.case import LabelArray, Volume
from ssl4seg.errors import UserError
from ssl4seg.evaluate import Predictor
from ssl4seg.inference import load_run
from ssl4seg.pictures import COLORS, fullest, grey
from ssl4seg.report.collect import MAIN, Row, Run
from ssl4seg.report.compare import scores_of_cases
from ssl4seg.report.figures import STYLE, Drawing, file_name
from ssl4seg.runs import read_config

WHICH = ("worst", "median", "best")


def draw(row: Row) -> Drawing:
    """Of the first seed's run.

    Raises:
        UserError: its checkpoint or its dataset is not there.
    """
    run = row.runs[0]
    scores = scores_of_cases(run, row.main)
    ordered = sorted(scores, key=lambda name: scores[name])
    names = [ordered[0], ordered[(len(ordered) - 1) // 2], ordered[-1]]
    config = read_config(run.folder)
    try:
        shown = predict(run, config, names)
    except KeyError as error:
        raise UserError(f"{run.folder}: its config.yaml has no key {error}; another version has written it") from None
    classes, spared = config["dataset"]["classes"], row.main == "dice"
    with rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.2), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))
        for axes, which, name in zip(figure.subplots(1, 3), WHICH, names, strict=True):
            volume, prediction = shown[name]
            present = _picture(axes, volume, prediction, range(int(spared), len(classes)))
            axes.set_title(f"{which}: {MAIN[row.main]} {100 * scores[name]:.1f} %\n{name}", fontsize=8)
        _legend(figure, classes, sorted(present))
    labels = file_name(f"{row.cases}cases-{row.name}")
    return Drawing(
        name=f"{file_name(f'{row.dataset}-{row.network}')}-{labels}-pictures",
        caption=(
            f"{row.name} ({row.dataset}, {row.network}, {row.key[3]} labelled, seed {run.seed}): the worst, median and "
            "best test case. Solid: truth; dashed: prediction. Of a volume the slice with most of the truth."
        ),
        figure=figure,
    )


def predict(run: Run, config: Mapping[str, Any], names: Sequence[str]) -> dict[str, tuple[Volume, LabelArray]]:
    """Cases of the split that the run was tested on, by name, with the predictions of its best model."""
    dataset = dataset_of(config)
    cases = {case.name: case for case in dataset.cases(dataset.tested_on)}
    if lost := [name for name in names if name not in cases]:
        raise UserError(f"{run.folder}: the dataset has no test case {lost[0]} any more")
    fabric = fabric_of({"device": "auto", "precision": "auto"})
    _, model = load_run(run.folder, "best", fabric.device)
    predictor = Predictor(
        predict=predictor_of(model, fabric),
        inference=build(config["inference"], "inference", side=dataset.image_size),
        device=fabric.device,
        batch_size=config["engine"]["eval_batch_size"],
    )
    return {
        case.name: (volume, predictor(volume.image))
        for case, volume in read_all([cases[name] for name in names], dataset.num_classes)
    }


def _picture(axes: Axes, volume: Volume, prediction: LabelArray, classes: Sequence[int]) -> set[int]:
    """Contours over the slice with most of the truth, enlarged to the foreground; which classes are seen."""
    assert volume.label is not None  # `read_all` refuses a case without
    at = fullest(volume.label)
    axes.imshow(grey(volume.image[at]), interpolation="nearest")
    axes.set_axis_off()
    seen = set()
    for k in classes:
        color = COLORS[(k - 1) % len(COLORS)]
        for label, style, width in ((volume.label[at], "solid", 1.6), (prediction[at], (0, (2, 1.2)), 1.2)):
            if (mask := label == k).any() and not mask.all():
                contour = axes.contour(mask, levels=[0.5], colors=[color], linewidths=width, linestyles=[style])
                contour.set_path_effects([withStroke(linewidth=width + 1.2, foreground="black")])
                seen.add(k)
    _enlarge(axes, np.isin(volume.label[at], classes) | np.isin(prediction[at], classes))
    return seen


def _enlarge(axes: Axes, shown: npt.NDArray[np.bool_]) -> None:
    """The square that holds `shown` [H, W], and half as much again on each side."""
    rows, columns = np.nonzero(shown)
    if not len(rows):
        return
    y, x = (rows.min() + rows.max()) / 2, (columns.min() + columns.max()) / 2
    half = max(np.ptp(rows), np.ptp(columns), 8)
    height, width = shown.shape
    axes.set_xlim(max(x - half, -0.5), min(x + half, width - 0.5))
    axes.set_ylim(min(y + half, height - 0.5), max(y - half, -0.5))


def _legend(figure: Figure, classes: Sequence[str], seen: Sequence[int]) -> None:
    lines = [Line2D([], [], color=COLORS[(k - 1) % len(COLORS)], label=classes[k]) for k in seen]
    kinds = [
        Line2D([], [], color="#555555", linestyle="-", label="truth"),
        Line2D([], [], color="#555555", linestyle="--", label="prediction"),
    ]
    figure.legend(handles=[*lines, *kinds], loc="outside lower center", ncols=min(6, len(lines) + 2), fontsize=8)
