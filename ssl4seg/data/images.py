"""Image files of any kind as [S, C, H, W], mask files as what they hold, and predicted masks back into files.

The kinds are those of `files.ENDINGS`. A file with one axis more than an image holds slices, or channels where the
dataset has as many: [3, H, W] is one image for 3 channels and three slices for 1. The third axis of NIfTI
is always one of slices.
"""

from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image

from ssl4seg.data.case import ImageArray
from ssl4seg.data.files import (
    H5,
    NIFTI,
    PICTURE,
    TIFF,
    check_channels,
    ending,
    h5_facts,
    nifti_facts,
    opened,
    picture_channels,
    read_h5,
    read_nifti_channels,
    read_picture,
    read_tiff,
    tiff_facts,
    write_nifti,
)
from ssl4seg.errors import UserError

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey (ITU-R 601), as Pillow's."""


class Facts(NamedTuple):
    """What is known of an image file without reading its pixels."""

    num_images: int
    """Slices."""
    channels: int
    """In the file, but for the opacity of a PNG."""
    size: tuple[int, int]
    """Height and width."""
    is_bytes: bool
    """Whether `read_image` gives uint8."""
    spacing: tuple[float, float, float] | None
    """Millimetres between slices, rows and columns; None where unknown."""
    labeled: bool
    """Whether the file holds its mask too (h5)."""
    opacity: bool = False
    """Whether the picture has an opacity, or alpha, which is left out."""


def facts(path: Path, channels: int | None = None) -> Facts:
    """From the head of the file.

    Args:
        channels: of the dataset, if known; decides whether a third axis is one of slices or of channels.
    """
    kind, is_bytes, spacing, labeled, opacity = ending(path), False, None, False, False
    shape: tuple[int, ...]
    if kind in NIFTI:
        shape, spacing = nifti_facts(path)
    elif kind in H5:
        shape, labeled, spacing = h5_facts(path)
    elif kind in TIFF:
        shape, dtype = tiff_facts(path)
        is_bytes = dtype.itemsize == 1 and dtype.kind in "ub"
    else:
        with opened(path) as picture:
            shape, is_bytes = (1, picture_channels(picture), picture.height, picture.width), picture.mode[0] not in "IF"
            opacity = picture.has_transparency_data
    num, held, *size = stacked(shape, None if kind in NIFTI else channels, path)
    return Facts(num, held, (size[0], size[1]), is_bytes, spacing, labeled, opacity)


def stacked(shape: tuple[int, ...], channels: int | None, path: Path) -> tuple[int, int, int, int]:
    """Slices, channels, height and width of an array [H, W], [S or C, H, W] or [S, C, H, W]."""
    if len(shape) not in (2, 3, 4) or 0 in shape:
        raise UserError(f"{path}: the image has shape {shape}; expected (slices x (channels x)) height x width")
    *first, height, width = shape
    if len(first) == 2:
        return first[0], first[1], height, width
    length = first[0] if first else 1
    return (1, length, height, width) if length == channels else (length, 1, height, width)


def read_image(path: Path, channels: int, index: int | None = None) -> ImageArray:
    """[S, C, H, W]: pictures and TIFFs of 8 bit as uint8, of 16 bit in [0, 1], everything else as the file says.

    Grey becomes RGB and RGB becomes grey where the dataset has the other. The opacity of a PNG is left out; the fourth
    channel of a TIFF may be any band, whatever its tag says (tifffile calls the fourth of every RGB image an opacity).

    Args:
        index: of the slice that is wanted, in an h5 volume; None reads all.
    """
    kind = ending(path)
    if kind in PICTURE:
        return read_picture(path, channels)[None]
    if kind in NIFTI:
        found = read_nifti_channels(path)[0]
    elif kind in H5:
        found = read_h5(path, "image", index)
    else:
        found = read_tiff(path)
    image = found.reshape(stacked(found.shape, None if kind in NIFTI else channels, path))
    if kind in TIFF and found.dtype.itemsize == 1 and found.dtype.kind in "ub":
        return _converted(image.astype(np.uint8) * (255 if found.dtype == bool else 1), channels, path)
    scale = 65535 if kind in TIFF and found.dtype == np.uint16 else 1
    return _converted((image / np.float32(scale)).astype(np.float32), channels, path)


def _converted(image: npt.NDArray[Any], channels: int, path: Path) -> ImageArray:
    found = image.shape[1]
    check_channels(path, found, channels)
    if found == 1 < channels:
        return np.repeat(image, channels, axis=1)
    if channels == 1 < found:
        grey = np.tensordot(image, np.array(LUMA, np.float32), axes=(1, 0))[:, None]
        return grey.round().astype(np.uint8) if image.dtype == np.uint8 else grey.astype(np.float32)
    return image


def read_values(path: Path, *, colored: bool, index: int | None = None) -> npt.NDArray[Any]:
    """What a mask file holds: numbers [S, H, W], or RGB colours [S, H, W, 3].

    Args:
        colored: take the colours of a palette, not its indices.
        index: of the slice that is wanted, in an h5 volume; None reads all.
    """
    kind = ending(path)
    if kind in PICTURE:
        return _picture_values(path, colored)[None]
    if kind in NIFTI:
        found = read_nifti_channels(path)[0]
    elif kind in H5:
        found = read_h5(path, "label", index)
    else:
        found = read_tiff(path, indices=True)
        if found.dtype == bool:
            found = found * np.uint8(255 if colored else 1)  # as in pictures of 1 bit
    num, channels, height, width = stacked(found.shape, None, path)
    values = found.reshape(num, channels, height, width)
    if channels == 1:
        return values[:, 0]
    if channels not in (3, 4):
        raise UserError(f"{path}: a mask has 1 channel, or 3 of colours; this one has {channels}")
    return np.moveaxis(values[:, :3], 1, -1)


def _picture_values(path: Path, colored: bool) -> npt.NDArray[Any]:
    with opened(path) as picture:
        if picture.mode == "P":
            return np.asarray(picture.convert("RGB") if colored else picture)
        if picture.mode == "1":
            return np.asarray(picture.convert("L") if colored else picture, np.uint8)
        if picture.mode == "LA":
            return np.asarray(picture.convert("L"))
        return np.asarray(picture if picture.mode[0] in "LIF" else picture.convert("RGB"))


def write_label(path: Path, label: npt.NDArray[Any], like: Path) -> None:
    """A mask in the same kind of file as its image: numbers [S, H, W], or colours [S, H, W, 3] in PNG and TIFF."""
    kind = ending(path)
    if label.ndim == 4 and kind not in (*PICTURE, *TIFF):
        raise UserError(f"{path}: holds numbers, not colours")
    if kind in PICTURE:
        if not np.can_cast(label.dtype, np.uint16):
            raise UserError(f"{path}: a PNG holds numbers from 0 to 65535; the masks have others")
        Image.fromarray(label[0]).save(path)
    elif kind in NIFTI:
        write_nifti(path, label, read_nifti_channels(like)[1])
    elif kind in H5:
        shape = h5_facts(like)[0]
        with h5py.File(path, "w") as file:
            stack = len(shape) > 2 and len(label) == shape[0]
            file.create_dataset("label", data=label if stack else label[0], compression="gzip")
    else:
        stack = len(label) > 1
        photometric = "minisblack" if label.ndim == 3 else "rgb"
        tifffile.imwrite(path, label if stack else label[0], photometric=photometric, compression="zlib")
