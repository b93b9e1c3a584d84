"""Volumes cut and resampled as they are read, and the way back: by hand, on files of a folder, and through a run."""

import csv
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
from bodies import affine_of
from folders import describe, folder
from helpers import MACHINE, results, succeed
from medpy.metric.binary import dc, hd95

import ssl4seg
from ssl4seg.commands.check_folder import check_folder
from ssl4seg.data.case import Case
from ssl4seg.data.grid import Grid, foreground, grid_of
from ssl4seg.errors import UserError
from ssl4seg.feed.views import PatchView

SHAPE = (14, 12, 8)
INNER = (slice(2, 12), slice(3, 11), slice(1, 7))
"""What is not air."""
STEPS = (1.0, 1.5, 2.0)
WORDS = ("dataset.spacing=[1,1.5,1]", "dataset.crop=foreground", "dataset.window=[0,200]", "dataset.normalize=zscore")


def scan(number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, y, z: an image, what in it is bright, and a mask that is larger than this."""
    bright = np.zeros(SHAPE, np.uint8)
    bright[2:8, 3:9, 1:6] = 1
    bright[4:6, 7:9, 3 + number % 3 :] = 0
    image = np.zeros(SHAPE, np.float32)
    image[INNER] = 40
    image[bright > 0] = 400
    image[INNER] += np.random.default_rng(number).uniform(-5, 5, (10, 8, 6))
    bright[[0, 1, 12, 13]] = bright[:, :, [0, 7]] = 0
    mask = bright.copy()
    mask[2:8, 3:9, 6] = mask[8, 4:7, 2:4] = mask[1, 4, 2] = 1  # the last lies in the air
    return image, bright, mask


def stored(array: np.ndarray) -> np.ndarray:
    """x, y, z -> z, x, y with x mirrored."""
    return np.ascontiguousarray(array.transpose(2, 0, 1)[:, ::-1])


AFFINE = affine_of([(2, STEPS[2]), (0, -STEPS[0]), (1, STEPS[1])], np.array([30.0, -8.0, 5.0]))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("grid") / "scans"
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
    for number in range(6):
        image, _, mask = scan(number)
        for part, array in (("images", image), ("masks", mask)):
            nibabel.save(nibabel.Nifti1Image(stored(array), AFFINE), root / part / f"c{number}.nii.gz")
    return describe(root, classes=["background", "bright"], val_ratio=0.2, test_ratio=0.2)


def read(root: Path, **keys: object) -> Case:
    found = folder(root, **{"image_size": [8, 8, 8], **keys})
    return next(case for split in ("train", "val", "test") for case in found.cases(split) if case.name == "c0")


# -- by hand ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spacing", [(1.5, 1.5, 1.5), (0.7, 4.0, 1.0), (2.0, 1.0, 3.0)])
def test_a_ramp_of_millimetres_is_one_after_it_was_resampled(spacing):
    """Voxel boxes of 2 x 1 x 3 mm begin at 0 mm: the value of a voxel is its centre, before and after."""
    shape, given = (10, 9, 8), (2.0, 1.0, 3.0)
    centres = np.meshgrid(*[(np.arange(n) + 0.5) * step for n, step in zip(shape, given, strict=True)], indexing="ij")
    image = np.stack(centres)[None].astype(np.float32)
    place = Grid(spacing).place("a.nii", shape, given, lambda: image)
    found = place.resampled(place.cut(image))[0]
    lengths = [round(n * a / b) for n, a, b in zip(shape, given, spacing, strict=True)]
    assert found.shape == (3, *lengths)
    assert place.spacing_read == pytest.approx([n * a / m for n, a, m in zip(shape, given, lengths, strict=True)])
    for axis, (n, step, m) in enumerate(zip(shape, given, lengths, strict=True)):
        expected = ((np.arange(m) + 0.5) * n * step / m).clip(step / 2, n * step - step / 2)  # beyond, values go on
        line = np.moveaxis(found[axis], axis, -1)
        assert np.abs(line - expected).max() < 1e-5


def test_labels_take_the_nearest_voxel():
    label = np.array([3, 5, 7, 9], np.uint8).reshape(1, 4, 1, 1)
    for spacing, expected in ((2 / 3, [3, 5, 5, 7, 9, 9]), (0.5, [3, 3, 5, 5, 7, 7, 9, 9]), (3.0, [7]), (9.0, [7])):
        place = Grid((spacing, 1, 1)).place("a.nii", (4, 1, 1), (1, 1, 1), lambda: label)
        assert place.read(label).ravel().tolist() == expected


@pytest.mark.parametrize("spacing", [None, (0.5, 1.0, 1.0), (1.0, 3.0, 2.0), (0.25, 1.5, 1.0)])
def test_a_label_that_was_cropped_and_refined_comes_back_as_it_was(spacing):
    """(1, 3, 2) is coarser along y: there the label is made of pairs of voxels."""
    image, _, mask = scan(0)
    inside = np.zeros_like(mask)
    inside[INNER] = mask[INNER]
    if spacing == (1.0, 3.0, 2.0):
        inside[:, 4:11:2] = inside[:, 3:11:2]
    place = Grid(spacing, crop=True).place("a.nii", SHAPE, STEPS, lambda: image[None, None])
    assert place.part == INNER
    read_label = place.read(inside[None])
    assert read_label.shape[1:] == place.size
    assert np.array_equal(place.back(read_label)[0], inside)


def test_the_foreground_is_neither_0_nor_the_lowest_value_in_some_channel():
    image = np.zeros((1, 2, 6, 5, 4), np.float32)
    image[0, 1] = -1024
    assert foreground(image) == (slice(0, 6), slice(0, 5), slice(0, 4))  # nothing: it is taken whole
    image[0, 0, 2, 1, 3] = -7
    image[0, 0, 2, 2, 2] = -8  # the lowest
    image[0, 1, 4, 3, 3] = 50
    assert foreground(image) == (slice(2, 5), slice(1, 4), slice(3, 4))


def test_the_note_says_what_becomes_of_the_spacings():
    assert Grid().note([STEPS]) == ""
    assert (
        Grid((1, 1, 2)).note([(2, 2, 2), None]).startswith("volumes are resampled to 1 x 1 x 2 mm, from 2 (spacing);")
    )
    assert Grid(crop=True).note([STEPS]).startswith("volumes are cropped to their foreground (crop); masks are scored")


def test_one_number_is_the_spacing_of_all_axes_and_none_is_off():
    assert grid_of({"spacing": 2, "crop": "foreground"}) == Grid((2.0, 2.0, 2.0), True)
    assert grid_of({"spacing": "none", "crop": "none"}) == grid_of({}) == Grid()


# -- on files ---------------------------------------------------------------------------------------------------------


def test_a_case_has_the_size_the_spacing_and_the_scale_of_what_is_left(root):
    case = read(root, spacing=[2, 1.5, 1], crop="foreground", normalize="zscore", window=[0, 200])
    assert (case.num_images, case.size, case.spacing) == (1, (5, 8, 12), (2, 1.5, 1))
    image, label = case.read()
    assert (image.shape, label.shape) == ((1, 1, 5, 8, 12), (1, 5, 8, 12))
    own = np.clip(scan(0)[0][INNER], 0, 200)
    expected = (own - own.mean()) / own.std()
    # Two voxels along x become one, their mean; the first of two along z lies a quarter towards the one before.
    pairs = (expected[::2] + expected[1::2]) / 2
    assert np.abs(image[0, 0, :, :, 2::2] - (0.75 * pairs[:, :, 1:] + 0.25 * pairs[:, :, :-1])).max() < 1e-5
    assert np.array_equal(case.read_image(), image)
    assert np.array_equal(case.read_label()[0], scan(0)[2])
    assert (case.place.shape, case.place.spacing) == (SHAPE, pytest.approx(STEPS))


def test_without_the_keys_nothing_changes(root):
    case = read(root)
    assert (case.place, case.size) == (None, SHAPE)


def test_slices_are_cut_off_and_scaled_by_their_whole_volume(root):
    case = read(root, image_size=32, window=[0, 200], normalize="zscore")
    own = np.clip(scan(0)[0], 0, 200).transpose(2, 1, 0)
    assert case.read().image[:, 0] == pytest.approx((own - own.mean()) / own.std(), abs=1e-5)
    assert (case.place, case.size) == (None, SHAPE[1::-1])


def test_a_patch_is_compared_with_the_resampled_sizes(root):
    cases = folder(root, image_size=[16, 16, 16], spacing=1).cases("train")
    PatchView(size=(16, 16, 16)).check([case.size for case in cases])  # 14 x 18 x 16
    with pytest.raises(UserError, match="image_size"):
        PatchView(size=(20, 20, 20)).check([case.size for case in cases])


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"spacing": 0}, r"dataset\.spacing=0: expected a number of mm above 0, or three"),
        ({"spacing": [1, 1]}, r"dataset\.spacing=\[1, 1\]: expected"),
        ({"spacing": [1, 1, float("inf")]}, r"dataset\.spacing="),
        ({"crop": True}, r"dataset\.crop=True: expected foreground or none"),
        ({"window": [5, 5]}, r"dataset\.window=\[5, 5\]: expected \[low, high\] with low < high"),
        ({"spacing": 1, "image_size": 32}, r"dataset\.spacing is set, but .*dataset\.spacing=none dataset\.crop=none"),
        ({"crop": "foreground", "image_size": 32}, r"dataset\.crop is set, but dataset\.image_size has one number"),
        ({"spacing": 1e-6}, r"c\d\.nii\.gz: dataset\.spacing=1e-06 x .* makes 14000000 x 18000000 x 16000000 voxels"),
    ],
)
def test_a_wrong_key_is_refused(root, keys, told):
    with pytest.raises(UserError, match=told):
        read(root, **keys)


def test_an_unknown_spacing_is_refused_by_file_and_key(tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(4):
        with h5py.File(tmp_path / f"images/c{number}.h5", "w") as h5:
            h5["image"], _, h5["label"] = scan(number)
            if number != 2:
                h5.attrs["spacing"] = STEPS
    describe(tmp_path)
    with pytest.raises(UserError, match=r"images/c2\.h5: its voxel spacing is unknown, but dataset\.spacing=1 x 1 x 1"):
        folder(tmp_path, image_size=[8, 8, 8], spacing=1)
    assert folder(tmp_path, image_size=[8, 8, 8], crop="foreground").cases("train")[0].size == (10, 8, 6)


# -- a run ------------------------------------------------------------------------------------------------------------

NETWORK = """
import torch
from torch import nn

from ssl4seg.networks.base import Network


class Above(Network):
    \"\"\"Class 1 where the image is above 0.\"\"\"

    possible_axes = (3,)

    def __init__(self, *, in_channels, num_classes, axes):
        super().__init__(in_channels=in_channels, num_classes=num_classes, axes=axes)
        self.encoder, self.decoder = nn.Identity(), nn.Identity()
        self.head = nn.Conv3d(1, 2, 1)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1, 1))
            self.head.bias.zero_()

    feature_channels = pyramid_channels = (1,)

    def features(self, image):
        return [image]

    def pyramid(self, features):
        return features
"""


def test_predictions_and_scores_are_on_the_files_own_grid(root, tmp_path, monkeypatch):
    """Cropped, cut off, scaled and refined along z, the bright half is above 0 exactly where it is bright."""
    mine = tmp_path / "mine"
    (mine / "network").mkdir(parents=True)
    (mine / "above.py").write_text(NETWORK)
    (mine / "network/above.yaml").write_text("# Mine.\n_target_: above.Above\n")
    env = {"PYTHONPATH": str(mine)}
    data = ("dataset=folder", f"dataset.root={root}", "dataset.image_size=[8,8,8]", *WORDS)
    data += ("dataset.mean=none", "dataset.std=none", "views=volumes", "inference=volumes", "network=above")
    steps = ("iterations=1", "eval_every=1", "batch_size=1", "optimizer.lr=0", "labeled_ratio=1")
    succeed("train", "--config-dir", mine, *MACHINE, *data, *steps, cwd=tmp_path, env=env)
    run = tmp_path / "outputs/scans/supervised/above-1-s0"
    words = (f"run={run}", "trust=true", "device=cpu")
    succeed("predict", *words, f"input={root / 'images'}", "output=masks", "overlay=true", cwd=tmp_path, env=env)
    succeed("eval", *words, "split=test", "output=out", cwd=tmp_path, env=env)
    with (tmp_path / "out/cases_test.csv").open() as file:
        rows = {row["case"]: row for row in csv.DictReader(file)}
    for number in range(6):
        written = nibabel.load(tmp_path / f"masks/c{number}.nii.gz")
        found = np.asarray(written.dataobj)
        assert np.array_equal(found, stored(scan(number)[1]))
        assert np.array_equal(written.affine, AFFINE)
        assert written.header.get_zooms() == nibabel.load(root / f"images/c{number}.nii.gz").header.get_zooms()
        if row := rows.get(f"c{number}"):
            truth = stored(scan(number)[2])
            assert float(row["dice"]) == pytest.approx(dc(found, truth), abs=1e-5)
            assert float(row["hd95"]) == pytest.approx(hd95(found, truth, (2.0, 1.0, 1.5)), abs=1e-4)
            assert row["distance_unit"] == "mm"
    assert 0 < len(rows) < 6
    assert results(tmp_path / "out", "results_test.json")["test"]["dice"] == results(run)["test"]["dice"]
    monkeypatch.syspath_prepend(mine)
    labels, probabilities = ssl4seg.load(run, *words[1:]).predict(root / "images/c0.nii.gz", probabilities=True)
    assert np.array_equal(labels, stored(scan(0)[1]))
    assert np.array_equal(probabilities.argmax(axis=0), labels)
    np.testing.assert_allclose(probabilities.sum(axis=0), 1, rtol=1e-6)


# -- check ------------------------------------------------------------------------------------------------------------


def test_check_tells_the_grid_and_suggests_a_size_that_fits_it(root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    here = tmp_path / "mine"
    here.mkdir()
    for part in ("images", "masks"):
        (here / part).symlink_to(root / part)
    describe(here, spacing=0.5, crop="foreground", window=[0, 200], normalize="percentile")
    check_folder(here)
    printed = capsys.readouterr().out
    assert (
        "volumes are cropped to their foreground (crop) and resampled to 0.5 x 0.5 x 0.5 mm, from 1 to 2 (spacing); "
        "masks are scored and written on the files' own grid"
    ) in printed
    assert "sizes      20 x 24 x 24 (6) (x, y, z)" in printed
    assert "values     0 to 1," in printed
    assert "dataset.image_size=[32,32,32]" in printed
    assert "dataset.spacing=none dataset.crop=none" in printed
