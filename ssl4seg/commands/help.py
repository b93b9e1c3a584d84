"""The answer to --help: groups with their choices, and keys with their comments, read off conf/."""

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from ssl4seg.commands.conf import READ, choices, group_names
from ssl4seg.keys import KEYS
from ssl4seg.shipped import conf_dir

USAGE = {
    "train": "ssl4seg-train [-m] [KEY=VALUE ...]",
    "eval": "ssl4seg-eval run=DIR [KEY=VALUE ...]\n"
    "       ssl4seg-eval network.weights=FILE dataset=NAME dataset.root=DIR [KEY=VALUE ...]",
    "predict": "ssl4seg-predict run=DIR input=FILE|FOLDER output=FOLDER [KEY=VALUE ...]",
    "export": "ssl4seg-export run=DIR [format=onnx|pt2|weights] [KEY=VALUE ...]",
    "rank": "ssl4seg-rank run=DIR [input=FILE|FOLDER] [KEY=VALUE ...]",
}


def help_text(name: str, overrides: Sequence[str], folders: Sequence[Path]) -> str:
    """The help of a command: the keys of typed choices, the groups with their choices, the keys of the command."""
    title, keys = _title_and_keys(conf_dir() / f"{name}.yaml")
    lines = [f"usage: {USAGE[name]}", "", title]
    for group, choice in (override.split("=", 1) for override in overrides if "=" in override):
        if choice in choices(group, folders):
            lines += ["", f"Keys of {group}={choice}:", *_dotted(_file(group, choice, folders), group)]
    groups = group_names(name)
    if groups:
        lines += ["", "Groups (GROUP=CHOICE; GROUP=CHOICE --help shows its keys):"]
    width = max((len(choice) for group in groups for choice in choices(group, folders)), default=0)
    for group in groups:
        lines.append(f"  {group}")
        for choice in choices(group, folders):
            lines.append(f"    {choice:<{width}}  {_title_and_keys(_file(group, choice, folders))[0]}")
    if name == "train":
        recipe = conf_dir() / "recipe.yaml"
        lines += ["", "Keys:", *_title_and_keys(conf_dir() / "run.yaml")[1]]
        lines += ["", _title_and_keys(recipe)[0], *_dotted(recipe), ""]
        lines += ["-m runs every combination of comma-separated values: -m method=supervised,uamt seed=0,1,2"]
    else:
        of_the_run = ", ".join(key if key in KEYS else f"{key}.*" for key in READ[name] if key != "network")
        lines += ["", "Keys:", *keys, "", f"Keys of the run that can be given anew: {of_the_run} (see ssl4seg-train)"]
    return "\n".join([*lines, "", "--cfg job prints the whole configuration; --hydra-help lists Hydra's own flags."])


def _file(group: str, choice: str, folders: Sequence[Path]) -> Path:
    """The YAML file of a choice, in the first folder that holds it."""
    return next(file for folder in folders if (file := folder / group / f"{choice}.yaml").exists())


def _title_and_keys(file: Path) -> tuple[str, list[str]]:
    """The first comment of a YAML file, and its keys with their comments, without defaults, hydra and _target_."""
    lines = file.read_text().splitlines()
    title = next((line[2:] for line in lines if line.startswith("# ") and "@package" not in line), "")
    keys, hidden = [], False
    for line in lines:
        if line and not line.startswith((" ", "#")):
            hidden = line.startswith(("defaults:", "hydra:", "_target_:"))
        if line.strip() and not line.startswith("#") and not hidden:
            keys.append(f"  {line}")
    return title, keys


def _dotted(file: Path, group: str | None = None) -> list[str]:
    """The keys of a file as they are typed on the command line, with their comments.

    Args:
        group: of the file; None if its keys are not within a group.
    """
    text = file.read_text()
    stack: list[tuple[int, str]] = [] if group is None or "@package _global_" in text else [(-1, group)]
    lines: list[str] = []
    for above, line in pairwise(["", *text.splitlines()]):
        if line.startswith(" ") and line.lstrip().startswith("# ") and "#" in above and lines:
            lines[-1] += line.strip().removeprefix("#")  # a comment goes on in the next line
            continue
        if not (match := re.match(r"( *)(\w+):(.*)", line)) or match[2] in ("_target_", "defaults"):
            continue  # lists
        indent = len(match[1])
        stack = [(depth, name) for depth, name in stack if depth < indent] + [(indent, match[2])]
        value = match[3].strip()
        if value.startswith("[") and "]" not in value:
            value = f"[...]  {value[value.find('#') :]}" if "#" in value else "[...]"
        if value:  # of a group of keys, its comment
            space = "  " if value.startswith("#") else " "
            lines.append(f"  {'.'.join(name for _, name in stack)}:{space}{value}")
    return lines
