"""Every method makes its whole step on a GPU that is not there: nothing is left on the CPU, and nothing waits."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from fake_gpu import CUDA, FakeGPU
from helpers import composed, small_method, small_network
from lightning_fabric import Fabric
from lightning_fabric.accelerators import CPUAccelerator
from lightning_fabric.strategies import SingleDeviceStrategy
from torch import Tensor, nn

from ssl4seg.commands.conf import choices, conf_dir
from ssl4seg.data.case import Case, Volume
from ssl4seg.feed.batches import Batches
from ssl4seg.feed.store import Store
from ssl4seg.methods.supervised import Supervised
from ssl4seg.run.assemble import build, forward_of, method_of, network_maker, optimizers_of
from ssl4seg.run.diagnose import Diagnosis
from ssl4seg.run.engine import Engine, Plan
from ssl4seg.run.precise_bn import batch_norms
from ssl4seg.run.transfer import Transfer
from ssl4seg.types import Progress

pytestmark = pytest.mark.slow

SHAPES = {2: (32, 32), 3: (16, 16, 16)}
VOLUMES = ("bcp", "dtc", "unimatch")
CLASSES = ("background", "a", "b", "c")
STEP, TOTAL = 51, 100  # in the middle, all terms of a loss have begun and none has ended

ONCE = {
    "augment.photometric.check_range: number": "each strong operation looks at its first image's range",
    "feed.store.Images.foreground: copy to cpu": "a labelled image is searched for its classes when it is first drawn",
}
"""What waits, but once in a run or once for each labelled image, and why."""


class There(CPUAccelerator):
    """Takes a device for granted."""

    def setup_device(self, device: torch.device) -> None:
        pass


class OnGPU(SingleDeviceStrategy):
    """Finds the module on the GPU."""

    def module_to_device(self, module: nn.Module) -> None:
        pass


@contextmanager
def bfloat16() -> Iterator[None]:
    """What `precision=bf16-mixed` switches on; `torch.autocast` itself asks for a driver."""
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    torch.set_autocast_enabled("cuda", True)
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", False)


@pytest.fixture
def gpu() -> Iterator[FakeGPU]:
    with FakeGPU() as gpu:
        yield gpu


def config_of(name: str, axes: int) -> dict[str, Any]:
    """A method with a network of two scales, or of four where its decoder needs them."""
    channels = [4, 8, 16, 32] if name == "urpc" else [4, 8]
    network = small_network("unet") | {"channels": channels, "dropout": [0.1] * len(channels)}
    words = ("views=volumes", "dataset.image_size=[16,16,16]", "views.weak.foreground=1") if axes == 3 else ()
    return composed(*small_method(name)) | {"network": network, "views": composed(*words)["views"]}


def case_of(name: str, shape: tuple[int, ...]) -> Case:
    """An image of noise, a little larger than the views."""
    rng = np.random.default_rng(0)
    size = tuple(side + 3 for side in shape)
    volume = Volume(
        rng.random((1, 1, *size), dtype=np.float32), rng.integers(len(CLASSES), size=(1, *size)).astype(np.uint8)
    )
    return Case(name=name, group=name, num_images=1, size=size, labeled=True, read=lambda: volume)


def engine_of(name: str, axes: int = 2) -> Engine:
    """An engine as training assembles it, all that it holds on the GPU."""
    config, shape = config_of(name, axes), SHAPES[axes]
    method = method_of(config["method"], network_maker(config["network"], 1, len(CLASSES), axes=axes))
    FakeGPU.take(method)
    fabric = Fabric(accelerator=There(), strategy=OnGPU(device=CUDA))
    cases, weak = [case_of("a", shape), case_of("b", shape)], build(config["views"]["weak"], "views.weak")
    labeled, unlabeled = (
        Store(cases, num_classes=len(CLASSES), labels=labels, device=CUDA) for labels in (True, False)
    )
    batches = Batches(
        labeled,
        unlabeled if method.needs_unlabeled else None,
        sizes=(2, 3 if method.needs_unlabeled else 0),
        shape=shape,
        weak=weak,
        strong=[build(operation, "views.strong") for operation in config["views"]["strong"]],
        num_strong=method.strong_views,
        seed=0,
        device=CUDA,
    )
    own = config["method"].get("optimizers", {})
    engine = Engine(
        fabric=fabric,
        method=method,
        optimizers=optimizers_of(config["optimizer"], own, method, Transfer(method)),
        schedule=build(config["schedule"], "schedule"),
        batches=batches,
        validate=None,
        selection=None,
        plan=Plan(total=TOTAL, eval_every=1, accumulate=1, clip_norm=1.0, log_every=1, seed=0, precise_bn=1),
        folder=None,
        diagnose=Diagnosis(
            cases,
            cases,
            num_images=2,
            classes=CLASSES,
            background=True,
            shape=shape,
            view=weak,
            batch_size=2,
            device=CUDA,
            autocast=fabric.autocast,
        ),
    )
    engine.step = STEP
    return engine


def waits_of_a_step(gpu: FakeGPU, engine: Engine) -> set[str]:
    with gpu.waiting() as waits:
        losses = engine.train_step()
    assert all(loss.device == CUDA for loss in losses.values())
    return set(waits)


def check(gpu: FakeGPU, engine: Engine, axes: int) -> None:
    """A step, a diagnosis and a prediction with precise batch norms; only the last two wait."""
    assert waits_of_a_step(gpu, engine) <= ONCE.keys()
    engine.diagnose(engine.method, Progress(STEP, TOTAL))
    image = torch.zeros(2, 1, *SHAPES[axes], device=CUDA)
    own = [norm.running_var for norm in batch_norms(engine.method)]
    with engine.predicting(), torch.no_grad():
        taken = [norm.running_var for norm in batch_norms(engine.method)]
        assert all(a.device == CUDA for a in taken)
        assert any(a is not b for a, b in zip(own, taken, strict=True)) == bool(own)
        logits = forward_of(engine.method, engine.fabric)(image)
    assert (logits.device, logits.dtype, logits.shape[1]) == (CUDA, torch.float32, len(CLASSES))


@pytest.mark.parametrize("name", choices("method", [conf_dir()]))
def test_a_step_in_bfloat16_leaves_nothing_on_the_cpu_and_waits_for_nothing(gpu: FakeGPU, name: str) -> None:
    with bfloat16():
        check(gpu, engine_of(name), axes=2)


@pytest.mark.parametrize("name", VOLUMES)
def test_so_does_a_step_on_volumes(gpu: FakeGPU, name: str) -> None:
    check(gpu, engine_of(name, axes=3), axes=3)


@pytest.mark.parametrize(("name", "axes"), [("unimatch", 3), ("fixmatch_cta", 2)])
def test_what_waits_once_does_not_wait_again(gpu: FakeGPU, name: str, axes: int) -> None:
    engine = engine_of(name, axes)
    assert waits_of_a_step(gpu, engine)
    engine.step += 1
    assert waits_of_a_step(gpu, engine) == set()


# -- the stand-in sees faults -----------------------------------------------------------------------------------------


class Forgetful(Supervised):
    """A method that makes a tensor without saying where."""

    def forward(self, *step: Any) -> dict[str, Tensor]:
        return {name: (loss * torch.zeros(3)).sum() for name, loss in super().forward(*step).items()}


def test_a_tensor_that_is_made_on_the_cpu_raises(gpu: FakeGPU) -> None:
    engine = engine_of("supervised")
    engine.method.__class__ = Forgetful
    with pytest.raises(RuntimeError, match=r"aten.mul.Tensor of the GPU got a tensor \[3\] on the CPU"):
        engine.train_step()


@pytest.mark.parametrize(
    ("use", "operation"),
    [
        (lambda x: x[0].item(), "number"),
        (lambda x: float(x.sum()), "number"),
        (lambda x: 1 if x.sum() > 0 else 0, "number"),
        (lambda x: x.tolist(), "number"),
        (lambda x: x.cpu(), "copy to cpu"),
        (lambda x: x.cpu().numpy(), "copy to cpu"),
        (lambda x: x + torch.ones(4).to(x.device), "copy to cuda"),
        (lambda x: x + torch.tensor([1.0, 2.0, 3.0, 4.0], device=x.device), "copy to cuda"),
        (lambda x: x[torch.tensor([0, 2])], "copy to cuda"),
        (lambda x: x[x > 0], "mask"),
        (lambda x: x.index_put((x > 0,), x.sum()), "mask"),
        (lambda x: x.nonzero(), "nonzero"),
        (lambda x: torch.bincount(x.long(), minlength=3), "bincount"),
    ],
)
def test_what_makes_the_cpu_wait_is_counted(gpu: FakeGPU, use: Any, operation: str) -> None:
    with gpu.waiting() as waits:
        use(torch.zeros(4, device=CUDA))
    assert {wait.split(": ")[1] for wait in waits} == {operation}


def test_a_number_on_the_cpu_and_a_copy_that_does_not_block_are_allowed(gpu: FakeGPU) -> None:
    x = torch.zeros(4, device=CUDA)
    with gpu.waiting() as waits:
        x = x * torch.tensor(2.0) + torch.ones(4).to(CUDA, non_blocking=True)
    assert (x.device, waits) == (CUDA, [])
