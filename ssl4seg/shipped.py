"""The files that ship with the package beside its code: conf/."""

from pathlib import Path

import ssl4seg


def conf_dir() -> Path:
    """conf/ inside the installed package, or beside it in a checkout."""
    here = Path(ssl4seg.__file__).resolve().parent
    inside = here / "conf"
    return inside if inside.is_dir() else here.parent / "conf"
