"""Writes folders of the user's own in every kind of file: discs on noise, masks of two classes."""

from pathlib import Path

import h5py
import nibabel
import numpy as np
import numpy.typing as npt
import tifffile
import yaml
from PIL import Image

KINDS = ("png", "jpg", "tif", "stack", "nii", "h5")
CASES = 10
SIDE = 32

Pixels = npt.NDArray[np.uint8]


def drawn(number: int) -> tuple[Pixels, Pixels]:
    """Grey slices [3, H, W], and their masks of 0 and 1."""
    rng = np.random.default_rng(number)
    row, column = np.mgrid[:SIDE, :SIDE]
    y, x = rng.uniform(10, 22, 2)
    label = np.stack([np.hypot(row - y, column - x) < 9 - level for level in range(3)]).astype(np.uint8)
    return (60 + 120 * label + rng.normal(0, 10, label.shape)).astype(np.uint8), label


def write_folder(root: Path, kind: str) -> Path:
    """ROOT/images, ROOT/masks and ROOT/dataset.yaml; a tenth of the images has no mask."""
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for number in range(CASES):
        image, label = drawn(number)
        write_case(root, kind, f"p{number}", image, None if number == CASES - 1 else label)
    (root / "dataset.yaml").write_text(yaml.safe_dump({"classes": ["ground", "disc"], "scoring": "cases"}))
    return root


def write_case(root: Path, kind: str, name: str, image: Pixels, label: Pixels | None) -> None:
    """One image, with its mask unless that is None."""
    images, masks = root / "images", root / "masks"
    match kind:
        case "png" | "jpg":
            Image.fromarray(image[0]).save(images / f"{name}.{kind}", quality=95)
            if label is not None:
                Image.fromarray(label[0]).save(masks / f"{name}.png")
        case "tif" | "stack":
            part = image[0] if kind == "tif" else image
            tifffile.imwrite(images / f"{name}.tif", part, photometric="minisblack")
            if label is not None:
                tifffile.imwrite(masks / f"{name}.tif", label[0] if kind == "tif" else label, photometric="minisblack")
        case "nii":
            affine = np.diag([1.5, 1.5, 5.0, 1.0])
            nibabel.save(nibabel.Nifti1Image(image.T.astype(np.int16), affine), images / f"{name}.nii.gz")
            if label is not None:
                nibabel.save(nibabel.Nifti1Image(label.T, affine), masks / f"{name}.nii.gz")
        case "h5":
            with h5py.File(images / f"{name}.h5", "w") as file:
                file["image"] = image.astype(np.float32) / 255
                file.attrs["spacing"] = [5.0, 1.5, 1.5]
                if label is not None:
                    file["label"] = label
