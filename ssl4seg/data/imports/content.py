"""What an import reads of a source: images, masks that can be drawn, classes, faults. One module a kind returns it.

A kind is a module with

    NAME        the word of `--from`
    TITLE       what messages call it
    CHOICES     the names of the `Choices` that it reads; others are refused
    recognise   whether a source looks like it, by names of files and words in them
    read        source and choices -> Content; faults of single files are collected, a fault of all is a UserError

and stands in the table of kinds.py. `folder.py` draws the masks, compares sizes, and writes the folder, alike for all.
"""

import os
import posixpath
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from mmap import ACCESS_READ, mmap
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

from ssl4seg.data.case import LabelArray
from ssl4seg.data.dataset import Split
from ssl4seg.data.folder import by_kind
from ssl4seg.data.formats import PICTURE, TIFF, stem
from ssl4seg.data.masks import Color
from ssl4seg.data.walk import Found, walk
from ssl4seg.errors import UserError
from ssl4seg.keys import is_whole
from ssl4seg.userfiles import irregular, read_json, read_xml

Result = TypeVar("Result")
PICTURES = (*PICTURE, *TIFF, ".webp")
"""Endings of single images; those that are not read otherwise become PNG."""
BACKGROUND = "background"
"""The name of class 0."""
MAX_JSON = 2**29
"""Bytes of a file of annotations: those of COCO's own 118,287 images, and some more."""
PARSERS: Mapping[str, Callable[[Path], Any]] = {
    ".json": lambda file: read_json(file, MAX_JSON),
    ".xml": lambda file: read_xml(file, MAX_JSON),
}
"""What reads the files of annotations of an ending."""


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What the user may choose; a kind reads those that concern it."""

    images: Path | None = None
    """The folder that holds the images; None: the source."""
    order: Literal["file", "area"] = "file"
    """Which of two overlapping objects lies above: the later one of the file, or the smaller one."""
    empty: Literal["unlabeled", "background"] = "unlabeled"
    """What an image without annotations is."""
    boundary: str | None = None
    """The name of a class between touching objects; None: there is none."""
    legend: Path | None = None
    """The file that names the colours of masks; None: the one in the source."""
    by_folder: bool = False
    """Whether the folder of a mask is its class."""
    name: str | None = None
    """Of the class of objects, where the source names none."""


class Form(NamedTuple):
    """How a mask is written that is no PNG."""

    ending: str
    """One of `formats.ENDINGS`."""
    write: Callable[[LabelArray, Path], None]


class Made(NamedTuple):
    """A file that the import makes, where a link to one of the source does not do."""

    ending: str
    """One of `formats.ENDINGS`."""
    write: Callable[[Path], None]
    """Writes it; a UserError is a fault of the example."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """An image, with its mask if it has one."""

    name: str
    """The path below images/ of the new folder, without ending."""
    image: Path | Made
    """A file of the source, which is linked or copied; one of a kind that is not read becomes a PNG."""
    mask: Callable[[], LabelArray] | Made | None = None
    """Draws [H, W], of a volume [S, H, W], in 0..K-1 or IGNORE; or any other file; None: the image is unlabelled."""
    form: Form | None = None
    """Of the mask that is drawn; None: an indexed PNG."""
    size: tuple[int, int] | None = None
    """Height and width that the annotation declares, compared with the image before anything is drawn."""
    split: Split | None = None


@dataclass(kw_only=True)
class Content:
    """Everything that a source holds."""

    classes: list[str]
    """Background first."""
    examples: list[Example] = field(default_factory=list)
    palette: Sequence[Color] | None = None
    """Colours of the classes, where the source has them."""
    keys: dict[str, Any] = field(default_factory=dict)
    """Further keys of dataset.yaml."""
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What was left out, united or assumed."""

    @property
    def has_splits(self) -> bool:
        """Whether the source gives the split; it takes both train and val, else the split is drawn."""
        return {"train", "val"} <= {each.split for each in self.examples}

    @property
    def has_background(self) -> bool:
        """Whether class 0 belongs to nothing."""
        return bool(self.keys.get("background", True))

    def with_classes(self, kept: Sequence[int]) -> "Content":
        """The same with some of the classes, numbered 0, 1, ...; without class 0 there is no background."""
        palette = None if self.palette is None else [self.palette[k] for k in kept]
        keys = self.keys if 0 in kept else self.keys | {"background": False}
        return replace(self, classes=[self.classes[k] for k in kept], palette=palette, keys=keys)

    def place(self, example: Example) -> Path:
        """The folder of the example's split in the new folder."""
        return Path(example.split or "train") if self.has_splits else Path()

    def shorten(self) -> None:
        """Leave out the folders that all names of one place begin with."""
        names: dict[Path, list[str]] = {}
        for example in self.examples:
            names.setdefault(self.place(example), []).append(example.name)
        ends = {place: len(posixpath.commonpath([posixpath.dirname(n) for n in own])) for place, own in names.items()}
        self.examples = [
            replace(example, name=example.name[ends[self.place(example)] :].lstrip("/")) for example in self.examples
        ]


EMPTY = {
    "unlabeled": "{} images without annotations are unlabelled (--empty background makes them background)",
    "background": "{} images without annotations are background everywhere",
}
"""What is said of images without annotations."""


class Classes:
    """Classes by their names; a name that comes twice is one class.

    Args:
        background: whether class 0 is the background; else it is the first class that is added.
    """

    def __init__(self, *, background: bool = True) -> None:
        self.names = [BACKGROUND] * background
        self.numbers: dict[Any, int] = {}
        """By whatever the source calls them."""
        self._shared: dict[str, int] = {}
        self._unused: dict[str, None] = {}

    def add(self, key: Any, name: str, *, used: bool = True) -> int:
        """The number of a class.

        Args:
            key: what the source calls it, unique.
            used: whether any object is of it; a class that nothing uses is left out.
        """
        if name.lower().strip("_") == BACKGROUND:
            name = BACKGROUND
        if not used and name not in self.names:
            self._unused[name] = None
            return 0
        self._unused.pop(name, None)
        if name not in self.names:
            self.names.append(name)
        self.numbers[key] = self.names.index(name)
        return self.numbers[key]

    def unite(self, name: str) -> None:
        """Note that a source has this name several times."""
        self._shared[name] = self._shared.get(name, 1) + 1

    def boundary(self, choices: Choices) -> int | None:
        """The number of the class between touching objects, after all others; None if there is none."""
        if choices.boundary is None:
            return None
        if choices.boundary in self.names:
            raise UserError(f"--boundary {choices.boundary}: the source has a class of this name; choose another")
        return self.add(self, choices.boundary)

    def notes(self) -> list[str]:
        """What was united and left out."""
        notes = [f"{number} categories are called {name}, and are one class" for name, number in self._shared.items()]
        if unused := [name for name in self._unused if name not in self.names and name != BACKGROUND]:
            notes.append(f"classes without an object are left out: {listed(unused)}")
        return notes


def listed(names: Sequence[str], most: int = 10) -> str:
    """The first names, and the number of the others."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


class Kind(Protocol):
    """A module of this package."""

    NAME: str
    TITLE: str
    CHOICES: tuple[str, ...]

    def recognise(self, source: "Source") -> bool: ...

    def read(self, source: "Source", choices: Choices) -> Content: ...


# -- files of the source ----------------------------------------------------------------------------------------------


class Source:
    """What the user gives: a folder, or a file of annotations in it.

    Its files are listed once, for all kinds.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise UserError(f"{path}: there is no such file or folder")
        self.path = path
        self.top = path if path.is_dir() else path.parent
        """The folder."""

    @cached_property
    def found(self) -> Found:
        return walk(self.top)

    def files(self, *endings: str) -> list[Path]:
        """The regular files with one of these endings: the source itself, or those in the folder."""
        files = [*self.found.files, *self.found.others] if self.path.is_dir() else [self.path]
        return sorted(file for file in files if file.name.lower().endswith(endings) and not irregular(file))

    def broken(self, ending: str, read: Collection[Path] = ()) -> list[str]:
        """The faults of files of annotations that cannot be parsed, as of those that were cut off.

        Such a file may lack the words by which a kind knows its own, and would be passed over without a word.

        Args:
            ending: one of PARSERS.
            read: files that are read anyhow, and tell their faults then.
        """
        faults: list[str] = []
        for file in self.files(ending):
            if file not in read and file.stat().st_size <= MAX_JSON:  # no kind reads a larger one
                attempt(faults, partial(PARSERS[ending], file))
        return faults

    def only(self, ending: str, expected: str) -> Path:
        """The one file of an ending, for a kind that recognises none.

        Raises:
            UserError: there is none, or there are several.
        """
        files = self.files(ending)
        if len(files) != 1:
            message = f"{self.path}: holds {len(files)} files {ending}, and none with {expected}"
            raise UserError("\n".join([*by_kind(self.broken(ending)), message]))
        return files[0]

    def with_splits(self, files: Sequence[Path]) -> list[tuple[Path, Split | None]]:
        """Files of annotations with the split that each one's name tells; one alone is of no split.

        Raises:
            UserError: there are several, and their names tell no different splits.
        """
        splits = [split_of(file.relative_to(self.top)) for file in files]
        if len(files) == 1:
            return [(files[0], None)]
        if None in splits or len({*splits}) < len(splits):
            shown = ", ".join(str(file.relative_to(self.top)) for file in files[:4])
            raise UserError(
                f"{self.path}: holds {len(files)} files of annotations ({shown}), which are not train, val and test by "
                "their names; give one of them as SOURCE, and the folder of its images by --images"
            )
        return list(zip(files, splits, strict=True))

    def images(self, choices: Choices, without: Sequence[Path] = ()) -> "Images":
        """Where the images are; `without` as for `Images`."""
        if choices.images is None:
            return Images(self.top, self.found, without=without)
        if not choices.images.is_dir():
            raise UserError(f"--images {choices.images}: there is no such folder")
        return Images(choices.images, walk(choices.images), elsewhere=True)


def holds(file: Path, *words: bytes) -> bool:
    """Whether a regular file that is not empty holds all the words."""
    if irregular(file) or not file.stat().st_size:
        return False
    with file.open("rb") as content, mmap(content.fileno(), 0, access=ACCESS_READ) as text:
        return all(text.find(word) >= 0 for word in words)


class Images:
    """The files below a folder, found by the names that annotations give them.

    Annotations often keep only the end of a path (`a.jpg` for `train/a.jpg`) or more of it than there is
    (`images/a.jpg`). A name counts if exactly one file fits. A name is never opened as it stands.

    Args:
        top: the folder.
        elsewhere: it is not the annotations' own, so that what leads out of that (`../a.jpg`) may lead into this.
        without: folders whose files are no images.
    """

    def __init__(self, top: Path, found: Found, *, elsewhere: bool = False, without: Sequence[Path] = ()) -> None:
        self.top, self.elsewhere = top, elsewhere
        self.faults = found.faults
        files = [file for file in [*found.files, *found.others] if not any(map(file.is_relative_to, without))]
        self.by_path = {file.relative_to(top).as_posix(): file for file in files}

    @cached_property
    def _by_end(self) -> dict[str, list[str]]:
        """Paths by the name of the file."""
        table: dict[str, list[str]] = {}
        for path in self.by_path:
            table.setdefault(path.rpartition("/")[2], []).append(path)
        return table

    def find(self, name: str, near: Path | None = None, subset: str = "") -> Path:
        """The file of this name.

        Args:
            near: a folder below `top`, the annotation's own, where the name is looked for first.
            subset: of the annotation. CVAT and Datumaro lay its images into a folder that is called so, but leave the
                folder out of their names, which may be those of images of another subset too.

        Raises:
            UserError: the name leads out of the folder, no file has it, or several do; the caller adds where it stands.
        """
        path = PurePosixPath(self._below(name.replace("\\", "/")))
        below = near.relative_to(self.top) if near and near.is_relative_to(self.top) else Path()
        places = [posixpath.normpath(place / path) for place in (below, Path())]
        if self.elsewhere:
            places = [re.sub(r"^(\.\./)+", "", place) for place in places]
        inner = [place for place in places if place.split("/")[0] not in ("", "..")]
        if ":" in "".join(path.parts[:1]) or not inner:
            raise UserError(f"{name} leads out of {self.top}; give the folder of the images as --images FOLDER")
        for place in inner:
            if place in self.by_path:
                return self._inside(self.by_path[place])
        if subset:
            with suppress(UserError):
                return self.find(f"{subset}/{name}", near)
        alike = [file for file in self._by_end.get(path.name, []) if any(_ends_alike(file, place) for place in inner)]
        if len(alike) == 1:
            return self._inside(self.by_path[alike[0]])
        if alike:
            raise UserError(f"{name} may be {alike[0]} or {alike[1]} in {self.top}; write the whole path below it")
        if fault := next((fault for file, fault in self.faults.items() if file.name == path.name), None):
            raise UserError(fault)
        raise UserError(f"{name} is missing in {self.top}; add it, or say where the images are: --images FOLDER")

    def _below(self, name: str) -> str:
        """The path without the top of a whole path on somebody's computer, where the images are elsewhere anyway."""
        return re.sub("^([A-Za-z]:)?/+", "", name) if self.elsewhere else name

    def pictures(self) -> list[Path]:
        """The pictures and TIFFs, in the order of their paths."""
        return [file for path, file in sorted(self.by_path.items()) if path.lower().endswith(PICTURES)]

    def _inside(self, file: Path) -> Path:
        """The file, unless it is a link out of the folder: annotations of a stranger may name it."""
        if not file.resolve().is_relative_to(self.top.resolve()):
            raise UserError(
                f"{file.relative_to(self.top)} is a link out of {self.top}; give the images' own folder by --images"
            )
        return file

    def name_of(self, file: Path) -> str:
        """The name of an example: the file's path below the folder, without ending."""
        below = file.relative_to(self.top)
        return (below.parent / stem(below)).as_posix()


def _ends_alike(path: str, name: str) -> bool:
    """Whether one of two paths is the end of the other, folder by folder."""
    return f"/{path}".endswith(f"/{name}") or f"/{name}".endswith(f"/{path}")


SPLITS: dict[str, Split] = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def split_of(path: PurePosixPath | Path) -> Split | None:
    """The split that a path names: `valid/_annotations.json`, `instances_val2017.json`, `train.txt`; None if none."""
    for part in reversed(path.parts):
        words = "".join(sign if sign.isalpha() else " " for sign in part.lower()).split()
        if found := {SPLITS[word] for word in words if word in SPLITS}:
            return found.pop() if len(found) == 1 else None
    return None


def size_in(record: Mapping[str, Any], *keys: str) -> tuple[int, int]:
    """Height and width that a record has under two keys."""
    height: Any = record.get(keys[0])
    width: Any = record.get(keys[1])
    if not (is_whole(height) and is_whole(width) and min(height, width) > 0):
        raise UserError(f"its {keys[0]} and {keys[1]} are {height!r} and {width!r}; expected numbers of pixels")
    return height, width


def attempt(faults: list[str], step: Callable[[], Result]) -> Result | None:
    """The result of a step; None where it is refused, and the faults say why."""
    try:
        return step()
    except UserError as error:
        faults += str(error).splitlines()
        return None


def attempt_all(faults: list[str], step: Callable[[Path], Result], files: Sequence[Path]) -> dict[Path, Result]:
    """The results of a step for the files that it does not refuse, on all cores; every refusal is a fault."""
    refused: dict[Path, list[str]] = {file: [] for file in files}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(lambda file: attempt(refused[file], partial(step, file)), files))
    faults += [fault for file in files for fault in refused[file]]
    return {file: result for file, result in zip(files, found, strict=True) if result is not None}


def counted(found: Counter[str]) -> list[str]:
    """Notes that begin with a number, the most frequent first; each key is a sentence with {} for the number."""
    return [text.format(number) for text, number in found.most_common()]
