"""The model card, README.md beside exported weights: what they were trained on, how good they are, how to load them."""

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ssl4seg.commands.repeating import eval_words
from ssl4seg.data.dataset import shape_of
from ssl4seg.errors import UserError
from ssl4seg.keys import FOREGROUND_MEAN, MEAN, MEANS
from ssl4seg.run.folder import read_config, read_json
from ssl4seg.run.settings import ExportSettings
from ssl4seg.scoring.metrics import METRICS, Metric
from ssl4seg.scoring.selection import LAST, selected_by

MAX_CLASSES = 6
"""Classes of a mean that are named; of more the card gives the number."""


def card(run: Path, settings: ExportSettings) -> str:
    """The text of the card.

    Args:
        run: the folder of the run; what is missing there, as in a run that is not finished, is left out.
    """
    results, split = (
        read_json(file) if (file := run / name).exists() else {} for name in ("results.json", "split.json")
    )
    config = read_config(run)
    data = settings.dataset
    size = " x ".join(map(str, shape_of(data["image_size"])))
    scores = [*_chosen(results), *_scores(results)]
    if scores and (settings.checkpoint != "best" or settings.method != config["method"]):
        scores += ["", f"They are the run's own; these weights are others (checkpoint={settings.checkpoint})."]
    lines = [
        f"# {results.get('network', 'network')}, trained by {results.get('method', 'ssl4seg')}",
        "",
        "Weights of a segmentation network, trained with ssl4seg.",
        "",
        "## Data",
        "",
        f"- dataset: {results.get('dataset', data['_target_'])}",
        f"- classes: {', '.join(map(str, data['classes']))}",
        f"- channels: {data['channels']}; training input: {size} pixels; intensities: normalize={data['normalize']}",
        *_split(results, split),
        "",
        "## Scores",
        "",
        *(scores or ["The run has no scores yet."]),
        "",
        "## Load",
        "",
        f"    ssl4seg-eval network.weights=model.safetensors {shlex.join(eval_words(config, results))}",
        "",
        "scores them as the run was scored, on the same data: DIR is their folder. To train on from them,",
        "`ssl4seg-train network.weights=model.safetensors ...`. The file is a plain state dict",
        "(`safetensors.torch.load_file`). It holds the mean and std of the input if the network standardises it.",
    ]
    return "\n".join(lines) + "\n"


def _split(results: Mapping[str, Any], split: Mapping[str, Any]) -> Iterator[str]:
    if labeled := results.get("labeled"):
        yield f"- labelled: {labeled['cases']} of {labeled['of_cases']} cases"
    for key, what in (("sha256", "split"), ("data_sha256", "data")):
        if value := split.get(key):
            yield f"- SHA-256 of the {what}: {value}"


def _chosen(results: Mapping[str, Any]) -> list[str]:
    """Which score on val chose the model; [] where a run has none yet."""
    try:
        split, metric, name = selected_by(results)
    except UserError:
        return []
    if results.get("selected") == LAST:
        return ["The model is that of the last step (select=last).", ""]
    return [f"The model is the one that is best on {split} by {_title(results, metric, name)}.", ""]


def _scores(results: Mapping[str, Any]) -> list[str]:
    """A table of the scores on val and test: the one that chose the model first, then all means."""
    rows: dict[str, None] = {}
    for part in ("val", "test"):
        summary = results.get(part) or {}
        means = [(metric, name) for metric, entry in summary.items() if isinstance(entry, Mapping) for name in MEANS]
        for metric, name in [*_first(results), *means]:
            entry = summary.get(metric)
            if isinstance(entry, Mapping) and isinstance(entry.get(name), int | float):
                title = _title(results, metric, name)
                rows[f"| {part} | {title} | {_classes_of(entry, name)} | {entry[name]:.4g} |"] = None
    return ["| split | metric | mean over | score |", "|---|---|---|---:|", *rows] if rows else []


def _first(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Metric and class or mean by which the model was chosen."""
    try:
        _, metric, name = selected_by(results)
    except UserError:
        return []
    return [(metric, name)]


def _title(results: Mapping[str, Any], metric: str, name: str) -> str:
    """ "foreground IoU", "myocardium HD95"; a metric of the user's own has the title that results.json gives it."""
    own = (results.get("own_metrics") or {}).get(metric)
    known = METRICS.get(metric) or (Metric.from_description(metric, own) if own else None)
    if known:
        return known.title_of(name)
    return metric if name == MEAN else f"{name.removesuffix('_mean')} {metric}"


def _classes_of(entry: Mapping[str, Any], name: str) -> str:
    """The classes that a score is a mean over: their names, or the number of many."""
    if name not in MEANS:
        return name
    classes = [key for key in entry if key not in MEANS]
    background = FOREGROUND_MEAN in entry
    without = [] if name == MEAN or not background else classes[:1]
    counted = [key for key in classes if key not in without]
    if len(counted) <= MAX_CLASSES:
        return ", ".join(counted)
    first = f", without {without[0]}" if without else f", {counted[0]} included" if background else ""
    return f"{len(counted)} classes{first}"
