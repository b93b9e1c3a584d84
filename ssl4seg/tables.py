"""Scores of cases, added up to a table: case by case (volumes), or from one confusion matrix (natural images)."""

import csv
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ssl4seg.data.case import LabelArray, Spacing
from ssl4seg.metrics import METRICS, Empty, Score, confusion, score_classes

Pixels = npt.NDArray[np.int64]
"""[3, K]: of each class those that have it, those that are said to have it, and those of both."""


class Table(ABC):
    """Rows by case; several processes fill one each and put their rows together.

    Args:
        classes: all K names, background first where there is one.
    """

    main: ClassVar[str]
    """The metric whose mean chooses the best model."""
    title: ClassVar[str]
    """What the screen calls that mean."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self.rows: dict[str, Any] = {}
        self.forward_seconds = self.postprocess_seconds = self.seconds = 0.0

    @abstractmethod
    def add(self, case: str, prediction: LabelArray, label: LabelArray, spacing: Spacing | None) -> None:
        """Score a case, both [S, H, W]."""

    @abstractmethod
    def summary(self) -> dict[str, Any]:
        """{"dice": {"mean": .., "<class>": ..}, ...}, "num_cases", and what else is one number."""

    def headline(self) -> str:
        """The main score, for the log."""
        return f"{self.title} {100 * self.summary()[self.main]['mean']:.2f} %"

    @abstractmethod
    def lines(self) -> Iterable[Sequence[object]]:
        """Of the CSV, the heads first."""

    def write_csv(self, path: Path) -> None:
        """A row a case and class."""
        partial = path.with_name(path.name + ".partial")
        with partial.open("w", newline="") as file:
            for line in self.lines():
                csv.writer(file).writerow([f"{v:.6g}" if isinstance(v, float) else v for v in line])
        partial.replace(path)


class CaseTable(Table):
    """Dice, HD95, ASD and IoU of each class but the background: mean over cases, then over classes.

    Args:
        unit: "voxel" or "mm".
        empty: policy for empty masks, see `metrics.score`.
        background: whether class 0 is one, and left out.
    """

    main, title = "dice", "Dice"

    def __init__(
        self, classes: Sequence[str], *, unit: str = "voxel", empty: Empty = "worst", background: bool = True
    ) -> None:
        super().__init__(classes)
        self.unit, self.empty = unit, empty
        self.scored = self.classes[int(background) :]
        self.rows: dict[str, list[Score]] = {}

    def add(self, case: str, prediction: LabelArray, label: LabelArray, spacing: Spacing | None) -> None:
        used = spacing if self.unit == "mm" else None
        num_classes = len(self.classes)
        first = num_classes - len(self.scored)
        self.rows[case] = score_classes(prediction, label, num_classes, used, self.empty, first=first)

    def summary(self) -> dict[str, Any]:
        """NaN is left out of the means."""
        result: dict[str, Any] = {}
        for m, metric in enumerate(METRICS):
            per_class = {
                name: _mean(scores[k][m] for scores in self.rows.values()) for k, name in enumerate(self.scored)
            }
            result[metric] = {"mean": _mean(per_class.values()), **per_class}
        return result | {"distance_unit": self.unit, "num_cases": len(self.rows)}

    def headline(self) -> str:
        return f"{super().headline()}, HD95 {self.summary()['hd95']['mean']:.2f} {self.unit}"

    def lines(self) -> Iterable[Sequence[object]]:
        yield "case", "class", *METRICS, "distance_unit"
        for case, scores in self.rows.items():
            for name, values in zip(self.scored, scores, strict=True):
                yield case, name, *values, self.unit


class PixelTable(Table):
    """IoU and Dice of every class and accuracies from the confusion matrix over the pixels of all cases.

    Args:
        distances: a table that scores HD95 and ASD besides; None if nobody asked for them.
    """

    main, title = "iou", "mIoU"

    def __init__(self, classes: Sequence[str], *, distances: CaseTable | None = None) -> None:
        super().__init__(classes)
        self.distances = distances
        self.rows: dict[str, tuple[Pixels, list[Score]]] = {}

    def add(self, case: str, prediction: LabelArray, label: LabelArray, spacing: Spacing | None) -> None:
        scores: list[Score] = []
        if self.distances:
            self.distances.add(case, prediction, label, spacing)
            scores = self.distances.rows[case]
        matrix = confusion(prediction, label, len(self.classes))  # not kept: K x K for every image
        self.rows[case] = np.stack([matrix.sum(axis=1), matrix.sum(axis=0), matrix.diagonal()]), scores

    def summary(self) -> dict[str, Any]:
        """A class that neither prediction nor truth has is NaN, and left out of the means."""
        true, predicted, hits = sum(
            (pixels for pixels, _ in self.rows.values()), np.zeros((3, len(self.classes)), np.int64)
        )
        scores = {"iou": _over(hits, true + predicted - hits), "dice": _over(2 * hits, true + predicted)}
        result: dict[str, Any] = {
            metric: {"mean": _mean(values), **dict(zip(self.classes, values, strict=True))}
            for metric, values in scores.items()
        }
        result |= {
            "miou": result["iou"]["mean"],
            "pixel_accuracy": _over(hits.sum(), true.sum())[0],
            "mean_accuracy": _mean(_over(hits, true)),
        }
        if self.distances:
            self.distances.rows = {case: rows for case, (_, rows) in self.rows.items()}
            far = self.distances.summary()
            result |= {key: far[key] for key in ("hd95", "asd", "distance_unit")}
        return result | {"num_cases": len(self.rows)}

    def lines(self) -> Iterable[Sequence[object]]:
        """Of each case the classes that it shows, or is said to show."""
        yield "case", "class", "true_pixels", "predicted_pixels", "right_pixels", "iou"
        for case, ((true, predicted, hits), _) in self.rows.items():
            for k, iou in enumerate(_over(hits, true + predicted - hits)):
                if not math.isnan(iou):
                    yield case, self.classes[k], int(true[k]), int(predicted[k]), int(hits[k]), iou


def _mean(values: Iterable[float]) -> float:
    known = [v for v in values if not math.isnan(v)]
    return sum(known) / len(known) if known else math.nan


def _over(numerator: Any, denominator: Any) -> list[float]:
    """Quotients, NaN where the denominator is 0."""
    n, d = np.atleast_1d(numerator).astype(float), np.atleast_1d(denominator).astype(float)
    return [float(q) for q in np.divide(n, d, out=np.full_like(n, math.nan), where=d > 0)]
