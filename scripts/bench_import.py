"""Time `ssl4seg-prepare import` of each kind: images of 640 x 480 with seven objects of two classes each.

In `dicom` and `scans` the images are slices, fifty a volume.

    python scripts/bench_import.py --images 1000

Sources are made first, in a folder of their own, and removed at the end. Seconds are those of the import alone: of the
clock, and of all processor cores together, which other programs on the machine disturb less.
"""

import argparse
import io
import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK
import tifffile
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from ssl4seg.commands.import_folder import import_folder
from ssl4seg.data.dicom import read_head, series_of, write_segmentation
from ssl4seg.data.imports.content import Choices

SIZE = (480, 640)
CLASSES = ("cell", "dog")
COLORS = ((0, 0, 0), (200, 0, 0), (0, 200, 0))
Points = list[list[float]]
Build = Callable[[Path, int], None]


def objects(number: int) -> Iterator[tuple[int, Points]]:
    """Class and outline of seven round objects, 32 points each."""
    rng = np.random.default_rng(number)
    for place in range(7):
        (x, y), radius = rng.uniform(40, 440, 2), rng.uniform(15, 60)
        turns = np.linspace(0, 2 * math.pi, 32, endpoint=False)
        points = np.stack([x + radius * np.cos(turns), y + radius * np.sin(turns)], axis=1)
        yield place % 2 + 1, points.round(2).tolist()


def painted(number: int, value: Callable[[int, int], int]) -> np.ndarray:
    """All objects of an image; `value` says which number one of this place and class has."""
    picture = Image.new("I", SIZE[::-1])
    for place, (kind, points) in enumerate(objects(number), 1):
        ImageDraw.Draw(picture).polygon([(x, y) for x, y in points], fill=value(place, kind))
    return np.array(picture)


def classes(number: int) -> np.ndarray:
    return painted(number, lambda place, kind: kind).astype(np.uint8)


def save(file: Path, pixels: np.ndarray, palette: list[int] | None = None) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(pixels)
    if palette:
        picture.putpalette(palette)
    picture.save(file)


# -- a source of each kind; images are there already ------------------------------------------------------------------


def records(num: int) -> dict[str, Any]:
    images = [{"id": n, "file_name": f"{n:05d}.jpg", "height": SIZE[0], "width": SIZE[1]} for n in range(num)]
    return {"images": images, "categories": [{"id": n, "name": name} for n, name in enumerate(CLASSES, 1)]}


def coco(top: Path, num: int, *, runs: bool = False) -> None:
    annotations: list[dict[str, Any]] = []
    for number in range(num):
        for kind, points in objects(number):
            shape: Any = [[value for point in points for value in point]]
            if runs:
                run = coco_mask.merge(coco_mask.frPyObjects(shape, *SIZE))
                shape = {"size": run["size"], "counts": run["counts"].decode()}
            each = {"id": len(annotations), "image_id": number, "category_id": kind, "segmentation": shape}
            annotations.append(each)
    (top / "instances.json").write_text(json.dumps({**records(num), "annotations": annotations}))


def panoptic(top: Path, num: int) -> None:
    annotations = []
    for number in range(num):
        ids = painted(number, lambda place, kind: place)
        save(top / f"panoptic/{number:05d}.png", np.stack([ids, 0 * ids, 0 * ids], axis=2).astype(np.uint8))
        listed = [{"id": place, "category_id": kind} for place, (kind, _) in enumerate(objects(number), 1)]
        annotations.append({"image_id": number, "file_name": f"{number:05d}.png", "segments_info": listed})
    (top / "panoptic.json").write_text(json.dumps({**records(num), "annotations": annotations}))


def labelme(top: Path, num: int) -> None:
    for number in range(num):
        shapes = [{"label": CLASSES[kind - 1], "points": p, "shape_type": "polygon"} for kind, p in objects(number)]
        about = {"imagePath": f"../images/{number:05d}.jpg", "imageHeight": SIZE[0], "imageWidth": SIZE[1]}
        file = top / f"json/{number:05d}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps({"version": "5.5.0", "shapes": shapes, **about}))


def cvat(top: Path, num: int) -> None:
    lines = ["<annotations><meta><labels>"]
    lines += [f"<label><name>{name}</name></label>" for name in CLASSES]
    lines.append("</labels></meta>")
    for number in range(num):
        lines.append(f'<image id="{number}" name="{number:05d}.jpg" height="{SIZE[0]}" width="{SIZE[1]}">')
        for kind, points in objects(number):
            shown = ";".join(f"{x},{y}" for x, y in points)
            lines.append(f'<polygon label="{CLASSES[kind - 1]}" points="{shown}" z_order="0"/>')
        lines.append("</image>")
    (top / "annotations.xml").write_text("\n".join([*lines, "</annotations>"]))


def voc(top: Path, num: int) -> None:
    (top / "images").rename(top / "JPEGImages")
    for number in range(num):
        save(top / f"SegmentationClass/{number:05d}.png", classes(number), [value for each in COLORS for value in each])


def colors(top: Path, num: int) -> None:
    (top / "legend.txt").write_text("cell 200 0 0\ndog 0 200 0\n")
    for number in range(num):
        save(top / f"masks/{number:05d}.png", np.array(COLORS, np.uint8)[classes(number)])


def masks(top: Path, num: int) -> None:
    """A folder an image, a file an object."""
    for number in range(num):
        folder = top / f"{number:05d}"
        (folder / "images").mkdir(parents=True)
        (top / f"images/{number:05d}.jpg").rename(folder / f"images/{number:05d}.jpg")
        for place, (_, points) in enumerate(objects(number)):
            picture = Image.new("L", SIZE[::-1])
            ImageDraw.Draw(picture).polygon([(x, y) for x, y in points], fill=255)
            save(folder / f"masks/object{place}.png", np.array(picture))


def instances(top: Path, num: int) -> None:
    (top / "masks").mkdir()
    for number in range(num):
        ids = painted(number, lambda place, kind: place).astype(np.uint16)
        tifffile.imwrite(top / f"masks/{number:05d}.tif", ids)


DEPTH = 50


def volumes(num: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Number, voxels and classes [S, H, W] of each volume."""
    for number in range(math.ceil(num / DEPTH)):
        shown = range(number * DEPTH, min(num, (number + 1) * DEPTH))
        noise = np.random.default_rng(number).integers(0, 4000, (len(shown), *SIZE), dtype=np.int16)
        yield number, noise, np.stack([classes(each) for each in shown])


def dicom(top: Path, num: int) -> None:
    """A folder a series, with its DICOM-SEG."""
    for number, voxels, label in volumes(num):
        folder = top / f"{number:03d}"
        folder.mkdir()
        common = {name: generate_uid() for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")}
        for place, pixels in enumerate(voxels):
            save_slice(folder / f"{place:03d}.dcm", pixels, place, {**common, "PatientID": f"{number}"})
        series = series_of({file: read_head(file) for file in folder.iterdir()})
        write_segmentation(folder / "seg.dcm", label, series, dict(enumerate(CLASSES, 1)))


def save_slice(file: Path, pixels: np.ndarray, place: int, common: dict[str, str]) -> None:
    head = pydicom.Dataset()
    head.file_meta = pydicom.dataset.FileMetaDataset()
    head.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    keys = {
        **common,
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": generate_uid(),
        "Modality": "CT",
        "InstanceNumber": place + 1,
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "ImagePositionPatient": [0, 0, 2 * place],
        "PixelSpacing": [1, 1],
        "SliceThickness": 2,
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 1,
        "PixelData": pixels.tobytes(),
    }
    for key in (
        "PatientName",
        "PatientBirthDate",
        "PatientSex",
        "StudyID",
        "StudyDate",
        "StudyTime",
        "AccessionNumber",
    ):
        keys[key] = ""
    for key, value in keys.items():
        setattr(head, key, value)
    head.save_as(file, enforce_file_format=True)


def scans(top: Path, num: int) -> None:
    """NRRD, compressed as 3D Slicer writes it."""
    for number, voxels, label in volumes(num):
        for name, pixels in (("mr.nrrd", voxels), ("mr-label.nrrd", label)):
            file = top / f"{number:03d}" / name
            file.parent.mkdir(exist_ok=True)
            SimpleITK.WriteImage(SimpleITK.GetImageFromArray(pixels), str(file), useCompression=True)


KINDS: dict[str, tuple[str, Build]] = {
    "coco, outlines": ("coco", coco),
    "coco, run lengths": ("coco", lambda top, num: coco(top, num, runs=True)),
    "panoptic": ("panoptic", panoptic),
    "labelme": ("labelme", labelme),
    "cvat": ("cvat", cvat),
    "voc": ("voc", voc),
    "colors": ("colors", colors),
    "masks": ("masks", masks),
    "instances": ("instances", instances),
    "dicom": ("dicom", dicom),
    "scans": ("scans", scans),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--only", choices=KINDS, nargs="+", default=[*KINDS])
    arguments = parser.parse_args()
    num = arguments.images
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        rng = np.random.default_rng(0)
        grey = rng.integers(0, 255, (*SIZE, 3), dtype=np.uint8)
        for number in range(num):
            save(home / f"pictures/{number:05d}.jpg", np.roll(grey, number))
        for title in arguments.only:
            kind, build = KINDS[title]
            top = home / title
            top.mkdir()
            if kind not in ("dicom", "scans"):
                (top / "images").mkdir()
                for file in (home / "pictures").iterdir():
                    os.link(file, top / "images" / file.name)
            build(top, num)
            start, cpu = time.perf_counter(), time.process_time()
            with redirect_stdout(io.StringIO()):
                import_folder(top, home / f"{title} imported", choices=Choices(), kind=kind)
            seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
            print(f"{title}: {seconds:.1f} s, {cpu:.1f} s of all cores, {num} images", flush=True)


if __name__ == "__main__":
    main()
