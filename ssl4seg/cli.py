"""What every command does before torch is imported: find conf/, answer --help, and mend typing errors.

Importing torch takes seconds; help and a mistyped key are answered without it.
"""

import difflib
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra import main as hydra_main
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, Override
from hydra.errors import HydraException
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ssl4seg.errors import UserError, ends_with_its_pipe
from ssl4seg.sweeps import SEARCHER, Sweep, check_plugin, search_defaults

Task = Callable[[DictConfig], Any]
"""Gives what a sweeper may optimise, if anything."""


def conf_dir() -> Path:
    """conf/ inside the installed package, or beside it in a checkout."""
    here = Path(__file__).resolve().parent
    inside = here / "conf"
    return inside if inside.is_dir() else here.parent / "conf"


def run_name(
    network: str, ratio: float, cases: int | None, list_file: str | None, split: int | None, seed: int, tag: str | None
) -> str:
    """<network>-<labelled>-s<seed>[-<tag>], the last part of a run folder's path."""
    labelled = Path(list_file).stem if list_file else f"{cases}cases" if cases is not None else f"{ratio}"
    shuffled = "" if split is None else f"-p{split}"
    return f"{network}-{labelled}{shuffled}-s{seed}{f'-{tag}' if tag else ''}"


OmegaConf.register_new_resolver("run_name", run_name, replace=True)


def plain(config: DictConfig) -> dict[str, Any]:
    """The resolved configuration as plain values; what can be checked without torch is."""
    if "dataset" in config:
        complete(config["dataset"])
    container: Any = OmegaConf.to_container(config, resolve=True)
    if (metrics := container.get("metrics")) and metrics["empty"] != metrics["empty"]:
        metrics["empty"] = "nan"  # the word, which YAML reads as a number
    for key in (*NUMBERS, *CHOICES):
        if (value := _at(container, key)) is not _MISSING:
            check_value(key, value, container)
    for key in ("deterministic", "overlay", "resume"):
        if not isinstance(container.get(key, True), bool):
            raise UserError(f"{key}={container[key]}: expected true or false")
    for key in ("labeled_list", "network.weights", "dataset.lists.train", "dataset.lists.val"):
        if (value := _at(container, key)) not in (_MISSING, None) and not Path(str(value)).is_file():
            raise UserError(f"{key}={value}: there is no such file")
    for key in ("run", "input", "output", "checkpoint"):
        if container.get(key) is not None:
            container[key] = str(container[key])  # a folder may be named by a number
    return dict(container)


def given_keys() -> list[str]:
    """What the command line sets, groups and keys."""
    return [override.lstrip("+").split("=", 1)[0] for override in HydraConfig.get().overrides.task]


def complete(dataset: DictConfig) -> None:
    """Set the keys that the dataset reads off its data (`Dataset.completed`)."""
    keys: Any = OmegaConf.to_container(dataset, resolve=True)
    check_root(keys)
    try:
        completed = getattr(get_class(str(keys.get("_target_"))), "completed", dict)
    except Exception:  # whatever its module raises as it is imported: building it will say what is wrong
        return
    for key, value in completed(keys).items():
        if value != keys.get(key):
            dataset[key] = value


_MISSING = object()


def _at(container: Any, key: str) -> Any:
    for part in key.split("."):
        container = container.get(part, _MISSING) if isinstance(container, dict) else _MISSING
    return container


def _is_ours(group: dict[str, Any]) -> bool:
    return str(group.get("_target_")).startswith("ssl4seg.")


def check_root(dataset: dict[str, Any]) -> None:
    """Refuse a missing folder of one of our datasets; what `root` is to others, they know themselves."""
    root = dataset.get("root", _MISSING)
    if root is _MISSING or not _is_ours(dataset):
        return
    ours: Any = get_class(str(dataset["_target_"]))
    folder = ours.folder(root if root is None else str(root))
    if dataset.get("download") is not True and not folder.is_dir():
        raise UserError(f"dataset.root={root}: there is no such folder")


@ends_with_its_pipe
def command(name: str, task: Task) -> None:
    """Run the command `name` (train, eval or predict): exit 0, or 1 with a message; 130 after Ctrl-C."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises to us instead of printing a traceback
    sys.argv[1:] = _as_meant(name, sys.argv[1:])
    arguments = get_args_parser().parse_args()
    extra = [Path(arguments.config_dir).resolve()] if arguments.config_dir else []
    try:
        for folder in extra:
            if not folder.is_dir():
                raise UserError(f"--config-dir {arguments.config_dir}: there is no such folder")
        if arguments.help:
            print(help_text(name, arguments.overrides, [*extra, conf_dir()]))
            return
        check(name, arguments.overrides, extra, sweep=arguments.multirun)
        hydra_main(version_base="1.3", config_path=str(conf_dir()), config_name=name)(task)()
        if Sweep.error:
            raise Sweep.error
    except UserError as error:
        sys.exit(f"error: {error}")
    except (HydraException, OmegaConfBaseException) as error:
        sys.exit(f"error: {_first_lines(error)}")
    except BrokenPipeError:
        raise
    except OSError as error:
        where = f"{error.filename}: cannot be written or read ({error.strerror})" if error.filename else error
        sys.exit(f"error: {where}")
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if not (told := _explained(error)):
            raise
        sys.exit(f"error: {told}")
    finally:
        failed = Sweep.current.failures() if Sweep.current else []
        if failed:
            listed = (f"{one['overrides']}\n  {one['error'].splitlines()[0]}" for one in failed)
            print(f"\n{len(failed)} run(s) failed:\n" + "\n".join(listed), file=sys.stderr)
    if failed:
        sys.exit(1)


def _explained(error: Exception) -> str:
    """What a launcher or sweeper means, whose package need not be installed; nothing for a fault of our own."""
    if type(error).__name__ == "TerminatedWorkerError":
        return (
            "a process of the sweep was killed, perhaps for want of memory: compute fewer runs at once "
            "(hydra.launcher.n_jobs); the same command goes on, and finished runs are not computed again"
        )
    frames = list(traceback.walk_tb(error.__traceback__))
    package = str(frames[-1][0].f_globals.get("__name__")).split(".")[0]
    return f"{package}: {error}" if package in ("joblib", "submitit", "optuna", "hydra_plugins") else ""


def _as_meant(name: str, words: Sequence[str]) -> list[str]:
    """What Hydra is to understand.

    -m may stand anywhere. ~ is the home folder, which no shell expands within KEY=~/DATA. The keys of dataset and
    inference are those of the run, which the composed groups need not have (++ adds them; `inference.py` checks them).
    A search maximises.
    """
    flags = [word for word in words if word in ("-m", "--multirun")]
    home = str(Path.home())
    meant = [re.sub(r"^([\w.]+=)~(?=/|$)", rf"\1{home}", word) for word in words if word not in flags]
    if name in ("eval", "predict") and any(word.startswith("run=") for word in words):
        chosen = any(word.startswith("inference=") for word in words)
        of_the_run = ("dataset.",) if chosen else ("dataset.", "inference.")
        meant = [f"++{word}" if word.startswith(of_the_run) else word for word in meant]
    if SEARCHER in meant:
        at = meant.index(SEARCHER)
        meant[at:at] = search_defaults(meant)
    return flags + meant


# -- typing errors ----------------------------------------------------------------------------------------------------


def check(name: str, overrides: Sequence[str], extra: Sequence[Path], *, sweep: bool) -> None:
    """Raise a UserError for an unknown group choice or key, with the nearest right one, or a value out of range."""
    parsed = []
    for word in overrides:
        try:
            parsed += OverridesParser.create().parse_overrides([word])
        except HydraException:
            key, equals, value = word.partition("=")
            if not equals:
                raise UserError(f"{word}: expected KEY=VALUE; --help lists the keys") from None
            raise UserError(
                f"{word}: cannot be understood; expected KEY=VALUE, and a value with special characters in two kinds "
                f"of quotes: '{key}=\"{value}\"'"
            ) from None
    folders = [*extra, conf_dir()]
    groups = {group: choices(group, folders) for group in group_names(name)}
    chosen = []
    for override in parsed:
        if override.is_sweep_override() and not sweep:
            raise UserError(f"{override.input_line}: several values need -m (--multirun)")
        if override.is_interval_sweep() and not any(o.key_or_group == "hydra/sweeper" for o in parsed):
            raise UserError(f"{override.input_line}: only a sweeper that searches takes it: {SEARCHER}")
        if override.key_or_group in ("hydra/launcher", "hydra/sweeper"):
            check_plugin(f"{override.key_or_group}={override.value()}")
        if override.key_or_group in groups and not override.is_delete():
            _check_choice(override, groups[override.key_or_group])
            first = _values(override, groups[override.key_or_group])[0]
            several = f"[{','.join(map(str, first))}]" if isinstance(first, list) else first
            chosen.append(f"{override.key_or_group}={several}")
        elif override.key_or_group == "hydra.searchpath":
            return  # configs from elsewhere: Hydra itself must judge
    searchpath = [f"hydra.searchpath=[{','.join(f'file://{folder}' for folder in extra)}]"] if extra else []
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        config = compose(name, overrides=[*searchpath, *chosen])
    composed: Any = OmegaConf.to_container(config, resolve=False)
    known = list(_keys(composed))
    for override in parsed:
        key = override.key_or_group
        if key in groups or key.startswith("hydra"):
            continue
        added = override.is_add() or override.is_force_add()
        if key not in known and not (added and (_is_argument(composed, key) or choices(key, folders))):
            others = _with_key(key, groups, folders)
            raise UserError(_unknown(key, [*known, *groups], override.input_line or key, others))
        if not added or key in known:
            for value in _values(override):
                check_value(key, value, composed)
    _check_labels(parsed, composed)


def _is_argument(composed: Any, key: str) -> bool:
    """Whether a key may be added: it lies within something that is built, whose constructor judges it."""
    parents = key.split(".")[:-1]
    nodes = (_at(composed, ".".join(parents[: depth + 1])) for depth in range(len(parents)))
    return any(isinstance(node, dict) and "_target_" in node for node in nodes)


def _check_labels(parsed: Sequence[Override], composed: dict[str, Any]) -> None:
    """Refuse two answers to the question how much is labelled, of which one would be ignored."""
    keys = ("labeled_ratio", "labeled_cases", "labeled_list")
    given = {o.key_or_group: o for o in parsed if o.key_or_group in keys}
    told = {key: o.input_line for key, o in given.items() if _values(o) != [None]}
    for key in keys[1:]:  # a recipe may set them; the ratio is always set
        if key not in given and composed.get(key) is not None:
            told[key] = f"{key}={composed[key]}"
    if len(told) > 1 and given:
        raise UserError(f"{' '.join(map(str, told.values()))}: only one of {', '.join(keys)} can be given")


def _check_choice(override: Override, known: Sequence[str]) -> None:
    values = _values(override, known)
    values = [name for value in values for name in (value if isinstance(value, list) else [value])]
    for value in values:
        if value is not None and str(value) not in known:
            near = _nearest(str(value), known)
            raise UserError(
                f"{override.key_or_group}={value}: there is no such {override.key_or_group}{near}\n"
                f"{override.key_or_group} is one of: {', '.join(known)}"
            )


def _with_key(key: str, groups: Iterable[str], folders: Sequence[Path]) -> list[str]:
    """The choices of a group that have such a key, where the one that is chosen has not."""
    group, _, name = key.partition(".")
    if group not in groups:
        return []
    return [choice for choice in choices(group, folders) if name in _keys(_content(group, choice, folders))]


def _content(group: str, choice: str, folders: Sequence[Path]) -> Any:
    file = next(file for folder in folders if (file := folder / group / f"{choice}.yaml").exists())
    content = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    return content if isinstance(content, dict) else {}


def _unknown(key: str, known: Sequence[str], line: str, others: Sequence[str]) -> str:
    """The message for a key that is not there.

    Args:
        others: choices of its group that have it.
    """
    group, _, name = key.rpartition(".")
    if others:
        chosen = key.partition(".")[0]
        return f"{line}: there is no key {key!r} in the chosen {chosen}, but in {chosen}={', '.join(others)}"
    near = _sibling(group, name, known) or _nearest(key, known)
    near = near or _nearest(name, [k for k in known if "." not in k])
    if not near:  # the right name in the wrong place
        same = [k for k in known if k.rpartition(".")[2] == key.rpartition(".")[2]]
        near = f"; did you mean {' or '.join(same[:3])}?" if same else ""
    return f"{line}: there is no key {key!r}{near}\n--help lists the keys"


def _sibling(group: str, name: str, known: Sequence[str]) -> str:
    """Of the keys of the same group the nearest, or else one of which `name` is a part."""
    names = [rest for key in known if (rest := key.removeprefix(f"{group}.")) != key and "." not in rest]
    part = [other for other in names if len(name) > 2 and name in other.split("_")]
    found = difflib.get_close_matches(name, names, n=1, cutoff=0.6) or part[:1]
    return f"; did you mean {group}.{found[0]}?" if found else ""


def _nearest(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def _values(override: Override, names: Sequence[str] = ()) -> list[Any]:
    """What an override can become; `names` is what a glob chooses from."""
    if isinstance(pattern := override.value(), Glob):
        return pattern.filter(list(names)) or [f"glob({','.join(pattern.include)})"]
    if isinstance(interval := override.value(), IntervalSweep):
        return [interval.start, interval.end]
    if override.is_sweep_override():
        return list(override.sweep_string_iterator()) or [None]
    return [override.value()]


def _keys(config: Any, prefix: str = "") -> Iterator[str]:
    for key, value in config.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _keys(value, f"{prefix}{key}.")


NUMBERS = {  # key: (kind, lowest, whether null is allowed)
    "engine.diagnose": (int, 0, False),
    "labeled_ratio": (float, None, False),
    "labeled_cases": (int, 1, True),
    "split_seed": (int, 0, True),
    "seed": (int, 0, False),
    "iterations": (int, 1, False),
    "eval_every": (int, 1, False),
    "batch_size": (int, 1, False),
    "unlabeled_batch_size": (int, 1, False),
    "eval_batch_size": (int, 1, False),
    "num_threads": (int, 1, True),
    "engine.devices": (int, 1, False),
    "engine.num_nodes": (int, 1, False),
    "engine.accumulate": (int, 1, False),
    "engine.clip_norm": (float, 0, True),
    "engine.log_every": (int, 1, False),
    "engine.eval_batch_size": (int, 1, False),
    "engine.num_overlays": (int, 0, False),
    "engine.resident_gib": (float, 0, False),
    "engine.num_workers": (int, 0, True),
}


CHOICES = {  # as the rooms that import torch know them
    "device": ("auto", "cpu", "cuda", "mps"),
    "precision": ("auto", "32", "bf16-mixed", "16-mixed"),
    "split": ("val", "test"),
    "protocol": ("default", "ssl4mis"),
    "mask_values": ("classes", "dataset"),
    "metrics.unit": ("auto", "voxel", "mm"),
    "metrics.empty": ("worst", "nan", "zero"),
}


def check_value(key: str, value: Any, config: dict[str, Any]) -> None:
    """Raise a UserError where a value is none of the choices, no number, or out of range."""
    if isinstance(value, str) and "${" in value:
        return
    if key.startswith("method.") and not _is_ours(config["method"]):
        return  # it may mean something else by the same name
    if (known := CHOICES.get(key)) and str(value) not in known:
        raise UserError(f"{key}={value}: expected one of {', '.join(known)}")
    if key not in NUMBERS:
        return
    kind, lowest, optional = NUMBERS[key]
    if value is None or value == "null":
        if not optional:
            raise UserError(f"{key}=null: expected a number")
        return
    try:
        number = kind(str(value))
    except ValueError:
        raise UserError(f"{key}={value}: expected {'a whole number' if kind is int else 'a number'}") from None
    if key == "labeled_ratio" and not 0 < number <= 1:
        raise UserError(f"labeled_ratio={value}: expected a number in (0, 1], the share of labelled training images")
    if lowest is not None and number < lowest:
        raise UserError(f"{key}={value}: expected at least {lowest}")


def _first_lines(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return "\n".join(lines[:3]) or type(error).__name__


# -- help -------------------------------------------------------------------------------------------------------------

USAGE = {
    "train": "ssl4seg-train [-m] [KEY=VALUE ...]",
    "eval": "ssl4seg-eval run=DIR [KEY=VALUE ...]\n"
    "       ssl4seg-eval network.weights=FILE dataset=NAME dataset.root=DIR [KEY=VALUE ...]",
    "predict": "ssl4seg-predict run=DIR input=FILE|FOLDER output=FOLDER [KEY=VALUE ...]",
}


def group_names(name: str) -> list[str]:
    """The groups in the defaults list of conf/<name>.yaml."""
    text = (conf_dir() / f"{name}.yaml").read_text().split("\n\n")
    defaults = next(part for part in text if part.startswith("defaults:"))
    return re.findall(r"^  - (\w+): ", defaults, re.MULTILINE)


def choices(group: str, folders: Sequence[Path]) -> list[str]:
    """The YAML files of a group, in all config folders."""
    return sorted({file.stem for folder in folders for file in (folder / group).glob("*.yaml")})


def help_text(name: str, overrides: Sequence[str], folders: Sequence[Path]) -> str:
    """The groups with their choices and the keys of a command; before them the keys of choices that were named."""
    conf = conf_dir()
    title, body = _title_and_keys(conf / f"{name}.yaml")
    lines = [f"usage: {USAGE[name]}", "", title]
    for group, choice in (override.split("=", 1) for override in overrides if "=" in override):
        found = [file for folder in folders if (file := folder / group / f"{choice}.yaml").exists()]
        for file in found[:1]:
            lines += ["", f"Keys of {group}={choice}:", *_dotted(file, group)]
    groups = group_names(name)
    if groups:
        lines += ["", "Groups (GROUP=CHOICE; GROUP=CHOICE --help shows its keys):"]
        width = max(len(choice) for group in groups for choice in choices(group, folders))
    for group in groups:
        lines.append(f"  {group}")
        for choice in choices(group, folders):
            file = next(
                folder / group / f"{choice}.yaml" for folder in folders if (folder / group / f"{choice}.yaml").exists()
            )
            lines.append(f"    {choice:<{width}}  {_title_and_keys(file)[0]}")
    lines += ["", "Keys:", *body]
    if name == "train":
        lines += ["", "-m runs every combination of comma-separated values: -m method=supervised,uamt seed=0,1,2"]
    return "\n".join([*lines, "", "--cfg job prints the whole configuration; --hydra-help tells of Hydra's own flags."])


def _title_and_keys(file: Path) -> tuple[str, list[str]]:
    """The first comment of a YAML file, and its keys (but for defaults, hydra and _target_) with their comments."""
    lines = file.read_text().splitlines()
    title = next((line[2:] for line in lines if line.startswith("# ") and "@package" not in line), "")
    keys, hidden = [], False
    for line in lines:
        if line and not line.startswith((" ", "#")):
            hidden = line.startswith(("defaults:", "hydra:", "_target_:"))
        if line.strip() and not line.startswith("#") and not hidden:
            keys.append(f"  {line}")
    return title, keys


def _dotted(file: Path, group: str) -> list[str]:
    """The keys of a group's file as they are given on the command line, with their comments."""
    text = file.read_text()
    stack: list[tuple[int, str]] = [] if "@package _global_" in text else [(-1, group)]
    lines = []
    for line in text.splitlines():
        if not (match := re.match(r"( *)(\w+):(.*)", line)) or match[2] in ("_target_", "defaults"):
            continue  # comments, lists
        indent = len(match[1])
        stack = [(depth, name) for depth, name in stack if depth < indent] + [(indent, match[2])]
        value = match[3].strip()
        if value and not value.startswith("#"):
            value = "[...]" if value.startswith("[") and "]" not in value else value
            lines.append(f"  {'.'.join(name for _, name in stack)}: {value}")
    return lines
