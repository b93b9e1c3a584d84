"""Makes small sources of annotations as the tools of other people write them, and imports them in this process."""

import base64
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from dicoms import some_scans, some_series
from PIL import Image
from pycocotools import mask as coco_mask

from ssl4seg.commands.import_folder import import_folder
from ssl4seg.data.imports.content import Choices

SIZE = (40, 48)
"""Height and width of every image."""


def imported(source: Path, dest: Path, kind: str | None = None, **words: Any) -> Path:
    """`ssl4seg-prepare import`; words of Choices and of `import_folder`."""
    choices = {key: words.pop(key) for key in [*words] if key in Choices.__dataclass_fields__}
    import_folder(source, dest, choices=Choices(**choices), kind=kind, **words)
    return dest


def mask_in(file: Path) -> np.ndarray:
    """The numbers of an indexed PNG."""
    with Image.open(file) as picture:
        assert picture.mode == "P"
        return np.array(picture)


def picture(file: Path, number: int = 0, size: tuple[int, int] = SIZE, **keys: Any) -> Path:
    """Grey noise in colours."""
    return save(file, np.random.default_rng(number).integers(0, 255, (*size, 3), dtype=np.uint8), **keys)


def save(file: Path, pixels: np.ndarray, palette: Sequence[int] | None = None, **keys: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".tif":
        tifffile.imwrite(file, pixels)
        return file
    image = Image.fromarray(pixels)
    if palette:
        image.putpalette(palette)
    image.save(file, **keys)
    return file


def box(top: int, bottom: int, left: int, right: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """True in the rows and columns from the first number up to the second, which is left out."""
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = True
    return mask


def outline(top: int, bottom: int, left: int, right: int) -> list[float]:
    """The outline x, y, x, y ... of the same pixels: their outer corners."""
    return [left, top, right, top, right, bottom, left, bottom]


# -- COCO -------------------------------------------------------------------------------------------------------------


def runs(mask: np.ndarray) -> dict[str, Any]:
    """A mask as the COCO tools write it."""
    run = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": run["size"], "counts": run["counts"].decode()}


def runs_in_list(mask: np.ndarray) -> dict[str, Any]:
    """The same, its run lengths as a list."""
    flat = mask.T.ravel().astype(np.int8)
    ends = [*np.flatnonzero(np.diff(flat)) + 1, flat.size]
    lengths = np.diff([0, *ends]).tolist()
    return {"size": [*mask.shape], "counts": [0, *lengths] if flat[0] else lengths}


CATEGORIES = [{"id": 3, "name": "cell"}, {"id": 7, "name": "dog"}]


def coco(
    folder: Path, annotations: Sequence[dict[str, Any]], *, images: int = 1, name: str = "instances.json", **keys: Any
) -> Path:
    """FOLDER/0.png, 1.png ... and a JSON; annotations get ids and image 0."""
    for number in range(images):
        picture(folder / f"{number}.png", number)
    records = [{"id": n, "file_name": f"{n}.png", "height": SIZE[0], "width": SIZE[1]} for n in range(images)]
    listed = [{"id": place, "image_id": 0, "category_id": 3, **each} for place, each in enumerate(annotations)]
    (folder / name).write_text(
        json.dumps({"images": records, "annotations": listed, "categories": CATEGORIES, **keys}, allow_nan=True)
    )
    return folder


def some_coco(folder: Path, images: int = 8) -> Path:
    """Two objects in each of the images but the last two, which have none."""
    objects = [
        {"image_id": n, "category_id": each, "segmentation": [outline(5 + n, 20 + n, left, left + 12)]}
        for n in range(images - 2)
        for each, left in ((3, 4), (7, 30))
    ]
    return coco(folder, objects, images=images)


def panoptic(folder: Path) -> Path:
    """Three rows of segment 257, ten of segment 65536, the others without a segment."""
    segments = np.zeros((*SIZE, 3), np.uint8)
    segments[:3], segments[10:20] = (1, 1, 0), (0, 0, 1)
    save(folder / "annotations/panoptic_val/0.png", segments)
    picture(folder / "val/0.jpg")
    listed = [{"id": 257, "category_id": 3}, {"id": 65536, "category_id": 7}]
    content = {
        "images": [{"id": 0, "file_name": "0.jpg", "height": SIZE[0], "width": SIZE[1]}],
        "annotations": [{"image_id": 0, "file_name": "0.png", "segments_info": listed}],
        "categories": [{**each, "isthing": 1, "color": [10 * each["id"], 0, 255]} for each in CATEGORIES],
    }
    (folder / "annotations/panoptic_val.json").write_text(json.dumps(content))
    return folder


# -- LabelMe ----------------------------------------------------------------------------------------------------------


def shape(label: str, points: Any, kind: str = "polygon", **keys: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}, **keys}


def png(pixels: np.ndarray) -> str:
    """A mask as LabelMe stores it."""
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8) * 255).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def labelme(folder: Path, shapes: Sequence[dict[str, Any]], name: str = "0", **keys: Any) -> Path:
    picture(folder / f"{name}.png")
    content = {"version": "5.5.0", "flags": {}, "shapes": [*shapes], "imagePath": f"{name}.png", "imageData": None}
    content |= {"imageHeight": SIZE[0], "imageWidth": SIZE[1], **keys}
    (folder / f"{name}.json").write_text(json.dumps(content, indent=2))
    return folder


# -- CVAT -------------------------------------------------------------------------------------------------------------

CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta><task><id>1</id><name>t</name><mode>annotation</mode><labels>
    <label><name>car</name><color>#fa3253</color><type>any</type><attributes></attributes></label>
    <label><name>road</name><color>#00ff00</color><type>any</type><attributes></attributes></label>
  </labels></task></meta>
  <image id="0" name="0.png" width="48" height="40">
    {}
  </image>
  {}
</annotations>
"""


def cvat(folder: Path, shapes: str, more: str = "") -> Path:
    picture(folder / "images/0.png")
    (folder / "annotations.xml").write_text(CVAT.format(shapes, more))
    return folder


# -- masks ------------------------------------------------------------------------------------------------------------

PALETTE = [0, 0, 0, 128, 0, 0, 0, 128, 0, *[0] * (252 * 3), 224, 224, 192]
"""The first colours of PASCAL VOC's palette, and that of 255."""


def voc(folder: Path) -> Path:
    """Masks of 1, 2 and 255 for images a and b; c has none."""
    for name in "abc":
        picture(folder / f"JPEGImages/{name}.jpg")
    for name in "ab":
        label = 1 * box(2, 6, 3, 9) + 2 * box(10, 20, 10, 20) + 255 * box(20, 21, 10, 20)
        save(folder / f"SegmentationClass/{name}.png", label.astype(np.uint8), PALETTE)
    return folder


def colored(folder: Path) -> Path:
    """CamVid's layout."""
    picture(folder / "train/a.png")
    label = np.zeros((*SIZE, 3), np.uint8)
    label[box(2, 6, 3, 9)], label[box(10, 20, 10, 20)] = (64, 128, 64), (192, 0, 128)
    save(folder / "train_labels/a_L.png", label)
    (folder / "class_dict.csv").write_text("name,r,g,b\nAnimal,64,128,64\nArchway,192,0,128\nVoid,0,0,0\n")
    return folder


def black_and_white(file: Path, mask: np.ndarray) -> Path:
    return save(file, mask.astype(np.uint8) * 255)


def dsb(folder: Path) -> Path:
    """Two images with three nuclei each, of which the first two touch."""
    for name in ("one", "two"):
        picture(folder / f"{name}/images/{name}.png")
        for number, mask in enumerate((box(5, 15, 5, 15), box(5, 15, 15, 25), box(25, 30, 5, 9))):
            black_and_white(folder / f"{name}/masks/n{number}.png", mask)
    return folder


def busi(folder: Path) -> Path:
    for kind, masks in {"benign": 2, "malignant": 1, "normal": 0}.items():
        picture(folder / f"{kind}/{kind} (1).png")
        for number in range(max(1, masks)):
            mask = box(5, 9, 5 + 20 * number, 15 + 20 * number) if masks else np.zeros(SIZE, bool)
            black_and_white(folder / f"{kind}/{kind} (1)_mask{f'_{number}' if number else ''}.png", mask)
    return folder


def numbered(folder: Path) -> Path:
    """16-bit TIFFs, object 300 beside object 7."""
    picture(folder / "images/a.png")
    owner = 300 * box(5, 15, 5, 15) + 7 * box(5, 15, 15, 25)
    save(folder / "masks/a.tif", owner.astype(np.uint16))
    return folder


SOURCES: dict[str, Callable[[Path], Path]] = {
    "coco": some_coco,
    "panoptic": panoptic,
    "labelme": lambda folder: labelme(folder, [shape("cat", [[5, 5], [9, 5], [9, 9]])]),
    "cvat": lambda folder: cvat(folder, '<polygon label="car" points="5,5;9,5;9,9" z_order="0"></polygon>'),
    "voc": voc,
    "colors": colored,
    "masks": dsb,
    "instances": numbered,
    "dicom": some_series,
    "scans": some_scans,
}
"""A source of each kind."""
