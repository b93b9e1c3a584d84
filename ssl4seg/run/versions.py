"""Translate configurations of earlier versions to this version's keys and names.

Three tables own the differences: modules that moved, classes that have another name, and keys that are new.
`folder.read_config` applies them, so that run folders of every version evaluate, predict, resume and are reported.
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

CLASSES: Mapping[str, str] = {"ssl4seg.networks.dinov2_dpt.DINOv2DPT": "ssl4seg.networks.vit_dpt.ViTDPT"}
"""A `_target_` as version 0.1 wrote it -> that of the class under its present name."""

NEW_KEYS: Mapping[str, Any] = {
    "select": "auto",
    "metrics.more": [],
    "passes": "auto",
    "precise_bn": 0,
    "engine.compile": False,
    "logger": {"tensorboard": {"_target_": "ssl4seg.run.loggers.tensorboard.TensorBoard"}},
}
"""Keys that version 0.1 did not have, with the value that stands for its behaviour."""

VOCS_CHOICE = "iou/mean"
"""What `select=auto` was for VOC before its recipe named it."""

OF_A_FOLDER = {"orientation": "stored", "slice_axis": "z", "skip_orphans": False, "channel_files": False}
"""How version 0.1 read a folder."""


def current(config: Mapping[str, Any]) -> dict[str, Any]:
    """Translate a run's configuration; a configuration of this version comes back unchanged."""
    result: dict[str, Any] = _renamed(copy.deepcopy(dict(config)))
    dataset = result.get("dataset")
    if isinstance(dataset, dict) and "recipe" in dataset:
        result["recipe"] = dataset.pop("recipe")
    if isinstance(dataset, dict) and str(dataset.get("_target_")).endswith(".Folder"):
        for key, value in OF_A_FOLDER.items():
            dataset.setdefault(key, value)
    for key, value in NEW_KEYS.items():
        *path, last = key.split(".")
        node = result
        for name in path:
            node = node.get(name, {})
        if path and not node:
            continue
        node.setdefault(last, copy.copy(value))
    recipe, is_voc = (
        result.get("recipe"),
        isinstance(dataset, dict) and str(dataset.get("_target_")).endswith(".VOC2012"),
    )
    if is_voc and isinstance(recipe, dict) and "select" not in recipe:
        recipe["select"] = VOCS_CHOICE
        result["select"] = VOCS_CHOICE if result["select"] == "auto" else result["select"]
    return result


def _renamed(value: Any) -> Any:
    """The same value, with every `_target_` under its present name."""
    if isinstance(value, dict):
        return {key: _target(item) if key == "_target_" else _renamed(item) for key, item in value.items()}
    return [_renamed(item) for item in value] if isinstance(value, list) else value


def _target(name: Any) -> Any:
    module, _, attribute = str(name).rpartition(".")
    return f"{MODULES[module]}.{attribute}" if module in MODULES else CLASSES.get(str(name), name)
