"""Two real processes, joined by gloo: the same weights in both, and the steps of one process with twice the batch."""

import sys
from pathlib import Path

import pytest
import torch
from helpers import CLASSES, PHANTOM, load, results, shell, succeed, table

METHOD = "kept_uamt"  # the others are in tests/methods/test_contract_runs.py
NETWORKS = ("unet", "plain")
ITERATIONS = 4

PYTHON = '''"""The U-Net without batch statistics, and a method that keeps what each process holds after every step."""

import os
from pathlib import Path

import torch
from torch import nn

from ssl4seg.methods import uamt
from ssl4seg.networks.unet import UNet


class Plain(UNet):
    def __init__(self, **keys):
        super().__init__(**keys)
        for module in list(self.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.BatchNorm2d):
                    setattr(module, name, nn.GroupNorm(2, child.num_features))


class Kept:
    def after_step(self, progress):
        super().after_step(progress)
        name = f"{type(self).__name__}-{type(self.student).__name__}-{progress.step}-{os.environ.get('RANK', 'one')}.pt"
        torch.save(dict(self.named_parameters()), Path("kept", name))

    def predict(self, image):
        file = Path("kept", f"{type(self.student).__name__}-statistics-{os.environ.get('RANK', 'one')}.pt")
        if not file.exists() and not any(module.training for module in self.modules()):  # at the first validation
            torch.save(dict(self.student.named_buffers()), file)
        return super().predict(image)


class UAMT(Kept, uamt.UAMT): ...
'''
NAMES = {"unet": "UNet", "plain": "Plain"}


def config(home: Path) -> Path:
    """A config folder and a module beside the package, as a user would write them."""
    (home / "mine.py").write_text(PYTHON)
    (home / "kept").mkdir()
    for folder in ("method", "network"):
        (home / "conf" / folder).mkdir(parents=True)
    (home / f"conf/method/{METHOD}.yaml").write_text("_target_: mine.UAMT\nnoise: 0.0\nema_decay: 0.9\n")
    keys = "channels: [4, 8]\ndropout: [0, 0]\nweights: null\n"
    (home / "conf/network/plain.yaml").write_text(f"_target_: mine.Plain\n{keys}")
    return home


SWEEP = (
    *("--config-dir", "conf", "-m", *PHANTOM, f"method={METHOD}"),
    *("network.dropout=[0,0]", "labeled_ratio=0.5", f"iterations={ITERATIONS}", "eval_every=2", "precise_bn=1"),
    "engine.num_overlays=4",
)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = config(tmp_path_factory.mktemp("two"))
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2)
    keys = ("-m", "ssl4seg.train", *SWEEP, f"network={','.join(NETWORKS)}", "engine.devices=2")
    env = {"PYTHONPATH": str(home), "OMP_NUM_THREADS": "1"}
    code, output = shell(*launcher, *keys, cwd=home, env=env)
    assert code == 0, output
    return home


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = config(tmp_path_factory.mktemp("one"))
    keys = ("network=plain", "batch_size=4", "unlabeled_batch_size=4")
    succeed("train", *SWEEP, *keys, cwd=home, env={"PYTHONPATH": str(home)})
    return home


def kept(home: Path, network: str, process: str) -> list[dict[str, torch.Tensor]]:
    """A process's parameters after each step."""
    names = [f"UAMT-{NAMES[network]}-{step}-{process}.pt" for step in range(ITERATIONS)]
    return [load(home / "kept" / name) for name in names]


@pytest.mark.parametrize("network", NETWORKS)
def test_both_processes_hold_the_same_weights_after_each_step(two: Path, network: str) -> None:
    first, second = (kept(two, network, rank) for rank in "01")
    for a, b in zip(first, second, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)
    assert any(not torch.equal(first[0][name], first[-1][name]) for name in first[0])


def test_both_processes_predict_with_the_mean_of_the_statistics_that_each_took(two: Path) -> None:
    first, second = (load(two / f"kept/UNet-statistics-{rank}.pt") for rank in "01")
    assert any(name.endswith("running_var") for name in first)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_two_processes_take_the_steps_of_one_with_twice_the_batch(two: Path, one: Path) -> None:
    for a, b in zip(kept(two, "plain", "0"), kept(one, "plain", "one"), strict=True):
        for name in a:
            assert (a[name] - b[name]).norm() <= 1e-5 * b[name].norm(), name


def test_two_processes_score_every_case_and_write_one_run(two: Path, one: Path) -> None:
    folders = [root / f"outputs/phantom/{METHOD}/plain-0.5-s0" for root in (two, one)]
    ours, theirs = ({str(path.relative_to(f)).split("events")[0] for path in f.rglob("*")} for f in folders)
    assert ours == theirs
    for split in ("val", "test"):
        a, b = (table(folder / f"cases_{split}.csv") for folder in folders)
        assert [(row["case"], row["class"]) for row in a] == [(row["case"], row["class"]) for row in b]
        assert len(a) == 2 * len(CLASSES)
        for metric in ("dice", "iou"):
            ours, theirs = (results(folder)[split][metric] for folder in folders)
            assert ours == pytest.approx(theirs, abs=0.01)
