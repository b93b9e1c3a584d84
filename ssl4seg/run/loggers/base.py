"""The contract of a logger, and what a run folder remembers of trackers outside of it."""

import importlib.util
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl4seg.errors import UserError, lacking
from ssl4seg.files import write_text
from ssl4seg.scoring.pictures import Picture
from ssl4seg.userfiles import expect_own, read_text

PLACES = "loggers.json"
"""File of a run folder: the id of the run in each tracker, by which a resumed run goes on there, and its place."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """The run that begins, or goes on."""

    folder: Path
    name: str
    """What trackers call the run: dataset, method and run folder."""
    step: int
    """Number of steps that are done; 0 for a new run. What was logged of later steps is void."""
    config: Mapping[str, Any]


class Logger(ABC):
    """One logger: a class, and a YAML in conf/logger whose keys are the constructor's arguments.

    The constructor refuses wrong keys and a missing package, before training. The methods may raise whatever their
    library raises: `run.record.Record` says it once, and the run goes on without the logger.
    """

    @abstractmethod
    def start(self, run: Start) -> str:
        """Begin to log, or go on; returns where the run can be seen, for the log, or ""."""

    @abstractmethod
    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log numbers, finite ones or not, by names like train/loss and val/dice/mean."""

    @abstractmethod
    def pictures(self, step: int, pictures: Mapping[str, Picture]) -> None:
        """Log overlays [H, W, 3] by names like val/overlay/<case>."""

    def conclude(self) -> None:  # noqa: B027
        """What follows belongs to the test of the best model."""

    @abstractmethod
    def finals(self, settings: Mapping[str, Any], scores: Mapping[str, float]) -> None:
        """Log the final scores, by names like final/test/dice/mean, and the settings that sweeps vary."""

    def flush(self) -> None:  # noqa: B027
        """Let others see what was logged."""

    @abstractmethod
    def close(self, status: str) -> None:
        """End.

        Args:
            status: finished, stopped (it will be resumed) or failed.
        """


def expect_package(name: str, package: str) -> None:
    """Refuse a logger whose package is not installed.

    Args:
        name: of the logger, and of its extra of pip.
        package: the module.
    """
    if importlib.util.find_spec(package) is None:
        raise lacking(f"logger={name}", package, name)


def known_id(run: Start, name: str) -> str | None:
    """The id that a run which goes on has in a tracker; None for a new run."""
    entry = _places(run.folder).get(name)
    if not run.step or not isinstance(entry, dict):
        return None
    found = str(entry.get("id"))
    if not re.fullmatch(r"[0-9A-Za-z_-]{1,64}", found):
        raise UserError(f"{run.folder / PLACES}: {name}: {found!r} is no id of a run; remove the file")
    return found


def remember(run: Start, name: str, number: str, place: str) -> None:
    """Note the id and the place of a run in a tracker."""
    content = _places(run.folder) | {name: {"id": number, "place": place}}
    write_text(run.folder / PLACES, json.dumps(content, indent=2) + "\n")


def _places(folder: Path) -> dict[str, Any]:
    file = folder / PLACES
    if not file.exists():
        return {}
    expect_own(file)
    try:
        content = json.loads(read_text(file))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: cannot be read ({error}); remove it") from None
    return content if isinstance(content, dict) else {}
