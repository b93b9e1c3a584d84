"""COCO's panoptic form: a JSON of segments, and PNGs whose colours number them (id = R + 256 G + 65536 B).

    annotations/panoptic_val.json  annotations/panoptic_val/a.png    images anywhere below

Pixels without a segment (id 0) are ignored, as the form defines; `--empty background` makes them background. The form
is that of https://cocodataset.org/#format-data.
"""

from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ssl4seg.data.case import LabelArray
from ssl4seg.data.images import read_values
from ssl4seg.data.imports.coco import by_id, key_of, subset_of, tables_of
from ssl4seg.data.imports.content import (
    EMPTY,
    Choices,
    Classes,
    Content,
    Example,
    Images,
    Source,
    attempt,
    counted,
    holds,
    size_in,
)
from ssl4seg.errors import UserError
from ssl4seg.keys import IGNORE, is_rgb_color, is_whole

NAME = "panoptic"
TITLE = "COCO panoptic (JSON of segments, PNGs of their numbers)"
CHOICES: tuple[str, ...] = ("images", "empty")
EXPECTED = "{segments_info: [{id, category_id}, ...], file_name, image_id}"


def recognise(source: Source) -> bool:
    return bool(_files(source))


def _files(source: Source) -> list[Path]:
    return [file for file in source.files(".json") if holds(file, b'"segments_info"', b'"categories"')]


def read(source: Source, choices: Choices) -> Content:
    """All files of segments; several must be of different splits, which their names tell."""
    files = _files(source) or [source.only(".json", "segments_info and categories")]
    told = source.with_splits(files)
    faults = source.broken(".json", files)
    counts: Counter[str] = Counter()
    tables = {file: table for file in files if (table := attempt(faults, partial(tables_of, file))) is not None}
    classes, palette = _classes(tables, choices, faults)
    pictures = source.images(Choices())
    images = source.images(choices, without=[file.with_suffix("") for file in files])
    rest = 0 if choices.empty == "background" else IGNORE
    content = Content(classes=classes.names, palette=palette, faults=faults)
    if rest:
        content.keys["background"] = False
    for file, split in told:
        table = tables.get(file, {"images": [], "annotations": []})
        segments = _segments(file, table, classes, faults)
        for key, record in by_id(file, "images", table["images"], faults).items():
            try:
                size = size_in(record, "height", "width")
                near = None if choices.images else file.parent
                path = images.find(str(record.get("file_name")), near, subset_of(file))
                mask = None
                if key in segments:
                    name, numbers = segments[key]
                    mask = partial(_drawn, _png(pictures, name, file), numbers, rest)
                else:
                    counts[EMPTY["unlabeled"].partition(" (")[0]] += 1
                example = Example(name=images.name_of(path), image=path, mask=mask, size=size, split=split)
                content.examples.append(example)
            except UserError as error:
                faults.append(f"{file}: image {key}: {error}")
    content.notes += [*classes.notes(), *counted(counts)]
    return content


def _classes(
    tables: Mapping[Path, Mapping[str, list[dict[str, Any]]]], choices: Choices, faults: list[str]
) -> tuple[Classes, list[str] | None]:
    """The categories that have a segment, and their colours if all have one."""
    has_background = choices.empty == "background"
    classes, colors = Classes(background=has_background), {}
    for file, table in tables.items():
        used = {
            key_of(segment.get("category_id"))
            for record in table["annotations"]
            for segment in _listed(record.get("segments_info"))
            if isinstance(segment, dict)
        }
        if not used:
            faults.append(
                f"{file}: no annotation lists a segment; expected some in segments_info, each with id and category_id"
            )
        names: set[str] = set()
        for key, record in by_id(file, "categories", table["categories"], faults).items():
            name, color = record.get("name"), record.get("color")
            if not isinstance(name, str) or not name.strip():
                faults.append(f"{file}: category {key}: its name is {name!r}; expected a text")
                continue
            if key in used and name.strip() in names:
                classes.unite(name.strip())
            names |= {name.strip()} if key in used else set()
            classes.add((file, key), name.strip(), used=key in used)
            if is_rgb_color(color):
                colors[name.strip()] = f"#{bytes(color).hex()}" if isinstance(color, list) else str(color)
    named = classes.names[has_background:]
    palette = ["#000000"] * has_background + [colors[name] for name in named] if {*named} <= {*colors} else None
    return classes, palette


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _segments(
    file: Path, table: Mapping[str, list[dict[str, Any]]], classes: Classes, faults: list[str]
) -> dict[str, tuple[str, dict[int, int]]]:
    """By the id of an image: the name of its PNG, and the class of each segment in it."""
    found: dict[str, tuple[str, dict[int, int]]] = {}
    known = {key_of(record.get("id")) for record in table["images"]}
    for place, record in enumerate(table["annotations"]):
        where, image = f"{file}: annotation {place}", key_of(record.get("image_id"))
        name, listed = record.get("file_name"), record.get("segments_info")
        if not isinstance(name, str) or not isinstance(listed, list) or image is None:
            faults.append(f"{where}: expected {EXPECTED}")
        elif image not in known:
            faults.append(f"{where}: image_id {image} is that of no image")
        elif image in found:
            faults.append(f"{where}: is a second one of image {image}")
        else:
            numbers: dict[int, int] = {}
            for segment in listed:
                number: Any = segment.get("id") if isinstance(segment, dict) else None
                category = key_of(segment.get("category_id")) if isinstance(segment, dict) else None
                if not is_whole(number) or not 0 < number < 2**24:
                    faults.append(f"{where}: a segment has the id {number!r}; expected 1 to {2**24 - 1}")
                elif (file, category) not in classes.numbers:
                    faults.append(f"{where}: segment {number}: category_id {category} is that of no category")
                elif number in numbers:
                    faults.append(f"{where}: segment {number} comes twice")
                else:
                    numbers[number] = classes.numbers[file, category]
            found[image] = name, numbers
    return found


def _png(pictures: Images, name: str, file: Path) -> Path:
    """The PNG of segments: in the folder that is called as the JSON, as COCO's own, or found by its name."""
    try:
        return pictures.find(name, near=file.with_suffix(""))
    except UserError:
        return pictures.find(name, near=file.parent)


def _drawn(file: Path, numbers: Mapping[int, int], rest: int) -> LabelArray:
    values = read_values(file, colored=True)[0].astype(np.int32)
    if values.ndim != 3:
        raise UserError(f"{file}: holds no colours; expected red, green and blue, which number segments")
    ids = values[..., 0] | values[..., 1] << 8 | values[..., 2] << 16
    unknown = -1
    table = np.full(int(ids.max()) + 1, unknown, np.int16)
    table[0] = rest
    for number, kind in numbers.items():
        table[number : number + 1] = kind  # nothing, where no pixel has so high a number
    label = table[ids]
    if (label == unknown).any():
        raise UserError(f"{file}: holds segment {ids[label == unknown][0]}, which segments_info does not list")
    return np.asarray(label, np.uint8)
