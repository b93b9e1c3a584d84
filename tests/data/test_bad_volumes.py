"""What is wrong with volumes is told before training, in one message that names the file or the key."""

import re
import shlex
import struct
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from folders import describe, folder, write_pairs

from ssl4seg.commands.check_folder import check_folder
from ssl4seg.data.dataset import SPLITS
from ssl4seg.errors import UserError
from ssl4seg.feed.views import PatchView

SHAPE = (12, 14, 10)
"""x, y, z"""
SIZE = [8, 8, 8]
PIXDIM, DIM = 76, 40
"""Where the header of NIfTI has the spacings and the lengths of its axes, after one number each."""


def save(file: Path, shape: tuple[int, ...] = SHAPE, origin: float = 0.0) -> None:
    """A volume with a single voxel of class 1."""
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    affine[0, 3] = origin
    voxels = np.zeros(shape, np.uint8)
    voxels[1] = 1
    file.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, affine), file)


def write_volumes(root: Path) -> Path:
    for number in range(5):
        for part in ("images", "masks"):
            save(root / part / f"c{number}.nii")
    return describe(root)


def in_header(file: Path, place: int, kind: str, number: float) -> None:
    """Write a number over one of a file's header."""
    content = bytearray(file.read_bytes())
    struct.pack_into(f"<{kind}", content, place, number)
    file.write_bytes(content)


def both(root: Path, shape: tuple[int, ...]) -> None:
    for part in ("images", "masks"):
        save(root / part / "c2.nii", shape)


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "spacing of 0": (
        lambda root: in_header(root / "images/c2.nii", PIXDIM + 3 * 4, "f", 0.0),
        "images/c2.nii: the spacing between slices is 0 mm; expected a finite number above 0",
    ),
    "spacing that is no number": (
        lambda root: in_header(root / "images/c2.nii", PIXDIM + 1 * 4, "f", float("nan")),
        "images/c2.nii: the spacing between columns is nan mm; expected a finite number above 0",
    ),
    "axis of length 0": (
        lambda root: in_header(root / "images/c2.nii", DIM + 3 * 2, "h", 0),
        "images/c2.nii: has the dimensions (12, 14, 0), and so no voxels",
    ),
    "single slice": (
        lambda root: both(root, (12, 14, 1)),
        "images/c2.nii: is 12 x 14 x 1 and so no volume, but dataset.image_size=[8,8,8] has three axes; remove the "
        "file, or give one number",
    ),
    "mask of another shape": (
        lambda root: save(root / "masks/c2.nii", (12, 14, 9)),
        "masks/c2.nii: the mask is 9 x 14 x 12 (slices x height x width), but its image c2.nii is 10 x 14 x 12",
    ),
    "mask of another affine": (
        lambda root: save(root / "masks/c2.nii", origin=2.0),
        "masks/c2.nii: the affines of the mask and its image c2.nii differ, by 2 mm at a corner",
    ),
}


def read_all(root: Path, **keys: object) -> None:
    """What training reads before its first step."""
    dataset = folder(root, image_size=SIZE, **keys)
    for split in SPLITS:
        for case in dataset.cases(split):
            case.read()


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_of_a_volume_is_one_message(tmp_path: Path, fault: str) -> None:
    root = write_volumes(tmp_path)
    read_all(root)
    spoil, words = FAULTS[fault]
    spoil(root)
    with pytest.raises(UserError, match=re.escape(words)) as told:
        read_all(root)
    assert len(str(told.value).splitlines()) == 1


def test_pictures_have_too_few_axes_for_three_numbers_which_is_said_once(tmp_path: Path) -> None:
    root = describe(write_pairs(tmp_path, [f"c{number}" for number in range(5)]))
    with pytest.raises(UserError) as told:
        read_all(root)
    assert str(told.value) == (
        "dataset.image_size=[8,8,8]: has three axes, but the images have two, as c0.png (48 x 40 x 1); give one "
        "number, as dataset.image_size=256"
    )


@pytest.mark.parametrize(("size", "fits"), [([13, 15, 11], False), ([13, 15, 10], True), ([12, 14, 10], True)])
def test_a_patch_must_be_no_longer_than_the_images_along_one_axis_at_least(size: list[int], fits: bool) -> None:
    sizes = [(12, 9, 10), (5, 14, 6)]
    if fits:
        PatchView(size=size).check(sizes)
        return
    words = r"image_size=\[13,15,11\]: .* longest axes have \[12,14,10\] pixels; .* dataset\.image_size=\[8,8,8\]"
    with pytest.raises(UserError, match=words):
        PatchView(size=size).check(sizes)


def test_check_counts_volumes_with_their_spacing_and_prints_a_command_that_a_shell_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    check_folder(write_volumes(tmp_path / "mine"))
    printed = capsys.readouterr().out
    assert "  volumes    5\n  spacings   1 x 1 x 3 mm (5)\n  sizes      12 x 14 x 10 (5) (x, y, z)\n" in printed
    assert "volumes are read in canonical orientation (RAS+), with the axes x, y, z (orientation)" in printed
    assert "slices along" not in printed
    words = shlex.split(printed.partition("train with: ")[2].splitlines()[0])
    assert words[-2:] == ["dataset.image_size=[16,16,16]", "optimizer=adamw"]
    assert "'dataset.image_size=[16,16,16]'" in printed
