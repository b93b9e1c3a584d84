"""Which files a folder of the user's own holds: images, their masks, and the splits.

    ROOT/images  ROOT/masks                                  one split is drawn
    ROOT/train/images  ROOT/train/masks  ROOT/val/...        train, val and perhaps test are given
    ROOT/unlabeled                                           in both, if there is one

A mask has the name of its image, or that with one of SUFFIXES. An image without a mask is an unlabelled one. Files may
lie in subfolders, which become a part of their names. An h5 file may hold its mask itself (`label` beside `image`).

A file in unlabeled/ with the name of an image is a copy of it and left out: else a case of val or test would be trained
on, or one of train twice. Where train/, val/ and test/ share names, as those that count from 1, names tell no copies.
"""

import itertools
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from ssl4seg.data.dataset import SPLITS, Split
from ssl4seg.data.formats import ENDINGS, H5, ending, h5_facts, stem
from ssl4seg.errors import UserError

SUFFIXES = ("_mask", "_gt", "_label", "_seg")
IMAGES, MASKS, UNLABELED = "images", "masks", "unlabeled"
HELD_OUT = SPLITS[1:]
EXPECTED = "expected images/ and masks/, or train/, val/ and test/ that each hold images/ and masks/"


@dataclass(frozen=True, kw_only=True)
class Item:
    """An image file, and its mask."""

    name: str
    """Path below images/ without its ending; of those in unlabeled/ with that word before it. Unique in a split."""
    image: Path
    mask: Path | None
    """The image itself where an h5 file holds both."""
    split: Split | None
    """None where the split is drawn."""
    group: str


class Layout(NamedTuple):
    """What was found, and all that is wrong with it."""

    items: list[Item]
    faults: list[str]
    others: list[Path]
    """Files of no kind that can be read."""
    copies: list[Path]
    """Files in unlabeled/ that are left out, as they are among the images."""


def find(root: Path, pattern: str | None = None) -> Layout:
    """Look at names alone (but into h5 files, whether they hold a mask).

    Args:
        pattern: regular expression whose first group, in an item's name, is its group (the patient).
    """
    found = Layout([], [], [], [])
    given = [split for split in SPLITS if (root / split).is_dir()]
    drawn = (root / IMAGES).is_dir()
    if drawn and given:
        found.faults.append(f"{root}: has two layouts at once, {IMAGES}/ and {given[0]}/; {EXPECTED}")
        return found
    if not drawn and not given:
        inside = root.resolve().name in (IMAGES, MASKS, UNLABELED)
        meant = f" (is {root.resolve().parent} meant?)" if inside else ""
        found.faults.append(f"{root}: has neither {IMAGES}/ nor train/; {EXPECTED}{meant}")
        return found
    if given and (missing := [f"no {split}/" for split in SPLITS[:2] if split not in given]):
        found.faults.append(
            f"{root}: has {given[0]}/ but {' and '.join(missing)}; part your cases into both, or put all into "
            f"{IMAGES}/ and {MASKS}/, of which a split is drawn"
        )
    places: Sequence[Split | None] = given or [None]
    for split in places:
        _pair(root / split if split else root, split, found)
    _add_unlabeled(root / UNLABELED, "train" if given else None, found)
    _check_masks(root, given, found)
    return found._replace(items=_grouped(found, pattern))


def _pair(folder: Path, split: Split | None, found: Layout) -> None:
    """The images of a folder with their masks."""
    images, masks = (_files(folder / name, found) for name in (IMAGES, MASKS))
    if not images:
        there = "holds no image" if (folder / IMAGES).is_dir() else "is missing"
        found.faults.append(f"{folder / IMAGES}: {there} ({', '.join(ENDINGS)})")
    owned: dict[str, Path] = {}
    for name, mask in masks.items():
        owner = next((own for own in (name, *_bare(name)) if own in images), None)
        if owner is None:
            found.faults.append(f"{mask}: is a mask without an image; {folder / IMAGES} holds no {name}")
        elif owner in owned:
            found.faults.append(f"{mask}: is a second mask of {owner}, beside {owned[owner].name}")
        else:
            owned[owner] = mask
    for name, image in images.items():
        try:
            mask_file = _mask_of(image, owned.get(name))
        except UserError as error:
            found.faults.append(str(error))
        else:
            found.items.append(Item(name=name, image=image, mask=mask_file, split=split, group=""))


def _add_unlabeled(folder: Path, split: Split | None, found: Layout) -> None:
    """The files of a folder without masks, but for copies of images."""
    images = {item.name for item in found.items}
    tells = len(images) == len(found.items)
    for name, file in _files(folder, found).items():
        if tells and name in images:
            found.copies.append(file)
        else:
            found.items.append(Item(name=f"{UNLABELED}/{name}", image=file, mask=None, split=split, group=""))


def _mask_of(image: Path, mask: Path | None) -> Path | None:
    if ending(image) in H5 and h5_facts(image)[1]:
        if mask:
            raise UserError(f"{mask}: is a second mask, {image.name} holds one itself (label)")
        return image
    return mask


def _bare(name: str) -> Iterator[str]:
    return (name.removesuffix(suffix) for suffix in SUFFIXES if name.endswith(suffix))


def _files(folder: Path, found: Layout) -> dict[str, Path]:
    """The files below a folder by their names, sorted; two of one name are a fault."""
    files: dict[str, Path] = {}
    for place, names in _folders(folder):
        for file in (Path(place, name) for name in sorted(names) if not name.startswith(".")):
            name = (file.parent / stem(file)).relative_to(folder).as_posix()
            if not file.name.lower().endswith(ENDINGS):
                found.others.append(file)
            elif name in files:
                found.faults.append(f"{file}: has the same name as {files[name].name}; give each a name of its own")
            else:
                files[name] = file
    return dict(sorted(files.items()))


def _folders(top: Path) -> Iterator[tuple[str, list[str]]]:
    """A folder and those below it with the names of their files, each folder once: links may lead back or up."""
    seen = {str(parent) for parent in Path(os.path.realpath(top)).parents}
    starts = [str(top)]
    while starts:
        links: list[str] = []
        for place, folders, names in itertools.chain.from_iterable(map(os.walk, starts)):
            shown = sorted(name for name in folders if not name.startswith("."))
            folders.clear()
            if (real := os.path.realpath(place)) not in seen:
                seen.add(real)
                folders[:] = shown
                links += [path for name in shown if os.path.islink(path := os.path.join(place, name))]
                yield place, names
        starts = links  # after all that are not links: where there are two ways to a folder, its own name counts


def _check_masks(root: Path, given: Sequence[Split], found: Layout) -> None:
    """Each of train and val needs a mask, or the whole if the split is drawn."""
    places: Sequence[Split | None] = [split for split in given if split != "test"] or [None]
    for split in places:
        mine = [item for item in found.items if item.split == split]
        if mine and not any(item.mask for item in mine):
            place = root / split if split else root
            found.faults.append(
                f"{place}: no image has a mask; {place / MASKS} must hold files with the names of the images "
                f"(or with {' '.join(SUFFIXES)} after them)"
            )


def _grouped(found: Layout, pattern: str | None) -> list[Item]:
    """The items with their groups: what `pattern` finds, else each is its own (0001 in val is not 0001 in train)."""
    if pattern is None:
        places = [f"{item.split}/" if item.split in HELD_OUT else "" for item in found.items]
        return [replace(item, group=place + item.name) for place, item in zip(places, found.items, strict=True)]
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(f"dataset.group={pattern}: is no regular expression ({error})") from None
    if not compiled.groups:
        raise UserError(f"dataset.group={pattern}: has no (...) around what names the patient, as in '(patient\\d+)_'")
    items, missed = [], []  # those too: what else is wrong with them is told as well
    for item in found.items:
        match = compiled.search(item.name.removeprefix(f"{UNLABELED}/"))
        if not (match and match[1]):
            missed.append(item.name)
        items.append(replace(item, group=match[1] if match and match[1] else item.name))
    if missed:
        named = f"{', '.join(missed[:3])}{', ...' if len(missed) > 3 else ''}"
        found.faults.append(
            f"dataset.group={pattern}: does not match {len(missed)} of {len(found.items)} names ({named})"
        )
    return items
