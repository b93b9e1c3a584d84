"""The output of a run: the log file, the progress bar, tables, and its loggers. Only the first process writes it."""

import logging
import math
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table as RichTable
from rich.text import Text

from ssl4seg.errors import Interrupted, plain
from ssl4seg.files import unwritten
from ssl4seg.keys import MEANS
from ssl4seg.run.loggers.base import Logger, Start
from ssl4seg.scoring.metrics import Metric, score_in
from ssl4seg.scoring.pictures import Picture
from ssl4seg.scoring.tables import Summary

log = logging.getLogger("ssl4seg")

FILE_ONLY = {"file_only": True}
"""`extra` of a message for the log file alone, because the screen shows it in another way."""


SCREEN_ONLY = {"screen_only": True}
"""`extra` of a message that the log file already holds."""


class Plain(logging.Formatter):
    """Spells out what would steer a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return plain(super().format(record))


class Screen(logging.Handler):
    """Writes to the present sys.stderr, which the progress bar replaces to keep its line below the messages."""

    def emit(self, record: logging.LogRecord) -> None:
        if not hasattr(record, "file_only"):
            print(self.format(record), file=sys.stderr)


class LogFile(logging.FileHandler):
    """Writes train.log; says once on the screen that it cannot, and lets the run go on without."""

    def emit(self, record: logging.LogRecord) -> None:
        if not hasattr(record, "screen_only"):
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is logging's
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        log.removeHandler(self)
        with suppress(OSError):  # closing writes what is left
            self.close()
        if not hasattr(record, "file_only"):  # the last message, of what ended the run, is on the screen
            log.warning(f"{unwritten(Path(self.baseFilename), error)}; the run goes on without it")


def start_log(file: Path | None, *, quiet: bool = False) -> None:
    """Send messages to the screen and, with times, to `file`; a quiet process sends only warnings."""
    log.setLevel(logging.WARNING if quiet else logging.INFO)
    log.propagate = False
    for handler in list(log.handlers):
        log.removeHandler(handler)
        with suppress(OSError):
            handler.close()
    screen = Screen()
    screen.setFormatter(Plain("%(message)s"))
    log.addHandler(screen)
    if file:
        try:
            to_file = LogFile(file, errors="backslashreplace")
        except OSError as error:
            raise unwritten(file, error) from None
        to_file.setFormatter(Plain("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(to_file)


class Record:
    """The loggers and the progress bar of a run.

    A logger that fails is left out from then on, with a warning: no disk, network or server may end a training.

    Args:
        run: None in all processes but the first, which log nothing.
        loggers: by their names.
        step: number of steps that are done; what was logged of later ones is void.
        total: number of steps of the run.
    """

    def __init__(
        self, run: Start | None, loggers: Mapping[str, Logger] | None = None, *, step: int, total: int
    ) -> None:
        self.run, self.given = run, dict(loggers or {}) if run else {}
        self.loggers: dict[str, Logger] = {}
        """Those that work."""
        shown = run is not None and sys.stderr.isatty()
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}  {task.fields[score]}  {task.fields[speed]} images/s"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not shown,
        )
        self.task = self.bar.add_task("train", total=total, completed=step, loss="-", score="-", speed="-")

    def __enter__(self) -> Self:
        for name, logger in self.given.items():
            self._start(name, logger)
        self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.bar.stop()
        stopped = isinstance(error, Interrupted | KeyboardInterrupt)
        self._each("close", "stopped" if stopped else "failed" if error else "finished")

    def _start(self, name: str, logger: Logger) -> None:
        assert self.run
        try:
            place = logger.start(self.run)
        except Exception as error:
            self._lost(name, error)
            return
        self.loggers[name] = logger
        if place:
            log.info(f"logger={name}: {place}")

    def _each(self, call: str, *arguments: Any) -> None:
        """Call a method of each logger that works."""
        for name, logger in [*self.loggers.items()]:
            try:
                getattr(logger, call)(*arguments)
            except Exception as error:  # of whatever kind its library raises
                del self.loggers[name]
                self._lost(name, error)

    def _lost(self, name: str, error: Exception) -> None:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        short = " ".join(reason.split())[:200] or type(error).__name__
        log.warning(f"logger={name}: cannot go on ({short}); the run goes on without it")

    def advance(self) -> None:
        self.bar.advance(self.task)

    def scalars(self, step: int, values: Mapping[str, float], images_per_second: float) -> None:
        """Log train/<name>; one of the names is "loss"."""
        self.bar.update(self.task, loss=f"{values['loss']:.3f}", speed=f"{images_per_second:.0f}".replace("nan", "-"))
        self._each("scalars", step, {f"train/{name}": value for name, value in values.items()})

    def scores(
        self, split: str, step: int, summary: Summary, pictures: Mapping[str, Picture], headline: str | None = None
    ) -> None:
        """Log <split>/<metric>/mean and /<class>, <split>/<metric> for a metric of one number, and the overlays.

        Args:
            headline: the score that the progress bar shows.
        """
        if headline is not None:
            self.bar.update(self.task, score=headline)
        scalars = {}
        for metric, values in summary.items():
            numbers = values if isinstance(values, Mapping) else {"": values}
            for name, value in numbers.items():
                if isinstance(value, float) and not math.isnan(value):
                    scalars[f"{split}/{metric}/{name}".rstrip("/")] = value
        self._each("scalars", step, scalars)
        self._each("pictures", step, {f"{split}/overlay/{case}": picture for case, picture in pictures.items()})
        self._each("flush")

    def pseudo_labels(self, step: int, scores: Mapping[str, float]) -> None:
        """Log pseudo/<score>."""
        self._each("scalars", step, {f"pseudo/{name}": value for name, value in scores.items()})

    def conclude(self) -> None:
        """What follows belongs to the test."""
        self._each("conclude")

    def finals(self, settings: Mapping[str, Any], scores: Mapping[str, float]) -> None:
        """Log settings and final scores, before results.json calls the run finished."""
        self._each("finals", settings, scores)


def show(title: str, summary: Summary, metrics: Iterable[Metric]) -> None:
    """Print the scores of each class and their means, and below them the metrics of one number.

    Args:
        metrics: the metrics that are shown, in this order.
    """
    unit = str(summary.get("distance_unit", ""))
    shown = [metric for metric in metrics if metric.name in summary]
    by_class = [metric for metric in shown if isinstance(summary[metric.name], Mapping)]
    table = RichTable()
    table.add_column("class")
    for metric in by_class:
        table.add_column(metric.head(unit), justify="right")
    names = dict.fromkeys(name for metric in by_class for name in summary[metric.name])
    classes = [name for name in names if name not in MEANS]
    for name in (*classes, *(mean for mean in reversed(MEANS) if mean in names)):
        entries = [(metric, summary[metric.name]) for metric in by_class]
        cells = [f"{m.factor * score_in(scores, name):.2f}" if name in scores else "" for m, scores in entries]
        is_mean = name in MEANS
        words = name.replace("_", " ") if is_mean else name
        table.add_row(Text(plain(words)), *cells, style="bold" if is_mean else "")
    print(plain(title))
    Console().print(table)
    numbers = [metric for metric in shown if metric not in by_class and summary[metric.name] is not None]
    if numbers:
        print(", ".join(f"{metric.title} {metric.printed(summary[metric.name], unit)}" for metric in numbers))
