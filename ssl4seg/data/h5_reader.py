"""Reads the h5 files of published datasets: `image` and `label`, each [S, H, W] or, of a volume, [X, Y, Z]."""

from functools import partial
from pathlib import Path

import numpy as np

from ssl4seg.data.case import ImageArray, Part, Volume
from ssl4seg.data.formats import read_h5
from ssl4seg.data.intensities import Normalizer, Scaling
from ssl4seg.data.masks import read_labels


class H5Reader:
    """Reads files, or parts of them from the disk.

    Args:
        scaling: how values are scaled.
        ignore_index: the number in the labels that becomes IGNORE; None if there is none.
    """

    def __init__(self, scaling: Scaling, ignore_index: int | None) -> None:
        self.normalized, self.ignore_index = Normalizer(scaling), ignore_index

    def image(self, file: Path, part: Part = ()) -> ImageArray:
        """[S, 1, H, W]"""
        return self.normalized(file, partial(_pixels, file), part)

    def volume(self, file: Path, part: Part, label: bool) -> Volume:
        """Image and, if asked for, label."""
        return Volume(self.image(file, part), read_labels(file, self.ignore_index, part) if label else None)


def _pixels(file: Path, part: Part) -> ImageArray:
    return read_h5(file, "image", part).astype(np.float32)[:, None]
