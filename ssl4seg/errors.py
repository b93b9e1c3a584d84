"""What ends a command: a message meant for the user, or a closed pipe. It imports nothing that takes time."""

import os
import sys
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

Arguments = ParamSpec("Arguments")


class UserError(Exception):
    """Something that the user can mend: the message names the key, file or case, what was found, and what to do."""


def ends_with_its_pipe(command: Callable[Arguments, None]) -> Callable[Arguments, None]:
    """The command, which ends quietly where what it writes to is closed, as by `| head`."""

    @wraps(command)
    def run(*arguments: Arguments.args, **keys: Arguments.kwargs) -> None:
        try:
            try:
                command(*arguments, **keys)
            finally:
                sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more as it ends
            sys.exit(1)

    return run
