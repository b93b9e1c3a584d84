"""From a configuration to objects. Only this room and the entry points know Hydra."""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, overload

import hydra.utils
import torch
from hydra.errors import InstantiationException
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision, Precision
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import nn

from ssl4seg import checkpoint
from ssl4seg.data.case import Case, Volume, checked
from ssl4seg.data.dataset import Dataset, Statistics
from ssl4seg.data.masks import Color
from ssl4seg.device import resolve_device, resolve_precision
from ssl4seg.errors import UserError
from ssl4seg.methods.base import MakeNetwork, Method
from ssl4seg.networks.base import Network
from ssl4seg.postprocess.base import Step
from ssl4seg.processes import launched_world
from ssl4seg.transfer import Transfer

log = logging.getLogger("ssl4seg")

STANDARD = ("mean", "std")
"""Buffers of a network that standardises its input."""

Config = Mapping[str, Any]
"""A resolved configuration, as config.yaml holds it."""


def build(config: Config, where: str, **more: Any) -> Any:
    """Instantiate `_target_`; a UserError of its constructor passes, any other error names `where`."""
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
        hint = "; is its folder on PYTHONPATH?" if isinstance(cause, ModuleNotFoundError) else ""
        raise UserError(f"{where}: cannot be built: {str(cause).splitlines()[0]}{hint}") from None


def dataset_of(config: Config) -> Dataset:
    dataset: Dataset = build(_without(config["dataset"], "recipe"), "dataset")
    return dataset


def network_maker(
    config: Config, channels: int, num_classes: int, *, statistics: Statistics | None = None, load: bool = True
) -> MakeNetwork:
    """Builds the network that the configuration names, from `network.weights` if set (and `load`).

    Args:
        statistics: by which its input is standardised.
        load: whether it starts from the weights that the configuration names; not where those of a run follow.
    """
    keys = _without(config["network"], "weights")
    weights = config["network"].get("weights") if load else None
    if "encoder_weights" in keys and (weights or not load):
        keys["encoder_weights"] = None  # others are to replace them

    def make(**more: object) -> Network:
        network: Network = build({**keys, **more}, "network", in_channels=channels, num_classes=num_classes)
        if statistics:
            network.standardize(*statistics)
        if weights:
            load_network(network, Path(weights))
        return network

    return make


def load_network(network: Network, file: Path) -> None:
    """Load a run's best model, or a state dict under our names or the public ones.

    Weights go with the numbers by which their input was standardised; where the file has none, as a public one, the
    network keeps its own.
    """
    rename: Callable[..., Any] = getattr(network, "rename", dict)
    state = rename(checkpoint.network_state(file))
    own = {key: value for key in STANDARD if (value := getattr(network, key)) is not None}
    if all(key in state for key in STANDARD):
        network.standardize(*(state[key].flatten().tolist() for key in STANDARD))
    checkpoint.load_into(network, own | state, file)


def method_of(config: Config, make: MakeNetwork) -> Method:
    # A partial of the network maker would be instantiated by Hydra; a plain function passes.
    method: Method = build(_without(config["method"], "optimizers"), "method", network=make)
    return method


def postprocess_of(config: Config) -> list[Step]:
    """The steps of post-processing, in the order of `postprocess=[...]`."""
    return [build(keys, f"postprocess.{name}") for name, keys in config["postprocess"].items()]


def mask_colors_of(data: Config) -> Sequence[Color] | None:
    """What each class has in the masks of a dataset, which need not be there; None: its number."""
    try:
        kind: type[Dataset] = hydra.utils.get_class(data["_target_"])
    except Exception as error:
        raise UserError(f"mask_values=dataset: {data['_target_']} cannot be imported ({error})") from None
    return kind.mask_colors(data)


def optimizers_of(config: Config, method: Method, transfer: Transfer) -> dict[str, torch.optim.Optimizer]:
    """One for each phase: the run's, or the method's own for that phase (`method.optimizers.<phase>`)."""
    own = config["method"].get("optimizers", {})
    optimizers: dict[str, torch.optim.Optimizer] = {}
    for phase in method.phases:
        groups = transfer.groups(method.parameters_of(phase))
        optimizers[phase] = build(
            own.get(phase, config["optimizer"]),
            f"method.optimizers.{phase}" if phase in own else "optimizer",
            params=[{"params": parameters} for parameters in groups.values()],
        )
        for group, scale in zip(optimizers[phase].param_groups, groups, strict=True):
            group["lr"] *= scale
    return optimizers


def _without(config: Config, key: str) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name != key}


def _check_processes(expected: int) -> None:
    """Refuse a number of processes that torchrun or srun has not started."""
    if (started := launched_world()) != expected:
        raise UserError(
            f"engine.devices x engine.num_nodes is {expected}, but {started} process(es) were started; use\n"
            f"  torchrun --nproc-per-node=DEVICES -m ssl4seg.train engine.devices=DEVICES ...   (or srun on SLURM)"
        )


class Mixed(MixedPrecision):
    """Mixed precision that leaves a method's inputs in float32; the layers cast what they compute in less."""

    def convert_input(self, data: Any) -> Any:
        return data


def fabric_of(config: Config, *, partial: bool = False) -> Fabric:
    """Device, precision, and DDP where there are several processes.

    Args:
        partial: a backward pass may leave out parameters, as with several phases or a frozen encoder.
    """
    device = resolve_device(config["device"])
    precision = resolve_precision(str(config["precision"]), device)
    engine = config.get("engine", {})
    devices, nodes = engine.get("devices", 1), engine.get("num_nodes", 1)
    for key, value in (("devices", devices), ("num_nodes", nodes)):
        if not isinstance(value, int) or value < 1:
            raise UserError(f"engine.{key}={value}: expected a whole number of at least 1")
    if threads := config.get("num_threads"):
        torch.set_num_threads(threads)
    several = devices * nodes > 1
    _check_processes(devices * nodes)
    return Fabric(
        accelerator=device,
        devices=devices,
        num_nodes=nodes,
        strategy=DDPStrategy(find_unused_parameters=partial) if several else "auto",
        plugins=[Precision() if precision == "32" else Mixed(precision, device)],  # type: ignore[arg-type]
    )


class OnDemand(Sequence[tuple[Case, Volume]]):
    """The cases of a split, each read and checked when it is asked for; each must have a mask.

    One after the other they are read ahead by threads, which decode and wait for the disk while the network computes:
    up to eight images, but volumes, which take more memory, one at a time.
    """

    def __init__(self, cases: Sequence[Case], num_classes: int) -> None:
        self.cases, self.num_classes = cases, num_classes
        self.ahead = max(1, 8 // max((case.num_images for case in cases), default=1))

    def __len__(self) -> int:
        return len(self.cases)

    @overload
    def __getitem__(self, index: int) -> tuple[Case, Volume]: ...
    @overload
    def __getitem__(self, index: slice) -> "OnDemand": ...
    def __getitem__(self, index: int | slice) -> "tuple[Case, Volume] | OnDemand":
        if isinstance(index, slice):
            return OnDemand(self.cases[index], self.num_classes)
        return self._read(self.cases[index])

    def _read(self, case: Case) -> tuple[Case, Volume]:
        if not case.labeled:
            raise UserError(f"{case.name}: has no mask; every case of val and test needs one")
        return case, checked(case.read(), case.name, self.num_classes)

    def __iter__(self) -> Iterator[tuple[Case, Volume]]:
        waiting, pool = iter(self.cases), ThreadPoolExecutor(self.ahead)
        try:
            coming = deque(pool.submit(self._read, case) for case in islice(waiting, self.ahead))
            while coming:
                found = coming.popleft().result()
                coming.extend(pool.submit(self._read, case) for case in islice(waiting, 1))
                yield found
        finally:
            pool.shutdown(cancel_futures=True)


def read_all(cases: Sequence[Case], num_classes: int, *, resident: bool = True) -> Sequence[tuple[Case, Volume]]:
    """Every case of a split: read now (`resident`), or each when it is asked for."""
    found = OnDemand(cases, num_classes)
    return [found[index] for index in range(len(found))] if resident else found


def decoded_gib(cases: Sequence[Case], dataset: Dataset) -> float:
    """The memory that the decoded cases take, in GiB."""
    pixels = sum(case.num_images * case.size[0] * case.size[1] for case in cases)
    return pixels * (dataset.channels * dataset.value_bytes + 1) / 2**30


def predictor_of(module: nn.Module, fabric: Fabric) -> Callable[[torch.Tensor], torch.Tensor]:
    """`predict` (a method) or `forward` (a network) under the run's precision, in evaluation mode."""
    forward = module.predict if isinstance(module, Method) else module.__call__

    def predict(image: torch.Tensor) -> torch.Tensor:
        module.eval()
        with fabric.autocast():
            logits: torch.Tensor = forward(image)
        return logits

    return predict
