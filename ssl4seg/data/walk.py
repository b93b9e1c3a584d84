"""The files below a folder, for check, training and prediction alike: which are read, and why others are not."""

import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ssl4seg.data.formats import ENDINGS, hint
from ssl4seg.userfiles import irregular

VOXELS = (".raw", ".zraw")
"""Files of these endings beside an .mhd hold its voxels, and are read with it."""


class Found(NamedTuple):
    """The files below a folder, in the order in which folders are walked through."""

    files: list[Path]
    """Regular files of a kind that is read."""
    faults: dict[Path, str]
    """Others of such a kind, each with its fault."""
    others: list[Path]
    """Files of other kinds."""


def walk(top: Path) -> Found:
    """Find the files below a folder. Links are followed, each folder is visited once; hidden files do not count."""
    found = Found([], {}, [])
    for place, names in _folders(top):
        for file in (Path(place, name) for name in sorted(names) if not name.startswith(".")):
            if not file.name.lower().endswith(ENDINGS):
                if not (file.suffix in VOXELS and file.with_suffix(".mhd").name in names):
                    found.others.append(file)
            elif fault := fault_of(file):
                found.faults[file] = fault
            else:
                found.files.append(file)
    return found


def fault_of(file: Path) -> str | None:
    """The message about a file that must not be opened, or whose name cannot be written down; None for a good one."""
    if (shown := _shown(file)) != str(file):
        return f"{shown}: its name is not UTF-8; rename it"
    kind = irregular(file)
    return kind and f"{file}: is {kind}; only regular files are read: remove it, or put the file itself there"


def passed_over(others: Sequence[Path], top: Path) -> list[str]:
    """The sentence on files of other kinds, which names one of each kind and the reason; none without such files."""
    kinds: dict[str, list[Path]] = {}
    for file in others:
        kinds.setdefault(file.suffix.lower(), []).append(file)
    groups = sorted(kinds.items(), key=lambda group: (hint(group[1][0].name).startswith("no"), -len(group[1])))
    shown = [
        f"{len(files)} {kind or 'without an ending'}, as {_shown(files[0].relative_to(top))} ({hint(files[0].name)})"
        for kind, files in groups[:5]
    ]
    more = [f"{sum(len(files) for _, files in groups[5:])} of {len(groups) - 5} more kinds"] if groups[5:] else []
    verb = "files are" if len(others) > 1 else "file is"
    return [f"{len(others)} {verb} not read: {'; '.join(shown + more)}"] if others else []


def _shown(file: Path) -> str:
    """A name that can be printed, of whatever bytes."""
    return os.fsencode(file).decode(errors="backslashreplace")


def _folders(top: Path) -> Iterator[tuple[str, list[str]]]:
    """A folder and the folders below it, with the names of their files. Each comes once, though links may lead back."""
    seen = {str(parent) for parent in Path(os.path.realpath(top)).parents}
    starts = [str(top)]
    while starts:
        links: list[str] = []
        for place, folders, names in itertools.chain.from_iterable(map(os.walk, starts)):
            shown = sorted(name for name in folders if not name.startswith("."))
            folders.clear()
            if (real := os.path.realpath(place)) not in seen:
                seen.add(real)
                folders[:] = shown
                links += [path for name in shown if os.path.islink(path := os.path.join(place, name))]
                yield place, names
        starts = links  # last, so that a folder is known by its own name rather than by a link's
