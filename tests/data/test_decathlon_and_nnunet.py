"""The folders of the Medical Segmentation Decathlon and of nnU-Net as they are: contents and faults."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel
import numpy as np
import pytest
from folders import folder
from PIL import Image

from ssl4seg.commands.check_folder import check_folder, fitting_shape
from ssl4seg.commands.prediction import images_of, masks_to_write
from ssl4seg.data.dataset import SPLITS
from ssl4seg.data.images import write_label
from ssl4seg.data.layout import find
from ssl4seg.errors import UserError

SHAPE = (8, 9, 7)
"""x, y, z"""
NNUNET = {
    "channel_names": {"0": "T1", "1": "T2"},
    "labels": {"background": 0, "Anterior": 1, "Posterior": 2},
    "numTraining": 6,
    "file_ending": ".nii.gz",
}
CASES = [f"case_{number:03d}" for number in range(6)]


def save(file: Path, voxels: np.ndarray, spacing: Sequence[float] = (1.0, 1.0, 3.0)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([*spacing, 1.0])), file)


def channel(number: int) -> np.ndarray:
    """Channel c is 10 c + x."""
    return np.broadcast_to(10 * number + np.arange(8)[:, None, None], SHAPE).astype(np.float32)


def mask() -> np.ndarray:
    """Two classes, along x."""
    return np.broadcast_to(np.array([0, 1, 2, 0, 0, 0, 0, 0])[:, None, None], SHAPE).astype(np.uint8)


def write_msd(root: Path, names: Sequence[str] = CASES) -> Path:
    """Two channels on the fourth axis; beside each file the one that macOS packs into a tar."""
    for name in names:
        save(root / f"imagesTr/{name}.nii.gz", np.stack([channel(0), channel(1)], axis=3))
        save(root / f"labelsTr/{name}.nii.gz", mask().astype(np.float32))
        (root / f"imagesTr/._{name}.nii.gz").write_bytes(b"Mac OS X")
    pairs = [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in names]
    labels = {"0": "background", "1": "Anterior", "2": "Posterior"}
    describe(root, {"name": "Two Parts", "modality": {"0": "T1", "1": "T2"}, "labels": labels, "training": pairs})
    return root


def write_nnunet(root: Path, names: Sequence[str] = CASES) -> Path:
    for name in names:
        for number in (0, 1):
            save(root / f"imagesTr/{name}_{number:04d}.nii.gz", channel(number))
        save(root / f"labelsTr/{name}.nii.gz", mask())
    describe(root, NNUNET)
    return root


def describe(root: Path, content: object) -> None:
    (root / "dataset.json").write_text(json.dumps(content))


def described(root: Path) -> dict:
    return json.loads((root / "dataset.json").read_text())


@pytest.fixture(params=[write_msd, write_nnunet], ids=["msd", "nnunet"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return request.param(tmp_path / "Dataset007_Parts")


def names(dataset, split) -> list[str]:
    return sorted(case.name for case in dataset.cases(split))


# -- what they hold ---------------------------------------------------------------------------------------------------


def test_classes_channels_and_name_are_those_of_dataset_json(root: Path) -> None:
    dataset = folder(root, image_size=[8, 8, 8])
    assert dataset.classes == ("background", "Anterior", "Posterior")
    assert dataset.channels == 2
    assert dataset.name == ("Two_Parts" if "name" in described(root) else "Dataset007_Parts")
    assert sorted(name for split in SPLITS for name in names(dataset, split)) == CASES


def test_voxels_and_spacing_are_the_files_own(root: Path) -> None:
    case = folder(root, image_size=[8, 8, 8], normalize="none").cases("val")[0]
    image, label = case.read()
    assert (case.size, case.spacing, case.group) == (SHAPE, (1, 1, 3), case.name)
    assert np.array_equal(image[0], [channel(0), channel(1)])
    assert np.array_equal(label[0], mask())
    assert len(case.files) == (3 if (root / "imagesTr/case_000_0001.nii.gz").exists() else 2)


def test_with_one_number_they_are_slices(root: Path) -> None:
    case = folder(root, image_size=16, normalize="none", slice_axis="z").cases("val")[0]
    assert (case.num_images, case.size) == (7, (9, 8))
    assert np.array_equal(case.read().image[3], np.stack([channel(0), channel(1)])[..., 3].swapaxes(1, 2))


def test_dataset_yaml_and_the_command_line_go_before_dataset_json(root: Path) -> None:
    (root / "dataset.yaml").write_text("classes: [air, front, back]\nname: mine\n")
    dataset = folder(root, image_size=[8, 8, 8])
    assert (dataset.classes, dataset.name, dataset.channels) == (("air", "front", "back"), "mine", 2)
    assert folder(root, image_size=[8, 8, 8], classes=["x", "y", "z"]).classes == ("x", "y", "z")


def test_numbers_in_names_of_whole_volumes_raise_no_doubt(root: Path) -> None:
    assert not folder(root, image_size=[8, 8, 8]).doubts


def test_values_with_gaps_and_the_value_to_ignore(tmp_path: Path) -> None:
    root = write_nnunet(tmp_path)
    describe(root, NNUNET | {"labels": {"back": 0, "part": 2, "ignore": 1}})
    dataset = folder(root, image_size=[8, 8, 8])
    assert dataset.classes == ("back", "part")
    assert dataset.cases("val")[0].read().label[0, :4, 0, 0].tolist() == [0, 255, 1, 0]


def test_version_1_of_nnunet_lists_cases_without_the_number_of_a_channel(tmp_path: Path) -> None:
    root = write_nnunet(tmp_path)
    listed = described(write_msd(tmp_path / "other"))
    describe(root, listed)
    dataset = folder(root, image_size=[8, 8, 8])
    assert dataset.channels == 2
    assert not [note for note in dataset.notes if "dataset.json" in note]


def test_pictures_of_nnunet_hold_their_colours_in_one_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for part in ("imagesTr", "labelsTr"):
        (tmp_path / part).mkdir()
    for name in CASES:
        Image.fromarray(rng.integers(0, 255, (12, 14, 3), np.uint8)).save(tmp_path / f"imagesTr/{name}_0000.png")
        Image.fromarray(rng.integers(0, 2, (12, 14), np.uint8)).save(tmp_path / f"labelsTr/{name}.png")
    rgb = {"channel_names": {"0": "R", "1": "G", "2": "B"}, "labels": {"background": 0, "road": 1}}
    describe(tmp_path, rgb | {"file_ending": ".png"})
    dataset = folder(tmp_path, image_size=16)
    assert (dataset.channels, dataset.classes) == (3, ("background", "road"))
    assert dataset.cases("train")[0].read().image.shape == (1, 3, 12, 14)


# -- imagesTs ---------------------------------------------------------------------------------------------------------


def with_test(root: Path, *, masks: bool) -> Path:
    for part in ("images", "labels") if masks else ("images",):
        (root / f"{part}Ts").mkdir()
        for file in (root / f"{part}Tr").glob("case_00[01]*"):
            (root / f"{part}Ts" / file.name.replace("case", "new")).write_bytes(file.read_bytes())
    return root


def test_images_of_test_with_masks_are_the_test_split(root: Path) -> None:
    dataset = folder(with_test(root, masks=True), image_size=[8, 8, 8])
    assert names(dataset, "test") == ["new_000", "new_001"]
    assert sorted(names(dataset, "train") + names(dataset, "val")) == CASES


def test_images_of_test_without_masks_are_left_out_which_is_told_and_may_be_unlabelled(root: Path) -> None:
    dataset = folder(with_test(root, masks=False), image_size=[8, 8, 8])
    assert sorted(name for split in SPLITS for name in names(dataset, split)) == CASES
    assert [note for note in dataset.notes if "imagesTs" in note and "unlabeled/" in note]
    (root / "unlabeled").symlink_to("imagesTs")
    dataset = folder(root, image_size=[8, 8, 8])
    assert [name for name in names(dataset, "train") if name.startswith("unlabeled/")] == [
        "unlabeled/new_000",
        "unlabeled/new_001",
    ]


# -- predictions ------------------------------------------------------------------------------------------------------


def test_the_channel_files_of_an_image_get_one_mask_without_the_number(tmp_path: Path) -> None:
    root = write_nnunet(tmp_path / "data", ["a_0001", "b"])
    (root / "imagesTr/b_0001.nii.gz").unlink()
    save(root / "imagesTr/c.nii.gz", channel(0))
    files = sorted((root / "imagesTr").iterdir())
    images, (fault,) = images_of(files, 2)
    assert [[file.name for file in part] for part in images.values()] == [
        ["a_0001_0000.nii.gz", "a_0001_0001.nii.gz"],
        ["c.nii.gz"],
    ]
    assert fault.startswith(f"{root}/imagesTr/b_0001.nii.gz: is missing")
    targets = masks_to_write(root / "imagesTr", tmp_path / "out", [*images], channel_files=True)
    assert [target.name for target in targets] == ["a_0001.nii.gz", "c.nii.gz"]
    assert images_of(files, None) == ({file: (file,) for file in files}, [])


def test_the_mask_of_a_file_with_channels_has_three_axes_and_its_place(tmp_path: Path) -> None:
    image = write_msd(tmp_path, CASES[:1]) / "imagesTr/case_000.nii.gz"
    write_label(tmp_path / "mask.nii.gz", mask().transpose(2, 1, 0), image)
    written = nibabel.load(tmp_path / "mask.nii.gz")
    assert written.header.get_zooms() == (1, 1, 3)
    assert np.array_equal(written.affine, nibabel.load(image).affine)
    assert np.array_equal(np.asarray(written.dataobj), mask())


# -- ssl4seg-prepare check --------------------------------------------------------------------------------------------


def test_check_counts_volumes_paints_three_planes_and_prints_a_command_for_them(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    check_folder(root, sheet=tmp_path / "sheet.png")
    printed = capsys.readouterr().out
    assert "8 x 9 x 7 (6) (x, y, z)" in printed
    assert "1   Anterior     12.500% of the pixels, in 6 of 6 masks" in printed
    assert f"train with: ssl4seg-train dataset=folder dataset.root={root} 'dataset.image_size=[16,16,16]'" in printed
    assert "or slice by slice: ssl4seg-train" in printed
    assert Image.open(tmp_path / "sheet.png").width > 2 * 3 * 200  # two volumes a row


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [([(35, 51, 35)], [48, 64, 48]), ([(180, 140, 88), (170, 150, 88)], [96, 96, 96]), ([(16, 17, 4)], [16, 32, 16])],
)
def test_the_size_for_volumes_is_their_usual_one_in_steps_of_16_up_to_96(shapes, expected) -> None:
    assert fitting_shape(shapes) == expected


# -- what is wrong ----------------------------------------------------------------------------------------------------


def labelled(labels: object) -> Callable[[Path], None]:
    return lambda root: describe(root, described(root) | {"labels": labels})


FAULTS: dict[str, tuple[Callable, Callable[[Path], object], str]] = {
    "listed image that is missing": (
        write_msd,
        lambda root: [(root / f"{part}Tr/case_003.nii.gz").unlink() for part in ("images", "labels")],
        "dataset.json: training names ./imagesTr/case_003.nii.gz, which is missing",
    ),
    "listed mask that is missing": (
        write_msd,
        lambda root: (root / "labelsTr/case_003.nii.gz").unlink(),
        "dataset.json: training names ./labelsTr/case_003.nii.gz, but the mask of case_003 is missing",
    ),
    "other number of channels": (
        write_msd,
        lambda root: describe(root, described(root) | {"modality": {"0": "T1"}}),
        "has 2 channel(s), but dataset.json names 1",
    ),
    "image of other channels": (
        write_msd,
        lambda root: save(root / "imagesTr/case_003.nii.gz", channel(0)),
        "imagesTr/case_003.nii.gz: has 1 channel(s), but dataset.json names 2",
    ),
    "channel that is missing": (
        write_nnunet,
        lambda root: (root / "imagesTr/case_003_0001.nii.gz").unlink(),
        "imagesTr/case_003_0001.nii.gz: is missing; case_003 has 1 channel file(s), as case_003_0000.nii.gz",
    ),
    "channel of another shape": (
        write_nnunet,
        lambda root: save(root / "imagesTr/case_003_0001.nii.gz", channel(0)[:, :, 1:]),
        "imagesTr/case_003_0001.nii.gz: is 6 x 9 x 8 (slices x height x width), but the first channel case_003_0000",
    ),
    "channel of another affine": (
        write_nnunet,
        lambda root: save(root / "imagesTr/case_003_0001.nii.gz", channel(0), (1, 1, 2)),
        "imagesTr/case_003_0001.nii.gz: the affines of this channel and case_003_0000.nii.gz differ",
    ),
    "mask of 4 axes": (
        write_msd,
        lambda root: save(root / "labelsTr/case_003.nii.gz", np.stack([mask()] * 3, axis=3)),
        "labelsTr/case_003.nii.gz: has 4 axes, the last of length 3; expected a mask with one value a voxel",
    ),
    "regions": (
        write_nnunet,
        labelled({"background": 0, "whole": [1, 2], "core": 2}),
        "dataset.json: labels: whole stands for several values [1, 2] (nnU-Net's regions)",
    ),
    "two classes of one value": (write_nnunet, labelled({"background": 0, "a": 1, "b": 1}), "different values"),
    "labels that are none": (write_nnunet, labelled([]), "dataset.json: labels=[]: expected"),
    "kind of file that is not read": (
        write_nnunet,
        lambda root: describe(root, NNUNET | {"file_ending": ".mgz"}),
        "dataset.json: file_ending .mgz is not read (convert to NIfTI); expected .nii.gz",
    ),
    "another pair than the list has": (
        write_msd,
        lambda root: describe(
            root,
            described(root)
            | {"training": [{"image": "./imagesTr/case_000.nii.gz", "label": "./labelsTr/case_001.nii.gz"}]},
        ),
        "dataset.json: training names ./labelsTr/case_001.nii.gz, but the mask of case_000 is case_000",
    ),
    "no JSON": (
        write_nnunet,
        lambda root: (root / "dataset.json").write_text("{'labels': 1}"),
        "dataset.json: cannot be read as JSON",
    ),
    "deep JSON": (
        write_nnunet,
        lambda root: (root / "dataset.json").write_text("[" * 100_000),
        "dataset.json: cannot be read as JSON",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_one_message(tmp_path: Path, fault: str) -> None:
    write, spoil, words = FAULTS[fault]
    root = write(tmp_path / "data")
    folder(root, image_size=[8, 8, 8])
    spoil(root)
    with pytest.raises(UserError, match=re.escape(words)):
        folder(root, image_size=[8, 8, 8])


@pytest.mark.parametrize(
    ("labels", "number", "fault"),
    [
        ((0, 1, 2), 3, r"label values 3 .* outside the 3 classes 0\.\.2; add them to labels in dataset\.json or mend"),
        ((0, 1, 4), 3, r"unknown numbers 2 .*, 3 .*; add them to labels in dataset\.json, or mend the mask"),
        ((0, 1, 2), 255, r".* to labels in dataset\.json or mend .*; if it is to be ignored, call it \"ignore\" there"),
    ],
)
def test_a_number_that_dataset_json_lacks_is_to_be_mended_there(
    tmp_path: Path, labels: tuple[int, ...], number: int, fault: str
) -> None:
    root = write_nnunet(tmp_path / "parts")
    describe(root, NNUNET | {"labels": dict(zip(("back", "front", "rear"), labels, strict=True))})
    (root / "dataset.yaml").write_text("val_ratio: 0.2\n")
    save(root / "labelsTr/case_000.nii.gz", np.where(channel(0) == 5, number, mask()).astype(np.uint8))
    with pytest.raises(UserError, match=rf"case_000\.nii\.gz: {fault}"):
        check_folder(root, sheet=tmp_path / "sheet.png")
    dataset = folder(root, image_size=[8, 8, 8])
    with pytest.raises(UserError, match=rf"case_000\.nii\.gz: {fault}"):
        [case.read() for split in SPLITS for case in dataset.cases(split) if case.name == "case_000"]
    (root / "dataset.yaml").write_text("classes: [back, front, rear]\n")
    with pytest.raises(UserError, match=r"case_000\.nii\.gz: .* in dataset\.yaml"):
        check_folder(root, sheet=tmp_path / "sheet.png")


def test_images_that_the_list_lacks_are_told_and_read(tmp_path: Path) -> None:
    root = write_msd(tmp_path)
    content = described(root)
    describe(root, content | {"training": content["training"][:4]})
    found = find(root)
    assert len(found.items) == 6
    assert "2 images of imagesTr/ are not in the list training of dataset.json, as case_004" in found.notes[0]


def test_the_folder_above_is_not_guessed_but_named(tmp_path: Path) -> None:
    write_msd(tmp_path / "raw/Dataset001_Parts")
    assert f"(is {tmp_path / 'raw/Dataset001_Parts'} meant?)" in find(tmp_path / "raw").faults[0]
