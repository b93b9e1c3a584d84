"""Text and YAML of others: only regular files are opened, and neither size nor depth nor repeats can hang a command."""

import os
import socket
from pathlib import Path

import pytest

from ssl4seg.errors import UserError
from ssl4seg.run.folder import read_config, read_json
from ssl4seg.userfiles import MAX_DEPTH, MAX_YAML, expect_own, irregular, read_text, read_yaml


def test_what_is_no_regular_file_is_named_and_not_opened(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(tmp_path / "fifo")
    (tmp_path / "lost").symlink_to(tmp_path / "gone")
    (tmp_path / "file").write_text("a")
    (tmp_path / "good").symlink_to(tmp_path / "file")
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "socket"))
    expected = {
        "fifo": "a FIFO",
        "link": "a FIFO",
        "lost": "a link to a missing file",
        "socket": "a socket",
        ".": "a folder",
        "/dev/zero": "a device",
        "file": None,
        "good": None,
        "missing": None,
    }
    assert {name: irregular(tmp_path / name) for name in expected} == expected
    for read in (read_text, read_yaml, read_json):
        with pytest.raises(UserError, match=r"fifo: is a FIFO; only regular files are read"):
            read(tmp_path / "fifo")
    assert read_text(tmp_path / "good") == "a"
    with pytest.raises(UserError, match=r"^the list: there is no such file$"):
        read_text(tmp_path / "missing", "the list")


def test_nothing_is_written_through_a_link_but_into_a_device(tmp_path):
    (tmp_path / "file").write_text("a")
    (tmp_path / "folder").mkdir()
    for name, target in (("to_file", "file"), ("to_folder", "folder"), ("lost", "gone"), ("null", "/dev/null")):
        (tmp_path / name).symlink_to(target)
    os.mkfifo(tmp_path / "fifo")
    for name in ("file", "folder", "null", "missing"):
        expect_own(tmp_path / name)
    for name in ("to_file", "to_folder", "lost"):
        with pytest.raises(UserError, match=f"{name}: is a link; nothing is written through it"):
            expect_own(tmp_path / name)
    with pytest.raises(UserError, match="fifo: is a FIFO"):
        expect_own(tmp_path / "fifo")


def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbfclasses: [a, \xc3\xa9]\n")
    assert read_yaml(tmp_path / "a.yaml") == {"classes": ["a", "é"]}
    assert read_text(tmp_path / "a.yaml").startswith("classes")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: " + "[" * 5000 + "]" * 5000, r"line 1 is nested more than 50 deep"),
        ("".join(" " * depth + "a:\n" for depth in range(200)), r"line 51 is nested more than 50 deep"),
        ("a0: &a0 [x,x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40)), "its aliases"),
        (f"a: &a {'x' * 10000}\nb: [{'*a,' * 200}]", "its aliases .* repeat more than 1048576 characters"),
        ("a: &a [*a]", r"\*a repeats a node within itself"),
        ("x" * (MAX_YAML + 1), r"is larger than 0.25 MiB, the limit of such a file"),
        (f"seed: 0x{'f' * 5000}", "holds a number of 5002 signs, more than 1000"),
        (f"seed: 1{':59' * 50000}", "holds a number of 150001 signs"),
        ('a: "\\ud800"', "cannot be read .*surrogates not allowed"),
        ("a: [", r"cannot be read \(line 1: "),
        ("a: 2024-99-99", r"cannot be read \(month must be in 1\.\.12"),
        ("!!python/object/apply:os.system [ls]", r"cannot be read \(line 1: could not determine a constructor"),
    ],
    ids=[
        *("deep", "blocks", "laughs", "long-laughs", "itself", "large"),
        *("number", "sixties", "half-a-character", "cut", "date", "code"),
    ],
)
def test_yaml_has_limits(tmp_path, text, message):
    (tmp_path / "config.yaml").write_text(text)
    for read in (read_yaml, lambda file: read_config(file.parent)):
        with pytest.raises(UserError, match=f"config.yaml: {message}"):
            read(tmp_path / "config.yaml")


def test_within_its_limits_yaml_is_read_with_its_aliases(tmp_path: Path) -> None:
    nested = "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1)
    (tmp_path / "a.yaml").write_text(f"colors: &id001 [0, 255]\npalette: *id001\ndeep: {nested}\n")
    content = read_yaml(tmp_path / "a.yaml")
    assert content["palette"] == [0, 255]
    assert str(content["deep"]) == nested
