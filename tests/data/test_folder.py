"""dataset=folder: what lies in a folder, what dataset.yaml says of it, and how it trains and predicts."""

import shutil
from collections import Counter
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import tifffile
import yaml
from folders import CLASSES, describe, drawn, folder, save, write_pairs, write_root
from helpers import MACHINE, SHORT, SMALL, results, succeed, table
from PIL import Image

from ssl4seg.data.dataset import SPLITS
from ssl4seg.data.folder import DEFAULTS
from ssl4seg.data.images import write_label
from ssl4seg.data.layout import find
from ssl4seg.data.masks import MaskReader, as_held
from ssl4seg.data.split import check_disjoint, split_labeled
from ssl4seg.errors import UserError
from ssl4seg.keys import IGNORE


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_root(tmp_path / "mine")


def names(dataset, split) -> list[str]:
    return [case.name for case in dataset.cases(split)]


# -- which files ------------------------------------------------------------------------------------------------------


def test_images_are_matched_with_masks_by_name_with_or_without_a_suffix(tmp_path):
    write_pairs(tmp_path, {"deep/a": True, "b": False, "c": False, "c_gt": True, "d": False})
    label = drawn(0)[1]
    save(tmp_path / "masks/b_mask.png", label)
    tifffile.imwrite(tmp_path / "masks/d_seg.tif", label)
    found = find(tmp_path)
    masks = {item.name: item.mask and item.mask.relative_to(tmp_path / "masks").as_posix() for item in found.items}
    assert masks == {"deep/a": "deep/a.png", "b": "b_mask.png", "c": None, "c_gt": "c_gt.png", "d": "d_seg.tif"}
    assert not found.faults


def test_hidden_files_are_nothing_and_other_kinds_are_told(tmp_path):
    write_pairs(tmp_path, ["a"])
    for name in ("images/.a.png", "images/notes.txt", "masks/a.json"):
        (tmp_path / name).write_text("")
    found = find(tmp_path)
    assert ([item.name for item in found.items], found.faults) == (["a"], [])
    assert [file.name for file in found.others] == ["notes.txt", "a.json"]


def test_h5_files_hold_their_masks(tmp_path):
    image, label = drawn(0)
    (tmp_path / "images").mkdir()
    for name, arrays in {"a": {"image": image, "label": label}, "b": {"image": image}}.items():
        with h5py.File(tmp_path / f"images/{name}.h5", "w") as file:
            for key, array in arrays.items():
                file[key] = array
    assert [bool(item.mask) for item in find(tmp_path).items] == [True, False]


# -- palettes ---------------------------------------------------------------------------------------------------------

BLACK, RED, GREEN = (0, 0, 0), (255, 0, 0), (0, 255, 0)


def write_palettes(root: Path, *palettes: list[tuple[int, int, int]]) -> Path:
    """Masks with the numbers 0 and 1, each under a palette of its own."""
    write_pairs(root, [f"c{number}" for number in range(len(palettes))])
    for number, colors in enumerate(palettes):
        mask = Image.fromarray(drawn(number)[1])
        mask.putpalette(sum(colors, ()))
        mask.save(root / f"masks/c{number}.png")
    return describe(root)


@pytest.mark.parametrize(
    ("other", "words", "classes", "expected"),
    [
        ([BLACK, GREEN], "1 is #ff0000 in c0.png and 1 is #00ff00 in c1.png", [BLACK, RED, GREEN], [0, 2]),
        ([RED, BLACK], "0 is #000000 in c0.png and 0 is #ff0000 in c1.png", [BLACK, RED], [1, 0]),
    ],
)
def test_numbers_under_different_palettes_are_refused_and_colours_are_read(tmp_path, other, words, classes, expected):
    root = write_palettes(tmp_path, [BLACK, RED], other, [BLACK, RED])
    with pytest.raises(UserError, match=f"c1.png: the palettes of the masks differ: {words}; name the colour of each"):
        folder(root)
    keys = {"classes": ["ground", "disc", "other"][: len(classes)], "colors": [list(color) for color in classes]}
    label = folder(root, **keys).masks.read(root / "masks/c1.png")
    assert np.array_equal(label[0], np.array(expected)[drawn(1)[1]])


def test_palettes_that_differ_in_what_no_mask_uses_are_one_palette(tmp_path):
    root = write_palettes(tmp_path, [BLACK, RED], [BLACK, RED, GREEN], [BLACK, RED, RED])
    folder(root)


# -- splits -----------------------------------------------------------------------------------------------------------


def test_a_drawn_split_takes_whole_patients_and_only_masks_into_val_and_test(root):
    dataset = folder(root, val_ratio=0.2, test_ratio=0.3)
    cases = {split: dataset.cases(split) for split in SPLITS}
    check_disjoint(cases)
    groups = {split: {case.group for case in part} for split, part in cases.items()}
    assert [len(groups[split] - {"p9"}) for split in SPLITS] == [3, 1, 2]  # of six, 0.2 and 0.3 of them
    assert "p9" in groups["train"]
    assert all(case.labeled for split in SPLITS[1:] for case in cases[split])
    there = Counter(name for split in SPLITS for name in names(dataset, split))
    assert set(there.values()) == {1}
    lost = {item.name for item in find(root, r"(p\d)_").items} - {*there}
    assert lost <= {"p5_b"}  # without a mask; of no use if its patient is in val or test
    assert ("p5" in groups["train"]) == (not lost)


def test_the_seed_alone_decides_and_a_new_patient_moves_few(root):
    def parts(seed=0):
        dataset = folder(root, seed=seed)
        return {case.group: split for split in SPLITS for case in dataset.cases(split)}

    before = parts()
    assert parts() == before
    assert len({tuple(sorted(parts(seed).items())) for seed in range(5)}) > 1
    write_pairs(root, ["p7_a"])
    after = parts()
    assert sum(after[group] != split for group, split in before.items()) <= 2


@pytest.mark.parametrize("group", [None, r"(p\d)_", "(.+)_"])
def test_copies_of_images_among_the_unlabelled_are_left_out(root, group):
    shutil.copytree(root / "images", root / "unlabeled", dirs_exist_ok=True)
    save(root / "unlabeled/p0_c.png", drawn(21)[0])
    dataset = folder(describe(root, group=group), val_ratio=0.3, test_ratio=0.4)
    parts = {split: {case.name.removeprefix("unlabeled/") for case in dataset.cases(split)} for split in SPLITS}
    assert "p9_a" in parts["train"]
    assert not parts["train"] & (parts["val"] | parts["test"])
    assert len(dataset.cases("train")) == len(parts["train"])
    check_disjoint({split: dataset.cases(split) for split in SPLITS})
    held = {name[:2] for split in SPLITS[1:] for name in parts[split]}
    assert ("p0_c" in parts["train"]) == (group is None or "p0" not in held)


def test_copies_of_given_splits_are_left_out_too(tmp_path):
    for split, name in (("train", "a"), ("val", "b")):
        write_pairs(tmp_path / split, [name])
    for name in "abc":
        save(tmp_path / f"unlabeled/{name}.png", drawn(7)[0])
    assert sorted(names(folder(describe(tmp_path)), "train")) == ["a", "unlabeled/c"]


def test_a_folder_that_is_reached_by_links_too_is_read_once(root):
    expected = {item.name for item in find(root).items}
    (root / "images/self").symlink_to("../images")
    (root / "images/up").symlink_to("..")
    assert {item.name for item in find(root).items} == expected
    write_pairs(root, {"x/a": True})
    (root / "images/alias").symlink_to("x")  # before x by its name
    (root.parent / "elsewhere").mkdir()
    save(root.parent / "elsewhere/b.png", drawn(1)[0])
    (root / "images/linked").symlink_to(root.parent / "elsewhere")
    found = find(root)
    assert {item.name for item in found.items} == {*expected, "x/a", "linked/b"}
    assert not found.faults


def test_given_splits_are_taken_and_the_same_name_in_two_is_not_the_same_case(tmp_path):
    for split, count in (("train", 3), ("val", 1), ("test", 2)):
        write_pairs(tmp_path / split, {f"{i}": i < 2 for i in range(count)})
    save(tmp_path / "unlabeled/0.png", drawn(9)[0])
    dataset = folder(describe(tmp_path))
    assert [sorted(names(dataset, split)) for split in SPLITS] == [["0", "1", "2", "unlabeled/0"], ["0"], ["0", "1"]]
    check_disjoint({split: dataset.cases(split) for split in SPLITS})
    assert dataset.tested_on == "test"
    split = split_labeled(dataset.cases("train"), ratio=1)
    assert sorted(case.name for case in split.labeled) == ["0", "1"]


def test_without_masks_in_test_the_model_is_tested_on_val(tmp_path):
    for split, masked in (("train", True), ("val", True), ("test", False)):
        write_pairs(tmp_path / split, {"a": masked})
    assert folder(describe(tmp_path)).tested_on == "val"
    write_pairs(tmp_path / "other", ["a", "b"])
    dataset = folder(describe(tmp_path / "other"), test_ratio=0)
    assert (dataset.tested_on, len(dataset.cases("train")), len(dataset.cases("val"))) == ("val", 1, 1)


def test_a_patient_in_two_given_splits_is_refused(tmp_path):
    for split, name in (("train", "p1_a"), ("val", "p1_b")):
        write_pairs(tmp_path / split, [name])
    dataset = folder(describe(tmp_path, group=r"(p\d)_"))
    with pytest.raises(
        UserError, match=r"p1 is in both train and val \(train: p1_a; val: p1_b\); keep the files of each"
    ):
        check_disjoint({split: dataset.cases(split) for split in SPLITS}, dataset.remedy)


def test_labelled_lists_may_name_files_in_subfolders(tmp_path):
    write_pairs(tmp_path / "train", ["x/a", "y/a", "z"])
    write_pairs(tmp_path / "val", ["v"])
    (tmp_path / "list.txt").write_text("y/a.png\nz\n")
    split = split_labeled(folder(describe(tmp_path)).cases("train"), list_file=tmp_path / "list.txt")
    assert split.labeled_groups == ("y/a", "z")


# -- dataset.yaml and the command line --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "meant"), [("", "; for folders of other names .*$"), ("images", r" \(is .*/mine meant\?\)$")]
)
def test_what_is_no_folder_of_images_is_not_asked_for_its_classes(tmp_path, place, meant):
    root = tmp_path / "mine" / place
    root.mkdir(parents=True)
    with pytest.raises(
        UserError, match=rf"{root}: has neither images/ nor train/ nor imagesTr/; expected .* labelsTr/{meant}"
    ):
        folder(root)


def test_the_command_line_wins_over_dataset_yaml_which_wins_over_the_files(root):
    assert (folder(root).num_classes, folder(root).channels, folder(root).scoring) == (2, 1, "pixels")
    described = folder(describe(root, channels=3, scoring="cases", ignore_index=9))
    assert (described.channels, described.scoring, described.ignore_index) == (3, "cases", 9)
    given = folder(root, channels=1, classes=["a", "b", "c"], mean="none", std="none")
    assert (given.channels, given.classes, given.ignore_index) == (1, ("a", "b", "c"), 9)
    assert given.statistics() is None


def test_statistics_are_those_of_the_training_images(root):
    dataset = folder(root)
    values = np.concatenate([case.read().image.ravel() for case in dataset.cases("train")]) / 255
    mean, std = dataset.statistics()
    assert (mean, std) == ([pytest.approx(values.mean())], [pytest.approx(values.std())])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "dataset.classes is not set.*ssl4seg-prepare check .* --write"),
        ("classes: [a, '${oc.create:{_target_:os.getcwd}}']", r"dataset.yaml: classes holds \$\{\.\.\.\}"),
        ("group: '${oc.env:HOME}'", r"dataset.yaml: group holds \$\{"),
        ("classes: ground", "dataset.yaml: classes=ground: expected a list"),
        ("classes: [ground]", r"dataset.yaml: classes=\['ground'\]: expected a list of 2 to 255"),
        ("classes: [0, 1]", r"dataset.yaml: classes=\[0, 1\]: expected a list of 2 to 255 different names"),
        ("classes: 5", "dataset.yaml: classes=5: expected a list"),
        ("classes: [a, b, a]", "dataset.yaml: classes=.*different names"),
        ("classes: [a, mean]", "dataset.yaml: classes=.*none of them 'mean'"),
        ("{classes: [a, b], group: 5}", "dataset.yaml: group=5: expected a regular expression"),
        ("{classes: [a, b], colors: 5}", "dataset.yaml: colors=5: expected a list"),
        ("{classes: [a, b], mean: 3, std: 3}", "dataset.yaml: mean=3: expected a list of numbers(.|\n)*yaml: std=3"),
        ("{classes: [a, b], mean: [a], std: [1]}", r"dataset.yaml: mean=\['a'\]: expected a list of numbers"),
        ("{classes: [a, b], mean: [0, 0], std: [1, 1]}", r"dataset.mean=\[0, 0\]: expected 1 numbers"),
        ("{classes: [a, b], mean: [0], std: [0]}", r"dataset.yaml: std=\[0\]: expected a list of numbers above 0"),
        ("{classes: [a, b], channels: 0}", "dataset.yaml: channels=0: expected a whole number from 1"),
        ("{classes: [a, b], channels: true}", "dataset.yaml: channels=True: expected a whole number"),
        ("{classes: [a, b], channels: three}", "dataset.yaml: channels=three: expected a whole number"),
        ("{classes: [a, b], seed: [1]}", r"dataset.yaml: seed=\[1\]: expected a whole number"),
        (
            "{classes: [a, b], normalize: [auto]}",
            r"dataset.yaml: normalize=\['auto'\]: expected one of minmax, none, auto",
        ),
        ("{classes: [a, b], scoring: dice}", "dataset.yaml: scoring=dice: expected cases or pixels"),
        ("{classes: [a, b], ignore_index: white}", "dataset.yaml: ignore_index=white: expected a whole number"),
        ("{classes: [a, b], ignore_color: white}", 'dataset.yaml: ignore_color=white: expected "#rrggbb"'),
        ("{classes: [a, b], ignore_index: 300}", "dataset.yaml: ignore_index=300: expected a whole number up to 255"),
        ("{classes: [a, b], palette: ['#ff0000']}", "dataset.palette=.*: 1 colours for 2 classes; give one for each"),
        ("{classes: [a, b], colors: [0, 255], ignore_index: 255}", "dataset.ignore_index=255: class 1 has it"),
        ("{classes: [a, b], ignore_color: '#010101'}", "dataset.ignore_color=#010101: class 1 has it"),
        ("clases: [a, b]", "dataset.yaml: unknown keys clases"),
        ("- a", "dataset.yaml: holds no keys"),
        ("classes: [a", r"dataset.yaml: cannot be read \(line 1: expected ',' or '\]', but got '<stream end>'\)$"),
        (
            "colors: [#000000, #ff0000]\nclasses: [a, b]",
            r"dataset.yaml: cannot.*line 2: .*; # begins a comment, so colours need quotes.*\"#000000\"$",
        ),
        ("{classes: [a, b], colors: [0, 1, 2]}", "dataset.colors=.*expected 2 colours"),
        (
            "{classes: [a, b], colors: [0, red]}",
            "dataset.yaml: colors=.*red.*expected a list of .#rrggbb",
        ),
        ("{classes: [a, b], colors: [0, [0, 0]]}", "dataset.yaml: colors=.*expected a list"),
        ("classes: [a, b]\ncolors:\n- 0\n- #ff0000", r"dataset.yaml: colors=\[0, None\]: .*in quotes"),
        ("{classes: [a, b], colors: ['#000000', 0]}", "two classes have the same colour"),
        ("{classes: [a, b], group: '(p'}", "dataset.group=.*is no regular expression"),
        ("{classes: [a, b], group: p1}", r"dataset.group=p1: has no \(...\)"),
        ("{classes: [a, b], val_ratio: 2}", "dataset.yaml: val_ratio=2: expected a share"),
        (
            "{classes: [a, b], val_ratio: 0}",
            r"dataset.yaml: val_ratio=0: expected a share in \(0, 1\): .*chosen on val",
        ),
        (
            "{classes: [a, b], val_ratio: 0.9, test_ratio: 0.5}",
            "dataset.val_ratio=0.9 dataset.test_ratio=0.5: expected less than 1 together",
        ),
        (
            "{classes: [a, b], val_ratio: 0.9, test_ratio: 0.05}",
            "dataset.val_ratio=0.9 dataset.test_ratio=0.05: 11 cases with a mask are too few for 10 in val, 1 in test",
        ),
    ],
)
def test_what_is_wrong_in_dataset_yaml_is_told(root, content, message):
    (root / "dataset.yaml").write_text(content)
    with pytest.raises(UserError, match=message):
        folder(root)


@pytest.mark.parametrize("key", sorted(DEFAULTS))
def test_a_wrong_value_is_refused_alike_in_the_file_and_on_the_command_line(root, key):
    for value in (-0.5, [], [None], {"a": 1}, "a b"):
        told = []
        for inside in ({key: value}, {}):
            with pytest.raises(UserError) as refusal:
                folder(describe(root, **inside), **({} if inside else {key: value}))
            told.append(str(refusal.value).replace(f"{root}/dataset.yaml: ", "dataset."))
        assert told[0] == told[1]
        assert told[0].startswith(f"dataset.{key}=")


# -- images and masks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("colors", "ignore", "mask", "expected"),
    [
        (None, {}, np.array([[0, 1, 2]], np.uint8), [0, 1, 2]),
        (None, {"ignore_index": 7}, np.array([[0, 7, 2]], np.uint16), [0, IGNORE, 2]),
        ([0, 128, 255], {}, np.array([[255, 0, 128]], np.uint8), [2, 0, 1]),
        (["#000000", "#ff0000", [0, 0, 255]], {"ignore_color": "#ffffff"}, "rgb", [1, 2, 0, IGNORE]),
        ([0, 1, 2], {"ignore_index": 255}, np.array([[[2, 2, 2], [255, 255, 255]]], np.uint8), [2, IGNORE]),
    ],
)
def test_masks_hold_numbers_greys_or_colours(tmp_path, colors, ignore, mask, expected):
    if isinstance(mask, str):
        mask = np.array([[[255, 0, 0], [0, 0, 255], [0, 0, 0], [255, 255, 255]]], np.uint8)
    reader = MaskReader(num_classes=3, colors=colors, **ignore)
    assert reader.read(save(tmp_path / "a.png", mask)).tolist() == [[expected]]


def test_greys_of_volumes_may_be_any_numbers(tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.array([[[0, 420, 205]]], np.float32), np.eye(4)), tmp_path / "a.nii")
    reader = MaskReader(num_classes=3, colors=[0, 205, 420])
    assert reader.read(tmp_path / "a.nii").ravel().tolist() == [0, 2, 1]


def test_a_number_below_zero_is_no_colour(tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.array([[[0, -5, 1]]], np.int16), np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(UserError, match=r"a\.nii: label values -5 \(1 pixels\) lie outside the 2 classes 0\.\.1"):
        MaskReader(num_classes=2, colors=None).read(tmp_path / "a.nii")
    assert MaskReader(num_classes=3, colors=[0, -5, 1]).read(tmp_path / "a.nii").ravel().tolist() == [0, 1, 2]


def test_a_palette_is_read_by_its_indices_or_by_its_colours(tmp_path):
    picture = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    picture.putpalette([0, 0, 0, 0, 0, 255, 255, 0, 0])
    picture.save(tmp_path / "a.png")
    assert MaskReader(num_classes=3, colors=None).read(tmp_path / "a.png").tolist() == [[[0, 1, 2]]]
    colors = ["#000000", "#ff0000", "#0000ff"]
    assert MaskReader(num_classes=3, colors=colors).read(tmp_path / "a.png").tolist() == [[[0, 2, 1]]]


COLORFUL = ["#000000", "#ff0000", [0, 0, 255]]


@pytest.mark.parametrize("ending", [".png", ".tif", ".nii.gz", ".h5"])
@pytest.mark.parametrize(
    "colors", [[0, 128, 255], [0, 500, 60000], [0, -5, 1], ["#000000", "#ffffff", "#808080"], COLORFUL]
)
def test_masks_are_written_as_they_are_read(tmp_path, ending, colors):
    label = np.array([[[0, 1], [2, 2], [1, 0]]], np.uint8)
    image, mask = tmp_path / f"image{ending}", tmp_path / f"mask{ending}"
    nibabel.save(nibabel.Nifti1Image(np.zeros((2, 3, 1), np.int16), np.eye(4)), tmp_path / "image.nii.gz")
    with h5py.File(tmp_path / "image.h5", "w") as file:
        file["image"] = np.zeros((1, 3, 2))
    refused = {".png": (colors == [0, -5, 1]), ".tif": False}.get(ending, colors is COLORFUL)
    if refused:
        with pytest.raises(UserError, match=f"mask{ending}: .*numbers"):
            write_label(mask, as_held(label, colors), image)
        return
    write_label(mask, as_held(label, colors), image)
    assert np.array_equal(MaskReader(num_classes=3, colors=colors).read(mask), label)


def test_colours_of_the_masks_are_those_of_pictures_unless_they_are_numbers(root):
    for keys, expected in (
        ({"colors": ["#000000", [0, 0, 255]]}, ["#000000", [0, 0, 255]]),
        ({"colors": ["#000000", "#0000ff"], "palette": ["#000000", "#00ff00"]}, ["#000000", "#00ff00"]),
        ({"colors": [0, 255]}, None),
        ({}, None),
    ):
        assert folder(root, **keys).palette == expected


def test_pictures_of_8_bit_stay_bytes_and_beside_16_bit_all_are_float(root):
    assert {case.read().image.dtype for case in folder(root).cases("train")} == {np.dtype(np.uint8)}
    deep = (drawn(30)[0].astype(np.uint16)) * 257
    save(root / "images/p8_a.png", deep)
    save(root / "images/p8_b.png", drawn(30)[0])
    dataset = folder(root)
    assert dataset.value_bytes == 4
    images = {case.name: case.read().image for case in dataset.cases("train")}
    assert {image.dtype for image in images.values()} == {np.dtype(np.float32)}
    np.testing.assert_allclose(images["p8_a"], images["p8_b"], atol=1e-6)


def test_volumes_have_slices_spacing_and_their_own_scale(tmp_path):
    for name in "abc":
        image, label = (np.stack([part, part]) for part in drawn(1))
        for place, voxels in (("images", image.astype(np.int16) * 10 - 500), ("masks", label)):
            (tmp_path / place).mkdir(exist_ok=True)
            nibabel.save(
                nibabel.Nifti1Image(voxels.transpose(), np.diag([1.5, 2, 8, 1])), tmp_path / place / f"{name}.nii.gz"
            )
    dataset = folder(describe(tmp_path), test_ratio=0)
    case = dataset.cases("val")[0]
    volume = case.read()
    assert (case.num_images, case.size, dataset.scoring) == (2, (40, 48), "cases")
    assert (volume.image.shape, case.spacing) == ((2, 1, 40, 48), (8.0, 2.0, 1.5))
    assert (volume.image.min(), volume.image.max()) == (0, 1)
    assert np.array_equal(volume.label[1], drawn(1)[1])


# -- from end to end --------------------------------------------------------------------------------------------------


def test_a_run_trains_evaluates_and_predicts_without_its_folder(tmp_path):
    root = write_root(tmp_path / "mine", colors=[0, 255], channels=3)
    for mask in (root / "masks").iterdir():
        save(mask, np.asarray(Image.open(mask)) * 255)
    keys = (
        *MACHINE,
        *SMALL,
        *SHORT,
        "dataset=folder",
        f"dataset.root={root}",
        "labeled_ratio=1",
        "network.dropout=[0,0]",
    )
    out = succeed(
        "train", *keys, "method=mean_teacher", "iterations=40", "eval_every=20", "optimizer.lr=0.05", cwd=tmp_path
    )
    assert "labelled: " in out
    run = tmp_path / f"outputs/{root.name}/mean_teacher/unet-1-s0"
    config = yaml.safe_load((run / "config.yaml").read_text())["dataset"]
    assert (config["classes"], config["num_classes"], config["channels"]) == (CLASSES, 2, 3)
    assert (config["scoring"], config["colors"], config["normalize"]) == ("pixels", [0, 255], "auto")
    figures = results(run)["test"]
    assert figures["iou"]["disc"] > 0.5
    succeed("eval", f"run={run}", *MACHINE, cwd=tmp_path)
    assert results(run, "results_test.json")["test"] == figures
    tested = [row["case"] for row in table(run / "cases_test.csv")]

    inputs = tmp_path / "in"
    shutil.copytree(root / "images", inputs)
    grey = drawn(0)[0]
    tifffile.imwrite(inputs / "stack.tif", np.stack([grey, grey]))
    root.rename(tmp_path / "gone")
    keys = (f"run={run}", f"input={inputs}", "output=out", "mask_values=dataset")
    succeed("predict", *keys, *MACHINE, cwd=tmp_path)
    for name in {*tested}:
        truth, found = (np.asarray(Image.open(tmp_path / place / f"{name}.png")) for place in ("gone/masks", "out"))
        assert set(np.unique(found)) == set(np.unique(truth)) == {0, 255}
        assert found.shape == truth.shape
        assert (found & truth).sum() / (found | truth).sum() > 0.5
    stack = tifffile.imread(tmp_path / "out/stack.tif")
    assert np.array_equal(stack[1], np.asarray(Image.open(tmp_path / "out/p0_a.png")))
