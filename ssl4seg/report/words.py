"""Names short enough for a table or a figure."""

import re
from collections.abc import Iterable

PATIENT = r"^(.+)_(?:frame\d+|ed|es)$"
"""Of a case's name, the patient: two phases of one heart are no two independent samples (ACDC, the phantom)."""

_NUMBER = re.compile(r"\d+\.\d{5,}(?:e[+-]?\d+)?")
_PATH = re.compile(r"[\w.]+\.(\w+=)")


def short(names: Iterable[str], limit: int = 30) -> dict[str, str]:
    """By name: its long decimals with 4 digits, and at most `limit` characters. Different names stay different.

    A name that is too long first loses the groups of its keys (optimizer.lr=0.1 -> lr=0.1).
    """
    found: dict[str, str] = {}
    for name in dict.fromkeys(names):
        word = _NUMBER.sub(lambda number: f"{float(number[0]):.4g}", name)
        word = word if len(word) <= limit else _PATH.sub(r"\1", word)
        number, called = 1, _cut(word, limit)
        while called in found.values():
            number += 1
            called = f"{_cut(word, limit - 3)} #{number}"
        found[name] = called
    return found


def _cut(word: str, limit: int) -> str:
    return word if len(word) <= limit else f"{word[: limit - 1].rstrip()}…"
