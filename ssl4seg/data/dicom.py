"""DICOM: a series of single slices as one volume, and its segmentations (SEG) and outlines (RTSTRUCT).

Positions are in LPS, as DICOM has them. A series is refused unless its slices are one regular grid: one orientation and
size, even steps, no slice missing or twice, no tilt of the gantry.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import nibabel
import numpy as np
import numpy.typing as npt

from ssl4seg.data.guards import expect_memory, named_faults
from ssl4seg.data.itk import LPS
from ssl4seg.data.orientation import ROUNDING
from ssl4seg.errors import UserError, optional_package
from ssl4seg.userfiles import irregular

SEG, RTSTRUCT = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.481.3"
LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.7"
"""SOP classes of segmentations of segments, of outlines, and of segmentations whose pixels number segments."""
DEFLATED = "1.2.840.10008.1.2.1.99"
"""A transfer syntax that is unpacked whole, whatever size comes of it."""
MAGIC = b"DICM"
VERSION = version("ssl4seg")
LONGEST = 64
"""Characters of a segment's name."""
NUMBER = 900
"""Of the new series; those of scanners begin at 1."""
ON_OUTLINE = 0.01
"""Pixels to which the centre of a pixel may lie beside an outline that goes through it: files hold rounded places."""
LINES = 1024
"""Between two points of an outline that are looked at together; each may cross the whole image."""
TILT = 0.5
"""Degrees between the way from slice to slice and the normal of the slices, above which the gantry was tilted."""
Positions = npt.NDArray[np.float64]
Heads = dict[Path, Any]
"""DICOM files without their pixels."""


def pydicom() -> ModuleType:
    """The package.

    Raises:
        UserError: it is not installed.
    """
    with optional_package("DICOM", "dicom"):
        import pydicom as package
    return package


def is_dicom(file: Path) -> bool:
    """Whether a regular file begins as DICOM files do; a DICOMDIR, which only lists others, does not count."""
    if irregular(file) or file.name == "DICOMDIR":
        return False
    try:
        with file.open("rb") as content:
            return content.read(132)[128:] == MAGIC
    except OSError:
        return False


def read_head(file: Path) -> Any:
    """Everything but the pixels, as pydicom's dataset."""
    package = pydicom()
    with named_faults(file, "DICOM"):
        meta = package.filereader.read_file_meta_info(file)
        if meta.get("TransferSyntaxUID") == DEFLATED:
            raise UserError(f"{file}: is a deflated DICOM file, which is not read; save it uncompressed")
        head = package.dcmread(file, stop_before_pixels=True)
        for _ in head.iterall():  # decodes what pydicom would only decode, and refuse, where it is used
            pass
        if "SOPClassUID" not in head:
            raise UserError(f"{file}: has no SOPClassUID, and so is no image or segmentation; remove it")
        return head


def by_series(heads: Mapping[Path, Any]) -> dict[str, Heads]:
    """The slices of each series, by its identifier."""
    found: dict[str, Heads] = {}
    for file, head in heads.items():
        found.setdefault(str(head.get("SeriesInstanceUID")), {})[file] = head
    return found


@dataclass(frozen=True, kw_only=True)
class Series:
    """Slices in the order of their places."""

    uid: str
    files: tuple[Path, ...]
    shape: tuple[int, int, int]
    """[S, H, W]"""
    affine: npt.NDArray[np.float64]
    """From voxels (x, y, z), x along the columns, to mm in LPS."""

    @property
    def folder(self) -> Path:
        return self.files[0].parent

    def indices(self, points: npt.ArrayLike) -> Positions:
        """[N, 3]: voxels (x, y, z), in fractions, of points [N, 3] in mm."""
        inverse = np.linalg.inv(self.affine)
        indices: Positions = np.asarray(points, float).reshape(-1, 3) @ inverse[:3, :3].T + inverse[:3, 3]
        return indices


# -- a series ---------------------------------------------------------------------------------------------------------


def series_of(heads: Mapping[Path, Any]) -> Series:
    """The volume that slices of one series make.

    Args:
        heads: of each file.

    Raises:
        UserError: they make none; says which two files do not fit.
    """
    files = [*heads]
    orientations = np.array([_numbers(file, heads[file], "ImageOrientationPatient", 6) for file in files])
    positions = np.array([_numbers(file, heads[file], "ImagePositionPatient", 3) for file in files])
    spacings = np.array([_numbers(file, heads[file], "PixelSpacing", 2) for file in files])
    sizes = np.array([[int(heads[file].get(key) or 0) for key in ("Rows", "Columns")] for file in files])
    for what, values in (("orientation", orientations), ("size", sizes), ("pixel spacing", spacings)):
        if (wrong := np.abs(values - values[0]).max(axis=1) > 1e-3).any():
            other = int(wrong.argmax())
            shown = " and ".join(str(values[i].round(3).tolist()) for i in (0, other))
            raise UserError(
                f"{files[other]}: its {what} differs from that of {files[0].name} in the same series ({shown}); leave "
                "the slices of one scan there"
            )
    if min(sizes[0]) < 1 or not (np.isfinite(spacings).all() and (spacings > 0).all()):
        raise UserError(f"{files[0]}: has {sizes[0].tolist()} pixels of {spacings[0].tolist()} mm; mend the file")
    row, column = orientations[0, :3], orientations[0, 3:]
    if np.abs([row @ row - 1, column @ column - 1, row @ column]).max() > 1e-3:
        raise UserError(f"{files[0]}: its ImageOrientationPatient {orientations[0].tolist()} are no right angles")
    normal = np.cross(row, column)
    order = np.argsort(positions @ normal, kind="stable")
    files, positions = [files[i] for i in order], positions[order]
    step = _step(files, positions, normal, heads[files[0]])
    affine = np.eye(4)
    affine[:3, :3] = np.stack([row * spacings[0, 1], column * spacings[0, 0], step], axis=1)
    affine[:3, 3] = positions[0]
    shape = (len(files), int(sizes[0, 0]), int(sizes[0, 1]))
    return Series(uid=str(heads[files[0]].SeriesInstanceUID), files=tuple(files), shape=shape, affine=affine)


def _step(files: Sequence[Path], positions: Positions, normal: Positions, head: Any) -> Positions:
    """[3]: mm from one slice to the next.

    Raises:
        UserError: slices are missing, twice, uneven or shifted against one another.
    """
    if len(files) == 1:
        return normal * float(head.get("SliceThickness") or 1)
    gaps = np.diff(positions @ normal)
    usual = float(np.sort(gaps)[(len(gaps) - 1) // 2])  # of two in the middle the smaller: a gap may be one of them
    if (at := int(gaps.argmin())) >= 0 and gaps[at] < 1e-3:
        raise UserError(
            f"{files[at + 1]}: lies at the same place as {files[at].name}; are there two scans in one series (echoes, "
            "phases), or a copy? leave one of them"
        )
    at = int(gaps.argmax())
    if gaps[at] > 1.5 * usual:
        raise UserError(
            f"{files[at + 1]}: {round(gaps[at] / usual) - 1} slice(s) are missing before it: it lies {gaps[at]:.4g} mm "
            f"after {files[at].name}, others {usual:.4g} mm; add the missing files"
        )
    if np.abs(gaps - usual).max() > ROUNDING * usual:
        raise UserError(
            f"{files[0].parent}: steps between slices differ, from {gaps.min():.4g} to {gaps.max():.4g} mm; resample "
            "the scan to even steps"
        )
    way = positions[-1] - positions[0]
    tilt = math.degrees(math.atan2(float(np.linalg.norm(np.cross(way, normal))), float(way @ normal)))
    if tilt > TILT:
        raise UserError(
            f"{files[0].parent}: the slices are shifted against one another by a tilt of the gantry of {tilt:.3g} "
            "degrees; resample the scan to a right-angled grid"
        )
    step: Positions = way / (len(files) - 1)
    away = np.linalg.norm(positions - positions[0] - step * np.arange(len(files))[:, None], axis=1)
    if away.max() > ROUNDING * usual:
        raise UserError(f"{files[int(away.argmax())]}: lies {away.max():.3g} mm beside the line of the other slices")
    return step


def _numbers(file: Path, head: Any, key: str, number: int) -> list[float]:
    try:
        values = [float(value) for value in head.get(key) or ()]
    except (TypeError, ValueError):
        values = []
    if len(values) != number or not np.isfinite(values).all():
        raise UserError(
            f"{file}: has no {key} of {number} numbers; expected a single slice of CT, MR or PET (files of several "
            "frames are not read)"
        )
    return values


def read_series(series: Series) -> npt.NDArray[Any]:
    """Voxels [S, H, W], rescaled as the files say: whole numbers where all factors are whole, else float32."""
    expect_memory(series.files[0], series.shape, np.dtype(np.float64), scaled=False)
    slices = [_slice(file, series.shape[1:]) for file in series.files]
    is_whole = all(pixels.dtype.kind in "iu" for pixels in slices)
    voxels = np.stack(slices)
    if not is_whole:
        return voxels.astype(np.float32)
    fits = voxels.min() >= -(2**15) and voxels.max() < 2**15
    return voxels.astype(np.int16 if fits else np.int32)


def _slice(file: Path, size: tuple[int, ...]) -> npt.NDArray[Any]:
    with named_faults(file, "DICOM"):
        content = pydicom().dcmread(file)
        if content.get("SamplesPerPixel", 1) != 1 or int(content.get("NumberOfFrames") or 1) != 1:
            raise UserError(f"{file}: holds colours or several frames; expected one grey slice")
        pixels: npt.NDArray[Any] = content.pixel_array
        if pixels.shape != size:
            raise UserError(f"{file}: holds {pixels.shape} pixels, but declares {size}")
        factor, offset = float(content.get("RescaleSlope", 1) or 1), float(content.get("RescaleIntercept", 0) or 0)
        if factor.is_integer() and offset.is_integer() and pixels.dtype.kind in "iu":
            return pixels.astype(np.int64) * int(factor) + int(offset)
        return pixels * factor + offset


def write_scan_of(series: Series, path: Path) -> None:
    """The series as NIfTI, with its place in the body."""
    _write(read_series(series), series, path)


def write_mask_of(series: Series, label: npt.NDArray[np.uint8], path: Path) -> None:
    """A mask [S, H, W] of the series as NIfTI."""
    _write(label, series, path)


def _write(voxels: npt.NDArray[Any], series: Series, path: Path) -> None:
    image = nibabel.Nifti1Image(voxels.transpose(2, 1, 0), LPS @ series.affine)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)


# -- its masks --------------------------------------------------------------------------------------------------------


def is_annotation(head: Any) -> bool:
    return head.get("SOPClassUID") in (SEG, LABEL_MAP, RTSTRUCT)


def is_slice(head: Any) -> bool:
    """Whether it is an image that knows its place, alone in its file."""
    return "ImagePositionPatient" in head and "Rows" in head


def described(heads: Mapping[Path, Any]) -> str:
    """The words by which a user knows a series."""
    head = next(iter(heads.values()))
    return f"{head.get('SeriesDescription') or head.get('Modality') or 'no name'}, {len(heads)} files"


def annotated_series(file: Path, head: Any) -> str:
    """The UID of the series that a SEG or RTSTRUCT belongs to."""
    try:
        if head.SOPClassUID != RTSTRUCT:
            return str(head.ReferencedSeriesSequence[0].SeriesInstanceUID)
        frame = head.ReferencedFrameOfReferenceSequence[0]
        return str(frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0].SeriesInstanceUID)
    except (AttributeError, IndexError, TypeError):
        raise UserError(f"{file}: does not say of which series it is (ReferencedSeriesSequence)") from None


def names_in(file: Path, head: Any) -> dict[int, str]:
    """The names of the segments or regions by their numbers."""
    key, number, name = (
        ("StructureSetROISequence", "ROINumber", "ROIName")
        if head.SOPClassUID == RTSTRUCT
        else ("SegmentSequence", "SegmentNumber", "SegmentLabel")
    )
    try:
        names = {int(each[number].value): str(each[name].value).strip() for each in head.get(key) or ()}
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{file}: has a segment without a number or name; mend the file") from None
    names.pop(0, None)  # what label maps call the background
    if not names:
        raise UserError(f"{file}: has no segments; expected at least one")
    return names


CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
"""Kinds of contours that are outlines; of the second DICOM says that one within another is a hole."""


class Contour(NamedTuple):
    """A contour of an RTSTRUCT."""

    region: int
    points: Positions
    """[N, 3] in mm."""
    is_closed: bool
    """Whether it is an outline; else it is a line or a point."""


def contours_in(file: Path, head: Any) -> list[Contour]:
    """The contours of all regions of an RTSTRUCT; a SEG has none.

    Raises:
        UserError: they cannot be read.
    """
    found: list[Contour] = []
    with named_faults(file, "DICOM"):
        for region in head.get("ROIContourSequence") or ():
            for contour in region.get("ContourSequence") or ():
                points = np.array(contour.ContourData, float).reshape(-1, 3)
                is_closed = str(contour.get("ContourGeometricType")) in CLOSED
                found.append(Contour(int(region.ReferencedROINumber), points, is_closed))
    return found


def draw(file: Path, series: Series, classes: Mapping[int, int], label: npt.NDArray[np.uint8]) -> None:
    """Draw the segments of a SEG or the regions of an RTSTRUCT over a label [S, H, W]; later ones lie above.

    Args:
        classes: of each number in the file.

    Raises:
        UserError: it lies elsewhere than the series.
    """
    head = read_head(file)
    with named_faults(file, "DICOM"):
        (_draw_regions if head.SOPClassUID == RTSTRUCT else _draw_segments)(file, head, series, classes, label)


def _draw_segments(
    file: Path, head: Any, series: Series, classes: Mapping[int, int], label: npt.NDArray[np.uint8]
) -> None:
    size, frames = (int(head.Rows), int(head.Columns)), int(head.NumberOfFrames)
    if size != series.shape[1:]:
        raise UserError(f"{file}: is {size[0]} x {size[1]} (height x width), but its series {_size(series)}")
    expect_memory(file, (frames, *size), np.dtype(np.uint8), scaled=False)
    content = pydicom().dcmread(file)
    pixels = content.pixel_array.reshape(frames, *size)
    kind = str(head.get("SegmentationType", "BINARY"))
    least = 0.5 * float(head.get("MaximumFractionalValue") or 1) if kind == "FRACTIONAL" else 1
    drawn = []
    for number in range(frames):
        place = _place(file, head, number, series)
        if kind == "LABELMAP":
            drawn += [(value, place, pixels[number] == value) for value in classes]
        else:
            segment = int(_of_frame(head, number, "SegmentIdentificationSequence").ReferencedSegmentNumber)
            drawn.append((segment, place, pixels[number] >= least))
    for segment, place, inside in sorted(drawn, key=lambda each: each[0]):
        if segment not in classes:
            raise UserError(f"{file}: a frame belongs to segment {segment}, which it does not describe")
        label[place][inside] = classes[segment]


def _of_frame(head: Any, number: int, key: str) -> Any:
    """What is said of a frame, or of all."""
    for groups, at in (("PerFrameFunctionalGroupsSequence", number), ("SharedFunctionalGroupsSequence", 0)):
        if len(head.get(groups) or ()) > at and key in head[groups].value[at]:
            return head[groups].value[at][key].value[0]
    raise ValueError(f"frame {number + 1} has no {key}")


def _place(file: Path, head: Any, number: int, series: Series) -> int:
    """The slice on which a frame lies."""
    orientation = np.array(_of_frame(head, number, "PlaneOrientationSequence").ImageOrientationPatient, float)
    spacing = np.array(_of_frame(head, number, "PixelMeasuresSequence").PixelSpacing, float)
    steps = np.stack([orientation[:3] * spacing[1], orientation[3:] * spacing[0]], axis=1)
    if np.abs(steps - series.affine[:3, :2]).max() * max(series.shape) > ROUNDING * _finest(series):
        raise UserError(f"{file}: frame {number + 1} has another orientation or pixel spacing than its series")
    position = np.array(_of_frame(head, number, "PlanePositionSequence").ImagePositionPatient, float)
    return _on_slice(file, f"frame {number + 1}", position[None], series, also_corner=True)


def _on_slice(file: Path, what: str, points: Positions, series: Series, *, also_corner: bool = False) -> int:
    """The slice on which all points [N, 3] lie.

    Args:
        also_corner: whether the point must be that of the slice's first pixel.
    """
    indices = series.indices(points)
    place = int(np.rint(indices[0, 2]))
    nearest = np.where([also_corner, also_corner, True], [0, 0, place], indices)
    away = float(np.linalg.norm((indices - nearest) @ series.affine[:3, :3].T, axis=1).max())
    if away > ROUNDING * _finest(series) or not 0 <= place < series.shape[0]:
        shown = ", ".join(f"{value:.4g}" for value in points[0])
        raise UserError(
            f"{file}: {what} at ({shown}) mm lies on no slice of its series; is it of another scan, or resampled?"
        )
    return place


def _finest(series: Series) -> float:
    return float(np.linalg.norm(series.affine[:3, :3], axis=0).min())


def _size(series: Series) -> str:
    return " x ".join(map(str, series.shape[1:]))


def _draw_regions(
    file: Path, head: Any, series: Series, classes: Mapping[int, int], label: npt.NDArray[np.uint8]
) -> None:
    """Fill outlines: the pixels whose centres lie inside; an outline within another one of its region is a hole.

    A centre on an outline, also on that of a hole, belongs to the region: programs that make outlines of masks, as
    OpenCV's findContours, lay both through the outermost pixels of the region.
    """
    from skimage.draw import polygon

    contours = [
        each for each in contours_in(file, head) if each.is_closed and len(each.points) > 2
    ]  # the others: no area
    if unknown := {each.region for each in contours} - {*classes}:
        raise UserError(f"{file}: an outline belongs to region {min(unknown)}, which it does not describe")
    for number in sorted(classes):
        inside: dict[int, npt.NDArray[np.bool_]] = {}
        edges: dict[int, npt.NDArray[np.bool_]] = {}
        for points in (each.points for each in contours if each.region == number):
            place = _on_slice(file, f"an outline of region {number}", points, series)
            x, y, _ = series.indices(points).T
            rows, columns = polygon(y, x, series.shape[1:])
            mask = inside.setdefault(place, np.zeros(series.shape[1:], bool))
            mask[rows, columns] ^= True
            rows, columns = _centres_on(y, x, series.shape[1:]).T
            edges.setdefault(place, np.zeros(series.shape[1:], bool))[rows, columns] = True
        for place, mask in inside.items():
            label[place][mask | edges[place]] = classes[number]


def _centres_on(y: Positions, x: Positions, size: tuple[int, ...]) -> npt.NDArray[np.intp]:
    """[N, 2]: rows and columns of the pixels whose centres lie on a closed outline, to `ON_OUTLINE`.

    Between two points, all whole numbers along the longer axis that lie in the image are looked at.
    """
    starts = np.stack([y, x], axis=1)
    ways = np.roll(starts, -1, axis=0) - starts
    found = [_centres_between(starts[at : at + LINES], ways[at : at + LINES], size) for at in range(0, len(y), LINES)]
    return np.concatenate(found)


def _centres_between(starts: Positions, ways: Positions, size: tuple[int, ...]) -> npt.NDArray[np.intp]:
    axis = np.abs(ways).argmax(axis=1)[:, None]
    start, way = np.take_along_axis(starts, axis, 1)[:, 0], np.take_along_axis(ways, axis, 1)[:, 0]
    end = np.array(size)[axis[:, 0]]
    first = np.clip(np.ceil(np.minimum(start, start + way) - ON_OUTLINE), 0, end).astype(int)
    last = np.clip(np.floor(np.maximum(start, start + way) + ON_OUTLINE), -1, end - 1).astype(int)
    numbers = np.maximum(last - first + 1, 0)
    each = np.repeat(np.arange(len(start)), numbers)
    along = np.arange(numbers.sum()) + np.repeat(first + numbers - np.cumsum(numbers), numbers)
    share = np.divide(along - start[each], way[each], out=np.zeros(len(each)), where=np.abs(way[each]) > ON_OUTLINE)
    places = starts[each] + share[:, None] * ways[each]
    nearest = np.rint(places)
    on = (np.abs(places - nearest) <= ON_OUTLINE).all(axis=1) & ((nearest >= 0) & (nearest < size)).all(axis=1)
    centres: npt.NDArray[np.intp] = nearest[on].astype(np.intp)
    return centres


# -- a mask of its own ------------------------------------------------------------------------------------------------


def write_segmentation(path: Path, label: npt.NDArray[np.uint8], series: Series, names: Mapping[int, str]) -> None:
    """A mask [S, H, W] of the series as DICOM-SEG, with the patient and the place of its slices.

    Args:
        names: of the values in the mask that become segments, 1, 2, ... in this order; all others are background.
    """
    with optional_package("DICOM-SEG", "dicom"):
        import highdicom
        from pydicom.sr.codedict import codes
        from pydicom.uid import generate_uid

    number_of = np.zeros(256, np.uint8)
    number_of[[*names]] = range(1, len(names) + 1)
    program = highdicom.AlgorithmIdentificationSequence("ssl4seg", codes.DCM.ArtificialIntelligence, VERSION)
    segments = [
        highdicom.seg.SegmentDescription(
            number, name[:LONGEST], codes.SCT.Tissue, codes.SCT.Tissue, "AUTOMATIC", algorithm_identification=program
        )
        for number, name in enumerate(names.values(), 1)
    ]
    with named_faults(series.files[0], "the source of a DICOM-SEG"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names of patients with one part, and masks without a voxel
        made = highdicom.seg.Segmentation(
            [read_head(file) for file in series.files],
            number_of[label],
            "BINARY",
            segments,
            series_instance_uid=generate_uid(),
            series_number=NUMBER,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer="ssl4seg",
            manufacturer_model_name="ssl4seg",
            software_versions=VERSION,
            device_serial_number="0",
            series_description="ssl4seg",
        )
    made.save_as(path)
