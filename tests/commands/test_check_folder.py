"""ssl4seg-prepare check, and that training refuses a faulty folder with the same words."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import bodies
import h5py
import nibabel
import numpy as np
import pytest
import tifffile
import yaml
from folders import CLASSES, describe, drawn, folder, save, write_pairs, write_root
from helpers import MACHINE, SHORT, SMALL, run, succeed
from PIL import Image

from ssl4seg.commands import check_folder as check_module
from ssl4seg.commands.check_folder import CAPTION, IMAGE_SIZE, TILE, _tile, check_folder
from ssl4seg.commands.conf import conf_dir
from ssl4seg.data.dataset import SPLITS
from ssl4seg.data.folder import note_on_size
from ssl4seg.errors import UserError
from ssl4seg.scoring.pictures import grey, painted, palette


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def without(file: Path) -> Path:
    file.unlink()
    return file


def read_all(root: Path) -> None:
    """As training does, one after the other."""
    dataset = folder(root)
    for split in SPLITS:
        for case in dataset.cases(split):
            case.read()


def color(root: Path) -> None:
    describe(root, group=r"(p\d)_", colors=["#000000", "#010101"])
    label = np.repeat(drawn(0)[1][..., None], 3, axis=2)
    label[:2, 0] = (250, 0, 9)
    save(root / "masks/p0_a.png", label)


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "mask of another size": (
        lambda root: save(root / "masks/p0_a.png", drawn(0, (30, 48))[1]),
        r"masks/p0_a\.png: the mask is 30 x 48 \(height x width\), but its image p0_a\.png is 40 x 48",
    ),
    "unknown colour": (color, r"masks/p0_a\.png: unknown colours #fa0009 \(2 pixels\); add them to colors"),
    "label outside the classes": (
        lambda root: save(root / "masks/p0_a.png", drawn(0)[1] * 7),
        r"masks/p0_a\.png: label values 7 \(\d+ pixels\) lie outside the 2 classes 0\.\.1; add them to classes",
    ),
    "255 for the second class": (
        lambda root: save(root / "masks/p0_a.png", drawn(0)[1] * 255),
        r"masks/p0_a\.png: label values 255 .*if 255 is a class: colors: \[0, 255\]",
    ),
    "colours that are not described": (
        lambda root: save(root / "masks/p0_a.png", np.full((40, 48, 3), (9, 8, 7), np.uint8)),
        r"masks/p0_a\.png: has colours #090807 .*name the colour of each class in dataset\.yaml",
    ),
    "blurred mask": (
        lambda root: save(root / "masks/p0_a.png", drawn(0)[1] * 255).rename(root / "masks/p0_a.jpg"),
        r"masks/p0_a\.jpg: \d+\.\d\d% of its pixels have unknown colours, as 255 .*JPEG blurs masks: .*snap_colors: 8",
    ),
    "mask that is no mask": (
        lambda root: tifffile.imwrite(root / "masks/p0_a.tif", np.zeros((40, 48, 2), np.uint8), planarconfig="contig"),
        r"masks/p0_a\.tif: (is a second mask of p0_a|has the same name as p0_a\.png)",
    ),
    "two masks": (
        lambda root: save(root / "masks/p0_a_gt.png", drawn(0)[1]),
        r"masks/p0_a_gt\.png: is a second mask of p0_a, beside p0_a\.png",
    ),
    "duplicate stems": (
        lambda root: save(root / "images/p0_a.jpg", drawn(0)[0]),
        r"images/p0_a\.png: has the same name as p0_a\.jpg; give each a name of its own",
    ),
    "unreadable image": (
        lambda root: cut(root / "images/p0_a.png"),
        r"images/p0_a\.png: cannot be read as a picture",
    ),
    "empty image": (
        lambda root: (root / "images/p0_a.png").write_bytes(b""),
        r"images/p0_a\.png: cannot be read as a picture",
    ),
    "unreadable mask": (lambda root: cut(root / "masks/p0_a.png"), r"masks/p0_a\.png: cannot be read as a picture"),
    "two layouts": (lambda root: (root / "train").mkdir(), "has two layouts at once, images/ and train/; expected"),
    "no layout": (
        lambda root: (root / "images").rename(root / "pictures"),
        "has neither images/ nor train/ nor imagesTr/; expected",
    ),
    "no mask": (lambda root: shutil.rmtree(root / "masks"), r"no image has a mask; .*masks must hold files"),
    "mixed channels": (
        lambda root: save(root / "images/p0_a.png", np.zeros((40, 48, 3), np.uint8)),
        r"different numbers of channels: 1 in 12 images \(p0_b\.png\); 3 in 1 images \(p0_a\.png\); make them alike",
    ),
    "mask without image": (
        lambda root: save(root / "masks/p7_a.png", drawn(0)[1]),
        r"masks/p7_a\.png: is a mask without an image; .*images holds no p7_a",
    ),
    "image of a kind that is not read": (
        lambda root: (root / "images/p0_a.png").rename(root / "images/p0_a.webp"),
        r"masks/p0_a\.png: is a mask without an image; p0_a\.webp is not read \(convert to PNG\)",
    ),
    "labels that are no whole numbers": (
        lambda root: tifffile.imwrite(
            without(root / "masks/p0_a.png").with_suffix(".tif"), drawn(0)[1] * np.float32(0.5)
        ),
        r"masks/p0_a\.tif: holds values that are no whole numbers: 0\.5 \(\d+ pixels\); a mask has one whole number",
    ),
    "FIFO for a mask": (
        lambda root: os.mkfifo(without(root / "masks/p0_a.png")),
        r"masks/p0_a\.png: is a FIFO; only regular files are read",
    ),
    "group that does not match": (
        lambda root: describe(root, group=r"(p[0-4])_"),
        r"dataset\.group=.*does not match 3 of 13 names \(p5_a, p5_b, unlabeled/p9_a\)",
    ),
}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_root(tmp_path / "mine")


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_has_one_clear_message_in_check_and_in_training(root, fault):
    spoil, message = FAULTS[fault]
    read_all(root)
    spoil(root)
    with pytest.raises(UserError, match=message) as told:
        check_folder(root)
    assert str(told.value).startswith(f"1 fault in {root}:\n")
    assert len(str(told.value).splitlines()) == 2
    with pytest.raises(UserError, match=message):
        read_all(root)


STRANGE = {
    "strings": lambda file, key: file.create_dataset(key, data=np.array([[b"a", b"b"]])),
    "variable length": lambda file, key: file.create_dataset(key, (2, 2), h5py.string_dtype()),
    "compound": lambda file, key: file.create_dataset(key, (4, 4), np.dtype([("a", "i4"), ("b", "f4")])),
    "references": lambda file, key: file.create_dataset(key, (4, 4), h5py.ref_dtype),
    "times": lambda file, key: file.create_dataset(
        key, data=np.zeros((4, 4), "M8[s]").astype(h5py.opaque_dtype("M8[s]"))
    ),
    "empty": lambda file, key: file.create_dataset(key, data=h5py.Empty("f4")),
    "scalar": lambda file, key: file.create_dataset(key, data=3.0),
}


@pytest.mark.parametrize("key", ["image", "label"])
def test_each_strange_array_is_a_fault_of_its_file_and_the_others_are_looked_at(root, capsys, key):
    for name, write in STRANGE.items():
        with h5py.File(root / f"images/p0_{name}.h5", "w") as file:
            for array, pixels in zip(("image", "label"), drawn(0), strict=True):
                write(file, key) if array == key else file.create_dataset(array, data=pixels)
    with pytest.raises(UserError) as told:
        check_folder(root)
    found = [line.partition(": ")[0] for line in str(told.value).splitlines()[1:]]
    assert sorted(found) == sorted(f"{root}/images/p0_{name}.h5" for name in STRANGE)
    num = {"image": 12, "label": 11}[key]  # the mask beside the scalar image is counted too
    assert f"of the pixels, in {num} of {num} masks" in capsys.readouterr().out


def test_an_error_of_any_type_is_a_fault_of_its_file(root, monkeypatch, capsys):
    def numbers(file: Path, *args: object, **keys: object) -> np.ndarray:
        raise ZeroDivisionError("no such number")

    monkeypatch.setattr("ssl4seg.data.images.read_array", numbers)
    with h5py.File(root / "images/p0_z.h5", "w") as file:
        file["image"] = drawn(0)[0]
    with pytest.raises(
        UserError, match=r"1 fault in .*\n.*p0_z\.h5: cannot be read \(ZeroDivisionError: no such number"
    ):
        check_folder(root)
    assert "13 image files" not in capsys.readouterr().out


# -- names and orphans ------------------------------------------------------------------------------------------------


def test_masks_without_an_image_are_left_out_on_demand(root, capsys):
    save(root / "masks/p7_a.png", drawn(0)[1])
    save(root / "masks/p8_a.png", drawn(0)[1])
    with pytest.raises(UserError, match=r"p7_a; add the image, remove the mask, .*skip_orphans: true in dataset\.yaml"):
        check_folder(root)
    expected = {split: [case.name for case in folder(root, skip_orphans=True).cases(split)] for split in SPLITS}
    describe(root, group=r"(p\d)_", skip_orphans=True)
    check_folder(root)
    words = "2 masks without an image are left out (skip_orphans), as masks/p7_a.png"
    assert words in capsys.readouterr().out
    assert words in folder(root).notes
    for name in ("p7_a", "p8_a"):
        (root / f"masks/{name}.png").unlink()
    assert {split: [case.name for case in folder(root).cases(split)] for split in SPLITS} == expected


def test_image_and_mask_match_in_another_unicode_form_which_is_told(root, capsys):
    composed, decomposed = "p0_caf\u00e9", "p0_cafe\u0301"
    (root / "images/p0_a.png").rename(root / f"images/{decomposed}.png")
    (root / "masks/p0_a.png").rename(root / f"masks/{composed}_mask.png")
    check_folder(root)
    words = f"names in another Unicode form than NFC count as if they were in it: 1, as {decomposed}.png"
    assert words in capsys.readouterr().out
    dataset = folder(root)
    assert words in dataset.notes
    (case,) = [case for split in SPLITS for case in dataset.cases(split) if "caf" in case.name]
    assert (case.name, case.labeled) == (composed, True)
    save(root / f"images/{composed}.png", drawn(0)[0])
    with pytest.raises(UserError, match=r"has the same name as .*\.png in another Unicode form; give each"):
        folder(root)


def test_a_folder_whose_own_name_is_not_utf8_is_reported_on(root):
    strange = root.rename(os.fsdecode(os.fsencode(root) + b"\xff"))
    code, output = run("prepare", "check", strange, cwd=strange.parent)
    assert code == 1
    assert r"mine\xff/images/p0_a.png: its name is not UTF-8; rename it" in output
    assert "Traceback" not in output


def test_write_says_why_it_wrote_nothing(root, capsys):
    (root / "dataset.yaml").unlink()
    cut(root / "images/p0_a.png")
    with pytest.raises(UserError, match="1 fault"):
        check_folder(root, write=True)
    out = capsys.readouterr().out
    assert f"{root}/dataset.yaml is not written, because of the faults below: mend them and call --write again" in out
    assert "--write writes" not in out
    assert not (root / "dataset.yaml").exists()


@pytest.mark.parametrize("name", ["x" * 101, "a\nb", "\x1b[31mred", "\ud800", ""])
def test_the_name_of_a_class_can_be_printed(root, name):
    with pytest.raises(UserError, match="names of up to 100 printable characters"):
        folder(root, classes=["ground", name])


def test_a_refused_value_is_not_printed_whole(root):
    with pytest.raises(UserError) as told:
        folder(root, classes=["ground", "x" * 10**6])
    assert len(str(told.value)) < 1000


def test_a_good_folder_has_no_fault(root, capsys):
    check_folder(root)
    assert "no fault found" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda root: shutil.rmtree(root / "val"),
            r"has train/ but no val/; divide your cases between them, or put all into images/",
        ),
        (lambda root: shutil.rmtree(root / "val/masks"), r"val: no image has a mask"),
        (lambda root: (root / "val/images/v.png").unlink(), r"val/images: holds no image \(\.nii\.gz"),
        (lambda root: shutil.rmtree(root / "train/images"), r"train/images: is missing"),
        (
            lambda root: describe(root, group="([a-z])"),
            r"a is in both train and val \(train: a; val: a2\); keep the files of each patient in one",
        ),
    ],
)
def test_faults_of_given_splits(tmp_path, monkeypatch, spoil, message):
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "mine"
    write_pairs(root / "train", ["a", "b"])
    write_pairs(root / "val", ["v"])
    check_folder(describe(root))
    if "both" in message:
        write_pairs(root / "val", ["a2"])
    spoil(root)
    with pytest.raises(UserError, match=message):
        check_folder(root)


def test_the_command_lists_all_faults_at_once_and_fails(root):
    save(root / "masks/p0_a.png", drawn(0, (30, 48))[1])
    save(root / "masks/p1_a.png", drawn(0)[1] * 7)
    cut(root / "images/p2_a.png")
    cut(root / "masks/p2_a.png")
    save(root / "masks/p7_a.png", drawn(0)[1])
    code, output = run("prepare", "check", root, cwd=root.parent)
    assert code == 1
    assert f"5 faults in {root}:" in output
    assert "Traceback" not in output
    for words in (
        "masks/p0_a.png: the mask is 30 x 48",
        "masks/p1_a.png: label values 7",
        "images/p2_a.png: cannot be read",
        "masks/p2_a.png: cannot be read",
        "masks/p7_a.png: is a mask without an image",
    ):
        assert f"\n{root}/{words}" in output


def test_many_faults_of_a_kind_are_three_and_a_number_and_all_on_demand(root):
    save(root / "masks/p0_b.png", drawn(0, (30, 48))[1])
    for number in range(5):
        (root / f"images/p{number}_a.png").write_bytes(b"")
    with pytest.raises(UserError) as told:
        check_folder(root)
    first, *lines = str(told.value).splitlines()
    assert first == f"6 faults in {root}:"
    assert [line.split(": ")[0].removeprefix(f"{root}/") for line in lines] == [
        *(f"images/p{number}_a.png" for number in range(3)),
        "... and 2 more of this kind",
        "masks/p0_b.png",
        "--all lists every one",
    ]
    with pytest.raises(UserError) as told:
        check_folder(root, every=True)
    lines = str(told.value).splitlines()
    assert len(lines) == 7
    assert not any("more" in line or "--all" in line for line in lines)
    with pytest.raises(UserError, match=r"and 2 more of this kind\n`ssl4seg-prepare check ROOT --all` lists all$"):
        folder(root)


@pytest.mark.parametrize(
    ("classes", "values", "expected"),
    [
        (3, [[0, 0, 0], [255, 0, 0], [0, 0, 255]], "3 colours for 3 classes"),
        (2, [[0, 0, 0], [255, 0, 0], [0, 0, 255]], "3 colours for 2 classes"),
        (3, [0, 128, 255], "3 colours for 3 classes"),
        (2, [0, 1, 7], None),
    ],
)
def test_colors_are_suggested_once_where_dataset_yaml_has_none(
    tmp_path, monkeypatch, capsys, classes, values, expected
):
    monkeypatch.chdir(tmp_path)
    root = write_pairs(tmp_path / "mine", [*"abcdef"])
    table = np.array(values, np.uint8)
    for number, name in enumerate("abcdef"):  # one of them empty, others without the last
        held = table[: 1 + min(2, number)]
        save(root / f"masks/{name}.png", held[np.arange(1920).reshape(40, 48) % len(held)])
    with pytest.raises(UserError):
        check_folder(describe(root, classes=[*"abc"][:classes]))
    told = capsys.readouterr().out
    assert told.count("suggested for") == (expected is not None)
    if expected:
        assert f"suggested for dataset.yaml ({expected}; put them in the same order):\n  colors: [" in told
        colors = yaml.safe_load(told.split("same order):\n")[1].splitlines()[0])
        assert (colors == {"colors": [0, 128, 255]}) == (values[-1] == 255)
        check_folder(describe(root, classes=[*"abc"], **colors))
        masks = [case.read().label for split in SPLITS for case in folder(root).cases(split)]
        assert max(len(np.unique(mask)) for mask in masks) == 3


def test_a_folder_that_holds_nothing_is_told_without_counts(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    with pytest.raises(
        UserError, match=r"^1 fault in .*mine:\n.*has neither images/ nor train/ nor imagesTr/; expected [^\n]*$"
    ):
        check_folder(describe(tmp_path / "mine"))
    assert capsys.readouterr().out == ""


def test_a_group_that_matches_nothing_hides_no_file(root, capsys):
    cut(root / "masks/p0_a.png")
    with pytest.raises(
        UserError, match=r"^2 faults in [^\0]*does not match 13 of 13 names[^\0]*p0_a.png: cannot be read"
    ):
        check_folder(describe(root, group="(zz)"))
    assert "13 image files, 11 with a mask, 2 without" in capsys.readouterr().out


def test_the_report_counts_what_is_there(root, capsys):
    save(root / "images/p8_a.png", drawn(3, (60, 50))[0])
    label = np.zeros((60, 50), np.uint8)
    label[:30] = 1
    for mask in (root / "masks").iterdir():
        save(mask, np.zeros((40, 48), np.uint8))
    save(root / "masks/p8_a.png", label)
    check_folder(root)
    out = " ".join(capsys.readouterr().out.split())
    assert "14 image files, 12 with a mask, 2 without; the split is drawn" in out
    assert "40 x 48 (13), 60 x 50 (1) (height x width)" in out
    assert "channels 1 (14)" in out
    share = 1500 / (3000 + 11 * 1920)
    assert f"0 ground {1 - share:.3%} of the pixels, in 12 of 12 masks" in out
    assert f"1 disc {share:.3%} of the pixels, in 1 of 12 masks" in out
    assert "no fault found" in out


def test_opacity_is_counted_and_never_a_fourth_channel(root, capsys):
    for name in ("p0_a", "p0_b"):
        grey = np.asarray(Image.open(root / f"images/{name}.png"))
        save(root / f"images/{name}.png", np.dstack([grey, grey]))
    check_folder(root)
    assert "channels   1 (13); the opacity (alpha) of 2 of them is left out\n" in capsys.readouterr().out
    words = r"p0_a\.png: has 1 channel \(its opacity is left out\), but 4 are expected \(dataset\.channels\)"
    for refused in (check_folder, read_all):
        with pytest.raises(UserError, match=words):
            refused(describe(root, group=r"(p\d)_", channels=4))


def test_volumes_are_counted_by_their_whole_ending(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_pairs(tmp_path / "mine", [*"abcd"])
    for name in "abcd":
        pixels = np.asarray(Image.open(image := tmp_path / f"mine/images/{name}.png"))
        nibabel.save(nibabel.Nifti1Image(pixels.T, np.eye(4)), image.with_suffix(".nii.gz"))
        image.unlink()
    check_folder(describe(tmp_path / "mine"))
    assert "files      .nii.gz (4)\n" in capsys.readouterr().out


def test_the_report_counts_copies(root, capsys):
    shutil.copytree(root / "images", root / "unlabeled", dirs_exist_ok=True)
    check_folder(root)
    out = capsys.readouterr().out
    assert "13 image files" in out
    assert "12 files of unlabeled/ have the names of images, as p0_a.png, and are left out" in out


def test_dark_images_get_a_hint(root, capsys):
    for image in (root / "images").iterdir():
        save(image, np.asarray(Image.open(image)).astype(np.uint16))
    (root / "unlabeled/p9_a.png").unlink()
    check_folder(root)
    assert "normalize: minmax" in capsys.readouterr().out


# -- dataset.yaml -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 1], {"classes": ["background", "class_1"]}),
        ([0, 1, 3], {"classes": ["background", "class_1", "class_2"], "colors": [0, 1, 3]}),
        ([0, 1, 255], {"classes": ["background", "class_1"], "ignore_index": 255}),
        ([0, 255], {"classes": ["background", "class_1"], "colors": [0, 255]}),
        ([0, 85, 170], {"classes": ["background", "class_1", "class_2"], "colors": [0, 85, 170]}),
        (
            [[255, 255, 255], [0, 0, 0], [0, 0, 255], [255, 0, 0]],
            {
                "classes": ["background", "class_1", "class_2", "class_3"],
                "colors": ["#000000", "#ffffff", "#0000ff", "#ff0000"],
            },
        ),
    ],
)
def test_dataset_yaml_is_suggested_from_the_masks_and_trains(tmp_path, monkeypatch, values, expected):
    monkeypatch.chdir(tmp_path)
    write_pairs(tmp_path / "mine", ["a", "b", "c", "d"])
    table = np.array(values, np.uint8)
    for name in "abcd":
        save(tmp_path / f"mine/masks/{name}.png", table[np.arange(40 * 48).reshape(40, 48) % len(values)])
    check_folder(tmp_path / "mine")
    file = tmp_path / "mine/dataset.yaml"
    assert not file.exists()
    check_folder(tmp_path / "mine", write=True)
    written = yaml.safe_load(file.read_text())
    pixels = np.concatenate([drawn(i)[0].ravel() for i in range(4)]) / 255
    assert written.pop("mean") == [pytest.approx(pixels.mean(), abs=1e-5)]
    assert written.pop("std") == [pytest.approx(pixels.std(), abs=1e-5)]
    assert written == {**expected, "channels": 1}
    label = folder(tmp_path / "mine").cases("train")[0].read().label
    assert len(np.unique(label)) == len(values)


def test_what_is_wrong_in_dataset_yaml_is_told_once_a_key(root, capsys):
    (root / "dataset.yaml").write_text("{classes: [0, 1], channels: three, group: 5, colors: 5, mean: 3, std: 3}")
    with pytest.raises(UserError) as told:
        check_folder(root)
    first, *faults = str(told.value).splitlines()
    assert first == f"6 faults in {root}:"
    keys = ("classes", "channels", "group", "colors", "mean", "std")
    assert {fault.split("=")[0] for fault in faults} == {f"{root}/dataset.yaml: {key}" for key in keys}
    assert "suggested" not in capsys.readouterr().out


def test_small_numbers_keep_their_digits(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine/images").mkdir(parents=True)
    pixels = np.stack([drawn(number)[0] * np.float32(3e-6) + np.float32(0.25) for number in range(4)])
    for number, part in enumerate(pixels):
        tifffile.imwrite(tmp_path / f"mine/images/{number}.tif", part, photometric="minisblack")
        save(tmp_path / f"mine/masks/{number}.png", drawn(number)[1])
    check_folder(tmp_path / "mine", write=True)
    written = yaml.safe_load((tmp_path / "mine/dataset.yaml").read_text())
    exact = pixels.astype(np.float64)
    assert written["mean"] == [pytest.approx(exact.mean(), rel=1e-5)]
    assert written["std"] == [pytest.approx(exact.std(), rel=1e-5)]
    assert 1e-4 < written["std"][0] < 2e-4
    found = folder(tmp_path / "mine", mean="auto", std="auto", val_ratio=0.25, test_ratio=0).statistics()
    assert found.std[0] == pytest.approx(written["std"][0], rel=0.2)


def test_numbers_below_zero_are_suggested_as_such(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_pairs(tmp_path / "mine", [*"abcd"])
    for number, name in enumerate("abcd"):
        (tmp_path / f"mine/masks/{name}.png").unlink()
        tifffile.imwrite(tmp_path / f"mine/masks/{name}.tif", drawn(number)[1].astype(np.int16) * -5)
    check_folder(tmp_path / "mine", write=True)
    assert yaml.safe_load((tmp_path / "mine/dataset.yaml").read_text())["colors"] == [0, -5]


def test_a_description_that_is_there_is_never_overwritten(root, capsys):
    (root / "dataset.yaml").write_text("group: (p.)_\n")
    check_folder(root, write=True)
    assert (root / "dataset.yaml").read_text() == "group: (p.)_\n"
    assert "classes: [background, class_1]" in capsys.readouterr().out


def test_masks_with_too_many_values_suggest_nothing(root):
    (root / "dataset.yaml").unlink()
    for mask in (root / "masks").iterdir():
        save(mask, np.arange(1920).reshape(40, 48).astype(np.uint16))
    with pytest.raises(UserError, match=r"masks/p0_a\.png: holds 1920 different values"):
        check_folder(root, write=True)
    assert not (root / "dataset.yaml").exists()


# -- the contact sheet ------------------------------------------------------------------------------------------------


def test_the_contact_sheet_shows_images_with_their_masks(tmp_path):
    image, label = drawn(0, (TILE, TILE))
    for name in "ab":
        save(tmp_path / f"mine/images/{name}.png", image)
        save(tmp_path / f"mine/masks/{name}.png", label)
    output = succeed("prepare", "check", describe(tmp_path / "mine", test_ratio=0), cwd=tmp_path)
    assert "mine_check.png, 2 images with their masks" in output
    sheet = np.asarray(Image.open(tmp_path / "mine_check.png"))
    legend = len(sheet) - TILE - CAPTION
    shown = sheet[legend + CAPTION :, :TILE]
    assert np.array_equal(shown, painted(grey(image[None]), label, palette()))
    assert sheet[:legend].any()
    assert sheet[legend : legend + CAPTION].any()


def test_a_sheet_of_many_images_is_bounded(root, tmp_path):
    for number in range(30):
        save(root / f"unlabeled/p9_{number}.png", drawn(number)[0])
    check_folder(root, sheet=tmp_path / "sheet.png")
    height = TILE * 40 / 48 + CAPTION
    assert 4 * height <= Image.open(tmp_path / "sheet.png").height < 4 * height + CAPTION


# -- what viewers show ------------------------------------------------------------------------------------------------


def test_masks_whose_palettes_differ_are_read_by_colour(root, capsys):
    for number, file in enumerate(sorted((root / "masks").glob("*.png"))):
        mask = Image.fromarray(np.array(Image.open(file)))
        mask.putpalette([0, 0, 0, 255, 0, 0] if number % 2 else [255, 0, 0, 0, 0, 0])
        mask.save(file)
    with pytest.raises(UserError, match="the palettes of the masks differ") as fault:
        check_folder(root)
    assert "has colours #ff0000" in str(fault.value)
    assert "colors: ['#000000', '#ff0000']" in capsys.readouterr().out
    (root / "dataset.yaml").unlink()
    check_folder(root)
    assert "colors: ['#000000', '#ff0000']" in capsys.readouterr().out


def test_files_that_are_stored_turned_are_counted(root, capsys):
    exif = Image.Exif()
    exif[274] = 6
    for part in ("images", "masks"):
        Image.open(root / part / "p0_a.png").save(root / part / "p0_a.png", exif=exif)
    check_folder(root)
    assert "2 images and masks are stored turned (EXIF)" in capsys.readouterr().out
    Image.fromarray(drawn(0)[1]).save(root / "masks/p0_a.png")
    with pytest.raises(UserError, match=r"is 40 x 48 .* is 48 x 40; is one of them stored turned \(tag Orientation"):
        check_folder(root)


# -- lost labels ------------------------------------------------------------------------------------------------------


def in_opacity(file: Path, *, mode: str) -> None:
    """Black everywhere; the mask stands in the opacity."""
    label = np.array(Image.open(file)) * np.uint8(255)
    if mode == "P":
        picture = Image.fromarray(label // 255)
        picture.putpalette([9, 9, 9, 9, 9, 9])
        picture.save(file, transparency=b"\x00\xff")
    else:
        pixels = np.zeros((*label.shape, len(mode)), np.uint8)
        pixels[..., -1] = label
        Image.fromarray(pixels).save(file)


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P"])
def test_a_mask_whose_classes_are_in_its_opacity_is_refused_in_check_and_in_training(root, mode):
    if mode == "P":
        describe(root, group=r"(p\d)_", colors=[[9, 9, 9], [1, 1, 1]])
    for file in (root / "masks").glob("*.png"):
        in_opacity(file, mode=mode)
    for read in (check_folder, read_all):
        with pytest.raises(UserError, match=r"masks/p\d_.\.png: has one colour everywhere and its classes in the opac"):
            read(root)


def test_the_opacity_of_masks_is_counted_where_it_is_not_read(root, capsys):
    label = np.array(Image.open(root / "masks/p0_a.png"))
    pixels = np.stack([label, np.full_like(label, 255)], axis=-1)
    Image.fromarray(pixels).save(root / "masks/p0_a.png")
    check_folder(root)
    assert "the opacity (alpha) of 1 masks is not read" in capsys.readouterr().out


def test_a_class_that_no_mask_holds_is_a_fault(root):
    describe(root, group=r"(p\d)_", classes=["ground", "disc", "tumour"])
    with pytest.raises(UserError, match=r"1 fault in .*\n.*no mask holds the class tumour \(2\); remove it, or mend"):
        check_folder(root)
    describe(root, group=r"(p\d)_", classes=["ground", "disc", "tumour"], colors=[0, 1, "#00ff00"])
    with pytest.raises(UserError, match=r"no mask holds the class tumour \(#00ff00\)"):
        check_folder(root)


def test_a_background_that_no_mask_holds_is_a_fault_with_the_keys_that_mend_it(root):
    for file in (root / "masks").glob("*.png"):
        Image.fromarray(np.array(Image.open(file)) + 1).save(file)
    describe(root, group=r"(p\d)_", classes=["ground", "cell", "disc"])
    with pytest.raises(UserError, match=r"class ground \(0\); remove .*write background: false, and colors: \[1, 2,"):
        check_folder(root)
    describe(root, group=r"(p\d)_", classes=["cell", "disc"], colors=[1, 2], background=False)
    check_folder(root)
    describe(root, group=r"(p\d)_", classes=["ground", "cell", "disc"], colors=[7, 1, 2])
    with pytest.raises(UserError, match=r"the class ground \(7\); remove .*and write background: false$"):
        check_folder(root)


def test_training_warns_of_a_class_that_no_mask_holds(root):
    describe(root, group=r"(p\d)_", classes=["ground", "disc", "tumour"], scoring="cases")
    code, output = run("train", "dataset=folder", f"dataset.root={root}", *SHORT, *SMALL, *MACHINE, cwd=root.parent)
    assert code == 0, output
    assert "dataset.classes: no mask of this run holds tumour; it cannot be learnt and has no score" in output
    (found,) = root.parent.rglob("results.json")
    assert '"tumour": null' in found.read_text()


# -- orientation ------------------------------------------------------------------------------------------------------


def write_scans(root: Path) -> Path:
    """Four scans of 6 x 7 x 3 voxels, stored in three ways."""
    organ = np.zeros((6, 7, 3), np.uint8)
    organ[1:3, 2:5] = 1
    for number, name in enumerate(["RAS", "LPS", "SAR", "RAS"]):
        bodies.write(root / f"images/c{number}.nii.gz", name, organ * np.float32(0.5) + number / 10)
        bodies.write(root / f"masks/c{number}.nii.gz", name, organ)
    return describe(root)


def test_volumes_of_three_orientations_are_checked_as_they_are_read(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    root = write_scans(tmp_path / "scans")
    check_folder(root)
    printed = capsys.readouterr().out
    assert "volumes are read in canonical orientation (RAS+), with slices along z (orientation, slice_axis)" in printed
    assert "sizes      7 x 6 (4) (height x width)" in printed
    assert "images     12 (slices" in printed


@pytest.mark.parametrize("shift", [1.0, 50.0])
def test_image_and_mask_at_two_places_are_a_fault_in_check_and_in_training(tmp_path, monkeypatch, shift):
    monkeypatch.chdir(tmp_path)
    root = write_scans(tmp_path / "scans")
    mask = nibabel.load(root / "masks/c1.nii.gz")
    affine = mask.affine.copy()
    affine[0, 3] += shift
    voxels = np.array(mask.dataobj)
    nibabel.save(nibabel.Nifti1Image(voxels, affine), root / "masks/c1.nii.gz")
    for read in (check_folder, read_all):
        with pytest.raises(
            UserError, match=rf"masks/c1\.nii\.gz: the affines of .* differ, by {shift:g} mm at a corner"
        ):
            read(root)


# -- hints ------------------------------------------------------------------------------------------------------------


def test_the_first_look_prints_the_share_of_each_class(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    root = write_pairs(tmp_path / "mine", [*"abcd"])
    for name in "abcd":  # 480 pixels of 255, 960 of 128, 240 of 7 (ignored), 240 of 0
        label = np.repeat(np.array([255, 128, 128, 255, 128, 128, 7, 0], np.uint8), 240).reshape(40, 48)
        save(root / f"masks/{name}.png", label)
    (root / "dataset.yaml").write_text("ignore_index: 7\n")
    check_folder(root, write=True)
    out = " ".join(capsys.readouterr().out.split())
    assert "0 background 14.286% of the pixels, in 4 of 4 masks 1 class_1 57.143%" in out
    assert "2 class_2 28.571% of the pixels, in 4 of 4 masks ignored 12.500% of all pixels" in out


@pytest.mark.parametrize("classes", [None, CLASSES])
@pytest.mark.parametrize("number", [20, 150, 300])
def test_a_mask_that_numbers_objects_is_told(tmp_path, monkeypatch, capsys, classes, number):
    monkeypatch.chdir(tmp_path)
    root = write_pairs(tmp_path / "mine", [*"abcd"])
    for place, name in enumerate("abcd"):
        objects = np.arange(1920).reshape(40, 48) // 6 % (number - 3 * place)
        save(root / f"masks/{name}.png", objects.astype(np.uint16 if number > 255 else np.uint8))
    if classes:
        describe(root)
    if number == 20 and not classes:  # they might be classes
        check_folder(root)
        told = capsys.readouterr().out
    else:
        with pytest.raises(UserError) as fault:
            check_folder(root)
        told = str(fault.value)
    assert (
        "if the numbers count single objects (instance masks), save masks of classes: numpy.where(mask > 0, 1, 0)"
        in told
    )


def test_the_sheet_prefers_masks_with_foreground(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = write_pairs(tmp_path / "mine", [f"{n:03d}" for n in range(100)])
    for n in range(100):
        if n % 5:
            save(root / f"masks/{n:03d}.png", np.zeros((40, 48), np.uint8))
    shown: list[str] = []
    monkeypatch.setattr(check_module, "_tile", lambda look, *rest: shown.append(look.item.name) or _tile(look, *rest))
    check_folder(describe(root))
    assert len(shown) == 24
    assert {f"{n:03d}" for n in range(0, 100, 5)} < {*shown}


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (
            (35, 50),
            "dataset.image_size=64 optimizer=adamw\n  dataset.image_size=256 enlarges the images, of about 50 p",
        ),
        ((200, 256), f"dataset.root={'{root}'} optimizer=adamw\n  optimizer=adamw"),
        (
            (300, 1400),
            "dataset.image_size=512 optimizer=adamw\n  dataset.image_size=256 shrinks the images, of about 140",
        ),
    ],
)
def test_the_command_for_a_first_look_fits_the_size_of_the_images(tmp_path, monkeypatch, capsys, size, words):
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "mine"
    for number, name in enumerate("abcd"):
        image, label = drawn(number, size)
        save(root / f"images/{name}.png", image)
        save(root / f"masks/{name}.png", label)
    check_folder(describe(root))
    assert words.format(root=root) in capsys.readouterr().out
    notes = folder(root, image_size=256).notes
    assert [*notes] == ([note_on_size([size], 256)] if size[0] != 200 else [])


def test_the_default_image_size_is_that_of_conf():
    keys = yaml.safe_load((conf_dir() / "dataset/folder.yaml").read_text())
    assert keys["dataset"]["image_size"] == IMAGE_SIZE


@pytest.mark.parametrize(("shape", "thin"), [((33, 33, 15), True), ((33, 33, 16), False), ((15, 15, 12), False)])
def test_of_thin_stacks_the_command_that_takes_slices_goes_first(tmp_path, monkeypatch, capsys, shape, thin):
    monkeypatch.chdir(tmp_path)
    for number in range(4):
        array = np.random.default_rng(number).random(shape, np.float32)
        for part, voxels in (("images", array), ("masks", (array > 0.5).astype(np.uint8))):
            (tmp_path / "mine" / part).mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / f"mine/{part}/c{number}.nii.gz")
    check_folder(describe(tmp_path / "mine"))
    first, second = capsys.readouterr().out.partition("train with: ")[2].splitlines()[:2]
    assert ("16]" in first) != thin  # image_size
    assert ("16]" in second) == thin


def test_planes_of_the_sheet_are_as_high_as_their_spacing_says(tmp_path, monkeypatch):
    """16 x 16 x 4 voxels of 1 x 1 x 2 mm: the planes across y and x are half as high as they are wide."""
    monkeypatch.chdir(tmp_path)
    for number in range(4):
        array = np.ones((16, 16, 4), np.float32)
        array[0, 0] = 0
        for part, voxels in (("images", array), ("masks", array.astype(np.uint8))):
            (tmp_path / "mine" / part).mkdir(parents=True, exist_ok=True)
            image = nibabel.Nifti1Image(voxels, np.diag([1.0, 1.0, 2.0, 1.0]))
            nibabel.save(image, tmp_path / f"mine/{part}/c{number}.nii.gz")
    check_folder(describe(tmp_path / "mine"), sheet=tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))[-2 * (TILE + CAPTION) :]
    for plane, height in enumerate((TILE, TILE // 2, TILE // 2)):
        column = sheet[CAPTION : CAPTION + TILE, plane * TILE + TILE // 2].any(axis=-1)
        assert np.flatnonzero(column)[-1] + 1 == pytest.approx(height, abs=1)
