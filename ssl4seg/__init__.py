"""ssl4seg: semi-supervised image segmentation experiments, one command away, and trained models in Python (`load`)."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ssl4seg.run.model import Model


def load(run: "str | Path | Sequence[str | Path]", *words: str) -> "Model":
    """Load the trained model of a run; of several runs, a model that averages their probabilities.

    Args:
        run: the folder of a run, or a list of several.
        words: keys as `ssl4seg-predict` takes them: "checkpoint=last", "device=cpu", "inference.flip=true",
            "postprocess=largest_component", "trust=true".

    Raises:
        UserError: what `ssl4seg-predict` would refuse.
    """
    from ssl4seg.commands.loading import load as loaded  # imports torch, which `import ssl4seg` does not need

    return loaded(run, *words)
