"""What `ssl4seg-predict` writes for each input: a mask or annotations, and beside it probabilities and an overlay."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from ssl4seg.data.case import LabelArray
from ssl4seg.data.drafts.base import Draft
from ssl4seg.data.drafts.kinds import DRAFTS
from ssl4seg.data.formats import PICTURE, ending, stem
from ssl4seg.data.images import shares_file, write_label, write_shares
from ssl4seg.data.masks import Color, as_held, code_of, name_of
from ssl4seg.errors import UserError
from ssl4seg.files import write_text
from ssl4seg.keys import IGNORE
from ssl4seg.run.assemble import mask_colors_of
from ssl4seg.run.model import Found, Model
from ssl4seg.run.settings import PredictSettings
from ssl4seg.scoring.pictures import Palette, Picture, captioned, legend, overlay, palette, planes, save_labels

UNSURE = "unsure"
"""The name of the pixels below `min_confidence`, whose value in masks is IGNORE."""


class Output:
    """Writes predictions in the form that the keys of `ssl4seg-predict` ask for.

    Args:
        targets: each mask to write with its input.

    Raises:
        UserError: two keys do not go together, a package is missing, or a file of someone's would be overwritten.
    """

    def __init__(self, settings: PredictSettings, targets: Mapping[Path, Path]) -> None:
        data = settings.dataset
        self.settings, self.folder, self.source = settings, Path(settings.output), Path(settings.input)
        self.background: bool = data.get("background", True)
        self.colors = palette(data.get("palette"), background=self.background)
        self.names: dict[int, str] = dict(enumerate(data["classes"]))
        if settings.min_confidence is not None:
            self.names[IGNORE] = UNSURE
        self.unsure_pixels = self.pixels = 0
        if settings.format != "masks" and settings.mask_values == "dataset":
            raise UserError(
                f"mask_values=dataset: says what masks hold, but format={settings.format} writes none; leave it out"
            )
        self.mask_colors = _mask_colors(settings)
        self.description = self._description() if settings.format == "masks" and settings.min_confidence else ""
        self.draft: Draft | None = None
        if settings.format != "masks":
            self.draft = DRAFTS[settings.format](self.folder, self.names, background=self.background)
        self._expect_free(targets)

    @property
    def reads_probabilities(self) -> bool:
        return self.settings.probabilities or self.settings.min_confidence is not None

    def _description(self) -> str:
        """The content of dataset.yaml, by which `dataset=folder` reads the masks, unsure pixels left out."""
        keys: dict[str, object] = {"classes": list(self.names.values())[:-1]}
        ignored: Color = IGNORE
        if self.mask_colors:
            *colors, ignored = self.mask_colors
            keys["colors"] = colors
        keys["ignore_index" if isinstance(ignored, int) else "ignore_color"] = ignored
        head = f"# Of the masks beside it, which ssl4seg-predict wrote: pixels that are {UNSURE} are ignored.\n"
        return head + yaml.safe_dump(keys, sort_keys=False, allow_unicode=True)

    def _expect_free(self, targets: Mapping[Path, Path]) -> None:
        """Refuse to overwrite annotations, a dataset.yaml, and one output by another."""
        files = self.draft.files(targets) if self.draft else []
        if there := [file for file in files if file.exists()]:
            more = f" and {len(there) - 1} more" if there[1:] else ""
            raise UserError(
                f"output={self.folder}: {there[0]}{more} exist(s) already, perhaps with someone's work in it; remove "
                "what is no longer needed, or give another folder"
            )
        file = self.folder / "dataset.yaml"
        if self.description and file.exists() and file.read_text(errors="replace") != self.description:
            raise UserError(f"{file}: would be overwritten by that of the predicted masks; give another output")
        for target, image in targets.items():
            for beside in self._beside(target, image):
                if beside in targets:
                    raise UserError(
                        f"{targets[beside]}: what is predicted on it has the name of a file that belongs to {image}, "
                        f"{beside}; predict them apart"
                    )

    def _beside(self, target: Path, image: Path) -> list[Path]:
        settings = self.settings
        shares = [shares_file(target, image)] if settings.probabilities else []
        return shares + ([_overlay_file(target)] if settings.overlay else [])

    def add(self, found: Found, file: Path, target: Path, model: Model) -> None:
        """Write what was predicted on an image.

        Args:
            file: of the image, the first where its channels lie in several.
            target: its mask, or the file of its annotations.
        """
        settings = self.settings
        if settings.min_confidence is not None:
            found = found.unsure_below(settings.min_confidence)
        label = model.slices(found.own_label(), file)
        if settings.format != "masks" and len(label) > 1:
            raise UserError(
                f"{file}: has {len(label)} slices, but format={settings.format} holds pictures; use format=masks"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        if self.draft:
            name = file.relative_to(self.source) if self.source.is_dir() else Path(file.name)
            self.draft.add(label[0], file, name.as_posix(), target)
        else:
            self._write_mask(label, file, target, model)
        if settings.probabilities:
            shares = model.probabilities_in(found, file)
            assert shares is not None
            write_shares(shares_file(target, file), shares, settings.dataset["classes"], file)
        if settings.overlay:
            picture = _overlay(found, self.names, self.colors)
            Image.fromarray(picture).save(_overlay_file(target))
        self.unsure_pixels += int((label == IGNORE).sum())
        self.pixels += label.size

    def _write_mask(self, label: LabelArray, file: Path, target: Path, model: Model) -> None:
        if self.mask_colors is not None:
            numbers = np.where(label == IGNORE, len(self.settings.dataset["classes"]), label)
            write_label(target, as_held(numbers, self.mask_colors), file, space=model.space)
        elif ending(target) in PICTURE:
            save_labels(label[0], target, self.colors)
        else:
            write_label(target, label, file, space=model.space)

    def conclude(self, num: int) -> str:
        """Write the files that belong to all inputs, none without an input; say what was written.

        An annotations.json that holds nothing would stand in the way of the next call, as somebody's work.

        Args:
            num: of inputs that were predicted.
        """
        words = f"{num} masks written to {self.folder}"
        if self.draft:
            words = f"{num} pictures annotated in {self.draft.write() if num else self.folder}"
        if self.description and num:
            write_text(self.folder / "dataset.yaml", self.description)
        if self.settings.min_confidence is None or not num:
            return words
        value = name_of(code_of(self.mask_colors[-1])) if self.mask_colors else str(IGNORE)
        held = f"the value {value}, which dataset.yaml ignores" if self.description else f"the class {UNSURE}"
        share = self.unsure_pixels / max(1, self.pixels)
        return f"{words}\n{share:.2%} of the pixels are below min_confidence={self.settings.min_confidence}: {held}"


def _mask_colors(settings: PredictSettings) -> Sequence[Color] | None:
    """Number or colour of each class in masks, with `min_confidence` also of unsure pixels; None: the classes' own."""
    if settings.mask_values != "dataset" or (colors := mask_colors_of(settings.dataset)) is None:
        return None
    if settings.min_confidence is None:
        return colors
    ignored = [settings.dataset.get(key) for key in ("ignore_color", "ignore_index")]
    unsure: Color = next((color for color in ignored if color not in (None, "none")), IGNORE)
    if code_of(unsure) in map(code_of, colors):
        raise UserError(
            f"min_confidence={settings.min_confidence}: unsure pixels would have the value {name_of(code_of(unsure))}, "
            "which is a class in the dataset's masks (mask_values=dataset); leave mask_values out"
        )
    return [*colors, unsure]


def _overlay_file(target: Path) -> Path:
    return target.with_name(f"{stem(target)}_overlay.png")


def _overlay(found: Found, names: Mapping[int, str], colors: Palette) -> Picture:
    """The planes with most foreground, bare and with their labels, above the names of the classes in them."""
    shown = planes(found.image, [found.label], colors)
    picture = overlay(found.image, [found.label], colors, found.place.spacing_read)
    if words := ", ".join(plane.words for plane in shown if plane.words):
        picture = captioned(picture, words)
    present = sorted({k for plane in shown for k in colors.classes(plane.labels[0])})
    if any((plane.labels[0] == IGNORE).any() for plane in shown):
        present.append(IGNORE)
    return np.concatenate([picture, legend(names, present, colors, picture.shape[1])])
