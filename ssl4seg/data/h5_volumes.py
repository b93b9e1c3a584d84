"""Published volumes in the h5 layouts of the semi-supervised literature: a file for each case, a list for each split.

A file holds `image` and `label` [X, Y, Z]. YAMLs of conf/dataset describe the layouts: the left atrium of UA-MT (Yu et
al. 2019), the pancreas of MC-Net (Wu et al. 2022), BraTS 2019 of SSL4MIS (Luo et al.). All published results on the
first two stand on volumes that were cut to the organ's box and a margin; that box was made from the masks, those of
unlabelled and of test cases too.
"""

import glob
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
from ssl4seg.keys import Key, expect, is_line, optional, whole

FILES = Key(lambda v: is_line(v) and v.count("{}") == 1, "a path below dataset.root with {} for the name of the case")
LIST = Key(is_line, "the path of a list below dataset.root")


class H5Volumes(Dataset):
    """Cases in the order of their lists; where val has no list, the last cases of the training list become val.

    Args:
        root: the folder that holds the lists and the files.
        name: of the dataset, in messages and results.
        files: path of a case's file below `root`, with {} for the name of the case.
        train_list, test_list, val_list: files below `root` with a name a line; val_list may be None.
        val_cases: without a val_list, number of training cases that are held out as val and not trained on; 0 leaves
            val empty, so that the last model must be taken (`select=last`). None with a val_list.
        common: the keys of `Dataset`; 1 channel.
    """

    name = "h5_volumes"
    words = ("cases", "slices")
    published_test = True
    place = "the folder of its lists and h5 files, dataset.root=DATA/LA"
    remedy = "mend the lists of the dataset"

    def __init__(
        self,
        *,
        root: str | None,
        name: str,
        files: str,
        train_list: str,
        test_list: str,
        val_list: str | None = None,
        val_cases: int | None = None,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(**common)
        expect("dataset.name", name, Key(is_line, "a word"))
        expect("dataset.channels", self.channels, only(1, name))
        expect("dataset.files", files, FILES)
        for key, value in (("train_list", train_list), ("test_list", test_list)):
            expect(f"dataset.{key}", value, LIST)
        expect("dataset.val_list", val_list, optional(LIST))
        expect("dataset.val_cases", val_cases, optional(whole(0)))
        if (val_list is None) == (val_cases is None):
            raise UserError(
                f"dataset.val_list={val_list}, dataset.val_cases={val_cases}: expected one of them, and null for the "
                "other"
            )
        self.name = name  # type: ignore[misc]  # of the object, not of the class
        self.reader = H5Reader(self.scaling, self.ignore_index)
        self.place_of = found(self.folder(root), files)
        lists = {"train": train_list, "val": val_list, "test": test_list}
        given = {split: self._listed(self.folder(root) / file) for split, file in lists.items() if file is not None}
        train = given["train"]
        if val_cases is not None:
            kept = len(train) - val_cases
            if kept < 1:
                raise UserError(
                    f"dataset.val_cases={val_cases}: {train_list} has {len(train)} cases, and some must be left"
                )
            given |= {"train": train[:kept], "val": train[kept:]}
            self.notes = [
                f"val: the last {val_cases} cases of {train_list}, which are not trained on (dataset.val_cases)"
                if val_cases
                else f"val: no case; all {len(train)} of {train_list} are trained on (dataset.val_cases)"
            ]
        self.names: dict[str, list[str]] = given

    def _listed(self, file: Path) -> list[str]:
        what = "case with an h5 file (dataset.files)"
        return [name for _, name in read_names(file, self.place_of, source=str(file), what=what)]

    def cases(self, split: Split) -> list[Case]:
        return [self._case(name, self.place_of[name]) for name in self.names[split]]

    def _case(self, name: str, file: Path) -> Case:
        shape, labeled, spacing = h5_facts(file)
        if len(shape) != 3 or min(shape) < 2:
            raise UserError(f"{file}: the image has shape {shape}; expected x, y and z, each of at least 2 voxels")
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


def found(root: Path, files: str) -> dict[str, Path]:
    """The files below `root` that the path `files` stands for, by the names in the place of {}."""
    before, after = (f"{root.as_posix()}/{files}").rsplit("{}", 1)
    paths = sorted(glob.glob(f"{glob.escape(before)}*{glob.escape(after)}"))
    names = {path[len(before) : len(path) - len(after)]: Path(path) for path in paths}
    if not names:
        raise UserError(
            f"dataset.root={root}: holds no file {files.replace('{}', 'NAME')}; give the folder of its lists, or say "
            "with dataset.files where the h5 files lie"
        )
    return names
