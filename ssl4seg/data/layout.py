"""Find the images, masks and splits in a folder of the user's own.

    ROOT/images  ROOT/masks                                  the split into train, val and test is drawn
    ROOT/train/images  ROOT/train/masks  ROOT/val/...        train, val and optionally test are given
    ROOT/imagesTr  ROOT/labelsTr  ROOT/dataset.json          MSD's and nnU-Net's, see decathlon.py
    ROOT/unlabeled                                           optional, in every layout

`image_folder` and `mask_folder` may give images/ and masks/ other names, and `mask_name` other names to masks.

An image without a mask is unlabelled. Files may lie in subfolders, whose names become part of theirs. An h5 or npz file
may hold its own mask (`label` beside `image`).

A file in unlabeled/ with the name of an image is a copy of it and left out: otherwise a case of val or test would be
trained on, or a case of train twice. If train/, val/ and test/ use the same names, as folders that count from 1 do,
names cannot tell copies and nothing is left out.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

from ssl4seg.data import decathlon
from ssl4seg.data.dataset import SPLITS, Split
from ssl4seg.data.items import IMAGES, MASKS, UNLABELED, How, Item, Layout, add_unlabeled, expect_masks, pair
from ssl4seg.data.patterns import first_groups
from ssl4seg.data.walk import passed_over

HELD_OUT = SPLITS[1:]


class Kind(NamedTuple):
    """A layout of folders."""

    mark: str
    """The folder by which it is known."""
    expected: str
    found: Callable[[Path, How], bool]
    fill: Callable[[Path, Layout, How], None]
    """Adds what the folder holds to a layout."""


def find(root: Path, pattern: str | None = None, how: How = How()) -> Layout:  # noqa: B008  # an immutable record
    """Find the items of a folder by the names of files; of few files the headers are read, to see what they hold.

    Args:
        pattern: regular expression whose first group, matched in an item's name, is the item's group (the patient).
    """
    layout = Layout(faults=[*_not_there(root, how)])
    if layout.faults:
        return layout
    kinds = [kind for kind in KINDS if kind.found(root, how)]
    expected = ", or ".join(kind.expected for kind in KINDS)
    if len(kinds) > 1:
        marks = " and ".join(kind.mark for kind in kinds)
        layout.faults.append(f"{root}: has two layouts at once, {marks}; expected {expected}")
        return layout
    if not kinds:
        marks = " nor ".join(kind.mark for kind in KINDS)
        layout.faults.append(
            f"{root}: has neither {marks}; expected {expected}"
            f"{_meant(root) or '; for folders of other names set image_folder and mask_folder in dataset.yaml'}"
        )
        return layout
    kinds[0].fill(root, layout, how)
    layout.notes.extend(_notes(root, layout))
    return replace(layout, items=_grouped(layout, pattern))


def _meant(root: Path) -> str:
    """The question after another folder: the one above, or one below."""
    whole = root.resolve()
    inside = whole.name in (IMAGES, MASKS, UNLABELED, decathlon.IMAGES)
    below = (
        [] if inside else [folder for folder in sorted(root.glob("*/")) if any(k.found(folder, How()) for k in KINDS)]
    )
    near = whole.parent if inside else below[0] if below else None
    return f" (is {near} meant?)" if near else ""


def _not_there(root: Path, how: How) -> Iterator[str]:
    """A fault for each folder that the user names and that is nowhere."""
    for key, name, usual in (("image_folder", how.image_folder, IMAGES), ("mask_folder", how.mask_folder, MASKS)):
        if name != usual and not any((root / split / name).is_dir() for split in ("", *SPLITS)):
            yield f"dataset.{key}={name}: {root} holds no such folder, nor do its train/, val/ and test/"


# -- our own layouts --------------------------------------------------------------------------------------------------


def _split_folders(root: Path) -> list[Split]:
    return [split for split in SPLITS if (root / split).is_dir()]


def _drawn(root: Path, layout: Layout, how: How) -> None:
    """One folder, whose split is drawn."""
    pair(root / how.image_folder, root / how.mask_folder, None, layout, how)
    expect_masks(layout.items, root, root / how.mask_folder, layout)
    add_unlabeled(root / UNLABELED, None, layout, how)


def _given(root: Path, layout: Layout, how: How) -> None:
    """A folder for each split."""
    splits = _split_folders(root)
    if missing := [f"no {split}/" for split in SPLITS[:2] if split not in splits]:
        layout.faults.append(
            f"{root}: has {splits[0]}/ but {' and '.join(missing)}; divide your cases between them, or put "
            f"all into {IMAGES}/ and {MASKS}/, for a split to be drawn"
        )
    for split in splits:
        place = root / split
        masks = place / how.mask_folder
        pair(place / how.image_folder, masks, split, layout, how)
        if split != "test":
            expect_masks([item for item in layout.items if item.split == split], place, masks, layout)
    add_unlabeled(root / UNLABELED, "train", layout, how)


def _is_named(root: Path, how: How) -> bool:
    """Whether the user names the folder of images: train/ is then no split, if it is that folder."""
    return how.image_folder != IMAGES and (root / how.image_folder).is_dir()


KINDS = (
    Kind("images/", "images/ and masks/", lambda root, how: (root / how.image_folder).is_dir(), _drawn),
    Kind(
        "train/",
        "train/, val/ and test/ that each hold images/ and masks/",
        lambda root, how: bool(_split_folders(root)) and not _is_named(root, how),
        _given,
    ),
    Kind("imagesTr/", "imagesTr/ and labelsTr/", lambda root, how: (root / decathlon.IMAGES).is_dir(), decathlon.fill),
)


# -- in every layout --------------------------------------------------------------------------------------------------


def _notes(root: Path, layout: Layout) -> list[str]:
    """The sentences on files of other kinds, on masks that are left out, and on names that are not in NFC."""
    notes = passed_over(layout.others, root)
    if layout.orphans:
        num, first = len(layout.orphans), layout.orphans[0].relative_to(root)
        notes.append(f"{num} masks without an image are left out (skip_orphans), as {first}")
    files = [file for item in layout.items for file in item.files]
    spelled = [file.name for file in files if file.name != normalize("NFC", file.name)]
    if spelled:
        notes.append(
            f"names in another Unicode form than NFC count as if they were in it: {len(spelled)}, as {spelled[0]}"
        )
    return notes


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
