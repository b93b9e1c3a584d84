"""A run from its configuration to results.json: data, split, method, engine, test."""

import logging
import math
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from ssl4seg import checkpoint
from ssl4seg.axes import module_channels_last
from ssl4seg.data.case import Case, LabelArray, Volume
from ssl4seg.data.dataset import SPLITS, Dataset, Split, shape_of
from ssl4seg.data.fingerprint import fingerprint
from ssl4seg.data.folds import Folded, undivided
from ssl4seg.data.reading import classes_in_no_mask, decoded_gib, fits_in_memory, read_all
from ssl4seg.data.split import LabeledSplit, check_disjoint, split_labeled
from ssl4seg.errors import Interrupted, UserError, WriteError
from ssl4seg.feed.batches import Batches
from ssl4seg.feed.store import Store
from ssl4seg.feed.stream import Stream
from ssl4seg.feed.views import View
from ssl4seg.keys import MEANS
from ssl4seg.methods.base import Method
from ssl4seg.processes import all_items, launched_rank, memory, rank, world_size
from ssl4seg.run.assemble import build, dataset_of, loggers_of, method_of, network_maker, optimizers_of, predictor_of
from ssl4seg.run.collapse import Collapse
from ssl4seg.run.compiled import compile_networks, mark_step
from ssl4seg.run.device import fabric_of, out_of_memory_explained, peak_memory
from ssl4seg.run.diagnose import Diagnosis
from ssl4seg.run.engine import Engine, Plan
from ssl4seg.run.folder import RunFolder, damage, finished, read_json, write_failure, write_json
from ssl4seg.run.loggers.base import Start
from ssl4seg.run.precise_bn import batch_norms
from ssl4seg.run.record import FILE_ONLY, Record, show, start_log
from ssl4seg.run.settings import Config, RunSettings, read
from ssl4seg.run.transfer import Transfer
from ssl4seg.scoring.metrics import METRICS, metric_table
from ssl4seg.scoring.pictures import Picture, overlay, palette
from ssl4seg.scoring.predictor import NO_TEST, evaluate, table_of
from ssl4seg.scoring.selection import goodness_of, selection_of
from ssl4seg.scoring.tables import Summary, Table
from ssl4seg.seeding import seed_of

log = logging.getLogger("ssl4seg")

Cases = Sequence[tuple[Case, Volume]]


def train(config: Config, names: Mapping[str, str], path: Path) -> float | None:
    """Train, validate and test in the folder `path`, going on where an earlier run of the same configuration stopped.

    Args:
        config: the resolved configuration, which is written to config.yaml.
        names: the choices of dataset, method and network.

    Returns:
        The best model's score on val by `select`, its sign turned where lower is better, so that a sweeper may maximise
        it; None in all processes but the first.

    Raises:
        UserError: for anything that the user can mend. results.json and train.log hold the message too. A run that is
            refused before its first step removes the folder that it made.
    """
    first, settings = launched_rank() == 0, read(RunSettings, config)
    data = partial(data_of, settings.dataset)
    folder = RunFolder(path, config, resume=settings.resume, fingerprint=data) if first else None
    done = finished(path)  # every process looks: if one returned alone, the others would wait for it
    start_log(path / "train.log" if first and done is None else None, quiet=not first)
    if done is not None:
        log.info(f"{path} is finished; its results:")
        if first:
            show(f"{path}: test", done["test"], metric_table(settings.metrics.more).values())
        return goodness_of(done, settings.metrics.more)
    if first and (fault := damage(path)):
        log.warning(f"{fault}; it is written again")
    try:
        with out_of_memory_explained():
            Training(config, names, folder).run()
        return goodness_of(read_json(folder.results_file), settings.metrics.more) if folder else None
    except (Interrupted, KeyboardInterrupt):
        log.info(f"stopped; the same command goes on from the last checkpoint in {path}:")
        log.info(f"  {shlex.join(sys.argv)}")
        sys.exit(130)
    except UserError as error:
        if folder and folder.refused():
            start_log(None)  # closes train.log
            folder.remove()
            raise
        if not folder:
            raise
        if isinstance(error, WriteError):
            error = UserError(f"{error}. {folder.saved()}")
        log.error(str(error), extra=FILE_ONLY)  # the screen shows it as the command ends
        with suppress(WriteError):
            write_failure(path, str(error), **names, seed=settings.seed)
        raise error from None
    except Exception as error:
        if folder:
            log.exception("a fault of the program, or of a class from elsewhere:", extra=FILE_ONLY)
            with suppress(WriteError):
                write_failure(path, f"{type(error).__name__}: {error}", **names, seed=settings.seed)
        raise


def cases_of(dataset: Dataset) -> dict[Split, list[Case]]:
    """The cases of train, val and, where it has masks, test; none is in two of them."""
    cases = {split: dataset.cases(split) for split in SPLITS[:2]}
    if dataset.tested_on == "test":
        cases["test"] = dataset.cases("test")
    check_disjoint(cases, dataset.remedy)
    return cases


def data_of(dataset: Config) -> str:
    """The fingerprint of a dataset's data, the same for all its folds."""
    return fingerprint(cases_of(dataset_of(undivided(dataset))))


class Training:
    """The objects of one run. The constructor refuses everything that can be refused, before training."""

    def __init__(self, config: Config, names: Mapping[str, str], folder: RunFolder | None) -> None:
        self.config, self.names, self.folder = config, names, folder
        self.settings = settings = read(RunSettings, config)
        self.dataset = dataset_of(settings.dataset)
        self.cases = cases = cases_of(self.dataset)
        self.split = self._split(cases["train"])
        self.plan = _plan(settings)
        self.loggers = loggers_of(settings.logger)
        self.weak: View = build(settings.views.weak, "views.weak")
        self.weak.check([case.size for case in cases["train"]])
        self.method = self._method()
        steps_per_epoch = self.split.num_labeled_images / _labeled_in_a_step(settings)
        self.transfer = Transfer(self.method, steps_per_epoch=steps_per_epoch, **settings.transfer)
        partial = len(self.method.phases) > 1 or self.transfer.frozen_steps > 0
        self.fabric = _launched(settings, partial=partial)
        self.predictor = predictor_of(self.method, self.fabric, settings, batch_size=settings.engine.eval_batch_size)
        self._log_setup()
        self.batches = self._batches()
        self.held_cases: dict[Split, list[Case]] = {split: cases[split] for split in cases if split != "train"}
        resident = self._resident([case for part in self.held_cases.values() for case in part], "val and test")
        self.held_out: dict[Split, Cases] = {
            split: read_all(part, self.dataset.num_classes, channels=self.dataset.channels, resident=resident)
            for split, part in self.held_cases.items()
        }
        self._warn_of_missing_classes()
        tables = {split: table_of(self.dataset, part, settings.metrics) for split, part in self.held_cases.items()}
        self.selection = selection_of(settings.select, tables["val"])
        if not cases["val"] and not self.selection.last:
            raise UserError(
                f"select={settings.select}: val has no case that could choose the best model; set select=last to take "
                "the last model, or hold out cases (dataset.val_cases)"
            )

    def _split(self, train: Sequence[Case]) -> LabeledSplit:
        """Choose the training cases that keep their masks."""
        settings = self.settings
        if settings.labeled_list is not None and settings.labeled_cases is not None:
            raise UserError("labeled_cases and labeled_list are both set; set one of them to null")
        return split_labeled(
            train,
            ratio=settings.labeled_ratio,
            num_groups=settings.labeled_cases,
            list_file=settings.labeled_list,
            seed=settings.split_seed,
            words=self.dataset.words,
        )

    def _log_setup(self) -> None:
        """Log the labelled cases, a missing test and the encoders' schedule; warn of probable mistakes in settings."""
        log.info(f"labelled: {self.split}")
        if isinstance(self.dataset, Folded):
            number, of = self.dataset.fold
            val, test = (len({case.group for case in self.cases[split]}) for split in ("val", "test"))
            log.info(f"fold {number} of {of}: {val} {self.dataset.words[0]} validate, {test} are tested")
        if shortage := self.split.shortage:
            log.info(shortage)
        for note in self.dataset.notes:
            log.info(note)
        for doubt in self.dataset.doubts:
            log.warning(doubt)
        if self.dataset.tested_on != "test":
            log.info(NO_TEST.format(self.names["dataset"]))
        if schedule := str(self.transfer):
            log.info(schedule)
        pretrained = _pretrained(self.settings.network)
        for doubt in self.transfer.doubts(self.method, self.plan.total, pretrained=pretrained):
            log.warning(doubt)
        if number := self.plan.precise_bn:
            if batch_norms(self.method.student):
                log.info(f"best.pt: batch norms with the statistics of {number} batches, taken without dropout")
            else:
                log.warning(f"warning: precise_bn={number}: the network has no batch norm, nothing is taken anew")
        for doubt in self.method.doubts(pretrained=pretrained):
            log.warning(f"warning: {doubt}")

    def _warn_of_missing_classes(self) -> None:
        """Warn of classes that no mask of the run holds: nobody can learn them, and the scores leave them out."""
        if not self.folder:  # one process is enough
            return
        held = [case for part in self.held_cases.values() for case in part]
        names = self.dataset.classes
        missing = classes_in_no_mask([*self.split.labeled, *held], len(names))
        for k in missing:
            log.warning(
                f"dataset.classes: no mask of this run holds {names[k]}; it cannot be learnt and has no score: mend "
                "the masks, label other cases, or remove it from classes"
            )

    def _method(self) -> Method:
        """Build the method with its networks and its supervised loss; the weights depend on the seed alone."""
        torch.manual_seed(seed_of(self.plan.seed, "weights"))
        data = self.dataset
        make = network_maker(
            self.settings.network, data.channels, data.num_classes, axes=data.axes, statistics=data.statistics()
        )
        method = method_of(self.settings.method, make)
        method.supervised = build(self.settings.supervised_loss, "supervised_loss")
        method.passes = self.settings.passes
        if method.passes not in ("auto", *method.ways):
            raise UserError(
                f"passes={method.passes}: in method={self.names['method']} labelled and unlabelled images can only "
                f"pass {method.ways[0]}; leave passes=auto"
            )
        if method.needs_unlabeled and not self.split.unlabeled:
            raise UserError(
                f"method={self.names['method']} needs unlabelled cases, but all {self.split.num_groups} training cases "
                "are labelled; lower labeled_ratio or labeled_cases, or use method=supervised"
            )
        return method

    def _resident(self, cases: Sequence[Case], name: str) -> bool:
        """Decide whether these cases fit in memory, and log the decision."""
        size, budget = decoded_gib(cases, self.dataset), self.settings.engine.resident_gib
        resident = fits_in_memory(size, budget)
        where = "in memory" if resident else f"read from the disk (engine.resident_gib={budget:g})"
        log.info(f"{name}: {sum(case.num_images for case in cases)} {self.dataset.words[1]}, {size:.2g} GiB, {where}")
        return resident

    def _batches(self) -> Batches:
        settings, device = self.settings, self.fabric.device
        expected = {"num_classes": self.dataset.num_classes, "channels": self.dataset.channels}
        used = {"labeled": self.split.labeled}
        if self.method.needs_unlabeled:
            used["unlabeled"] = self.split.unlabeled
        resident = self._resident([case for cases in used.values() for case in cases], "training")
        stores: dict[str, Store | Stream] = {
            part: Store(cases, **expected, labels=part == "labeled", device=device)
            if resident
            else Stream(cases, **expected, labels=part == "labeled")
            for part, cases in used.items()
        }
        unlabeled = stores.get("unlabeled")
        check_memory(settings, self.dataset.channels, self.method.strong_views)
        return Batches(
            stores["labeled"],
            unlabeled,
            sizes=(settings.batch_size, settings.unlabeled_batch_size if unlabeled else 0),
            shape=self.dataset.image_size,
            weak=self.weak,
            strong=[build(operation, "views.strong") for operation in settings.views.strong],
            num_strong=self.method.strong_views,
            seed=self.plan.seed,
            device=device,
            rank=rank(),
            world=world_size(),
            num_workers=settings.engine.num_workers,
        )

    def engine(self) -> Engine:
        """Build the engine, at the last checkpoint or at the start."""
        method = module_channels_last(self.method)
        if mode := self.settings.engine.compile:
            compile_networks(method, mode, self.fabric.device)
        diagnosis = self._diagnosis()
        engine = Engine(
            fabric=self.fabric,
            method=method,
            optimizers=optimizers_of(self.settings.optimizer, self._own_optimizers(), method, self.transfer),
            schedule=build(self.settings.schedule, "schedule"),
            batches=self.batches,
            validate=self.validate,
            selection=self.selection,
            plan=self.plan,
            folder=self.folder,
            diagnose=diagnosis,
            collapse=Collapse(self.dataset.classes, diagnosis.expected),
            before_step=self._before_step,
        )
        self._resume(engine)
        return engine

    def _before_step(self, step: int) -> None:
        mark_step(self.settings.engine.compile)
        self.transfer(step)

    def _own_optimizers(self) -> Mapping[str, Config]:
        """The keys of the method's own optimisers, by phase."""
        own: Mapping[str, Config] = self.settings.method.get("optimizers", {})
        return own

    def _diagnosis(self) -> Diagnosis:
        engine = self.settings.engine
        return Diagnosis(
            self.split.unlabeled if self.method.needs_unlabeled else (),
            self.split.labeled,
            num_images=engine.diagnose,
            classes=self.dataset.classes,
            background=self.dataset.background,
            shape=self.dataset.image_size,
            view=self.weak,
            # What a step takes with gradients fits without them: uamt makes nine passes over each volume.
            batch_size=min(engine.eval_batch_size, self.settings.unlabeled_batch_size),
            device=self.fabric.device,
            autocast=self.fabric.autocast,
        )

    def run(self) -> None:
        """Train, then test the best model."""
        engine, folder = self.engine(), self.folder
        if folder:
            folder.check_space(*engine.checkpoint_bytes())
            write_json(folder.split_file, self._split_facts())
        with Record(self._start_of(engine), self.loggers, step=engine.step, total=self.plan.total) as record:
            try:
                engine.fit(record)
            finally:
                self.batches.close()
            self.test(engine, record)

    def _split_facts(self) -> dict[str, Any]:
        """The content of split.json."""
        facts = self.split.as_dict()
        if isinstance(self.dataset, Folded):
            return facts | {"fold": self.dataset.as_dict(), "data_sha256": fingerprint(cases_of(self.dataset.whole))}
        return facts | {"data_sha256": fingerprint(self.cases)}

    def _start_of(self, engine: Engine) -> Start | None:
        """What loggers are told of this run, in the process that logs."""
        if not self.folder:
            return None
        path = self.folder.path
        name = "/".join((self.names["dataset"], self.names["method"], path.name))
        return Start(folder=path, name=name, step=engine.step, config=self.config)

    def _resume(self, engine: Engine) -> None:
        """Let every process read the first one's checkpoint (machines share the folder)."""
        path = self.fabric.broadcast(str(self.folder.last) if self.folder and self.folder.last.exists() else "")
        if path:
            engine.resume(checkpoint.load(Path(path)), path)
            log.info(f"going on from step {engine.step} of {self.plan.total}")
            doubt = self.fabric.broadcast(_doubt_of_best(self.folder.best, engine.best) if self.folder else "")
            if doubt:
                engine.best = {}
                log.warning(f"{doubt}; the search for the best model starts anew from step {engine.step}")

    # -- validation and test ------------------------------------------------------------------------------------------

    def evaluate(self, split: Split) -> tuple[Table, dict[str, Picture]]:
        """Score a split with all processes; also return overlays (image, label, prediction) of the first cases."""
        pictures: dict[str, Picture] = {}
        colors = palette(self.dataset.palette, background=self.dataset.background)
        names = [case.name for case in self.held_cases[split]]
        shown = names[: self.settings.engine.num_overlays]

        def draw_overlay(case: Case, volume: Volume, prediction: LabelArray) -> None:
            if case.name in shown and volume.label is not None:
                pictures[case.name] = overlay(volume.image, [volume.label, prediction], colors, case.spacing)

        table = table_of(self.dataset, self.held_cases[split], self.settings.metrics)
        part = slice(rank(), None, world_size())
        evaluate(self.predictor, self.held_out[split], table, part=part, keep=draw_overlay)
        rows = all_items(table.rows)
        table.rows = {name: rows[name] for name in names}
        return table, all_items(pictures)

    def validate(self) -> tuple[Table, Mapping[str, Picture]]:
        return self.evaluate("val")

    def test(self, engine: Engine, record: Record) -> None:
        """Test the best model; write cases_test.csv and results.json, log and print the table."""
        best = self.fabric.broadcast(str(self.folder.best) if self.folder else "")
        weights = checkpoint.load(Path(best))["method"]
        checkpoint.load_into(self.method, weights, best)
        self._write_cases_val()
        table, pictures = self.evaluate(self.dataset.tested_on)
        if not self.folder:
            return
        summary, val = table.summary(), engine.best["val"]
        table.write_csv(self.folder.path / "cases_test.csv")
        record.conclude()
        record.scores("test", engine.best["step"], summary, pictures)
        record.finals(
            {**self.names, "labeled": str(self.split), **_hparams(self.settings)},
            {
                f"final/{split}/{m}/{mean}": s[m][mean]
                for split, s in (("test", summary), ("val", val))
                for m in s
                if isinstance(s[m], Mapping)
                for mean in MEANS
                if mean in s[m]
            },
        )
        results = self.results(engine, summary, table.seconds) | {"weights_sha256": checkpoint.hash_of(weights)}
        write_json(self.folder.results_file, results)
        where = "test" if self.dataset.tested_on == "test" else f"test on {self.dataset.tested_on}"
        model = f"{self.selection.selected} model of step {engine.best['step']}"
        show(f"{self.folder.path}: {where}, {model}", summary, table.measured())
        log.info(f"finished; results and curves in {self.folder.path}")

    def _write_cases_val(self) -> None:
        """Score the best model on val again, if the file was deleted."""
        file = self.folder.path / "cases_val.csv" if self.folder else None
        if self.fabric.broadcast(file is not None and not file.exists()):
            table, _ = self.evaluate("val")
            if file:
                table.write_csv(file)

    def results(self, engine: Engine, test: Summary, eval_seconds: float) -> dict[str, Any]:
        """The content of results.json."""
        return {
            **self.names,
            "seed": self.plan.seed,
            "tag": self.settings.tag,
            "split_seed": self.settings.split_seed,
            "fold": self.settings.dataset.get("fold"),
            "labeled": {
                "ratio": self.split.num_labeled_images / self.split.num_images,
                "cases": len(self.split.labeled_groups),
                "images": self.split.num_labeled_images,
                "of_cases": self.split.num_groups,
                "of_images": self.split.num_images,
            },
            "iterations": self.plan.total,
            "status": "finished",
            "selected": self.selection.selected,
            "selected_by": self.selection.as_dict(),
            "tested_on": self.dataset.tested_on,
            "empty": self.settings.metrics.empty,
            "own_metrics": {
                name: metric.description
                for name, metric in metric_table(self.settings.metrics.more).items()
                if name not in METRICS
            },
            "best_step": engine.best["step"],
            "val": engine.best["val"],
            "test": test,
            "pseudo_labels": engine.best["pseudo_labels"],
            "collapse": engine.collapse.result,
            "speed": {
                "step_seconds": engine.seconds_per_step,
                "images_per_second": engine.images_per_second,
                "eval_seconds": eval_seconds,
                "run_seconds": engine.seconds,
            },
            "peak_memory_bytes": peak_memory(self.fabric.device),
            "versions": _versions(self.fabric),
        }


def _doubt_of_best(file: Path, best: Mapping[str, Any]) -> str:
    """Why best.pt is not the model that last.pt calls the best; nothing if it is, or if there is none yet.

    Args:
        best: step and scores of the best model, as last.pt has them.
    """
    if not best:
        return ""
    try:
        found = checkpoint.load(file)
    except UserError as error:
        return str(error)
    if found.get("step") != best["step"]:
        return f"{file}: is of step {found.get('step')}, but the best model so far is that of step {best['step']}"
    if repr(found.get("val")) != repr(best["val"]):  # a NaN equals none
        return f"{file}: has other scores than the best model so far, that of step {best['step']}"
    return ""


def _launched(settings: RunSettings, *, partial: bool) -> Fabric:
    """Set up the machine, and connect all processes."""
    fabric = fabric_of(
        device=settings.device,
        precision=settings.precision,
        num_threads=settings.num_threads,
        devices=settings.engine.devices,
        num_nodes=settings.engine.num_nodes,
        partial=partial,
    )
    if settings.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = not settings.deterministic
    fabric.launch()
    return fabric


def _labeled_in_a_step(settings: RunSettings) -> int:
    """Labelled images in a step of all processes."""
    engine = settings.engine
    return settings.batch_size * engine.accumulate * engine.devices * engine.num_nodes


def _pretrained(network: Config) -> bool:
    """Whether a network starts from weights; true if it lacks our keys for them, as it may load its own."""
    keys = [key for key in ("weights", "encoder_weights") if key in network]
    return not keys or any(network[key] is not None for key in keys)


def check_memory(settings: RunSettings, channels: int, strong_views: int) -> None:
    """Refuse steps whose images alone, in float32 with masks of 8 bytes a pixel, are larger than the memory."""
    image_size, accumulate = settings.dataset["image_size"], settings.engine.accumulate
    images = accumulate * (settings.batch_size + settings.unlabeled_batch_size * (1 + strong_views))
    needed = images * math.prod(shape_of(image_size)) * (4 * channels + 8)
    if needed > memory():
        raise UserError(
            f"batch_size={settings.batch_size}, unlabeled_batch_size={settings.unlabeled_batch_size}, "
            f"engine.accumulate={accumulate}, dataset.image_size={image_size}: the images of a step take "
            f"{needed / 2**30:,.0f} GiB, but this machine has {memory() / 2**30:,.0f} GiB of memory"
        )


def _plan(settings: RunSettings) -> Plan:
    return Plan(
        total=settings.iterations,
        eval_every=settings.eval_every,
        accumulate=settings.engine.accumulate,
        clip_norm=settings.engine.clip_norm,
        log_every=settings.engine.log_every,
        seed=settings.seed,
        precise_bn=settings.precise_bn,
    )


def _hparams(settings: RunSettings) -> dict[str, Any]:
    """The settings that sweeps vary."""
    keys = ("labeled_ratio", "labeled_cases", "seed", "iterations", "batch_size", "unlabeled_batch_size")
    groups = ("method", "optimizer", "transfer")
    within = {f"{g}.{k}": v for g in groups for k, v in getattr(settings, g).items() if k != "_target_"}
    return {key: getattr(settings, key) for key in keys} | {"image_size": settings.dataset["image_size"]} | within


def _versions(fabric: Fabric) -> dict[str, str]:
    packages = [
        "ssl4seg",
        "torch",
        "torchvision",
        "segmentation-models-pytorch",
        "timm",
        "lightning-fabric",
        "hydra-core",
        "numpy",
        "medpy",
    ]
    name = torch.cuda.get_device_name(fabric.device) if fabric.device.type == "cuda" else platform.processor() or "cpu"
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
        "device": name,
        "precision": fabric.strategy.precision.precision,
        "num_threads": str(torch.get_num_threads()),
    }
