"""The files that ship with the package beside its code: conf/."""

from pathlib import Path
from typing import Any

import yaml

import ssl4seg

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml where PyYAML has it: nine times as fast on conf/, which every start reads."""


def conf_dir() -> Path:
    """conf/ inside the installed package, or beside it in a checkout."""
    here = Path(ssl4seg.__file__).resolve().parent
    inside = here / "conf"
    return inside if inside.is_dir() else here.parent / "conf"


def read_shipped(file: str) -> dict[str, Any]:
    """The content of a file of conf/."""
    content: dict[str, Any] = yaml.load((conf_dir() / file).read_bytes(), LOADER)
    return content
