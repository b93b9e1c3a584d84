"""How intensities are scaled before training and prediction (`dataset.normalize`)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ssl4seg.data.case import ImageArray, Part
from ssl4seg.keys import expect, one_of

NORMALIZATIONS = ("minmax", "none", "auto")


def normalized(image: ImageArray, how: str, span: tuple[Any, Any] | None = None) -> ImageArray:
    """Scale the intensities of a volume.

    `minmax`: to [0, 1], as in the ACDC literature; a constant volume becomes 0, and scaling twice changes nothing.
    `none`: no change; pictures of 8 or 16 bit have been divided by their largest possible value as they were read.
    `auto`: none for values that lie in [0, 1], as a picture's do, else minmax.

    Args:
        span: lowest and highest value of the whole volume, where `image` is a part of it.
    """
    expect("dataset.normalize", how, one_of(*NORMALIZATIONS))
    if how == "none" or (how == "auto" and image.dtype == np.uint8):
        return image
    low, high = span or (image.min(), image.max())
    if how == "auto" and low >= 0 and high <= 1:
        return image
    if not (np.isfinite(low) and np.isfinite(high)):
        return image  # `case.checked` counts the NaNs and refuses the case
    if high == low:
        return np.zeros(image.shape, np.float32)
    return ((image - np.float32(low)) / np.float32(high - low)).astype(np.float32)


class Normalizer:
    """`normalized` for files; it remembers each file's span, so that a part is scaled without reading the rest.

    Args:
        how: see `normalized`.
    """

    def __init__(self, how: str) -> None:
        self.how = how
        self.spans: dict[Path, tuple[Any, Any]] = {}

    def __call__(self, path: Path, read: Callable[[Part], ImageArray], part: Part = ()) -> ImageArray:
        """Read and scale a part of a file.

        Args:
            read: part -> its pixels as the file holds them.
        """
        if part and path not in self.spans:
            self(path, read)
        image = read(part)
        if not part:
            self.spans[path] = image.min(), image.max()
        return normalized(image, self.how, self.spans[path])
