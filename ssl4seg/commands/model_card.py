"""The model card, README.md beside exported weights: what they were trained on, how good they are, how to load them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from ssl4seg.data.dataset import shape_of
from ssl4seg.run.folder import read_json
from ssl4seg.run.settings import ModelSettings
from ssl4seg.shipped import conf_dir


def card(run: Path, settings: ModelSettings) -> str:
    """The text of the card.

    Args:
        run: the folder of the run; what is missing there, as in a run that is not finished, is left out.
    """
    results, split = (
        read_json(file) if (file := run / name).exists() else {} for name in ("results.json", "split.json")
    )
    data = settings.dataset
    size = " x ".join(map(str, shape_of(data["image_size"])))
    words = _words(results.get("network"), settings.network)
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
        *(_scores(results) or ["The run has no scores yet."]),
        "",
        "## Load",
        "",
        f"    ssl4seg-eval network.weights=model.safetensors {words} dataset=NAME dataset.root=DIR",
        "",
        "or train on from them, `ssl4seg-train network.weights=model.safetensors ...`. The file is a plain state dict",
        "(`safetensors.torch.load_file`). It holds the mean and std of the input if the network standardises it.",
    ]
    return "\n".join(lines) + "\n"


def _words(name: Any, network: Mapping[str, Any]) -> str:
    """The words of the command line that choose this network: its name, and the keys that are not its defaults."""
    file = conf_dir() / "network" / f"{name}.yaml"
    usual = yaml.safe_load(file.read_text()) if file.is_file() else {}
    words = [f"network={name}"] if usual else []
    for key, value in network.items():
        if key not in ("_target_", "weights", "encoder_weights") and usual.get(key) != value:
            words.append(f"'network.{key}={yaml.safe_dump(value, default_flow_style=True).split(chr(10))[0]}'")
    return " ".join(words)


def _split(results: Mapping[str, Any], split: Mapping[str, Any]) -> Iterator[str]:
    if labeled := results.get("labeled"):
        yield f"- labelled: {labeled['cases']} of {labeled['of_cases']} cases"
    for key, what in (("sha256", "split"), ("data_sha256", "data")):
        if value := split.get(key):
            yield f"- SHA-256 of the {what}: {value}"


def _scores(results: Mapping[str, Any]) -> list[str]:
    """A table of the mean scores on val and test."""
    rows = []
    for part in ("val", "test"):
        for metric, entry in (results.get(part) or {}).items():
            if isinstance(entry, Mapping) and isinstance(entry.get("mean"), int | float):
                rows.append(f"| {part} | {metric} | {entry['mean']:.4g} |")
    return ["| split | metric | mean |", "|---|---|---:|", *rows] if rows else []
