"""A legend: the file that names the colour of each class in masks.

    road:128,64,128::          labelmap.txt of CVAT and Datumaro; road::: on every line: the colours of PASCAL VOC
    Animal,64,128,64           class_dict.csv, with a head
    64 128 64   Animal         label_colors.txt of CamVid
    {"road": "#804080"}        JSON, also [128, 64, 128]

A line is a name and a colour, as #rrggbb or three numbers, in any order.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ssl4seg.data.imports.content import BACKGROUND, Choices
from ssl4seg.data.masks import MaskReader, is_color, rgb_of
from ssl4seg.errors import UserError
from ssl4seg.userfiles import MAX_YAML, read_json, read_text

LABELMAP = "labelmap.txt"
FILES = (LABELMAP, "class_dict.csv", "label_colors.txt", "legend.txt", "legend.csv", "legend.json", "classes.csv")
"""The names that are looked for in a source."""
IGNORED = ("ignore", "__ignore__", "void")
"""Names of what nothing counts, in small letters."""
COLOR = re.compile(r"#([0-9a-fA-F]{6})\b|(?<![\d.#])(\d{1,3})[\s,;]+(\d{1,3})[\s,;]+(\d{1,3})(?![\d.])")
BLACK = "#000000"
COLORLESS = re.compile(r"(.+)::[^:]*:[^:]*$")
"""A line of labelmap.txt (name:color:parts:actions) whose class has no colour."""


class Legend(NamedTuple):
    """Classes with their colours."""

    classes: list[str]
    palette: list[str]
    """"#rrggbb" of each class."""
    ignored: str | None
    """The colour that nothing counts."""
    keys: dict[str, Any]
    """Further keys of dataset.yaml."""
    notes: list[str]
    file: Path

    def reader(self, void: str | None = None) -> MaskReader:
        """Reads masks by these colours.

        Args:
            void: a colour that nothing counts, if the legend names neither it nor another one.
        """
        ignored = self.ignored or (void if void not in self.palette else None)
        return MaskReader(
            num_classes=len(self.classes), colors=self.palette, ignore_color=ignored, listed_in=str(self.file)
        )


def file_of(top: Path) -> Path | None:
    """The legend in a folder."""
    return next((top / name for name in FILES if (top / name).is_file()), None)


def legend_of(top: Path, choices: Choices) -> Legend | None:
    """The legend that the user gave, or that of a folder; None without one.

    Raises:
        UserError: it cannot be read, or two classes have one name or one colour.
    """
    file = choices.legend or file_of(top)
    if file is None:
        return None
    pairs = list(_of_json(file) if file.suffix.lower() == ".json" else _of_lines(file))
    ignored = [color for name, color in pairs if name.lower() in IGNORED]
    named = [(name, color) for name, color in pairs if name.lower() not in IGNORED]
    if len(ignored) > 1:
        raise UserError(
            f"{file}: {len(ignored)} names are among {', '.join(IGNORED)}, which nothing counts; expected one"
        )
    for what, values in (("name", [name for name, _ in pairs]), ("colour", [color for _, color in pairs])):
        if twice := sorted({value for value in values if values.count(value) > 1}):
            raise UserError(f"{file}: the {what} {twice[0]} comes twice; expected one for each class")
    notes = [f"{file.name}: what is called {pairs[i][0]} is ignored" for i in _places(pairs)]
    if BLACK in [color for _, color in pairs]:
        has_background = any(color == BLACK and name.lower().strip("_") in (BACKGROUND, "bg") for name, color in named)
        named.sort(key=lambda pair: not (has_background and pair[1] == BLACK))
        keys: dict[str, Any] = {} if has_background else {"background": False}
    else:
        named, keys = [(BACKGROUND, BLACK), *named], {}
        notes.append(f"{file.name} does not name black, which is taken for background")
    classes, palette = [name for name, _ in named], [color for _, color in named]
    return Legend(classes, palette, next(iter(ignored), None), keys, notes, file)


def _places(pairs: list[tuple[str, str]]) -> list[int]:
    return [place for place, (name, _) in enumerate(pairs) if name.lower() in IGNORED]


def _of_lines(file: Path) -> Iterator[tuple[str, str]]:
    """Name and colour of each line. Comments (#) and a head without a colour are left out."""
    lines = read_text(file, limit=MAX_YAML).splitlines()
    bare = [COLORLESS.match(line) for line in lines if line.strip() and not line.startswith("#")]
    if bare and all(bare):  # Datumaro writes no colours where the data had none, and takes these for the masks
        yield from ((each[1].strip(), voc_color(number)) for number, each in enumerate(bare) if each)
        return
    for number, line in enumerate(lines, 1):
        found = COLOR.search(line)
        if found is None:
            if line.strip() and not line.lstrip().startswith("#") and number > 1:
                raise UserError(
                    f"{file}: line {number}: {line.strip()[:60]!r} has no colour; expected name:red,green,blue"
                )
            continue
        if line.lstrip().startswith("# "):
            continue
        before, after = line[: found.start()].rstrip(), line[found.end() :]
        if before.endswith(":") and before.strip(": "):  # labelmap.txt: a name may hold the other signs
            name = before[:-1].strip(" \"'")
        else:
            name = re.split(r"[:,;\t]", f"{before} {after}".strip(" :,;\t\"'"))[0].strip(" \"'")
        rgb = f"#{found[1].lower()}" if found[1] else _hex([int(found[i]) for i in (2, 3, 4)], file, name)
        if not name:
            raise UserError(f"{file}: line {number}: {line.strip()[:60]!r} has no name; expected name:red,green,blue")
        yield name, rgb


def _of_json(file: Path) -> Iterator[tuple[str, str]]:
    content = read_json(file)
    if isinstance(content, list) and all(isinstance(each, dict) for each in content):
        content = {each.get("name"): each.get("color") for each in content}
    if not isinstance(content, dict) or not content:
        raise UserError(f'{file}: expected {{"name": "#rrggbb", ...}}')
    for name, color in content.items():
        if not isinstance(name, str) or not name.strip() or not is_color(color):
            raise UserError(
                f'{file}: {str(name)[:60]!r}: {str(color)[:60]!r}: expected a name and "#rrggbb" or [red, green, blue]'
            )
        yield name.strip(), _hex(list(rgb_of(color)), file, name)


def voc_color(number: int) -> str:
    """The colour of a class in PASCAL VOC's palette: the bits of its number, by turns in red, green and blue."""
    rgb = [0, 0, 0]
    for place in range(8):
        for channel in range(3):
            rgb[channel] |= (number >> (3 * place + channel) & 1) << 7 - place
    return f"#{bytes(rgb).hex()}"


def _hex(rgb: list[int], file: Path, name: str) -> str:
    if not 0 <= min(rgb) <= max(rgb) <= 255:
        raise UserError(f"{file}: {name}: the colour {rgb} has numbers below 0 or above 255")
    return f"#{bytes(rgb).hex()}"
