"""How intensities are scaled before training and prediction (`dataset.window`, `dataset.normalize`)."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ssl4seg.data.case import FloatArray, ImageArray, Part
from ssl4seg.keys import expect, one_of

NORMALIZATIONS = ("minmax", "none", "auto", "zscore", "zscore_nonzero", "percentile")
PERCENTILES = (0.5, 99.5)
LEAST_STD = 1e-8
"""A smaller standard deviation counts as this, so that a constant channel becomes 0 (as nnU-Net)."""


class Scaling(NamedTuple):
    """The keys of a dataset that say how its values are scaled; see `normalized`."""

    normalize: str = "none"
    window: Sequence[float] | None = None
    """[low, high]"""

    @property
    def keeps_bytes(self) -> bool:
        """Whether pictures of 8 bit stay uint8."""
        return self.window is None and self.normalize in ("none", "auto")


def scaling_of(keys: Mapping[str, Any]) -> Scaling:
    """By the keys of a dataset; the word none is no window."""
    window = keys.get("window")
    return Scaling(keys["normalize"], None if window == "none" else window)


class Scale(NamedTuple):
    """What a volume's statistics make of a value v: (v - shift) / width. Numbers, or arrays [C, 1, ...]."""

    shift: Any
    width: Any
    high: Any = None
    """Values below `shift` and above `high` are set to these first; None: no value is."""


def normalized(image: ImageArray, normalize: str, window: Sequence[float] | None = None) -> ImageArray:
    """Scale the intensities of a volume [S, C, *X].

    `minmax`: to [0, 1], all channels together, as in the ACDC literature; a constant volume becomes 0, and scaling
    twice changes nothing.
    `percentile`: each channel alone, from its percentiles 0.5 and 99.5 to [0, 1], values beyond them cut off; from its
    lowest to its highest value where both percentiles are one number.
    `zscore`: each channel alone to mean 0 and standard deviation 1, over all its voxels (Isensee et al. 2021,
    nnU-Net's normalisation of MR).
    `zscore_nonzero`: likewise over the voxels that are not 0 in the channel; those that are stay 0.
    `none`: no change; pictures of 8 or 16 bit have been divided by their largest possible value as they were read.
    `auto`: none for values that lie in [0, 1], as a picture's do, else minmax.

    Args:
        window: [low, high] to which values are cut off before; for CT in Hounsfield units. A value of 0 in the file
            counts as 0 for `zscore_nonzero`, whatever the window makes of it.
    """
    return scaled(image, scale_of(image, normalize, window), normalize, window)


def scale_of(image: ImageArray, normalize: str, window: Sequence[float] | None) -> Scale | None:
    """The statistics by which a volume and its parts are scaled, see `normalized`; None if values stay as they are.

    A volume with NaN or infinite values has none either: `case.checked` counts these and refuses the case.
    """
    expect("dataset.normalize", normalize, one_of(*NORMALIZATIONS))
    if normalize == "none" or (normalize == "auto" and window is None and image.dtype == np.uint8):
        return None
    low, high = image.min(), image.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        return None
    values = windowed(image, window)
    if normalize in ("minmax", "auto"):
        low, high = values.min(), values.max()
        return None if normalize == "auto" and low >= 0 and high <= 1 else Scale(low, (high - low) or 1)
    channels = [values[:, channel] for channel in range(values.shape[1])]
    if normalize == "percentile":
        lows, highs = (_by_channel(ends, image) for ends in np.transpose([_percentiles(part) for part in channels]))
        return Scale(lows, np.where(highs > lows, highs - lows, 1), highs)
    if normalize == "zscore_nonzero":
        channels = [channel[image[:, number] != 0] for number, channel in enumerate(channels)]
    means = [channel.mean(dtype=np.float64) if channel.size else 0.0 for channel in channels]
    stds = [max(channel.std(dtype=np.float64), LEAST_STD) if channel.size else 1.0 for channel in channels]
    return Scale(_by_channel(means, image), _by_channel(stds, image))


def scaled(image: ImageArray, scale: Scale | None, normalize: str, window: Sequence[float] | None = None) -> ImageArray:
    """A volume [S, C, *X] or a part of it, scaled by the statistics of the whole volume."""
    inside = windowed(image, window)
    if scale is None:
        return inside
    values: npt.NDArray[Any] = inside if scale.high is None else np.clip(inside, scale.shift, scale.high)
    moved: FloatArray = ((values - np.float32(scale.shift)) / np.float32(scale.width)).astype(np.float32)
    if normalize == "zscore_nonzero":
        moved[image == 0] = 0
    return moved


def windowed(image: ImageArray, window: Sequence[float] | None) -> ImageArray:
    """The values cut off to [low, high]; of a picture of 8 bit those are of [0, 1]. Infinite values stay."""
    if window is None:
        return image
    values = image / np.float32(255) if image.dtype == np.uint8 else image
    low, high = window
    inside = np.clip(values, np.float32(low), np.float32(high))
    return np.where(np.isfinite(values), inside, values).astype(np.float32)


def _percentiles(values: npt.NDArray[Any]) -> tuple[float, float]:
    low, high = np.percentile(values, PERCENTILES)
    return (low, high) if low < high else (float(values.min()), float(values.max()))


def _by_channel(numbers: Sequence[float] | npt.NDArray[Any], image: ImageArray) -> FloatArray:
    """[C, 1, ...] for an image [S, C, *X]."""
    return np.asarray(numbers, np.float32).reshape(-1, *[1] * (image.ndim - 2))


class Normalizer:
    """`normalized` for files; it remembers each file's statistics, by which a part is scaled without the rest."""

    def __init__(self, scaling: Scaling) -> None:
        self.scaling = scaling
        self.scales: dict[Path, Scale | None] = {}

    def __call__(self, path: Path, read: Callable[[Part], ImageArray], part: Part = ()) -> ImageArray:
        """Read and scale a part of a file.

        Args:
            read: part -> its pixels as the file holds them.
        """
        if part and path not in self.scales:
            self(path, read)
        image = read(part)
        if not part:
            self.scales[path] = scale_of(image, *self.scaling)
        return scaled(image, self.scales[path], *self.scaling)
