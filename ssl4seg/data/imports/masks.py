"""One mask an object, or one mask a class: any number of black and white masks belong to one image.

    ID/images/ID.png  ID/masks/*.png                        Data Science Bowl 2018: a folder an image
    benign/a.png  a_mask.png  a_mask_1.png  malignant/...   BUSI: several masks an image
    images/a.png  masks/left/a.png  masks/right/a.png       a folder of masks a class

All masks are one class, `object` or as `--name` says, unless they lie in folders below masks/ that the images do not
have: these are classes then. `--by-folder` makes the folder of each mask its class, as benign and malignant.
"""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ssl4seg.data.case import LabelArray
from ssl4seg.data.dataset import byte_counts
from ssl4seg.data.formats import stem
from ssl4seg.data.images import read_values
from ssl4seg.data.imports.content import Choices, Classes, Content, Example, Images, Source, attempt_all
from ssl4seg.data.imports.objects import Mask, Object, drawn
from ssl4seg.data.imports.pairing import is_mask_folder, pairs_in, without_image
from ssl4seg.errors import UserError

NAME = "masks"
TITLE = "one mask an object or a class (DSB2018, BUSI, a folder a class)"
CHOICES: tuple[str, ...] = ("images", "order", "boundary", "by_folder", "name")
OBJECT = "object"
FEW = 8
"""More folders than this are hardly classes."""


class _Found(NamedTuple):
    images: Images
    masks: dict[Path, list[Path]]
    """Of each image."""
    lost: list[Path]
    names: dict[Path, str]
    """The class of each mask, by its folder; empty where all are one class."""


def recognise(source: Source) -> bool:
    if not source.path.is_dir():
        return False
    found = _find(source.images(Choices()), Choices())
    return bool(found.names) or any(len(masks) > 1 for masks in found.masks.values())


def _find(images: Images, choices: Choices) -> _Found:
    one = _a_folder_an_image(images)
    if one:
        masked = {mask for masks in one.values() for mask in masks}
        others = [file for file in images.pictures() if file not in one and file not in masked]
        inside = [file for file in others if file.parent.name == "masks"]
        return _Found(images, one | {file: [] for file in others if file not in inside}, inside, {})
    pairs = pairs_in(images)
    names = {
        mask: mask.parent.name if choices.by_folder else _class_folder(mask.relative_to(images.top), image)
        for image, masks in pairs.masks.items()
        for mask in masks
    }
    told = not choices.name and len({*names.values()}) > 1 and all(names.values())
    return _Found(images, pairs.masks, pairs.lost, names if told else {})


def _a_folder_an_image(images: Images) -> dict[Path, list[Path]]:
    """The masks of each image that has a folder of its own: ID/images with one file, beside ID/masks."""
    beside: dict[Path, dict[str, list[Path]]] = {}
    for file in images.pictures():
        beside.setdefault(file.parent.parent, {}).setdefault(file.parent.name, []).append(file)
    return {
        each["images"][0]: each["masks"]
        for each in beside.values()
        if len(each.get("images", [])) == 1
        and each.get("masks")
        and stem(each["images"][0]) not in map(stem, each["masks"])
    }


def _class_folder(mask: Path, image: Path) -> str:
    """The folder within a folder of masks that the image's path lacks, as left of masks/left; "" without one."""
    folders = mask.parts[:-1]
    inner = next((place for place, name in enumerate(folders) if is_mask_folder(name)), len(folders))
    own = [name for name in folders[inner + 1 :] if name not in image.parts]
    return own[0] if len(own) == 1 else ""


def read(source: Source, choices: Choices) -> Content:
    """The classes are those of which some mask holds a pixel, so all masks are read once before."""
    found = _find(source.images(choices), choices)
    masks = [mask for each in found.masks.values() for mask in each]
    faults = without_image(found.lost)
    empty = attempt_all(faults, _is_empty, masks)
    names = found.names
    classes = Classes()
    for name in sorted({*names.values()}) or [choices.name or OBJECT]:
        classes.add(name, name, used=not names or any(not empty.get(mask) for mask in masks if names[mask] == name))
    boundary = classes.boundary(choices)
    examples = []
    for image, own in found.masks.items():
        numbers = [classes.numbers.get(names.get(mask, choices.name or OBJECT), 0) for mask in own]
        draw = partial(_drawn, own, numbers, by_area=choices.order == "area", boundary=boundary) if own else None
        examples.append(Example(name=_name(found.images, image), image=image, mask=draw))
    notes = classes.notes()
    if bare := sum(not own for own in found.masks.values()):
        notes.append(f"{bare} images without a mask are unlabelled")
    if united := sum(len(own) > 1 for own in found.masks.values()):
        notes.append(f"{united} images have several masks, which are united")
    folders = sorted({mask.parent.name for mask in masks})
    if not names and 1 < len(folders) <= FEW and not choices.name:
        notes.append(
            f"the masks of the folders {', '.join(folders)} are one class; --by-folder makes each folder a class"
        )
    return Content(classes=classes.names, examples=examples, faults=faults, notes=notes)


def _name(images: Images, image: Path) -> str:
    """Without the folders of an image that has one of its own."""
    name = images.name_of(image)
    below = image.relative_to(images.top)
    return stem(image) if len(below.parts) > 2 and below.parts[-2] == "images" else name


def _is_empty(mask: Path) -> bool:
    return not binary(mask).any()


def binary(file: Path) -> Mask:
    """The pixels [H, W] of a black and white mask that are not black.

    Raises:
        UserError: it holds other values than 0 and one more, as JPEG and smoothed masks do.
    """
    values = read_values(file, colored=False)[0]
    if values.ndim == 3:
        values = values.max(axis=-1)
    found = np.flatnonzero(byte_counts(values)) if values.dtype == np.uint8 else np.unique(values)
    if len(found) > 2 or (len(found) == 2 and found[0] != 0):
        odd = float((values != 0).mean() - (values == found[-1]).mean())
        raise UserError(
            f"{file}: holds {len(found)} different values, {odd:.1%} of its pixels between black and white; expected "
            "black and white: was it saved as JPEG, or smoothed?"
        )
    mask: Mask = values > 0
    return mask


def _drawn(masks: list[Path], numbers: list[int], *, by_area: bool, boundary: int | None) -> LabelArray:
    sizes = {mask: binary(mask).shape for mask in masks[:1]}
    size = sizes[masks[0]]
    objects = [Object(number, partial(_of_size, mask, size)) for mask, number in zip(masks, numbers, strict=True)]
    return drawn(objects, (size[0], size[1]), by_area=by_area, boundary=boundary)


def _of_size(file: Path, size: tuple[int, ...]) -> Mask:
    mask = binary(file)
    if mask.shape != size:
        raise UserError(
            f"{file}: is {mask.shape[0]} x {mask.shape[1]}, but another mask of its image {size[0]} x {size[1]}"
        )
    return mask
