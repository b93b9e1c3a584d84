"""Which cases to label next: uncertainty of predictions, distance of features, and the order that both give."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from ssl4seg.data.case import FloatArray

UNCERTAIN = 2
"""`combined` chooses among this many times as many uncertain cases as it chooses (Yang et al. 2017: 16 for 8)."""


class Uncertainty(NamedTuple):
    """Of the predictions of S images, in [0, 1]."""

    entropy: FloatArray
    """[S]"""
    disagreement: FloatArray
    """[S]"""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A case that could be labelled: all images of a patient, or one image."""

    name: str
    num_images: int
    entropy: float
    """Mean over its images."""
    disagreement: float
    """Mean over its images."""
    feature: npt.NDArray[np.float64] | None = None
    """[F] Mean over its images; None where no distance is asked for."""


class Place(NamedTuple):
    """A candidate's place in the ranking."""

    candidate: Candidate
    chosen: bool
    """Whether it is one of the first `count`."""
    distance: float | None
    """To the nearest labelled or earlier chosen case, when its place was decided; None where no distance counts."""


def entropy(probability: FloatArray) -> FloatArray:
    """H = -sum_k p_k ln p_k / ln K of probabilities [S, K, *X], in [0, 1]: [S, *X]."""
    h: FloatArray = torch.special.entr(torch.from_numpy(probability)).sum(dim=1).numpy()
    return h / np.float32(np.log(probability.shape[1]))


def uncertainty(passes: Iterable[FloatArray]) -> Uncertainty:
    """Compare several predictions of the same images.

    With the mean p of the passes p_t, the disagreement is the mutual information H(p) - mean_t H(p_t) (Houlsby et al.
    2011, "BALD"; by passes with dropout: Gal et al., ICML 2017). It leaves out what each pass is unsure of by itself,
    as noise at an edge.

    Args:
        passes: probabilities [S, K, *X] each, at least one; they are read one after the other.

    Returns:
        The means over the pixels of each image.
    """
    each = iter(passes)
    total = next(each).copy()
    inner, number = entropy(total), 1
    for p in each:
        total += p
        inner += entropy(p)
        number += 1
    outer = entropy(total / np.float32(number))
    axes = tuple(range(1, outer.ndim))
    return Uncertainty(outer.mean(axis=axes), np.maximum(outer - inner / np.float32(number), 0).mean(axis=axes))


def k_centre(
    features: npt.NDArray[np.float64], reference: npt.NDArray[np.float64], count: int
) -> tuple[list[int], list[float], npt.NDArray[np.float64]]:
    """Choose greedily the row that is farthest from all reference and chosen rows (Sener & Savarese, ICLR 2018).

    The distance is 1 - cosine of the angle between two features (as Yang et al., MICCAI 2017, compare them), in [0, 2].

    Args:
        features: [n, F]
        reference: [m, F], m > 0.
        count: of rows to choose, at most n. On a tie the first row is chosen.

    Returns:
        The chosen rows in their order, the distance of each when it was chosen, and all rows' distances [n] at the end.
    """
    unit, labeled = _unit(features), _unit(reference)
    distance = np.clip(1 - (unit @ labeled.T).max(axis=1), 0, 2)
    chosen: list[int] = []
    distances: list[float] = []
    left = distance.copy()
    for _ in range(min(count, len(unit))):
        best = int(left.argmax())
        chosen.append(best)
        distances.append(float(left[best]))
        distance = np.minimum(distance, np.clip(1 - unit @ unit[best], 0, 2))
        left = np.minimum(left, distance)
        left[chosen] = -1
    return chosen, distances, distance


def _unit(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The rows at length 1."""
    unit: npt.NDArray[np.float64] = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return unit


def ranked(
    candidates: Sequence[Candidate], by: str, count: int, reference: npt.NDArray[np.float64] | None = None
) -> list[Place]:
    """All candidates in the order in which they should be labelled.

    Args:
        by: one of keys.RANKINGS. "entropy" and "disagreement" order by that number. "diversity" takes `k_centre` of
            all candidates; "combined" of the UNCERTAIN x `count` candidates with most disagreement (the two steps of
            Yang et al., "Suggestive annotation", MICCAI 2017, with k-centre in place of their representativeness).
            The candidates that are not chosen follow by distance, or by disagreement.
        count: of the candidates that are chosen.
        reference: features of the labelled cases [m, F], for "diversity" and "combined".
    """
    if by in ("entropy", "disagreement"):
        order = sorted(candidates, key=lambda candidate: -getattr(candidate, by))
        return [Place(candidate, number < count, None) for number, candidate in enumerate(order)]
    assert reference is not None
    pool = sorted(candidates, key=lambda candidate: -candidate.disagreement) if by == "combined" else [*candidates]
    first = pool[: UNCERTAIN * count] if by == "combined" else pool
    features = np.stack([candidate.feature for candidate in first if candidate.feature is not None])
    chosen, distances, last = k_centre(features, reference, count)
    places = [Place(first[row], True, distance) for row, distance in zip(chosen, distances, strict=True)]
    others = [Place(c, False, float(last[row])) for row, c in enumerate(first) if row not in chosen]
    if by == "diversity":
        return places + sorted(others, key=lambda place: -(place.distance or 0))
    return places + others + [Place(candidate, False, None) for candidate in pool[len(first) :]]
