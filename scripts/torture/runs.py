"""The small runs that are attacked, the unbroken ones that they are compared with, and how they are compared.

A run has 120 steps and 20 validations, which take two seconds: checkpoints are written all the time.
"""

import csv
import json
import logging
import math
import shutil
import signal
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from folders import write_folder
from processes import Running, run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ssl4seg import checkpoint
from ssl4seg.run.folder import SEAL

STEPS, EVERY = 120, 6
TINY = (
    *("device=cpu", "precision=32", "num_threads=1", "engine.log_every=1", "optimizer=adamw", "optimizer.lr=0.05"),
    *("network.channels=[8,16]", "network.dropout=[0,0.1]", "dataset.image_size=32"),
    *("batch_size=2", "unlabeled_batch_size=2", f"iterations={STEPS}", f"eval_every={EVERY}", "labeled_ratio=0.5"),
)
PHANTOM = (
    *TINY,
    "dataset.difficulty=0",
    *(f"dataset.num_{split}={number}" for split, number in (("train", 4), ("val", 1), ("test", 1))),
)
FOLDER = (*TINY, "dataset=folder", "dataset.root=../data/png", "engine.resident_gib=0", "engine.num_workers=1")
WORDS = {
    "uamt": (*PHANTOM, "method=uamt"),
    "supervised": (*PHANTOM, "method=supervised"),
    "streamed": (*FOLDER, "method=mean_teacher"),
    "stages": (*PHANTOM, "method=st_plus_plus"),
}
"""Runs by name, as typed for `train`."""

TIMES = ("step_seconds", "seconds")
MACHINE = ("speed", "peak_memory_bytes", SEAL)
"""Parts of a checkpoint and of results.json that differ between any two runs."""


@dataclass
class Runs:
    """Makes each unbroken run once, in `home`; attacks work on copies, or type its words again."""

    home: Path
    lock: threading.Lock = field(default_factory=threading.Lock)
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time of each unbroken run."""

    def unbroken(self, name: str) -> Path:
        """The folder of the run that nobody disturbed."""
        with self.lock:
            return self._made(name, self.home / name, WORDS[name])

    def stopped(self, name: str) -> Path:
        """The folder of a run that was asked to stop after its first validations."""
        with self.lock:
            folder = self.home / f"{name}-stopped/run"
            while not folder.exists() or checkpoint.load(folder / "last.pt")["step"] == STEPS:
                shutil.rmtree(folder, ignore_errors=True)  # the signal came too late
                running = Running("train", (*WORDS[name], "hydra.run.dir=run"), self.place(folder.parent))
                running.wait_for((folder / "last.pt").exists)
                running.send(signal.SIGTERM)
                running.ended()
            return folder

    def place(self, place: Path) -> Path:
        """Make a folder to start commands in; FOLDER's data are beside it."""
        place.mkdir(parents=True, exist_ok=True)
        data = place.parent / "data"
        if not data.exists():
            data.mkdir()
            write_folder(data / "png", "png")
        return place

    def _made(self, name: str, place: Path, words: tuple[str, ...]) -> Path:
        folder = place / "run"
        if not folder.exists():
            ended = run("train", *words, "hydra.run.dir=run", cwd=self.place(place))
            if ended.code:
                raise SystemExit(f"error: an unbroken run failed: {ended.line}\n{ended.output}")
            self.seconds[name] = json.loads((folder / "results.json").read_text())["speed"]["run_seconds"] + 3
        return folder


def copied(run_folder: Path, place: Path) -> Path:
    """A copy of a run folder, in a folder to start commands in."""
    place.mkdir(parents=True)
    shutil.copytree(run_folder, place / "run")
    if not (data := place.parent / "data").exists():
        data.symlink_to(run_folder.parent.parent / "data")
    return place / "run"


# -- comparison -------------------------------------------------------------------------------------------------------


def differences(expected: Path, found: Path, *, best: bool = True, curves: bool = True) -> Iterator[str]:
    """In what the lasting content of two run folders differs, to the last bit.

    Args:
        best: whether best.pt and everything that follows from it are compared, or the last weights alone.
        curves: whether the scalars of TensorBoard are compared.
    """
    for file in ("last.pt", *(("best.pt",) if best else ())):
        yield from (f"{file}{path}" for path in differing(weights(expected / file), weights(found / file)))
    if not best:
        return
    yield from (f"results.json{path}" for path in differing(results(expected), results(found)))
    for file in ("cases_val.csv", "cases_test.csv"):
        if rows(expected / file) != rows(found / file):
            yield f"{file} differs"
    if curves:
        yield from (f"tensorboard {path}" for path in differing(scalars(expected), scalars(found)))
    names = [{file.name for file in folder.iterdir()} for folder in (expected, found)]
    yield from (f"{name} is in one folder alone" for name in sorted(names[0] ^ names[1]))


def weights(file: Path) -> dict[str, Any]:
    return {key: value for key, value in checkpoint.load(file).items() if key not in TIMES}


def results(folder: Path, name: str = "results.json") -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / name).read_text())
    return {key: value for key, value in content.items() if key not in MACHINE}


def rows(file: Path) -> list[list[str]]:
    if not file.exists():
        return []
    with file.open(newline="") as handle:
        return list(csv.reader(handle))


def scalars(folder: Path) -> dict[str, dict[str, float]]:
    """Every curve of TensorBoard: {tag: {step: value}}, a step that is there twice under a name of its own."""
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it warns of every resumed run
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    curves: dict[str, dict[str, float]] = {}
    for tag in events.Tags()["scalars"]:
        for event in events.Scalars(tag):
            curve = curves.setdefault(tag, {})
            curve[f"{event.step}" if f"{event.step}" not in curve else f"{event.step} twice"] = event.value
    return curves


def leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping | list | tuple):
        for key, value in tree.items() if isinstance(tree, Mapping) else enumerate(tree):
            yield from leaves(value, f"{path}/{key}")
    else:
        yield path, tree


def differing(a: Any, b: Any) -> list[str]:
    """Paths at which two trees of tensors and plain values differ, to the last bit; a NaN equals a NaN."""
    first, second = dict(leaves(a)), dict(leaves(b))
    return [path for path in {**first, **second} if not _same(first.get(path, ...), second.get(path, ...))]


def missing(expected: Any, found: Any) -> list[str]:
    """Paths of `expected` that have another value in `found`, or none."""
    there = dict(leaves(found))
    return [path for path, value in leaves(expected) if path != f"/{SEAL}" and not _same(value, there.get(path, ...))]


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()
    if isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b):
        return True
    return type(a) is type(b) and bool(a == b)
