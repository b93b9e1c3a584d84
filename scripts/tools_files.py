"""Small sets that the libraries of annotation tools write, each with its true masks; for tools_round_trip.py."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from bench_import import save_slice
from PIL import Image
from pycocotools import mask as coco_mask
from pydicom.uid import generate_uid

SIZE, SLICES, CASES = (60, 90), 4, 6
NAMES = ("Große Zelle", "traffic light", "细胞")
ORGANS = ("left liver", "lung", "tiny")
"""In DICOM: rt-utils and dcmqi take letters of ASCII alone."""
NUMBERS = {name: number for names in (NAMES, ORGANS) for number, name in enumerate(names, 1)}
Array = np.ndarray
Truth = dict[str, Array]
"""The classes of each image: 0, or 1, 2, 3 for those of NAMES."""


# -- what is drawn ----------------------------------------------------------------------------------------------------


def objects(number: int) -> Iterator[tuple[int, list[float], Array]]:
    """Class, outline x, y, x, y ... and pixels of each object. The last image has none; an outline may be []."""
    if number == CASES - 1:
        return
    rng = np.random.default_rng(number)
    for kind in (1, 2, 3, 1):
        turns, radius = np.sort(rng.uniform(0, 2 * np.pi, 9)), rng.uniform(8, 20, (9, 1))
        points = rng.uniform(20, (70, 40)) + radius * np.stack([np.cos(turns), np.sin(turns)], axis=1)
        outline = points.clip(0, (SIZE[1], SIZE[0])).round(2).ravel().tolist()
        yield kind, outline, coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([outline], *SIZE))).astype(bool)
    y, x = np.ogrid[: SIZE[0], : SIZE[1]]
    ring = (y - 20) ** 2 + (x - 60 - number) ** 2
    yield 2, [], (ring < 200) & (ring > 30)
    yield 3, [], (y + x < 9 + number) | ((y > 52) & (x > 80) & (x < 88))


def outlined(number: int) -> list[tuple[int, list[float], Array]]:
    return [each for each in objects(number) if each[1]]


def painted(drawn: Any) -> Array:
    """The classes of the objects; later ones lie above."""
    mask = np.zeros(SIZE, np.uint8)
    for kind, _, pixels in drawn:
        mask[pixels] = kind
    return mask


def picture(mask: Array, number: int) -> Array:
    """Noise, in which classes differ."""
    noise = np.random.default_rng(number).integers(0, 60, (*mask.shape, 3))
    return (noise + 60 * mask[..., None]).astype(np.uint8)


def pictures(folder: Path, source: Callable[[int], Any]) -> Truth:
    """Write the images; return their masks."""
    folder.mkdir(parents=True)
    truth = {f"größe {n}": painted(source(n)) for n in range(CASES)}
    for number, (name, mask) in enumerate(truth.items()):
        Image.fromarray(picture(mask, number)).save(folder / f"{name}.png")
    return truth


# -- what tools write -------------------------------------------------------------------------------------------------


def datumaro(top: Path, form: str, *, masks: bool = True, **keys: Any) -> Truth:
    import datumaro
    from datumaro.components.annotation import Mask, Polygon
    from datumaro.components.media import Image as Media

    def shape(place: int, kind: int, outline: list[float], pixels: Array) -> Any:
        known = {"label": kind, "id": place, "group": place, "z_order": place}
        return Polygon(outline, **known) if outline else Mask(pixels, **known)

    truth = pictures(top.with_name(f"{top.name} pictures"), objects)
    items = []
    for number, (name, mask) in enumerate(truth.items()):
        drawn = [shape(10 * number + place, *each) for place, each in enumerate(objects(number), 1)]
        media = Media.from_numpy(picture(mask, number)[..., ::-1])
        items.append(datumaro.DatasetItem(id=name, subset="train", media=media, annotations=drawn))
    data = datumaro.Dataset.from_iterable(items, categories=["background", *NAMES], media_type=Media)
    if form in ("coco_panoptic", "voc_segmentation"):
        data.transform("polygons_to_masks")
    data.export(str(top), form, save_media=True, **keys)
    return truth


def supervision(top: Path) -> Truth:
    import supervision

    truth, found, arrays = pictures(top / "pictures", objects), {}, {}
    for number, (name, mask) in enumerate(truth.items()):
        file = str(top / f"pictures/{name}.png")
        arrays[file] = picture(mask, number)
        found[file] = supervision.Detections.empty()
        if drawn := [*objects(number)]:
            pixels = np.stack([each for _, _, each in drawn])
            boxes = supervision.mask_to_xyxy(pixels).astype(float)
            kinds = np.array([kind - 1 for kind, _, _ in drawn])
            found[file] = supervision.Detections(xyxy=boxes, mask=pixels, class_id=kinds)
    data = supervision.DetectionDataset(classes=[*NAMES], images=[*arrays], annotations=found)
    data.as_coco(images_directory_path=str(top / "coco/images"), annotations_path=str(top / "coco/a.json"))
    shutil.rmtree(top / "pictures")
    return truth


def label_studio(top: Path) -> Truth:
    from label_studio_sdk.converter import Converter

    truth, tasks = pictures(top / "pictures", outlined), []
    size = {"original_height": SIZE[0], "original_width": SIZE[1], "image_rotation": 0}
    about = {"from_name": "label", "to_name": "image", "type": "polygonlabels", **size}
    for number, name in enumerate(truth):
        results = []
        for place, (kind, outline, _) in enumerate(outlined(number)):
            points = (100 * np.reshape(outline, (-1, 2)) / SIZE[::-1]).tolist()
            value = {"points": points, "closed": True, "polygonlabels": [NAMES[kind - 1]]}
            results.append({**about, "id": f"{number}-{place}", "value": value})
        drawn = {"id": number, "result": results, "completed_by": 1, "was_cancelled": False}
        data = {"image": str(top / f"pictures/{name}.png")}
        tasks.append({"id": number, "data": data, "annotations": [drawn]})
    labels = "".join(f'<Label value="{name}"/>' for name in NAMES)
    config = f'<PolygonLabels name="label" toName="image">{labels}</PolygonLabels>'
    config = f'<View><Image name="image" value="$image"/>{config}</View>'
    (top / "tasks.json").write_text(json.dumps(tasks))
    converter = Converter(config=config, project_dir=str(top), download_resources=False)
    converter.convert_to_coco(str(top / "tasks.json"), str(top / "coco"), is_dir=False)
    (top / "tasks.json").unlink()
    return truth


def labelme(top: Path) -> Truth:
    """Its masks are those that its own `shapes_to_label` draws."""
    import labelme

    numbers, truth = {name: number for number, name in enumerate(NAMES, 1)}, pictures(top, objects)
    for number, name in enumerate(truth):
        shapes: list[dict[str, Any]] = []
        for kind, outline, pixels in objects(number):
            corners = np.argwhere(pixels)[:, ::-1]
            low, high = corners.min(axis=0), corners.max(axis=0)
            part = pixels[low[1] : high[1] + 1, low[0] : high[0] + 1]
            points = (np.reshape(outline, (-1, 2)) if outline else np.array([low, high], float)).tolist()
            about = {"label": NAMES[kind - 1], "group_id": None, "description": "", "flags": {}}
            form = {"shape_type": "polygon" if outline else "mask", "mask": None if outline else part}
            shapes.append({**about, **form, "points": points})
        truth[name] = labelme.utils.shapes_to_label((*SIZE, 3), shapes, numbers)[0].astype(np.uint8)
        for each in shapes:
            each["mask"] = None if each["mask"] is None else labelme.utils.img_arr_to_b64(each["mask"].astype(np.uint8))
        about = {"image_path": f"{name}.png", "image_data": None, "image_height": SIZE[0], "image_width": SIZE[1]}
        labelme.LabelFile().save(str(top / f"{name}.json"), shapes, **about)
    return truth


def imgviz(top: Path) -> Truth:
    """As LabelMe's labelme2voc.py does."""
    import imgviz

    truth = pictures(top / "JPEGImages", objects)
    (top / "SegmentationClass").mkdir()
    for name, mask in truth.items():
        imgviz.io.lblsave(str(top / f"SegmentationClass/{name}.png"), mask)
    (top / "class_names.txt").write_text("\n".join(["_background_", *NAMES]))
    return truth


def volumes(top: Path) -> Iterator[tuple[Path, Array]]:
    """Write a series a folder; yield the folders and their masks."""
    for number in range(CASES):
        folder = top / f"case{number}"
        folder.mkdir(parents=True)
        mask = np.stack([painted(objects((number + place) % CASES)) for place in range(SLICES)])
        mask[1, 58, 3] = 1
        names = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
        common = {"PatientID": f"{number}", **{n: generate_uid() for n in names}}
        for place, each in enumerate(mask):
            pixels = picture(each, number)[..., 0].astype(np.int16)
            save_slice(folder / f"{place}.dcm", pixels, place, common)
        yield folder, mask


def rt_utils(top: Path) -> Truth:
    from rt_utils import RTStructBuilder

    truth = {}
    for folder, mask in volumes(top):
        made = RTStructBuilder.create_new(dicom_series_path=str(folder))
        for number, name in enumerate(ORGANS, 1):
            made.add_roi(mask=np.ascontiguousarray((mask == number).transpose(1, 2, 0)), name=name)
        made.save(str(folder / "seg.dcm"))
        truth[folder.name] = mask
    return truth


def dcmqi(top: Path) -> Truth:
    import dcmqi
    import SimpleITK

    def code(value: str, meaning: str) -> dict[str, str]:
        return {"CodeValue": value, "CodingSchemeDesignator": "SCT", "CodeMeaning": meaning}

    about = {
        "SegmentAlgorithmType": "MANUAL",
        "SegmentedPropertyCategoryCodeSequence": code("123037004", "Anatomical Structure"),
        "SegmentedPropertyTypeCodeSequence": code("10200004", "Liver"),
    }
    segments = [{"labelID": n, "SegmentLabel": name, **about} for n, name in enumerate(ORGANS, 1)]
    meta = {"SeriesDescription": "s", "SeriesNumber": "300", "InstanceNumber": "1", "segmentAttributes": [segments]}
    meta |= {"ContentCreatorName": "c", "ContentLabel": "SEGMENTATION", "ContentDescription": "d"}
    labels, described, truth = top.with_name("labels.nrrd"), top.with_name("meta.json"), {}
    described.write_text(json.dumps(meta))
    for folder, mask in volumes(top):
        volume = SimpleITK.GetImageFromArray(mask)
        volume.SetSpacing((1, 1, 2))
        SimpleITK.WriteImage(volume, str(labels))
        program = Path(dcmqi.__file__).parent / "bin/itkimage2segimage"
        series, out = ("--inputDICOMDirectory", folder), ("--outputDICOM", folder / "seg.dcm")
        words = [program, "--inputImageList", labels, *series, *out, "--inputMetadata", described, "--skip", "1"]
        subprocess.run([*map(str, words)], check=True, capture_output=True)
        truth[folder.name] = mask
    return truth
