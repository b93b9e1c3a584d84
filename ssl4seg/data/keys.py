"""What the keys of a dataset may be set to: one table for the command line, dataset.yaml and code."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ssl4seg.data.files import NORMALIZATIONS
from ssl4seg.errors import UserError

RESERVED = "mean"
"""Stands beside the classes' names in tables and results.json."""


class Key(NamedTuple):
    """What a key may be, as a test and in words."""

    fits: Callable[[Any], bool]
    expected: str


def check_keys(values: Mapping[str, Any], keys: Mapping[str, Key], where: str) -> None:
    """Refuse all values that do not fit.

    Args:
        where: what stands before the keys in an error, "dataset." or the name of a file.
    """
    wrong = {key: value for key, value in values.items() if not keys[key].fits(value)}
    if wrong:
        raise UserError("\n".join(f"{where}{key}={v}: expected {keys[key].expected}" for key, v in wrong.items()))


def is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_rgb_color(value: Any) -> bool:
    """Whether it is "#rrggbb" or [red, green, blue]."""
    if isinstance(value, str):
        return re.fullmatch("#?[0-9a-fA-F]{6}", value) is not None
    return is_list(value) and len(value) == 3 and all(is_whole(part) and 0 <= part <= 255 for part in value)


def whole(low: int, high: int | None = None) -> Key:
    """A whole number in a range."""
    words = f"of at least {low}" if high is None else f"from {low} to {high}"
    return Key(lambda v: is_whole(v) and low <= v and (high is None or v <= high), f"a whole number {words}")


def one_of(*words: str) -> Key:
    return Key(lambda v: isinstance(v, str) and v in words, " or ".join(words))


def optional(key: Key) -> Key:
    """The same, or null."""
    return Key(lambda v: v is None or key.fits(v), key.expected)


def or_word(word: str, key: Key) -> Key:
    """The same, or a word."""
    return Key(lambda v: v == word or key.fits(v), f"{key.expected}, or {word}")


def _are_classes(value: Any) -> bool:
    names = is_list(value) and all(isinstance(name, str) and name and name != RESERVED for name in value)
    return names and 2 <= len(set(value)) == len(value) <= 255


def _are_numbers(value: Any) -> bool:
    return is_list(value) and len(value) > 0 and all(map(is_number, value))


COMMON: dict[str, Key] = {
    "classes": Key(
        _are_classes,
        f"a list of 2 to 255 different names, background first, none of them {RESERVED!r} (numbers and yes in quotes)",
    ),
    "num_classes": whole(2, 255),
    "channels": whole(1),
    "image_size": whole(16),
    "normalize": one_of(*NORMALIZATIONS),
    "ignore_index": optional(Key(is_whole, "a whole number, that of a label in the files")),
    "mean": optional(Key(lambda v: v == "auto" or _are_numbers(v), "a list of numbers (one a channel), auto or null")),
    "std": optional(
        Key(
            lambda v: v == "auto" or (_are_numbers(v) and min(v) > 0),
            "a list of numbers above 0 (one a channel), auto or null",
        )
    ),
    "scoring": one_of("cases", "pixels"),
    "background": Key(lambda v: isinstance(v, bool), "true or false"),
    "palette": optional(
        Key(
            lambda v: is_list(v) and len(v) > 0 and all(map(is_rgb_color, v)),
            'a list of "#rrggbb" (in quotes) or [red, green, blue]',
        )
    ),
}
"""Those of every dataset."""
