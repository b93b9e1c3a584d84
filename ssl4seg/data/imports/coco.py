"""COCO's JSON of objects: outlines (`segmentation: [[x, y, ...]]`) and run lengths (`{size, counts}`).

    annotations/instances_train.json  instances_val.json    images anywhere below; also train/_annotations.coco.json

A category is a class; all its objects in an image are united. The format is that of https://cocodataset.org/#format-data.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ssl4seg.data.dataset import Split
from ssl4seg.data.imports.content import (
    EMPTY,
    MAX_JSON,
    Choices,
    Classes,
    Content,
    Example,
    Images,
    Source,
    counted,
    holds,
    size_in,
)
from ssl4seg.data.imports.objects import Object, drawn
from ssl4seg.data.imports.shapes import OUTLINES, coco_mask, lies, outlined, points_of, runs_of
from ssl4seg.errors import UserError
from ssl4seg.keys import is_whole
from ssl4seg.userfiles import read_json

NAME = "coco"
TITLE = "COCO JSON (outlines and run lengths)"
OBJECTS = "instances"
OTHER_TASKS = ("person_keypoints_", "stuff_", "captions_", "labels_", "image_info_")
"""How the files of COCO's tasks begin, as COCO and Datumaro call them."""
CHOICES: tuple[str, ...] = ("images", "order", "empty", "boundary")


def recognise(source: Source) -> bool:
    return bool(_files(source))


def _files(source: Source) -> list[Path]:
    return [
        file
        for file in source.files(".json")
        if holds(file, b'"images"', b'"annotations"', b'"categories"') and not holds(file, b'"segments_info"')
    ]


def read(source: Source, choices: Choices) -> Content:
    """All files of annotations; several must be of different splits, which their names tell."""
    coco_mask()
    files = _files(source) or [source.only(".json", "images, annotations and categories")]
    files, others = _of_objects(files)
    told = source.with_splits(files)
    reader = _Reader(source.images(choices), choices)
    reader.faults += source.broken(".json", [*files, *others])
    if others:
        reader.counts["{} files of other tasks of COCO are not read, as there are some of instances"] += len(others)
    return reader.content(told)


def _of_objects(files: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """The files of the task instances, and those of other tasks beside them, which tell of the same objects again."""
    objects = {file.parent for file in files if file.name.startswith(f"{OBJECTS}_")}
    others = [file for file in files if file.parent in objects and file.name.startswith(OTHER_TASKS)]
    return [file for file in files if file not in others], others


class _Reader:
    """Reads the files of a source one by one, and collects what is said of all of them."""

    def __init__(self, images: Images, choices: Choices) -> None:
        self.images, self.choices = images, choices
        self.classes = Classes()
        self.faults: list[str] = []
        self.counts: Counter[str] = Counter()

    def content(self, files: Sequence[tuple[Path, Split | None]]) -> Content:
        tables = []
        for file, split in files:
            try:
                tables.append((file, split, tables_of(file)))
            except UserError as error:
                self.faults.append(str(error))
        for file, _, table in tables:
            self._add_categories(file, table)
        boundary = self.classes.boundary(self.choices)
        examples = [each for file, split, table in tables for each in self._examples(file, split, table, boundary)]
        return Content(
            classes=self.classes.names,
            examples=examples,
            faults=self.faults,
            notes=[*self.classes.notes(), *counted(self.counts)],
        )

    def _add_categories(self, file: Path, table: Mapping[str, list[dict[str, Any]]]) -> None:
        used = {key_of(record.get("category_id")) for record in table["annotations"]}
        names: set[str] = set()
        for key, record in by_id(file, "categories", table["categories"], self.faults).items():
            name = record.get("name")
            if isinstance(name, str) and name.strip():
                self.classes.add((file, key), name.strip(), used=key in used)
                if name.strip() in names:
                    self.classes.unite(name.strip())
                names.add(name.strip())
            else:
                self.faults.append(f"{file}: category {key}: its name is {name!r}; expected a text")

    def _examples(
        self, file: Path, split: Split | None, table: Mapping[str, list[dict[str, Any]]], boundary: int | None
    ) -> Iterator[Example]:
        sizes: dict[str, tuple[int, int]] = {}
        paths: dict[str, Path] = {}
        for key, record in by_id(file, "images", table["images"], self.faults).items():
            try:
                sizes[key] = size_in(record, "height", "width")
                paths[key] = self._image(record, file)
            except UserError as error:
                self.faults.append(f"{file}: image {key}: {error}")
        objects = self._objects(file, table, sizes)
        if twice := [path for path, number in Counter(paths.values()).items() if number > 1]:
            self.faults += [f"{file}: two images have the file {path.name}; unite their annotations" for path in twice]
        by_area = self.choices.order == "area"
        for key, path in paths.items():
            known, mask = objects.get(key, []), None
            if known or self.choices.empty == "background":
                mask = partial(drawn, known, sizes[key], by_area=by_area, boundary=boundary)
            if not known:
                self.counts[EMPTY[self.choices.empty]] += 1
            yield Example(name=self.images.name_of(path), image=path, mask=mask, size=sizes[key], split=split)

    def _image(self, record: Mapping[str, Any], file: Path) -> Path:
        name = record.get("file_name")
        if not isinstance(name, str) or not name:
            raise UserError(f"its file_name is {name!r}; expected a text")
        return self.images.find(name, near=file.parent, subset=subset_of(file))

    def _objects(
        self, file: Path, table: Mapping[str, list[dict[str, Any]]], sizes: Mapping[str, tuple[int, int]]
    ) -> dict[str, list[Object]]:
        """The objects of each image, in the order of the file."""
        objects: dict[str, list[Object]] = {}
        known = {key_of(record.get("id")) for record in table["images"]}
        seen: set[str] = set()
        for place, record in enumerate(table["annotations"]):
            key, image = key_of(record.get("id")), key_of(record.get("image_id"))
            where = f"{file}: annotation {place if key is None else key}"
            number = self.classes.numbers.get((file, str(key_of(record.get("category_id")))))
            if key in seen:
                self.counts["{} annotations have the id of another one; all are drawn"] += 1
            seen.add(str(key))
            if image is None or image not in known:
                self.faults.append(f"{where}: image_id {record.get('image_id')} is that of no image")
            elif number is None:
                self.faults.append(f"{where}: category_id {record.get('category_id')} is that of no category")
            elif image in sizes:
                try:
                    objects.setdefault(image, []).extend(self._object(record, sizes[image], number))
                except UserError as error:
                    self.faults.append(f"{where}: {error}")
        return objects

    def _object(self, record: Mapping[str, Any], size: tuple[int, int], number: int) -> Iterator[Object]:
        shape = record.get("segmentation")
        if not shape:
            raise UserError(
                "has no segmentation, though it may have a box; outline the object, or remove the annotation"
            )
        if isinstance(shape, dict):
            declared = shape.get("size")
            if declared != [*size]:
                raise UserError(f"its run lengths are of size {declared}, but its image has {[*size]}")
            yield Object(number, runs_of(shape.get("counts"), size))
        elif isinstance(shape, list):
            outlines = [points_of(numbers, size) for numbers in (shape if isinstance(shape[0], list) else [shape])]
            places = [lies(each, size) for each in outlines]
            self.counts.update(OUTLINES[place] for place in places if place in OUTLINES)
            if {*places} & {"inside", "across"}:
                yield Object(number, partial(outlined, outlines, size))
        else:
            raise UserError("its segmentation is neither a list of outlines nor run lengths (size, counts)")


def tables_of(file: Path) -> dict[str, list[dict[str, Any]]]:
    """The lists images, annotations and categories of a file, each of records."""
    content = read_json(file, MAX_JSON)
    keys = ("images", "annotations", "categories")
    for key in keys:
        records = content.get(key) if isinstance(content, dict) else None
        if not (isinstance(records, list) and all(isinstance(record, dict) for record in records)):
            raise UserError(f"{file}: {key} is no list of records; expected images, annotations and categories")
    return {key: content[key] for key in keys}


def by_id(file: Path, key: str, records: Sequence[dict[str, Any]], faults: list[str]) -> dict[str, dict[str, Any]]:
    """The records by their ids; no id, and an id that comes twice, are faults."""
    table: dict[str, dict[str, Any]] = {}
    for place, record in enumerate(records):
        number = key_of(record.get("id"))
        if number is None:
            faults.append(f"{file}: {key}[{place}] has no id; expected a number")
        elif number in table:
            faults.append(f"{file}: {key}[{place}]: id {number} comes twice; give each an id of its own")
        else:
            table[number] = record
    return table


def subset_of(file: Path) -> str:
    """What follows the task in the name of a file, as train2017 in instances_train2017.json."""
    return file.stem.partition("_")[2]


def key_of(value: Any) -> str | None:
    """An id as a text: files have numbers, and some texts."""
    return str(value) if is_whole(value) or (isinstance(value, str) and value) else None
