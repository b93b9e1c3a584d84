"""DICOM series with DICOM-SEG or RTSTRUCT: each series becomes a NIfTI volume, each class a name of a segment.

A segmentation names its series by an identifier, so files may lie in any folders. Names of the new files are those of
the folders, not of the patients; series of one patient get a folder p1/, p2/, ... and so a group.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ssl4seg.data.dicom import (
    Heads,
    Series,
    annotated_series,
    by_series,
    described,
    draw,
    is_annotation,
    is_dicom,
    is_slice,
    names_in,
    read_head,
    series_of,
    write_mask_of,
    write_scan_of,
)
from ssl4seg.data.imports.content import Choices, Classes, Content, Example, Made, Source, attempt
from ssl4seg.errors import UserError

NAME = "dicom"
TITLE = "DICOM series, with DICOM-SEG or RTSTRUCT"
CHOICES: tuple[str, ...] = ()
LOOKS = 100
"""Files that are looked into before a folder is recognised."""
SCAN = ".nii.gz"


def recognise(source: Source) -> bool:
    """Whether one of the first files that are no pictures is DICOM."""
    return source.path.is_dir() and any(map(is_dicom, source.found.others[:LOOKS]))


def read(source: Source, choices: Choices) -> Content:
    files = sorted(file for file in source.found.others if is_dicom(file))
    faults: list[str] = []
    heads = _heads(files, faults)
    annotations = {file: head for file, head in heads.items() if is_annotation(head)}
    slices = {file: head for file, head in heads.items() if file not in annotations and is_slice(head)}
    if not slices and not faults:
        raise UserError(
            f"{source.path}: holds {len(files)} DICOM files, but no single slice of CT, MR or PET; files of several "
            "frames are not read"
        )
    by_uid = by_series(slices)
    wanted = _by_series(annotations, by_uid, faults)
    others = len(heads) - len(annotations) - len(slices)
    notes = [f"{others} DICOM files are no slices, and left out"] if others else []
    chosen = _one_a_folder(by_uid, wanted, faults, notes)
    classes = Classes()
    for head_of in wanted.values():
        for file, head in head_of.items():
            for number, name in (attempt(faults, partial(names_in, file, head)) or {}).items():
                classes.add((file, number), name)
    examples = []
    for uid in chosen:
        series = attempt(faults, partial(series_of, by_uid[uid]))
        if series is not None:
            examples.append(_example(series, wanted.get(uid, {}), classes, source))
    if not wanted and not faults:
        faults.append(
            f"{source.path}: holds {len(by_uid)} series, but no DICOM-SEG or RTSTRUCT of one; add some to learn from"
        )
    keys = _named(examples, [by_uid[uid] for uid in chosen]) if len(examples) == len(chosen) else {}
    return Content(classes=classes.names, examples=examples, faults=faults, notes=[*notes, *classes.notes()], keys=keys)


def _heads(files: Sequence[Path], faults: list[str]) -> Heads:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda file: attempt(faults, partial(read_head, file)), files))
    return {file: head for file, head in zip(files, found, strict=True) if head is not None}


def _by_series(annotations: Heads, by_uid: Mapping[str, Heads], faults: list[str]) -> dict[str, Heads]:
    """The segmentations of each series; a fault for each of a series that is not there."""
    found: dict[str, Heads] = {}
    for file, head in annotations.items():
        uid = attempt(faults, partial(annotated_series, file, head))
        if uid is None:
            continue
        if uid in by_uid:
            found.setdefault(uid, {})[file] = head
        else:
            faults.append(f"{file}: is a segmentation of the series {uid}, which is not here; add its slices")
    return found


def _one_a_folder(
    by_uid: Mapping[str, Heads], wanted: Mapping[str, Heads], faults: list[str], notes: list[str]
) -> list[str]:
    """The series to import: of several in one folder those with a segmentation; a fault where none has one."""
    places: dict[Path, list[str]] = {}
    for uid, heads in by_uid.items():
        places.setdefault(next(iter(heads)).parent, []).append(uid)
    chosen: list[str] = []
    for place, uids in places.items():
        labeled = [uid for uid in uids if uid in wanted]
        if len(uids) > 1 and not labeled:
            faults.append(
                f"{place}: holds {len(uids)} series ({', '.join(described(by_uid[uid]) for uid in uids)}), none of "
                "them with a segmentation; put each into a folder of its own"
            )
        elif len(uids) > 1 and len(labeled) < len(uids):
            left = len(uids) - len(labeled)
            notes.append(f"{place}: {left} of {len(uids)} series have no segmentation, and are left out")
        chosen += labeled if len(uids) > 1 else uids
    return chosen


def _example(series: Series, annotations: Heads, classes: Classes, source: Source) -> Example:
    name = series.folder.relative_to(source.top).as_posix()
    mask = Made(SCAN, partial(_write_mask, series, [*annotations], classes)) if annotations else None
    return Example(
        name=source.top.name if name == "." else name, image=Made(SCAN, partial(write_scan_of, series)), mask=mask
    )


def _write_mask(series: Series, files: Sequence[Path], classes: Classes, path: Path) -> None:
    label = np.zeros(series.shape, np.uint8)
    for file in files:
        numbers = {number: held for (place, number), held in classes.numbers.items() if place == file}
        draw(file, series, numbers, label)
    write_mask_of(series, label, path)


def _named(examples: list[Example], heads: Sequence[Heads]) -> dict[str, Any]:
    """Give examples different names, and series of one patient a folder; return the key `group` if that was needed."""
    patients = [str(next(iter(each.values())).get("PatientID") or next(iter(each)).parent) for each in heads]
    order = {patient: number for number, patient in enumerate(dict.fromkeys(patients), 1)}
    several = 1 < len(order) < len(examples)
    used: dict[str, int] = {}
    for at, (example, patient) in enumerate(zip(examples, patients, strict=True)):
        name = f"p{order[patient]}/{example.name}" if several else example.name
        used[name] = used.get(name, 0) + 1
        examples[at] = replace(example, name=name if used[name] == 1 else f"{name}_{used[name]}")
    return {"group": r"^(p\d+)/"} if several else {}
