"""The processes of one run: the rank of this one, their number, and values gathered from all of them.

Functions import torch themselves, so that rooms without torch can ask for the rank and the number too.
"""

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

Item = TypeVar("Item")


def cores() -> int:
    """The number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory() -> int:
    """The memory of this machine in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def launched_rank() -> int:
    """The rank that torchrun or srun gave this process; it is known before the processes are connected."""
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")))


def launched_world() -> int:
    """The number of processes that torchrun or srun started; 1 in an interactive shell of a Slurm allocation."""
    interactive = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")
    tasks = "1" if interactive else os.environ.get("SLURM_NTASKS", "1")
    return int(os.environ.get("WORLD_SIZE", tasks))


def world_size() -> int:
    """The number of connected processes; 1 before they are connected."""
    import torch.distributed as dist

    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number among the connected processes."""
    import torch.distributed as dist

    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def all_sum(value: "Tensor") -> "Tensor":
    """Sum a value over the processes, differentiably; a single process gets the value itself."""
    if world_size() == 1:
        return value
    import torch.distributed as dist
    from torch.distributed.nn.functional import all_reduce

    if value.requires_grad:
        total: Tensor = all_reduce(value)
        return total
    total = value.clone()
    dist.all_reduce(total)
    return total


def all_rows(value: "Tensor", dim: int = 0) -> "Tensor":
    """Concatenate the values of all processes along `dim`, in the order of their ranks; no gradient flows."""
    if world_size() == 1:
        return value
    import torch
    import torch.distributed as dist

    parts = [torch.empty_like(value, memory_format=torch.contiguous_format) for _ in range(world_size())]
    dist.all_gather(parts, value.contiguous())
    return torch.cat(parts, dim=dim)


def all_items(items: Mapping[str, Item]) -> dict[str, Item]:
    """Merge the named items of all processes; each name belongs to one process."""
    parts: list[Any] = [items]
    if world_size() > 1:
        import torch.distributed as dist

        parts = [None] * world_size()
        dist.all_gather_object(parts, items)
    return {name: item for part in parts for name, item in part.items()}


def share_first(tensors: Iterable["Tensor"]) -> None:
    """Overwrite the tensors of every process with the values of the first process."""
    if world_size() > 1:
        import torch.distributed as dist

        for tensor in tensors:
            dist.broadcast(tensor, 0)
