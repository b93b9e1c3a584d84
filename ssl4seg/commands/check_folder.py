"""`ssl4seg-prepare check ROOT`: read a folder of the user's own, print a report with its faults, paint some images."""

import math
import os
import shlex
import statistics
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

from ssl4seg.data import decathlon, leaks
from ssl4seg.data.case import ImageArray, LabelArray, Volume, checked, full_scale
from ssl4seg.data.classes import colors_of, numbered, with_classes
from ssl4seg.data.dataset import SPLITS, byte_counts, moments, shape_of, statistics_of
from ssl4seg.data.folder import (
    DEFAULTS,
    DESCRIPTION,
    Folder,
    by_kind,
    classes_listed_in,
    common_channels,
    fitting_side,
    how_of,
    note_on_size,
    notes_on_volumes,
    palette_of,
    read_description,
    read_headers,
    space_of,
)
from ssl4seg.data.formats import PICTURE, TIFF, ending
from ssl4seg.data.grid import grid_of
from ssl4seg.data.images import Facts, axes_of_mask, convertible, facts, read_values
from ssl4seg.data.items import Item, Layout, as_read, axes_of_label, check_shape, facts_of_image, pixels_of
from ssl4seg.data.layout import find
from ssl4seg.data.masks import (
    INSTANCES,
    MANY,
    Color,
    MaskReader,
    code_of,
    codes_of,
    differing_palettes,
    distances,
    is_colored,
    name_of,
)
from ssl4seg.data.orientation import Space
from ssl4seg.data.split import check_disjoint
from ssl4seg.data.volumes import as_stored, spacing_of, stood
from ssl4seg.errors import UserError
from ssl4seg.keys import IGNORE
from ssl4seg.scoring.pictures import Palette, Picture, Plane, grey, legend, painted, palette, planes

TILE, GAP, CAPTION = 216, 8, 30
"""In the contact sheet: side of a picture, space between two, and height of a caption, in pixels."""
COLUMNS, ROWS = 6, 4
MAX_CODES = 64
"""A mask with more different numbers or colours than this does not hold classes."""
IMAGE_SIZE = 256
"""The default of dataset.image_size, in conf/dataset/folder.yaml."""
STEP, LONGEST = 16, 96
"""Of each axis of a suggested image_size for volumes: networks halve it four times; longer ones are cut to patches."""
THIN = 16
"""Where volumes usually have fewer voxels than this along one axis, and half of the others', they are thin stacks."""
SHORTEST = 4
"""An image with fewer voxels along an axis is no volume; the least of dataset.image_size."""
COMMON, MOST_ODD = 0.01, 0.3
"""Colours with at least this share of the pixels may be classes, if all others together have at most that share."""
NEAR = 16
"""The largest distance of colours that JPEG makes of one."""
DIM = 0.25
"""If no value of the images reaches this, they may hold 10 or 12 bits in 16."""


@dataclass(kw_only=True)
class Look:
    """Facts read from one image and its mask, and the faults of both."""

    item: Item
    faults: list[str] = field(default_factory=list)
    facts: Facts | None = None
    size: tuple[int, ...] = ()
    """Of the image as it is read: height and width, or the lengths of a volume's axes."""
    mask_facts: Facts | None = None
    """The header of a mask that is a picture or TIFF."""
    thumbnail: leaks.Thumbnail | None = None
    sums: npt.NDArray[np.float64] | None = None
    """The image's moments, see `dataset.moments`."""
    span: tuple[float, float] = (0.0, 0.0)
    """Lowest and highest value after normalisation."""
    codes: Counter[float] = field(default_factory=Counter)
    """Pixels of each number or colour in the mask, or of each class if the classes are known."""
    refused: Counter[float] = field(default_factory=Counter)
    """Pixels of each number or colour in a mask that is refused, because some belong to no known class."""
    odd: int = 0
    """Pixels of the mask that have none of the colours, and are snapped to the nearest."""


def check_folder(root: Path, *, sheet: Path | None = None, write: bool = False, every: bool = False) -> None:
    """Print a report, write the contact sheet, and with `write` the suggested dataset.yaml if there is none.

    Raises:
        UserError: lists the faults, three of each kind, or with `every` all of them.
    """
    root = root.expanduser()
    if not root.is_dir():
        raise UserError(f"{root}: there is no such folder")
    faults: list[str] = []
    keys = DEFAULTS | _attempt(faults, partial(read_description, root), {})
    keys = _attempt(faults, partial(with_classes, keys), keys | {"class_map": None})
    described = not faults
    how = how_of(keys)
    layout = _attempt(faults, partial(find, root, keys["group"], how), None) or find(root, None, how)
    faults += layout.faults
    looks, reader = _looks(root, layout.items, keys, faults)
    if layout.items or layout.others:
        report(root, layout, looks, keys)
        axes = len(shape_of(keys["image_size"]))
        spacings = [look.facts.spacing for look in looks if look.facts]
        on_grid = filter(None, [grid_of(keys).note(spacings)])
        for note in [*_attempt([], partial(notes_on_volumes, layout.items, _space(keys), axes=axes), []), *on_grid]:
            print(f"  {note}")
    faults += [fault for look in looks for fault in look.faults]
    if described and not keys["classes"] and (suggested := _attempt(faults, partial(suggest, looks, keys), None)):
        keys |= suggested
        reader = _attempt(faults, partial(_reader, keys, root), None)
        _print_suggestion(root, suggested, write=write, num_faults=len(faults))
        _print_classes(keys, looks, of_file=True)
    elif reader:
        faults += _missing_classes(root, keys, looks)
        _print_classes(keys, looks)
        _print_colors(keys, looks)
    warnings: list[str] = []
    if not faults and keys["classes"] and (dataset := _attempt(faults, partial(_dataset, root, keys), None)):
        _print_splits(dataset)
        warnings = _doubts(dataset, looks, keys)
    faultless = [look for look in looks if not look.faults and look.facts]
    if faultless:
        sheet = sheet or Path(f"{root.resolve().name}_check.png")
        _attempt(faults, partial(_write_sheet, sheet, faultless, keys, reader), None)
    if faults:
        shown = faults if every else by_kind(faults)
        more = [] if every or len(faults) == len(shown) else ["--all lists every one"]
        raise UserError("\n".join([f"{_number(faults, 'fault')} in {root}:", *shown, *more]))
    _print_command(root, looks, keys)
    for warning in warnings:
        print(f"warning: {warning}")
    print(f"no fault found, but {_number(warnings, 'warning')}" if warnings else "no fault found")


def _number(things: Sequence[str], noun: str) -> str:
    return f"{len(things)} {noun}{'s' if len(things) > 1 else ''}"


def _attempt(faults: list[str], step: Any, otherwise: Any) -> Any:
    """Return the step's result; if the step raises a UserError, add it to the faults and return `otherwise`."""
    try:
        return step()
    except UserError as error:
        faults += str(error).splitlines()
        return otherwise


# -- reading ----------------------------------------------------------------------------------------------------------


def _looks(
    root: Path, items: Sequence[Item], keys: dict[str, Any], faults: list[str]
) -> tuple[list[Look], MaskReader | None]:
    """Read all items, with the mask reader if classes are known; complete `keys`.

    These are channels, orientation, slice_axis and image_size: three numbers if all images are volumes.
    """
    reader = _attempt(faults, partial(_reader, keys, root), None) if keys["classes"] else None
    space = partial(space_of, items, keys["orientation"], keys["slice_axis"])
    # Faults of headers are dropped here: they are found again when the files are read.
    headers = read_headers(items, keys["channels"], space(axes=2))[0]
    keys["image_size"] = IMAGE_SIZE
    if headers and all(min(fact.num_images, *fact.size) >= SHORTEST for fact in headers.values()):
        keys["image_size"] = [SHORTEST] * 3  # the lengths are known when the images are read
    keys |= space(axes=len(shape_of(keys["image_size"])))._asdict()
    if headers and keys["channels"] is None:
        commonest = Counter(fact.channels for fact in headers.values()).most_common(1)[0][0]
        channels: int = _attempt(faults, partial(common_channels, headers), commonest)
        keys["channels"] = channels
        wrong = {item for item, fact in headers.items() if not convertible(fact.channels, channels)}
        items = [item for item in items if item not in wrong]
    colored = keys["colors"] is not None or _palettes_differ(items, keys, faults)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        looks = list(pool.map(partial(look_at, keys=keys, reader=reader, colored=colored), items))
    if _are_volumes(keys) and (sizes := [look.size for look in looks if look.facts]):
        keys["image_size"] = fitting_shape(sizes)
    return looks, reader


def _palettes_differ(items: Sequence[Item], keys: Mapping[str, Any], faults: list[str]) -> bool:
    """Whether only the colours of the masks can be compared; a fault if dataset.yaml names classes without colours."""
    fault = _attempt([], partial(differing_palettes, [item.mask for item in items if item.mask]), None)
    if fault and keys["classes"]:
        faults.append(fault)
    return fault is not None


def _reader(keys: Mapping[str, Any], root: Path) -> MaskReader:
    given = {key: keys[key] for key in ("colors", "class_map", "ignore_index", "ignore_color")}
    listed_in = classes_listed_in(root)
    return MaskReader(num_classes=len(keys["classes"]), snap=keys["snap_colors"], listed_in=listed_in, **given)


def look_at(item: Item, *, keys: Mapping[str, Any], reader: MaskReader | None, colored: bool) -> Look:
    """Read an image and its mask, and collect the faults of each.

    Args:
        colored: read the colours of palettes, not their numbers.
    """
    look, space = Look(item=item), _space(keys)
    _read(look, item.image, partial(_look_at_image, look, keys))
    if item.mask:
        _read(look, item.mask, partial(_look_at_mask, look, item.mask, reader, colored, space))
    return look


def _read(look: Look, file: Path, step: Any) -> Any:
    """`_attempt` for a file: an error of any type is a fault of that file, and the check goes on with the others."""
    try:
        return _attempt(look.faults, step, None)
    except Exception as error:
        reason = " ".join(str(error).split())[:160]
        look.faults.append(f"{file}: cannot be read ({type(error).__name__}: {reason})")
        return None


def _look_at_image(look: Look, keys: Mapping[str, Any]) -> None:
    fact = facts_of_image(look.item, keys["channels"], _space(keys))
    pixels = _pixels(look.item, keys)
    look.thumbnail = leaks.thumbnail(pixels)
    image, place = as_read(pixels, look.item.image, fact.spacing, keys)
    look.sums = moments(image)
    look.facts, look.size = fact, place.size
    look.span = float(image.min()) / full_scale(image), float(image.max()) / full_scale(image)


def _space(keys: Mapping[str, Any]) -> Space:
    return Space(keys["orientation"], keys["slice_axis"])


def _pixels(item: Item, keys: Mapping[str, Any]) -> ImageArray:
    """[S, C, H, W] as the file holds it."""
    pixels = pixels_of(item.images, keys["channels"], space=_space(keys))
    return checked(Volume(pixels, None), str(item.image), 2).image


def _look_at_mask(look: Look, mask: Path, reader: MaskReader | None, colored: bool, space: Space) -> None:
    if ending(mask) in (*PICTURE, *TIFF):
        look.mask_facts = facts(mask)
    axes = axes_of_label(look.item, mask, look.facts, space)
    codes = codes_of(read_values(mask, colored=colored, axes=axes))
    if look.facts:
        check_shape(look.item, (look.facts.num_images, *look.facts.size), codes.shape)
    try:
        counts = _counts(reader.label(codes, mask) if reader else codes)
        look.odd = reader.num_odd(codes) if reader else 0
    except UserError:
        if len(counts := _counts(codes)) <= MAX_CODES:
            look.refused = counts
        raise
    if len(counts) > 4 * MAX_CODES:
        raise UserError(
            f"{mask}: holds {len(counts)} different values; a mask has one for each class{_mostly(counts) or INSTANCES}"
        )
    look.codes = counts


def _mostly(pixels: Counter[float]) -> str:
    """The hint that a few colours with COMMON of the pixels each are the classes, the rest is blur; "" if not so."""
    total, main = pixels.total(), list[float]()
    for code, count in pixels.most_common(MAX_CODES):
        if count >= COMMON * total and (not main or distances([code], main).min() > NEAR):
            main.append(code)
    odd = 1 - sum(pixels[code] for code in main) / total
    if not 2 <= len(main) <= MANY or odd > MOST_ODD:
        return ""
    shown = _as_yaml({"colors": _colors({*main}, pixels)}).strip()
    return (
        f"; {odd:.2%} of the pixels are odd ones beside {len(main)} common colours: JPEG or smoothed edges "
        f"(anti-aliasing)? Save masks as PNG with hard edges, or write into {DESCRIPTION}: {shown}, snap_colors: 8 "
        "(the largest distance that counts), and classes"
    )


def _counts(codes: npt.NDArray[Any]) -> Counter[float]:
    if codes.dtype == np.uint8:
        counts = byte_counts(codes)
        return Counter({value: count for value, count in enumerate(counts.tolist()) if count})
    values, counts = np.unique(codes, return_counts=True)
    return Counter(dict(zip(values.tolist(), counts.tolist(), strict=True)))


# -- suggesting dataset.yaml ------------------------------------------------------------------------------------------


def suggest(looks: Sequence[Look], keys: Mapping[str, Any]) -> dict[str, Any] | None:
    """Keys of dataset.yaml that fit the masks; None if no mask could be read."""
    codes = set().union(*(look.codes for look in looks)) - _ignored(keys)
    if not codes:
        return None
    shown = ", ".join(name_of(code) for code in sorted(codes)[:8]) + (", ..." if len(codes) > 8 else "")
    pixels = sum((look.codes for look in looks), Counter[float]())
    blurred = any(ending(look.item.mask) in (".jpg", ".jpeg") for look in looks if look.item.mask) and _mostly(pixels)
    if blurred or not 2 <= len(codes) <= MAX_CODES or any(code != int(code) for code in codes):
        raise UserError(
            f"the masks hold {len(codes)} different value(s) ({shown}); expected 2 to {MAX_CODES} whole numbers or "
            f"colours, one for each class{_mostly(pixels) or (INSTANCES if len(codes) > 2 else '')}"
        )
    if keys["colors"]:
        return {"classes": numbered(len(keys["colors"]))}
    suggested: dict[str, Any] = {}
    ids = codes - {IGNORE}
    if ids == {*range(len(ids))} and 1 < len(ids) <= IGNORE:
        number = len(ids)
        if IGNORE in codes:
            suggested["ignore_index"] = IGNORE
    else:
        number = len(codes)
        suggested["colors"] = _colors(codes, pixels)
    return {"classes": numbered(number), **suggested, "channels": keys["channels"], **_statistics(looks, keys)}


def _colors(codes: Set[float], pixels: Counter[float]) -> list[Color]:
    """The `colors` of dataset.yaml; the first, the background, is 0 if a mask holds it, else the commonest."""
    first = 0 if 0 in codes else pixels.most_common(1)[0][0]
    order = [first, *sorted(codes - {first}, key=abs)]
    colored = any(map(is_colored, codes))
    return [
        name_of(code) if is_colored(code) else f"#{3 * f'{int(code):02x}'}" if colored else int(code) for code in order
    ]


def _ignored(keys: Mapping[str, Any]) -> set[float]:
    return {code_of(keys[key]) for key in ("ignore_index", "ignore_color") if keys[key] is not None}


def _statistics(looks: Sequence[Look], keys: Mapping[str, Any]) -> dict[str, list[float]]:
    """`mean` and `std` over all images that train may hold; {} unless both keys are "auto"."""
    sums = [look.sums for look in looks if look.sums is not None and look.item.split in (None, "train")]
    if (keys["mean"], keys["std"]) != ("auto", "auto") or not sums:
        return {}
    statistics = statistics_of(np.sum(sums, axis=0))
    return {key: [float(f"{value:.6g}") for value in values] for key, values in statistics._asdict().items()}


def _print_suggestion(root: Path, suggested: Mapping[str, Any], *, write: bool, num_faults: int) -> None:
    file = root / DESCRIPTION
    text = _as_yaml(suggested)
    print(f"suggested {DESCRIPTION} (give the classes their names):\n{indent(text, '  ')}", end="")
    if file.exists():
        print(f"{file} exists and is left as it is; it names no classes")
    elif not write:
        print("--write writes this file")
    elif num_faults:
        print(
            f"{file} is not written, because of the faults below: mend them and call --write again, or save these "
            "lines there yourself"
        )
    else:
        try:
            file.write_text(f"# Suggested by ssl4seg-prepare check; give the classes their names.\n{text}")
        except OSError as error:
            raise UserError(f"{file}: cannot be written ({error.strerror})") from None
        print(f"written: {file}")


def _as_yaml(keys: Mapping[str, Any]) -> str:
    text: str = yaml.safe_dump(dict(keys), sort_keys=False, default_flow_style=None, width=110)
    return text


def _print_colors(keys: Mapping[str, Any], looks: Sequence[Look]) -> None:
    """Suggest `colors` if it is not set and masks hold colours, or as many numbers as there are classes."""
    classes = keys["classes"]
    refused = sum((look.refused for look in looks), Counter[float]())
    if keys["colors"] is not None or not refused:
        return
    codes = (set().union(*(look.codes for look in looks)) & {*range(len(classes))} | {*refused}) - _ignored(keys)
    if (
        any(code % 1 for code in codes)
        or len(codes) > MAX_CODES
        or not (any(map(is_colored, codes)) or len(codes) == len(classes))
    ):
        return
    print(f"suggested for {DESCRIPTION} ({len(codes)} colours for {len(classes)} classes; put them in the same order):")
    print(indent(_as_yaml({"colors": _colors(codes, refused)}), "  "), end="")


# -- the report -------------------------------------------------------------------------------------------------------


def report(root: Path, layout: Layout, looks: Sequence[Look], keys: Mapping[str, Any]) -> None:
    """Print counts, kinds, sizes, channels and values."""
    items = layout.items
    masks = sum(item.mask is not None for item in items)
    splits = [split for split in SPLITS if any(item.split == split for item in items)]
    print(f"{root}: {len(items)} image files, {masks} with a mask, {len(items) - masks} without; " + _places(splits))
    headers = [look.facts for look in looks if look.facts]
    if keys["mask_name"] and (pairs := [(item.image, item.mask) for item in items if item.mask]):
        shown = ", ".join(f"{mask.name} for {image.name}" for image, mask in pairs[:3])
        print(f"  masks      {len(pairs)} by mask_name: {shown}{', ...' if len(pairs) > 3 else ''}")
    for note in layout.notes:
        print(f"  {note}")
    if layout.copies:
        print(
            f"  {len(layout.copies)} files of unlabeled/ have the names of images, as {layout.copies[0].name}, "
            "and are left out as copies; rename them if they are different images"
        )
    if not headers:
        return
    kinds = Counter(ending(item.image) for item in items)
    sizes = Counter(look.size for look in looks if look.facts)
    print(f"  files      {_counted((kind, n) for kind, n in kinds.most_common())}")
    if _are_volumes(keys):
        print(f"  volumes    {len(headers)}")
        if spacings := Counter(_spacing(look.item, look.facts, keys) for look in looks if look.facts):
            print(f"  spacings   {_counted(spacings.most_common(5))}", end="")
            print(f" and {len(spacings) - 5} others" if len(spacings) > 5 else "")
    else:
        print(f"  images     {sum(fact.num_images for fact in headers)} (slices of volumes, or one a file)")
    shown = _counted((" x ".join(map(str, size)), number) for size, number in sizes.most_common(5))
    print(f"  sizes      {shown} ({'x, y, z' if _are_volumes(keys) else 'height x width'})", end="")
    print(f" and {len(sizes) - 5} others, from {min(sizes)} to {max(sizes)}" if len(sizes) > 5 else "")
    with_opacity = sum(fact.opacity for fact in headers)
    print(f"  channels   {_counted(Counter(fact.channels for fact in headers).most_common())}", end="")
    print(f"; the opacity (alpha) of {with_opacity} of them is left out" if with_opacity else "")
    changed = [fact.changed for look in looks for fact in (look.facts, look.mask_facts) if fact].count(True)
    if changed:
        print(
            f"  {changed} images and masks are stored turned (EXIF) or with 0 as white, and read as viewers show them"
        )
    if opaque := [look.mask_facts.opacity for look in looks if look.mask_facts].count(True):
        print(f"  the opacity (alpha) of {opaque} masks is not read")
    low, high = (f([look.span[i] for look in looks if look.facts]) for i, f in enumerate((min, max)))
    print(f"  values     {low:.4g} to {high:.4g}, before the network standardises them")
    if high < DIM:
        print(
            f"  they reach only {high:.1%} of [0, 1] (12 bit in 16?); normalize: minmax in {DESCRIPTION} "
            "stretches every image"
        )


def _places(splits: Sequence[str]) -> str:
    return " and ".join(f"{split}/" for split in splits) if splits else "the split is drawn"


def _counted(pairs: Iterable[tuple[object, int]]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in pairs)


def _print_classes(keys: Mapping[str, Any], looks: Sequence[Look], *, of_file: bool = False) -> None:
    """Print the share of each class.

    Args:
        of_file: the looks hold the numbers and colours of the files, not yet classes.
    """
    classes, counts = keys["classes"], [look.codes for look in looks if look.codes]
    if not counts:
        return
    own = of_file and keys["colors"]
    codes = [code_of(color) for color in keys["colors"]] if own else [*range(len(classes))]
    ignored = _ignored(keys) if of_file else {IGNORE}
    pixels = sum(counts, Counter())
    num_ignored = sum(pixels[code] for code in ignored)
    total = max(1, pixels.total() - num_ignored)
    width = max(len(name) for name in classes)
    held = [sum(code in count for count in counts) for code in codes]
    print("classes")
    for number, (name, code, masks) in enumerate(zip(classes, codes, held, strict=True)):
        share = pixels[code] / total
        print(f"  {number:<3} {name:<{width}} {share:9.3%} of the pixels, in {masks} of {len(counts)} masks")
    if odd := sum(look.odd for look in looks):
        print(f"  snapped to the nearest colour {odd / pixels.total():.3%} of all pixels")
    if num_ignored:
        print(f"  ignored {num_ignored / pixels.total():.3%} of all pixels")
    if (
        of_file
        and not own
        and len(classes) > MANY
        and held[1:] == sorted(held[1:], reverse=True)
        and held[-1] < held[1]
    ):
        print(f"  fewer and fewer masks hold the higher numbers{INSTANCES}")


def _missing_classes(root: Path, keys: Mapping[str, Any], looks: Sequence[Look]) -> list[str]:
    """The fault that a class is in no mask; none where there are masks that could not be read."""
    masked = [look for look in looks if look.item.mask]
    if not masked or not all(look.codes for look in masked):
        return []
    missing = [k for k in range(len(keys["classes"])) if not any(look.codes[k] for look in masked)]
    colors = colors_of(keys)
    codes = [code_of(colors[k]) if colors else k for k in missing]
    file = decathlon.DESCRIPTION if classes_listed_in(root) else DESCRIPTION
    found = [
        f"{file}: no mask holds the class {keys['classes'][k]} ({name_of(code)}); remove it, or mend the masks"
        for k, code in zip(missing, codes, strict=True)
    ]
    if 0 in missing and keys["background"] and file == DESCRIPTION:
        numbers = "" if colors else ", and colors: [1, 2, ...] for the numbers of the other classes"
        found[0] += f"; where nothing is background, remove it and write background: false{numbers}"
    return found


def _dataset(root: Path, keys: Mapping[str, Any]) -> Folder:
    """The dataset that training will use; raise the UserError that training would raise."""
    dataset = Folder(**Folder.completed({"root": str(root), "num_classes": None, **keys}))
    check_disjoint({split: dataset.cases(split) for split in SPLITS}, dataset.remedy)
    return dataset


def _doubts(dataset: Folder, looks: Sequence[Look], keys: Mapping[str, Any]) -> list[str]:
    """Warnings of what may make scores too high."""
    thumbnails = {look.item: look.thumbnail for look in looks if look.thumbnail is not None}
    by_looks = keys["group"] is None and not dataset.doubts
    found = [leaks.by_looks(dataset.splits, thumbnails) if by_looks else "", leaks.copies(dataset.splits)]
    return [*dataset.doubts, *filter(None, found)]


def _print_splits(dataset: Folder) -> None:
    """Print the splits that training will use."""
    cases = {split: dataset.cases(split) for split in SPLITS}
    print("splits")
    for split, part in cases.items():
        labeled = [case for case in part if case.labeled]
        groups, images = len({case.group for case in part}), sum(case.num_images for case in part)
        masked = sum(case.num_images for case in labeled)
        print(f"  {split:<5} {groups} cases, {images} images, {masked} of them with a mask")
    if dataset.tested_on == "val":
        print("  test has no masks: the model will be tested on val, which also chooses it")
    if num_left_out := len(dataset.facts) - sum(map(len, cases.values())):
        print(f"  {num_left_out} files without a mask are left out, because their cases are in val or test")


def _print_command(root: Path, looks: Sequence[Look], keys: Mapping[str, Any]) -> None:
    """Print the command that trains, with settings for a first look; for volumes also the one that takes slices.

    Of thin stacks, whose slices are the better images, that goes first.
    """
    start = f"ssl4seg-train dataset=folder dataset.root={shlex.quote(str(root))}"
    sizes = [look.facts.size for look in looks if look.facts]
    note = note_on_size(sizes, IMAGE_SIZE)
    by_slice = f"{start}{f' dataset.image_size={fitting_side(sizes)}' if note else ''} optimizer=adamw"
    if _are_volumes(keys):
        shape = keys["image_size"]
        size = shlex.quote(f"dataset.image_size=[{','.join(map(str, shape))}]")
        shapes = [look.size for look in looks if look.facts]
        patches = any(
            side < max(lengths) - STEP for side, lengths in zip(shape, zip(*shapes, strict=True), strict=True)
        )
        how = " views=volumes inference=volumes" if patches else ""
        by_volume = f"{start} {size}{how} optimizer=adamw"
        off = "".join(f" dataset.{key}=none" for key in ("spacing", "crop") if keys[key] not in (None, "none"))
        shortest, other, _ = sorted(map(statistics.median_low, zip(*shapes, strict=True)))
        if shortest < min(THIN, other / 2):
            print(f"train with: {by_slice}{off}")
            print(f"  or on volumes, which here are thin stacks: {by_volume}")
        else:
            print(f"train with: {by_volume}")
            print(f"  or slice by slice: {by_slice}{off}")
    else:
        print(f"train with: {by_slice}")
    if note and not _are_volumes(keys):
        print(f"  {note}")
    print("  optimizer=adamw learns within some hundred steps; the default, SGD, is meant for 10000 steps and more")


def fitting_shape(shapes: Sequence[Sequence[int]]) -> list[int]:
    """The `image_size` for volumes: along each axis the usual length, in steps of STEP, at most LONGEST."""
    usual = (statistics.median_low(lengths) for lengths in zip(*shapes, strict=True))
    return [min(LONGEST, STEP * math.ceil(length / STEP)) for length in usual]


def _are_volumes(keys: Mapping[str, Any]) -> bool:
    return len(shape_of(keys["image_size"])) == 3


def _spacing(item: Item, fact: Facts, keys: Mapping[str, Any]) -> str:
    """The spacing of a volume in the order of its axes, to three digits."""
    spacing = spacing_of(fact.spacing, stored=as_stored(item.image, keys["h5_axes"]))
    return " x ".join(f"{step:.3g}" for step in spacing) + " mm" if spacing else "unknown"


# -- the contact sheet ------------------------------------------------------------------------------------------------


def _write_sheet(file: Path, looks: Sequence[Look], keys: Mapping[str, Any], reader: MaskReader | None) -> None:
    colors, classes = palette(palette_of(keys), background=keys["background"]), keys["classes"] or []
    most = COLUMNS // 3 if _are_volumes(keys) else COLUMNS
    tiles = [_tile(look, keys, reader, colors) for look in _shown(looks, most * ROWS)]
    columns, height, width = min(most, len(tiles)), *(max(tile.shape[axis] for tile in tiles) for axis in (0, 1))
    canvas = np.zeros((-(-len(tiles) // columns) * height, columns * (width + GAP), 3), np.uint8)
    for number, tile in enumerate(tiles):
        top, left = number // columns * height, number % columns * (width + GAP)
        canvas[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    strip = legend(classes, range(int(colors.background), len(classes)), colors, canvas.shape[1])
    try:
        Image.fromarray(np.concatenate([strip, canvas])).save(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be written ({error})") from None
    print(f"written: {file}, {len(tiles)} images with their masks")


def _shown(looks: Sequence[Look], places: int) -> list[Look]:
    """Choose the images of the sheet, spread evenly. Three quarters have a mask; more, if few images have none.

    Masks of more than one class come first: those of background alone show nothing.
    """
    labeled, unlabeled = ([look for look in looks if bool(look.item.mask) == masked] for masked in (True, False))
    num_unlabeled = min(len(unlabeled), max(places // 4, places - len(labeled)))
    num_labeled = places - num_unlabeled
    full, empty = ([look for look in labeled if (len(look.codes) > 1) == several] for several in (True, False))
    chosen = _spread(full, num_labeled)
    return chosen + _spread(empty, num_labeled - len(chosen)) + _spread(unlabeled, num_unlabeled)


def _spread(looks: Sequence[Look], number: int) -> list[Look]:
    return [looks[i * len(looks) // number] for i in range(number)] if len(looks) > number else list(looks)


def _tile(look: Look, keys: Mapping[str, Any], reader: MaskReader | None, colors: Palette) -> Picture:
    """Draw the slice with most foreground, or three planes of a volume, the mask painted over, below the name.

    Pixels are as high and as wide as the spacing says.
    """
    item, pixels = look.item, _pixels(look.item, keys)
    label: LabelArray = np.zeros((len(pixels), *pixels.shape[2:]), np.uint8)
    if item.mask and reader:
        label = reader.read(item.mask, axes=axes_of_mask(item.mask, item.image, _space(keys)))
    image, place = as_read(pixels, item.image, look.facts.spacing if look.facts else None, keys)
    if _are_volumes(keys):
        label = place.read(stood(label, stored=as_stored(item.image, keys["h5_axes"])))
    shown = planes(image, [label], colors, place.spacing_read)
    sizes = [np.multiply(plane.image.shape[1:], plane.pixel) for plane in shown]
    sizes = [size * TILE / np.max(sizes) for size in sizes]
    given = colors if item.mask and reader else None
    pictures = [_pane(plane, size, given) for plane, size in zip(shown, sizes, strict=True)]
    height = max(len(picture) for picture in pictures)
    name = item.name if len(item.name) <= 34 else f"...{item.name[-31:]}"
    words = [plane.words for plane in shown if plane.words]
    words += [item.split] if item.split else []
    words += [] if item.mask else ["no mask"]
    tile = Image.new("RGB", (len(shown) * TILE, height + CAPTION))
    for number, picture in enumerate(pictures):
        tile.paste(Image.fromarray(picture), (number * TILE, CAPTION))
    ImageDraw.Draw(tile).text((1, 2), f"{name}\n{', '.join(words)}", fill="white")
    return np.asarray(tile)


def _pane(plane: Plane, size: Iterable[float], colors: Palette | None) -> Picture:
    """A plane, resized to height and width; with `colors` its label painted over it."""
    height, width = (max(1, round(side)) for side in size)
    step = max(1, max(plane.image.shape[1:]) // (4 * TILE))  # a large image is thinned first: grey takes long
    picture = np.asarray(Image.fromarray(grey(plane.image[:, ::step, ::step])).resize((width, height)))
    if colors is None:
        return picture
    mask = Image.fromarray(plane.labels[0]).resize((width, height), Image.Resampling.NEAREST)
    return painted(picture, np.asarray(mask), colors)
