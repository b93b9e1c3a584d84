"""The work of `ssl4seg-predict`: write a mask for every input."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ssl4seg.commands.evaluation import writable
from ssl4seg.commands.output import Output
from ssl4seg.commands.series import expect_masks, predict_series, segments_of, series_in
from ssl4seg.data.dicom import is_dicom
from ssl4seg.data.drafts.kinds import DRAFTS
from ssl4seg.data.formats import ENDINGS, PICTURE, ending, stem
from ssl4seg.data.items import CHANNEL, by_channels, missing_channel
from ssl4seg.data.walk import Found, passed_over, walk
from ssl4seg.errors import UserError
from ssl4seg.run.device import out_of_memory_explained
from ssl4seg.run.model import Model
from ssl4seg.run.record import start_log
from ssl4seg.run.settings import Config, PredictSettings, read
from ssl4seg.userfiles import expect_regular

log = logging.getLogger("ssl4seg")


def predict_files(runs: Sequence[Config]) -> None:
    """Write for every input a mask of native size, or its annotations.

    A mask is written in its input's own kind of file; pictures become PNG, .mhd becomes .mha.

    A folder of DICOM slices is one input, and gets a DICOM-SEG.

    Where the run was trained on channel files, the files of one image are one input.

    Args:
        runs: the configuration of each run, with the typed words laid on it; of several the probabilities are averaged.

    Raises:
        UserError: lists the inputs that could not be predicted; the others have their masks.
    """
    start_log(None)
    each = [read(PredictSettings, config) for config in runs]
    settings = each[0]
    source, output = Path(settings.input), Path(settings.output)
    channel_files = settings.dataset.get("channel_files", False)
    inputs = inputs_of(source, output, channel_files=channel_files)
    images, faults = images_of(inputs.files, settings.dataset["channels"] if channel_files else None)
    faults += inputs.faults.values()
    kind = DRAFTS[settings.format].per_picture if settings.format in DRAFTS else None
    targets = masks_to_write(source, output, [*images], channel_files=channel_files, kind=kind)
    writing = Output(settings, targets)
    series = series_in(source, output, inputs.others)
    expect_masks(series, settings)
    faults += series.faults
    model = Model(each)
    writable(output)
    num = len(targets) + len(series.targets) + len(faults)
    for note in passed_over(series.others, source):
        log.info(note)
    for target, file in targets.items():
        with _noted(file, faults):
            found = model.of_files(images[file], probabilities=writing.reads_probabilities)
            writing.add(found, file, target, model)
    for target, scan in series.targets.items():
        with _noted(scan.folder, faults):
            predict_series(scan, target, model, segments_of(settings))
    log.info(writing.conclude(num - len(faults)))
    if series.targets and settings.overlay:
        log.info("overlay=true: of DICOM series no picture is painted")
    if faults:
        raise UserError("\n".join([f"{len(faults)} of {num} inputs could not be predicted:", *faults]))


@contextmanager
def _noted(place: Path, faults: list[str]) -> Iterator[None]:
    """Add what fails within to the faults, so that the other inputs still get their masks."""
    try:
        with out_of_memory_explained():
            yield
    except Exception as error:
        if not isinstance(error, UserError | OSError):
            log.exception(f"{place}: a fault of the program:")
        faults.append(str(error) if str(place) in str(error) else f"{place}: {error}")


def images_of(files: Sequence[Path], channels: int | None) -> tuple[dict[Path, tuple[Path, ...]], list[str]]:
    """The first file of each image with all its files, and the faults of those that lack one.

    Args:
        channels: of an image, each in a file of its own (name_0000, name_0001); None: each file is an image.
    """
    if channels is None:
        return {file: (file,) for file in files}, []
    images, faults = {}, []
    for kind in ENDINGS:
        names = {file.with_name(stem(file)).as_posix(): file for file in files if ending(file) == kind}
        for name, parts in by_channels(names).items():
            alone = not CHANNEL.search(stem(parts[min(parts)]))  # holds all its channels, or is refused as it is read
            if fault := None if alone else missing_channel(Path(name).name, parts, channels):
                faults.append(fault)
            else:
                images[parts[0]] = tuple(parts.values())
    return images, faults


def masks_to_write(
    source: Path, output: Path, files: Sequence[Path], *, channel_files: bool = False, kind: str | None = None
) -> dict[Path, Path]:
    """Map each mask to write to its input. Refuse to overwrite an input, or to write two masks to one file.

    Args:
        channel_files: leave the number of a channel out of the mask's name.
        kind: ending of what is written in place of masks; None: that of a mask.
    """
    inputs = {_identity(file) for file in files}
    targets: dict[Path, Path] = {}
    for file in files:
        place = output / (file.relative_to(source) if source.is_dir() else file.name)
        name = CHANNEL.sub("", stem(file)) if channel_files else stem(file)
        target = place.with_name(f"{name}{kind or _ending_of_mask(file)}")
        if target.exists() and _identity(target) in inputs:
            raise UserError(f"output={output}: the mask of {file} would overwrite an input; give another folder")
        if target in targets:
            raise UserError(f"{file}: the mask of {targets[target]} has the same name, {target}; predict them apart")
        targets[target] = file
    return targets


def _ending_of_mask(file: Path) -> str:
    """That of the input, but PNG for every picture, since JPEG would blur classes, and .mha, one file, for .mhd."""
    return ".png" if ending(file) in PICTURE else ".mha" if ending(file) == ".mhd" else file.name[len(stem(file)) :]


def _identity(file: Path) -> tuple[int, int]:
    """Device and inode, which are equal for two paths to one file."""
    status = file.stat()
    return status.st_dev, status.st_ino


def inputs_of(source: Path, output: Path, *, channel_files: bool = False) -> Found:
    """The images of a folder, or the one file, with what is passed over; a UserError if there is no image.

    Args:
        channel_files: one file stands for all channels of its image.
    """
    if not source.is_dir() and source.exists():
        kind = ending(source)
        expect_regular(source)
        image = CHANNEL.sub("", stem(source))
        alike = (file for file in sorted(source.parent.iterdir()) if file.name.lower().endswith(kind))
        channels = [file for file in alike if CHANNEL.search(stem(file)) and CHANNEL.sub("", stem(file)) == image]
        return Found(channels if channel_files and source in channels else [source], {}, [])
    if not source.is_dir():
        raise UserError(f"input={source}: there is no such file or folder")
    found = walk(source)
    # ACDC's masks lie beside the images; an output folder inside the input holds masks of an earlier call.
    own = output.resolve() if source.resolve() in output.resolve().parents else None
    files = [
        file
        for file in found.files
        if not stem(file).endswith("_gt") and (own is None or own not in file.resolve().parents)
    ]
    if not files and not found.faults and not any(map(is_dicom, found.others)):
        others = "".join(f"; {note}" for note in passed_over(found.others, source))
        raise UserError(f"input={source}: the folder holds no image ({', '.join(ENDINGS)}){others}")
    return found._replace(files=sorted(files))
