"""VOC2012 as it lies on the disk: which images, in which order, which masks; and what is wrong with a folder."""

import os
import pickle
import re
import tarfile
from functools import partial
from hashlib import md5
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import yaml
from helpers import MACHINE, NAMES, SHORT, composed, differing, load, results, succeed
from natural import picture
from omegaconf import OmegaConf
from PIL import Image
from torchvision.datasets import voc

from ssl4seg.commands.conf import check_root, conf_dir, resolved
from ssl4seg.data.published import published_lists
from ssl4seg.data.split import check_disjoint, split_labeled
from ssl4seg.data.voc2012 import VOC2012
from ssl4seg.errors import UserError
from ssl4seg.run.folder import RunFolder
from ssl4seg.run.training import Training

TRAIN, VAL, MORE = ["2007_000032", "2008_000008", "2007_000039", "2010_000001"], ["2007_000033"], ["2011_000007"]
SIZES = ((40, 56), (56, 40))
KEYS = yaml.safe_load((conf_dir() / "dataset/voc2012.yaml").read_text())["dataset"]


def write_mask(file: Path, label: np.ndarray) -> None:
    """A palette picture, as the challenge has them."""
    mask = Image.fromarray(label)
    mask.putpalette([value * 7 % 256 for value in range(768)])
    mask.save(file)


def write_voc(folder: Path) -> Path:
    """VOC2012 with four images of train and one of val."""
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True)
    for number, name in enumerate([*TRAIN, *VAL]):
        image, label = picture(number, SIZES[number % 2])
        Image.fromarray(image).save(folder / f"JPEGImages/{name}.jpg", quality=95, subsampling=0)
        write_mask(folder / f"SegmentationClass/{name}.png", label)
    for split, names in (("train", TRAIN), ("val", VAL)):
        (folder / f"ImageSets/Segmentation/{split}.txt").write_text("".join(f"{name}\n" for name in names))
    return folder


def add_masks(folder: Path) -> None:
    """SegmentationClassAug: a mask of one more image, one of val, and one that SegmentationClass has too."""
    (folder / "SegmentationClassAug").mkdir()
    Image.fromarray(picture(9, SIZES[0])[0]).save(folder / f"JPEGImages/{MORE[0]}.jpg")
    for name in (*MORE, *VAL, TRAIN[0]):
        Image.fromarray(np.full(SIZES[0], 20, np.uint8)).save(folder / f"SegmentationClassAug/{name}.png")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_voc(tmp_path / "VOCdevkit/VOC2012")


def voc2012(root: Path | None, **changes: Any) -> VOC2012:
    keys = {key: value for key, value in KEYS.items() if key != "_target_"}
    return VOC2012(**{**keys, "root": None if root is None else str(root), **changes})


def names(dataset: VOC2012, split: Any = "train") -> list[str]:
    return [case.name for case in dataset.cases(split)]


# -- what is read -----------------------------------------------------------------------------------------------------


def test_images_and_palette_masks_are_read_as_they_are(root):
    for number, case in enumerate(voc2012(root).cases("train")):
        image, label = pickle.loads(pickle.dumps(case)).read()  # as worker processes get it
        pixels, mask = picture(number, SIZES[number % 2])
        assert (case.name, case.group, case.num_images, case.labeled) == (TRAIN[number], TRAIN[number], 1, True)
        assert (image.shape, label.shape, case.spacing) == ((1, 3, *case.size), (1, *case.size), None)
        assert (image.dtype, label.dtype) == (np.uint8, np.uint8)
        assert np.array_equal(label[0], mask)
        assert set(np.unique(label)) == {0, 1, 2, 255}
        assert abs(image[0].astype(int) - pixels.transpose(2, 0, 1)).mean() < 4  # JPEG is not exact


def test_another_ignored_value_is_ignored_and_minmax_is_honoured(root):
    write_mask(root / f"SegmentationClass/{VAL[0]}.png", np.where(picture(4, SIZES[0])[1] == 1, 1, 2).astype(np.uint8))
    image, label = voc2012(root, ignore_index=2, normalize="minmax").cases("val")[0].read()
    assert set(np.unique(label)) == {1, 255}
    assert (image.dtype, image.min(), image.max()) == (np.float32, 0, 1)


@pytest.mark.parametrize("above", [0, 1, 2])
def test_the_root_may_be_the_folder_or_what_holds_it(root, above):
    assert names(voc2012([root, *root.parents][above])) == TRAIN


def test_the_order_is_that_of_the_list(root):
    assert names(voc2012(root)) == TRAIN != sorted(TRAIN)
    assert names(voc2012(root), "val") == VAL


def test_a_ratio_counts_images_in_the_order_of_the_list(root):
    splits = [split_labeled(voc2012(root).cases("train"), ratio=ratio, words=VOC2012.words) for ratio in (0.25, 0.5, 1)]
    assert [split.labeled_groups for split in splits] == [tuple(TRAIN[:n]) for n in (1, 2, 4)]
    assert str(splits[1]) == "2 of 4 images"


# -- the augmented set ------------------------------------------------------------------------------------------------


def test_without_a_list_the_augmented_set_is_all_that_is_not_in_val_sorted(root):
    add_masks(root)
    assert names(voc2012(root)) == sorted([*TRAIN, *MORE])
    assert names(voc2012(root, augmented=True)) == sorted([*TRAIN, *MORE])
    assert names(voc2012(root, augmented=False)) == TRAIN
    assert names(voc2012(root), "val") == VAL


@pytest.mark.parametrize("file", ["trainaug.txt", "train_aug.txt"])
def test_a_list_of_the_augmented_set_has_its_own_order(root, file):
    add_masks(root)
    listed = [*MORE, TRAIN[1], TRAIN[0]]
    lines = "".join(f"/JPEGImages/{name}.jpg /SegmentationClassAug/{name}.png\n" for name in listed)
    (root / "ImageSets/Segmentation" / file).write_text(lines)
    assert names(voc2012(root)) == listed


def test_the_finer_mask_is_taken_where_there_are_two(root):
    add_masks(root)
    labels = {case.name: case.read().label for case in voc2012(root).cases("train")}
    assert set(np.unique(labels[MORE[0]])) == {20}
    assert np.array_equal(labels[TRAIN[0]][0], picture(0, SIZES[0])[1])


# -- lists ------------------------------------------------------------------------------------------------------------

LINES = [
    "JPEGImages/{}.jpg SegmentationClass/{}.png",
    "/JPEGImages/{}.jpg /SegmentationClassAug/{}.png",
    "{}",
    " {}.jpg",
]


@pytest.mark.parametrize("line", LINES)
def test_the_published_forms_of_lists_are_read(root, tmp_path, line):
    chosen = [TRAIN[2], TRAIN[0]]
    (tmp_path / "list.txt").write_text("\n".join(line.replace("{}", name) for name in chosen) + "\n\n")
    split = split_labeled(voc2012(root).cases("train"), list_file=tmp_path / "list.txt")
    assert split.labeled_groups == tuple(chosen)
    assert [case.name for case in split.unlabeled] == [TRAIN[1], TRAIN[3]]
    assert names(voc2012(root, lists={"train": str(tmp_path / "list.txt")})) == chosen
    assert names(voc2012(root, lists={"train": None, "val": str(tmp_path / "list.txt")}), "val") == chosen


def test_with_lists_of_ones_own_there_need_not_be_others(root, tmp_path):
    (root / "ImageSets").rename(tmp_path / "elsewhere")
    lists = {split: str(tmp_path / f"elsewhere/Segmentation/{split}.txt") for split in ("train", "val")}
    assert names(voc2012(root, lists=lists)) == TRAIN


# -- what is wrong ----------------------------------------------------------------------------------------------------


def break_list(root: Path) -> None:
    (root / "ImageSets/Segmentation/train.txt").write_text("2007_000032\n1999_000001\n")


def break_size(root: Path) -> None:
    write_mask(root / f"SegmentationClass/{TRAIN[1]}.png", np.zeros((40, 56), np.uint8))


@pytest.mark.parametrize(
    ("break_it", "named"),
    [
        (lambda root: (root / "JPEGImages").rename(root / "Images"), ["dataset.root=", "holds no VOC2012", "download"]),
        (lambda root: (root / f"JPEGImages/{TRAIN[0]}.jpg").unlink(), ["train.txt", "1 of the 4 lines", TRAIN[0]]),
        (
            lambda root: (root / f"SegmentationClass/{TRAIN[3]}.png").unlink(),
            [f"1 of the 4 train images ({TRAIN[3]}) has no mask in SegmentationClass or SegmentationClassAug; add "],
        ),
        (lambda root: (root / "ImageSets/Segmentation/train.txt").unlink(), ["train.txt", "dataset.lists.train=FILE"]),
        (lambda root: (root / "ImageSets/Segmentation/train.txt").write_text("\n"), ["train.txt", "names no image"]),
        (break_list, ["train.txt", "1 of the 2 lines name no image", "line 2 '1999_000001' (nearest"]),
        (break_size, [f"{TRAIN[1]}.png", "40 x 56", "56 x 40"]),
        (
            lambda root: (root / f"JPEGImages/{TRAIN[2]}.jpg").write_bytes(b"\xff\xd8"),
            [f"{TRAIN[2]}.jpg", "cannot be read"],
        ),
    ],
)
def test_a_faulty_folder_is_refused_before_anything_is_decoded(root, break_it, named):
    break_it(root)
    with pytest.raises(UserError) as refusal:
        voc2012(root).cases("train")
    assert all(word in str(refusal.value) for word in named), refusal.value


@pytest.mark.parametrize(("value", "keys"), [(21, {}), (255, {"ignore_index": None})])
def test_a_mask_with_other_values_is_refused_by_its_name(root, value, keys):
    write_mask(root / f"SegmentationClass/{TRAIN[0]}.png", np.full(SIZES[0], value, np.uint8))
    with pytest.raises(UserError, match=rf"{TRAIN[0]}\.png: holds the label values \[{value}\]; expected 0 1 .* 20"):
        voc2012(root, **keys).cases("train")[0].read()


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ({"augmented": True}, "dataset.augmented=true: .* holds no SegmentationClassAug"),
        ({"augmented": "yes"}, "dataset.augmented=yes: expected true or false, or auto"),
        ({"image_size": [8, 8, 8]}, r"dataset.image_size=\[8, 8, 8\]: has 3 axes, but VOC2012 holds pictures"),
        ({"channels": 1, "mean": None, "std": None}, "dataset.channels=1: expected 3, as VOC2012 has"),
        ({"classes": [*"abcdefghijklmnopqrst", "a"]}, r"dataset.classes=.*expected a list of 2 to 255 different names"),
        ({"classes": [*"abcdefghijklmnopqrst", "mean"]}, r"dataset.classes=.*none of them 'mean'"),
        ({"channels": "3"}, "dataset.channels=3: expected a whole number"),
    ],
)
def test_a_wrong_key_is_named(root, keys, fault):
    with pytest.raises(UserError, match=fault):
        voc2012(root, **keys)


def test_the_root_must_be_given():
    with pytest.raises(UserError, match=r"dataset\.root is not set"):
        voc2012(None)


def test_test_has_no_masks(root):
    assert voc2012(root).tested_on == "val"
    with pytest.raises(UserError, match="masks of test are not public"):
        voc2012(root).cases("test")


# -- download ---------------------------------------------------------------------------------------------------------


def test_without_a_network_connection_it_is_told_where_the_files_go(tmp_path, monkeypatch):
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # where nobody answers
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(UserError) as refusal:
        voc2012(tmp_path / "new", download=True)
    for word in (
        "dataset.download=true",
        "VOCtrainval_11-May-2012.tar",
        f"{tmp_path}/new/VOCdevkit/VOC2012/JPEGImages",
    ):
        assert word in str(refusal.value)


def test_what_is_not_there_is_fetched_and_what_is_there_is_not(root, tmp_path, monkeypatch):
    assert names(voc2012(root, download=True)) == TRAIN
    with tarfile.open(tmp_path / "served.tar", "w") as tar:
        tar.add(root.parent, "VOCdevkit")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(tmp_path)))
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    checksum = md5((tmp_path / "served.tar").read_bytes()).hexdigest()
    entry = {"url": f"http://127.0.0.1:{server.server_port}/served.tar", "md5": checksum}
    monkeypatch.setitem(voc.DATASET_YEAR_DICT, "2012", {**voc.DATASET_YEAR_DICT["2012"], **entry})
    try:
        assert names(voc2012(tmp_path / "new", download=True)) == TRAIN
    finally:
        server.shutdown()


def test_several_processes_do_not_fetch_it_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"dataset\.download=true: several processes"):
        voc2012(tmp_path, download=True)


def test_only_a_folder_that_is_to_be_fetched_need_not_be_there(tmp_path):
    dataset = {"_target_": KEYS["_target_"], "root": str(tmp_path / "new")}
    with pytest.raises(UserError, match="there is no such folder"):
        check_root({**dataset, "download": False})
    check_root({**dataset, "download": True})


# -- runs -------------------------------------------------------------------------------------------------------------

RUN = (
    *MACHINE,
    *SHORT,
    "network.channels=[4,8]",
    "network.dropout=[0.1,0.1]",
    "dataset=voc2012",
    "dataset.image_size=32",
)


def test_a_run_is_the_same_from_memory_and_from_the_disk_and_says_what_it_is_tested_on(root, tmp_path):
    (tmp_path / "two.txt").write_text(
        "".join(f"JPEGImages/{name}.jpg SegmentationClass/{name}.png\n" for name in TRAIN[2:])
    )
    same = (*RUN, f"dataset.root={root}", "method=fixmatch", f"labeled_list={tmp_path}/two.txt")
    told = succeed("train", *same, cwd=tmp_path)
    run = tmp_path / "outputs/voc2012/fixmatch/unet-two-s0"
    assert "labelled: 2 of 4 images" in told
    assert re.search("test has no masks to score by; the model is tested on val", told)
    assert "test on val, best model" in told
    published = {"split": "val", "metric": "iou", "class": "mean"}  # over all 21 classes
    assert (results(run)["selected_by"], results(run)["tested_on"]) == (published, "val")
    assert "foreground_mean" in results(run)["val"]["iou"]
    assert results(run)["test"] == results(run)["val"]
    assert results(run, "split.json")["labeled"] == TRAIN[2:]

    streamed = ("tag=streamed", "engine.resident_gib=0", "engine.num_workers=2")
    assert "read from the disk" in succeed("train", *same, *streamed, cwd=tmp_path)
    other = run.with_name("unet-two-s0-streamed")
    assert differing(load(run / "best.pt")["method"], load(other / "best.pt")["method"]) == []
    assert results(run)["test"] == results(other)["test"]

    told = succeed("eval", f"run={run}", "device=cpu", "split=test", cwd=tmp_path)
    assert "the model is tested on val" in told
    scored = results(run, "results_test.json")
    assert (scored["tested_on"], scored["test"]) == ("val", results(run)["test"])
    lists = f"dataset.lists.val={root}/ImageSets/Segmentation/train.txt"
    succeed("eval", f"run={run}", "device=cpu", "split=val", lists, f"output={tmp_path}/train", cwd=tmp_path)
    assert results(tmp_path / "train", "results_val.json")["val"]["num_cases"] == 4


def test_a_run_labels_the_images_of_a_published_list(root, tmp_path):
    listed = published_lists()["voc2012/92"].read_text().split()
    for name in listed:
        for kind in ("JPEGImages/{}.jpg", "SegmentationClass/{}.png"):
            os.link(root / kind.format(TRAIN[0]), root / kind.format(name))
    train = sorted({*listed, *TRAIN})
    (root / "ImageSets/Segmentation/train.txt").write_text("\n".join(train))
    config = composed(*RUN, f"dataset.root={root}", "labeled_list=voc2012/92")
    split = Training(config, NAMES, RunFolder(tmp_path / "run", config, resume=True)).split
    assert [case.name for case in split.labeled] == listed
    assert [case.name for case in split.unlabeled] == [name for name in train if name not in listed]


@pytest.mark.parametrize("key", ["dataset.lists.train", "dataset.lists.val", "labeled_list"])
def test_a_list_that_is_not_there_is_refused_without_torch(root, key):
    config = OmegaConf.create(composed("dataset=voc2012", f"dataset.root={root}", f"{key}=none.txt"))
    with pytest.raises(UserError, match=f"{key}=none.txt: there is no such file"):
        resolved(config)


def test_an_image_of_both_train_and_val_is_refused(root):
    dataset = voc2012(root, lists={"val": str(root / "ImageSets/Segmentation/train.txt")})
    with pytest.raises(UserError, match="is in both train and val"):
        check_disjoint({split: dataset.cases(split) for split in ("train", "val")})
