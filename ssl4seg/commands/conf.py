"""conf/: its folder, its groups and choices, and the configuration that a command works with.

`ssl4seg-train` composes the configuration of a run from conf/. `ssl4seg-eval` and `ssl4seg-predict` start from the
config.yaml of a run and lay the typed words on it (`laid`).
"""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from ssl4seg.data.published import labeled_list
from ssl4seg.errors import UserError
from ssl4seg.keys import FILES, NAME, expect, infinite, is_name, keys_for
from ssl4seg.run import targets
from ssl4seg.run.folder import checkpoint_file, read_config
from ssl4seg.shipped import conf_dir, read_shipped
from ssl4seg.userfiles import read_yaml

EVALUATED = ("dataset", "network", "method", "inference", "metrics", "precision")
"""Groups and keys of a run that evaluation and prediction depend on; they do not read the run's other keys."""

CHOSEN: Mapping[str, Sequence[str]] = {
    "eval": ("dataset", "network", "inference", "postprocess"),
    "predict": ("inference", "postprocess"),
    "export": (),
    "rank": ("inference",),
}
"""Groups whose choice may be typed for eval, predict, export and rank, in place of the run's."""

READ = {"eval": EVALUATED, "predict": EVALUATED, "export": ("dataset", "network", "method"), "rank": EVALUATED}
"""Groups and keys of a run that these commands read; of the network they take none anew."""

FORMER = b"# The former name of"
"""How the file of a choice's former name begins; its list `defaults` has the present one."""

MISSING = object()

logging.getLogger("hydra.utils").addHandler(logging.NullHandler())  # its errors become ours


def run_name(
    network: str,
    ratio: float,
    cases: int | None,
    list_file: str | None,
    split: int | None,
    fold: str | None,
    seed: int,
    tag: str | None,
) -> str:
    """<network>-<labelled>[-<fold>]-s<seed>[-<tag>], the last part of a run folder's path."""
    labelled = Path(list_file).stem if list_file else f"{cases}cases" if cases is not None else f"{ratio}"
    shuffled = "" if split is None else f"-p{split}"
    part = "" if fold is None else f"-fold{str(fold).replace('/', 'of')}"
    ending = "" if tag is None or tag == "" else f"-{tag}"
    return _folder_name(f"{network}-{labelled}{shuffled}{part}-s{seed}{ending}")


def _folder_name(name: str) -> str:
    """The name of one folder; a UserError if it is the path of another one, or cannot be a name."""
    if not is_name(name):
        raise UserError(f"the run folder would be named {name!r}: expected {NAME}; see tag, labeled_list, dataset.name")
    return name


def dataset_name(choice: str, name: str | None, root: str | None) -> str:
    """What the folder of a dataset's runs is called: its choice, or the name of a folder of the user's own."""
    if choice != "folder" or root is None:
        return choice
    from ssl4seg.data.folder import name_of  # imports what reads images

    return _folder_name(name or name_of(Path(str(root)).expanduser()))


OmegaConf.register_new_resolver("run_name", run_name, replace=True)
OmegaConf.register_new_resolver("dataset_name", dataset_name, replace=True)


def _open_groups() -> DictConfig:
    """Groups that accept keys which the run's choice has and the default choice lacks; `words` checks these keys."""
    groups = OmegaConf.create({group: {} for group in EVALUATED if group != "precision"})
    for group in groups:
        OmegaConf.set_struct(groups[group], False)
    return groups


ConfigStore.instance().store(name="open_groups", node=_open_groups())


# -- groups, choices, keys --------------------------------------------------------------------------------------------


def group_names(name: str) -> list[str]:
    """The groups that a command chooses from, in the order of conf/run.yaml."""
    entries = [entry for file in ("run", name) for entry in _defaults(file) if isinstance(entry, dict)]
    names = [group for entry in entries for group in entry if re.fullmatch(r"\w+", group)]
    return [group for group in names if group in CHOSEN.get(name, names)]


def _defaults(name: str) -> list[Any]:
    entries: list[Any] = read_shipped(f"{name}.yaml")["defaults"]
    return entries


def own_keys(name: str) -> dict[str, Any]:
    """The command's own keys with their defaults, from conf/<name>.yaml."""
    keys = read_shipped(f"{name}.yaml")
    return {key: value for key, value in keys.items() if key not in ("defaults", "hydra")}


def run_keys() -> dict[str, Any]:
    """All keys of a run under the default choices, as the files of conf/ have them."""
    keys = own_keys("run")
    entries = [entry if isinstance(entry, dict) else {entry: None} for entry in _defaults("run")]
    for group, choice in (item for entry in entries for item in entry.items() if item[0] != "_self_"):
        file = f"{group}/{choice}.yaml" if choice else f"{group}.yaml"
        whole = choice is None or "@package _global_" in (conf_dir() / file).read_text()
        keys |= read_shipped(file) if whole else {group: read_shipped(file)}
    return keys


def choices(group: str, folders: Sequence[Path], *, former: bool = False) -> list[str]:
    """The YAML files of a group, in all config folders; those of former names only if asked for."""
    files = [file for folder in folders for file in (folder / group).glob("*.yaml")]
    return sorted({file.stem for file in files if former or not is_former(file)})


def is_former(file: Path) -> bool:
    """Whether a YAML file only stands for another choice, by a name that it had before."""
    with file.open("rb") as content:
        return content.readline(80).startswith(FORMER)


def check_config_dir(folder: Path, groups: Sequence[str]) -> None:
    """Refuse YAML of a --config-dir that is beyond the limits of `read_yaml`: Hydra, which reads it next, has none.

    The files of some groups are read, and those that their lists `defaults` name.

    Raises:
        UserError: also for a list that leads out of the folder.
    """
    waiting = [file for group in groups for file in sorted((folder / group).glob("*.yaml"))]
    seen = {*waiting}
    while waiting:
        file = waiting.pop(0)
        for name in _named_defaults(read_yaml(file)):
            if ".." in name.split("/") or "//" in name or "${" in name:
                raise UserError(f"{file}: defaults: {name} may lead out of the folder; name a file in it")
            places = [folder / name.lstrip("/"), file.parent / name.lstrip("/")]
            found = [place.with_name(f"{place.name.removesuffix('.yaml')}.yaml") for place in places if place.name]
            waiting += [place for place in dict.fromkeys(found) if place.is_file() and place not in seen]
            seen.update(found)


def _named_defaults(content: Any) -> Iterator[str]:
    """What a list `defaults` of Hydra names: NAME, /GROUP/NAME, and GROUP/NAME of "override GROUP@PACKAGE: [NAME]"."""
    entries = content.get("defaults") if isinstance(content, Mapping) else None
    for entry in entries if isinstance(entries, list) else ():
        for key, chosen in entry.items() if isinstance(entry, Mapping) else [("", entry)]:
            group = str(key).split(" ")[-1].split("@")[0]
            for name in chosen if isinstance(chosen, list) else [chosen]:
                yield "/".join(filter(None, (group, str(name).split("@")[0])))


def composed(name: str, words: Sequence[str], extra: Sequence[Path] = (), *, hydra: bool = False) -> DictConfig:
    """Compose conf/<name>.yaml with words of the command line.

    Args:
        extra: folders of --config-dir.
        hydra: whether to return the node `hydra` too.
    """
    searchpath = [f"hydra.searchpath=[{','.join(f'file://{folder}' for folder in extra)}]"] if extra else []
    started = GlobalHydra.instance().is_initialized()  # within a command Hydra already reads from conf/
    with nullcontext() if started else initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        try:
            return compose(name, overrides=[*searchpath, *words], return_hydra_config=hydra)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            place = f"{mark.name}: line {mark.line + 1}" if mark else "a configuration file"
            raise UserError(f"{place}: is no YAML ({error.problem})") from None


def value_at(config: Any, key: str) -> Any:
    """The value of a dotted key in nested dictionaries, or MISSING."""
    for part in key.split("."):
        config = config.get(part, MISSING) if isinstance(config, Mapping) else MISSING
    return config


def dotted_keys(config: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """All keys of nested dictionaries, groups too."""
    for key, value in config.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from dotted_keys(value, f"{prefix}{key}.")


# -- the configuration of a command -----------------------------------------------------------------------------------


def resolved(config: DictConfig) -> dict[str, Any]:
    """The configuration as plain values, with the dataset completed, and checked as far as torch is not needed."""
    plain = to_plain(config)
    check(plain)
    check_scores(plain, plain["select"])
    config["dataset"] = completed(plain["dataset"])
    plain = to_plain(config)
    check(plain)
    check_scores(plain, plain["select"])
    return plain


def to_plain(config: DictConfig) -> dict[str, Any]:
    """Convert to plain values: interpolations resolved, and the word nan where YAML read it as a number."""
    plain: Any = OmegaConf.to_container(config, resolve=True)
    if (metrics := plain.get("metrics")) and metrics["empty"] != metrics["empty"]:
        metrics["empty"] = "nan"
    return dict(plain)


def check(config: Mapping[str, Any], name: str = "train") -> None:
    """Refuse values that are out of range, and files that do not exist.

    Args:
        name: train, eval, predict or export.
    """
    for key in infinite(config):
        if key != "metrics.empty":  # where YAML reads the word nan as a number
            raise UserError(f"{key}={value_at(config, key)}: expected a finite number")
    for key, fits in keys_for(name).items():
        if (value := value_at(config, key)) is not MISSING:
            expect(key, value, fits)
    for key in FILES:
        if (value := value_at(config, key)) not in (MISSING, None) and not Path(str(value)).is_file():
            raise UserError(f"{key}={value}: there is no such file")
    if (value := value_at(config, "labeled_list")) not in (MISSING, None):
        labeled_list(str(value))


def check_scores(config: Mapping[str, Any], select: str = "auto") -> None:
    """Refuse metrics that cannot be imported, and a `select` that will not be measured."""
    from ssl4seg.scoring.selection import check_select  # imports NumPy, which --help does not need

    check_select(select, config["metrics"], config["dataset"])


def completed(dataset: dict[str, Any]) -> dict[str, Any]:
    """Add the keys that the dataset reads off its data (`Dataset.completed`)."""
    check_root(dataset)
    try:
        complete = getattr(get_class(str(dataset.get("_target_"))), "completed", dict)
    except Exception:  # its module may raise anything on import; building the dataset will report it
        return dataset
    return dict(complete(dataset))


def check_root(dataset: Mapping[str, Any]) -> None:
    """Refuse a missing folder of one of our datasets; datasets from elsewhere check their `root` themselves."""
    root = dataset.get("root", MISSING)
    if root is MISSING or not str(dataset.get("_target_")).startswith("ssl4seg."):
        return
    ours: Any = get_class(str(dataset["_target_"]))
    folder = ours.folder(root if root is None else str(root))
    if dataset.get("download") is not True and not folder.is_dir():
        raise UserError(f"dataset.root={root}: there is no such folder")


@dataclass(frozen=True, kw_only=True)
class Laid:
    """The configuration of an evaluation or a prediction."""

    config: dict[str, Any]
    """The run's keys and the command's, with the typed words laid on them."""
    usual: dict[str, Any]
    """The run's keys and the command's defaults, without the typed words."""
    typed: tuple[str, ...]
    """Keys and groups on the command line."""
    choices: dict[str, str]
    """The choice of each group; several post-processing steps are joined by +."""


def laid(name: str, config: DictConfig, hydra: Any) -> Laid:
    """Lay the words of the command line on the run's config.yaml; without a run, on the defaults of conf/run.yaml.

    Args:
        name: eval, predict, export or rank.
        config: as Hydra has composed it, with the defaults of conf/run.yaml in place of the run's keys.
        hydra: Hydra's own node, with the typed words and the choice of each group.

    Raises:
        UserError: the configuration could run code from outside of ssl4seg, and trust=true was not typed.
    """
    typed = tuple(sorted(keys_of(hydra.overrides.task)))
    trust, free = "trust" in typed and config["trust"] is True, chosen_by_user(hydra)
    own = own_keys(name)
    usual, source = dict(own), "the configuration"
    if (run := config["run"]) is not None:
        usual |= {key: value for key, value in read_config(Path(str(run))).items() if key not in own}
        source = str(Path(str(run)) / "config.yaml")
        # Before ${...} is filled in: a few of them, each of which repeats the next, would fill the memory.
        targets.check(usual, source, "add trust=true", trust=trust, typed=typed)
        base = OmegaConf.create(usual)
        for key in (*own, *typed):  # a group stands before its keys
            OmegaConf.update(base, key, OmegaConf.select(config, key), merge=False, force_add=True)
        config = base
    plain = to_plain(config)
    for key in ("run", "input", "output", "checkpoint"):
        if plain.get(key) is not None:
            plain[key] = str(plain[key])  # YAML reads a folder named 2024 as a number
    chosen = {group: str(choice) for group, choice in hydra.runtime.choices.items() if "/" not in group}
    chosen["postprocess"] = "+".join(plain.get("postprocess", ())) or "none"
    targets.check(plain, source, "add trust=true", trust=trust, typed=free)
    return Laid(config=plain, usual=usual, typed=typed, choices=chosen)


def laid_on_runs(name: str, config: DictConfig, hydra: Any) -> list[dict[str, Any]]:
    """`laid` on each run of run=DIR or run=[DIR,DIR], checked as far as torch is not needed.

    Raises:
        UserError: also for a run without the checkpoint, and for a file of weights that several runs would take.
    """
    runs = [*config["run"]] if OmegaConf.is_list(config["run"]) else [config["run"]]
    found = []
    for run in runs:
        config["run"] = str(run)
        found.append(laid(name, config, hydra).config)
    for keys in found:
        if len(found) > 1 and keys["checkpoint"] not in ("best", "last"):
            raise UserError(f"checkpoint={keys['checkpoint']}: is one file for {len(found)} runs; give best or last")
        checkpoint_file(Path(keys["run"]), keys["checkpoint"])
        check(keys, name)
    return found


def chosen_by_user(hydra: Any) -> tuple[str, ...]:
    """The keys and groups on the command line whose content the user chose, of whatever code it is.

    A choice of ssl4seg's own is left out: it needs no trust, and a file of --config-dir could add to its group.

    Args:
        hydra: Hydra's own node, with the typed words and the choice of each group.
    """

    def is_own(key: str) -> bool:
        known, choice = choices(key, [conf_dir()], former=True), hydra.runtime.choices.get(key)
        return bool(known) and all(str(one) in known for one in ([choice] if isinstance(choice, str) else choice or []))

    return tuple(key for key in keys_of(hydra.overrides.task) if not is_own(key))


def keys_of(words: Sequence[str]) -> list[str]:
    """The keys and groups that words of the command line set."""
    return [override.key_or_group for override in OverridesParser.create().parse_overrides(list(words))]
