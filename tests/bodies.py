"""One scan as several NIfTI files store it: the same body, other axes, each with the affine that says so."""

from pathlib import Path

import nibabel
import numpy as np

SPACING = (1.5, 2.0, 8.0)
"""Of x, y and z in mm."""
ORIGIN = np.array([-10.0, 20.0, 5.0])
"""Where voxel (0, 0, 0) of the RAS file lies."""


def affine_of(columns: list[tuple[int, float]], origin: np.ndarray) -> np.ndarray:
    """From the axes of a file to the body; of each axis of the file the axis of the body and the signed step in mm."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (of_body, step) in enumerate(columns):
        affine[of_body, axis] = step
    affine[:3, 3] = origin
    return affine


def stored_as(name: str, ras: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Voxels [x, y, z] of the RAS file -> voxels and affine of the file that is stored as RAS, LPS or SAR."""
    dx, dy, dz = SPACING
    far = ORIGIN + np.array([(ras.shape[0] - 1) * dx, (ras.shape[1] - 1) * dy, 0])
    if name == "RAS":
        return ras, affine_of([(0, dx), (1, dy), (2, dz)], ORIGIN)
    if name == "LPS":
        return ras[::-1, ::-1], affine_of([(0, -dx), (1, -dy), (2, dz)], far)
    assert name == "SAR"
    return ras.transpose(2, 1, 0), affine_of([(2, dz), (1, dy), (0, dx)], ORIGIN)


def write(path: Path, name: str, ras: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels, affine = stored_as(name, ras)
    image = nibabel.Nifti1Image(voxels, affine)
    image.header["descrip"] = name.encode()
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)
    return path
