"""Names short enough for a table or a figure."""

import re
from collections.abc import Iterable

PATIENT = r"^(.+)_(?:frame\d+|ed|es)$"
"""Finds the patient in a case's name (ACDC, the phantom): two phases of one heart are not independent samples."""

_NUMBER = re.compile(r"\d+\.\d{5,}(?:e[+-]?\d+)?")
_PATH = re.compile(r"[\w.]+\.(\w+=)")


def short(names: Iterable[str], limit: int = 30) -> dict[str, str]:
    """Shorten each name: long decimals to 4 digits, the name to `limit` characters. Different names stay different.

    A name that is too long first loses the groups of its keys (optimizer.lr=0.1 -> lr=0.1), then its end.

    Returns:
        name -> short name.
    """
    shortened: dict[str, str] = {}
    for name in dict.fromkeys(names):
        word = _NUMBER.sub(lambda number: f"{float(number[0]):.4g}", name)
        word = word if len(word) <= limit else _PATH.sub(r"\1", word)
        number, candidate = 1, _cut(word, limit)
        while candidate in shortened.values():
            number += 1
            candidate = f"{_cut(word, limit - 3)} #{number}"
        shortened[name] = candidate
    return shortened


def _cut(word: str, limit: int) -> str:
    return word if len(word) <= limit else f"{word[: limit - 1].rstrip()}…"
