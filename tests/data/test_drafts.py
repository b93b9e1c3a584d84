"""Annotations: read by pycocotools, or painted by the centres of pixels, they are the labels again."""

import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pycocotools.mask
import pytest
from PIL import Image
from pycocotools.coco import COCO
from scipy.ndimage import gaussian_filter
from skimage.draw import polygon2mask

from ssl4seg.data.drafts.base import Draft
from ssl4seg.data.drafts.coco import Coco
from ssl4seg.data.drafts.cvat import Cvat
from ssl4seg.data.drafts.kinds import DRAFTS
from ssl4seg.data.drafts.labelme import LabelMe
from ssl4seg.data.drafts.panoptic import Panoptic
from ssl4seg.data.drafts.regions import regions_of
from ssl4seg.errors import UserError
from ssl4seg.keys import IGNORE, OF_COMMAND

NAMES = {0: "background", 1: "ring", 2: "core", IGNORE: "unsure"}


def blobs(seed: int) -> np.ndarray:
    """Regions of all sizes and classes that touch, with holes and with others in their holes, up to the edges."""
    rng = np.random.default_rng(seed)
    smooth = gaussian_filter(rng.normal(size=(48, 61)), 2 - seed % 2)
    label = np.digitize(smooth, np.quantile(smooth, [0.4, 0.7, 0.9])).astype(np.uint8)
    label[rng.random(label.shape) < 0.02] = 2
    return np.where(label == 3, IGNORE, label).astype(np.uint8)


def target() -> np.ndarray:
    """A ring of class 1 around background, in which lies a square of class 2."""
    label = np.zeros((9, 12), np.uint8)
    label[1:8, 2:9] = 1
    label[2:7, 3:8] = 0
    label[4:6, 5:7] = 2
    return label


def painted(content: dict) -> np.ndarray:
    """The label that a LabelMe file shows: later polygons over earlier ones, the rest background."""
    number = {name: k for k, name in NAMES.items()}
    label = np.zeros((content["imageHeight"], content["imageWidth"]), np.uint8)
    for shape in content["shapes"]:
        corners = np.array(shape["points"])[:, ::-1] - 0.5  # polygon2mask has centres of pixels at whole numbers
        label[polygon2mask(label.shape, corners)] = number[shape["label"]]
    return label


def labelme(tmp_path: Path, label: np.ndarray, *, background: bool = True) -> dict:
    draft = LabelMe(tmp_path / "out", NAMES, background=background)
    draft.add(label, tmp_path / "in/a.png", "a.png", tmp_path / "out/a.json")
    return json.loads((tmp_path / "out/a.json").read_text())


def drafted(kind: type[Draft], out: Path) -> dict[str, np.ndarray]:
    """Write labels as annotations; return them by the names of their pictures."""
    labels = {f"deep/{seed}.png": blobs(seed) for seed in range(4)} | {"target.png": target()}
    draft = kind(out, NAMES, background=True)
    targets = {name: out / name for name in labels}
    files = draft.files(targets.values())
    for name, label in labels.items():
        draft.add(label, out / "in" / name, name, targets[name])
    assert draft.write() == files[0]
    assert {file for file in out.rglob("*") if file.is_file()} == set(files)
    return labels


@pytest.fixture(autouse=True)
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def test_a_coco_file_is_decoded_to_the_labels_pixel_by_pixel(out: Path) -> None:
    labels = drafted(Coco, out)
    read = COCO(out / "annotations.json")
    assert {each["id"]: each["name"] for each in read.loadCats(read.getCatIds())} == {1: "ring", 2: "core", 3: "unsure"}
    kinds = set()
    for image in read.loadImgs(read.getImgIds()):
        label = np.zeros((image["height"], image["width"]), np.uint8)
        for each in read.loadAnns(read.getAnnIds(image["id"])):
            mask = read.annToMask(each).astype(bool)
            rows, columns = np.nonzero(mask)
            x, y, width, height = each["bbox"]
            assert (x, y, x + width, y + height) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert mask.sum() == each["area"]
            assert not label[mask].any()  # no two overlap
            label[mask] = (1, 2, IGNORE)[each["category_id"] - 1]
            kinds.add(type(each["segmentation"]))
        assert np.array_equal(label, labels.pop(image["file_name"]))
    assert not labels
    assert kinds == {list, dict}  # polygons, and run lengths of what has holes


def test_panoptic_numbers_are_the_labels_and_their_segments_say_where_and_how_many(out: Path) -> None:
    labels = drafted(Panoptic, out)
    content = json.loads((out / "annotations.json").read_text())
    assert [(each["id"], each["name"], each["isthing"]) for each in content["categories"]] == [
        (1, "ring", 0),
        (2, "core", 0),
        (3, "unsure", 0),
    ]
    for image, each in zip(content["images"], content["annotations"], strict=True):
        assert (each["image_id"], each["file_name"]) == (image["id"], image["file_name"])
        with Image.open(out / "annotations" / each["file_name"]) as file:
            numbers = np.array(file).astype(int) @ (1, 256, 65536)
        label = np.array([0, 1, 2, IGNORE])[numbers]
        assert np.array_equal(label, labels.pop(image["file_name"]))
        assert {segment["id"] for segment in each["segments_info"]} == {*np.unique(numbers)} - {0}
        for segment in each["segments_info"]:
            x, y, width, height = segment["bbox"]
            inside = numbers[y : y + height, x : x + width] == segment["id"]
            assert inside.sum() == (numbers == segment["id"]).sum() == segment["area"]
            assert inside.any(axis=0)[[0, -1]].all()
            assert inside.any(axis=1)[[0, -1]].all()
    assert not labels


def test_a_cvat_file_is_drawn_to_the_label_pixel_by_pixel(out: Path) -> None:
    labels = drafted(Cvat, out)
    root = ElementTree.parse(out / "annotations.xml").getroot()
    assert [each.findtext("name") for each in root.iterfind("meta/task/labels/label")] == ["ring", "core", "unsure"]
    shapes = set()
    for image in root.iterfind("image"):
        label = np.zeros((int(image.get("height")), int(image.get("width"))), np.uint8)
        for shape in image:
            mask = np.zeros(label.shape, bool)
            if shape.tag == "mask":
                left, top, width, height = (int(shape.get(key)) for key in ("left", "top", "width", "height"))
                bits = "".join("01"[i % 2] * int(run) for i, run in enumerate(shape.get("rle").split(", ")))
                mask[top : top + height, left : left + width] = np.array([*bits], int).reshape(height, width)
            else:
                points = [float(value) for value in shape.get("points").replace(";", ",").split(",")]
                mask = pycocotools.mask.decode(pycocotools.mask.frPyObjects([points], *label.shape))[..., 0].astype(
                    bool
                )
            assert not label[mask].any()  # no two overlap
            label[mask] = {"ring": 1, "core": 2, "unsure": IGNORE}[shape.get("label")]
            shapes.add(shape.tag)
        assert np.array_equal(label, labels.pop(image.get("name")))
    assert not labels
    assert shapes == {"polygon", "mask"}


def test_the_forms_are_those_that_the_key_takes() -> None:
    assert OF_COMMAND["predict"]["format"].expected == f"one of masks, {', '.join(DRAFTS)}"


@pytest.mark.parametrize("background", [True, False])
def test_a_labelme_file_is_painted_to_the_label_pixel_by_pixel(tmp_path: Path, background: bool) -> None:
    for label in (*map(blobs, range(2)), target()):
        content = labelme(tmp_path, label, background=background)
        assert np.array_equal(painted(content), label)
        assert content["imagePath"] == "../in/a.png"


def test_what_lies_in_a_hole_is_drawn_after_it_and_no_other_background(tmp_path: Path) -> None:
    shapes = labelme(tmp_path, target())["shapes"]
    assert [shape["label"] for shape in shapes] == ["ring", "background", "core"]
    assert shapes[0]["points"][0] != shapes[0]["points"][-1]
    x, y = np.array(shapes[2]["points"]).T
    assert (x.min(), x.max(), y.min(), y.max()) == (5, 7, 4, 6)


def test_a_polygon_has_fewer_corners_than_its_region_has_pixels_on_the_edge() -> None:
    row, column = np.mgrid[:300, :300]
    disc = (np.hypot(row - 150.3, column - 140.2) < 130).astype(np.uint8)
    (region,) = (region for region in regions_of(disc) if region.number)
    corners = region.outline()
    assert len(corners) < 2 * np.pi * 130 / 2
    assert np.abs(np.hypot(corners[:, 0] - 140.7, corners[:, 1] - 150.8) - 130).max() < 1


def test_a_single_pixel_is_a_region() -> None:
    label = np.zeros((3, 4), np.uint8)
    label[1, 2] = 1
    (region,) = (region for region in regions_of(label) if region.number)
    assert sorted(map(tuple, region.outline().tolist())) == [(2, 1.5), (2.5, 1), (2.5, 2), (3, 1.5)]


def test_a_missing_package_is_named_with_the_command_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools.mask", None)
    with pytest.raises(UserError, match=r"pycocotools: pip install 'ssl4seg\[import\]'"):
        Coco(Path(), {1: "ring"}, background=False)
