"""The folders of the Medical Segmentation Decathlon and of nnU-Net, as they are downloaded or made for training.

    ROOT/imagesTr/case_001.nii.gz                  MSD: one file a case, channels on its fourth axis
    ROOT/imagesTr/case_001_0000.nii.gz  _0001...   nnU-Net: one file a channel
    ROOT/labelsTr/case_001.nii.gz                  in both
    ROOT/imagesTs  ROOT/labelsTs                   optional: the test split, if there are masks
    ROOT/dataset.json                              names, values of classes, channels

Sources: Antonelli et al., The Medical Segmentation Decathlon, Nature Communications 2022; nnU-Net's
documentation/dataset_format.md, versions 1 and 2.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any
from unicodedata import normalize

from ssl4seg.data.formats import ENDINGS, hint, stem
from ssl4seg.data.items import CHANNEL, UNLABELED, How, Item, Layout, add_unlabeled, expect_masks, files_in, pair
from ssl4seg.data.walk import walk
from ssl4seg.errors import UserError
from ssl4seg.keys import is_whole
from ssl4seg.userfiles import read_json

IMAGES, LABELS = "imagesTr", "labelsTr"
TEST_IMAGES, TEST_LABELS = "imagesTs", "labelsTs"
DESCRIPTION = "dataset.json"
IGNORED = "ignore"
"""What nnU-Net calls the label that nothing counts."""


# -- the files --------------------------------------------------------------------------------------------------------


def fill(root: Path, layout: Layout, how: How) -> None:
    """Add what the folder holds: imagesTr, whose split is drawn, and imagesTs as test if it has masks."""
    try:
        about = _about(root)
        how = how._replace(channels=_channels(root, about))
    except UserError:
        about = {}  # who reads the description tells
    pair(root / IMAGES, root / LABELS, None, layout, how)
    expect_masks(layout.items, root, root / LABELS, layout)
    _compare(root, about, layout)
    _add_test(root, layout, how)
    add_unlabeled(root / UNLABELED, None, layout, how)


def _add_test(root: Path, layout: Layout, how: How) -> None:
    images = walk(root / TEST_IMAGES).files
    if images and walk(root / TEST_LABELS).files:
        pair(root / TEST_IMAGES, root / TEST_LABELS, "test", layout, how)
    elif images and not (root / UNLABELED).exists():
        layout.notes.append(
            f"{len(images)} files of {TEST_IMAGES}/ are left out, because {TEST_LABELS}/ holds no masks; to train on "
            f"them as unlabelled images, rename {TEST_IMAGES}/ to {UNLABELED}/ or make {UNLABELED}/ a link to it"
        )


def _compare(root: Path, about: Mapping[str, Any], layout: Layout) -> None:
    """Add a fault for each pair of the list `training` that is not there, and a note on images that it lacks."""
    file, listed = root / DESCRIPTION, about.get("training")
    if "dataset" in about:
        layout.faults.append(f"{file}: names files by its key dataset, which is not read; put them into {IMAGES}/")
    kind = about.get("file_ending", ENDINGS[0])
    if str(kind).lower() not in ENDINGS:
        layout.faults.append(
            f"{file}: file_ending {kind} is not read ({hint(str(kind))}); expected {', '.join(ENDINGS)}"
        )
    if not isinstance(listed, list):
        return
    masks = {_bare(item.name): _held(item, root) for item in layout.items}
    names = set()
    for number, entry in enumerate(listed, 1):
        if not (isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in ("image", "label"))):
            layout.faults.append(f'{file}: entry {number} of training is no {{"image": FILE, "label": FILE}}')
            continue
        name, label = (_bare(_listed(entry[key], folder)) for key, folder in (("image", IMAGES), ("label", LABELS)))
        names.add(name)
        if name not in masks:
            layout.faults.append(
                f"{file}: training names {entry['image']}, which is missing; mend the list or the folder"
            )
        elif masks[name] != label:
            there = f"is {masks[name]}" if masks[name] else "is missing"
            layout.faults.append(f"{file}: training names {entry['label']}, but the mask of {name} {there}")
    if others := sorted(masks.keys() - names):
        verb = "images of {} are" if len(others) > 1 else "image of {} is"
        layout.notes.append(
            f"{len(others)} {verb.format(IMAGES + '/')} not in the list training of {DESCRIPTION}, as {others[0]}, "
            "and read all the same"
        )


def _held(item: Item, root: Path) -> str | None:
    return _bare(_listed(item.mask.relative_to(root).as_posix(), LABELS)) if item.mask else None


def _listed(path: str, folder: str) -> str:
    """The name that a listed path has below its folder: "./imagesTr/a.nii.gz" -> "a"."""
    below = path.replace("\\", "/").rpartition(f"{folder}/")[2]
    place = Path(normalize("NFC", below))
    return (place.parent / stem(place)).as_posix()


def _bare(name: str) -> str:
    """A name without the number of a channel, which lists may have or not."""
    return CHANNEL.sub("", name)


# -- dataset.json -----------------------------------------------------------------------------------------------------


def description(root: Path, known: Collection[str] = ()) -> dict[str, Any]:
    """The keys of dataset.yaml that this folder's dataset.json and names of files stand for; none in other layouts.

    Args:
        known: keys that are set elsewhere; where `classes` is, the labels are not looked at.

    Raises:
        UserError: it is no such description, or a class has several values (nnU-Net's regions).
    """
    if not (root / IMAGES).is_dir():
        return {}
    about = _about(root)
    keys: dict[str, Any] = {"channel_files": _has_channel_files(root, about)}
    if isinstance(about.get("name"), str):
        keys["name"] = about["name"]
    if (channels := _channels(root, about)) is not None:
        keys["channels"] = channels
    if "labels" in about and "classes" not in known:
        keys |= _classes(root / DESCRIPTION, about["labels"])
    return keys


def names_classes(root: Path) -> bool:
    """Whether this folder's dataset.json has labels."""
    return (root / IMAGES).is_dir() and "labels" in _about(root)


def _about(root: Path) -> dict[str, Any]:
    """The content of dataset.json; {} without one."""
    file = root / DESCRIPTION
    if not file.exists() and not file.is_symlink():
        return {}
    content = read_json(file)
    if not isinstance(content, dict):
        raise UserError(f"{file}: holds no keys; expected labels, and modality (MSD) or channel_names (nnU-Net)")
    return content


def _channels(root: Path, about: Mapping[str, Any]) -> int | None:
    """The number of channels, of nnU-Net's `channel_names` or MSD's `modality`; None if neither is there."""
    key = next((key for key in ("channel_names", "modality") if key in about), None)
    if key is None:
        return None
    names = about[key]
    numbers = sorted(map(str, names)) if isinstance(names, dict) else [str(i) for i in range(_length(names))]
    if not numbers or numbers != sorted(map(str, range(len(numbers)))):
        raise UserError(f'{root / DESCRIPTION}: {key}={names}: expected the channels by number, as {{"0": "T1"}}')
    return len(numbers)


def _length(names: Any) -> int:
    return len(names) if isinstance(names, list) else 0


def _has_channel_files(root: Path, about: Mapping[str, Any]) -> bool:
    """Whether every channel has a file: nnU-Net's, also of version 1, whose dataset.json is like that of MSD."""
    if "channel_names" in about:
        return True
    images, labels = (files_in(root / folder, Layout()) for folder in (IMAGES, LABELS))
    return bool(images) and all(map(CHANNEL.search, images)) and not images.keys() & labels.keys()


def _classes(file: Path, labels: Any) -> dict[str, Any]:
    """`classes` in the order of their values, with `colors` if these are not 0..K-1, and `ignore_index`."""
    if not isinstance(labels, dict) or not labels:
        raise UserError(f'{file}: labels={labels}: expected {{"0": "background", ...}} or {{"background": 0, ...}}')
    by_value = all(key.isdecimal() for key in labels)  # MSD's way; nnU-Net has values by name
    values = {name: int(value) for value, name in labels.items()} if by_value and _are_names(labels) else labels
    if regions := [name for name, value in values.items() if isinstance(value, list)]:
        raise UserError(
            f"{file}: labels: {regions[0]} stands for several values {values[regions[0]]} (nnU-Net's regions), but a "
            "pixel has one class here; name the class of each value in dataset.yaml (classes, colors)"
        )
    if wrong := [name for name, value in values.items() if not is_whole(value)]:
        raise UserError(f"{file}: labels: {wrong[0]}={values[wrong[0]]}: expected a whole number")
    ordered = sorted((value, name) for name, value in values.items() if name != IGNORED)
    numbers = [value for value, _ in ordered]
    if len(values) < len(labels) or len({*numbers}) < len(numbers):
        raise UserError(f"{file}: labels={labels}: expected different names and different values")
    keys: dict[str, Any] = {"classes": [name for _, name in ordered]}
    if numbers != [*range(len(numbers))]:
        keys["colors"] = numbers
    return keys | ({"ignore_index": values[IGNORED]} if IGNORED in values else {})


def _are_names(labels: Mapping[str, Any]) -> bool:
    return all(isinstance(name, str) for name in labels.values())
