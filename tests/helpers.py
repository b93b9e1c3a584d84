"""Helpers of the integration tests: real processes, tiny datasets, and readers of the files of a run."""

import atexit
import copy
import csv
import gc
import importlib
import json
import multiprocessing
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from multiprocessing import forkserver
from pathlib import Path
from typing import Any, NamedTuple, Self

import composing  # noqa: F401  # Hydra reads conf/ once
import h5py
import nibabel
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ssl4seg.run.engine import Engine
from ssl4seg.run.folder import RunFolder
from ssl4seg.run.training import Training
from ssl4seg.shipped import conf_dir, read_shipped

TESTS = Path(__file__).parent
MACHINE = ("device=cpu", "precision=32", "num_threads=1")
SMALL = ("network.channels=[4,8]", "network.dropout=[0.1,0.1]", "dataset.image_size=32")
SHORT = (
    *("batch_size=2", "unlabeled_batch_size=2", "iterations=4", "eval_every=2"),
    *("engine.log_every=1", "engine.num_overlays=0"),  # a sixth of a short run's time
)
PHANTOM = (
    *MACHINE,
    *SMALL,
    *SHORT,
    *(f"dataset.num_{split}={n}" for split, n in (("train", 4), ("val", 1), ("test", 1))),
)
"""Four training patients, four steps: a fraction of a second."""

NAMES = {"dataset": "-", "method": "-", "network": "unet"}
"""What `Training` is told of a run's choices, where no one reads it."""

TRAIN, VAL, TEST = (1, 2, 3), (4,), (5,)
CLASSES = ("right_ventricle", "myocardium", "left_ventricle")


def acdc(root: Path) -> tuple[str, ...]:
    """Overrides for a run on the patients that `write_h5` and `write_nifti` make."""
    patients = f"dataset.patients={{train:{[*TRAIN]},val:{[*VAL]},test:{[*TEST]}}}".replace(" ", "")
    return (*MACHINE, *SMALL, *SHORT, "dataset=acdc", f"dataset.root={root}", patients)


# -- processes --------------------------------------------------------------------------------------------------------

MODULES = {
    "train": "ssl4seg.train",
    "eval": "ssl4seg.eval",
    "predict": "ssl4seg.predict",
    "export": "ssl4seg.export",
    "rank": "ssl4seg.rank",
    "prepare": "ssl4seg.prepare",
    "report": "ssl4seg.report.command",
}


@cache
def _server() -> Any:
    """Forks the processes of commands from one that has imported `warm`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["warm"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(TESTS), prepend=os.pathsep)  # it hears of no sys.path before Python 3.12
        forkserver.ensure_running()
    return context


class Finished(NamedTuple):
    """The exit status of a process, and its output on both streams."""

    code: int
    output: str


@dataclass
class Command:
    """A running command of ssl4seg, or `main` of a module of a test's own, in a process forked from that of `warm`."""

    process: Any
    log: Path

    @classmethod
    def start(
        cls,
        name: str,
        *arguments: object,
        cwd: Path,
        env: Mapping[str, str] | None = None,
        killed_writing: str | None = None,
    ) -> Self:
        """Start a command.

        Args:
            killed_writing: name of a file; as soon as half of it is written the process gets a SIGKILL.
        """
        log = cwd / f".{name}-{time.monotonic_ns()}.log"
        process = _server().Process(
            target=_main, args=(name, [*map(str, arguments)], cwd, env or {}, log, killed_writing)
        )
        process.start()  # not as a daemon, which may have no processes of its own
        atexit.register(process.kill)
        return cls(process, log)

    def wait(self, timeout: float = 120) -> Finished:
        self.process.join(timeout)
        if self.process.is_alive():
            self.process.kill()
            raise TimeoutError(self.log.read_text())
        return Finished(self.process.exitcode, self.log.read_text())

    def wait_for(self, event: Callable[[], bool], timeout: float = 120) -> Self:
        """Wait until `event` happens; fail if the process ends first."""
        until = time.monotonic() + timeout
        while not event():
            assert self.process.is_alive(), self.log.read_text()
            assert time.monotonic() < until, self.log.read_text()
            time.sleep(0.01)
        return self

    def send(self, number: int) -> Finished:
        os.kill(self.process.pid, number)
        return self.wait()


def _main(
    name: str, arguments: list[str], cwd: Path, env: Mapping[str, str], log: Path, killed_writing: str | None
) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT, 0o600)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.chdir(cwd)
    os.environ.update(env)
    sys.path[:0] = env.get("PYTHONPATH", "").split()  # at most one folder
    sys.argv = [f"ssl4seg-{name}", *arguments]
    gc.freeze()  # looking through all that was imported, again and again, would be a third of the process's time
    if killed_writing:
        _die_writing(killed_writing)
    importlib.import_module(MODULES.get(name, name)).main()


def _die_writing(name: str) -> None:
    replace = Path.replace

    def half_or_whole(partial: Path, file: Path) -> Path:
        if file.name == name:
            os.truncate(partial, partial.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(partial, file)

    Path.replace = half_or_whole  # type: ignore[assignment,method-assign]


def run(name: str, *arguments: object, cwd: Path, env: Mapping[str, str] | None = None) -> Finished:
    """A command from start to end."""
    return Command.start(name, *arguments, cwd=cwd, env=env).wait()


def run_two(name: str, *arguments: object, cwd: Path, env: Mapping[str, str] | None = None) -> list[Finished]:
    """A command in two processes that belong together, each told by its environment as torchrun would tell it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    envs = ({**(env or {}), **world, "RANK": rank, "LOCAL_RANK": rank} for rank in "01")
    return [each.wait() for each in [Command.start(name, *arguments, cwd=cwd, env=env) for env in envs]]


def succeed(name: str, *arguments: object, cwd: Path, env: Mapping[str, str] | None = None) -> str:
    """The output of a command that must succeed."""
    code, output = run(name, *arguments, cwd=cwd, env=env)
    assert code == 0, output
    return output


def refused(name: str, *arguments: object, cwd: Path, env: Mapping[str, str] | None = None) -> str:
    """Run a command that must fail with a message and without a traceback; returns its output."""
    code, output = run(name, *arguments, cwd=cwd, env=env)
    assert code == 1, output
    assert "error: " in output
    assert "Traceback" not in output
    return output


def script(name: str) -> str:
    """The installed console script."""
    return str(Path(sys.executable).with_name(f"ssl4seg-{name}"))


def shell(*arguments: object, cwd: Path, env: Mapping[str, str] | None = None) -> Finished:
    """A program from a bare start, imports and all; a PYTHONPATH in `env` is put before that of the tests."""
    env = os.environ | (env or {})
    if before := os.environ.get("PYTHONPATH"):
        env["PYTHONPATH"] = os.pathsep.join(dict.fromkeys((env["PYTHONPATH"], before)))
    done = subprocess.run(
        [*map(str, arguments)],
        cwd=cwd,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
    )
    return Finished(done.returncode, done.stdout)


# -- tiny datasets ----------------------------------------------------------------------------------------------------

SHAPE = (3, 40, 48)  # slices, rows, columns
SPACING = (10.0, 1.5, 1.25)  # mm
FRAMES = (1, 12)


def pixels(number: int, frame: int) -> tuple[np.ndarray, np.ndarray]:
    """Image [S, H, W] int16 and label uint8 of a frame: a pool in its ring, a crescent beside them, grey by class."""
    rng = np.random.default_rng([number, frame])
    row, column = np.mgrid[: SHAPE[1], : SHAPE[2]]
    label = np.zeros(SHAPE, np.uint8)
    for level, mask in enumerate(label):
        y, x = rng.uniform(16, 24), rng.uniform(24, 30)
        mask[np.hypot(row - y, column - x + 10) < 9 - level] = 1
        mask[np.hypot(row - y, column - x) < 10 - level] = 2
        mask[np.hypot(row - y, column - x) < 6 - level] = 3
    image = np.array([100, 700, 300, 900])[label] + rng.normal(0, 30, SHAPE)
    return image.astype(np.int16), label


def write_h5(root: Path, patients: Sequence[int] = (*TRAIN, *VAL, *TEST)) -> Path:
    """The layout of the literature: ROOT/data/patientXXX_frame0Y.h5, no voxel spacing."""
    (root / "data").mkdir(parents=True)
    for number in patients:
        for order, frame in enumerate(FRAMES, start=1):
            image, label = pixels(number, frame)
            with h5py.File(root / "data" / f"patient{number:03d}_frame{order:02d}.h5", "w") as file:
                file["image"] = ((image - image.min()) / np.ptp(image)).astype(np.float32)
                file["label"] = label
    return root


def write_nifti(root: Path, patients: Sequence[int] = (*TRAIN, *VAL, *TEST)) -> Path:
    """The challenge's layout: ROOT/patientXXX/patientXXX_frameNN[_gt].nii.gz beside a 4-D series and Info.cfg."""
    for number in patients:
        folder = root / f"patient{number:03d}"
        folder.mkdir(parents=True)
        (folder / "Info.cfg").write_text("ED: 1\nES: 12\n")
        save_nifti(folder / f"{folder.name}_4d.nii.gz", np.zeros((2, *SHAPE), np.int16))
        for frame in FRAMES:
            image, label = pixels(number, frame)
            save_nifti(folder / f"{folder.name}_frame{frame:02d}.nii.gz", image)
            save_nifti(folder / f"{folder.name}_frame{frame:02d}_gt.nii.gz", label)
    return root


def save_nifti(path: Path, voxels: np.ndarray) -> None:
    """Voxels [..., S, H, W] with an oblique affine and a description in the header."""
    affine = np.diag([*SPACING[::-1], 1.0])
    affine[:3, 3] = (-30, 20, 5)
    turned = np.array([[0.8, -0.6, 0, 0], [0.6, 0.8, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]) @ affine
    image = nibabel.Nifti1Image(voxels.transpose(), turned)
    image.header["descrip"] = b"tiny"
    image.header.set_xyzt_units("mm", "sec")
    nibabel.save(image, path)


# -- what a run leaves behind -----------------------------------------------------------------------------------------


def results(folder: Path, name: str = "results.json") -> dict[str, Any]:
    return json.loads((folder / name).read_text())


def lasting(folder: Path, name: str = "results.json") -> dict[str, Any]:
    """results.json without speed, memory and the sum over them, which differ from run to run."""
    changing = ("speed", "peak_memory_bytes", "text_sha256")
    return {key: value for key, value in results(folder, name).items() if key not in changing}


def table(file: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with file.open(newline="") as handle:
        return list(csv.DictReader(handle))


def load(file: Path) -> dict[str, Any]:
    """A checkpoint without the times in it, which differ from run to run."""
    content = torch.load(file, weights_only=True)
    return {key: value for key, value in content.items() if key not in ("step_seconds", "seconds")}


def events(folder: Path) -> EventAccumulator:
    """Everything in the TensorBoard files of a run."""
    accumulator = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    return accumulator.Reload()


def curve(folder: Path, tag: str) -> dict[int, float]:
    """A scalar of a run by step; no step may occur twice."""
    return curve_in(events(folder), tag)


def curve_in(found: EventAccumulator, tag: str) -> dict[int, float]:
    points = found.Scalars(tag)
    assert len({point.step for point in points}) == len(points), points
    return {point.step: point.value for point in points}


def leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested dictionaries and lists, each with its path."""
    if isinstance(tree, Mapping | list | tuple):
        items = tree.items() if isinstance(tree, Mapping) else enumerate(tree)
        for key, value in items:
            yield from leaves(value, f"{path}/{key}")
    else:
        yield path, tree


def differing(a: Any, b: Any) -> list[str]:
    """Paths at which two trees of tensors and plain values differ, to the last bit."""
    first, second = dict(leaves(a)), dict(leaves(b))
    return [path for path in {**first, **second} if not _same(first.get(path), second.get(path))]


def _same(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else a is b or a == b


def composed(*overrides: str) -> dict[str, Any]:
    """The resolved configuration of a run, as `ssl4seg-train` hands it to `training.train`."""
    return copy.deepcopy(_composed(overrides))


@cache  # most of the tests' time otherwise
def _composed(overrides: tuple[str, ...]) -> dict[str, Any]:
    """Hydra composes the choices, once for all values that are then laid on them as it lays them."""
    values = [w for w in overrides if re.match(r"(?!hydra)\w", w) and not (conf_dir() / w.split("=")[0]).is_dir()]
    config = pickle.loads(_chosen(tuple(word for word in overrides if word not in values)))
    for value in OverridesParser.create().parse_overrides(values):
        OmegaConf.update(config, value.key_or_group, value.value(), merge=True)
    resolved: Any = OmegaConf.to_container(config, resolve=True)
    return resolved


@cache
def _chosen(choices: tuple[str, ...]) -> bytes:
    """Composed by Hydra, but where a choice is the whole of its group: its file takes the group's place."""
    whole = [word for word in choices if _is_whole(word, choices)]
    if not whole:
        with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
            return pickle.dumps(compose("train", overrides=[*choices]))
    config = pickle.loads(_chosen(tuple(word for word in choices if word not in whole)))
    for word in whole:
        group, name = word.split("=")
        OmegaConf.update(config, group, read_shipped(f"{group}/{name}.yaml"), merge=False)
    return pickle.dumps(config)


def _is_whole(choice: str, choices: Sequence[str]) -> bool:
    """Whether GROUP=NAME names a file that includes no others and is all that is in its group: no other choice adds."""
    if not (file := _file_of(choice)).is_file() or any("experiment=" in word for word in choices):
        return False
    others = (_file_of(word) for word in choices if word != choice)
    adding = rf"(?m)^{choice.split('=')[0]}:"
    return not re.search("(?m)^defaults:|@package|^# The former", file.read_text()) and not any(
        other.is_file() and re.search(adding, other.read_text()) for other in others
    )


def _file_of(choice: str) -> Path:
    return conf_dir() / f"{choice.replace('=', '/')}.yaml"


SMALL_NETWORKS = {  # keys that make a network small enough to meet every method
    "unet": "channels=[4,8,16] dropout=[0.05,0.1,0.2]",
    "vnet": "width=4",
    "swin_unet": "embed_dim=12 depths=[1,1,1] heads=[1,2,2]",
    "gan_generator_deconv": "width=8",
    "gan_generator_strided": "width=4",
    "resnet50_decoder": "encoder=resnet18",
    "vocsegnet": "encoder=vgg11 hidden=16",
    "fcn": "encoder=vgg11 hidden=16",
    "deeplabv3": "encoder=mobilenet_v3_large",
    "smp_unet": "encoder=tu-test_resnet decoder_channels=[16,16,16,16,16]",
    "unetplusplus": "encoder=tu-test_resnet decoder_channels=[16,16,16,16,16]",
    "deeplabv3plus": "encoder=tu-test_resnet decoder_channels=16",
    "fpn": "encoder=tu-test_resnet decoder_pyramid_channels=16 decoder_segmentation_channels=64",
    "pspnet": "encoder=tu-test_resnet psp_out_channels=16",
    "segformer": "encoder=tu-test_resnet decoder_segmentation_channels=16",
    "upernet": "encoder=tu-test_resnet decoder_channels=16",
    "dpt": "encoder=tu-test_vit decoder_intermediate_channels=[8,8,8,8] decoder_fusion_channels=8",
    "vit_dpt": "encoder=test_vit channels=8 reassembled=[8,8,8,8]",
    "dynunet": "strides=[1,2,2,2] filters=[4,8,8,8]",
    "segresnet": "init_filters=8 blocks_down=[1,1,1] blocks_up=[1,1]",
    "swin_unetr": "feature_size=12 depths=[2,1,1,1] num_heads=[1,2,2,2] window_size=4",
    "unetr": "feature_size=4 hidden_size=24 mlp_dim=32 num_heads=2",
}


SMALL_METHODS = {
    "ctct": "transformer.embed_dim=12 transformer.depths=[1,1,1] transformer.heads=[1,2,2]",
    "gct": "detector_width=8",
    "u2pl": "projection_channels=16 num_anchors=32 num_keys=64 bank_size=300 background_bank_size=300",
}


AVERAGING = "method.ema_decay=0.9"
"""A teacher that is an average: in a run of a few steps one of ema_decay=auto is the student."""


def small_method(name: str) -> list[str]:
    """Overrides that choose a method of conf/method, its own networks as small as they can be."""
    averaging = [AVERAGING] if "ema_decay" in (conf_dir() / f"method/{name}.yaml").read_text() else []
    return [f"method={name}", *averaging, *(f"method.{key}" for key in SMALL_METHODS.get(name, "").split())]


def small_network(name: str) -> dict[str, Any]:
    """The configuration of a network of conf/network, as small as it can be."""
    keys = (f"network.{key}" for key in SMALL_NETWORKS.get(name, "").split())
    network: dict[str, Any] = composed(f"network={name}", *keys)["network"]
    return network


# -- engines in this process ------------------------------------------------------------------------------------------


def engine_in(path: Path, config: dict[str, Any]) -> Engine:
    """The engine of a run in `path`, where an earlier one stopped."""
    return Training(config, NAMES, RunFolder(path, config, resume=True)).engine()


def go(engine: Engine, until: int) -> None:
    while engine.step < until:
        engine.train_step()
        engine.step += 1
    engine.save()
