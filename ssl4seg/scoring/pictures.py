"""Pictures of images, labels and predictions, for TensorBoard, predictions, folder checks and reports."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from ssl4seg.data.case import ImageArray, LabelArray
from ssl4seg.data.masks import Color, rgb_of
from ssl4seg.keys import IGNORE

Picture = npt.NDArray[np.uint8]
"""[H, W, 3]"""
Pixels = TypeVar("Pixels", bound=npt.NDArray[np.uint8])

COLORS = ("#e64b35", "#4dbbd5", "#f2b705", "#3c5488", "#00a087", "#f39b7f", "#8491b4", "#91d1c2", "#b09c85", "#7e6148")
"""Colours of the classes except the background, if the dataset has no palette; after the last they repeat."""
TINT = 0.35
"""Share of a class's colour in the pixels within its contour."""
MIN_SIDE, MAX_SIDE = 256, 2048
"""Pixels: a small picture is enlarged until its shorter side reaches MIN_SIDE, unless the longer passes MAX_SIDE."""


class Palette(NamedTuple):
    """The colours in which the classes of a dataset are shown."""

    colors: Picture
    """[256, 3]: white for ignored pixels."""
    background: bool
    """Whether class 0 is a background, which is not painted."""

    def shows(self, label: LabelArray) -> npt.NDArray[np.bool_]:
        """The pixels of a label [...] that are painted."""
        return label >= int(self.background)

    def classes(self, label: LabelArray) -> list[int]:
        """The classes in a label [...] that are painted."""
        painted = np.unique(label[self.shows(label)])
        return [int(k) for k in painted if k != IGNORE]

    def hex(self, number: int) -> str:
        """ "#rrggbb" of a class."""
        return f"#{self.colors[number].tobytes().hex()}"


def palette(given: Sequence[Color] | None = None, *, background: bool = True) -> Palette:
    """The colours of a dataset's classes.

    Args:
        given: colours of the first classes, as in `Dataset`; other classes have `COLORS`, a background is black.
        background: whether class 0 is a background.
    """
    first = int(background)
    default = ["#000000"] * first + [COLORS[number % len(COLORS)] for number in range(IGNORE - first)]
    colors = [*(given or ()), *default[len(given or ()) :]]
    return Palette(np.array([*map(rgb_of, colors), (255, 255, 255)], np.uint8), background)


def grey(image: ImageArray) -> Picture:
    """The first three channels of [C, H, W], or the first if there are fewer than three, stretched to 0..255."""
    shown = image[:3] if len(image) >= 3 else image[:1].repeat(3, axis=0)
    low, high = float(shown.min()), float(shown.max())
    scaled = (shown - low) / (high - low) if high > low else np.zeros_like(shown)
    return (scaled * 255).astype(np.uint8).transpose(1, 2, 0)


def painted(base: Picture, label: LabelArray, colors: Palette) -> Picture:
    """Paint a label [H, W] over a picture: tint each class with its colour, and draw its contour, one pixel wide."""
    color = colors.colors[label]
    mixed = (base * (1 - TINT) + color * TINT).astype(np.uint8)
    mixed = np.where(outlines(label)[..., None], color, mixed)
    return np.where(colors.shows(label)[..., None], mixed, base)


def outlines(label: LabelArray) -> npt.NDArray[np.bool_]:
    """The pixels of [H, W] with a neighbour of another class above, below, left or right."""
    on_edge = np.zeros(label.shape, np.bool_)
    for axis in (0, 1):
        along, edges = np.moveaxis(label, axis, 0), np.moveaxis(on_edge, axis, 0)
        changes = along[1:] != along[:-1]
        edges[1:] |= changes
        edges[:-1] |= changes
    return on_edge


def enlarged(pixels: Pixels) -> Pixels:
    """Turn each pixel of a small picture, [H, W] or [H, W, 3], into a square of pixels."""
    sides = pixels.shape[:2]
    factor = max(1, min(-(-MIN_SIDE // min(sides)), MAX_SIDE // max(sides)))
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)  # type: ignore[return-value]


def panel(image: ImageArray, labels: Sequence[LabelArray], colors: Palette) -> Picture:
    """The image [C, H, W] and beside it the image with each label [H, W] painted over it, enlarged if small."""
    base = enlarged(grey(image))
    return np.concatenate([base, *(painted(base, enlarged(label), colors) for label in labels)], axis=1)


def fullest(label: LabelArray, colors: Palette, axis: int = 0) -> int:
    """The plane across `axis` of a label [S, H, W] or [X, Y, Z] with most painted pixels, else the middle one."""
    if label.shape[axis] == 1:
        return 0
    others = tuple(k for k in range(label.ndim) if k != axis)
    painted_in = (colors.shows(label) & (label != IGNORE)).sum(axis=others)
    return int(painted_in.argmax()) if painted_in.any() else label.shape[axis] // 2


MAX_STRETCH = 16
"""The thickest slices that a picture shows as thick as they are, in sides of a pixel."""


class Plane(NamedTuple):
    """A part of a case that a picture can show."""

    image: ImageArray
    """[C, h, w]"""
    labels: list[LabelArray]
    """[h, w] each"""
    words: str
    """Which part it is; "" if it is all."""
    pixel: tuple[float, float] = (1.0, 1.0)
    """Height and width of a pixel."""


def planes(
    image: ImageArray, labels: Sequence[LabelArray], colors: Palette, spacing: Sequence[float] | None = None
) -> list[Plane]:
    """The planes of a case with most painted pixels in the first label.

    Of slices [S, C, H, W] that is one slice; of a volume [1, C, X, Y, Z] one plane across each axis, z first, with x
    (or y) to the right and z upwards.

    Args:
        spacing: in mm, between slices, rows and columns, or along x, y, z; None: pixels are square.
    """
    first, second, third = spacing or (1.0, 1.0, 1.0)
    if image.ndim == 4:
        at = fullest(labels[0], colors)
        words = f"slice {at + 1} of {len(image)}" if len(image) > 1 else ""
        return [Plane(image[at], [label[at] for label in labels], words, (second, third))]
    found = []
    for axis, pixel in ((2, (second, first)), (1, (third, first)), (0, (third, second))):
        at = fullest(labels[0][0], colors, axis)
        up = -1 if axis < 2 else 1
        flat = [np.take(part[0], at, axis=axis - 3).swapaxes(-1, -2)[..., ::up, :] for part in (image, *labels)]
        found.append(Plane(flat[0], flat[1:], f"{'xyz'[axis]} {at + 1} of {image.shape[2 + axis]}", pixel))
    return found


def overlay(
    image: ImageArray, labels: Sequence[LabelArray], colors: Palette, spacing: Sequence[float] | None = None
) -> Picture:
    """The planes of a case one below the other: bare, and with each label painted over it.

    Args:
        spacing: see `planes`; pixels are as high and as wide as it says, the shortest side as in a picture of squares.
    """
    shown = planes(image, labels, colors, spacing)
    shortest = min(side for plane in shown for side in plane.pixel)
    panels = [_stretched(panel(plane.image, plane.labels, colors), plane.pixel, shortest) for plane in shown]
    width = max(picture.shape[1] for picture in panels)
    return np.concatenate([np.pad(p, ((0, 0), (0, width - p.shape[1]), (0, 0))) for p in panels])


def _stretched(picture: Picture, pixel: tuple[float, float], unit: float) -> Picture:
    """A picture whose pixels have this height and width; of those in the result both are `unit`.

    A side is stretched at most by MAX_STRETCH, because a spacing that a header has wrong would fill the memory.
    """
    factors = (min(side / unit, MAX_STRETCH) for side in pixel)
    height, width = (round(length * factor) for length, factor in zip(picture.shape, factors, strict=False))
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.NEAREST))


def captioned(picture: Picture, text: str) -> Picture:
    """Write white words on black into the upper left corner."""
    image = Image.fromarray(picture)
    draw, font = ImageDraw.Draw(image), _font(picture.shape[1])
    draw.rectangle(draw.textbbox((2, 2), text, font), fill="black")
    draw.text((2, 2), text, "white", font)
    return np.asarray(image)


def contact_sheet(pictures: Sequence[Picture], height: int, columns: int) -> Picture:
    """Pictures in rows of `columns`, each brought to `height` pixels with its proportions, on black."""
    tiles = [_tile(picture, height) for picture in pictures]
    rows = [np.concatenate(tiles[i : i + columns], axis=1) for i in range(0, len(tiles), columns)]
    width = max(row.shape[1] for row in rows)
    return np.concatenate([np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0))) for row in rows])


def _tile(picture: Picture, height: int) -> Picture:
    """The picture at `height` pixels, with a narrow black edge on the right and below."""
    width = max(1, round(picture.shape[1] * height / picture.shape[0]))
    scaled = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))
    return np.pad(scaled, ((0, 4), (0, 4), (0, 0)))


def legend(classes: Sequence[str] | Mapping[int, str], shown: Sequence[int], colors: Palette, width: int) -> Picture:
    """A strip to go above or below a picture: names of classes, each beside its colour.

    Args:
        classes: names of all classes, by their numbers.
        shown: numbers of the classes in the strip.
        width: of the picture.
    """
    font = _font(width)
    size = round(font.size)
    lengths = [2 * size + int(font.getlength(classes[k])) for k in shown]
    places, left, line = [], size // 2, 0
    for length in lengths:
        if left + length > width and left > size // 2:
            left, line = size // 2, line + 1
        places.append((left, line * 3 * size // 2 + size // 4))
        left += length + size
    image = Image.new("RGB", (width, (line + 1) * 3 * size // 2 if shown else 0))
    draw = ImageDraw.Draw(image)
    for k, (x, y) in zip(shown, places, strict=True):
        draw.rectangle((x, y, x + size, y + size), colors.hex(k), "white")
        draw.text((x + 3 * size // 2, y + size // 2), classes[k], "white", font, anchor="lm")
    return np.asarray(image).reshape(-1, width, 3)


def _font(width: int) -> ImageFont.FreeTypeFont:
    """A font that is legible on a picture of `width` pixels."""
    font = ImageFont.load_default(size=max(12, width // 96))
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font


def save_labels(label: LabelArray, path: Path, colors: Palette) -> None:
    """Write [H, W] as a PNG of class values with the palette."""
    picture = Image.fromarray(label)
    picture.putpalette(colors.colors.tobytes())
    picture.save(path)
