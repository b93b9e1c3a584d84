"""`ssl4seg-prepare check ROOT`: read everything in a folder of the user's own, list every fault, show what is there."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from textwrap import indent
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml
from PIL import Image, ImageDraw

from ssl4seg.data.case import ImageArray, LabelArray, Volume, checked
from ssl4seg.data.dataset import SPLITS, moments, statistics_of
from ssl4seg.data.folder import (
    DEFAULTS,
    DESCRIPTION,
    Folder,
    check_shape,
    common_channels,
    grouped,
    read_description,
    read_heads,
    shown_in,
)
from ssl4seg.data.formats import ending
from ssl4seg.data.images import Facts, convertible, facts, read_image, read_values
from ssl4seg.data.intensities import normalized
from ssl4seg.data.layout import Item, Layout, find
from ssl4seg.data.masks import IGNORED, Color, MaskReader, code_of, codes_of, is_rgb, name_of
from ssl4seg.data.split import check_disjoint
from ssl4seg.errors import UserError
from ssl4seg.pictures import Palette, Picture, fullest, grey, legend, painted, palette

TILE, GAP, CAPTION = 216, 8, 30
"""Pixels of a picture in the contact sheet, between two, and above one."""
COLUMNS, ROWS = 6, 4
MOST_CODES = 64
"""More different numbers or colours than this are no classes."""
DIM = 0.25
"""Images that do not reach this share of [0, 1] may have 10 or 12 bit in 16."""


@dataclass(kw_only=True)
class Look:
    """What is seen in one image and its mask."""

    item: Item
    faults: list[str] = field(default_factory=list)
    facts: Facts | None = None
    sums: npt.NDArray[np.float64] | None = None
    """Of its moments."""
    span: tuple[float, float] = (0.0, 0.0)
    """Lowest and highest value, normalised."""
    codes: Counter[float] = field(default_factory=Counter)
    """Pixels of each number or colour in the mask; of each class where the classes are known."""
    refused: Counter[float] = field(default_factory=Counter)
    """Pixels of each number or colour of a mask that does not hold the known classes."""


def check_folder(root: Path, *, sheet: Path | None = None, write: bool = False, every: bool = False) -> None:
    """Print a report, write the contact sheet, and with `write` the suggested dataset.yaml if there is none.

    Raises:
        UserError: with the faults, three of each kind, or with `every` all of them.
    """
    root = root.expanduser()
    if not root.is_dir():
        raise UserError(f"{root}: there is no such folder")
    faults: list[str] = []
    keys = DEFAULTS | _or_fault(faults, partial(read_description, root), {})
    described = not faults
    found = _or_fault(faults, partial(find, root, keys["group"]), None) or find(root)
    faults += found.faults
    looks, reader = _looks(found.items, keys, faults)
    if found.items or found.others:
        report(root, found, looks)
    faults += [fault for look in looks for fault in look.faults]
    if described and not keys["classes"] and (suggested := _or_fault(faults, partial(suggest, looks, keys), None)):
        keys |= suggested
        reader = _or_fault(faults, partial(_reader, keys), None)
        _tell_suggestion(root, suggested, write=write and not faults)
    elif reader:
        _tell_classes(keys["classes"], looks)
        _tell_colors(keys, looks)
    if not faults and keys["classes"]:
        _or_fault(faults, partial(_tell_splits, root, keys), None)
    good = [look for look in looks if not look.faults and look.facts]
    if good:
        sheet = sheet or Path(f"{root.resolve().name}_check.png")
        _or_fault(faults, partial(_write_sheet, sheet, good, keys, reader), None)
    if faults:
        shown = faults if every else grouped(faults)
        more = [] if every or len(faults) == len(shown) else ["--all lists every one"]
        raise UserError("\n".join([f"{len(faults)} fault{'s' if len(faults) > 1 else ''} in {root}:", *shown, *more]))
    print("no fault found")


def _or_fault(faults: list[str], step: Any, otherwise: Any) -> Any:
    """What the step gives; its UserError joins the faults instead, one a line."""
    try:
        return step()
    except UserError as error:
        faults += str(error).splitlines()
        return otherwise


# -- reading ----------------------------------------------------------------------------------------------------------


def _looks(items: Sequence[Item], keys: dict[str, Any], faults: list[str]) -> tuple[list[Look], MaskReader | None]:
    """Read everything; `keys` gets the number of channels if it has none."""
    reader = _or_fault(faults, partial(_reader, keys), None) if keys["classes"] else None
    heads = read_heads(items, None)[0] if keys["channels"] is None else {}  # what is wrong is said as all is read
    if heads:
        most = Counter(fact.channels for fact in heads.values()).most_common(1)[0][0]
        keys["channels"] = _or_fault(faults, partial(common_channels, heads), most)
        told = {item for item, fact in heads.items() if not convertible(fact.channels, keys["channels"])}
        items = [item for item in items if item not in told]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(partial(look_at, keys=keys, reader=reader), items)), reader


def _reader(keys: Mapping[str, Any]) -> MaskReader:
    ignored = {key: keys[key] for key in ("ignore_index", "ignore_color")}
    return MaskReader(num_classes=len(keys["classes"]), colors=keys["colors"], **ignored)


def look_at(item: Item, *, keys: Mapping[str, Any], reader: MaskReader | None) -> Look:
    """Read an image and its mask, each with its own fault."""
    look = Look(item=item)
    image = _or_fault(look.faults, partial(_image, item, keys), None)
    if image is not None:
        look.facts = facts(item.image, keys["channels"])
        look.sums = moments(image)
        scale = 255 if image.dtype == np.uint8 else 1
        look.span = float(image.min()) / scale, float(image.max()) / scale
    if item.mask:
        _or_fault(look.faults, partial(_look_at_mask, look, item.mask, image, reader), None)
    return look


def _image(item: Item, keys: Mapping[str, Any]) -> ImageArray:
    image = normalized(read_image(item.image, keys["channels"]), keys["normalize"])
    return checked(Volume(image, None), str(item.image), 2).image


def _look_at_mask(look: Look, mask: Path, image: ImageArray | None, reader: MaskReader | None) -> None:
    codes = codes_of(read_values(mask, colored=reader is not None and reader.colored))
    if image is not None:
        check_shape(look.item, (len(image), *image.shape[2:]), codes.shape)
    try:
        counts = _counts(reader.label(codes, mask) if reader else codes)
    except UserError:
        if len(counts := _counts(codes)) <= MOST_CODES:
            look.refused = counts
        raise
    if len(counts) > 4 * MOST_CODES:
        raise UserError(
            f"{mask}: holds {len(counts)} different values; a mask has one for each class (JPEG blurs them)"
        )
    look.codes = counts


def _counts(codes: npt.NDArray[Any]) -> Counter[float]:
    values, counts = np.unique(codes, return_counts=True)
    return Counter(dict(zip(values.tolist(), counts.tolist(), strict=True)))


# -- suggesting dataset.yaml ------------------------------------------------------------------------------------------


def suggest(looks: Sequence[Look], keys: Mapping[str, Any]) -> dict[str, Any] | None:
    """Keys of dataset.yaml that fit the masks; None where no mask could be read."""
    codes = set().union(*(look.codes for look in looks)) - _ignored(keys)
    if not codes:
        return None
    told = ", ".join(name_of(code) for code in sorted(codes)[:8]) + (", ..." if len(codes) > 8 else "")
    if not 2 <= len(codes) <= MOST_CODES or any(code != int(code) for code in codes):
        raise UserError(
            f"the masks hold {len(codes)} different value(s) ({told}); expected 2 to {MOST_CODES}, one a class"
        )
    if keys["colors"]:
        return {"classes": _names(len(keys["colors"]))}
    suggested: dict[str, Any] = {}
    ids = codes - {IGNORED}
    if min(ids) >= 0 and 1 < max(ids) + 1 <= min(2 * len(ids), IGNORED):  # nearly all of 0..K-1 occur
        number = int(max(ids)) + 1
        if IGNORED in codes:
            suggested["ignore_index"] = IGNORED
    else:
        number = len(codes)
        suggested["colors"] = _colors(codes, sum((look.codes for look in looks), Counter()))
    return {"classes": _names(number), **suggested, "channels": keys["channels"], **_statistics(looks, keys)}


def _colors(codes: Set[float], pixels: Counter[float]) -> list[Color]:
    """As dataset.yaml names them: first 0, or what most pixels have, as the background."""
    first = 0 if 0 in codes else pixels.most_common(1)[0][0]
    order = [first, *sorted(codes - {first}, key=abs)]
    colored = any(map(is_rgb, codes))
    return [name_of(code) if is_rgb(code) else f"#{3 * f'{int(code):02x}'}" if colored else int(code) for code in order]


def _names(number: int) -> list[str]:
    return ["background", *(f"class_{i}" for i in range(1, number))]


def _ignored(keys: Mapping[str, Any]) -> set[float]:
    return {code_of(keys[key]) for key in ("ignore_index", "ignore_color") if keys[key] is not None}


def _statistics(looks: Sequence[Look], keys: Mapping[str, Any]) -> dict[str, list[float]]:
    """mean and std of all images that may be trained on, if they are to be of them."""
    sums = [look.sums for look in looks if look.sums is not None and look.item.split in (None, "train")]
    if (keys["mean"], keys["std"]) != ("auto", "auto") or not sums:
        return {}
    found = statistics_of(np.sum(sums, axis=0))
    return {key: [float(f"{value:.6g}") for value in values] for key, values in found._asdict().items()}


def _tell_suggestion(root: Path, suggested: Mapping[str, Any], *, write: bool) -> None:
    file = root / DESCRIPTION
    text = _as_yaml(suggested)
    print(f"suggested {DESCRIPTION} (give the classes their names):\n{indent(text, '  ')}", end="")
    if file.exists():
        print(f"{file} is there already and is left as it is; it names no classes")
    elif not write:
        print("--write writes it")
    else:
        try:
            file.write_text(f"# Suggested by ssl4seg-prepare check; give the classes their names.\n{text}")
        except OSError as error:
            raise UserError(f"{file}: cannot be written ({error.strerror})") from None
        print(f"written: {file}")


def _as_yaml(keys: Mapping[str, Any]) -> str:
    text: str = yaml.safe_dump(dict(keys), sort_keys=False, default_flow_style=None, width=110)
    return text


def _tell_colors(keys: Mapping[str, Any], looks: Sequence[Look]) -> None:
    """Suggest `colors` where masks hold colours, or as many numbers as there are classes, that nothing describes."""
    classes = keys["classes"]
    refused = sum((look.refused for look in looks), Counter[float]())
    if keys["colors"] is not None or not refused:
        return
    codes = (set().union(*(look.codes for look in looks)) & {*range(len(classes))} | {*refused}) - _ignored(keys)
    if len(codes) > MOST_CODES or not (any(map(is_rgb, codes)) or len(codes) == len(classes)):
        return
    print(f"suggested for {DESCRIPTION} ({len(codes)} colours for {len(classes)} classes; put them in the same order):")
    print(indent(_as_yaml({"colors": _colors(codes, refused)}), "  "), end="")


# -- the report -------------------------------------------------------------------------------------------------------


def report(root: Path, found: Layout, looks: Sequence[Look]) -> None:
    """Counts, kinds, sizes, channels and values."""
    items = found.items
    masks = sum(item.mask is not None for item in items)
    given = [split for split in SPLITS if any(item.split == split for item in items)]
    print(f"{root}: {len(items)} image files, {masks} with a mask, {len(items) - masks} without; " + _places(given))
    heads = [look.facts for look in looks if look.facts]
    if found.others:
        print(f"  {len(found.others)} files of other kinds are not looked at")
    if found.copies:
        print(
            f"  {len(found.copies)} files of unlabeled/ have the names of images, as {found.copies[0].name}, "
            "and are left out as their copies; if they are others, rename them"
        )
    if not heads:
        return
    kinds = Counter(ending(item.image) for item in items)
    sizes = Counter(fact.size for fact in heads)
    print(f"  files      {_counted((kind, n) for kind, n in kinds.most_common())}")
    print(f"  images     {sum(fact.num_images for fact in heads)} (slices of volumes, or one a file)")
    print(f"  sizes      {_counted((f'{h} x {w}', n) for (h, w), n in sizes.most_common(5))} (height x width)", end="")
    print(f" and {len(sizes) - 5} others, from {min(sizes)} to {max(sizes)}" if len(sizes) > 5 else "")
    clear = sum(fact.opacity for fact in heads)
    print(f"  channels   {_counted(Counter(fact.channels for fact in heads).most_common())}", end="")
    print(f"; the opacity (alpha) of {clear} of them is left out" if clear else "")
    low, high = (f([look.span[i] for look in looks if look.facts]) for i, f in enumerate((min, max)))
    print(f"  values     {low:.4g} to {high:.4g}, as the network sees them before it standardises")
    if high < DIM:
        print(
            f"  they reach only {high:.1%} of [0, 1] (12 bit in 16?); normalize: minmax in {DESCRIPTION} stretches each"
        )


def _places(given: Sequence[str]) -> str:
    return " and ".join(f"{split}/" for split in given) if given else "one split is drawn"


def _counted(pairs: Iterable[tuple[object, int]]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in pairs)


def _tell_classes(classes: Sequence[str], looks: Sequence[Look]) -> None:
    counts = [look.codes for look in looks if look.codes]
    if not counts:
        return
    pixels = sum(counts, Counter())
    total = max(1, sum(n for code, n in pixels.items() if code != IGNORED))
    width = max(len(name) for name in classes)
    print("classes")
    for number, name in enumerate(classes):
        share, masks = pixels[number] / total, sum(number in count for count in counts)
        print(f"  {number:<3} {name:<{width}} {share:9.3%} of the pixels, in {masks} of {len(counts)} masks")
    if pixels[IGNORED]:
        print(f"  ignored {pixels[IGNORED] / pixels.total():.3%} of all pixels")


def _tell_splits(root: Path, keys: Mapping[str, Any]) -> None:
    """What training will make of the folder; it raises what training would."""
    empty = {"root": str(root), "num_classes": None, "image_size": 256}
    dataset = Folder(**Folder.completed({**empty, **keys}))
    cases = {split: dataset.cases(split) for split in SPLITS}
    check_disjoint(cases, dataset.remedy)
    print("splits")
    for split, part in cases.items():
        labeled = [case for case in part if case.labeled]
        groups, images = len({case.group for case in part}), sum(case.num_images for case in part)
        masked = sum(case.num_images for case in labeled)
        print(f"  {split:<5} {groups} cases, {images} images, {masked} of them with a mask")
    if dataset.tested_on == "val":
        print("  there is no test with masks: the model will be tested on val, which it is chosen by")
    if left := len(dataset.facts) - sum(map(len, cases.values())):
        print(f"  {left} files without a mask are left out: their cases are in val or test")


# -- the contact sheet ------------------------------------------------------------------------------------------------


def _write_sheet(file: Path, looks: Sequence[Look], keys: Mapping[str, Any], reader: MaskReader | None) -> None:
    colors, classes = palette(shown_in(keys), background=keys["background"]), keys["classes"] or []
    tiles = [_tile(look.item, keys, reader, colors) for look in _shown(looks)]
    columns, height = min(COLUMNS, len(tiles)), max(len(tile) for tile in tiles)
    canvas = np.zeros((-(-len(tiles) // columns) * height, columns * (TILE + GAP), 3), np.uint8)
    for number, tile in enumerate(tiles):
        top, left = number // columns * height, number % columns * (TILE + GAP)
        canvas[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    strip = legend(classes, range(int(colors.background), len(classes)), colors, canvas.shape[1])
    try:
        Image.fromarray(np.concatenate([strip, canvas])).save(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be written ({error})") from None
    print(f"written: {file}, {len(tiles)} images with their masks")


def _shown(looks: Sequence[Look]) -> list[Look]:
    """Evenly over all; those with masks have three quarters of the places if there are so many."""
    labeled, bare = ([look for look in looks if bool(look.item.mask) == masked] for masked in (True, False))
    places = COLUMNS * ROWS
    num_bare = min(len(bare), max(places // 4, places - len(labeled)))
    return _spread(labeled, places - num_bare) + _spread(bare, num_bare)


def _spread(looks: Sequence[Look], number: int) -> list[Look]:
    return [looks[i * len(looks) // number] for i in range(number)] if len(looks) > number else list(looks)


def _tile(item: Item, keys: Mapping[str, Any], reader: MaskReader | None, colors: Palette) -> Picture:
    """The slice with most foreground, its mask over it; a name in the corner."""
    image = _image(item, keys)
    label: LabelArray = np.zeros((len(image), *image.shape[2:]), np.uint8)
    if item.mask and reader:
        label = reader.read(item.mask)
    at = fullest(label, colors) if label.any() else len(label) // 2
    scale = TILE / max(label.shape[1:])
    height, width = (max(1, round(side * scale)) for side in label.shape[1:])
    picture = np.asarray(Image.fromarray(grey(image[at])).resize((width, height)))
    if item.mask and reader:
        mask = Image.fromarray(label[at]).resize((width, height), Image.Resampling.NEAREST)
        picture = painted(picture, np.asarray(mask), colors)
    name = item.name if len(item.name) <= 34 else f"...{item.name[-31:]}"
    words = [f"slice {at + 1} of {len(image)}"] if len(image) > 1 else []
    words += [item.split] if item.split else []
    words += [] if item.mask else ["no mask"]
    tile = Image.new("RGB", (TILE, height + CAPTION))
    tile.paste(Image.fromarray(picture), (0, CAPTION))
    ImageDraw.Draw(tile).text((1, 2), f"{name}\n{', '.join(words)}", fill="white")
    return np.asarray(tile)
