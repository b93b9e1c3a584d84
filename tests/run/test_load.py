"""Other weights than those that were tested are told, by eval, predict and the report."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import PHANTOM, load, results, succeed
from PIL import Image

from ssl4seg.run.folder import write_json

RUN = "outputs/phantom/supervised/unet-0.1-s0"
DOUBT = "best.pt is not the one that was tested"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, beside a picture."""
    home = tmp_path_factory.mktemp("whole")
    succeed("train", *PHANTOM, cwd=home)
    Image.fromarray(np.arange(1600, dtype=np.uint8).reshape(40, 40)).save(home / "a.png")
    return home


@pytest.fixture
def run(home: Path, tmp_path: Path) -> Path:
    """A copy of the run, beside one of the picture."""
    return shutil.copytree(home, tmp_path, dirs_exist_ok=True) / RUN


def outputs(run: Path, home: Path) -> list[str]:
    """Of eval, predict and the report with pictures."""
    return [
        succeed("eval", f"run={run}", "device=cpu", cwd=home),
        succeed("predict", f"run={run}", "input=a.png", "output=masks", "device=cpu", cwd=home),
        succeed("report", "outputs", "--pictures", cwd=home),
    ]


def test_results_hold_the_hash_of_the_tested_weights(run: Path) -> None:
    digest = hashlib.sha256()
    for name, value in sorted(load(run / "best.pt")["method"].items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode() + value.numpy().tobytes())
    assert results(run)["weights_sha256"] == digest.hexdigest()


def test_other_weights_are_told(run: Path, tmp_path: Path) -> None:
    assert not [output for output in outputs(run, tmp_path) if DOUBT in output]
    succeed("train", *PHANTOM, "seed=1", "iterations=2", cwd=tmp_path)
    other = run.with_name("unet-0.1-s1")
    shutil.copy(other / "best.pt", run)
    shutil.rmtree(other)
    evaluated, predicted, reported = outputs(run, tmp_path)
    for output in (evaluated, predicted):
        assert f"{RUN}: {DOUBT}" in output
    assert "left out: pictures of supervised" in reported
    assert f"{RUN}: {DOUBT}" in reported
    assert DOUBT in (tmp_path / "outputs/report.html").read_text()
    output = succeed("eval", f"run={run}", "checkpoint=last", "device=cpu", cwd=tmp_path)
    assert DOUBT not in output  # last.pt was never called the tested one


@pytest.mark.parametrize("text", ["{", "{}"])
def test_results_that_do_not_say_are_not_asked(text: str, run: Path, tmp_path: Path) -> None:
    (run / "results.json").write_text(text)
    assert DOUBT not in succeed("eval", f"run={run}", "device=cpu", cwd=tmp_path)


def test_the_report_takes_an_older_run(run: Path, tmp_path: Path) -> None:
    write_json(run / "results.json", {k: v for k, v in results(run).items() if k != "weights_sha256"})
    assert not [output for output in outputs(run, tmp_path) if DOUBT in output]
