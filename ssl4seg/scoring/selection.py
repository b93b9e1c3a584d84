"""What chooses the best model: the key `select`."""

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ssl4seg.errors import UserError
from ssl4seg.scoring.metrics import Metric, metric_table
from ssl4seg.scoring.tables import Summary, Table

MEAN = "mean"


@dataclass(frozen=True, kw_only=True)
class Selection:
    """A metric on val, of one class or the mean over the classes."""

    metric: Metric
    name: str = MEAN
    """The class, or "mean"."""

    def value(self, summary: Summary) -> float:
        """The score that chooses, as the metric has it."""
        scores = summary[self.metric.name]
        value = scores[self.name] if isinstance(scores, Mapping) else scores
        return math.nan if value is None else float(value)  # null in results.json

    def goodness(self, summary: Summary) -> float:
        """The score with its sign turned where lower is better: what a sweeper may maximise."""
        return self.value(summary) if self.metric.higher_is_better else -self.value(summary)

    def better(self, new: Summary, old: Summary) -> bool:
        """Whether the model of `new` is the better one; at equal scores the earlier model stays."""
        return self.metric.better(self.value(new), self.value(old))

    def is_main(self, table: Table) -> bool:
        """Whether it is the mean that the table's headline begins with."""
        return self.metric.name == table.main and self.name == MEAN

    def as_dict(self) -> dict[str, str]:
        """For results.json."""
        return {"split": "val", "metric": self.metric.name, "class": self.name}

    def printed(self, summary: Summary) -> str:
        """The score with its name and unit: "myocardium Dice 81.20 %"."""
        unit = str(summary.get("distance_unit", ""))
        title = self.metric.title if self.name == MEAN else f"{self.name} {self.metric.title}"
        return f"{title} {self.metric.printed(self.value(summary), unit)}"


def selection_of(select: str, table: Table) -> Selection:
    """What the key `select` means for a table.

    Args:
        select: auto, METRIC or METRIC/CLASS.

    Raises:
        UserError: the table has no such metric or class.
    """
    if select == "auto":
        return Selection(metric=next(metric for metric in table.metrics if metric.name == table.main))
    wanted, slash, name = select.partition("/")
    measured = {metric.name: (metric, classes) for metric, classes in table.measured().items()}
    if wanted not in measured:
        raise UserError(f"select={select}: {_unknown(wanted, [*measured])}")
    metric, classes = measured[wanted]
    if slash and name not in (*classes, MEAN):
        raise UserError(
            f"select={select}: {wanted} is measured of {', '.join(classes) or 'all pixels at once'}, not of {name!r}"
        )
    return Selection(metric=metric, name=name or MEAN)


def _unknown(wanted: str, measured: list[str]) -> str:
    near = difflib.get_close_matches(wanted, measured, n=1, cutoff=0.6)
    hint = f"; did you mean {near[0]}?" if near else ""
    if wanted in ("hd95", "asd"):
        hint = "; metrics.distances=true measures distances where dataset.scoring=pixels"
    return f"is not measured here, but {', '.join(measured)}{hint}"


def selected_by(results: Mapping[str, Any]) -> tuple[str, str, str]:
    """Split, metric and class by which the model of a finished run was chosen.

    Version 0.1 wrote a sentence, "val dice mean".

    Raises:
        UserError: the entry is neither.
    """
    entry = results.get("selected_by")
    if isinstance(entry, str) and len(entry.split()) == 3:
        split, metric, name = entry.split()
        return split, metric, name
    if isinstance(entry, Mapping) and all(isinstance(entry.get(key), str) for key in ("split", "metric", "class")):
        return entry["split"], entry["metric"], entry["class"]
    raise UserError(f"selected_by={entry!r}: expected split, metric and class")


def goodness_of(results: Mapping[str, Any], more: Sequence[str] = ()) -> float | None:
    """The score by which a finished run's model was chosen, as `Selection.goodness` has it; None where it is NaN.

    Args:
        results: results.json.
        more: the metrics of one's own that the run has measured.
    """
    split, metric, name = selected_by(results)
    value = Selection(metric=metric_table(more)[metric], name=name).goodness(results[split])
    return None if math.isnan(value) else value
