"""Annotations of polygons: read by pycocotools, or painted by the centres of pixels, they are the labels again."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from scipy.ndimage import gaussian_filter
from skimage.draw import polygon2mask

from ssl4seg.data.drafts import Coco, regions_of, write_labelme
from ssl4seg.errors import UserError
from ssl4seg.keys import IGNORE

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
    write_labelme(tmp_path / "out/a.json", label, tmp_path / "in/a.png", NAMES, background=background)
    return json.loads((tmp_path / "out/a.json").read_text())


@pytest.fixture(autouse=True)
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def test_a_coco_file_is_decoded_to_the_labels_pixel_by_pixel(out: Path) -> None:
    labels = {f"deep/{seed}.png": blobs(seed) for seed in range(4)} | {"target.png": target()}
    coco = Coco({k: name for k, name in NAMES.items() if k})
    for name, label in labels.items():
        coco.add(label, name)
    coco.write(out / "annotations.json")
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
        Coco({1: "ring"})
