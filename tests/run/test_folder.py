"""The run folder: results that were damaged or lost, and disks that are full."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import PHANTOM, lasting, refused, results, shell, succeed

from ssl4seg.errors import UserError
from ssl4seg.run.folder import RunFolder, finished

RUN = Path("outputs/phantom/supervised/unet-0.1-s0")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run."""
    home = tmp_path_factory.mktemp("done")
    succeed("train", *PHANTOM, cwd=home)
    return home


@pytest.fixture
def home(done: Path, tmp_path: Path) -> Path:
    shutil.copytree(done, tmp_path, dirs_exist_ok=True)
    return tmp_path


def unfinished(home: Path) -> Path:
    """The run's folder, without what is written at its end."""
    folder = home / RUN
    for name in ("results.json", "cases_test.csv"):
        (folder / name).unlink()
    return folder


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ('{"status": "finished"}', "results.json: lacks val, test, selected_by"),
        ('{"status": "finished", "val": {"di', "results.json: cannot be read"),
        ("", "results.json: cannot be read"),
        ("[]", "results.json: holds no JSON object"),
    ],
)
def test_damaged_results_are_written_again_from_the_checkpoints(
    content: str, fault: str, done: Path, home: Path
) -> None:
    (home / RUN / "results.json").write_text(content)
    output = succeed("train", *PHANTOM, cwd=home)
    assert fault in output
    assert "it is written again" in output
    assert "going on from step 4 of 4" in output
    assert lasting(home / RUN) == lasting(done / RUN)


@pytest.mark.parametrize("name", ["cases_val.csv", "cases_test.csv"])
@pytest.mark.parametrize("ended", [True, False])
def test_a_deleted_table_is_written_again(name: str, ended: bool, done: Path, home: Path) -> None:
    folder = home / RUN if ended else unfinished(home)
    (folder / name).unlink(missing_ok=True)
    succeed("train", *PHANTOM, cwd=home)
    assert (folder / name).read_bytes() == (done / RUN / name).read_bytes()
    assert "is finished" in succeed("train", *PHANTOM, cwd=home)


def test_a_finished_run_without_checkpoints_stays_finished(home: Path) -> None:
    for name in ("best.pt", "last.pt", "cases_val.csv"):
        (home / RUN / name).unlink()
    assert finished(home / RUN)
    assert "is finished" in succeed("train", *PHANTOM, cwd=home)


def test_damaged_results_beside_best_alone_are_no_reason_to_train_over_it(home: Path) -> None:
    (home / RUN / "last.pt").unlink()
    (home / RUN / "results.json").write_text("{")
    before = (home / RUN / "best.pt").read_bytes()
    output = refused("train", *PHANTOM, cwd=home)
    assert "results.json: cannot be read" in output
    assert "there is no last.pt" in output
    assert (home / RUN / "best.pt").read_bytes() == before


def spoilt(state: dict[str, Any]) -> dict[str, Any]:
    weights = {name: value.clone() for name, value in state["method"].items()}
    next(value for value in weights.values() if value.is_floating_point()).view(-1)[0] = torch.nan
    return state | {"method": weights}


def test_a_last_checkpoint_from_which_nothing_goes_on_is_refused(home: Path) -> None:
    folder = unfinished(home)
    good = torch.load(folder / "last.pt", weights_only=True)
    shutil.copy(folder / "best.pt", folder / "last.pt")
    output = refused("train", *PHANTOM, cwd=home)
    assert "last.pt: lacks best, chosen, optimizers" in output
    torch.save(spoilt(good), folder / "last.pt")
    output = refused("train", *PHANTOM, cwd=home)
    assert "last.pt: holds weights that are NaN or infinite" in output
    assert "good" not in output
    torch.save(good, folder / "last.pt")
    succeed("train", *PHANTOM, cwd=home)


@pytest.mark.parametrize("kept", [100, 0])
def test_curves_that_a_cut_event_file_has_lost_are_told(kept: int, home: Path) -> None:
    folder = unfinished(home)
    (events,) = (file for file in folder.glob("tensorboard/events*") if not file.name.endswith(".final"))
    assert "damaged" not in succeed("train", *PHANTOM, cwd=home)
    folder = unfinished(home)
    events.write_bytes(events.read_bytes()[:kept])
    output = succeed("train", *PHANTOM, cwd=home)
    assert f"{events.name}: is damaged; the curves have no values of it from step 1 to 4" in output


def test_nothing_of_a_run_is_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "private").write_text("mine")
    for name in (".lock", "train.log", "tensorboard"):
        run = tmp_path / f"run{name}"
        run.mkdir()
        (run / name).symlink_to(tmp_path / "private")
        with pytest.raises(UserError, match=f"{name}: is a link; nothing is written through it"):
            RunFolder(run, {})
    assert (tmp_path / "private").read_text() == "mine"


# -- full disks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["best.pt", "last.pt", "cases_val.csv", "split.json"])
def test_a_full_disk_is_told_once_with_the_file(name: str, tmp_path: Path) -> None:
    folder = tmp_path / RUN
    folder.mkdir(parents=True)
    for full in (f"{name}.partial", "results.json.partial"):  # writing the failure fails too
        (folder / full).symlink_to("/dev/full")
    output = refused("train", *PHANTOM, cwd=tmp_path)
    assert output.count("No space left on device") == 1
    assert f"{name}: cannot be written (No space left on device). No checkpoint is written yet" in output
    succeed("train", *PHANTOM, cwd=tmp_path)


def test_the_last_checkpoint_is_whole_where_the_disk_became_full(home: Path) -> None:
    folder = unfinished(home)
    (folder / "cases_test.csv.partial").symlink_to("/dev/full")
    (folder / "results.json.partial").symlink_to("/dev/full")
    (folder / "train.log").unlink()
    (folder / "train.log").symlink_to("/dev/full")
    output = refused("train", *PHANTOM, cwd=home)
    assert output.count("train.log: cannot be written (No space left on device); the run goes on without it") == 1
    assert output.count("No space left on device") == 2
    assert f"cases_test.csv: cannot be written (No space left on device). {folder}/last.pt is whole" in output
    assert "the same command goes on from it" in output
    (folder / "train.log").unlink()
    succeed("train", *PHANTOM, cwd=home)
    assert results(folder)["status"] == "finished"


LIMITED = """
import resource, sys
from ssl4seg.train import main

resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))  # more than last.pt has, less than the events
main()
"""


def test_event_files_that_cannot_be_written_are_named_once_and_the_run_goes_on(tmp_path: Path) -> None:
    code, output = shell(sys.executable, "-c", LIMITED, *PHANTOM, "engine.num_overlays=4", cwd=tmp_path)
    assert code == 0, output
    assert "Traceback" not in output
    assert output.count("File too large") == 1
    assert "logger=tensorboard: cannot go on (File too large); the run goes on without it" in output
    assert results(tmp_path / RUN)["status"] == "finished"


def test_checkpoints_that_the_disk_cannot_hold_are_refused_at_the_start(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run", {})
    free = shutil.disk_usage(tmp_path).free
    folder.check_space(free // 4, free // 4)
    with pytest.raises(UserError, match=r"run: [\d,.]+ MiB are free on this disk, but .* need [\d,.]+ MiB more"):
        folder.check_space(free, free)
