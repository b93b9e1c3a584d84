"""Time UA-MT's training step and the test of one volume on LA, by turns with the way of the public 3-D scripts.

    python scripts/bench_volumes.py                          # patches of 112 x 112 x 80, 2 + 2, T = 8, V-Net
    python scripts/bench_volumes.py --patch 32 32 16 --size 48 40 20 --repeats 3

The reference is written here from the paper (Yu et al., MICCAI 2019) and what is known of its code: the same V-Net in
fp32 with N C D H W tensors, teacher passes one pair at a time, the EMA parameter by parameter; the test predicts one
window after the other and measures with medpy on whole masks. It works in a process of its own, because a process of
ssl4seg keeps freed memory, which speeds up every tensor in it. Its batch is ready made; ours reads it and makes its
views. Volumes are random, of LA's usual size, in LA's layout. CPU time is shown beside wall time: other jobs disturb it
less.
"""

import argparse
import copy
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import torch
import torch.nn.functional as F
from bench_step import engine_of, step
from medpy.metric.binary import asd, dc, hd95
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from ssl4seg.networks.vnet import VNet
from ssl4seg.run.assemble import forward_of
from ssl4seg.scoring.inference import literal_windows
from ssl4seg.scoring.predictor import Predictor
from ssl4seg.scoring.tables import CaseTable

PASSES = 8
STRIDE = (18, 18, 4)


class Reference:
    """UA-MT's step and test as the public scripts write them."""

    def __init__(self) -> None:
        self.student = VNet(in_channels=1, num_classes=2, axes=3)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.optimizer = torch.optim.SGD(self.student.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)

    def step(self, volume: Tensor, label: Tensor) -> None:
        """One step on [4, 1, X, Y, Z], of which the first two are labelled."""
        unlabeled = volume[2:]
        z = self.student(volume)
        with torch.no_grad():
            z_t = self.teacher(unlabeled + torch.clamp(torch.randn_like(unlabeled) * 0.1, -0.2, 0.2))
            passes = []
            for _ in range(PASSES // 2):
                pair = unlabeled.repeat(2, 1, 1, 1, 1)
                passes.append(self.teacher(pair + torch.clamp(torch.randn_like(pair) * 0.1, -0.2, 0.2)))
            mean = F.softmax(torch.cat(passes), dim=1).view(PASSES, *z_t.shape).mean(dim=0)
            uncertainty = -(mean * torch.log(mean + 1e-6)).sum(dim=1, keepdim=True)
        p = F.softmax(z[:2], dim=1)[:, 1]
        dice = 1 - (2 * (p * label).sum() + 1e-5) / ((p * p).sum() + (label * label).sum() + 1e-5)
        supervised = 0.5 * (F.cross_entropy(z[:2], label) + dice)
        distance = (F.softmax(z[2:], dim=1) - F.softmax(z_t, dim=1)) ** 2
        mask = (uncertainty < 0.75 * np.log(2)).float()
        loss = supervised + 0.1 * (mask * distance).sum() / (2 * mask.sum() + 1e-16)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        for mine, theirs in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            mine.data.mul_(0.99).add_(theirs.data, alpha=0.01)

    @torch.no_grad()
    def test(self, image: np.ndarray, label: np.ndarray, patch: tuple[int, ...]) -> list[float]:
        """Dice, HD95 and ASD of one volume [X, Y, Z]."""
        self.student.eval()
        total, count = np.zeros((2, *image.shape), np.float32), np.zeros(image.shape, np.float32)
        counts = [int(np.ceil((n - p) / s)) + 1 for n, p, s in zip(image.shape, patch, STRIDE, strict=True)]
        for number in np.ndindex(*counts):
            start = [min(s * i, n - p) for s, i, n, p in zip(STRIDE, number, image.shape, patch, strict=True)]
            window = tuple(slice(at, at + p) for at, p in zip(start, patch, strict=True))
            y = F.softmax(self.student(torch.from_numpy(image[window])[None, None]), dim=1)[0].numpy()
            total[(slice(None), *window)] += y
            count[window] += 1
        self.student.train()
        found = (total / count).argmax(axis=0)
        return [dc(found, label), hd95(found, label), asd(found, label)] if found.any() else [0.0, 0.0, 0.0]


def volume(size: tuple[int, ...], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise, brighter in a ball, and the ball."""
    rng = np.random.default_rng(seed)
    at = (np.indices(size) - np.reshape(size, (3, 1, 1, 1)) / 2) / (min(size) / 3)
    label = ((at**2).sum(axis=0) < 1).astype(np.uint8)
    return (rng.normal(0, 1, size) + 2 * label).astype(np.float32), label


def write(root: Path, size: tuple[int, ...]) -> None:
    """Eight random cases to train on and one to test, in LA's layout."""
    names = [f"case{number}" for number in range(9)]
    for number, name in enumerate(names):
        place = root / "2018LA_Seg_Training Set" / name
        place.mkdir(parents=True)
        with h5py.File(place / "mri_norm2.h5", "w") as file:
            file["image"], file["label"] = volume(size, number)
    (root / "train.list").write_text("\n".join(names[:8]))
    (root / "test.list").write_text(names[8])


class Seconds(NamedTuple):
    wall: float
    cpu: float


def seconds(work: Callable[[], object]) -> Seconds:
    start, spent = time.perf_counter(), time.process_time()
    work()
    return Seconds(time.perf_counter() - start, time.process_time() - spent)


def medians(times: list[Seconds]) -> Seconds:
    return Seconds(*(statistics.median(column) for column in zip(*times, strict=True)))


class Aside:
    """The reference in a process of its own, which works only when it is called."""

    def __init__(self, patch: tuple[int, ...], size: tuple[int, ...]) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        context.Process(target=serve, args=(theirs, patch, size, torch.get_num_threads()), daemon=True).start()

    def __call__(self, what: str | dict[str, Tensor]) -> Seconds:
        """Do a "step" or a "test", and say how long it took; a state dict is what the student then holds."""
        self.pipe.send(what)
        return Seconds(*self.pipe.recv())


def serve(pipe: Any, patch: tuple[int, ...], size: tuple[int, ...], threads: int) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    reference = Reference()
    images, labels = torch.randn(4, 1, *patch), (torch.rand(2, *patch) > 0.8).long()
    work = {
        "step": partial(reference.step, images, labels),
        "test": partial(reference.test, *volume(size, 8), patch),
    }
    while (what := pipe.recv()) is not None:
        pipe.send(
            tuple(seconds(work[what] if isinstance(what, str) else partial(reference.student.load_state_dict, what)))
        )


def by_turns(title: str, ours: Callable[[], object], theirs: Callable[[], Seconds], repeats: int) -> None:
    """Time both in turns, after one call of each, and print medians and their ratios."""
    ours(), theirs()
    mine, reference = map(medians, zip(*[(seconds(ours), theirs()) for _ in range(repeats)], strict=True))
    print(
        f"{title}: ssl4seg {mine.wall:.2f} s, reference {reference.wall:.2f} s, {mine.wall / reference.wall:.3f} of it"
    )
    print(
        f"  of CPU {mine.cpu:.2f} s, {reference.cpu:.2f} s, {mine.cpu / reference.cpu:.3f} of it (n={repeats})",
        flush=True,
    )


def share_of_convolution(work: Callable[[], object]) -> float:
    """Share of the operators' own CPU time that convolutions take, forward and backward."""
    with profile(activities=[ProfilerActivity.CPU]) as trace:
        work()
    times = {event.key: event.self_cpu_time_total for event in trace.key_averages()}
    return sum(time for name, time in times.items() if "conv" in name) / sum(times.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patch", type=int, nargs=3, default=(112, 112, 80))
    parser.add_argument("--size", type=int, nargs=3, default=(180, 140, 88), help="of the volumes")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=("step", "test"))
    given = parser.parse_args()
    patch, size = tuple(given.patch), tuple(given.size)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as root:
        write(Path(root), size)
        words = ("dataset=la", f"dataset.root={root}", f"dataset.image_size=[{','.join(map(str, patch))}]")
        engine = engine_of([*words, "dataset.val_cases=1", "method=uamt", "labeled_cases=2", "device=cpu"])
    reference = Aside(patch, size)
    print(f"patch {patch}, volumes {size}, {torch.get_num_threads()} threads, {engine.fabric._precision.precision}")
    if given.only != "test":
        by_turns("UA-MT step", lambda: step(engine), lambda: reference("step"), given.repeats)
        feed = medians([seconds(lambda: engine.batches(engine.step)) for _ in range(given.repeats)])
        whole = medians([seconds(lambda: step(engine)) for _ in range(given.repeats)])
        print(f"reading and views: {feed.cpu:.3f} s of CPU, {100 * feed.cpu / whole.cpu:.1f} % of a step")
        print(f"convolution: {100 * share_of_convolution(lambda: step(engine)):.0f} % of a step of ssl4seg")
    if given.only != "step":
        image, label = volume(size, 8)
        reference(engine.method.student.state_dict())  # equal masks cost equal distances
        forward = forward_of(engine.method, engine.fabric)
        predictor = Predictor(
            predict=forward, inference=literal_windows(patch, STRIDE), device=torch.device("cpu"), protocol="la"
        )

        def test() -> None:
            table = CaseTable(("background", "atrium"), unit="voxel")
            table.add("case", predictor(image[None, None]), label[None], None)

        by_turns("test of a volume", test, lambda: reference("test"), max(1, given.repeats // 2))
    reference.pipe.send(None)


if __name__ == "__main__":
    main()
