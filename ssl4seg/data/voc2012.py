"""PASCAL VOC 2012 segmentation (Everingham et al., IJCV 2015), 20 classes of objects and background.

ROOT/VOC2012 as the challenge's archive unpacks it: JPEGImages/ID.jpg, SegmentationClass/ID.png (palette pictures of
class values, 255 between objects and where nobody could tell), ImageSets/Segmentation/train.txt (1,464 IDs) and val.txt
(1,449). The augmented training set adds the masks of the Semantic Boundaries Dataset (Hariharan et al., ICCV 2011) as
SegmentationClassAug/ID.png: 10,582 training images. The masks of test are not public: val is what a model is tested on.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Unpack

from ssl4seg.data.case import Case
from ssl4seg.data.dataset import Common, Dataset, Split
from ssl4seg.data.pairs import REMEDY, WORDS, Pair, cases_of, read_list, without_mask
from ssl4seg.errors import UserError
from ssl4seg.processes import launched_world

IMAGES, MASKS, MORE_MASKS, LISTS = "JPEGImages", "SegmentationClass", "SegmentationClassAug", "ImageSets/Segmentation"
AUGMENTED = ("trainaug.txt", "train_aug.txt")
"""What the list of the augmented training set is called."""
ARCHIVE = "VOCtrainval_11-May-2012.tar"


class VOC2012(Dataset):
    """1,464 or, augmented, 10,582 training images and 1,449 of val, in the order of their lists.

    A mask is taken from SegmentationClass where it holds one, which has the finer contours, else from
    SegmentationClassAug.

    Args:
        root: VOC2012, or the folder that holds it or VOCdevkit.
        augmented: whether the training images are those of the augmented set; "auto": if SegmentationClassAug is there.
        lists: files that name the images of train and val instead of those in ImageSets/Segmentation.
        download: fetch the challenge's archive into `root` (2 GB, without SegmentationClassAug) if it is not there.
    """

    name = "voc2012"
    words = WORDS
    place = "the folder that holds VOC2012, dataset.root=DATA/VOCdevkit"
    remedy = REMEDY
    tested_on = "val"

    def __init__(
        self,
        *,
        root: str | None,
        augmented: bool | str = "auto",
        lists: Mapping[Split, str | None] | None = None,
        download: bool = False,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(**common)
        if self.channels != 3:
            raise UserError(f"dataset.channels={self.channels}: VOC2012 has 3")
        if augmented not in (True, False, "auto"):
            raise UserError(f"dataset.augmented={augmented}: expected auto, true or false")
        self.value_bytes = 4 if self.normalize == "minmax" else 1
        self.lists = lists or {}
        self.root = _found(self.folder(root), download=download)
        there = (self.root / MORE_MASKS).is_dir()
        if augmented is True and not there:
            raise UserError(f"dataset.augmented=true: {self.root} holds no {MORE_MASKS}; see docs/datasets.md")
        self.augmented = there if augmented == "auto" else bool(augmented)

    def cases(self, split: Split) -> list[Case]:
        if split == "test":
            raise UserError("VOC2012: the masks of test are not public; use val")
        images = _files(self.root / IMAGES, ".jpg")
        masks = _files(self.root / MORE_MASKS, ".png") | _files(self.root / MASKS, ".png")
        names = self._names(split, images)
        if missing := [name for name in names if name not in masks]:
            raise UserError(
                f"{self.root}: {without_mask(missing, len(names), split)} in {MASKS} or {MORE_MASKS}; add what is "
                f"missing, or let dataset.lists.{split}=FILE name images with masks"
            )
        classes = {value: value for value in range(self.num_classes)}
        values = classes | ({} if self.ignore_index is None else {self.ignore_index: 255})
        return cases_of([Pair(name, images[name], masks[name], values) for name in names], self.normalize)

    def _names(self, split: Split, images: Mapping[str, Path]) -> list[str]:
        """The images of a split in their published order."""
        if file := self.lists.get(split):
            return read_list(Path(file).expanduser(), f"dataset.lists.{split}", images)
        if split == "train" and self.augmented:
            return self._augmented(images)
        return self._listed(f"{split}.txt", images)

    def _listed(self, file: str, images: Mapping[str, Path]) -> list[str]:
        return read_list(self.root / LISTS / file, f"dataset.lists.{Path(file).stem}", images)

    def _augmented(self, images: Mapping[str, Path]) -> list[str]:
        """As a list says, else all that have a mask and are not in val, sorted: which is the published order."""
        for file in AUGMENTED:
            if (self.root / LISTS / file).is_file():
                return read_list(self.root / LISTS / file, "dataset.lists.train", images)
        known = {*_files(self.root / MORE_MASKS, ".png"), *self._listed("train.txt", images)}
        return sorted(known.difference(self._names("val", images)).intersection(images))


def _files(folder: Path, ending: str) -> dict[str, Path]:
    """The files of a folder by their names without the ending."""
    if not folder.is_dir():
        return {}
    return {
        file.name.removesuffix(ending): folder / file.name for file in os.scandir(folder) if file.name.endswith(ending)
    }


def _found(root: Path, *, download: bool) -> Path:
    """The folder VOC2012 at or below `root`, which may have to be fetched first."""
    for folder in (root, root / "VOC2012", root / "VOCdevkit/VOC2012"):
        if (folder / IMAGES).is_dir():
            return folder
    if download:
        _download(root)
        return _found(root, download=False)
    raise UserError(
        f"dataset.root={root}: holds no VOC2012 with {IMAGES}, {MASKS} and {LISTS}; unpack {ARCHIVE} there, "
        "or let dataset.download=true fetch it"
    )


def _download(root: Path) -> None:
    from torchvision.datasets import VOCSegmentation  # imports torch, which nothing else here needs

    if launched_world() > 1:
        raise UserError(
            "dataset.download=true: several processes would fetch it at once; run it with one process first"
        )
    try:
        VOCSegmentation(root, year="2012", image_set="train", download=True)
    except Exception as error:  # of the network, of the disk, or a damaged archive
        raise UserError(
            f"dataset.download=true: {ARCHIVE} could not be fetched ({error}); get it by hand from the PASCAL VOC 2012 "
            f"page and unpack it in {root}, so that {root}/VOCdevkit/VOC2012/{IMAGES} is there"
        ) from None
