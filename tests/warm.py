"""What the commands import and learn in their first second, done once in the process that theirs are forked from."""

import copy
import importlib
from functools import cache, wraps
from typing import Any

from hydra._internal.core_plugins.file_config_source import FileConfigSource

from ssl4seg.commands.conf import composed, conf_dir
from ssl4seg.data import phantom

for name in (
    "helpers",  # where the function stands that each process begins with
    *("ssl4seg.train", "ssl4seg.eval", "ssl4seg.predict", "ssl4seg.prepare", "ssl4seg.report.command"),
    *("ssl4seg.run.training", "ssl4seg.commands.evaluation", "ssl4seg.commands.prediction"),
    *("ssl4seg.report.figures", "ssl4seg.report.patients", "matplotlib.backends.backend_agg", "scipy.stats"),
    *("medpy.metric", "ssl4seg.networks.unet", "hydra.experimental.callback"),
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

of_conf = remembered(lambda provider, config_path: _load(FileConfigSource(provider, str(conf_dir())), config_path))
_load = FileConfigSource.load_config


def load_config(self: Any, config_path: str) -> Any:
    """A file of conf/, of which a command reads sixty, three times."""
    return of_conf(self.provider, config_path) if self.path == str(conf_dir()) else _load(self, config_path)


FileConfigSource.load_config = load_config
composed("train", ["seed=0"])  # Hydra looks for its plugins, and its parsers learn their grammars
