"""Image files of every kind become slices x channels x height x width; masks go back into the kind they came from."""

import zipfile
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import tifffile
from numpy.lib import format as npy
from PIL import Image

from ssl4seg.data.arrays import array_facts, read_array
from ssl4seg.data.formats import palette_in
from ssl4seg.data.images import facts, read_image, read_values, shares_file, write_label, write_shares
from ssl4seg.errors import UserError

RNG = np.random.default_rng(0)
H, W = 5, 7


def numbers(*shape: int, dtype: str = "u1") -> np.ndarray:
    return RNG.integers(0, np.iinfo(dtype).max, (*shape, H, W), dtype=dtype)


def png(path: Path, pixels: np.ndarray) -> None:
    """[C, H, W]"""
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(path)


def tiff(path: Path, pixels: np.ndarray, **keys) -> None:
    tifffile.imwrite(path, pixels, **{"photometric": "minisblack", **keys})


def page_by_page(path: Path, pixels: np.ndarray) -> None:
    """[S, H, W] or [S, C, H, W], each slice by a call of its own."""
    with tifffile.TiffWriter(path) as file:
        for page in pixels:
            colors = page.ndim == 3
            file.write(page.transpose(1, 2, 0) if colors else page, photometric="rgb" if colors else "minisblack")


def nifti(path: Path, pixels: np.ndarray) -> None:
    """[H, W], [S, H, W] or [S, C, H, W]; NIfTI has rows last but one, and channels last."""
    voxels = pixels.transpose(3, 2, 0, 1) if pixels.ndim == 4 else pixels.transpose()
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([1.5, 2, 8, 1])), path)


def h5(path: Path, pixels: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        file["image"] = pixels


def npz(path: Path, pixels: np.ndarray) -> None:
    np.savez_compressed(path, image=pixels)


KINDS = [  # name, writer, what is written, channels of the dataset, expected [S, C, H, W] as the file has it
    ("a.png", png, pixels := numbers(1), 1, pixels[None]),
    ("a.png", png, pixels := numbers(3), 3, pixels[None]),
    ("a.png", png, pixels := numbers(1, dtype="u2"), 1, pixels[None] / 65535),
    ("a.bmp", png, pixels := numbers(1), 1, pixels[None]),
    ("a.bmp", png, pixels := numbers(3), 3, pixels[None]),
    ("a.gif", png, pixels := numbers(1), 1, pixels[None]),
    ("a.tif", tiff, pixels := numbers(), 1, pixels[None, None]),
    ("a.tif", tiff, pixels := numbers(dtype="u2"), 1, pixels[None, None] / 65535),
    ("a.tiff", tiff, pixels := numbers().astype(np.float32), 1, pixels[None, None]),
    ("a.tif", tiff, pixels := numbers(4, dtype="u2"), 1, pixels[:, None] / 65535),  # pages are slices
    ("a.tif", page_by_page, pixels := numbers(4, dtype="u2"), 1, pixels[:, None] / 65535),
    ("a.tif", page_by_page, pixels := numbers(2, 3), 3, pixels),
    ("a.tif", tiff, pixels := numbers(4, dtype="u2"), 4, pixels[None] / 65535),  # unless there are so many channels
    ("a.tif", lambda p, x: tiff(p, x.transpose(1, 2, 0), planarconfig="contig"), pixels := numbers(5), 5, pixels[None]),
    ("a.tif", lambda p, x: tiff(p, x, planarconfig="separate"), pixels := numbers(5), 5, pixels[None]),
    (
        "a.tif",
        lambda p, x: tiff(p, x.transpose(1, 2, 0), photometric="rgb", compression="lzw"),
        pixels := numbers(3),
        3,
        pixels[None],
    ),
    ("a.tif", lambda p, x: tiff(p, x, imagej=True, metadata={"axes": "ZCYX"}), pixels := numbers(3, 2), 2, pixels),
    ("a.nii.gz", nifti, pixels := numbers(3, dtype="i2"), 1, pixels[:, None]),
    ("a.nii", nifti, pixels := numbers(), 1, pixels[None, None]),
    ("a.nii", nifti, pixels := numbers(3, 2, dtype="i2"), 2, pixels),
    ("a.h5", h5, pixels := numbers(dtype="i2"), 1, pixels[None, None]),
    ("a.h5", h5, pixels := numbers(3, dtype="i2"), 1, pixels[:, None]),
    ("a.h5", h5, pixels := numbers(3, dtype="i2"), 3, pixels[None]),
    ("a.h5", h5, pixels := numbers(4, 2).astype(np.float32), 2, pixels),
    ("a.npz", npz, pixels := numbers(dtype="i2"), 1, pixels[None, None]),
    ("a.npz", npz, pixels := numbers(3, dtype="i2"), 3, pixels[None]),
    ("a.npz", lambda p, x: npz(p, np.asfortranarray(x)), pixels := numbers(4, 2).astype(np.float32), 2, pixels),
]


@pytest.mark.parametrize(("name", "write", "pixels", "channels", "expected"), KINDS)
def test_every_kind_becomes_slices_channels_rows_columns(tmp_path, name, write, pixels, channels, expected):
    write(tmp_path / name, pixels)
    image, told = read_image(tmp_path / name, channels), facts(tmp_path / name, channels)
    assert image.dtype == (np.uint8 if told.is_bytes else np.float32)
    np.testing.assert_allclose(image, expected, rtol=1e-6)
    assert (told.num_images, told.channels, *told.size) == image.shape == expected.shape


def test_the_third_axis_of_nifti_is_slices_also_where_there_are_as_many_channels(tmp_path):
    nifti(tmp_path / "a.nii", pixels := numbers(3, dtype="i2"))
    image, told = read_image(tmp_path / "a.nii", 3), facts(tmp_path / "a.nii", 3)
    assert np.array_equal(image, np.repeat(pixels[:, None], 3, axis=1))
    assert (told.num_images, told.channels) == (3, 1)
    nifti(tmp_path / "b.nii", numbers(4, dtype="i2"))
    with pytest.raises(UserError, match=r"b\.nii: has 1 channel, but 4 are expected"):
        read_image(tmp_path / "b.nii", 4)


def test_pictures_and_byte_tiffs_stay_bytes_and_volumes_do_not(tmp_path):
    png(tmp_path / "a.png", numbers(1))
    tiff(tmp_path / "a.tif", numbers())
    nifti(tmp_path / "a.nii", numbers())
    assert [facts(tmp_path / name).is_bytes for name in ("a.png", "a.tif", "a.nii")] == [True, True, False]
    assert facts(tmp_path / "a.nii").spacing == (1.0, 2.0, 1.5)


def test_one_bit_tiffs_are_black_and_white(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.array([[False, True]]), photometric="minisblack")
    assert read_image(tmp_path / "a.tif", 1).tolist() == [[[[0, 255]]]]


@pytest.mark.parametrize("name", ["a.tif", "a.png"])
def test_one_bit_masks_hold_0_and_1_or_black_and_white(tmp_path, name):
    pixels = np.array([[False, True]])
    Image.fromarray(pixels).save(tmp_path / name) if name == "a.png" else tiff(tmp_path / name, pixels)
    assert read_values(tmp_path / name, colored=False).tolist() == [[[0, 1]]]
    assert read_values(tmp_path / name, colored=True).tolist() == [[[0, 255]]]


# -- what a viewer shows ----------------------------------------------------------------------------------------------

STORED = np.array([[10, 20, 30], [40, 50, 60]], np.uint8)
SHOWN = {  # by the tag Orientation, turned by hand
    1: [[10, 20, 30], [40, 50, 60]],
    2: [[30, 20, 10], [60, 50, 40]],
    3: [[60, 50, 40], [30, 20, 10]],
    4: [[40, 50, 60], [10, 20, 30]],
    5: [[10, 40], [20, 50], [30, 60]],
    6: [[40, 10], [50, 20], [60, 30]],
    7: [[60, 30], [50, 20], [40, 10]],
    8: [[30, 60], [20, 50], [10, 40]],
}


@pytest.mark.parametrize("tag", SHOWN)
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
def test_pictures_are_turned_as_viewers_turn_them(tmp_path, name, tag):
    if name == "a.tif":
        tiff(tmp_path / name, STORED, extratags=[(274, "H", 1, tag, True)])
    else:
        exif = Image.Exif()
        exif[274] = tag
        big = np.kron(STORED, np.ones((8, 8), np.uint8)) if name == "a.jpg" else STORED  # JPEG blurs single pixels
        Image.fromarray(big).save(tmp_path / name, exif=exif)
    step = 8 if name == "a.jpg" else 1
    image, fact = read_image(tmp_path / name, 1), facts(tmp_path / name)
    assert np.abs(image[0, 0, ::step, ::step].astype(int) - SHOWN[tag]).max() <= (2 if step > 1 else 0)
    assert np.array_equal(read_values(tmp_path / name, colored=False), image[:, 0])
    assert (fact.size, fact.changed) == (image.shape[2:], tag > 1)


def test_every_page_of_a_tiff_is_turned(tmp_path):
    tiff(tmp_path / "a.tif", np.stack([STORED, STORED + 1]), extratags=[(274, "H", 1, 6, True)])
    assert read_image(tmp_path / "a.tif", 1)[1, 0].tolist() == [[41, 11], [51, 21], [61, 31]]
    assert facts(tmp_path / "a.tif").size == (3, 2)


@pytest.mark.parametrize(
    ("pixels", "image", "mask"),
    [
        (np.array([[0, 3, 255]], np.uint8), [[255, 252, 0]], [[255, 252, 0]]),
        (np.array([[0, 13107, 65535]], np.uint16), [[1, 0.8, 0]], [[65535, 52428, 0]]),
        (np.array([[False, True, True]]), [[255, 0, 0]], [[1, 0, 0]]),
    ],
    ids=["8 bit", "16 bit", "1 bit"],
)
def test_a_tiff_with_0_as_white_is_inverted(tmp_path, pixels, image, mask):
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="miniswhite")
    np.testing.assert_allclose(read_image(tmp_path / "a.tif", 1)[0, 0], image, rtol=1e-6)
    assert read_values(tmp_path / "a.tif", colored=False).tolist() == [mask]
    assert facts(tmp_path / "a.tif").changed


def test_numbers_without_a_black_cannot_have_0_as_white(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.ones((2, 2), np.float32), photometric="miniswhite")
    with pytest.raises(UserError, match=r"a\.tif: says that 0 is white \(MINISWHITE\), but holds float32"):
        read_image(tmp_path / "a.tif", 1)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp", "a.gif"])
def test_the_colours_of_a_palette(tmp_path, name):
    picture = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8))
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 128, 7])
    picture.save(tmp_path / name)
    assert palette_in(tmp_path / name)[:3] == (b"\0\0\0", b"\xff\0\0", b"\0\x80\x07")
    colors = [[[0, 0, 0], [255, 0, 0]], [[0, 128, 7], [255, 0, 0]]]
    assert read_values(tmp_path / name, colored=True).tolist() == [colors]


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_grey_becomes_colour_and_colour_grey(tmp_path, name):
    def write(pixels):
        if name == "a.png":
            return png(tmp_path / name, pixels)
        return tiff(tmp_path / name, pixels.transpose(1, 2, 0), photometric="rgb" if len(pixels) > 1 else "minisblack")

    colors = np.array([[[255, 0]], [[0, 255]], [[0, 0]]], np.uint8)
    write(colors)
    assert read_image(tmp_path / name, 1).tolist() == [[[[76, 150]]]]  # 0.299 and 0.587 of 255
    write(grey := np.array([[[1, 200]]], np.uint8))
    assert np.array_equal(read_image(tmp_path / name, 3)[0], np.repeat(grey, 3, axis=0))


@pytest.mark.parametrize("held", [1, 3])
def test_the_opacity_of_a_picture_is_left_out_and_told(tmp_path, held):
    pixels = numbers(held)
    png(tmp_path / "bare.png", pixels)
    png(tmp_path / "a.png", np.concatenate([pixels, numbers(1)]))
    assert np.array_equal(read_image(tmp_path / "a.png", held)[0], pixels)
    told = [facts(tmp_path / name) for name in ("bare.png", "a.png")]
    assert [(fact.channels, fact.opacity) for fact in told] == [(held, False), (held, True)]
    with pytest.raises(
        UserError, match=rf"a\.png: has {held} channels? \(its opacity is left out\), but 4 are expected"
    ):
        read_image(tmp_path / "a.png", 4)


@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_the_fourth_channel_of_a_tiff_is_one_whatever_its_tag_says(tmp_path, dtype):
    pixels = numbers(4, dtype=dtype)
    tiff(tmp_path / "a.tif", pixels.transpose(1, 2, 0), photometric="rgb")
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.pages[0].extrasamples == (tifffile.EXTRASAMPLE.UNASSALPHA,)
    image = read_image(tmp_path / "a.tif", 4)[0]
    np.testing.assert_allclose(image, pixels / (1 if dtype == "u1" else 65535), rtol=1e-6)
    assert facts(tmp_path / "a.tif").channels == 4
    for channels in (1, 3):
        with pytest.raises(UserError, match=rf"a\.tif: has 4 channels, but {channels} are expected"):
            read_image(tmp_path / "a.tif", channels)


def test_other_numbers_of_channels_are_refused(tmp_path):
    tiff(tmp_path / "a.tif", numbers(5), planarconfig="separate")
    with pytest.raises(UserError, match=r"a\.tif: has 5 channels, but 3 are expected"):
        read_image(tmp_path / "a.tif", 3)
    h5(tmp_path / "a.h5", numbers(2, 4))
    with pytest.raises(UserError, match=r"a\.h5: has 4 channels, but 1 are expected"):
        read_image(tmp_path / "a.h5", 1)


def test_tiffs_that_cannot_be_told_are_refused(tmp_path):
    tiff(tmp_path / "a.tif", numbers(2, 3), imagej=True, metadata={"axes": "TZYX"})
    with pytest.raises(UserError, match=r"a\.tif: has the axes TZYX"):
        read_image(tmp_path / "a.tif", 1)
    (tmp_path / "b.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:100])
    for read in (facts, lambda path: read_image(path, 1)):
        with pytest.raises(UserError, match=r"b\.tif: cannot be read as TIFF"):
            read(tmp_path / "b.tif")


def test_the_indices_of_a_palette_are_a_mask_but_no_image(tmp_path):
    values = numbers() % 3
    for name in ("a.png", "a.tif"):
        picture = Image.fromarray(values)
        picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
        picture.save(tmp_path / name)
        assert np.array_equal(read_values(tmp_path / name, colored=False), values[None])
    assert read_values(tmp_path / "a.png", colored=True)[0, values == 1].tolist()[0] == [255, 0, 0]
    with pytest.raises(UserError, match=r"a\.tif: is a TIFF with a palette"):
        read_image(tmp_path / "a.tif", 1)


@pytest.mark.parametrize(
    ("name", "write", "image", "channels", "shape"),
    [
        ("a.tif", tiff, numbers(), 1, (H, W)),
        ("a.tif", tiff, numbers(3), 1, (3, H, W)),
        ("a.tif", tiff, numbers(3), 3, (H, W)),
        ("a.h5", h5, numbers(), 1, (H, W)),
        ("a.h5", h5, numbers(1), 1, (1, H, W)),
        ("a.h5", h5, numbers(3), 3, (H, W)),
        ("a.h5", h5, numbers(2, 3), 3, (2, H, W)),
        ("a.npz", npz, numbers(1), 1, (1, H, W)),
        ("a.npz", npz, numbers(3), 3, (H, W)),
        ("a.nii", nifti, numbers(3), 1, (3, H, W)),
        ("a.nii", nifti, numbers(3, 2), 2, (3, H, W)),
    ],
)
def test_a_mask_is_written_in_its_images_kind_and_shape(tmp_path, name, write, image, channels, shape):
    write(tmp_path / name, image)
    label = RNG.integers(0, 4, (facts(tmp_path / name, channels).num_images, H, W), np.uint8)
    write_label(target := tmp_path / f"mask_{name}", label, tmp_path / name)
    assert np.array_equal(read_values(target, colored=False), label)
    if name == "a.nii":
        assert nibabel.load(target).shape == shape[::-1]
    else:
        written = tifffile.imread(target) if name == "a.tif" else read_array(target, "label")
        assert (written.shape, written.dtype) == (shape, np.uint8)


def test_an_npz_holds_image_label_and_spacing(tmp_path):
    np.savez(tmp_path / "a.npz", image=numbers(2), label=numbers(2) % 2, spacing=[8, 2, 1.5])
    fact = facts(tmp_path / "a.npz")
    assert (fact.labeled, fact.spacing) == (True, (8, 2, 1.5))


def test_an_npz_runs_no_code_and_declares_no_more_than_it_holds(tmp_path):
    file = tmp_path / "a.npz"
    np.savez(file, numbers(2))
    with pytest.raises(UserError, match=r"a\.npz: has no array 'image', only \['arr_0'\]"):
        array_facts(file)
    np.savez(file, image=np.array([[{}]], object))
    with pytest.raises(UserError, match=r"a\.npz: holds values of type object"):
        read_array(file, "image")
    np.savez(file, image=numbers(2))
    whole = file.read_bytes()
    file.write_bytes(whole.replace(b"(2, 5, 7)", b"(2, 5, 6)"))
    with pytest.raises(UserError, match=r"a\.npz: .*(goes on after|Bad CRC)"):
        read_array(file, "image")
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive, archive.open("image.npy", "w") as entry:
        npy.write_array_header_1_0(entry, {"descr": "|u1", "fortran_order": False, "shape": (2**20, 2**21)})
    with pytest.raises(UserError, match=r"b\.npz: declares 1048576 x 2097152 values of uint8, which take"):
        array_facts(tmp_path / "b.npz")
    file.write_bytes(whole[:-60])
    with pytest.raises(UserError, match=r"a\.npz: cannot be read as npz, perhaps truncated"):
        array_facts(file)


def test_an_animated_gif_is_no_picture(tmp_path):
    frames = [Image.fromarray(numbers()) for _ in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(UserError, match=r"a\.gif: has 3 frames \(an animation\)"):
        facts(tmp_path / "a.gif")


def test_h5_masks_beside_their_image(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["image"], file["label"] = numbers(2), numbers(2) % 2
    assert facts(tmp_path / "a.h5").labeled


def test_pages_of_different_sizes_are_no_volume_but_a_reduced_copy_counts_for_nothing(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(numbers())
        file.write(numbers()[:2])
    with pytest.raises(UserError, match=r"a.tif: holds 2 images of .*, which are no slices of one volume"):
        read_image(tmp_path / "a.tif", 1)
    with tifffile.TiffWriter(tmp_path / "b.tif") as file:
        file.write(pixels := numbers())
        file.write(numbers()[:2], subfiletype=1)
    assert np.array_equal(read_image(tmp_path / "b.tif", 1), pixels[None, None])


def test_probabilities_are_written_in_half_precision_along_the_axes_of_the_image(tmp_path):
    shares = np.random.default_rng(0).random((3, 6, 5, 4)).astype(np.float32)  # K, X, Y, Z
    nibabel.save(nibabel.Nifti1Image(np.zeros((6, 5, 4), np.int16), np.diag([2.0, 3, 4, 1])), tmp_path / "a.nii.gz")
    place = shares_file(tmp_path / "out.nii.gz", tmp_path / "a.nii.gz")
    assert place.name == "out_probabilities.nii.gz"
    write_shares(place, shares, ["x", "y", "z"], tmp_path / "a.nii.gz")
    image = nibabel.load(place)
    assert image.shape == (6, 5, 4, 3)
    assert np.array_equal(image.affine, np.diag([2.0, 3, 4, 1]))
    assert np.array_equal(np.moveaxis(image.get_fdata(), -1, 0), shares.astype(np.float16))
    place = shares_file(tmp_path / "out.png", tmp_path / "a.jpg")
    write_shares(place, shares[:, 0], ["x", "y", "z"], tmp_path / "a.jpg")
    with np.load(tmp_path / "out_probabilities.npz") as file:
        assert np.array_equal(file["probabilities"], shares[:, 0].astype(np.float16))
        assert file["probabilities"].dtype == np.float16
        assert file["classes"].tolist() == ["x", "y", "z"]
