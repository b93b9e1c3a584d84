"""Sweeps: a failed run does not end the others, wherever they are computed, and the command lists it at the end.

A launcher (joblib, Slurm) computes runs in other processes or on other machines. All of them share the folder of the
sweep: a failed run appends a line to a file there, and the process that sweeps reads that file.
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
from ssl4seg.errors import UserError, lacking
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
"""The plugin that each choice of Hydra's own groups needs."""

SEARCH = {
    "direction": "maximize",
    "n_jobs": "1",  # runs that are proposed together
    "max_failure_rate": "1",  # failures never end the search
    "sampler.seed": "0",  # the same command proposes the same runs, and so goes on where it stopped
}
"""Keys of hydra/sweeper=optuna with other defaults than the plugin's: the objective is the val score."""


def search_defaults(overrides: Sequence[str]) -> list[str]:
    """Overrides for the keys of `SEARCH` that were not typed."""
    typed = {word.split("=", 1)[0] for word in overrides}
    sampler = "hydra/sweeper/sampler" in typed  # it may have no seed
    keys = [key for key in SEARCH if f"hydra.sweeper.{key}" not in typed and not (sampler and "sampler." in key)]
    return [f"hydra.sweeper.{key}={SEARCH[key]}" for key in keys]


def check_plugin(choice: str) -> None:
    """Refuse a choice whose plugin is not installed."""
    if (plugin := PLUGINS.get(choice)) and not (find_spec("hydra_plugins") and find_spec(f"hydra_plugins.{plugin}")):
        raise lacking(choice, "packages that are not installed", "sweeps")


class Named(io.TextIOBase):
    """A stream that writes whole lines, each after the name of its run: parallel runs share one screen."""

    def __init__(self, stream: TextIO, name: str) -> None:
        self.stream, self.name, self.unfinished = stream, name, ""

    def write(self, text: str) -> int:
        *lines, self.unfinished = (self.unfinished + text).split("\n")
        self.stream.write("".join(f"{self.name}: {line}\n" for line in lines))
        return len(text)

    def flush(self) -> None:
        self.stream.flush()


class Sweep(Callback):
    """Hydra's callback: around a sweep, in the process that sweeps, and around each run, in the process of the run.

    Hydra sends the object to the processes of the runs.
    """

    current: ClassVar["Sweep | None"] = None
    """The sweep of this process."""
    error: ClassVar[Exception | None] = None
    """The error of a run outside a sweep. The command raises it; Hydra would print a message of its own first."""

    def __init__(self) -> None:
        self.name = uuid4().hex
        self.file: Path | None = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        self.file = Path(config.hydra.sweep.dir).resolve() / FAILURES
        Sweep.current = self
        if self.file.exists() and not self.file.read_bytes().endswith(b"\n"):
            with self.file.open("a") as lines:  # the last line was cut off; the next must not be appended to it
                lines.write("\n")
        if not config.hydra.launcher._target_.endswith(".BasicLauncher"):
            os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # a waiting thread leaves its core to other runs
            os.environ["TERM"] = "dumb"  # no progress bars: they would overwrite each other
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C, so that no process is left behind
        if "submitit" in config.hydra.launcher._target_:
            outlive_lost_jobs(self.on_job_lost)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the best run of a search."""
        if not config.hydra.sweeper._target_.endswith(".OptunaSweeper"):
            return
        file = Path(config.hydra.sweep.dir) / "optimization_results.yaml"
        results = yaml.safe_load(file.read_text())
        if "best_params" in results:
            words = " ".join(f"{key}={value}" for key, value in results["best_params"].items())
            print(f"best of the search, with {results['best_value']:.4f} on val: {words} ({file})")

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        if self.file and config.hydra.launcher._target_.endswith(".JoblibLauncher"):
            name = os.path.relpath(config.hydra.runtime.output_dir, self.file.parent)
            sys.stderr = Named(sys.__stderr__ or sys.stderr, name)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Report and record a run's failure; for the sweeper the run then counts as completed, without a score."""
        if job_return.status is not JobStatus.FAILED:
            return
        error: Exception = job_return._return_value  # `return_value` would print a message and raise
        job_return.return_value, job_return.status = None, JobStatus.COMPLETED
        if self.file is None:
            Sweep.error = error
            return
        if isinstance(error, UserError):
            print(f"error: {error}", file=sys.stderr)
        else:
            traceback.print_exception(error)
        message = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        self._write(Path(config.hydra.runtime.output_dir), config.hydra.overrides.task, message)
        if launched_world() > 1:
            sys.exit(1)  # torchrun or srun then ends the other processes, which wait for this one

    def on_job_lost(self, overrides: Sequence[str], subdir: str, error: str) -> float | None:
        """Record a run that was ended from outside: in the sweep's file, and in the run's folder if there is one.

        Returns:
            The val score, if the run had finished before its job was lost.
        """
        assert self.file
        folder = self.file.parent / subdir
        from ssl4seg.scoring.selection import goodness_of  # imports NumPy

        if done := finished(folder):
            run, typed = read_config(folder), keys_of(overrides)
            trusted = "trust" in typed or not foreign(run, typed)  # it may have lain there before
            return goodness_of(done, run["metrics"]["more"]) if trusted else None
        if (folder / "config.yaml").exists():
            with suppress(UserError), locked(folder / ".lock"):  # locked: the job was queued again and is at work
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
        """The failed runs of this sweep, in the order of failure, each with the error of its first process to fail."""
        first: dict[str, dict[str, str]] = {}
        for line in read_failures(self.file)[0] if self.file else []:
            if line["sweep"] == self.name:
                first.setdefault(line["overrides"], line)
        return list(first.values())
