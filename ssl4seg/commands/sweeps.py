"""Sweeps: a run that fails does not end the others, wherever they are computed, and is told in the end.

A launcher (joblib, Slurm) computes runs in other processes, on other machines. What they have in common is the folder
of the sweep: a failing run writes a line there, and the process that sweeps reads them.
"""

import io
import json
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, TextIO
from uuid import uuid4

import yaml
from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from ssl4seg.commands.cluster import outlive_lost_jobs
from ssl4seg.commands.conf import keys_of
from ssl4seg.errors import UserError
from ssl4seg.processes import launched_world
from ssl4seg.run.folder import FAILURES, finished, locked, read_config, read_failures, write_failure
from ssl4seg.run.targets import foreign

SEARCHER = "hydra/sweeper=optuna"
PLUGINS = {
    "hydra/launcher=joblib": "hydra_joblib_launcher",
    "hydra/launcher=slurm": "hydra_submitit_launcher",
    "hydra/launcher=submitit_local": "hydra_submitit_launcher",
    "hydra/launcher=submitit_slurm": "hydra_submitit_launcher",
    SEARCHER: "hydra_optuna_sweeper",
}
"""What the choices of Hydra's own groups need."""


SEARCH = {
    "direction": "maximize",
    "n_jobs": "1",  # chosen at a time
    "max_failure_rate": "1",  # never ends for failures
    "sampler.seed": "0",  # the same command chooses the same runs, and so goes on where it stopped
}
"""Keys of hydra/sweeper=optuna that have other defaults here: the objective is the val score."""


def search_defaults(overrides: Sequence[str]) -> list[str]:
    """Overrides for those of these keys that a search does not give itself."""
    given = {word.split("=", 1)[0] for word in overrides}
    sampler = "hydra/sweeper/sampler" in given  # which need not have a seed
    keys = [key for key in SEARCH if f"hydra.sweeper.{key}" not in given and not (sampler and "sampler." in key)]
    return [f"hydra.sweeper.{key}={SEARCH[key]}" for key in keys]


def check_plugin(choice: str) -> None:
    """Refuse a choice whose plugin is not installed."""
    if (plugin := PLUGINS.get(choice)) and not (find_spec("hydra_plugins") and find_spec(f"hydra_plugins.{plugin}")):
        raise UserError(f"{choice} needs packages that are not installed: pip install 'ssl4seg[sweeps]'")


class Named(io.TextIOBase):
    """A stream that writes whole lines, with a name before each: runs that are computed at once write to one screen."""

    def __init__(self, stream: TextIO, name: str) -> None:
        self.stream, self.name, self.left = stream, name, ""

    def write(self, text: str) -> int:
        *lines, self.left = (self.left + text).split("\n")
        self.stream.write("".join(f"{self.name}: {line}\n" for line in lines))
        return len(text)

    def flush(self) -> None:
        self.stream.flush()


class Sweep(Callback):
    """What Hydra calls around a sweep, in the process that sweeps, and around each run, where that is computed.

    The object is sent along with the runs of a sweep.
    """

    current: ClassVar["Sweep | None"] = None
    """The sweep of this process."""
    error: ClassVar[Exception | None] = None
    """Of a run that is not part of a sweep, for the command to raise; Hydra would print its own words before."""

    def __init__(self) -> None:
        self.name = uuid4().hex
        self.file: Path | None = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        self.file = Path(config.hydra.sweep.dir).resolve() / FAILURES
        Sweep.current = self
        if self.file.exists() and not self.file.read_bytes().endswith(b"\n"):
            with self.file.open("a") as lines:  # the last line was cut off; the next must not become a part of it
                lines.write("\n")
        if not config.hydra.launcher._target_.endswith(".BasicLauncher"):
            os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # a thread that waits leaves its core to other runs
            os.environ["TERM"] = "dumb"  # no progress bars, which would write over one another
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, so that no process is left behind
        if "submitit" in config.hydra.launcher._target_:
            outlive_lost_jobs(self.on_job_lost)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Tell what a search has found."""
        if not config.hydra.sweeper._target_.endswith(".OptunaSweeper"):
            return
        file = Path(config.hydra.sweep.dir) / "optimization_results.yaml"
        found = yaml.safe_load(file.read_text())
        if "best_params" in found:
            words = " ".join(f"{key}={value}" for key, value in found["best_params"].items())
            print(f"best of the search, with {found['best_value']:.4f} on val: {words} ({file})")

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        if self.file and config.hydra.launcher._target_.endswith(".JoblibLauncher"):
            name = os.path.relpath(config.hydra.runtime.output_dir, self.file.parent)
            sys.stderr = Named(sys.__stderr__ or sys.stderr, name)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Tell a run's failure and write it down; then, for the sweeper, it is a run without a score."""
        if job_return.status is not JobStatus.FAILED:
            return
        error: Exception = job_return._return_value  # the property prints
        job_return.return_value, job_return.status = None, JobStatus.COMPLETED
        if self.file is None:
            Sweep.error = error
            return
        if isinstance(error, UserError):
            print(f"error: {error}", file=sys.stderr)
        else:
            traceback.print_exception(error)
        told = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        self._write(Path(config.hydra.runtime.output_dir), config.hydra.overrides.task, told)
        if launched_world() > 1:
            sys.exit(1)  # so that the launcher ends the other processes, which wait for this one

    def on_job_lost(self, overrides: Sequence[str], subdir: str, error: str) -> float | None:
        """Write down a run that something else ended, before it could: here, and in its folder if it has one.

        Returns:
            The val score of a run that was finished all the same.
        """
        assert self.file
        folder = self.file.parent / subdir
        from ssl4seg.scoring.selection import goodness_of  # imports NumPy

        if done := finished(folder):
            run, typed = read_config(folder), keys_of(overrides)
            trusted = "trust" in typed or not foreign(run, typed)  # it may have lain there before
            return goodness_of(done, run["metrics"]["more"]) if trusted else None
        if (folder / "config.yaml").exists():
            with suppress(UserError), locked(folder / ".lock"):  # it is at work after all: queued again
                write_failure(folder, error)
        self._write(folder, filter_overrides(overrides), error)
        return None

    def _write(self, folder: Path, overrides: Sequence[str], error: str) -> None:
        assert self.file
        line = {
            "sweep": self.name,
            "overrides": " ".join(overrides),
            "folder": os.path.relpath(folder.resolve(), self.file.parent),
            "error": error,
        }
        with self.file.open("a") as lines:
            lines.write(json.dumps(line) + "\n")

    def failures(self) -> list[dict[str, str]]:
        """Of this sweep's runs, in the order in which they failed: what the first of a run's processes said."""
        first: dict[str, dict[str, str]] = {}
        for line in read_failures(self.file)[0] if self.file else []:
            if line["sweep"] == self.name:
                first.setdefault(line["overrides"], line)
        return list(first.values())
