"""Masks in a folder of another name, with other names than their images."""

from pathlib import Path

import pytest
from folders import describe, drawn, folder, save

from ssl4seg.commands.check_folder import check_folder
from ssl4seg.data.items import How
from ssl4seg.data.layout import find
from ssl4seg.data.mask_names import owners
from ssl4seg.errors import UserError


@pytest.mark.parametrize(
    ("pattern", "image", "mask"),
    [
        (None, "a", "a_mask"),
        (None, "case", "case.seg"),  # 3D Slicer's
        ("labels{id}", "image01", "labels01"),
        ("{id}_manual1", "21_training", "21_manual1"),  # DRIVE
        ("{name}_1stHO", "Image_01L", "Image_01L_1stHO"),  # CHASE_DB1
        ("labels{id}", "p1/image7", "p1/labels7"),
        (r"(?:image|labels)(\d+)", "image01", "labels01"),
        (r"(p\d)\D*(\d+)$", "p1/scan_04", "p1_truth04"),
    ],
)
def test_a_mask_finds_its_image(pattern, image, mask):
    found = owners([image, "other99"], [mask, "stranger"], pattern)
    assert found == ({mask: image, "stranger": None}, {})


def test_two_images_for_one_mask_are_told():
    found = owners(["p1_s3", "p2_s3"], ["labels3"], "labels{id}")
    assert found.faults["p2_s3"].startswith("mask_name=labels{id} gives it the same mask as p1_s3")
    assert owners(["p1_s3", "p2_s3"], ["labels3"], r"p(\d)_s(\d)|labels(\d)") == ({"labels3": None}, {})


def separate(root: Path, images: str = "scans", masks: str = "truth/fine") -> Path:
    for number in range(6):
        image, label = drawn(number)
        save(root / images / f"image{number:02d}.tif", image)
        save(root / masks / f"labels{number:02d}.png", label)
    return root


@pytest.mark.parametrize("name", ["labels{id}", r"(?:image|labels)(\d+)"])
@pytest.mark.parametrize("images", ["scans", "train"])
def test_masks_in_another_folder_under_another_name(tmp_path, monkeypatch, capsys, name, images):
    monkeypatch.chdir(tmp_path)
    keys = {"image_folder": images, "mask_folder": "truth/fine", "mask_name": name}
    root = describe(separate(tmp_path / "mine", images), **keys)
    items = find(root, how=How(**keys)).items
    assert {(item.image.stem, item.mask.stem) for item in items if item.mask} == {
        (f"image{number:02d}", f"labels{number:02d}") for number in range(6)
    }
    dataset = folder(root)
    assert all((case.read().label == drawn(int(case.name[-2:]))[1]).all() for case in dataset.cases("train"))
    check_folder(root)
    output = capsys.readouterr().out
    assert "6 by mask_name: labels00.png for image00.tif, labels01.png for image01.tif" in output
    assert "no fault found" in output


def test_folders_of_other_names_in_each_split(tmp_path):
    for split in ("train", "val"):
        separate(tmp_path / split)
    dataset = folder(describe(tmp_path, image_folder="scans", mask_folder="truth/fine", mask_name="labels{id}"))
    assert [len(dataset.cases(split)) for split in ("train", "val")] == [6, 6]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({}, "has neither images/ nor .*; for folders of other names set image_folder and mask_folder in dataset"),
        ({"image_folder": "scan"}, r"dataset\.image_folder=scan: .*mine holds no such folder"),
        ({"image_folder": "scans", "mask_folder": "../x"}, r"mask_folder=\.\./x: expected the name of a folder below"),
        ({"image_folder": "/scans"}, "image_folder=/scans: expected the name of a folder below dataset.root"),
        (
            {"image_folder": "scans", "mask_folder": "truth/fine"},
            r"labels00\.png: is a mask without an image; .*say how names of masks differ with mask_name",
        ),
        (
            {"image_folder": "scans", "mask_folder": "truth/fine", "mask_name": "label{id}"},
            r"labels00\.png: is a mask without an image; nothing in .*scans fits mask_name=label\{id\}",
        ),
        ({"mask_name": "labels"}, r"mask_name=labels: expected a template with \{id\}"),
        (
            {"image_folder": "scans", "mask_folder": "truth/fine", "mask_name": "(?:image|labels"},
            r"dataset\.mask_name=\(\?:image\|labels: is no regular expression",
        ),
        (
            {"image_folder": "scans", "mask_folder": "truth/fine", "mask_name": "(?:image)"},
            r"dataset\.mask_name=\(\?:image\): has no \(\.\.\.\) around the part that image and mask share",
        ),
    ],
)
def test_names_that_fit_nothing_are_told(tmp_path, keys, words):
    with pytest.raises(UserError, match=words):
        folder(describe(separate(tmp_path / "mine"), **keys))
