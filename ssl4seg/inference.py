"""What `ssl4seg-eval` and `ssl4seg-predict` do: a trained model back from its run folder, and onto cases or files."""

import copy
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning_fabric import Fabric
from PIL import Image
from torch import nn

from ssl4seg import checkpoint
from ssl4seg.assemble import (
    Config,
    build,
    dataset_of,
    decoded_gib,
    fabric_of,
    mask_colors_of,
    method_of,
    network_maker,
    postprocess_of,
    predictor_of,
    read_all,
)
from ssl4seg.data.case import ImageArray, LabelArray, Volume, checked
from ssl4seg.data.dataset import SPLITS, Dataset, Split, Statistics
from ssl4seg.data.formats import ENDINGS, PICTURE, ending, stem
from ssl4seg.data.images import facts, read_image, write_label
from ssl4seg.data.intensities import normalized
from ssl4seg.data.masks import Color, as_held
from ssl4seg.device import keep_freed_memory, out_of_memory_explained
from ssl4seg.errors import UserError
from ssl4seg.evaluate import NO_TEST, Predictor, evaluate, table_of
from ssl4seg.pictures import Palette, Picture, captioned, fullest, legend, palette, panel, save_labels
from ssl4seg.record import show, start_log
from ssl4seg.runs import checkpoint_file, read_config, read_json, write_json
from ssl4seg.tables import Table

log = logging.getLogger("ssl4seg")

SHOWN = ("checkpoint", "protocol", "precision", "dataset", "inference", "metrics", "network", "postprocess")
"""Keys and groups that an evaluation's figures depend on."""


def load_run(run: Path, which: str, device: torch.device) -> tuple[dict[str, Any], nn.Module]:
    """A run's configuration, and its method with the weights of the checkpoint `which` (best, last or a file)."""
    config, path = read_config(run), checkpoint_file(run, which)
    dataset = config["dataset"]
    standardized = dataset.get("mean") is not None  # by numbers that the checkpoint holds
    make = network_maker(
        config,
        dataset["channels"],
        dataset["num_classes"],
        statistics=Statistics([0.0] * dataset["channels"], [1.0] * dataset["channels"]) if standardized else None,
        load=False,
    )
    method = method_of(config, make)
    content = checkpoint.load(path)
    if "method" not in content:
        raise UserError(f"{path}: is no checkpoint of a run; to evaluate a state dict use network.weights={path}")
    checkpoint.load_into(method, content["method"], path)
    return config, method.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def _fabric(config: Config) -> Fabric:
    fabric = fabric_of(config)
    if fabric.device.type == "cpu":
        keep_freed_memory()
    return fabric


# -- ssl4seg-eval -----------------------------------------------------------------------------------------------------


class Source(NamedTuple):
    """What is evaluated, on what."""

    model: nn.Module
    dataset: Dataset
    data: Config
    """The configuration that the dataset is built from."""
    inference: Config
    told: dict[str, Any]
    """What the results say of it."""
    usual: Config
    """The configuration of the run, if there is one."""
    given: Sequence[str]
    """The keys on the command line that make an evaluation another one."""


def evaluate_checkpoint(config: dict[str, Any], names: Mapping[str, str], given: Sequence[str]) -> None:
    """Score a checkpoint and write results_<split>.json and cases_<split>.csv (for other names see `circumstances`).

    Args:
        config: of ssl4seg-eval.
        names: the choice of each group.
        given: the keys on the command line; of a run's own keys only these are taken from `config`.
    """
    if config["split"] not in SPLITS[1:]:
        raise UserError(f"split={config['split']}: expected val or test")
    start_log(None)
    steps = postprocess_of(config)
    if config["run"] is not None:
        config = _as_the_run(config, read_config(Path(config["run"])), given)
        fabric = _fabric(config)
        source = _run_source(config, given, fabric.device)
    else:
        fabric = _fabric(config)
        source = _weights_source(config, names, given, fabric.device)
    output, ending = _place(config, names, source)
    dataset, split = source.dataset, config["split"]
    scored = dataset.tested_on if split == "test" else split
    if scored != split:
        log.info(NO_TEST.format(dataset.name))
    predictor = Predictor(
        predict=predictor_of(source.model, fabric),
        inference=build(source.inference, "inference", side=dataset.image_size),
        device=fabric.device,
        batch_size=config["eval_batch_size"],
        protocol=config["protocol"],
        steps=steps,
        classes=dataset.classes,
        background=dataset.background,
    )
    table, bare = _scores(config, dataset, scored, predictor)
    results = _results(config, source, table, bare) | {"precision": fabric.strategy.precision.precision}
    if split == "test":
        results["tested_on"] = scored
    table.write_csv(output / f"cases_{ending}.csv")
    write_json(output / f"results_{ending}.json", results)
    _tell(config, split if scored == split else f"{split} on {scored}", table, bare)
    log.info(f"written: {output}/results_{ending}.json and cases_{ending}.csv")


def _run_source(config: Config, given: Sequence[str], device: torch.device) -> Source:
    """A run's checkpoint, on its dataset but for what the command line says."""
    if mine := [key for key in given if key.split(".")[0] == "network"]:
        raise UserError(f"{mine[0]}: the network comes from run={config['run']}; leave one of the two out")
    run, model = load_run(Path(config["run"]), config["checkpoint"], device)
    data, how = (_merged(group, run[group], config[group], given) for group in ("dataset", "inference"))
    for key in ("num_classes", "channels"):
        if data[key] != run["dataset"][key]:
            raise UserError(f"dataset.{key} is {data[key]}, but the run was trained with {run['dataset'][key]}")
    told = {"run": str(config["run"]), "checkpoint": config["checkpoint"], "seed": run["seed"]}
    return Source(model, dataset_of({"dataset": data}), data, how, told, run, given)


def _weights_source(config: Config, names: Mapping[str, str], given: Sequence[str], device: torch.device) -> Source:
    """The weights of a bare network."""
    data = config["dataset"]
    dataset = dataset_of(config)
    model = network_maker(config, data["channels"], data["num_classes"], statistics=dataset.statistics())()
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    told = {group: names[group] for group in ("dataset", "network")} | {"weights": str(config["network"]["weights"])}
    given = [key for key in given if key not in ("dataset", "dataset.root", "network", "network.weights")]
    return Source(model, dataset, data, config["inference"], told, {}, given)


def _place(config: Config, names: Mapping[str, str], source: Source) -> tuple[Path, str]:
    """The folder of the results, which can be written to, and how their names end."""
    output, chosen = _output_of(config, names)
    ending = config["split"]
    if not chosen:
        ending += circumstances({**config, "dataset": source.data}, source.usual, source.given, names)
        _check_weights(output / f"results_{ending}.json", source.told)
    _writable(output)
    return output, ending


def _scores(config: Config, dataset: Dataset, split: Split, predictor: Predictor) -> tuple[Table, Table | None]:
    """Of the cases of a split; with post-processing also those without."""
    held = dataset.cases(split)
    cases = read_all(held, dataset.num_classes, resident=decoded_gib(held, dataset) <= config["resident_gib"])
    table = table_of(dataset, held, config["metrics"], config["protocol"])
    bare = table_of(dataset, held, config["metrics"], config["protocol"]) if predictor.steps else None
    with out_of_memory_explained():
        evaluate(predictor, cases, table, bare=bare)
    return table, bare


def _results(config: Config, source: Source, table: Table, bare: Table | None) -> dict[str, Any]:
    """What results_<split>.json holds."""
    split = config["split"]
    results = {
        **source.told,
        "dataset": source.dataset.name,
        "protocol": config["protocol"],
        "empty": "zero" if config["protocol"] == "ssl4mis" else config["metrics"]["empty"],
        split: table.summary(),
        "speed": {"eval_seconds": table.seconds, "forward_seconds": table.forward_seconds},
    }
    if bare:
        results |= {"postprocess": config["postprocess"], f"{split}_without_postprocess": bare.summary()}
        results["speed"]["postprocess_seconds"] = table.postprocess_seconds
    return results


def _tell(config: Config, where: str, table: Table, bare: Table | None) -> None:
    """The tables and times on the screen."""
    title = f"{where}, {len(table.rows)} cases, protocol {config['protocol']}"
    times = f"{table.seconds:.1f} s ({table.forward_seconds:.1f} s of it predicting"
    if bare:
        show(f"{title}, without post-processing", bare.summary())
        title += f", postprocess {', '.join(config['postprocess'])}"
        times += f", {table.postprocess_seconds:.1f} s post-processing"
    show(title, table.summary())
    log.info(f"{times})")


def _output_of(config: Config, names: Mapping[str, str]) -> tuple[Path, bool]:
    """output=, else the run folder, else a folder named by the weights; and whether the user has chosen it."""
    run = Path(config["run"]) if config["run"] is not None else None
    if config["output"] is not None:
        output = Path(config["output"])
        own = run is not None and output.resolve() == run.resolve()
        if not own and (output / "config.yaml").exists():
            raise UserError(f"output={output}: is the folder of another run; give another folder")
        return output, not own
    weights = Path(str(config["network"].get("weights")))
    return run or Path("outputs/eval", f"{names['dataset']}-{names['network']}-{weights.stem}"), False


def circumstances(config: Config, usual: Config, given: Sequence[str], names: Mapping[str, str]) -> str:
    """What is not as usual in an evaluation, as it stands in its files' names: "-last-ssl4mis-metrics.unit=mm".

    Args:
        usual: the configuration of the run, if there is one.
        given: the keys on the command line.
        names: the choice of each group.
    """
    usual = {"checkpoint": "best", "protocol": "default", "postprocess": {}, **usual}
    words = []
    for key in sorted(given):
        group = key.split(".")[0]
        # What a key is usually says nothing where its group is another one.
        whole = group if group in given else key
        if group not in SHOWN or _at(config, whole) == _at(usual, whole):
            continue
        value = re.sub(r"[^\w.=+-]+", "_", str(names.get(key, _at(config, key)))).strip("_")
        words.append(value if key in ("checkpoint", "protocol") else f"{key}={value}")
    ending = "".join(f"-{word}" for word in words)
    if len(ending) > 200:
        raise UserError(f"the results of this evaluation have too long a name ({ending[:60]}...); give output=DIR")
    return ending


def _at(config: Config, key: str) -> Any:
    value: Any = config
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _check_weights(file: Path, source: Config) -> None:
    """Refuse to overwrite the results of other weights that have the same name."""
    old, new = read_json(file).get("weights") if file.exists() else None, source.get("weights")
    if old and new and Path(old).resolve() != Path(new).resolve():
        raise UserError(f"{file} holds the results of {old}; give those of {new} a place of their own with output=DIR")


def _as_the_run(config: dict[str, Any], run: Mapping[str, Any], given: Sequence[str]) -> dict[str, Any]:
    """Metrics and precision as in the run, but for what the command line says."""
    metrics = {**run["metrics"], **{k: v for k, v in config["metrics"].items() if f"metrics.{k}" in given}}
    precision = config["precision"] if "precision" in given else run["precision"]
    return {**config, "metrics": metrics, "precision": precision}


def _merged(group: str, run: Mapping[str, Any], now: Mapping[str, Any], given: Sequence[str]) -> dict[str, Any]:
    """The run's group with the keys of the command line; another choice altogether if `group=` is given."""
    if group in given:
        return dict(now)
    merged = copy.deepcopy(dict(run))
    for key in (key.removeprefix(f"{group}.") for key in given if key.startswith(f"{group}.")):
        *path, last = key.split(".")
        place, value = merged, now
        for name in path:
            place, value = place.get(name, {}), value[name]
        if last not in place:
            known = ", ".join(name for name in run if not name.startswith("_"))
            raise UserError(f"{group}.{key}: the run's {group} has no such key, but {known}")
        place[last] = value[last]
    return merged


def _writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output={folder}: cannot be written ({error.strerror})") from None


# -- ssl4seg-predict --------------------------------------------------------------------------------------------------


def predict_files(config: dict[str, Any], given: Sequence[str]) -> None:
    """Write a mask of native size for every input, in the input's own kind of file (pictures become PNG).

    Args:
        config: of ssl4seg-predict.
        given: the keys on the command line; inference is the run's but for these.
    """
    start_log(None)
    source, output, steps = Path(config["input"]), Path(config["output"]), postprocess_of(config)
    targets = masks_to_write(source, output)
    fabric = _fabric(config)
    run, model = load_run(Path(config["run"]), config["checkpoint"], fabric.device)
    _writable(output)
    data = run["dataset"]
    colors = mask_colors_of(data) if config["mask_values"] == "dataset" else None
    inference = _merged("inference", run["inference"], config["inference"], given)
    predictor = Predictor(
        predict=predictor_of(model, fabric),
        inference=build(inference, "inference", side=data["image_size"]),
        device=fabric.device,
        batch_size=config["eval_batch_size"],
        steps=steps,
        classes=data["classes"],
        background=data.get("background", True),
    )
    faults = []
    for target, file in targets.items():
        try:
            with out_of_memory_explained():
                _predict(file, target, predictor, data, mask_colors=colors, overlay=config["overlay"])
        except Exception as error:  # whatever it is, the other files get their masks
            if not isinstance(error, UserError | OSError):
                log.exception(f"{file}: a fault of the program:")
            faults.append(str(error) if str(file) in str(error) else f"{file}: {error}")
    log.info(f"{len(targets) - len(faults)} masks written to {output}")
    if faults:
        raise UserError("\n".join([f"{len(faults)} of {len(targets)} inputs could not be predicted:", *faults]))


def _predict(
    file: Path,
    target: Path,
    predictor: Predictor,
    data: Config,
    *,
    mask_colors: Sequence[Color] | None,
    overlay: bool,
) -> None:
    """Write the mask of a file, and beside it the overlay.

    Args:
        data: the run's configuration of its dataset.
        mask_colors: what each class has in the mask; None: its number, in pictures under the palette.
    """
    scaled = normalized(read_image(file, data["channels"]), data["normalize"])
    checked(Volume(scaled, None), str(file), data["num_classes"])
    label = predictor(scaled, facts(file, data["channels"]).spacing if predictor.steps else None)
    target.parent.mkdir(parents=True, exist_ok=True)
    colors = palette(data.get("palette"), background=data.get("background", True))
    if mask_colors is not None:
        write_label(target, as_held(label, mask_colors), file)
    elif ending(target) in PICTURE:
        save_labels(label[0], target, colors)
    else:
        write_label(target, label, file)
    if overlay:
        picture = _overlay(scaled, label, data["classes"], colors)
        Image.fromarray(picture).save(target.with_name(f"{stem(target)}_overlay.png"))


def _overlay(image: ImageArray, label: LabelArray, classes: Sequence[str], colors: Palette) -> Picture:
    """The fullest slice of [S, C, H, W], bare and with its label, above the names of the classes in it."""
    at = fullest(label, colors)
    picture = panel(image[at], [label[at]], colors)
    if len(label) > 1:
        picture = captioned(picture, f"slice {at + 1} of {len(label)}")
    return np.concatenate([picture, legend(classes, colors.classes(label[at]), colors, picture.shape[1])])


def masks_to_write(source: Path, output: Path) -> dict[Path, Path]:
    """The masks to write, each with its input. Refuses to write over an input, or two masks to one place."""
    files = _inputs(source, output)
    inputs = {_identity(file) for file in files}
    targets: dict[Path, Path] = {}
    for file in files:
        place = output / (file.relative_to(source) if source.is_dir() else file.name)
        target = place.with_name(f"{stem(file)}.png") if ending(file) in PICTURE else place
        if target.exists() and _identity(target) in inputs:
            raise UserError(f"output={output}: the mask of {file} would overwrite an input; give another folder")
        if target in targets:
            raise UserError(f"{file}: the mask of {targets[target]} has the same name, {target}; predict them apart")
        targets[target] = file
    return targets


def _identity(file: Path) -> tuple[int, int]:
    """The same of two paths that lead to one file."""
    found = file.stat()
    return found.st_dev, found.st_ino


def _inputs(source: Path, output: Path) -> list[Path]:
    if source.is_file():
        ending(source)
        return [source]
    if not source.is_dir():
        raise UserError(f"input={source}: there is no such file or folder")
    found = (file for file in source.rglob("*") if file.is_file() and file.name.lower().endswith(ENDINGS))
    # ACDC's masks lie beside the images; an output folder inside the input holds masks of an earlier call.
    own = output.resolve() if output.resolve() != source.resolve() else None
    files = sorted(f for f in found if not stem(f).endswith("_gt") and (own is None or own not in f.resolve().parents))
    if not files:
        raise UserError(f"input={source}: the folder holds no image ({', '.join(ENDINGS)})")
    return files
