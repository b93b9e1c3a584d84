"""Whole runs on pictures of several sizes: scored by pixels, chosen by mIoU; from the disk as from memory."""

import signal
import statistics
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import Command, curve, differing, events, lasting, load, refused, results, succeed, table
from natural import CLASSES, SIZES, picture, shapes, write_conf, write_shapes
from PIL import Image

from ssl4seg.data.formats import read_mask
from ssl4seg.keys import IGNORE
from ssl4seg.scoring.metrics import confusion

LONG = ("iterations=40", "eval_every=10", "method=mean_teacher", "labeled_ratio=0.5")
RUN = Path("outputs/shapes/mean_teacher/unet-0.5-s0")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the pictures and a configuration of them."""
    folder = tmp_path_factory.mktemp("natural")
    write_shapes(folder / "shapes")
    return folder


@pytest.fixture(scope="module")
def keys(home: Path) -> tuple[str, ...]:
    return write_conf(home / "mine", home / "shapes")


@pytest.fixture(scope="module")
def memory(home: Path, keys: tuple[str, ...]) -> tuple[Path, str]:
    """A finished run whose pictures live in memory, and what it printed."""
    output = succeed("train", *keys, *LONG, cwd=home)
    return home / RUN, output


# -- statistics -------------------------------------------------------------------------------------------------------


def test_automatic_statistics_are_numpys_over_all_training_pixels(home):
    pixels = np.concatenate([picture(i, SIZES[i % 4])[0].reshape(-1, 3) for i in range(8)]) / 255
    found = shapes(home / "shapes").statistics()
    np.testing.assert_allclose(found.mean, pixels.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(found.std, pixels.std(axis=0), rtol=1e-9)


def test_statistics_are_the_numbers_that_are_set_or_none(home):
    given = shapes(home / "shapes", mean=[0.1, 0.2, 0.3], std=[1, 2, 3]).statistics()
    assert given == ([0.1, 0.2, 0.3], [1, 2, 3])
    assert shapes(home / "shapes", mean=None, std=None).statistics() is None


# -- what a run leaves behind -----------------------------------------------------------------------------------------


def test_the_best_model_is_chosen_by_the_iou_of_the_foreground_and_tested_on_val(memory):
    run, output = memory
    found, best = results(run), load(run / "best.pt")
    iou = curve(run, "val/iou/foreground_mean")
    assert found["selected_by"] == {"split": "val", "metric": "iou", "class": "foreground_mean"}
    assert found["tested_on"] == "val"
    assert found["val"]["iou"]["foreground_mean"] == pytest.approx(max(iou.values()))
    assert best["step"] == found["best_step"] == max(iou, key=lambda step: (iou[step], -step))
    assert found["test"] == found["val"]
    means = (100 * found["val"]["iou"][name] for name in ("foreground_mean", "mean"))
    assert "val foreground IoU {:.2f} %, mIoU {:.2f} % (best)".format(*means) in output
    assert "foreground mean" in output  # below the classes in the table
    assert "4 of 8 images" in output


def test_the_scores_are_those_of_the_predicted_masks(home, memory):
    run, _ = memory
    succeed(
        "predict", f"run={run}", f"input={home / 'shapes/val'}", "output=out", "precision=32", "trust=true", cwd=run
    )
    total = np.zeros((3, 3), int)
    for number in (100, 101, 102):
        mask = read_mask(run / f"out/p{number}.png")
        total += confusion(mask[None], picture(number, SIZES[number % 4])[1][None], 3)
    iou = total.diagonal() / (total.sum(axis=0) + total.sum(axis=1) - total.diagonal())
    found = results(run)["test"]
    assert [found["iou"][name] for name in CLASSES] == pytest.approx(iou)
    assert found["iou"]["mean"] == found["miou"] == pytest.approx(iou.mean())
    assert found["iou"]["foreground_mean"] == pytest.approx(iou[1:].mean())
    assert found["pixel_accuracy"] == pytest.approx(total.diagonal().sum() / total.sum())


def test_tensorboard_has_the_scores_of_pixels(memory):
    tags = set(events(memory[0]).Tags()["scalars"])
    for split in ("val", "test"):
        assert {f"{split}/miou", f"{split}/pixel_accuracy", f"{split}/mean_accuracy"} <= tags
        assert {f"{split}/{metric}/{name}" for metric in ("iou", "dice") for name in CLASSES} <= tags
    assert not [tag for tag in tags if "hd95" in tag or "asd" in tag]
    assert list(curve(memory[0], "val/iou/disc")) == [10, 20, 30, 40]


def test_case_tables_add_up_to_the_results(memory):
    rows = table(memory[0] / "cases_val.csv")
    found = results(memory[0])["val"]["iou"]
    for name in CLASSES:
        true, predicted, right = (
            sum(int(row[f"{kind}_pixels"]) for row in rows if row["class"] == name)
            for kind in ("true", "predicted", "right")
        )
        assert right / (true + predicted - right) == pytest.approx(found[name])


def test_the_checkpoint_holds_what_the_input_is_standardised_by(home, memory):
    statistics_ = shapes(home / "shapes").statistics()
    state = load(memory[0] / "best.pt")["method"]
    for key, values in zip(("mean", "std"), statistics_, strict=True):
        assert state[f"student.{key}"].flatten().tolist() == pytest.approx(values)


def test_evaluation_takes_the_stored_numbers_not_those_of_other_data(home, keys, memory, tmp_path):
    data = write_shapes(tmp_path / "dark")
    for file in (data / "train").glob("p???.png"):  # other statistics, same val
        Image.fromarray(np.asarray(Image.open(file)) // 4).save(file)
    arguments = (f"run={memory[0]}", f"dataset.root={data}", "split=val", "output=again")
    succeed("eval", *arguments, "device=cpu", "num_threads=1", "trust=true", cwd=tmp_path)
    assert results(tmp_path / "again", "results_val.json")["val"] == results(memory[0])["val"]
    weights = (f"network.weights={memory[0] / 'best.pt'}", f"dataset.root={data}", "split=val", "output=bare")
    succeed("eval", *[key for key in keys if not key.startswith("engine")], *weights, cwd=tmp_path)
    assert results(tmp_path / "bare", "results_val.json")["val"] == results(memory[0])["val"]


def test_distances_are_measured_where_they_are_asked_for(memory, tmp_path):
    arguments = (f"run={memory[0]}", "split=val", "metrics.distances=true", "output=far", "device=cpu")
    assert "HD95 voxel" in succeed("eval", *arguments, "trust=true", cwd=tmp_path)
    found = results(tmp_path / "far", "results_val.json")["val"]
    assert found["iou"] == results(memory[0])["val"]["iou"]
    assert list(found["hd95"]) == ["mean", "disc", "box"]
    assert found["hd95"]["mean"] == pytest.approx(statistics.fmean(found["hd95"][name] for name in ("disc", "box")))


def test_the_report_shows_miou_for_pixels(memory, home):
    output = succeed("report", "outputs", cwd=home)
    score = f"{100 * results(memory[0])['test']['miou']:.2f}"
    assert "mIoU" in output
    assert score in output


# -- from the disk ----------------------------------------------------------------------------------------------------

DISK = ("engine.resident_gib=0", "engine.num_workers=1")


def test_a_run_from_the_disk_is_the_run_from_memory_to_the_last_bit(home, keys):
    common = (*keys, "method=adv_semi_seg", "labeled_ratio=0.5", "engine.accumulate=2")  # with two phases
    for tag, more in (("memory", ()), ("disk", DISK)):
        output = succeed("train", *common, f"tag={tag}", *more, cwd=home)
        assert ("read from the disk" in output) == (tag == "disk")
    one, other = (home / f"outputs/shapes/adv_semi_seg/unet-0.5-s0-{tag}" for tag in ("memory", "disk"))
    assert not differing(load(one / "last.pt"), load(other / "last.pt"))
    assert {**lasting(one), "tag": ""} == {**lasting(other), "tag": ""}


def test_a_run_from_the_disk_that_is_stopped_goes_on_to_the_same_weights(home, keys, memory):
    command = (*keys, *LONG, *DISK, "tag=stopped")
    run = home / RUN.with_name(f"{RUN.name}-stopped")
    at_work = Command.start("train", *command, cwd=home)
    at_work.wait_for(lambda: (run / "last.pt").exists())
    code, output = at_work.send(signal.SIGINT)
    assert code == 130, output
    assert output.count("stopping after this step") == 1  # told by the run, not by its workers
    assert 0 < torch.load(run / "last.pt", weights_only=True)["step"] < 40
    assert "going on from step" in succeed("train", *command, cwd=home)
    assert not differing(load(run / "last.pt"), load(memory[0] / "last.pt"))


def test_a_damaged_picture_ends_a_run_from_the_disk_with_its_name(keys, tmp_path):
    data = write_shapes(tmp_path / "shapes", train=4)
    file = data / "train/p002_mask.png"
    file.write_bytes(file.read_bytes()[:60])
    output = refused("train", *keys, *DISK, f"dataset.root={data}", "labeled_ratio=1", cwd=tmp_path)
    assert f"error: {file}: cannot be read as a picture" in output


def test_a_mask_with_an_unknown_class_is_refused_in_a_run_from_the_disk(keys, tmp_path):
    data = write_shapes(tmp_path / "shapes", train=4)
    Image.fromarray(np.full(SIZES[1], 77, np.uint8)).save(data / "train/p001_mask.png")
    output = refused("train", *keys, *DISK, f"dataset.root={data}", "labeled_ratio=1", cwd=tmp_path)
    assert "error: p001: label values [77]" in output
    assert not list(tmp_path.rglob("config.yaml"))  # before the first step, as the classes are looked for


def test_ignored_pixels_are_in_the_pictures():
    assert (picture(0, SIZES[0])[1] == IGNORE).sum() > 20
