"""Jobs that a cluster ends: killed for memory, lost with their machine, cancelled. Each counts as a failed run."""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import open_dict

Lost = Callable[[Sequence[str], str, str], float | None]
"""Called with a run's overrides, its folder within the sweep's, and the reason; returns the run's score, if any."""


def outlive_lost_jobs(lost: Lost) -> None:
    """Treat a job that ended without a result as a failed run, and report it to `lost`.

    submitit raises at the first such job. Hydra's launcher, which waits for one job after the other, then abandons the
    jobs that follow. The only place to step in is the method with which it waits.
    """
    from submitit import Job
    from submitit.core.utils import UncompletedJobError

    wait = getattr(Job.results, "__wrapped__", Job.results)

    @wraps(wait)
    def results(job: Any) -> list[Any]:
        try:
            return list(wait(job))
        except (UncompletedJobError, UnicodeDecodeError) as error:  # UnicodeDecodeError: a log cut within a letter
            launcher, (overrides, _, number, *_) = job.submission().function, job.submission().args
            score = lost(overrides, _subdir(launcher, overrides, number) or str(job.job_id), _reason(job, str(error)))
            return [JobReturn(overrides=overrides, _return_value=score, status=JobStatus.COMPLETED)]

    Job.results = results  # type: ignore[method-assign, assignment]


def _subdir(launcher: Any, overrides: Sequence[str], number: int) -> str:
    """Compose the run's hydra.sweep.subdir as its job did; empty if composing fails, which then ended the job."""
    own_config = HydraConfig.instance().cfg
    try:
        config = launcher.hydra_context.config_loader.load_sweep_config(launcher.config, list(overrides))
        with open_dict(config):
            config.hydra.job.num = config.hydra.job.id = number
        HydraConfig.instance().set_config(config)
        return str(config.hydra.sweep.subdir)
    except Exception:
        return ""
    finally:
        HydraConfig.instance().cfg = own_config


def _reason(job: Any, message: str) -> str:
    """Say in one line how the job ended, with the last line of its traceback, or else of its log."""
    trace = message.partition("failed during processing with trace:\n")[2].strip("-\n").partition("\n-----")[0]
    logs = (path.read_text(errors="replace") for path in (job.paths.stderr, job.paths.stdout) if path.exists())
    text = trace or next((log for log in logs if log.strip()), "it left no log")
    lines = text.splitlines()
    last = next((line for line in reversed(lines) if line.strip() and not line.startswith(" ")), lines[-1])
    state = "" if trace else f" ({job.state})"  # with a traceback the state says nothing: the job may still be running
    return f"job {job.job_id} ended{state} without a result: {last} ({job.paths.folder})"
