"""LabelMe: a JSON for each picture, with a polygon for each region.

LabelMe's polygons have no holes. Where the file is read, later polygons are painted over earlier ones, so a region with
holes is drawn whole, and what lies in its holes after it: other classes, and the background, by its name.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ssl4seg.data.case import LabelArray
from ssl4seg.data.drafts.base import Draft
from ssl4seg.data.drafts.regions import Region, regions_of
from ssl4seg.files import write_text


class LabelMe(Draft):
    """A background is drawn in holes only. A file names its picture by the way from its own folder."""

    format, per_picture, package = "labelme", ".json", None

    def files(self, targets: Iterable[Path]) -> list[Path]:
        return [*targets]

    def add(self, label: LabelArray, picture: Path, name: str, target: Path) -> None:
        content = {
            "version": "5.5.0",
            "flags": {},
            "shapes": [
                {
                    "label": self.names[region.number],
                    "points": region.outline().tolist(),
                    "group_id": None,
                    "description": "",
                    "shape_type": "polygon",
                    "flags": {},
                    "mask": None,
                }
                for region in self._in_order(label)
            ],
            "imagePath": Path(os.path.relpath(picture, target.parent)).as_posix(),
            "imageData": None,
            "imageHeight": label.shape[0],
            "imageWidth": label.shape[1],
        }
        write_text(target, json.dumps(content, indent=1))

    def _in_order(self, label: LabelArray) -> list[Region]:
        """The regions that are drawn, the outer ones first."""
        drawn: list[Region] = []
        left: list[Region] = []
        covered = np.zeros(label.shape, bool)
        for region in regions_of(label):
            (left if self.background and region.number == 0 else drawn).append(region)
        for region in drawn:
            covered[region.box] |= region.filled
        drawn += [region for region in left if covered[region.box][region.pixels].any()]
        return sorted(drawn, key=lambda region: -int(region.filled.sum()))
