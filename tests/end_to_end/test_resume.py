"""A run that is killed or interrupted, at whatever moment, ends as if it had not been."""

import shlex
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import PHANTOM, Command, curve_in, differing, events, lasting, load, results, small_method, succeed, table

from ssl4seg.run.training import _doubt_of_best

STEPS, EVERY = 60, 20
METHODS = ("supervised", "uamt")  # the others resume in tests/methods/test_contract_runs.py


def command(method: str) -> tuple[str, ...]:
    return (*PHANTOM, *small_method(method), "labeled_ratio=0.5", f"iterations={STEPS}", f"eval_every={EVERY}")


def folder(home: Path, method: str) -> Path:
    return home / f"outputs/phantom/{method}/unet-0.5-s0"


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where each method's run went through in one go."""
    home = tmp_path_factory.mktemp("unbroken")
    for method in METHODS:
        succeed("train", *command(method), cwd=home)
    return home


def killed_while_writing(name: str, home: Path, method: str) -> None:
    """SIGKILL the run in the middle of writing the file `name`."""
    running = Command.start("train", *command(method), cwd=home, killed_writing=name)
    assert running.wait().code == -signal.SIGKILL
    assert (folder(home, method) / f"{name}.partial").exists()


def killed_between_validations(home: Path, method: str) -> None:
    """SIGKILL the run as soon as its first last.pt is there."""
    last = folder(home, method) / "last.pt"
    running = Command.start("train", *command(method), cwd=home).wait_for(last.exists)
    assert running.send(signal.SIGKILL).code == -signal.SIGKILL
    assert load(last)["step"] < STEPS


@pytest.fixture(scope="module", params=METHODS)
def killed(
    request: pytest.FixtureRequest, unbroken: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """A run that was killed six times, each time at another moment, and then ended."""
    method, home = request.param, tmp_path_factory.mktemp("killed")
    killed_while_writing("best.pt", home, method)
    killed_while_writing("last.pt", home, method)
    assert not (folder(home, method) / "last.pt").exists()
    killed_between_validations(home, method)
    killed_while_writing("last.pt", home, method)
    for name in ("cases_test.csv", "results.json"):
        killed_while_writing(name, home, method)
        assert load(folder(home, method) / "last.pt")["step"] == STEPS
    assert f"going on from step {STEPS}" in succeed("train", *command(method), cwd=home)
    return method, home


def test_a_killed_run_ends_with_the_weights_of_an_unbroken_one(killed: tuple[str, Path], unbroken: Path) -> None:
    method, home = killed
    for checkpoint in ("best.pt", "last.pt"):
        a, b = (load(folder(root, method) / checkpoint) for root in (unbroken, home))
        assert not differing(a, b)


def test_a_killed_run_that_takes_the_last_model_ends_with_the_weights_of_an_unbroken_one(tmp_path: Path) -> None:
    words = (*command("uamt"), "select=last")
    homes = [tmp_path / name for name in ("unbroken", "killed")]
    for home in homes:
        home.mkdir()
    last = folder(homes[1], "uamt") / "last.pt"
    running = Command.start("train", *words, cwd=homes[1]).wait_for(last.exists)
    assert running.send(signal.SIGKILL).code == -signal.SIGKILL
    for home in homes:
        succeed("train", *words, cwd=home)
    for checkpoint in ("best.pt", "last.pt"):
        a, b = (load(folder(home, "uamt") / checkpoint) for home in homes)
        assert a["step"] == b["step"] == STEPS
        assert not differing(a, b)


def test_a_killed_run_ends_with_the_results_of_an_unbroken_one(killed: tuple[str, Path], unbroken: Path) -> None:
    method, home = killed
    assert lasting(folder(home, method)) == lasting(folder(unbroken, method))
    for name in ("cases_val.csv", "cases_test.csv"):
        assert table(folder(home, method) / name) == table(folder(unbroken, method) / name)


def test_a_killed_run_leaves_no_step_twice_in_tensorboard(killed: tuple[str, Path], unbroken: Path) -> None:
    method, home = killed
    ours, theirs = (events(folder(root, method)) for root in (home, unbroken))
    tags = theirs.Tags()
    assert ours.Tags() == tags
    for tag in tags["scalars"]:
        assert curve_in(ours, tag) == curve_in(theirs, tag)
    for kind, read in (("images", "Images"), ("tensors", "Tensors")):
        for tag in tags[kind]:
            a, b = (getattr(found, read)(tag) for found in (theirs, ours))
            assert [event.step for event in a] == [event.step for event in b]


def test_a_killed_run_leaves_no_half_file(killed: tuple[str, Path], unbroken: Path) -> None:
    method, home = killed
    ours, theirs = ({p.name for p in folder(root, method).iterdir()} for root in (home, unbroken))
    assert ours == theirs


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_asked_to_stop_saves_and_goes_on(number: int, unbroken: Path, tmp_path: Path) -> None:
    path = folder(tmp_path, "uamt")
    running = Command.start("train", *command("uamt"), cwd=tmp_path).wait_for((path / "last.pt").exists)
    code, output = running.send(number)
    assert code == 130
    assert "Traceback" not in output
    assert shlex.join(["ssl4seg-train", *command("uamt")]) in output
    stopped = load(path / "last.pt")["step"]
    assert EVERY <= stopped < STEPS
    assert f"going on from step {stopped} of {STEPS}" in succeed("train", *command("uamt"), cwd=tmp_path)
    for checkpoint in ("best.pt", "last.pt"):
        assert not differing(load(folder(unbroken, "uamt") / checkpoint), load(path / checkpoint))


def test_a_damaged_checkpoint_is_named(unbroken: Path, tmp_path: Path) -> None:
    shutil.copytree(unbroken, tmp_path, dirs_exist_ok=True)
    path = folder(tmp_path, "supervised")
    (path / "results.json").unlink()
    (path / "last.pt").write_bytes((path / "last.pt").read_bytes()[:1000])
    code, output = Command.start("train", *command("supervised"), cwd=tmp_path).wait()
    assert code == 1
    assert f"{path / 'last.pt'}: is not a checkpoint, or is damaged" in output
    assert "Traceback" not in output


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a run was stopped between two validations."""
    home = tmp_path_factory.mktemp("stopped")
    path = folder(home, "supervised")
    running = Command.start("train", *command("supervised"), cwd=home).wait_for((path / "last.pt").exists)
    assert running.send(signal.SIGINT).code == 130
    assert load(path / "last.pt")["best"]["step"] == load(path / "best.pt")["step"]
    return home


def flip(file: Path) -> None:
    """One bit of the weights."""
    content = bytearray(file.read_bytes())
    weights = load(file)["method"]["student.head.bias"].numpy().tobytes()
    content[content.index(weights) + len(weights) // 2] ^= 1
    file.write_bytes(content)


def another_step(file: Path) -> None:
    torch.save(load(file) | {"step": 13}, file)


def another_run(file: Path) -> None:
    """Of the same step, with other scores."""
    content = load(file)
    content["val"]["dice"]["mean"] += 0.01
    torch.save(content, file)


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (Path.unlink, "there is no such checkpoint"),
        (flip, "is not a checkpoint, or is damaged"),
        (another_step, "is of step 13, but the best model so far is that of step"),
        (another_run, "has other scores than the best model so far"),
    ],
)
def test_a_best_model_that_is_not_the_one_of_last_pt_is_searched_anew(
    harm: Callable[[Path], None], reason: str, unbroken: Path, stopped: Path, tmp_path: Path
) -> None:
    path = folder(shutil.copytree(stopped, tmp_path, dirs_exist_ok=True), "supervised")
    at = load(path / "last.pt")["step"]
    harm(path / "best.pt")
    output = succeed("train", *command("supervised"), cwd=tmp_path)
    assert f"{path / 'best.pt'}: {reason}" in output
    assert f"the search for the best model starts anew from step {at}" in output
    best, last = load(path / "best.pt"), load(path / "last.pt")
    assert at < best["step"] <= STEPS
    assert (best["step"], best["val"]) == (last["best"]["step"], last["best"]["val"])
    assert not differing(last["method"], load(folder(unbroken, "supervised") / "last.pt")["method"])
    assert results(path)["best_step"] == best["step"]


def test_a_best_model_that_is_lost_after_the_last_step_is_the_last_one(unbroken: Path, tmp_path: Path) -> None:
    shutil.copytree(unbroken, tmp_path, dirs_exist_ok=True)
    path = folder(tmp_path, "supervised")
    for name in ("results.json", "best.pt"):
        (path / name).unlink()
    assert f"starts anew from step {STEPS}" in succeed("train", *command("supervised"), cwd=tmp_path)
    assert (results(path)["status"], results(path)["best_step"]) == ("finished", STEPS)
    assert not differing(load(path / "best.pt")["method"], load(path / "last.pt")["method"])


def test_before_the_first_validation_there_is_no_best_model_to_doubt(tmp_path: Path) -> None:
    assert _doubt_of_best(tmp_path / "best.pt", {}) == ""


def test_a_folder_in_use_is_refused_to_a_second_process(tmp_path: Path) -> None:
    path = folder(tmp_path, "supervised")
    first = Command.start("train", *command("supervised"), "iterations=100000", cwd=tmp_path)
    first.wait_for((path / "last.pt").exists)
    code, output = Command.start("train", *command("supervised"), "iterations=100000", cwd=tmp_path).wait()
    first.send(signal.SIGKILL)
    assert code == 1
    assert f"{path}: another process is at work" in output
