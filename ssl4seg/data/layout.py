"""Find the images, masks and splits in a folder of the user's own.

    ROOT/images  ROOT/masks                                  the split into train, val and test is drawn
    ROOT/train/images  ROOT/train/masks  ROOT/val/...        train, val and optionally test are given
    ROOT/unlabeled                                           optional, in both layouts

A mask has the name of its image, with or without one of SUFFIXES. An image without a mask is unlabelled. Files may lie
in subfolders, whose names become part of theirs. An h5 file may hold its own mask (`label` beside `image`). Names are
compared, and cases called, in the Unicode form NFC: a macOS disk may spell the mask of "é" with two characters.

A file in unlabeled/ with the name of an image is a copy of it and left out: otherwise a case of val or test would be
trained on, or a case of train twice. If train/, val/ and test/ use the same names, as folders that count from 1 do,
names cannot tell copies and nothing is left out.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

from ssl4seg.data.dataset import SPLITS, Split
from ssl4seg.data.formats import ENDINGS, H5, ending, h5_facts, stem
from ssl4seg.data.patterns import first_groups
from ssl4seg.data.walk import hint, passed_over, walk
from ssl4seg.errors import UserError

SUFFIXES = ("_mask", "_gt", "_label", "_seg")
IMAGES, MASKS, UNLABELED = "images", "masks", "unlabeled"
HELD_OUT = SPLITS[1:]
EXPECTED = "expected images/ and masks/, or train/, val/ and test/ that each hold images/ and masks/"


@dataclass(frozen=True, kw_only=True)
class Item:
    """An image file, and its mask."""

    name: str
    """The path below images/ without ending, or "unlabeled/" and the path below unlabeled/. Unique within a split."""
    image: Path
    mask: Path | None
    """The image file itself if it is an h5 file that holds both."""
    split: Split | None
    """None if the split is drawn."""
    group: str


class Layout(NamedTuple):
    """The items of a folder, and its faults."""

    items: list[Item]
    faults: list[str]
    others: list[Path]
    """Files of unknown kinds."""
    copies: list[Path]
    """Files in unlabeled/ that are left out as copies of images."""
    orphans: list[Path]
    """Masks without an image that are left out."""
    notes: list[str]
    """What a user should know of the files that are not read, or not as they are called."""


def find(root: Path, pattern: str | None = None, *, skip_orphans: bool = False) -> Layout:
    """Find the items of a folder by the names of files; only h5 files are opened, to see whether they hold a mask.

    Args:
        pattern: regular expression whose first group, matched in an item's name, is the item's group (the patient).
        skip_orphans: leave out masks without an image; else each is a fault.
    """
    layout = Layout([], [], [], [], [], [])
    split_folders = [split for split in SPLITS if (root / split).is_dir()]
    drawn = (root / IMAGES).is_dir()
    if drawn and split_folders:
        layout.faults.append(f"{root}: has two layouts at once, {IMAGES}/ and {split_folders[0]}/; {EXPECTED}")
        return layout
    if not drawn and not split_folders:
        inside = root.resolve().name in (IMAGES, MASKS, UNLABELED)
        meant = f" (is {root.resolve().parent} meant?)" if inside else ""
        layout.faults.append(f"{root}: has neither {IMAGES}/ nor train/; {EXPECTED}{meant}")
        return layout
    if split_folders and (missing := [f"no {split}/" for split in SPLITS[:2] if split not in split_folders]):
        layout.faults.append(
            f"{root}: has {split_folders[0]}/ but {' and '.join(missing)}; divide your cases between them, or put "
            f"all into {IMAGES}/ and {MASKS}/, for a split to be drawn"
        )
    places: Sequence[Split | None] = split_folders or [None]
    for split in places:
        _pair(root / split if split else root, split, layout, skip_orphans)
    _add_unlabeled(root / UNLABELED, "train" if split_folders else None, layout)
    _check_masks(root, split_folders, layout)
    layout.notes.extend(_notes(root, layout))
    return layout._replace(items=_grouped(layout, pattern))


def _pair(folder: Path, split: Split | None, layout: Layout, skip_orphans: bool) -> None:
    """Add the images of a folder with their masks."""
    images, masks = (_files(folder / name, layout) for name in (IMAGES, MASKS))
    if not images:
        fault = "holds no image" if (folder / IMAGES).is_dir() else "is missing"
        layout.faults.append(f"{folder / IMAGES}: {fault} ({', '.join(ENDINGS)})")
    owned: dict[str, Path] = {}
    for name, mask in masks.items():
        owner = next((image for image in (name, *_without_suffix(name)) if image in images), None)
        if owner is None and skip_orphans:
            layout.orphans.append(mask)
        elif owner is None:
            layout.faults.append(f"{mask}: is a mask without an image; {_why_without(name, folder / IMAGES, layout)}")
        elif owner in owned:
            layout.faults.append(f"{mask}: is a second mask of {owner}, beside {owned[owner].name}")
        else:
            owned[owner] = mask
    for name, image in images.items():
        try:
            mask_file = _mask_of(image, owned.get(name))
        except UserError as error:
            layout.faults.append(str(error))
        else:
            layout.items.append(Item(name=name, image=image, mask=mask_file, split=split, group=""))


def _why_without(name: str, folder: Path, layout: Layout) -> str:
    """Why no image of a folder belongs to the mask of this name, and what to do."""
    alike = (file for file in layout.others if file.is_relative_to(folder) and _name(file, folder) == name)
    if file := next(alike, None):
        return f"{file.name} is not read ({hint(file.name)})"
    return (
        f"{folder} holds no {name}; add the image, remove the mask, or leave such masks out with "
        "dataset.skip_orphans=true (skip_orphans: true in dataset.yaml)"
    )


def _notes(root: Path, layout: Layout) -> list[str]:
    """The sentences on files of other kinds, on masks that are left out, and on names that are not in NFC."""
    notes = passed_over(layout.others, root)
    if layout.orphans:
        num, first = len(layout.orphans), layout.orphans[0].relative_to(root)
        notes.append(f"{num} masks without an image are left out (skip_orphans), as {first}")
    files = [file for item in layout.items for file in (item.image, item.mask) if file]
    spelled = [file.name for file in files if file.name != normalize("NFC", file.name)]
    if spelled:
        notes.append(
            f"names in another Unicode form than NFC count as if they were in it: {len(spelled)}, as {spelled[0]}"
        )
    return notes


def _add_unlabeled(folder: Path, split: Split | None, layout: Layout) -> None:
    """Add the files of a folder without masks, except copies of images."""
    images = {item.name for item in layout.items}
    are_unique = len(images) == len(layout.items)
    for name, file in _files(folder, layout).items():
        if are_unique and name in images:
            layout.copies.append(file)
        else:
            layout.items.append(Item(name=f"{UNLABELED}/{name}", image=file, mask=None, split=split, group=""))


def _mask_of(image: Path, mask: Path | None) -> Path | None:
    if ending(image) in H5 and h5_facts(image)[1]:
        if mask:
            raise UserError(f"{mask}: is a second mask, {image.name} holds one itself (label)")
        return image
    return mask


def _without_suffix(name: str) -> Iterator[str]:
    return (name.removesuffix(suffix) for suffix in SUFFIXES if name.endswith(suffix))


def _files(folder: Path, layout: Layout) -> dict[str, Path]:
    """The files below a folder by their names, sorted; a second file of the same name is a fault."""
    files: dict[str, Path] = {}
    found = walk(folder)
    layout.others.extend(found.others)
    layout.faults.extend(found.faults.values())
    for file in found.files:
        name = _name(file, folder)
        if name in files:
            other = files[name].name
            alike = " in another Unicode form" if normalize("NFC", file.name) == normalize("NFC", other) else ""
            layout.faults.append(f"{file}: has the same name as {other}{alike}; give each a name of its own")
        else:
            files[name] = file
    return dict(sorted(files.items()))


def _name(file: Path, folder: Path) -> str:
    """The path below a folder without ending, in the Unicode form NFC."""
    return normalize("NFC", (file.parent / stem(file)).relative_to(folder).as_posix())


def _check_masks(root: Path, split_folders: Sequence[Split], layout: Layout) -> None:
    """Add a fault for train and val without any mask, or for the whole folder if the split is drawn."""
    places: Sequence[Split | None] = [split for split in split_folders if split != "test"] or [None]
    for split in places:
        items = [item for item in layout.items if item.split == split]
        if items and not any(item.mask for item in items):
            place = root / split if split else root
            layout.faults.append(
                f"{place}: no image has a mask; {place / MASKS} must hold files with the names of the images "
                f"(or with {' '.join(SUFFIXES)} after them)"
            )


def _grouped(layout: Layout, pattern: str | None) -> list[Item]:
    """The items with their groups. Without a pattern each is its own group, also where splits use the same names."""
    if pattern is None:
        places = [f"{item.split}/" if item.split in HELD_OUT else "" for item in layout.items]
        return [replace(item, group=place + item.name) for place, item in zip(places, layout.items, strict=True)]
    names = [item.name.removeprefix(f"{UNLABELED}/") for item in layout.items]
    items, missed = [], []  # missed items stay in `items`, so that their other faults are found too
    for item, group in zip(layout.items, first_groups(pattern, names, "dataset.group"), strict=True):
        if not group:
            missed.append(item.name)
        items.append(replace(item, group=group or item.name))
    if missed:
        named = f"{', '.join(missed[:3])}{', ...' if len(missed) > 3 else ''}"
        layout.faults.append(
            f"dataset.group={pattern}: does not match {len(missed)} of {len(layout.items)} names ({named})"
        )
    return items
