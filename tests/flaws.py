"""For golden tests of GCT: the map of a prediction's flaws, by NumPy and SciPy."""

import numpy as np
from scipy.ndimage import correlate1d, maximum_filter

from ssl4seg.keys import IGNORE


def gaussian(image: np.ndarray, size: int) -> np.ndarray:
    """[H, W] by a kernel of the next odd size; scipy's "mirror" does not repeat the border."""
    size += size % 2 == 0
    sigma = 0.3 * ((size - 1) / 2 - 1) + 0.8
    kernel = np.exp(-((np.arange(size) - size // 2) ** 2) / (2 * sigma**2))
    kernel /= kernel.sum()
    return correlate1d(correlate1d(image, kernel, axis=0, mode="mirror"), kernel, axis=1, mode="mirror")


def target(p: np.ndarray, label: np.ndarray, dilations: int) -> np.ndarray:
    """C of one image, p [K, H, W]."""
    flaws = np.zeros(label.shape)
    for i, j in np.argwhere(label != IGNORE):
        flaws[i, j] = sum(abs((label[i, j] == k) - p[k, i, j]) for k in range(len(p))) / 2
    side = min(label.shape)
    flaws = gaussian(flaws, side // 8)
    for _ in range(dilations):
        flaws = gaussian(maximum_filter(flaws, size=3, mode="nearest"), side // 4)
    return (flaws - flaws.min()) / (flaws.max() - flaws.min() + 1e-9)
