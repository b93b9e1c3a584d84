"""The processes of one run: which one this is, and what they know together.

torch is imported only where tensors are at hand, so that rooms without torch can ask for rank and number too.
"""

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

Item = TypeVar("Item")


def launched_rank() -> int:
    """This process's number as torchrun or srun has told it, before the processes have met."""
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")))


def launched_world() -> int:
    """The number of processes that torchrun or srun has started; a shell within a Slurm allocation is none of them."""
    interactive = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")
    tasks = "1" if interactive else os.environ.get("SLURM_NTASKS", "1")
    return int(os.environ.get("WORLD_SIZE", tasks))


def world_size() -> int:
    """The number of processes that have met."""
    import torch.distributed as dist

    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def all_sum(value: "Tensor") -> "Tensor":
    """Sum over the processes, differentiable; the value itself in a single process."""
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
    """The values of all processes one after the other along `dim`, in the order of their ranks; no gradient flows."""
    if world_size() == 1:
        return value
    import torch
    import torch.distributed as dist

    parts = [torch.empty_like(value, memory_format=torch.contiguous_format) for _ in range(world_size())]
    dist.all_gather(parts, value.contiguous())
    return torch.cat(parts, dim=dim)


def all_items(mine: Mapping[str, Item]) -> dict[str, Item]:
    """The items of all processes by their names, of which each process has others."""
    parts: list[Any] = [mine]
    if world_size() > 1:
        import torch.distributed as dist

        parts = [None] * world_size()
        dist.all_gather_object(parts, mine)
    return {name: item for part in parts for name, item in part.items()}


def share_first(tensors: Iterable["Tensor"]) -> None:
    """Overwrite the tensors with the first process's."""
    if world_size() > 1:
        import torch.distributed as dist

        for tensor in tensors:
            dist.broadcast(tensor, 0)
