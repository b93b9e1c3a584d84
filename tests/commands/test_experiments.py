"""Recipes: they compose, name keys that exist, set what their sources publish, and their commands are understood."""

import math
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import hydra.utils
import pytest
import torch
import yaml
from helpers import composed

from ssl4seg.commands.conf import choices, conf_dir
from ssl4seg.commands.words import check
from ssl4seg.data.dataset import shape_of
from ssl4seg.errors import UserError
from ssl4seg.run.assemble import build, method_of, network_maker
from ssl4seg.types import Progress

FILES = {file.stem: file for file in sorted((conf_dir() / "experiment").glob("*.yaml"))}
PAGE = (Path(__file__).parents[2] / "docs/recipes.md").read_text()


def content(name: str) -> dict[str, Any]:
    return yaml.safe_load(FILES[name].read_text())


def leaves(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def chosen(name: str) -> list[str]:
    """The choices of a recipe, as words of a command line; those of a recipe that it builds on too."""
    words = []
    for entry in content(name)["defaults"]:
        if isinstance(entry, str):
            words += chosen(entry)
        else:
            words += [f"{group.removeprefix('override /')}={choice}" for group, choice in entry.items()]
    return words


def own(name: str) -> dict[str, Any]:
    """The keys that a recipe sets."""
    return {key: value for key, value in content(name).items() if key != "defaults"}


@pytest.mark.parametrize("name", FILES)
def test_a_recipe_sets_keys_that_exist_without_it(name: str) -> None:
    bare = dict(leaves(composed(*chosen(name))))
    assert {key for key, _ in leaves(own(name))} <= bare.keys()


@pytest.mark.parametrize("name", FILES)
def test_what_a_recipe_says_is_what_is_run(name: str) -> None:
    config = dict(leaves(composed(f"experiment={name}")))
    for key, value in leaves(own(name)):
        assert config[key] == value or "${" in str(value), key


@pytest.mark.parametrize("name", FILES)
def test_everything_of_a_recipe_but_the_data_can_be_built(name: str) -> None:
    config = composed(f"experiment={name}")
    if "encoder_weights" in config["network"]:
        config["network"]["encoder_weights"] = None  # or they would be fetched
    data = config["dataset"] | {key: config["dataset"][key] or 2 for key in ("channels", "num_classes")}
    shape = shape_of(data["image_size"])
    for group in ("schedule", "inference", "supervised_loss"):
        build(config[group], group, **({"shape": shape} if group == "inference" else {}))
    build(config["views"]["weak"], "views.weak")
    make = network_maker(config["network"], data["channels"], data["num_classes"], axes=len(shape))
    with torch.device("meta"):  # no memory, no numbers
        method_of(config["method"], make)


def commands(text: str) -> list[list[str]]:
    return [line.split()[1:] for line in re.findall(r"ssl4seg-train .*experiment=.*", text)]


@pytest.mark.parametrize("name", FILES)
def test_the_head_of_a_recipe_holds_a_command_that_is_understood(name: str) -> None:
    (words,) = commands(FILES[name].read_text())
    assert f"experiment={name}" in words
    check("train", words, [], sweep=False)


def test_the_page_lists_every_recipe_and_its_commands_are_understood() -> None:
    assert sorted(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)) == sorted(FILES)
    for words in commands(PAGE):
        check("train", [word for word in words if word != "-m"], [], sweep=words[0] == "-m")


SCRIPTS = sorted(
    script for script in (Path(__file__).parents[2] / "scripts").glob("*.sh") if "ssl4seg-train" in script.read_text()
)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_commands_of_a_tables_script_are_understood(script: Path) -> None:
    lines = script.read_text().replace("\\\n", " ").splitlines()
    sweeps = [shlex.split(line)[1:] for line in lines if line.startswith("ssl4seg-train")]
    assert sweeps
    for words in sweeps:
        assert (words[0], words[-1]) == ("-m", "$@")
        check("train", [word.replace("$root", ".") for word in words[1:-1]], [], sweep=True)


STEPS = {  # epochs of the unlabelled images, all images, images a step, labelled images
    "acdc_unimatch": (300, 1312, 12, {68: 30900, 136: 29400, 256: 26400}),
    "voc": (80, 10582, 8, {92: 104880, 183: 103920, 366: 102160, 732: 98480, 1464: 91120}),
    "voc_unimatch_v2": (60, 10582, 16, {92: 39300, 183: 38940, 366: 38280, 732: 36900, 1464: 34140}),
    "cityscapes": (240, 2975, 8, {186: 83520, 372: 78000, 744: 66720, 1488: 44400}),
}


@pytest.mark.parametrize("name", STEPS)
def test_steps_are_the_published_epochs(name: str) -> None:
    epochs, images, size, steps = STEPS[name]
    config, text = composed(f"experiment={name}"), FILES[name].read_text()
    assert config["batch_size"] == config["unlabeled_batch_size"] == size
    for labeled, expected in steps.items():
        assert epochs * ((images - labeled) // size) == expected
        assert f"{expected:,}" in text
    assert config["iterations"] in steps.values()
    assert config["iterations"] % config["eval_every"] == 0


def test_the_command_line_wins_over_a_recipe() -> None:
    keys = ("method=fixmatch", "network.encoder=resnet50", "dataset.image_size=513", "batch_size=2")
    config = composed("experiment=voc", *keys)
    assert config["method"]["_target_"].endswith("FixMatch")
    assert (config["tag"], config["batch_size"], config["views"]["weak"]["side"]) == ("resnet50-513", 2, 513)


@pytest.mark.parametrize(("name", "millions"), [("voc_unimatch_v2", 24.8), ("voc_unimatch_v2_b", 97.5)])
def test_the_teacher_of_unimatch_v2_predicts_and_its_network_has_the_size_that_the_authors_log(name, millions):
    config = composed(f"experiment={name}")
    config["network"]["encoder_weights"] = None
    with torch.device("meta"):
        method = method_of(config["method"], network_maker(config["network"], 3, 21))
    assert method.predictor is method.teacher
    assert sum(p.numel() for p in method.student.parameters()) == pytest.approx(millions * 1e6, rel=0.005)


@pytest.mark.parametrize(
    ("name", "way"),
    [("acdc_bcp", "apart"), ("la_bcp", "apart"), ("voc_unimatch_v2", "apart"), ("acdc_unimatch", "together")],
)
def test_labelled_and_unlabelled_images_pass_as_in_the_authors_code(name: str, way: str) -> None:
    config = composed(f"experiment={name}")
    kind = hydra.utils.get_class(config["method"]["_target_"])
    assert (kind.ways[0] if config["passes"] == "auto" else config["passes"]) == way


@pytest.mark.parametrize("name", ["acdc_unimatch", "voc_unimatch", "cityscapes_unimatch"])
def test_the_recipes_of_unimatch_decode_the_labelled_images_with_dropped_channels_too(name: str) -> None:
    assert composed(f"experiment={name}")["method"]["drop_labeled"] is True


def test_the_encoder_moves_as_slowly_as_published() -> None:
    for name, encoder, rest in (("voc", 0.001, 0.01), ("voc_unimatch_v2", 5e-6, 2e-4), ("cityscapes", 0.005, 0.005)):
        config = composed(f"experiment={name}")
        rate = config["optimizer"]["lr"]
        assert (rate, rate * config["transfer"]["encoder_lr_scale"]) == pytest.approx((rest, encoder))


VOLUMES = {  # patch, stride, steps, images of a kind in a step, select, val_cases
    "la_uamt": ([112, 112, 80], [18, 18, 4], 6000, 2, "last", 0),
    "la_dtc": ([112, 112, 80], [18, 18, 4], 6000, 2, "last", 0),
    "la_mcnet": ([112, 112, 80], [18, 18, 4], 15000, 2, "auto", 8),
    "la_bcp": ([112, 112, 80], [18, 18, 4], 17000, 4, "auto", 8),
    "la_admt": ([112, 112, 80], [18, 18, 4], 15000, 2, "auto", 8),
    "pancreas": ([96, 96, 96], 16, 15000, 2, "auto", 6),
    "brats19": ([96, 96, 96], 64, 30000, 2, "auto", None),
}


@pytest.mark.parametrize("name", VOLUMES)
def test_recipes_of_volumes_have_the_published_constants(name: str) -> None:
    patch, stride, steps, size, select, val_cases = VOLUMES[name]
    config = composed(f"experiment={name}")
    assert config["dataset"]["image_size"] == config["views"]["weak"]["size"] == patch
    assert (config["inference"]["stride"], config["inference"]["pad"]) == (stride, True)
    assert (config["inference"]["average"], config["inference"]["weights"]) == ("probabilities", "uniform")
    assert (config["iterations"], config["batch_size"], config["unlabeled_batch_size"]) == (steps, size, size)
    assert [config["optimizer"][key] for key in ("lr", "momentum", "weight_decay")] == [0.01, 0.9, 0.0001]
    assert (config["select"], config["dataset"]["val_cases"]) == (select, val_cases)
    turned = name != "pancreas"
    assert (config["views"]["weak"]["flips"], config["views"]["weak"]["turns"]) == (
        ([0, 1], [[0, 1]]) if turned else ([], [])
    )


def test_the_stages_of_bcp_on_the_left_atrium_have_2000_and_15000_steps_and_the_rate_falls_within_each() -> None:
    config = composed("experiment=la_bcp")
    rate = build(config["schedule"], "schedule")
    with torch.device("meta"):
        method = method_of(config["method"], network_maker(config["network"], 1, 2, axes=3))
    places = {step: method.stage(Progress(step, config["iterations"])) for step in (1999, 2000, 4499, 4500, 16999)}
    assert [(stage, within.step, within.total) for stage, within in places.values()] == [
        (0, 1999, 2000),
        *((1, step, 15000) for step in (0, 2499, 2500, 14999)),
    ]
    assert [rate(within) for _, within in places.values()] == pytest.approx([1, 1, 1, 0.1, 1e-5])


UA_MT = {"schedule._target_": "ssl4seg.run.schedules.Step", "schedule.every": 2500, "schedule.gamma": 0.1}
MC_NET = {"schedule._target_": "ssl4seg.run.schedules.Constant"}
POLY = {"schedule._target_": "ssl4seg.run.schedules.Poly", "schedule.power": 0.9}
DICE_ALONE = {"supervised_loss.cross_entropy": 0, "supervised_loss.dice": 1}
PUBLISHED = {  # constants of the public code, beside those of other tests
    "la_uamt": UA_MT | {"method.num_passes": 8, "supervised_loss.cross_entropy": 0.5, "supervised_loss.dice": 0.5},
    "la_dtc": UA_MT | DICE_ALONE | {"method.distance_weight": 0.3},
    "la_mcnet": MC_NET | DICE_ALONE | {"method.temperature": 0.1, "method.supervised_weight": 0.5},
    "la_bcp": UA_MT | {"method.pseudo_weight": 0.5, "method.side": 2 / 3, "method.ema_decay": 0.99},
    "la_admt": POLY | {"method.threshold": 0.8, "method.consistency_weight": 2, "method.period": 19},
    "pancreas": MC_NET | {"views.weak.rotate": 0},
    "brats19": POLY,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_constants_of_volumes_are_the_published_ones(name: str) -> None:
    config = dict(leaves(composed(f"experiment={name}")))
    sgd = {"optimizer.lr": 0.01, "optimizer.momentum": 0.9, "optimizer.weight_decay": 1e-4}
    for key, value in (PUBLISHED[name] | sgd).items():
        assert config[key] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-4)), key


@pytest.mark.parametrize(("name", "weight"), [("la_uamt", 0.1), ("la_dtc", 1), ("la_mcnet", 1)])
def test_the_weight_rises_for_6000_steps_as_published(name: str, weight: float) -> None:
    config = composed(f"experiment={name}")
    with torch.device("meta"):
        method = method_of(config["method"], network_maker(config["network"], 1, 2, axes=3))
    for step in range(0, 6001, 150):  # where their stairs of 150 steps begin
        published = weight * math.exp(-5 * (1 - step / 150 / 40) ** 2)
        found = method.weights(Progress(step, config["iterations"]))["consistency_weight"]
        assert found == pytest.approx(published)


def test_the_former_name_of_a_choice_stands_for_the_present_one_and_is_not_listed() -> None:
    check("train", ["network=dinov2_dpt", "network.channels=32"], [], sweep=False)
    assert composed("network=dinov2_dpt")["network"] == composed("network=vit_dpt")["network"]
    listed = choices("network", [conf_dir()])
    assert "dinov2_dpt" not in listed
    assert "vit_dpt" in listed
    with pytest.raises(UserError, match="network is one of") as caught:
        check("train", ["network=dinov4_dpt"], [], sweep=False)
    assert "dinov2" not in str(caught.value)
