"""A run knows the data that it was trained on: other files under the same names are another data set."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from folders import folder, save, write_root
from helpers import MACHINE, SHORT, SMALL, acdc, refused, results, run, succeed, table, write_h5
from PIL import Image

from ssl4seg.data import fingerprint as module
from ssl4seg.data.fingerprint import fingerprint
from ssl4seg.data.phantom import Phantom
from ssl4seg.errors import UserError
from ssl4seg.run.training import cases_of

KEYS = (*MACHINE, *SMALL, *SHORT, "dataset=folder", "labeled_ratio=1")


def of(root: Path) -> str:
    return fingerprint(cases_of(folder(root)))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_root(tmp_path / "mine")


def test_moved_data_are_the_same_data(root: Path, tmp_path: Path) -> None:
    before = of(root)
    assert len(before) == 64
    assert of(Path(shutil.move(root, tmp_path / "elsewhere"))) == before


@pytest.mark.parametrize("file", ["images/p0_a.png", "masks/p0_a.png"])
@pytest.mark.parametrize("whole_bytes", [module.WHOLE_BYTES, 0])
def test_a_changed_image_or_mask_is_other_data(root: Path, file: str, whole_bytes: int, monkeypatch) -> None:
    monkeypatch.setattr(module, "WHOLE_BYTES", whole_bytes)  # 0: only heads are hashed, as of large data
    before = of(root)
    shutil.copy(root / file.replace("p0_a", "p1_a"), root / file)
    assert of(root) != before


def test_another_name_or_group_is_other_data(root: Path) -> None:
    before = of(root)
    (root / "images/p0_a.png").rename(root / "images/p0_c.png")
    (root / "masks/p0_a.png").rename(root / "masks/p0_c.png")
    renamed = of(root)
    (root / "dataset.yaml").write_text((root / "dataset.yaml").read_text().replace("group:", "#"))
    assert len({before, renamed, of(root)}) == 3


def test_data_made_in_memory_follow_from_the_configuration() -> None:
    keys = {"num_train": 2, "num_val": 1, "num_test": 1, "seed": 0, "difficulty": 1.0}
    classes = ["background", "right_ventricle", "myocardium", "left_ventricle"]
    phantom = Phantom(**keys, classes=classes, num_classes=4, channels=1, image_size=32)
    assert fingerprint(cases_of(phantom)) == ""


def test_a_file_that_cannot_be_read_is_named(root: Path) -> None:
    cases = cases_of(folder(root))
    (root / "images/p0_a.png").unlink()
    with pytest.raises(UserError, match=r"p0_a\.png: cannot be read"):
        fingerprint(cases)


def test_runs_on_two_folders_stand_in_two_places_and_two_tables(root: Path, tmp_path: Path) -> None:
    other = write_root(tmp_path / "other")
    for file in (other / "masks").iterdir():
        save(file, 1 - np.asarray(Image.open(file)))  # the same names, the opposite masks
    succeed("train", "-m", *KEYS, f"dataset.root={root},{other}", cwd=tmp_path)
    found = [results(tmp_path / f"outputs/{name}/supervised/unet-1-s0") for name in ("mine", "other")]
    assert [each["dataset"] for each in found] == ["mine", "other"]
    assert found[0]["test"] != found[1]["test"]
    succeed("report", "outputs", "--no-figures", cwd=tmp_path)
    assert [row["dataset"] for row in table(tmp_path / "outputs/report.csv")] == ["mine", "other"]


def test_a_finished_run_is_not_taken_for_one_on_other_data(tmp_path: Path) -> None:
    first, second = (write_h5(tmp_path / name) for name in ("A", "B"))
    shutil.copy(second / "data/patient001_frame01.h5", second / "data/patient002_frame01.h5")
    succeed("train", *acdc(first), "labeled_ratio=1", cwd=tmp_path)
    message = refused("train", *acdc(second), "labeled_ratio=1", cwd=tmp_path)
    assert "holds a run on other data" in message
    assert "tag=WORD" in message
    succeed("train", *acdc(second), "labeled_ratio=1", "tag=b", cwd=tmp_path)
    shutil.move(first, tmp_path / "moved")
    assert "is finished" in succeed("train", *acdc(tmp_path / "moved"), "labeled_ratio=1", cwd=tmp_path)
    succeed("report", "outputs", "--no-figures", cwd=tmp_path)
    names = [row["dataset"] for row in table(tmp_path / "outputs/report.csv")]
    assert len(set(names)) == 2
    assert all(name.startswith("acdc (") for name in names)


def test_an_interrupted_run_is_not_continued_on_other_data_but_on_moved_data(tmp_path: Path) -> None:
    first, second = (write_h5(tmp_path / name) for name in ("A", "B"))
    (second / "data/patient004_frame01.h5").unlink()
    shutil.copy(second / "data/patient004_frame02.h5", second / "data/patient004_frame01.h5")
    succeed("train", *acdc(first), "labeled_ratio=1", cwd=tmp_path)
    folder = tmp_path / "outputs/acdc/supervised/unet-1-s0"
    (folder / "results.json").unlink()
    config = (folder / "config.yaml").read_bytes()
    code, output = run("train", *acdc(second), "labeled_ratio=1", cwd=tmp_path)
    assert code == 1
    assert "holds a run on other data" in output
    assert (folder / "config.yaml").read_bytes() == config
    shutil.move(first, tmp_path / "moved")
    assert "going on from step 4" in succeed("train", *acdc(tmp_path / "moved"), "labeled_ratio=1", cwd=tmp_path)


def test_the_name_in_dataset_yaml_names_the_runs(tmp_path: Path) -> None:
    root = write_root(tmp_path / "v 1.0", name="polyps")
    succeed("train", *KEYS, f"dataset.root={root}", cwd=tmp_path)
    assert results(tmp_path / "outputs/polyps/supervised/unet-1-s0")["dataset"] == "polyps"
    assert "would be named 'a/b': expected a name" in refused(
        "train", *KEYS, f"dataset.root={root}", "dataset.name=a/b", cwd=tmp_path
    )
