"""Post-processing by a fully connected CRF (Kraehenbuehl & Koltun, NeurIPS 2011)."""

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.special import softmax

from ssl4seg.data.case import FloatArray, LabelArray, full_scale
from ssl4seg.errors import UserError
from ssl4seg.keys import above, at_least, whole
from ssl4seg.scoring.postprocess.base import Given, Step
from ssl4seg.scoring.postprocess.lattice import Lattice


class DenseCRF(Step):
    """E(x) = sum_i -ln p_i(x_i) + sum_{i < j} [x_i != x_j] k_ij,
    k_ij = a exp(-|s_i - s_j|^2 / 2 alpha^2 - |c_i - c_j|^2 / 2 beta^2) + g exp(-|s_i - s_j|^2 / 2 gamma^2)

    Mean field (their algorithm 1): q = p, then repeatedly q_i(l) ~ p_i(l) exp(sum_j k_ij q_j(l)); the label is
    argmax_l q_i(l). For the compatibility [x_i != x_j] this is their update up to a factor common to all classes.

    p [S, K, *X]: the network's probabilities; s: the place in pixels; c: the values of the C channels, in
    1/255 of the range [0, 1]. Slices are processed one by one. The first kernel is filtered on the permutohedral
    lattice, as in the paper, the second by SciPy.

    As in the authors' code, and unlike the paper:

    - each kernel k is divided by sqrt(n_i n_j), n_i = sum_j k_ij, so that the weights do not depend on the number of
      close pixels;
    - the sums include j = i.

    The defaults are those of the example in the authors' code.

    Args:
        iterations: of the mean field.
        appearance_weight, appearance_pixels, appearance_values: a, alpha, beta.
        smoothness_weight, smoothness_pixels: g, gamma.
    """

    name = "crf"
    reads_probabilities = True

    def __init__(
        self,
        *,
        iterations: int = 10,
        appearance_weight: float = 10.0,
        appearance_pixels: float = 60.0,
        appearance_values: float = 20.0,
        smoothness_weight: float = 3.0,
        smoothness_pixels: float = 3.0,
    ) -> None:
        self.require(whole(1, 1000), iterations=iterations)
        self.require(at_least(0), appearance_weight=appearance_weight, smoothness_weight=smoothness_weight)
        self.require(above(0), appearance_pixels=appearance_pixels, appearance_values=appearance_values)
        self.require(above(0), smoothness_pixels=smoothness_pixels)
        self.iterations = iterations
        self.a, self.alpha, self.beta = appearance_weight, appearance_pixels, appearance_values
        self.g, self.gamma = smoothness_weight, smoothness_pixels

    def __call__(self, label: LabelArray, given: Given) -> LabelArray:
        if given.probability is None:
            raise ValueError("the predictor passed no probabilities")
        image = given.image.astype(np.float32) * (255 // full_scale(given.image))
        pairs = zip(given.probability, image, strict=True)
        return np.stack([self.mean_field(p, c).argmax(axis=0).astype(np.uint8) for p, c in pairs])

    def mean_field(self, p: FloatArray, c: FloatArray) -> FloatArray:
        """q [K, *X] of p [K, *X] and the image c [C, *X] in 0..255."""
        shape = p.shape
        lattice = self.lattice(c)
        near: FloatArray = lattice(np.ones((c[0].size, 1), np.float32)) ** np.float32(-0.5)
        close: FloatArray = self.smoothed(np.ones_like(p[:1])) ** np.float32(-0.5)
        unary = np.log(p.clip(min=1e-5))
        q = p
        for _ in range(self.iterations):
            by_appearance = near * lattice(near * q.reshape(len(q), -1).T)
            by_place = close * self.smoothed(close * q)
            q = softmax(unary + self.a * by_appearance.T.reshape(shape) + self.g * by_place, axis=0)
        return q

    def lattice(self, c: FloatArray) -> Lattice:
        """The lattice over the places and values of an image's pixels."""
        places = np.indices(c.shape[1:], np.float32).reshape(c.ndim - 1, -1) / self.alpha
        values = c.reshape(len(c), -1) / self.beta
        try:
            return Lattice(np.concatenate([places, values]).T)
        except ValueError:
            raise UserError(
                f"postprocess=crf: cannot filter images of {len(c)} channels with "
                f"postprocess.{self.name}.appearance_values={self.beta}; give a larger value"
            ) from None

    def smoothed(self, maps: FloatArray) -> FloatArray:
        """Filter each of the maps [K, *X] by the second kernel; outside they count as 0."""
        result: FloatArray = gaussian_filter(maps, self.gamma, mode="constant", axes=tuple(range(1, maps.ndim)))
        return result
