"""Jobs that a cluster ends: killed for memory, on a machine that broke, cancelled. They are runs that fail."""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import open_dict

Lost = Callable[[Sequence[str], str, str], float | None]
"""Takes a run's overrides, its folder below that of the sweep, and the reason; gives the run's score if it has one."""


def outlive_lost_jobs(lost: Lost) -> None:
    """Let a job without a result be a run without a score, of which `lost` is told.

    submitit raises at the first such job, and Hydra's launcher, which waits for one job after the other, then leaves
    the others alone. There is no place to step in but the method by which it waits.
    """
    from submitit import Job
    from submitit.core.utils import UncompletedJobError

    wait = getattr(Job.results, "__wrapped__", Job.results)

    @wraps(wait)
    def results(job: Any) -> list[Any]:
        try:
            return list(wait(job))
        except (UncompletedJobError, UnicodeDecodeError) as error:  # the latter where its log was cut within a letter
            launcher, (overrides, _, number, *_) = job.submission().function, job.submission().args
            score = lost(overrides, _subdir(launcher, overrides, number) or str(job.job_id), _reason(job, str(error)))
            return [JobReturn(overrides=overrides, _return_value=score, status=JobStatus.COMPLETED)]

    Job.results = results  # type: ignore[method-assign, assignment]


def _subdir(launcher: Any, overrides: Sequence[str], number: int) -> str:
    """hydra.sweep.subdir of the run, composed as in its job; empty if that is what ended the job."""
    kept = HydraConfig.instance().cfg
    try:
        config = launcher.hydra_context.config_loader.load_sweep_config(launcher.config, list(overrides))
        with open_dict(config):
            config.hydra.job.num = config.hydra.job.id = number
        HydraConfig.instance().set_config(config)
        return str(config.hydra.sweep.subdir)
    except Exception:
        return ""
    finally:
        HydraConfig.instance().cfg = kept


def _reason(job: Any, told: str) -> str:
    """What became of the job, on one line: the last one of its traceback, or of its log."""
    trace = told.partition("failed during processing with trace:\n")[2].strip("-\n").partition("\n-----")[0]
    logs = (path.read_text(errors="replace") for path in (job.paths.stderr, job.paths.stdout) if path.exists())
    text = trace or next((log for log in logs if log.strip()), "it left no log")
    lines = text.splitlines()
    last = next((line for line in reversed(lines) if line.strip() and not line.startswith(" ")), lines[-1])
    state = (
        "" if trace else f" ({job.state})"
    )  # a job that could leave a traceback is not asked about, and may be running
    return f"job {job.job_id} ended{state} without a result: {last} ({job.paths.folder})"
