"""LA, the left atrium of the Atrial Segmentation Challenge (Xiong et al., Medical Image Analysis 2021).

It is read in the h5 layout of the semi-supervised literature (UA-MT, Yu et al. 2019): ROOT/train.list and
ROOT/test.list with the published 80 and 20 cases, and ROOT/2018LA_Seg_Training Set/CASE/mri_norm2.h5 with `image` and
`label` [X, Y, Z]: z-scores, cut to the atrium's box and a margin. That box was made from the masks, those of unlabelled
and of test cases too; all published results stand on it.
"""

from functools import partial
from pathlib import Path
from typing import Unpack

from ssl4seg.data.case import Case
from ssl4seg.data.dataset import Common, Dataset, Split
from ssl4seg.data.formats import h5_facts
from ssl4seg.data.h5_reader import H5Reader
from ssl4seg.data.keys import only
from ssl4seg.data.split import read_names
from ssl4seg.errors import UserError
from ssl4seg.keys import expect, whole

CASES, FILE = "2018LA_Seg_Training Set", "mri_norm2.h5"


class LA(Dataset):
    """The published 80 / 20 cases; because there is no list for val, the last cases of the training list become val.

    Args:
        root: the folder that holds the lists.
        val_cases: number of training cases that are held out as val and not trained on.
        common: the keys of `Dataset`; 2 classes and 1 channel.
    """

    name = "la"
    words = ("cases", "slices")
    place = "the folder of LA, dataset.root=DATA/LA"
    remedy = "mend train.list and test.list"

    def __init__(self, *, root: str | None, val_cases: int, **common: Unpack[Common]) -> None:
        super().__init__(**common)
        expect("dataset.channels", self.channels, only(1, "LA"))
        expect("dataset.val_cases", val_cases, whole(1))
        folder = self.folder(root)
        if not (folder / CASES).is_dir():
            raise UserError(f"dataset.root={folder}: holds no folder {CASES!r}; expected the h5 layout of UA-MT")
        known = {place.name: place / FILE for place in sorted((folder / CASES).iterdir()) if (place / FILE).is_file()}
        train, test = (
            [name for _, name in read_names(file, known, source=str(file), what=f"case with a {FILE}")]
            for file in (folder / "train.list", folder / "test.list")
        )
        if val_cases >= len(train):
            raise UserError(f"dataset.val_cases={val_cases}: train.list has {len(train)} cases, and some must be left")
        self.notes = [f"val: the last {val_cases} cases of train.list, which are not trained on (dataset.val_cases)"]
        self.files, self.reader = known, H5Reader(self.normalize, self.ignore_index)
        self.names: dict[Split, list[str]] = {"train": train[:-val_cases], "val": train[-val_cases:], "test": test}

    def cases(self, split: Split) -> list[Case]:
        return [self._case(name, self.files[name]) for name in self.names[split]]

    def _case(self, name: str, file: Path) -> Case:
        shape, labeled, spacing = h5_facts(file)
        if len(shape) != 3:
            raise UserError(f"{file}: the image has shape {shape}; expected x, y and z")
        case = Case(
            name=name,
            group=name,
            num_images=shape[0],
            size=shape[1:],
            labeled=labeled,
            read=partial(self.reader.volume, file, (), labeled),
            read_image=partial(self.reader.image, file),
            read_part=partial(self.reader.volume, file),
            spacing=spacing,
            files=(file,),
        )
        return self.shaped(case, stored=True)
