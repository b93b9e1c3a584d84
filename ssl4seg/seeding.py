"""Random numbers as a pure function of where they are used.

Every generator is seeded by words such as (run seed, purpose, step). A run resumes exactly without saved random states,
and the draws of one part never shift the draws of another.
"""

import hashlib

import torch
from torch import Tensor


def seed_of(*words: int | str) -> int:
    """A 63-bit seed that depends on every word and on their order."""
    digest = hashlib.sha256("\0".join(map(str, words)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator(*words: int | str) -> torch.Generator:
    """A CPU generator seeded by `words`."""
    return torch.Generator().manual_seed(seed_of(*words))


def sent(drawn: Tensor, device: torch.device) -> Tensor:
    """Numbers that were drawn on the CPU, on their way to a device.

    A plain `to` lets the CPU wait until a GPU has done all that it was given before. (Only CUDA promises that the
    numbers may be forgotten on the CPU before the copy is made.)
    """
    return drawn.to(device, non_blocking=device.type == "cuda")
