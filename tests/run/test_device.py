"""What a run says when memory ends: for slices and for volumes, with keys that there are."""

import inspect
import re

import pytest
import torch

from ssl4seg.errors import UserError
from ssl4seg.keys import KEYS
from ssl4seg.run.device import out_of_memory_explained
from ssl4seg.scoring.inference import Sliding

OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    MemoryError("Unable to allocate 2.00 GiB for an array"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate memory: 9 bytes"),
]


def said(error: BaseException) -> str:
    with pytest.raises(UserError) as caught, out_of_memory_explained():
        raise error
    return str(caught.value)


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
def test_out_of_memory_names_what_to_turn_down_for_slices_and_for_the_windows_of_volumes(error):
    message = said(error)
    assert str(error)[:40] in message
    engine, inference = ({*re.findall(rf"{group}\.(\w+)", message)} for group in ("engine", "inference"))
    assert {"accumulate", "eval_batch_size"} <= engine
    assert {f"engine.{key}" for key in engine} <= KEYS.keys()
    assert {"batch_size", "accumulate_on"} <= inference <= inspect.signature(Sliding).parameters.keys()
    assert "dataset.image_size" in message


def test_another_error_passes_as_it_is():
    with pytest.raises(RuntimeError, match=r"^mat1 and mat2 cannot be multiplied$"), out_of_memory_explained():
        raise RuntimeError("mat1 and mat2 cannot be multiplied")
