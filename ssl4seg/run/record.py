"""The output of a run: TensorBoard, the log file, the progress bar, tables. Only the first process writes it."""

import logging
import math
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table as RichTable
from rich.text import Text
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from ssl4seg.errors import WriteError, plain
from ssl4seg.files import unwritten
from ssl4seg.keys import MEANS
from ssl4seg.run.events import losses
from ssl4seg.scoring.metrics import Metric, score_in
from ssl4seg.scoring.pictures import Picture
from ssl4seg.scoring.tables import Summary

log = logging.getLogger("ssl4seg")

FINAL = ".final"
"""Ending of the event file with the test's scores and the hparams; a resumed run writes this file anew."""


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


def _told_elsewhere(failure: threading.ExceptHookArgs) -> None:
    """TensorBoard's thread keeps its error, and raises it where the next value is written: no traceback beside it."""
    if not (isinstance(failure.exc_value, OSError) and type(failure.thread).__name__ == "_AsyncWriterThread"):
        threading.__excepthook__(failure)


threading.excepthook = _told_elsewhere


class Record:
    """TensorBoard and the progress bar of a run.

    Args:
        folder: of the TensorBoard events; None in all processes but the first, which write nothing.
        step: number of steps that are done; later events in the folder are overwritten.
        total: number of steps of the run.
    """

    def __init__(self, folder: Path | None, *, step: int, total: int) -> None:
        self.folder, self.step = folder, step
        for old_events in folder.glob(f"events*{FINAL if step else ''}") if folder else ():
            old_events.unlink()
        for loss in losses(folder, step) if folder else ():
            log.warning(loss)
        self.writer: SummaryWriter | None = None
        with self._named():
            self.writer = SummaryWriter(str(folder), purge_step=step + 1) if folder else None
        shown = folder is not None and sys.stderr.isatty()
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
        self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.bar.stop()
        with suppress(WriteError) if error else nullcontext(), self._named():
            if self.writer:
                self.writer.close()

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Name the files of the events, if they cannot be written."""
        try:
            yield
        except OSError as error:
            assert self.folder
            raise unwritten(self.folder, error) from None

    def _write(self, kind: str, *arguments: Any, **more: Any) -> None:
        """Call a method of the writer, in the process that has one."""
        if self.writer:
            with self._named():
                getattr(self.writer, kind)(*arguments, **more)

    def config(self, config: Mapping[str, Any]) -> None:
        """Write the configuration as text, once."""
        if not self.step:
            text = yaml.safe_dump(dict(config), sort_keys=False)
            self._write("add_text", "config", "\n".join("    " + line for line in text.splitlines()), 0)

    def advance(self) -> None:
        self.bar.advance(self.task)

    def scalars(self, step: int, values: Mapping[str, float], images_per_second: float) -> None:
        """Write train/<name>; one of the names is "loss"."""
        self.bar.update(self.task, loss=f"{values['loss']:.3f}", speed=f"{images_per_second:.0f}".replace("nan", "-"))
        for name, value in values.items():
            self._write("add_scalar", f"train/{name}", value, step)

    def scores(
        self, split: str, step: int, summary: Summary, pictures: Mapping[str, Picture], headline: str | None = None
    ) -> None:
        """Write <split>/<metric>/mean and /<class>, <split>/<metric> for a metric of one number, and the overlays.

        Args:
            headline: the score that the progress bar shows.
        """
        if headline is not None:
            self.bar.update(self.task, score=headline)
        if not self.writer:
            return
        for metric, values in summary.items():
            numbers = values if isinstance(values, Mapping) else {"": values}
            for name, value in numbers.items():
                if isinstance(value, float) and not math.isnan(value):
                    self._write("add_scalar", f"{split}/{metric}/{name}".rstrip("/"), value, step)
        for case, picture in pictures.items():
            pixels = np.ascontiguousarray(picture)
            self._write("add_image", f"{split}/overlay/{case}", pixels, step, dataformats="HWC")
        self._write("flush")

    def pseudo_labels(self, step: int, scores: Mapping[str, float]) -> None:
        """Write pseudo/<score>."""
        for name, value in scores.items():
            self._write("add_scalar", f"pseudo/{name}", value, step)

    def conclude(self) -> None:
        """Write all that follows to the event file of the test."""
        if self.writer:
            with self._named():
                self.writer.close()
                self.writer = SummaryWriter(str(self.folder), filename_suffix=FINAL)

    def hparams(self, settings: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """Write settings and final metrics, by which the HPARAMS tab sorts the runs of a sweep."""
        if not self.writer:
            return
        plain = {k: v if isinstance(v, (bool, int, float, str)) else str(v) for k, v in settings.items()}
        for summary in hparams(plain, dict(metrics)):
            with self._named():
                self.writer._get_file_writer().add_summary(summary)
        for name, value in metrics.items():
            self._write("add_scalar", name, value)
        self._write("flush")  # results.json, which is written next, calls the run finished


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
