"""Folders laid out as PASCAL VOC: JPEGImages/, SegmentationClass/ with a palette or colours, ImageSets/Segmentation/.

LabelMe's labelme2voc.py writes them with class_names.txt, CVAT and Datumaro with labelmap.txt (names and colours).
PASCAL VOC 2012 itself is dataset=voc2012.
"""

import re
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from ssl4seg.data.case import LabelArray
from ssl4seg.data.dataset import Split
from ssl4seg.data.formats import palette_in
from ssl4seg.data.images import read_values
from ssl4seg.data.imports.content import BACKGROUND, Choices, Content, Example, Source, attempt_all
from ssl4seg.data.imports.legend import LABELMAP, legend_of
from ssl4seg.data.masks import MaskReader, codes_of, differing_palettes
from ssl4seg.errors import UserError
from ssl4seg.keys import IGNORE
from ssl4seg.userfiles import read_text

NAME = "voc"
TITLE = "folder like PASCAL VOC (JPEGImages, SegmentationClass)"
CHOICES: tuple[str, ...] = ("legend",)
IMAGES, MASKS, LISTS = "JPEGImages", "SegmentationClass", "ImageSets/Segmentation"
CLASS_NAMES = "class_names.txt"
VOID = "#e0e0c0"
"""The colour of VOC's palette for number 255, which nothing counts."""
OF_VOC = re.compile(r"20\d\d_\d{6}$")
SPLITS: tuple[Split, ...] = ("train", "val", "test")


def recognise(source: Source) -> bool:
    return _top(source) is not None


def _top(source: Source) -> Path | None:
    """The folder that holds SegmentationClass: the source, or one below (VOCdevkit/VOC2012)."""
    if not source.path.is_dir():
        return None
    places = [source.top, *sorted(source.top.glob("*/")), *sorted(source.top.glob("*/*/"))]
    return next((place for place in places if (place / MASKS).is_dir() and (place / IMAGES).is_dir()), None)


def read(source: Source, choices: Choices) -> Content:
    top = _top(source)
    if top is None:
        raise UserError(f"{source.path}: has no {IMAGES}/ and {MASKS}/")
    legend = legend_of(top, choices)
    images, masks = _pictures(top / IMAGES), _pictures(top / MASKS)
    notes = []
    if images and all(map(OF_VOC.match, images)):
        notes.append("these are images of PASCAL VOC itself, which dataset=voc2012 reads without an import")
    faults = [
        f"{mask}: is a mask without an image in {top / IMAGES}" for name, mask in masks.items() if name not in images
    ]
    content = Content(classes=[], faults=faults, notes=notes)
    if legend:
        reader, draw = legend.reader(void=VOID), _by_color
        content.classes, content.palette, content.keys = legend.classes, legend.palette, legend.keys
        notes += legend.notes
    else:
        used = attempt_all(faults, _numbers, list(masks.values()))
        masks = {name: mask for name, mask in masks.items() if mask in used}
        reader, content.classes, content.palette = _by_numbers(top, used, faults)
        draw = _by_number
    splits = _splits(top, images, faults)
    content.examples = [
        Example(
            name=name,
            image=image,
            mask=partial(draw, reader, masks[name]) if name in masks else None,
            split=splits.get(name),
        )
        for name, image in images.items()
    ]
    return content


def _pictures(folder: Path) -> dict[str, Path]:
    """The pictures below a folder by their paths there, without ending: lists name them so."""
    images = Source(folder).images(Choices())
    return {images.name_of(file): file for file in images.pictures()}


def _by_color(reader: MaskReader, file: Path) -> LabelArray:
    label: LabelArray = reader.read(file)[0]
    return label


def _by_number(reader: MaskReader, file: Path) -> LabelArray:
    label: LabelArray = reader.label(codes_of(read_values(file, colored=False)), file)[0]
    return label


def _by_numbers(
    top: Path, numbers: Mapping[Path, set[int]], faults: list[str]
) -> tuple[MaskReader, list[str], list[str] | None]:
    """The classes of masks that hold numbers, named by class_names.txt or class_1, class_2, ..., and their colours.

    Args:
        numbers: in each mask.
    """
    masks = [*numbers]
    if fault := differing_palettes(masks, f"in {LABELMAP} or by --legend FILE"):
        faults.append(fault)
    used = sorted(set().union(*numbers.values()) - {IGNORE})
    file = top / CLASS_NAMES
    names = [line.strip() for line in read_text(file).splitlines() if line.strip()] if file.is_file() else []
    names = [name for name in names if name != "__ignore__"]
    if names and used and used[-1] >= len(names):
        faults.append(f"{file}: names {len(names)} classes, but masks hold {used[-1]}; add the names that are missing")
        names = []
    codes = [0, *(number for number in used if number)]
    classes = [(names[code].strip("_") if names else f"class_{code}" if code else BACKGROUND) for code in codes]
    colors = palette_in(masks[0]) if masks else None
    palette = [f"#{colors[code].hex()}" for code in codes] if colors and codes[-1] < len(colors) else None
    return MaskReader(num_classes=len(codes), colors=codes, ignore_index=IGNORE), classes, palette


def _numbers(mask: Path) -> set[int]:
    values = read_values(mask, colored=False)
    if values.ndim == 4:
        raise UserError(
            f"{mask}: holds colours, but nothing names their classes; add {LABELMAP} (name:red,green,blue a line), or "
            "give it by --legend FILE"
        )
    return {int(value) for value in np.unique(values)}


def _splits(top: Path, images: Collection[str], faults: list[str]) -> dict[str, Split]:
    """The split of each image that ImageSets/Segmentation lists; faults of names without an image, and in two lists."""
    found: dict[str, Split] = {}
    for split in SPLITS:
        file = top / LISTS / f"{split}.txt"
        if file.is_file():
            names = [_listed_name(line.strip(), images) for line in read_text(file).splitlines() if line.strip()]
            faults += [
                f"{file}: {name!r} is missing in {top / IMAGES}; add the image, or remove the name (without ending)"
                for name in names
                if name not in images
            ]
            faults += [
                f"{file}: {name!r} is in {found[name]}.txt too; expected each image in one list; mend one of both"
                for name in names
                if name in found
            ]
            found |= dict.fromkeys(names, split)
    return found


def _listed_name(line: str, images: Collection[str]) -> str:
    """The name that a line of a list begins with: the line, what stands in quotes, or its first word."""
    if line in images:
        return line
    quoted = re.match('"([^"]+)"', line)
    return quoted[1] if quoted else line.split()[0]
