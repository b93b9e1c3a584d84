"""Run folders in, rows out (a row is the runs that differ only in their seed), and what did not finish and why."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl4seg.errors import UserError
from ssl4seg.runs import FAILURES, MAY_DIFFER, flat, read_config, read_json

HEAD = ("dataset", "method", "network", "labels", "tag")
MAIN = {"dice": "Dice", "iou": "mIoU"}
"""Metrics that choose the best model, as they are called in tables and figures."""

PATIENT = r"^(.+)_(?:frame\d+|ed|es)$"
"""Of a case's name, the patient: two phases of one heart are no two independent samples (ACDC, the phantom)."""

Settings = dict[str, Any]
"""config.yaml, flat, without what may differ between the runs of a row."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run."""

    folder: Path
    result: dict[str, Any]
    """results.json"""
    settings: Settings

    @property
    def seed(self) -> int:
        return int(self.result["seed"])

    def score(self, split: str, metric: str, name: str = "mean") -> float:
        """Of val or test; NaN where the run has none, or had NaN (null in the file)."""
        value = self.result[split].get(metric, {}).get(name)
        return math.nan if value is None else float(value)


@dataclass(frozen=True, kw_only=True)
class Row:
    """The finished runs that differ only in their seed."""

    key: tuple[str, ...]
    """dataset, method, network, labels, tag"""
    runs: tuple[Run, ...]
    differs: str = ""
    """ "key=value ..." of the settings by which rows of the same key differ."""

    @property
    def first(self) -> dict[str, Any]:
        """results.json of the first run, for what all of them share."""
        return self.runs[0].result

    @property
    def dataset(self) -> str:
        return self.key[0]

    @property
    def method(self) -> str:
        return self.key[1]

    @property
    def network(self) -> str:
        return self.key[2]

    @property
    def cases(self) -> int:
        """Labelled."""
        return int(self.first["labeled"]["cases"])

    @property
    def all_labeled(self) -> bool:
        return bool(self.first["labeled"]["cases"] == self.first["labeled"]["of_cases"])

    @property
    def main(self) -> str:
        """The metric whose mean on val chose the best model ("val dice mean")."""
        return str(self.first["selected_by"]).split()[1]

    @property
    def name(self) -> str:
        """The method, and what tells the row from another row of the same method and labels."""
        return " ".join(word for word in (self.method, self.key[4], self.differs) if word)

    def values(self, split: str, metric: str, name: str = "mean") -> list[float]:
        """One a seed."""
        return [run.score(split, metric, name) for run in self.runs]


@dataclass(frozen=True, kw_only=True)
class Missing:
    """A run without results."""

    run: str
    """Its folder, or the command line of one that was refused before it had a folder."""
    status: str
    reason: str

    def __str__(self) -> str:
        return f"{self.run}: {self.status}\n" + "\n".join(f"    {line}" for line in self.reason.splitlines())


def collect(roots: Sequence[Path]) -> tuple[list[Row], list[Missing]]:
    """Rows of all finished runs below `roots`, and every run that is not finished."""
    runs: list[Run] = []
    missing: list[Missing] = []
    seen: set[Path] = set()
    for root in roots:
        if not root.is_dir():
            raise UserError(f"{root}: there is no such folder")
        for folder in sorted(file.parent for file in root.rglob("config.yaml") if file.parent.name != ".hydra"):
            if folder.resolve() in seen:  # below two of the roots
                continue
            seen.add(folder.resolve())
            found = _read(folder)
            runs += [found] if isinstance(found, Run) else []
            missing += [found] if isinstance(found, Missing) else []
        missing += [lost for file in sorted(root.rglob(FAILURES)) for lost in _refused(file)]
    if not runs and not missing:
        raise UserError(f"{', '.join(map(str, roots))}: holds no run folder")
    return _rows(runs), missing


def _read(folder: Path) -> Run | Missing:
    try:
        file = folder / "results.json"
        result = read_json(file) if file.exists() else {"status": "not finished", "error": "no results.json yet"}
        every = sorted(flat(read_config(folder)).items())
    except UserError as error:
        return Missing(run=str(folder), status="damaged", reason=str(error))
    if result.get("status") != "finished":
        return Missing(run=str(folder), status=str(result.get("status")), reason=str(result.get("error")))
    return Run(
        folder=folder,
        result=result,
        settings={key: value for key, value in every if key not in (*MAY_DIFFER, "seed")},
    )


def _refused(file: Path) -> list[Missing]:
    """Runs of a sweep that left no folder: the last word on each. Those with a folder speak for themselves."""
    lines = (json.loads(line) for line in file.read_text().splitlines())
    last = {line["folder"]: line for line in lines}
    return [
        Missing(run=line["overrides"], status="refused", reason=line["error"])
        for folder, line in last.items()
        if not (file.parent / folder / "config.yaml").exists()
    ]


def _rows(runs: Iterable[Run]) -> list[Row]:
    grouped: dict[str, list[Run]] = {}
    for run in runs:
        grouped.setdefault(repr(run.settings), []).append(run)
    groups = sorted(grouped.values(), key=lambda group: _order(group[0].result))
    alike: dict[tuple[str, ...], list[Settings]] = {}
    for group in groups:
        alike.setdefault(_key(group[0].result), []).append(group[0].settings)
    return [
        Row(
            key=(key := _key(group[0].result)),
            runs=tuple(sorted(group, key=lambda run: run.seed)),
            differs=_differing(group[0].settings, alike[key]),
        )
        for group in groups
    ]


def _differing(settings: Settings, alike: Sequence[Settings]) -> str:
    """ "key=value ..." of the keys whose values are not the same in all of `alike`."""
    keys = [
        key for key in {key: None for other in alike for key in other} if len({repr(s.get(key)) for s in alike}) > 1
    ]
    # What a recipe says shows in the keys that follow it.
    told = [key for key in keys if not key.startswith("dataset.recipe.")] or keys
    return " ".join(f"{key}={'null' if (value := settings.get(key)) is None else value}" for key in told)


def _key(result: dict[str, Any]) -> tuple[str, ...]:
    labeled = result["labeled"]
    labels = f"{labeled['cases']} of {labeled['of_cases']} ({100 * labeled['ratio']:.3g} %)"
    return result["dataset"], result["method"], result["network"], labels, result.get("tag") or ""


def _order(result: dict[str, Any]) -> tuple[Any, ...]:
    return result["dataset"], result["labeled"]["images"], result["method"] != "supervised", _key(result)
