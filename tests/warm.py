"""What the commands import and learn in their first second, done once in the process that theirs are forked from."""

import importlib

from ssl4seg.commands.conf import composed

for name in (
    "helpers",  # where the function stands that each process begins with
    *("ssl4seg.train", "ssl4seg.eval", "ssl4seg.predict", "ssl4seg.prepare", "ssl4seg.report.command"),
    *("ssl4seg.run.training", "ssl4seg.commands.evaluation", "ssl4seg.commands.prediction"),
    *("ssl4seg.report.figures", "ssl4seg.report.patients", "matplotlib.backends.backend_agg", "scipy.stats"),
    *("medpy.metric", "ssl4seg.networks.unet", "ssl4seg.data.phantom", "hydra.experimental.callback"),
):
    importlib.import_module(name)
composed("train", ["seed=0"])  # Hydra looks for its plugins, and its parsers learn their grammars
