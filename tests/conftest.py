"""Fixtures that several modules share."""

import atexit
import gc
import inspect
import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from multiprocessing.util import Finalize
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import numpy as np
import pytest
import torch
from helpers import TESTS, Command, acdc, succeed, write_nifti
from pixelwise import K

from ssl4seg.data.case import Case, Volume
from ssl4seg.keys import IGNORE
from ssl4seg.run.training import Training
from ssl4seg.types import Batch

torch.set_num_threads(1)  # for tensors this small, threads that wait for one another cost more than they bring

# -- garbage ----------------------------------------------------------------------------------------------------------

gc.disable()  # what is imported and collected stays; looking through it again and again takes a twentieth of the time


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()
    atexit.register(gc.unfreeze)  # or Triton reports as leaked what Python does not take down at the end


# -- where the tests write --------------------------------------------------------------------------------------------

MEMORY = Path("/dev/shm")
ROOM = 4 * 2**30  # bytes; all tests together write 1.6 GiB, of which little is there at a time

# Checkpoints are flushed to the disk, for which the tests would wait a tenth of their time. The folder goes with the
# process that made it, after multiprocessing's own in it: what packages leave would fill the memory. With a TMPDIR of
# one's own it all stays.
if "TMPDIR" not in os.environ and MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM:
    os.environ["TMPDIR"] = tempfile.tempdir = tempfile.mkdtemp(prefix="ssl4seg-tests-", dir=MEMORY)
    Finalize(None, shutil.rmtree, (tempfile.tempdir,), {"ignore_errors": True}, exitpriority=-200)

# -- pytest -m fast ---------------------------------------------------------------------------------------------------

SLOW = (Command, Training, subprocess)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """Mark as fast each test that neither starts a process, nor trains, nor is marked as slow."""
    for item in items:
        fixtures = [each.func for found in item._fixtureinfo.name2fixturedefs.values() for each in found]
        if not item.get_closest_marker("slow") and not is_slow([item.function, *fixtures]):
            item.add_marker("fast")


def is_slow(todo: list[Any]) -> bool:
    """Whether these functions, or those of the tests that they call, name one of SLOW."""
    seen = set()
    while todo:
        named = todo.pop()
        if any(named is each for each in SLOW):
            return True
        function = inspect.unwrap(named) if callable(named) else named
        if isinstance(function, FunctionType) and function not in seen:
            seen.add(function)
            if Path(function.__code__.co_filename).is_relative_to(TESTS):
                todo += [function.__globals__.get(name) for name in names_in(function.__code__)]
    return False


def names_in(code: CodeType) -> Iterator[str]:
    """The names that a function's code uses, functions inside it included."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from names_in(constant)


# -- fixtures ---------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _log_as_it_was() -> Iterator[None]:
    """A run in this process sends the log to its screen and file, and no further: the next test could not hear it."""
    log = logging.getLogger("ssl4seg")
    before = log.level, log.propagate, [*log.handlers]
    yield
    for handler in [*log.handlers]:
        if handler not in before[2]:
            log.removeHandler(handler)
            handler.close()
    log.level, log.propagate, log.handlers = before


@pytest.fixture
def batch() -> Batch:
    """Two labelled images with ignored pixels and three unlabelled ones, for the networks of `pixelwise`."""
    label = torch.randint(K, (2, 4, 5))
    label[0, 0] = IGNORE
    return Batch(torch.randn(2, 1, 4, 5), label, 3 * torch.randn(3, 1, 4, 5))


@pytest.fixture
def make_case() -> Callable[..., Case]:
    """A case in memory from an image [S, H, W] and perhaps its label [S, H, W]."""

    def make(name, image, label=None, *, group=None, spacing=None) -> Case:
        mask = None if label is None else np.asarray(label, np.uint8)
        volume = Volume(np.asarray(image, np.float32)[:, None], mask)
        return Case(
            name=name,
            group=group or name,
            num_images=len(image),
            size=volume.image.shape[2:],
            labeled=mask is not None,
            read=lambda: volume,
            spacing=spacing,
        )

    return make


@pytest.fixture(scope="session")
def challenge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The challenge's folder of NIfTI files, for five patients."""
    return write_nifti(tmp_path_factory.mktemp("challenge") / "source")


@pytest.fixture(scope="session")
def prepared(challenge: Path) -> Path:
    """The h5 folder that ssl4seg-prepare makes from the challenge's."""
    succeed("prepare", "acdc", challenge, challenge.parent / "ACDC", cwd=challenge.parent)
    return challenge.parent / "ACDC"


@pytest.fixture(scope="session")
def acdc_run(prepared: Path) -> Path:
    """A finished run on that folder, long enough to segment well above chance."""
    longer = ("iterations=60", "optimizer.lr=0.05", "labeled_ratio=1")
    succeed("train", *acdc(prepared), *longer, cwd=prepared.parent)
    return prepared.parent / "outputs/acdc/supervised/unet-1-s0"
