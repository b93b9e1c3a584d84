"""Files are whole or as before, tables are no formulas, and no name steers a terminal."""

import csv
import os
import sys
from pathlib import Path

import pytest
import torch
from helpers import shell

from ssl4seg import checkpoint
from ssl4seg.errors import UserError, plain
from ssl4seg.files import quoted, unquoted, write_csv, write_text


def test_what_steers_a_terminal_is_spelt_out() -> None:
    assert plain("a\x1b[31mred\x07\r\n\tb") == "a\\x1b[31mred\\x07\\r\n\tb"
    assert plain("\udcff.png \u202etxt \u2028") == "\\udcff.png \\u202etxt \\u2028"
    assert plain("Größe ± 1 µm, 心, \N{NO-BREAK SPACE}") == "Größe ± 1 µm, 心, \N{NO-BREAK SPACE}"
    assert str(UserError("x\x1b]0;title\x07")) == "x\\x1b]0;title\\x07"


@pytest.mark.parametrize("text", ["=1+1", "+1+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "'=1", "''@x"])
def test_no_spreadsheet_computes_a_cell_and_its_text_comes_back(text: str, tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", [("case", "dice"), (text, 0.5)])
    with (tmp_path / "a.csv").open(newline="") as file:
        _, (cell, number) = csv.reader(file)
    assert cell == "'" + text
    assert unquoted(cell) == text
    assert number == "0.5"


def test_a_link_in_the_place_of_a_part_of_a_file_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "private").write_text("mine")
    (tmp_path / "a.csv.partial").symlink_to(tmp_path / "private")
    os.mkfifo(tmp_path / "b.csv.partial")
    for name in ("a.csv", "b.csv"):
        write_csv(tmp_path / name, [("case", "dice")])
        assert (tmp_path / name).read_text().strip() == "case,dice"
    assert (tmp_path / "private").read_text() == "mine"


@pytest.mark.parametrize("value", [-0.25, "-0.25", "+1.50", "-1.2 ± 0.3 mm", "-inf", "nan", "a=b", "", "'quoted'"])
def test_numbers_and_plain_texts_are_cells_as_they_are(value: object) -> None:
    assert quoted(value) == value
    assert unquoted(str(value)) == str(value)


LIMITED = """
import resource
from pathlib import Path
import torch
from ssl4seg import checkpoint
from ssl4seg.errors import WriteError
from ssl4seg.files import write_text

resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
for write in (
    lambda: checkpoint.save({"a": torch.ones(10_000)}, Path("a.pt")),
    lambda: write_text(Path("a.json"), "x" * 30_000),
):
    try:
        write()
    except WriteError as error:
        print(error)
"""


def test_a_file_that_the_disk_does_not_hold_is_named_and_the_earlier_one_is_whole(tmp_path: Path) -> None:
    checkpoint.save({"a": torch.zeros(100)}, tmp_path / "a.pt")
    write_text(tmp_path / "a.json", "before")
    code, output = shell(sys.executable, "-c", LIMITED, cwd=tmp_path)
    assert code == 0
    assert output.splitlines() == [f"{name}: cannot be written (File too large)" for name in ("a.pt", "a.json")]
    assert torch.equal(checkpoint.load(tmp_path / "a.pt")["a"], torch.zeros(100))
    assert (tmp_path / "a.json").read_text() == "before"
    assert {file.name for file in tmp_path.iterdir()} == {"a.pt", "a.json"}  # nothing half-written takes space
