"""The folder of figures: what one call of the report writes there, and nothing that an earlier one wrote."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ssl4seg.report.figures import Drawing

LIST = "written.txt"
"""Names of the files that the report has written; no other is ever removed."""


class FigureFolder:
    """A folder of figures; those of the call before are removed, as they may show what is no longer so."""

    def __init__(self, path: Path) -> None:
        self.path, self.taken = path, set[str]()
        file = path / LIST
        names = file.read_text().splitlines() if file.exists() else []
        for name in [*names, LIST] if names else ():
            (path / Path(name).name).unlink(missing_ok=True)
        if names and not any(path.iterdir()):
            path.rmdir()

    def save(self, drawing: "Drawing") -> Path:
        """As PNG and SVG, under a name that no other figure has; the path without the ending."""
        stem, number = drawing.name, 1
        while stem.lower() in self.taken:  # some file systems know no capitals
            number += 1
            stem = f"{drawing.name}-{number}"
        self.taken.add(stem.lower())
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / LIST).open("a") as file:
            file.write(f"{stem}.png\n{stem}.svg\n")
        drawing.save(self.path / stem)
        return self.path / stem
