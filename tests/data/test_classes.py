"""Classes that are merged, dropped or only counted, and masks whose colours are nearly those of classes."""

import json
from pathlib import Path

import numpy as np
import pytest
from folders import describe, drawn, folder, save, write_pairs
from PIL import Image

from ssl4seg.commands.check_folder import check_folder
from ssl4seg.data.classes import with_classes
from ssl4seg.data.dataset import SPLITS
from ssl4seg.data.folder import Folder
from ssl4seg.data.masks import MaskReader, as_held
from ssl4seg.errors import UserError
from ssl4seg.keys import IGNORE

ANIMALS = ["ground", "dog", "tree", "cat", "blur"]
MERGED = {"dog": "animal", "cat": "animal", "tree": "ground", "blur": None}


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    """Masks with the numbers 0 to 4, one in each column."""
    root = write_pairs(tmp_path / "zoo", [f"i{number}" for number in range(10)])
    for mask in (root / "masks").iterdir():
        save(mask, np.tile(np.arange(5, dtype=np.uint8), (40, 10))[:, :48])
    return describe(root, classes=ANIMALS, class_map=MERGED)


def columns(dataset: Folder) -> list[int]:
    label = dataset.cases("val")[0].read().label
    assert label is not None
    return label[0, 0, :5].tolist()


def test_classes_are_merged_and_dropped(zoo):
    dataset = folder(zoo)
    assert dataset.classes == ("ground", "animal")
    assert columns(dataset) == [0, 1, 0, 1, IGNORE]
    keys = json.loads(json.dumps(Folder.completed({"root": str(zoo), "num_classes": 5})))  # as a run keeps them
    assert (keys["num_classes"], keys["class_map"]) == (2, [0, 1, 0, 1, IGNORE])
    assert Folder.completed(keys) == keys
    assert as_held(np.array([[[0, 1]]], np.uint8), Folder.mask_colors(keys)).tolist() == [[[0, 1]]]


def test_a_map_goes_together_with_colours_and_the_command_line(zoo):
    colors = ["#000000", "#ff0000", "#00ff00", "#0000ff", "#ffffff"]
    for mask in (zoo / "masks").iterdir():
        numbers = np.asarray(Image.open(mask))
        save(mask, as_held(numbers[None], colors)[0])
    dataset = folder(zoo, colors=colors, class_map={"ground": None, "dog": "cat"})
    assert dataset.classes == ("cat", "tree", "blur")
    assert columns(dataset) == [IGNORE, 0, 1, 0, 2]
    assert dataset.palette == ["#ff0000", "#00ff00", "#ffffff"]
    with pytest.raises(UserError, match=r"colors=.*expected 5 colours, one for each class in the masks"):
        folder(zoo, colors=colors[:2])


def test_check_counts_the_classes_that_are_left(zoo, monkeypatch, capsys):
    monkeypatch.chdir(zoo.parent)
    check_folder(zoo)
    output = capsys.readouterr().out
    assert "1   animal   48.718% of the pixels, in 10 of 10 masks" in output  # 19 of the 39 columns that count
    assert "ignored 18.750% of all pixels" in output  # 9 of 48 columns
    assert "no fault found" in output


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (
            {"class_map": {"bird": "animal"}},
            r"class_map: bird: no class of this name; the masks hold ground, dog, tree",
        ),
        ({"class_map": [0, 1, 3, 1, 1]}, r"class_map=\[0, 1, 3, 1, 1\]: nothing in the masks becomes tree"),
        ({"class_map": dict.fromkeys(ANIMALS, "all")}, "classes=.*expected a list of 2 to 255 different names"),
        ({"class_map": {"dog": "mean"}}, "classes=.*none of them 'mean'"),
        ({"snap_colors": 8}, "snap_colors=8: needs dataset.colors"),
        ({"snap_colors": 200}, r"snap_colors=200: expected a number in \[0, 128\]"),
    ],
)
def test_wrong_maps_and_distances_are_refused(zoo, keys, words):
    with pytest.raises(UserError, match=words):
        folder(zoo, **keys)


def test_the_number_of_classes_is_enough(zoo):
    (zoo / "dataset.yaml").unlink()
    dataset = folder(zoo, num_classes=5)
    assert dataset.classes == ("background", "class_1", "class_2", "class_3", "class_4")
    assert columns(dataset) == [0, 1, 2, 3, 4]
    assert folder(zoo, num_classes=5, class_map={"class_4": "class_1"}).num_classes == 4
    with pytest.raises(UserError, match=r"label values 3 .* lie outside the 3 classes 0\.\.2"):
        columns(folder(zoo, num_classes=3, val_ratio=0.2))
    describe(zoo, classes=ANIMALS)
    with pytest.raises(UserError, match=r"dataset\.num_classes is 11, but dataset\.classes names 5"):
        folder(zoo, num_classes=11)
    keys = {"classes": None, "class_map": None, "num_classes": None}
    assert with_classes(keys) == keys


# -- nearly the colours -----------------------------------------------------------------------------------------------

COLORS = ["#000000", "#ff0000", "#00ff00"]


def snapping(snap: float, **keys) -> MaskReader:
    return MaskReader(num_classes=3, colors=COLORS, snap=snap, **keys)


def test_a_pixel_within_the_distance_gets_the_nearest_class(tmp_path):
    pixels = np.array([[[8, 8, 8], [247, 0, 8], [3, 255, 0], [0, 0, 0], [250, 252, 255]]], np.uint8)
    reader = snapping(8, ignore_color="#ffffff")
    assert reader.read(save(tmp_path / "a.png", pixels)).tolist() == [[[0, 1, 2, 0, IGNORE]]]
    for far in ([9, 0, 0], [246, 0, 0], [255, 9, 0]):
        pixels[0, 3] = far
        with pytest.raises(UserError, match=rf"a\.png: unknown colours #{bytes(far).hex()} \(1 pixels\)"):
            reader.read(save(tmp_path / "a.png", pixels))


def test_a_jpeg_of_a_mask_becomes_the_mask_again(tmp_path):
    label = drawn(3)[1]
    Image.fromarray(label * 255).save(tmp_path / "a.jpg", quality=90)
    reader = MaskReader(num_classes=2, colors=[0, 255], snap=127)
    assert np.array_equal(reader.read(tmp_path / "a.jpg")[0], label)
    stored = np.asarray(Image.open(tmp_path / "a.jpg"))
    odd = ~np.isin(stored, [0, 255])
    assert reader.num_odd(stored[None]) == odd.sum() > 20
    refusing = MaskReader(num_classes=2, colors=[0, 255])
    share = rf"{odd.mean():.2%} of its pixels have unknown colours.*JPEG blurs masks.*snap_colors: 8"
    with pytest.raises(UserError, match=rf"a\.jpg: {share}"):
        refusing.read(tmp_path / "a.jpg")


def test_smoothed_edges_are_told_with_their_share(tmp_path):
    disc = Image.fromarray(drawn(3, (160, 192))[1] * 255).resize((60, 50), Image.Resampling.BILINEAR)
    file = save(tmp_path / "a.png", np.asarray(disc))
    odd = ~np.isin(np.asarray(disc), [0, 255])
    with pytest.raises(UserError, match=rf"a\.png: {odd.mean():.2%} of its pixels .*may be smoothed \(anti-aliased\)"):
        MaskReader(num_classes=2, colors=[0, 255]).read(file)
    far = (np.minimum(np.asarray(disc), 255 - np.asarray(disc)) > 8).mean()
    with pytest.raises(UserError, match=rf"a\.png: {far:.2%} of .*farther than snap_colors=8 from the nearest colour"):
        MaskReader(num_classes=2, colors=[0, 255], snap=8).read(file)


def test_check_suggests_to_snap_and_counts_what_it_snaps(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    root = write_pairs(tmp_path / "mine", [f"i{number}" for number in range(8)])
    for mask in (root / "masks").glob("*.png"):
        Image.fromarray(np.asarray(Image.open(mask)) * 255).save(mask.with_suffix(".jpg"), quality=90)
        mask.unlink()
    with pytest.raises(UserError, match=r"odd ones beside 2 common colours: JPEG .*colors: \[0, 255\], snap_colors: 8"):
        check_folder(root)
    describe(root, colors=[0, 255], snap_colors=127)
    check_folder(root)
    stored = np.stack([np.asarray(Image.open(mask)) for mask in (root / "masks").iterdir()])
    output = capsys.readouterr().out
    assert f"snapped to the nearest colour {(~np.isin(stored, [0, 255])).mean():.3%} of all pixels" in output
    for split in SPLITS:
        for case in folder(root).cases(split):
            assert np.array_equal(case.read().label[0], drawn(int(case.name[1:]))[1])
