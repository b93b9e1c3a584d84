"""One CSV file of all scalars, and overlays as pictures, in the run folder."""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from PIL import Image

from ssl4seg.files import writing
from ssl4seg.run.loggers.base import Logger, Start
from ssl4seg.scoring.pictures import Picture
from ssl4seg.userfiles import expect_own, expect_regular

FILE, HEAD = "scalars.csv", ("step", "name", "value")
FINAL = ("test/", "final/")
"""Beginnings of the names that a resumed run logs anew."""


class CsvFile(Logger):
    """scalars.csv with a line for each number (step, name, value), and overlays/<split>/<step>/<case>.png."""

    folder: Path
    handle: IO[str]
    step = 0
    """Of the last scalar, which final scores are given."""

    def start(self, run: Start) -> str:
        self.folder, self.step = run.folder, run.step
        file = run.folder / FILE
        for path in (file, run.folder / "overlays"):
            expect_own(path)
        kept = [row for row in rows(file) if row[0] <= run.step and not row[1].startswith(FINAL)] if run.step else []
        with writing(file) as partial, partial.open("w", newline="") as handle:
            csv.writer(handle).writerows([HEAD, *kept])
        self.handle = file.open("a", newline="", errors="backslashreplace")
        return ""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self.step = step
        csv.writer(self.handle).writerows((step, name, value) for name, value in values.items())

    def pictures(self, step: int, pictures: Mapping[str, Picture]) -> None:
        for name, picture in pictures.items():
            split, _, case = name.partition("/overlay/")
            place = self.folder / "overlays"
            for part in (split, f"{step:07d}"):
                place /= part
                expect_own(place)
            place.mkdir(parents=True, exist_ok=True)
            with writing(place / f"{case.replace('%', '%25').replace('/', '%2F')}.png") as partial:
                Image.fromarray(picture).save(partial, "PNG")

    def finals(self, settings: Mapping[str, Any], scores: Mapping[str, float]) -> None:
        self.scalars(self.step, scores)
        self.handle.flush()

    def flush(self) -> None:
        self.handle.flush()

    def close(self, status: str) -> None:
        self.handle.close()


def rows(file: Path) -> Iterator[tuple[int, str, float]]:
    """The lines of a scalars.csv; those that a killed process has cut, or that are damaged, are left out."""
    if not file.exists():
        return
    expect_regular(file)
    with file.open(newline="", errors="replace") as handle:
        for line in csv.reader(line.replace("\0", "") for line in handle):
            try:
                step, name, value = line
                yield int(step), name, float(value)
            except ValueError:
                continue
