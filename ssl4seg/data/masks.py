"""From what mask files hold to classes: class ids, grey values or colours.

A code stands for a number or colour: v for the number v and for the colour [v, v, v], RGB and more for any other.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ssl4seg.data.case import LabelArray
from ssl4seg.data.formats import ending
from ssl4seg.data.images import read_values
from ssl4seg.errors import UserError
from ssl4seg.keys import is_rgb_color, is_whole

IGNORED = 255
"""In a label, what nothing counts."""
RGB = 2**30
"""Beyond the numbers that masks hold."""
Color = int | str | Sequence[int]
"""A grey value (any whole number), "#rrggbb", or [red, green, blue]."""
Codes = npt.NDArray[Any]


def is_color(value: Any) -> bool:
    return is_whole(value) or is_rgb_color(value)


def rgb_of(color: Color) -> tuple[int, int, int]:
    """Red, green and blue in 0..255; a grey value is all three."""
    if isinstance(color, int):
        return color, color, color
    red, green, blue = bytes.fromhex(color.removeprefix("#")) if isinstance(color, str) else color
    return red, green, blue


def code_of(color: Color) -> int:
    """The code of a colour that stands in dataset.yaml."""
    if isinstance(color, int):
        return color
    red, green, blue = rgb_of(color)
    return red if red == green == blue else RGB + (red << 16 | green << 8 | blue)


def codes_of(values: npt.NDArray[Any]) -> Codes:
    """[S, H, W] of numbers as they are, or of colours [S, H, W, 3]."""
    if values.ndim == 3:
        return values
    red, green, blue = np.moveaxis(values.astype(np.int32), -1, 0)
    codes: Codes = np.where((red == green) & (green == blue), red, RGB + (red << 16 | green << 8 | blue))
    return codes


def is_rgb(code: float) -> bool:
    """Whether a code stands for a colour that is no grey."""
    return RGB <= code < RGB + 2**24


def name_of(code: float) -> str:
    """As the user would write it."""
    return f"#{int(code) - RGB:06x}" if is_rgb(code) else f"{code:g}"


def as_held(label: LabelArray, colors: Sequence[Color]) -> npt.NDArray[Any]:
    """Classes [S, H, W] as masks hold them: numbers [S, H, W], or [S, H, W, 3] where a class has a colour but grey.

    Args:
        colors: of each class.
    """
    codes = [code_of(color) for color in colors]
    if any(map(is_rgb, codes)):
        return np.array([rgb_of(color) for color in colors], np.uint8)[label]
    kind = np.result_type(np.min_scalar_type(min(codes)), np.min_scalar_type(max(codes)))
    return np.array(codes, kind)[label]


class MaskReader:
    """Reads masks. Without colours their numbers are the classes; with colours each class has one.

    Args:
        num_classes: K.
        colors: of each class.
        ignore_index, ignore_color: a number and a colour that nothing counts.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        colors: Sequence[Color] | None,
        ignore_index: int | None = None,
        ignore_color: Color | None = None,
    ) -> None:
        if colors is not None and len(colors) != num_classes:
            raise UserError(f"dataset.colors={colors}: expected {num_classes} colours, one for each class")
        codes = [code_of(color) for color in (range(num_classes) if colors is None else colors)]
        table = {code: number for number, code in enumerate(codes)}
        if len(table) < num_classes:
            raise UserError(f"dataset.colors={colors}: two classes have the same colour")
        for key, color in (("ignore_index", ignore_index), ("ignore_color", ignore_color)):
            number = IGNORED if color is None else table.setdefault(code_of(color), IGNORED)
            if number != IGNORED:
                raise UserError(f"dataset.{key}={color}: is what class {number} has in the masks; expected another")
        self.num_classes, self.colored = num_classes, colors is not None
        self.codes = np.array(sorted(table))
        self.classes = np.array([table[code] for code in sorted(table)], np.uint8)

    def read(self, path: Path, index: int | None = None) -> LabelArray:
        """[S, H, W] in 0..K-1 or IGNORED; of an h5 volume only slice `index`."""
        return self.label(codes_of(read_values(path, colored=self.colored, index=index)), path)

    def label(self, codes: Codes, path: Path) -> LabelArray:
        """The same from codes [S, H, W] of the file."""
        if codes.dtype == np.uint8:  # a table is an order of magnitude sooner
            every, there = self._look_up(np.arange(256))
            label, known = every[codes], there[codes]
        else:
            label, known = self._look_up(codes)
        if not known.all():
            raise UserError(f"{path}: {self._unknown(*np.unique(codes[~known], return_counts=True), ending(path))}")
        return label

    def _look_up(self, codes: Codes) -> tuple[LabelArray, npt.NDArray[np.bool_]]:
        place = np.searchsorted(self.codes, codes).clip(max=len(self.codes) - 1)
        return self.classes[place], self.codes[place] == codes

    def _unknown(self, codes: Codes, counts: Codes, kind: str) -> str:
        most = np.argsort(-counts, kind="stable")[:5]
        told = ", ".join(f"{name_of(codes[i])} ({counts[i]} pixels)" for i in most)
        told += ", ..." if len(codes) > 5 else ""
        if kind in (".jpg", ".jpeg"):
            return f"unknown colours {told}; JPEG blurs masks, keep them as PNG"
        if self.colored:
            return f"unknown colours {told}; add them to colors in dataset.yaml, or ignore_color, or mend the mask"
        if any(map(is_rgb, codes.tolist())):
            return f"has colours {told}; say in dataset.yaml which colour is which class (colors)"
        hint = "; if 255 is a class: colors: [0, 255], if nothing counts it: ignore_index: 255"
        return (
            f"label values {told} lie outside the {self.num_classes} classes 0..{self.num_classes - 1}; add them to "
            f"classes in dataset.yaml or mend the mask{hint if codes.tolist() == [255] else ''}"
        )
