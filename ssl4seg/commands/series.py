"""DICOM series as inputs of `ssl4seg-predict`: each is read as an import reads it, and gets a DICOM-SEG."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from ssl4seg.data.dicom import (
    Series,
    by_series,
    described,
    is_annotation,
    is_dicom,
    is_slice,
    read_head,
    series_of,
    write_scan_of,
    write_segmentation,
)
from ssl4seg.data.images import as_in_file
from ssl4seg.errors import UserError
from ssl4seg.run.model import Model
from ssl4seg.run.settings import PredictSettings


class Inputs(NamedTuple):
    """The series below a folder."""

    targets: dict[Path, Series]
    """By the file of the DICOM-SEG."""
    faults: list[str]
    others: list[Path]
    """Files that are no DICOM."""


def series_in(source: Path, output: Path, files: Sequence[Path]) -> Inputs:
    """Find the series among files: one a folder; a fault for a folder whose slices make no regular volume.

    Args:
        source: the folder that all lie in.
    """
    found = Inputs({}, [], [file for file in files if not is_dicom(file)])
    folders: dict[Path, list[Path]] = {}
    for file in sorted({*files} - {*found.others}):
        folders.setdefault(file.parent, []).append(file)
    inputs = {file.resolve() for file in files}
    for folder, slices in folders.items():
        try:
            series = _one(folder, slices)
        except UserError as error:
            found.faults.append(str(error))
            continue
        if series is None:
            continue
        below = folder.relative_to(source)
        target = (output / below.parent / f"{below.name or source.resolve().name}.dcm").absolute()
        if target.resolve() in inputs and is_slice(read_head(target)):
            raise UserError(f"output={output}: the mask of {folder} would overwrite an input; give another folder")
        found.targets[target] = series
    return found


def _one(folder: Path, files: Sequence[Path]) -> Series | None:
    """The series in a folder; None if it holds no slices but segmentations, or files that are neither."""
    heads = {file: head for file in files if is_slice(head := read_head(file)) and not is_annotation(head)}
    if len(by_uid := by_series(heads)) > 1:
        shown = ", ".join(described(each) for each in by_uid.values())
        raise UserError(f"{folder}: holds {len(by_uid)} series ({shown}); put each into a folder of its own")
    return series_of(heads) if heads else None


def expect_masks(found: Inputs, settings: PredictSettings) -> None:
    """Refuse keys that ask for something beside a mask, which is all that is written of a series."""
    asked = {
        f"format={settings.format}": settings.format != "masks",
        "probabilities=true": settings.probabilities,
        f"min_confidence={settings.min_confidence}": settings.min_confidence is not None,
    }
    words = ", ".join(word for word, wanted in asked.items() if wanted)
    if found.targets and words:
        folder = next(iter(found.targets.values())).folder
        raise UserError(
            f"{words}: of a DICOM series, as in {folder}, only a DICOM-SEG is written; predict the others apart"
        )


def segments_of(settings: PredictSettings) -> dict[int, str]:
    """The classes that become segments of a DICOM-SEG: all but the background."""
    first = int(settings.dataset.get("background", True))
    return {number: name for number, name in enumerate(settings.dataset["classes"]) if number >= first}


def predict_series(series: Series, target: Path, model: Model, names: Mapping[int, str]) -> None:
    """Write the DICOM-SEG of a series.

    Args:
        names: of the classes that become segments.
    """
    with TemporaryDirectory() as place:
        scan = Path(place) / "scan.nii"
        write_scan_of(series, scan)
        try:
            found = model.of_files([scan])
            label = as_in_file(model.slices(found.own_label(), scan), scan, space=model.space)
        except UserError as error:
            raise UserError(str(error).replace(str(scan), str(series.folder))) from None
    target.parent.mkdir(parents=True, exist_ok=True)
    write_segmentation(target, label.transpose(2, 1, 0), series, names)
