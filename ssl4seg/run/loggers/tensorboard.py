"""TensorBoard: event files in tensorboard/ of the run folder."""

import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from ssl4seg.run.events import losses
from ssl4seg.run.loggers.base import Logger, Start
from ssl4seg.scoring.pictures import Picture

log = logging.getLogger("ssl4seg")

FINAL = ".final"
"""Ending of the event file with the test's scores and the hparams; a resumed run writes this file anew."""


def _told_elsewhere(failure: threading.ExceptHookArgs) -> None:
    """TensorBoard's thread keeps its error, and raises it where the next value is written: no traceback beside it."""
    if not (isinstance(failure.exc_value, OSError) and type(failure.thread).__name__ == "_AsyncWriterThread"):
        threading.__excepthook__(failure)


threading.excepthook = _told_elsewhere


class TensorBoard(Logger):
    """Scalars, overlays, the configuration as text, and hparams, in event files."""

    folder: Path
    writer: SummaryWriter

    def start(self, run: Start) -> str:
        self.folder = run.folder / "tensorboard"
        for old_events in self.folder.glob(f"events*{FINAL if run.step else ''}"):
            old_events.unlink()
        for loss in losses(self.folder, run.step):
            log.warning(loss)
        self.writer = SummaryWriter(str(self.folder), purge_step=run.step + 1)
        if not run.step:
            text = yaml.safe_dump(dict(run.config), sort_keys=False)
            self.writer.add_text("config", "\n".join("    " + line for line in text.splitlines()), 0)
        return ""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def pictures(self, step: int, pictures: Mapping[str, Picture]) -> None:
        for name, picture in pictures.items():
            self.writer.add_image(name, np.ascontiguousarray(picture), step, dataformats="HWC")

    def conclude(self) -> None:
        """Write all that follows to the event file of the test."""
        self.writer.close()
        self.writer = SummaryWriter(str(self.folder), filename_suffix=FINAL)

    def finals(self, settings: Mapping[str, Any], scores: Mapping[str, float]) -> None:
        """Also as hparams, by which the HPARAMS tab sorts the runs of a sweep."""
        plain = {k: v if isinstance(v, (bool, int, float, str)) else str(v) for k, v in settings.items()}
        for summary in hparams(plain, dict(scores)):
            self.writer._get_file_writer().add_summary(summary)
        for name, value in scores.items():
            self.writer.add_scalar(name, value)
        self.writer.flush()

    def flush(self) -> None:
        self.writer.flush()

    def close(self, status: str) -> None:
        self.writer.close()
