"""Read and write h5, NIfTI, TIFF and pictures; a file that cannot be read is a UserError that names it."""

import math
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import h5py
import nibabel
import numpy as np
import numpy.typing as npt
import tifffile
from nibabel.openers import ImageOpener
from PIL import ExifTags, Image

from ssl4seg.data.case import LabelArray, Part, Spacing
from ssl4seg.data.guards import MANY_BYTES, checked_spacing, expect_memory, expect_numbers, named_faults
from ssl4seg.data.itk import ITK
from ssl4seg.data.orientation import Affine, check_affine
from ssl4seg.errors import UserError

Image.MAX_IMAGE_PIXELS = None  # Pillow's limit of 179 million pixels; `expect_memory` has that of the machine
NIFTI = (".nii.gz", ".nii")
H5 = (".h5", ".hdf5")
NPZ = (".npz",)
TIFF = (".tif", ".tiff")
PICTURE = (".png", ".jpg", ".jpeg", ".bmp", ".gif")
PILLOWS = ("PNG", "JPEG", "BMP", "GIF", "WEBP")
"""What a picture may be, whatever its ending says. Pillow would give EPS, by whatever name, to Ghostscript to run."""
ENDINGS = NIFTI + ITK + H5 + NPZ + TIFF + PICTURE
DICOM = (".dcm", ".dicom", ".ima")
CONVERT = {
    "PNG": (".webp", ".jp2", ".ppm", ".pgm", ".pbm", ".jfif", ".tga"),
    "NIfTI": (".nhdr", ".mgz", ".mgh", ".img", ".hdr", ".gipl", ".minc", ".mnc"),
    "h5 or TIFF": (".npy", ".mat", ".zarr", ".svs", ".czi", ".lif", ".nd2"),
}
"""Kinds of images that are not read: what they should become."""
OME_COUNTS = ("SizeZ", "SizeC", "SizeT", "FirstZ", "FirstC", "FirstT", "PlaneCount", "NumPlanes")
"""Numbers of planes in the metadata of OME-TIFF."""
MAX_HEAD = 2**24
"""Bytes of a NIfTI header with its extensions."""


def stem(path: Path) -> str:
    """The file's name without its ending (`a.nii.gz` -> `a`)."""
    return next((path.name[: -len(e)] for e in ENDINGS if path.name.lower().endswith(e)), path.stem)


def ending(path: Path) -> str:
    """The one of ENDINGS that the file has.

    Raises:
        UserError: if it has none of them.
    """
    for known in ENDINGS:
        if path.name.lower().endswith(known):
            return known
    raise UserError(f"{path}: unknown kind of file ({hint(path.name)}); expected one of {', '.join(ENDINGS)}")


def hint(name: str) -> str:
    """What to do with a file of a kind that is not read."""
    if name.lower().endswith(DICOM):
        return "DICOM: ssl4seg-prepare import makes a folder of series, ssl4seg-predict reads their folder"
    goal = next((goal for goal, endings in CONVERT.items() if name.lower().endswith(endings)), None)
    return f"convert to {goal}" if goal else "no kind that is read"


NEARLY = 1e-3
"""A label in float counts as the whole number that it is so close to."""


def whole_labels(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The values of a mask, those in float rounded where they are within NEARLY of a whole number.

    Programs that scale or resample masks write 0.99999 for 1.
    """
    if values.dtype.kind != "f":
        return values
    rounded = np.rint(values)
    return np.where(np.abs(values - rounded) <= NEARLY, rounded, values)


# -- as a viewer shows it ---------------------------------------------------------------------------------------------

TURNS = {  # of the tag Orientation in EXIF and TIFF: whether rows and columns change places, then which run backwards
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


def upright(pixels: npt.NDArray[Any], tag: int, axes: tuple[int, int]) -> npt.NDArray[Any]:
    """Turn stored pixels as their tag Orientation says, as viewers do.

    Args:
        tag: 2 to 8 turn or mirror; any other number leaves the pixels as they are.
        axes: of rows and of columns.
    """
    if tag not in TURNS:
        return pixels
    swapped, *backwards = TURNS[tag]
    pixels = pixels.swapaxes(*axes) if swapped else pixels
    return np.flip(pixels, tuple(axis for axis, flipped in zip(axes, backwards, strict=True) if flipped))


def _upright_size(size: Sequence[int], tag: int) -> tuple[int, int]:
    """Height and width after `upright`."""
    height, width = size
    return (width, height) if tag in TURNS and TURNS[tag][0] else (height, width)


# -- h5 ---------------------------------------------------------------------------------------------------------------


def read_h5(path: Path, key: str, part: Part = ()) -> npt.NDArray[Any]:
    """The array `key` [S, *X], or [S, C, *X] with its channels; only `part` of it is read from the disk."""
    with _h5(path, key) as file:
        array = file[key]
        channels = (slice(None),) * (array.ndim - len(part))
        index = (*part[:1], *channels, *part[1:])
        shape = [len(range(*each.indices(n))) for each, n in zip(index, array.shape, strict=True)]
        for lengths in (shape, array.chunks or ()):  # a chunk, which may be larger than the array, is decoded whole
            expect_memory(path, lengths, array.dtype, scaled=True)
        return np.asarray(array[index])


def h5_facts(path: Path) -> tuple[tuple[int, ...], bool, Spacing | None]:
    """Shape of `image`, whether there is a `label`, and the voxel spacing in mm, without reading pixels."""
    with _h5(path, "image") as file:
        spacing = file.attrs.get("spacing")
        return file["image"].shape, "label" in file, None if spacing is None else checked_spacing(spacing, path)


@contextmanager
def _h5(path: Path, key: str) -> Iterator[Any]:
    """An open h5 file that holds the array `key` itself: not a link, nor pixels that lie in another file.

    Other files are never read: an h5 file from a stranger could name any file of this machine.
    """
    with named_faults(path, "h5"), h5py.File(path, "r") as file:
        if key not in file and file.get(key, getlink=True) is None:
            raise UserError(f"{path}: has no array {key!r}, only {sorted(file)[:20]}")
        if not isinstance(file.get(key, getlink=True), h5py.HardLink):
            raise UserError(f"{path}: {key!r} is a link; copy the array itself into the file")
        array = file[key]
        if not isinstance(array, h5py.Dataset) or array.shape is None:
            raise UserError(f"{path}: {key!r} is no array, but {'empty' if hasattr(array, 'shape') else 'a group'}")
        if array.external or array.is_virtual:
            raise UserError(
                f"{path}: the pixels of {key!r} lie in other files (external or virtual storage); copy the array "
                "itself into the file"
            )
        expect_numbers(path, array.dtype)
        yield file


# -- NIfTI ------------------------------------------------------------------------------------------------------------


def read_nifti(path: Path) -> tuple[npt.NDArray[Any], Any]:
    """Voxels [S, H, W] (NIfTI's axes reversed) and nibabel's image, which holds affine and header."""
    voxels, image = read_nifti_channels(path)
    if voxels.ndim == 4 and voxels.shape[1] > 1:
        raise UserError(f"{path}: has 4 dimensions {image.shape}; expected a 3-D volume or a 2-D image")
    return voxels.reshape(-1, *voxels.shape[-2:]), image


def read_nifti_channels(path: Path) -> tuple[npt.NDArray[Any], Any]:
    """The same for a file whose fourth axis may be one of channels: voxels [H, W], [S, H, W] or [S, C, H, W]."""
    image = _nifti(path)
    with named_faults(path, "NIfTI"):
        voxels = _checked_voxels(path, image) if path.name.lower().endswith(".gz") else np.asanyarray(image.dataobj)
    return voxels.transpose(_nifti_order(path, image.shape)), image


def _checked_voxels(path: Path, image: Any) -> npt.NDArray[Any]:
    """The voxels of a .nii.gz, read on to its end, where gzip compares the check sum; nibabel stops before it."""
    proxy = image.dataobj
    layout = proxy.shape, proxy.dtype, proxy.offset, proxy.slope, proxy.inter
    with image.file_map["image"].get_prepare_fileobj("rb") as file:
        voxels: npt.NDArray[Any] = np.asanyarray(type(proxy)(file, layout, mmap=False))
        if len(file.read(MANY_BYTES)) == MANY_BYTES:
            raise UserError(f"{path}: goes on after the {image.shape} voxels that its header declares; mend the header")
    return voxels


def nifti_facts(path: Path) -> tuple[tuple[int, ...], Spacing]:
    """Shape as `read_nifti_channels` returns it, and the voxel spacing in mm, without reading voxels."""
    image = _nifti(path)
    return tuple(image.shape[axis] for axis in _nifti_order(path, image.shape)), nifti_spacing(image)


def nifti_affine(path: Path) -> Affine | None:
    """From voxels (x, y, z) to mm right, anterior and superior; None if neither sform nor qform is set."""
    image = _nifti(path)
    if not (image.header["sform_code"] > 0 or image.header["qform_code"] > 0):
        return None
    check_affine(str(path), image.affine)
    affine: Affine = np.diag([*[_millimetres(image)] * 3, 1.0]) @ image.affine
    return affine


def _millimetres(image: Any) -> float:
    """The header's unit of length in mm; a header without one has mm."""
    return {1: 1000.0, 3: 0.001}.get(int(image.header["xyzt_units"]) & 7, 1.0)


def nifti_spacing(image: Any) -> Spacing:
    """Millimetres between slices, rows and columns, of the header's pixdim and unit."""
    zooms = [float(zoom) * _millimetres(image) for zoom in image.header.get_zooms()[:3]]
    path = Path(image.get_filename())
    return checked_spacing(([*zooms, 1.0])[2::-1] if len(zooms) == 2 else zooms[::-1], path)


def _nifti(path: Path) -> Any:
    """Nibabel's image, its header checked; the last ones are remembered, for a header is asked for many times."""
    with named_faults(path, "NIfTI"):
        status = path.stat()
    return _nifti_of(path, status.st_mtime_ns, status.st_size)


@lru_cache(64)
def _nifti_of(path: Path, _changed: int, _size: int) -> Any:
    """The same.

    The header on the disk is looked at, because nibabel replaces a pixdim of 0 by 1 and drops the sign of another.
    """
    with named_faults(path, "NIfTI"):
        _expect_small_head(path)
        image: Any = nibabel.load(path)
        with image.file_map["image"].get_prepare_fileobj("rb") as file:
            raw = type(image.header).from_fileobj(file, check=False)
        expect_numbers(path, image.get_data_dtype())
        if min(image.shape, default=0) < 1:
            raise UserError(f"{path}: has the dimensions {image.shape}, and so no voxels; mend or remove the file")
        is_whole = (image.dataobj.slope, image.dataobj.inter) == (1, 0)
        dtype = image.get_data_dtype() if is_whole else np.dtype(float)
        expect_memory(path, image.shape, dtype, scaled=True)
        pixdim = np.ones(3)
        pixdim[: min(3, image.ndim)] = raw["pixdim"][1 : 1 + min(3, image.ndim)]
        checked_spacing(pixdim[::-1], path)
    return image


def _expect_small_head(path: Path) -> None:
    """Refuse extensions of a header that declare more than MAX_HEAD bytes: nibabel reads them whole with the header."""
    with ImageOpener(str(path)) as file:
        start = file.read(4)
        order = next((order for order in "<>" if start in (struct.pack(f"{order}i", n) for n in (348, 540))), None)
        if order is None:
            return  # not NIfTI; nibabel says so
        (length,) = struct.unpack(f"{order}i", start)
        head = start + file.read(length)  # with the four bytes after it, the first of which tells of extensions
        place, kind = (108, "f") if length == 348 else (168, "q")
        (end,) = struct.unpack_from(f"{order}{kind}", head, place)
        at, declared = length + 4, end
        while head[length] and at < end <= MAX_HEAD and declared <= MAX_HEAD and len(sizes := file.read(8)) == 8:
            declared = max(16, struct.unpack_from(f"{order}i", sizes)[0])
            at += declared
            file.seek(min(declared, MAX_HEAD) - 8, 1)
    if declared > MAX_HEAD:
        raise UserError(
            f"{path}: its header declares {declared / 2**20:.4g} MiB before the voxels; up to {MAX_HEAD >> 20} are read"
        )


def in_nifti(slices: npt.NDArray[Any], like: Any) -> npt.NDArray[Any]:
    """Slices [S, H, W] as the voxels of nibabel's image `like`, without its channels."""
    return slices.transpose(2, 1, 0).reshape(like.shape if slices.size == np.prod(like.shape) else like.shape[:3])


def write_nifti(path: Path, label: npt.NDArray[Any], like: Any) -> None:
    """A mask [S, H, W] with the affine and, but for the data type, the header of nibabel's image `like`."""
    voxels = in_nifti(label, like)
    header = like.header.copy()
    header.set_data_dtype(label.dtype)
    header.set_slope_inter(1, 0)
    nibabel.save(type(like)(voxels, like.affine, header), path)


def write_nifti_shares(path: Path, shares: npt.NDArray[Any], like: Any) -> None:
    """Probabilities [X, Y, (Z,) K] rounded to float16, as float32, which NIfTI has; else as `write_nifti`."""
    voxels = shares.astype(np.float16).astype(np.float32)
    voxels = voxels[:, :, None] if voxels.ndim == 3 else voxels
    header = like.header.copy()
    header.set_data_dtype(np.float32)
    header.set_slope_inter(1, 0)
    nibabel.save(type(like)(voxels, like.affine, header), path)


def _nifti_order(path: Path, shape: tuple[int, ...]) -> tuple[int, ...]:
    """NIfTI's axes (columns, rows, slices, channels) in the order slices, channels, rows, columns."""
    if len(shape) not in (2, 3, 4):
        raise UserError(f"{path}: has {len(shape)} dimensions {shape}; expected a 3-D volume or a 2-D image")
    return (2, 3, 1, 0) if len(shape) == 4 else (2, 1, 0)[-len(shape) :]


# -- TIFF -------------------------------------------------------------------------------------------------------------


def read_tiff(path: Path, *, indices: bool = False, colored: bool = False) -> npt.NDArray[Any]:
    """A TIFF with all its pages: [H, W], [S, H, W], or [S, C, H, W] where the file names channels.

    The tag Orientation is applied, and white is the largest number also where the file has it as 0 (MINISWHITE).

    Args:
        indices: return the indices of a palette; without it a TIFF with a palette is refused.
        colored: return the colours of a palette [S, 3, H, W], 0 to 255, instead of its indices.
    """
    with _tiff(path) as series:
        colors = series.keyframe.colormap
        if colors is not None and not indices:
            raise UserError(f"{path}: is a TIFF with a palette; save it in grey or RGB")
        order, shape = _tiff_order(path, series)
        expect_numbers(path, series.dtype)
        pixels: npt.NDArray[Any] = _white_is_high(path, series, series.asarray().transpose(order)).reshape(shape)
        pixels = upright(pixels, _tiff_orientation(series), (-2, -1))
    if colors is None or not colored:
        return pixels
    return np.moveaxis((colors >> 8).astype(np.uint8)[:, pixels.reshape(-1, *pixels.shape[-2:])], 0, 1)


def tiff_facts(path: Path) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
    """Shape as `read_tiff` returns it, the type of the numbers, and whether they are stored turned or inverted."""
    with _tiff(path) as series:
        shape, tag = _tiff_order(path, series)[1], _tiff_orientation(series)
        changed = tag in TURNS or series.keyframe.photometric == tifffile.PHOTOMETRIC.MINISWHITE
        expect_numbers(path, series.dtype)
        return (*shape[:-2], *_upright_size(shape[-2:], tag)), series.dtype, changed


def _tiff_orientation(series: Any) -> int:
    """The tag Orientation; 1 without one."""
    tag = series.keyframe.tags.get(274)
    return 1 if tag is None else int(tag.value)


def _white_is_high(path: Path, series: Any, pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The pixels, inverted if the file says that 0 is white."""
    if series.keyframe.photometric != tifffile.PHOTOMETRIC.MINISWHITE:
        return pixels
    if pixels.dtype == bool:
        return ~pixels
    if pixels.dtype.kind != "u":
        raise UserError(
            f"{path}: says that 0 is white (MINISWHITE), but holds {pixels.dtype}, which has no black; "
            "save it as MINISBLACK"
        )
    inverted: npt.NDArray[Any] = pixels.dtype.type(2**series.keyframe.bitspersample - 1) - pixels
    return inverted


def write_tiff(path: Path, label: npt.NDArray[Any]) -> None:
    """A mask of numbers [S, H, W] or colours [S, H, W, 3], a page for each slice."""
    photometric = "minisblack" if label.ndim == 3 else "rgb"
    tifffile.imwrite(path, label if len(label) > 1 else label[0], photometric=photometric, compression="zlib")


@contextmanager
def _tiff(path: Path) -> Iterator[Any]:
    """The series of a TIFF's pages."""
    # Only the file's own pages are read: the metadata of microscopes can name any file.
    with (
        named_faults(path, "TIFF"),
        tifffile.TiffFile(path, _multifile=False, is_ndtiff=False, is_mmstack=False) as file,
    ):
        if file.is_ome:
            _expect_planes(path, str(file.ome_metadata))
        series = _all_pages(path, file)
        if series.dtype is not None:
            scaled = series.dtype.itemsize > 1
            for shape in (series.shape, series.keyframe.chunks):  # a strip or tile is decoded whole
                expect_memory(path, shape, series.dtype, scaled=scaled)
        yield series


def _all_pages(path: Path, file: tifffile.TiffFile) -> Any:
    """The pages of a TIFF as one series. A program that writes page by page makes a series of each.

    Of microscopes' files, which say what belongs together, the first series; reduced copies do not count.
    """
    first, *others = (series for series in file.series if not series.keyframe.is_reduced or series is file.series[0])
    if not others or first.kind not in ("shaped", "generic"):
        return first
    if any((len(s.pages), s.shape, s.dtype) != (1, first.shape, first.dtype) for s in (first, *others)):
        shapes = [" x ".join(map(str, series.shape)) for series in (first, *others)]
        raise UserError(
            f"{path}: holds {len(shapes)} images of {', '.join(dict.fromkeys(shapes))}, which are no slices of one "
            "volume; save each in a file of its own"
        )
    pages = [series.pages[0] for series in (first, *others)]
    return tifffile.TiffPageSeries(pages, (len(pages), *first.shape), first.dtype, f"I{first.axes}", parent=file)


def _expect_planes(path: Path, ome: str) -> None:
    """Refuse metadata of OME that declare more planes than the file has bytes: tifffile lists every plane."""
    for element in ElementTree.fromstring(ome).iter():
        if "Modulo" in element.tag:
            raise UserError(f"{path}: its OME metadata divide an axis (Modulo), which is not read; save plain pages")
        numbers = [max(1, int(number)) for key, number in element.items() if key in OME_COUNTS]
        if math.prod(numbers) > path.stat().st_size:
            raise UserError(f"{path}: its OME metadata declare more planes than the file can hold; mend the metadata")


def _tiff_order(path: Path, series: Any) -> tuple[list[int], tuple[int, ...]]:
    """The series' axes in the order slices, channels, rows, columns, and its shape in that order."""
    axes: dict[str, list[int]] = {"slices": [], "channels": [], "Y": [], "X": [], "single": []}
    for axis, (name, length) in enumerate(zip(series.axes, series.shape, strict=True)):
        kind = "single" if length == 1 else "channels" if name in "CS" else "slices"
        axes[name if name in "YX" else kind].append(axis)
    single = axes.pop("single")
    if len(axes["slices"]) > 1 or len(axes["channels"]) > 1 or not (axes["Y"] and axes["X"]):
        raise UserError(f"{path}: has the axes {series.axes} {series.shape}; expected pages of images, or channels")
    order = [axis for group in axes.values() for axis in group]
    shape = tuple(series.shape[axis] for axis in order)
    return [*single, *order], (1, *shape) if axes["channels"] and not axes["slices"] else shape


# -- pictures: PNG, JPEG, BMP and GIF ---------------------------------------------------------------------------------


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """A picture of which only the header is read; an error in the block counts as a fault of the file."""
    with named_faults(path, "a picture"), Image.open(path, formats=PILLOWS) as picture:
        if (frames := getattr(picture, "n_frames", 1)) > 1:
            raise UserError(f"{path}: has {frames} frames (an animation); save one picture, or a TIFF of pages")
        is_deep = picture.mode[0] in "IF"
        shape = (picture.height, picture.width, len(picture.getbands()))
        expect_memory(path, shape, np.dtype(np.int32 if is_deep else np.uint8), scaled=is_deep)
        yield picture


def picture_channels(picture: Image.Image) -> int:
    """1 for grey, 3 for colours; an opacity (alpha) does not count."""
    return 1 if picture.mode in ("1", "L", "LA") or picture.mode[0] in "IF" or _is_grey_gif(picture) else 3


def _is_grey_gif(picture: Image.Image) -> bool:
    """Whether it is a GIF of greys alone: the format has no other way to hold greys than a palette."""
    return picture.format == "GIF" and all(len({*color}) == 1 for color in _palette(picture))


def _palette(picture: Image.Image) -> tuple[bytes, ...]:
    """The colours of a palette, three bytes each; none without a palette. BMP has blue first, and a byte more."""
    if picture.mode != "P" or picture.palette is None:
        return ()
    order, flat = picture.palette.rawmode or picture.palette.mode, bytes(picture.palette.palette)
    colors = (flat[i : i + len(order)] for i in range(0, len(flat), len(order)))
    return tuple(color[2::-1] if order.startswith("BGR") else color[:3] for color in colors)


def picture_orientation(picture: Image.Image) -> int:
    """The tag Orientation of EXIF before the pixels; 1 without one."""
    exif = Image.Image.getexif(picture)  # that of PNG would decode all pixels, to look behind them too
    return int(exif.get(ExifTags.Base.Orientation, 1))


def size_of(picture: Image.Image) -> tuple[int, int]:
    """Height and width as a viewer shows the picture."""
    return _upright_size((picture.height, picture.width), picture_orientation(picture))


def picture_size(path: Path) -> tuple[int, int]:
    """The same, from the file's header."""
    with opened(path) as picture:
        return size_of(picture)


def picture_pixels(picture: Image.Image, mode: str | None = None) -> npt.NDArray[Any]:
    """The pixels [H, W] or [H, W, C] as a viewer shows them; a copy.

    Args:
        mode: Pillow's, to which they are converted; None: as they are.
    """
    with Image.open(picture.filename, formats=PILLOWS) as again:  # type: ignore[attr-defined]  # what `opened` opened
        again.verify()  # the check sums of a PNG, which decoding does not compare
    tag = picture_orientation(picture)
    pixels = np.array(picture if mode in (None, picture.mode) else picture.convert(mode))
    return np.ascontiguousarray(upright(pixels, tag, (0, 1)))


def read_mask(path: Path) -> LabelArray:
    """A mask picture of class values [H, W]; of a palette picture the indices."""
    with opened(path) as picture:
        if picture.mode not in ("P", "L", "1") and not picture.mode.startswith("I"):
            raise UserError(f"{path}: a mask of class values has one channel, this one is {picture.mode}")
        values = picture_pixels(picture)
    if values.max(initial=0) > 255 or values.min(initial=0) < 0:
        raise UserError(f"{path}: label values from {values.min()} to {values.max()}; expected 0 to 255")
    return values.astype(np.uint8)


def read_picture_values(path: Path, *, colored: bool) -> npt.NDArray[Any]:
    """The numbers [H, W] that a mask picture holds, or its colours [H, W, 3].

    Args:
        colored: return the colours of a palette, not its indices.
    """
    with opened(path) as picture:
        has_opacity = picture.has_transparency_data and picture.mode[0] not in "IF"
        opacity = np.asarray(picture.convert("RGBA"))[..., 3] if has_opacity else None
        if _is_grey_gif(picture):
            values = picture_pixels(picture, "L")
        elif picture.mode == "P":
            num_colors = len(palette_in(path) or ())
            if colored and picture_pixels(picture).max(initial=0) >= num_colors:
                raise UserError(f"{path}: holds numbers beyond its palette of {num_colors} colours; mend the mask")
            values = picture_pixels(picture, "RGB" if colored else None)
        elif picture.mode == "1":
            values = picture_pixels(picture, "L" if colored else None).astype(np.uint8)
        elif picture.mode == "LA":
            values = picture_pixels(picture, "L")
        else:
            values = picture_pixels(picture, None if picture.mode[0] in "LIF" else "RGB")
    if opacity is not None:
        refuse_opacity(path, values.reshape(opacity.size, -1), opacity)
    return values


def refuse_opacity(path: Path, colors: npt.NDArray[Any], opacity: npt.NDArray[Any]) -> None:
    """Refuse a mask of one colour [N, C] whose opacity has several values: its classes are there."""
    if opacity.min() < opacity.max() and (colors == colors[0]).all():
        raise UserError(
            f"{path}: has one colour everywhere and its classes in the opacity (alpha), which is not read; save the "
            "mask as numbers or colours"
        )


def palette_in(path: Path) -> tuple[bytes, ...] | None:
    """The colours of a mask's palette, three bytes each; None if the picture or TIFF has none."""
    if ending(path) in TIFF:
        with _tiff(path) as series:
            colors = series.keyframe.colormap
            return None if colors is None else tuple(color.tobytes() for color in (colors >> 8).astype(np.uint8).T)
    with opened(path) as picture:
        return None if _is_grey_gif(picture) else _palette(picture) or None


def write_picture(path: Path, label: npt.NDArray[Any]) -> None:
    """A mask of numbers [H, W] or colours [H, W, 3]."""
    if not np.can_cast(label.dtype, np.uint16):
        raise UserError(f"{path}: a PNG holds numbers from 0 to 65535; the masks have others")
    Image.fromarray(label).save(path)
