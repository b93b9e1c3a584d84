"""The grid on which volumes are read: cut to what they show and resampled to one voxel spacing, and the way back.

A voxel fills a box, and the boxes of a volume fill the same space before and after: n voxels of a mm become
m = max(1, round(n a / b)) voxels of n a / m mm, where b is the spacing that is asked for. So voxel i of the m lies at
(i + 0.5) n / m - 0.5 of the n, counted from the centre of the first (the convention of nnU-Net and of scikit-image).
Images are interpolated linearly, without smoothing before they are thinned; beyond the centres of the outer voxels
their values go on. Labels take the nearest voxel, on both ways.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.ndimage import zoom

from ssl4seg.errors import UserError
from ssl4seg.memory import free_memory

Pixels = npt.NDArray[Any]
Lengths = tuple[int, ...]
Steps = tuple[float, float, float]
"""Millimetres along the three axes of a volume."""
FOREGROUND = "foreground"


class Place(NamedTuple):
    """Where a volume that a dataset reads lies in its file: the part that was cut out, and its voxels afterwards.

    All lengths and steps are along the axes of the volume as it is read, as x, y, z; of a picture along two.
    """

    shape: Lengths
    """Voxels of the file."""
    part: tuple[slice, ...]
    """The voxels that are cut out."""
    size: Lengths
    """Voxels of the volume that is read."""
    spacing: Steps | None
    """Of the file, in mm; None if unknown. Of slices, as they follow one another, down and across."""

    @property
    def spacing_read(self) -> Steps | None:
        """The spacing of the volume that is read."""
        if self.spacing is None or self._cut == self.size:
            return self.spacing
        x, y, z = (a * n / m for a, n, m in zip(self.spacing, self._cut, self.size, strict=True))
        return x, y, z

    @property
    def _index(self) -> Any:
        return (..., *self.part)

    @property
    def _cut(self) -> Lengths:
        return tuple(part.stop - part.start for part in self.part)

    def cut(self, pixels: Pixels) -> Pixels:
        """The part [..., *X] of the file's pixels, on the file's own grid."""
        return np.ascontiguousarray(pixels[self._index])

    def resampled(self, image: Pixels) -> Pixels:
        """The part of an image [S, C, *X], linearly interpolated; float32 unless it stays as it is."""
        if image.shape[2:] == self.size:
            return image
        factors = [m / n for n, m in zip(image.shape[2:], self.size, strict=True)]
        found: Pixels = np.empty((*image.shape[:2], *self.size), np.float32)
        for number, channel in enumerate(image[0]):
            zoom(channel, factors, found[0, number], order=1, mode="nearest", grid_mode=True)
        return found

    def read(self, label: Pixels) -> Pixels:
        """The label [S, *X] of a file as it is read with its image."""
        return _nearest(self.cut(label), self.size)

    def back(self, label: Pixels) -> Pixels:
        """A label [S, *X] of the volume that is read on the file's own grid; class 0 outside of the part."""
        whole: Pixels = np.zeros((len(label), *self.shape), label.dtype)
        whole[self._index] = _nearest(label, self._cut)
        return whole


def _nearest(label: Pixels, size: Lengths) -> Pixels:
    """[S, *X] -> [S, *size]; in whole numbers, since rounding errors would decide where two voxels are equally near."""
    found = label
    for axis, target in enumerate(size, 1):
        if (length := label.shape[axis]) != target:
            found = found.take((2 * np.arange(target) + 1) * length // (2 * target), axis)
    return found


class Grid(NamedTuple):
    """The keys of a dataset that say on which grid its volumes are read."""

    spacing: Steps | None = None
    """In mm along x, y and z; None: each file's own."""
    crop: bool = False
    """Whether volumes are cut to `foreground`."""

    def check(self, axes: int) -> None:
        """Refuse the keys for slices and pictures.

        Args:
            axes: of an image.
        """
        if self != FILES_OWN and axes < 3:
            key = "spacing" if self.spacing else "crop"
            raise UserError(
                f"dataset.{key} is set, but dataset.image_size has one number: slices are neither resampled nor "
                "cropped; give image_size the length of each axis, as [96,96,96], or set dataset.spacing=none "
                "dataset.crop=none"
            )

    def place(
        self,
        source: object,
        shape: Sequence[int],
        spacing: Sequence[float] | None,
        image: Callable[[], npt.NDArray[Any]],
    ) -> Place:
        """Where a volume lies in its file.

        Args:
            source: the file, for messages.
            shape: of the file along the axes of the volume.
            spacing: of the file likewise, in mm; None if it is unknown.
            image: reads the file's pixels [1, C, *X], which are needed only where the volume is cropped.

        Raises:
            UserError: the spacing is unknown but asked for, or the volume would not fit in memory.
        """
        part = foreground(image()) if self.crop else tuple(slice(0, length) for length in shape)
        cut = [piece.stop - piece.start for piece in part]
        size = cut
        if self.spacing:
            if fault := self.fault(source, spacing):
                raise UserError(fault)
            assert spacing is not None
            size = [max(1, round(n * a / b)) for n, a, b in zip(cut, spacing, self.spacing, strict=True)]
            _expect_memory(source, size, self.spacing)
        steps = None if spacing is None else (spacing[0], spacing[1], spacing[2])
        return Place(tuple(shape), part, tuple(size), steps)

    def fault(self, source: object, spacing: Sequence[float] | None) -> str | None:
        """That the spacing of a file is unknown, but asked for; None if not."""
        if not self.spacing or spacing is not None:
            return None
        return (
            f"{source}: its voxel spacing is unknown, but dataset.spacing={_shown(self.spacing)} mm needs it; write it "
            "into the file (NIfTI, or the attribute spacing of h5), or set dataset.spacing=none"
        )

    def note(self, spacings: Iterable[Sequence[float] | None]) -> str:
        """What a user should know of the grid; "" if it is the files' own.

        Args:
            spacings: of the files, in mm along the axes of the volumes.
        """
        words = []
        if self.crop:
            words.append("cropped to their foreground (crop)")
        if self.spacing:
            steps = [f"{step:.3g}" for step in sorted({step for spacing in spacings if spacing for step in spacing})]
            given = f", from {' to '.join(dict.fromkeys([steps[0], steps[-1]]))}" if steps else ""
            words.append(f"resampled to {_shown(self.spacing)} mm{given} (spacing)")
        return (
            f"volumes are {' and '.join(words)}; masks are scored and written on the files' own grid" if words else ""
        )


FILES_OWN = Grid()


def grid_of(keys: Mapping[str, Any]) -> Grid:
    """The grid of a dataset by its keys `spacing`, a number or one for each axis, and `crop`; null and none are off."""
    spacing, crop = (None if keys.get(key) == "none" else keys.get(key) for key in ("spacing", "crop"))
    if spacing is not None:
        x, y, z = (float(step) for step in ([spacing] * 3 if isinstance(spacing, int | float) else spacing))
        return Grid((x, y, z), crop is not None)
    return Grid(None, crop is not None)


def foreground(image: npt.NDArray[Any]) -> tuple[slice, ...]:
    """The box of what an image [1, C, *X] shows: of the voxels that in some channel are neither 0 nor its lowest value.

    nnU-Net's crop_to_nonzero takes the voxels that are not 0; the lowest value is also what surrounds a body in CT. An
    image without such a voxel is taken whole.
    """
    shown: npt.NDArray[np.bool_] = np.zeros(image.shape[2:], np.bool_)
    for channel in image[0]:
        shown |= (channel != 0) & (channel != channel.min())
    part = []
    for axis, length in enumerate(image.shape[2:]):
        at = np.flatnonzero(shown.any(axis=tuple(other for other in range(shown.ndim) if other != axis)))
        part.append(slice(int(at[0]), int(at[-1]) + 1) if len(at) else slice(0, length))
    return tuple(part)


def _expect_memory(source: object, size: Sequence[int], spacing: Steps) -> None:
    """Refuse a volume whose pixels alone, in float32, are more than memory holds."""
    need, free = 4 * math.prod(size), free_memory()
    if free is not None and need > free:
        raise UserError(
            f"{source}: dataset.spacing={_shown(spacing)} makes {' x '.join(map(str, size))} voxels of it, which take "
            f"{need / 2**30:,.3g} GiB of memory; this machine has {free / 2**30:,.3g} GiB free; give a larger spacing"
        )


def _shown(spacing: Sequence[float]) -> str:
    return " x ".join(f"{step:.3g}" for step in spacing)
