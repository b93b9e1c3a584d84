"""Write what an import has read as a folder for dataset=folder.

    DEST/images/NAME.jpg  masks/NAME.png  dataset.yaml       or train/, val/, test/ with images/ and masks/ each
    DEST/import.json                                         the source, and a digest of every file that is written

Everything is made in a folder beside DEST that then becomes DEST, so a process that is killed leaves no half of it. A
second import makes it all again, and moves only files that differ into DEST. It removes what the source has lost, and
refuses to overwrite what somebody else has changed.
"""

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from PIL import Image

from ssl4seg.data.case import LabelArray
from ssl4seg.data.dataset import byte_counts
from ssl4seg.data.folder import DESCRIPTION, KEYS
from ssl4seg.data.formats import (
    ENDINGS,
    PICTURE,
    TURNS,
    opened,
    picture_channels,
    picture_orientation,
    picture_pixels,
    size_of,
    upright,
)
from ssl4seg.data.images import facts
from ssl4seg.data.imports.content import Content, Example, Made, listed
from ssl4seg.data.items import IMAGES, MASKS
from ssl4seg.data.masks import Color
from ssl4seg.errors import UserError
from ssl4seg.files import unwritten, write_text
from ssl4seg.keys import IGNORE, check_keys
from ssl4seg.userfiles import read_json, read_text

RECORD = "import.json"
Save = Callable[[LabelArray, Path, Sequence[Color] | None], None]
"""Writes a mask [H, W] as an indexed PNG, with the colours of the classes if the source has them."""


@dataclass(kw_only=True)
class Written:
    """What an import has done."""

    classes: list[str] = field(default_factory=list)
    """Those of the new folder."""
    counts: Counter[int] = field(default_factory=Counter)
    """Pixels of each class in all masks that were drawn."""
    notes: list[str] = field(default_factory=list)
    fresh: bool = True
    """Whether the folder is new."""
    changed: list[str] = field(default_factory=list)
    """Files that a second import has replaced, added or removed, each with what was done."""


def write(content: Content, dest: Path, *, about: Mapping[str, Any], save: Save, copy: bool = False) -> Written:
    """Write the folder, or bring an earlier one up to date.

    Args:
        about: `source` and `kind` for import.json.
        copy: copy images; else they are links to those of the source.

    Raises:
        UserError: lists every fault of the source; DEST is then as it was.
    """
    old = _record_of(dest, about)
    _expect_makeable(content, str(about["source"]))
    done = Written(fresh=old is None)
    with _beside(dest) as new:
        results = _make_all(content, new, save=save, copy=copy)
        faults = [*content.faults, *(fault for result in results for fault in result.faults)]
        faults = [*dict.fromkeys(faults)]  # some are found when a file is looked at, and again when it is drawn
        if not faults and not any(example.mask for example in content.examples):
            faults.append(f"{about['source']}: no image has an annotation; expected some to learn from")
        if faults:
            raise UserError("\n".join(faults))
        for result in results:
            done.counts.update(result.counts)
        done.notes += _notes(content, results)
        content, done.counts = _without_empty(content, done, new, save, str(about["source"]))
        done.classes = content.classes
        keys = {"classes": content.classes, **_colors(content), **content.keys}
        if done.counts[IGNORE]:
            keys["ignore_index"] = IGNORE
        check_keys(keys, KEYS, f"{DESCRIPTION}: ")
        text = yaml.safe_dump(keys, sort_keys=False, default_flow_style=None, width=110)
        write_text(new / DESCRIPTION, f"# Written by ssl4seg-prepare import --from {about['kind']}.\n{text}")
        record = {**about, "classes": content.classes, "files": _digests(new)}
        if old is not None:
            done.changed += _update(dest, new, old, record, done.notes)
        write_text((dest if old is not None else new) / RECORD, json.dumps(record, indent=1))
        if old is None:
            new.replace(dest)
    return done


# -- before a file is made --------------------------------------------------------------------------------------------


def _record_of(dest: Path, about: Mapping[str, Any]) -> dict[str, Any] | None:
    """The record of an earlier import into this folder; None if the folder is new or empty."""
    if not dest.exists() or (dest.is_dir() and not dest.is_symlink() and not any(dest.iterdir())):
        return None
    if not (dest / RECORD).is_file():
        raise UserError(f"{dest}: exists, and no import wrote it; give a folder that is new or empty")
    old = read_json(dest / RECORD)
    if not (isinstance(old, dict) and isinstance(old.get("files"), dict)):
        raise UserError(f"{dest / RECORD}: is no record of an import; give a new folder")
    if outside := [path for path in old["files"] if not (dest / path).parent.resolve().is_relative_to(dest.resolve())]:
        raise UserError(f"{dest / RECORD}: names {outside[0]}, which leads out of {dest}; give a new folder")
    for key in ("source", "kind"):
        if old.get(key) != about[key]:
            raise UserError(
                f"{dest}: holds the import of another {key}, {old.get(key)}; this one is {about[key]}: give a new "
                "folder, or remove this one"
            )
    return old


def _expect_makeable(content: Content, source: str) -> None:
    """Refuse content of which no file can be made: several examples of one name, and classes that no mask can hold.

    Too few classes are told only where nothing else is: the other faults may be why none was found.

    Raises:
        UserError: lists these faults after those of the source.
    """
    places = Counter((content.place(example) / example.name).as_posix() for example in content.examples)
    twice = [
        f"{name}: {number} images would have this name; give each a name of its own"
        for name, number in places.items()
        if number > 1
    ]
    faults, fits = [*content.faults, *twice], KEYS["classes"].fits(content.classes)
    if not fits and (len(content.classes) > 1 or not faults):
        shown = listed([repr(name) for name in content.classes]) or "none"
        faults.append(
            f"{source}: {len(content.classes)} classes are used ({shown}); expected {KEYS['classes'].expected}"
        )
    if twice or not fits:
        raise UserError("\n".join(faults))


def _notes(content: Content, results: Sequence["_Result"]) -> list[str]:
    splits = {each.split for each in content.examples if each.split}
    notes = list(content.notes)
    if splits and not content.has_splits:
        notes.append(
            f"the source names {' and '.join(sorted(splits))} but not both train and val; the split will be drawn"
        )
    if content.has_splits and (bare := sum(each.split is None for each in content.examples)):
        notes.append(f"{bare} images are in no split of the source, and go to train")
    blank = [each.name for each, result in zip(content.examples, results, strict=True) if [*result.counts] == [0]]
    if blank and content.has_background:
        notes.append(f"{len(blank)} masks are background everywhere: {listed(blank)}")
    if converted := sum(result.converted for result in results):
        notes.append(f"{converted} images are of a kind that is not read, and became PNG")
    if turned := sum(result.turned for result in results):
        notes.append(f"{turned} masks were turned as the tag Orientation (EXIF) of their images says")
    if doubtful := sum(result.doubtful for result in results):
        notes.append(
            f"{doubtful} images have a tag Orientation (EXIF) but a size that does not tell whether their annotations "
            "are turned; they are taken to fit the image as a viewer shows it"
        )
    return notes


def _colors(content: Content) -> dict[str, Any]:
    return {} if content.palette is None else {"palette": [*content.palette]}


@contextmanager
def _beside(dest: Path) -> Iterator[Path]:
    """A new folder beside DEST, removed at the end if it is still there; one of a killed import is removed first."""
    whole = Path(os.path.abspath(dest))
    new = whole.with_name(f".{whole.name}.partial")
    try:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        yield new
    except OSError as error:
        raise unwritten(Path(error.filename or dest), error) from None
    finally:
        shutil.rmtree(new, ignore_errors=True)


# -- each image and mask ----------------------------------------------------------------------------------------------


class _Result(NamedTuple):
    faults: list[str]
    counts: Counter[int]
    converted: bool = False
    """Whether the image became a PNG."""
    turned: bool = False
    """Whether the mask was turned as the image's EXIF says."""
    doubtful: bool = False
    """Whether it is unknown if it should be."""


def _make_all(content: Content, new: Path, *, save: Save, copy: bool) -> list[_Result]:
    places = [new / content.place(example) for example in content.examples]
    make = partial(_make, save=save, palette=content.palette, copy=copy)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(make, content.examples, places))


def _make(example: Example, place: Path, *, save: Save, palette: Sequence[Color] | None, copy: bool) -> _Result:
    """Write an image and its mask; faults of both are returned."""
    try:
        label, turned, doubtful = _label(example)
        converted = _put_image(example, place / IMAGES, copy=copy)
        if isinstance(example.mask, Made):
            example.mask.write(_target(place / MASKS, example.name, example.mask.ending))
        if label is None:
            return _Result([], Counter(), converted)
        _put_mask(example, label, place, save, palette)
    except UserError as error:
        return _Result(str(error).splitlines(), Counter())
    except OSError:
        raise
    except Exception as error:  # damaged files raise errors of many types, and the others are still to be looked at
        reason = " ".join(str(error).split())[:160]
        return _Result([f"{example.name}: cannot be imported ({type(error).__name__}: {reason})"], Counter())
    counts = Counter({number: count for number, count in enumerate(byte_counts(label).tolist()) if count})
    return _Result([], counts, converted, turned, doubtful)


def _label(example: Example) -> tuple[LabelArray | None, bool, bool]:
    """The mask as a viewer shows the image, whether it was turned for that, and whether this is in doubt."""
    if not isinstance(example.image, Path):
        return (example.mask() if callable(example.mask) else None), False, False
    shown, stored, tag = _sizes(example.image)
    if example.size not in (None, shown, stored):
        raise UserError(_of_two_sizes(example.image, shown, example.size))
    if not callable(example.mask):
        return None, False, False
    label = example.mask()
    if label.shape not in (shown, stored):
        raise UserError(_of_two_sizes(example.image, shown, label.shape))
    if shown != stored and label.shape == stored:
        return np.ascontiguousarray(upright(label, tag, (0, 1))), True, False
    return label, False, tag in TURNS and shown == stored


def _put_mask(example: Example, label: LabelArray, place: Path, save: Save, palette: Sequence[Color] | None) -> None:
    if example.form:
        example.form.write(label, _target(place / MASKS, example.name, example.form.ending))
    else:
        save(label, _target(place / MASKS, example.name, ".png"), palette)


def _without_empty(content: Content, done: Written, new: Path, save: Save, source: str) -> tuple[Content, Counter[int]]:
    """Leave out the classes of which no mask holds a pixel; return the others, and their pixels in all masks.

    Outlines may lie outside of their image or beneath others, so this is known only after all are drawn. The masks are
    drawn again then, with the numbers of the classes that are left. So is a background, where every image is labelled
    everywhere: a model that predicts it somewhere would get an IoU of 0 for it, and the mean would count that.

    Raises:
        UserError: the masks hold one class alone.
    """
    held, classes = done.counts, content.classes
    kept = [k for k in range(len(classes)) if held[k]]
    if not held or len(kept) == len(classes):  # masks that are copied are not counted
        return content, held
    empty = [name for k, name in enumerate(classes) if k not in kept]
    if len(kept) < 2:
        doubt = "" if empty == classes[:1] else ": do the shapes lie within their images?"
        raise UserError(
            f"{source}: no mask holds a pixel of {listed(empty)}, and nothing is left to tell apart; expected two "
            f"classes, of which one may be background{doubt}"
        )
    done.notes.append(f"classes of which no mask holds a pixel are left out: {listed(empty)}")
    if content.has_background and not held[0]:
        done.notes.append(f"there is no background: class 0 is {classes[kept[0]]}")
    left = content.with_classes(kept)
    number_of = np.full(256, IGNORE, np.uint8)
    number_of[kept] = range(len(kept))

    def draw_again(example: Example) -> None:
        if callable(example.mask):
            label = number_of[_label(example)[0]]
            _put_mask(example, label, new / content.place(example), save, left.palette)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(draw_again, content.examples))
    return left, Counter({int(number_of[k]): count for k, count in held.items()})


def _sizes(image: Path) -> tuple[tuple[int, int], tuple[int, int], int]:
    """Height and width of an image as a viewer shows it, and as it is stored; the tag Orientation between both."""
    if image.name.lower().endswith(ENDINGS) and not image.name.lower().endswith(PICTURE):
        size = facts(image).size
        return size, size, 1
    with opened(image) as picture:
        return size_of(picture), (picture.height, picture.width), picture_orientation(picture)


def _of_two_sizes(image: Path, size: tuple[int, ...], declared: tuple[int, ...] | None) -> str:
    shown = " x ".join(map(str, declared or ()))
    return (
        f"{image}: is {size[0]} x {size[1]} (height x width), but its annotation is {shown}; was the image resized "
        "after it was annotated? give the one that was"
    )


def _put_image(example: Example, folder: Path, *, copy: bool) -> bool:
    """Link, copy, convert or make the image; return whether it was converted."""
    image = example.image
    if isinstance(image, Made):
        image.write(_target(folder, example.name, image.ending))
        return False
    if not image.name.lower().endswith(ENDINGS):
        with opened(image) as picture:
            pixels = picture_pixels(picture, "L" if picture_channels(picture) == 1 else "RGB")
        Image.fromarray(pixels).save(_target(folder, example.name, ".png"))
        return True
    kind = next(each for each in ENDINGS if image.name.lower().endswith(each))
    target = _target(folder, example.name, kind)
    if copy:
        shutil.copyfile(image, target)
    else:
        target.symlink_to(image.absolute())
    return False


def _target(folder: Path, name: str, ending: str) -> Path:
    target = folder / f"{name}{ending}"
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


# -- again ------------------------------------------------------------------------------------------------------------


def _digests(folder: Path) -> dict[str, str | None]:
    """A digest of each file below a folder, by its path; of a link where it leads."""
    files = sorted(file for file in folder.rglob("*") if file.is_symlink() or file.is_file())
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip([file.relative_to(folder).as_posix() for file in files], pool.map(_digest, files), strict=True))


def _digest(file: Path) -> str | None:
    """None without a file."""
    if file.is_symlink():
        return f"link to {os.readlink(file)}"
    if not file.is_file():
        return None
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _update(dest: Path, new: Path, old: Mapping[str, Any], record: Mapping[str, Any], notes: list[str]) -> list[str]:
    """Move the files that differ into DEST, and remove those that the source has lost; return what was done.

    Raises:
        UserError: somebody changed files in DEST that the import would overwrite.
    """
    before, after = old["files"], record["files"]
    held = {path: _digest(dest / path) for path in {*before, *after}}
    own = sorted(path for path, digest in held.items() if digest not in (None, before.get(path), after.get(path)))
    if DESCRIPTION in own and old.get("classes") == record["classes"]:
        own.remove(DESCRIPTION)
        after[DESCRIPTION] = held[DESCRIPTION]
        notes.append(f"{DESCRIPTION} was edited, and is left as it is")
    if own:
        raise UserError(
            "\n".join(
                f"{dest / path}: is not as the import wrote it, and importing again would overwrite it; move it away, "
                "or import into a new folder"
                for path in own
            )
        )
    done = []
    for path in sorted({*before, *after}):
        if path not in after:
            (dest / path).unlink(missing_ok=True)
            done.append(f"removed {path}")
        elif held[path] != after[path]:
            (dest / path).parent.mkdir(parents=True, exist_ok=True)
            (new / path).replace(dest / path)
            done.append(f"{'replaced' if path in before else 'added'} {path}")
    return done


def description_of(dest: Path) -> str:
    """The text of the written dataset.yaml."""
    return read_text(dest / DESCRIPTION)
