"""Imports run one way, read off the source; and the command line answers before torch is loaded."""

import ast
import graphlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import ssl4seg

ROOT = Path(ssl4seg.__file__).parent
DATA_SIDE = ["data", "store", "stream", "views", "batches"]
METHOD_SIDE = ["losses predictions ramps networks mixing", "methods"]
ROOMS = [  # each imports only from rooms before it; the two sides do not know each other
    "errors",
    "keys processes",
    "types seeding checkpoint",
    "schedules",
    "photometric",
    "operations",
    *DATA_SIDE,
    *METHOD_SIDE,
    "metrics device pictures runs native transfer postprocess",
    "tables",
    "evaluate diagnose",
    "record",
    "engine",
    "assemble",
    "training inference",
    "report cluster check_folder",
    "sweeps",
    "cli",
    "train eval predict prepare",
]
RANK = {room: rank for rank, rooms in enumerate(ROOMS) for room in rooms.split()}
ENTRIES = ("cluster", "sweeps", "cli", "train", "eval", "predict")
MODULES = {
    ".".join(file.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): file
    for file in sorted(ROOT.rglob("*.py"))
}


@cache
def imports(module: str, *, top: bool = False) -> tuple[str, ...]:
    """Modules that a module imports, anywhere or (`top`) outside of functions; `from a import b` may be a.b."""
    tree = ast.parse(MODULES[module].read_text())
    return tuple(name for node in _nodes(tree, into_functions=not top) for name in _names(node))


def _nodes(tree: ast.AST, *, into_functions: bool) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        yield node
        if into_functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _nodes(node, into_functions=into_functions)


def _names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "relative import"
        whole = [f"{node.module}.{alias.name}" for alias in node.names]
        yield from (name if name in MODULES else str(node.module) for name in whole)


def room(module: str) -> str:
    return module.split(".")[1]


INNER = [module for module in MODULES if module != "ssl4seg"]


def own(module: str) -> list[str]:
    return [name for name in imports(module) if name.split(".")[0] == "ssl4seg"]


def test_there_is_something_to_check():
    assert {room(module) for module in INNER} >= {"methods", "data", "engine", "train"}
    assert "ssl4seg.methods.base" in own("ssl4seg.run.engine")
    assert "ssl4seg.run.training" in imports("ssl4seg.train")
    assert "ssl4seg.run.training" not in imports("ssl4seg.train", top=True)


@pytest.mark.parametrize("module", INNER)
def test_imports_come_from_rooms_to_the_left(module):
    assert room(module) in RANK, "a new room: give it a place in ROOMS"
    for name in own(module):
        assert room(name) == room(module) or RANK[room(name)] < RANK[room(module)], name


@pytest.mark.parametrize("module", INNER)
def test_data_and_methods_do_not_know_each_other(module):
    sides = [" ".join(side).split() for side in (DATA_SIDE, METHOD_SIDE)]
    for here, there in (sides, sides[::-1]):
        if room(module) in here:
            assert not {room(name) for name in own(module)} & set(there)


def test_no_import_goes_in_a_circle():
    graphlib.TopologicalSorter({module: own(module) for module in INNER}).prepare()


def test_the_engine_knows_methods_by_their_contract_alone():
    known = {name for name in own("ssl4seg.run.engine") if room(name) in ("methods", "networks")}
    assert known == {"ssl4seg.methods.base"}


@pytest.mark.parametrize("module", [module for module in INNER if room(module) not in ("assemble", *ENTRIES)])
def test_only_assemble_and_the_commands_know_hydra(module):
    assert not {name.split(".")[0] for name in imports(module)} & {"hydra", "omegaconf"}


def test_the_commands_are_imported_without_torch():
    modules = ", ".join(f"ssl4seg.{name}" for name in ENTRIES)
    code = f"import sys, {modules}; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {f"ssl4seg.{name}" for name in ENTRIES} <= set(loaded)
    assert not {"torch", "lightning_fabric", "scipy", "medpy"} & set(loaded)


def test_data_is_imported_without_torch():
    modules = [module for module in INNER if room(module) == "data"]
    code = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {*modules} <= {*loaded}
    assert "torch" not in loaded


def test_every_package_that_is_imported_is_a_declared_dependency():
    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["project"]
    needed = project["dependencies"]
    wherever = {module: imports(module) for module in INNER}
    first = {module: imports(module, top=True) for module in INNER}
    for declared, found in (
        (needed, first),
        ([*needed, *project["optional-dependencies"]["sweeps"]], wherever),  # within functions that only sweeps call
    ):
        names = {re.split(r"[<>=\[ ]", line)[0].lower().replace("_", "-") for line in declared}
        top = {name.split(".")[0] for modules in found.values() for name in modules}
        origin = packages_distributions()
        for package in top - {"ssl4seg", *sys.stdlib_module_names}:
            assert {name.lower().replace("_", "-") for name in origin[package]} & names, package
