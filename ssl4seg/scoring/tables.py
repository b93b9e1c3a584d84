"""Tables of scores: means over cases (volumes), or from one confusion matrix over all cases (natural images)."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ssl4seg.data.case import LabelArray, Spacing
from ssl4seg.files import write_csv
from ssl4seg.keys import FOREGROUND_MEAN, MEAN
from ssl4seg.scoring.metrics import METRICS, Metric, Pixels, Scores, confusion, mean_of_known, score_classes, with_means

Summary = Mapping[str, Any]
"""{"dice": {"mean": .., "<class>": ..}, ..., "num_cases": ..}; where distances are measured also "distance_unit".

Where the background is one of the classes, "foreground_mean" is the mean over the others.

A metric that is one number for all pixels stands without classes: {"pixel_accuracy": ..}.
"""

TRUE_PIXELS = "true_pixels"
"""Beside the scores of a class of a case: its pixels in the mask."""


class Table(ABC):
    """Rows by case. With several processes each fills a table of its own, and the rows are gathered.

    Args:
        classes: names of all K classes, a background first.
        metrics: the metrics to score; the table leaves out those that it cannot compute.
        background: whether class 0 is a background.
    """

    main: ClassVar[str]
    """The name of the metric that comes first in the headline, and chooses the best model under `select=auto`."""

    def __init__(self, classes: Sequence[str], metrics: Iterable[Metric], *, background: bool) -> None:
        self.classes, self.metrics, self.background = tuple(classes), tuple(metrics), background
        self.rows: dict[str, Any] = {}
        self.forward_seconds = self.postprocess_seconds = self.seconds = 0.0

    @abstractmethod
    def add(self, case: str, prediction: LabelArray, label: LabelArray, spacing: Spacing | None) -> None:
        """Score a case, prediction and label [S, H, W], and add it as a row."""

    @abstractmethod
    def summary(self) -> dict[str, Any]:
        """The scores of all cases so far, a `Summary`."""

    @abstractmethod
    def measured(self) -> dict[Metric, tuple[str, ...]]:
        """The metrics of the summary, each with the classes that it scores; () if it is one number."""

    def means(self, metric: Metric) -> tuple[str, ...]:
        """The means of a metric in the summary; the first chooses the best model, if no class is named."""
        with_background = self.background and self.classes[0] in self.measured()[metric]
        return (FOREGROUND_MEAN, MEAN) if with_background else (MEAN,)

    def headline(self, summary: Summary) -> str:
        """The main scores, for the log."""
        metric = next(metric for metric in self.metrics if metric.name == self.main)
        scores = summary[self.main]
        return ", ".join(f"{metric.title_of(name)} {metric.printed(scores[name], '')}" for name in self.means(metric))

    @abstractmethod
    def lines(self) -> Iterable[Sequence[object]]:
        """The lines of the CSV, first the heads of the columns."""

    def write_csv(self, path: Path) -> None:
        """Write one line for each case and class."""
        write_csv(path, ([f"{v:.6g}" if isinstance(v, float) else v for v in line] for line in self.lines()))


class CaseTable(Table):
    """All metrics of masks, for each class except the background: means over cases, then over classes.

    Args:
        unit: "voxel" or "mm".
        empty: the policy for empty masks, see `metrics.score`.
        background: whether class 0 is a background, which is not scored.
    """

    main = "dice"

    def __init__(
        self,
        classes: Sequence[str],
        metrics: Iterable[Metric] = METRICS.values(),
        *,
        unit: str = "voxel",
        empty: str = "worst",
        background: bool = True,
    ) -> None:
        super().__init__(classes, [metric for metric in metrics if metric.of_masks], background=background)
        self.unit, self.empty = unit, empty
        self.scored = self.classes[int(background) :]
        self.rows: dict[str, list[Scores]] = {}

    def add(self, case: str, prediction: LabelArray, label: LabelArray, spacing: Spacing | None) -> None:
        self.rows[case] = self.scores(prediction, label, spacing)

    def scores(self, prediction: LabelArray, label: LabelArray, spacing: Spacing | None) -> list[Scores]:
        """The scores of each class of a case, and the number of its pixels in the mask (TRUE_PIXELS)."""
        num_classes = len(self.classes)
        first = num_classes - len(self.scored)
        scores = score_classes(
            prediction,
            label,
            num_classes,
            spacing if self.unit == "mm" else None,
            self.empty,
            first=first,
            metrics=self.metrics,
        )
        pixels = np.bincount(label.ravel(), minlength=num_classes)[first:num_classes].tolist()
        return [values | {TRUE_PIXELS: float(count)} for values, count in zip(scores, pixels, strict=True)]

    def summary(self) -> dict[str, Any]:
        """The means leave out NaN, and with it classes that no mask of these cases holds: their scores are NaN."""
        return self.summary_of(self.rows.values())

    def summary_of(self, rows: Iterable[Sequence[Scores]]) -> dict[str, Any]:
        """The summary of some rows."""
        rows = list(rows)
        held = [[scores[k] for scores in rows] for k in range(len(self.scored))]
        held = [part if any(values[TRUE_PIXELS] for values in part) else [] for part in held]
        result: dict[str, Any] = {}
        for metric in self.metrics:
            by_class = {
                name: mean_of_known(values[metric.name] for values in part)
                for name, part in zip(self.scored, held, strict=True)
            }
            result[metric.name] = with_means(by_class)
        return result | {"distance_unit": self.unit, "num_cases": len(rows)}

    def measured(self) -> dict[Metric, tuple[str, ...]]:
        return dict.fromkeys(self.metrics, self.scored)

    def headline(self, summary: Summary) -> str:
        hd95 = next(metric for metric in self.metrics if metric.name == "hd95")
        return f"{super().headline(summary)}, {hd95.title} {hd95.printed(summary['hd95'][MEAN], self.unit)}"

    def lines(self) -> Iterable[Sequence[object]]:
        names = [metric.name for metric in self.metrics]
        yield "case", "class", *names, "distance_unit"
        for case, scores in self.rows.items():
            for name, values in zip(self.scored, scores, strict=True):
                yield case, name, *(values[metric] for metric in names), self.unit


class PixelTable(Table):
    """All metrics of pixels, from the confusion matrix over the pixels of all cases.

    A background has scores too. It is most of the pixels and easy, so that a mean that counts it looks high while the
    model finds nothing; the means over the other classes come first. "mean" counts it, as VOC's published mIoU does.

    Args:
        background: whether class 0 is a background.
        distances: scores HD95, ASD and other metrics that pixels alone do not give; None leaves them out.
    """

    main = "iou"

    def __init__(
        self,
        classes: Sequence[str],
        metrics: Iterable[Metric] = METRICS.values(),
        *,
        background: bool = True,
        distances: CaseTable | None = None,
    ) -> None:
        super().__init__(classes, [metric for metric in metrics if metric.of_pixels], background=background)
        self.distances = distances
        self.rows: dict[str, tuple[Pixels, list[Scores]]] = {}

    def add(self, case: str, prediction: LabelArray, label: LabelArray, spacing: Spacing | None) -> None:
        scores = self.distances.scores(prediction, label, spacing) if self.distances else []
        matrix = confusion(prediction, label, len(self.classes))  # not kept: K x K for every image
        self.rows[case] = Pixels(matrix.sum(axis=1), matrix.sum(axis=0), matrix.diagonal()), scores

    def summary(self) -> dict[str, Any]:
        """A class that neither prediction nor truth holds scores NaN, which the means leave out."""
        nothing = np.zeros(len(self.classes), np.int64)
        pixels = Pixels(*(sum((row[part] for row, _ in self.rows.values()), nothing) for part in range(3)))
        result: dict[str, Any] = {}
        for metric in self.metrics:
            assert metric.of_pixels
            values = metric.of_pixels(pixels)
            if isinstance(values, float):
                result[metric.name] = values
            else:
                by_class = dict(zip(self.classes, values.tolist(), strict=True))
                result[metric.name] = with_means(by_class, background=self.background)
        result["miou"] = result["iou"][MEAN]
        if self.distances:
            of_masks = self.distances.summary_of(scores for _, scores in self.rows.values())
            result |= {key: value for key, value in of_masks.items() if key not in result}
        return result | {"num_cases": len(self.rows)}

    def measured(self) -> dict[Metric, tuple[str, ...]]:
        names = {metric.name for metric in self.metrics}
        no_pixels = Pixels(*(np.zeros(len(self.classes), np.int64),) * 3)
        own = {
            metric: () if isinstance(metric.of_pixels and metric.of_pixels(no_pixels), float) else self.classes
            for metric in self.metrics
        }
        of_masks = self.distances.measured() if self.distances else {}
        return own | {metric: classes for metric, classes in of_masks.items() if metric.name not in names}

    def lines(self) -> Iterable[Sequence[object]]:
        """For each case one line for each class in its truth or prediction."""
        yield "case", "class", "true_pixels", "predicted_pixels", "right_pixels", "iou"
        for case, ((true, predicted, hits), _) in self.rows.items():
            for k, name in enumerate(self.classes):
                union = true[k] + predicted[k] - hits[k]
                if union:
                    yield case, name, int(true[k]), int(predicted[k]), int(hits[k]), float(hits[k] / union)


def empty_table(
    scoring: str,
    classes: Sequence[str],
    metrics: Iterable[Metric] = METRICS.values(),
    *,
    background: bool = True,
    distances: bool = False,
    unit: str = "voxel",
    empty: str = "worst",
) -> Table:
    """The table of a dataset.

    Args:
        scoring: "cases" or "pixels".
        distances: whether a table of pixels measures HD95, ASD and other metrics of masks too.
        unit, empty: see `CaseTable`.
    """
    metrics = list(metrics)
    of_cases = CaseTable(classes, metrics, unit=unit, empty=empty, background=background)
    if scoring == "cases":
        return of_cases
    return PixelTable(classes, metrics, background=background, distances=of_cases if distances else None)
