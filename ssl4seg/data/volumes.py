"""Slices that follow one another, as one image with three axes, which may be read on a grid of its own."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ssl4seg.data.arrays import ARRAYS
from ssl4seg.data.case import Case, ImageArray, LabelArray, Part, Spacing, Volume
from ssl4seg.data.formats import ending
from ssl4seg.data.grid import Place
from ssl4seg.data.images import Facts
from ssl4seg.data.intensities import Scaling, normalized


def as_stored(file: Path, h5_axes: str) -> bool:
    """Whether the axes of a file's volume keep the order in which arrays have them.

    Args:
        h5_axes: of h5 and npz: xyz as they are, or zyx, slices first. Scans and stacks are read with slices first.
    """
    return ending(file) in ARRAYS and h5_axes == "xyz"


def stood(slices: npt.NDArray[Any], *, stored: bool) -> npt.NDArray[Any]:
    """An image [S, C, H, W] as [1, C, W, H, S], or a label [S, H, W] as [1, W, H, S].

    Args:
        stored: keep the order of the axes, [1, (C,) S, H, W].
    """
    image = slices if slices.ndim == 4 else slices[:, None]
    body = image.swapaxes(0, 1)
    turned = np.ascontiguousarray(body if stored else body.transpose(0, 3, 2, 1))[None]
    return turned if slices.ndim == 4 else turned[:, 0]


def sliced(label: LabelArray, *, stored: bool) -> LabelArray:
    """The slices [S, H, W] of a label [1, W, H, S] (`stored`: [1, S, H, W]): the way back of `stood`."""
    slices: LabelArray = label[0] if stored else label[0].transpose(2, 1, 0)
    return slices


def faults_of_axes(facts_of: Mapping[Path, Facts], image_size: Sequence[int], h5_axes: str) -> list[str]:
    """The faults of images that are no volumes, where `image_size` has three axes: pictures and volumes of one slice.

    Where all images are such there is one fault, that of the key.
    """
    if len(image_size) < 3:
        return []
    asked, instead = f"dataset.image_size=[{','.join(map(str, image_size))}]", "as dataset.image_size=256"
    flat = {}
    for file, fact in facts_of.items():
        shape = (fact.num_images, *fact.size)
        if 1 in shape:
            flat[file] = " x ".join(map(str, shape if as_stored(file, h5_axes) else shape[::-1]))
    if len(flat) == len(facts_of):
        file, size = next(iter(flat.items()))
        return [
            f"{asked}: has three axes, but the images have two, as {file.name} ({size}); give one number, {instead}"
        ]
    return [
        f"{file}: is {size} and so no volume, but {asked} has three axes; remove the file, or give one number, "
        f"{instead}, for slices"
        for file, size in flat.items()
    ]


def spacing_of(spacing: Spacing | None, *, stored: bool) -> Spacing | None:
    """The spacing of slices, rows and columns in the order of a volume's axes."""
    return spacing if stored or spacing is None else (spacing[2], spacing[1], spacing[0])


def volume_of(case: Case, *, stored: bool = False) -> Case:
    """A case of slices as a case of one image with three axes: x, y, z, the slices along z.

    Args:
        stored: keep the order in which the file has its axes.
    """
    shape = (case.num_images, *case.size)
    return replace(
        case,
        num_images=1,
        size=shape if stored else shape[::-1],
        read=partial(_read, case.read, stored),
        read_image=case.read_image and partial(_read_image, case.read_image, stored),
        read_part=case.read_part and partial(_read_part, case.read_part, stored),
        read_label=case.read_label and partial(_read_label, case.read_label, stored),
        spacing=spacing_of(case.spacing, stored=stored),
    )


def _read(read: Callable[[], Volume], stored: bool) -> Volume:
    image, label = read()
    return Volume(stood(image, stored=stored), None if label is None else stood(label, stored=stored))


def _read_part(read: Callable[[Part, bool], Volume], stored: bool, part: Part, label: bool) -> Volume:
    """The part of [1, *X], whose axes the slices [S, H, W] have in the opposite order unless they are `stored` so."""
    index = (*part, *[slice(None)] * (4 - len(part)))
    return _read(partial(read, index[1:] if stored else index[:0:-1], label), stored)


def _read_image(read: Callable[[], ImageArray], stored: bool) -> ImageArray:
    return stood(read(), stored=stored)


def _read_label(read: Callable[[], LabelArray], stored: bool) -> LabelArray:
    return stood(read(), stored=stored)


# -- on a grid --------------------------------------------------------------------------------------------------------


def on_grid(case: Case, place: Place, scaling: Scaling) -> Case:
    """A case of one image with three axes, cut and resampled.

    A part of it is cut from the whole, since the statistics of its values and its grid are those of the whole.

    Args:
        case: on the files' own grid, its values not yet scaled.
    """
    return replace(
        case,
        size=place.size,
        read=partial(_read_on_grid, case.read, place, scaling),
        read_image=case.read_image and partial(_read_image_on_grid, case.read_image, place, scaling),
        read_part=None,
        spacing=place.spacing_read,
        place=place,
    )


def placed(image: ImageArray, place: Place, scaling: Scaling) -> ImageArray:
    """The pixels [1, C, *X] of a file as they are read: cut, scaled by what is left, resampled, as nnU-Net does it."""
    return place.resampled(normalized(place.cut(image), *scaling))


def _read_on_grid(read: Callable[[], Volume], place: Place, scaling: Scaling) -> Volume:
    image, label = read()
    return Volume(placed(image, place, scaling), None if label is None else place.read(label))


def _read_image_on_grid(read: Callable[[], ImageArray], place: Place, scaling: Scaling) -> ImageArray:
    return placed(read(), place, scaling)
