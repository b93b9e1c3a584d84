"""The run folder: the files of a run, and whether a run may be resumed.

config.yaml  split.json  best.pt  last.pt  results.json  cases_val.csv  cases_test.csv  train.log, and what
loggers write (the group `logger`)
"""

import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import weakref
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import IO, Any

import yaml

from ssl4seg.errors import UserError, nearest
from ssl4seg.files import write_text
from ssl4seg.run.versions import current
from ssl4seg.userfiles import expect_own, read_text, read_yaml

log = logging.getLogger("ssl4seg")

MAY_DIFFER = (
    "dataset.root",
    "dataset.name",
    "dataset.palette",
    "device",
    "num_threads",
    "resume",
    "trust",
    "engine.log_every",
    "engine.eval_batch_size",
    "engine.resident_gib",
    "engine.num_workers",
    "logger",
)
"""Keys of the machine, of the place of the data, of colours, of trust and of loggers, which do not change the trained
model: a run may be resumed with other values of them."""

SEAL, BLANK = "text_sha256", "0" * 64
"""Name of the sum in the head of config.yaml, split.json and results.json, and its digits before they are known."""

MAX_NAMED = 3
"""Runs below a folder, or differing keys, that a line of a message names."""

FAILURES = "failed.jsonl"
"""A file in a sweep's folder with a line for each failed run, also for a refused run, which has no folder."""


class RunFolder:
    """A folder that belongs to one configuration and, while it runs, to one process. A finished run is left as it is.

    Args:
        fingerprint: of the data now; asked for if the folder holds a run.

    Raises:
        UserError: it cannot be written, holds a run of another configuration or on other data, or is in use.
    """

    def __init__(
        self,
        path: Path,
        config: Mapping[str, Any],
        *,
        resume: bool = True,
        fingerprint: Callable[[], str] = str,
    ) -> None:
        self.path = path
        try:
            # Hydra makes the folder before this constructor runs, so that an empty folder counts as new.
            self.fresh = not path.exists() or (path.is_dir() and not any(path.iterdir()))
            done = finished(path) is not None
            if (fault := damage(path)) and self.best.exists() and not self.last.exists():
                raise UserError(
                    f"{fault}, and there is no last.pt from which it could be written again. ssl4seg-eval scores "
                    "best.pt; to train anew, use tag=WORD, or delete the folder"
                )
            # A run that failed before its first checkpoint has no claim to the folder.
            if self.config_file.exists() and (done or self.last.exists() or self.best.exists()):
                self._check(config, resume)
                self._check_data(fingerprint)
                if done:
                    return
            path.mkdir(parents=True, exist_ok=True)
            for name in ("tensorboard", "train.log"):
                expect_own(path / name)
            self._lock = locked(path / ".lock")
            # An empty line, so that the comment swallows no key where a flipped bit removes the end of its line.
            text = f"# {SEAL}: {BLANK}\n\n{yaml.safe_dump(dict(config), sort_keys=False)}"
            write_text(self.config_file, sealed(text))
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
        """Written before the first step, when nothing can be refused any more."""
        return self.path / "split.json"

    def check_space(self, best: int, last: int) -> None:
        """Refuse to train if the checkpoints do not fit on the disk.

        Args:
            best, last: the sizes of best.pt and last.pt in bytes. While one is replaced, both versions are there.
        """
        there = sum(file.stat().st_size for file in (self.best, self.last) if file.exists())
        free, needed = shutil.disk_usage(self.path).free, best + 2 * last - there
        if free < needed:
            raise UserError(
                f"{self.path}: {free / 2**20:,.1f} MiB are free on this disk, but the checkpoints of this run need "
                f"{needed / 2**20:,.1f} MiB more (best.pt, last.pt and its successor); free some space"
            )

    def saved(self) -> str:
        """From where the run goes on when a file could not be written."""
        there = f"{self.last} is whole, and" if self.last.exists() else "No checkpoint is written yet;"
        return f"{there} the same command goes on{' from it' if self.last.exists() else ''} as soon as there is space"

    def refused(self) -> bool:
        """Whether the folder holds nothing to keep: this run made it, and was refused before its first step."""
        return self.fresh and not self.split_file.exists()

    def remove(self) -> None:
        """Delete the folder with everything in it."""
        for entry in self.path.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        remove_empty(self.path)

    def _check(self, config: Mapping[str, Any], resume: bool) -> None:
        if differing := differences(read_config(self.path), config):
            keys = [key for key, _, _ in differing]
            more = f" and {len(keys) - MAX_NAMED} more" if len(keys) > MAX_NAMED else ""
            listed = "\n".join(f"  {key}: {old} there, {new} now" for key, old, new in differing)
            raise UserError(  # a sweep repeats only the first line at its end
                f"{self.path} holds a run of another configuration ({', '.join(keys[:MAX_NAMED])}{more}). "
                "Give this run a name of its own with tag=WORD (in a sweep for instance 'tag=lr${optimizer.lr}'), "
                f"or delete the folder.\n{listed}"
            )
        if not resume:
            raise UserError(f"{self.path} holds a run, and resume=false; use tag=WORD, or delete the folder")

    def _check_data(self, fingerprint: Callable[[], str]) -> None:
        trained_on = data_sha256(self.path)
        if trained_on and trained_on != fingerprint():
            raise UserError(
                f"{self.path} holds a run on other data: the dataset's files have other names, sizes or contents now. "
                "Give this run a name of its own with tag=WORD, or delete the folder."
            )


def data_sha256(run: Path) -> str:
    """The fingerprint of the data that a run was trained on; "" where its split.json has none, as in version 0.1."""
    file = run / "split.json"
    return str((read_json(file) if file.exists() else {}).get("data_sha256") or "")


def finished(path: Path) -> dict[str, Any] | None:
    """The content of results.json if the run is finished and nothing of its results is lost, else None."""
    file = path / "results.json"
    results = read_json(file) if file.exists() and not damage(path) else {}
    return results if results.get("status") == "finished" else None


def damage(path: Path) -> str:
    """What of the results of a run is damaged or lost, and can be written again from its checkpoints; "" if nothing."""
    file = path / "results.json"
    try:
        results = read_json(file) if file.exists() else {}
    except UserError as error:
        return str(error)
    if results.get("status") != "finished":
        return ""
    if missing := [key for key in ("val", "test", "selected_by") if not isinstance(results.get(key), Mapping | str)]:
        return f"{file}: lacks {', '.join(missing)}"
    tables = [file for file in (path / "cases_val.csv", path / "cases_test.csv") if not file.exists()]
    rewritable = all((path / name).exists() for name in ("best.pt", "last.pt"))
    return f"{tables[0]}: is missing" if tables and rewritable else ""


def write_failure(run: Path, error: str, **facts: Any) -> None:
    """Write results.json of a failed run."""
    write_json(run / "results.json", {**facts, "status": "failed", "error": error})


def remove_empty(run: Path) -> None:
    """Remove an empty run folder, then the folders of its method and its dataset if they are empty too."""
    working_dir = Path.cwd()
    for folder in (run, *run.parents[:2]):
        if not folder.is_dir() or any(folder.iterdir()) or working_dir.is_relative_to(folder):
            return
        folder.rmdir()


def locked(path: Path) -> IO[str]:
    """Lock a file; the operating system releases the lock however the process ends.

    Forked processes do not share the lock: those that read ahead outlive a killed run by seconds.
    """
    expect_own(path)
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"{path.parent}: another process is at work in this run folder") from None
    held = weakref.ref(file)

    def let_go() -> None:
        if inherited := held():
            inherited.close()

    os.register_at_fork(after_in_child=let_go)
    return file


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(key, old value, new value) of the keys that differ and matter."""
    a, b = flat(old), flat(new)
    keys = [key for key in {**a, **b} if not may_differ(key)]
    return [(key, a.get(key), b.get(key)) for key in keys if a.get(key) != b.get(key)]


def may_differ(key: str) -> bool:
    """Whether a dotted key, or a group that it belongs to, is one of MAY_DIFFER."""
    return any(f"{key}.".startswith(f"{each}.") for each in MAY_DIFFER)


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a nested configuration to dotted keys: {"dataset.root": ...}."""
    result: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = value
    return result


def checkpoint_file(run: Path, which: str) -> Path:
    """The file of a checkpoint: `which` is best or last, for the run's own, or the path of a file."""
    path = run / f"{which}.pt" if which in ("best", "last") else Path(which)
    if not path.exists():
        available = ", ".join(sorted(file.name for file in run.glob("*.pt"))) or "none yet"
        raise UserError(f"checkpoint={which}: there is no {path} (checkpoints of this run: {available})")
    return path


def is_run(folder: Path) -> bool:
    """Whether the folder holds a run."""
    return (folder / "config.yaml").is_file()


def read_config(run: Path) -> dict[str, Any]:
    """Read config.yaml of a run folder, translated to this version's names."""
    file = run / "config.yaml"
    if not is_run(run):
        raise UserError(f"run={run}: {_no_run(run)}")
    check_seal(file)
    config = read_yaml(file)
    if not isinstance(config, dict):
        raise UserError(f"{file}: is damaged; it holds no configuration")
    return current(config)


def _no_run(folder: Path) -> str:
    """Why a path is no run folder, with the nearest names that exist."""
    if not folder.exists():
        missing = next(path for path in (*reversed(folder.parents), folder) if not path.exists())
        beside = missing.parent.iterdir() if missing.parent.is_dir() else ()
        near = nearest(missing.name, (path.name for path in beside))
        return f"there is no {missing}" + (f"; did you mean {missing.parent / near}?" if near else "")
    if not folder.is_dir():
        return "is a file; give the run's folder"
    below = runs_below(folder)
    if not below:
        return "is no run folder, it has no config.yaml"
    more = ", ..." if len(below) > MAX_NAMED else ""
    return f"is no run folder, but there are some below it: {', '.join(map(str, below[:MAX_NAMED]))}{more}"


def runs_below(folder: Path) -> list[Path]:
    """The run folders at most as deep below a folder as outputs/ has them, MAX_NAMED + 1 of them at most."""
    found = (file.parent for depth in (1, 2, 3) for file in sorted(folder.glob(f"{'*/' * depth}config.yaml")))
    return list(islice(found, MAX_NAMED + 1))


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object; a UserError names a damaged file."""
    check_seal(file)
    try:
        content = json.loads(read_text(file))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: cannot be read ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"{file}: holds no JSON object")
    return content


def read_failures(file: Path) -> tuple[list[dict[str, str]], int]:
    """The entries of a FAILURES file, and the number of lines that were damaged when a process was ended."""
    lines = [line for line in read_text(file, errors="replace").splitlines() if line] if file.exists() else []
    entries: list[dict[str, str]] = []
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and entry.keys() >= {"sweep", "overrides", "folder", "error"}:
            entries.append(entry)
    return entries, len(lines) - len(entries)


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write JSON atomically. NaN becomes null, which every JSON reader accepts."""
    sums = {SEAL: BLANK}
    write_text(file, sealed(json.dumps(sums | _plain(content) | sums, indent=2, allow_nan=False) + "\n"))


def sealed(text: str) -> str:
    """Put the SHA-256 of the lines below in the place of BLANK, so that `check_seal` sees a flipped bit or a cut."""
    before, _, rest = text.partition(BLANK)
    line, _, below = rest.partition("\n")
    return f"{before}{hashlib.sha256(below.encode()).hexdigest()}{line}\n{below}"


def check_seal(file: Path) -> None:
    """Raise if a file is not as `sealed` wrote it; files without a sum, as those of version 0.1, pass."""
    text = read_text(file)
    sum_line = re.match(rf'(?:\{{\n  "|# ){SEAL}"?: "?(\w*)"?,?\n', text)
    if sum_line and sum_line[1] != hashlib.sha256(text[sum_line.end() :].encode()).hexdigest():
        raise UserError(
            f"{file}: is damaged, or was edited: its content does not have the sum that it was written with ({SEAL}). "
            "If you edited it, remove the line of that sum"
        )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and value != value else value
