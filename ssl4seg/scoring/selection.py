"""The key `select`: the score that chooses the best model, or `last`, which takes the last one."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ssl4seg.data.keys import COMMON
from ssl4seg.errors import UserError, did_you_mean
from ssl4seg.keys import MEAN
from ssl4seg.scoring.metrics import Metric, metric_table, score_in
from ssl4seg.scoring.tables import Summary, Table, empty_table

LAST = "last"
"""The value of `select` under which the model of the last step is the result, whatever its score."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The score that chooses: a metric on val, for one class or as a mean over the classes."""

    metric: Metric
    name: str = MEAN
    """The class, or one of keys.MEANS."""
    last: bool = False
    """Whether each later model replaces the earlier one (`select=last`); the score then only compares runs."""

    def value(self, summary: Summary) -> float:
        """The score that chooses, in the metric's own unit and direction."""
        return score_in(summary[self.metric.name], self.name)

    def goodness(self, summary: Summary) -> float:
        """The score to maximise, as sweepers do: its sign is turned if lower is better."""
        return self.value(summary) if self.metric.higher_is_better else -self.value(summary)

    def better(self, new: Summary, old: Summary) -> bool:
        """Whether the model of `new` is better; at equal scores the earlier model stays the best."""
        return self.last or self.metric.better(self.value(new), self.value(old))

    @property
    def selected(self) -> str:
        """Which model is the result, "best" or "last": the entry `selected` of results.json."""
        return LAST if self.last else "best"

    def is_main(self, table: Table) -> bool:
        """Whether the table's headline shows the score: a mean of its main metric."""
        return self.metric.name == table.main and self.name in table.means(self.metric)

    def as_dict(self) -> dict[str, str]:
        """The entry `selected_by` of results.json."""
        return {"split": "val", "metric": self.metric.name, "class": self.name}

    def printed(self, summary: Summary) -> str:
        """The score with its name and unit: "myocardium Dice 81.20 %"."""
        unit = str(summary.get("distance_unit", ""))
        return f"{self.metric.title_of(self.name)} {self.metric.printed(self.value(summary), unit)}"


def selection_of(select: str, table: Table) -> Selection:
    """Find the metric and the class that the key `select` names among those of a table.

    Args:
        select: auto, last, METRIC or METRIC/CLASS; CLASS may be a mean too. Without a class it is the table's first
            mean, which `last` has too.

    Raises:
        UserError: the table has no such metric or class.
    """
    wanted, slash, name = (table.main if select in ("auto", LAST) else select).partition("/")
    measured = {metric.name: (metric, classes) for metric, classes in table.measured().items()}
    if wanted not in measured:
        raise UserError(f"select={select}: {_unknown(wanted, [*measured])}")
    metric, classes = measured[wanted]
    means = table.means(metric)
    if slash and name not in (*classes, *means):
        known = ", ".join((*classes, *means)) if classes else "all pixels at once"
        raise UserError(
            f"select={select}: {wanted} is measured for {known}, not for {name!r}{did_you_mean(name, classes)}"
        )
    return Selection(metric=metric, name=name or means[0], last=select == LAST)


def check_select(select: str, metrics: Mapping[str, Any], dataset: Mapping[str, Any]) -> None:
    """Refuse a metric or a class that will not be measured, as far as the configuration says; it needs no data.

    Args:
        metrics, dataset: the groups of the configuration; a dataset may lack keys that it will read off its data.

    Raises:
        UserError: as `selection_of` and `metrics.metric_table`.
    """
    table = metric_table(metrics["more"])
    wanted = select.partition("/")[0]
    if wanted not in (known := ("auto", LAST, *table)):
        raise UserError(
            f"select={select}: there is no such metric; there are {', '.join(table)}{did_you_mean(wanted, known)}"
        )
    classes, scoring = dataset.get("classes"), dataset.get("scoring")
    if COMMON["classes"].fits(classes) and COMMON["scoring"].fits(scoring):
        selection_of(
            select,
            empty_table(
                str(scoring),
                list(classes or ()),
                table.values(),
                background=dataset.get("background") is not False,
                distances=metrics["distances"],
            ),
        )


def _unknown(wanted: str, measured: list[str]) -> str:
    hint = did_you_mean(wanted, measured)
    if wanted in ("hd95", "asd"):
        hint = "; metrics.distances=true measures distances where dataset.scoring=pixels"
    return f"is not measured here; measured are {', '.join(measured)}{hint}"


def selected_by(results: Mapping[str, Any]) -> tuple[str, str, str]:
    """Split, metric and class by which a finished run chose its model.

    The entry is a mapping, or in runs of version 0.1 a sentence: "val dice mean".

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
    """The score to maximise (`Selection.goodness`) of a finished run; None if it is NaN.

    Args:
        results: results.json.
        more: the run's `metrics.more`, the user's own metrics.
    """
    split, metric, name = selected_by(results)
    value = Selection(metric=metric_table(more)[metric], name=name).goodness(results[split])
    return None if math.isnan(value) else value
