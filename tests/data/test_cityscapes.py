"""Cityscapes as it lies on the disk: labelIds become classes, lists choose and order, and faults are named."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers import MACHINE, NAMES, SHORT, composed, results, succeed
from PIL import Image

from ssl4seg.commands.conf import conf_dir
from ssl4seg.data.cityscapes import Cityscapes
from ssl4seg.data.masks import as_held
from ssl4seg.data.published import published_lists
from ssl4seg.data.split import split_labeled
from ssl4seg.errors import UserError
from ssl4seg.run.assemble import build, mask_colors_of
from ssl4seg.run.folder import RunFolder
from ssl4seg.run.training import Training
from ssl4seg.scoring.predictor import Measures, table_of

TRAIN = ["aachen_000000_000019", "aachen_000001_000019", "bremen_000000_000019", "bremen_000001_000019"]
VAL = ["munster_000000_000019"]
SIZE = (40, 80)
KEYS = yaml.safe_load((conf_dir() / "dataset/cityscapes.yaml").read_text())["dataset"]

# The table of the official scripts: class -> labelId.
LABEL_IDS = {
    "road": 7,
    "sidewalk": 8,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "pole": 17,
    "traffic_light": 19,
    "traffic_sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}


def image_of(root: Path, split: str, name: str) -> Path:
    return root / f"leftImg8bit/{split}/{name.split('_')[0]}/{name}_leftImg8bit.png"


def mask_of(root: Path, split: str, name: str, kind: str = "labelIds") -> Path:
    return root / f"gtFine/{split}/{name.split('_')[0]}/{name}_gtFine_{kind}.png"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four images of train and one of val, of 34 vertical stripes, one for each labelId; a mask of colours besides."""
    label = np.repeat(np.arange(80)[None] % 34, SIZE[0], axis=0).astype(np.uint8)
    for split, names in (("train", TRAIN), ("val", VAL)):
        for number, name in enumerate(names):
            for file in (image_of(tmp_path, split, name), mask_of(tmp_path, split, name)):
                file.parent.mkdir(parents=True, exist_ok=True)
            rolled = np.roll(label, number, axis=1)
            Image.fromarray(np.dstack([rolled * 7, 255 - rolled * 7, rolled])).save(image_of(tmp_path, split, name))
            Image.fromarray(rolled).save(mask_of(tmp_path, split, name))
            Image.fromarray(np.dstack([rolled] * 3)).save(mask_of(tmp_path, split, name, "color"))
    return tmp_path


def cityscapes(root: Path | None, **changes: Any) -> Cityscapes:
    keys = {key: value for key, value in KEYS.items() if key != "_target_"}
    return Cityscapes(**{**keys, "root": None if root is None else str(root), **changes})


def names(dataset: Cityscapes, split: Any = "train") -> list[str]:
    return [case.name for case in dataset.cases(split)]


# -- what is read -----------------------------------------------------------------------------------------------------


def test_the_road_is_no_background(root):
    metrics = Measures(distances=True)
    found = table_of(cityscapes(root), cityscapes(root).cases("val"), metrics).summary()
    assert list(found["hd95"])[:3] == ["mean", "road", "sidewalk"]


def test_label_ids_become_the_classes_of_the_benchmark(root):
    case = cityscapes(root).cases("train")[0]
    image, label = pickle.loads(pickle.dumps(case)).read()  # as worker processes get it
    assert (case.name, case.group, case.size, image.shape, image.dtype) == (
        TRAIN[0],
        TRAIN[0],
        SIZE,
        (1, 3, *SIZE),
        np.uint8,
    )
    expected = {label_id: KEYS["classes"].index(name) for name, label_id in LABEL_IDS.items()}
    assert sorted(expected.values()) == list(range(19))
    assert [int(label[0, 5, column]) for column in range(34)] == [expected.get(k, 255) for k in range(34)]
    assert image[0, :, 5, 30].tolist() == [210, 45, 30]


def test_converted_masks_are_read_where_there_are_no_label_ids(root):
    values = np.full(SIZE, 255, np.uint8)
    values[:, :19] = np.arange(19)
    mask_of(root, "train", TRAIN[0]).unlink()
    for name in TRAIN[:2]:
        Image.fromarray(values).save(mask_of(root, "train", name, "labelTrainIds"))
    first, second, *_ = cityscapes(root).cases("train")
    assert np.array_equal(first.read().label[0], values)
    assert second.read().label[0, 0, 12] == 2  # building, by its labelId 11, rolled by one


def test_images_are_sorted_by_city_and_name_and_each_is_a_group(root):
    assert names(cityscapes(root)) == TRAIN
    assert names(cityscapes(root), "val") == VAL
    split = split_labeled(cityscapes(root).cases("train"), ratio=0.5, words=Cityscapes.words)
    assert (str(split), split.labeled_groups) == ("2 of 4 images", tuple(TRAIN[:2]))


def test_other_classes_may_be_chosen(root):
    keys = {"classes": ["flat", "sky"], "num_classes": 2, "label_ids": [7, 23]}
    label = cityscapes(root, **keys).cases("val")[0].read().label
    assert {int(label[0, 0, k]): k for k in range(34)} == {255: 33, 0: 7, 1: 23}


# -- lists ------------------------------------------------------------------------------------------------------------

LINE = "leftImg8bit/train/{city}/{name}_leftImg8bit.png gtFine/train/{city}/{name}_gtFine_{kind}.png"


@pytest.mark.parametrize(
    "line", [LINE.replace("{kind}", "labelIds"), LINE.replace("{kind}", "labelTrainIds"), "{name}", "{city}/{name}.png"]
)
def test_the_published_forms_of_lists_are_read(root, tmp_path, line):
    chosen = [TRAIN[2], TRAIN[0]]
    lines = (line.replace("{city}", name.split("_")[0]).replace("{name}", name) for name in chosen)
    (tmp_path / "list.txt").write_text("\n".join(lines) + "\n")
    split = split_labeled(cityscapes(root).cases("train"), list_file=tmp_path / "list.txt")
    assert split.labeled_groups == tuple(chosen)
    assert names(cityscapes(root, lists={"train": str(tmp_path / "list.txt"), "val": None})) == chosen
    assert names(cityscapes(root, lists={"val": str(tmp_path / "list.txt")}), "val") == chosen


# -- what is wrong ----------------------------------------------------------------------------------------------------


def shrink(root: Path) -> None:
    Image.fromarray(np.full((20, 40), 7, np.uint8)).save(mask_of(root, "train", TRAIN[1]))


@pytest.mark.parametrize(
    ("break_it", "named"),
    [
        (lambda root: (root / "gtFine").rename(root / "gt"), ["dataset.root=", "holds no gtFine"]),
        (lambda root: (root / "leftImg8bit").rename(root / "images"), ["dataset.root=", "holds no leftImg8bit"]),
        (lambda root: (root / "leftImg8bit/train").rename(root / "train"), ["holds no leftImg8bit/train/CITY"]),
        (lambda root: mask_of(root, "train", TRAIN[3]).unlink(), ["1 of the 4 train images", TRAIN[3], "labelIds"]),
        (shrink, [f"{TRAIN[1]}_gtFine_labelIds.png", "20 x 40", "40 x 80"]),
    ],
)
def test_a_faulty_folder_is_refused_before_anything_is_decoded(root, break_it, named):
    break_it(root)
    with pytest.raises(UserError) as refusal:
        cityscapes(root).cases("train")
    assert all(word in str(refusal.value) for word in named), refusal.value


def test_a_list_with_unknown_images_is_refused(root, tmp_path):
    (tmp_path / "list.txt").write_text(f"{TRAIN[0]}\nulm_000000_000019\n")
    with pytest.raises(
        UserError, match=r"list\.txt: 1 of the 2 lines .* line 2 'ulm_000000_000019' .* dataset\.lists\.val=FILE"
    ):
        cityscapes(root, lists={"val": str(tmp_path / "list.txt")}).cases("val")


@pytest.mark.parametrize(("kind", "value"), [("labelIds", 34), ("labelIds", 255), ("labelTrainIds", 19)])
def test_a_mask_with_other_values_is_refused_by_its_name(root, kind, value):
    mask_of(root, "val", VAL[0]).unlink()
    file = mask_of(root, "val", VAL[0], kind)
    Image.fromarray(np.full(SIZE, value, np.uint8)).save(file)
    with pytest.raises(UserError, match=rf"{file.name}: holds the label values \[{value}\]; expected 0 1"):
        cityscapes(root).cases("val")[0].read()


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ({"label_ids": list(range(18))}, "dataset.label_ids=.*expected 19 different numbers of 0 to 33"),
        ({"label_ids": [7] * 19}, "dataset.label_ids="),
        ({"label_ids": list(range(16, 35))}, "dataset.label_ids="),
        ({"ignore_index": None}, "dataset.ignore_index=None: expected 255, as Cityscapes has"),
        ({"channels": 1, "mean": None, "std": None}, "dataset.channels=1: expected 3, as Cityscapes has"),
    ],
)
def test_a_wrong_key_is_named(root, keys, fault):
    with pytest.raises(UserError, match=fault):
        cityscapes(root, **keys)


def test_the_root_must_be_given_and_test_has_no_masks(root):
    with pytest.raises(UserError, match=r"dataset\.root is not set"):
        cityscapes(None)
    assert cityscapes(root).tested_on == "val"
    with pytest.raises(UserError, match="masks of test are not public"):
        cityscapes(root).cases("test")


# -- the configuration ------------------------------------------------------------------------------------------------


def test_it_is_evaluated_in_windows_of_the_crops_side():
    config = composed("dataset=cityscapes", "dataset.image_size=64")
    assert config["views"]["weak"]["side"] == 64
    assert build(config["inference"], "inference", shape=(64, 64)).window == (64, 64)
    assert config["dataset"]["classes"] == [*LABEL_IDS]
    assert config["dataset"]["label_ids"] == [*LABEL_IDS.values()]


def test_a_run_scores_the_classes_by_pixels(root):
    small = ("network.channels=[4,8]", "network.dropout=[0.1,0.1]", "dataset.image_size=32")
    short = ("batch_size=2", "iterations=2", "eval_every=1", "labeled_ratio=0.5")
    succeed("train", *MACHINE, *small, *short, "dataset=cityscapes", f"dataset.root={root}", cwd=root)
    found = results(root / "outputs/cityscapes/supervised/unet-0.5-s0")
    assert [*found["test"]["iou"]] == ["mean", *LABEL_IDS]
    assert (found["labeled"]["images"], found["tested_on"], found["test"]["num_cases"]) == (2, "val", 1)


def test_masks_are_written_as_label_ids():
    label = np.arange(19, dtype=np.uint8).reshape(1, 1, 19)
    found = as_held(label, mask_colors_of(KEYS))
    assert (found.dtype, found.ravel().tolist()) == (np.uint8, [*LABEL_IDS.values()])
    with pytest.raises(UserError, match=r"mask_values=dataset: mine\.Data cannot be imported"):
        mask_colors_of({"_target_": "mine.Data"})


def test_a_run_labels_the_images_of_a_published_list(root, tmp_path):
    listed = published_lists()["cityscapes/1_30"].read_text().split()
    for name in {*listed} - {*TRAIN}:
        for place in (image_of, mask_of):
            place(root, "train", name).parent.mkdir(parents=True, exist_ok=True)
            os.link(place(root, "train", TRAIN[0]), place(root, "train", name))
    small = ("network.channels=[4,8]", "network.dropout=[0.1,0.1]", "dataset.image_size=32")
    config = composed(
        *MACHINE, *SHORT, *small, "dataset=cityscapes", f"dataset.root={root}", "labeled_list=cityscapes/1_30"
    )
    split = Training(config, NAMES, RunFolder(tmp_path / "run", config, resume=True)).split
    assert [case.name for case in split.labeled] == listed
    assert {case.name for case in split.unlabeled} == {*TRAIN} - {*listed}
