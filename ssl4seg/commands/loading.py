"""The work of `ssl4seg.load`: a trained model for Python, with the keys of `ssl4seg-predict`."""

import re
from collections.abc import Sequence
from pathlib import Path

from ssl4seg.commands.conf import composed, laid_on_runs
from ssl4seg.commands.words import check
from ssl4seg.errors import UserError
from ssl4seg.run.model import Model
from ssl4seg.run.settings import TrainedSettings, read


def load(run: str | Path | Sequence[str | Path], *words: str) -> Model:
    """See `ssl4seg.load`."""
    runs = [run] if isinstance(run, str | Path) else [*run]
    if not runs:
        raise UserError("ssl4seg.load([]): there is no run; give the folder of one")
    typed = [f"run=[{','.join(_quoted(str(folder)) for folder in runs)}]", *words]
    check("predict", typed, [], sweep=False)
    config = composed("predict", typed, hydra=True)
    return Model([read(TrainedSettings, keys) for keys in laid_on_runs("predict", config, config.hydra)])


def _quoted(text: str) -> str:
    """A text as Hydra reads it back, whatever its signs: backslashes count only before a quote."""
    return "'" + re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), text) + "'"
