"""Reading and writing images: h5, NIfTI, PNG and JPEG. Every fault becomes a UserError that names the file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import numpy.typing as npt
from PIL import Image

from ssl4seg.data.case import ImageArray, LabelArray
from ssl4seg.errors import UserError

NIFTI = (".nii.gz", ".nii")
H5 = (".h5", ".hdf5")
PICTURE = (".png", ".jpg", ".jpeg")
ENDINGS = NIFTI + H5 + PICTURE
NORMALIZATIONS = ("minmax", "none")


def stem(path: Path) -> str:
    """The file's name without its ending (`a.nii.gz` -> `a`)."""
    return next((path.name[: -len(e)] for e in ENDINGS if path.name.lower().endswith(e)), path.stem)


def ending(path: Path) -> str:
    """The known ending of the file, in lower case, or a UserError."""
    found = next((e for e in ENDINGS if path.name.lower().endswith(e)), None)
    if found is None:
        raise UserError(f"{path}: unknown kind of file; expected one of {', '.join(ENDINGS)}")
    return found


def read_h5(path: Path, key: str, index: Any = ()) -> npt.NDArray[Any]:
    """One array of an h5 file."""
    try:
        with h5py.File(path, "r") as file:
            if key not in file:
                raise UserError(f"{path}: has no array {key!r}, only {sorted(file)}")
            return np.asarray(file[key][index])
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
    try:
        image: Any = nibabel.load(path)
        voxels = np.asanyarray(image.dataobj)
    except Exception as error:  # nibabel, zlib and gzip raise many kinds for a damaged file
        raise UserError(f"{path}: cannot be read as NIfTI, perhaps truncated ({_short(error)})") from None
    if voxels.ndim not in (2, 3):
        raise UserError(f"{path}: has {voxels.ndim} dimensions {voxels.shape}; expected a 3-D volume or a 2-D image")
    return voxels.reshape(*voxels.shape[:2], -1).transpose(2, 1, 0), image


def nifti_spacing(image: Any) -> tuple[float, float, float]:
    """Millimetres between slices, rows and columns."""
    zooms = [float(z) for z in image.header.get_zooms()[:3]]
    return _three(([*zooms, 1.0])[2::-1] if len(zooms) == 2 else zooms[::-1])


def write_nifti(path: Path, label: npt.NDArray[np.uint8], like: Any) -> None:
    """A mask [S, H, W] beside the image `like`: same affine, same header but for the data type."""
    voxels = label.transpose(2, 1, 0).reshape(like.shape)
    header = like.header.copy()
    header.set_data_dtype(np.uint8)
    header.set_slope_inter(1, 0)
    nibabel.save(type(like)(voxels, like.affine, header), path)


def read_picture(path: Path, channels: int) -> ImageArray:
    """A picture as [C, H, W]: grey for 1 channel, RGB for 3; uint8, or float32 in [0, 1] of one with 16 bit."""
    if channels not in (1, 3):
        raise UserError(f"{path}: a picture has 1 or 3 channels, but {channels} are expected")
    with _opened(path) as picture:
        deep = picture.mode.startswith("I")
        pixels: npt.NDArray[Any] = np.asarray(picture if deep else picture.convert("L" if channels == 1 else "RGB"))
    image = (pixels / 65535.0).astype(np.float32) if deep else pixels
    image = image[None] if image.ndim == 2 else np.ascontiguousarray(image.transpose(2, 0, 1))
    return np.repeat(image, channels, axis=0) if len(image) != channels else image


def read_mask(path: Path) -> LabelArray:
    """A mask picture as class values [H, W], the indices of its palette if it has one."""
    with _opened(path) as picture:
        if picture.mode not in ("P", "L", "1") and not picture.mode.startswith("I"):
            raise UserError(f"{path}: a mask of class values has one channel, this one is {picture.mode}")
        values = np.asarray(picture)
    if values.max(initial=0) > 255 or values.min(initial=0) < 0:
        raise UserError(f"{path}: label values from {values.min()} to {values.max()}; expected 0 to 255")
    return values.astype(np.uint8)


def picture_size(path: Path) -> tuple[int, int]:
    """Height and width, from the head of the file."""
    with _opened(path) as picture:
        return picture.height, picture.width


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as picture:
            yield picture
    except UserError:
        raise
    except Exception as error:  # Pillow raises many kinds for a damaged file
        raise UserError(f"{path}: cannot be read as a picture ({_short(error)})") from None


def normalized(image: ImageArray, how: str) -> ImageArray:
    """The intensities of a whole volume, scaled.

    `minmax`: to [0, 1], the normalisation of the ACDC literature (a constant volume becomes 0; scaling twice changes
    nothing); `none`: as they are in the file.
    """
    if how == "none":
        return image
    if how != "minmax":
        raise UserError(f"dataset.normalize={how}: expected minmax or none")
    low, high = image.min(), image.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        return image  # as it is: the check of the case finds and counts what is wrong
    if high == low:
        return np.zeros(image.shape, np.float32)
    return ((image - np.float32(low)) / np.float32(high - low)).astype(np.float32)


def _three(values: Any) -> tuple[float, float, float]:
    slices, rows, columns = (float(v) for v in values)
    return slices, rows, columns


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
