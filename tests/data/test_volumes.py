"""Slices as volumes: axes, spacings and the way back, on files of every kind that holds volumes."""

from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import tifffile

from ssl4seg.data.case import Case, Volume
from ssl4seg.data.folder import Folder
from ssl4seg.data.phantom import Phantom
from ssl4seg.data.volumes import sliced, stood, volume_of
from ssl4seg.errors import UserError

SHAPE = (20, 24, 6)
"""x, y, z"""
MASK = np.zeros(SHAPE, np.uint8)
MASK[3, 5, 2] = 1
SPACING = (0.5, 0.75, 4.0)


def folder(root: Path, **keys) -> Folder:
    (root / "dataset.yaml").write_text("classes: [background, tumour]\ntest_ratio: 0\n")
    given = {"root": str(root), "num_classes": None, "image_size": [16, 16, 16]}
    return Folder(**Folder.completed(given | keys))


def write_nifti(file, array, spacing=SPACING, turned=False) -> None:
    image = nibabel.Nifti1Image(array, np.diag([*spacing, 1.0]))
    if turned:  # the same places, stored z, x, y and with x mirrored
        image = image.as_reoriented(nibabel.orientations.axcodes2ornt("SLA", (("L", "R"), ("P", "A"), ("I", "S"))))
    nibabel.save(image, file)


@pytest.fixture(params=["nifti", "turned", "h5", "tiff"])
def root(request, tmp_path):
    """A folder of four volumes of one kind, whose only voxel of class 1 lies at x, y, z = 3, 5, 2."""
    rng = np.random.default_rng(0)
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    for number in range(4):
        image = rng.random(SHAPE, np.float32)
        image[3, 5, 2] = 2
        for part, array in (("images", image), ("masks", MASK)):
            file = tmp_path / part / f"c{number}"
            if request.param in ("nifti", "turned"):
                write_nifti(f"{file}.nii.gz", array, turned=request.param == "turned")
            elif request.param == "tiff":
                tifffile.imwrite(f"{file}.tif", array.transpose(2, 1, 0))
            elif part == "images":
                with h5py.File(f"{file}.h5", "w") as h5:
                    h5["image"], h5["label"] = image, MASK
    return tmp_path


def test_a_volume_has_the_axes_x_y_z_whatever_its_file(root):
    dataset = folder(root)
    case = dataset.cases("train")[0]
    image, label = case.read()
    assert case.size == SHAPE
    assert case.num_images == 1
    assert image.shape == (1, 1, *SHAPE)
    assert np.argwhere(label).tolist() == [[0, 3, 5, 2]]
    assert image[0, 0, 3, 5, 2] == image.max() == 1
    assert np.array_equal(case.read_image(), image)
    if case.spacing:
        assert case.spacing == pytest.approx(SPACING)


def test_with_one_number_the_same_files_are_slices(root):
    case = folder(root, image_size=32).cases("train")[0]
    first_axis = 20 if (root / "images" / "c0.h5").exists() else 6
    assert (case.num_images, len(case.size)) == (first_axis, 2)


def test_h5_whose_slices_come_first_is_laid_by_h5_axes(tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(4):
        with h5py.File(tmp_path / "images" / f"c{number}.h5", "w") as h5:
            h5["image"], h5["label"] = np.zeros((6, 24, 20), np.float32), MASK.transpose(2, 1, 0)
    case = folder(tmp_path, h5_axes="zyx").cases("train")[0]
    assert case.size == SHAPE
    assert np.argwhere(case.read().label).tolist() == [[0, 3, 5, 2]]


@pytest.mark.parametrize("stored", [False, True])
def test_a_volumes_label_goes_back_to_its_slices(stored):
    slices = np.random.default_rng(0).integers(0, 3, (5, 6, 7), np.uint8)
    assert np.array_equal(sliced(stood(slices, stored=stored), stored=stored), slices)


def test_a_case_keeps_name_group_and_files():
    slices = Volume(np.random.default_rng(0).random((3, 2, 4, 5), np.float32), None)
    case = Case(name="a", group="g", num_images=3, size=(4, 5), labeled=False, read=lambda: slices, spacing=(3, 2, 1))
    volume = volume_of(case)
    assert (volume.name, volume.group, volume.size, volume.spacing) == ("a", "g", (5, 4, 3), (1, 2, 3))
    assert np.array_equal(volume.read().image[0, 1, 4, 2, 0], slices.image[0, 1, 2, 4])


def test_the_phantom_is_a_dataset_of_volumes_too():
    keys = {"classes": ["b", "r", "m", "l"], "num_classes": 4, "channels": 1, "seed": 0}
    counts = {"num_train": 1, "num_val": 1, "num_test": 1}
    flat = Phantom(**keys, **counts, image_size=64).cases("train")[0]
    case = Phantom(**keys, **counts, image_size=[64, 64, 16]).cases("train")[0]
    assert case.size == (*flat.size[::-1], flat.num_images)
    assert np.array_equal(case.read().label[0].transpose(2, 1, 0), flat.read().label)


@pytest.mark.parametrize("size", [[64, 64], [64, 64, 8, 8], [64, 64, 3], 8, "64"])
def test_an_image_size_of_other_axes_is_refused(size):
    with pytest.raises(UserError, match=r"dataset\.image_size.*as \[96,96,96\]"):
        Phantom(
            classes=["b", "r", "m", "l"],
            num_classes=4,
            channels=1,
            seed=0,
            num_train=1,
            num_val=1,
            num_test=1,
            image_size=size,
        )
