"""Post-processing of connected regions: keep the largest of each class, remove or merge small ones."""

import heapq
from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from skimage import measure

from ssl4seg.data.case import LabelArray, Spacing
from ssl4seg.errors import UserError
from ssl4seg.keys import IGNORE, Key, above, is_list, one_of, optional, true_or_false, whole
from ssl4seg.scoring.postprocess.base import Given, Step

Regions = npt.NDArray[np.int64]


CLASSES = optional(
    Key(
        lambda value: is_list(value) and all(isinstance(k, str) or whole(1, IGNORE - 1).fits(k) for k in value),
        f"a list of classes from 1 to {IGNORE - 1} or of their names",
    )
)


class RegionStep(Step):
    """A step on connected regions, each of one class.

    Args:
        three_d: whether regions extend over slices; else each slice is processed by itself.
        corners: whether pixels that touch only at a corner (in a volume also at an edge) are connected.
    """

    def __init__(self, *, three_d: bool = True, corners: bool = True) -> None:
        self.require(true_or_false, three_d=three_d, corners=corners)
        self.three_d, self.corners = three_d, corners

    def __call__(self, label: LabelArray, given: Given) -> LabelArray:
        if label.ndim > 3:  # one image of three axes
            return self.processed(label[0], given)[None]
        parts = [label] if self.three_d else list(label[:, None])
        return np.concatenate([self.processed(part, given) for part in parts])

    @abstractmethod
    def processed(self, label: LabelArray, given: Given) -> LabelArray:
        """Process a volume [S, H, W], or a slice [1, H, W]."""

    def regions(self, label: LabelArray) -> tuple[Regions, Regions, list[int]]:
        """The number 0..R-1 of each pixel's region, the size of each region in pixels, and its class."""
        real = np.atleast_1d(label.astype(np.int16).squeeze())  # a last axis of one pixel would change the numbers
        numbers = measure.label(real, background=-1, connectivity=real.ndim if self.corners else 1)
        numbers = numbers.reshape(label.shape).astype(np.int64) - 1
        sizes = np.bincount(numbers.ravel())
        classes = np.zeros(len(sizes), np.int64)
        classes[numbers.ravel()] = label.ravel()
        return numbers, sizes, classes.tolist()


class LargestComponent(RegionStep):
    """Keep the largest region of each class and turn its other regions into class 0: for organs that exist once.

    Args:
        classes: numbers or names of the classes that are processed; None processes all but 0.
    """

    name = "largest_component"
    needs_background = True

    def __init__(
        self, *, three_d: bool = True, corners: bool = True, classes: Sequence[int | str] | None = None
    ) -> None:
        super().__init__(three_d=three_d, corners=corners)
        self.require(CLASSES, classes=classes)
        self.named = classes
        self.classes = None if classes is None else {k for k in classes if isinstance(k, int)}

    def resolve(self, classes: Sequence[str]) -> None:
        known = {name: k for k, name in enumerate(classes) if k > 0}
        if self.named is None:
            return
        if not all(k in known or k in known.values() for k in self.named):
            numbered = ", ".join(f"{k} {name}" for name, k in known.items())
            raise UserError(
                f"postprocess.{self.name}.classes={[*self.named]}: expected classes of the dataset by number or name: "
                f"{numbered}"
            )
        self.classes = {known[k] if isinstance(k, str) else k for k in self.named}

    def processed(self, label: LabelArray, given: Given) -> LabelArray:
        numbers, sizes, classes = self.regions(label)
        largest: dict[int, int] = {}
        for number, (size, k) in enumerate(zip(sizes.tolist(), classes, strict=True)):
            if k not in largest or size > sizes[largest[k]]:
                largest[k] = number
        searched = set(largest) if self.classes is None else self.classes
        stays = [k == 0 or k not in searched or largest[k] == number for number, k in enumerate(classes)]
        return np.where(np.array(stays)[numbers], label, 0).astype(np.uint8)


class SmallRegions(RegionStep):
    """Merge regions smaller than `min_size` into their surroundings, or turn them into class 0.

    The smallest region is merged first. Each takes the class with which it shares most faces (on a tie the class with
    the lower number), so that the region beside it grows and may then be large enough to stay. Holes, which are small
    regions of class 0, are filled in the same way.

    Args:
        min_size: the smallest size of a region that stays.
        unit: the unit of min_size: "pixel" (in a volume voxels) or "mm", square millimetres (in a volume cubic ones).
        into: "surrounding", or "background": small regions become class 0, and holes stay.
    """

    name = "small_regions"

    def __init__(
        self,
        *,
        min_size: float = 50,
        unit: str = "pixel",
        into: str = "surrounding",
        three_d: bool = True,
        corners: bool = True,
    ) -> None:
        super().__init__(three_d=three_d, corners=corners)
        self.require(above(0), min_size=min_size)
        self.require(one_of("pixel", "mm"), unit=unit)
        self.require(one_of("surrounding", "background"), into=into)
        self.min_size, self.unit, self.into = min_size, unit, into
        self.needs_background = into == "background"

    def processed(self, label: LabelArray, given: Given) -> LabelArray:
        numbers, sizes, classes = self.regions(label)
        least = self.min_size / self.pixel(given.spacing)
        if self.into == "background":
            classes = [0 if size < least else k for size, k in zip(sizes, classes, strict=True)]
        else:
            classes = merged(sizes.tolist(), classes, contacts(numbers), least)
        return np.array(classes, np.uint8)[numbers]

    def pixel(self, spacing: Spacing | None) -> float:
        """The size of a pixel in the unit."""
        if self.unit == "pixel":
            return 1.0
        if spacing is None:
            raise UserError(f"postprocess.{self.name}.unit=mm: a case has no voxel spacing; use unit=pixel")
        return float(np.prod(spacing if self.three_d else spacing[1:]))


def contacts(numbers: Regions) -> list[Counter[int]]:
    """For each region the regions beside it, with the number of faces that they share."""
    count = int(numbers.max()) + 1
    beside: list[Counter[int]] = [Counter() for _ in range(count)]
    for axis in range(numbers.ndim):
        along = np.moveaxis(numbers, axis, 0)
        a, b = along[:-1].ravel(), along[1:].ravel()
        pairs, faces = np.unique((a * count + b)[a != b], return_counts=True)
        for pair, shared in zip(pairs.tolist(), faces.tolist(), strict=True):
            one, other = divmod(pair, count)
            beside[one][other] += shared
            beside[other][one] += shared
    return beside


def merged(sizes: list[int], classes: list[int], beside: list[Counter[int]], least: float) -> list[int]:
    """The class of every region after those below `least` pixels are merged, smallest first.

    Args:
        sizes, classes, beside: size, class and neighbours of each region; sizes and beside are changed in place.
    """
    part_of = list(range(len(sizes)))
    small = [(size, region) for region, size in enumerate(sizes) if size < least]
    heapq.heapify(small)
    while small:
        size, region = heapq.heappop(small)
        if part_of[region] != region or sizes[region] != size or not beside[region]:
            continue  # merged already, or grown since, or without neighbours
        faces: Counter[int] = Counter()
        for other, shared in beside[region].items():
            faces[classes[other]] += shared
        chosen = min(faces, key=lambda k: (-faces[k], k))
        first, *more = (other for other in beside[region] if classes[other] == chosen)
        for other in (region, *more):  # it may connect several regions of this class
            _join(other, first, sizes, beside)
            part_of[other] = first
        if sizes[first] < least:
            heapq.heappush(small, (sizes[first], first))
    return [classes[_root(region, part_of)] for region in range(len(sizes))]


def _join(region: int, other: int, sizes: list[int], beside: list[Counter[int]]) -> None:
    sizes[other] += sizes[region]
    for third, shared in beside[region].items():
        del beside[third][region]
        if third != other:
            beside[third][other] += shared
            beside[other][third] += shared


def _root(region: int, part_of: list[int]) -> int:
    while part_of[region] != region:
        region = part_of[region]
    return region
