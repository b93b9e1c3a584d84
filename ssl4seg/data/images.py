"""Image and mask files of any kind as a dataset reads them: [S, C, H, W] with the dataset's channels.

The kinds are those of `formats.ENDINGS`. A file with one axis more than an image holds channels if it is as long as
the dataset has channels, else slices: [3, H, W] is one image for 3 channels and three slices for 1. The third axis of
a scan (NIfTI, NRRD, MetaImage) is always one of slices. Scans are laid as the dataset's `orientation.Space` says.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ssl4seg.data.arrays import ARRAYS, array_facts, read_array, write_array_label
from ssl4seg.data.case import ImageArray, Part, Spacing
from ssl4seg.data.formats import (
    NIFTI,
    PICTURE,
    TIFF,
    TURNS,
    ending,
    opened,
    picture_channels,
    picture_orientation,
    picture_pixels,
    read_nifti_channels,
    read_picture_values,
    read_tiff,
    refuse_opacity,
    size_of,
    stem,
    tiff_facts,
    whole_labels,
    write_nifti_shares,
    write_picture,
    write_tiff,
)
from ssl4seg.data.orientation import AS_STORED, ROUNDING, STORED, Axes, Space, axes_of, back, corners, laid
from ssl4seg.data.scans import SCAN, in_scan, read_scan, scan_affine, scan_facts, write_scan
from ssl4seg.errors import UserError

PILLOW_LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey, as Pillow has them (ITU-R BT.601)."""


# -- headers ----------------------------------------------------------------------------------------------------------


class Facts(NamedTuple):
    """What the header of an image file says."""

    num_images: int
    """Slices."""
    channels: int
    """In the file; the opacity of a PNG does not count."""
    size: tuple[int, int]
    """Height and width."""
    is_bytes: bool
    """Whether `read_image` returns uint8."""
    spacing: Spacing | None
    """Millimetres between slices, rows and columns; None where unknown."""
    labeled: bool
    """Whether the file also holds its mask (h5, npz)."""
    opacity: bool = False
    """Whether the picture has an opacity (alpha), which is left out."""
    changed: bool = False
    """Whether pixels are stored turned (EXIF) or inverted (MINISWHITE), and read as a viewer shows them."""


def facts(path: Path, channels: int | None = None, space: Space = AS_STORED) -> Facts:
    """Read the header of a file.

    Args:
        channels: of the dataset, if known; decides whether a third axis is one of slices or of channels.
        space: how scans are laid.
    """
    kind, is_bytes, spacing, labeled, opacity, changed = ending(path), False, None, False, False, False
    shape: tuple[int, ...]
    if kind in SCAN:
        shape, spacing = scan_facts(path)
    elif kind in ARRAYS:
        shape, labeled, spacing = array_facts(path)
    elif kind in TIFF:
        shape, dtype, changed = tiff_facts(path)
        is_bytes = dtype.itemsize == 1 and dtype.kind in "ub"
    else:
        with opened(path) as picture:
            shape, is_bytes = (1, picture_channels(picture), *size_of(picture)), picture.mode[0] not in "IF"
            opacity, changed = picture.has_transparency_data, picture_orientation(picture) in TURNS
    num, in_file, *size = stacked(shape, None if kind in SCAN else channels, path)
    if kind in SCAN:
        order = axes_in(path, space).order
        num, *size = ((num, *size)[axis] for axis in order)
        spacing = spacing and (spacing[order[0]], spacing[order[1]], spacing[order[2]])
    return Facts(num, in_file, (size[0], size[1]), is_bytes, spacing, labeled, opacity, changed)


def stacked(shape: tuple[int, ...], channels: int | None, path: Path) -> tuple[int, int, int, int]:
    """Slices, channels, height and width of an array [H, W], [S or C, H, W] or [S, C, H, W]."""
    if len(shape) not in (2, 3, 4) or 0 in shape:
        raise UserError(f"{path}: the image has shape {shape}; expected (slices x (channels x)) height x width")
    *first, height, width = shape
    if len(first) == 2:
        return first[0], first[1], height, width
    length = first[0] if first else 1
    return (1, length, height, width) if length == channels else (length, 1, height, width)


# -- axes of scans ----------------------------------------------------------------------------------------------------


def axes_in(path: Path, space: Space) -> Axes:
    """How the axes of a file are laid; other kinds than scans are read as they are stored."""
    if ending(path) not in SCAN:
        return STORED
    return axes_of(_stored(path), scan_affine(path), space)


def axes_of_mask(mask: Path, image: Path, space: Space, what: str = "the mask and its image") -> Axes:
    """The same of a mask: by its own affine, or if that is unknown as its image.

    Args:
        what: the words for both files in the message.

    Raises:
        UserError: image and mask lie at different places.
    """
    axes = axes_in(image, space)
    if mask == image or ending(image) not in SCAN or ending(mask) not in SCAN:
        return axes
    affine, affine_of_image = scan_affine(mask), scan_affine(image)
    if affine is None or affine_of_image is None:
        return axes
    shape, own = _stored(mask), axes_in(mask, space)
    shapes = [[size[axis] for axis in way.order] for size, way in ((shape, own), (_stored(image), axes))]
    if shapes[0] == shapes[1]:  # else `folder.check_shape` refuses the mask
        ends = corners(_stored(image), affine_of_image, axes)
        away = float(np.abs(corners(shape, affine, own) - ends).max())
        if away > ROUNDING * min(scan_facts(image)[1]):
            raise UserError(
                f"{mask}: the affines of {what} {image.name} differ, by {away:.4g} mm at a corner; "
                "mend the header, or bring the mask to the image's grid"
            )
    return own


def contradiction(path: Path) -> str | None:
    """The sentence about a NIfTI file whose pixdim is not the spacing of its affine; None if it is."""
    affine = scan_affine(path) if ending(path) in SCAN else None
    if affine is None:
        return None
    spacing, norms = scan_facts(path)[1], np.linalg.norm(affine[:3, :3], axis=0)[::-1]
    if np.allclose(spacing, norms, rtol=0.01):
        return None
    pixdim, by_affine = (" x ".join(f"{value:.4g}" for value in values) for values in (spacing, norms))
    return (
        f"{path}: pixdim says {pixdim} mm (slices, rows, columns as stored), the affine {by_affine} mm; pixdim counts"
    )


def _stored(path: Path) -> tuple[int, int, int]:
    """Slices, rows and columns of a scan as its file stores them."""
    num, _, height, width = stacked(scan_facts(path)[0], None, path)
    return num, height, width


# -- images -----------------------------------------------------------------------------------------------------------


def read_image(path: Path, channels: int, part: Part = (), *, space: Space = AS_STORED) -> ImageArray:
    """[S, C, H, W]: pictures and TIFFs of 8 bit as uint8, of 16 bit in [0, 1], everything else as the file has it.

    Grey becomes RGB, and RGB becomes grey, where the dataset has the other. The opacity of a PNG is left out. The
    fourth channel of a TIFF is read whatever its tag says: tifffile calls the fourth of every RGB image an opacity.

    Args:
        part: read only this part of an h5 volume of several slices.
        space: how scans are laid.
    """
    kind = ending(path)
    if kind in PICTURE:
        return read_picture(path, channels)[None]
    if kind in SCAN:
        pixels = read_scan(path)
    elif kind in ARRAYS:
        pixels = read_array(path, "image", part)
    else:
        pixels = read_tiff(path)
    # The part of a volume has slices, even as many as there are channels.
    image = pixels.reshape(stacked(pixels.shape, None if kind in SCAN or part else channels, path))
    if kind in SCAN:
        image = laid(image, axes_in(path, space), (0, 2, 3))
    if kind in TIFF and pixels.dtype.itemsize == 1 and pixels.dtype.kind in "ub":
        return _converted(image.astype(np.uint8) * (255 if pixels.dtype == bool else 1), channels, path)
    scale = 65535 if kind in TIFF and pixels.dtype == np.uint16 else 1
    return _converted((image / np.float32(scale)).astype(np.float32, copy=False), channels, path)


def read_picture(path: Path, channels: int) -> ImageArray:
    """A picture as [C, H, W]: grey for 1 channel, RGB for 3; uint8, or float32 in [0, 1] from 16 bit."""
    with opened(path) as picture:
        check_channels(path, picture_channels(picture), channels, opacity=picture.has_transparency_data)
        is_deep = picture.mode.startswith("I")
        pixels = picture_pixels(picture, None if is_deep else "L" if channels == 1 else "RGB")
    image = (pixels / 65535.0).astype(np.float32) if is_deep else pixels
    image = image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
    return np.repeat(image, channels, axis=0) if len(image) != channels else image


def convertible(in_file: int, channels: int) -> bool:
    """Whether an image with `in_file` channels can be read for a dataset with `channels`: grey as RGB, RGB as grey."""
    return in_file == channels or {in_file, channels} == {1, 3}


def check_channels(path: Path, in_file: int, channels: int, *, opacity: bool = False) -> None:
    """Refuse an image whose channels cannot be converted to the dataset's.

    Args:
        opacity: whether the file also has an opacity, which is left out.
    """
    if not convertible(in_file, channels):
        held = f"{in_file} channel{'s' if in_file > 1 else ''}{' (its opacity is left out)' if opacity else ''}"
        raise UserError(f"{path}: has {held}, but {channels} are expected (dataset.channels)")


def _converted(image: npt.NDArray[Any], channels: int, path: Path) -> ImageArray:
    """[S, C', H, W] -> [S, C, H, W]."""
    in_file = image.shape[1]
    check_channels(path, in_file, channels)
    if in_file == 1 < channels:
        return np.repeat(image, channels, axis=1)
    if channels == 1 < in_file:
        grey = np.tensordot(image, np.array(PILLOW_LUMA, np.float32), axes=(1, 0))[:, None]
        return grey.round().astype(np.uint8) if image.dtype == np.uint8 else grey.astype(np.float32)
    return image


# -- masks ------------------------------------------------------------------------------------------------------------


def read_values(path: Path, *, colored: bool, part: Part = (), axes: Axes = STORED) -> npt.NDArray[Any]:
    """What a mask file holds: numbers [S, H, W], or RGB colours [S, H, W, 3].

    Args:
        colored: return the colours of a palette, not its indices.
        part: read only this part of an h5 volume.
        axes: how they are laid.
    """
    return laid(whole_labels(_stored_values(path, colored=colored, part=part)), axes, (0, 1, 2))


def _stored_values(path: Path, *, colored: bool, part: Part) -> npt.NDArray[Any]:
    kind = ending(path)
    if kind in PICTURE:
        return read_picture_values(path, colored=colored)[None]
    if kind in SCAN:
        numbers = read_scan(path)
    elif kind in ARRAYS:
        numbers = read_array(path, "label", part)
    else:
        numbers = read_tiff(path, indices=True, colored=colored)
        if numbers.dtype == bool:
            numbers = numbers * np.uint8(255 if colored else 1)  # as in pictures of 1 bit
    num, channels, height, width = stacked(numbers.shape, None, path)
    values = numbers.reshape(num, channels, height, width)
    if channels == 1:
        return values[:, 0]
    if channels not in (3, 4):
        raise UserError(f"{path}: a mask has 1 channel, or 3 of colours; this one has {channels}")
    colors = np.moveaxis(values[:, :3], 1, -1)
    if channels == 4:
        refuse_opacity(path, colors.reshape(-1, 3), values[:, 3])
    return colors


def as_in_file(slices: npt.NDArray[Any], like: Path, *, space: Space = AS_STORED) -> npt.NDArray[Any]:
    """Slices [S, H, W] in the axes of the array that the file `like` holds: [X, Y, Z] for NIfTI, [H, W] for one.

    Args:
        space: how `like` was laid as it was read.
    """
    if ending(like) in SCAN:
        return in_scan(back(slices, axes_in(like, space)), like)
    return slices[0] if len(slices) == 1 else slices


def write_label(path: Path, label: npt.NDArray[Any], like: Path, *, space: Space = AS_STORED) -> None:
    """Write a mask in the kind of file that its image `like` is; in scans with that file's axes and place.

    Args:
        space: how `like` was laid as it was read.
        label: numbers [S, H, W], or colours [S, H, W, 3], which only PNG and TIFF hold.
    """
    kind = ending(path)
    if label.ndim == 4 and kind not in (*PICTURE, *TIFF):
        raise UserError(f"{path}: holds numbers, not colours")
    if kind in PICTURE:
        write_picture(path, label[0])
    elif kind in SCAN:
        write_scan(path, back(label, axes_in(like, space)), like)
    elif kind in ARRAYS:
        write_array_label(path, label, like)
    else:
        write_tiff(path, label)


def shares_file(place: Path, like: Path) -> Path:
    """Where the probabilities go, beside what else is predicted on an image.

    Args:
        place: its mask, or another file of its name.
        like: the image.
    """
    kind = like.name[len(stem(like)) :] if ending(like) in NIFTI else ".npz"
    return place.with_name(f"{stem(place)}_probabilities{kind}")


def write_shares(path: Path, shares: npt.NDArray[Any], classes: Sequence[str], like: Path) -> None:
    """Write the probabilities of classes, rounded to float16.

    NIfTI holds them as [X, Y, Z, K] in float32, with the affine of `like`; an .npz file as `probabilities`
    [K, (S,) H, W] in float16, with the names of the `classes` [K].

    Args:
        shares: [K, ...] in the axes of the array in the file `like`.
    """
    if ending(like) in NIFTI:
        write_nifti_shares(path, np.moveaxis(shares, 0, -1), read_nifti_channels(like)[1])
    else:
        np.savez_compressed(path, probabilities=shares.astype(np.float16), classes=np.array(list(classes)))
