"""Configurations that earlier versions have written, brought to the keys and names of this one.

Two tables own what has changed: where classes are now, and which keys are new. `folder.read_config` applies them, so
that run folders of every version evaluate, predict, resume and are reported.
"""

import copy
from collections.abc import Mapping
from typing import Any

MODULES: Mapping[str, str] = {
    "ssl4seg.views": "ssl4seg.feed.views",
    "ssl4seg.photometric": "ssl4seg.augment.operations",
    "ssl4seg.native": "ssl4seg.scoring.inference",
    "ssl4seg.losses": "ssl4seg.methods.parts.losses",
    "ssl4seg.ramps": "ssl4seg.run.schedules",
}
"""Module of a `_target_` as version 0.1 wrote it -> the module that holds the class now."""

NEW_KEYS: Mapping[str, Any] = {"select": "auto", "metrics.more": []}
"""Keys that version 0.1 did not have, with the value that says what it did."""

AS_STORED = {"orientation": "stored", "slice_axis": "z"}
"""How version 0.1 read the volumes of a folder."""


def current(config: Mapping[str, Any]) -> dict[str, Any]:
    """A run's configuration under this version's names; one that has them already is returned as it is."""
    result: dict[str, Any] = _renamed(copy.deepcopy(dict(config)))
    dataset = result.get("dataset")
    if isinstance(dataset, dict) and "recipe" in dataset:
        result["recipe"] = dataset.pop("recipe")
    if isinstance(dataset, dict) and str(dataset.get("_target_")).endswith(".Folder"):
        for key, value in AS_STORED.items():
            dataset.setdefault(key, value)
    for key, value in NEW_KEYS.items():
        *path, last = key.split(".")
        place = result
        for name in path:
            place = place.get(name, {})
        if path and not place:
            continue
        place.setdefault(last, copy.copy(value))
    return result


def _renamed(value: Any) -> Any:
    """The same with every `_target_` at its present place."""
    if isinstance(value, dict):
        return {key: _target(item) if key == "_target_" else _renamed(item) for key, item in value.items()}
    return [_renamed(item) for item in value] if isinstance(value, list) else value


def _target(name: Any) -> Any:
    module, _, attribute = str(name).rpartition(".")
    return f"{MODULES[module]}.{attribute}" if module in MODULES else name
