"""The words of the command line, checked before anything slow is imported: groups, keys and values."""

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, IntervalSweep, Override, RangeSweep, Transformer
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ssl4seg.commands.conf import (
    READ,
    choices,
    composed,
    dotted_keys,
    group_names,
    own_keys,
    run_keys,
    value_at,
)
from ssl4seg.commands.sweeps import SEARCHER, check_plugin
from ssl4seg.errors import UserError, did_you_mean, nearest
from ssl4seg.keys import Key, expect, is_list, keys_for
from ssl4seg.run.folder import is_run, read_config
from ssl4seg.run.targets import check_hydra
from ssl4seg.shipped import conf_dir

Config = Mapping[str, Any]

LISTS = ("logger", "postprocess")
"""Groups of which several choices go together."""

MAX_RUNS = 10_000
"""The largest number of values of a range in a sweep."""


def check(name: str, overrides: Sequence[str], extra: Sequence[Path], *, sweep: bool) -> None:
    """Refuse an unknown group, choice or key, with the nearest right one, and a value out of range.

    Args:
        name: train, eval, predict, export or rank.
        overrides: the words as they were typed.
        extra: folders of --config-dir.
        sweep: whether -m was given.

    Raises:
        UserError: names the word and says what is right.
    """
    parsed = [override for word in overrides for override in _parsed(word)]
    _check_once(parsed)
    _check_hydra(name, parsed, extra)
    if any(override.key_or_group == "hydra.searchpath" for override in parsed):
        return  # configurations outside of conf/, which only Hydra can check
    folders = [*extra, conf_dir()]
    groups = {group: choices(group, folders) for group in group_names(name)}
    for override in parsed:
        _check_sweep(override, parsed)
        if override.key_or_group in groups and not override.is_delete():
            _check_choice(override, groups[override.key_or_group], choices(override.key_or_group, folders, former=True))
    chosen = [_first_choice(o, groups) for o in parsed if o.key_or_group in groups and not o.is_delete()]
    whole = composed(name, chosen, extra)
    if not sweep:
        _check_one_value(name, parsed, whole)
    plain: Any = OmegaConf.to_container(whole, resolve=False)
    if name == "train":
        _check_files([word for o in parsed if o.key_or_group in groups for word in _choices_of(o, extra)], extra)
        _check_given(plain, [override.key_or_group for override in parsed])
    for config in _configurations(name, plain, parsed):
        for override in parsed:
            if override.is_delete():
                _check_removal(override, config)
            if override.key_or_group not in groups and not override.key_or_group.startswith("hydra"):
                _check_key(override, config, groups, folders, keys_for(name))
        if name != "train":
            _check_used(name, config, parsed)
    _check_labels(parsed, plain)


def _parsed(word: str) -> list[Override]:
    try:
        return OverridesParser.create().parse_overrides([word])
    except HydraException:
        key, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"{word}: expected KEY=VALUE; --help lists the keys") from None
        raise UserError(
            f"{word}: cannot be understood; expected KEY=VALUE, and a value with special characters in two kinds "
            f"of quotes: '{key}=\"{value}\"'"
        ) from None


def _check_once(parsed: Sequence[Override]) -> None:
    """Refuse several values of a key that is typed twice: only the last word counts, and runs would be missing."""
    first: dict[str, Override] = {}
    for override in parsed:
        other = first.setdefault(override.key_or_group, override)
        if other is not override and (other.is_sweep_override() or override.is_sweep_override()):
            raise UserError(
                f"{other.input_line} {override.input_line}: {override.key_or_group} is typed twice; leave one of the "
                "two words out"
            )


def _check_one_value(name: str, parsed: Sequence[Override], config: DictConfig) -> None:
    """Refuse several values where no sweep was asked for; where the key takes a list, say how it is written."""
    for override in parsed:
        if override.is_sweep_override():
            word, key = str(override.input_line), override.key_or_group
            values = override.value()
            simple = isinstance(values, ChoiceSweep) and values.simple_form  # a,b and not choice(a,b)
            if simple and _takes_list(name, key, _values(override), config):
                raise UserError(
                    f"{word}: a list is written in brackets: {key}=[{word.partition('=')[2]}]; several values to try "
                    "one after the other need -m (--multirun)"
                )
            raise UserError(f"{word}: several values need -m (--multirun)")


def _takes_list(name: str, key: str, values: list[Any], config: DictConfig) -> bool:
    """Whether a list of these values, or of others, may be the value of a key or the choice of a group."""
    from ssl4seg.data.keys import COMMON  # imports NumPy, which --help does not need

    if key in LISTS or (name == "predict" and key == "run"):
        return True
    known = keys_for(name) | {f"dataset.{name}": fits for name, fits in COMMON.items()}
    with suppress(OmegaConfBaseException):  # a value that cannot be read is refused later
        if is_list(OmegaConf.select(config, key)):
            return True
    return key in known and known[key].fits(values)


def _check_sweep(override: Override, parsed: Sequence[Override]) -> None:
    """Refuse a range without a search, and a launcher whose package is not installed."""
    if isinstance(values := override.value(), RangeSweep) and _length(values) > MAX_RUNS:
        raise UserError(f"{override.input_line}: is more than {MAX_RUNS:,} runs")
    if override.is_interval_sweep() and not any(o.key_or_group == "hydra/sweeper" for o in parsed):
        raise UserError(f"{override.input_line}: only a sweeper that searches takes it: {SEARCHER}")
    if override.key_or_group in ("hydra/launcher", "hydra/sweeper"):
        check_plugin(f"{override.key_or_group}={override.value()}")


def _length(values: RangeSweep) -> float:
    """The number of values of a range; endless without a step towards its end."""
    start, stop, step = (float(end) for end in (values.start or 0, values.stop or 0, values.step))
    return max(0, (stop - start) / step) if step else math.inf


def _check_removal(override: Override, config: Config) -> None:
    """Refuse ~KEY for a key or group that every run has; an argument of something that is built may be left out."""
    key = override.key_or_group
    if not (_is_argument(config, key) or key.startswith("hydra")):
        raise UserError(f"{override.input_line}: cannot be left out; choose another value with {key}=...")


def _first_choice(override: Override, groups: Mapping[str, Sequence[str]]) -> str:
    """GROUP=CHOICE, with the first choice of a sweep."""
    first = _values(override, groups[override.key_or_group])[0]
    several = f"[{','.join(map(str, first))}]" if isinstance(first, list) else first
    return f"{override.key_or_group}={several}"


def _check_hydra(name: str, parsed: Sequence[Override], extra: Sequence[Path]) -> None:
    """Refuse a choice of --config-dir that changes Hydra's own settings, which could run programs."""
    trust = any(o.key_or_group == "trust" and o.value() is True for o in parsed)
    own = [str(o.input_line) for o in parsed if o.key_or_group.startswith("hydra")]
    for choice in [choice for override in parsed for choice in _choices_of(override, extra)]:
        chosen, bare = (_hydra(name, words, extra) for words in ([*own, choice], own))
        check_hydra(chosen, bare, f"{choice} of --config-dir", trust=trust)


def _check_files(chosen: Sequence[str], extra: Sequence[Path]) -> None:
    """Refuse a file of --config-dir with a key that nothing reads, or without the class that its group builds.

    Args:
        chosen: GROUP=CHOICE, of the choices in `extra`.
    """
    usual = run_keys()
    for group, _, choice in (word.lstrip("+").partition("=") for word in chosen):
        content = _content(group, choice.strip("[]"), extra)
        file = _file(group, choice.strip("[]"), extra)
        inner = content.get(group)
        if group == "experiment" and inner:
            raise UserError(f"{file}: lacks the first line `# @package _global_`, without which nothing reads its keys")
        if unread := _unread(content, usual):
            raise UserError(_unknown(unread[0], [*dotted_keys(usual)], str(file), []))
        if isinstance(inner, Mapping) and _is_built(usual.get(group)) and not {"_target_", "defaults"} & {*inner}:
            if group in inner:
                raise UserError(f"{file}: has {group}: within {group}; begin the file with `# @package _global_`")
            if "defaults" not in content:
                raise UserError(f"{file}: names no class; {group} needs _target_: MODULE.CLASS")


def _unread(content: Config, usual: Config, prefix: str = "") -> list[str]:
    """The keys that no run has. What becomes an object has the keys that its constructor takes, and is left out."""
    unread = []
    for key, value in content.items():
        if key not in usual and key not in ("defaults", "hydra"):
            unread.append(f"{prefix}{key}")
        elif isinstance(known := usual.get(key), Mapping) and isinstance(value, Mapping) and not _is_built(known):
            unread += _unread(value, known, f"{prefix}{key}.")
    return unread


def _is_built(node: Any) -> bool:
    return isinstance(node, Mapping) and "_target_" in node


def _check_given(config: Any, typed: Sequence[str], place: str = "") -> None:
    """Refuse a value that a file leaves to the user (???) and that was not typed."""
    for key, value in config.items() if isinstance(config, Mapping) else ():
        if value == "???" and f"{place}{key}" not in typed:
            raise UserError(f"{place}{key} is not set (??? in its file): type {place}{key}=VALUE")
        _check_given(value, typed, f"{place}{key}.")


def _choices_of(override: Override, folders: Sequence[Path]) -> list[str]:
    """GROUP=CHOICE for each choice that a word takes from some folders; of a sweep all of them."""
    group, known = override.key_or_group, choices(override.key_or_group, folders)
    if not known or override.is_delete():
        return []
    added = "+" if override.is_add() or override.is_force_add() else ""
    values = [(v, f"{group}=[{v}]") for value in _values(override, known) if isinstance(value, list) for v in value]
    values += [(value, f"{group}={value}") for value in _values(override, known) if not isinstance(value, list)]
    return [f"{added}{word}" for value, word in values if value in known]


def _hydra(name: str, words: Sequence[str], extra: Sequence[Path]) -> dict[str, Any]:
    """Hydra's own settings under some words."""
    node: Any = OmegaConf.to_container(composed(name, words, extra, hydra=True)["hydra"], resolve=False)
    return dict(node)


def _configurations(name: str, config: Config, parsed: Sequence[Override]) -> list[Config]:
    """The configurations that the words change: `config`, or for eval and predict each run's own configuration."""
    typed = [override.key_or_group for override in parsed]
    values = [value for o in parsed if o.key_or_group == "run" for value in _values(o)]
    folders = [Path(str(run)) for value in values for run in (value if isinstance(value, list) else [value])]
    runs = [read_config(folder) for folder in folders if name != "train" and is_run(folder)]
    command = own_keys(name)
    return [
        {**config, **{key: value for key, value in run.items() if key not in command and key not in typed}}
        for run in runs
    ] or [config]


def _check_key(
    override: Override,
    config: Config,
    groups: Mapping[str, Sequence[str]],
    folders: Sequence[Path],
    keys: Mapping[str, Key],
) -> None:
    key, added = override.key_or_group, override.is_add() or override.is_force_add()
    known = list(dotted_keys(config))
    if key not in known and not (added and (_is_argument(config, key) or choices(key, folders))):
        others = _with_key(key, groups, folders)
        raise UserError(_unknown(key, [*known, *groups], override.input_line or key, others))
    if key in keys and not override.is_delete() and (not added or key in known):
        for value in _values(override):
            if not (isinstance(value, str) and "${" in value):
                expect(key, value, keys[key])


def _check_used(name: str, config: Config, parsed: Sequence[Override]) -> None:
    """Refuse a word that eval or predict would accept without effect."""
    used = {*READ[name], *own_keys(name)}
    for override in parsed:
        group = override.key_or_group.split(".")[0].split("/")[0]
        if group != "hydra" and group not in used:
            raise UserError(f"{override.input_line}: ssl4seg-{name} does not depend on {group}")
        run = next((o.value() for o in parsed if o.key_or_group == "run"), None)
        fixed_by_run = override.key_or_group in set(group_names("train")) - set(group_names(name))
        if run is not None and (fixed_by_run or group == "network"):
            raise UserError(f"{override.input_line}: the {group} comes from run={run}; leave one of the two out")


def _is_argument(config: Config, key: str) -> bool:
    """Whether a key may be added: it belongs to an object that is built, whose constructor checks it."""
    parents = key.split(".")[:-1]
    nodes = (value_at(config, ".".join(parents[: depth + 1])) for depth in range(len(parents)))
    return any(isinstance(node, Mapping) and "_target_" in node for node in nodes)


def _check_labels(parsed: Sequence[Override], config: Config) -> None:
    """Refuse two keys that say how much is labelled: one of them would be ignored."""
    keys = ("labeled_ratio", "labeled_cases", "labeled_list")
    given = {o.key_or_group: o for o in parsed if o.key_or_group in keys}
    settings = {key: o.input_line for key, o in given.items() if _values(o) != [None]}
    for key in keys[1:]:  # an experiment may set them; the ratio is always set
        if key not in given and config.get(key) is not None:
            settings[key] = f"{key}={config[key]}"
    if len(settings) > 1 and given:
        raise UserError(f"{' '.join(map(str, settings.values()))}: only one of {', '.join(keys)} can be given")


def _check_choice(override: Override, known: Sequence[str], possible: Sequence[str]) -> None:
    """Refuse a value that is none of the `possible` choices, with the `known` ones, which are listed."""
    values = _values(override, known)
    values = [name for value in values for name in (value if isinstance(value, list) else [value])]
    for value in values:
        if value is not None and str(value) not in possible:
            near = did_you_mean(str(value), known)
            raise UserError(
                f"{override.key_or_group}={value}: there is no such {override.key_or_group}{near}\n"
                f"{override.key_or_group} is one of: {', '.join(known)}"
            )


def _with_key(key: str, groups: Iterable[str], folders: Sequence[Path]) -> list[str]:
    """The choices of the key's group that have this key."""
    group = key.partition(".")[0]
    if group not in groups:
        return []
    return [choice for choice in choices(group, folders) if key in dotted_keys(_content(group, choice, folders))]


def _content(group: str, choice: str, folders: Sequence[Path]) -> Config:
    """A choice's keys, in their places in a configuration."""
    file = _file(group, choice, folders)
    content: Any = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    whole = "@package _global_" in file.read_text()
    return content if whole and isinstance(content, dict) else {group: content}


def _file(group: str, choice: str, folders: Sequence[Path]) -> Path:
    return next(file for folder in folders if (file := folder / group / f"{choice}.yaml").exists())


def _unknown(key: str, known: Sequence[str], line: str, others: Sequence[str]) -> str:
    """The message for an unknown key.

    Args:
        others: choices of its group that have the key.
    """
    group, _, name = key.rpartition(".")
    if others:
        chosen = key.partition(".")[0]
        return f"{line}: there is no key {key!r} in the chosen {chosen}, but in {chosen}={', '.join(others)}"
    near = _sibling(group, name, known) or did_you_mean(key, known)
    near = near or did_you_mean(name, [k for k in known if "." not in k])
    if not near:  # the right name in the wrong place
        same = [k for k in known if k.rpartition(".")[2] == key.rpartition(".")[2]]
        near = f"; did you mean {' or '.join(same[:3])}?" if same else ""
    return f"{line}: there is no key {key!r}{near}\n--help lists the keys"


def _sibling(group: str, name: str, known: Sequence[str]) -> str:
    """Suggest the nearest key of the same group, or else a key of which `name` is one word."""
    names = [rest for key in known if (rest := key.removeprefix(f"{group}.")) != key and "." not in rest]
    longer = [other for other in names if len(name) > 2 and name in other.split("_")]
    near = nearest(name, names) or next(iter(longer), "")
    return f"; did you mean {group}.{near}?" if near else ""


def _values(override: Override, names: Sequence[str] = ()) -> list[Any]:
    """The values that an override stands for; a glob chooses from `names`."""
    if isinstance(pattern := override.value(), Glob):
        return pattern.filter(list(names)) or [f"glob({','.join(pattern.include)})"]
    if isinstance(interval := override.value(), IntervalSweep):
        return [interval.start, interval.end]
    if override.is_sweep_override():
        return list(override.sweep_iterator(Transformer.identity)) or [None]
    return [override.value()]
