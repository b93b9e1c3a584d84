"""Small DICOM series that pydicom writes, with a DICOM-SEG by highdicom or an RTSTRUCT; scans by SimpleITK."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import SimpleITK
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

STEP = 5.0
SPACING = (2.0, 1.5)
"""Between rows and columns."""
ORIENTATION = [0.0, 1.0, 0.0, 0.0, 0.0, -1.0]
"""Sagittal: columns run to posterior, rows to inferior; slices then follow one another to the right (-x in LPS)."""
NAMES = ("liver", "tumour")
SHAPE = (4, 6, 5)


def voxels(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1000, 1000, SHAPE).astype(np.int16)


def classes(seed: int = 0) -> np.ndarray:
    """[S, H, W] of 0, 1, 2; the first slice is empty."""
    label = np.random.default_rng(seed + 99).integers(0, 3, SHAPE).astype(np.uint8)
    label[0] = 0
    return label


def position(number: float, orientation: Sequence[float] = ORIENTATION) -> np.ndarray:
    return np.array([10.0, -20.0, 30.0]) + number * STEP * np.cross(orientation[:3], orientation[3:])


def slices(pixels: np.ndarray, *, patient: str = "one", **keys: Any) -> list[Dataset]:
    """One dataset a slice of HU [S, H, W]; `keys` replaces elements."""
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    made = []
    for number, part in enumerate(pixels):
        head = Dataset()
        head.file_meta = FileMetaDataset()
        head.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        head.SOPClassUID, head.SOPInstanceUID = CTImageStorage, generate_uid()
        head.file_meta.MediaStorageSOPClassUID = CTImageStorage
        head.file_meta.MediaStorageSOPInstanceUID = head.SOPInstanceUID
        head.StudyInstanceUID, head.SeriesInstanceUID, head.FrameOfReferenceUID = study, series, frame
        head.PatientID, head.PatientName, head.PatientBirthDate, head.PatientSex = patient, f"{patient}^", "", ""
        head.StudyID, head.StudyDate, head.StudyTime, head.AccessionNumber = "", "", "", ""
        head.ReferringPhysicianName, head.Modality = "", "CT"
        head.SeriesNumber, head.InstanceNumber = 1, number + 1
        head.ImageOrientationPatient, head.ImagePositionPatient = ORIENTATION, position(number).tolist()
        head.PixelSpacing, head.SliceThickness = [*SPACING], STEP
        head.Rows, head.Columns = part.shape
        head.SamplesPerPixel, head.PhotometricInterpretation = 1, "MONOCHROME2"
        head.BitsAllocated, head.BitsStored, head.HighBit, head.PixelRepresentation = 16, 16, 15, 0
        head.RescaleSlope, head.RescaleIntercept = 1, -1024
        head.PixelData = (part.astype(int) + 1024).astype(np.uint16).tobytes()
        for key, value in keys.items():
            setattr(head, key, value)
        made.append(head)
    return made


def save(series: Sequence[Dataset], folder: Path, *, ending: str = ".dcm") -> Path:
    """Files whose names do not follow the order of the slices."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, head in enumerate(series):
        head.save_as(folder / f"{(number * 3) % 7}{number}{ending}", enforce_file_format=True)
    return folder


def segmentation(
    series: Sequence[Dataset], label: np.ndarray, file: Path, names: Sequence[str] = NAMES, kind: str = "BINARY"
) -> Path:
    """A DICOM-SEG whose segments 1, 2, ... are those of the label [S, H, W]; FRACTIONAL: shares [S, H, W] of one."""
    described = [
        highdicom.seg.SegmentDescription(number, name, codes.SCT.Organ, codes.SCT.Organ, "MANUAL")
        for number, name in enumerate(names, 1)
    ]
    made = highdicom.seg.Segmentation(
        [*series], label, kind, described, generate_uid(), 2, generate_uid(), 1, "maker", "model", "1", "serial"
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    made.save_as(file)
    return file


def outlines(series: Sequence[Dataset], contours: Mapping[str, Sequence[tuple[float, Any]]], file: Path) -> Path:
    """An RTSTRUCT: of each region (number of the slice, corners [N, 2] in (row, column) of its pixels)."""
    head = Dataset()
    head.file_meta = FileMetaDataset()
    head.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    head.SOPClassUID = head.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.481.3"
    head.SOPInstanceUID = head.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    head.Modality = "RTSTRUCT"
    head.StructureSetROISequence = [_made(ROINumber=n, ROIName=name) for n, name in enumerate(contours, 1)]
    row, column = np.array(ORIENTATION[3:]) * SPACING[0], np.array(ORIENTATION[:3]) * SPACING[1]
    head.ROIContourSequence = [
        _made(
            ReferencedROINumber=number,
            ContourSequence=[
                _made(
                    ContourGeometricType="CLOSED_PLANAR",
                    ContourData=[
                        float(f"{value:.6f}") for r, c in corners for value in position(at) + r * row + c * column
                    ],
                )
                for at, corners in drawn
            ],
        )
        for number, drawn in enumerate(contours.values(), 1)
    ]
    referenced = _made(SeriesInstanceUID=series[0].SeriesInstanceUID)
    study = _made(RTReferencedSeriesSequence=[referenced])
    head.ReferencedFrameOfReferenceSequence = [_made(RTReferencedStudySequence=[study])]
    file.parent.mkdir(parents=True, exist_ok=True)
    head.save_as(file, enforce_file_format=True)
    return file


def _made(**keys: Any) -> Dataset:
    made = Dataset()
    for key, value in keys.items():
        setattr(made, key, value)
    return made


def some_series(folder: Path) -> Path:
    """A source of the import: three patients, the last one without a segmentation."""
    for number in range(3):
        series = slices(voxels(number), patient=f"patient{number}")
        save(series, folder / f"case{number}/ct")
        if number < 2:
            segmentation(series, classes(number), folder / f"case{number}/seg.dcm")
    return folder


def some_scans(folder: Path) -> Path:
    """Three cases as NRRD, MetaImage and NIfTI, each with its mask beside it; a fourth without one."""
    for number, (image, mask) in enumerate(
        [("mr.nrrd", "Segmentation.seg.nrrd"), ("mr.mhd", "mr-label.mha"), ("mr.nii.gz", "mr_seg.nii"), ("mr.mha", "")]
    ):
        (folder / f"case{number}").mkdir(parents=True)
        for name, pixels in ((image, voxels(number)), (mask, classes(number))):
            if name:
                scan = SimpleITK.GetImageFromArray(pixels)
                scan.SetSpacing((1.5, 2, STEP))
                SimpleITK.WriteImage(scan, str(folder / f"case{number}" / name))
    return folder


def read(file: Path) -> Any:
    return pydicom.dcmread(file)
