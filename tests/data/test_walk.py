"""One walker for check, training and prediction: which files are read, and what is said of the others."""

import os

import pytest
from folders import folder, write_root

from ssl4seg.commands.check_folder import check_folder
from ssl4seg.commands.prediction import inputs_of
from ssl4seg.data import patterns
from ssl4seg.data.layout import find
from ssl4seg.data.patterns import first_groups
from ssl4seg.data.walk import passed_over, walk
from ssl4seg.errors import UserError


def test_links_are_followed_once_and_hidden_files_do_not_count(tmp_path):
    for name in ("top/a.png", "elsewhere/b.PNG", "elsewhere/.c.png", "top/.hidden/d.png", "top/e.webp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "top/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "top")
    found = walk(tmp_path / "top")
    assert [str(file.relative_to(tmp_path / "top")) for file in found.files] == ["a.png", "linked/b.PNG"]
    assert [file.name for file in found.others] == ["e.webp"]
    assert inputs_of(tmp_path / "top", tmp_path / "out") == found


def test_files_of_other_kinds_are_named_with_the_reason(tmp_path):
    names = ["a.webp", "b.WEBP", "deep/scan.dcm", "mean.npy", "notes.txt", "README", *(f"{i}.k{i}" for i in range(4))]
    (sentence,) = passed_over([tmp_path / name for name in names], tmp_path)
    assert sentence == (
        "10 files are not read: 2 .webp, as a.webp (convert to PNG); "
        "1 .dcm, as deep/scan.dcm (DICOM: ssl4seg-prepare import makes a folder of series, ssl4seg-predict reads their "
        "folder); 1 .npy, as mean.npy (convert to h5 or TIFF); 1 .txt, as notes.txt (no kind that is read); "
        "1 without an ending, as README (no kind that is read); 4 of 4 more kinds"
    )
    assert passed_over([], tmp_path) == []


def test_check_training_and_prediction_say_the_same_of_a_file_that_is_not_read(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    root = write_root(tmp_path / "mine")
    (root / "images/z.webp").touch()
    words = "1 file is not read: 1 .webp, as {}z.webp (convert to PNG)"
    check_folder(root)
    assert words.format("images/") in capsys.readouterr().out
    assert words.format("images/") in folder(root).notes
    found = inputs_of(root / "images", tmp_path)  # an output folder around the input hides nothing
    assert passed_over(found.others, root / "images") == [words.format("")]
    (tmp_path / "only").mkdir()
    (tmp_path / "only/z.webp").touch()
    with pytest.raises(UserError, match=r"holds no image .*; 1 file is not read: 1 \.webp, as z\.webp"):
        inputs_of(tmp_path / "only", tmp_path)


@pytest.mark.parametrize("kind", ["fifo", "lost link", "not UTF-8"])
def test_what_must_not_be_opened_is_a_fault_of_its_file_everywhere(tmp_path, monkeypatch, capsys, kind):
    monkeypatch.chdir(tmp_path)
    root = write_root(tmp_path / "mine")
    if kind == "fifo":
        os.mkfifo(root / "images/c03.png")
    elif kind == "lost link":
        (root / "images/c03.png").symlink_to("gone.png")
    else:
        (root / "images/p0_a.png").rename(os.fsdecode(os.fsencode(root / "images/c03") + b"\xff.png"))
        (root / "masks/p0_a.png").unlink()
    message = {
        "fifo": r"images/c03\.png: is a FIFO; only regular files are read: remove it",
        "lost link": r"images/c03\.png: is a link to a missing file; only regular",
        "not UTF-8": r"images/c03\\xff\.png: its name is not UTF-8; rename it",
    }[kind]
    with pytest.raises(UserError, match=f"^1 fault in .*\n.*{message}"):
        check_folder(root)
    assert f"{12 if kind == 'not UTF-8' else 13} image files" in capsys.readouterr().out
    with pytest.raises(UserError, match=message):
        folder(root)
    found = inputs_of(root / "images", tmp_path / "out")
    assert len(found.files) == (11 if kind == "not UTF-8" else 12)
    assert len(found.faults) == 1


# -- group ------------------------------------------------------------------------------------------------------------


def test_the_first_group_of_a_pattern_is_found_in_each_name():
    names = ["p1_a", "x/p22_b", "other", "é_p3"]
    assert first_groups(r"(p\d+)", names, "dataset.group") == ["p1", "p22", None, "p3"]


def test_a_pattern_that_never_ends_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(patterns, "SECONDS", 0.5)
    root = write_root(tmp_path)
    for part in ("images", "masks"):
        (root / part / "p0_a.png").rename(root / part / f"{'a' * 40}.png")
    with pytest.raises(
        UserError, match=r"dataset\.group=.*: takes more than 0\.5 s on 13 names, perhaps for ever; write"
    ):
        find(root, r"(^(\w+\w+)+)!")


@pytest.mark.parametrize("pattern", ["(" * 20000 + ")" * 20000, "(a{99999999999})", "(p"])
def test_what_cannot_be_compiled_is_no_pattern(pattern):
    with pytest.raises(UserError, match=r"dataset\.group=.*: is no regular expression"):
        first_groups(pattern, ["a"], "dataset.group")
