"""From the classes that masks hold to those that are learnt: `class_map` merges and drops them."""

from collections.abc import Mapping, Sequence
from typing import Any

from ssl4seg.data.masks import Color
from ssl4seg.errors import UserError
from ssl4seg.keys import IGNORE, is_list, is_whole


def is_class_map(value: Any) -> bool:
    """Whether it is {name: name or null}, or the class of each number in the masks, as `with_classes` writes it."""
    if is_list(value):
        return len(value) > 0 and all(is_whole(number) and 0 <= number <= IGNORE for number in value)
    words = isinstance(value, Mapping) and all(isinstance(name, str) for name in value)
    return bool(words and value) and all(name is None or isinstance(name, str) for name in value.values())


def numbered(num_classes: int) -> list[str]:
    """Names of classes that have none: background, class_1, class_2, ..."""
    return ["background", *(f"class_{number}" for number in range(1, num_classes))]


def with_classes(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of a folder with the classes that are learnt; a second call changes nothing.

    `classes` names what the masks hold, or `num_classes` counts it. Where `class_map` has names, it becomes a list, the
    class of each number or colour in the masks (IGNORE: none), and `classes` the names that are left, in their order.

    Raises:
        UserError: `class_map` names a class that there is not.
    """
    full, table = dict(keys), keys["class_map"]
    if full["classes"] is None and full.get("num_classes") is not None:
        full["classes"] = numbered(full["num_classes"])
    if full["classes"] is None or not isinstance(table, Mapping):
        return full
    held = list(full["classes"])
    if unknown := [name for name in table if name not in held]:
        raise UserError(
            f"dataset.class_map: {', '.join(unknown)}: no class of this name; the masks hold {', '.join(held)}"
        )
    names = [table.get(name, name) for name in held]
    learnt = list(dict.fromkeys(name for name in names if name is not None))
    full["class_map"] = [IGNORE if name is None else learnt.index(name) for name in names]
    full["classes"] = learnt
    if full.get("num_classes") == len(held):
        full["num_classes"] = len(learnt)
    return full


def colors_of(keys: Mapping[str, Any]) -> Sequence[Color] | None:
    """The number or colour in the masks of each class that is learnt, the first of several; None if they are 0..K-1.

    Args:
        keys: of a folder; a run of an earlier version has no `class_map`.
    """
    colors: Sequence[Color] | None = keys["colors"]
    table = keys.get("class_map")
    if table is None:
        return colors
    held = range(len(table)) if colors is None else colors
    number_of = dict(reversed([*zip(table, held, strict=False)]))
    if lost := [name for k, name in enumerate(keys["classes"]) if k not in number_of]:
        raise UserError(f"dataset.class_map={list(table)}: nothing in the masks becomes {lost[0]}")
    return [number_of[k] for k in range(len(keys["classes"]))]
