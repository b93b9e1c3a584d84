"""The house: ten rooms, and who may import whom; and the command line answers before torch is loaded."""

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

import ssl4seg

ROOT = Path(ssl4seg.__file__).parent
GROUND = {
    "errors",
    "files",
    "types",
    "axes",
    "seeding",
    "keys",
    "checkpoint",
    "processes",
    "userfiles",
    "memory",
}
ENTRIES = {"train", "eval", "predict", "export", "prepare"}
ROOMS = {  # room: the rooms that it may import from
    "ground": "",
    "data": "ground",
    "augment": "ground",
    "feed": "ground data augment",
    "networks": "ground",
    "methods": "ground augment networks",
    "scoring": "ground data feed",
    "run": "ground data feed networks methods scoring",
    "report": "ground data scoring run",
    "commands": "ground data scoring run",
    "entries": "ground data run commands",
}
MODULES = {
    ".".join(file.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): file
    for file in sorted(ROOT.rglob("*.py"))
}
INNER = [module for module in MODULES if module != "ssl4seg"]
BEFORE_TORCH = [
    *(f"ssl4seg.{entry}" for entry in ("train", "eval", "predict", "export")),
    *(f"ssl4seg.commands.{name}" for name in ("cli", "conf", "words", "help", "sweeps", "cluster")),
]


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


def own(module: str) -> list[str]:
    """The modules of the package that a module imports, in functions too."""
    return [name for name in imports(module) if name.split(".")[0] == "ssl4seg"]


def room(module: str) -> str:
    name = module.partition(".")[2].split(".")[0] or "errors"  # the package itself imports nothing at its top
    return "ground" if name in GROUND else "entries" if name in ENTRIES else name


def loaded_by(modules: list[str]) -> set[str]:
    """The modules that a fresh interpreter has loaded after importing `modules`."""
    code = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_there_is_something_to_check() -> None:
    assert {room(module) for module in INNER} == ROOMS.keys()
    assert "ssl4seg.methods.base" in own("ssl4seg.run.engine")
    assert "ssl4seg.run.training" in imports("ssl4seg.train")
    assert "ssl4seg.run.training" not in imports("ssl4seg.train", top=True)


def test_every_room_imports_only_from_the_rooms_that_it_may() -> None:
    offenders = [
        f"{module} imports {name}"
        for module in INNER
        for name in own(module)
        if room(name) not in (room(module), *ROOMS[room(module)].split())
    ]
    assert not offenders


def test_no_import_goes_in_a_circle() -> None:
    graphlib.TopologicalSorter({module: own(module) for module in INNER}).prepare()
    graphlib.TopologicalSorter({name: allowed.split() for name, allowed in ROOMS.items()}).prepare()


def test_run_knows_methods_by_their_contract_and_only_assemble_and_the_commands_know_hydra() -> None:
    contract = {"ssl4seg.methods.base", "ssl4seg.methods.parts.teacher"}  # the teacher for its distance to the student
    may_know = ("commands", "entries")
    offenders = [
        f"{module} imports {name}"
        for module in INNER
        for name in imports(module)
        if (room(module) == "run" and name.startswith("ssl4seg.methods") and name not in contract)
        or (
            name.split(".")[0] in ("hydra", "omegaconf")
            and room(module) not in may_know
            and module != "ssl4seg.run.assemble"
        )
    ]
    assert not offenders


def test_data_loads_no_torch() -> None:
    modules = [module for module in MODULES if module.startswith("ssl4seg.data.")]
    loaded = loaded_by(modules)
    assert {*modules} <= loaded
    assert not {"torch", "torchvision", "lightning_fabric"} & loaded


def test_the_package_is_imported_at_once() -> None:
    assert {name for name in loaded_by(["ssl4seg"]) if name.startswith("ssl4seg")} == {"ssl4seg"}
    assert not {"torch", "numpy", "hydra", "omegaconf"} & loaded_by(["ssl4seg"])


def test_the_commands_are_imported_without_torch() -> None:
    loaded = loaded_by(BEFORE_TORCH)
    assert {*BEFORE_TORCH} <= loaded
    assert not {"torch", "lightning_fabric", "scipy", "medpy"} & loaded


def test_every_package_that_is_imported_is_a_declared_dependency() -> None:
    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["project"]
    needed, extras = project["dependencies"], project["optional-dependencies"]
    origin = packages_distributions()
    wherever = {name for module in INNER for name in imports(module)}
    first = {name for module in INNER for name in imports(module, top=True)}
    for declared, found in (
        (needed, first),
        # within functions that only sweeps, exports and imports call
        ([*needed, *extras["sweeps"], *extras["export"], *extras["import"], *extras["dicom"]], wherever),
    ):
        names = {re.split(r"[<>=\[ ]", line)[0].lower().replace("_", "-") for line in declared}
        packages = {name.split(".")[0] for name in found} - {"ssl4seg", *sys.stdlib_module_names}
        assert not [p for p in packages if not {name.lower().replace("_", "-") for name in origin[p]} & names]
