"""DICOM series with DICOM-SEG or RTSTRUCT: each series becomes a NIfTI volume, each class a name of a segment.

A segmentation names its series by an identifier, so files may lie in any folders. Names of the new files are those of
the folders, not of the patients; series of one patient get a folder p1/, p2/, ... and so a group.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ssl4seg.data.case import LabelArray
from ssl4seg.data.dicom import (
    Heads,
    Series,
    annotated_series,
    by_series,
    contours_in,
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
from ssl4seg.data.imports.content import (
    Choices,
    Classes,
    Content,
    Example,
    Form,
    Made,
    Source,
    attempt,
    attempt_all,
    counted,
)
from ssl4seg.data.imports.shapes import NO_AREA, OUTLINES, lies
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
    heads = attempt_all(faults, read_head, files)
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
    examples, counts = [], Counter[str]()
    for uid in chosen:
        series = attempt(faults, partial(series_of, by_uid[uid]))
        if series is not None:
            outlines = attempt(faults, partial(_outlines, wanted.get(uid, {}), series))
            counts.update(outlines or {})
            examples += [_example(series, wanted.get(uid, {}), classes, source)] if outlines is not None else []
    if not wanted and not faults:
        faults.append(
            f"{source.path}: holds {len(by_uid)} series, but no DICOM-SEG or RTSTRUCT of one; add some to learn from"
        )
    keys = _named(examples, [by_uid[uid] for uid in chosen]) if len(examples) == len(chosen) else {}
    notes += [*classes.notes(), *counted(counts)]
    return Content(classes=classes.names, examples=examples, faults=faults, notes=notes, keys=keys)


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
    return Example(
        name=source.top.name if name == "." else name,
        image=Made(SCAN, partial(write_scan_of, series)),
        mask=partial(_drawn, series, [*annotations], classes) if annotations else None,
        form=Form(SCAN, lambda label, path: write_mask_of(series, label, path)),
    )


def _outlines(annotations: Heads, series: Series) -> Counter[str]:
    """What is said of the contours of a series, by sentences for `counted`."""
    counts: Counter[str] = Counter()
    for contour in (each for file, head in annotations.items() for each in contours_in(file, head)):
        if not contour.is_closed:
            counts[NO_AREA] += 1
        elif (place := lies(series.indices(contour.points)[:, :2] + 0.5, series.shape[1:])) in OUTLINES:
            counts[OUTLINES[place]] += 1
    return counts


def _drawn(series: Series, files: Sequence[Path], classes: Classes) -> LabelArray:
    label = np.zeros(series.shape, np.uint8)
    for file in files:
        numbers = {number: held for (place, number), held in classes.numbers.items() if place == file}
        draw(file, series, numbers, label)
    return label


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
