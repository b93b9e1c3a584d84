"""Folders of masks: palettes, colours with a legend, one mask an object or a class, numbers of objects."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from sources import (
    PALETTE,
    SIZE,
    black_and_white,
    box,
    busi,
    colored,
    dsb,
    imported,
    mask_in,
    numbered,
    picture,
    save,
    voc,
)

from ssl4seg.data.imports.objects import touching
from ssl4seg.errors import UserError


def keys(out: Path) -> dict[str, object]:
    return yaml.safe_load((out / "dataset.yaml").read_text())


# -- palettes ---------------------------------------------------------------------------------------------------------


def test_palette_masks_keep_their_numbers_and_colours(tmp_path: Path) -> None:
    source = voc(tmp_path / "in")
    for split, name in (("train", "a"), ("val", "b")):
        file = source / f"ImageSets/Segmentation/{split}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{name}\n")
    out = imported(source, tmp_path / "out")
    expected = 1 * box(2, 6, 3, 9) + 2 * box(10, 20, 10, 20) + 255 * box(20, 21, 10, 20)
    assert np.array_equal(mask_in(out / "train/masks/a.png"), expected)
    assert np.array_equal(mask_in(out / "val/masks/b.png"), expected)
    assert (out / "train/images/c.jpg").is_symlink()
    assert keys(out) == {
        "classes": ["background", "class_1", "class_2"],
        "palette": ["#000000", "#800000", "#008000"],
        "ignore_index": 255,
    }


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("class_names.txt", "__ignore__\n_background_\nboat\ncar\n"),
        ("labelmap.txt", "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncar:0,128,0::\nboat:128,0,0::\n"),
    ],
)
def test_files_of_the_tools_name_the_classes(tmp_path: Path, name: str, text: str) -> None:
    source = voc(tmp_path / "in")
    (source / name).write_text(text)
    out = imported(source, tmp_path / "out")
    names = keys(out)["classes"]
    assert sorted(names) == ["background", "boat", "car"]  # type: ignore[call-overload]
    mask = mask_in(out / "masks/a.png")
    assert np.array_equal(mask == names.index("boat"), box(2, 6, 3, 9))  # type: ignore[attr-defined]
    assert np.array_equal(mask == names.index("car"), box(10, 20, 10, 20))  # type: ignore[attr-defined]
    assert np.array_equal(mask == 255, box(20, 21, 10, 20))


def test_faults_of_palette_folders(tmp_path: Path) -> None:
    source = voc(tmp_path / "in")
    (source / "class_names.txt").write_text("_background_\nboat\n")
    with pytest.raises(UserError, match=r"class_names\.txt: names 2 classes, but masks hold 2"):
        imported(source, tmp_path / "out")
    (source / "class_names.txt").unlink()
    save(source / "SegmentationClass/b.png", np.ones(SIZE, np.uint8), [0, 0, 0, 0, 0, 255, *PALETTE[6:]])
    with pytest.raises(UserError, match=r"the palettes of the masks differ: .* in labelmap\.txt or by --legend FILE"):
        imported(source, tmp_path / "out")
    save(source / "SegmentationClass/b.png", np.full((*SIZE, 3), (9, 8, 7), np.uint8))
    with pytest.raises(UserError, match=r"b\.png: holds colours, but nothing names their classes; add labelmap\.txt"):
        imported(source, tmp_path / "out")
    save(source / "SegmentationClass/b.png", np.ones((30, 30), np.uint8), PALETTE)
    save(source / "SegmentationClass/z.png", np.ones(SIZE, np.uint8), PALETTE)
    with pytest.raises(UserError) as refusal:
        imported(source, tmp_path / "out")
    assert "z.png: is a mask without an image" in str(refusal.value)
    assert "b.jpg: is 40 x 48 (height x width), but its annotation is 30 x 30" in str(refusal.value)


def test_faults_of_palette_folders_are_listed_at_once(tmp_path: Path) -> None:
    source = voc(tmp_path / "in")
    for name in "ab":
        (source / f"SegmentationClass/{name}.png").write_bytes(b"\x89PNG broken")
    save(source / "SegmentationClass/c.png", np.full((*SIZE, 3), (9, 8, 7), np.uint8))
    save(source / "SegmentationClass/z.png", np.full(SIZE, 7, np.uint8), PALETTE)
    (source / "class_names.txt").write_text("_background_\nboat\n")
    lists = source / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\nb\nghost\n")
    (lists / "val.txt").write_text("c\nphantom\nd.jpg\nb\n")
    with pytest.raises(UserError) as refusal:
        imported(source, tmp_path / "out", every=True)
    first, *lines = str(refusal.value).splitlines()
    missing = f"is missing in {source / 'JPEGImages'}; add the image, or remove the name (without ending)"
    expected = [
        "SegmentationClass/z.png: is a mask without an image",
        "SegmentationClass/a.png: cannot be read as a picture",
        "SegmentationClass/b.png: cannot be read as a picture",
        "SegmentationClass/c.png: holds colours, but nothing names their classes",
        "class_names.txt: names 2 classes, but masks hold 7",
        f"train.txt: 'ghost' {missing}",
        f"val.txt: 'phantom' {missing}",
        f"val.txt: 'd.jpg' {missing}",
        "val.txt: 'b' is in train.txt too; expected each image in one list",
    ]
    assert first.startswith(f"{len(expected)} faults in ")
    for line, words in zip(lines, expected, strict=True):
        assert words in line


def test_names_of_missing_images_are_shown_to_a_limit(tmp_path: Path) -> None:
    source = voc(tmp_path / "in")
    (source / "ImageSets/Segmentation").mkdir(parents=True)
    (source / "ImageSets/Segmentation/val.txt").write_text("cat\ndog\ncow\nbird\nfox\n")
    with pytest.raises(UserError, match=r"5 faults in (.*\n){4}\.\.\. and 2 more of this kind"):
        imported(source, tmp_path / "out")


# -- what kinds of one mask an image share ----------------------------------------------------------------------------

ONE_MASK = {
    "colors": (colored, "train/a.png", "train_labels/a_L.png"),
    "instances": (numbered, "images/a.png", "masks/a.tif"),
    "masks": (dsb, "two/images/two.png", "two/masks/n0.png"),
}
"""A source, and an image and its mask in it."""


@pytest.mark.parametrize("kind", ONE_MASK)
def test_all_faults_of_images_and_masks_are_listed_at_once(tmp_path: Path, kind: str) -> None:
    make, image, mask = ONE_MASK[kind]
    source = make(tmp_path / "in")
    folder, ending = (source / mask).parent, Path(mask).suffix
    if kind == "masks":  # a folder an image, so masks of another folder are without one
        black_and_white(source / "three/masks/lost.png", box(1, 3, 1, 3))
    else:
        (folder / f"lost{ending}").write_bytes((source / mask).read_bytes())
        (folder / f"a_mask{ending}").write_bytes((source / mask).read_bytes())
        (source / image).with_name("b.png").write_bytes((source / image).read_bytes())
        (folder / f"b{ending}").write_bytes(b"broken")
    picture(source / image, size=(30, 48))
    with pytest.raises(UserError) as refusal:
        imported(source, tmp_path / "out", kind, every=True)
    text, name = str(refusal.value), Path(image).name
    expected = [rf"lost\{ending if kind != 'masks' else '.png'}: is a mask without an image; expected one of its name"]
    expected += [rf"{name}: is 30 x 48 \(height x width\), but its annotation is 40 x 48"]
    if kind != "masks":
        expected += [rf"a_\w+\{ending}: is a second mask of a\.png", rf"b\{ending}: cannot be read as"]
    for words in expected:
        assert re.search(words, text), (words, text)
    assert text.startswith(f"{len(expected)} faults in ")


def test_classes_of_a_legend_that_no_mask_holds_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = colored(tmp_path / "in")
    (source / "class_dict.csv").write_text("name,r,g,b\nSky,1,2,3\nAnimal,64,128,64\nArchway,192,0,128\nVoid,0,0,0\n")
    out = imported(source, tmp_path / "out")
    expected = np.full(SIZE, 255)
    expected[box(2, 6, 3, 9)], expected[box(10, 20, 10, 20)] = 0, 1
    assert np.array_equal(mask_in(out / "masks/a.png"), expected)
    assert keys(out)["classes"] == ["Animal", "Archway"]
    assert keys(out)["palette"] == ["#408040", "#c00080"]
    assert "classes of which no mask holds a pixel are left out: Sky\n" in capsys.readouterr().out


# -- colours ----------------------------------------------------------------------------------------------------------

LEGENDS = {
    "class_dict.csv": "name,r,g,b\nAnimal,64,128,64\nArchway,192,0,128\nVoid,0,0,0\n",
    "label_colors.txt": "64 128 64\tAnimal\n192 0 128\t\tArchway\n0 0 0\tVoid\n",
    "legend.txt": "# a comment\nAnimal: #408040\nArchway: #c00080\nVoid: #000000\n",
    "legend.json": '{"Animal": "#408040", "Archway": [192, 0, 128], "Void": 0}',
}


@pytest.mark.parametrize("legend", LEGENDS)
def test_a_legend_names_the_colours(tmp_path: Path, legend: str) -> None:
    source = colored(tmp_path / "in")
    (source / "class_dict.csv").unlink()
    (source / legend).write_text(LEGENDS[legend])
    out = imported(source, tmp_path / "out")
    expected = np.full(SIZE, 255)
    expected[box(2, 6, 3, 9)], expected[box(10, 20, 10, 20)] = 0, 1
    assert np.array_equal(mask_in(out / "masks/a.png"), expected)
    assert keys(out) == {
        "classes": ["Animal", "Archway"],
        "palette": ["#408040", "#c00080"],
        "background": False,
        "ignore_index": 255,
    }


def test_black_is_background_where_no_line_names_it(tmp_path: Path) -> None:
    source = colored(tmp_path / "in")
    (source / "class_dict.csv").write_text("name,r,g,b\nAnimal,64,128,64\nArchway,192,0,128\n")
    out = imported(source, tmp_path / "out")
    expected = 1 * box(2, 6, 3, 9) + 2 * box(10, 20, 10, 20)
    assert np.array_equal(mask_in(out / "masks/a.png"), expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "Animal,64,128,64\nSky,1,2,3\nVoid,0,0,0",
            r"a_L\.png: unknown colours #c00080 \(100 pixels\); add them to .*/in/class_dict\.csv, or mend the mask$",
        ),
        ("Animal,64,128,64\nAnimal,192,0,128", "the name Animal comes twice"),
        ("Animal,64,128,64\nArchway,64,128,64", "the colour #408040 comes twice"),
        ("Animal,64,128,64\nArchway", r"line 2: 'Archway' has no colour; expected name:red,green,blue"),
        ("Animal,64,128,640", "the colour .64, 128, 640. has numbers below 0 or above 255"),
    ],
)
def test_faults_of_legends(tmp_path: Path, text: str, message: str) -> None:
    source = colored(tmp_path / "in")
    (source / "class_dict.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        imported(source, tmp_path / "out")


def test_smoothed_masks_are_not_said_to_be_cured_in_a_file_that_an_import_does_not_read(tmp_path: Path) -> None:
    source = colored(tmp_path / "in")
    save(source / "train_labels/a_L.png", np.random.default_rng(0).integers(0, 255, (*SIZE, 3), np.uint8))
    with pytest.raises(UserError, match=r"save masks as PNG with hard edges, or add them to .*/in/class_dict\.csv$"):
        imported(source, tmp_path / "out")


def test_faults_of_legends_in_json(tmp_path: Path) -> None:
    source = colored(tmp_path / "in")
    file = tmp_path / "colors.json"
    for text, message in (
        ('{"Animal": -1}', r"Animal: the colour \[-1, -1, -1\] has numbers below 0"),
        ('{"Animal": "red"}', r"'Animal': 'red': expected a name and \"#rrggbb\""),
        ("[]", 'expected {"name": "#rrggbb", ...}'),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=message):
            imported(source, tmp_path / "out", legend=file)
    file.unlink()
    with pytest.raises(UserError, match=r"colors\.json: there is no such file$"):
        imported(source, tmp_path / "out", legend=file)


# -- one mask an object -----------------------------------------------------------------------------------------------

OBJECTS = box(5, 15, 5, 25) | box(25, 30, 5, 9)


def test_a_folder_an_image_is_united_with_a_boundary_between_touching_objects(tmp_path: Path) -> None:
    plain = imported(dsb(tmp_path / "in"), tmp_path / "out")
    assert sorted(file.name for file in (plain / "images").iterdir()) == ["one.png", "two.png"]
    assert np.array_equal(mask_in(plain / "masks/one.png"), OBJECTS)
    out = imported(tmp_path / "in", tmp_path / "out2", boundary="edge", name="nucleus")
    assert np.array_equal(mask_in(out / "masks/two.png"), np.where(box(5, 15, 14, 16), 2, OBJECTS))
    assert keys(out)["classes"] == ["background", "nucleus", "edge"]


def test_touching_pixels_are_those_with_another_object_among_their_eight_neighbours() -> None:
    owner = np.random.default_rng(0).integers(0, 4, (17, 13)) * (np.random.default_rng(1).random((17, 13)) < 0.6)
    padded = np.pad(owner, 1)
    expected = [
        [
            owner[y, x] > 0 and any(n not in (0, owner[y, x]) for n in padded[y : y + 3, x : x + 3].flat)
            for x in range(owner.shape[1])
        ]
        for y in range(owner.shape[0])
    ]
    assert np.array_equal(touching(owner), expected)


def test_several_masks_an_image_are_one_class_or_that_of_their_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = busi(tmp_path / "in")
    out = imported(source, tmp_path / "out", name="lesion")
    assert keys(out)["classes"] == ["background", "lesion"]
    assert np.array_equal(mask_in(out / "masks/benign/benign (1).png"), box(5, 9, 5, 15) | box(5, 9, 25, 35))
    assert not mask_in(out / "masks/normal/normal (1).png").any()
    imported(source, tmp_path / "out2")
    assert "benign, malignant, normal are one class; --by-folder makes each folder a class" in capsys.readouterr().out
    out = imported(source, tmp_path / "out3", by_folder=True)
    assert keys(out)["classes"] == ["background", "benign", "malignant"]
    assert np.array_equal(mask_in(out / "masks/malignant/malignant (1).png"), 2 * box(5, 9, 5, 15))


def test_folders_below_the_masks_are_classes_unless_the_images_have_them(tmp_path: Path) -> None:
    for name in "ab":
        picture(tmp_path / f"in/images/{name}.png")
        for place, side in enumerate(("left", "right")):
            black_and_white(tmp_path / f"in/masks/{side}/{name}.png", box(5, 9, 5 + 20 * place, 15 + 20 * place))
    out = imported(tmp_path / "in", tmp_path / "out")
    assert keys(out)["classes"] == ["background", "left", "right"]
    assert np.array_equal(mask_in(out / "masks/a.png"), 1 * box(5, 9, 5, 15) + 2 * box(5, 9, 25, 35))
    for patient in ("p1", "p2"):
        picture(tmp_path / f"in2/images/{patient}/x.png")
        for number in (0, 1):
            black_and_white(tmp_path / f"in2/masks/{patient}/x_mask_{number}.png", box(5, 9, 5, 15 + number))
    out = imported(tmp_path / "in2", tmp_path / "out2")
    assert keys(out)["classes"] == ["background", "object"]
    assert np.array_equal(mask_in(out / "masks/p2/x.png"), box(5, 9, 5, 16))


def test_faults_of_masks_of_objects(tmp_path: Path) -> None:
    source = dsb(tmp_path / "in")
    save(source / "one/masks/n1.png", (np.arange(SIZE[0] * SIZE[1]).reshape(SIZE) % 256).astype(np.uint8))
    black_and_white(source / "two/masks/n2.png", box(0, 3, 0, 3, (20, 20)))
    (source / "two/masks/n0.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(UserError) as refusal:
        imported(source, tmp_path / "out", every=True)
    text = str(refusal.value)
    assert "n1.png: holds 256 different values, 99.2% of its pixels between black and white" in text
    assert "n0.png: cannot be read as a picture" in text
    (source / "two/masks/n0.png").unlink()
    (source / "one/masks/n1.png").unlink()
    with pytest.raises(UserError, match=r"n2\.png: is 20 x 20, but another mask of its image 40 x 48"):
        imported(source, tmp_path / "out")


# -- numbers of objects -----------------------------------------------------------------------------------------------


def test_numbers_of_objects_become_one_class(tmp_path: Path) -> None:
    source = numbered(tmp_path / "in")
    out = imported(source, tmp_path / "out", boundary="edge")
    assert np.array_equal(mask_in(out / "masks/a.png"), np.where(box(5, 15, 14, 16), 2, box(5, 15, 5, 25)))
    save(source / "masks/a.tif", np.full(SIZE, 0.5, np.float32))
    with pytest.raises(UserError, match=r"a\.tif: holds values that are no whole numbers from 0"):
        imported(source, tmp_path / "out2", kind="instances")


def test_cellpose_names(tmp_path: Path) -> None:
    picture(tmp_path / "in/000_img.png")
    save(tmp_path / "in/000_masks.png", (3 * box(5, 9, 5, 15) + 900 * box(20, 30, 20, 30)).astype(np.uint16))
    out = imported(tmp_path / "in", tmp_path / "out")
    assert np.array_equal(mask_in(out / "masks/000_img.png"), box(5, 9, 5, 15) | box(20, 30, 20, 30))


# -- folders as Datumaro writes them ----------------------------------------------------------------------------------


def test_names_in_folders_and_with_blanks_are_those_of_the_lists(tmp_path: Path) -> None:
    source = voc(tmp_path / "in")
    for kind, ending in (("JPEGImages", "jpg"), ("SegmentationClass", "png")):
        for old, new in (("a", "one/left lung"), ("b", "two/left lung")):
            (source / kind / new).parent.mkdir()
            (source / f"{kind}/{old}.{ending}").rename(source / f"{kind}/{new}.{ending}")
    lists = source / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("one/left lung\nc 1\n")
    (lists / "val.txt").write_text('"two/left lung" 1\n')
    out = imported(source, tmp_path / "out")
    images = {file.relative_to(out).as_posix() for file in out.glob("*/images/**/*.jpg")}
    assert images == {"train/images/one/left lung.jpg", "train/images/c.jpg", "val/images/left lung.jpg"}
    assert (out / "val/masks/left lung.png").is_file()


def test_a_labelmap_without_colours_has_those_of_voc(tmp_path: Path) -> None:
    source = voc(tmp_path / "in")
    colors = np.array(PALETTE, np.uint8).reshape(-1, 3)
    for name in "ab":
        save(source / f"SegmentationClass/{name}.png", colors[mask_in(source / f"SegmentationClass/{name}.png")])
    (source / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nbackground:::\nleft:lung:::\nheart:::\n")
    out = imported(source, tmp_path / "out")
    assert np.array_equal(np.unique(mask_in(out / "masks/a.png")), [0, 1, 2, 255])
    assert keys(out)["classes"] == ["background", "left:lung", "heart"]
    assert keys(out)["palette"] == ["#000000", "#800000", "#008000"]
    (source / "labelmap.txt").write_text("background:0,0,0::\nleft:lung:::\nheart:0,128,0::\n")
    with pytest.raises(UserError, match=r"labelmap\.txt: line 2: 'left:lung:::' has no colour"):
        imported(source, tmp_path / "out2")


def test_a_name_of_a_labelmap_may_hold_a_colon(tmp_path: Path) -> None:
    source = voc(tmp_path / "in")
    (source / "labelmap.txt").write_text("background:0,0,0::\nlung: left, 3:128,0,0::\nlung: right:0,128,0::\n")
    colors = np.array(PALETTE, np.uint8).reshape(-1, 3)
    for name in "ab":
        save(source / f"SegmentationClass/{name}.png", colors[mask_in(source / f"SegmentationClass/{name}.png")])
    assert keys(imported(source, tmp_path / "out"))["classes"] == ["background", "lung: left, 3", "lung: right"]
