"""`ssl4seg.load`: a trained model in Python predicts what the command predicts, from arrays and from files."""

from pathlib import Path

import bodies
import nibabel
import numpy as np
import pytest
import torch
from helpers import MACHINE, PHANTOM, pixels, succeed
from PIL import Image

import ssl4seg
from ssl4seg.commands.loading import _quoted
from ssl4seg.commands.words import _parsed
from ssl4seg.errors import UserError
from ssl4seg.run.model import Model


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of two runs of an untrained U-Net for slices, which differ in their seeds and predict all classes."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        keys = (f"seed={seed}", "labeled_ratio=1", "optimizer.lr=0")
        succeed("train", *PHANTOM, *keys, cwd=folder)
    return folder / "outputs/phantom/supervised"


@pytest.fixture
def model(runs: Path) -> Model:
    return ssl4seg.load(runs / "unet-1-s0", *MACHINE)


def test_a_file_that_is_missing_is_not_said_to_be_truncated(model: Model, tmp_path: Path) -> None:
    for name in ("nofile.png", "nofile.nii.gz", "nofile.tif", "nofile.h5", "nofile.nrrd"):
        with pytest.raises(UserError, match=rf"{name}: there is no such file$"):
            model.predict(tmp_path / name)


def image(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random(shape, np.float32)


def test_labels_are_those_of_the_network_at_the_size_of_training_brought_back(model: Model) -> None:
    """By hand: minmax, resized to 32 x 32, the network, resized back, argmax."""
    grey = image(40, 48)
    scaled = torch.from_numpy((grey - grey.min()) / np.ptp(grey))[None, None]
    resize = torch.nn.functional.interpolate
    assert not model.network.training
    with torch.no_grad():
        logits = resize(model.network(resize(scaled, size=(32, 32), mode="bilinear")), (40, 48), mode="bilinear")
    labels, probabilities = model.predict(100 * grey - 20, probabilities=True)
    assert labels.dtype == np.uint8
    assert np.array_equal(labels, logits.argmax(1)[0].numpy())
    np.testing.assert_allclose(probabilities, logits.softmax(1)[0].numpy(), atol=1e-5)


def test_an_array_is_an_image_a_channel_or_slices(model: Model) -> None:
    assert model.classes == ("background", "right_ventricle", "myocardium", "left_ventricle")
    slices = image(3, 1, 20, 24)
    labels, probabilities = model.predict(slices, probabilities=True)
    assert (labels.shape, probabilities.shape) == ((3, 20, 24), (3, 4, 20, 24))
    one = slices[1]
    assert model.predict(one).probabilities is None
    assert np.array_equal(model.predict(one).labels, model.predict(one[0]).labels)
    assert np.array_equal(model.predict(one[0].tolist()).labels, model.predict(one.astype(np.float64)).labels)
    assert model.predict(np.zeros((20, 24), np.uint8)).labels.shape == (20, 24)


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (
            image(20, 24, 3),
            r"shape \[20, 24, 3\]; .* 1 channel\(s\): expected \[H, W\] or \[1, H, W\] or slices \[S, 1",
        ),
        (image(3, 20, 24), r"shape \[3, 20, 24\]"),
        (image(24), r"shape \[24\]"),
        (image(0, 24), r"shape \[0, 24\]"),
        (np.ones((20, 24), bool), "holds bool"),
        (np.full((20, 24), np.nan), "480 NaN"),
    ],
)
def test_other_arrays_are_refused(model: Model, array: np.ndarray, told: str) -> None:
    with pytest.raises(UserError, match=told):
        model.predict(array)


@pytest.mark.parametrize("spacing", [(1, 1), (1, 1, 0), "1mm"])
def test_a_spacing_is_three_lengths(model: Model, spacing: object) -> None:
    with pytest.raises(UserError, match=r"spacing=.*three numbers above 0"):
        model.predict(image(20, 24), spacing=spacing)


def test_a_file_is_predicted_as_by_the_command_in_its_own_axes(runs: Path, model: Model, tmp_path: Path) -> None:
    scan = pixels(5, 1)[0].clip(0, 1020)
    bodies.write(tmp_path / "in/scan.nii.gz", "SAR", scan.transpose())
    Image.fromarray((scan[1] / 4).astype(np.uint8)).save(tmp_path / "in/photo.png")
    keys = (f"run={runs / 'unet-1-s0'}", f"input={tmp_path / 'in'}", f"output={tmp_path / 'out'}", *MACHINE)
    succeed("predict", *keys, cwd=tmp_path)
    labels, probabilities = model.predict(tmp_path / "in/scan.nii.gz", probabilities=True)
    assert np.array_equal(labels, np.asarray(nibabel.load(tmp_path / "out/scan.nii.gz").dataobj))
    assert np.array_equal(labels, probabilities.argmax(axis=0))
    photo = model.predict(str(tmp_path / "in/photo.png")).labels
    assert np.array_equal(photo, np.asarray(Image.open(tmp_path / "out/photo.png")))
    assert len(np.unique(labels)) > 1


def test_several_runs_average_their_probabilities(runs: Path, tmp_path: Path) -> None:
    folders = [runs / "unet-1-s0", runs / "unet-1-s1"]
    both = ssl4seg.load(folders, *MACHINE)
    slices = image(2, 1, 20, 24)
    each = [ssl4seg.load(folder, *MACHINE).predict(slices, probabilities=True) for folder in folders]
    mean = (each[0].probabilities + each[1].probabilities) / 2
    labels, probabilities = both.predict(slices, probabilities=True)
    np.testing.assert_allclose(probabilities, mean, atol=1e-6)
    assert np.array_equal(labels, mean.argmax(axis=1))
    assert not np.array_equal(each[0].labels, each[1].labels)
    scan = bodies.write(tmp_path / "scan.nii.gz", "RAS", image(20, 24, 2))
    keys = (f"run=[{folders[0]},{folders[1]}]", f"input={scan}", f"output={tmp_path / 'out'}", *MACHINE)
    succeed("predict", *keys, cwd=tmp_path)
    mask = np.asarray(nibabel.load(tmp_path / "out/scan.nii.gz").dataobj)
    assert np.array_equal(mask, both.predict(scan).labels)
    with pytest.raises(UserError, match="averages 2 runs"):
        both.network  # noqa: B018


def test_words_are_those_of_the_command(runs: Path) -> None:
    run = runs / "unet-1-s0"
    flipped = ssl4seg.load(run, *MACHINE, "inference.flip=true", "checkpoint=last")
    grey = image(20, 24)
    mirrored = flipped.predict(grey[:, ::-1], probabilities=True).probabilities
    np.testing.assert_allclose(flipped.predict(grey, probabilities=True).probabilities, mirrored[..., ::-1], atol=1e-5)
    with pytest.raises(UserError, match=r"did you mean inference\.flip"):
        ssl4seg.load(run, "inference.flop=true")
    with pytest.raises(UserError, match=r"there is no .*nowhere"):
        ssl4seg.load("nowhere")
    with pytest.raises(UserError, match=r"best\.pt: is one file for 2 runs"):
        ssl4seg.load([run, run], f"checkpoint={run}/best.pt")


def test_runs_on_other_images_are_not_averaged_and_volumes_are_volumes(runs: Path, tmp_path: Path) -> None:
    keys = ("dataset.image_size=[16,16,16]", "network.channels=[4,8]", "network.dropout=[0.1,0.1]", "iterations=1")
    data = ("dataset=phantom_volume", *(f"dataset.num_{split}=1" for split in ("val", "test")), "dataset.num_train=2")
    succeed("train", *MACHINE, *data, *keys, "batch_size=1", "labeled_ratio=1", cwd=tmp_path)
    (run,) = (tmp_path / "outputs/phantom_volume/supervised").iterdir()
    model = ssl4seg.load(run, *MACHINE)
    labels, probabilities = model.predict(image(1, 18, 20, 16), spacing=(1, 1, 2), probabilities=True)
    assert (labels.shape, probabilities.shape) == ((18, 20, 16), (len(model.classes), 18, 20, 16))
    assert np.array_equal(model.predict(image(18, 20, 16)).labels, labels)
    with pytest.raises(UserError, match=r"or \[1, X, Y, Z\]"):
        model.predict(image(18, 20))
    with pytest.raises(UserError, match=f"run={run}: its .* is .*, that of run={runs}"):
        ssl4seg.load([runs / "unet-1-s0", run])


@pytest.mark.parametrize("folder", ["a b,c", "it's", "back\\", "a\\'b", "[x]=${y}", "2024"])
def test_the_folder_of_a_run_may_have_any_name(folder: str) -> None:
    (word,) = _parsed(f"run=[{_quoted(folder)}]")
    assert word.value() == [folder]
