"""The kinds that can be imported, and which of them a source is."""

from collections.abc import Mapping
from dataclasses import fields

from ssl4seg.data import layout
from ssl4seg.data.folder import by_kind
from ssl4seg.data.imports import coco, colors, cvat, dicom, instances, labelme, masks, panoptic, scans, voc
from ssl4seg.data.imports.content import PARSERS, Choices, Kind, Source
from ssl4seg.data.items import How
from ssl4seg.errors import UserError, did_you_mean

KINDS: tuple[Kind, ...] = (coco, panoptic, labelme, cvat, voc, colors, masks, instances, dicom, scans)
"""In the order in which they are tried and listed."""
TOLD: Mapping[str, Kind] = {"legend": colors, "by_folder": masks}
"""The kind that a word tells where files tell none. (voc reads a legend too, but its folders tell it.)"""


def _given(choices: Choices) -> list[str]:
    """The names of the choices that the user made."""
    return [each.name for each in fields(choices) if getattr(choices, each.name) != each.default]


def expect_read(kind: Kind, choices: Choices) -> None:
    """Refuse a choice that the kind does not read.

    Raises:
        UserError: names the word, and the kinds that read it.
    """
    for name in _given(choices):
        if name not in kind.CHOICES:
            readers = ", ".join(other.NAME for other in KINDS if name in other.CHOICES)
            raise UserError(
                f"--{name.replace('_', '-')}: {kind.NAME} does not read it, but {readers}; leave it out, or name one "
                "of these by --from KIND"
            )


def kind_of(source: Source, name: str | None = None, choices: Choices | None = None) -> Kind:
    """The kind of a source.

    Args:
        name: that the user gave; None: it is recognised.
        choices: by which it is known where files tell of none or of several.

    Raises:
        UserError: no kind has the name, none is recognised, or several are.
    """
    names = [kind.NAME for kind in KINDS]
    if name is not None:
        if name not in names:
            raise UserError(f"--from {name}: expected one of {', '.join(names)}{did_you_mean(name, names)}")
        return KINDS[names.index(name)]
    words = _given(choices or Choices())
    found = [kind for kind in KINDS if kind.recognise(source)]
    if not found:
        found = [kind for kind in KINDS if kind in [TOLD.get(word) for word in words]]
    elif len(found) > 1:
        found = [kind for kind in found if {*words} <= {*kind.CHOICES}] or found
    if panoptic in found:  # its PNGs of segments may lie in a folder annotations/, which is called as one of masks is
        found = [kind for kind in found if kind not in (colors, masks, instances)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(
            f"{source.path}: looks like {' and like '.join(kind.TITLE for kind in found)}; say which by --from "
            f"{' or --from '.join(kind.NAME for kind in found)}"
        )
    broken = by_kind([fault for ending in PARSERS for fault in source.broken(ending)])
    if known := next((each for each in layout.KINDS if source.path.is_dir() and each.found(source.path, How())), None):
        message = (
            f"{source.path}: holds {known.mark}, which dataset=folder reads without an import: ssl4seg-prepare check "
            f"{source.path}; if it is to be imported all the same, say its kind: --from KIND"
        )
    else:
        listed = "".join(f"\n  --from {kind.NAME}: {kind.TITLE}" for kind in KINDS)
        message = f"{source.path}: looks like nothing that can be imported; expected one of{listed}"
    raise UserError("\n".join([*broken, message]))
