"""Random numbers as a pure function of where they are used.

Every generator is seeded by words such as (run seed, purpose, step). A run resumes exactly without saved random states,
and the draws of one part never shift the draws of another.
"""

import hashlib

import torch


def seed_of(*words: int | str) -> int:
    """A 63-bit seed that depends on every word and on their order."""
    digest = hashlib.sha256("\0".join(map(str, words)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator(*words: int | str) -> torch.Generator:
    """A CPU generator seeded by `words`."""
    return torch.Generator().manual_seed(seed_of(*words))
