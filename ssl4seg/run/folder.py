"""The run folder: what a run leaves behind, and whether it may be gone on with.

config.yaml  split.json  best.pt  last.pt  results.json  cases_val.csv  cases_test.csv  tensorboard/  train.log
"""

import fcntl
import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import yaml

from ssl4seg.errors import UserError
from ssl4seg.run.versions import current

log = logging.getLogger("ssl4seg")

MAY_DIFFER = (
    "dataset.root",
    "dataset.palette",
    "device",
    "num_threads",
    "resume",
    "trust",
    "engine.log_every",
    "engine.eval_batch_size",
    "engine.resident_gib",
    "engine.num_workers",
)
"""Keys that say where a run is computed, where its data lies, in which colours it is shown and who is trusted, not what
it is: a run goes on with other values of these."""

FAILURES = "failed.jsonl"
"""In a sweep's folder: a line for each run that failed, also of those that were refused and have no folder."""


class RunFolder:
    """A folder that belongs to one configuration and, while it runs, to one process. A finished run is left as it is.

    Raises:
        UserError: it cannot be written, holds a run of another configuration, or is in use.
    """

    def __init__(self, path: Path, config: Mapping[str, Any], *, resume: bool = True) -> None:
        self.path = path
        try:
            # Hydra has made the folder itself already.
            self.fresh = not path.exists() or (path.is_dir() and not any(path.iterdir()))
            done = finished(path) is not None
            # A run that failed before it had anything to lose does not hold the folder.
            if self.config_file.exists() and (done or self.last.exists() or self.best.exists()):
                self._check(config, resume)
                if done:
                    return
            (path / "tensorboard").mkdir(parents=True, exist_ok=True)
            self._lock = locked(path / ".lock")
            write_text(self.config_file, yaml.safe_dump(dict(config), sort_keys=False))
        except OSError as error:
            raise UserError(f"{path}: the run folder cannot be written ({error.strerror or error})") from None

    @property
    def config_file(self) -> Path:
        return self.path / "config.yaml"

    @property
    def best(self) -> Path:
        return self.path / "best.pt"

    @property
    def last(self) -> Path:
        return self.path / "last.pt"

    @property
    def results_file(self) -> Path:
        return self.path / "results.json"

    @property
    def split_file(self) -> Path:
        """Written when everything that can be refused has been taken, before the first step."""
        return self.path / "split.json"

    def refused(self) -> bool:
        """Whether there is nothing to keep: this run made the folder, and it came to no step."""
        return self.fresh and not self.split_file.exists()

    def remove(self) -> None:
        """Everything in the folder, and the folder."""
        for entry in self.path.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        remove_empty(self.path)

    def _check(self, config: Mapping[str, Any], resume: bool) -> None:
        if differing := differences(read_config(self.path), config):
            listed = "\n".join(f"  {key}: {old} there, {new} now" for key, old, new in differing)
            raise UserError(
                f"{self.path} holds a run of another configuration:\n{listed}\n"
                "Give this run a name of its own with tag=WORD (in a sweep for instance 'tag=lr${optimizer.lr}'), "
                "or delete the folder."
            )
        if not resume:
            raise UserError(f"{self.path} holds a run, and resume=false; use tag=WORD, or delete the folder")


def finished(path: Path) -> dict[str, Any] | None:
    """results.json of a run that is finished."""
    file = path / "results.json"
    results = read_json(file) if file.exists() else {}
    return results if results.get("status") == "finished" else None


def write_failure(run: Path, error: str, **facts: Any) -> None:
    """results.json of a run that failed."""
    write_json(run / "results.json", {**facts, "status": "failed", "error": error})


def remove_empty(run: Path) -> None:
    """Remove an empty run folder, and those of the method and the dataset above it if they become so."""
    here = Path.cwd()
    for folder in (run, *run.parents[:2]):
        if not folder.is_dir() or any(folder.iterdir()) or here.is_relative_to(folder):
            return
        folder.rmdir()


def locked(path: Path) -> IO[str]:
    """A lock that the operating system takes back however the process ends."""
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"{path.parent}: another process is at work in this run folder") from None
    return file


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(key, old value, new value) of the keys that differ and matter."""
    a, b = flat(old), flat(new)
    keys = [key for key in {**a, **b} if key not in MAY_DIFFER]
    return [(key, a.get(key), b.get(key)) for key in keys if a.get(key) != b.get(key)]


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"dataset.root": ...} of a nested configuration."""
    result: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = value
    return result


def checkpoint_file(run: Path, which: str) -> Path:
    """The checkpoint of a run that best, last or the path of a file names."""
    path = run / f"{which}.pt" if which in ("best", "last") else Path(which)
    if not path.exists():
        there = ", ".join(sorted(file.name for file in run.glob("*.pt"))) or "none yet"
        raise UserError(f"checkpoint={which}: there is no {path} (checkpoints of this run: {there})")
    return path


def is_run(folder: Path) -> bool:
    """Whether the folder holds a run."""
    return (folder / "config.yaml").is_file()


def read_config(run: Path) -> dict[str, Any]:
    """config.yaml of a run folder, under this version's names."""
    file = run / "config.yaml"
    if not is_run(run):
        raise UserError(f"run={run}: is no run folder, it has no config.yaml")
    try:
        config = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        raise UserError(f"{file}: is damaged ({str(error).splitlines()[0]})") from None
    if not isinstance(config, dict):
        raise UserError(f"{file}: is damaged; it holds no configuration")
    return current(config)


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object, or a UserError that names the file."""
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"{file}: holds no JSON object")
    return content


def read_failures(file: Path) -> tuple[list[dict[str, str]], int]:
    """Lines of a FAILURES file, and how many of its lines are damaged: of a process that was ended as it wrote."""
    lines = [line for line in file.read_text(errors="replace").splitlines() if line] if file.exists() else []
    read: list[dict[str, str]] = []
    for line in lines:
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict) and found.keys() >= {"sweep", "overrides", "folder", "error"}:
            read.append(found)
    return read, len(lines) - len(read)


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """NaN becomes null, which every JSON reader takes."""
    write_text(file, json.dumps(_plain(content), indent=2, allow_nan=False) + "\n")


def write_text(file: Path, text: str) -> None:
    """Atomically."""
    partial = file.with_name(file.name + ".partial")
    partial.write_text(text)
    partial.replace(file)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and value != value else value
