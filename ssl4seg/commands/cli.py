"""The frame of every command: answer --help, refuse typing errors, hand over to Hydra, and turn errors into messages.

Importing torch takes seconds, so help and typing errors are answered without it.
"""

import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from hydra import main as hydra_main
from hydra._internal.utils import get_args_parser
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from ssl4seg.commands.conf import check_config_dir, group_names
from ssl4seg.commands.help import help_text
from ssl4seg.commands.sweeps import SEARCHER, Sweep, search_defaults
from ssl4seg.commands.words import check
from ssl4seg.errors import UserError, ends_with_its_pipe, plain
from ssl4seg.shipped import conf_dir

Task = Callable[[DictConfig], Any]
"""Does the work of a command; returns the value that a sweeper may optimise, or None."""

HYDRAS = (HydraException, OmegaConfBaseException)
"""Errors whose first lines are a message for the user."""

Kind = TypeVar("Kind", bound=BaseException)


@ends_with_its_pipe
def command(name: str, task: Task) -> None:
    """Run the command `name` (train, eval, predict, export or rank): exit 0, or 1 with a message; 130 after Ctrl-C."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises the error instead of printing a traceback
    try:
        sys.argv[1:] = _for_hydra(sys.argv[1:])
        arguments = get_args_parser().parse_args()
        extra = [Path(arguments.config_dir).resolve()] if arguments.config_dir else []
        for folder in extra:
            if not folder.is_dir():
                raise UserError(f"--config-dir {arguments.config_dir}: there is no such folder")
            check_config_dir(folder, group_names(name))
        if arguments.help:
            print(help_text(name, arguments.overrides, [*extra, conf_dir()]))
            return
        check(name, arguments.overrides, extra, sweep=arguments.multirun)
        hydra_main(version_base="1.3", config_path=str(conf_dir()), config_name=name)(task)()
        if Sweep.error:
            raise Sweep.error
    except UserError as error:
        sys.exit(f"error: {error}")
    except BrokenPipeError:
        raise
    except OSError as error:
        message = f"{error.filename}: cannot be written or read ({error.strerror})" if error.filename else error
        sys.exit(plain(f"error: {message}"))
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if _within(error, KeyboardInterrupt):  # Ctrl-C, which a library took for a fault of what it was doing
            sys.exit(130)
        told = _within(error, UserError)  # of a resolver
        explanation = _first_lines(told or error) if told or isinstance(error, HYDRAS) else _explained(error)
        if not explanation:
            raise
        sys.exit(plain(f"error: {explanation}"))
    finally:
        failures = Sweep.current.failures() if Sweep.current else []
        if failures:
            runs = (f"{failure['overrides']}\n  {_line_of(failure['error'])}" for failure in failures)
            print(plain(f"\n{len(failures)} run(s) failed:\n" + "\n".join(runs)), file=sys.stderr)
    if failures:
        sys.exit(1)


def _within(error: BaseException | None, kind: type[Kind]) -> Kind | None:
    """The first error of a kind among an error, its causes and those during whose handling it was raised."""
    while error:
        if isinstance(error, kind):
            return error
        error = error.__cause__ or error.__context__
    return None


def _explained(error: Exception) -> str:
    """The message for an error of Hydra, a launcher or a sweeper; empty for a fault of this package.

    Packages of launchers need not be installed, so their errors are recognised by name.
    """
    if type(error).__name__ == "TerminatedWorkerError":
        return (
            "a process of the sweep was killed, perhaps because memory ran out: compute fewer runs at once "
            "(hydra.launcher.n_jobs); the same command goes on, and finished runs are not computed again"
        )
    frames = list(traceback.walk_tb(error.__traceback__))
    package = str(frames[-1][0].f_globals.get("__name__")).split(".")[0]
    return f"{package}: {error}" if package in ("hydra", "joblib", "submitit", "optuna", "hydra_plugins") else ""


def _for_hydra(words: Sequence[str]) -> list[str]:
    """Rewrite the typed words for Hydra.

    Options (-m, --config-dir DIR) may be typed anywhere, but Hydra wants them first. ~ becomes the home folder, as no
    shell expands it within KEY=~/DATA. A search gets the defaults of `sweeps.SEARCH`.
    """
    flags, rest = _options_first(words)
    home = str(Path.home())
    rest = [re.sub(r"^([\w.]+=)~(?=/|$)", lambda found: found[1] + home, word) for word in rest]
    if SEARCHER in rest:
        position = rest.index(SEARCHER)
        rest[position:position] = search_defaults(rest)
    return flags + rest


def _options_first(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The options with their values, and the other words.

    Raises:
        UserError: Hydra has no such option.
    """
    known = get_args_parser()._option_string_actions
    flags: list[str] = []
    rest: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        option, equals, _ = word.partition("=")
        if not word.startswith("-"):
            rest.append(word)
        elif option in known:
            flags.append(word)
            if known[option].nargs is None and not equals and left:
                flags.append(left.pop(0))
        else:
            key = option.lstrip("-").replace("-", "_") or "KEY"
            raise UserError(f"{word}: there is no such option; keys are set without dashes, as {key}=VALUE")
    return flags, rest


def _line_of(message: str) -> str:
    """A message's first line; where it only announces the next one by a colon, both in one."""
    first, *others = [line.strip() for line in message.splitlines() if line.strip()]
    return f"{first} {others[0]}" if first.endswith(":") and others else first


def _first_lines(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return "\n".join(lines[:3]) or type(error).__name__
