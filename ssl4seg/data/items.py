"""Images with their masks: the record of one, the files that it is read from, and how names bring both together.

mask_names.py says which mask has the name of an image. Names are compared, and cases called, in the Unicode form NFC: a
macOS disk may spell the mask of "é" with two characters.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from unicodedata import normalize

import numpy as np

from ssl4seg.data.arrays import ARRAYS, array_facts
from ssl4seg.data.case import FloatArray, ImageArray, Part, Spacing, full_scale
from ssl4seg.data.dataset import Split, shape_of
from ssl4seg.data.formats import ENDINGS, PICTURE, TIFF, ending, hint, stem
from ssl4seg.data.grid import Place, grid_of
from ssl4seg.data.images import Facts, axes_of_mask, check_channels, facts, read_image, stacked
from ssl4seg.data.intensities import scaling_of
from ssl4seg.data.mask_names import SUFFIXES, owners
from ssl4seg.data.orientation import AS_STORED, Axes, Space
from ssl4seg.data.scans import SCAN, scan_facts
from ssl4seg.data.volumes import as_stored, placed, spacing_of, stood
from ssl4seg.data.walk import walk
from ssl4seg.errors import UserError

IMAGES, MASKS, UNLABELED = "images", "masks", "unlabeled"
CHANNEL = re.compile(r"_(\d{4})$")
"""The number of a channel, the last thing in the name of a file that holds this channel alone."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """An image, and its mask."""

    name: str
    """The path below images/ without ending, or "unlabeled/" and the path below unlabeled/. Unique within a split."""
    image: Path
    """The file, or the first of them."""
    more: tuple[Path, ...] = ()
    """The files of the other channels, in their order."""
    mask: Path | None
    """The image file itself if it is an h5 or npz file that holds both."""
    split: Split | None
    """None if the split is drawn."""
    group: str
    channels: int | None = None
    """How many its files must hold; None: as many as can be read for the dataset's."""

    @property
    def images(self) -> tuple[Path, ...]:
        """The files of the image."""
        return (self.image, *self.more)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of image and mask, each once."""
        return tuple(dict.fromkeys([*self.images, *([self.mask] if self.mask else [])]))


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The items of a folder, and its faults."""

    items: list[Item] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)
    """Files of unknown kinds."""
    copies: list[Path] = field(default_factory=list)
    """Files in unlabeled/ that are left out as copies of images."""
    orphans: list[Path] = field(default_factory=list)
    """Masks without an image that are left out."""
    notes: list[str] = field(default_factory=list)
    """What a user should know of the files that are not read, or not as they are called."""


class How(NamedTuple):
    """How files become items."""

    skip_orphans: bool = False
    """Leave out masks without an image; else each is a fault."""
    channel_files: bool = False
    """Whether name_0000, name_0001 are channels of one image."""
    mask_name: str | None = None
    """How the name of a mask follows from that of its image, see `mask_names.owners`."""
    image_folder: str = IMAGES
    mask_folder: str = MASKS
    """The folders of images and of masks, in the layouts whose names are ours."""
    channels: int | None = None
    """In the files of every image, where a description counts them; None: any number."""


# -- by their names ---------------------------------------------------------------------------------------------------


def pair(images: Path, masks: Path, split: Split | None, layout: Layout, how: How) -> None:
    """Add the images of a folder with the masks of another."""
    found, masked = images_in(images, layout, how), files_in(masks, layout)
    if not found:
        fault = "holds no image" if images.is_dir() else "is missing"
        layout.faults.append(f"{images}: {fault} ({', '.join(ENDINGS)})")
    image_of, unclear = owners(found, masked, how.mask_name)
    layout.faults.extend(f"{found[name][0]}: {fault}" for name, fault in unclear.items())
    owned: dict[str, Path] = {}
    for name, mask in masked.items():
        owner = image_of[name]
        if owner is None and how.skip_orphans:
            layout.orphans.append(mask)
        elif owner is None:
            layout.faults.append(f"{mask}: is a mask without an image; {_why_without(name, images, layout, how)}")
        elif owner in owned:
            layout.faults.append(f"{mask}: is a second mask of {owner}, beside {owned[owner].name}")
        else:
            owned[owner] = mask
    for name, (image, *more) in found.items():
        try:
            mask_file = _mask_of(image, owned.get(name))
        except UserError as error:
            layout.faults.append(str(error))
        else:
            layout.items.append(_item(name, [image, *more], mask_file, split, how))


def _item(name: str, files: Sequence[Path], mask: Path | None, split: Split | None, how: How) -> Item:
    more = tuple(files[1:])
    return Item(name=name, image=files[0], more=more, mask=mask, split=split, group="", channels=how.channels)


def _why_without(name: str, folder: Path, layout: Layout, how: How) -> str:
    """Why no image of a folder belongs to the mask of this name, and what to do."""
    alike = (file for file in layout.others if file.is_relative_to(folder) and _name(file, folder) == name)
    if file := next(alike, None):
        return f"{file.name} is not read ({hint(file.name)})"
    held = f"nothing in {folder} fits mask_name={how.mask_name}" if how.mask_name else f"{folder} holds no {name}"
    named = "" if how.mask_name else ", say how names of masks differ with mask_name in dataset.yaml"
    return (
        f"{held}; add the image, remove the mask{named}, or leave such masks out with dataset.skip_orphans=true "
        "(skip_orphans: true in dataset.yaml)"
    )


def expect_masks(items: Sequence[Item], place: Path, masks: Path, layout: Layout) -> None:
    """Add a fault if there are items, but none with a mask.

    Args:
        place: that holds the items.
        masks: where their masks should be.
    """
    if items and not any(item.mask for item in items):
        layout.faults.append(
            f"{place}: no image has a mask; {masks} must hold files with the names of the images "
            f"(or with {' '.join(SUFFIXES)} after them), or mask_name in dataset.yaml say how their names differ, as "
            "'labels{id}'"
        )


def add_unlabeled(folder: Path, split: Split | None, layout: Layout, how: How) -> None:
    """Add the images of a folder without masks, except copies of images."""
    images = {item.name for item in layout.items}
    are_unique = len(images) == len(layout.items)
    for name, files in images_in(folder, layout, how).items():
        if are_unique and name in images:
            layout.copies.append(files[0])
        else:
            layout.items.append(_item(f"{UNLABELED}/{name}", files, None, split, how))


def _mask_of(image: Path, mask: Path | None) -> Path | None:
    if ending(image) in ARRAYS and array_facts(image)[1]:
        if mask:
            raise UserError(f"{mask}: is a second mask, {image.name} holds one itself (label)")
        return image
    return mask


def files_in(folder: Path, layout: Layout) -> dict[str, Path]:
    """The files below a folder by their names, sorted; a second file of the same name is a fault."""
    files: dict[str, Path] = {}
    found = walk(folder)
    layout.others.extend(found.others)
    layout.faults.extend(found.faults.values())
    for file in found.files:
        name = _name(file, folder)
        if name in files:
            other = files[name].name
            alike = " in another Unicode form" if normalize("NFC", file.name) == normalize("NFC", other) else ""
            layout.faults.append(f"{file}: has the same name as {other}{alike}; give each a name of its own")
        else:
            files[name] = file
    return dict(sorted(files.items()))


def images_in(folder: Path, layout: Layout, how: How) -> dict[str, list[Path]]:
    """The files of each image below a folder, by its name; a missing channel is a fault."""
    files = files_in(folder, layout)
    if not how.channel_files:
        return {name: [file] for name, file in files.items()}
    bare = [name for name in files if not CHANNEL.search(name)]
    layout.faults.extend(
        f"{files[name]}: has no number of its channel in its name, as {name}_0000 (dataset.channel_files)"
        for name in bare
    )
    found = by_channels({name: file for name, file in files.items() if name not in bare})
    faults = (missing_channel(name, parts, how.channels) for name, parts in found.items())
    layout.faults.extend(filter(None, faults))
    return {name: list(parts.values()) for name, parts in found.items()}


def by_channels(files: Mapping[str, Path]) -> dict[str, dict[int, Path]]:
    """The files of each image by the number of their channel; one without a number is an image of its own."""
    found: dict[str, dict[int, Path]] = {}
    for name, file in sorted(files.items()):
        number = CHANNEL.search(name)
        parts = found.setdefault(CHANNEL.sub("", name), {})
        if (place := int(number[1]) if number else 0) in parts:
            raise UserError(f"{file}: is channel {place} of {parts[place].name} too; give each a name of its own")
        parts[place] = file
    return found


def missing_channel(name: str, parts: Mapping[int, Path], expected: int | None = None) -> str | None:
    """The message about an image whose channels do not count from 0 to the last; None if they do.

    Args:
        expected: their number, if known. A single picture may hold all of them, as nnU-Net's RGB images do.
    """
    last = parts[max(parts)]
    if expected is None or (len(parts) == 1 and 0 in parts and ending(last) in (*PICTURE, *TIFF)):
        expected = max(parts) + 1
    if max(parts) >= expected:
        return f"{last}: is channel {max(parts)} of {name}; expected {expected} channels, 0000 to {expected - 1:04d}"
    gap = next((number for number in range(expected) if number not in parts), None)
    if gap is None:
        return None
    lacking = last.with_name(f"{CHANNEL.sub('', stem(last))}_{gap:04d}{last.name[len(stem(last)) :]}")
    return f"{lacking}: is missing; {name} has {len(parts)} channel file(s), as {last.name}, expected {expected}"


def _name(file: Path, folder: Path) -> str:
    """The path below a folder without ending, in the Unicode form NFC."""
    return normalize("NFC", (file.parent / stem(file)).relative_to(folder).as_posix())


# -- what their files hold --------------------------------------------------------------------------------------------


def facts_of(files: Sequence[Path], channels: int | None, space: Space) -> Facts:
    """The header of an image whose channels lie in one file or in several.

    Args:
        channels: of the dataset, if known; see `images.facts`.

    Raises:
        UserError: the files do not fit one another.
    """
    if len(files) == 1:
        return facts(files[0], channels, space)
    every = [facts(file, 1, space) for file in files]
    first = every[0]
    for file, fact in zip(files, every, strict=True):
        check_channels(file, fact.channels, 1)
        if fact.channels > 1:
            raise UserError(f"{file}: has {fact.channels} channels, but is one channel of {len(files)}; expected one")
        shapes = [(f.num_images, *f.size) for f in (fact, first)]
        if shapes[0] != shapes[1]:
            sizes = [" x ".join(map(str, shape)) for shape in shapes]
            raise UserError(
                f"{file}: is {sizes[0]} (slices x height x width), but the first channel {files[0].name} is {sizes[1]}"
            )
        axes_of_mask(file, files[0], space, "this channel and")
    return first._replace(channels=len(files), is_bytes=all(fact.is_bytes for fact in every))


def pixels_of(files: Sequence[Path], channels: int, part: Part = (), *, space: Space = AS_STORED) -> ImageArray:
    """[S, C, H, W] of an image whose channels lie in one file or in several, see `images.read_image`."""
    if len(files) == 1:
        return read_image(files[0], channels, part, space=space)
    check_channels(files[0].with_name(f"{stem(files[0])} and its channel files"), len(files), channels)
    images = [read_image(file, 1, part, space=space) for file in files]
    if len({image.dtype for image in images}) > 1:  # pictures of 8 and of 16 bit
        images = [(image / np.float32(full_scale(image))).astype(np.float32) for image in images]
    if len({image.shape for image in images}) > 1:
        facts_of(files, channels, space)  # names the one that differs
    joined: FloatArray = np.concatenate(images, axis=1)
    return joined


def in_axes(
    pixels: ImageArray, file: Path, spacing: Spacing | None, keys: Mapping[str, Any]
) -> tuple[ImageArray, Spacing | None]:
    """The pixels [S, C, H, W] of a file and their spacing, for volumes in the axes x, y, z: [1, C, X, Y, Z].

    Args:
        spacing: of slices, rows and columns.
        keys: of the dataset; those that earlier versions did not have may be missing.
    """
    if len(shape_of(keys["image_size"])) < 3:
        return pixels, spacing
    stored = as_stored(file, keys.get("h5_axes", "zyx"))
    return stood(pixels, stored=stored), spacing_of(spacing, stored=stored)


def as_read(
    pixels: ImageArray, file: Path, spacing: Spacing | None, keys: Mapping[str, Any]
) -> tuple[ImageArray, Place]:
    """The pixels [S, C, H, W] of a file as training reads them, and where they lie in the file.

    Args:
        spacing, keys: see `in_axes`.

    Raises:
        UserError: the spacing is needed, but unknown.
    """
    pixels, spacing = in_axes(pixels, file, spacing, keys)
    place = grid_of(keys).place(file, pixels.shape[2:], spacing, lambda: pixels)
    return placed(pixels, place, scaling_of(keys)), place


def facts_of_item(item: Item, channels: int | None, space: Space) -> Facts:
    """The header of an item's image, compared with that of its mask.

    Raises:
        UserError: its channels are not the dataset's, or image and mask differ in place or shape.
    """
    fact = facts_of_image(item, channels, space)
    if item.mask:
        axes_of_label(item, item.mask, fact, space)
    return fact


def facts_of_image(item: Item, channels: int | None, space: Space) -> Facts:
    """The header of an item's image; a UserError if its channels are not the dataset's."""
    fact = facts_of(item.images, channels, space)
    if item.channels not in (None, fact.channels):
        raise UserError(f"{item.image}: has {fact.channels} channel(s), but dataset.json names {item.channels}")
    if channels:
        check_channels(item.image, fact.channels, channels, opacity=fact.opacity)
    return fact


def axes_of_label(item: Item, mask: Path, fact: Facts | None, space: Space) -> Axes:
    """How the axes of an item's mask are laid.

    Args:
        fact: the header of the image; with it the shapes of scans are compared, those of others as they are read.

    Raises:
        UserError: image and mask differ in place or shape, or the mask has an axis of channels.
    """
    axes = axes_of_mask(mask, item.image, space)
    if fact is None or ending(mask) not in SCAN:
        return axes
    num, channels, *size = stacked(scan_facts(mask)[0], None, mask)
    if channels > 1:
        raise UserError(f"{mask}: has 4 axes, the last of length {channels}; expected a mask with one value a voxel")
    stored = (num, *size)
    check_shape(item, (fact.num_images, *fact.size), tuple(stored[axis] for axis in axes.order))
    return axes


def check_shape(item: Item, image: tuple[int, ...], label: tuple[int, ...]) -> None:
    """Refuse a mask whose shape is not its image's; both are (slices, height, width)."""
    if image != label:
        sizes = [" x ".join(map(str, shape if max(image[0], label[0]) > 1 else shape[1:])) for shape in (label, image)]
        order = "slices x height x width" if max(image[0], label[0]) > 1 else "height x width"
        turned = image[1:] == label[1:][::-1] and ending(item.image) in (*PICTURE, *TIFF)
        remark = "; is one of them stored turned (tag Orientation, EXIF), and the other not?" if turned else ""
        raise UserError(
            f"{item.mask}: the mask is {sizes[0]} ({order}), but its image {item.image.name} is {sizes[1]}{remark}"
        )
