"""Runs of volumes: on three datasets, with eval, predictions in the input's own axes, TensorBoard and report; resumed,
streamed, in bfloat16, and in two processes."""

from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import torch
from bodies import affine_of
from helpers import (
    AVERAGING,
    MACHINE,
    PHANTOM,
    composed,
    differing,
    engine_in,
    events,
    go,
    load,
    refused,
    results,
    run_two,
    succeed,
    table,
)
from PIL import Image

SHAPE = (20, 24, 16)
SMALL = (*MACHINE, "network.channels=[4,8]", "network.dropout=[0,0]", "iterations=4", "eval_every=2", "batch_size=2")


def ball(number: int) -> tuple[np.ndarray, np.ndarray]:
    """An image and its mask, x y z."""
    rng = np.random.default_rng(number)
    at = np.indices(SHAPE) - rng.uniform(7, 9, 3)[:, None, None, None]
    mask = (np.sqrt((at**2).sum(axis=0)) < 5).astype(np.uint8)
    return (rng.normal(0, 0.1, SHAPE) + mask).astype(np.float32), mask


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve NIfTI volumes, stored z, x, y with x mirrored."""
    root = tmp_path_factory.mktemp("volumes") / "balls"
    affine = affine_of([(2, 3.0), (0, -1.0), (1, 1.0)], np.zeros(3))
    for number in range(12):
        for part, array in zip(("images", "masks"), ball(number), strict=True):
            (root / part).mkdir(parents=True, exist_ok=True)
            stored = array.transpose(2, 0, 1)[:, ::-1]
            nibabel.save(nibabel.Nifti1Image(stored, affine), root / part / f"c{number}.nii.gz")
    (root / "dataset.yaml").write_text("classes: [background, ball]\n")
    return root


def test_the_phantom_is_trained_on_in_three_axes(tmp_path: Path) -> None:
    succeed("train", *PHANTOM, "dataset.image_size=[32,32,8]", "method=mean_teacher", cwd=tmp_path)
    assert results(tmp_path / "outputs/phantom/mean_teacher/unet-0.1-s0")["status"] == "finished"


@pytest.fixture(scope="module")
def trained(root: Path) -> tuple[Path, str]:
    """A run on patches of the folder, and what it printed."""
    words = ("dataset=folder", f"dataset.root={root}", "dataset.image_size=[16,16,16]", "labeled_ratio=0.5")
    views = ("views=volumes", "inference=volumes", "views.weak.foreground=0.5", "method=uamt")
    output = succeed("train", *SMALL, *words, *views, cwd=root.parent)
    return root.parent / "outputs/balls/uamt/unet-0.5-s0", output


def test_a_run_on_patches_of_a_folder_says_what_it_trains_on_and_scores_in_mm(trained: tuple[Path, str]) -> None:
    run, output = trained
    assert "of 8 volumes" in output or "of 9 volumes" in output
    assert results(run)["test"]["distance_unit"] == "mm"


def test_eval_repeats_the_scores_and_predict_writes_in_the_inputs_own_axes(
    trained: tuple[Path, str], root: Path, tmp_path: Path
) -> None:
    run, _ = trained
    succeed("eval", f"run={run}", "split=val", "device=cpu", "output=out", cwd=tmp_path)
    assert results(tmp_path / "out", "results_val.json")["val"]["dice"] == results(run)["val"]["dice"]
    image = root / "images/c0.nii.gz"
    succeed("predict", f"run={run}", f"input={image}", "output=masks", "overlay=true", "device=cpu", cwd=tmp_path)
    found, given = (nibabel.load(file) for file in (tmp_path / "masks/c0.nii.gz", image))
    assert found.shape == given.shape == (16, 20, 24)
    assert np.array_equal(found.affine, given.affine)
    assert (tmp_path / "masks/c0_overlay.png").exists()


def test_protocol_la_has_its_own_windows_whatever_the_inference_and_keeps_the_post_processing(
    trained: tuple[Path, str], tmp_path: Path
) -> None:
    """Uniform windows at the given stride, softmax averaged, at one scale; in voxels, zero for empty masks."""
    checkpoint = torch.load(trained[0] / "best.pt", weights_only=True)
    checkpoint["method"]["student.head.1.bias"][1] -= 0.5  # else four steps have taught that everything is the ball
    torch.save(checkpoint, tmp_path / "other.pt")
    words = (f"run={trained[0]}", "split=val", f"checkpoint={tmp_path / 'other.pt'}", "device=cpu")
    both = (*words, "inference.stride=[8,8,4]", "postprocess=largest_component")
    dropped = ("inference.scales=[0.5,1]", "inference.weights=gaussian", "inference.average=logits")
    succeed("eval", *both, "protocol=la", *dropped, "output=la", cwd=tmp_path)
    succeed("eval", *both, "metrics.unit=voxel", "metrics.empty=zero", "output=default", cwd=tmp_path)
    la, default = (results(tmp_path / name, "results_val.json") for name in ("la", "default"))
    assert (la["protocol"], la["empty"], la["val"]["distance_unit"]) == ("la", "zero", "voxel")
    for scores in ("val", "val_without_postprocess"):
        assert la[scores] == default[scores]
    assert la["val"]["dice"]["ball"] > la["val_without_postprocess"]["dice"]["ball"] > 0.15


def test_a_picture_is_no_volume_for_a_prediction_either(trained: tuple[Path, str], tmp_path: Path) -> None:
    Image.fromarray(np.zeros((20, 24), np.uint8)).save(tmp_path / "a.png")
    words = (f"run={trained[0]}", "input=a.png", "output=masks", "device=cpu")
    assert "a.png: is 24 x 20 x 1 and so no volume" in refused("predict", *words, cwd=tmp_path)


def test_tensorboard_shows_three_planes_bare_and_with_truth_and_prediction(trained: tuple[Path, str]) -> None:
    accumulator = events(trained[0])
    assert {"train/consistency", "val/dice/mean", "pseudo/coverage"} <= set(accumulator.Tags()["scalars"])
    overlays = [tag for tag in accumulator.Tags()["images"] if tag.startswith("val/overlay/")]
    assert overlays
    x, y, z = SHAPE
    enlarged = [-(-256 // min(sides)) for sides in ((x, y), (x, z), (y, z))]
    height = y * enlarged[0] + 3 * z * enlarged[1] + 3 * z * enlarged[2]  # slices are 3 mm apart, rows and columns 1
    for picture in accumulator.Images(overlays[0]):
        assert picture.step in (2, 4)
        assert picture.height == height
        assert picture.width == 3 * max(x * enlarged[0], x * enlarged[1], y * enlarged[2])


def test_the_report_of_volumes_has_a_table_and_pictures_of_patients(trained: tuple[Path, str], tmp_path: Path) -> None:
    shown = succeed("report", trained[0].parents[2], "--output", tmp_path / "report", "--pictures", cwd=tmp_path)
    assert "left out: pictures" not in shown
    assert "uamt" in (tmp_path / "report/report.md").read_text()
    (file,) = (tmp_path / "report/figures").glob("*-pictures.png")
    assert Image.open(file).width > 500


def write_la(root: Path) -> None:
    names = [f"case{number:02d}" for number in range(8)]
    for number, name in enumerate(names):
        place = root / "2018LA_Seg_Training Set" / name
        place.mkdir(parents=True)
        with h5py.File(place / "mri_norm2.h5", "w") as file:
            file["image"], file["label"] = ball(number)
    (root / "train.list").write_text("\n".join(names[:6]) + "\n")
    (root / "test.list").write_text("\n".join(names[6:]) + "\n")


@pytest.fixture(scope="module")
def la(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """The words of a run on LA, which trains on four cases, two of them labelled."""
    root = tmp_path_factory.mktemp("la") / "LA"
    write_la(root)
    words = ("dataset=la", f"dataset.root={root}", "dataset.val_cases=2", "dataset.image_size=[16,16,16]")
    return (*SMALL, *words, "network=unet", "labeled_cases=2")


def la_words(home: Path) -> tuple[str, ...]:
    words = ("dataset=la", f"dataset.root={home / 'LA'}", "dataset.image_size=[16,16,16]")
    return (*words, "network=unet", "labeled_cases=2")


def test_a_patch_longer_than_every_case_is_refused_and_leaves_no_run(la: tuple[str, ...], tmp_path: Path) -> None:
    output = refused("train", *la, "dataset.image_size=[32,32,32]", cwd=tmp_path)
    assert "dataset.image_size=[32,32,32]: this patch is longer along every axis" in output
    assert "of which the longest axes have [20,24,16] pixels" in output
    assert "give dataset.image_size=[16,24,16]" in output
    assert not (tmp_path / "outputs/la").exists()


def test_la_holds_out_the_last_training_cases_as_val_and_says_so(la: tuple[str, ...], tmp_path: Path) -> None:
    output = succeed("train", *la, cwd=tmp_path)
    assert "labelled: 2 of 4 cases" in output
    assert "val: the last 2 cases of train.list, which are not trained on (dataset.val_cases)" in output
    assert results(tmp_path / "outputs/la/supervised/unet-2cases-s0")["test"]["num_cases"] == 2


def taken(la: tuple[str, ...], path: Path, *words: str, stops: tuple[int, ...] = (4,)) -> dict[str, object]:
    """last.pt of a run of UA-MT that was stopped and resumed at `stops`."""
    for stop in stops:
        go(engine_in(path, composed(*la, "method=uamt", AVERAGING, *words)), stop)
    return load(path / "last.pt")


def test_volumes_resumed_or_streamed_end_to_the_last_bit_alike_and_in_bfloat16_nearly(
    la: tuple[str, ...], tmp_path: Path
) -> None:
    unbroken = taken(la, tmp_path / "unbroken")
    assert not differing(unbroken, taken(la, tmp_path / "resumed", stops=(1, 3, 4)))
    streamed = taken(la, tmp_path / "streamed", "engine.resident_gib=0", "engine.num_workers=0")
    assert not differing(unbroken["method"], streamed["method"])
    rounded = taken(la, tmp_path / "rounded", "precision=bf16-mixed")
    a, b = (torch.cat([value.flatten() for value in each["method"].values()]) for each in (unbroken, rounded))
    assert 0 < (a - b).norm() < 0.01 * a.norm()


def test_two_processes_take_the_steps_of_one_with_twice_the_volumes(la: tuple[str, ...], tmp_path: Path) -> None:
    """The U-Net of volumes has no batch statistics, which would differ."""
    words = ("method=uamt", "method.noise=0", AVERAGING)
    for done in run_two("train", *la, *words, "batch_size=1", "tag=two", "engine.devices=2", cwd=tmp_path):
        assert done.code == 0, done.output
    succeed("train", *la, *words, "batch_size=2", "tag=one", cwd=tmp_path)
    two, one = (tmp_path / f"outputs/la/uamt/unet-2cases-s0-{tag}" for tag in ("two", "one"))
    a, b = (load(folder / "last.pt")["method"] for folder in (two, one))
    for name in a:
        assert (a[name] - b[name]).norm() <= 1e-5 * b[name].norm(), name
    assert results(two)["test"]["num_cases"] == results(one)["test"]["num_cases"] == 2
    assert results(two)["test"]["dice"]["mean"] == pytest.approx(results(one)["test"]["dice"]["mean"], abs=0.01)


def test_la_without_val_takes_the_last_model_of_all_training_cases(tmp_path: Path) -> None:
    write_la(tmp_path / "LA")
    words = (*SMALL, *la_words(tmp_path), "dataset.val_cases=0", "method=mean_teacher")
    output = refused("train", *words, cwd=tmp_path)
    assert "select=auto: val has no case that could choose the best model; set select=last" in output
    assert not (tmp_path / "outputs/la").exists()
    output = succeed("train", *words, "select=last", cwd=tmp_path)
    assert "labelled: 2 of 6 cases" in output
    assert "step 4: saved" in output
    assert "nan" not in output
    run = tmp_path / "outputs/la/mean_teacher/unet-2cases-s0"
    found = results(run)
    assert (found["selected"], found["best_step"], found["val"]["num_cases"]) == ("last", 4, 0)
    assert found["val"]["dice"]["mean"] is None
    assert table(run / "cases_val.csv") == []
    assert "is finished" in succeed("train", *words, "select=last", cwd=tmp_path)
    assert "split=val: the dataset has no case there" in refused(
        "eval", f"run={run}", "split=val", "device=cpu", cwd=tmp_path
    )
    succeed("report", run, "--no-figures", cwd=tmp_path)
    assert "selected: last" in (run / "report.md").read_text()
