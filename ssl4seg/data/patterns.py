"""Regular expressions of the user's own, searched in names with a limit of time."""

import json
import subprocess
import sys
from collections.abc import Sequence
from functools import lru_cache

from ssl4seg.errors import UserError

SECONDS = 10
"""For all names of a folder: a million take less than one, and Python half a second to start."""
CHILD = """
import json, re, sys
pattern, names = json.load(sys.stdin)
try:
    compiled = re.compile(pattern)
    matches = [compiled.search(name) if compiled.groups else None for name in names]
    json.dump([compiled.groups, [match and match.groups() for match in matches]], sys.stdout)
except Exception as error:
    json.dump(str(error) or type(error).__name__, sys.stdout)
"""


def first_groups(pattern: str, names: Sequence[str], key: str) -> list[str | None]:
    """The first group of a regular expression in each name, searched from its start; None where it does not match.

    Args:
        key: what the message calls the pattern, "dataset.group".

    Raises:
        UserError: it is no regular expression, has no group, or takes longer than SECONDS.
    """
    groups = all_groups(pattern, names, key, "the part that names the patient, as in '(patient\\d+)_'")
    return [found[0] if found else None for found in groups]


def all_groups(pattern: str, names: Sequence[str], key: str, what: str) -> list[tuple[str | None, ...] | None]:
    """All groups in each name.

    Args:
        what: the words for that which has to be in a group.

    Raises:
        UserError: see `first_groups`.
    """
    return list(_all_groups(pattern, tuple(names), key, what))


@lru_cache(16)  # a folder is listed several times in a run
def _all_groups(pattern: str, names: tuple[str, ...], key: str, what: str) -> tuple[tuple[str | None, ...] | None, ...]:
    """The search runs in a child process, which can be ended: Python's `re` has no limit of time of its own.

    An alarm signal would do only in the main thread and not on Windows, and a thread cannot be ended.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", CHILD],
            input=json.dumps([pattern, names]),
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=True,
        )
    except subprocess.TimeoutExpired:
        raise UserError(
            f"{key}={pattern}: takes more than {SECONDS} s on {len(names)} names, perhaps for ever; write it without "
            r"repeats within repeats, such as (\w+\w+)+"
        ) from None
    except subprocess.CalledProcessError as error:
        raise UserError(f"{key}={pattern}: is no regular expression that can be searched ({error})") from None
    result = json.loads(done.stdout)
    if isinstance(result, str):
        raise UserError(f"{key}={pattern}: is no regular expression ({result})")
    num_groups, found = result
    if not num_groups:
        raise UserError(f"{key}={pattern}: has no (...) around {what}")
    return tuple(groups and tuple(groups) for groups in found)
