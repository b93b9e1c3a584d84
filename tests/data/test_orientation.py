"""Volumes of any orientation are laid alike, and masks go back to their file's own axes."""

from pathlib import Path

import bodies
import h5py
import nibabel
import numpy as np
import pytest
from folders import describe, folder, write_root

from ssl4seg.data.formats import nifti_spacing, read_nifti
from ssl4seg.data.images import axes_in, axes_of_mask, contradiction, facts, read_image, read_values, write_label
from ssl4seg.data.orientation import Space, thickest
from ssl4seg.errors import UserError

RAS = np.arange(4 * 5 * 3, dtype=np.int16).reshape(4, 5, 3)
"""x 4, y 5, z 3."""
CANONICAL = Space("canonical", "z")


@pytest.mark.parametrize("name", ["RAS", "LPS", "SAR"])
@pytest.mark.parametrize(
    ("axis", "order", "spacing"),
    [("z", "zyx", (8, 2, 1.5)), ("y", "yzx", (2, 8, 1.5)), ("x", "xzy", (1.5, 8, 2))],
)
def test_a_scan_is_read_alike_however_it_is_stored(tmp_path, name, axis, order, spacing):
    file = bodies.write(tmp_path / "a.nii.gz", name, RAS)
    expected = RAS.transpose(["xyz".index(letter) for letter in order])
    space = Space("canonical", axis)
    assert np.array_equal(read_image(file, 1, space=space)[:, 0], expected)
    fact = facts(file, 1, space)
    assert ((fact.num_images, *fact.size), fact.spacing) == (expected.shape, spacing)
    assert np.array_equal(read_values(file, colored=False, axes=axes_in(file, space)), expected)


@pytest.mark.parametrize("name", ["RAS", "LPS", "SAR"])
@pytest.mark.parametrize("axis", "xyz")
def test_a_mask_goes_back_to_its_images_axes_affine_and_header(tmp_path, name, axis):
    file = bodies.write(tmp_path / "a.nii", name, RAS)
    truth = (RAS % 4).astype(np.uint8)
    order = {"z": (2, 1, 0), "y": (1, 2, 0), "x": (0, 2, 1)}[axis]
    write_label(tmp_path / "mask.nii", truth.transpose(order), file, space=Space("canonical", axis))
    mask, image = nibabel.load(tmp_path / "mask.nii"), nibabel.load(file)
    assert np.array_equal(np.asarray(mask.dataobj), bodies.stored_as(name, truth)[0])
    assert np.array_equal(mask.affine, image.affine)
    for key in ("descrip", "xyzt_units", "qform_code", "sform_code", "pixdim", "dim"):
        assert np.array_equal(mask.header[key], image.header[key]), key


def test_stored_orientation_reads_the_files_axes_reversed(tmp_path):
    file = bodies.write(tmp_path / "a.nii", "SAR", RAS)
    assert np.array_equal(read_image(file, 1)[:, 0], RAS)
    assert np.array_equal(read_image(file, 1, space=Space("stored", "x"))[:, 0], RAS.transpose(2, 0, 1))


def test_an_affine_that_is_not_set_turns_nothing(tmp_path):
    image = nibabel.Nifti1Image(RAS, None)
    assert (image.header["sform_code"], image.header["qform_code"]) == (0, 0)
    nibabel.save(image, tmp_path / "a.nii")
    assert np.array_equal(read_image(tmp_path / "a.nii", 1, space=CANONICAL)[:, 0], RAS.transpose())


def test_channels_stay_channels(tmp_path):
    both = np.stack([RAS, -RAS], axis=-1)
    voxels, affine = bodies.stored_as("LPS", both)
    nibabel.save(nibabel.Nifti1Image(voxels, affine), tmp_path / "a.nii")
    image = read_image(tmp_path / "a.nii", 2, space=CANONICAL)
    assert np.array_equal(image, np.stack([RAS.transpose(), -RAS.transpose()], axis=1))


def test_a_single_slice_stays_one_along_whichever_axis_it_lies(tmp_path):
    file = bodies.write(tmp_path / "a.nii", "SAR", RAS[1:2])  # sagittal
    assert np.array_equal(read_image(file, 1, space=CANONICAL)[:, 0], RAS[1:2].transpose(0, 2, 1))
    fact = facts(file, 1, CANONICAL)
    assert (fact.num_images, fact.size, fact.spacing) == (1, (3, 5), (1.5, 8, 2))


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1), ("micron", 0.001), ("meter", 1000), ("unknown", 1)])
def test_spacing_is_in_mm_whatever_the_headers_unit(tmp_path, unit, factor):
    image = nibabel.Nifti1Image(RAS, np.diag([1.5, 2, 8, 1]))
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "a.nii")
    assert nifti_spacing(read_nifti(tmp_path / "a.nii")[1]) == pytest.approx((8 * factor, 2 * factor, 1.5 * factor))
    assert contradiction(tmp_path / "a.nii") is None


def test_a_pixdim_that_contradicts_the_affine_is_told(tmp_path):
    image = nibabel.Nifti1Image(RAS, np.diag([1.5, 2, 8, 1]))
    image.header["pixdim"][1:4] = 1
    nibabel.save(image, tmp_path / "a.nii")
    content = bytearray((tmp_path / "a.nii").read_bytes())
    content[80:92] = np.ones(3, np.float32).tobytes()  # nibabel writes the affine's own
    (tmp_path / "a.nii").write_bytes(content)
    assert "a.nii: pixdim says 1 x 1 x 1 mm (slices, rows, columns as stored), the affine 8 x 2 x 1.5 mm" in str(
        contradiction(tmp_path / "a.nii")
    )


@pytest.mark.parametrize(
    ("spacing", "axis"),
    [((8, 1, 1), "z"), ((1, 8, 1), "y"), ((1, 1, 1.1), "x"), ((1, 1, 1.005), None), ((5, 5, 1), None)],
)
def test_the_thickest_axis(spacing, axis):
    assert thickest(spacing) == axis


# -- pairs ------------------------------------------------------------------------------------------------------------


def test_a_mask_of_another_orientation_at_the_same_place_is_read_by_its_own_affine(tmp_path):
    image = bodies.write(tmp_path / "a.nii", "RAS", RAS)
    mask = bodies.write(tmp_path / "m.nii", "SAR", RAS)
    axes = axes_of_mask(mask, image, CANONICAL)
    assert np.array_equal(read_values(mask, colored=False, axes=axes), RAS.transpose())
    with pytest.raises(UserError, match=r"m\.nii: the affines of the mask and its image a\.nii differ|shape"):
        axes_of_mask(bodies.write(tmp_path / "m.nii", "LPS", RAS), image, Space("stored", "z"))


def test_masks_without_an_affine_are_laid_as_their_image(tmp_path):
    image = bodies.write(tmp_path / "a.nii", "LPS", RAS)
    stored = bodies.stored_as("LPS", RAS)[0]
    bare = nibabel.Nifti1Image(stored, None)
    nibabel.save(bare, tmp_path / "m.nii")
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["label"] = stored.transpose()
    for mask in (tmp_path / "m.nii", tmp_path / "m.h5"):
        values = read_values(mask, colored=False, axes=axes_of_mask(mask, image, CANONICAL))
        assert np.array_equal(values, RAS.transpose())


@pytest.mark.parametrize(("shift", "refused"), [(0.001, False), (1.0, True), (50.0, True)])
def test_a_mask_at_another_place_is_refused_beyond_rounding(tmp_path, shift, refused):
    image = bodies.write(tmp_path / "a.nii", "RAS", RAS)
    voxels, affine = bodies.stored_as("RAS", RAS)
    affine[2, 3] += shift
    nibabel.save(nibabel.Nifti1Image(voxels, affine), tmp_path / "m.nii")
    if not refused:
        axes_of_mask(tmp_path / "m.nii", image, CANONICAL)
        return
    with pytest.raises(UserError, match=rf"m\.nii: the affines of .* a\.nii differ, by {shift:g} mm at a corner"):
        axes_of_mask(tmp_path / "m.nii", image, CANONICAL)


def test_an_affine_that_leads_nowhere_is_refused(tmp_path):
    nibabel.save(nibabel.Nifti1Image(RAS, np.diag([1.0, 1, 1, 1])), tmp_path / "a.nii")
    content = bytearray((tmp_path / "a.nii").read_bytes())
    content[280:328] = bytes(48)  # srow_x, srow_y, srow_z
    (tmp_path / "a.nii").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.nii: its affine is none"):
        read_image(tmp_path / "a.nii", 1, space=CANONICAL)


# -- folders ----------------------------------------------------------------------------------------------------------


def write_scans(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        bodies.write(root / f"images/c{number}.nii.gz", name, RAS + number)
        bodies.write(root / f"masks/c{number}.nii.gz", name, (RAS % 2).astype(np.uint8))
    return describe(root)


def test_a_folder_of_several_orientations_is_one_dataset(tmp_path):
    dataset = folder(write_scans(tmp_path, "RAS", "LPS", "SAR", "SAR"), normalize="none")
    assert dataset.space == CANONICAL  # 8 mm along z
    assert dataset.notes == [
        "volumes are read in canonical orientation (RAS+), with slices along z (orientation, slice_axis)"
    ]
    for split in ("train", "val", "test"):
        for case in dataset.cases(split):
            volume, number = case.read(), int(case.name[1:])
            assert np.array_equal(volume.image[:, 0], (RAS + number).transpose())
            assert np.array_equal(volume.label, (RAS % 2).transpose())
            assert (case.num_images, case.size, case.spacing) == (3, (5, 4), (8, 2, 1.5))


def test_the_slice_axis_is_that_of_most_volumes_and_the_others_are_told(tmp_path):
    root = write_scans(tmp_path, "RAS", "RAS", "RAS", "RAS")
    for number in range(3):
        for part in ("images", "masks"):
            file = root / part / f"c{number}.nii.gz"
            voxels = np.asarray(nibabel.load(file).dataobj)
            nibabel.save(nibabel.Nifti1Image(voxels, np.diag([5.0, 1, 1, 1])), file)
    keys = folder(root).completed({"root": str(root)})
    assert (keys["orientation"], keys["slice_axis"]) == ("canonical", "x")
    dataset = folder(root)
    assert dataset.cases("train")[0].size == (3, 5)
    assert dataset.notes[1] == "1 volumes have their largest spacing along another axis, as c3.nii.gz along z"
    assert folder(root, slice_axis="y").cases("train")[0].size == (3, 4)


def test_a_folder_of_pictures_keeps_its_axes(tmp_path):
    assert folder(write_root(tmp_path)).space == Space("stored", "z")


def test_a_pair_at_two_places_is_a_fault_before_training(tmp_path):
    root = write_scans(tmp_path, "RAS", "RAS", "RAS")
    bodies.write(root / "masks/c1.nii.gz", "LPS", RAS % 2)
    folder(root)  # the same place, stored in another way
    voxels, affine = bodies.stored_as("RAS", (RAS % 2).astype(np.uint8))
    affine[0, 0] *= -1
    nibabel.save(nibabel.Nifti1Image(voxels, affine), root / "masks/c1.nii.gz")
    with pytest.raises(UserError, match=r"masks/c1\.nii\.gz: the affines of the mask and its image c1\.nii\.gz differ"):
        folder(root)
