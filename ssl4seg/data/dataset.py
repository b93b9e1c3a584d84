"""The dataset contract: which cases each split has, and how their pixels are read."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, NotRequired, TypedDict, get_args

import numpy as np
import numpy.typing as npt

from ssl4seg.data.case import Case, ImageArray
from ssl4seg.data.keys import COMMON
from ssl4seg.errors import UserError
from ssl4seg.keys import check_keys

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


class Statistics(NamedTuple):
    """Of the training images' values, a number for each channel."""

    mean: list[float]
    std: list[float]


def moments(image: ImageArray) -> npt.NDArray[np.float64]:
    """[3, C]: number of pixels, sum and sum of squares of each channel of an image [S, C, H, W]."""
    scale = 255.0 if image.dtype == np.uint8 else 1.0
    values = image.swapaxes(0, 1).reshape(image.shape[1], -1)
    first = values.sum(axis=1, dtype=np.float64) / scale
    second = np.square(values, dtype=np.float64).sum(axis=1) / scale**2
    return np.stack([np.full(len(values), float(values.shape[1])), first, second])


def statistics_of(sums: npt.NDArray[np.float64]) -> Statistics:
    """From the moments [3, C] of all images together; a channel that does not vary has the deviation 1."""
    count, first, second = sums
    mean = first / count
    std = np.sqrt(np.maximum(second / count - mean**2, 0))
    return Statistics(mean.tolist(), np.where(std > 0, std, 1).tolist())


class Common(TypedDict):
    """The keys that every dataset has (see `Dataset`); a subclass takes them as `**common: Unpack[Common]`."""

    classes: Sequence[str]
    num_classes: int
    channels: int
    image_size: int
    normalize: NotRequired[str]
    ignore_index: NotRequired[int | None]
    mean: NotRequired[Sequence[float] | str | None]
    std: NotRequired[Sequence[float] | str | None]
    scoring: NotRequired[str]
    background: NotRequired[bool]
    palette: NotRequired[Sequence[str | Sequence[int]] | None]


class Dataset(ABC):
    """Cases of three splits. A dataset is one subclass and one YAML in conf/dataset.

    Args:
        classes: class names, background first if there is one, all different and none "mean"; their number is K.
        num_classes: K, to say it once more where a user changes `classes`.
        channels: C of the images.
        image_size: side in pixels of the square training input.
        normalize: how intensities are scaled, see `intensities.normalized`; prediction does the same to new images.
        ignore_index: label value in the files that no loss and no metric counts; None if there is none.
        mean, std: of each channel, by which the network standardises its input; "auto" takes them from the training
            images, None leaves the input as it is.
        scoring: "cases" (Dice, IoU, HD95 and ASD of each case, background left out) or "pixels" (IoU and accuracy from
            one confusion matrix over all images); what val chooses the best model by is Dice or mIoU.
        background: whether class 0 is what belongs to nothing: no Dice or distance of a case is taken of it, and
            post-processing may turn other classes into it.
        palette: "#rrggbb" or [red, green, blue] of the first classes in pictures; the others have `pictures.COLORS`.
    """

    name: ClassVar[str]
    words: ClassVar[tuple[str, str]] = ("patients", "slices")
    """What groups and images are called."""
    value_bytes: int = 4
    """Of a channel of a pixel in memory; 1 for pictures."""
    tested_on: Split = "test"
    """"val" where the test split has no masks: then the model is tested on what it was chosen on."""
    place: ClassVar[str] = "the folder of the dataset"
    """What `dataset.root` is, with an example, where there is one."""
    remedy: ClassVar[str] = "mend the lists of the dataset"
    """What to do where a group is in two splits."""

    def __init__(
        self,
        *,
        classes: Sequence[str],
        num_classes: int,
        channels: int,
        image_size: int,
        normalize: str = "minmax",
        ignore_index: int | None = None,
        mean: Sequence[float] | str | None = None,
        std: Sequence[float] | str | None = None,
        scoring: str = "cases",
        background: bool = True,
        palette: Sequence[str | Sequence[int]] | None = None,
    ) -> None:
        given = {"classes": classes, "num_classes": num_classes, "channels": channels, "image_size": image_size}
        given |= {"normalize": normalize, "ignore_index": ignore_index, "mean": mean, "std": std, "scoring": scoring}
        given |= {"background": background, "palette": palette}
        check_keys(given, COMMON, "dataset.")
        if num_classes != len(classes):
            raise UserError(
                f"dataset.num_classes is {num_classes}, but dataset.classes names {len(classes)}: {list(classes)}"
            )
        if (mean is None, mean == "auto") != (std is None, std == "auto"):
            raise UserError(f"dataset.mean={mean}, dataset.std={std}: expected numbers, auto or null for both")
        for key, values in (("mean", mean), ("std", std)):
            if values not in (None, "auto") and len(values or ()) != channels:
                raise UserError(f"dataset.{key}={values}: expected {channels} numbers (one a channel), auto or null")
        self.mean, self.std, self.scoring, self.background = mean, std, scoring, background
        self.palette = palette
        self.classes = tuple(classes)
        self.num_classes = num_classes
        self.channels = channels
        self.image_size = image_size
        self.normalize = normalize
        self.ignore_index = ignore_index

    @classmethod
    def folder(cls, root: str | None) -> Path:
        """`dataset.root`, which must be set."""
        if root is None:
            raise UserError(f"dataset.root is not set: give {cls.place}")
        return Path(root).expanduser()

    @classmethod
    def completed(cls, keys: Mapping[str, Any]) -> dict[str, Any]:
        """The dataset's part of a configuration, and in it what is left open there but can be read off the data.

        It stands in config.yaml, so that a run can predict without its data.
        """
        return dict(keys)

    @classmethod
    def mask_colors(cls, keys: Mapping[str, Any]) -> Sequence[int | str | Sequence[int]] | None:
        """What each class has in the mask files: a number or a colour (`masks.Color`); None: its own number.

        Args:
            keys: the dataset's part of a configuration.
        """
        return None

    @abstractmethod
    def cases(self, split: Split) -> list[Case]:
        """The cases of a split in the dataset's published order."""

    def statistics(self) -> Statistics | None:
        """`mean` and `std`; "auto" reads all training images, labelled or not."""
        if self.mean is None or self.std is None:
            return None
        if not isinstance(self.mean, str) and not isinstance(self.std, str):
            return Statistics(list(self.mean), list(self.std))
        sums = np.zeros((3, self.channels))
        for case in self.cases("train"):
            sums += moments(case.volume(label=False).image)
        return statistics_of(sums)
