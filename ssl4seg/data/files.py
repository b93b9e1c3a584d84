"""Reading and writing images: h5, NIfTI, TIFF, PNG and JPEG. Every fault becomes a UserError that names the file."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image

from ssl4seg.data.case import ImageArray, LabelArray
from ssl4seg.errors import UserError

NIFTI = (".nii.gz", ".nii")
H5 = (".h5", ".hdf5")
TIFF = (".tif", ".tiff")
PICTURE = (".png", ".jpg", ".jpeg")
ENDINGS = NIFTI + H5 + TIFF + PICTURE
NORMALIZATIONS = ("minmax", "none", "auto")


def stem(path: Path) -> str:
    """The file's name without its ending (`a.nii.gz` -> `a`)."""
    return next((path.name[: -len(e)] for e in ENDINGS if path.name.lower().endswith(e)), path.stem)


def ending(path: Path) -> str:
    """The known ending of the file, in lower case, or a UserError."""
    found = next((e for e in ENDINGS if path.name.lower().endswith(e)), None)
    if found is None:
        raise UserError(f"{path}: unknown kind of file; expected one of {', '.join(ENDINGS)}")
    return found


def read_h5(path: Path, key: str, index: int | None = None) -> npt.NDArray[Any]:
    """One array of an h5 file, or of its first axis only `index`, as an axis of length 1."""
    try:
        with h5py.File(path, "r") as file:
            if key not in file:
                raise UserError(f"{path}: has no array {key!r}, only {sorted(file)}")
            return np.asarray(file[key][() if index is None else slice(index, index + 1)])
    except UserError:
        raise
    except Exception as error:  # h5py raises many kinds for a damaged file, KeyError among them
        raise UserError(f"{path}: cannot be read as h5, perhaps truncated ({_short(error)})") from None


def h5_facts(path: Path) -> tuple[tuple[int, ...], bool, tuple[float, float, float] | None]:
    """Shape of the image, whether there is a label, and the voxel spacing in mm, without reading pixels."""
    try:
        with h5py.File(path, "r") as file:
            if "image" not in file:
                raise UserError(f"{path}: has no array 'image', only {sorted(file)}")
            spacing = file.attrs.get("spacing")
            return file["image"].shape, "label" in file, None if spacing is None else _three(spacing)
    except UserError:
        raise
    except Exception as error:  # h5py raises many kinds for a damaged file, KeyError among them
        raise UserError(f"{path}: cannot be read as h5, perhaps truncated ({_short(error)})") from None


def read_nifti(path: Path) -> tuple[npt.NDArray[Any], Any]:
    """Voxels [S, H, W] (NIfTI's axes reversed) and nibabel's image, whose header and affine a prediction keeps."""
    voxels, image = read_nifti_channels(path)
    if voxels.ndim == 4 and voxels.shape[1] > 1:
        raise UserError(f"{path}: has 4 dimensions {image.shape}; expected a 3-D volume or a 2-D image")
    return voxels.reshape(-1, *voxels.shape[-2:]), image


def read_nifti_channels(path: Path) -> tuple[npt.NDArray[Any], Any]:
    """The same of a file that may have channels as its fourth axis: voxels [H, W], [S, H, W] or [S, C, H, W]."""
    try:
        image: Any = nibabel.load(path)
        voxels = np.asanyarray(image.dataobj)
    except Exception as error:  # nibabel, zlib and gzip raise many kinds for a damaged file
        raise UserError(f"{path}: cannot be read as NIfTI, perhaps truncated ({_short(error)})") from None
    return voxels.transpose(_nifti_order(path, image.shape)), image


def nifti_facts(path: Path) -> tuple[tuple[int, ...], tuple[float, float, float]]:
    """Shape as `read_nifti_channels` returns it, and the voxel spacing in mm, without reading voxels."""
    try:
        image: Any = nibabel.load(path)
    except Exception as error:
        raise UserError(f"{path}: cannot be read as NIfTI, perhaps truncated ({_short(error)})") from None
    return tuple(image.shape[axis] for axis in _nifti_order(path, image.shape)), nifti_spacing(image)


def _nifti_order(path: Path, shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) not in (2, 3, 4):
        raise UserError(f"{path}: has {len(shape)} dimensions {shape}; expected a 3-D volume or a 2-D image")
    return (2, 3, 1, 0) if len(shape) == 4 else (2, 1, 0)[-len(shape) :]


def read_tiff(path: Path, *, indices: bool = False) -> npt.NDArray[Any]:
    """The first image of a TIFF with all its pages: [H, W], [S, H, W], or [S, C, H, W] where the file names channels.

    Args:
        indices: take the indices of a palette, which is refused otherwise.
    """
    with _tiff(path) as series:
        if series.keyframe.colormap is not None and not indices:
            raise UserError(f"{path}: is a TIFF with a palette; save it in grey or RGB")
        order, shape = _tiff_order(path, series)
        pixels: npt.NDArray[Any] = series.asarray().transpose(order)
    return pixels.reshape(shape)


def tiff_facts(path: Path) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape as `read_tiff` returns it, and the type of the numbers, without reading pixels."""
    with _tiff(path) as series:
        return _tiff_order(path, series)[1], series.dtype


@contextmanager
def _tiff(path: Path) -> Iterator[Any]:
    """The first series of a TIFF's pages."""
    try:
        with tifffile.TiffFile(path) as file:
            yield file.series[0]
    except UserError:
        raise
    except Exception as error:  # tifffile and its codecs raise many kinds for a damaged file
        raise UserError(f"{path}: cannot be read as TIFF, perhaps truncated ({_short(error)})") from None


def _tiff_order(path: Path, series: Any) -> tuple[list[int], tuple[int, ...]]:
    """Its axes in the order slices, channels, rows, columns, and its shape then."""
    places: dict[str, list[int]] = {"slices": [], "channels": [], "Y": [], "X": [], "single": []}
    for axis, (name, length) in enumerate(zip(series.axes, series.shape, strict=True)):
        kind = "single" if length == 1 else "channels" if name in "CS" else "slices"
        places[name if name in "YX" else kind].append(axis)
    single = places.pop("single")
    if len(places["slices"]) > 1 or len(places["channels"]) > 1 or not (places["Y"] and places["X"]):
        raise UserError(f"{path}: has the axes {series.axes} {series.shape}; expected pages of images, or channels")
    wanted = [axis for axes in places.values() for axis in axes]
    shape = tuple(series.shape[axis] for axis in wanted)
    return [*single, *wanted], (1, *shape) if places["channels"] and not places["slices"] else shape


def nifti_spacing(image: Any) -> tuple[float, float, float]:
    """Millimetres between slices, rows and columns."""
    zooms = [float(z) for z in image.header.get_zooms()[:3]]
    return _three(([*zooms, 1.0])[2::-1] if len(zooms) == 2 else zooms[::-1])


def write_nifti(path: Path, label: npt.NDArray[Any], like: Any) -> None:
    """A mask [S, H, W] beside the image `like`: same affine, same header but for the data type."""
    voxels = label.transpose(2, 1, 0).reshape(like.shape if label.size == np.prod(like.shape) else like.shape[:3])
    header = like.header.copy()
    header.set_data_dtype(label.dtype)
    header.set_slope_inter(1, 0)
    nibabel.save(type(like)(voxels, like.affine, header), path)


def read_picture(path: Path, channels: int) -> ImageArray:
    """A picture as [C, H, W]: grey for 1 channel, RGB for 3; uint8, or float32 in [0, 1] of one with 16 bit."""
    with opened(path) as picture:
        check_channels(path, picture_channels(picture), channels, opacity=picture.has_transparency_data)
        deep = picture.mode.startswith("I")
        wanted = picture.mode if deep else "L" if channels == 1 else "RGB"
        # A copy: Pillow's own memory may not be written to, of which PyTorch warns.
        pixels: npt.NDArray[Any] = np.array(picture if picture.mode == wanted else picture.convert(wanted))
    image = (pixels / 65535.0).astype(np.float32) if deep else pixels
    image = image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
    return np.repeat(image, channels, axis=0) if len(image) != channels else image


def picture_channels(picture: Image.Image) -> int:
    """1 of grey, 3 of colours; the opacity, or alpha, is none."""
    return 1 if picture.mode in ("1", "L", "LA") or picture.mode[0] in "IF" else 3


def convertible(found: int, channels: int) -> bool:
    """Whether an image with `found` channels can be read for a dataset with `channels`: grey as RGB and RGB as grey."""
    return found == channels or {found, channels} == {1, 3}


def check_channels(path: Path, found: int, channels: int, *, opacity: bool = False) -> None:
    """Refuse an image whose channels cannot become those of the dataset.

    Args:
        opacity: whether the file has one too, which is left out.
    """
    if not convertible(found, channels):
        held = f"{found} channel{'s' if found > 1 else ''}{' (its opacity is left out)' if opacity else ''}"
        raise UserError(f"{path}: has {held}, but {channels} are expected (dataset.channels)")


def read_mask(path: Path) -> LabelArray:
    """A mask picture as class values [H, W], the indices of its palette if it has one."""
    with opened(path) as picture:
        if picture.mode not in ("P", "L", "1") and not picture.mode.startswith("I"):
            raise UserError(f"{path}: a mask of class values has one channel, this one is {picture.mode}")
        values = np.asarray(picture)
    if values.max(initial=0) > 255 or values.min(initial=0) < 0:
        raise UserError(f"{path}: label values from {values.min()} to {values.max()}; expected 0 to 255")
    return values.astype(np.uint8)


def picture_size(path: Path) -> tuple[int, int]:
    """Height and width, from the head of the file."""
    with opened(path) as picture:
        return picture.height, picture.width


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """A picture whose head is read; what fails in the block is the file's fault."""
    try:
        with Image.open(path) as picture:
            yield picture
    except UserError:
        raise
    except Exception as error:  # Pillow raises many kinds for a damaged file
        raise UserError(f"{path}: cannot be read as a picture ({_short(error)})") from None


def normalized(image: ImageArray, how: str, span: tuple[Any, Any] | None = None) -> ImageArray:
    """The intensities of a volume, scaled.

    `minmax`: to [0, 1], the normalisation of the ACDC literature (a constant volume becomes 0; scaling twice changes
    nothing); `none`: as they are in the file, pictures of 8 or 16 bit divided by their largest number; `auto`: minmax
    unless they lie in [0, 1] already, as those of pictures do.

    Args:
        span: lowest and highest number of the whole volume, where `image` is a part of it.
    """
    if how not in NORMALIZATIONS:
        raise UserError(f"dataset.normalize={how}: expected {' or '.join(NORMALIZATIONS)}")
    if how == "none" or (how == "auto" and image.dtype == np.uint8):
        return image
    low, high = span or (image.min(), image.max())
    if how == "auto" and low >= 0 and high <= 1:
        return image
    if not (np.isfinite(low) and np.isfinite(high)):
        return image  # as it is: the check of the case finds and counts what is wrong
    if high == low:
        return np.zeros(image.shape, np.float32)
    return ((image - np.float32(low)) / np.float32(high - low)).astype(np.float32)


class Normalizer:
    """`normalized` for files; it remembers their spans, so that a slice of a volume is scaled without the others.

    Args:
        how: see `normalized`.
    """

    def __init__(self, how: str) -> None:
        self.how = how
        self.spans: dict[Path, tuple[Any, Any]] = {}

    def __call__(self, path: Path, read: Callable[[int | None], ImageArray], index: int | None = None) -> ImageArray:
        """What `read` gives of a file: slice `index` of its volume, or all of it with None."""
        if index is not None and path not in self.spans:
            self(path, read)
        image = read(index)
        if index is None:
            self.spans[path] = image.min(), image.max()
        return normalized(image, self.how, self.spans[path])


def _three(values: Any) -> tuple[float, float, float]:
    slices, rows, columns = (float(v) for v in values)
    return slices, rows, columns


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
