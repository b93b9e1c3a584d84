"""Makes a dataset of small pictures of several sizes; it stands for VOC and Cityscapes in runs of a second."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import yaml
from PIL import Image

from ssl4seg.data.case import Case, Volume
from ssl4seg.data.dataset import Common, Dataset, Split
from ssl4seg.data.formats import picture_size, read_mask
from ssl4seg.data.images import read_picture
from ssl4seg.keys import IGNORE

CLASSES = ("ground", "disc", "box")
SIZES = ((40, 56), (56, 40), (48, 48), (30, 64))


class Shapes(Dataset):
    """ROOT/<split>/<name>.png with its mask <name>_mask.png; there is no test split."""

    name = "shapes"
    words = ("images", "images")
    value_bytes = 1
    tested_on: Split = "val"

    def __init__(self, *, root: str, **common: Unpack[Common]) -> None:
        super().__init__(**common)
        self.root = Path(root)

    def cases(self, split: Split) -> list[Case]:
        images = sorted(file for file in (self.root / split).glob("*.png") if not file.stem.endswith("_mask"))
        return [self._case(file) for file in images]

    def _case(self, file: Path) -> Case:
        read = partial(_read, file, self.channels)
        return Case(name=file.stem, group=file.stem, num_images=1, size=picture_size(file), labeled=True, read=read)


def _read(file: Path, channels: int) -> Volume:
    return Volume(read_picture(file, channels)[None], read_mask(file.with_name(f"{file.stem}_mask.png"))[None])


def picture(number: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """RGB [H, W, 3] and mask [H, W]: a red disc and a blue box on green, with ignored pixels where they begin."""
    rng = np.random.default_rng(number)
    row, column = np.mgrid[: size[0], : size[1]]
    label = np.zeros(size, np.uint8)
    y, x = rng.uniform(0.3, 0.7, 2) * size
    away = np.hypot(row - y, column - x)
    top, left = rng.integers(0, size[0] - 12), rng.integers(0, size[1] - 12)
    label[top : top + 12, left : left + 12] = 2
    label[away < 11], label[away < 9] = IGNORE, 1
    color = np.array([[60, 160, 70], [200, 60, 50], [50, 80, 210]])[np.where(label == IGNORE, 0, label)]
    return np.clip(color + rng.normal(0, 15, color.shape), 0, 255).astype(np.uint8), label


def write_shapes(root: Path, *, train: int = 8, val: int = 3, sizes: Sequence[tuple[int, int]] = SIZES) -> Path:
    """The pictures of both splits."""
    for split, first, count in (("train", 0, train), ("val", 100, val)):
        (root / split).mkdir(parents=True)
        for number in range(first, first + count):
            image, label = picture(number, sizes[number % len(sizes)])
            Image.fromarray(image).save(root / split / f"p{number:03d}.png")
            Image.fromarray(label).save(root / split / f"p{number:03d}_mask.png")
    return root


def keys(root: Path, **changes: Any) -> dict[str, Any]:
    """The YAML that would stand in conf/dataset, without the recipe."""
    common = {"classes": list(CLASSES), "num_classes": 3, "channels": 3, "image_size": 32, "normalize": "none"}
    own = {"ignore_index": IGNORE, "mean": "auto", "std": "auto", "scoring": "pixels", "root": str(root)}
    return {**common, **own, **changes}


def shapes(root: Path, **changes: Any) -> Shapes:
    return Shapes(**keys(root, **changes))


def write_conf(folder: Path, root: Path, **changes: Any) -> tuple[str, ...]:
    """FOLDER/dataset/shapes.yaml; returns the overrides of a short run on it."""
    defaults = ["_self_", {"override /views": "natural"}, {"override /inference": "whole"}]
    recipe = {"iterations": 4, "eval_every": 2, "batch_size": 2, "lr": 0.05}
    dataset = {"_target_": "natural.Shapes", **keys(root, **changes)}
    content = {"defaults": defaults, "dataset": dataset, "recipe": recipe}
    (folder / "dataset").mkdir(parents=True)
    (folder / "dataset/shapes.yaml").write_text(
        "# @package _global_\n# Small pictures.\n" + yaml.safe_dump(content, sort_keys=False)
    )
    machine = ("device=cpu", "precision=32", "num_threads=1", "engine.log_every=1")
    small = ("network.channels=[4,8]", "network.dropout=[0.1,0.1]")
    return ("--config-dir", str(folder), *machine, *small, "dataset=shapes")
