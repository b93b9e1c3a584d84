"""Which mask belongs to which image, by their names.

A mask has the name of its image, with or without one of SUFFIXES, or as `mask_name` says: a template, or a regular
expression that both names match. Names are paths below the folder of images or of masks, without ending.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from ssl4seg.data.patterns import all_groups
from ssl4seg.keys import Key

WORDS = ("mask", "gt", "label", "seg")
"""That name a mask."""
SUFFIXES = (*(f"_{word}" for word in WORDS), ".seg")
HOLES = ("{id}", "{name}")
"""Of a template: the last number in the image's name, as it is written; the whole name."""
NUMBER = re.compile(r"(\d+)\D*$")


def _is_mask_name(value: Any) -> bool:
    return isinstance(value, str) and (any(hole in value for hole in HOLES) or "(" in value) and "/" not in value


MASK_NAME = Key(
    _is_mask_name,
    "a template with {id} (the last number in the image's name) or {name}, as 'labels{id}', or a regular expression "
    r"whose (...) are the same in the names of image and mask, as '(?:image|labels)(\d+)'",
)


class Owners(NamedTuple):
    """Which image each mask belongs to."""

    image_of: Mapping[str, str | None]
    """By the mask's name; None: no image."""
    faults: Mapping[str, str]
    """By the name of an image: why its mask cannot be told."""


def owners(images: Collection[str], masks: Collection[str], pattern: str | None) -> Owners:
    """Find the image of each mask.

    Args:
        pattern: the key `mask_name`; None: by equal names and SUFFIXES.

    Raises:
        UserError: the pattern is no regular expression.
    """
    if pattern is None:
        return Owners(
            {mask: next((name for name in (mask, *_bare(mask)) if name in images), None) for mask in masks}, {}
        )
    if any(hole in pattern for hole in HOLES):
        keys: dict[str, Any] = {image: _filled(pattern, image) for image in images}
        sought: dict[str, Any] = {mask: mask for mask in masks}
    else:
        keys, sought = (dict(zip(names, _groups(pattern, names), strict=True)) for names in (images, masks))
    by_key: dict[Any, str] = {}
    faults = {}
    for image, key in keys.items():
        if key is not None and (other := by_key.setdefault(key, image)) != image:
            faults[image] = (
                f"mask_name={pattern} gives it the same mask as {other}; write a pattern that tells them apart"
            )
    return Owners({mask: by_key.get(key) for mask, key in sought.items()}, faults)


def _bare(name: str) -> Iterator[str]:
    return (name.removesuffix(suffix) for suffix in SUFFIXES if name.endswith(suffix))


def _filled(template: str, image: str) -> str | None:
    """The name of an image's mask, in the same subfolder; None if the template wants a number, and there is none."""
    path = PurePosixPath(image)
    number = NUMBER.search(path.name)
    if "{id}" in template and number is None:
        return None
    name = template.replace("{id}", number[1] if number else "").replace("{name}", path.name)
    return (path.parent / name).as_posix()


def _groups(pattern: str, names: Collection[str]) -> list[tuple[str | None, ...] | None]:
    return all_groups(pattern, [*names], "dataset.mask_name", "the part that image and mask share, as in 'image(\\d+)'")
