"""Published volumes in h5: the layouts that the YAMLs describe, their order, and how val is made."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from helpers import NAMES, composed

from ssl4seg.data.h5_volumes import H5Volumes
from ssl4seg.data.split import split_labeled
from ssl4seg.errors import UserError
from ssl4seg.run.training import Training

SHAPE = (20, 24, 16)
TRAIN = [f"case{number}" for number in (7, 3, 5, 1, 9, 2)]
TEST, VAL = ["case4", "case8"], ["case6"]
LAYOUTS = {  # the place of a case's file and the ending of lists, as the public repositories have them
    "la": ("2018LA_Seg_Training Set/{}/mri_norm2.h5", "list"),
    "pancreas": ("Pancreas_h5/{}_norm.h5", "list"),
    "brats19": ("data/{}.h5", "txt"),
}


def written(root: Path, layout: str) -> Path:
    """A folder in the layout, whose image and label mark the voxel 3, 5, 2."""
    place, ending = LAYOUTS[layout]
    for number, name in enumerate([*TRAIN, *TEST, *VAL]):
        file = root / place.format(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        image, label = np.full(SHAPE, number, np.float32), np.zeros(SHAPE, np.uint8)
        image[3, 5, 2], label[3, 5, 2] = -1.5, 1
        with h5py.File(file, "w") as h5:
            h5["image"], h5["label"] = image, label
    for split, names in (("train", TRAIN), ("test", TEST), ("val", VAL)):
        (root / f"{split}.{ending}").write_text("\n".join(names) + "\n")
    return root


def opened(root: Path, layout: str, **changes: Any) -> H5Volumes:
    keys = dict(composed(f"dataset={layout}")["dataset"])
    del keys["_target_"]
    held = {} if keys["val_cases"] is None else {"val_cases": 2}
    return H5Volumes(**keys | {"root": str(root)} | held | changes)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_published_layout_is_read_as_it_is(layout: str, tmp_path: Path) -> None:
    dataset = opened(written(tmp_path, layout), layout)
    case = dataset.cases("train")[0]
    assert (case.name, case.size, case.num_images) == ("case7", SHAPE, 1)
    image, label = case.read()
    assert np.argwhere(label).tolist() == [[0, 3, 5, 2]]
    assert image[0, 0, 3, 5, 2] == -1.5  # z-scores stay as they are
    assert [case.name for case in dataset.cases("test")] == TEST
    assert dataset.name == layout


@pytest.mark.parametrize("layout", ["la", "pancreas"])
def test_the_first_cases_of_the_list_are_labelled_and_the_last_are_val(layout: str, tmp_path: Path) -> None:
    dataset = opened(written(tmp_path, layout), layout)
    assert [case.name for case in dataset.cases("val")] == TRAIN[-2:]
    assert dataset.notes == ["val: the last 2 cases of train.list, which are not trained on (dataset.val_cases)"]
    split = split_labeled(dataset.cases("train"), num_groups=2)
    assert split.labeled_groups == ("case7", "case3")
    assert [case.name for case in split.unlabeled] == ["case5", "case1"]


def test_with_val_cases_0_all_cases_are_trained_on(tmp_path: Path) -> None:
    dataset = opened(written(tmp_path, "la"), "la", val_cases=0)
    assert [case.name for case in dataset.cases("train")] == TRAIN
    assert dataset.cases("val") == []
    assert dataset.notes == ["val: no case; all 6 of train.list are trained on (dataset.val_cases)"]


def test_a_list_of_val_is_read(tmp_path: Path) -> None:
    dataset = opened(written(tmp_path, "brats19"), "brats19")
    assert [case.name for case in dataset.cases("val")] == VAL
    assert [case.name for case in dataset.cases("train")] == TRAIN


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"val_cases": 6}, r"dataset\.val_cases=6: train\.list has 6 cases, and some must be left"),
        ({"val_cases": -1}, r"dataset\.val_cases=-1: expected a whole number of at least 0"),
        ({"val_cases": None}, r"dataset\.val_list=None, dataset\.val_cases=None: expected one of them"),
        ({"val_list": "val.list"}, r"dataset\.val_list=val\.list, dataset\.val_cases=2: expected one of them"),
        ({"files": "data/x.h5"}, r"dataset\.files=data/x\.h5: expected a path below dataset\.root with \{\}"),
        ({"files": "data/{}.h5"}, r"holds no file data/NAME\.h5; .* dataset\.files"),
        ({"train_list": "none.list"}, r"none\.list"),
        ({"channels": 3}, r"dataset\.channels=3: expected 1, as la has"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_key(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        opened(written(tmp_path, "la"), "la", **changes)


def test_a_name_in_a_list_without_a_file_is_refused_with_its_line(tmp_path: Path) -> None:
    (written(tmp_path, "la") / "test.list").write_text("case4\ncase88\n")
    with pytest.raises(UserError, match=r"test\.list: 1 of the 2 lines name no case with an h5 file .*line 2 'case88'"):
        opened(tmp_path, "la")


def test_a_folder_whose_name_holds_signs_of_a_pattern_is_read(tmp_path: Path) -> None:
    root = tmp_path / "LA [copy] *"
    assert [case.name for case in opened(written(root, "la"), "la").cases("test")] == TEST


@pytest.mark.parametrize("shape", [(20, 24, 1), (20, 0, 16)])
def test_a_volume_without_three_axes_is_refused_by_its_file(shape: tuple[int, ...], tmp_path: Path) -> None:
    file = written(tmp_path, "la") / LAYOUTS["la"][0].format("case5")
    with h5py.File(file, "w") as h5:
        h5["image"], h5["label"] = np.zeros(shape, np.float32), np.zeros(shape, np.uint8)
    told = (
        rf"case5/mri_norm2\.h5: the image has shape \({', '.join(map(str, shape))}\); expected x, y and z, each of at"
    )
    with pytest.raises(UserError, match=told):
        opened(tmp_path, "la").cases("train")


RECIPES = {  # the words that make them small, and a method with strong views for those that take any
    "la_uamt": "network.width=4",
    "la_dtc": "network.width=4",
    "la_mcnet": "network.width=4",
    "la_bcp": "network.width=4",
    "la_admt": "network.width=4",
    "la_small": "network.channels=[4,8,8,8] method=unimatch",
    "pancreas": "network.width=4 method=unimatch",
    "brats19": "network.channels=[4,8,8,8,8] method=unimatch",
}


@pytest.fixture
def opened_files() -> Iterator[list[str]]:
    """The files that are opened from here to the end of the test."""
    files: list[str] = []
    watched = [True]  # a hook cannot be taken away
    sys.addaudithook(lambda event, args: files.append(str(args[0])) if watched and event == "open" else None)
    yield files
    watched.clear()


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_takes_steps_on_z_scores_and_opens_no_file_in_the_second(
    recipe: str, tmp_path: Path, opened_files: list[str]
) -> None:
    words = f"experiment={recipe} dataset.image_size=[16,16,16] inference.stride=16 {RECIPES[recipe]} labeled_cases=2"
    data = composed(*words.split())["dataset"]
    root = written(tmp_path, data["name"])
    held = ["dataset.val_cases=2"] if data["val_cases"] else []
    config = composed(*words.split(), *held, f"dataset.root={root}", "device=cpu", "num_threads=1")
    engine = Training(config, NAMES, None).engine()
    before = [parameter.clone() for parameter in engine.method.student.parameters()]
    engine.train_step()
    opened_files.clear()
    engine.train_step()
    assert opened_files == []
    after = [*engine.method.student.parameters()]
    assert all(parameter.isfinite().all() for parameter in after)
    assert any(not torch.equal(*pair) for pair in zip(before, after, strict=True))
