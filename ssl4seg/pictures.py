"""Pictures of images, labels and predictions: for TensorBoard and beside predictions."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from ssl4seg.data.case import FloatArray, LabelArray
from ssl4seg.types import IGNORE

Picture = npt.NDArray[np.uint8]
"""[H, W, 3]"""

COLORS = ("#e64b35", "#4dbbd5", "#f2b705", "#3c5488", "#00a087", "#f39b7f", "#8491b4", "#91d1c2", "#b09c85", "#7e6148")
"""Of the classes 1, 2, ...; more classes begin again. Background shows the image."""


def palette() -> Picture:
    """[256, 3]: black for background, white for ignored pixels."""
    colors = np.zeros((256, 3), np.uint8)
    for value in range(1, IGNORE):
        color = COLORS[(value - 1) % len(COLORS)]
        colors[value] = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    colors[IGNORE] = 255
    return colors


def grey(image: FloatArray) -> Picture:
    """[C, H, W] stretched to 0..255, the first channel or the first three."""
    shown = image[:3] if len(image) >= 3 else image[:1].repeat(3, axis=0)
    low, high = float(shown.min()), float(shown.max())
    scaled = (shown - low) / (high - low) if high > low else np.zeros_like(shown)
    return (scaled * 255).astype(np.uint8).transpose(1, 2, 0)


def overlay(image: FloatArray, label: LabelArray, opacity: float = 0.5) -> Picture:
    """Image [C, H, W] with the label [H, W] painted over it."""
    base, color = grey(image), palette()[label]
    mixed = (base * (1 - opacity) + color * opacity).astype(np.uint8)
    return np.where((label > 0)[..., None], mixed, base)


def panel(image: FloatArray, labels: Sequence[LabelArray]) -> Picture:
    """The bare image, then one overlay for each label, side by side."""
    return np.concatenate([grey(image), *(overlay(image, label) for label in labels)], axis=1)


def captioned(picture: Picture, text: str) -> Picture:
    """White words on black in the upper left corner."""
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    draw.rectangle(draw.textbbox((1, 1), text), fill="black")
    draw.text((1, 1), text, fill="white")
    return np.asarray(image)


def fullest(label: LabelArray) -> int:
    """The slice of [S, H, W] with the most foreground."""
    return int(((label > 0) & (label != IGNORE)).sum(axis=(1, 2)).argmax())


def save_labels(label: LabelArray, path: Path) -> None:
    """[H, W] as a PNG of class values with a colour palette."""
    picture = Image.fromarray(label)
    picture.putpalette(palette().tobytes())
    picture.save(path)
