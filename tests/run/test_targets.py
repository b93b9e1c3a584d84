"""A run folder and a config folder from elsewhere run no code unless they are trusted."""

import ast
import importlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from helpers import PHANTOM, refused, results, succeed
from PIL import Image

import ssl4seg
from ssl4seg.commands.conf import check_config_dir, choices, composed, conf_dir, group_names, to_plain
from ssl4seg.errors import UserError
from ssl4seg.run.targets import OPTIMIZER, PLACES, check_hydra, foreign, is_a

RUN = "outputs/phantom/supervised/unet-0.1-s0"


class Unpickled:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run and a picture."""
    home = tmp_path_factory.mktemp("trust")
    succeed("train", *PHANTOM, cwd=home)
    Image.fromarray(np.arange(1600, dtype=np.uint8).reshape(40, 40)).save(home / "a.png")
    return home


def stranger(home: Path, folder: Path, edit: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of the run whose config.yaml is edited."""
    run = folder / "outputs/run"
    shutil.copytree(home / RUN, run)
    config = yaml.safe_load((run / "config.yaml").read_text())
    edit(config)
    (run / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return run


def commands(home: Path, run: Path) -> Iterator[tuple[str, list[str]]]:
    yield "eval", [f"run={run}", "device=cpu"]
    yield "predict", [f"run={run}", f"input={home / 'a.png'}", f"output={run.parent / 'masks'}", "device=cpu"]
    yield "export", [f"run={run}", "format=weights"]


def put(*path: str | int, value: Any) -> Callable[[dict[str, Any]], object]:
    """Set a value in nested mappings and lists; beyond the end of a list it is added."""

    def edit(config: dict[str, Any]) -> None:
        node: Any = config
        for key in path[:-1]:
            node = node[key]
        if isinstance(node, list):
            node.append(value)
        else:
            node[path[-1]] = value

    return edit


ATTACKS: dict[str, tuple[tuple[str | int, ...], Any, str]] = {
    "network": (
        ("network", "evil"),
        {"_target_": "shutil.copyfile", "src": "SOURCE", "dst": "MARK"},
        "shutil.copyfile",
    ),
    "method": (("method", "evil"), {"_target_": "numpy.savetxt", "fname": "MARK", "X": [1.0]}, "numpy.savetxt"),
    "inference": (("inference", "e"), {"_target_": "logging.FileHandler", "filename": "MARK"}, "logging.FileHandler"),
    "dataset": (("dataset", "x"), {"_target_": "torch.load", "f": "PICKLE", "weights_only": False}, "torch.load"),
    "a view": (("views", "strong", 9), {"_target_": "os.system", "command": "touch MARK"}, "os.system"),
    "optimizer": (("optimizer", "_target_"), "os.system", "os.system"),
    "nested": (
        ("schedule", "a"),
        [{"b": [{"_target_": "builtins.exec", "_args_": ["open('MARK','w')"]}]}],
        "builtins.exec",
    ),
    "no place": (("recipe", "evil"), {"_target_": "torch.optim.SGD"}, "torch.optim.SGD"),
    "metric": (("metrics", "more"), ["shutil.copyfile"], "shutil.copyfile"),
    "a function of ssl4seg": (("network", "_target_"), "ssl4seg.checkpoint.load", "ssl4seg.checkpoint.load"),
    "another base": (("network", "_target_"), "ssl4seg.methods.supervised.Supervised", "ssl4seg.methods.supervised"),
    "through a module": (("dataset", "_target_"), "ssl4seg.data.folder.re.compile", "ssl4seg.data.folder.re.compile"),
    "no optimiser": (("optimizer", "_target_"), "torch.optim.swa_utils.AveragedModel", "torch.optim.swa_utils"),
    "partial": (("network", "_partial_"), True, "True"),
    "arguments": (("network", "_args_"), ["x"], "x"),
    "interpolation": (("network", "x"), "${oc.env:NOT_SET}", "${oc.env:NOT_SET}"),  # which would be an error of its own
    "late interpolation": (("network", "x"), r"\${oc.create:{_target_:os.getcwd}}", "oc.create"),
}
"""Where something stands in config.yaml, what it is, and what the message names."""

EVERYWHERE = ("network", "method", "inference", "dataset", "metric", "through a module")
"""Attacks that are tried on every command and the report, which takes its time; the others on one command."""


def filled(value: Any, words: dict[str, str]) -> Any:
    """The value with the words replaced in every string."""
    if isinstance(value, dict):
        return {key: filled(item, words) for key, item in value.items()}
    if isinstance(value, list):
        return [filled(item, words) for item in value]
    if isinstance(value, str):
        for word, path in words.items():
            value = value.replace(word, path)
    return value


@pytest.mark.parametrize("name", ATTACKS)
def test_a_run_of_a_stranger_runs_nothing(name: str, home: Path, tmp_path: Path) -> None:
    path, value, target = ATTACKS[name]
    mark, pickle = tmp_path / "mark", tmp_path / "evil.pt"
    torch.save(Unpickled(mark), pickle)
    value = filled(value, {"MARK": str(mark), "PICKLE": str(pickle), "SOURCE": str(home / "a.png")})
    run = stranger(home, tmp_path, lambda config: (put(*path, value=value)(config), config.update(trust=True)))
    before = {*run.rglob("*")}
    everywhere = name in EVERYWHERE
    for command, words in [*commands(home, run)][: None if everywhere else 1]:
        output = refused(command, *words, cwd=tmp_path)
        assert f"{run / 'config.yaml'}: could run code" in output
        assert ".".join(map(str, path[:2])) in output
        assert target in output
        assert "add trust=true" in output
    if everywhere:
        output = succeed("report", "outputs", "--pictures", cwd=tmp_path)
        assert "left out: pictures of supervised" in output
        assert target in output
        assert "add --trust" in output
    assert not mark.exists()
    assert not [file for file in {*run.rglob("*")} - before if "results" in file.name]


def test_the_same_runs_where_it_is_trusted(home: Path, tmp_path: Path) -> None:
    path, value, _ = ATTACKS["method"]
    mark = tmp_path / "mark"
    run = stranger(home, tmp_path, put(*path, value=filled(value, {"MARK": str(mark)})))
    refused("eval", f"run={run}", "device=cpu", "trust=true", cwd=tmp_path)  # the method has no such argument
    assert mark.exists()


def test_a_class_of_ones_own_is_built_where_it_is_trusted(home: Path, tmp_path: Path) -> None:
    run = stranger(home, tmp_path, put("schedule", "_target_", value="collections.OrderedDict"))
    for command, words in commands(home, run):
        refused(command, *words, cwd=tmp_path)
        succeed(command, *words, "trust=true", cwd=tmp_path)
    assert results(run, "results_test.json")["test"] == results(run)["test"]
    assert "-pictures.png" not in " ".join(map(str, tmp_path.rglob("*")))
    succeed("report", "outputs", "--pictures", "--trust", cwd=tmp_path)
    assert "-pictures.png" in " ".join(map(str, tmp_path.rglob("*")))


def test_terminal_escapes_of_a_stranger_are_not_obeyed() -> None:
    (found,) = foreign({"network": {"_target_": "\x1b[2Jos.system"}})
    assert str(found).startswith(r"  network._target_: '\x1b[2Jos.system' (expected a class of ssl4seg.networks")


# -- a folder of configurations ---------------------------------------------------------------------------------------


def config_dir(folder: Path, text: str) -> tuple[str, ...]:
    """The words for an experiment of one's own."""
    (folder / "mine/experiment").mkdir(parents=True)
    (folder / "mine/experiment/few.yaml").write_text(f"# @package _global_\nlabeled_cases: 2\ntrust: true\n{text}\n")
    return ("--config-dir", "mine", "experiment=few", *PHANTOM)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("network: {evil: {_target_: numpy.savetxt, fname: mark, X: [1.0]}}", "network.evil._target_: numpy.savetxt"),
        ("optimizer: {_target_: mine.Own}", "optimizer._target_: mine.Own"),
        ("metrics: {more: [mine.own]}", "metrics.more.0: mine.own"),
        (
            "hydra: {callbacks: {x: {_target_: numpy.savetxt, fname: mark, X: [1.0]}}}",
            "hydra.callbacks.x._target_: num",
        ),
        ("hydra: {job: {env_set: {LD_PRELOAD: x.so}}}", "hydra.job.env_set.LD_PRELOAD: x.so"),
        ("hydra: {job_logging: {handlers: {x: {class: logging.FileHandler}}}}", "hydra.job_logging.handlers.x.class"),
        ("hydra: {run: {dir: elsewhere}}", "hydra.run.dir: elsewhere"),
    ],
)
def test_a_choice_that_nobody_typed_names_no_foreign_code(text: str, named: str, tmp_path: Path) -> None:
    output = refused("train", *config_dir(tmp_path, text), cwd=tmp_path)
    assert named in output
    assert "add trust=true" in output
    assert not [name for name in ("mark", "outputs/phantom", "elsewhere") if (tmp_path / name).exists()]


LAUGHS = "a0: &a0 [x,x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("sub/laughs", "sub/laughs.yaml: its aliases"),
        ("/other/laughs", "other/laughs.yaml: its aliases"),
        ("override /other@here: laughs", "other/laughs.yaml: its aliases"),
        ("override /method: ../../elsewhere/x", "few.yaml: defaults: /method/../../elsewhere/x may lead out"),
        ("//etc/x", "few.yaml: defaults: //etc/x may lead out"),
        ("${oc.decode:'..'}/x", "may lead out of the folder"),
    ],
)
def test_files_that_a_choice_names_are_of_its_folder_and_have_limits(entry: str, message: str, tmp_path: Path) -> None:
    for folder in ("experiment/sub", "other"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "laughs.yaml").write_text(LAUGHS)
    (tmp_path / "experiment/few.yaml").write_text("defaults: [override /method: uamt, _self_]\nseed: 1\n")
    check_config_dir(tmp_path, ["experiment"])
    entry = entry if ": " in entry else f'"{entry}"'
    (tmp_path / "experiment/few.yaml").write_text(f"defaults:\n  - {entry}\n")
    with pytest.raises(UserError, match=re.escape(message)):
        check_config_dir(tmp_path, ["experiment"])


@pytest.mark.parametrize("typed", ["network=unet", "method=supervised"])
def test_a_choice_of_ssl4segs_own_does_not_open_its_group(typed: str, tmp_path: Path) -> None:
    group, evil = typed.split("=")[0], "{evil: {_target_: numpy.savetxt, fname: mark, X: [1.0]}}"
    words = config_dir(tmp_path, f"{group}: {evil}")
    output = refused("train", *words, typed, cwd=tmp_path)
    assert f"{group}.evil._target_: numpy.savetxt" in output
    assert not (tmp_path / "mark").exists()


def test_a_sweep_is_checked_too(tmp_path: Path) -> None:
    words = config_dir(tmp_path, "hydra: {job: {env_set: {A: b}}}")
    (tmp_path / "mine/experiment/good.yaml").write_text("# @package _global_\nlabeled_cases: 1\n")
    words = tuple(word.replace("experiment=few", "experiment=good,few") for word in words)
    assert "hydra.job.env_set.A: b" in refused("train", "-m", *words, cwd=tmp_path)


def test_what_is_typed_is_trusted_and_nothing_beside_it() -> None:
    config = {"network": {"_target_": "mine.Own", "evil": {"_target_": "mine.Evil"}}, "metrics": {"more": ["mine.m"]}}
    assert [one.place for one in foreign(config, ["network"])] == ["metrics.more.0"]
    assert [one.place for one in foreign(config, ["network._target_", "metrics.more"])] == ["network.evil._target_"]
    assert len(foreign(config, ["network.width", "net", "metrics.unit"])) == 3


def test_harmless_settings_of_ones_own_need_no_trust(tmp_path: Path) -> None:
    succeed("train", *config_dir(tmp_path, "optimizer: {_target_: torch.optim.RMSprop}"), cwd=tmp_path)
    check_hydra({"overrides": {"task": ["a=1"]}, "job": {"override_dirname": "a=1"}}, {}, "x", trust=False)


# -- which classes a place takes --------------------------------------------------------------------------------------


CHOICES = {group: choices(group, [conf_dir()]) for group in group_names("train")}
RECIPES = CHOICES.pop("experiment")


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_legal(name: str) -> None:
    assert foreign(to_plain(composed("train", [f"experiment={name}"]))) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", range(max(map(len, CHOICES.values()))))
def test_every_choice_of_conf_is_legal(number: int) -> None:
    """The NUMBER-th of each group, a word each, so that none hides another; short groups begin again."""
    words = [f"{group}={names[number % len(names)]}" for group, names in CHOICES.items()]
    assert foreign(to_plain(composed("train", words))) == []


@pytest.mark.parametrize("choice", choices("postprocess", [conf_dir()]))
def test_every_step_of_post_processing_is_legal(choice: str) -> None:
    assert foreign(to_plain(composed("eval", [f"postprocess={choice}"]))) == []


def test_the_source_files_say_of_every_class_what_python_says() -> None:
    root = Path(ssl4seg.__file__).parent
    bases = {base for bases in PLACES.values() for base in bases} - {OPTIMIZER}
    classes = [
        (".".join((*file.relative_to(root.parent).with_suffix("").parts, node.name)), node.name)
        for file in root.rglob("*.py")
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.ClassDef)
    ]
    assert len(classes) > 100
    found = {name: getattr(importlib.import_module(name.rpartition(".")[0]), cls) for name, cls in classes}
    for base in bases:
        kind = found[base]
        assert {name for name in found if is_a(name, base)} == {n for n, c in found.items() if issubclass(c, kind)}


def test_every_name_of_torch_optim_with_a_capital_is_an_optimiser() -> None:
    names = [name for name in vars(torch.optim) if is_a(f"torch.optim.{name}", OPTIMIZER)]
    assert {"SGD", "Adam", "AdamW"} <= {*names}
    assert all(issubclass(getattr(torch.optim, name), torch.optim.Optimizer) for name in names)


@pytest.mark.parametrize("name", ["", "ssl4seg", "ssl4seg..x", "ssl4seg.networks.unet.UNet()", "ssl4seg.networks.UNet"])
def test_a_name_that_is_no_class_is_none(name: str) -> None:
    assert not is_a(name, "ssl4seg.networks.base.Network")
