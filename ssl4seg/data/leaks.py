"""Doubts about a folder without `group`: cases of one patient, and copies, in train and in val or test.

Names that share a stem and differ by a number (TCGA_4941_12, p01_slice_3, p01/3), images that look like the next one in
the order of names, and files of the same bytes. Nothing is refused: only the user knows the patients.
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from ssl4seg.data.case import ImageArray
from ssl4seg.data.dataset import SPLITS, Split
from ssl4seg.data.items import UNLABELED, Item
from ssl4seg.errors import UserError

HELD_OUT = SPLITS[1:]
Splits = Mapping[Split, Sequence[Item]]
Thumbnail = npt.NDArray[np.float32]

PART = re.compile(
    r"[ _./-]{0,3}(?<![a-z])"
    r"(?:slice|frame|page|patch|tile|crop|image|img|view|visit|ses|time|sl|fr|tp|z|t|s)[ _.-]{0,3}(?=\d)",
    re.IGNORECASE,
)
"""A word for a part of a patient, before its number: in patient001_frame01, sub-01_ses-2, case0005_slice012."""
NUMBER = re.compile(r"[ _./(-]{1,3}(?=(?P<number>\d+)\)?$)")
"""What stands between a stem and its number, the last thing in a name: TCGA_CS_4941_12, p01/3."""
NO_PATIENT = re.compile(r"\D*|(?:19|20)\d\d(?:[_.-]?\d\d)?")
"""Stems without a digit (img_3, benign (4)) name a kind of image, and years (2007_000032) a time, not a patient."""

MOST_VOLUMES = 8
"""A stem with more volumes than this names a collection (FLARE22_Tr_0001), not a patient: few are scanned so often."""

SIDE = 16
"""Of a thumbnail, in pixels."""
ALIKE, NUM_OTHERS, MIN_PAIRS, MIN_SHARE = 0.8, 16, 6, 0.25
"""Two neighbours are alike if their correlation is above ALIKE and above those with NUM_OTHERS other images. Neighbours
of different patients are so by chance in at most 1 of 17 pairs; of slices in their order most are, so that MIN_PAIRS
pairs and a share of MIN_SHARE tell."""


def by_names(splits: Splits, *, volumes: bool = False) -> str:
    """The warning that names tell of patients in train and held out; "" if they do not.

    Args:
        volumes: whether each file is a whole scan.
        splits: the items of each split; if they are given by folders, names that stand in two of them tell nothing.
    """
    names = {split: [_name(item) for item in items] for split, items in splits.items()}
    every = [name for part in names.values() for name in part]
    most = MOST_VOLUMES if volumes else None
    pattern = suggested_group(every, most) if len({*every}) == len(every) else None
    if pattern is None:
        return ""
    patients = {split: [_patient(pattern, name) for name in part] for split, part in names.items()}
    trained_on = {*patients["train"]}
    twice = {split: [patient for patient in patients[split] if patient in trained_on] for split in HELD_OUT}
    if not any(twice.values()):
        return ""
    shared = {split: len(part) for split, part in twice.items()}
    sizes = Counter(patient for part in patients.values() for patient in part)
    patient = next(patient for part in twice.values() for patient in part)
    files = sorted((name for name in every if _patient(pattern, name) == patient), key=_natural)
    example = f"{', '.join(files[:3])}{', ...' if len(files) > 3 else ''}"
    return (
        f"{_counted(shared, splits)} share a patient with train if names tell the patient, as {patient!r} of {example} "
        f"({len(every)} files, {len(sizes)} patients); scores are too high then. {_remedy(splits, pattern)}"
    )


def _remedy(splits: Splits, pattern: str) -> str:
    if any(item.split for items in splits.values() for item in items):
        return (
            "Keep the files of each patient in one of train/, val/ and test/, and set group: "
            f"'{pattern}' in dataset.yaml, which checks it (group: '(.+)' if each file is a patient)"
        )
    return f"Set group: '{pattern}' in dataset.yaml (or '(.+)' if each file is a patient of its own)"


def _counted(shared: Mapping[Split, int], splits: Splits) -> str:
    counts = [f"{shared[split]} of {len(splits[split])} {split} cases" for split in reversed(HELD_OUT) if shared[split]]
    return " and ".join(counts)


def suggested_group(names: Sequence[str], most: int | None = None) -> str | None:
    """The regular expression for `group` that fits names with a stem and a number; None if there is no such habit.

    Two stems must have several names, for all images of a folder may be named img_001. Bare numbers must follow one
    another regularly: those of slices and frames do, those of images chosen from many do not.

    Args:
        most: names that one stem may have before a bare number.
    """
    for habit in (PART, NUMBER):
        members: dict[str, list[re.Match[str]]] = defaultdict(list)
        for name in names:
            for match in habit.finditer(name):
                if not NO_PATIENT.fullmatch(stem := name[: match.start()]):
                    members[stem].append(match)
                    break
        several = [matches for matches in members.values() if len(matches) > 1]
        if len(several) < 2 or (habit is NUMBER and not _are_regular(several)):
            continue
        if habit is NUMBER and most is not None and max(map(len, several)) > most:
            continue
        found = [match for matches in members.values() for match in matches]
        tails = "|".join(sorted({re.sub(r"([.()])", r"\\\1", match[0]) for match in found}))
        rest = r"\d.*" if habit is PART else r"\d+\)?" if "(" in tails else r"\d+"
        tails = f"(?:{tails})" if "|" in tails else tails
        if len(found) < len(names):  # a name without a number is a patient of its own
            return f"(.+?)(?:{tails}{rest}|)$"
        return rf"(.+?){tails}\d" if habit is PART else f"(.+){tails}{rest}$"
    return None


def _are_regular(several: Sequence[Sequence[re.Match[str]]]) -> bool:
    """Whether the numbers of one stem have the same distance, as a rule."""
    numbers = [sorted({int(match["number"]) for match in matches}) for matches in several]
    gaps = Counter(second - first for part in numbers for first, second in pairwise(part))
    return bool(gaps) and 2 * gaps.most_common(1)[0][1] > gaps.total()


def _patient(pattern: str, name: str) -> str:
    match = re.search(pattern, name)
    return match[1] if match else name


def _name(item: Item) -> str:
    """The name that `group` is matched with."""
    return item.name.removeprefix(f"{UNLABELED}/")


def _natural(name: str) -> list[tuple[int, str]]:
    """The key of an order in which img_2 stands before img_10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


# -- by their pixels --------------------------------------------------------------------------------------------------


def thumbnail(image: ImageArray) -> Thumbnail:
    """The middle slice of an image [S, C, H, W] in grey: [SIDE * SIDE], of mean 0 and norm 1; 0 if of one colour."""
    middle = image[len(image) // 2].mean(axis=0, dtype=np.float32)
    small = np.asarray(Image.fromarray(middle).resize((SIDE, SIDE), Image.Resampling.BOX)).ravel()
    small = small - small.mean()
    norm = float(np.linalg.norm(small))
    flat = norm <= 1e-4 * max(1e-9, float(np.abs(middle).max()))
    return np.zeros_like(small) if flat else small / norm


def by_looks(splits: Splits, thumbnails: Mapping[Item, Thumbnail]) -> str:
    """The warning that held-out images look like a neighbour in train, in the order of names; "" if they do not."""
    split_of = {item: split for split, items in splits.items() for item in items if item in thumbnails}
    items = sorted(split_of, key=lambda item: (_natural(_name(item)), item.name))
    pairs = list(pairwise(items))
    alike = _alike(np.stack([thumbnails[item] for item in items])) if len(items) > 3 else np.zeros(len(pairs), bool)
    if alike.sum() < MIN_PAIRS or alike.mean() < MIN_SHARE:
        return ""
    near = [pair for pair, found in zip(pairs, alike, strict=True) if found]
    crossing = [pair for pair in near if {"train"} < {split_of[item] for item in pair}]
    held_out = {item for pair in crossing for item in pair if split_of[item] != "train"}
    shared: dict[Split, int] = {split: sum(split_of[item] == split for item in held_out) for split in HELD_OUT}
    if 10 * len(held_out) <= sum(len(splits[split]) for split in HELD_OUT):
        return ""
    first, second = crossing[0]
    return (
        f"{_counted(shared, splits)} look nearly the same as the train image next to them in the order of names, as "
        f"{first.name} and {second.name}. If they are slices or frames of one patient, scores are too high: let the "
        "files' names begin with the patient and set group in dataset.yaml, or divide the patients between train/, "
        "val/ and test/ (group: '(.+)' if each file is a patient of its own)"
    )


def _alike(images: Thumbnail) -> npt.NDArray[np.bool_]:
    """[N - 1]: whether each image [N, D] and the next one are alike."""
    here = np.arange(len(images) - 1)
    others = np.random.default_rng(0).integers(0, len(images), (NUM_OTHERS, len(here)))
    near = (images[:-1] * images[1:]).sum(axis=1)
    far = np.stack([(images[:-1] * images[drawn]).sum(axis=1) for drawn in others])
    far[np.abs(others - here) <= 1] = -1  # the image itself, and its neighbours
    found: npt.NDArray[np.bool_] = near > np.maximum(ALIKE, far.max(axis=0))
    return found


def copies(splits: Splits) -> str:
    """The warning that images in two splits have the same bytes; "" if none have. Only files of one size are read."""
    sizes: dict[int, list[tuple[Split, Path]]] = defaultdict(list)
    for split, items in splits.items():
        for item in items:
            sizes[_size(item.image)].append((split, item.image))
    contents: dict[bytes, list[tuple[Split, Path]]] = defaultdict(list)
    for places in sizes.values():
        if len({split for split, _ in places}) > 1:
            for split, file in places:
                contents[_hash(file)].append((split, file))
    twice = [places for places in contents.values() if len({split for split, _ in places}) > 1]
    if not twice:
        return ""
    split, file = twice[0][0]
    other, copy = next(place for place in twice[0] if place[0] != split)
    return (
        f"{len(twice)} images stand in two of train, val and test, as {file} ({split}) and {copy} ({other}), which "
        "have the same bytes; remove one of each"
    )


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None


def _hash(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").digest()
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
