"""Masks in colours, whose classes a legend names; images and masks are paired by their names.

images/a.jpg  masks/a.png  legend.csv        train/a.png  train_labels/a_L.png  class_dict.csv
"""

from functools import partial
from pathlib import Path

from ssl4seg.data.case import LabelArray
from ssl4seg.data.imports.content import Choices, Content, Source
from ssl4seg.data.imports.legend import FILES, file_of, legend_of
from ssl4seg.data.imports.pairing import one_mask_each, pairs_in
from ssl4seg.data.masks import MaskReader
from ssl4seg.errors import UserError

NAME = "colors"
TITLE = "masks in colours, with a legend"
CHOICES: tuple[str, ...] = ("images", "legend")


def recognise(source: Source) -> bool:
    is_voc = any((place / "SegmentationClass").is_dir() for place in (source.top, *source.top.glob("*/")))
    return source.path.is_dir() and file_of(source.top) is not None and not is_voc


def read(source: Source, choices: Choices) -> Content:
    legend = legend_of(source.top, choices)
    if legend is None:
        raise UserError(f"{source.path}: has no legend ({', '.join(FILES)}); give it by --legend FILE")
    images = source.images(choices)
    pairs, reader = pairs_in(images), legend.reader()
    examples, faults = one_mask_each(pairs, images, partial(_mask, reader))
    return Content(
        classes=legend.classes,
        examples=examples,
        palette=legend.palette,
        keys=legend.keys,
        faults=faults,
        notes=legend.notes,
    )


def _mask(reader: MaskReader, file: Path) -> LabelArray:
    label: LabelArray = reader.read(file)[0]
    return label
