"""The machine: device, precision, processes and memory."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision, Precision
from lightning_fabric.strategies.ddp import DDPStrategy

from ssl4seg.errors import UserError
from ssl4seg.feed.stream import KILLED
from ssl4seg.processes import launched_world


def resolve_device(device: str) -> str:
    """cpu, cuda or mps; auto takes the fastest available one."""
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return next(name for name in ("cuda", "mps", "cpu") if available[name])
    if not available[device]:
        raise UserError(f"device={device}: PyTorch finds none on this machine; use device=auto or device=cpu")
    return device


def resolve_precision(precision: str, device: str) -> str:
    """32, bf16-mixed or 16-mixed; auto takes bf16-mixed where the hardware computes in it."""
    if precision == "16-mixed" and device == "cpu":
        raise UserError("precision=16-mixed: needs a GPU; on the CPU use bf16-mixed or 32")
    if precision != "auto":
        return precision
    if device == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    if device == "cpu":
        return "bf16-mixed" if _cpu_has_bf16() else "32"
    return "32"


def _cpu_has_bf16() -> bool:
    try:
        with open("/proc/cpuinfo") as file:
            flags = next((line for line in file if line.startswith(("flags", "Features"))), "").split()
    except OSError:
        return False
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags)


def _check_processes(expected: int) -> None:
    """Refuse to train if torchrun or srun started another number of processes than the keys say."""
    if (started := launched_world()) != expected:
        raise UserError(
            f"engine.devices x engine.num_nodes is {expected}, but {started} process(es) were started; use\n"
            f"  torchrun --nproc-per-node=DEVICES -m ssl4seg.train engine.devices=DEVICES ...   (or srun on SLURM)"
        )


class Mixed(MixedPrecision):
    """Mixed precision that keeps a method's inputs in float32; each layer casts its own input."""

    def convert_input(self, data: Any) -> Any:
        return data


def fabric_of(
    *,
    device: str = "auto",
    precision: str | int = "auto",
    num_threads: int | None = None,
    devices: int = 1,
    num_nodes: int = 1,
    partial: bool = False,
) -> Fabric:
    """Set up device, precision and threads, and DDP for several processes.

    Args:
        partial: whether a backward pass may leave out parameters, as with several phases or a frozen encoder.

    Raises:
        UserError: the machine has no such device or precision, or another number of processes was started.
    """
    accelerator = resolve_device(device)
    resolved = resolve_precision(str(precision), accelerator)
    if num_threads:
        torch.set_num_threads(num_threads)
    if accelerator == "cpu":
        keep_freed_memory()
    several = devices * num_nodes > 1
    _check_processes(devices * num_nodes)
    return Fabric(
        accelerator=accelerator,
        devices=devices,
        num_nodes=num_nodes,
        strategy=DDPStrategy(find_unused_parameters=partial) if several else "auto",
        plugins=[Precision() if resolved == "32" else Mixed(resolved, accelerator)],  # type: ignore[arg-type]
    )


def keep_freed_memory() -> None:
    """Let glibc reuse large blocks instead of giving them back to the system at every free.

    By default glibc maps each tensor above 32 MB anew, and its page faults take half of a CPU step's time.
    """
    if sys.platform != "linux" or "MALLOC_MMAP_MAX_" in os.environ:
        return
    m_trim_threshold, m_mmap_max = -1, -4
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(m_mmap_max, 0)
        mallopt(m_trim_threshold, -1)


@contextmanager
def out_of_memory_explained() -> Iterator[None]:
    """Turn an out-of-memory error, here or in a worker process, into a UserError that names the keys to lower."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = str(error)
        if text.startswith("DataLoader worker (pid"):  # PyTorch raises this at any place of the main process
            raise UserError(KILLED) from None
        known = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not known and "allocate memory" not in text and "out of memory" not in text:
            raise
        raise UserError(
            f"out of memory ({text.splitlines()[0][:160] if text else 'host memory'}). Turn down batch_size and "
            "unlabeled_batch_size (engine.accumulate makes up for it), dataset.image_size, or the method's own passes "
            "(method.passes_per_call=1 for uamt); in validation, eval and predict eval_batch_size "
            "(engine.eval_batch_size in training), with windows (inference=sliding or volumes) inference.batch_size "
            "and, on a GPU, inference.accumulate_on=cpu; precision=bf16-mixed halves the activations"
        ) from None


def peak_memory(device: torch.device) -> int:
    """Peak memory in bytes: of tensors on the GPU, or of the whole process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
