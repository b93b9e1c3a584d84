"""NRRD and MetaImage: read as the NIfTI of the same scan, written back in their own place, and not led elsewhere."""

import re
import shutil
import zlib
from pathlib import Path

import bodies
import nibabel
import numpy as np
import pytest
import SimpleITK
from folders import describe, folder

from ssl4seg.commands.check_folder import check_folder
from ssl4seg.commands.prediction import masks_to_write
from ssl4seg.data.dataset import SPLITS
from ssl4seg.data.images import axes_in, axes_of_mask, facts, read_image, read_values, write_label
from ssl4seg.data.orientation import Space
from ssl4seg.data.scans import scan_affine
from ssl4seg.errors import UserError

RAS = np.arange(4 * 5 * 3, dtype=np.int16).reshape(4, 5, 3)
"""x 4, y 5, z 3."""
CANONICAL = Space("canonical", "z")
ENDINGS = ("nrrd", "mha", "mhd")


def write(path: Path, name: str = "RAS", ras: np.ndarray = RAS, *, compress: bool = False) -> Path:
    """The scan as ITK stores it: positions in LPS, where x and y of NIfTI have the other sign."""
    voxels, affine = bodies.stored_as(name, ras)
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(voxels.transpose(2, 1, 0)))
    image.SetSpacing(steps.tolist())
    image.SetOrigin((affine[:3, 3] * [-1, -1, 1]).tolist())
    image.SetDirection((np.diag([-1, -1, 1]) @ affine[:3, :3] / steps).ravel().tolist())
    SimpleITK.WriteImage(image, str(path), useCompression=compress)
    return path


@pytest.mark.parametrize("name", ["RAS", "LPS", "SAR"])
@pytest.mark.parametrize("kind", ENDINGS)
def test_a_scan_has_the_affine_and_the_pixels_of_its_nifti(tmp_path, kind, name):
    file, nifti = write(tmp_path / f"a.{kind}", name), bodies.write(tmp_path / "a.nii", name, RAS)
    np.testing.assert_allclose(scan_affine(file), nibabel.load(nifti).affine, atol=1e-9)
    for axis in "xyz":
        space = Space("canonical", axis)
        assert np.array_equal(read_image(file, 1, space=space), read_image(nifti, 1, space=space))
        assert facts(file, 1, space) == facts(nifti, 1, space)
    assert np.array_equal(read_values(file, colored=False, axes=axes_in(file, CANONICAL)), RAS.transpose())


@pytest.mark.parametrize("kind", ENDINGS)
def test_a_mask_goes_back_to_its_images_axes_and_place(tmp_path, kind):
    file, truth = write(tmp_path / f"a.{kind}", "SAR"), (RAS % 4).astype(np.uint8)
    (target,) = masks_to_write(tmp_path, tmp_path / "out", [file])
    assert target.name == ("a.nrrd" if kind == "nrrd" else "a.mha")
    target.parent.mkdir()
    write_label(target, truth.transpose(), file, space=CANONICAL)
    mask, image = SimpleITK.ReadImage(str(target)), SimpleITK.ReadImage(str(file))
    voxels = bodies.stored_as("SAR", truth)[0]
    assert np.array_equal(SimpleITK.GetArrayFromImage(mask), voxels.transpose(2, 1, 0))
    for get in ("GetSpacing", "GetOrigin", "GetDirection", "GetSize"):
        assert getattr(mask, get)() == getattr(image, get)(), get


def test_image_and_mask_may_be_of_two_kinds_but_lie_at_one_place(tmp_path):
    image, mask = write(tmp_path / "a.nrrd", "LPS"), bodies.write(tmp_path / "a.nii", "SAR", RAS % 4)
    axes = axes_of_mask(mask, image, CANONICAL)
    assert np.array_equal(read_values(mask, colored=False, axes=axes), (RAS % 4).transpose())
    moved = SimpleITK.ReadImage(str(image))
    moved.SetOrigin([place + 1 for place in moved.GetOrigin()])
    SimpleITK.WriteImage(moved, str(tmp_path / "b.mha"))
    with pytest.raises(UserError, match=r"b\.mha: the affines of the mask and its image a\.nrrd differ, by 1 mm"):
        axes_of_mask(tmp_path / "b.mha", image, CANONICAL)


@pytest.mark.parametrize(
    ("array", "is_vector", "channels", "expected"),
    [
        (RAS[0], False, 1, RAS[0][None, None]),
        (np.stack([RAS[0], -RAS[0]], -1), True, 2, np.stack([RAS[0], -RAS[0]])[None]),
        (np.stack([RAS, -RAS], -1), True, 2, np.stack([RAS, -RAS], 1)),
        (np.stack([RAS, -RAS]), False, 2, np.stack([RAS, -RAS], 1)),
    ],
    ids=["picture", "picture of vectors", "volume of vectors", "four axes"],
)
@pytest.mark.parametrize("kind", ["nrrd", "mha"])
def test_two_axes_and_channels(tmp_path, kind, array, is_vector, channels, expected):
    image = SimpleITK.GetImageFromArray(array, isVector=is_vector)
    SimpleITK.WriteImage(image, str(file := tmp_path / f"a.{kind}"))
    read, fact = read_image(file, channels), facts(file, channels)
    assert np.array_equal(read, expected)
    assert (fact.num_images, fact.channels, *fact.size) == expected.shape
    label = np.ones((len(expected), *expected.shape[2:]), np.uint8)
    write_label(tmp_path / f"mask.{kind}", label, file)
    assert np.array_equal(read_values(tmp_path / f"mask.{kind}", colored=False), label)


def test_a_nrrd_without_a_space_is_read_as_it_is_stored(tmp_path):
    lines = ["NRRD0004", "type: uchar", "dimension: 3", "sizes: 4 3 2", "spacings: 1.5 2 8", "encoding: raw"]
    (tmp_path / "a.nrrd").write_bytes("\n".join(lines).encode() + b"\n\n" + bytes(range(24)))
    assert scan_affine(tmp_path / "a.nrrd") is None
    assert facts(tmp_path / "a.nrrd", 1, CANONICAL).spacing == (8, 2, 1.5)
    assert read_image(tmp_path / "a.nrrd", 1, space=CANONICAL)[1, 0, 2].tolist() == [20, 21, 22, 23]


def test_a_metaimage_of_another_program_is_read(tmp_path):
    """Big-endian, two axes turned, its place under the older name."""
    lines = ["NDims = 3", "DimSize = 4 3 2", "ElementSpacing = 1.5 2 8", "Position = 1 2 3", "ElementType = MET_SHORT"]
    lines += ["Orientation = 0 1 0 1 0 0 0 0 1", "ElementByteOrderMSB = True", "ElementDataFile = LOCAL"]
    (tmp_path / "a.mha").write_bytes("\n".join(lines).encode() + b"\n" + np.arange(24, dtype=">i2").tobytes())
    assert read_image(tmp_path / "a.mha", 1)[:, 0].ravel().tolist() == [*range(24)]
    expected = [[0, -2, 0, -1], [-1.5, 0, 0, -2], [0, 0, 8, 3], [0, 0, 0, 1]]
    assert scan_affine(tmp_path / "a.mha").tolist() == expected
    ours = SimpleITK.ReadImage(str(tmp_path / "a.mha"))
    assert np.allclose(
        np.array(ours.GetDirection()).reshape(3, 3) @ np.diag(ours.GetSpacing()), [[0, 2, 0], [1.5, 0, 0], [0, 0, 8]]
    )


# -- damaged and hostile files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ENDINGS)
@pytest.mark.parametrize("compress", [False, True], ids=["raw", "compressed"])
def test_voxels_that_are_cut_off_or_damaged_are_refused(tmp_path, kind, compress):
    noise = np.random.default_rng(0).integers(0, 999, (9, 8, 7), np.int16)
    file = write(tmp_path / f"a.{kind}", "RAS", noise, compress=compress)
    voxels = next(tmp_path.glob("*raw"), file)
    whole = voxels.read_bytes()
    damages = {r"holds \d+; copy|have no end; copy": whole[:-9]}
    if compress:
        at = len(whole) - 40
        damages["incorrect data check|invalid"] = whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :]
    for words, content in damages.items():
        voxels.write_bytes(content)
        with pytest.raises(UserError, match=rf"a\.{kind}: .*({words})"):
            read_image(file, 1)


META = "NDims = 3\nDimSize = 4 3 2\nElementType = MET_UCHAR\n"
NRRD = "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 4 3 2\nencoding: raw\n"


@pytest.mark.parametrize(
    ("name", "header", "words"),
    [
        ("a.nrrd", NRRD + "data file: ../secret\n\n", r"its voxels lie in another file \(data file\)"),
        ("a.nrrd", NRRD + "DATAFILE: ../secret\n\n", r"its voxels lie in another file \(data file\)"),
        ("a.nrrd", NRRD + "# a comment\rdata file: ../secret\n\n", "strange ends of lines"),
        ("a.nrrd", NRRD, "its NRRD header has no end"),
        ("a.nrrd", NRRD.replace("4 3 2", "4000000 300000 2") + "\n", "take .* GiB of memory to read"),
        ("a.nrrd", "solid\n\n", "is no NRRD file"),
        ("a.mha", META + "ElementDataFile = ../secret\n", r"lie in another file \(\.\./secret\), which only \.mhd may"),
        ("a.mha", META + "ElementDataFile = secret\n", r"lie in another file \(secret\), which only \.mhd may"),
        ("a.mhd", META + "ElementDataFile = ../secret\n", "expected the name of one file in the same folder"),
        ("a.mhd", META + "ElementDataFile = /secret\n", "expected the name of one file in the same folder"),
        ("a.mhd", META + "ElementDataFile = LIST\n../secret\n", "expected the name of one file in the same folder"),
        ("a.mhd", META + "ElementDataFile = s%d 1 2 1\n", "expected the name of one file in the same folder"),
        ("a.mhd", META + "elementdatafile = /secret\n", "names no voxels"),
        ("a.mhd", META + "ElementDataFile = gone.raw\n", r"gone\.raw: is missing; a\.mhd says"),
        ("a.mhd", META, "is no MetaImage file|names no voxels"),
        ("a.mha", META.replace("4 3 2", "4000000 300000 2") + "ElementDataFile = LOCAL\n", "GiB of memory to read"),
        (
            "a.mha",
            META.replace("UCHAR", "OTHER") + "ElementDataFile = LOCAL\n",
            "ElementType is MET_OTHER; expected MET_",
        ),
        ("a.mha", META.replace("4 3 2", "4 3") + "ElementDataFile = LOCAL\n", r"DimSize = 4 3: expected 3 number\(s\)"),
    ],
)
def test_headers_that_lead_elsewhere_or_declare_too_much_are_refused(tmp_path, name, header, words):
    (tmp_path / "secret").write_bytes(bytes(24))
    folder = tmp_path / "mine"
    folder.mkdir()
    shutil.copy(tmp_path / "secret", folder / "secret")
    (folder / name).write_bytes(header.encode())
    for read in (facts, lambda path: read_image(path, 1)):
        with pytest.raises(UserError, match=words) as raised:
            read(folder / name)
        assert re.search(r"a\.(nrrd|mh[ad])|gone", str(raised.value))


def test_voxels_that_unpack_to_more_than_they_declare_are_not_unpacked_further(tmp_path):
    header = META + "CompressedData = True\nElementDataFile = LOCAL\n"
    (tmp_path / "a.mha").write_bytes(header.encode() + zlib.compress(bytes(2**24)))
    with pytest.raises(UserError, match=r"a\.mha: goes on after the 24 bytes of voxels"):
        read_image(tmp_path / "a.mha", 1)


def test_a_folder_of_scans_is_checked_and_read(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for number in range(6):
        scan = np.random.default_rng(number).integers(0, 900, (6, 5, 4)).astype(np.int16)
        for folder_, kind, voxels in (("images", ENDINGS[number % 3], scan), ("masks", "mha", (scan > 400) * 1)):
            (tmp_path / "mine" / folder_).mkdir(parents=True, exist_ok=True)
            name = ("RAS", "LPS", "SAR")[number % 2]
            write(tmp_path / f"mine/{folder_}/p{number}.{kind}", name, voxels.astype(np.int16))
    describe(tmp_path / "mine", mean="none", std="none", normalize="none")
    check_folder(tmp_path / "mine")
    output = capsys.readouterr().out
    assert "no fault found" in output
    assert "not read" not in output  # the .raw of .mhd
    assert "1.5 x 2 x 8 mm" in output
    dataset = folder(tmp_path / "mine", image_size=[6, 5, 4])
    assert {case.size for split in SPLITS for case in dataset.cases(split)} == {(6, 5, 4)}
    for case in dataset.cases("train"):
        image, label = case.read()
        assert np.array_equal(image[0, 0] > 400, label[0])
