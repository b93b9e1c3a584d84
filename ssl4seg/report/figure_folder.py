"""The folder of the report's figures; it holds none of an earlier call."""

from pathlib import Path
from typing import TYPE_CHECKING

from ssl4seg.userfiles import expect_own, read_text

if TYPE_CHECKING:
    from ssl4seg.report.figures import Drawing

LIST = "written.txt"
"""The file that lists the figures which the report has written; only these are ever removed."""


class FigureFolder:
    """A folder of figures. Figures of the previous call are removed, because they may be out of date."""

    def __init__(self, path: Path) -> None:
        self.path, self.taken = path, set[str]()
        file = path / LIST
        names = read_text(file).splitlines() if file.exists() else []
        for name in [*names, LIST] if names else ():
            (path / Path(name).name).unlink(missing_ok=True)
        if names and not any(path.iterdir()):
            path.rmdir()

    def save(self, drawing: "Drawing") -> Path:
        """Write PNG and SVG under a name that no other figure has; return the path without the ending."""
        stem, number = drawing.name, 1
        while stem.lower() in self.taken:  # some file systems take "a" and "A" for one name
            number += 1
            stem = f"{drawing.name}-{number}"
        self.taken.add(stem.lower())
        self.path.mkdir(parents=True, exist_ok=True)
        expect_own(self.path / LIST)
        with (self.path / LIST).open("a") as file:
            file.write(f"{stem}.png\n{stem}.svg\n")
        for ending in (".png", ".svg"):
            expect_own(self.path / f"{stem}{ending}")
        drawing.save(self.path / stem)
        return self.path / stem
