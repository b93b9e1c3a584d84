"""Load a trained model from its run folder."""

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ssl4seg import checkpoint
from ssl4seg.axes import module_channels_last
from ssl4seg.data.dataset import Statistics, shape_of
from ssl4seg.errors import UserError
from ssl4seg.methods.base import Method
from ssl4seg.run.assemble import method_of, network_maker
from ssl4seg.run.folder import checkpoint_file, read_json
from ssl4seg.run.settings import ModelSettings

log = logging.getLogger("ssl4seg")


def load_run(run: Path, settings: ModelSettings, which: str, device: torch.device, *, tested: bool = False) -> Method:
    """Build the run's method, in evaluation mode, and load the weights of a checkpoint into it.

    Args:
        run: the folder of the run.
        settings: the settings of the run, with the typed keys laid on them.
        which: best, last or the path of a file.
        tested: whether to refuse a best.pt that is not the one of results.json, instead of warning.

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
        axes=len(shape_of(data["image_size"])),
        load=False,
    )
    method = method_of(settings.method, make, load=False)
    content = checkpoint.load(path)
    if "method" not in content:
        raise UserError(f"{path}: is no checkpoint of a run; to evaluate a state dict use network.weights={path}")
    checkpoint.load_into(method, content["method"], path)
    if path.resolve() == (run / "best.pt").resolve() and (doubt := _doubt(run, content["method"])):
        if tested:
            raise UserError(doubt)
        log.warning(doubt)
    return module_channels_last(method.to(device)).eval()


def _doubt(run: Path, state: Mapping[str, Tensor]) -> str:
    """That best.pt is not the one that was tested; nothing where results.json does not say, as in older runs."""
    file = run / "results.json"
    try:
        tested = read_json(file).get("weights_sha256") if file.exists() else None
    except UserError:  # damaged, which is not what the weights are asked about
        return ""
    if tested is None or tested == checkpoint.hash_of(state):
        return ""
    return f"{run}: best.pt is not the one that was tested; {file} holds the scores of other weights"
