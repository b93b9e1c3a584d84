"""Each kind of annotation is imported and trained on; its predictions, in that form again, are imported again.

Pixels are compared at every turn.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import dicoms
import nibabel
import numpy as np
import pytest
import SimpleITK
from helpers import MACHINE, SHORT, SMALL, results, succeed
from PIL import Image
from scipy.ndimage import binary_dilation
from sources import CATEGORIES, CVAT, PALETTE, SIZE, black_and_white, box, imported, labelme, picture, png, runs, save
from sources import coco as coco_source
from sources import shape as labelme_shape

from ssl4seg.data.drafts.kinds import DRAFTS

NAMES = ("cell", "dog")
IMAGES = 6
COLORS = {"cell": (64, 128, 64), "dog": (192, 0, 128)}


def label(number: int) -> np.ndarray:
    """The classes of an image: a cell (1), and a dog (2) that lies on it."""
    mask = 1 * box(3 + number, 25, 4, 30)
    mask[box(10, 20 + number, 20, 40)] = 2
    return mask.astype(np.uint8)


# -- sources of each kind ---------------------------------------------------------------------------------------------


def coco(folder: Path) -> Path:
    objects = [
        {"image_id": n, "category_id": category["id"], "segmentation": runs(label(n) == number)}
        for n in range(IMAGES)
        for number, category in enumerate(CATEGORIES, 1)
    ]
    return coco_source(folder, objects, images=IMAGES)


def panoptic(folder: Path) -> Path:
    for n in range(IMAGES):
        picture(folder / f"val/{n}.png", n)
        save(folder / f"annotations/panoptic_val/{n}.png", np.stack([label(n), *2 * [0 * label(n)]], axis=-1))
    listed = [{"id": number, "category_id": each["id"]} for number, each in enumerate(CATEGORIES, 1)]
    content = {
        "images": [{"id": n, "file_name": f"{n}.png", "height": SIZE[0], "width": SIZE[1]} for n in range(IMAGES)],
        "annotations": [{"image_id": n, "file_name": f"{n}.png", "segments_info": listed} for n in range(IMAGES)],
        "categories": [{**each, "isthing": 1, "color": [10 * each["id"], 0, 255]} for each in CATEGORIES],
    }
    (folder / "annotations/panoptic_val.json").write_text(json.dumps(content))
    return folder


def labelme_files(folder: Path) -> Path:
    for n in range(IMAGES):
        whole = [[0, 0], [SIZE[1] - 1, SIZE[0] - 1]]
        shapes = [labelme_shape(name, whole, "mask", mask=png(label(n) == i)) for i, name in enumerate(NAMES, 1)]
        labelme(folder, shapes, str(n))
    return folder


def cvat(folder: Path) -> Path:
    """Masks, whose run lengths go row by row."""
    drawn = []
    for n in range(IMAGES):
        picture(folder / f"images/{n}.png", n)
        shapes = ""
        for number, name in enumerate(NAMES, 1):
            ends = np.flatnonzero(np.diff((label(n) == number).ravel(), append=True, prepend=False))
            lengths = ", ".join(map(str, np.diff([0, *ends, label(n).size])))
            where = f'left="0" top="0" width="{SIZE[1]}" height="{SIZE[0]}" z_order="0"'
            shapes += f'<mask label="{name}" rle="{lengths}" {where}></mask>'
        drawn.append(shapes)
    size = f'width="{SIZE[1]}" height="{SIZE[0]}"'
    others = [f'<image id="{n}" name="{n}.png" {size}>{drawn[n]}</image>' for n in range(1, IMAGES)]
    text = CVAT.replace("car", "cell").replace("road", "dog").format(drawn[0], "".join(others))
    (folder / "annotations.xml").write_text(text)
    return folder


def voc(folder: Path) -> Path:
    for n in range(IMAGES):
        picture(folder / f"JPEGImages/{n}.png", n)
        save(folder / f"SegmentationClass/{n}.png", label(n), PALETTE)
    (folder / "class_names.txt").write_text("_background_\ncell\ndog\n")
    return folder


def colors(folder: Path) -> Path:
    lut = np.array([(0, 0, 0), *COLORS.values()], np.uint8)
    for n in range(IMAGES):
        picture(folder / f"train/{n}.png", n)
        save(folder / f"train_labels/{n}_L.png", lut[label(n)])
    legend(folder)
    return folder


def legend(folder: Path) -> None:
    (folder / "legend.json").write_text(json.dumps({n: f"#{r:02x}{g:02x}{b:02x}" for n, (r, g, b) in COLORS.items()}))


def masks(folder: Path) -> Path:
    for n in range(IMAGES):
        picture(folder / f"images/{n}.png", n)
        for number, name in enumerate(NAMES, 1):
            black_and_white(folder / f"masks/{name}/{n}.png", label(n) == number)
    return folder


def instances(folder: Path) -> Path:
    for n in range(IMAGES):
        picture(folder / f"images/{n}.png", n)
        save(folder / f"masks/{n}.tif", (300 * label(n).astype(np.uint16)))
    return folder


def volume(number: int) -> np.ndarray:
    """[S, H, W] of 0, 1, 2."""
    return np.stack([0 * label(number), label(number), label(number + 1)])


def dicom(folder: Path) -> Path:
    for n in range(IMAGES):
        pixels = np.random.default_rng(n).integers(-1000, 1000, volume(n).shape).astype(np.int16)
        series = dicoms.slices(pixels, patient=f"patient{n}")
        dicoms.save(series, folder / f"{n}/ct")
        dicoms.segmentation(series, volume(n), folder / f"{n}/seg.dcm", NAMES)
    return folder


def scans(folder: Path) -> Path:
    for n in range(IMAGES):
        (folder / f"{n}").mkdir(parents=True)
        noise = np.random.default_rng(n).integers(-1000, 1000, volume(n).shape).astype(np.int16)
        for name, pixels in (("mr.nrrd", noise), ("mr-label.nrrd", volume(n))):
            scan = SimpleITK.GetImageFromArray(pixels)
            scan.SetSpacing((1.5, 2, 5))
            SimpleITK.WriteImage(scan, str(folder / f"{n}" / name))
    return folder


# -- predictions in the form of a source ------------------------------------------------------------------------------


def as_draft(form: str) -> Callable[..., Path]:
    def back(data: Path, predict: Callable[..., Path], folder: Path) -> Path:
        predict(folder, f"format={form}")
        shutil.copytree(data / "images", folder / "images")
        return folder

    return back


def as_labelme(data: Path, predict: Callable[..., Path], folder: Path) -> Path:
    """JSON files that name the images of another folder."""
    return predict(folder, "format=labelme")


def as_voc(data: Path, predict: Callable[..., Path], folder: Path) -> Path:
    predict(folder / "SegmentationClass")
    shutil.copytree(data / "images", folder / "JPEGImages")
    (folder / "class_names.txt").write_text("_background_\ncell\ndog\n")
    return folder


def as_colors(data: Path, predict: Callable[..., Path], folder: Path) -> Path:
    """The palette of a predicted mask has the colours of the legend."""
    for file in predict(folder / "train_labels").iterdir():
        with Image.open(file) as mask:
            colored = np.array(mask.convert("RGB"))
        save(file, colored)
    shutil.copytree(data / "images", folder / "train")
    legend(folder)
    return folder


def as_masks(data: Path, predict: Callable[..., Path], folder: Path) -> Path:
    for file in predict(folder / "predicted").iterdir():
        for number, name in enumerate(NAMES, 1):
            black_and_white(folder / f"masks/{name}/{file.name}", pixels(file) == number)
    shutil.rmtree(folder / "predicted")
    shutil.copytree(data / "images", folder / "images")
    return folder


def as_instances(data: Path, predict: Callable[..., Path], folder: Path) -> Path:
    predict(folder / "masks")
    shutil.copytree(data / "images", folder / "images")
    return folder


def as_dicom(data: Path, predict: Callable[..., Path], folder: Path) -> Path:
    """The segmentation of each series beside its slices."""
    source = data.parent / "in"
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("seg.dcm"))
    predict(folder / "masks", input=folder)
    return folder


def as_scans(data: Path, predict: Callable[..., Path], folder: Path) -> Path:
    for file in predict(folder / "masks").iterdir():
        (folder / file.stem).mkdir()
        file.rename(folder / file.stem / "mr-label.nrrd")
        shutil.copy(data / f"images/{file.name}", folder / file.stem / "mr.nrrd")
    (folder / "masks").rmdir()
    return folder


def pixels(file: Path) -> np.ndarray:
    """The classes in a mask; of a volume [S, H, W]."""
    if file.suffix == ".png":
        with Image.open(file) as mask:
            return np.array(mask)
    if file.suffix == ".nrrd":
        return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(file)))
    return np.asarray(nibabel.load(file).dataobj).transpose()


def names_in(masks: Path) -> list[str]:
    found = sorted(file.relative_to(masks).as_posix() for file in masks.rglob("*") if file.is_file())
    assert len(found) == IMAGES
    return found


KINDS = {
    "coco": (coco, as_draft("coco"), "coco"),
    "panoptic": (panoptic, as_draft("panoptic"), "panoptic"),
    "labelme": (labelme_files, as_labelme, "labelme"),
    "cvat": (cvat, as_draft("cvat"), "cvat"),
    "voc": (voc, as_voc, "voc"),
    "colors": (colors, as_colors, "colors"),
    "masks": (masks, as_masks, "masks"),
    "instances": (instances, as_instances, "instances"),
    "dicom": (dicom, as_dicom, "dicom"),
    "scans": (scans, as_scans, "scans"),
}
"""How a source is made, how predictions get a form, and the kind of that form."""


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_trained_on_and_its_predictions_come_back_pixel_by_pixel(kind: str, tmp_path: Path) -> None:
    make, back, form = KINDS[kind]
    empty = {"empty": "background"}
    data = imported(make(tmp_path / "in"), tmp_path / "data", kind, **(empty if kind == "panoptic" else {}))
    for name in names_in(data / "masks"):
        truth = (label if name.endswith(".png") else volume)(int(name[0]))
        assert np.array_equal(pixels(data / "masks" / name), truth > 0 if kind == "instances" else truth), name

    long = ("iterations=30", "eval_every=30")  # until it tells background from classes
    keys = (*MACHINE, *SMALL, *SHORT, *long, "dataset=folder", "dataset.root=data", "labeled_ratio=1")
    succeed("train", *keys, cwd=tmp_path)
    run = tmp_path / "outputs/data/supervised/unet-1-s0"
    assert results(run)["status"] == "finished"

    def predict(output: Path, *more: str, input: Path = data / "images") -> Path:
        succeed("predict", f"run={run}", f"input={input}", f"output={output}", *MACHINE, *more, cwd=tmp_path)
        return output

    masks = predict(tmp_path / "masks")
    words = empty if form in DRAFTS else {}
    words |= {"images": tmp_path / "in"} if form == "labelme" else {}
    again = imported(back(data, predict, tmp_path / "back"), tmp_path / "again", form, **words)
    assert names_in(masks) == names_in(data / "masks") == names_in(again / "masks")
    for name in names_in(masks):
        found, predicted = pixels(again / "masks" / name), pixels(masks / name)
        if kind == "labelme":  # it paints the outline of a polygon too
            border = np.stack([binary_dilation(predicted == number) for number in range(3)]).sum(axis=0) > 1
            found = np.where(border, predicted, found)
        assert np.array_equal(found, predicted), name
