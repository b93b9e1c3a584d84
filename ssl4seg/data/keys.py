"""The keys of every dataset: what each may be set to, for the command line, dataset.yaml and constructors."""

from typing import Any

from ssl4seg.data.intensities import NORMALIZATIONS
from ssl4seg.keys import (
    IGNORE,
    MEANS,
    SIDE,
    Key,
    is_list,
    is_number,
    is_rgb_color,
    is_whole,
    list_of,
    one_of,
    optional,
    or_word,
    true_or_false,
    whole,
)

MAX_NAME = 100
"""Characters in the name of a class, which stands in tables, legends and keys."""


def only(value: int, dataset: str) -> Key:
    """The one value that a dataset allows."""
    return Key(lambda v: v == value, f"{value}, as {dataset} has")


def _are_classes(value: Any) -> bool:
    if not (is_list(value) and all(isinstance(name, str) and name not in MEANS for name in value)):
        return False
    fit = all(0 < len(name) <= MAX_NAME and name.isprintable() for name in value)
    return fit and 2 <= len(set(value)) == len(value) <= IGNORE


def _are_numbers(value: Any) -> bool:
    return is_list(value) and len(value) > 0 and all(map(is_number, value))


def _is_window(value: Any) -> bool:
    return _are_numbers(value) and len(value) == 2 and bool(value[0] < value[1])


COMMON: dict[str, Key] = {
    "classes": Key(
        _are_classes,
        f"a list of 2 to {IGNORE} different names of up to {MAX_NAME} printable characters, background first, none of "
        f"them {' or '.join(map(repr, MEANS))} (numbers and yes in quotes)",
    ),
    "num_classes": whole(2, IGNORE),
    "channels": whole(1, 4096),
    "image_size": Key(
        lambda v: SIDE.fits(v) or list_of(whole(4, 2048), 3, 3).fits(v),
        f"{SIDE.expected}, or three of 4 to 2048 for volumes, as [96,96,96]",
    ),
    "window": optional(Key(_is_window, "[low, high] with low < high, as [-125,275]")),
    "normalize": one_of(*NORMALIZATIONS),
    "ignore_index": optional(
        Key(lambda v: is_whole(v) and v <= IGNORE, f"a whole number up to {IGNORE}, that of a label in the files")
    ),
    "mean": optional(or_word("auto", Key(_are_numbers, "a list of numbers (one a channel)"))),
    "std": optional(
        or_word("auto", Key(lambda v: _are_numbers(v) and min(v) > 0, "a list of numbers above 0 (one a channel)"))
    ),
    "scoring": one_of("cases", "pixels"),
    "background": true_or_false,
    "palette": optional(
        Key(
            lambda v: is_list(v) and len(v) > 0 and all(map(is_rgb_color, v)),
            'a list of "#rrggbb" (in quotes) or [red, green, blue]',
        )
    ),
}
"""The keys that every dataset has."""
