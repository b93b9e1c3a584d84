"""Gaussian filtering in few dimensions, on the permutohedral lattice (Adams, Baek & Davis, Eurographics 2010)."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from ssl4seg.data.case import FloatArray

Integers = npt.NDArray[np.int64]


class Lattice:
    """Multiplies by K with K_ij ~ exp(-|f_i - f_j|^2 / 2), up to a factor, in time linear in the number of points.

    Points lie in the d-dimensional plane x_0 + ... + x_d = 0, scaled so that the blur's variance is 1 there. Each point
    adds its value to the d + 1 corners of its simplex by its barycentric weights (splat); the corners are blurred along
    d + 1 axes by (1, 2, 1) / 4; each point reads the corners with the same weights (slice).

    Args:
        features: f [N, d].
    """

    def __init__(self, features: FloatArray) -> None:
        num_points, d = features.shape
        corners, weights = _simplices(features.astype(np.float64) @ _embedding(d).T)
        low = corners.min(axis=(0, 1)) - d - 1  # so that neighbours on either side have numbers too
        spans = [int(span) for span in corners.max(axis=(0, 1)) + d + 2 - low]
        if math.prod(spans) >= 2**62:
            raise ValueError(f"{d} features over this range have too many lattice points")
        strides = np.array([math.prod(spans[i + 1 :]) for i in range(d)], np.int64)
        codes, places = np.unique((corners - low) @ strides, return_inverse=True)
        starts = np.arange(num_points + 1) * (d + 1)
        entries = (weights.ravel().astype(np.float32), places.ravel(), starts)
        self.slice: Any = sparse.csr_array(entries, shape=(num_points, len(codes)))
        self.splat: Any = self.slice.T.tocsr()
        steps = [*(strides.sum() - (d + 1) * strides), strides.sum()]  # (1, ..., 1) less d + 1 in one coordinate
        self.neighbours = [(_places(codes, codes + step), _places(codes, codes - step)) for step in steps]

    def __call__(self, values: FloatArray) -> FloatArray:
        """K [N, N] times values [N, C]."""
        at = np.zeros((self.splat.shape[0] + 1, values.shape[1]), np.float32)  # last: 0, for missing neighbours
        at[:-1] = self.splat @ values
        for one, other in self.neighbours:
            at[:-1] = 0.5 * at[:-1] + 0.25 * (at[one] + at[other])
        return np.asarray(self.slice @ at[:-1])


def _embedding(d: int) -> npt.NDArray[np.float64]:
    """[d + 1, d]: orthogonal columns of zero sum, of such length that splat, blur and slice have variance 1."""
    matrix = np.zeros((d + 1, d))
    for j in range(d):
        matrix[: j + 1, j] = 1
        matrix[j + 1, j] = -(j + 1)
        matrix[:, j] *= (d + 1) * math.sqrt(2 / 3) / math.sqrt((j + 1) * (j + 2))
    return matrix


def _simplices(points: npt.NDArray[np.float64]) -> tuple[Integers, npt.NDArray[np.float64]]:
    """The corners around points [N, d + 1], by their first d coordinates [N, d + 1, d], and their weights."""
    d = points.shape[1] - 1
    # The nearest corner of remainder 0; below, the coordinates rounded most make up for the sum that rounding leaves.
    base = np.rint(points / (d + 1)).astype(np.int64)
    order = np.argsort(base * (d + 1) - points, axis=1, kind="stable")  # falling by points - base
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.broadcast_to(np.arange(d + 1), order.shape), axis=1)
    rank += base.sum(axis=1, keepdims=True)
    base += (rank < 0).astype(np.int64) - (rank > d)
    rank %= d + 1
    # The barycentric weights are differences of neighbours in falling order.
    rest = (points - (d + 1) * base) / (d + 1)
    falling = np.empty_like(rest)
    np.put_along_axis(falling, rank, rest, axis=1)
    weights = np.empty_like(rest)
    weights[:, 1:] = (falling[:, :-1] - falling[:, 1:])[:, ::-1]
    weights[:, 0] = 1 - weights[:, 1:].sum(axis=1)
    # Corner r has remainder r: add r to all coordinates, and subtract d + 1 from those of the last r ranks.
    r = np.arange(d + 1)[:, None]
    corners = ((d + 1) * base[:, None, :d]) + r - (d + 1) * (rank[:, None, :d] > d - r)
    return corners, weights


def _places(codes: Integers, wanted: Integers) -> npt.NDArray[np.intp]:
    """The index of each of `wanted` in the rising `codes`; len(codes) if it is not there."""
    at = np.searchsorted(codes, wanted)
    is_there = codes[np.minimum(at, len(codes) - 1)] == wanted
    return np.where(is_there, at, len(codes))
