"""precision=16-mixed: the scale of the loss falls where a gradient overflows, and a resumed run goes on with it.

The same precision plugin as on a GPU, with float16 on the CPU, where the program itself refuses it as useless.
"""

from pathlib import Path

import pytest
import torch
from helpers import AVERAGING, NAMES, PHANTOM, composed, differing, go, load
from lightning_fabric import Fabric

from ssl4seg.run.device import Mixed
from ssl4seg.run.engine import Engine
from ssl4seg.run.folder import RunFolder
from ssl4seg.run.training import Training

WORDS = (*PHANTOM, "method=mean_teacher", AVERAGING)
OVERFLOWING = 2.0**60


def engine_at(path: Path, scale: float, *words: str) -> Engine:
    config = composed(*WORDS, *words)
    training = Training(config, NAMES, RunFolder(path, config, resume=True))
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=3)
    training.fabric = Fabric(accelerator="cpu", plugins=[Mixed("16-mixed", "cpu", scaler=scaler)])
    return training.engine()


def scale_of(engine: Engine) -> float:
    return engine.fabric.strategy.precision.scaler.get_scale()


@pytest.mark.parametrize("clipped", [(), ("engine.clip_norm=1",)])
def test_a_step_that_overflows_is_left_out_and_halves_the_scale(tmp_path: Path, clipped: tuple[str, ...]) -> None:
    engine = engine_at(tmp_path / "run", OVERFLOWING, *clipped)
    before = {name: p.detach().clone() for name, p in engine.method.student.named_parameters()}
    go(engine, 2)
    assert scale_of(engine) == OVERFLOWING / 4
    assert all(torch.equal(p, before[name]) for name, p in engine.method.student.named_parameters())
    engine.check_finite(weights=True)  # a gradient that overflowed is no fault of the run


def test_a_resumed_run_has_the_scale_and_steps_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    go(engine_at(tmp_path / "whole", 1024.0), 4)
    go(engine_at(tmp_path / "parts", 1024.0), 2)
    resumed = engine_at(tmp_path / "parts", 4.0)  # what last.pt holds counts
    assert (resumed.step, scale_of(resumed)) == (2, 1024.0)
    go(resumed, 4)
    assert scale_of(resumed) == 2048.0  # it doubles after three steps, two of them before the stop
    whole, parts = load(tmp_path / "whole/last.pt"), load(tmp_path / "parts/last.pt")
    assert whole["scaler"]["scale"] == 2048.0
    assert differing(whole, parts) == []
