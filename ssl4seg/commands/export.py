"""The work of `ssl4seg-export`: a run's trained model as a file."""

import logging
from pathlib import Path

import torch

from ssl4seg.commands.evaluation import writable
from ssl4seg.commands.model_card import card
from ssl4seg.files import write_text
from ssl4seg.run.assemble import dataset_of
from ssl4seg.run.exporting import images_of, write_graph, write_weights
from ssl4seg.run.load import load_run
from ssl4seg.run.record import start_log
from ssl4seg.run.settings import Config, ExportSettings, read

log = logging.getLogger("ssl4seg")

FILES = {"onnx": "model.onnx", "pt2": "model.pt2", "weights": "model.safetensors"}
"""What is written in each format."""


def export_run(config: Config) -> None:
    """Write the model of a run in one format. A graph that differs from the run's network is removed and refused.

    Args:
        config: the run's configuration, with the typed words laid on it.
    """
    start_log(None)
    settings = read(ExportSettings, config)
    run = Path(settings.run)
    output = Path(settings.output) if settings.output is not None else run / "export"
    if settings.num_threads:
        torch.set_num_threads(settings.num_threads)
    method = load_run(run, settings, settings.checkpoint, torch.device("cpu"))
    method.to(memory_format=torch.contiguous_format)  # torch.export takes other strides for parts of tensors
    if settings.format == "weights":
        writable(output)
        write_weights(method, output / FILES["weights"])
        write_text(output / "README.md", card(run, settings))
        log.info(f"written: {output / 'README.md'}")
    else:
        dataset = dataset_of(settings.dataset)
        images, spacing = images_of(dataset)
        writable(output)
        write_graph(method, settings, output / FILES[settings.format], images, spacing)
