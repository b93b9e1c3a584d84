"""Passes of several batches through a network: in one, and what comes out taken apart again.

A batch is a tensor [N, ...], or a list or tuple of such tensors, as feature maps are.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def together(network: Callable[[Any], Any], *batches: Any) -> list[Any]:
    """What the network makes of batches that pass it in one, and so share the batch norm's statistics.

    Args:
        network: from a batch to a batch of as many images.

    Returns:
        The output for each batch; tuples become lists.
    """
    return parted(network(joined(batches)), [num_images(batch) for batch in batches])


def joined(batches: Sequence[Any]) -> Any:
    """The images of several batches as one batch; a single batch as it is."""
    if len(batches) == 1:
        return batches[0]
    if isinstance(batches[0], Tensor):
        return torch.cat(list(batches))
    return [joined(parts) for parts in zip(*batches, strict=True)]


def parted(batch: Any, sizes: Sequence[int]) -> list[Any]:
    """The batches of `sizes` images that were joined to one."""
    if isinstance(batch, Tensor):
        return list(batch.split(list(sizes)))
    return [list(parts) for parts in zip(*(parted(part, sizes) for part in batch), strict=True)]


def num_images(batch: Any) -> int:
    """N."""
    return len(batch) if isinstance(batch, Tensor) else num_images(batch[0])
