"""The text files of a run folder: what is read is what was written, or the file is refused."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ssl4seg.errors import UserError
from ssl4seg.run.folder import RunFolder, locked, read_config, read_json, write_json

CONFIG = {"seed": 0, "select": "auto", "network": {"channels": [16, 32], "dropout": 0.05}}
SCORES = {"status": "finished", "val": {"dice": {"mean": 0.25, "disc": None}}}


def config_in(path: Path) -> Path:
    RunFolder(path, CONFIG)
    return path / "config.yaml"


def results_in(path: Path) -> Path:
    write_json(path / "results.json", SCORES)
    return path / "results.json"


@pytest.mark.parametrize(
    ("write", "read", "expected"),
    [(config_in, lambda file: read_config(file.parent), CONFIG), (results_in, read_json, SCORES)],
)
def test_no_flipped_bit_and_no_cut_reads_as_other_content(
    write: Callable[[Path], Path], read: Callable[[Path], Any], expected: dict[str, Any], tmp_path: Path
) -> None:
    file = write(tmp_path)
    whole = file.read_bytes()
    assert read(file).items() >= expected.items()
    damaged = [whole[:size] for size in range(len(whole))]
    for bit in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        damaged.append(bytes(flipped))
    refused = 0
    for content in damaged:
        file.write_bytes(content)
        try:
            assert read(file).items() >= expected.items()
        except UserError:
            refused += 1
    assert refused > 0.8 * len(damaged)  # in the line of the sum, some flips make a comment or a key of another name


def test_an_edited_file_is_refused_until_its_sum_is_removed(tmp_path: Path) -> None:
    file = config_in(tmp_path)
    head, _, rest = file.read_text().partition("\n")
    edited = rest.replace("seed: 0", "seed: 1")
    file.write_text(f"{head}\n{edited}")
    with pytest.raises(UserError, match=r"config\.yaml: is damaged, or was edited.*remove the line of that sum"):
        read_config(tmp_path)
    file.write_text(edited)
    assert read_config(tmp_path)["seed"] == 1


def test_files_of_other_programs_and_versions_have_no_sum(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    assert read_config(tmp_path).items() >= CONFIG.items()


def test_a_process_that_reads_ahead_does_not_keep_the_lock_of_a_killed_run(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    lock, both = locked(tmp_path / ".lock"), fork.Barrier(2)
    worker = fork.Process(target=lambda: [both.wait() for _ in range(2)])
    worker.start()
    both.wait()
    with pytest.raises(UserError, match="another process is at work"):  # closing it there released nothing here
        locked(tmp_path / ".lock")
    lock.close()  # as the operating system does when the run is killed
    locked(tmp_path / ".lock").close()
    both.wait()
    worker.join()
