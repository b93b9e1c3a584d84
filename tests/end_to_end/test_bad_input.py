"""Whatever is wrong is named, before training, without a traceback and with a non-zero exit status."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from folders import write_root
from helpers import MACHINE, PHANTOM, SHORT, SMALL, acdc, leaves, load, refused, results, succeed, write_h5


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_h5(tmp_path_factory.mktemp("whole") / "ACDC")


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    """A copy of a good dataset, to be spoilt."""
    return shutil.copytree(whole, tmp_path / "ACDC")


def assert_nothing_trained(home: Path) -> None:
    """Nor is a run folder left."""
    assert not list(home.rglob("*.pt"))
    assert not [path for path in home.rglob("outputs/*") if path.name != "multirun.yaml"]


# -- data -------------------------------------------------------------------------------------------------------------


def rewritten(path: Path, array: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    with h5py.File(path, "r+") as file:
        changed = change(file[array][()])
        del file[array]
        file[array] = changed


def with_nan(image: np.ndarray) -> np.ndarray:
    image[1, 2, 3] = np.nan
    return image


SPOILT = {
    "image and label of different shape": (
        lambda path: rewritten(path, "label", lambda y: y[:, 1:]),
        "differ in shape",
    ),
    "label value outside the classes": (lambda path: rewritten(path, "label", lambda y: y * 2), "label values [4, 6]"),
    "label value that no class can have": (
        lambda path: rewritten(path, "label", lambda y: y.astype(int) - 1),
        "label values from -1",
    ),
    "NaN image": (lambda path: rewritten(path, "image", with_nan), "1 NaN"),
    "image of two dimensions": (lambda path: rewritten(path, "image", lambda x: x[0]), "has shape (40, 48)"),
    "truncated h5": (lambda path: path.write_bytes(path.read_bytes()[:3000]), "perhaps truncated"),
    "empty file": (lambda path: path.write_bytes(b""), "perhaps truncated"),
    "no image in it": (lambda path: h5py.File(path, "w").close(), "has no array 'image'"),
}


@pytest.mark.parametrize("number", [1, 4, 5], ids=["train", "val", "test"])
@pytest.mark.parametrize("fault", SPOILT)
def test_a_spoilt_volume_is_named_with_its_fault(root: Path, number: int, fault: str) -> None:
    spoil, named = SPOILT[fault]
    path = root / f"data/patient{number:03d}_frame02.h5"
    spoil(path)
    output = refused("train", *acdc(root), "method=uamt", "labeled_cases=1", cwd=root.parent)
    assert path.stem in output
    assert named in output
    assert_nothing_trained(root.parent)


@pytest.mark.parametrize("number", [4, 5], ids=["val", "test"])
def test_a_held_out_case_without_mask_is_named(root: Path, number: int) -> None:
    with h5py.File(root / f"data/patient{number:03d}_frame02.h5", "r+") as file:
        del file["label"]
    assert f"patient{number:03d}_frame02: has no mask" in refused("train", *acdc(root), cwd=root.parent)
    assert_nothing_trained(root.parent)


def test_no_labelled_case_is_said(root: Path) -> None:
    for number in (1, 2, 3):
        for path in (root / "data").glob(f"patient{number:03d}_*"):
            with h5py.File(path, "r+") as file:
                del file["label"]
    assert "no labelled case" in refused("train", *acdc(root), "method=uamt", cwd=root.parent)
    assert_nothing_trained(root.parent)


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["dataset.root=nowhere"], ["dataset.root=nowhere", "no such folder"]),
        (["dataset.root=empty"], ["dataset.root=empty", "holds no data/"]),
        (["dataset.root=null"], ["dataset.root is not set"]),
        (["dataset.patients.train=[1,2,77]"], ["1 of the 3 train patients", "patient077"]),
        (["dataset.patients.train=[1,2,5]"], ["patient005 is in both train and test"]),
        (["labeled_cases=1", "dataset.num_classes=3"], ["dataset.num_classes is 3", "names 4"]),
        (["labeled_list=none.txt"], ["labeled_list=none.txt"]),
        (["labeled_list=list.txt"], ["labeled_list=list.txt", "patient900_frame01"]),
        (["labeled_cases=4"], ["labeled_cases=4", "1 to 3"]),
        (["metrics.unit=mm"], ["metrics.unit=mm"]),
        (["dataset.normalize=z-score"], ["dataset.normalize=z-score"]),
    ],
    ids=lambda value: value[0],
)
def test_a_wrong_setting_of_the_data_is_named(root: Path, overrides: list[str], named: list[str]) -> None:
    (root.parent / "empty").mkdir()
    (root.parent / "list.txt").write_text("patient900_frame01\n")
    output = refused("train", *acdc(root), *overrides, cwd=root.parent)
    assert all(word in output for word in named)
    assert_nothing_trained(root.parent)


def test_training_and_prediction_walk_alike_and_no_fifo_hangs_them(finished: Path, tmp_path: Path) -> None:
    mine = write_root(tmp_path / "mine")
    folder = (*MACHINE, *SMALL, *SHORT, "dataset=folder", f"dataset.root={mine}")
    (mine / "linked").mkdir()
    (mine / "linked/c.png").symlink_to(mine / "images/p0_a.png")
    (mine / "images/more").symlink_to(mine / "linked")
    os.mkfifo(mine / "images/p0_fifo.png")
    (mine / "images/p0_c.webp").touch()
    assert "images/p0_fifo.png: is a FIFO; only regular files are read" in refused("train", *folder, cwd=tmp_path)
    predicted = (f"run={finished}", f"input={mine / 'images'}", "output=out", "device=cpu")
    output = refused("predict", *predicted, cwd=tmp_path)
    assert "1 of 14 inputs could not be predicted:" in output
    assert "p0_fifo.png: is a FIFO" in output
    assert "1 file is not read: 1 .webp, as p0_c.webp (convert to PNG)" in output
    assert (tmp_path / "out/more/c.png").is_file()
    assert len(list((tmp_path / "out").rglob("*.png"))) == 13
    assert_nothing_trained(tmp_path / "outputs")


# -- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["labeled_ratio=0"], ["labeled_ratio=0", "(0, 1]"]),
        (["labeled_ratio=1.5"], ["labeled_ratio=1.5", "(0, 1]"]),
        (["labeled_ratio=-0.1"], ["labeled_ratio=-0.1", "(0, 1]"]),
        (["labeled_ratio=nan"], ["labeled_ratio=nan", "(0, 1]"]),
        (["method=uamt", "labeled_ratio=1"], ["method=uamt needs unlabelled cases"]),
        (["method=nonesuch"], ["method=nonesuch", "supervised", "uamt"]),
        (["iterations=0"], ["iterations=0"]),
        (["batch_size=2.5"], ["batch_size=2.5", "whole number"]),
        (["seed=-1"], ["seed=-1"]),
        (["device=tpu"], ["device=tpu", "cuda"]),
        (["precision=8"], ["precision=8", "bf16-mixed"]),
        (["precision=16-mixed"], ["precision=16-mixed", "GPU"]),
        (["optimizer.lr=-1"], ["optimizer.lr=-1", "expected a number of at least 0"]),
        (["method=s4l", "passes=apart"], ["passes=apart", "method=s4l", "leave passes=auto"]),
        (["engine.accumulate=0"], ["engine.accumulate=0"]),
        (["engine.clip_norm=-1"], ["engine.clip_norm=-1"]),
        (["schedule.power=0"], ["schedule.power=0"]),
        (["supervised_loss.dice=-1"], ["supervised_loss.dice=-1"]),
        (["supervised_loss.dice=0", "supervised_loss.cross_entropy=0"], ["supervised_loss.dice=0"]),
        (["supervised_loss=hard_pixels", "supervised_loss.threshold=0"], ["supervised_loss.threshold=0"]),
        (["method=mean_teacher", "method.ema_decay=1"], ["method.ema_decay=1"]),
        (["network.channels=[4]"], ["network.channels=[4]"]),
        (["views.weak.max_angle=900"], ["views.weak.max_angle=900"]),
        (["metrics.empty=some"], ["metrics.empty=some", "worst"]),
        (["dataset.image_size=4"], ["dataset.image_size=4"]),
    ],
    ids=lambda value: ",".join(value),
)
def test_a_wrong_setting_is_named_with_what_was_expected(
    tmp_path: Path, overrides: list[str], named: list[str]
) -> None:
    output = refused("train", *PHANTOM, *overrides, cwd=tmp_path)
    assert all(word in output for word in named), output
    assert_nothing_trained(tmp_path)


# -- checkpoints ------------------------------------------------------------------------------------------------------


class Malicious:
    """What runs code when it is unpickled."""

    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("was-run"),))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("finished")
    succeed("train", *PHANTOM, cwd=home)
    return home / "outputs/phantom/supervised/unet-0.1-s0"


def checkpoint(kind: str, folder: Path, finished: Path) -> Path:
    path = folder / "given.pt"
    if kind == "pickled code":
        torch.save({"conv.weight": Malicious()}, path)
    elif kind == "old pickle":
        torch.save({"conv.weight": Malicious()}, path, _use_new_zipfile_serialization=False)
    elif kind == "text":
        path.write_text("no checkpoint")
    elif kind == "junk":
        path.write_bytes(b"\x80\x02junk")
    elif kind == "truncated":
        path.write_bytes((finished / "best.pt").read_bytes()[:2000])
    elif kind == "tensor":
        torch.save(torch.ones(3), path)
    elif kind == "other network":
        shutil.copy(finished / "best.pt", path)
    return path


CHECKPOINTS = {
    "pickled code": "holds pickled code or objects",
    "old pickle": "holds pickled code or objects",
    "text": "is not a checkpoint, or is damaged",
    "junk": "is not a checkpoint, or is damaged",
    "truncated": "is not a checkpoint, or is damaged",
    "tensor": "holds a Tensor",
    "missing": "there is no such file",
    "other network": "is a checkpoint of another network",
}


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_training_refuses_a_checkpoint_that_does_not_fit(kind: str, finished: Path, tmp_path: Path) -> None:
    path = checkpoint(kind, tmp_path, finished)
    keys = (f"network.weights={path}", "network.channels=[4,8,8]", "network.dropout=[0,0,0]")
    output = refused("train", *PHANTOM, *keys, cwd=tmp_path)
    assert f"{path}: {CHECKPOINTS[kind]}" in output
    assert not (tmp_path / "was-run").exists()
    assert_nothing_trained(tmp_path / "outputs")


def test_the_pickled_code_would_have_run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.load(checkpoint("pickled code", tmp_path, finished), weights_only=False)
    assert (tmp_path / "was-run").exists()


@pytest.mark.parametrize("command", ["eval", "predict"])
@pytest.mark.parametrize("kind", ["pickled code", "truncated"])
def test_eval_and_predict_refuse_a_checkpoint_that_could_harm(
    command: str, kind: str, finished: Path, tmp_path: Path, whole: Path
) -> None:
    path = checkpoint(kind, tmp_path, finished)
    more = ("output=out",) if command == "eval" else ("output=out", f"input={whole}")
    output = refused(command, f"run={finished}", f"checkpoint={path}", "device=cpu", *more, cwd=tmp_path)
    assert f"{path}: {CHECKPOINTS[kind]}" in output
    assert not (tmp_path / "was-run").exists()


# -- the machine ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "place",
    [("train", "hydra.run.dir=file/run"), ("train", "-m", "hydra.sweep.dir=file/run"), ("eval", "output=file/run")],
)
def test_a_folder_that_cannot_be_written_is_named(place: tuple[str, ...], finished: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("where a folder should be")
    keys = PHANTOM if place[0] == "train" else (f"run={finished}", "device=cpu")
    output = refused(*place, *keys, cwd=tmp_path)
    assert "file/run" in output
    assert "cannot be written" in output


SHORT_OF_MEMORY = """
import importlib, re, resource, sys
from pathlib import Path
from helpers import MODULES

def main():
    taken = int(re.search(r"VmSize:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
    resource.setrlimit(resource.RLIMIT_AS, ((taken << 10) + (2 << 30),) * 2)
    importlib.import_module(MODULES[sys.argv.pop(1)]).main()
"""


def short_of_memory(name: str, *words: object, cwd: Path) -> str:
    """What a command says that has 2 GiB of addresses left; it must fail."""
    (cwd / "short_of_memory.py").write_text(SHORT_OF_MEMORY)
    return refused("short_of_memory", name, *words, cwd=cwd, env={"PYTHONPATH": str(cwd)})


def test_running_out_of_memory_says_which_keys_to_turn(tmp_path: Path) -> None:
    output = short_of_memory("train", *PHANTOM, "dataset.image_size=4096", cwd=tmp_path)
    assert "out of memory" in output
    assert all(key in output for key in ("batch_size", "dataset.image_size", "engine.accumulate"))
    assert not list(tmp_path.rglob("*.pt"))


def test_so_it_does_in_eval_and_predict(finished: Path, whole: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    config = (run / "config.yaml").read_text().split("\n", 1)[1]  # without its sum, as it is edited
    (run / "config.yaml").write_text(config.replace("image_size: 32", "image_size: 8192"))
    image = whole / "data/patient001_frame01.h5"
    for command, *keys in (("eval", "split=val"), ("predict", f"input={image}", "output=out")):
        output = short_of_memory(command, f"run={run}", "device=cpu", *keys, cwd=tmp_path)
        assert "out of memory" in output
        assert "eval_batch_size" in output


@pytest.mark.parametrize(
    ("lr", "what"), [("1e30", "the loss"), ("1e6", "a weight")], ids=["loss", "weights overflow before the loss"]
)
def test_a_run_that_diverges_stops_and_keeps_the_last_good_checkpoint(tmp_path: Path, lr: str, what: str) -> None:
    keys = (*PHANTOM, f"optimizer.lr={lr}", "iterations=50", "eval_every=1")
    output = refused("train", *keys, cwd=tmp_path)
    folder = tmp_path / "outputs/phantom/supervised/unet-0.1-s0"
    last = load(folder / "last.pt")
    assert f"{what} became NaN or infinite at step {last['step'] + 1} of 50" in output
    assert f"{folder / 'last.pt'} is the last good checkpoint" in output
    assert "optimizer.lr" in output
    assert all(value.isfinite().all() for _, value in leaves(last["method"]))
    assert results(folder)["status"] == "failed"
    assert f"ERROR {what} became NaN or infinite" in (folder / "train.log").read_text()
    assert output.count("became NaN or infinite") == 1
    succeed("eval", f"run={folder}", "checkpoint=last", "device=cpu", "output=out", cwd=tmp_path)
