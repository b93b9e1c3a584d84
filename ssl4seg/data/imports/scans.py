"""Scans in any folders, with masks beside them: NIfTI, NRRD, MetaImage, as 3D Slicer and ITK-SNAP save them.

    case1/image.nrrd  case1/image_seg.nrrd        case2/scan.nii.gz  case2/Segmentation.seg.nrrd

A mask is known by its name (`_mask`, `_gt`, `_label`, `_seg`, `.seg`, `-label`, or segmentation, label, mask itself),
and belongs to the scan of its name, else to the only scan in its folder. Both must lie at one place.
"""

import shutil
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from ssl4seg.data.formats import ending, stem
from ssl4seg.data.images import axes_of_mask, facts, read_values
from ssl4seg.data.imports.content import Choices, Content, Example, Made, Source, attempt
from ssl4seg.data.imports.pairing import bare, is_mask_folder
from ssl4seg.data.itk import copy_itk
from ssl4seg.data.masks import codes_of
from ssl4seg.data.orientation import Space
from ssl4seg.data.scans import SCAN
from ssl4seg.errors import UserError

NAME = "scans"
TITLE = "scans (NIfTI, NRRD, MetaImage) with masks beside them"
CHOICES: tuple[str, ...] = ()
CANONICAL = Space("canonical", "z")
MOST = 64
"""Different numbers in masks: with more they number objects."""


def recognise(source: Source) -> bool:
    """Whether a scan that is called a mask lies in a folder with one that is not."""
    scans = _scans(source)
    return bool(
        {file.parent for file in scans if _is_mask(file)} & {file.parent for file in scans if not _is_mask(file)}
    )


def read(source: Source, choices: Choices) -> Content:
    faults = list(source.found.faults.values())
    pairs = _pairs(source, faults)
    numbers: set[int] = set()
    for image, mask in pairs.items():
        if mask:
            numbers |= attempt(faults, partial(_numbers, mask, image)) or set()
    held = sorted(numbers)
    names = [f"class_{number}" if number else "background" for number in held]
    content = Content(classes=names, faults=faults)
    if held and 0 not in numbers:
        content.keys["background"] = False
    if held != [*range(len(held))]:
        content.keys["colors"] = held
    content.examples = [_example(image, mask, source, alone) for image, mask, alone in _with_place(pairs)]
    if not any(pairs.values()) and not faults:
        raise UserError(
            f"{source.path}: no scan has a mask; expected one of its name, with _seg, _mask or _label after it"
        )
    return content


def _scans(source: Source) -> list[Path]:
    return (
        sorted(file for file in source.found.files if file.name.lower().endswith(SCAN)) if source.path.is_dir() else []
    )


def _is_mask(file: Path) -> bool:
    return bare(stem(file)) is not None or is_mask_folder(stem(file))


def _pairs(source: Source, faults: list[str]) -> dict[Path, Path | None]:
    """The mask of each scan; a fault for a mask without a scan, or a second one."""
    files = _scans(source)
    pairs: dict[Path, Path | None] = {file: None for file in files if not _is_mask(file)}
    for mask in (file for file in files if file not in pairs):
        beside = [image for image in pairs if image.parent == mask.parent]
        alike = [image for image in beside if stem(image) == bare(stem(mask))]
        owner = next(iter(alike or (beside if len(beside) == 1 else [])), None)
        if owner is None:
            faults.append(f"{mask}: is a mask, but its folder holds {len(beside)} scans, none of them of its name")
        elif other := pairs[owner]:
            faults.append(f"{mask}: is a second mask of {owner.name}, beside {other.name}")
        else:
            pairs[owner] = mask
    return pairs


def _numbers(mask: Path, image: Path) -> set[int]:
    """The numbers in a mask.

    Raises:
        UserError: it does not lie on its image, or holds something else than a few whole numbers.
    """
    sizes = [(fact.num_images, *fact.size) for fact in (facts(file, space=CANONICAL) for file in (mask, image))]
    if sizes[0] != sizes[1]:
        shown = [" x ".join(map(str, size)) for size in sizes]
        raise UserError(f"{mask}: is {shown[0]} (slices x height x width), but its scan {image.name} is {shown[1]}")
    axes_of_mask(mask, image, CANONICAL)
    found = np.unique(codes_of(read_values(mask, colored=False))).tolist()
    if len(found) > MOST or any(number != int(number) for number in found):
        raise UserError(f"{mask}: holds {len(found)} different values; expected a whole number for each class")
    return {int(number) for number in found}


def _with_place(pairs: Mapping[Path, Path | None]) -> Iterator[tuple[Path, Path | None, bool]]:
    """Each pair, and whether the scan is alone in its folder."""
    folders = [image.parent for image in pairs]
    for image, mask in pairs.items():
        yield image, mask, folders.count(image.parent) == 1


def _example(image: Path, mask: Path | None, source: Source, alone: bool) -> Example:
    """The example, called as its folder if it is alone there."""
    below = image.relative_to(source.top)
    name = below.parent if alone and below.parent != Path() else below.parent / stem(image)
    given = _made(image) if ending(image) == ".mhd" else image  # a link to .mhd would have no voxels beside it
    return Example(name=name.as_posix(), image=given, mask=_made(mask) if mask else None)


def _made(file: Path) -> Made:
    """A copy of a scan; of .mhd as .mha."""
    if ending(file) == ".mhd":
        return Made(".mha", partial(copy_itk, file))
    return Made(ending(file), partial(_copy, file))


def _copy(file: Path, target: Path) -> None:
    shutil.copyfile(file, target)
