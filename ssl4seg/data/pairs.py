"""Pictures with mask pictures on the disk, as cases of one image each: what natural-image datasets are made of."""

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ssl4seg.data.case import Case, ImageArray, Volume
from ssl4seg.data.dataset import Split
from ssl4seg.data.formats import picture_size, read_mask
from ssl4seg.data.images import read_picture
from ssl4seg.data.intensities import normalized
from ssl4seg.data.split import read_names
from ssl4seg.errors import UserError

WORDS = ("images", "images")
"""Each image is a group of its own."""
REMEDY = "mend dataset.lists"
"""Where an image is in two splits."""


class Pair(NamedTuple):
    """An image and its mask."""

    name: str
    image: Path
    mask: Path
    values: Mapping[int, int]
    """Each value that the mask may hold -> its class, or 255 where it is ignored."""


def read_list(file: Path, key: str, known: Collection[str]) -> list[str]:
    """The images that a list names, in its order: one a line, by name or path; a mask that follows is not read.

    Args:
        key: what the user can set to choose another list.
        known: the names of the images that are there.
    """
    hint = f"; {key}=FILE takes another list"
    found = read_names(file, known, source=str(file), what="image of dataset.root", hint=hint)
    return list(dict.fromkeys(name for _, name in found))


def without_mask(names: Sequence[str], total: int, split: Split) -> str:
    """ "4 of the 1464 train images (a, b, c, ...) have no mask"."""
    shown = f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
    return f"{len(names)} of the {total} {split} images ({shown}) {'has' if len(names) == 1 else 'have'} no mask"


def cases_of(pairs: Sequence[Pair], normalize: str) -> list[Case]:
    """Reads the heads of all files; a tenth of a millisecond each, but network file systems answer many at a time."""
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(partial(_case, normalize=normalize), pairs))


def _case(pair: Pair, *, normalize: str) -> Case:
    size, other = picture_size(pair.image), picture_size(pair.mask)
    if size != other:
        raise UserError(
            f"{pair.mask}: has {other[0]} x {other[1]} pixels (height x width), "
            f"but its image {pair.image.name} has {size[0]} x {size[1]}"
        )
    return Case(
        name=pair.name,
        group=pair.name,
        num_images=1,
        size=size,
        labeled=True,
        read=partial(read_pair, pair, normalize),
        read_image=partial(read_image, pair, normalize),
    )


def read_pair(pair: Pair, normalize: str) -> Volume:
    """Image [1, 3, H, W] and label [1, H, W]."""
    found = read_mask(pair.mask)
    held = np.flatnonzero(np.bincount(found.ravel(), minlength=256)).tolist()
    if wrong := [value for value in held if value not in pair.values]:
        allowed = " ".join(map(str, sorted(pair.values)))
        raise UserError(f"{pair.mask}: holds the label values {wrong}; expected {allowed}")
    table = np.zeros(256, np.uint8)
    table[list(pair.values)] = list(pair.values.values())
    return Volume(read_image(pair, normalize), table[found][None])


def read_image(pair: Pair, normalize: str) -> ImageArray:
    """[1, 3, H, W]"""
    return normalized(read_picture(pair.image, 3), normalize)[None]
