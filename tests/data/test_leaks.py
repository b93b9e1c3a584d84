"""Doubts about patients in train and in test: found in names, in pixels and in bytes, and no false alarms."""

import re
from pathlib import Path

import numpy as np
import pytest
from folders import describe, drawn, folder, save, write_pairs
from helpers import MACHINE, SHORT, SMALL, run

from ssl4seg.commands.check_folder import check_folder
from ssl4seg.data.leaks import MOST_VOLUMES, suggested_group, thumbnail
from ssl4seg.errors import UserError


def numbered(*patterns: str) -> list[str]:
    """Names of three patients p, each with the numbers n."""
    return [pattern.format(p=p, n=n) for pattern in patterns for p in (1, 2, 3) for n in (1, 2, 3)]


@pytest.mark.parametrize(
    ("names", "pattern", "patients"),
    [
        (numbered("TCGA_CS_494{p}_19960909_{n}"), r"(.+)_\d+$", {f"TCGA_CS_494{p}_19960909" for p in (1, 2, 3)}),
        (numbered("case000{p}_slice00{n}"), r"(.+?)_slice\d", {"case0001", "case0002", "case0003"}),
        (
            numbered("patient00{p}_frame01_slice_{n}", "patient00{p}_frame12_slice_{n}"),
            r"(.+?)_frame\d",
            {"patient001", "patient002", "patient003"},
        ),
        (["p01_frame01", "p01_frame12", "p02_frame01", "p02_frame09"], r"(.+?)_frame\d", {"p01", "p02"}),
        (numbered("p0{p}/{n}"), r"(.+)/\d+$", {"p01", "p02", "p03"}),
        (numbered("p0{p}/slice.{n}"), r"(.+?)/slice\.\d", {"p01", "p02", "p03"}),
        (numbered("p{p}s{n}"), r"(.+?)s\d", {"p1", "p2", "p3"}),
        (numbered("p{p} ({n})"), r"(.+) \(\d+\)?$", {"p1", "p2", "p3"}),
        ([*numbered("p{p}_{n}"), "control7"], r"(.+?)(?:_\d+|)$", {"p1", "p2", "p3", "control7"}),
        (
            [*numbered("p{p}_{n}"), *numbered("q{p}-{n}")],
            r"(.+)(?:-|_)\d+$",
            {f"{a}{p}" for a in "pq" for p in (1, 2, 3)},
        ),
        ([f"000{p}TP_{n:06d}" for p in (1, 2) for n in range(6690, 7000, 30)], r"(.+?)TP_\d", {"0001", "0002"}),
    ],
)
def test_a_stem_and_a_number_are_a_patient_and_a_part_of_it(names, pattern, patients):
    assert suggested_group(names) == pattern
    assert {re.search(pattern, name)[1] for name in names} == patients


@pytest.mark.parametrize(
    "names",
    [
        [f"img_{n:03d}" for n in range(50)],
        [f"c{n:02d}" for n in range(50)],
        [str(n) for n in range(50)],
        [f"ISIC_{n:07d}" for n in range(50)],
        [f"BraTS20_Training_{n:03d}" for n in range(50)],
        [f"{kind} ({n})" for kind in ("benign", "malignant", "normal") for n in range(50)],
        [f"{year}_{n:06d}" for year in (2007, 2008, 2011) for n in range(3, 9000, 37)],
        [f"aachen_{n:06d}_000019" for n in range(50)],
        [f"2019-{month:02d}-{day:02d}" for month in range(1, 5) for day in range(1, 20)],
        [f"IMG_2019010{day}_{n * n * 1013 % 235959:06d}" for day in (1, 2, 3) for n in range(7, 40)],
        ["cju0qkwl35piu0993l0dewei2", "cju0qoxqj9q6s0835b43399p4", "cju0qx73cjw570799j4n5cjze"],
        ["p1_a", "p1_b", "p2_a", "p2_b"],
    ],
)
def test_names_of_single_images_are_no_patients(names):
    assert suggested_group(names) is None


def test_many_numbered_scans_of_one_stem_are_a_collection_not_a_patient():
    scans = [f"FLARE22_{part}_{n:04d}" for part in ("Tr", "Ts") for n in range(9)]
    assert suggested_group(scans) == r"(.+)_\d+$"  # of slices this would be a patient
    assert suggested_group(scans, MOST_VOLUMES) is None
    assert suggested_group(numbered("p{p}_{n}"), MOST_VOLUMES) == r"(.+)_\d+$"


def slices(root: Path, name: str, *, patients: int = 6) -> Path:
    """Eight slices of each patient: a disc of his own that grows; `name` is a format of patient p, slice s, count n."""
    row, column = np.mgrid[:40, :48]
    for p in range(patients):
        rng = np.random.default_rng(p)
        y, x = rng.uniform(0.2, 0.8, 2) * (40, 48)
        back = rng.normal(0, 1, (5, 6)).repeat(8, axis=0).repeat(8, axis=1)
        for s in range(8):
            label = (np.hypot(row - y, column - x) < 4 + s / 2).astype(np.uint8)
            file = name.format(p=p, s=s, n=8 * p + s)
            save(
                root / f"images/{file}.png",
                (110 + 20 * back + 40 * label + rng.normal(0, 4, label.shape)).astype(np.uint8),
            )
            save(root / f"masks/{file}.png", label)
    return describe(root)


def checked(root: Path, capsys: pytest.CaptureFixture[str]) -> str:
    check_folder(root, sheet=root / "sheet.png")
    return capsys.readouterr().out


def test_slices_of_patients_are_a_warning_until_group_is_set(tmp_path, capsys):
    root = slices(tmp_path / "mine", "TCGA_{p}_{s}")
    found = folder(root)
    patients = {case.name.rpartition("_")[0] for case in found.cases("train")}
    shared = {s: sum(c.name.rpartition("_")[0] in patients for c in found.cases(s)) for s in ("val", "test")}
    assert shared == {"val": 5, "test": 10}
    told = checked(root, capsys)
    assert "warning: 10 of 10 test cases and 5 of 5 val cases share a patient with train" in told
    assert r"Set group: '(.+)_\d+$' in dataset.yaml (or '(.+)' if each file is a patient of its own)" in told
    assert "_0, TCGA_" in told
    assert "(48 files, 6 patients)" in told
    assert told.endswith("no fault found, but 1 warning\n")
    code, output = run("train", "dataset=folder", f"dataset.root={root}", *SHORT, *SMALL, *MACHINE, cwd=tmp_path)
    assert code == 0
    assert found.doubts[0] in told
    assert output.index(found.doubts[0]) < output.index("training: ")  # before the first step
    for group in (r"(.+)_\d+$", "(.+)"):
        assert checked(describe(root, group=group), capsys).endswith("no fault found\n")
        assert not folder(root).doubts


def test_numbered_slices_are_found_by_their_looks_and_strangers_are_not(tmp_path, capsys):
    told = checked(slices(tmp_path / "slices", "img_{n}"), capsys)
    assert re.search(
        r"warning: \d+ of 10 test cases and \d of 5 val cases look nearly the same as the train image", told
    )
    assert not folder(tmp_path / "slices").doubts  # training reads names alone
    assert checked(describe(tmp_path / "slices", group="(.+)"), capsys).endswith("no fault found\n")
    root = describe(write_pairs(tmp_path / "strangers", [f"img_{n}" for n in range(48)]))
    assert checked(root, capsys).endswith("no fault found\n")


def test_given_splits_are_a_warning_only_where_they_divide_a_patient(tmp_path, capsys):
    for name in ("p{p}_{s}", "img_{n}"):
        kind = name[0]
        files = slices(tmp_path / kind / "all", name, patients=12)
        for split, numbers in (("train", range(64)), ("val", range(64, 80)), ("test", range(80, 96))):
            for number in numbers:
                for division, at in (("whole", number), ("parts", number * 37 % 96)):
                    for part in ("images", "masks"):
                        place = tmp_path / kind / division / split / part
                        place.mkdir(parents=True, exist_ok=True)
                        file = f"{name.format(p=at // 8, s=at % 8, n=at)}.png"
                        (place / file).hardlink_to(files / part / file)
        assert checked(describe(tmp_path / kind / "whole"), capsys).endswith("no fault found\n")
        told = checked(describe(tmp_path / kind / "parts"), capsys)
        assert re.search(r"warning: \d+ of 16 test cases and \d+ of 16 val cases (share|look)", told)
        assert ("Keep the files of each patient in one of train/, val/ and test/" in told) == (kind == "p")


def test_files_of_the_same_bytes_in_two_splits_are_a_warning(tmp_path, capsys):
    root = tmp_path / "mine"
    for split, names in (("train", ["a", "b"]), ("val", ["c"]), ("test", ["d"])):
        write_pairs(root / split, names)
        for name in names:
            save(root / split / f"images/{name}.png", drawn(ord(name))[0])
    assert checked(describe(root), capsys).endswith("no fault found\n")
    (root / "test/images/d.png").write_bytes((root / "train/images/b.png").read_bytes())
    told = checked(root, capsys)
    assert f"warning: 1 images stand in two of train, val and test, as {root}/train/images/b.png (train) and " in told


def test_a_thumbnail_knows_neither_brightness_nor_contrast_and_one_colour_is_nothing():
    image = np.random.default_rng(0).random((3, 2, 33, 47), np.float32)
    assert thumbnail(image) @ thumbnail(0.5 * image + 0.1) == pytest.approx(1, abs=1e-5)
    assert not thumbnail(np.full((1, 1, 40, 40), 0.1, np.float32)).any()


def test_a_suggested_group_is_one_that_a_folder_takes(tmp_path):
    root = slices(tmp_path / "mine", "p{p} ({s})")
    pattern = suggested_group([case.name for split in ("train", "val", "test") for case in folder(root).cases(split)])
    found = folder(describe(root, group=pattern))
    assert {case.group for case in found.cases("test")} < {f"p{p}" for p in range(6)}
    with pytest.raises(UserError, match="does not match"):
        folder(describe(root, group=r"(q\d)"))
