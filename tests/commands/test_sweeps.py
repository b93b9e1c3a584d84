"""Sweeps by launchers and sweepers of other packages, with runs that fail."""

import io
import json
import operator
import os
import re
from pathlib import Path

import pytest
import submitit
import yaml
from helpers import PHANTOM, lasting, refused, results, run, script, shell, succeed
from omegaconf import OmegaConf

from ssl4seg.commands import cluster, sweeps
from ssl4seg.commands.cli import _line_of
from ssl4seg.errors import UserError
from ssl4seg.run import folder as runs

FAULTY = '''
import os
import signal

from ssl4seg.methods.supervised import Supervised


class Faulty(Supervised):
    """Breaks at the third step."""

    def forward(self, phase, batch, progress):
        if progress.step == 2:
            raise ZeroDivisionError("on purpose")
        return super().forward(phase, batch, progress)


class Killed(Supervised):
    """Is killed at the third step, as by the system for want of memory."""

    def forward(self, phase, batch, progress):
        if progress.step == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(phase, batch, progress)
'''


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods with a fault, from outside of the package."""
    mine = tmp_path_factory.mktemp("mine")
    (mine / "faulty.py").write_text(FAULTY)
    (mine / "method").mkdir()
    for name in ("faulty", "killed"):
        (mine / f"method/{name}.yaml").write_text(f"_target_: faulty.{name.capitalize()}\n")
    return mine


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_a_failing_run_does_not_end_the_others_and_the_report_says_why(
    mine: Path, tmp_path: Path, launcher: str
) -> None:
    # Four runs, of which one comes to its end; another breaks, and two are refused.
    keys = ("--config-dir", mine, "-m", *PHANTOM, "method=faulty,supervised", "labeled_cases=99,1")
    env = {"PYTHONPATH": str(mine)}
    if launcher == "joblib":
        more = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "num_threads=null")
        code, output = shell(script("train"), *keys, *more, cwd=tmp_path, env=env)
    else:
        code, output = run("train", *keys, cwd=tmp_path, env=env)
    assert code == 1
    told = output.partition("3 run(s) failed:\n")[2]
    assert told.count("\n  labeled_cases=99: expected 1 to 4") == 2
    assert told.count("\n  ZeroDivisionError: on purpose") == 1
    assert "Error executing job" not in output

    phantom = tmp_path / "outputs/phantom"
    done = results(phantom / "supervised/unet-1cases-s0")
    assert done["status"] == "finished"
    broken = phantom / "faulty/unet-1cases-s0"
    assert (results(broken)["status"], results(broken)["error"]) == ("failed", "ZeroDivisionError: on purpose")
    assert 'raise ZeroDivisionError("on purpose")' in (broken / "train.log").read_text()
    assert not list(phantom.rglob("*99cases*"))
    if launcher == "joblib":
        assert "\nphantom/supervised/unet-1cases-s0: step 4: val Dice " in output
        assert int(done["versions"]["num_threads"]) == max(1, len(os.sched_getaffinity(0)) // 2)

    report = succeed("report", "outputs", "--no-figures", cwd=tmp_path)
    assert f"{broken.relative_to(tmp_path)}: failed\n    ZeroDivisionError: on purpose\n" in report
    for method in ("faulty", "supervised"):
        assert f"method={method} labeled_cases=99: refused\n    labeled_cases=99: expected 1 to 4" in report.replace(
            "labeled_cases=99 method=" + method, f"method={method} labeled_cases=99"
        )


def test_a_fault_outside_of_a_sweep_has_its_traceback(mine: Path, tmp_path: Path) -> None:
    command = ("train", "--config-dir", mine, *PHANTOM, "method=faulty")
    code, output = run(*command, cwd=tmp_path, env={"PYTHONPATH": str(mine)})
    assert code == 1
    assert output.rstrip().endswith("ZeroDivisionError: on purpose")


@pytest.fixture
def swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> sweeps.Sweep:
    """A sweep of runs in tmp_path, where one before it was cut off as it wrote."""
    monkeypatch.setattr(sweeps.Sweep, "current", None)
    (tmp_path / "failed.jsonl").write_text('{"sweep": "of befo')
    config = {"sweep": {"dir": str(tmp_path)}, "launcher": {"_target_": "hydra.BasicLauncher"}}
    swept = sweeps.Sweep()
    swept.on_multirun_start(OmegaConf.create({"hydra": config}))
    return swept


def test_the_line_of_a_failed_run_makes_sense_alone(tmp_path: Path) -> None:
    words = ("-m", *PHANTOM, "labeled_ratio=1", "iterations=1", "eval_every=1")
    succeed("train", *words, "seed=0", cwd=tmp_path)
    told = run("train", *words, "seed=0", "optimizer.lr=0.5", "method=supervised", cwd=tmp_path).output
    (line,) = told.partition("1 run(s) failed:\n")[2].splitlines()[1:]
    assert "another configuration (optimizer.lr). Give this run a name of its own with tag=WORD" in line
    assert line.endswith("or delete the folder.")


def test_a_line_that_only_announces_the_next_is_shown_with_it() -> None:
    assert _line_of("it could run code:\n  dataset: a.B\nadd trust=true") == "it could run code: dataset: a.B"
    assert _line_of("KeyError: \n\nwhat") == "KeyError: what"
    assert _line_of("one\ntwo") == "one"
    assert _line_of("alone:") == "alone:"


def test_a_line_that_was_cut_off_hides_no_failure(swept: sweeps.Sweep, tmp_path: Path) -> None:
    line = {"sweep": swept.name, "overrides": "seed=1", "folder": "a", "error": "what"}
    with (tmp_path / "failed.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n" + '{"sweep": "')
    assert swept.failures() == [line]


def test_lines_of_runs_that_are_computed_at_once_say_whose_they_are() -> None:
    screen = io.StringIO()
    one, other = sweeps.Named(screen, "one"), sweeps.Named(screen, "other")
    for stream, text in ((one, "step 1"), (other, "step 9"), (one, "\nstep"), (other, "\n"), (one, " 2\nend\n")):
        stream.write(text)
    assert screen.getvalue() == "one: step 1\nother: step 9\none: step 2\none: end\n"


# -- Slurm ------------------------------------------------------------------------------------------------------------

CLUSTER = {  # what submitit asks of a cluster, for an array of two jobs that run here at once
    "sbatch": """
        cp "$1" sbatch.sh
        export SLURM_ARRAY_JOB_ID=12 SLURM_JOB_NUM_NODES=1 SLURM_NODEID=0 SLURM_NTASKS=1 SLURM_PROCID=0 SLURM_LOCALID=0
        for task in 0 1; do
          export SLURM_JOB_ID=$((12 + task)) SLURM_ARRAY_TASK_ID=$task
          touch ended-$task
          (setsid sh sbatch.sh; echo $? > ended-$task) > /dev/null 2>&1 &
        done
        echo "Submitted batch job 12"
        """,
    "srun": """
        while :; do case "$1" in --unbuffered) shift;; --*) shift 2;; *) break;; esac; done
        exec "$@" > srun-$SLURM_ARRAY_TASK_ID.log 2>&1
        """,
    "sacct": """
        echo "JobID|State|NodeList"
        for task in 0 1; do
          state=RUNNING
          case "$(cat ended-$task)" in 0) state=COMPLETED;; 137) state=OUT_OF_MEMORY;; ?*) state=FAILED;; esac
          echo "12_$task|$state|here"
        done
        """,
}


def test_slurm_is_handed_a_job_for_each_run_and_one_that_it_ends_is_a_run_that_failed(
    mine: Path, tmp_path: Path
) -> None:
    for name, text in CLUSTER.items():
        file = tmp_path / "bin" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text("#!/bin/sh\n" + text)
        file.chmod(0o755)
    keys = ("hydra/launcher=slurm", "hydra.launcher.partition=gpus", "hydra.launcher.setup=[module load cuda]")
    choices = ("method=killed,supervised", "labeled_cases=1")
    (tmp_path / "sitecustomize.py").write_text("import submitit\nsubmitit.Job._results_timeout_s = 1\n")  # of 15
    places = {"PATH": (tmp_path / "bin", os.environ["PATH"]), "PYTHONPATH": (mine, tmp_path)}
    env = {name: os.pathsep.join(map(str, paths)) for name, paths in places.items()}
    code, output = shell(script("train"), "--config-dir", mine, "-m", *PHANTOM, *keys, *choices, cwd=tmp_path, env=env)
    told = output + "".join(file.read_text() for file in tmp_path.glob("srun*.log"))
    assert code == 1, told
    failed = output.partition("\n1 run(s) failed:\n")[2]
    reason = "job 12_0 ended (OUT_OF_MEMORY) without a result: "
    assert re.search(rf"method=killed labeled_cases=1\n  {re.escape(reason)}", failed), told

    finished = tmp_path / "outputs/phantom/supervised/unet-1cases-s0"
    assert results(finished)["status"] == "finished"  # though waited for after the one that was killed
    killed = results(tmp_path / "outputs/phantom/killed/unet-1cases-s0")
    assert (killed["status"], killed["error"][: len(reason)]) == ("failed", reason)
    report = succeed("report", "outputs", "--no-figures", cwd=tmp_path)
    assert f"outputs/phantom/killed/unet-1cases-s0: failed\n    {reason}" in report

    lines = (tmp_path / "sbatch.sh").read_text().splitlines()
    asked = {line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")}
    assert asked >= {"job-name=ssl4seg", "partition=gpus", "array=0-1%2", "time=1440", "gpus-per-node=1", "nodes=1"}
    assert asked >= {"cpus-per-task=8", "mem=32GB", "ntasks-per-node=1"}
    assert "module load cuda" in lines
    assert any(line.startswith("srun ") and "submitit.core._submit" in line for line in lines)


def test_a_job_that_breaks_before_the_run_begins_is_told_by_the_last_line_of_its_traceback(tmp_path: Path) -> None:
    job = submitit.LocalExecutor(tmp_path).submit(operator.truediv, 1, 0)
    with pytest.raises(submitit.core.utils.FailedJobError) as raised:
        job.results()
    told = cluster._reason(job, str(raised.value))
    last = "ZeroDivisionError: division by zero"
    assert told == f"job {job.job_id} ended without a result: {last} ({tmp_path})"


def test_a_job_that_is_lost_after_its_run_was_finished_has_a_score(swept: sweeps.Sweep, tmp_path: Path) -> None:
    found = {"status": "finished", "selected_by": "val dice mean", "val": {"dice": {"mean": 0.5}}, "test": {}}
    runs.write_json(tmp_path / "results.json", found)
    (tmp_path / "config.yaml").write_text("metrics: {unit: auto}")
    assert swept.on_job_lost(["seed=1"], ".", "killed") == 0.5
    assert swept.failures() == []


def test_a_job_that_is_lost_and_queued_again_keeps_its_folder(swept: sweeps.Sweep, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed: 1")
    with runs.locked(tmp_path / ".lock"):
        assert swept.on_job_lost(["seed=1"], ".", "killed") is None
    assert not (tmp_path / "results.json").exists()
    assert swept.on_job_lost(["seed=2", "hydra.launcher.mem_gb=1"], ".", "killed too") is None
    assert lasting(tmp_path) == {"status": "failed", "error": "killed too"}
    swept.on_job_lost(["seed=2"], ".", "another of its processes")
    told = [(line["overrides"], line["folder"], line["error"]) for line in swept.failures()]
    assert told == [("seed=1", ".", "killed"), ("seed=2", ".", "killed too")]


# -- search -----------------------------------------------------------------------------------------------------------

SEARCH = ("-m", *PHANTOM, "hydra/sweeper=optuna", "optimizer.lr=tag(log, interval(0.01, 0.1))")


def test_a_search_over_two_parameters_finds_the_best_val_score_and_goes_on(tmp_path: Path) -> None:
    searched = (
        *(*SEARCH, "method=mean_teacher", "method.consistency_weight=interval(0.1, 1)"),
        "tag=lr${optimizer.lr}-w${method.consistency_weight}",
    )
    output = succeed("train", *searched, "hydra.sweeper.n_trials=2", cwd=tmp_path)
    output = succeed("train", *searched, "hydra.sweeper.n_trials=3", cwd=tmp_path)
    assert output.count("is finished; its results") == 2
    folders = [file.parent for file in tmp_path.glob("outputs/phantom/mean_teacher/*/results.json")]
    assert len(folders) == 3
    scores = {results(folder)["val"]["dice"]["mean"]: folder for folder in folders}
    found = yaml.safe_load((tmp_path / "outputs/optimization_results.yaml").read_text())
    assert found["best_value"] == max(scores)
    config = yaml.safe_load((scores[max(scores)] / "config.yaml").read_text())
    assert found["best_params"] == {
        "optimizer.lr": config["optimizer"]["lr"],
        "method.consistency_weight": config["method"]["consistency_weight"],
    }
    assert f"best of the search, with {max(scores):.4f} on val: optimizer.lr={config['optimizer']['lr']} " in output


def test_a_search_goes_on_after_failures_and_says_if_nothing_was_found(tmp_path: Path) -> None:
    output = refused("train", *SEARCH, "labeled_cases=99", "hydra.sweeper.n_trials=2", cwd=tmp_path)
    assert "error: optuna: No trials are completed yet." in output
    assert "\n2 run(s) failed:\n" in output
    lines = (tmp_path / "outputs/failed.jsonl").read_text().splitlines()
    assert [json.loads(line)["error"][:16] for line in lines] == ["labeled_cases=99"] * 2


def test_what_a_search_is_told_beside_the_command_line() -> None:
    defaults = sweeps.search_defaults(["hydra/sweeper=optuna"])
    assert "hydra.sweeper.direction=maximize" in defaults
    given = ["hydra/sweeper=optuna", "hydra.sweeper.direction=minimize", "hydra/sweeper/sampler=grid"]
    assert sweeps.search_defaults(given) == ["hydra.sweeper.n_jobs=1", "hydra.sweeper.max_failure_rate=1"]


def test_an_interval_without_a_search_and_a_value_out_of_range_are_refused(tmp_path: Path) -> None:
    output = refused("train", "-m", "optimizer.lr=interval(0.01,0.1)", cwd=tmp_path)
    assert "hydra/sweeper=optuna" in output
    keys = ("-m", "hydra/sweeper=optuna", "labeled_ratio=interval(0.5,1.5)")
    assert "labeled_ratio=1.5: expected a number in (0, 1]" in refused("train", *keys, cwd=tmp_path)
    assert "direction: maximize" in succeed("train", keys[1], "--cfg", "hydra", cwd=tmp_path)


def test_a_plugin_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for choice in sweeps.PLUGINS:
        sweeps.check_plugin(choice)
    sweeps.check_plugin("hydra/launcher=basic")
    monkeypatch.setitem(sweeps.PLUGINS, "hydra/launcher=moon", "hydra_moon_launcher")
    with pytest.raises(UserError, match=r"hydra/launcher=moon needs .* pip install 'ssl4seg\[sweeps\]'"):
        sweeps.check_plugin("hydra/launcher=moon")
