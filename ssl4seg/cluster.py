"""Jobs that a cluster ends: killed for memory, on a machine that broke, cancelled. They are runs that fail."""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig

Lost = Callable[[DictConfig, Sequence[str], str], None]
"""Takes the configuration of the run, its overrides and the reason."""


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
        except UncompletedJobError as error:
            submission = job.submission()
            launcher, overrides = submission.function, submission.args[0]
            config = launcher.hydra_context.config_loader.load_sweep_config(launcher.config, overrides)
            HydraConfig.instance().set_config(config)  # by which the name of the run's folder is resolved
            lost(config, overrides, _reason(job, str(error)))
            return [JobReturn(overrides=overrides, cfg=config, _return_value=None, status=JobStatus.COMPLETED)]

    Job.results = results  # type: ignore[method-assign, assignment]


def _reason(job: Any, told: str) -> str:
    """What became of the job, on one line: the last one of its traceback, or of its log."""
    trace = told.partition("failed during processing with trace:\n")[2].strip("-\n").partition("\n-----")[0]
    logs = [path for path in (job.paths.stderr, job.paths.stdout) if path.exists()]
    text = trace or "".join(path.read_text(errors="replace") for path in logs[:1])
    last = (["it left no log"] + [line.strip() for line in text.splitlines() if line.strip()])[-1]
    state = "" if trace else f" ({job.state})"  # else the last one heard of, which may be that it runs
    return f"job {job.job_id} of the cluster ended{state} without a result: {last} ({job.paths.folder})"
