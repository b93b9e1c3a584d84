"""Cityscapes, street scenes of 2048 x 1024 pixels (Cordts et al., CVPR 2016), 19 classes.

ROOT/leftImg8bit/SPLIT/CITY/NAME_leftImg8bit.png and ROOT/gtFine/SPLIT/CITY/NAME_gtFine_labelIds.png, 2,975 images of
train and 500 of val. The benchmark scores 19 of the labelIds 0 to 33; all others are ignored. Where a mask
of labelIds is missing, one that the official scripts have converted is read (NAME_gtFine_labelTrainIds.png: 0 to 18 and
255). The masks of test are not public: models are tested on val.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

from ssl4seg.data.case import Case
from ssl4seg.data.dataset import Common, Split
from ssl4seg.data.keys import only
from ssl4seg.data.pairs import NaturalImages, Pair, cases_of, without_mask
from ssl4seg.errors import UserError
from ssl4seg.keys import IGNORE, expect

IMAGES, MASKS = "leftImg8bit", "gtFine"
NUM_LABEL_IDS = 34


class Cityscapes(NaturalImages):
    """The images of train and val, sorted by city and name or in the order of a list.

    Args:
        root: the folder that holds leftImg8bit and gtFine.
        label_ids: the labelId of each class.
        lists: files that name the images of train and val; without one a split has all images of its folder.
    """

    name = "cityscapes"
    published_test = True
    place = "the folder of Cityscapes, dataset.root=DATA/cityscapes"

    def __init__(
        self,
        *,
        root: str | None,
        label_ids: Sequence[int],
        lists: Mapping[Split, str | None] | None = None,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(lists=lists, **common)
        expect("dataset.ignore_index", self.ignore_index, only(IGNORE, "Cityscapes"))
        if len({*label_ids} & {*range(NUM_LABEL_IDS)}) != self.num_classes or len(label_ids) != self.num_classes:
            raise UserError(
                f"dataset.label_ids={list(label_ids)}: expected {self.num_classes} different numbers of "
                f"0 to {NUM_LABEL_IDS - 1}, one for each of dataset.classes"
            )
        self.root = self.folder(root)
        if missing := [folder for folder in (IMAGES, MASKS) if not (self.root / folder).is_dir()]:
            raise UserError(
                f"dataset.root={self.root}: holds no {' and no '.join(missing)}; unpack leftImg8bit_trainvaltest.zip "
                "and gtFine_trainvaltest.zip there"
            )
        ids = dict.fromkeys(range(NUM_LABEL_IDS), IGNORE) | {label: k for k, label in enumerate(label_ids)}
        train_ids = {k: k for k in range(self.num_classes)} | {IGNORE: IGNORE}
        self.kinds = {"labelIds": ids, "labelTrainIds": train_ids}

    def cases(self, split: Split) -> list[Case]:
        self.refuse_test(split)
        images = self._images(["train", "val"] if self.lists.get(split) else [split])
        names = self.listed(split, images) or list(images)
        pairs = [(name, images[name], self._mask(images[name], name)) for name in names]
        if missing := [name for name, _, mask in pairs if mask is None]:
            raise UserError(
                f"{self.root / MASKS}: {without_mask(missing, len(names), split)} there "
                f"(NAME_gtFine_{' or '.join(self.kinds)}.png)"
            )
        return cases_of([Pair(name, image, *mask) for name, image, mask in pairs if mask], self.scaling)

    @classmethod
    def mask_colors(cls, keys: Mapping[str, Any]) -> Sequence[int]:
        """`label_ids`, as the benchmark's scripts expect."""
        label_ids: Sequence[int] = keys["label_ids"]
        return label_ids

    def _images(self, splits: Sequence[str]) -> dict[str, Path]:
        """The images of the splits' folders by name, sorted by city and name."""
        files = (file for split in splits for file in sorted((self.root / IMAGES / split).glob(f"*/*_{IMAGES}.png")))
        images = {file.name.removesuffix(f"_{IMAGES}.png"): file for file in files}
        if not images:
            raise UserError(f"dataset.root={self.root}: holds no {IMAGES}/{splits[0]}/CITY/NAME_{IMAGES}.png")
        return images

    def _mask(self, image: Path, name: str) -> tuple[Path, Mapping[int, int]] | None:
        """The mask of an image, and the class of each of its values; None if there is no mask."""
        folder = self.root / MASKS / image.parent.relative_to(self.root / IMAGES)
        for kind, values in self.kinds.items():
            if (file := folder / f"{name}_gtFine_{kind}.png").is_file():
                return file, values
        return None
