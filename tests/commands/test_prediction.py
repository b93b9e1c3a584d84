"""ssl4seg-eval and ssl4seg-predict: a finished run, onto its own cases and onto files of every kind."""

import json
import shutil
from pathlib import Path

import bodies
import h5py
import nibabel
import numpy as np
import pytest
import tifffile
import torch
import yaml
from helpers import (
    AVERAGING,
    CLASSES,
    MACHINE,
    SHAPE,
    SMALL,
    acdc,
    composed,
    lasting,
    load,
    pixels,
    refused,
    results,
    run,
    script,
    shell,
    succeed,
    table,
    write_h5,
)
from PIL import Image
from pycocotools.coco import COCO

from ssl4seg.commands.prediction import inputs_of, masks_to_write
from ssl4seg.errors import UserError
from ssl4seg.scoring.metrics import score_classes
from ssl4seg.scoring.pictures import captioned, fullest, legend, palette

FIVE = "patient005_frame01"
"""A test case."""


def truth(frame: int = 1) -> np.ndarray:
    return pixels(5, frame)[1]


def evaluated(acdc_run: Path, output: Path, split: str, *overrides: object) -> dict:
    """results_<split>.json of an evaluation of the run, without its times."""
    succeed("eval", f"run={acdc_run}", f"split={split}", f"output={output}", *MACHINE, *overrides, cwd=acdc_run.parent)
    return lasting(output, f"results_{split}.json")


# -- ssl4seg-eval -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["val", "test"])
def test_eval_reproduces_the_figures_of_the_run(acdc_run: Path, tmp_path: Path, split: str) -> None:
    figures = results(acdc_run)[split]
    assert 0.5 < figures["dice"]["mean"] < 1
    nothing = ["postprocess=[]"] if split == "val" else []  # what is none in another word
    assert evaluated(acdc_run, tmp_path, split, *nothing)[split] == figures
    assert table(tmp_path / f"cases_{split}.csv") == table(acdc_run / f"cases_{split}.csv")


def test_eval_does_not_need_the_file_that_the_run_started_from(acdc_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(acdc_run, run)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["network"]["weights"] = str(tmp_path / "gone.pt")
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert evaluated(run, tmp_path / "out", "test")["test"] == results(acdc_run)["test"]


def test_eval_writes_into_the_run_and_prints_the_table(acdc_run: Path) -> None:
    before = {path.name: path.read_bytes() for path in acdc_run.iterdir() if path.is_file()}
    code, output = shell(script("eval"), f"run={acdc_run}", *MACHINE, cwd=acdc_run.parent)
    assert code == 0, output
    assert all(word in output for word in (*CLASSES, "mean", "Dice %"))
    assert results(acdc_run, "results_test.json")["test"] == results(acdc_run)["test"]
    for name, content in before.items():
        assert (acdc_run / name).read_bytes() == content


def test_eval_takes_the_last_checkpoint_or_a_file(prepared: Path, acdc_run: Path, tmp_path: Path) -> None:
    run_folder = tmp_path / "run"
    shutil.copytree(acdc_run, run_folder)
    short = (*acdc(prepared), "iterations=2", "labeled_ratio=1", "optimizer.lr=0.05")
    succeed("train", *short, cwd=tmp_path)
    fresh = tmp_path / "outputs/acdc/supervised/unet-1-s0"
    shutil.copy(fresh / "last.pt", run_folder / "last.pt")
    figures = results(fresh)["val"]
    assert figures != results(acdc_run)["val"]
    for checkpoint in ("last", fresh / "best.pt"):
        assert evaluated(run_folder, tmp_path / "out", "val", f"checkpoint={checkpoint}")["val"] == figures


def test_eval_needs_no_run_where_a_file_holds_the_weights(prepared: Path, acdc_run: Path, tmp_path: Path) -> None:
    best = load(acdc_run / "best.pt")
    bare = {name.removeprefix("student."): value for name, value in best["method"].items()}
    torch.save(bare, tmp_path / "bare.pth")
    torch.save({"state_dict": {f"module.{name}": value for name, value in bare.items()}}, tmp_path / "wrapped.pth")
    data = [key for key in acdc(prepared) if key.startswith(("dataset", "network"))]
    for weights in (acdc_run / "best.pt", tmp_path / "bare.pth", tmp_path / "wrapped.pth"):
        succeed("eval", f"network.weights={weights}", *MACHINE, *data, f"output={tmp_path}", cwd=tmp_path)
        assert results(tmp_path, "results_test.json")["test"] == results(acdc_run)["test"]


def test_eval_of_nothing_is_refused(tmp_path: Path) -> None:
    assert "run=DIR" in refused("eval", cwd=tmp_path)


def test_eval_by_the_literatures_protocol_measures_in_voxels(acdc_run: Path, tmp_path: Path) -> None:
    found = evaluated(acdc_run, tmp_path, "test", "protocol=ssl4mis")
    assert (found["protocol"], found["test"]["distance_unit"]) == ("ssl4mis", "voxel")
    assert 0.5 < found["test"]["dice"]["mean"] != results(acdc_run)["test"]["dice"]["mean"]


def test_eval_names_a_key_that_the_dataset_of_the_run_lacks(acdc_run: Path, tmp_path: Path) -> None:
    output = refused("eval", f"run={acdc_run}", "dataset.rot=elsewhere", *MACHINE, cwd=tmp_path)
    assert "dataset.rot" in output
    assert "root" in output


def test_eval_on_a_copy_without_spacing_measures_the_same_dice_in_voxels(acdc_run: Path, tmp_path: Path) -> None:
    root = write_h5(tmp_path / "ACDC")
    found = evaluated(acdc_run, tmp_path, "test", f"dataset.root={root}")["test"]
    assert found["distance_unit"] == "voxel"
    assert found["dice"] == pytest.approx(results(acdc_run)["test"]["dice"], abs=1e-3)
    assert found["hd95"]["mean"] < results(acdc_run)["test"]["hd95"]["mean"]
    output = refused("eval", f"run={acdc_run}", f"dataset.root={root}", "metrics.unit=mm", *MACHINE, cwd=tmp_path)
    assert "metrics.unit=mm" in output


# -- ssl4seg-predict --------------------------------------------------------------------------------------------------


def predicted(acdc_run: Path, source: Path, output: Path, *overrides: str) -> Path:
    succeed(
        "predict", f"run={acdc_run}", f"input={source}", f"output={output}", *MACHINE, *overrides, cwd=output.parent
    )
    return output


def nifti(challenge: Path, frame: int = 1) -> Path:
    return challenge / f"patient005/patient005_frame{frame:02d}.nii.gz"


def test_predicting_a_test_case_scores_what_its_row_in_the_run_says(
    acdc_run: Path, challenge: Path, tmp_path: Path
) -> None:
    predicted(acdc_run, nifti(challenge), tmp_path / "out")
    mask = np.asarray(nibabel.load(tmp_path / "out" / nifti(challenge).name).dataobj).transpose()
    rows = [row for row in table(acdc_run / "cases_test.csv") if row["case"] == FIVE]
    scores = score_classes(mask, truth(), 4, spacing=(10.0, 1.5, 1.25))
    for row, score in zip(rows, scores, strict=True):
        assert {metric: float(row[metric]) for metric in score} == pytest.approx(score, rel=1e-5)


def test_masks_are_predicted_by_the_inference_that_eval_scores(acdc_run: Path, challenge: Path, tmp_path: Path) -> None:
    keys = ("inference=sliding", "inference.window=24", "inference.scales=[0.5,1.0]", "inference.flip=true")
    evaluated(acdc_run, tmp_path / "eval", "test", *keys)
    predicted(acdc_run, nifti(challenge), tmp_path / "out", *keys, "postprocess=[]")
    mask = np.asarray(nibabel.load(tmp_path / "out" / nifti(challenge).name).dataobj).transpose()
    rows, usual = (
        [float(row["dice"]) for row in table(folder / "cases_test.csv") if row["case"] == FIVE]
        for folder in (tmp_path / "eval", acdc_run)
    )
    assert rows == pytest.approx([score["dice"] for score in score_classes(mask, truth(), 4)], rel=1e-5)
    assert rows != usual


def test_keys_of_inference_alone_change_that_of_the_run(acdc_run: Path, challenge: Path, tmp_path: Path) -> None:
    sliding = tmp_path / "run"
    shutil.copytree(acdc_run, sliding)
    config = yaml.safe_load((sliding / "config.yaml").read_text())
    config["inference"] = composed("inference=sliding")["inference"]
    (sliding / "config.yaml").write_text(yaml.safe_dump(config))
    one = predicted(sliding, nifti(challenge), tmp_path / "one", "inference.window=24", "inference.overlap=0")
    keys = ("inference=sliding", "inference.window=24", "inference.overlap=0")
    both = predicted(acdc_run, nifti(challenge), tmp_path / "both", *keys)
    assert (one / nifti(challenge).name).read_bytes() == (both / nifti(challenge).name).read_bytes()
    given = (f"run={acdc_run}", f"input={nifti(challenge)}", f"output={tmp_path / 'out'}", *MACHINE)
    told = refused("predict", *given, "inference.window=24", cwd=tmp_path)
    assert "there is no key 'inference.window' in the chosen inference, but in inference=sliding" in told
    assert "inference.scales=0.5: expected a list" in refused("predict", *given, "inference.scales=0.5", cwd=tmp_path)


def test_a_predicted_nifti_keeps_affine_header_and_shape(acdc_run: Path, challenge: Path, tmp_path: Path) -> None:
    predicted(acdc_run, nifti(challenge), tmp_path / "out")
    source, mask = (nibabel.load(path) for path in (nifti(challenge), tmp_path / "out" / nifti(challenge).name))
    assert mask.shape == source.shape == SHAPE[::-1]
    assert mask.get_data_dtype() == np.uint8
    assert np.array_equal(mask.affine, source.affine)
    kept = ("pixdim", "descrip", "xyzt_units", "sform_code", "qform_code", "srow_x", "quatern_b")
    assert all(np.array_equal(mask.header[key], source.header[key]) for key in kept)
    assert set(np.unique(mask.dataobj)) <= {0, 1, 2, 3}


@pytest.fixture
def inputs(challenge: Path, tmp_path: Path) -> Path:
    """The same case as NIfTI, h5 and, its middle slice, as pictures, in a folder with a subfolder."""
    folder, (image, _) = tmp_path / "in", pixels(5, 1)
    (folder / "deep").mkdir(parents=True)
    shutil.copy(nifti(challenge), folder / "deep/volume.nii.gz")
    with h5py.File(folder / "volume.h5", "w") as file:
        file["image"] = image
    with h5py.File(folder / "deep/slice.h5", "w") as file:
        file["image"] = image[1]
    grey = ((image[1] - image[1].min()) / np.ptp(image[1]) * 255).astype(np.uint8)
    Image.fromarray(grey).save(folder / "slice.png")
    Image.fromarray(grey).save(folder / "deep/photo.JPG", quality=95)
    (folder / "notes.txt").write_text("no image")
    return folder


def labels(path: Path) -> np.ndarray:
    if path.suffix == ".h5":
        with h5py.File(path) as file:
            return file["label"][()]
    return np.asarray(Image.open(path)) if path.suffix == ".png" else np.asarray(nibabel.load(path).dataobj).transpose()


def dice(mask: np.ndarray, label: np.ndarray) -> float:
    return float(
        np.mean([2 * ((mask == k) & (label == k)).sum() / ((mask == k).sum() + (label == k).sum()) for k in (1, 2, 3)])
    )


def test_a_folder_is_predicted_with_its_subfolders_in_every_kind_of_file(
    acdc_run: Path, inputs: Path, tmp_path: Path
) -> None:
    tifffile.imwrite(inputs / "deep/pages.tif", pixels(5, 1)[0], photometric="minisblack")
    out = predicted(acdc_run, inputs, tmp_path / "out")
    files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert files == {
        *("deep/volume.nii.gz", "volume.h5", "deep/slice.h5", "slice.png", "deep/photo.png", "deep/pages.tif")
    }
    volume = labels(out / "deep/volume.nii.gz")
    assert volume.shape == SHAPE
    assert np.array_equal(labels(out / "volume.h5"), volume)
    with tifffile.TiffFile(out / "deep/pages.tif") as file:
        assert (len(file.pages), file.pages[0].dtype) == (SHAPE[0], np.uint8)
        assert np.array_equal(file.asarray(), volume)
    for name in ("deep/slice.h5", "slice.png", "deep/photo.png"):
        assert labels(out / name).shape == SHAPE[1:]
        assert dice(labels(out / name), truth()[1]) > 0.5


def test_overlay_writes_a_picture_of_image_and_mask_beside_each(acdc_run: Path, inputs: Path, tmp_path: Path) -> None:
    out = predicted(acdc_run, inputs, tmp_path / "out", "overlay=true")
    overlays = {str(path.relative_to(out)) for path in out.rglob("*_overlay.png")}
    assert overlays == {
        f"{name}_overlay.png" for name in ("volume", "slice", "deep/volume", "deep/slice", "deep/photo")
    }
    picture = np.asarray(Image.open(out / "slice_overlay.png"))
    names = ("background", *CLASSES)
    strip = legend(names, palette().classes(labels(out / "slice.png")), palette(), 2 * 7 * SHAPE[2])
    assert np.array_equal(picture[7 * SHAPE[1] :], strip)
    picture = picture[: 7 * SHAPE[1]]
    assert picture.shape == (7 * SHAPE[1], 2 * 7 * SHAPE[2], 3)  # seven times as large: 280 x 336
    volume, at = np.asarray(Image.open(out / "volume_overlay.png")), fullest(labels(out / "volume.h5"), palette())
    assert np.array_equal(captioned(volume, f"slice {at + 1} of {SHAPE[0]}"), volume)  # it says so already
    painted = (picture[:, : 7 * SHAPE[2]] != picture[:, 7 * SHAPE[2] :]).any(axis=2)
    assert (painted[::7, ::7] == (labels(out / "slice.png") > 0)).mean() > 0.99


def test_probabilities_stand_beside_the_masks_which_leave_unsure_pixels_out(
    acdc_run: Path, inputs: Path, tmp_path: Path
) -> None:
    keys = ("probabilities=true", "min_confidence=0.9", "overlay=true")
    out = predicted(acdc_run, inputs / "deep", tmp_path / "out", *keys)
    with np.load(out / "photo_probabilities.npz") as file:
        photo, names = file["probabilities"], file["classes"]
    assert names.tolist() == ["background", *CLASSES]
    voxels = nibabel.load(out / "volume_probabilities.nii.gz")
    assert np.array_equal(voxels.affine, nibabel.load(inputs / "deep/volume.nii.gz").affine)
    volume = np.asarray(voxels.dataobj).transpose(3, 2, 1, 0)
    assert volume.shape == (4, *SHAPE)
    for shares, file in ((photo, "photo.png"), (volume, "volume.nii.gz")):
        mask, most = labels(out / file), shares.max(axis=0)
        assert np.abs(shares.sum(axis=0, dtype=float) - 1).max() < 2e-3
        clear = np.abs(most - 0.9) > 1e-3  # of which rounding to half precision leaves no doubt
        assert np.array_equal(mask[clear], np.where(most < 0.9, 255, shares.argmax(axis=0))[clear])
        assert 0 < (mask == 255).mean() < 0.5
    assert yaml.safe_load((out / "dataset.yaml").read_text()) == {
        "classes": ["background", *CLASSES],
        "ignore_index": 255,
    }


def test_predictions_go_back_to_annotation_tools(acdc_run: Path, inputs: Path, tmp_path: Path) -> None:
    masks = predicted(acdc_run, inputs, tmp_path / "masks")
    (inputs / "volume.h5").unlink()
    (inputs / "deep/slice.h5").unlink()
    keys = (f"run={acdc_run}", f"input={inputs}", "output=coco", "format=coco", *MACHINE)
    output = refused("predict", *keys, cwd=tmp_path)
    assert "2 pictures annotated in coco/annotations.json" in output
    assert "deep/volume.nii.gz: has 3 slices, but format=coco holds pictures; use format=masks" in output
    read = COCO(tmp_path / "coco/annotations.json")
    images = read.loadImgs(read.getImgIds())
    assert {image["file_name"] for image in images} == {"slice.png", "deep/photo.JPG"}
    for image in images:
        mask = np.zeros(SHAPE[1:], np.uint8)
        for each in read.loadAnns(read.getAnnIds(image["id"])):
            mask[read.annToMask(each) > 0] = each["category_id"]  # the background has none
        assert np.array_equal(mask, labels(masks / Path(image["file_name"]).with_suffix(".png")))
    told = refused("predict", *keys, cwd=tmp_path)
    assert "coco/annotations.json exist(s) already, perhaps with someone's work in it" in told
    predicted(acdc_run, inputs / "slice.png", inputs, "format=labelme")
    content = json.loads((inputs / "slice.json").read_text())
    assert (content["imagePath"], content["imageHeight"]) == ("slice.png", SHAPE[1])
    assert {shape["label"] for shape in content["shapes"]} <= {"background", *CLASSES}
    assert "format=onnx: expected one of masks, coco, panoptic, labelme, cvat" in refused(
        "predict", *keys, "format=onnx", cwd=tmp_path
    )


@pytest.mark.parametrize("more", [(), ("min_confidence=0.8",)])
def test_without_a_picture_no_annotations_stand_in_the_way_of_the_next_call(
    acdc_run: Path, inputs: Path, tmp_path: Path, more: tuple[str, ...]
) -> None:
    keys = (f"run={acdc_run}", "output=coco", "format=coco", *more, *MACHINE)
    output = refused("predict", f"input={inputs / 'deep/volume.nii.gz'}", *keys, cwd=tmp_path)
    assert "0 pictures annotated in coco\n" in output
    assert [*(tmp_path / "coco").iterdir()] == []
    succeed("predict", f"input={inputs / 'slice.png'}", *keys, cwd=tmp_path)
    assert (tmp_path / "coco/annotations.json").exists()


def test_predicting_goes_on_after_inputs_that_fail_and_names_them(acdc_run: Path, inputs: Path, tmp_path: Path) -> None:
    (inputs / "a.nii.gz").write_bytes((inputs / "deep/volume.nii.gz").read_bytes()[:500])
    (inputs / "b.png").write_bytes(b"")
    (tmp_path / "out/volume.h5").mkdir(parents=True)  # where the mask of volume.h5 should go
    Image.fromarray(np.full((3, 1), 9, np.uint8)).save(inputs / "tiny.png")
    output = refused(
        "predict", f"run={acdc_run}", f"input={inputs}", f"output={tmp_path / 'out'}", *MACHINE, cwd=tmp_path
    )
    assert "3 of 8 inputs could not be predicted" in output
    assert f"{inputs / 'a.nii.gz'}: cannot be read as NIfTI" in output
    assert f"{inputs / 'b.png'}: cannot be read as a picture" in output
    assert f"{inputs / 'volume.h5'}: " in output
    written = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert written == {"deep/volume.nii.gz", "deep/slice.h5", "slice.png", "deep/photo.png", "tiny.png"}


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("input=nowhere", "input=nowhere"),
        ("input=empty", "input=empty"),
        ("input=notes.txt", "notes.txt: unknown kind of file"),
        ("run=empty", "run=empty: is no run folder"),
        ("checkpoint=other.pt", "other.pt"),
        ("output=notes.txt/deep", "output=notes.txt/deep: cannot be written"),
    ],
)
def test_predict_names_what_is_wrong(acdc_run: Path, inputs: Path, tmp_path: Path, given: str, named: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no image")
    keys = {"run": acdc_run, "input": inputs, "output": "out"} | dict([given.split("=")])
    assert named in refused("predict", *(f"{key}={value}" for key, value in keys.items()), *MACHINE, cwd=tmp_path)


def test_masks_beside_the_images_are_no_inputs(acdc_run: Path, challenge: Path, tmp_path: Path) -> None:
    folder = nifti(challenge).parent
    assert (folder / nifti(challenge).name.replace(".nii", "_gt.nii")).exists()
    inputs = shutil.copytree(folder, tmp_path / "in", ignore=shutil.ignore_patterns("*_4d*"))
    out = predicted(acdc_run, inputs, tmp_path / "out")
    assert sorted(path.name for path in out.iterdir()) == [nifti(challenge, frame).name for frame in (1, 12)]


def test_every_mask_has_a_place_of_its_own_that_is_no_inputs(tmp_path: Path) -> None:
    source, output = tmp_path / "in", tmp_path / "out"
    for folder in (source / "deep", output):
        folder.mkdir(parents=True)
    for name in ("a.jpg", "b.nii.gz", "deep/a.jpg"):
        (source / name).touch()
    expected = {"a.png": "a.jpg", "b.nii.gz": "b.nii.gz", "deep/a.png": "deep/a.jpg"}
    for _ in range(2):  # masks of an earlier call are written again
        found = masks_to_write(source, output, inputs_of(source, output).files)
        assert found == {output / mask: source / name for mask, name in expected.items()}
        (output / "a.png").touch()
    (output / "b.nii.gz").symlink_to(source / "deep/a.jpg")
    with pytest.raises(UserError, match=f"the mask of {source}/b.nii.gz would overwrite an input"):
        masks_to_write(source, output, inputs_of(source, output).files)
    (source / "a.png").touch()
    with pytest.raises(UserError, match=f"{source}/a.png: the mask of {source}/a.jpg has the same name"):
        masks_to_write(source, output, inputs_of(source, output).files)


def test_predict_says_which_keys_are_missing(tmp_path: Path) -> None:
    assert "input, output not set" in refused("predict", "run=.", cwd=tmp_path)


def test_a_network_trained_by_mean_teacher_is_evaluated_by_what_it_predicts_with(
    prepared: Path, tmp_path: Path
) -> None:
    keys = (
        *acdc(prepared),
        "method=mean_teacher",
        AVERAGING,
        "method.predict_with=teacher",
        "labeled_cases=1",
        "iterations=20",
    )
    succeed("train", *keys, "optimizer.lr=0.05", "tag=teacher", cwd=tmp_path)
    folder = tmp_path / "outputs/acdc/mean_teacher/unet-1cases-s0-teacher"
    data = [key for key in acdc(prepared) if key.startswith(("dataset", "network"))]
    keys = (*MACHINE, *SMALL, *data, "output=.")
    code, output = run("eval", f"network.weights={folder / 'best.pt'}", *keys, cwd=tmp_path)
    assert code == 0, output
    assert results(tmp_path, "results_test.json")["test"] == results(folder)["test"]


# -- orientation ------------------------------------------------------------------------------------------------------


def test_masks_go_back_to_the_inputs_own_axes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    scans = [rng.normal(0, 0.1, (24, 20, 4)) for _ in range(4)]
    organ = np.zeros((24, 20, 4), np.uint8)
    organ[3:11, 9:17, :3] = 1  # of no symmetry
    for number, scan in enumerate(scans):
        orientation = ["RAS", "LPS", "SAR", "RAS"][number]
        bodies.write(tmp_path / f"mine/images/c{number}.nii.gz", orientation, (scan + organ).astype(np.float32))
        bodies.write(tmp_path / f"mine/masks/c{number}.nii.gz", orientation, organ)
    (tmp_path / "mine/dataset.yaml").write_text("classes: [background, organ]\n")
    data = ("dataset=folder", f"dataset.root={tmp_path / 'mine'}", "labeled_ratio=1", "dataset.test_ratio=0")
    budget = ("iterations=40", "eval_every=20", "batch_size=4", "optimizer.lr=0.05")
    output = succeed("train", *data, *budget, *SMALL, *MACHINE, cwd=tmp_path)
    assert "canonical orientation (RAS+), with slices along z" in output
    (config,) = tmp_path.rglob("config.yaml")
    assert {**yaml.safe_load(config.read_text())["dataset"]}.items() >= {
        "orientation": "canonical",
        "slice_axis": "z",
    }.items()
    scan = (rng.normal(0, 0.1, organ.shape) + organ).astype(np.float32)
    for name in ("RAS", "LPS", "SAR"):
        bodies.write(tmp_path / f"new/{name}.nii.gz", name, scan)
    succeed(
        "predict",
        f"run={config.parent}",
        f"input={tmp_path / 'new'}",
        f"output={tmp_path / 'out'}",
        *MACHINE,
        cwd=tmp_path,
    )
    masks = {name: nibabel.load(tmp_path / f"out/{name}.nii.gz") for name in ("RAS", "LPS", "SAR")}
    expected = np.asarray(masks["RAS"].dataobj)
    assert 2 * (expected & organ).sum() / (expected.sum() + organ.sum()) > 0.8  # Dice: the model sees the organ
    for name, mask in masks.items():
        image = nibabel.load(tmp_path / f"new/{name}.nii.gz")
        assert np.array_equal(np.asarray(mask.dataobj), bodies.stored_as(name, expected)[0])
        assert np.array_equal(mask.affine, image.affine)
        for key in ("descrip", "xyzt_units", "qform_code", "sform_code", "pixdim", "dim"):
            assert np.array_equal(mask.header[key], image.header[key]), (name, key)
