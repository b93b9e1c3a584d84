"""COCO's panoptic form: a JSON of segments, and a PNG of their numbers for each picture.

A class is one segment, "stuff" in COCO's words: a prediction does not tell one object from another. The background has
no segment. The form is that of https://cocodataset.org/#format-data.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from skimage.measure import regionprops

from ssl4seg.data.case import LabelArray
from ssl4seg.data.drafts.coco import Coco
from ssl4seg.data.formats import write_picture


class Panoptic(Coco):
    """A segment's number in the PNG, id = R + 256 G + 65536 B, is that of its category."""

    format, per_picture, package = "panoptic", ".png", None

    def __init__(self, folder: Path, names: Mapping[int, str], *, background: bool) -> None:
        super().__init__(folder, names, background=background)
        for category in self.content["categories"]:
            category["isthing"] = 0

    def files(self, targets: Iterable[Path]) -> list[Path]:
        return [self.file, *map(self._numbers, targets)]

    def _numbers(self, target: Path) -> Path:
        """The PNG of a picture, in a folder that is called as the JSON is."""
        return self.file.with_suffix("") / target.relative_to(self.folder)

    def add(self, label: LabelArray, picture: Path, name: str, target: Path) -> None:
        self._add_image(label, name)
        numbers, segments = np.zeros((*label.shape, 3), np.uint8), []
        for number, category in self.categories.items():
            pixels = label == number
            if not pixels.any():
                continue
            numbers[pixels, :2] = category % 256, category // 256
            (box,) = regionprops(pixels.astype(np.uint8))
            top, left, bottom, right = box.bbox
            where = {"area": int(pixels.sum()), "bbox": [left, top, right - left, bottom - top]}
            segments.append({"id": category, "category_id": category, "iscrowd": 0, **where})
        file = self._numbers(target)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_picture(file, numbers)
        place, image = file.relative_to(self.file.with_suffix("")).as_posix(), len(self.content["images"])
        self.content["annotations"].append({"image_id": image, "file_name": place, "segments_info": segments})
