"""Datasets of natural images: picture files with mask pictures, each pair a case of one image."""

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple, Unpack

import numpy as np

from ssl4seg.data.case import Case, ImageArray, Volume
from ssl4seg.data.dataset import Common, Dataset, Split
from ssl4seg.data.formats import picture_size, read_mask
from ssl4seg.data.images import read_picture
from ssl4seg.data.intensities import Scaling, normalized
from ssl4seg.data.keys import only
from ssl4seg.data.split import read_names
from ssl4seg.errors import UserError
from ssl4seg.keys import expect


class NaturalImages(Dataset):
    """A published dataset of RGB pictures whose test masks are not public.

    Args:
        lists: files that name the images of train and val, instead of the dataset's own.
    """

    words = ("images", "images")
    remedy = "mend dataset.lists"
    tested_on = "val"

    def __init__(self, *, lists: Mapping[Split, str | None] | None, **common: Unpack[Common]) -> None:
        super().__init__(**common)
        expect("dataset.channels", self.channels, only(3, type(self).__name__))
        if self.axes != 2:
            raise UserError(
                f"dataset.image_size={list(self.image_size)}: has {self.axes} axes, but {type(self).__name__} holds "
                "pictures, which have two; give one number, as dataset.image_size=321"
            )
        self.lists = lists or {}
        self.value_bytes = 1 if self.scaling.keeps_bytes else 4

    def refuse_test(self, split: Split) -> None:
        """Raise a UserError if `split` is test."""
        if split == "test":
            raise UserError(f"{type(self).__name__}: the masks of test are not public; use val")

    def listed(self, split: Split, known: Collection[str]) -> list[str] | None:
        """The images of the user's list for a split; None if there is no such list."""
        file = self.lists.get(split)
        return read_list(Path(file).expanduser(), split, known) if file else None


class Pair(NamedTuple):
    """An image and its mask."""

    name: str
    image: Path
    mask: Path
    values: Mapping[int, int]
    """Each value that the mask may hold -> its class, or IGNORE."""


def read_list(file: Path, split: Split, known: Collection[str]) -> list[str]:
    """The images that a list names, in its order and each once.

    A line holds a name or path of an image; the path of a mask may follow and is not read.

    Args:
        split: of which the list is.
        known: names of all images.
    """
    hint = f"; dataset.lists.{split}=FILE takes another list"
    lines = read_names(file, known, source=str(file), what="image of dataset.root", hint=hint)
    return list(dict.fromkeys(name for _, name in lines))


def without_mask(names: Sequence[str], total: int, split: Split) -> str:
    """ "4 of the 1464 train images (a, b, c, ...) have no mask"."""
    shown = f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
    return f"{len(names)} of the {total} {split} images ({shown}) {'has' if len(names) == 1 else 'have'} no mask"


def cases_of(pairs: Sequence[Pair], scaling: Scaling) -> list[Case]:
    """A case for each pair. It reads the headers of all files, 16 at a time: network file systems answer slowly."""
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(partial(_case, scaling=scaling), pairs))


def _case(pair: Pair, *, scaling: Scaling) -> Case:
    size, mask_size = picture_size(pair.image), picture_size(pair.mask)
    if size != mask_size:
        raise UserError(
            f"{pair.mask}: has {mask_size[0]} x {mask_size[1]} pixels (height x width), "
            f"but its image {pair.image.name} has {size[0]} x {size[1]}"
        )
    return Case(
        name=pair.name,
        group=pair.name,
        num_images=1,
        size=size,
        labeled=True,
        read=partial(read_pair, pair, scaling),
        read_image=partial(read_image, pair, scaling),
        files=(pair.image, pair.mask),
    )


def read_pair(pair: Pair, scaling: Scaling) -> Volume:
    """Image [1, 3, H, W] and label [1, H, W].

    Raises:
        UserError: if the mask holds other values than `pair.values`.
    """
    mask = read_mask(pair.mask)
    held = np.flatnonzero(np.bincount(mask.ravel(), minlength=256)).tolist()
    if wrong := [value for value in held if value not in pair.values]:
        allowed = " ".join(map(str, sorted(pair.values)))
        raise UserError(f"{pair.mask}: holds the label values {wrong}; expected {allowed}")
    class_of = np.zeros(256, np.uint8)
    class_of[list(pair.values)] = list(pair.values.values())
    return Volume(read_image(pair, scaling), class_of[mask][None])


def read_image(pair: Pair, scaling: Scaling) -> ImageArray:
    """[1, 3, H, W]"""
    return normalized(read_picture(pair.image, 3)[None], *scaling)
