"""Images in and out of files: axes, spacing, headers, bit depths, and files that are not whole."""

import gzip
import os
import re
import struct
import zlib
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image

from ssl4seg.data import guards
from ssl4seg.data.formats import (
    ending,
    h5_facts,
    nifti_facts,
    nifti_spacing,
    picture_size,
    read_h5,
    read_mask,
    read_nifti,
    read_picture_values,
    read_tiff,
    stem,
    tiff_facts,
    write_nifti,
)
from ssl4seg.data.images import facts, read_image, read_picture, read_values
from ssl4seg.errors import UserError
from ssl4seg.keys import KEYS

OBLIQUE = np.array([[-1.2, 0.3, 0.0, 40.0], [0.25, 1.4, 0.1, -30.0], [0.0, -0.2, 9.0, 7.0], [0.0, 0.0, 0.0, 1.0]])


def nifti(path: Path, voxels: np.ndarray, zooms: tuple[float, ...] | None = None) -> Path:
    """A scan with all that a header may hold: oblique affine, scaling, units, a description."""
    image = nibabel.Nifti1Image(voxels, OBLIQUE)
    image.header["descrip"] = b"short axis"
    image.header.set_xyzt_units("mm", "sec")
    image.set_qform(OBLIQUE, code=1)
    image.set_sform(OBLIQUE, code=2)
    if zooms:
        image.header.set_zooms(zooms)
    nibabel.save(image, path)
    return path


@pytest.fixture
def scan(tmp_path) -> np.ndarray:
    """x 5, y 4, z 3."""
    voxels = np.random.default_rng(0).integers(0, 1000, (5, 4, 3)).astype(np.int16)
    nifti(tmp_path / "scan.nii.gz", voxels)
    return voxels


# -- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.nii.gz", ("a", ".nii.gz")),
        ("a.b.nii", ("a.b", ".nii")),
        ("p_01.h5", ("p_01", ".h5")),
        ("p.hdf5", ("p", ".hdf5")),
        ("IMG.PNG", ("IMG", ".png")),
        ("x.y.jpeg", ("x.y", ".jpeg")),
    ],
)
def test_name_and_ending(name, expected):
    assert (stem(Path("folder") / name), ending(Path("folder") / name)) == expected


def test_an_unknown_ending_is_refused():
    with pytest.raises(UserError, match=r"scan\.dcm: unknown kind of file \(DICOM: ssl4seg-prepare import"):
        ending(Path("scan.dcm"))


# -- NIfTI ------------------------------------------------------------------------------------------------------------


def test_voxels_are_slices_rows_columns(scan, tmp_path):
    voxels, _ = read_nifti(tmp_path / "scan.nii.gz")
    assert voxels.shape == (3, 4, 5)
    assert all(voxels[z, y, x] == value for (x, y, z), value in np.ndenumerate(scan))


@pytest.mark.parametrize(("zooms", "expected"), [((1.25, 1.5, 8.0), (8.0, 1.5, 1.25)), ((2.0, 3.0), (1.0, 3.0, 2.0))])
def test_spacing_is_that_of_slices_rows_columns(tmp_path, zooms, expected):
    file = nifti(tmp_path / "a.nii", np.zeros((5, 4, 3)[: len(zooms)], np.int16), zooms)
    assert nifti_spacing(read_nifti(file)[1]) == pytest.approx(expected)


def test_scaled_intensities_are_read_scaled(tmp_path):
    image = nibabel.Nifti1Image(np.full((2, 2, 2), 10, np.int16), np.eye(4))
    image.header.set_slope_inter(0.5, 3)
    nibabel.save(image, tmp_path / "a.nii")
    # nibabel keeps whole numbers as they are and the scaling beside them: 0.5 x 10 + 3.
    assert (read_nifti(tmp_path / "a.nii")[0] == 8).all()


@pytest.mark.parametrize("shape", [(5, 4, 3), (5, 4)])
@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii"])
def test_a_mask_keeps_axes_affine_and_header_of_its_image(tmp_path, shape, name):
    values = np.random.default_rng(0).integers(0, 4, shape).astype(np.float32)
    voxels, like = read_nifti(nifti(tmp_path / name, values))
    write_nifti(tmp_path / f"mask_{name}", voxels.astype(np.uint8), like)
    mask = nibabel.load(tmp_path / f"mask_{name}")
    assert np.array_equal(np.asarray(mask.dataobj), values)
    assert mask.get_data_dtype() == np.uint8
    np.testing.assert_allclose(mask.affine, like.affine)
    assert mask.header.get_zooms() == like.header.get_zooms()
    for key in ("descrip", "xyzt_units", "qform_code", "sform_code", "pixdim"):
        assert np.array_equal(mask.header[key], like.header[key]), key


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (6,)])
def test_other_than_two_or_three_dimensions_are_refused(tmp_path, shape):
    nibabel.save(nibabel.Nifti1Image(np.zeros(shape, np.int16), np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(UserError, match=rf"a\.nii: has {len(shape)} dimensions"):
        read_nifti(tmp_path / "a.nii")


# -- h5 ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def h5(tmp_path) -> Path:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("image", data=np.arange(24.0).reshape(2, 3, 4), compression="gzip")
        file.create_dataset("label", data=np.ones((2, 3, 4), np.uint8), compression="gzip")
        file.attrs["spacing"] = (10, 1.5, 1.25)
    return tmp_path / "a.h5"


def test_h5_arrays_and_facts(h5):
    assert h5_facts(h5) == ((2, 3, 4), True, (10.0, 1.5, 1.25))
    assert np.array_equal(read_h5(h5, "image"), np.arange(24.0).reshape(2, 3, 4))
    assert np.array_equal(read_h5(h5, "image", (slice(1, 2),)), np.arange(12.0, 24).reshape(1, 3, 4))
    assert np.array_equal(read_h5(h5, "image", (slice(1, 2), slice(0, 2), slice(3, 4))), [[[15.0], [19.0]]])


def test_h5_without_label_or_spacing(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["image"] = np.zeros((2, 3, 4))
    assert h5_facts(tmp_path / "a.h5") == ((2, 3, 4), False, None)
    with pytest.raises(UserError, match=r"a\.h5: has no array 'label', only \['image'\]"):
        read_h5(tmp_path / "a.h5", "label")


def test_h5_without_image_is_refused_by_its_name(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"] = np.zeros(3)
    with pytest.raises(UserError, match=r"a\.h5: has no array 'image', only \['data'\]"):
        h5_facts(tmp_path / "a.h5")


def test_a_damaged_h5_is_a_fault_that_names_the_file_and_nothing_else(h5):
    whole, rng = h5.read_bytes(), np.random.default_rng(0)
    told = []
    for _ in range(150):
        damaged = np.frombuffer(whole, np.uint8).copy()
        damaged[rng.integers(0, len(whole), 20)] = rng.integers(0, 256, 20)
        h5.write_bytes(damaged.tobytes())
        for read in (h5_facts, lambda file: read_h5(file, "image")):
            try:
                read(h5)
            except UserError as error:
                told.append(str(error))
    assert len(told) > 100
    assert all(message.startswith(f"{h5}: ") for message in told)


BAD_SPACINGS = [0.0, -1.5, np.nan, np.inf]


@pytest.mark.parametrize("wrong", BAD_SPACINGS)
@pytest.mark.parametrize(("place", "axis"), [(0, "slices"), (1, "rows"), (2, "columns")])
def test_an_h5_spacing_that_is_none_is_refused_with_its_axis(h5, wrong, place, axis):
    spacing = [8.0, 1.5, 1.25]
    spacing[place] = wrong
    with h5py.File(h5, "a") as file:
        file.attrs["spacing"] = spacing
    with pytest.raises(
        UserError, match=rf"a\.h5: the spacing between {axis} is {wrong:g} mm; expected a finite number"
    ):
        h5_facts(h5)


@pytest.mark.parametrize("wrong", BAD_SPACINGS)
@pytest.mark.parametrize(("place", "axis"), [(3, "slices"), (2, "rows"), (1, "columns")])
def test_a_nifti_spacing_that_is_none_is_refused_with_its_axis(tmp_path, wrong, place, axis):
    file = nifti(tmp_path / "a.nii", np.zeros((5, 4, 3), np.int16))
    content = bytearray(file.read_bytes())
    start = 76 + 4 * place  # pixdim of the NIfTI-1 header
    content[start : start + 4] = np.float32(wrong).tobytes()
    file.write_bytes(content)
    for read in (nifti_facts, read_nifti):
        with pytest.raises(UserError, match=rf"a\.nii: the spacing between {axis} is {wrong:g} mm; expected a finite"):
            read(file)


def test_an_h5_file_names_no_other_file(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(range(12)))
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["image"] = np.ones((3, 4))
    layout = h5py.VirtualLayout((3, 4), "f8")
    layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "image", (3, 4))
    kinds = {
        "external": lambda file: file.create_dataset("image", (3, 4), "u1", external=[(str(secret), 0, 12)]),
        "virtual": lambda file: file.create_virtual_dataset("image", layout),
        "linked": lambda file: file.__setitem__("image", h5py.ExternalLink(str(tmp_path / "other.h5"), "image")),
        "dangling": lambda file: file.__setitem__("image", h5py.ExternalLink("gone.h5", "image")),
        "soft": lambda file: file.__setitem__("image", h5py.SoftLink("/elsewhere")),
        "group": lambda file: file.create_group("image"),
        "empty": lambda file: file.create_dataset("image", data=h5py.Empty("f4")),
    }
    words = {"external": "lie in other files", "virtual": "lie in other files", "group": "a group", "empty": "empty"}
    for kind, write in kinds.items():
        path = tmp_path / f"{kind}.h5"
        with h5py.File(path, "w") as file:
            write(file)
        for read in (h5_facts, lambda path: read_h5(path, "image")):
            with pytest.raises(UserError, match=rf"{kind}\.h5: .*'image'.*{words.get(kind, 'is a link')}"):
                read(path)


PLANE = '<TiffData IFD="0" FirstZ="{}" PlaneCount="{}"><UUID FileName="{}">urn:uuid:{}</UUID></TiffData>'


def write_ome(file: Path, pixels: np.ndarray, planes: str, size_z: int = 2, more: str = "") -> Path:
    """A TIFF with one page [8, 8], whose metadata have planes of their own."""
    pixels_of = f'DimensionOrder="XYZCT" Type="uint8" SizeX="8" SizeY="8" SizeZ="{size_z}" SizeC="1" SizeT="1"'
    head = '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:own">'
    text = f'{head}<Image ID="Image:0"><Pixels ID="Pixels:0" {pixels_of}>{planes}</Pixels></Image>{more}</OME>'
    tifffile.imwrite(file, pixels, description=text, metadata=None)
    return file


def test_a_tiff_names_no_other_file(tmp_path):
    tifffile.imwrite(tmp_path / "secret.tif", np.full((8, 8), 77, np.uint8))
    planes = PLANE.format(0, 1, "a.tif", "own") + PLANE.format(1, 1, tmp_path / "secret.tif", "other")
    (tmp_path / "mine").mkdir()
    file = write_ome(tmp_path / "mine/a.tif", np.ones((8, 8), np.uint8), planes)
    with tifffile.TiffFile(file) as whole:
        assert (whole.asarray()[1] == 77).all()  # tifffile would read it
    assert read_tiff(file).tolist() == np.ones((8, 8)).tolist()


@pytest.mark.parametrize(
    ("size_z", "count", "more"),
    [(10**9, 1, ""), (2, 10**9, ""), (2, 1, "<StructuredAnnotations><ModuloAlongZ/></StructuredAnnotations>")],
)
def test_metadata_that_declare_a_billion_planes_are_not_followed(tmp_path, size_z, count, more):
    file = write_ome(
        tmp_path / "a.tif", np.ones((8, 8), np.uint8), PLANE.format(0, count, "a.tif", "own"), size_z, more
    )
    for read in (read_tiff, tiff_facts):
        with pytest.raises(UserError, match=r"a\.tif: its OME metadata"):
            read(file)


def test_a_picture_that_is_eps_is_not_given_to_ghostscript(tmp_path):
    Image.new("L", (4, 3)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.png: cannot be read as a picture"):
        picture_size(tmp_path / "a.png")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF", "WEBP"])
def test_a_picture_under_the_ending_of_another_kind_is_read(tmp_path, kind):
    Image.new("L", (4, 3), 255).save(tmp_path / "a", kind)
    (tmp_path / "a").rename(tmp_path / "a.png")
    assert read_picture(tmp_path / "a.png", 1).tolist() == np.full((1, 3, 4), 255).tolist()


RECORD = np.zeros((3, 4), [("r", "u1"), ("g", "u1"), ("b", "u1")])


@pytest.mark.parametrize(
    "pixels", [np.ones((3, 4), np.complex64), RECORD, np.full((3, 4), b"x"), np.full((3, 4), "x", object)]
)
def test_h5_arrays_of_other_than_numbers_are_refused(tmp_path, pixels):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["image"] = pixels
    with pytest.raises(UserError, match=r"a\.h5: holds values of type .*; expected bool, whole numbers or float"):
        h5_facts(tmp_path / "a.h5")


def test_complex_and_coloured_nifti_and_complex_tiff_are_refused(tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.ones((3, 4, 2), np.complex64), np.eye(4)), tmp_path / "a.nii")
    rgb = np.zeros((3, 4, 2), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(rgb, np.eye(4)), tmp_path / "b.nii")
    tifffile.imwrite(tmp_path / "c.tif", np.ones((3, 4), np.complex64), photometric="minisblack")
    reads = {"a.nii": (nifti_facts, read_nifti), "b.nii": (nifti_facts, read_nifti), "c.tif": (tiff_facts, read_tiff)}
    for name, both in reads.items():
        for read in both:
            with pytest.raises(UserError, match=rf"{name}: holds values of type .*; expected bool, whole numbers"):
                read(tmp_path / name)


def test_numbers_beyond_the_palette_are_refused(tmp_path):
    def chunk(name: bytes, content: bytes) -> bytes:
        crc = zlib.crc32(name + content)
        return len(content).to_bytes(4, "big") + name + content + crc.to_bytes(4, "big")

    head = (3).to_bytes(4, "big") + (1).to_bytes(4, "big") + bytes([8, 3, 0, 0, 0])  # 3 x 1, 8 bit, palette
    chunks = {b"IHDR": head, b"PLTE": bytes(6), b"IDAT": zlib.compress(bytes([0, 0, 1, 2])), b"IEND": b""}
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*item) for item in chunks.items()))
    assert read_picture_values(tmp_path / "a.png", colored=False).tolist() == [[0, 1, 2]]
    with pytest.raises(UserError, match=r"a\.png: holds numbers beyond its palette of 2 colours"):
        read_picture_values(tmp_path / "a.png", colored=True)


# -- pictures ---------------------------------------------------------------------------------------------------------

RGB = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [51, 51, 51]]], np.uint8)


def values(image: np.ndarray) -> np.ndarray:
    """What a picture's numbers stand for, in [0, 1]."""
    return image / 255 if image.dtype == np.uint8 else image


def picture(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize(("dtype", "top"), [(np.uint8, 255), (np.uint16, 65535)])
@pytest.mark.parametrize("channels", [1, 3])
def test_8_and_16_bit_pngs_are_scaled_to_one(tmp_path, dtype, top, channels):
    pixels = np.array([[0, top // 5, top]], dtype)
    image = read_picture(picture(tmp_path / "a.png", pixels), channels)
    assert image.dtype == (np.uint8 if top == 255 else np.float32)
    np.testing.assert_allclose(values(image), np.tile([[[0, 0.2, 1]]], (channels, 1, 1)), atol=1e-6)


def test_colours_are_channels_first(tmp_path):
    image = read_picture(picture(tmp_path / "a.png", RGB), 3)
    np.testing.assert_allclose(values(image), RGB.transpose(2, 0, 1) / 255, atol=1e-6)


def test_colours_become_luminance_for_one_channel(tmp_path):
    image = read_picture(picture(tmp_path / "a.png", RGB), 1)
    # ITU-R 601: 0.299 R + 0.587 G + 0.114 B
    np.testing.assert_allclose(values(image), [[[0.299, 0.587], [0.114, 0.2]]], atol=1 / 255)


def test_transparency_and_palettes_are_resolved(tmp_path):
    with_alpha = np.dstack([RGB, np.full((2, 2), 255, np.uint8)])
    Image.fromarray(RGB).quantize(4).save(tmp_path / "b.png")
    for file in (picture(tmp_path / "a.png", with_alpha), tmp_path / "b.png"):
        np.testing.assert_allclose(values(read_picture(file, 3)), RGB.transpose(2, 0, 1) / 255, atol=0.02)


def test_a_jpeg_is_read(tmp_path):
    Image.fromarray(np.full((8, 8), 200, np.uint8)).save(tmp_path / "a.jpg")
    np.testing.assert_allclose(values(read_picture(tmp_path / "a.jpg", 1)), np.full((1, 8, 8), 200 / 255), atol=0.02)


# -- masks as pictures ------------------------------------------------------------------------------------------------

CLASSES = np.array([[0, 1, 20], [255, 3, 2]], np.uint8)


def test_a_mask_is_the_indices_of_its_palette_not_their_colours(tmp_path):
    mask = Image.fromarray(CLASSES)
    mask.putpalette([(value * 31 + 7) % 256 for value in range(768)])
    mask.save(tmp_path / "palette.png")
    assert Image.open(tmp_path / "palette.png").mode == "P"
    assert np.array_equal(read_mask(tmp_path / "palette.png"), CLASSES)


@pytest.mark.parametrize("values", [CLASSES, CLASSES.astype(np.uint16)], ids=["8 bit", "16 bit"])
def test_a_grey_mask_is_read_as_values(tmp_path, values):
    mask = read_mask(picture(tmp_path / "a.png", values))
    assert np.array_equal(mask, CLASSES)
    assert mask.dtype == np.uint8


def test_a_mask_of_one_bit_has_the_classes_0_and_1(tmp_path):
    Image.fromarray(CLASSES > 1).save(tmp_path / "a.png")
    assert read_mask(tmp_path / "a.png").tolist() == [[0, 0, 1], [1, 1, 1]]


@pytest.mark.parametrize(
    ("pixels", "fault"),
    [
        (np.zeros((2, 2, 3), np.uint8), "one channel, this one is RGB"),
        (np.full((2, 2), 256, np.uint16), "label values from 256 to 256; expected 0 to 255"),
    ],
)
def test_what_holds_no_class_values_is_no_mask(tmp_path, pixels, fault):
    with pytest.raises(UserError, match=rf"a\.png: .*{fault}"):
        read_mask(picture(tmp_path / "a.png", pixels))


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_the_size_is_in_the_head_of_the_file(tmp_path, name):
    noise = np.random.default_rng(0).integers(0, 256, (30, 45, 3), np.uint8)
    file = picture(tmp_path / name, noise)
    assert picture_size(file) == (30, 45)
    file.write_bytes(file.read_bytes()[:700])  # the pixels are gone
    assert picture_size(file) == (30, 45)
    file.write_bytes(b"")
    with pytest.raises(UserError, match=f"{file}: cannot be read"):
        picture_size(file)


# -- files that are not whole -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.h5", "a.png", "a.jpg"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_file_is_a_fault_that_names_it(tmp_path, name, share):
    file, noise = tmp_path / name, np.random.default_rng(0).integers(0, 256, (40, 30), np.uint8)
    if ".nii" in name:
        nifti(file, noise)
    elif name == "a.h5":
        with h5py.File(file, "w") as written:
            written["image"] = noise
    else:
        picture(file, noise)
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    read = {".nii.gz": read_nifti, ".nii": read_nifti, ".h5": h5_facts}.get(
        ending(file), lambda path: read_picture(path, 1)
    )
    with pytest.raises(UserError, match=f"{file}: cannot be read"):
        read(file)


@pytest.mark.parametrize("name", ["a.png", "a.nii.gz"])
def test_a_changed_byte_of_a_file_with_check_sums_never_reads_as_other_pixels(tmp_path, name):
    file, noise = tmp_path / name, np.random.default_rng(0).integers(0, 256, (12, 10), np.uint8)
    nifti(file, noise.T) if ".nii" in name else picture(file, noise)
    read = read_nifti if ".nii" in name else lambda path: (read_picture_values(path, colored=False), None)
    whole, expected, refused = file.read_bytes(), read(file)[0], 0
    damaged = [whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :] for at in range(len(whole))]
    damaged += [whole[:at] + bytes(len(whole) - at) for at in range(len(whole))]
    for content in damaged:
        file.write_bytes(content)
        try:
            np.testing.assert_array_equal(read(file)[0], expected)
        except UserError:
            refused += 1
    assert refused > 0.8 * len(damaged)


def test_voxels_beyond_those_that_the_header_declares_are_refused(tmp_path):
    file = nifti(tmp_path / "a.nii", np.zeros((4, 4, 4), np.uint8))
    with gzip.open(tmp_path / "b.nii.gz", "wb") as packed:
        packed.write(file.read_bytes() + bytes(2**26))
    with pytest.raises(UserError, match=r"b\.nii\.gz: goes on after the \(4, 4, 4\) voxels"):
        read_nifti(tmp_path / "b.nii.gz")


@pytest.mark.parametrize(
    "read", [read_nifti, h5_facts, lambda path: read_h5(path, "image"), lambda path: read_picture(path, 1)]
)
def test_a_file_that_is_not_there_is_told(tmp_path, read):
    with pytest.raises(UserError, match=r"gone\.nii: there is no such file$"):
        read(tmp_path / "gone.nii")


# -- files that declare more than there is ----------------------------------------------------------------------------

SIDE = 2**21
"""A square picture of so many pixels a side takes 4 TiB."""


def bomb(kind: str, folder: Path) -> Path:
    """A file of a few KB whose header declares terabytes."""
    file = folder / f"a{kind}"
    if kind == ".h5":
        with h5py.File(file, "w") as written:
            for key in ("image", "label"):
                written.create_dataset(key, (SIDE, SIDE), np.uint8, chunks=(64, 64))
    elif kind in (".nii", ".nii.gz"):
        header = nibabel.Nifti1Header()
        header.set_data_shape((30000, 30000, 30000))
        header.set_data_dtype(np.uint8)
        header["magic"], header["vox_offset"] = b"n+1", 352
        content = header.binaryblock + bytes(100)
        file.write_bytes(gzip.compress(content) if kind == ".nii.gz" else content)
    elif kind == ".tif":
        tifffile.imwrite(file, np.zeros((16, 16), np.uint8), compression="zlib", metadata=None)
        with tifffile.TiffFile(file, mode="r+b") as tiff:
            for tag in (256, 257, 278):  # width, height, rows of a strip
                tiff.pages[0].tags[tag].overwrite(SIDE, dtype="I")
    else:
        png(file, SIDE, SIDE)
    return file


def png(file: Path, width: int, height: int) -> Path:
    """A grey PNG with its first pixels only."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b""))
    packed = (struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in parts)
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))
    return file


@pytest.mark.parametrize("kind", [".png", ".tif", ".h5", ".nii", ".nii.gz"])
def test_a_file_that_declares_more_than_the_memory_holds_is_refused_before_it_is_decoded(tmp_path, kind):
    file = bomb(kind, tmp_path)
    for read in (lambda: read_image(file, 1), lambda: read_values(file, colored=False)):
        with pytest.raises(
            UserError, match=rf"{file}: declares .* take .* GiB of memory.* machine has [\d.]+ GiB free"
        ):
            read()


def test_a_small_array_in_chunks_or_tiles_larger_than_the_memory_is_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk((2**15, 2**15))  # 1 GiB
        space = h5py.h5s.create_simple((4, 4), (h5py.h5s.UNLIMITED, h5py.h5s.UNLIMITED))
        h5py.h5d.create(file.id, b"image", h5py.h5t.NATIVE_UINT8, space, properties)
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((16, 16), np.uint8), tile=(16, 16), compression="zlib")
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as tiff:
        for tag in (322, 323):  # width and length of a tile
            tiff.pages[0].tags[tag].overwrite(SIDE, dtype="I")
    with pytest.raises(UserError, match=r"a\.tif: declares 2097152 x 2097152 values of uint8, which take"):
        read_tiff(tmp_path / "a.tif")
    assert read_h5(tmp_path / "a.h5", "image").shape == (4, 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ssl4seg.data.guards.free_memory", lambda: 2**30)
        with pytest.raises(UserError, match=r"a\.h5: declares 32768 x 32768 values of uint8, which take"):
            read_h5(tmp_path / "a.h5", "image")


def test_an_array_beyond_the_free_memory_is_refused_with_the_keys_that_leave_more_of_it(monkeypatch):
    monkeypatch.setattr("ssl4seg.data.guards.free_memory", lambda: 2**29)
    guards.expect_memory(Path("a.nii"), (512, 512, 256), np.dtype(np.int16), scaled=False)  # 0.125 GiB
    with pytest.raises(UserError) as caught:
        guards.expect_memory(Path("a.nii"), (512, 512, 512), np.dtype(np.int16), scaled=True)
    message = str(caught.value)
    assert "a.nii: declares 512 x 512 x 512 values of int16, which take 0.75 GiB of memory to read" in message
    assert "has 0.5 GiB free" in message
    assert {"engine.resident_gib", "engine.num_workers"} <= {*re.findall(r"engine\.\w+", message)} <= KEYS.keys()


def test_a_slice_of_a_large_h5_is_read(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("image", (2**40, 4, 4), np.uint8, chunks=(1, 4, 4))
    assert read_h5(tmp_path / "a.h5", "image", (slice(2**39, 2**39 + 1),)).shape == (1, 4, 4)
    with pytest.raises(UserError, match=r"a\.h5: declares 1099511627776 x 4 x 4 values of uint8, which take"):
        read_h5(tmp_path / "a.h5", "image")


def test_a_picture_beyond_the_limit_of_pillow_is_opened(tmp_path):
    assert facts(png(tmp_path / "a.png", 18000, 10000)).size == (10000, 18000)


# -- other faults of files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [(3, 0, 0, 0), (3, 4, 0, 4), (0, 0, 0, 0), (3, -4, 4, 4), (9, 1, 1, 1)])
def test_dimensions_that_are_none_are_a_fault(tmp_path, dim):
    header = nibabel.Nifti1Header()
    header.set_data_shape((4, 4, 4))
    header["magic"], header["vox_offset"] = b"n+1", 352
    content = bytearray(header.binaryblock + bytes(1000))
    content[40:48] = struct.pack("<4h", *dim)
    (tmp_path / "a.nii").write_bytes(content)
    for read in (read_nifti, nifti_facts):
        with pytest.raises(UserError, match=r"a\.nii: (has the dimensions .* no voxels|cannot be read as NIfTI)"):
            read(tmp_path / "a.nii")


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(("end", "sizes"), [(3e9, [32]), (400, [2 * 10**9]), (384, [32, 2 * 10**9])])
def test_a_nifti_header_with_gigabytes_of_extensions_is_not_read(tmp_path, order, end, sizes):
    header = nibabel.Nifti1Header(endianness=order)
    header.set_data_shape((4, 4, 4))
    header.set_data_dtype(np.uint8)
    header["magic"], header["vox_offset"] = b"n+1", end
    extensions = b"".join(struct.pack(f"{order}2i", size, 4) + bytes(min(size, 32) - 8) for size in sizes)
    file = tmp_path / "a.nii.gz"
    file.write_bytes(gzip.compress(header.binaryblock + b"\1\0\0\0" + extensions + bytes(100)))
    if max(sizes) > 32 and end == 384:  # the second lies behind the voxels' start, so it is none
        assert read_nifti(file)[0].shape == (4, 4, 4)
    else:
        with pytest.raises(
            UserError, match=r"a\.nii\.gz: its header declares .* MiB before the voxels; up to 16 are read"
        ):
            read_nifti(file)


@pytest.mark.parametrize("kind", [".png", ".tif", ".h5", ".nii.gz"])
def test_a_fifo_is_not_opened(tmp_path, kind):
    os.mkfifo(tmp_path / f"a{kind}")
    for read in (lambda file: read_image(file, 1), lambda file: read_values(file, colored=False), facts):
        with pytest.raises(UserError, match=r"a\..*: is a FIFO; only regular files are read"):
            read(tmp_path / f"a{kind}")


@pytest.mark.parametrize("kind", [".tif", ".h5", ".nii.gz"])
def test_labels_within_a_thousandth_of_whole_numbers_are_those_numbers(tmp_path, kind):
    label = np.arange(20).reshape(4, 5) % 3
    values = (label * 0.9997).astype(np.float32)
    values[0, 0] = 0.4
    file = tmp_path / f"a{kind}"
    if kind == ".h5":
        with h5py.File(file, "w") as written:
            written["label"] = values
    elif kind == ".tif":
        tifffile.imwrite(file, values)
    else:
        nifti(file, values.transpose())
    read = read_values(file, colored=False)[0]
    assert read[0, 0] == np.float32(0.4)
    assert np.array_equal(read.ravel()[1:], label.ravel()[1:])
