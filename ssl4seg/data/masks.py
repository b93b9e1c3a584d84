"""From the numbers or colours in mask files to classes, and back.

A code is a number that stands for what a mask's pixel holds: v for the number v and for the grey [v, v, v], and
FIRST_COLOR + 65536 red + 256 green + blue for any other colour.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ssl4seg.data.case import LabelArray, Part
from ssl4seg.data.dataset import byte_counts
from ssl4seg.data.formats import PICTURE, TIFF, ending, palette_in, read_h5, whole_labels
from ssl4seg.data.images import read_values
from ssl4seg.data.orientation import STORED, Axes
from ssl4seg.errors import UserError
from ssl4seg.keys import IGNORE, is_rgb_color, is_whole

FIRST_COLOR = 2**30
"""Larger than any number in a mask."""
Color = int | str | Sequence[int]
"""A grey value (any whole number), "#rrggbb", or [red, green, blue]."""
Codes = npt.NDArray[Any]


def is_color(value: Any) -> bool:
    return is_whole(value) or is_rgb_color(value)


def rgb_of(color: Color) -> tuple[int, int, int]:
    """Red, green and blue in 0..255, all equal for a grey value."""
    if isinstance(color, int):
        return color, color, color
    red, green, blue = bytes.fromhex(color.removeprefix("#")) if isinstance(color, str) else color
    return red, green, blue


def code_of(color: Color) -> int:
    """The code of a colour as dataset.yaml names it."""
    if isinstance(color, int):
        return color
    red, green, blue = rgb_of(color)
    return red if red == green == blue else FIRST_COLOR + (red << 16 | green << 8 | blue)


def codes_of(values: npt.NDArray[Any]) -> Codes:
    """The codes [S, H, W] of numbers [S, H, W] or colours [S, H, W, 3]; whole numbers from 0 to 255 become uint8."""
    if values.ndim == 3:
        is_small = values.dtype.kind in "iu" and values.min(initial=0) >= 0 and values.max(initial=0) < 256
        return values.astype(np.uint8, copy=False) if is_small else values  # bytes are counted and looked up fast
    red, green, blue = np.moveaxis(values.astype(np.int32), -1, 0)
    codes: Codes = np.where((red == green) & (green == blue), red, FIRST_COLOR + (red << 16 | green << 8 | blue))
    return codes


def is_colored(code: float) -> bool:
    """Whether a code stands for a colour other than grey."""
    return FIRST_COLOR <= code < FIRST_COLOR + 2**24


MANY = 8
"""With more unknown numbers than this, a mask may number objects."""
MOST_COLORS = 2**16
"""A mask with more odd colours than this is a photograph, and none of them is compared with those of the classes."""
INSTANCES = (
    "; if the numbers count single objects (instance masks), save masks of classes: numpy.where(mask > 0, 1, 0) makes "
    "every object class 1"
)


def name_of(code: float) -> str:
    """A code as dataset.yaml names it: "#rrggbb" or a number."""
    return f"#{int(code) - FIRST_COLOR:06x}" if is_colored(code) else f"{code:g}"


def as_held(label: LabelArray, colors: Sequence[Color]) -> npt.NDArray[Any]:
    """Classes [S, H, W] as mask files hold them: numbers [S, H, W], or colours [S, H, W, 3] if any is other than grey.

    Args:
        colors: the number or colour of each class.
    """
    codes = [code_of(color) for color in colors]
    if any(map(is_colored, codes)):
        return np.array([rgb_of(color) for color in colors], np.uint8)[label]
    kind = np.result_type(np.min_scalar_type(min(codes)), np.min_scalar_type(max(codes)))
    return np.array(codes, kind)[label]


def differing_palettes(masks: Sequence[Path], names: str = "in dataset.yaml (colors)") -> str | None:
    """The message about masks whose palettes give one number two colours, or one colour two numbers; None if none do.

    Such numbers cannot be compared from file to file, only the colours can. Pixels are read only where the palettes in
    the headers differ, for the numbers in use.

    Args:
        names: where the user is to name the colours of the classes.
    """
    pictures = [file for file in masks if ending(file) in (*PICTURE, *TIFF)]
    with ThreadPoolExecutor(16) as pool:
        found = zip(pictures, pool.map(palette_in, pictures), strict=True)
        palettes = {file: colors for file, colors in found if colors is not None}
        if len({*palettes.values()}) < 2:
            return None
        used = pool.map(lambda file: np.unique(read_values(file, colored=False)).tolist(), palettes)
    pairs = [
        (number, "#" + colors[number].hex(), file)
        for (file, colors), numbers in zip(palettes.items(), used, strict=True)
        for number in numbers
    ]
    first: dict[int | str, tuple[int, str, Path]] = {}
    for pair in pairs:
        for known in (first.setdefault(key, pair) for key in pair[:2]):
            if known[:2] != pair[:2]:
                shown = " and ".join(f"{number} is {color} in {file.name}" for number, color, file in (known, pair))
                return (
                    f"{pair[2]}: the palettes of the masks differ: {shown}; name the colour of each class {names}, and "
                    "the masks are read by colour"
                )
    return None


def distances(codes: npt.ArrayLike, others: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """[N, M]: how far codes [N] are from others [M], in that of red, green and blue in which they differ most."""
    channels = _channels(np.asarray(codes))
    return np.stack([np.abs(channels - color).max(axis=1) for color in _channels(np.asarray(others))], axis=1)


def _channels(codes: Codes) -> npt.NDArray[np.float64]:
    """[N, 3]: red, green and blue of codes [N]; a number has itself three times."""
    colored = (codes >= FIRST_COLOR) & (codes < FIRST_COLOR + 2**24)
    packed = np.where(colored, codes, 0).astype(np.int64) - FIRST_COLOR
    rgb = np.stack([packed >> 16 & 255, packed >> 8 & 255, packed & 255], axis=1)
    return np.where(colored[:, None], rgb, codes[:, None]).astype(np.float64)


class MaskReader:
    """Reads masks of any kind of file.

    Args:
        num_classes: K.
        colors: the colour or grey value of each class in the masks; with None the masks hold the classes 0..K-1.
        class_map: the class of each of `colors`, or of each number from 0, of which IGNORE is none; None: each its own.
        ignore_index, ignore_color: a number and a colour that become IGNORE.
        snap: a pixel of another colour becomes the class (or IGNORE) of the nearest one, if its red, green and blue
            each lie at most so far from that; of two that are as near the first counts. 0: such a mask is refused.
        listed_in: what lists the numbers or colours of the classes, and is to list an unknown one too; None: the keys
            of dataset.yaml.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        colors: Sequence[Color] | None,
        class_map: Sequence[int] | None = None,
        ignore_index: int | None = None,
        ignore_color: Color | None = None,
        snap: float = 0,
        listed_in: str | None = None,
    ) -> None:
        numbers = range(num_classes) if class_map is None else class_map
        if colors is not None and len(colors) != len(numbers):
            raise UserError(
                f"dataset.colors={list(colors)}: expected {len(numbers)} colours, one for each class in the masks"
            )
        if {*numbers} - {IGNORE} != {*range(num_classes)}:
            raise UserError(
                f"dataset.class_map={list(numbers)}: expected every class from 0 to {num_classes - 1}; {IGNORE}: none"
            )
        if snap and colors is None:
            raise UserError(
                f"dataset.snap_colors={snap:g}: needs dataset.colors, the colour of each class in the masks"
            )
        codes = [code_of(color) for color in (range(len(numbers)) if colors is None else colors)]
        table = dict(zip(codes, numbers, strict=True))
        if len(table) < len(numbers):
            raise UserError(f"dataset.colors={colors}: two classes have the same colour")
        for key, color in (("ignore_index", ignore_index), ("ignore_color", ignore_color)):
            number = IGNORE if color is None else table.setdefault(code_of(color), IGNORE)
            if number != IGNORE:
                raise UserError(f"dataset.{key}={color}: class {number} has it in the masks; expected another")
        self.num_held, self.colored, self.snap = len(numbers), colors is not None, snap
        self.listed_in = listed_in
        self.codes = np.array(sorted(table))
        self.classes = np.array([table[code] for code in sorted(table)], np.uint8)

    def read(self, path: Path, part: Part = (), axes: Axes = STORED) -> LabelArray:
        """[S, H, W] in 0..K-1 or IGNORE; only `part` of an h5 volume; laid along `axes`."""
        return self.label(codes_of(read_values(path, colored=self.colored, part=part, axes=axes)), path)

    def label(self, codes: Codes, path: Path) -> LabelArray:
        """The same from the file's codes [S, H, W]."""
        if codes.dtype == np.uint8:  # a table of all 256 is ten times as fast
            class_of, is_known = self._look_up(np.arange(256))
            if not byte_counts(codes)[~is_known].any():
                return class_of[codes]
            label, known = class_of[codes], is_known[codes]
        else:
            label, known = self._look_up(codes)
        if known.all():
            return label
        odd, place, counts = np.unique(codes[~known], return_inverse=True, return_counts=True)
        classes, is_near = self._nearest(odd)
        if not is_near.all():
            far = ~is_near
            raise UserError(f"{path}: {self._unknown(odd[far], counts[far], ending(path), codes.size)}")
        label[~known] = classes[place]
        return label

    def num_odd(self, codes: Codes) -> int:
        """The number of pixels that have none of the colours, and are snapped to the nearest."""
        return int((~self._look_up(codes)[1]).sum()) if self.snap else 0

    def _nearest(self, odd: Codes) -> tuple[LabelArray, npt.NDArray[np.bool_]]:
        """The class of the colour that is nearest to each of the codes [N], and whether it is within `snap`."""
        if not self.snap or len(odd) > MOST_COLORS:
            return np.zeros(len(odd), np.uint8), np.zeros(len(odd), bool)
        away = distances(odd, self.codes)
        return self.classes[away.argmin(axis=1)], away.min(axis=1) <= self.snap

    def _look_up(self, codes: Codes) -> tuple[LabelArray, npt.NDArray[np.bool_]]:
        """The class of each code, and whether the code is known."""
        place = np.searchsorted(self.codes, codes).clip(max=len(self.codes) - 1)
        return self.classes[place], self.codes[place] == codes

    def _unknown(self, codes: Codes, counts: Codes, kind: str, size: int) -> str:
        """The message about unknown codes in a file of the ending `kind` with so many pixels."""
        by_count = np.argsort(-counts, kind="stable")
        shown = ", ".join(f"{name_of(codes[i])} ({counts[i]} pixels)" for i in by_count[:5])
        shown += ", ..." if len(codes) > 5 else ""
        if kind in (".jpg", ".jpeg") or (self.colored and len(codes) > MANY):
            share = f"{counts.sum() / size:.2%} of its pixels have unknown colours, as {shown}"
            cause = "JPEG blurs masks" if kind in (".jpg", ".jpeg") else "its edges may be smoothed (anti-aliased)"
            if self.snap:
                return f"{share}, farther than snap_colors={self.snap:g} from the nearest colour; {cause}"
            way_out = "let snap_colors: 8 in dataset.yaml take the nearest of its colors up to that distance"
            if self.listed_in:
                way_out = f"add them to {self.listed_in}"
            return f"{share}; {cause}: save masks as PNG with hard edges, or {way_out}"
        if any(code % 1 for code in codes.tolist()):
            return (
                f"holds values that are no whole numbers: {shown}; a mask has one whole number for each class: was it "
                "scaled, or resampled other than by the nearest neighbour?"
            )
        if self.colored:
            are = "colours" if any(map(is_colored, [*self.codes, *codes])) or not self.listed_in else "numbers"
            place = self.listed_in or "colors in dataset.yaml, or ignore_color"
            return f"unknown {are} {shown}; add them to {place}, or mend the mask"
        if any(map(is_colored, codes.tolist())):
            return f"has colours {shown}; name the colour of each class in dataset.yaml (colors)"
        hint = f"; if {IGNORE} is a class: colors: [0, {IGNORE}], if it is to be ignored: ignore_index: {IGNORE}"
        if self.listed_in:
            hint = '; if it is to be ignored, call it "ignore" there'
        return (
            f"label values {shown} lie outside the {self.num_held} classes 0..{self.num_held - 1}; add them to "
            f"{self.listed_in or 'classes in dataset.yaml'} or mend the mask"
            f"{hint if codes.tolist() == [IGNORE] else ''}{INSTANCES if len(codes) > MANY else ''}"
        )


def read_labels(file: Path, ignore_index: int | None, part: Part = ()) -> LabelArray:
    """The classes [S, H, W] that `label` of an h5 file of a published dataset holds.

    Args:
        ignore_index: the number that becomes IGNORE; None if there is none.
        part: read only this part.
    """
    label = whole_labels(read_h5(file, "label", part))
    if ignore_index is not None:
        label = np.where(label == ignore_index, IGNORE, label)
    elif (label == IGNORE).any():
        raise UserError(f"{file}: label value {IGNORE} lies outside the classes; is it dataset.ignore_index={IGNORE}?")
    if label.min() < 0 or label.max() > 255 or (label != label.astype(np.uint8)).any():
        raise UserError(f"{file}: label values from {label.min()} to {label.max()}; expected whole numbers 0 to 255")
    return label.astype(np.uint8)
