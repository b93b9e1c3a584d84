"""What every form of annotations has: `Draft`."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

from ssl4seg.data.case import LabelArray
from ssl4seg.errors import optional_package


class Draft(ABC):
    """Predicted labels of many pictures as annotations, with which an annotation tool goes on.

    Args:
        folder: in which they are written.
        names: of all classes, by their numbers.
        background: whether class 0 is a background, which is not annotated.

    Raises:
        UserError: the package is missing.
    """

    format: ClassVar[str]
    """Value of the key `format` of `ssl4seg-predict`."""
    per_picture: ClassVar[str | None] = None
    """Ending of the file that each picture has; None: it has none."""
    package: ClassVar[str | None] = "pycocotools.mask"
    """Of the extra `import`, which is needed."""

    def __init__(self, folder: Path, names: Mapping[int, str], *, background: bool) -> None:
        self.folder, self.names, self.background = folder, names, background
        if self.package:
            with optional_package(f"format={self.format}", "import"):
                import_module(self.package)
        self.categories = {number: place for place, number in enumerate(self.annotated, 1)}

    @property
    def annotated(self) -> dict[int, str]:
        """The classes that are annotated: all but a background."""
        return {number: name for number, name in self.names.items() if number or not self.background}

    @abstractmethod
    def files(self, targets: Iterable[Path]) -> list[Path]:
        """The files that will be written; `targets` are those of the pictures."""

    @abstractmethod
    def add(self, label: LabelArray, picture: Path, name: str, target: Path) -> None:
        """Add a picture with its label [H, W].

        Args:
            picture: its file.
            name: its way below the folder of all.
            target: the file of its mask or, with `per_picture`, of its annotations.
        """

    def write(self) -> Path:
        """Write the file of all pictures; return it, or the folder where there is none."""
        return self.folder


def origin() -> str:
    return f"predicted by ssl4seg {version('ssl4seg')}"
