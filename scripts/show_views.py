"""Draw every strong operation and every mixing on one sheet.

    python scripts/show_views.py                                                # the phantom
    python scripts/show_views.py --output views.png dataset=acdc dataset.root=DATA/ACDC

A row of an operation shows the original, then a low, a middle and a high magnitude. A row of a mixing shows both
images, then the mixed image, bare and with its label. The last row shows the operations of views.strong in their order,
drawn anew for each picture.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ssl4seg.augment import mixing
from ssl4seg.augment import photometric as ph
from ssl4seg.commands.conf import conf_dir
from ssl4seg.feed.store import Store
from ssl4seg.feed.views import View, sample, strong_view
from ssl4seg.keys import IGNORE
from ssl4seg.run.assemble import build, dataset_of
from ssl4seg.scoring.pictures import painted, palette
from ssl4seg.seeding import generator

OPERATIONS = {  # with magnitudes that show what they do
    "brightness": (ph.brightness, (0.5, 1.5, 2.0)),
    "contrast": (ph.contrast, (0.2, 0.6, 1.8)),
    "gamma": (ph.gamma, (0.5, 1.5, 2.5)),
    "saturation": (ph.saturation, (0.0, 0.5, 2.0)),
    "hue": (ph.hue, (-0.25, 0.1, 0.25)),
    "grayscale": (ph.grayscale, (0.3, 0.6, 1.0)),
    "blur (pixels)": (ph.blur, (0.5, 1.0, 2.0)),
    "sharpness": (ph.sharpness, (0.0, 2.0, 4.0)),
    "noise": (ph.noise, (0.03, 0.08, 0.15)),
    "posterize (bits)": (ph.posterize, (5.0, 3.0, 2.0)),
    "solarize": (ph.solarize, (0.9, 0.6, 0.3)),
    "invert": (ph.invert, (0.3, 0.6, 1.0)),
    "autocontrast": (ph.autocontrast, (0.3, 0.6, 1.0)),
    "equalize": (ph.equalize, (0.3, 0.6, 1.0)),
    "cutout": (ph.cutout, (0.2, 0.35, 0.5)),
}
COLOR_ONLY = ("saturation", "hue", "grayscale")
CELL, NAME, CAPTION, GAP = 96, 112, 16, 6
Row = tuple[str, list[tuple[str, Image.Image]]]


def images_of(overrides: list[str]) -> tuple[Tensor, Tensor, int, dict[str, Any]]:
    """The fullest slices of two cases at the training size, K, and the configuration."""
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        config: Any = OmegaConf.to_container(compose("train", overrides=overrides), resolve=True)
    dataset = dataset_of(config["dataset"])
    cases = dataset.cases("train")
    store = Store([cases[0], cases[len(cases) // 2]], num_classes=dataset.num_classes, labels=True, device="cpu")
    first = cases[0].num_images
    foreground = [int(((label > 0) & (label != IGNORE)).sum()) if label is not None else 0 for label in store.labels]
    parts = range(first), range(first, len(store))
    raw = store.take([max(part, key=foreground.__getitem__) for part in parts])
    view: View = build(config["views"]["weak"], "views.weak")
    image, label = sample(raw, view.plain(raw.size), dataset.image_size, mirror=view.mirror)
    return image, label, dataset.num_classes, config


def drawn(image: Tensor, label: Tensor | None = None) -> Image.Image:
    """Draw an image [C, H, W] in [0, 1], not stretched, with its label [H, W] painted over it if given."""
    grey = (image.clamp(0, 1) * 255).byte().numpy()
    picture = np.repeat(grey[:1], 3, axis=0) if len(grey) < 3 else grey[:3]
    picture = picture.transpose(1, 2, 0)
    if label is not None:
        picture = painted(picture, label.numpy().astype(np.uint8), palette())
    return Image.fromarray(picture).resize((CELL, CELL), Image.Resampling.BILINEAR)


def operations(image: Tensor) -> list[Row]:
    """A row for each operation that changes such an image; grey images skip the operations on colour."""
    rows = []
    for name, (op, magnitudes) in OPERATIONS.items():
        if image.shape[1] == 3 or name not in COLOR_ONLY:
            torch.manual_seed(0)
            changed = op(image[1:].repeat(3, 1, 1, 1), torch.tensor(magnitudes))
            cells = [(f"{m:g}", drawn(x)) for m, x in zip(magnitudes, changed, strict=True)]
            rows.append((name, [("original", drawn(image[1])), *cells]))
    return rows


def mixings(image: Tensor, label: Tensor, num_classes: int) -> list[Row]:
    """A row for each way to mix two images."""
    torch.manual_seed(1)
    masks = {
        "CutMix": mixing.cutmix_mask(image),
        "CutMix (UniMatch)": mixing.cutmix_boxes(image, p=1.0),
        "CutMix (AugSeg)": mixing.beta_boxes(image, 4, 4),
        "copy-paste (BCP)": mixing.copy_paste_mask(image),
        "ClassMix": mixing.classmix_mask(label.flip(0), num_classes),
        "mixup": torch.full_like(image[:, :1], 0.3),
    }
    rows = []
    for name, mask in masks.items():
        mixed = mixing.mix(image, image.flip(0), mask)[0]
        cells = [("a", drawn(image[0], label[0])), ("b", drawn(image[1], label[1])), ("mixed", drawn(mixed))]
        if name != "mixup":  # mixup mixes the labels too
            mixed_label = mixing.mix_labels(label, label.flip(0), mask)[0]
            cells.append(("with its label", drawn(mixed, mixed_label)))
        rows.append((name, cells))
    return rows


def chain(image: Tensor, config: dict[str, Any]) -> list[Row]:
    """A row of strong views, as a method gets them."""
    chosen = [build(operation, "views.strong") for operation in config["views"]["strong"]]
    strong = [strong_view(image[1:], chosen, generator("show", i))[0] for i in range(4)]
    return [("views.strong", [("drawn", drawn(view)) for view in strong])] if chosen else []


def sheet(rows: list[Row], columns: int = 2) -> Image.Image:
    """All rows, in `columns` blocks side by side."""
    per_block = -(-len(rows) // columns)
    width = NAME + max(len(cells) for _, cells in rows) * (CELL + GAP)
    height = CELL + CAPTION + GAP
    canvas = Image.new("RGB", (columns * width + GAP, per_block * height + GAP), "white")
    pen, font, small = ImageDraw.Draw(canvas), ImageFont.load_default(12), ImageFont.load_default(11)
    for i, (name, cells) in enumerate(rows):
        left, top = i // per_block * width + GAP, i % per_block * height + GAP
        pen.text((left, top + CELL // 2 - 8), name, "black", font)
        for j, (caption, picture) in enumerate(cells):
            x = left + NAME + j * (CELL + GAP)
            canvas.paste(picture, (x, top))
            pen.text((x + CELL // 2, top + CELL + 1), caption, "black", small, anchor="ma")
    return canvas


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("strong_views.png"))
    arguments, overrides = parser.parse_known_args()
    image, label, num_classes, config = images_of(overrides)
    rows = operations(image) + mixings(image, label, num_classes) + chain(image, config)
    sheet(rows).save(arguments.output, optimize=True)
    print(f"{arguments.output}: {len(rows)} rows")


if __name__ == "__main__":
    main()
