"""The contract of a dataset: which cases each split has, and how their pixels are read."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, NotRequired, TypedDict, get_args

import numpy as np
import numpy.typing as npt

from ssl4seg.data.case import Case, ImageArray, checked, full_scale
from ssl4seg.data.intensities import Scaling
from ssl4seg.data.keys import COMMON
from ssl4seg.data.volumes import volume_of
from ssl4seg.errors import UserError
from ssl4seg.keys import check_keys

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


class Statistics(NamedTuple):
    """Mean and standard deviation of the training images, a number for each channel."""

    mean: list[float]
    std: list[float]


PART = 2**20
"""Pixels that are counted at once."""


def moments(image: ImageArray) -> npt.NDArray[np.float64]:
    """[3, C]: number of pixels, sum and sum of squares of each channel of an image [S, C, *X]."""
    scale = full_scale(image)
    values = image.swapaxes(0, 1).reshape(image.shape[1], -1)
    if values.dtype == np.uint8:  # without the arrays of float64; the sums are whole numbers, the same to the last bit
        counts = np.stack([byte_counts(channel) for channel in values])
        first, second = (counts @ np.arange(256) ** power / scale**power for power in (1, 2))
    else:
        first = values.sum(axis=1, dtype=np.float64)
        second = np.square(values, dtype=np.float64).sum(axis=1)
    return np.stack([np.full(len(values), float(values.shape[1])), first, second])


def byte_counts(values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """[256] How often each number of uint8 occurs; by parts, because NumPy counts bytes in a copy 8 times as large."""
    flat = values.reshape(-1)
    counts = np.zeros(256, np.int64)
    for start in range(0, len(flat), PART):
        counts += np.bincount(flat[start : start + PART], minlength=256)
    return counts


def statistics_of(sums: npt.NDArray[np.float64]) -> Statistics:
    """Mean and std from the sum of all images' moments [3, C]; the std of a constant channel is taken as 1."""
    count, first, second = sums
    mean = first / count
    std = np.sqrt(np.maximum(second / count - mean**2, 0))
    return Statistics(mean.tolist(), np.where(std > 0, std, 1).tolist())


def shape_of(image_size: int | Sequence[int]) -> tuple[int, ...]:
    """The training input's pixels along each axis; one number is the side of a square."""
    return (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)


class Common(TypedDict):
    """The keys of every dataset (see `Dataset`); a subclass takes them as `**common: Unpack[Common]`."""

    classes: Sequence[str]
    num_classes: int
    channels: int
    image_size: int | Sequence[int]
    window: NotRequired[Sequence[float] | None]
    normalize: NotRequired[str]
    ignore_index: NotRequired[int | None]
    mean: NotRequired[Sequence[float] | str | None]
    std: NotRequired[Sequence[float] | str | None]
    scoring: NotRequired[str]
    background: NotRequired[bool]
    palette: NotRequired[Sequence[str | Sequence[int]] | None]


class Dataset(ABC):
    """The cases of three splits. A dataset is one subclass and one YAML in conf/dataset.

    Args:
        classes: class names, background first if there is one, all different and none of keys.MEANS; their number is K.
        num_classes: K; it must agree with `classes`, which guards against a forgotten change.
        channels: C of the images.
        image_size: side of the square training input in pixels; of volumes a list with the length of each axis. The
            axes of scans and of stacks of slices are x, y, z (slices last), those of h5 and npz as they are stored.
        window: [low, high], to which intensities are cut off before they are scaled; None leaves them as they are.
        normalize: how intensities are scaled, see `intensities.normalized`; new images are cut off and scaled in the
            same way for prediction.
        ignore_index: label value in the files that no loss and no metric counts; None if there is none.
        mean, std: of each channel; the network standardises its input by them. "auto" computes them from the training
            images, None leaves the input as it is.
        scoring: "cases" (Dice, IoU, HD95 and ASD of each case, without the background) or "pixels" (IoU and accuracy
            from one confusion matrix over all images). The best model has the highest Dice or IoU on val (`select`).
        background: whether class 0 is a background: it gets no Dice and no distances in the scores of cases, the mean
            IoU that chooses the model leaves it out, and post-processing may turn other classes into it.
        palette: "#rrggbb" or [red, green, blue] of each class in pictures; None takes `pictures.COLORS`.
    """

    name: ClassVar[str]
    words: ClassVar[tuple[str, str]] = ("patients", "slices")
    """What messages call groups and images."""
    value_bytes: int = 4
    """Memory of one channel of one pixel: 4 for float32, 1 for uint8."""
    tested_on: Split = "test"
    """"val" if the test split has no masks: the model is then tested on the cases that chose it."""
    published_test: bool = False
    """Whether the cases of test are given, so that `dataset.fold` must not deal them anew."""
    notes: Sequence[str] = ()
    """Sentences for the log, on how files are read."""
    doubts: Sequence[str] = ()
    """Warnings for the log, of probable mistakes in the data."""
    place: ClassVar[str] = "the folder of the dataset"
    """What `dataset.root` must be, with an example, for the message that asks for it."""
    remedy: ClassVar[str] = "mend the lists of the dataset"
    """What the user should do if a group is in two splits."""

    def __init__(
        self,
        *,
        classes: Sequence[str],
        num_classes: int,
        channels: int,
        image_size: int | Sequence[int],
        window: Sequence[float] | None = None,
        normalize: str = "minmax",
        ignore_index: int | None = None,
        mean: Sequence[float] | str | None = None,
        std: Sequence[float] | str | None = None,
        scoring: str = "cases",
        background: bool = True,
        palette: Sequence[str | Sequence[int]] | None = None,
    ) -> None:
        keys = {"classes": classes, "num_classes": num_classes, "channels": channels, "image_size": image_size}
        keys |= {"normalize": normalize, "ignore_index": ignore_index, "mean": mean, "std": std, "scoring": scoring}
        keys |= {"background": background, "palette": palette, "window": window}
        check_keys(keys, COMMON, "dataset.")
        if num_classes != len(classes):
            raise UserError(
                f"dataset.num_classes is {num_classes}, but dataset.classes names {len(classes)}: {list(classes)}"
            )
        if (mean is None, mean == "auto") != (std is None, std == "auto"):
            raise UserError(f"dataset.mean={mean}, dataset.std={std}: expected numbers, auto or null for both")
        if palette is not None and len(palette) < num_classes:
            raise UserError(
                f"dataset.palette={list(palette)}: {len(palette)} colours for {num_classes} classes; give one for each"
            )
        for key, values in (("mean", mean), ("std", std)):
            if values not in (None, "auto") and len(values or ()) != channels:
                raise UserError(f"dataset.{key}={values}: expected {channels} numbers (one a channel), auto or null")
        self.mean, self.std, self.scoring, self.background = mean, std, scoring, background
        self.palette = palette
        self.classes = tuple(classes)
        self.num_classes = num_classes
        self.channels = channels
        self.image_size = shape_of(image_size)
        if self.axes == 3:
            self.words = (self.words[0], "volumes")  # type: ignore[misc]  # of the object, not of the class
        self.scaling = Scaling(normalize, window)
        self.ignore_index = ignore_index

    @property
    def axes(self) -> int:
        """Axes of an image: 2 if it is a picture or slice, 3 if it is a volume."""
        return len(self.image_size)

    @classmethod
    def folder(cls, root: str | None) -> Path:
        """The path `dataset.root`.

        Raises:
            UserError: if it is null.
        """
        if root is None:
            raise UserError(f"dataset.root is not set: give {cls.place}")
        return Path(root).expanduser()

    @classmethod
    def completed(cls, keys: Mapping[str, Any]) -> dict[str, Any]:
        """Fill in the keys that are null in the configuration and can be read off the data.

        The run's config.yaml holds the result, so that the run can predict without its data.

        Args:
            keys: the configuration's group `dataset`.
        """
        return dict(keys)

    @classmethod
    def mask_colors(cls, keys: Mapping[str, Any]) -> Sequence[int | str | Sequence[int]] | None:
        """The number or colour (`masks.Color`) of each class in the mask files; None if these hold the classes 0..K-1.

        Args:
            keys: the configuration's group `dataset`.
        """
        return None

    @abstractmethod
    def cases(self, split: Split) -> list[Case]:
        """The cases of a split, in the dataset's published order."""

    def shaped(self, case: Case, *, stored: bool = False) -> Case:
        """A case of slices as `image_size` asks for it: as it is, or as one image with three axes, see `volume_of`."""
        return case if self.axes == 2 else volume_of(case, stored=stored)

    def statistics(self) -> Statistics | None:
        """`mean` and `std`, None if they are null; "auto" reads all training images, labelled or not."""
        if self.mean is None or self.std is None:
            return None
        if not isinstance(self.mean, str) and not isinstance(self.std, str):
            return Statistics(list(self.mean), list(self.std))
        sums = np.zeros((3, self.channels))
        for case in self.cases("train"):
            volume = checked(case.volume(label=False), case.name, self.num_classes, self.channels)
            sums += moments(volume.image)
        return statistics_of(sums)
