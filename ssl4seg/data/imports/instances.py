"""Masks that number objects: 0 is the background, every other number an object. 16-bit TIFF or PNG.

    images/a.tif  masks/a.tif        a_img.png  a_masks.png (Cellpose)

All objects are one class, called `object` or as `--name` says; `--boundary NAME` adds a class where two of them touch.
"""

from functools import partial
from pathlib import Path

import numpy as np

from ssl4seg.data.case import LabelArray
from ssl4seg.data.formats import whole_labels
from ssl4seg.data.images import read_values
from ssl4seg.data.imports.content import Choices, Classes, Content, Source
from ssl4seg.data.imports.masks import OBJECT
from ssl4seg.data.imports.objects import touching
from ssl4seg.data.imports.pairing import one_mask_each, pairs_in
from ssl4seg.data.masks import MANY
from ssl4seg.errors import UserError

NAME = "instances"
TITLE = "masks that number objects (16-bit TIFF or PNG, Cellpose)"
CHOICES: tuple[str, ...] = ("images", "boundary", "name")
LOOKS = 5
"""Masks that are looked into before a folder is recognised."""


def recognise(source: Source) -> bool:
    """Whether each image has at most one mask, and the first ones hold many numbers or more than 8 bits."""
    if not source.path.is_dir():
        return False
    masks = [each for each in pairs_in(source.images(Choices())).masks.values() if each]
    return bool(masks) and max(map(len, masks)) == 1 and any(_is_one(mask) for (mask,) in masks[:LOOKS])


def _is_one(mask: Path) -> bool:
    try:
        values = read_values(mask, colored=False)
    except UserError:
        return False
    if values.ndim != 3 or len(values) > 1:
        return False
    return len(np.unique(values)) > MANY or (values.dtype.kind in "iu" and values.dtype.itemsize > 1)


def read(source: Source, choices: Choices) -> Content:
    images = source.images(choices)
    pairs, classes = pairs_in(images), Classes()
    classes.add(OBJECT, choices.name or OBJECT)
    boundary = classes.boundary(choices)
    examples, faults = one_mask_each(pairs, images, partial(_drawn, boundary=boundary))
    notes = []
    if bare := sum(not masks for masks in pairs.masks.values()):
        notes.append(f"{bare} images without a mask are unlabelled")
    return Content(classes=classes.names, examples=examples, faults=faults, notes=notes)


def _drawn(file: Path, boundary: int | None) -> LabelArray:
    values = read_values(file, colored=False)
    if values.ndim != 3 or len(values) > 1:
        raise UserError(f"{file}: is no single plane of numbers; expected 0 for the background and a number an object")
    owner = whole_labels(values[0])
    if (owner < 0).any() or (owner % 1 != 0).any():
        raise UserError(f"{file}: holds values that are no whole numbers from 0; expected a number for each object")
    label = (owner > 0).astype(np.uint8)
    if boundary:
        label[touching(owner.astype(np.int64))] = boundary
    return label
