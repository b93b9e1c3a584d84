"""Files are written whole or not at all; tables are CSV that no spreadsheet takes for formulas."""

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ssl4seg.errors import WriteError


@contextmanager
def writing(file: Path) -> Iterator[Path]:
    """Yield the path to write to; it becomes `file` at the end of the block, and is removed if the block fails.

    At any moment `file` holds the whole earlier content or the whole new one.

    Raises:
        WriteError: names the file.
    """
    partial = file.with_name(file.name + ".partial")
    try:
        try:
            if not partial.is_char_device():  # such as /dev/full
                partial.unlink(missing_ok=True)  # of a killed process, or a stranger's link to another file or FIFO
            yield partial
            partial.replace(file)
        except BaseException:
            with suppress(OSError):  # a part of a file only takes space
                partial.unlink()
            raise
    except OSError as error:
        raise unwritten(file, error) from None


def unwritten(file: Path, error: OSError) -> WriteError:
    """The error that names a file which could not be written."""
    return WriteError(f"{file}: cannot be written ({error.strerror or error})")


def write_text(file: Path, text: str) -> None:
    """Write a text, see `writing`."""
    with writing(file) as partial:
        partial.write_text(text, errors="backslashreplace")


# -- CSV --------------------------------------------------------------------------------------------------------------

_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_NUMBER = re.compile(r"[+-](\d[\d.]*(e[+-]?\d+)?|inf|nan)( ± [\d.]+)?( \w+)?", re.IGNORECASE)


def quoted(value: object) -> object:
    """A cell. Before a text that a spreadsheet would compute stands a ', which tells it that this is text."""
    formula = isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.fullmatch(value)
    return f"'{value}" if formula else value


def unquoted(cell: str) -> str:
    """The text of a cell that `quoted` has made."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def write_csv(file: Path, lines: Iterable[Sequence[object]]) -> None:
    """Write a table, see `writing` and `quoted`; the first line holds the heads of the columns."""
    with writing(file) as partial, partial.open("w", newline="", errors="backslashreplace") as handle:
        csv.writer(handle).writerows([quoted(value) for value in line] for line in lines)
