"""Named arrays in one file, h5 and npz alike: `image`, `label` and the spacing."""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from ssl4seg.data.case import Part, Spacing
from ssl4seg.data.formats import H5, NPZ, ending, h5_facts, read_h5
from ssl4seg.data.guards import checked_spacing, expect_memory, expect_numbers, named_faults
from ssl4seg.errors import UserError

ARRAYS = H5 + NPZ
SPACING = "spacing"
"""The attribute of h5, and the array of npz: mm along each axis."""


def array_facts(path: Path) -> tuple[tuple[int, ...], bool, Spacing | None]:
    """Shape of `image`, whether there is a `label`, and the voxel spacing in mm, without reading pixels."""
    if ending(path) in H5:
        return h5_facts(path)
    with _npz(path) as file:
        names = _names(file)
        shape, _ = _header(path, file, "image")
        return shape, "label" in names, checked_spacing(_whole(path, file, SPACING), path) if SPACING in names else None


def read_array(path: Path, key: str, part: Part = ()) -> npt.NDArray[Any]:
    """The array `key` [S, *X], or [S, C, *X] with its channels.

    Args:
        part: the index of what is read; npz, which is compressed as a whole, has none.
    """
    if ending(path) in H5:
        return read_h5(path, key, part)
    with _npz(path) as file:
        return _whole(path, file, key)


def write_array_label(path: Path, label: npt.NDArray[Any], like: Path) -> None:
    """A mask [S, H, W] as the array `label`, without the axis S if the image in `like` has none."""
    shape = array_facts(like)[0]
    has_slices = len(shape) > 2 and len(label) == shape[0]
    own = label if has_slices else label[0]
    if ending(path) in NPZ:
        np.savez_compressed(path, label=own)
        return
    with h5py.File(path, "w") as file:
        file.create_dataset("label", data=own, compression="gzip")


@contextmanager
def _npz(path: Path) -> Iterator[zipfile.ZipFile]:
    """The open archive. NumPy's own reader is not used: it unpacks an array whatever size its header declares."""
    with named_faults(path, "npz"), zipfile.ZipFile(path) as file:
        yield file


def _names(file: zipfile.ZipFile) -> list[str]:
    return sorted(name.removesuffix(".npy") for name in file.namelist() if name.endswith(".npy"))


def _header(path: Path, file: zipfile.ZipFile, key: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """The shape and type of an array; the memory for it is there."""
    if key not in _names(file):
        raise UserError(f"{path}: has no array {key!r}, only {_names(file)[:20]}")
    with file.open(f"{key}.npy") as stream:
        version = npy.read_magic(stream)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read(stream)
        expect_numbers(path, dtype)
        expect_memory(path, shape, dtype, scaled=True)
        return shape, dtype


def _whole(path: Path, file: zipfile.ZipFile, key: str) -> npt.NDArray[Any]:
    """The array itself; the archive's check sum is compared, which is done where its bytes end."""
    shape, dtype = _header(path, file, key)
    with file.open(f"{key}.npy") as stream:
        values: npt.NDArray[Any] = npy.read_array(stream, allow_pickle=False)
        if stream.read(1):
            raise UserError(f"{path}: {key!r} goes on after the {shape} values of {dtype} that its header declares")
    return values
