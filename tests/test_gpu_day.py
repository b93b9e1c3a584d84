"""scripts/gpu_day.sh with the CPU in the place of a GPU: it leaves results, does nothing twice, tells what failed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TINY = "num_threads=1 network.channels=[2,4,4,4,4] dataset.image_size=32"


def called(out: Path, **environment: str) -> tuple[int, str]:
    env = os.environ | {"PYTHON": sys.executable, "DEVICE": "cpu", "STEPS": "1", "WORDS": TINY} | environment
    done = subprocess.run([ROOT / "scripts/gpu_day.sh", out], env=env, capture_output=True, text=True, timeout=240)
    return done.returncode, done.stdout + done.stderr


def test_jobs_leave_results_are_not_done_twice_and_failures_are_told(tmp_path: Path) -> None:
    assert called(tmp_path, ONLY="^check_cps$") == (0, "check_cps: agreed\n")
    found = json.loads((tmp_path / "check_cps.json").read_text())
    assert found["largest_difference"] == pytest.approx(0, abs=1e-6)
    assert [sorted(step) for step in found["losses"][0]] == [["cps", "supervised"]]
    code, output = called(tmp_path, ONLY="^check_(cps|bcp)$", WORDS="no_such_key=1")
    assert (code, output.splitlines()[0]) == (1, "check_cps: done before")
    assert "check_bcp: FAILED" in (tmp_path / "failed").read_text()
    assert "no_such_key" in (tmp_path / "check_bcp.log").read_text()
    code, output = called(tmp_path, ONLY="^check_bcp$", MINUTES="0")
    assert (code, output) == (0, "check_bcp: no time left\n")
