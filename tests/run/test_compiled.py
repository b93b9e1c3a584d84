"""Compiled networks: the same losses and the same names in a checkpoint, and what is said where nothing can compile."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers import NAMES, PHANTOM, composed, engine_in, go
from torch._inductor import config as inductor
from torch._inductor.utils import fresh_cache

from ssl4seg import checkpoint
from ssl4seg.errors import UserError
from ssl4seg.run.compiled import check_compiler
from ssl4seg.run.settings import RunSettings, read
from ssl4seg.run.training import Training
from ssl4seg.run.versions import current

WORDS = (*PHANTOM, "method=supervised", "network.channels=[2,4]", "network.dropout=[0,0]")


@pytest.fixture(autouse=True)
def _compiling_here() -> Iterator[None]:
    """Nothing from an earlier call, no pool of processes that compile, and no vector instructions, whose headers and
    trials take a third of the time."""
    torch._dynamo.reset()
    with fresh_cache(), inductor.patch({"compile_threads": 1, "cpp.vec_isa_ok": True, "cpp.simdlen": 1}):
        yield
    torch._dynamo.reset()


def test_a_missing_compiler_is_told_before_the_first_step() -> None:
    with (
        inductor.patch({"cpp.cxx": ("no-such-compiler",)}),
        pytest.raises(UserError, match=r"engine\.compile=default: PyTorch cannot compile for cpu .* C\+\+ compiler"),
    ):
        check_compiler("default", torch.device("cpu"))


def test_compiled_networks_take_the_same_steps_and_write_the_same_names(tmp_path: Path) -> None:
    found = {}
    for mode in ("false", "default"):
        engine = engine_in(tmp_path / mode, composed(*WORDS, f"engine.compile={mode}"))
        go(engine, 2)
        found[mode] = checkpoint.load(tmp_path / mode / "last.pt")["method"]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 3  # the trial sum, encode, pyramid
    assert found["default"].keys() == found["false"].keys()
    for name, value in found["default"].items():
        torch.testing.assert_close(value, found["false"][name], rtol=1e-4, atol=1e-6)
    image = torch.rand(2, 1, 40, 24)
    compiled = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert engine.method.eval().predict(image).shape == (2, 4, 40, 24)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == compiled  # predictions stay as they are


def test_cuda_graphs_are_refused_on_the_cpu() -> None:
    with pytest.raises(UserError, match=r"engine\.compile=reduce-overhead: .* but the run is on cpu"):
        Training(composed(*WORDS, "engine.compile=reduce-overhead"), NAMES, None).engine()


@pytest.mark.parametrize("value", ["true", "max", "null"])
def test_other_values_are_refused(value: str) -> None:
    with pytest.raises(UserError, match=r"engine\.compile=.*: expected false, default or reduce-overhead"):
        read(RunSettings, composed(*WORDS, f"engine.compile={value}"))


def test_a_run_of_an_earlier_version_is_not_compiled() -> None:
    config = composed(*WORDS)
    del config["engine"]["compile"]
    assert read(RunSettings, current(config)).engine.compile is False
