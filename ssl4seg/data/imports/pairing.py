"""Which files are masks, and of which image, where nothing but names tells."""

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ssl4seg.data.case import LabelArray
from ssl4seg.data.formats import stem
from ssl4seg.data.imports.content import Example, Images, split_of
from ssl4seg.data.mask_names import WORDS

NOUNS = rf"(({'|'.join(WORDS)}|segmentation)s?)"
FOLDER = re.compile(rf"(^|[^a-z])({NOUNS}|annot|annotations?|ground_?truth)([^a-z]|$)")
"""A folder of masks, in small letters: masks, train_labels, SegmentationClass is not one."""
SUFFIX = re.compile(rf"[._-]((?i:{NOUNS})|L)([_-]\d+)?$")
"""At the end of a mask's name: a_mask, a_mask_1, a-labels, a.seg, a_L."""
IMAGE_SUFFIX = re.compile(r"_(img|image)$")


class Pairs(NamedTuple):
    """The images of a folder with their masks."""

    masks: dict[Path, list[Path]]
    """Of each image, in the order of their names."""
    lost: list[Path]
    """Masks whose image was not found, or which several images may have."""


def is_mask(below: Path) -> bool:
    """Whether a path below the source is that of a mask."""
    return any(map(is_mask_folder, below.parts[:-1])) or bare(stem(below)) is not None


def bare(name: str) -> str | None:
    """The name of the image that a mask's name continues; None if it is no such name."""
    return name[: found.start()] if (found := SUFFIX.search(name)) and found.start() else None


def is_mask_folder(name: str) -> bool:
    return FOLDER.search(name.lower()) is not None


def pairs_in(images: Images) -> Pairs:
    """Pair masks with images of the same name: in the same folder, or in the folders that are most alike."""
    files = images.pictures()
    masks = [file for file in files if is_mask(file.relative_to(images.top))]
    found: dict[Path, list[Path]] = {file: [] for file in files if file not in {*masks}}
    by_name: dict[str, list[Path]] = {}
    for image in found:
        by_name.setdefault(IMAGE_SUFFIX.sub("", stem(image)), []).append(image)
    lost: list[Path] = []
    for mask in masks:
        name = stem(mask)
        alike = by_name.get(name) or by_name.get(bare(name) or name) or []
        nearest = _nearest(mask, alike)
        (lost if nearest is None else found[nearest]).append(mask)
    return Pairs(found, lost)


def _nearest(mask: Path, images: Sequence[Path]) -> Path | None:
    """The image with the fewest folders that the mask's path does not have; None if several have so few."""
    distances = [len({*image.parent.parts} ^ {*mask.parent.parts}) for image in images]
    nearest = [image for image, distance in zip(images, distances, strict=True) if distance == min(distances)]
    return nearest[0] if len(nearest) == 1 else None


def one_mask_each(pairs: Pairs, images: Images, draw: Callable[[Path], LabelArray]) -> tuple[list[Example], list[str]]:
    """An example of each image, and the faults: masks without an image, and second ones.

    Args:
        draw: reads a mask.
    """
    faults = without_image(pairs.lost)
    faults += [f"{masks[1]}: is a second mask of {image.name}" for image, masks in pairs.masks.items() if masks[1:]]
    examples = [
        Example(
            name=images.name_of(image),
            image=image,
            mask=partial(draw, masks[0]) if masks else None,
            split=split_of(image.relative_to(images.top).parent),
        )
        for image, masks in pairs.masks.items()
    ]
    return examples, faults


def without_image(masks: Sequence[Path]) -> list[str]:
    """A fault for each mask without an image."""
    return [
        f"{mask}: is a mask without an image; expected one of its name, without _mask, _gt, _label or _seg"
        for mask in masks
    ]
