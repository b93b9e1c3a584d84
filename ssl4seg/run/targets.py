"""What a configuration may build: the check of every `_target_` before anything that it names is imported.

`_target_` names whatever Python can import, so that a config.yaml from elsewhere could run any program. Without
`trust=true` each place of a configuration takes a class of that place's base alone, from ssl4seg or torch.optim. The
classes are looked up in the source files of ssl4seg: nothing is imported, ssl4seg's own modules neither.
"""

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import ssl4seg
from ssl4seg.errors import UserError

OPTIMIZER = "torch.optim.Optimizer"

PLACES: Mapping[str, tuple[str, ...]] = {
    "dataset": ("ssl4seg.data.dataset.Dataset",),
    "network": ("ssl4seg.networks.base.Network",),
    "method": ("ssl4seg.methods.base.Method",),
    r"method\.optimizers\.\w+": (OPTIMIZER,),
    r"method\.\w+": ("ssl4seg.networks.base.Network",),  # with _partial_: true, as ctct's transformer
    "supervised_loss": ("ssl4seg.methods.parts.losses.CrossEntropyDice", "ssl4seg.methods.parts.losses.HardPixels"),
    "inference": ("ssl4seg.scoring.inference.Inference",),
    r"views\.weak": ("ssl4seg.feed.views.View",),
    r"views\.strong\.\d+(\.operations\.\d+)*": ("ssl4seg.augment.operations.Photometric",),
    "optimizer": (OPTIMIZER,),
    "schedule": ("ssl4seg.run.schedules.Schedule",),
    r"logger\.\w+": ("ssl4seg.run.loggers.base.Logger",),
    r"postprocess\.\w+": ("ssl4seg.scoring.postprocess.base.Step",),
}
"""Pattern of a dotted key -> bases of the classes that may be built there. Elsewhere nothing is built."""

WORDS = ("hydra.overrides.", "hydra.runtime.", "hydra.job.override_dirname")
"""Where Hydra keeps the words of the command line."""

MISSING = object()

DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)
"""What `_target_` may look like: a name, no call."""

HYDRAS = re.compile(r"_\w+_")
"""Hydra's own keys: `_target_`, `_partial_`, `_args_`, `_recursive_`, `_convert_`."""


class Foreign(NamedTuple):
    """Something in a configuration that could run code from outside of ssl4seg."""

    place: str
    """Dotted key."""
    value: str
    expected: str

    def __str__(self) -> str:
        return f"  {_shown(self.place)}: {_shown(self.value)} (expected {self.expected})"


def check(config: Mapping[str, Any], source: object, remedy: str, *, trust: bool, typed: Sequence[str] = ()) -> None:
    """Refuse a configuration that could run code from outside of ssl4seg.

    Args:
        config: plain values.
        source: the file, or the words for it, of which the message speaks.
        remedy: what the user may do who trusts the source.
        trust: whether the user has typed trust=true; what the configuration itself says does not count.
        typed: keys and groups on the command line: the user chose what stands there.
    """
    if not trust and (found := foreign(config, typed)):
        raise UserError(_message(found, source, remedy))


def check_hydra(config: Mapping[str, Any], own: Mapping[str, Any], source: object, *, trust: bool) -> None:
    """Refuse settings of Hydra itself (callbacks, logging, launcher, environment, folders) by a --config-dir.

    Args:
        config: the node `hydra` under all words of the command line.
        own: the same under the words alone that begin with hydra.
    """
    before = dict(_leaves(own, "hydra"))
    changed = [(key, value) for key, value in _leaves(config, "hydra") if before.get(key, MISSING) != value]
    found = [Foreign(key, str(value), "no such setting") for key, value in changed if not key.startswith(WORDS)]
    if found and not trust:
        raise UserError(_message(found, source, "type these keys on the command line, or add trust=true"))


def foreign(config: Mapping[str, Any], typed: Sequence[str] = ()) -> list[Foreign]:
    """Everything in a configuration that names code from outside of ssl4seg, or could come to do so."""
    found = []
    for place, value in _leaves(config):
        if any(f"{place}.".startswith(f"{key}.") for key in typed):
            continue
        expected = _expected(place, value)
        if expected:
            found.append(Foreign(place, str(value), expected))
    return found


def _expected(place: str, value: Any) -> str:
    """What would be right instead of a value; nothing where the value is harmless."""
    parent, _, key = place.rpartition(".")
    if key == "_target_":
        bases = next((bases for pattern, bases in PLACES.items() if re.fullmatch(pattern, parent)), ())
        if any(is_a(str(value), base) for base in bases):
            return ""
        return f"a class of {' or '.join(bases)}, from ssl4seg or torch.optim" if bases else "nothing to be built here"
    if f"{place}.".startswith("metrics.more."):  # each name is imported
        return "no metric of one's own" if value else ""
    if any(map(HYDRAS.fullmatch, place.split("."))):
        network = key == "_partial_" and re.fullmatch(r"method\.\w+", parent)
        return "" if network else "no such key of Hydra"
    return "a value, no ${...}" if "${" in str(value) else ""


def _leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of nested mappings and lists: views.strong.0._target_."""
    if isinstance(value, Mapping | list) and value:
        for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _leaves(item, f"{place}.{key}" if place else str(key))
    else:
        yield place, value


def is_a(name: str, base: str) -> bool:
    """Whether a dotted name is a class of a base, by the source files alone.

    Args:
        base: a class of ssl4seg, or `OPTIMIZER`, whose classes are those of torch.optim with a capital.
    """
    if not DOTTED.fullmatch(name):
        return False
    if base == OPTIMIZER:
        return re.fullmatch(r"torch\.optim\.[A-Z]\w*", name) is not None
    module, _, cls = name.rpartition(".")
    return name == base or any(is_a(parent, base) for parent in _classes(module).get(cls, ()))


@cache
def _classes(module: str) -> dict[str, list[str]]:
    """The classes at the top of a module of ssl4seg, each with the dotted names of its bases."""
    package, *parts = module.split(".")
    file = Path(ssl4seg.__file__).parent.joinpath(*parts).with_suffix(".py")
    if package != "ssl4seg" or not parts or not file.is_file():
        return {}
    body = ast.parse(file.read_text()).body
    names = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    return {
        node.name: [names.get(base.id, f"{module}.{base.id}") for base in node.bases if isinstance(base, ast.Name)]
        for node in body
        if isinstance(node, ast.ClassDef)
    }


def _message(found: Sequence[Foreign], source: object, remedy: str) -> str:
    listed = "\n".join(map(str, found[:10])) + (f"\n  (and {len(found) - 10} more)" if len(found) > 10 else "")
    return (
        f"{source}: could run code that does not belong to ssl4seg:\n{listed}\n"
        f"Nothing of it was imported. If you trust it, {remedy} (docs/security.md)"
    )


def _shown(text: str) -> str:
    """Without what a terminal would obey."""
    return text if text.isprintable() else ascii(text)
