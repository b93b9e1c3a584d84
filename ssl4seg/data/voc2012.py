"""PASCAL VOC 2012 segmentation (Everingham et al., IJCV 2015), 20 classes of objects and background.

ROOT/VOC2012 as the challenge's archive unpacks it: JPEGImages/ID.jpg, SegmentationClass/ID.png (palette pictures of
class values; 255 marks contours and doubtful pixels), ImageSets/Segmentation/train.txt (1,464 IDs) and val.txt (1,449).
The augmented training set adds the masks of the Semantic Boundaries Dataset (Hariharan et al., ICCV 2011) as
SegmentationClassAug/ID.png: 10,582 training images. The masks of test are not public: models are tested on val.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Unpack

from ssl4seg.data.case import Case
from ssl4seg.data.dataset import Common, Split
from ssl4seg.data.pairs import NaturalImages, Pair, cases_of, read_list, without_mask
from ssl4seg.errors import UserError
from ssl4seg.keys import IGNORE, expect, or_word, true_or_false
from ssl4seg.processes import launched_world

IMAGES, MASKS, MORE_MASKS, LISTS = "JPEGImages", "SegmentationClass", "SegmentationClassAug", "ImageSets/Segmentation"
AUGMENTED = ("trainaug.txt", "train_aug.txt")
"""Names under which the list of the augmented training set is published."""
ARCHIVE = "VOCtrainval_11-May-2012.tar"


class VOC2012(NaturalImages):
    """1,464 or, augmented, 10,582 training images and 1,449 of val, in the order of their lists.

    An image with two masks has that of SegmentationClass, whose contours are finer than SegmentationClassAug's.

    Args:
        root: VOC2012, or the folder that holds it or VOCdevkit.
        augmented: train on the augmented set; "auto": if there is a folder SegmentationClassAug.
        lists: files that name the images of train and val, instead of those in ImageSets/Segmentation.
        download: fetch the challenge's archive into `root` (2 GB, without SegmentationClassAug) if there is no VOC2012.
    """

    name = "voc2012"
    published_test = True
    place = "the folder that holds VOC2012, dataset.root=DATA/VOCdevkit"

    def __init__(
        self,
        *,
        root: str | None,
        augmented: bool | str = "auto",
        lists: Mapping[Split, str | None] | None = None,
        download: bool = False,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(lists=lists, **common)
        expect("dataset.augmented", augmented, or_word("auto", true_or_false))
        expect("dataset.download", download, true_or_false)
        self.root = _voc2012_folder(self.folder(root), download=download)
        has_more_masks = (self.root / MORE_MASKS).is_dir()
        if augmented is True and not has_more_masks:
            raise UserError(f"dataset.augmented=true: {self.root} holds no {MORE_MASKS}; see docs/datasets.md")
        self.augmented = has_more_masks if augmented == "auto" else bool(augmented)

    def cases(self, split: Split) -> list[Case]:
        self.refuse_test(split)
        images = _files(self.root / IMAGES, ".jpg")
        masks = _files(self.root / MORE_MASKS, ".png") | _files(self.root / MASKS, ".png")
        names = self._names(split, images)
        if missing := [name for name in names if name not in masks]:
            raise UserError(
                f"{self.root}: {without_mask(missing, len(names), split)} in {MASKS} or {MORE_MASKS}; add the "
                f"masks, or let dataset.lists.{split}=FILE name images that have one"
            )
        classes = {value: value for value in range(self.num_classes)}
        values = classes | ({} if self.ignore_index is None else {self.ignore_index: IGNORE})
        return cases_of([Pair(name, images[name], masks[name], values) for name in names], self.scaling)

    def _names(self, split: Split, images: Mapping[str, Path]) -> list[str]:
        """The images of a split in their published order."""
        if names := self.listed(split, images):
            return names
        if split == "train" and self.augmented:
            return self._augmented(images)
        return read_list(self.root / LISTS / f"{split}.txt", split, images)

    def _augmented(self, images: Mapping[str, Path]) -> list[str]:
        """The images of a published list, else, in the same order (sorted), all with a mask that are not in val."""
        for file in AUGMENTED:
            if (self.root / LISTS / file).is_file():
                return read_list(self.root / LISTS / file, "train", images)
        train = read_list(self.root / LISTS / "train.txt", "train", images)
        with_mask = {*_files(self.root / MORE_MASKS, ".png"), *train}
        return sorted(with_mask.difference(self._names("val", images)).intersection(images))


def _files(folder: Path, ending: str) -> dict[str, Path]:
    """The files with an ending, by their names without it; none if there is no such folder."""
    if not folder.is_dir():
        return {}
    return {
        file.name.removesuffix(ending): folder / file.name for file in os.scandir(folder) if file.name.endswith(ending)
    }


def _voc2012_folder(root: Path, *, download: bool) -> Path:
    """The folder VOC2012 at or below `root`; with `download` it is fetched if it is missing."""
    for folder in (root, root / "VOC2012", root / "VOCdevkit/VOC2012"):
        if (folder / IMAGES).is_dir():
            return folder
    if download:
        _download(root)
        return _voc2012_folder(root, download=False)
    raise UserError(
        f"dataset.root={root}: holds no VOC2012 with {IMAGES}, {MASKS} and {LISTS}; unpack {ARCHIVE} there, "
        "or let dataset.download=true fetch it"
    )


def _download(root: Path) -> None:
    from torchvision.datasets import VOCSegmentation  # imports torch, which data/ must not

    if launched_world() > 1:
        raise UserError(
            "dataset.download=true: several processes would fetch it at once; run it with one process first"
        )
    try:
        VOCSegmentation(root, year="2012", image_set="train", download=True)
    except Exception as error:  # the network, the disk, or a damaged archive
        raise UserError(
            f"dataset.download=true: {ARCHIVE} could not be fetched ({error}); get it by hand from the PASCAL VOC 2012 "
            f"page and unpack it in {root}, so that {root}/VOCdevkit/VOC2012/{IMAGES} is there"
        ) from None
