"""The dataset contract: which cases each split has, and how their pixels are read."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal, NotRequired, TypedDict, get_args

from ssl4seg.data.case import Case
from ssl4seg.data.files import NORMALIZATIONS
from ssl4seg.errors import UserError

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


class Common(TypedDict):
    """The keys that every dataset has (see `Dataset`); a subclass takes them as `**common: Unpack[Common]`."""

    classes: Sequence[str]
    num_classes: int
    channels: int
    image_size: int
    normalize: NotRequired[str]
    ignore_index: NotRequired[int | None]


class Dataset(ABC):
    """Cases of three splits. A dataset is one subclass and one YAML in conf/dataset.

    Args:
        classes: class names, background first; their number is K.
        num_classes: K, to say it once more where a user changes `classes`.
        channels: C of the images.
        image_size: side in pixels of the square training input.
        normalize: how intensities are scaled, see `files.normalized`; prediction does the same to new images.
        ignore_index: label value in the files that no loss and no metric counts; None if there is none.
    """

    name: ClassVar[str]

    def __init__(
        self,
        *,
        classes: Sequence[str],
        num_classes: int,
        channels: int,
        image_size: int,
        normalize: str = "minmax",
        ignore_index: int | None = None,
    ) -> None:
        if num_classes != len(classes):
            raise UserError(
                f"dataset.num_classes is {num_classes}, but dataset.classes names {len(classes)}: {list(classes)}"
            )
        if not 2 <= num_classes <= 255:
            raise UserError(f"dataset.num_classes={num_classes}: expected 2 to 255, background included")
        if image_size < 16:
            raise UserError(f"dataset.image_size={image_size}: expected at least 16 pixels")
        if channels < 1:
            raise UserError(f"dataset.channels={channels}: expected at least 1")
        if normalize not in NORMALIZATIONS:
            raise UserError(f"dataset.normalize={normalize}: expected {' or '.join(NORMALIZATIONS)}")
        self.classes = tuple(classes)
        self.num_classes = num_classes
        self.channels = channels
        self.image_size = image_size
        self.normalize = normalize
        self.ignore_index = ignore_index

    @abstractmethod
    def cases(self, split: Split) -> list[Case]:
        """The cases of a split in the dataset's published order."""
