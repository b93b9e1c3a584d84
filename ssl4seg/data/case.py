"""A case: the unit that is labelled, predicted and measured as a whole (a volume of slices, or one image)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ssl4seg.errors import UserError

FloatArray = npt.NDArray[np.float32]
LabelArray = npt.NDArray[np.uint8]
ImageArray = npt.NDArray[np.float32] | npt.NDArray[np.uint8]
"""float32, or uint8 that stands for 255 times the value: what a picture holds, in a quarter of the memory."""
Spacing = tuple[float, float, float]
"""Millimetres between slices, rows and columns."""


class Volume(NamedTuple):
    """The pixels of a case at native size; a two-dimensional image is a volume of one slice."""

    image: ImageArray
    """[S, C, H, W], normalised as the dataset says."""
    label: LabelArray | None
    """[S, H, W] in 0..K-1 or IGNORE; None where no mask exists."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A case that is known but not read yet."""

    name: str
    group: str
    """The patient (or other unit) that must stay in one split; the labelled split takes whole groups."""
    num_images: int
    """Slices in the case."""
    size: tuple[int, int]
    """Their height and width."""
    labeled: bool
    """Whether a mask exists."""
    read: Callable[[], Volume]
    """Pure; a `partial` of a function or method, not a closure: some systems hand it to worker processes by pickle."""
    read_image: Callable[[], ImageArray] | None = None
    """Only the image, where that saves reading the mask."""
    read_slice: Callable[[int, bool], Volume] | None = None
    """Slice `index` as a volume of one, with or without its mask, where that saves reading the others."""
    spacing: Spacing | None = None
    """None where unknown."""

    def volume(self, *, label: bool) -> Volume:
        """The pixels, those of the mask only where they are wanted (or cannot be left out)."""
        return self.read() if label or self.read_image is None else Volume(self.read_image(), None)


def checked(volume: Volume, source: str, num_classes: int, ignore: int = 255) -> Volume:
    """The volume itself, or a UserError that names `source` and its fault (shape, NaN, label value)."""
    image, label = volume.image, volume.label
    if image.ndim != 4 or 0 in image.shape:
        raise UserError(f"{source}: the image has shape {image.shape}; expected slices x channels x height x width")
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
    if not ((label >= num_classes) & (label != ignore)).any():
        return volume
    wrong = [int(v) for v in np.unique(label) if v >= num_classes and v != ignore]
    raise UserError(
        f"{source}: label values {wrong} lie outside the {num_classes} classes 0..{num_classes - 1}; "
        "set dataset.num_classes (and dataset.classes) or dataset.ignore_index, or mend the mask"
    )
