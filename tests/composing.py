"""Hydra reads and composes some things once: composing was most of the time of a command of four steps.

So does Fabric, which looks through all installed packages each time that it is made.
"""

import pickle
from collections.abc import Callable, Sequence
from functools import cache, wraps
from pathlib import Path
from typing import Any

from hydra._internal.hydra import Hydra
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource
from lightning_fabric import fabric

from ssl4seg.commands import words
from ssl4seg.shipped import conf_dir

# -- files of conf/ and of Hydra, read once by a process and those forked from it -------------------------------------

READ: dict[tuple[str, str, str], bytes] = {}


def remembering(load: Callable[..., ConfigResult]) -> Callable[..., ConfigResult]:
    """`load_config` of a source; a file that no test writes is read once."""

    @wraps(load)
    def load_config(self: ConfigSource, config_path: str) -> Any:
        if self.scheme() == "file" and self.path != str(conf_dir()):
            return load(self, config_path)
        key = (self.provider, self.path, config_path)
        if key not in READ:
            READ[key] = pickle.dumps(load(self, config_path))
        return pickle.loads(READ[key])  # a copy, six times as fast as copy.deepcopy

    return load_config


for source in Plugins.instance().discover(ConfigSource):  # which defines the classes anew when it first looks for them
    if source.scheme() in ("file", "pkg"):
        source.load_config = remembering(source.load_config)  # type: ignore[method-assign]

fabric._load_external_callbacks = cache(fabric._load_external_callbacks)  # there are none

# -- of the three times that a command composes, two ------------------------------------------------------------------

COMMANDS = ("train", "eval", "predict", "export", "rank")


def of_default_choices_once() -> None:
    """`words.check` finds the default choices composed; Hydra does not compose to find a mode that no word sets."""
    composed, known = words.composed, {}

    def remembered(name: str, typed: Sequence[str] = (), extra: Sequence[Path] = (), *, hydra: bool = False) -> Any:
        if typed or extra or hydra:
            return composed(name, typed, extra, hydra=hydra)
        return pickle.loads(known[name])

    for name in COMMANDS:
        known[name] = pickle.dumps(composed(name, []))
    words.composed = remembered
    get_mode = Hydra.get_mode

    def mode(self: Hydra, config_name: str | None, overrides: list[str]) -> Any:
        return get_mode(self, config_name, overrides) if any("hydra.mode" in word for word in overrides) else None

    Hydra.get_mode = mode  # type: ignore[method-assign]
