"""Post-processing on masks small enough to be worked out by hand, and in ssl4seg-eval and ssl4seg-predict."""

import itertools
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from helpers import MACHINE, lasting, refused, results, succeed, table
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from scipy import ndimage

from ssl4seg.commands.conf import choices, conf_dir
from ssl4seg.errors import UserError
from ssl4seg.run.assemble import postprocess_of
from ssl4seg.scoring.metrics import score_classes
from ssl4seg.scoring.postprocess.base import Given, Step, check_steps
from ssl4seg.scoring.postprocess.crf import DenseCRF
from ssl4seg.scoring.postprocess.lattice import Lattice
from ssl4seg.scoring.postprocess.regions import LargestComponent, SmallRegions
from ssl4seg.scoring.postprocess.superpixels import Superpixels

STEPS: dict[str, Any] = {
    "largest_component": LargestComponent,
    "small_regions": SmallRegions,
    "superpixels": Superpixels,
    "crf": DenseCRF,
}
CLASSES = ("background", "disc", "box")


def mask(*slices: str) -> np.ndarray:
    """[S, H, W] of digits; rows are apart by spaces."""
    return np.array([[[int(c) for c in row] for row in rows.split()] for rows in slices], np.uint8)


def applied(step: Step, label: np.ndarray, image: np.ndarray | None = None, **more: Any) -> np.ndarray:
    image = np.zeros((len(label), 1, *label.shape[1:]), np.float32) if image is None else image
    result = step(label, Given(image, more.get("probability"), more.get("spacing")))
    assert (result.dtype, result.shape) == (np.uint8, label.shape)
    return result


# -- regions ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "before", "after"),
    [
        ({}, ["11002 11000 00022 10022"], ["11000 11000 00022 00022"]),
        ({}, ["1100 0010 0000 1111"], ["0000 0000 0000 1111"]),  # 3 against 4, though a corner joins the 3
        ({"corners": False}, ["11000 11000 00100 00111"], ["11000 11000 00000 00000"]),  # 4 against 4: the first
        ({}, ["11000 11000 00100 00111"], ["11000 11000 00100 00111"]),
        ({"classes": [2]}, ["1010 0000 2022"], ["1010 0000 0022"]),
        ({"classes": []}, ["1010 0000 2022"], ["1010 0000 2022"]),
        ({}, ["1010"], ["1000"]),  # of equals the first
        ({}, ["1000 0000", "1000 0001", "0000 0011"], ["0000 0000", "0000 0001", "0000 0011"]),  # 2 voxels against 3
        ({"three_d": False}, ["1000 0000", "1000 0011"], ["1000 0000", "0000 0011"]),
        ({}, ["000 000"], ["000 000"]),
        ({}, ["222 222"], ["222 222"]),
    ],
)
def test_of_each_class_the_largest_region_stays(keys, before, after):
    assert np.array_equal(applied(LargestComponent(**keys), mask(*before)), mask(*after))


@pytest.mark.parametrize(
    ("keys", "before", "after"),
    [
        ({"min_size": 2}, ["1111 1211 1111"], ["1111 1111 1111"]),
        ({"min_size": 2}, ["1111 1011 1111"], ["1111 1111 1111"]),  # a hole
        ({"min_size": 2, "into": "background"}, ["1111 1011 2111"], ["1111 1011 0111"]),
        (
            {"min_size": 3},
            ["00000 01120 00000"],
            ["00000 00000 00000"],
        ),  # 2 first, into 0 with 3 of its 4 faces, then 1
        ({"min_size": 3}, ["22200 21100 22200"], ["22200 22200 22200"]),  # 5 faces with 2, 1 with 0
        ({"min_size": 2}, ["1112000", "1112000"], ["1112000", "1112000"]),  # of 2 voxels
        (
            {"min_size": 2, "three_d": False},
            ["1112000", "1112000"],
            ["1110000", "1110000"],
        ),  # of equals the lower class
        ({"min_size": 3}, ["0112 0332"], ["1111 1111"]),  # 0 into 1, which then stays; 2 and 3 into it
        ({"min_size": 9}, ["12"], ["22"]),
        ({"min_size": 9}, ["11"], ["11"]),  # nothing surrounds it
        ({"min_size": 2}, ["0000 0100 0010 0000"], ["0000 0100 0010 0000"]),
        ({"min_size": 2, "corners": False}, ["0000 0100 0010 0000"], ["0000 0000 0000 0000"]),
    ],
)
def test_small_regions_take_the_class_around_them(keys, before, after):
    assert np.array_equal(applied(SmallRegions(**keys), mask(*before)), mask(*after))


@pytest.mark.parametrize(("three_d", "corners"), itertools.product([True, False], repeat=2))
def test_no_small_region_is_left_and_no_large_one_loses_a_pixel(three_d, corners):
    label = np.random.default_rng(0).integers(0, 3, (4, 12, 15)).astype(np.uint8)
    label[:, 3:8, 3:9] = 1
    after = applied(SmallRegions(min_size=6, three_d=three_d, corners=corners), label)
    for before, now in zip(*([[m] if three_d else m[:, None] for m in (label, after)]), strict=True):
        large, size = sized(before, corners), sized(now, corners)
        assert size.min() >= 6
        assert np.array_equal(now[large >= 6], before[large >= 6])


def sized(label: np.ndarray, corners: bool) -> np.ndarray:
    """The size of each pixel's region."""
    size = np.zeros(label.shape, int)
    for k in range(3):
        numbers, _ = ndimage.label(label == k, ndimage.generate_binary_structure(3, 3 if corners else 1))
        size += np.where(numbers > 0, np.bincount(numbers.ravel())[numbers], 0)
    return size


def test_millimetres_are_those_of_the_case():
    label = mask("000 010 000", "000 010 000")  # 2 voxels of 2 x 3 x 5 mm
    for size, stays in ((60, True), (60.1, False)):
        found = applied(SmallRegions(min_size=size, unit="mm"), label, spacing=(2.0, 3.0, 5.0))
        assert np.array_equal(found, label) == stays
    for size, stays in ((15, True), (15.1, False)):
        found = applied(SmallRegions(min_size=size, unit="mm", three_d=False), label, spacing=(2.0, 3.0, 5.0))
        assert np.array_equal(found, label) == stays
    with pytest.raises(UserError, match=r"postprocess\.small_regions\.unit=mm: .*spacing"):
        applied(SmallRegions(unit="mm"), label)


# -- superpixels ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "dtype"), [(1, np.float32), (3, np.uint8), (2, np.float32)])
def test_each_superpixel_takes_the_class_of_most_of_its_pixels(channels, dtype):
    truth = np.zeros((2, 20, 24), np.uint8)
    truth[0, :, 12:], truth[1, 10:] = 2, 1
    image = np.repeat((truth > 0)[:, None], channels, axis=1).astype(dtype) * (255 if dtype is np.uint8 else 1)
    label = np.where(np.random.default_rng(0).random(truth.shape) < 0.2, 1 - np.minimum(truth, 1), truth)
    assert (label != truth).mean() > 0.1
    assert np.array_equal(applied(Superpixels(size=40), label.astype(np.uint8), image), truth)


# -- CRF --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("d", "largest", "mean"), [(1, 0.03, 0.001), (2, 0.03, 0.002), (3, 0.05, 0.005), (5, 0.1, 0.03)]
)
def test_the_lattice_averages_like_a_gaussian(d, largest, mean):
    rng = np.random.default_rng(0)
    f, v = rng.uniform(0, 3, (1000, d)).astype(np.float32), rng.random((1000, 2)).astype(np.float32)
    kernel = np.exp(-0.5 * np.square(f[:, None] - f).sum(axis=-1))
    lattice = Lattice(f)
    error = np.abs(
        lattice(v) / lattice(np.ones((1000, 1), np.float32)) - kernel @ v / kernel.sum(axis=1, keepdims=True)
    )
    assert error.max() < largest
    assert error.mean() < mean


def scene(channels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth [H, W], a noisy image [C, H, W] uint8, and probabilities [3, H, W], right in most pixels."""
    rng = np.random.default_rng(0)
    row, column = np.mgrid[:18, :24]
    truth = np.where(np.hypot(row - 9, column - 7) < 6, 1, np.where(column > 16, 2, 0))
    image = np.array([60, 210, 130])[truth] + rng.normal(0, 8, (channels, 18, 24))
    logits = rng.normal(0, 1, (3, 18, 24)) + (np.arange(3)[:, None, None] == truth)
    p = np.exp(logits) / np.exp(logits).sum(axis=0)
    return truth, image.clip(0, 255).astype(np.uint8), p.astype(np.float32)


def by_force(p: np.ndarray, c: np.ndarray, iterations: int, a: float, g: float) -> np.ndarray:
    """The mean field with all pairs of pixels, alpha = 10, beta = 25, gamma = 2."""
    shape, n = p.shape, p[0].size
    s = np.indices(shape[1:]).reshape(2, n).T / 1.0
    c = c.reshape(len(c), n).T / 25.0
    far = np.square(s[:, None] - s).sum(axis=-1)
    kernels = [np.exp(-far / 200 - np.square(c[:, None] - c).sum(axis=-1) / 2), np.exp(-far / 8)]
    kernels = [k / np.sqrt(np.outer(k.sum(axis=1), k.sum(axis=1))) for k in kernels]
    p = p.reshape(len(p), n).astype(float)
    q = p
    for _ in range(iterations):
        energy = np.zeros_like(p)
        for k in range(len(p)):  # of class k: what the other classes' pixels say against it
            others = q.sum(axis=0) - q[k]
            energy[k] = -np.log(p[k]) + a * kernels[0] @ others + g * kernels[1] @ others
        q = np.exp(energy.min(axis=0) - energy)
        q /= q.sum(axis=0)
    return q.reshape(shape)


@pytest.mark.parametrize(("a", "g"), [(0.0, 2.0), (3.0, 0.0), (3.0, 2.0)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("iterations", [1, 4])
def test_the_crf_is_the_mean_field_over_all_pairs_of_pixels(channels, a, g, iterations):
    truth, image, p = scene(channels)
    crf = DenseCRF(
        iterations=iterations,
        appearance_weight=a,
        appearance_pixels=10,
        appearance_values=25,
        smoothness_weight=g,
        smoothness_pixels=2,
    )
    expected = by_force(p, image, iterations, a, g)
    error = np.abs(crf.mean_field(p, image.astype(np.float32)) - expected)
    assert error.mean() < 0.005
    assert error.max() < 0.15
    label = applied(crf, np.zeros((1, 18, 24), np.uint8), image[None], probability=p[None])[0]
    sure = np.abs(np.diff(np.sort(expected, axis=0)[-2:], axis=0))[0] > 0.1
    assert np.array_equal(label[sure], expected.argmax(axis=0)[sure])
    assert (label == truth).mean() > (p.argmax(axis=0) == truth).mean() + 0.05


def test_the_crf_takes_bytes_and_numbers_up_to_one_alike():
    _, image, p = scene(3)
    nothing = np.zeros((1, 18, 24), np.uint8)
    found = [applied(DenseCRF(), nothing, i[None], probability=p[None]) for i in (image, (image / 255).astype("f4"))]
    assert np.array_equal(*found)


def test_images_that_the_lattice_cannot_number_are_refused():
    image = np.random.default_rng(0).random((1, 12, 8, 8), np.float32)
    with pytest.raises(UserError, match=r"12 channels with postprocess\.crf\.appearance_values=0\.01"):
        applied(
            DenseCRF(appearance_values=0.01),
            np.zeros((1, 8, 8), np.uint8),
            image,
            probability=np.full((1, 2, 8, 8), 0.5, np.float32),
        )


# -- keys -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in choices("postprocess", [conf_dir()]) if name != "none"])
def test_the_files_name_their_steps_and_hold_their_defaults(name):
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        config: Any = OmegaConf.to_container(compose("predict", overrides=[f"postprocess={name}"]))
    (step,) = postprocess_of(config["postprocess"])
    assert (step.name, type(step)) == (name, STEPS[name])
    assert vars(step) == vars(STEPS[name]())


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("largest_component", "three_d", 1),
        ("largest_component", "classes", [0]),
        ("largest_component", "classes", 2),
        ("largest_component", "classes", "box"),
        ("largest_component", "classes", [1.5]),
        ("small_regions", "corners", None),
        ("small_regions", "min_size", 0),
        ("small_regions", "unit", "cm"),
        ("small_regions", "into", "class"),
        ("superpixels", "size", -1),
        ("superpixels", "compactness", "high"),
        ("crf", "iterations", 0),
        ("crf", "iterations", 2.5),
        ("crf", "appearance_weight", -1),
        ("crf", "appearance_values", 0),
        ("crf", "smoothness_pixels", True),
    ],
)
def test_a_wrong_value_is_named(name, key, value):
    with pytest.raises(UserError) as error:
        STEPS[name](**{key: value})
    assert str(error.value).startswith(f"postprocess.{name}.{key}={value}: expected ")


@pytest.mark.parametrize("classes", [[7], [1, 3], ["boxes"], ["background"]])
def test_classes_that_the_dataset_does_not_have_are_refused(classes):
    with pytest.raises(UserError) as error:
        check_steps([LargestComponent(classes=classes)], probabilities=True, classes=CLASSES, background=True)
    assert str(error.value) == (
        f"postprocess.largest_component.classes={classes}: expected classes of the dataset by number or name: "
        "1 disc, 2 box"
    )


def test_classes_may_be_named():
    for classes in (["box"], [2]):
        step = LargestComponent(classes=classes)
        check_steps([step], probabilities=True, classes=CLASSES, background=True)
        assert np.array_equal(applied(step, mask("1010 0000 2022")), mask("1010 0000 0022"))


def test_steps_whose_work_would_be_lost_are_refused():
    with pytest.raises(UserError, match=r"postprocess=\[superpixels,crf\]: crf .* first"):
        check_steps([Superpixels(), DenseCRF()], probabilities=True, classes=CLASSES, background=True)
    with pytest.raises(UserError, match=r"postprocess=crf .*protocol=ssl4mis"):
        check_steps([DenseCRF()], probabilities=False, classes=CLASSES, background=True)
    check_steps([DenseCRF(), Superpixels(), SmallRegions()], probabilities=True, classes=CLASSES, background=False)


@pytest.mark.parametrize("step", [LargestComponent(), LargestComponent(classes=[1]), SmallRegions(into="background")])
def test_without_a_background_nothing_is_turned_into_it(step):
    check_steps([step], probabilities=True, classes=CLASSES, background=True)
    with pytest.raises(UserError, match=rf"postprocess={step.name} .*dataset\.background=false.*into=surrounding"):
        check_steps([step], probabilities=True, classes=CLASSES, background=False)


# -- the commands -----------------------------------------------------------------------------------------------------


def masks(run: Path, source: Path, output: Path, *overrides: str) -> np.ndarray:
    succeed("predict", f"run={run}", f"input={source}", f"output={output}", *MACHINE, *overrides, cwd=output.parent)
    return np.asarray(nibabel.load(output / source.name).dataobj).transpose()


def test_eval_and_predict_process_the_same_masks_and_eval_scores_them_before_and_after(acdc_run, challenge, tmp_path):
    source = challenge / "patient005/patient005_frame01.nii.gz"
    keys = ("postprocess=[small_regions,largest_component]", "postprocess.small_regions.min_size=4")
    before = masks(acdc_run, source, tmp_path / "before")
    after = masks(acdc_run, source, tmp_path / "after", *keys)
    expected = LargestComponent()(SmallRegions(min_size=4)(before, Given(None, None, None)), Given(None, None, None))
    assert np.array_equal(after, expected)
    assert not np.array_equal(after, before)
    printed = succeed("eval", f"run={acdc_run}", *MACHINE, *keys, cwd=acdc_run.parent)
    assert printed.count("Dice %") == 2
    assert "without post-processing" in printed
    name = "test-postprocess=small_regions+largest_component-postprocess.small_regions.min_size=4"
    found = lasting(acdc_run, f"results_{name}.json")
    assert found["test_without_postprocess"] == results(acdc_run)["test"]
    assert list(found["postprocess"]) == ["small_regions", "largest_component"]
    rows = [row for row in table(acdc_run / f"cases_{name}.csv") if row["case"] == "patient005_frame01"]
    truth = np.asarray(nibabel.load(source.with_name("patient005_frame01_gt.nii.gz")).dataobj).transpose()
    scores = score_classes(after, truth, 4, spacing=(10.0, 1.5, 1.25))
    assert [float(row["dice"]) for row in rows] == pytest.approx([score["dice"] for score in scores], abs=1e-5)


def test_the_crf_reads_the_probabilities_of_the_run(acdc_run, tmp_path):
    keys = ("postprocess=crf", "postprocess.crf.appearance_weight=0", "postprocess.crf.smoothness_weight=0")
    succeed("eval", f"run={acdc_run}", f"output={tmp_path}", *MACHINE, *keys, cwd=tmp_path)
    alone = results(tmp_path, "results_test.json")
    assert alone["test"] == alone["test_without_postprocess"]  # without pairs of pixels q = p
    flipped = ("inference.flip=true", "postprocess=crf")
    succeed("eval", f"run={acdc_run}", f"output={tmp_path}", *MACHINE, *flipped, cwd=tmp_path)
    found = results(tmp_path, "results_test.json")
    assert found["test"] != found["test_without_postprocess"]
    assert found["test"]["dice"]["mean"] > 0.5


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("postprocess=crff", "postprocess=crff: there is no such postprocess; did you mean crf?"),
        ("postprocess=[crf,larges_component]", "did you mean largest_component?"),
        ("postprocess.crf.iterations=3", "there is no key"),
        ("postprocess=[superpixels,crf]", "put it first"),
        ("postprocess=largest_component postprocess.largest_component.classes=[myocard]", "2 myocardium"),
    ],
)
def test_eval_refuses_what_cannot_be_meant(acdc_run, tmp_path, given, told):
    assert told in refused("eval", f"run={acdc_run}", *given.split(), *MACHINE, cwd=tmp_path)


def test_the_literatures_protocol_takes_steps_that_need_label_maps_only(acdc_run, tmp_path):
    keys = (f"run={acdc_run}", "protocol=ssl4mis", f"output={tmp_path}", *MACHINE)
    assert "protocol=ssl4mis" in refused("eval", *keys, "postprocess=crf", cwd=tmp_path)
    succeed("eval", *keys, "postprocess=largest_component", cwd=tmp_path)
    found = results(tmp_path, "results_test.json")
    succeed("eval", *keys, cwd=tmp_path)
    assert found["test_without_postprocess"] == results(tmp_path, "results_test.json")["test"]
