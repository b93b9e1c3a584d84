"""The user's own folder: images and masks of any kind, described by one small file, ROOT/dataset.yaml.

    classes: [background, cell]   # the only key that must be set; `ssl4seg-prepare check ROOT --write` suggests it
    colors: [0, 255]              # only if masks hold other numbers than 0..K-1, or colours
    group: (patient\\d+)_          # only if a patient has several files

layout.py describes the folders that it reads.
"""

import hashlib
import math
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Unpack

import numpy as np

from ssl4seg.data import decathlon, leaks
from ssl4seg.data.case import Case, ImageArray, LabelArray, Part, Volume, full_scale
from ssl4seg.data.classes import colors_of, is_class_map, with_classes
from ssl4seg.data.dataset import SPLITS, Common, Dataset, Split, shape_of
from ssl4seg.data.formats import H5, ending
from ssl4seg.data.grid import FILES_OWN, FOREGROUND, Place, grid_of
from ssl4seg.data.images import Facts, axes_of_mask, contradiction, facts
from ssl4seg.data.intensities import Normalizer, Scaling
from ssl4seg.data.items import IMAGES, MASKS, How, Item, Layout, check_shape, facts_of_item, pixels_of
from ssl4seg.data.keys import COMMON
from ssl4seg.data.layout import find
from ssl4seg.data.mask_names import MASK_NAME
from ssl4seg.data.masks import Color, MaskReader, differing_palettes, is_color
from ssl4seg.data.orientation import ORIENTATIONS, Space, thickest
from ssl4seg.data.scans import SCAN
from ssl4seg.data.volumes import as_stored, faults_of_axes, on_grid
from ssl4seg.errors import UserError
from ssl4seg.keys import (
    Key,
    check_keys,
    is_list,
    is_number,
    is_rgb_color,
    is_whole,
    number_in,
    one_of,
    optional,
    or_word,
    true_or_false,
)
from ssl4seg.userfiles import MAX_YAML, expect_regular, read_yaml

DESCRIPTION = "dataset.yaml"
DEFAULTS: dict[str, Any] = {
    "name": None,
    "classes": None,
    "colors": None,
    "class_map": None,
    "snap_colors": 0,
    "ignore_index": None,
    "ignore_color": None,
    "channels": None,
    "spacing": None,
    "crop": None,
    "window": None,
    "normalize": "auto",
    "orientation": None,
    "slice_axis": "auto",
    "h5_axes": "xyz",
    "mean": "auto",
    "std": "auto",
    "scoring": None,
    "background": True,
    "palette": None,
    "image_folder": IMAGES,
    "mask_folder": MASKS,
    "mask_name": None,
    "group": None,
    "skip_orphans": False,
    "channel_files": False,
    "val_ratio": 0.1,
    "test_ratio": 0.2,
    "seed": 0,
}
"""The keys of dataset.yaml with their defaults; see conf/dataset/folder.yaml."""


def is_name(value: Any) -> bool:
    """Whether it can name a folder of runs."""
    return isinstance(value, str) and re.fullmatch(r"[\w-]{1,100}", value) is not None


def is_spacing(value: Any) -> bool:
    """Whether it is a voxel spacing: one for all axes, or one for each."""
    steps = value if is_list(value) else [value] * 3
    return len(steps) == 3 and all(is_number(step) and step > 0 for step in steps)


COLORS = '"#rrggbb" (in quotes), [red, green, blue] or a grey value'


def is_place(value: Any) -> bool:
    """Whether it is the path of a folder below another one."""
    path = PurePosixPath(value) if isinstance(value, str) else PurePosixPath("/")
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\\" not in str(path)


PLACE = Key(is_place, "the name of a folder below dataset.root, with / and without ..")
OWN = {
    "name": optional(Key(is_name, "up to 100 letters, digits, - and _")),
    "colors": optional(Key(lambda value: is_list(value) and all(map(is_color, value)), f"a list of {COLORS} each")),
    "class_map": optional(
        Key(is_class_map, "the class that each becomes, null for none, as {dog: animal, tree: null}")
    ),
    "snap_colors": Key(number_in("[0, 128]").fits, "a number in [0, 128], the largest distance of red, green and blue"),
    "ignore_color": optional(Key(is_color, COLORS)),
    "spacing": optional(or_word("none", Key(is_spacing, "a number of mm above 0, or three (x, y, z), as [1,1,1]"))),
    "crop": optional(one_of(FOREGROUND, "none")),
    "orientation": optional(one_of(*ORIENTATIONS)),
    "slice_axis": one_of("auto", "x", "y", "z"),
    "h5_axes": one_of("xyz", "zyx"),
    "image_folder": PLACE,
    "mask_folder": PLACE,
    "mask_name": optional(MASK_NAME),
    "group": optional(Key(lambda value: isinstance(value, str), "a regular expression, as '(patient\\d+)_'")),
    "skip_orphans": true_or_false,
    "channel_files": true_or_false,
    "val_ratio": Key(number_in("(0, 1)").fits, "a share in (0, 1): the best model is chosen on val"),
    "test_ratio": number_in("[0, 1)", "a share"),
    "seed": Key(is_whole, "a whole number"),
}
"""The keys that only a folder has."""
CAN_BE_NONE = ("mean", "std", "window", "spacing", "crop")
"""Keys that the word none turns off, where dataset.yaml sets them; null leaves them to it."""
KEYS = COMMON | OWN | {key: or_word("none", COMMON[key]) for key in CAN_BE_NONE if key in COMMON}
"""All keys that dataset.yaml and the command line may set; null leaves a key to the next source."""


class Folder(Dataset):
    """Images and masks of the user's own.

    Args:
        root: the folder.
        name: of the dataset, in run folders, results and reports; None is the folder's own.
        colors: the colour or grey value of each class in the masks; with None the masks hold the classes 0..K-1.
        class_map, snap_colors: which classes are merged, and how near odd colours count, see `masks.MaskReader`.
        ignore_color: colour in the masks that no loss and no metric counts.
        image_folder, mask_folder: names of images/ and masks/.
        mask_name: how the name of a mask follows from that of its image, see `mask_names.owners`.
        group: regular expression whose first group, matched in an image's name, is its patient; patients are not split.
        skip_orphans: leave out masks without an image; else they are refused.
        channel_files: name_0000, name_0001 are channels of one image, as nnU-Net has them.
        val_ratio, test_ratio: shares of the groups with masks that a drawn split takes; test_ratio=0 makes no test.
        seed: of the drawn split, and of the order in which training groups are labelled.
        orientation, slice_axis: how scans (`scans.SCAN`) are laid, see `orientation.Space`; `space_of` completes them.
        h5_axes: of volumes in h5 and npz, see `volumes.as_stored`.
        spacing, crop: the grid on which volumes are read, see `grid.Grid`.
    """

    name = "folder"
    words = ("cases", "images")
    place = "the folder of your images, dataset.root=DATA/MINE"
    remedy = "keep the files of each patient in one of train/, val/ and test/, or mend dataset.group"

    def __init__(
        self,
        *,
        root: str | None,
        name: str | None = None,
        colors: Sequence[Color] | None = None,
        class_map: Sequence[int] | None = None,
        snap_colors: float = DEFAULTS["snap_colors"],
        ignore_color: Color | None = None,
        image_folder: str = DEFAULTS["image_folder"],
        mask_folder: str = DEFAULTS["mask_folder"],
        mask_name: str | None = None,
        group: str | None = None,
        skip_orphans: bool = DEFAULTS["skip_orphans"],
        channel_files: bool = DEFAULTS["channel_files"],
        val_ratio: float = DEFAULTS["val_ratio"],
        test_ratio: float = DEFAULTS["test_ratio"],
        seed: int = DEFAULTS["seed"],
        orientation: str | None = None,
        slice_axis: str = DEFAULTS["slice_axis"],
        h5_axes: str = DEFAULTS["h5_axes"],
        spacing: float | Sequence[float] | None = None,
        crop: str | None = None,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(**common)
        folder = self.folder(root)
        own: dict[str, Any] = {"name": name, "colors": colors, "ignore_color": ignore_color, "group": group}
        own |= {"orientation": orientation, "slice_axis": slice_axis, "h5_axes": h5_axes, "skip_orphans": skip_orphans}
        own |= {
            "image_folder": image_folder,
            "mask_folder": mask_folder,
            "mask_name": mask_name,
            "class_map": class_map,
            "snap_colors": snap_colors,
            "channel_files": channel_files,
            "spacing": spacing,
            "crop": crop,
        }
        self.h5_axes = h5_axes
        check_keys(own | {"val_ratio": val_ratio, "test_ratio": test_ratio, "seed": seed}, OWN, "dataset.")
        self.name = name or name_of(folder)  # type: ignore[misc]  # of the object, not of the class
        self.masks = MaskReader(
            num_classes=self.num_classes,
            colors=colors,
            class_map=class_map,
            ignore_index=self.ignore_index,
            ignore_color=ignore_color,
            snap=snap_colors,
            listed_in=classes_listed_in(folder),
        )
        self.grid = grid_of(own)
        self.grid.check(self.axes)
        self.places: dict[Item, Place] = {}
        # Of a volume that is cropped only what is left is scaled: `on_grid` does it.
        self.normalized = Normalizer(self.scaling if self.grid == FILES_OWN else Scaling())
        layout = layout_of(folder, group, how_of(own))
        items = layout.items
        if colors is None and (fault := differing_palettes([item.mask for item in items if item.mask])):
            raise UserError(fault)
        self.space = space_of(items, orientation, slice_axis, axes=self.axes)
        self.facts = headers_of(items, self.channels, self.space)
        _raise(faults_of_axes({item.image: fact for item, fact in self.facts.items()}, self.image_size, h5_axes))
        sizes = [fact.size for fact in self.facts.values()]
        note = note_on_size(sizes, self.image_size[0]) if self.axes == 2 else ""
        spacings = [fact.spacing for fact in self.facts.values()]
        _raise([f for item, fact in self.facts.items() if (f := self.grid.fault(item.image, fact.spacing))])
        on_volumes = [*notes_on_volumes(items, self.space, axes=self.axes), self.grid.note(spacings)]
        self.notes = [*layout.notes, *filter(None, [*on_volumes, note])]
        bytes_only = all(fact.is_bytes for fact in self.facts.values())
        self.value_bytes = 1 if bytes_only and self.scaling.keeps_bytes else 4
        self.splits = split_items(items, val_ratio=val_ratio, test_ratio=test_ratio, seed=seed)
        volumes = all(fact.num_images > 1 for fact in self.facts.values())
        self.doubts = [*filter(None, [leaks.by_names(self.splits, volumes=volumes) if group is None else ""])]
        self.tested_on = "test" if self.splits["test"] else "val"
        self.published_test = any(item.split == "test" for item in items)

    def cases(self, split: Split) -> list[Case]:
        """The cases of a split. To crop them, all its images are read here: their sizes must be known."""
        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(self._case, self.splits[split]))

    def _case(self, item: Item) -> Case:
        fact = self.facts[item]
        case = Case(
            name=item.name,
            group=item.group,
            num_images=fact.num_images,
            size=fact.size,
            labeled=item.mask is not None,
            read=partial(self._read, item),
            read_image=partial(self._image, item),
            read_part=partial(self._part, item) if fact.num_images > 1 and _divisible(item) else None,
            read_label=partial(self._label, item, item.mask) if item.mask else None,
            spacing=fact.spacing,
            files=item.files,
        )
        case = self.shaped(case, stored=as_stored(item.image, self.h5_axes))
        if self.grid == FILES_OWN:
            return case
        if item not in self.places:
            place = self.grid.place(item.image, case.size, case.spacing, lambda: case.volume(label=False).image)
            self.places[item] = place
        return on_grid(case, self.places[item], self.scaling)

    def _image(self, item: Item, part: Part = ()) -> ImageArray:
        image = self.normalized(item.image, partial(self._pixels, item), part)
        if self.value_bytes > 1 and image.dtype == np.uint8:  # a picture among volumes: all become float32
            image = (image / np.float32(full_scale(image))).astype(np.float32)
        return image

    def _pixels(self, item: Item, part: Part) -> ImageArray:
        return pixels_of(item.images, self.channels, part, space=self.space)

    def _read(self, item: Item) -> Volume:
        image = self._image(item)
        if item.mask is None:
            return Volume(image, None)
        label = self._label(item, item.mask)
        check_shape(item, (len(image), *image.shape[2:]), label.shape)
        return Volume(image, label)

    def _label(self, item: Item, mask: Path) -> LabelArray:
        return self.masks.read(mask, axes=axes_of_mask(mask, item.image, self.space))

    def _part(self, item: Item, part: Part, label: bool) -> Volume:
        return Volume(self._image(item, part), self.masks.read(item.mask, part) if label and item.mask else None)

    @classmethod
    def mask_colors(cls, keys: Mapping[str, Any]) -> Sequence[Color] | None:
        """`colors`; of classes that `class_map` merges the first."""
        return colors_of(keys)

    @classmethod
    def completed(cls, keys: Mapping[str, Any]) -> dict[str, Any]:
        """A key that is null gets its value from ROOT/dataset.yaml, else from the files, else its default.

        Of the files, dataset.json goes first, see `decathlon.description`.
        """
        root = Path(str(keys["root"])).expanduser()
        configured = {key: value for key in KEYS if (value := keys.get(key)) is not None}
        check_keys(configured, KEYS, "dataset.")
        full = with_classes(dict(keys) | DEFAULTS | read_description(root, configured) | configured)
        how = how_of(full)
        if full["classes"] is None:
            layout_of(root, full["group"], how)  # raises first if this is not such a folder at all
            raise UserError(
                f"dataset.classes is not set, and {root / DESCRIPTION} does not name them; "
                f"`ssl4seg-prepare check {root} --write` writes classes for what the masks hold, and "
                "dataset.num_classes=3 calls them background, class_1 and class_2"
            )
        full["name"] = full["name"] or name_of(root)
        full["palette"] = palette_of(full)
        full["num_classes"] = len(full["classes"]) if full.get("num_classes") is None else full["num_classes"]
        items = layout_of(root, full["group"], how).items
        space = space_of(items, full["orientation"], full["slice_axis"], axes=len(shape_of(full.get("image_size", 0))))
        full |= space._asdict()
        if full["channels"] is None or full["scoring"] is None:
            facts_of = headers_of(items, full["channels"], space)
            full["channels"] = full["channels"] or common_channels(facts_of)
            volumes = any(fact.num_images > 1 for fact in facts_of.values())
            full["scoring"] = full["scoring"] or ("cases" if volumes else "pixels")
        return full | {key: None for key in CAN_BE_NONE if full[key] == "none"}


def name_of(root: Path) -> str:
    """What a folder's dataset is called: `name` in dataset.yaml or dataset.json, else the name of the folder."""
    return as_name(read_description(root, ["classes"]).get("name") or root.resolve().name)


def as_name(text: str) -> str:
    """A text as a name of folders, see `is_name`."""
    return re.sub(r"[^\w-]+", "_", text).strip("_")[:100] or "folder"


def space_of(items: Sequence[Item], orientation: str | None, slice_axis: str, *, axes: int) -> Space:
    """How the scans of a folder are laid.

    Args:
        orientation: None is canonical, or stored in a folder without scans.
        slice_axis: auto is the axis along which most volumes have their largest spacing, or z if no volume has one.
        axes: of an image; with three there are no slices, and the order is x, y, z.
    """
    files = [item.image for item in items if ending(item.image) in SCAN]
    laid_so = Space(orientation or ("canonical" if files else "stored"), "z")
    if axes == 3:
        return laid_so
    if slice_axis != "auto":
        return laid_so._replace(slice_axis=slice_axis)
    votes = [axis for axis, _ in _thick_axes(files, laid_so) if axis]
    return laid_so._replace(slice_axis=Counter(votes).most_common(1)[0][0]) if votes else laid_so


def _thick_axes(files: Sequence[Path], space: Space) -> list[tuple[str | None, Path]]:
    """The axis of each volume's largest spacing, if there is one; None for a single slice and a damaged file."""

    def thick(file: Path) -> str | None:
        try:
            fact = facts(file, space=space._replace(slice_axis="z"))
        except UserError:
            return None  # whoever reads the headers tells
        return thickest(fact.spacing) if fact.spacing and fact.num_images > 1 else None

    with ThreadPoolExecutor(16) as pool:
        return list(zip(pool.map(thick, files), files, strict=True))


def notes_on_volumes(items: Sequence[Item], space: Space, *, axes: int) -> list[str]:
    """What a user should know of how scans are read."""
    files = [item.image for item in items if ending(item.image) in SCAN]
    if not files:
        return []
    how = "in canonical orientation (RAS+)" if space.orientation == "canonical" else "as they are stored"
    if axes == 3:
        notes, others = [f"volumes are read {how}, with the axes x, y, z (orientation)"], []
    else:
        notes = [f"volumes are read {how}, with slices along {space.slice_axis} (orientation, slice_axis)"]
        others = [(axis, file) for axis, file in _thick_axes(files, space) if axis not in (None, space.slice_axis)]
    if others:
        axis, file = others[0]
        notes.append(
            f"{len(others)} volumes have their largest spacing along another axis, as {file.name} along {axis}"
        )
    with ThreadPoolExecutor(16) as pool:
        found = [sentence for sentence in pool.map(contradiction, files) if sentence]
    return notes + found[:3] + ([f"... and {len(found) - 3} more such files"] if len(found) > 3 else [])


def fitting_side(sizes: Iterable[tuple[int, int]]) -> int:
    """The `image_size` at which most images keep their detail: the usual longer side, at most 512, in steps of 32."""
    return min(512, 32 * math.ceil(_longer_side(sizes) / 32))


def note_on_size(sizes: Sequence[tuple[int, int]], image_size: int) -> str:
    """What a user should know where `image_size` does not fit the sizes of the images; "" where it does."""
    longer, side = _longer_side(sizes), fitting_side(sizes)
    if image_size >= 1.5 * side:
        return (
            f"dataset.image_size={image_size} enlarges the images, of about {longer} pixels, {image_size / longer:.1f} "
            f"times; dataset.image_size={side} is faster and keeps every detail"
        )
    if longer > 2 * image_size:
        return (
            f"dataset.image_size={image_size} shrinks the images, of about {longer} pixels, {longer / image_size:.1f} "
            f"times unless crops are trained on; dataset.image_size={side} keeps more, and views=natural "
            "inference=sliding keep all"
        )
    return ""


def _longer_side(sizes: Iterable[tuple[int, int]]) -> int:
    return statistics.median_low([max(size) for size in sizes])


def palette_of(keys: Mapping[str, Any]) -> Sequence[Color] | None:
    """The user's palette, else the colours in the masks unless one of them is a number."""
    colors = colors_of(keys) if keys["palette"] is None and keys["classes"] else keys["palette"]
    return colors if colors and all(map(is_rgb_color, colors)) else None


def _divisible(item: Item) -> bool:
    """Whether a part of it can be read alone."""
    return all(ending(file) in H5 for file in (item.image, item.mask) if file)


def read_description(root: Path, known: Iterable[str] = ()) -> dict[str, Any]:
    """The keys that ROOT/dataset.yaml sets, and those that only ROOT/dataset.json does; none without such files.

    Args:
        known: keys that are set elsewhere.
    """
    keys = _own_description(root / DESCRIPTION)
    given = decathlon.description(root, {*keys, *known})
    if "name" in given:
        given["name"] = as_name(given["name"])
    check_keys(given, KEYS, f"{root / decathlon.DESCRIPTION}: ")
    return given | keys


def classes_listed_in(root: Path) -> str | None:
    """What lists the classes of the masks where ROOT/dataset.yaml does not: the labels of dataset.json."""
    try:
        elsewhere = decathlon.names_classes(root) and "classes" not in _own_description(root / DESCRIPTION)
    except UserError:
        return None  # who reads the descriptions tells
    return f"labels in {decathlon.DESCRIPTION}" if elsewhere else None


def _own_description(file: Path) -> dict[str, Any]:
    if not file.exists() and not file.is_symlink():
        return {}
    expect_regular(file)  # before the hint is looked for in it
    try:
        content = read_yaml(file) or {}
    except UserError as error:
        raise UserError(f"{error}{_unquoted(file)}") from None
    if not isinstance(content, dict):
        raise UserError(f"{file}: holds no keys; expected for example classes: [background, cell]")
    if unknown := [str(key) for key in content if key not in DEFAULTS]:
        raise UserError(f"{file}: unknown keys {', '.join(unknown)}; it may hold {', '.join(DEFAULTS)}")
    keys = {key: value for key, value in content.items() if value is not None}
    if computed := [key for key, value in keys.items() if "${" in str(value)]:
        raise UserError(f"{file}: {computed[0]} holds ${{...}}, which could read or run anything; write the value out")
    check_keys(keys, KEYS, f"{file}: ")
    return keys


def _unquoted(file: Path) -> str:
    """A hint if a colour has no quotes: YAML reads it as a comment."""
    bare = re.search(r"[\s\[,](#[0-9a-fA-F]{6})\b", file.read_text(errors="replace")[:MAX_YAML])
    return f'; # begins a comment, so colours need quotes: "{bare[1]}"' if bare else ""


def how_of(keys: Mapping[str, Any]) -> How:
    """How files become items, by the keys of a folder."""
    return How(**{key: keys[key] for key in How._fields if key in DEFAULTS and key != "channels"})


def layout_of(root: Path, group: str | None, how: How) -> Layout:
    """What a folder holds.

    Raises:
        UserError: if there is a fault in its names.
    """
    layout = find(root, group, how)
    _raise(layout.faults)
    return layout


def headers_of(items: Sequence[Item], channels: int | None, space: Space) -> dict[Item, Facts]:
    """The headers of all image files.

    Raises:
        UserError: if one has a fault.
    """
    facts_of, faults = read_headers(items, channels, space)
    _raise(faults)
    return facts_of


def read_headers(items: Sequence[Item], channels: int | None, space: Space) -> tuple[dict[Item, Facts], list[str]]:
    """The headers of image files, and the faults of those that cannot be read.

    It reads 16 at a time: network file systems answer slowly.
    """
    with ThreadPoolExecutor(16) as pool:
        outcomes = list(pool.map(partial(_header, channels=channels, space=space), items))
    facts_of = {item: fact for item, fact in zip(items, outcomes, strict=True) if isinstance(fact, Facts)}
    return facts_of, [fault for fault in outcomes if isinstance(fault, str)]


def _header(item: Item, channels: int | None, space: Space) -> Facts | str:
    try:
        return facts_of_item(item, channels, space)
    except UserError as error:
        return str(error)


def _raise(faults: Sequence[str]) -> None:
    if faults:
        shown = by_kind(faults)
        more = ["`ssl4seg-prepare check ROOT --all` lists all"] if len(faults) > len(shown[:20]) else []
        raise UserError("\n".join([*shown[:20], *more]))


def by_kind(faults: Sequence[str], examples: int = 3) -> list[str]:
    """The faults kind by kind: some of each kind, and the number of the others.

    Faults are of one kind if they differ only in files, numbers and colours.
    """
    kinds: dict[frozenset[str], list[str]] = {}
    for fault in faults:
        words = (fault.partition(": ")[2] or fault).split()
        kinds.setdefault(frozenset(word for word in words if word.strip("(),;").isalpha()), []).append(fault)
    shown = []
    for alike in kinds.values():
        shown += alike[:examples]
        shown += [f"... and {len(alike) - examples} more of this kind"] if len(alike) > examples else []
    return shown


def common_channels(facts_of: Mapping[Item, Facts]) -> int:
    """The number of channels that all images have."""
    numbers = Counter(fact.channels for fact in facts_of.values())
    if len(numbers) == 1:
        return next(iter(numbers))
    first = {fact.channels: item.image for item, fact in reversed(list(facts_of.items()))}
    counts = "; ".join(f"{num} in {count} images ({first[num].name})" for num, count in sorted(numbers.items()))
    raise UserError(
        f"the images have different numbers of channels: {counts}; make them alike, or (grey and RGB only) set "
        f"channels: 1 or channels: 3 in {DESCRIPTION}, and all are read so"
    )


def split_items(items: Sequence[Item], *, val_ratio: float, test_ratio: float, seed: int) -> dict[Split, list[Item]]:
    """The items of each split, given by their folders or drawn group by group. Items without a mask only train.

    Where only test is given, val is drawn from the other items.

    Groups are ordered by a hash of their names, which is as good as random; a new group does not reorder the others.
    """

    def hashed(item: Item) -> tuple[bytes, str]:
        return hashlib.sha256(f"{seed} {item.group}".encode()).digest(), item.name

    ordered = sorted(items, key=hashed)
    groups = list(dict.fromkeys(item.group for item in ordered if item.mask and not item.split))
    is_given = any(item.split for item in items)
    drawn = _held_out(groups, val_ratio, 0 if is_given else test_ratio) if groups or not is_given else {}
    split_of = {item: item.split or drawn.get(item.group, "train") for item in ordered}
    parts: dict[Split, list[Item]] = {split: [item for item in ordered if split_of[item] == split] for split in SPLITS}
    return {split: [item for item in part if item.mask or split == "train"] for split, part in parts.items()}


def _held_out(groups: Sequence[str], val_ratio: float, test_ratio: float) -> dict[str, Split]:
    """The split of each group that is held out: the first for val, the next for test; at least one is left."""
    ratios = f"dataset.val_ratio={val_ratio} dataset.test_ratio={test_ratio}"
    if val_ratio + test_ratio >= 1:
        raise UserError(f"{ratios}: expected less than 1 together; the rest is for training")
    num_val = max(1, round(val_ratio * len(groups)))
    num_test = max(int(test_ratio > 0), round(test_ratio * len(groups)))
    if len(groups) <= num_val + num_test:
        raise UserError(
            f"{ratios}: {len(groups)} cases with a mask are too few for {num_val} in val, {num_test} in test and one "
            "to train on; add masks or lower the ratios (dataset.test_ratio=0: the model is tested on val)"
        )
    val: dict[str, Split] = dict.fromkeys(groups[:num_val], "val")
    return val | dict.fromkeys(groups[num_val : num_val + num_test], "test")
