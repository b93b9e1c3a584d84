"""A case: what is labelled, predicted and measured as a whole (a volume of slices, or one image)."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ssl4seg.data.grid import Place
from ssl4seg.errors import UserError
from ssl4seg.keys import IGNORE

FloatArray = npt.NDArray[np.float32]
LabelArray = npt.NDArray[np.uint8]
ImageArray = npt.NDArray[np.float32] | npt.NDArray[np.uint8]
"""float32, or uint8 where 255 stands for 1: a picture as its file holds it, in a quarter of the memory."""
Part = tuple[slice, ...]
"""An index of [S, *X]: images, and pixels along their axes. Axes that are left out are whole; () is everything."""
Spacing = tuple[float, float, float]
"""Millimetres between slices, rows and columns, or along the three axes of a volume."""


class Volume(NamedTuple):
    """The pixels of a case: slices with two axes, or one image with three; a picture is one slice."""

    image: ImageArray
    """[S, C, H, W] or [1, C, X, Y, Z], scaled as `dataset.normalize` says."""
    label: LabelArray | None
    """[S, H, W] or [1, X, Y, Z] in 0..K-1 or IGNORE; None without a mask."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A case whose pixels are read on demand."""

    name: str
    group: str
    """The patient, or other unit, whose cases stay together in one split and are labelled together."""
    num_images: int
    """Number of slices; 1 if all axes are one image's."""
    size: tuple[int, ...]
    """Height and width of the slices, or the lengths of the three axes."""
    labeled: bool
    """Whether a mask exists."""
    read: Callable[[], Volume]
    """A pure function; a `partial`, not a closure, since some systems pickle it for worker processes."""
    read_image: Callable[[], ImageArray] | None = None
    """The image without the mask, where that saves reading the mask."""
    read_part: Callable[[Part, bool], Volume] | None = None
    """(part, with mask) -> that part of all pixels, where that saves reading the others."""
    read_label: Callable[[], LabelArray] | None = None
    """The mask without the image, on the file's own grid; needed where `place` is set."""
    spacing: Spacing | None = None
    """Of the pixels as they are read; None if unknown."""
    place: Place | None = None
    """Where the pixels lie in the file; None where they are all of the file's, on its own grid, as they are scored."""
    files: tuple[Path, ...] = ()
    """The files with image and mask, by which a run knows its data; empty where the data are made in memory."""

    def volume(self, *, label: bool) -> Volume:
        """Read the pixels. Without `label` the mask is left out, unless it cannot be read apart from the image."""
        return self.read() if label or self.read_image is None else Volume(self.read_image(), None)


def full_scale(image: ImageArray) -> int:
    """The value that stands for 1: 255 in a uint8 image, else 1."""
    return 255 if image.dtype == np.uint8 else 1


def checked(volume: Volume, source: str, num_classes: int, channels: int | None = None) -> Volume:
    """Return the volume if its shapes, its values and its labels are as they must be.

    Args:
        channels: of the image, as `dataset.channels` says; None: any number.

    Raises:
        UserError: names `source`, which is the case or file, and the fault.
    """
    image, label = volume.image, volume.label
    if image.ndim not in (4, 5) or 0 in image.shape:
        raise UserError(
            f"{source}: the image has shape {image.shape}; expected slices x channels x height x width, "
            "or 1 x channels x three axes"
        )
    if channels not in (None, image.shape[1]):
        raise UserError(
            f"{source}: the image has {image.shape[1]} channel(s), but dataset.channels={channels}; "
            f"set dataset.channels={image.shape[1]} if all images are so, or mend what reads this one"
        )
    if image.dtype != np.uint8 and not np.isfinite(image).all():
        raise UserError(
            f"{source}: the image holds {int((~np.isfinite(image)).sum())} NaN or infinite values; "
            "mend or remove the file"
        )
    if label is None:
        return volume
    expected = (image.shape[0], *image.shape[2:])
    if label.shape != expected:
        raise UserError(f"{source}: image and label differ in shape: image {expected}, label {label.shape}")
    if not ((label >= num_classes) & (label != IGNORE)).any():
        return volume
    wrong = [int(value) for value in np.unique(label) if value >= num_classes and value != IGNORE]
    raise UserError(
        f"{source}: label values {wrong} lie outside the {num_classes} classes 0..{num_classes - 1}; "
        "set dataset.num_classes (and dataset.classes) or dataset.ignore_index, or mend the mask"
    )
