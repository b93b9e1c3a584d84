"""What the commands import and learn in their first second, done once in the process that theirs are forked from."""

import copy
import importlib
from functools import cache, wraps
from typing import Any

import composing

from ssl4seg.data import phantom

for name in (
    "helpers",  # where the function stands that each process begins with
    *("ssl4seg.train", "ssl4seg.eval", "ssl4seg.predict", "ssl4seg.prepare", "ssl4seg.report.command"),
    *("ssl4seg.run.training", "ssl4seg.commands.evaluation", "ssl4seg.commands.prediction"),
    *("ssl4seg.report.figures", "ssl4seg.report.patients", "matplotlib.backends.backend_agg", "scipy.stats"),
    *("medpy.metric", "ssl4seg.networks.unet", "ssl4seg.methods.supervised", "hydra.experimental.callback"),
    *("ssl4seg.run.loggers.tensorboard", "torch.utils.tensorboard.writer", "rich._emoji_codes"),
):
    importlib.import_module(name)


def remembered(function: Any) -> Any:
    """The function, which does its work once for equal arguments and hands out copies."""
    once = cache(function)

    @wraps(function)
    def copied(*arguments: Any) -> Any:
        return copy.deepcopy(once(*arguments))

    return copied


phantom.render = remembered(phantom.render)  # a fifth of a short run's time
for number in (0, 1, 2, 3, 1000, 2000):  # the patients of `helpers.PHANTOM`
    for phase in phantom.PHASES:
        phantom.render(0, number, 1.0, phase)

composing.of_default_choices_once()  # and Hydra looks for its plugins, and its parsers learn their grammars
