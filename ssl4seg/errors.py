"""How a command ends: with a message for the user, or silently at a closed pipe. This module imports nothing slow."""

import io
import os
import sys
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

Arguments = ParamSpec("Arguments")


class UserError(Exception):
    """A fault that the user can mend.

    The message names the key, file or case, what was found, what is expected, and what to do.
    """


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
