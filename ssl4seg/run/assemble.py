"""Build objects from a configuration. Below the commands only this module knows Hydra."""

import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import hydra.utils
import torch
from hydra.errors import InstantiationException
from lightning_fabric import Fabric
from torch import nn

from ssl4seg import checkpoint
from ssl4seg.data.dataset import Dataset, Statistics, shape_of
from ssl4seg.data.masks import Color
from ssl4seg.errors import UserError
from ssl4seg.keys import KEYS, Key, expect, is_number, true_or_false
from ssl4seg.methods.base import MakeNetwork, Method
from ssl4seg.networks.base import Network, axes_argument
from ssl4seg.run.settings import Config, ModelSettings
from ssl4seg.run.transfer import Transfer
from ssl4seg.scoring.inference import Inference, literal_windows
from ssl4seg.scoring.postprocess.base import Step
from ssl4seg.scoring.predictor import Predictor

NUMBER = Key(is_number, "a number")

STANDARD = ("mean", "std")
"""The buffers of a network that standardises its input."""


def build(config: Config, where: str, **more: Any) -> Any:
    """Instantiate `_target_`. A UserError of its constructor passes; any other error becomes one that names `where`."""
    try:
        return hydra.utils.instantiate(dict(config), **more, _convert_="all")
    except InstantiationException as error:
        cause: BaseException = error
        while cause.__cause__:
            cause = cause.__cause__
            if isinstance(cause, UserError):
                raise cause from None
        if isinstance(cause, MemoryError | torch.OutOfMemoryError):
            raise cause from None
        if misspelt := _misspelt(cause, config, where):
            raise UserError(misspelt) from None
        raise UserError(f"{where}: cannot be built: {_missing(cause) or str(cause).splitlines()[0]}") from None


def _misspelt(cause: BaseException, config: Config, where: str) -> str:
    """The message for a key that the constructor does not take, with the nearest that it takes; "" for other errors."""
    found = re.search(r"unexpected keyword argument '(\w+)'", str(cause)) if isinstance(cause, TypeError) else None
    if not found or found[1] not in config:
        return ""
    kind = hydra.utils.get_object(config["_target_"])
    known = {key for base in getattr(kind, "__mro__", ()) for key in inspect.signature(base.__init__).parameters}
    near = get_close_matches(found[1], known - {"self"}, 1)
    hint = f"; did you mean {where}.{near[0]}?" if near else ""
    return f"{where}.{found[1]}: {config['_target_']} takes no such key{hint}"


def _missing(cause: BaseException) -> str:
    """The message for a module or a class that does not exist; "" for other errors."""
    if not isinstance(cause, ModuleNotFoundError):
        return ""
    parent, _, name = str(cause.name).rpartition(".")
    if (module := sys.modules.get(parent)) is None:  # not even its module could be imported
        return f"{cause}; is its folder on PYTHONPATH?"
    classes = [key for key, value in vars(module).items() if isinstance(value, type) and value.__module__ == parent]
    near = get_close_matches(name, classes, 1) or classes[:5]
    return f"{parent} has no {name}" + (f"; did you mean {' or '.join(near)}?" if near else "")


def dataset_of(dataset: Config) -> Dataset:
    built: Dataset = build(dataset, "dataset")
    return built


def network_maker(
    network: Config,
    channels: int,
    num_classes: int,
    *,
    axes: int = 2,
    statistics: Statistics | None = None,
    load: bool = True,
) -> MakeNetwork:
    """Make a builder of the network that the keys `network` describe.

    Args:
        axes: number of the images' axes: 2 of slices, 3 of volumes.
        statistics: mean and standard deviation that standardise the network's input; None: it stays as it is.
        load: whether the network starts from the weights that the keys name; false if a run's weights follow.
    """
    keys = _without(network, "weights")
    weights = network.get("weights") if load else None
    if "encoder_weights" in keys and (weights or not load):
        keys["encoder_weights"] = None  # the other weights replace them

    kind = _class_of(keys)
    sizes = {"in_channels": channels, "num_classes": num_classes} | (axes_argument(kind, axes) if kind else {})

    def make(**more: object) -> Network:
        built: Network = build({**keys, **more}, "network", **sizes)
        if statistics:
            built.standardize(*statistics)
        if weights:
            load_network(built, Path(weights))
        return built

    return make


def _class_of(config: Config) -> Any:
    """The class or function that a configuration names; None if it cannot be imported, which `build` will say."""
    try:
        return hydra.utils.get_object(config["_target_"])
    except Exception:  # a file of one's own may fail in any way
        return None


def load_network(network: Network, file: Path) -> None:
    """Load a run's best model, or a state dict under our names or the public ones, also below a prefix or in wrappers.

    The mean and std by which the input is standardised are loaded too, if the file holds them; public files do not, and
    the network keeps its own.
    """
    rename: Callable[..., Any] = getattr(network, "rename", dict)
    state = rename(checkpoint.fitted(checkpoint.network_state(file), network.state_dict(), file, rename))
    own = {key: value for key in STANDARD if (value := getattr(network, key)) is not None}
    if all(key in state for key in STANDARD):
        network.standardize(*(state[key].flatten().tolist() for key in STANDARD))
    checkpoint.load_into(network, own | state, file)


class OwnNetwork:
    """Builds a network of a method's own, such as a peer or an expert, which keys with `_partial_: true` describe.

    Args:
        keys: those of a file in conf/network, and `_partial_`.
        load: as in `method_of`.
    """

    def __init__(self, keys: Config, where: str, *, load: bool) -> None:
        self.where, self.weights = where, keys.get("weights") if load else None
        if self.weights and not Path(str(self.weights)).is_file():
            raise UserError(f"{where}.weights={self.weights}: there is no such file")
        keys = _without(keys, "weights")
        if "encoder_weights" in keys and (self.weights or not load):
            keys["encoder_weights"] = None
        self.keys = keys
        self.make = build(keys, where)
        self.func = self.make.func  # its class, as of any partial

    def __call__(self, **sizes: object) -> Network:
        """Build the network; its messages name its own keys instead of the run's."""
        try:
            network: Network = self.make(**sizes)
            if self.weights:
                load_network(network, Path(self.weights))
        except UserError as error:
            raise UserError(re.sub(r"\bnetwork(?=[.=])", self.where, str(error))) from None
        except TypeError as error:
            if misspelt := _misspelt(error, self.keys, self.where):
                raise UserError(misspelt) from None
            raise
        return network


def method_of(method: Config, make: MakeNetwork, *, load: bool = True) -> Method:
    """Build the method.

    Args:
        make: builds the run's network.
        load: whether networks of the method's own start from the weights that their keys name; false if a run's weights
            follow.
    """
    keys = _without(method, "optimizers")
    own = {
        key: OwnNetwork(value, f"method.{key}", load=load)
        for key, value in keys.items()
        if isinstance(value, Mapping) and value.get("_partial_")
    }
    # A partial of the network maker would be instantiated by Hydra; a plain function passes.
    built: Method = build({key: value for key, value in keys.items() if key not in own}, "method", network=make, **own)
    return built


def postprocess_of(postprocess: Config) -> list[Step]:
    """The steps of post-processing, in the order of `postprocess=[...]`."""
    return [build(keys, f"postprocess.{name}") for name, keys in postprocess.items()]


def mask_colors_of(data: Config) -> Sequence[Color] | None:
    """Number or colour of each class in a dataset's masks, without reading the dataset; None: the class's number."""
    try:
        kind: type[Dataset] = hydra.utils.get_class(data["_target_"])
    except Exception as error:
        raise UserError(f"mask_values=dataset: {data['_target_']} cannot be imported ({error})") from None
    return kind.mask_colors(data)


def optimizers_of(
    optimizer: Config, own: Mapping[str, Config], method: Method, transfer: Transfer
) -> dict[str, torch.optim.Optimizer]:
    """One optimiser for each phase of the method.

    Args:
        optimizer: the keys of the run's optimiser.
        own: the keys of the method's own optimisers by phase (`method.optimizers.<phase>`).
    """
    optimizers: dict[str, torch.optim.Optimizer] = {}
    for phase in method.phases:
        groups = transfer.groups(method.parameters_of(phase))
        keys, where = own.get(phase, optimizer), f"method.optimizers.{phase}" if phase in own else "optimizer"
        check_numbers(keys, where)
        optimizers[phase] = build(
            keys,
            where,
            params=[{"params": parameters} for parameters in groups.values()],
        )
        for group, scale in zip(optimizers[phase].param_groups, groups, strict=True):
            group["lr"] *= scale
    return optimizers


def check_numbers(keys: Config, where: str) -> None:
    """Refuse what is no number where a class, whose own checks of its keys are not ours, has one by default."""
    for name, parameter in _parameters(keys).items():
        if name in keys and is_number(parameter.default):
            expect(f"{where}.{name}", keys[name], KEYS.get(f"optimizer.{name}", NUMBER))
        elif name in keys and isinstance(parameter.default, bool):
            expect(f"{where}.{name}", keys[name], true_or_false)


def _parameters(keys: Config) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(hydra.utils.get_class(str(keys.get("_target_")))).parameters
    except Exception:  # `build` tells what is wrong with the class
        return {}


def _without(config: Config, key: str) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name != key}


def predictor_of(
    model: nn.Module,
    fabric: Fabric,
    settings: ModelSettings,
    *,
    batch_size: int,
    protocol: str = "default",
    steps: Sequence[Step] = (),
) -> Predictor:
    """Build the predictor of a method or a network from the settings.

    Args:
        batch_size: slices in one forward pass.
        protocol: default, ssl4mis or la, see `Predictor`.
        steps: post-processing, in its order.
    """
    data = settings.dataset
    shape = shape_of(data["image_size"])
    inference: Inference = build(settings.inference, "inference", shape=shape)
    if protocol == "la" and len(shape) == 3:
        kept = ("stride", "batch_size", "accumulate_on")
        inference = literal_windows(shape, **{key: v for key, v in settings.inference.items() if key in kept})
    return Predictor(
        predict=forward_of(model, fabric),
        inference=inference,
        device=fabric.device,
        batch_size=batch_size,
        protocol=protocol,
        steps=steps,
        classes=data["classes"],
        background=data.get("background", True),
    )


def forward_of(model: nn.Module, fabric: Fabric) -> Callable[[torch.Tensor], torch.Tensor]:
    """Wrap `predict` of a method, or `forward` of a network, in the run's precision and in evaluation mode."""
    forward = model.predict if isinstance(model, Method) else model.__call__

    def predict(image: torch.Tensor) -> torch.Tensor:
        model.eval()
        with fabric.autocast():
            logits: torch.Tensor = forward(image)
        return logits

    return predict
