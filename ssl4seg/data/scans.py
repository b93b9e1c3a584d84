"""Scans: files of volumes that know their place in the body, NIfTI, NRRD and MetaImage, read and written alike."""

from pathlib import Path
from typing import Any

import numpy.typing as npt

from ssl4seg.data.case import Spacing
from ssl4seg.data.formats import (
    NIFTI,
    ending,
    in_nifti,
    nifti_affine,
    nifti_facts,
    read_nifti_channels,
    write_nifti,
)
from ssl4seg.data.itk import ITK, itk_header, read_itk, write_itk
from ssl4seg.data.orientation import Affine

SCAN = NIFTI + ITK


def scan_facts(path: Path) -> tuple[tuple[int, ...], Spacing]:
    """Shape [H, W], [S, H, W] or [S, C, H, W], and mm between slices, rows and columns; no voxels are read."""
    if ending(path) in NIFTI:
        return nifti_facts(path)
    header = itk_header(path)
    return header.shape, header.spacing


def scan_affine(path: Path) -> Affine | None:
    """From voxels (x, y, z) to mm right, anterior and superior; None if the file does not say where the body lies."""
    return nifti_affine(path) if ending(path) in NIFTI else itk_header(path).affine


def read_scan(path: Path) -> npt.NDArray[Any]:
    """The voxels, in the shape of `scan_facts`."""
    return read_nifti_channels(path)[0] if ending(path) in NIFTI else read_itk(path)


def in_scan(slices: npt.NDArray[Any], like: Path) -> npt.NDArray[Any]:
    """Slices [S, H, W] in the axes of the array that `like` is read as: [X, Y, Z] by nibabel, [S, H, W] by ITK."""
    if ending(like) in NIFTI:
        return in_nifti(slices, read_nifti_channels(like)[1])
    return slices[0] if len(itk_header(like).shape) == 2 else slices


def write_scan(path: Path, label: npt.NDArray[Any], like: Path) -> None:
    """A mask [S, H, W] with the place of the scan `like`, which is of the same kind."""
    if ending(like) in NIFTI:
        write_nifti(path, label, read_nifti_channels(like)[1])
    else:
        write_itk(path, label, like)
