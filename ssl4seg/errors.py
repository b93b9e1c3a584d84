"""How a command ends: with a message for the user, or silently at a closed pipe. This module imports nothing slow."""

import argparse
import io
import os
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from functools import wraps
from typing import NoReturn, ParamSpec

Arguments = ParamSpec("Arguments")


def plain(text: object) -> str:
    r"""A text for the screen: what steers a terminal or cannot be encoded is spelt out ("\x1b").

    Names of files and classes may come from a stranger.
    """
    return re.sub(r"[^ -~\n\t]", _spelt_out, str(text))


def _spelt_out(found: re.Match[str]) -> str:
    """A character; the escape of a control, format or line-separating one, of a surrogate and of an unassigned one."""
    sign = found[0]
    return sign if sign.isprintable() or unicodedata.category(sign) == "Zs" else repr(sign)[1:-1]


class UserError(Exception):
    """A fault that the user can mend.

    The message names the key, file or case, what was found, what is expected, and what to do.
    """

    def __init__(self, message: str) -> None:
        super().__init__(plain(message))


def lacking(what: str, package: str, extra: str) -> UserError:
    """The refusal of what needs a package that only an extra of ssl4seg installs."""
    return UserError(f"{what} needs {package}: pip install 'ssl4seg[{extra}]'")


@contextmanager
def optional_package(what: str, extra: str) -> Iterator[None]:
    """Turn the failure of an import within into a UserError that names the command to type.

    Args:
        what: needs the package, as the message begins.
        extra: of pip, which installs it.
    """
    try:
        yield
    except ImportError as error:
        package = (error.name or "a package").partition(".")[0]
        raise lacking(what, package, extra) from None


class ArgumentParser(argparse.ArgumentParser):
    """argparse's, whose refusals of a stranger's words steer no terminal."""

    def error(self, message: str) -> NoReturn:
        super().error(plain(message))


class WriteError(UserError):
    """A file could not be written: the disk is full, a quota is reached, the folder is read-only."""


class Interrupted(Exception):  # noqa: N818 - not an error
    """The user asked to stop; everything is saved."""


def nearest(word: str, known: Iterable[str]) -> str:
    """The most similar of the known words, capitals or not; empty if none is similar."""
    by_lower = {name.lower(): name for name in known}
    return next((by_lower[near] for near in get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)), "")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message that refuses a word: "; did you mean uamt?"; empty if no known word is similar."""
    near = nearest(word, known)
    return f"; did you mean {near}?" if near else ""


def ends_with_its_pipe(command: Callable[Arguments, None]) -> Callable[Arguments, None]:
    """Wrap a command so that it ends silently when the reader of its output is gone, as after `| head`.

    Characters that the output cannot have, as those of a file name that is not UTF-8, are printed as escapes.
    """

    @wraps(command)
    def run(*arguments: Arguments.args, **keys: Arguments.kwargs) -> None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            try:
                command(*arguments, **keys)
            finally:
                sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes stdout again at its exit
            sys.exit(1)

    return run
