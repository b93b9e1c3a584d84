"""The words of `ssl4seg-eval` that score a run's bare weights as the run was scored."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ssl4seg.commands.conf import EVALUATED, choices, completed, composed, to_plain
from ssl4seg.data.folder import CAN_BE_NONE
from ssl4seg.errors import UserError
from ssl4seg.keys import is_list
from ssl4seg.run.folder import may_differ
from ssl4seg.shipped import conf_dir, read_shipped

Config = Mapping[str, Any]

CHOSEN = ("network", "dataset", "inference")
"""Groups whose choices the words name. The first two always, as the name of a choice that is not in conf/ is NAME."""

SCORED = tuple(key for key in EVALUATED if key != "method")
"""Groups and keys of a run that the scores of its bare weights depend on."""

LEFT_OUT = ("network.weights", "network.encoder_weights")
"""Keys that say where a network starts: the bare weights take their place."""

WORD = re.compile(r"(?!(?:null|true|false|nan|inf)$)[a-z_][\w./-]*", re.IGNORECASE)
"""Texts that Hydra reads as they are; others stand in quotes."""


def eval_words(config: Config, results: Config) -> list[str]:
    """KEY=VALUE for the choices, and for each key that is not as these choices have it; DIR stands for dataset.root.

    Args:
        config: config.yaml of the run.
        results: its results.json, which names the choices; {} if there is none.
    """
    found = {group: _choice(group, config[group], results.get(group)) for group in CHOSEN}
    words = [f"{group}={found[group]}" for group in CHOSEN if found[group] and group != "inference"]
    usual = to_plain(composed("eval", words))
    if found["inference"] and usual["inference"].get("_target_") != config["inference"].get("_target_"):
        words.append(f"inference={found['inference']}")
        usual = to_plain(composed("eval", words))
    words += [f"{group}=NAME" for group in CHOSEN if not found[group]]
    if config["dataset"].get("root") is not None:
        words.append("dataset.root=DIR")
    if found["dataset"]:
        usual["dataset"] = _completed(usual["dataset"], config["dataset"])
        if found["dataset"] == "folder":
            config = {**config, "dataset": _turned_off(config["dataset"], usual["dataset"])}
    for group in SCORED:
        unknown = group in CHOSEN and not found[group]  # its YAML is not here: all its keys are typed
        words += _differing(group, {} if unknown else usual.get(group), config.get(group), added="" if unknown else "+")
    return words


def _choice(group: str, node: Config, name: object = None) -> str:
    """The choice of conf/ that builds what a run has: `name`, or the one with most of its keys; "" if there is none."""
    differing: dict[str, int] = {}
    for choice in choices(group, [conf_dir()]):
        content = read_shipped(f"{group}/{choice}.yaml")
        keys = content.get(group, content)
        if keys.get("_target_") == node.get("_target_"):
            differing[choice] = sum(keys.get(key) != value for key, value in node.items())
    return str(name) if name in differing else min(differing, key=differing.__getitem__, default="")


def _completed(usual: Config, own: Config) -> Config:
    """The keys of a data set as no further word sets them, read off the run's data where these are still there."""
    try:
        return completed(dict(usual) | ({"root": own["root"]} if "root" in own else {}))
    except (UserError, OSError):
        return usual


def _turned_off(own: Config, usual: Config) -> Config:
    """The keys of a folder of the user's own, with the word none where null would be read from dataset.yaml again."""
    off = [key for key in CAN_BE_NONE if key in own and own[key] is None and usual.get(key) is not None]
    return {**own, **dict.fromkeys(off, "none")}


def _differing(key: str, usual: Any, own: Any, *, added: str) -> Iterator[str]:
    """KEY=VALUE where a run's value is not the usual one.

    Args:
        added: the sign before a key that the usual configuration lacks.
    """
    if may_differ(key) or key in LEFT_OUT or key.endswith("._target_"):
        return
    if isinstance(own, Mapping) and isinstance(usual, Mapping):
        for name, value in own.items():
            sign = "" if name in usual else added
            for word in _differing(f"{key}.{name}", usual.get(name), value, added=added):
                yield word if word.startswith("+") else f"{sign}{word}"
    elif own != usual:
        yield f"{key}={_written(own)}"


def _written(value: Any) -> str:
    """A value as Hydra reads it from the command line."""
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{name}:{_written(item)}' for name, item in value.items())}}}"
    if is_list(value):
        return f"[{','.join(map(_written, value))}]"
    if isinstance(value, str) and not WORD.fullmatch(value):
        # Backslashes count as signs of their own, unless they stand before a quote.
        escaped = re.sub(r'(\\*)("|$)', lambda found: found[1] * 2 + (found[2] and '\\"'), value)
        return f'"{escaped}"'
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)
