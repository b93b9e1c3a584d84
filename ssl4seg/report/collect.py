"""Read run folders and group the finished runs into rows: the runs of a row differ only in their seed.

Every run that is in no row is listed with the reason.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from ssl4seg.data.folds import Fold
from ssl4seg.errors import UserError, plain
from ssl4seg.keys import FOLD, FOREGROUND_MEAN, MEAN, MEANS
from ssl4seg.run.folder import FAILURES, flat, may_differ, read_config, read_failures, read_json
from ssl4seg.scoring.metrics import METRICS, Metric, score_in
from ssl4seg.scoring.selection import LAST, selected_by

HEAD = ("dataset", "method", "network", "labels", "tag")
LABELS = ("labeled_ratio", "labeled_cases", "labeled_list")
"""Keys that choose the labelled cases; the column `labels` shows their effect."""

BUDGET = ("iterations", "dataset.image_size")
"""Settings without which scores are not comparable: captions give their values."""

MAX_OTHER = 6
"""Other settings that a note names; of more it gives the number."""

NEEDED: Mapping[str, type | tuple[type, ...]] = {
    "dataset": str,
    "method": str,
    "network": str,
    "seed": int,
    "labeled.ratio": (int, float),
    "labeled.cases": int,
    "labeled.images": int,
    "labeled.of_cases": int,
    "labeled.of_images": int,
}
"""Entries that results.json must hold beside the scores, and their types."""

Settings = dict[str, Any]
"""config.yaml as dotted keys, without nulls and without the keys that may differ between the runs of a row."""


class Main(NamedTuple):
    """The score by which a run is compared, a mean over classes."""

    metric: str
    name: str

    @property
    def title(self) -> str:
        """Dice, mIoU or foreground IoU."""
        return METRICS[self.metric].title_of(self.name)

    @property
    def word(self) -> str:
        """A word for file names and CSV: dice, iou or foreground_iou."""
        return self.metric if self.name == MEAN else f"foreground_{self.metric}"


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run."""

    folder: Path
    result: dict[str, Any]
    """results.json"""
    settings: Settings
    split: str = ""
    """The hash in split.json; empty if there is none."""
    data: str = ""
    """The fingerprint of its data in split.json; empty if there is none."""
    parts: tuple["Run", ...] = ()
    """The folds of one seed that this run pools (`folds.pooled`); empty for the run of one folder."""

    @property
    def fold(self) -> Fold | None:
        """The fold of cross-validation that the run tests; None without folds."""
        text = self.result.get("fold")
        return Fold.parsed(str(text)) if FOLD.fits(text) else None

    @property
    def seed(self) -> int:
        return int(self.result["seed"])

    @property
    def key(self) -> tuple[str, ...]:
        """dataset, method, network, labels, tag"""
        each = [part.result["labeled"] for part in self.parts or (self,)]
        of_images = "" if all(labeled["of_images"] == labeled["of_cases"] for labeled in each) else " of images"
        labels = f"{self.counts} ({_range([100 * labeled['ratio'] for labeled in each])} %{of_images})"
        return *(self.result[name] for name in HEAD[:3]), labels, self.result.get("tag") or ""

    @property
    def counts(self) -> str:
        """ "2 of 40" labelled of all training cases; of folds the smallest and the largest, "2 of 8 to 9"."""
        each = [part.cases for part in self.parts or (self,)]
        return " of ".join(_range(numbers) for numbers in zip(*each, strict=True))

    @property
    def cases(self) -> tuple[int, int]:
        """The number of labelled cases, and of all training cases."""
        return self.result["labeled"]["cases"], self.result["labeled"]["of_cases"]

    @property
    def seconds(self) -> float:
        """Wall time of training, validations and test; NaN if results.json does not hold it."""
        seconds = (self.result.get("speed") or {}).get("run_seconds")
        return math.nan if seconds is None else float(seconds)

    def score(self, split: str, metric: str, name: str = MEAN) -> float:
        """A score on val or test; NaN if results.json has none, or null, which stands for NaN."""
        scores = self.result[split].get(metric)
        known = not isinstance(scores, Mapping) or name in scores
        return score_in(scores, name) if known else math.nan


@dataclass(frozen=True, kw_only=True)
class Row:
    """The finished runs that differ only in their seed (and fold, until `folds.pooled` joins these)."""

    runs: tuple[Run, ...]
    differs: str = ""
    """ "key=value ..." of the settings that differ between rows of the same method and number of labelled cases."""

    @property
    def key(self) -> tuple[str, ...]:
        """dataset, method, network, labels, tag"""
        return self.runs[0].key

    @property
    def first(self) -> dict[str, Any]:
        """results.json of the first run, for entries that all runs of the row share."""
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
    def labels(self) -> str:
        return self.key[3]

    @property
    def cases(self) -> int:
        """The number of labelled cases."""
        return self.runs[0].cases[0]

    @property
    def all_labeled(self) -> bool:
        first = self.runs[0]
        return all(cases == of_cases for cases, of_cases in (part.cases for part in first.parts or (first,)))

    @property
    def main(self) -> Main:
        """The score by which the row is compared: Dice where cases are scored, IoU where pixels are."""
        return main_of(self.first)

    @property
    def selected_by(self) -> str:
        """The metric that chose the best model on val: "Dice", "myocardium HD95"."""
        _, metric, name = selected_by(self.first)
        if known := {**METRICS, **self.own_metrics}.get(metric):
            return known.title_of(name)
        return metric if name in MEANS else f"{name} {metric}"

    @property
    def own_metrics(self) -> dict[str, Metric]:
        """The user's own metrics (`metrics.more`) by name."""
        return own_metrics(self.first)

    @property
    def folds(self) -> str:
        """ "5 of 5", the folds that each seed pools; "" without folds."""
        first = self.runs[0]
        return f"{len(first.parts)} of {first.fold.of}" if first.parts and first.fold else ""

    @property
    def variant(self) -> str:
        """The tag and the differing settings: they tell apart rows of one method and number of labelled cases."""
        return " ".join(word for word in (self.key[4], self.differs) if word)

    @property
    def name(self) -> str:
        """The method and its variant."""
        return f"{self.method} {self.variant}".strip()

    def values(self, split: str, metric: str, name: str = MEAN) -> list[float]:
        """The score of each seed."""
        return [run.score(split, metric, name) for run in self.runs]


@dataclass(frozen=True, kw_only=True)
class Missing:
    """A run that is in no row."""

    run: str
    """The run's folder; its command line if it was refused before it had a folder."""
    status: str
    reason: str

    def __str__(self) -> str:
        return f"{self.run}: {self.status}\n" + "\n".join(f"    {line}" for line in self.reason.splitlines())


def collect(roots: Sequence[Path]) -> tuple[list[Row], list[Missing]]:
    """Return the rows of all finished runs below `roots`, and every run that is in no row.

    Raises:
        UserError: a root is no folder, or no root holds a run.
    """
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
            run = _read(folder)
            if isinstance(run, Run):
                runs.append(run)
            else:
                missing.append(run)
        missing += [refused for file in sorted(root.rglob(FAILURES)) for refused in _refused(file)]
    if not runs and not missing:
        raise UserError(f"{', '.join(map(str, roots))}: holds no run folder")
    groups, copies = _grouped(_named_by_data(runs))
    return _rows(groups), missing + copies


def _read(folder: Path) -> Run | Missing:
    try:
        file, split = folder / "results.json", folder / "split.json"
        result = read_json(file) if file.exists() else {"status": "not finished", "error": "no results.json yet"}
        result, config = _shown(result), _shown(read_config(folder))
        if result.get("status") != "finished":
            return Missing(run=str(folder), status=str(result.get("status")), reason=str(result.get("error")))
        _check(file, result)
        labeled = read_json(split) if split.exists() else {}
    except UserError as error:
        return Missing(run=str(folder), status="damaged", reason=str(error))
    return Run(
        folder=folder,
        result=result,
        settings=_settings(config, result),
        split=str(labeled.get("sha256", "")),
        data=str(labeled.get("data_sha256") or ""),
    )


def _shown(value: Any) -> Any:
    """A content whose words, which tables and figures show, steer no terminal."""
    if isinstance(value, Mapping):
        return {_shown(key): _shown(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_shown(item) for item in value]
    return plain(value) if isinstance(value, str) else value


def _named_by_data(runs: Sequence[Run]) -> list[Run]:
    """Tell data sets of one name apart: "mine (1f3a5c)", so that no table, figure or comparison pools them."""
    data: dict[str, set[str]] = {}
    for run in runs:
        data.setdefault(run.result["dataset"], set()).update({run.data} - {""})
    return [
        replace(run, result=run.result | {"dataset": f"{name} ({run.data[:6] or 'unknown'})"})
        if len(data[name := run.result["dataset"]]) > 1
        else run
        for run in runs
    ]


def _check(file: Path, result: Mapping[str, Any]) -> None:
    """Refuse a finished run's results.json that lacks an entry which a row needs."""
    facts = flat(result)
    wrong = [key for key, kind in NEEDED.items() if not isinstance(facts.get(key), kind)]
    if not wrong:
        try:
            split, metric, _ = selected_by(result)
            wrong = [] if split == "val" and metric in (*METRICS, *(result["val"] or ())) else ["selected_by"]
        except UserError:
            wrong = ["selected_by"]
    if not wrong:
        try:
            own_metrics(result)
        except UserError:
            wrong = ["own_metrics"]
    if not wrong:
        main = main_of(result)
        keys = (f"{split}.{main.metric}.{main.name}" for split in ("val", "test"))
        scores = {key: facts.get(key, "missing") for key in keys}
        wrong = [key for key, value in scores.items() if not isinstance(value, int | float | None)]
    if wrong:
        raise UserError(f"{file}: the run is finished, but there is no {wrong[0]}, or its value is not valid")


def main_of(result: Mapping[str, Any]) -> Main:
    """The score by which the run of a results.json is compared.

    Pixels have two means where there is a background, with it and without it. Runs are compared by the one that chose
    their model; if another score did, by the mean without the background, which version 0.1 did not have.
    """
    val = result.get("val")
    metric = "iou" if isinstance(val, Mapping) and ("miou" in val or "dice" not in val) else "dice"
    _, chosen, name = selected_by(result)
    if chosen == metric and name in MEANS:
        return Main(metric, name)
    scores = val.get(metric) if isinstance(val, Mapping) else None
    return Main(metric, FOREGROUND_MEAN if isinstance(scores, Mapping) and FOREGROUND_MEAN in scores else MEAN)


def _range(numbers: Sequence[float]) -> str:
    """ "8 to 9", or one number if all are the same to three digits."""
    low, high = (f"{end:.3g}" if isinstance(end, float) else str(end) for end in (min(numbers), max(numbers)))
    return low if low == high else f"{low} to {high}"


def takes_last(result: Mapping[str, Any]) -> bool:
    """Whether the run of a results.json took its last model; version 0.1 knew only the best on val."""
    return result.get("selected") == LAST


def own_metrics(result: Mapping[str, Any]) -> dict[str, Metric]:
    """The user's own metrics as results.json describes them: the report imports nothing that a run folder names.

    Raises:
        UserError: a description is damaged.
    """
    entries = result.get("own_metrics") or {}
    if not isinstance(entries, Mapping) or not METRICS.keys().isdisjoint(entries):
        raise UserError(f"own_metrics: expected metrics of other names than {', '.join(METRICS)}")
    return {str(name): Metric.from_description(str(name), entry) for name, entry in entries.items()}


def _settings(config: Mapping[str, Any], result: Mapping[str, Any]) -> Settings:
    """The settings in the order of their keys. Nulls are dropped: a null equals a key that an older version lacked.

    The number of a fold is dropped as the seed is, but not how many folds there are. `select` is the score that chose
    the model, or last: what auto means has changed, and no row may pool the two.
    """
    left_out = ("seed", "recipe.select", "dataset.fold")
    _, metric, name = selected_by(result)
    leaves = {**dict(_leaves(config)), "select": "last" if takes_last(result) else f"{metric}/{name}"}
    if FOLD.fits(fold := leaves.get("dataset.fold")):
        leaves["dataset.folds"] = Fold.parsed(str(fold)).of
    return {k: v for k, v in sorted(leaves.items()) if v is not None and k not in left_out and not may_differ(k)}


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of nested mappings; an item of a list of mappings has a key too: views.strong.0.p."""
    if isinstance(value, Mapping):
        items: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        items = enumerate(value)
    else:
        yield key, value
        return
    for name, item in items:
        yield from _leaves(item, f"{key}.{name}" if key else str(name))


def _refused(file: Path) -> list[Missing]:
    """The jobs of a sweep that ended before they had a run folder, each with its latest error."""
    try:
        lines, damaged = read_failures(file)
    except UserError as error:
        return [Missing(run=str(file), status="damaged", reason=str(error))]
    last = {line["folder"]: line for line in lines}
    unreadable = (
        [Missing(run=str(file), status="damaged", reason=f"{damaged} of its lines cannot be read")] if damaged else []
    )
    return unreadable + [
        Missing(run=line["overrides"], status="refused", reason=line["error"])
        for folder, line in last.items()
        if not (file.parent / folder / "config.yaml").exists()
    ]


def _grouped(runs: Iterable[Run]) -> tuple[list[list[Run]], list[Missing]]:
    """The runs of each row in the order of seeds and folds, and the copies: with settings, seed and fold of another."""
    grouped: dict[str, dict[tuple[int, int], Run]] = {}
    copies = []
    for run in runs:
        group = grouped.setdefault(repr((run.key[:3], run.settings)), {})
        first = group.setdefault((run.seed, run.fold.number if run.fold else 0), run)
        if first is not run:
            same = "" if first.result["test"] == run.result["test"] else ", though other scores"
            reason = f"has the settings and the seed of {first.folder}{same}; only that one is counted"
            copies.append(Missing(run=str(run.folder), status="left out", reason=reason))
    groups = [[group[place] for place in sorted(group)] for group in grouped.values()]
    return sorted(groups, key=lambda group: _order(group[0])), copies


def _order(run: Run) -> tuple[Any, ...]:
    return run.key[0], run.result["labeled"]["images"], run.key[1] != "supervised", run.key


def _rows(groups: Sequence[Sequence[Run]]) -> list[Row]:
    families: dict[tuple[str, ...], list[Run]] = {}
    for first, *_ in groups:
        families.setdefault((*first.key[:3], first.key[4]), []).append(first)
    return [
        Row(runs=tuple(group), differs=_differs(group[0], families[(*group[0].key[:3], group[0].key[4])]))
        for group in groups
    ]


def _differs(run: Run, family: Sequence[Run]) -> str:
    """ "key=value ..." of the settings in which rows of a method differ, the same text with any number of labels.

    Args:
        family: a run of each row with the same dataset, method, network and tag.
    """
    keys: dict[str, None] = {}
    for cases in dict.fromkeys(other.cases for other in family):
        differing = _differing([other.settings for other in family if other.cases == cases])
        keys |= {key: None for key in differing if cases == run.cases or key not in LABELS}
    values = ((key, run.settings.get(key)) for key in keys)
    return " ".join(f"{key}={'null' if value is None else value}" for key, value in values)


def other_settings(several: Sequence[Settings]) -> list[str]:
    """The keys, beside those of methods, labels and tags, whose values are not the same in all settings."""
    known = dict.fromkeys(key for settings in several for key in settings)
    left_out = (*LABELS, "split_seed", "tag")
    keys = [key for key in known if not key.startswith(("method.", "recipe.")) and key not in left_out]
    return [key for key in keys if len({repr(settings.get(key)) for settings in several}) > 1]


def note_on_settings(rows: Sequence[Row]) -> str:
    """ "Other settings differ between rows: iterations (8 supervised, 40 uamt), optimizer.lr."; "" if none does.

    Rows of different networks are not compared: of their settings only BUDGET counts. What each row's own `differs`
    tells is left out.
    """
    by_network: dict[str, list[Row]] = {}
    for row in rows:
        by_network.setdefault(row.network, []).append(row)
    own = [key for key in other_settings([row.runs[0].settings for row in rows]) if key in BUDGET]
    for same in by_network.values():
        own += other_settings([row.runs[0].settings for row in same])
    hidden = [key for key in dict.fromkeys(own) if not all(f" {key}=" in f" {row.differs}" for row in rows)]
    named = [f"{key} ({_values(rows, key)})" if key in BUDGET else key for key in hidden]
    more = [f"{len(named) - MAX_OTHER} more"] if len(named) > MAX_OTHER else []
    return f"Other settings differ between rows: {', '.join([*named[:MAX_OTHER], *more])}." if named else ""


def _values(rows: Sequence[Row], key: str) -> str:
    """ "8 supervised, 40 uamt and bcp": each value of a setting with the methods that have it."""
    methods: dict[str, dict[str, None]] = {}
    for row in rows:
        methods.setdefault(str(row.runs[0].settings.get(key, "null")), {})[row.method] = None
    return ", ".join(f"{value} {' and '.join(names)}" for value, names in methods.items())


def _differing(several: Sequence[Settings]) -> list[str]:
    """The keys whose values are not the same in all settings."""
    known = dict.fromkeys(key for settings in several for key in settings)
    keys = [key for key in known if len({repr(settings.get(key)) for settings in several}) > 1]
    # A recipe's keys set other keys, which differ too; the other keys are enough where they tell all settings apart.
    others = [key for key in keys if not key.startswith("recipe.")]
    apart = len({repr([settings.get(key) for key in others]) for settings in several}) == len(several)
    return others if apart else keys
