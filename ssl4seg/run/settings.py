"""The configuration of a run as frozen dataclasses, so that mypy checks how the package reads it.

The fields are named as the keys of conf/run.yaml, which holds the defaults; `keys.KEYS` holds the ranges. A group with
a `_target_` (dataset, network, method, ...) stays a mapping: the constructor is its schema.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from typing import Any, Literal, TypeVar, get_type_hints

from ssl4seg.errors import UserError
from ssl4seg.keys import KEYS, expect
from ssl4seg.scoring.predictor import Measures

Config = Mapping[str, Any]
"""A resolved configuration, or a part of it, as config.yaml holds it."""


Kind = TypeVar("Kind")


def read(kind: type[Kind], config: Config, where: str = "") -> Kind:
    """Take the fields of the dataclass `kind` from a configuration, nested dataclasses too.

    Args:
        where: dotted prefix of the keys, for messages.

    Raises:
        UserError: a key is missing or out of range.
    """
    values: dict[str, Any] = {}
    for name, hint in get_type_hints(kind).items():
        key = f"{where}{name}"
        if name not in config:
            raise UserError(f"the configuration has no key {key}: another version of ssl4seg has written it")
        values[name] = (
            read(hint, config[name], f"{key}.") if isinstance(hint, type) and is_dataclass(hint) else config[name]
        )
        if key in KEYS:
            expect(key, config[name], KEYS[key])
    return kind(**values)


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """The keys that build a trained model and its inference, and the keys of the machine."""

    dataset: Config
    network: Config
    method: Config
    inference: Config
    device: str
    precision: str | int
    num_threads: int | None


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """How a step is run and how often it is logged: conf/engine."""

    devices: int
    num_nodes: int
    accumulate: int
    clip_norm: float | None
    compile: Literal[False, "default", "reduce-overhead"]
    log_every: int
    eval_batch_size: int
    diagnose: int
    num_overlays: int
    resident_gib: float
    num_workers: int | None


@dataclass(frozen=True, kw_only=True)
class ViewSettings:
    """Weak and strong views: conf/views."""

    weak: Config
    strong: Sequence[Config]


@dataclass(frozen=True, kw_only=True)
class RunSettings(ModelSettings):
    """All keys of conf/run.yaml but `recipe`, to which other keys point, and `trust`, which the command has obeyed."""

    supervised_loss: Config
    views: ViewSettings
    optimizer: Config
    schedule: Config
    engine: EngineSettings
    logger: Config

    labeled_ratio: float
    labeled_cases: int | None
    labeled_list: str | None
    split_seed: int | None
    seed: int

    iterations: int
    eval_every: int
    batch_size: int
    unlabeled_batch_size: int
    passes: str
    precise_bn: int
    transfer: Config

    deterministic: bool
    select: str
    tag: str | None
    resume: bool
    metrics: Measures


@dataclass(frozen=True, kw_only=True)
class EvalSettings(ModelSettings):
    """The keys of ssl4seg-eval, and the run's keys that it depends on."""

    run: str | None
    split: str
    checkpoint: str
    protocol: str
    output: str | None
    eval_batch_size: int
    resident_gib: float
    postprocess: Config
    metrics: Measures


@dataclass(frozen=True, kw_only=True)
class ExportSettings(ModelSettings):
    """The keys of ssl4seg-export, and the run's keys that it depends on."""

    run: str
    format: str
    output: str | None
    checkpoint: str


@dataclass(frozen=True, kw_only=True)
class TrainedSettings(ModelSettings):
    """The keys that say how a run's trained model predicts."""

    run: str
    checkpoint: str
    eval_batch_size: int
    postprocess: Config


@dataclass(frozen=True, kw_only=True)
class RankSettings(TrainedSettings):
    """The keys of ssl4seg-rank, and the run's keys that it depends on."""

    input: str | None
    output: str | None
    by: str
    count: int
    num_passes: int
    group: str | None


@dataclass(frozen=True, kw_only=True)
class PredictSettings(TrainedSettings):
    """The keys of ssl4seg-predict, and the run's keys that it depends on."""

    input: str
    output: str
    format: str
    probabilities: bool
    min_confidence: float | None
    overlay: bool
    mask_values: str
