"""`ssl4seg-prepare import SOURCE DEST`: annotations of other tools become a folder for dataset=folder."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from textwrap import indent

from ssl4seg.data.case import LabelArray
from ssl4seg.data.folder import by_kind
from ssl4seg.data.imports.content import Choices, Content, Source
from ssl4seg.data.imports.folder import Written, description_of, write
from ssl4seg.data.imports.kinds import expect_read, kind_of
from ssl4seg.data.masks import Color
from ssl4seg.data.patterns import first_groups
from ssl4seg.errors import UserError
from ssl4seg.keys import IGNORE
from ssl4seg.scoring.pictures import palette, save_labels

SHOWN = 10
"""Of the files that a second import has changed."""


def import_folder(
    source: Path,
    dest: Path,
    *,
    choices: Choices,
    kind: str | None = None,
    group: str | None = None,
    copy: bool = False,
    every: bool = False,
) -> None:
    """Read the source, write the folder, print what came of it and the next command.

    Args:
        kind: the word of --from; None: the kind is recognised.
        group: the key `group` of the new dataset.yaml.
        copy: copy images instead of linking them.
        every: list every fault, not three of each kind.

    Raises:
        UserError: lists the faults of the source; nothing is written then.
    """
    source, dest = source.expanduser(), dest.expanduser()
    _expect_apart(source, dest)
    given = Source(source)
    found = kind_of(given, kind, choices)
    print(f"{source}: {found.TITLE}")
    expect_read(found, choices)
    content = found.read(given, choices)
    content.shorten()
    _add_group(content, group)
    about = {"source": os.path.abspath(source), "kind": found.NAME}
    try:
        done = write(content, dest, about=about, save=_save, copy=copy)
    except UserError as error:
        raise UserError(_listed(str(error).splitlines(), source, every=every)) from None
    _report(content, done, dest)


def _save(label: LabelArray, path: Path, colors: Sequence[Color] | None) -> None:
    save_labels(label, path, palette(colors))


def _expect_apart(source: Path, dest: Path) -> None:
    """Refuse a DEST in the source, which is never written to, and a source in DEST."""
    inner, outer = dest.resolve(), (source if source.is_dir() else source.parent).resolve()
    if (source.is_dir() and inner.is_relative_to(outer)) or outer.is_relative_to(inner):
        raise UserError(
            f"{dest}: lies in {source} or around it; give a folder apart from it: the source is not touched"
        )


def _add_group(content: Content, group: str | None) -> None:
    """Set the key `group`; a fault if it does not match every name."""
    if group is None:
        return
    names = [example.name for example in content.examples]
    missed = [name for name, found in zip(names, first_groups(group, names, "--group"), strict=True) if not found]
    if missed:
        content.faults.append(f"--group {group}: does not match {len(missed)} of {len(names)} names, as {missed[0]}")
    content.keys["group"] = group


def _listed(faults: list[str], source: Path, *, every: bool) -> str:
    if len(faults) == 1:
        return faults[0]
    shown = faults if every else by_kind(faults)
    more = [] if every or len(faults) == len(shown) else ["--all lists every one"]
    return "\n".join([f"{len(faults)} faults in {source}, nothing is written:", *shown, *more])


def _report(content: Content, done: Written, dest: Path) -> None:
    masks = sum(example.mask is not None for example in content.examples)
    num = len(content.examples)
    print(f"  {num} images, {masks} with a mask, {num - masks} unlabelled")
    total = sum(done.counts.values())
    for number, name in enumerate(done.classes):
        share = f"{done.counts[number] / total:.2%} of the pixels" if done.counts[number] else "in no mask"
        if total:
            print(f"  {number} {name}: {share}")
    if done.counts[IGNORE]:
        print(f"  {IGNORE} ignored: {done.counts[IGNORE] / total:.2%} of the pixels")
    for note in done.notes:
        print(f"note: {note}")
    print(f"{dest / 'dataset.yaml'}:\n{indent(description_of(dest), '  ')}", end="")
    if not done.fresh:
        print(f"{len(done.changed)} files differ from the earlier import" if done.changed else "all as it was")
        for line in done.changed[:SHOWN]:
            print(f"  {line}")
        if len(done.changed) > SHOWN:
            print(f"  ... and {len(done.changed) - SHOWN} more")
    print(f"next: ssl4seg-prepare check {shlex.quote(str(dest))}")
