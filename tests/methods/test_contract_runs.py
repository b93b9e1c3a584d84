"""Every method in conf/method in the engine: it resumes exactly in each of its stages, and runs in two processes."""

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import acdc, composed, differing, engine_in, go, load, run_two, small_method, write_h5

from ssl4seg.commands.conf import choices, conf_dir

METHODS = choices("method", [conf_dir()])
STEPS = 8


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_h5(tmp_path_factory.mktemp("whole") / "ACDC")


def config_of(method: str, root: Path) -> dict[str, Any]:
    scales = ("network.channels=[4,8,8]", "network.dropout=[0.1,0.1,0.1]")  # two decoder maps, for urpc
    return composed(*acdc(root), *scales, *small_method(method), "labeled_cases=1", f"iterations={STEPS}")


@pytest.mark.parametrize("method", METHODS)
def test_a_run_stopped_in_each_stage_ends_as_if_it_had_not_been(method, root, tmp_path):
    config = config_of(method, root)
    unbroken = engine_in(tmp_path / "unbroken", config)
    end = STEPS if unbroken.method.stages else 3
    go(unbroken, end)
    starts = [0, *(round(share * STEPS) for share in unbroken.method.stages)]
    for stop in sorted({*starts[1:], *(start + 1 for start in starts)}):  # at each border, and one step later
        go(engine_in(tmp_path / "broken", config), stop)
    go(engine_in(tmp_path / "broken", config), end)
    assert not differing(*(load(tmp_path / run / "last.pt") for run in ("unbroken", "broken")))


TWO = """
import json
from pathlib import Path

import torch
import torch.distributed as dist
from helpers import NAMES
from ssl4seg.run.training import Training


def check(method, config, steps=2):
    # Whether each step has moved the encoder.
    config["engine"]["devices"] = 2
    engine = Training(config, NAMES, None).engine()
    weight, moved = next(engine.method.student.encoder.parameters()), []
    before = torch.cat([p.detach().flatten() for p in engine.method.parameters()])
    for _ in range(steps):
        old = weight.detach().clone()
        engine.train_step()
        engine.step += 1
        moved.append(not torch.equal(weight, old))
    after = torch.cat([p.detach().flatten() for p in engine.method.parameters()])
    other = after.clone()
    dist.broadcast(other, 0)
    assert torch.equal(after, other), f"{method}: the processes differ by {(after - other).abs().max()}"
    assert after.isfinite().all() and not torch.equal(after, before), method
    if engine.method.stages:
        engine.begin_stage(1)  # each has seen other images, and their batch norm's statistics are frozen here
        for name, value in engine.method.state_dict().items():
            other = value.clone()
            dist.broadcast(other, 0)
            assert torch.equal(value, other), f"{method}: the processes differ in {name}"
    return moved


def main():
    configs = json.loads(Path("configs.json").read_text())
    for method, config in configs.items():
        check(method, config)
    for method in ("supervised", "gan", "st_plus_plus"):
        configs[method]["transfer"]["freeze_encoder"] = 1
        assert check(method, configs[method], steps=3) == [False, True, True], method
    print("all the same")
"""


def test_two_processes_hold_the_same_weights_whatever_the_method(root, tmp_path):
    (tmp_path / "both.py").write_text(TWO)
    (tmp_path / "configs.json").write_text(json.dumps({method: config_of(method, root) for method in METHODS}))
    for code, output in run_two("both", cwd=tmp_path, env={"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}):
        assert code == 0, output
        assert output.endswith("all the same\n")
