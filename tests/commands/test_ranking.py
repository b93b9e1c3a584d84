"""ssl4seg-rank: a run's own unlabelled cases, a folder of images, and the list with which the next run begins."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers import MACHINE, PHANTOM, SHORT, refused, succeed
from PIL import Image

import ssl4seg
from ssl4seg.scoring.ranking import entropy

RUN = "outputs/phantom/supervised/unet-1cases-s0"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with one labelled and three unlabelled patients."""
    folder = tmp_path_factory.mktemp("rank")
    succeed("train", *PHANTOM, "labeled_cases=1", cwd=folder)
    return folder


def lines(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as handle:
        return [*csv.DictReader(handle)]


def split(run: Path) -> dict[str, Any]:
    return json.loads((run / "split.json").read_text())


def test_the_unlabelled_patients_are_ranked_and_the_next_run_begins_with_the_first_ones(
    folder: Path, tmp_path: Path
) -> None:
    told = succeed("rank", f"run={RUN}", "count=2", "num_threads=1", cwd=folder)
    output = folder / RUN / "rank"
    ranking = lines(output / "ranking.csv")
    unlabeled = split(folder / RUN)["unlabeled"]
    assert sorted(line["case"] for line in ranking) == sorted({name.partition("_")[0] for name in unlabeled})
    assert [line["chosen"] for line in ranking] == ["yes", "yes", "no"]
    assert sum(int(line["images"]) for line in ranking) == split(folder / RUN)["num_images"] - int(
        split(folder / RUN)["num_labeled_images"]
    )
    assert all(0 < float(line["disagreement"]) <= float(line["entropy"]) <= 1 for line in ranking)
    first = [line["case"] for line in ranking[:2]]
    assert f"label first: {', '.join(first)}" in told
    assert Image.open(output / "ranking.png").size[1] > 256
    names = (output / "3ranked.txt").read_text().split()
    assert names == [*split(folder / RUN)["labeled_groups"], *first]
    succeed("train", *PHANTOM, f"labeled_list={output}/3ranked.txt", cwd=tmp_path)
    assert split(tmp_path / "outputs/phantom/supervised/unet-3ranked-s0")["labeled_groups"] == names
    succeed("rank", f"run={RUN}", "count=2", "num_threads=1", f"output={tmp_path}", cwd=folder)
    assert (tmp_path / "ranking.csv").read_bytes() == (output / "ranking.csv").read_bytes()


def test_a_folder_is_ranked_by_the_entropy_of_what_predict_predicts_and_files_of_a_group_together(
    folder: Path, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number, (name, side) in enumerate((("a_1", 40), ("a_2", 48), ("b_1", 40), ("c", 36))):
        pixels = np.random.default_rng(number).integers(0, 255 // (number + 1), (side, side)).astype(np.uint8)
        Image.fromarray(pixels).save(images / f"{name}.png")
    (images / "broken.png").write_bytes(b"no picture")
    model = ssl4seg.load(folder / RUN, *MACHINE)
    expected = {}
    for name, members in (("a", ("a_1", "a_2")), ("b", ("b_1",)), ("c.png", ("c",))):
        found = [model.predict(images / f"{each}.png", probabilities=True).probabilities for each in members]
        expected[name] = np.mean([entropy(each[None]).mean() for each in found if each is not None])
    words = (f"run={RUN}", f"input={images}", f"output={tmp_path}/out", "by=entropy", "count=1", "group='(\\w+)_'")
    told = refused("rank", *words, "num_threads=1", cwd=folder)
    assert "1 of the images could not be ranked" in told
    assert "broken.png" in told
    ranking = lines(tmp_path / "out/ranking.csv")
    assert [line["case"] for line in ranking] == sorted(expected, key=lambda name: -expected[name])
    assert {line["case"]: float(line["entropy"]) for line in ranking} == pytest.approx(expected, abs=1e-4)
    assert {line["case"]: line["images"] for line in ranking} == {"a": "2", "b": "1", "c.png": "1"}
    assert {line["distance"] + line["disagreement"] for line in ranking} == {""}
    assert not [*(tmp_path / "out").glob("*ranked.txt")]  # they are no cases of the run's dataset


def test_volumes_are_ranked(tmp_path: Path) -> None:
    sizes = ("dataset.image_size=[16,16,16]", "network.channels=[4,8]", "network.dropout=[0,0]")
    data = ("dataset=phantom_volume", "dataset.num_train=3", "dataset.num_val=1", "dataset.num_test=1")
    succeed("train", *MACHINE, *SHORT, *data, *sizes, "labeled_cases=1", "inference=resized", cwd=tmp_path)
    run = "outputs/phantom_volume/supervised/unet-1cases-s0"
    told = succeed("rank", f"run={run}", "count=1", "num_threads=1", cwd=tmp_path)
    assert "the network has no dropout; 2 passes are made" in told
    assert [line["images"] for line in lines(tmp_path / run / "rank/ranking.csv")] == ["1", "1"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "run not set: ssl4seg-rank run=DIR [input=FILE|FOLDER]"),
        ([f"run={RUN}", "by=dice"], "by=dice: expected one of entropy, disagreement, diversity, combined"),
        ([f"run={RUN}", "input=none"], "input=none: there is no such file or folder"),
        ([f"run={RUN}", "method=uamt"], "the method comes from run="),
        ([f"run=[{RUN},{RUN}]"], "expected the folder of one run"),
        ([f"run={RUN}", "dataset.num_train=2"], "of its unlabeled cases are no training cases of the dataset now"),
    ],
)
def test_a_mistake_is_answered(folder: Path, words: list[str], message: str) -> None:
    assert message in refused("rank", *words, cwd=folder)


def test_a_strangers_run_is_refused_as_by_every_command(folder: Path, tmp_path: Path) -> None:
    """Its config.yaml names a class that would copy a file; its split.json holds no names."""
    run = tmp_path / "run"
    shutil.copytree(folder / RUN, run)
    config = yaml.safe_load((run / "config.yaml").read_text())
    evil = {"_target_": "shutil.copyfile", "src": str(run / "config.yaml"), "dst": str(tmp_path / "mark")}
    (run / "config.yaml").write_text(yaml.safe_dump({**config, "network": {**config["network"], "evil": evil}}))
    told = refused("rank", f"run={run}", cwd=tmp_path)
    assert "shutil.copyfile" in told
    assert "trust=true" in told
    assert not (tmp_path / "mark").exists()
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    (run / "split.json").write_text('{"labeled_groups": [], "labeled": [], "unlabeled": [["phantom0001_ed"]]}')
    assert "split.json: is damaged; it holds no list of names 'unlabeled'" in refused(
        "rank", f"run={run}", cwd=tmp_path
    )


def test_a_run_without_unlabelled_cases_asks_for_a_folder(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / RUN, tmp_path / "run")
    (tmp_path / "run/split.json").write_text('{"labeled_groups": ["phantom0000"], "labeled": [], "unlabeled": []}')
    told = refused("rank", f"run={tmp_path}/run", cwd=tmp_path)
    assert "all of its training cases are labelled; give input=FOLDER" in told
