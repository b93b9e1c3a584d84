"""The work of `ssl4seg-eval`: score a checkpoint on the cases of a split."""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ssl4seg.axes import module_channels_last
from ssl4seg.commands.conf import EVALUATED, Laid, dataset_name, value_at
from ssl4seg.data.dataset import Dataset, Split
from ssl4seg.data.reading import decoded_gib, fits_in_memory, read_all
from ssl4seg.errors import UserError
from ssl4seg.run.assemble import dataset_of, network_maker, postprocess_of, predictor_of
from ssl4seg.run.device import fabric_of, out_of_memory_explained
from ssl4seg.run.folder import is_run, read_json, write_json
from ssl4seg.run.load import load_run
from ssl4seg.run.record import show, start_log
from ssl4seg.run.settings import EvalSettings, read
from ssl4seg.scoring.predictor import LITERAL, NO_TEST, Predictor, evaluate, table_of
from ssl4seg.scoring.tables import Table

log = logging.getLogger("ssl4seg")

SHOWN = (*EVALUATED, "checkpoint", "protocol", "postprocess")
"""Keys and groups that an evaluation's scores depend on."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The model that is evaluated, and the entries of results_<split>.json that identify its weights."""

    model: nn.Module
    identity: dict[str, Any]


def evaluate_checkpoint(laid: Laid) -> None:
    """Score a checkpoint; write results_<split>.json and cases_<split>.csv (`circumstances` may extend the names)."""
    start_log(None)
    settings = read(EvalSettings, laid.config)
    steps = postprocess_of(settings.postprocess)
    _check_channels(settings, laid.usual)
    fabric = fabric_of(device=settings.device, precision=settings.precision, num_threads=settings.num_threads)
    dataset = dataset_of(settings.dataset)
    weights = _weights(settings, laid, dataset, fabric.device)
    output, ending = _place(settings, laid, weights)
    split: Split = "val" if settings.split == "val" else dataset.tested_on
    if split != settings.split:
        log.info(NO_TEST.format(dataset.name))
    predictor = predictor_of(
        weights.model,
        fabric,
        settings,
        batch_size=settings.eval_batch_size,
        protocol=settings.protocol,
        steps=steps,
    )
    table, bare = _scores(settings, dataset, split, predictor)
    results = _results(settings, dataset, weights, table, bare) | {"precision": fabric.strategy.precision.precision}
    if settings.split == "test":
        results["tested_on"] = split
    table.write_csv(output / f"cases_{ending}.csv")
    write_json(output / f"results_{ending}.json", results)
    where = settings.split if split == settings.split else f"{settings.split} on {split}"
    _show(settings, where, table, results)
    log.info(f"written: {output}/results_{ending}.json and cases_{ending}.csv")


def _check_channels(settings: EvalSettings, usual: Mapping[str, Any]) -> None:
    """Refuse a dataset with other numbers of classes or channels than the run's network has."""
    for key in ("num_classes", "channels"):
        trained = value_at(usual, f"dataset.{key}")
        if settings.run is not None and settings.dataset[key] != trained:
            raise UserError(f"dataset.{key} is {settings.dataset[key]}, but the run was trained with {trained}")


def _weights(settings: EvalSettings, laid: Laid, dataset: Dataset, device: torch.device) -> Weights:
    """A run's checkpoint, or the state dict of a bare network."""
    if settings.run is not None:
        identity = {"run": settings.run, "checkpoint": settings.checkpoint, "seed": laid.usual["seed"]}
        return Weights(model=load_run(Path(settings.run), settings, settings.checkpoint, device), identity=identity)
    data = dataset
    make = network_maker(
        settings.network, data.channels, data.num_classes, axes=data.axes, statistics=data.statistics()
    )
    model = module_channels_last(make().to(device))
    identity = {group: laid.choices[group] for group in ("dataset", "network")}
    identity["weights"] = str(settings.network["weights"])
    if (root := settings.dataset.get("root")) is not None:
        identity["root"] = str(root)
    return Weights(model=model, identity=identity)


def _place(settings: EvalSettings, laid: Laid, weights: Weights) -> tuple[Path, str]:
    """Choose the folder of the results, make it, and choose the ending of their file names."""
    output, chosen = _output_of(settings, laid.choices)
    ending = settings.split
    if not chosen:
        ending += circumstances(laid)
        _check_same(output / f"results_{ending}.json", weights.identity)
    writable(output)
    return output, ending


def _scores(settings: EvalSettings, dataset: Dataset, split: Split, predictor: Predictor) -> tuple[Table, Table | None]:
    """Score the cases of a split; with post-processing a second table holds the scores without it."""
    if not (held := dataset.cases(split)):
        raise UserError(f"split={split}: the dataset has no case there; give another split, or dataset.val_cases")
    resident = fits_in_memory(decoded_gib(held, dataset), settings.resident_gib)
    cases = read_all(held, dataset.num_classes, channels=dataset.channels, resident=resident)
    table = table_of(dataset, held, settings.metrics, settings.protocol)
    bare = table_of(dataset, held, settings.metrics, settings.protocol) if predictor.steps else None
    with out_of_memory_explained():
        evaluate(predictor, cases, table, bare=bare)
    return table, bare


def _results(
    settings: EvalSettings, dataset: Dataset, weights: Weights, table: Table, bare: Table | None
) -> dict[str, Any]:
    """The content of results_<split>.json."""
    split = settings.split
    results = {
        **weights.identity,
        "dataset": dataset.name,
        "protocol": settings.protocol,
        "empty": "zero" if settings.protocol in LITERAL else settings.metrics.empty,
        split: table.summary(),
        "speed": {"eval_seconds": table.seconds, "forward_seconds": table.forward_seconds},
    }
    if bare:
        results |= {"postprocess": dict(settings.postprocess), f"{split}_without_postprocess": bare.summary()}
        results["speed"]["postprocess_seconds"] = table.postprocess_seconds
    return results


def _show(settings: EvalSettings, where: str, table: Table, results: Mapping[str, Any]) -> None:
    """Print the tables of scores, and the times."""
    title = f"{where}, {len(table.rows)} cases, protocol {settings.protocol}"
    times = f"{table.seconds:.1f} s ({table.forward_seconds:.1f} s of it predicting"
    if bare := results.get(f"{settings.split}_without_postprocess"):
        show(f"{title}, without post-processing", bare, table.measured())
        title += f", postprocess {', '.join(settings.postprocess)}"
        times += f", {table.postprocess_seconds:.1f} s post-processing"
    show(title, results[settings.split], table.measured())
    log.info(f"{times})")


def _output_of(settings: EvalSettings, choices: Mapping[str, str]) -> tuple[Path, bool]:
    """The folder of the results (output=, the run's, or one named by data and weights); whether the user chose it."""
    run = Path(settings.run) if settings.run is not None else None
    if settings.output is not None:
        output = Path(settings.output)
        own = run is not None and output.resolve() == run.resolve()
        if not own and is_run(output):
            raise UserError(f"output={output}: is the folder of another run; give another folder")
        return output, not own
    if run is not None:
        return run, False
    dataset = dataset_name(choices["dataset"], settings.dataset.get("name"), settings.dataset.get("root"))
    weights = Path(str(settings.network.get("weights")))
    return Path("outputs/eval", f"{dataset}-{choices['network']}-{weights.stem}"), False


def circumstances(laid: Laid) -> str:
    """Settings that differ from the run's, as the ending of file names: "-last-ssl4mis-metrics.unit=mm"."""
    bare = laid.config["run"] is None
    folder = ("dataset", "dataset.root", "dataset.name", "network", "network.weights")  # in the folder's name
    named = folder if bare else ()
    words = []
    for key in laid.typed:
        group = key.split(".")[0]
        # If another choice of its group is typed, a key has no usual value: the groups are compared.
        whole = group if group in laid.typed else key
        if key in named or group not in SHOWN or value_at(laid.config, whole) == value_at(laid.usual, whole):
            continue
        word = laid.choices.get(key, str(value_at(laid.config, key)))
        word = re.sub(r"[^\w.=+-]+", "_", word).strip("_")
        words.append(word if key in ("checkpoint", "protocol") else f"{key}={word}")
    ending = "".join(f"-{word}" for word in words)
    if len(ending) > 200:
        raise UserError(f"the results of this evaluation have too long a name ({ending[:60]}...); give output=DIR")
    return ending


def _check_same(file: Path, identity: Mapping[str, Any]) -> None:
    """Refuse to overwrite the results of another file of weights, or on another folder of data, of the same name."""
    there = read_json(file) if file.exists() else {}
    for key, of in (("weights", "of"), ("root", "on")):
        old, new = there.get(key), identity.get(key)
        if old and new and Path(old).resolve() != Path(new).resolve():
            raise UserError(f"{file} holds the results {of} {old}; for {new} give another folder, output=DIR")


def writable(folder: Path) -> None:
    """Make the folder `output`, or refuse it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output={folder}: cannot be written ({error.strerror})") from None
