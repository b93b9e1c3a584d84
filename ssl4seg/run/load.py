"""Load a trained model from its run folder."""

from pathlib import Path

import torch
from torch import nn

from ssl4seg import checkpoint
from ssl4seg.data.dataset import Statistics
from ssl4seg.errors import UserError
from ssl4seg.run.assemble import method_of, network_maker
from ssl4seg.run.folder import checkpoint_file
from ssl4seg.run.settings import ModelSettings


def load_run(run: Path, settings: ModelSettings, which: str, device: torch.device) -> nn.Module:
    """Build the run's method and load the weights of a checkpoint into it.

    Args:
        run: the folder of the run.
        settings: the settings of the run, with the typed keys laid on them.
        which: best, last or the path of a file.

    Raises:
        UserError: there is no such checkpoint, or it belongs to another method or network.
    """
    path = checkpoint_file(run, which)
    data = settings.dataset
    standardized = data.get("mean") is not None  # the checkpoint holds the numbers
    make = network_maker(
        settings.network,
        data["channels"],
        data["num_classes"],
        statistics=Statistics([0.0] * data["channels"], [1.0] * data["channels"]) if standardized else None,
        load=False,
    )
    method = method_of(settings.method, make)
    content = checkpoint.load(path)
    if "method" not in content:
        raise UserError(f"{path}: is no checkpoint of a run; to evaluate a state dict use network.weights={path}")
    checkpoint.load_into(method, content["method"], path)
    method.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return method
