"""The table of metrics: each with its name, unit, range, better direction and formula.

To add a metric, write one `Metric`, here or in a module of your own (`metrics.more=[my_module.my_metric]`): tables,
CSV, TensorBoard and the choice of the best model take it from the table.

medpy computes the distances, in the box that holds both masks. That is ten times as fast and changes no bit: the
nearest border voxel of every border voxel lies in the box.
"""

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from ssl4seg.data.case import LabelArray
from ssl4seg.errors import UserError, did_you_mean
from ssl4seg.keys import FOREGROUND_MEAN, IGNORE, MEAN, MEANS, Key, expect, is_list, one_of

Mask = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]
Scores = dict[str, float]
"""Name of a metric -> score of one class in one case."""


class Masks:
    """Prediction and truth of one class in one case, both [S, H, W] or [H, W], with values that several metrics use.

    Args:
        spacing: mm per axis; None measures in voxels.
    """

    def __init__(self, prediction: Mask, truth: Mask, spacing: Sequence[float] | None = None) -> None:
        self.prediction, self.truth, self.spacing = prediction, truth, spacing
        self.num_predicted, self.num_true = int(prediction.sum()), int(truth.sum())

    @cached_property
    def num_both(self) -> int:
        """The number of voxels that both masks hold."""
        return int((self.prediction & self.truth).sum())

    @cached_property
    def distances(self) -> tuple[FloatArray, FloatArray]:
        """From each border voxel of the prediction to the truth's border, and the other way; neither mask is empty."""
        from medpy.metric import binary  # imports SciPy, which --help and tables do not need

        # medpy's `hd95` and `asd` call this function three times for two directions; here it runs once a direction.
        surface_distances = getattr(binary, "__surface_distances")
        box = _box(self.prediction | self.truth)
        a, b = self.prediction[box], self.truth[box]
        return surface_distances(a, b, self.spacing, 1), surface_distances(b, a, self.spacing, 1)

    @property
    def diagonal(self) -> float:
        """Length of the volume's diagonal: no distance in it is larger."""
        steps = self.spacing or (1.0,) * self.truth.ndim
        return math.hypot(*((n - 1) * s for n, s in zip(self.truth.shape, steps, strict=True)))


class Pixels(NamedTuple):
    """Numbers of pixels by class, [K] each: of the true class, of the predicted class, and of both (hits)."""

    true: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]
    hits: npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric: its names, unit and range, and its formula.

    Args:
        name: the name in results.json, CSV files and TensorBoard.
        title: the name in tables and on the screen.
        unit: "share" (in [0, 1], printed in %), "distance" (voxel or mm) or "number" (printed as it is).
        range: smallest and largest value.
        higher_is_better: which end of the range is the good one.
        of_masks: computes the score of one class of a case from masks that are not empty; None if cases have no score.
        of_pixels: computes it from the pixels of all cases together, [K] or one number; None if pixels have no score.
        mean_title: the title of the mean over the classes, if it has a name of its own.
    """

    name: str
    title: str
    unit: Literal["share", "distance", "number"]
    range: tuple[float, float]
    higher_is_better: bool
    of_masks: Callable[[Masks], float] | None = None
    of_pixels: Callable[[Pixels], FloatArray | float] | None = None
    mean_title: str = ""

    def __post_init__(self) -> None:
        expect(f"Metric {self.name}: unit", self.unit, one_of("share", "distance", "number"))
        ends = is_list(self.range) and len(self.range) == 2 and all(isinstance(end, int | float) for end in self.range)
        expect(f"Metric {self.name}: range", self.range, Key(lambda _: ends, "(smallest, largest), as (0, math.inf)"))

    @classmethod
    def from_description(cls, name: str, entry: Any) -> "Metric":
        """A metric to print, not to compute.

        Args:
            entry: a `description`, from results.json.

        Raises:
            UserError: it is none.
        """
        keys = {"title": str, "unit": str, "higher_is_better": bool}
        if not isinstance(entry, Mapping) or any(not isinstance(entry.get(key), kind) for key, kind in keys.items()):
            raise UserError(f"Metric {name}: expected {', '.join(keys)}")
        return cls(name=name, range=(-math.inf, math.inf), **{key: entry[key] for key in keys})

    @property
    def description(self) -> dict[str, Any]:
        """The facts by which a table prints the metric, for results.json."""
        return {"title": self.title, "unit": self.unit, "higher_is_better": self.higher_is_better}

    @property
    def best(self) -> float:
        """The good end of the range."""
        return self.range[self.higher_is_better]

    @property
    def worst(self) -> float:
        """The bad end of the range."""
        return self.range[not self.higher_is_better]

    @property
    def factor(self) -> float:
        """Values are multiplied by it before they are printed."""
        return 100.0 if self.unit == "share" else 1.0

    def unit_word(self, distance_unit: str) -> str:
        """The unit in print: %, voxel, mm or nothing."""
        return {"share": "%", "distance": distance_unit, "number": ""}[self.unit]

    def title_of(self, name: str) -> str:
        """The title for a class or a mean: "myocardium Dice", "foreground IoU", "mIoU"."""
        if name == MEAN:
            return self.mean_title or self.title
        return f"{'foreground' if name == FOREGROUND_MEAN else name} {self.title}"

    def head(self, distance_unit: str) -> str:
        """The head of a column: "Dice %", "HD95 mm"."""
        return f"{self.title} {self.unit_word(distance_unit)}".rstrip()

    def printed(self, value: float, distance_unit: str) -> str:
        """A value with its unit: "81.20 %"."""
        return f"{self.factor * value:.2f} {self.unit_word(distance_unit)}".rstrip()

    def better(self, new: float, old: float) -> bool:
        """Whether `new` is better than `old`; NaN is worse than every number."""
        if math.isnan(new) or math.isnan(old):
            return math.isnan(old) and not math.isnan(new)
        return new > old if self.higher_is_better else new < old


def _dice(masks: Masks) -> float:
    return 2 * masks.num_both / (masks.num_predicted + masks.num_true)


def _iou(masks: Masks) -> float:
    return masks.num_both / (masks.num_predicted + masks.num_true - masks.num_both)


def _hd95(masks: Masks) -> float:
    """95th percentile of both directed surface distances together."""
    return float(np.percentile(np.hstack(masks.distances), 95))


def _asd(masks: Masks) -> float:
    """Mean distance of the prediction's surface to the truth's."""
    return float(masks.distances[0].mean())


def _over(numerator: Any, denominator: Any) -> FloatArray:
    """Quotients, NaN where the denominator is 0."""
    n, d = np.atleast_1d(numerator).astype(float), np.atleast_1d(denominator).astype(float)
    quotients: FloatArray = np.divide(n, d, out=np.full_like(n, math.nan), where=d > 0)
    return quotients


def _mean_accuracy(pixels: Pixels) -> float:
    return mean_of_known(_over(pixels.hits, pixels.true))


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            name="dice",
            title="Dice",
            unit="share",
            range=(0, 1),
            higher_is_better=True,
            of_masks=_dice,
            of_pixels=lambda pixels: _over(2 * pixels.hits, pixels.true + pixels.predicted),
        ),
        Metric(
            name="hd95",
            title="HD95",
            unit="distance",
            range=(0, math.inf),
            higher_is_better=False,
            of_masks=_hd95,
        ),
        Metric(
            name="asd",
            title="ASD",
            unit="distance",
            range=(0, math.inf),
            higher_is_better=False,
            of_masks=_asd,
        ),
        Metric(
            name="iou",
            title="IoU",
            unit="share",
            range=(0, 1),
            higher_is_better=True,
            of_masks=_iou,
            of_pixels=lambda pixels: _over(pixels.hits, pixels.true + pixels.predicted - pixels.hits),
            mean_title="mIoU",
        ),
        Metric(
            name="pixel_accuracy",
            title="pixel accuracy",
            unit="share",
            range=(0, 1),
            higher_is_better=True,
            of_pixels=lambda pixels: float(_over(pixels.hits.sum(), pixels.true.sum())[0]),
        ),
        Metric(
            name="mean_accuracy",
            title="mean accuracy",
            unit="share",
            range=(0, 1),
            higher_is_better=True,
            of_pixels=_mean_accuracy,
        ),
    )
}


def metric_table(more: Sequence[str] = ()) -> dict[str, Metric]:
    """METRICS and the metrics that `metrics.more` names.

    Args:
        more: dotted names of `Metric` objects.

    Raises:
        UserError: a name cannot be imported, is no `Metric`, or the table has a metric of this name already.
    """
    table = dict(METRICS)
    for dotted in more:
        module, _, name = dotted.rpartition(".")
        try:
            content = vars(importlib.import_module(module))
        except Exception as error:  # whatever the module raises
            raise UserError(
                f"metrics.more={dotted}: cannot be imported ({error}); is its folder on PYTHONPATH?"
            ) from None
        if name not in content:
            own = [key for key, value in content.items() if isinstance(value, Metric)]
            raise UserError(f"metrics.more={dotted}: {module} holds no {name}{did_you_mean(name, own)}")
        metric = content[name]
        if not isinstance(metric, Metric):
            raise UserError(
                f"metrics.more={dotted}: is a {type(metric).__name__}; expected an ssl4seg.scoring.metrics.Metric"
            )
        if metric.name in table:
            raise UserError(f"metrics.more={dotted}: there is a metric {metric.name!r} already; give it another name")
        table[metric.name] = metric
    return table


def score(
    prediction: Mask,
    truth: Mask,
    spacing: Sequence[float] | None = None,
    empty: str = "worst",
    metrics: Sequence[Metric] = tuple(METRICS.values()),
) -> Scores:
    """Compare two masks of the same shape, [S, H, W] or [H, W].

    Args:
        spacing: mm per axis; None measures in voxels.
        empty: the score if a mask is empty.
            worst: one empty: the bad end of the metric's range (for a distance the diagonal of the volume); both empty:
            the good end.
            nan: one empty: the bad end where it is finite, else NaN; both empty: NaN. NaN is left out of means.
            zero: all 0, the literature's habit (it flatters HD95 and ASD).
        metrics: the metrics to compute; a metric without `of_masks` is left out.
    """
    masks = Masks(prediction, truth, spacing)
    return {
        metric.name: metric.of_masks(masks)
        if masks.num_predicted and masks.num_true
        else _score_of_empty(metric, masks, empty)
        for metric in metrics
        if metric.of_masks
    }


def _score_of_empty(metric: Metric, masks: Masks, empty: str) -> float:
    """The score if at least one mask is empty, as `score` describes it."""
    if empty == "zero":
        return 0.0
    if not masks.num_predicted and not masks.num_true:
        return math.nan if empty == "nan" else float(metric.best)
    if math.isfinite(metric.worst):
        return float(metric.worst)
    return masks.diagonal if metric.unit == "distance" and empty == "worst" else math.nan


def score_classes(
    prediction: LabelArray,
    label: LabelArray,
    num_classes: int,
    spacing: Sequence[float] | None = None,
    empty: str = "worst",
    *,
    first: int = 1,
    metrics: Sequence[Metric] = tuple(METRICS.values()),
) -> list[Scores]:
    """Scores of the classes first..K-1 of a case, both [S, H, W] or [1, X, Y, Z]; ignored pixels belong to no class."""
    lengths = label.shape if len(label) > 1 else label.shape[1:]
    spacing = spacing and tuple(spacing[-len(lengths) :])
    # In a volume of one slice medpy would take every voxel for surface.
    real = [axis for axis, length in enumerate(lengths) if length > 1 or len(lengths) == 2]
    shape, sides = [lengths[axis] for axis in real], spacing and [spacing[axis] for axis in real]
    prediction, label = prediction.reshape(shape), label.reshape(shape)
    counted = label != IGNORE
    masks = (((prediction == k) & counted, (label == k) & counted) for k in range(first, num_classes))
    return [score(p, y, sides, empty, metrics) for p, y in masks]


def confusion(prediction: LabelArray, label: LabelArray, num_classes: int) -> npt.NDArray[np.int64]:
    """Pixels [K, K] by true class (row) and predicted class (column); ignored pixels are left out."""
    counted = label != IGNORE
    pairs = label[counted].astype(np.int64) * num_classes + prediction[counted]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def mean_of_known(values: Any) -> float:
    """Mean of the numbers that are not NaN; NaN if there are none."""
    known = [float(v) for v in values if not math.isnan(v)]
    return sum(known) / len(known) if known else math.nan


def with_means(by_class: Mapping[str, float], *, background: bool = False) -> dict[str, float]:
    """The scores of the classes, and before them their means.

    Args:
        background: whether the first class is a background; there is then a mean over the others too.
    """
    means = {MEAN: mean_of_known(by_class.values())}
    if background:
        means[FOREGROUND_MEAN] = mean_of_known([*by_class.values()][1:])
    return means | dict(by_class)


def score_in(scores: Any, name: str = MEAN) -> float:
    """A score in an entry of a summary, NaN if it has none; null in results.json stands for NaN.

    Validations of version 0.1 lack the mean over the foreground; it is computed from their classes, of which the first
    is the background.

    Args:
        scores: by class and mean, or one number for all pixels.
        name: a class or a mean.
    """
    if isinstance(scores, Mapping):
        if name == FOREGROUND_MEAN and name not in scores:
            classes = [score_in(scores, key) for key in scores if key not in MEANS]
            return mean_of_known(classes[1:])
        scores = scores.get(name)
    return math.nan if scores is None else float(scores)


def _box(mask: Mask) -> tuple[slice, ...]:
    """The smallest box that holds the mask, plus one voxel on each side."""
    box = []
    for axis in range(mask.ndim):
        line = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        box.append(slice(max(int(line[0]) - 1, 0), int(line[-1]) + 2))
    return tuple(box)
