"""Files that a user or a stranger wrote: only regular ones are opened, and text and YAML have limits.

A FIFO or a device may never end, a few bytes of YAML may stand for gigabytes, and deep nesting ends Python's stack.
"""

import json
import re
import stat
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import yaml

from ssl4seg.errors import UserError

MAX_TEXT = 2**28
"""Bytes of a list, or of the split.json of a run: those of a million paths, and more."""
MAX_YAML = 2**18
"""Bytes of a YAML file, which is read at about 200 KB/s."""
MAX_JSON = 2**24
"""Bytes of a JSON file: those of a list of a hundred thousand pairs of files."""
MAX_EXPANDED = 2**20
"""Characters and nodes of a YAML file in which every alias is replaced by the node that it repeats."""
MAX_DIGITS = 1000
"""Signs of a number in a YAML file: Python prints none of more than 4300, and one with colons takes long to read."""
MAX_DEPTH = 50
"""Lists and mappings of a YAML file within one another."""
KINDS = (
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISDIR, "a folder"),
)


def irregular(path: Path) -> str | None:
    """The words for a path that is there and is no regular file, such as "a FIFO"; None for any other path."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return "a link to a missing file" if path.is_symlink() else None
    return next((words for test, words in KINDS if test(mode)), None)


def expect_regular(path: Path, source: str | None = None) -> None:
    """Refuse a path that is there and is no regular file, before it is opened.

    Args:
        source: what the message calls the file.
    """
    if kind := irregular(path):
        raise UserError(f"{source or path}: is {kind}; only regular files are read")


def expect_own(path: Path) -> None:
    """Refuse to write into a link, which in a stranger's folder may lead anywhere, and into a FIFO.

    A link to a device such as /dev/null passes.
    """
    if path.is_char_device() or (path.is_dir() and not path.is_symlink()):
        return
    if path.is_symlink():
        raise UserError(f"{path}: is a link; nothing is written through it: remove it, or put the file itself there")
    expect_regular(path)


def read_text(path: Path, source: str | None = None, limit: int = MAX_TEXT, errors: str = "strict") -> str:
    """The text of a file in UTF-8, without a byte order mark.

    Args:
        source: what the message calls the file.
        limit: bytes.
        errors: what becomes of bytes that are no UTF-8, as in `bytes.decode`.

    Raises:
        UserError: the file cannot be read, is no regular file, is larger than `limit`, or is no UTF-8.
    """
    source = source or str(path)
    expect_regular(path, source)
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
        if len(content) <= limit:
            return content.decode("utf-8-sig", errors)
    except FileNotFoundError:
        raise UserError(f"{source}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{source}: cannot be read ({error})") from None
    raise UserError(f"{source}: is larger than {limit / 2**20:g} MiB, the limit of such a file")


def read_yaml(path: Path) -> Any:
    """The content of a YAML file.

    Raises:
        UserError: as `read_text`; it is no YAML, or is nested or repeats itself beyond the limits above.
    """
    text = read_text(path, limit=MAX_YAML)
    try:
        _check_size(text, path)
        return yaml.safe_load(text)
    except UserError:
        raise
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise UserError(f"{path}: cannot be read ({line}{error.problem})") from None
    except Exception as error:  # PyYAML lets errors of many types through: of numbers, of dates, of base64
        raise UserError(f"{path}: cannot be read ({' '.join(str(error).split())})") from None


def read_json(path: Path, limit: int = MAX_JSON) -> Any:
    """The content of a JSON file.

    Args:
        limit: bytes.

    Raises:
        UserError: as `read_text`; it is no JSON, or is nested deeper than Python reads.
    """
    try:
        return json.loads(read_text(path, limit=limit))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from None


def read_xml(path: Path, limit: int = MAX_TEXT) -> ElementTree.Element:
    """The root of an XML file without a document type: such could define entities that grow without end.

    Args:
        limit: bytes.

    Raises:
        UserError: as `read_text`; it is no XML, or has a document type.
    """
    text = read_text(path, limit=limit)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise UserError(f"{path}: defines a document type (<!DOCTYPE); such a file is not read")
    try:
        return ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as XML ({error})") from None


def _check_size(text: str, path: Path) -> None:
    """Refuse a YAML text by its events, before an object is built."""
    sizes: list[int] = [0]  # of the collections that are open, with the document around them
    anchors: list[str | None] = [None]
    known: dict[str, int] = {}
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            sizes.append(1)
            anchors.append(event.anchor)
        elif isinstance(event, yaml.CollectionEndEvent):
            size, anchor = sizes.pop(), anchors.pop()
            sizes[-1] += size
            if anchor:
                known[anchor] = size
        elif isinstance(event, yaml.ScalarEvent):
            event.value.encode(errors="surrogateescape")  # half a character ("\ud800") cannot be printed or saved
            if len(event.value) > MAX_DIGITS and re.fullmatch(r"[-+]?[0-9][0-9a-fA-FxX_:.]*", event.value):
                raise UserError(f"{path}: holds a number of {len(event.value)} signs, more than {MAX_DIGITS}")
            sizes[-1] += 1 + len(event.value)
            if event.anchor:
                known[event.anchor] = 1 + len(event.value)
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor in anchors:
                raise UserError(f"{path}: *{event.anchor} repeats a node within itself; write the values out")
            sizes[-1] += known.get(str(event.anchor), 1)
        if len(sizes) - 1 > MAX_DEPTH:
            line = f"line {event.start_mark.line + 1}" if event.start_mark else "it"
            raise UserError(f"{path}: {line} is nested more than {MAX_DEPTH} deep; such a file is not read")
        if sum(sizes) > MAX_EXPANDED:
            raise UserError(
                f"{path}: its aliases (*name) repeat more than {MAX_EXPANDED} characters; write the values out"
            )
