"""COCO JSON: masks pixel by pixel, categories, images, and every fault of a file at once."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools import mask as coco_mask
from sources import SIZE, box, coco, imported, mask_in, outline, panoptic, picture, runs, runs_in_list, save, some_coco

from ssl4seg.data.imports.shapes import _lengths
from ssl4seg.errors import UserError

A, B, C = box(5, 20, 5, 30), box(10, 30, 15, 40), box(12, 15, 0, 48)


def overlapping(folder: Path) -> Path:
    """Class 3 as an outline, class 7 as a string of run lengths over it, class 3 as a list of run lengths over both."""
    return coco(
        folder,
        [
            {"segmentation": [outline(5, 20, 5, 30)]},
            {"segmentation": runs(B), "category_id": 7},
            {"segmentation": runs_in_list(C), "iscrowd": 1},
        ],
    )


def test_later_objects_lie_above_earlier_ones(tmp_path: Path) -> None:
    out = imported(overlapping(tmp_path / "in"), tmp_path / "out")
    expected = np.zeros(SIZE, np.uint8)
    expected[A], expected[B], expected[C] = 1, 2, 1
    assert np.array_equal(mask_in(out / "masks/0.png"), expected)
    assert yaml.safe_load((out / "dataset.yaml").read_text()) == {"classes": ["background", "cell", "dog"]}


def test_order_area_puts_the_smaller_object_above(tmp_path: Path) -> None:
    assert B.sum() > A.sum() > C.sum()
    out = imported(overlapping(tmp_path / "in"), tmp_path / "out", order="area")
    expected = np.zeros(SIZE, np.uint8)
    expected[B], expected[A], expected[C] = 2, 1, 1
    assert np.array_equal(mask_in(out / "masks/0.png"), expected)


def test_outlines_of_an_object_are_united_and_cut_off_at_the_edge(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = [outline(-10, 5, -20, 10), outline(30, 50, 40, 60), outline(-9, -2, 3, 9), [1.0, 1.0, 2.0, 2.0]]
    out = imported(coco(tmp_path / "in", [{"segmentation": parts}]), tmp_path / "out")
    assert np.array_equal(mask_in(out / "masks/0.png"), box(0, 5, 0, 10) | box(30, 40, 40, 48))
    said = capsys.readouterr().out
    assert "2 outlines reach beyond their image, and are cut off" in said
    assert "1 outlines lie outside of their image" in said
    assert "1 outlines of fewer than three points are left out" in said


def test_run_lengths_in_strings_are_those_of_the_coco_tools() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        size = rng.integers(1, 200, 2)
        mask = np.asfortranarray(rng.random(size) < rng.random() ** 3, dtype=np.uint8)
        text = coco_mask.encode(mask)["counts"].decode()
        lengths = _lengths(text)
        ends = np.cumsum(lengths)
        flat = np.zeros(mask.size, np.uint8)
        for start, end in zip(ends[::2], ends[1::2], strict=False):
            flat[start:end] = 1
        assert ends[-1] == mask.size
        assert np.array_equal(flat, mask.T.ravel())


def test_categories_of_one_name_are_one_class_and_unused_ones_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {1: "dog", 2: "cat", 3: "dog", 4: "Background", 5: "cow"}
    categories = [{"id": number, "name": name} for number, name in names.items()]
    objects = [
        {"category_id": number, "segmentation": [outline(0, 9, left, left + 9)]}
        for number, left in ((1, 0), (3, 10), (5, 20), (4, 25))
    ]
    out = imported(coco(tmp_path / "in", objects, categories=categories), tmp_path / "out")
    expected = np.where(box(0, 9, 0, 9) | box(0, 9, 10, 19), 1, 0) + 2 * box(0, 9, 20, 25)
    assert np.array_equal(mask_in(out / "masks/0.png"), expected)
    said = capsys.readouterr().out
    assert "2 categories are called dog, and are one class" in said
    assert "classes without an object are left out: cat" in said


@pytest.mark.parametrize(("empty", "masks"), [("unlabeled", 6), ("background", 8)])
def test_images_without_annotations(tmp_path: Path, capsys: pytest.CaptureFixture[str], empty: str, masks: int) -> None:
    out = imported(some_coco(tmp_path / "in"), tmp_path / "out", empty=empty)
    assert len(list((out / "images").iterdir())) == 8
    assert len(list((out / "masks").iterdir())) == masks
    assert f"2 images without annotations are {empty.replace('beled', 'belled')}" in capsys.readouterr().out
    if empty == "background":
        assert not mask_in(out / "masks/7.png").any()


def test_files_of_train_and_val_give_the_split(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        coco(tmp_path / f"in/{split}", [{"segmentation": [outline(1, 9, 1, 9)]}], name="_annotations.coco.json")
    out = imported(tmp_path / "in", tmp_path / "out")
    assert {file.relative_to(out).as_posix() for file in out.rglob("*.png")} == {
        f"{split}/{kind}/0.png" for split in ("train", "val") for kind in ("images", "masks")
    }


def test_a_file_of_one_split_that_was_cut_off_is_a_fault(tmp_path: Path) -> None:
    for split in ("train", "val"):
        coco(tmp_path / f"in/{split}", [{"segmentation": [outline(1, 9, 1, 9)]}])
    file = tmp_path / "in/val/instances.json"
    file.write_text(file.read_text().partition('"categories"')[0])
    with pytest.raises(UserError, match=r"val/instances\.json: cannot be read as JSON"):
        imported(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_names_in_subfolders_are_found_by_their_end(tmp_path: Path) -> None:
    source = coco(tmp_path / "in", [{"segmentation": [outline(1, 9, 1, 9)]}])
    (source / "0.png").unlink()
    picture(source / "a/deep/0.png")
    picture(source / "b/0.png")
    with pytest.raises(UserError, match=r"0\.png may be a/deep/0\.png or b/0\.png"):
        imported(source, tmp_path / "out")
    file = source / "instances.json"
    file.write_text(file.read_text().replace('"0.png"', '"other\\\\deep\\\\0.png"'))
    with pytest.raises(UserError, match=r"other.*0\.png is missing"):
        imported(source, tmp_path / "out")
    file.write_text(file.read_text().replace("other", "home\\\\a"))
    assert mask_in(imported(source, tmp_path / "out") / "masks/0.png").any()


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "far outline": (
        {"segmentation": [[0, 0, 1e9, 0, 0, 9]]},
        r"outline reaches to x=1e\+09, y=0, in an image of 40 x 48",
    ),
    "long outline": ({"segmentation": [[0, 0, 9e5, 9] * 9]}, r"outline is \d+ pixels long"),
    "NaN": ({"segmentation": [[0, 0, float("nan"), 0, 0, 9]]}, "no list of x and y by turns"),
    "odd outline": ({"segmentation": [[0, 0, 1, 0, 0, 9, 3]]}, "no list of x and y by turns"),
    "no segmentation": ({"segmentation": []}, "has no segmentation, though it may have a box"),
    "unknown category": (
        {"segmentation": [outline(1, 2, 1, 2)], "category_id": 99},
        "category_id 99 is that of no category",
    ),
    "unknown image": ({"segmentation": [outline(1, 2, 1, 2)], "image_id": 5}, "image_id 5 is that of no image"),
    "runs too long": (
        {"segmentation": {"size": [40, 48], "counts": [0, 10**15]}},
        r"of 1000000000000000 pixels, .* has 1920",
    ),
    "runs too short": ({"segmentation": {"size": [40, 48], "counts": "34"}}, r"of 7 pixels, but its image has 1920"),
    "runs of another size": ({"segmentation": {"size": [10**6, 10**6], "counts": "0"}}, r"size \[1000000, 1000000\]"),
    "runs cut off": ({"segmentation": {"size": [40, 48], "counts": "o"}}, "end within a number"),
    "no runs": ({"segmentation": {"size": [40, 48], "counts": {}}}, "neither a list of whole numbers nor a string"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_annotation_is_refused_by_its_number(tmp_path: Path, fault: str) -> None:
    annotation, message = FAULTS[fault]
    source = coco(tmp_path / "in", [{"segmentation": [outline(1, 9, 1, 9)]}, annotation])
    with pytest.raises(UserError, match=rf"instances\.json: annotation 1: .*{message}"):
        imported(source, tmp_path / "out")
    assert [file.name for file in tmp_path.iterdir()] == ["in"]


NAMES = {
    "../in2/0.png": "leads out of",
    "/etc/passwd": "leads out of",
    "C:\\a\\0.png": "leads out of",
    "link.png": "is a link out of",
    "none.png": r"none\.png is missing in .*; add it, or say where the images are: --images FOLDER",
    "": "its file_name is ''",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_leads_out_of_the_folder_or_nowhere_is_refused(tmp_path: Path, name: str) -> None:
    picture(tmp_path / "in2/0.png")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/link.png").symlink_to(tmp_path / "in2/0.png")
    images = [{"id": 0, "file_name": name, "height": SIZE[0], "width": SIZE[1]}]
    source = coco(tmp_path / "in", [{"segmentation": [outline(1, 9, 1, 9)]}], images=0)
    content = json.loads((source / "instances.json").read_text()) | {"images": images}
    (source / "instances.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"instances\.json: image 0: .*{NAMES[name]}"):
        imported(source, tmp_path / "out")


def test_all_faults_of_a_file_are_listed_at_once(tmp_path: Path) -> None:
    source = coco(
        tmp_path / "in",
        [each for each, _ in FAULTS.values()],
        categories=[{"id": 3, "name": "a"}, {"id": 3, "name": "b"}],
    )
    picture(source / "0.png", size=(40, 49))
    with pytest.raises(UserError) as refusal:
        imported(source, tmp_path / "out", every=True)
    lines = str(refusal.value).splitlines()
    assert lines[0] == f"{len(FAULTS) + 2} faults in {source}, nothing is written:"
    assert any("categories[1]: id 3 comes twice" in line for line in lines)
    assert any("0.png: is 40 x 49 (height x width), but its annotation is 40 x 48" in line for line in lines)


def test_what_is_no_coco_file_is_refused(tmp_path: Path) -> None:
    source = some_coco(tmp_path / "in")
    file = source / "instances.json"
    whole = file.read_text()
    for text, message in (
        (whole[: len(whole) // 2], r"instances\.json: cannot be read as JSON"),
        (whole.replace('"images": [', '"images": [3, '), "images is no list of records"),
        ("[" * 100_000 + '"images" "annotations" "categories"', "cannot be read as JSON"),
        (whole.replace('"height": 40', '"height": "big"'), "its height and width are 'big' and 48"),
        (whole.replace('"id": 1, "file_name"', '"id": 0, "file_name"'), r"images\[1\]: id 0 comes twice"),
        (whole.replace("1.png", "0.png"), r"two images have the file 0\.png"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=message):
            imported(source, tmp_path / "out", kind="coco")


def test_too_few_classes_are_no_fault_of_their_own_where_another_is_the_cause(tmp_path: Path) -> None:
    source = some_coco(tmp_path / "in")
    file = source / "instances.json"
    whole = json.loads(file.read_text())
    file.write_text(file.read_text()[:99])
    with pytest.raises(UserError) as refusal:
        imported(source, tmp_path / "out", kind="coco")
    assert "cannot be read as JSON" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    file.write_text(json.dumps(whole | {"annotations": []}))
    with pytest.raises(UserError, match=r"in: 1 classes are used \('background'\); expected a list of 2 to 255"):
        imported(source, tmp_path / "out")


def test_masks_are_turned_as_the_exif_of_their_images_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = coco(tmp_path / "in", [{"segmentation": [outline(0, 10, 0, 5)]}])
    with Image.open(source / "0.png") as image:
        tag = image.getexif()
        tag[0x0112] = 6  # a viewer turns it by a quarter, clockwise
        image.save(source / "0.png", exif=tag)
    out = imported(source, tmp_path / "out")
    assert np.array_equal(mask_in(out / "masks/0.png"), np.rot90(box(0, 10, 0, 5), -1))
    assert "1 masks were turned as the tag Orientation (EXIF)" in capsys.readouterr().out


PANOPTIC_FAULTS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no image": (lambda content: content["images"][0].update(file_name="9.jpg"), r"image 0: 9\.jpg is missing in"),
    "no PNG": (lambda content: content["annotations"][0].update(file_name="9.png"), r"image 0: 9\.png is missing in"),
    "height": (
        lambda content: content["images"][0].update(height=99),
        r"0\.jpg: is 40 x 48 \(height x width\), but its annotation is 99 x 48",
    ),
    "no width": (lambda content: content["images"][0].pop("width"), "image 0: its height and width are 40 and None"),
    "category": (
        lambda content: content["annotations"][0]["segments_info"][1].update(category_id=5),
        "annotation 0: segment 65536: category_id 5 is that of no category",
    ),
    "no segments": (
        lambda content: content["annotations"][0].update(segments_info=[]),
        r"panoptic_val\.json: no annotation lists a segment; expected some in segments_info",
    ),
    "one category": (
        lambda content: content["annotations"][0]["segments_info"][1].update(category_id=3),
        r"in: 1 classes are used \('cell'\); expected a list of 2 to 255",
    ),
}


@pytest.mark.parametrize("fault", PANOPTIC_FAULTS)
def test_faults_of_panoptic_files(tmp_path: Path, fault: str) -> None:
    source = panoptic(tmp_path / "in")
    file = source / "annotations/panoptic_val.json"
    content = json.loads(file.read_text())
    change, message = PANOPTIC_FAULTS[fault]
    change(content)
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message) as refusal:
        imported(source, tmp_path / "out")
    assert ("classes are used" in str(refusal.value)) == (fault == "one category")


def test_panoptic_pngs_of_another_size_than_their_image_are_refused(tmp_path: Path) -> None:
    source = panoptic(tmp_path / "in")
    save(source / "annotations/panoptic_val/0.png", np.zeros((30, 48, 3), np.uint8))
    with pytest.raises(UserError, match=r"0\.jpg: is 40 x 48 \(height x width\), but its annotation is 30 x 48"):
        imported(source, tmp_path / "out")


def test_panoptic_segments(tmp_path: Path) -> None:
    out = imported(panoptic(tmp_path / "in"), tmp_path / "out")
    expected = np.full(SIZE, 255)
    expected[:3], expected[10:20] = 0, 1
    assert np.array_equal(mask_in(out / "masks/0.png"), expected)
    assert yaml.safe_load((out / "dataset.yaml").read_text()) == {
        "classes": ["cell", "dog"],
        "palette": ["#1e00ff", "#4600ff"],
        "background": False,
        "ignore_index": 255,
    }
    out = imported(tmp_path / "in", tmp_path / "out2", empty="background")
    assert np.array_equal(mask_in(out / "masks/0.png"), np.where(expected == 255, 0, expected + 1))
    file = tmp_path / "in/annotations/panoptic_val.json"
    file.write_text(file.read_text().replace('"id": 257', '"id": 258'))
    with pytest.raises(UserError, match=r"panoptic_val/0\.png: holds segment 257, which segments_info does not list"):
        imported(tmp_path / "in", tmp_path / "out3")


# -- files as Datumaro, CVAT and COCO itself lay them -----------------------------------------------------------------


def subsets(folder: Path, make: Callable[[Path], Path], file: str) -> Path:
    """annotations/TASK_train.json and _val.json of two images of one name, images/train/0.png and images/val/0.png."""
    task, _, ending = file.partition("*")
    for number, subset in enumerate(("train", "val")):
        made = make(folder / subset)
        picture(folder / f"images/{subset}/0.png", number)
        target = folder / f"annotations/{task}{subset}{ending}"
        target.parent.mkdir(exist_ok=True)
        (made / "instances.json").rename(target)
        for each in made.iterdir():
            each.unlink()
        made.rmdir()
    return folder


def test_images_of_one_name_in_two_subsets_are_those_of_their_own_file(tmp_path: Path) -> None:
    source = subsets(tmp_path / "in", lambda folder: coco(folder, two_squares()), "instances_*.json")
    out = imported(source, tmp_path / "out")
    for subset in ("train", "val"):
        assert (out / f"{subset}/images/0.png").resolve() == source / f"images/{subset}/0.png"


def two_squares() -> list[dict[str, Any]]:
    return [{"segmentation": [outline(5, 9, 5, 9)]}, {"segmentation": [outline(15, 19, 5, 9)], "category_id": 7}]


def test_files_of_other_tasks_of_coco_are_left_out_where_there_are_instances(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = subsets(tmp_path / "in", lambda folder: coco(folder, two_squares()), "instances_*.json")
    for subset in ("train", "val"):
        content = json.loads((source / f"annotations/instances_{subset}.json").read_text())
        for task in ("person_keypoints", "stuff", "image_info"):
            file = source / f"annotations/{task}_{subset}.json"
            file.write_text(json.dumps(content | {"annotations": []}))
    out = imported(source, tmp_path / "out")
    assert mask_in(out / "val/masks/0.png").max() == 2
    assert "6 files of other tasks of COCO are not read, as there are some of instances" in capsys.readouterr().out
    for file in source.glob("annotations/instances_*"):
        file.unlink()
    with pytest.raises(UserError, match="holds 6 files of annotations"):
        imported(source, tmp_path / "out2")


def test_panoptic_files_of_train_and_val_give_the_split(tmp_path: Path) -> None:
    source = panoptic(tmp_path / "in")
    notes = source / "annotations"
    save(notes / "panoptic_train/0.png", np.full((*SIZE, 3), (2, 0, 0), np.uint8))
    picture(source / "train/0.jpg", 1)
    content = json.loads((notes / "panoptic_val.json").read_text())
    content["annotations"][0]["segments_info"] = [{"id": 2, "category_id": 1}]
    content["categories"] = [{"id": 1, "name": "dog", "color": [70, 0, 255]}]
    (notes / "panoptic_train.json").write_text(json.dumps(content))
    out = imported(source, tmp_path / "out")
    assert yaml.safe_load((out / "dataset.yaml").read_text())["classes"] == ["dog", "cell"]
    assert np.array_equal(np.unique(mask_in(out / "train/masks/0.png")), [0])
    assert np.array_equal(np.unique(mask_in(out / "val/masks/0.png")), [0, 1, 255])
    assert mask_in(out / "val/masks/0.png")[0, 0] == 1
    assert (out / "train/images/0.jpg").resolve() == source / "train/0.jpg"
    (notes / "panoptic_train.json").rename(notes / "panoptic_more.json")
    with pytest.raises(UserError, match=r"holds 2 files of annotations \(annotations/panoptic_more\.json, "):
        imported(source, tmp_path / "out2")


@pytest.mark.parametrize("name", ["/home/me/img/one/0.png", "C:\\img\\one\\0.png", "//server/img/one/0.png"])
def test_a_whole_path_of_another_computer_is_found_by_its_end_where_the_images_are_given(
    tmp_path: Path, name: str
) -> None:
    for folder in ("one", "two"):
        picture(tmp_path / f"img/{folder}/0.png")
    (tmp_path / "in").mkdir()
    source = coco(tmp_path / "in", two_squares(), images=0)
    content = json.loads((source / "instances.json").read_text())
    content["images"] = [{"id": 0, "file_name": name, "height": SIZE[0], "width": SIZE[1]}]
    (source / "instances.json").write_text(json.dumps(content))
    out = imported(source, tmp_path / "out", images=tmp_path / "img")
    assert (out / "images/0.png").resolve() == tmp_path / "img/one/0.png"
