"""Makes a folder of the user's own: discs on noise, 8-bit pictures of several sizes."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from ssl4seg.data.folder import Folder

CLASSES = ["ground", "disc"]


def drawn(number: int, size: tuple[int, int] = (40, 48)) -> tuple[np.ndarray, np.ndarray]:
    """Grey image [H, W] and its mask of 0 and 1."""
    rng = np.random.default_rng(number)
    row, column = np.mgrid[: size[0], : size[1]]
    y, x = rng.uniform(0.3, 0.7, 2) * size
    label = (np.hypot(row - y, column - x) < 9).astype(np.uint8)
    return (60 + 120 * label + rng.normal(0, 10, size)).astype(np.uint8), label


def save(file: Path, pixels: np.ndarray) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)
    return file


def describe(root: Path, **keys: Any) -> Path:
    (root / "dataset.yaml").write_text(yaml.safe_dump({"classes": CLASSES, **keys}))
    return root


def write_pairs(folder: Path, names: Mapping[str, bool] | list[str], image: Callable = lambda pixels: pixels) -> Path:
    """FOLDER/images/NAME.png and masks/NAME.png; a name with False has no mask."""
    for number, name in enumerate(names):
        pixels, label = drawn(number)
        save(folder / f"images/{name}.png", image(pixels))
        if not isinstance(names, Mapping) or names[name]:
            save(folder / f"masks/{name}.png", label)
    return folder


def write_root(root: Path, **keys: Any) -> Path:
    """Six patients with two pictures each, one of the last without a mask; one more unlabelled picture."""
    names = {f"p{number // 2}_{'ab'[number % 2]}": number < 11 for number in range(12)}
    write_pairs(root, names)
    save(root / "unlabeled/p9_a.png", drawn(20)[0])
    return describe(root, **{"group": r"(p\d)_", **keys})


def folder(root: Path, **keys: Any) -> Folder:
    """The dataset as the configuration builds it, with `keys` from the command line."""
    given = {"root": str(root), "num_classes": None, "image_size": 32, **keys}
    return Folder(**Folder.completed(given))
