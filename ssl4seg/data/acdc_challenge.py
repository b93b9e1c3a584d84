"""`ssl4seg-prepare acdc SOURCE DEST`: convert the challenge's NIfTI folders to the h5 layout that training reads.

Every volume is checked, min-max normalised to [0, 1] and written with its voxel spacing. A second call converts only
volumes without a whole h5 file that is newer than their source. All faults are listed at once, and nothing is written
for a faulty volume.
"""

import os
import re
from pathlib import Path

import h5py
import numpy as np

from ssl4seg.data.case import LabelArray, Volume, checked
from ssl4seg.data.formats import h5_facts, nifti_spacing, read_nifti, stem, whole_labels
from ssl4seg.data.images import axes_of_mask
from ssl4seg.data.intensities import normalized
from ssl4seg.data.orientation import AS_STORED
from ssl4seg.data.walk import walk
from ssl4seg.errors import UserError

ACDC_CLASSES = 4
PUBLISHED = [f"patient{number:03d}" for number in range(1, 101)]
"""The patients of conf/dataset/acdc.yaml; the challenge's test set begins at 101."""
FRAME = re.compile(r"patient\d{3}_frame\d{2}\.nii(\.gz)?$")


def prepare_acdc(source: Path, dest: Path) -> tuple[int, int]:
    """Convert every 3-D frame below `source` (patientXXX_frameNN.nii[.gz], mask ..._gt.nii[.gz] if there is one).

    Returns:
        the numbers of volumes written, and of volumes that were up to date.
    """
    if not source.is_dir():
        raise UserError(f"{source}: there is no such folder")
    found = walk(source)
    frames = sorted(file for file in found.files if FRAME.search(file.name))
    if not frames:
        raise UserError(f"{source}: holds no patientXXX_frameNN.nii.gz; give the folder of the challenge's patients")
    names = [stem(frame) for frame in frames]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{source}: more than one file is named {', '.join(twice[:5])}; give one copy of the data")
    try:
        (dest / "data").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{dest}: cannot be written ({error.strerror})") from None
    written, faults = 0, [fault for file, fault in found.faults.items() if FRAME.search(file.name)]
    num = len(frames) + len(faults)
    for frame in frames:
        try:
            written += _convert(frame, dest / "data" / f"{stem(frame)}.h5")
        except UserError as error:
            faults.append(str(error))
    if faults:
        raise UserError("\n".join([f"{len(faults)} of {num} volumes could not be prepared:", *faults]))
    return written, len(frames) - written


def _mask_of(frame: Path) -> Path | None:
    """The ground truth beside a frame; the challenge's own archive writes it with or without .gz."""
    candidates = (frame.with_name(f"{stem(frame)}_gt{end}") for end in (".nii.gz", ".nii"))
    return next((file for file in candidates if file.exists()), None)


def _convert(frame: Path, target: Path) -> bool:
    """Convert one volume; return False if the target is whole and up to date."""
    mask = _mask_of(frame)
    newest = max(file.stat().st_mtime for file in (frame, mask) if file)
    if target.exists() and target.stat().st_mtime >= newest and _matches(target, mask):
        return False
    voxels, header = read_nifti(frame)
    label: LabelArray | None = None
    if mask:
        axes_of_mask(mask, frame, AS_STORED)  # refuses a mask that lies elsewhere
        values = whole_labels(read_nifti(mask)[0])
        if not np.isin(values, range(ACDC_CLASSES)).all():
            wrong = [value.item() for value in np.unique(values) if value not in range(ACDC_CLASSES)]
            raise UserError(f"{mask}: label values {wrong[:5]} lie outside the classes 0..{ACDC_CLASSES - 1}")
        label = values.astype(np.uint8)
    image = normalized(voxels.astype(np.float32), "minmax")
    checked(Volume(image[:, None], label), str(frame), ACDC_CLASSES)
    partial = target.with_suffix(".partial")
    with h5py.File(partial, "w") as file:
        keys = {"chunks": (1, *image.shape[1:]), "compression": "gzip", "compression_opts": 1}  # read slice by slice
        file.create_dataset("image", data=image, shuffle=True, **keys)
        if label is not None:
            file.create_dataset("label", data=label, **keys)
        file.attrs["spacing"] = nifti_spacing(header)
    os.replace(partial, target)
    return True


def _matches(target: Path, mask: Path | None) -> bool:
    """Whether an h5 file is whole, and has a label just if there is a mask."""
    try:
        return h5_facts(target)[1] == (mask is not None)
    except UserError:  # damaged
        return False


def published(dest: Path) -> str:
    """A sentence on how many patients of the published split a converted folder holds, and which are missing."""
    converted = {file.name.split("_")[0] for file in (dest / "data").glob("*.h5")}
    missing = [name for name in PUBLISHED if name not in converted]
    text = f"{len(PUBLISHED) - len(missing)} of the 100 patients of the published split (70 / 10 / 20) are there"
    if not missing:
        return text
    listed = f"{', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}"
    return f"{text}, {len(missing)} are missing ({listed}); complete SOURCE, or give dataset.patients when training"
