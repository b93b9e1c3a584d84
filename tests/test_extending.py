"""Extensions from outside the package: every example of docs/extending.md, run as the page says."""

import os
import re
import shlex
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from helpers import PHANTOM, events, load, refused, results, script, shell, succeed

PAGE = (Path(__file__).parents[1] / "docs/extending.md").read_text()
LACKING = {"network": "network.", "dataset": "dataset.num_"}
"""Example -> tiny settings that its own choice does not have."""


class Example(NamedTuple):
    """A section of the page."""

    files: dict[str, str]
    """Path -> text of the file."""
    command: str


def example(name: str) -> Example:
    section = PAGE.partition(f"\n## A {name}\n")[2].partition("\n## ")[0]
    files = dict(re.findall(r"`(mine/\S+)`:\n\n```\w+\n(.*?)```", section, re.DOTALL))
    (command,) = re.findall(r"^    (PYTHONPATH=.*)$", section, re.MULTILINE)
    return Example(files, command)


EXAMPLES = {name: example(name) for name in re.findall(r"^## A (\w+)$", PAGE, re.MULTILINE)}


def write(name: str, folder: Path) -> None:
    """The files of an example below the folder."""
    for path, text in EXAMPLES[name].files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)


def typed(command: str, folder: Path) -> None:
    """Type a command of ours in the folder, where it must succeed."""
    path, program, *words = shlex.split(command)
    env = dict([path.split("=")])
    succeed(program.removeprefix("ssl4seg-"), *words, cwd=folder, env=env)


def typed_in_a_shell(command: str, folder: Path) -> None:
    """The same by a shell, which finds the installed command."""
    path = f"{Path(script('train')).parent}{os.pathsep}{os.environ['PATH']}"
    code, output = shell("sh", "-c", command, cwd=folder, env={"PATH": path})
    assert code == 0, output


def tiny(name: str) -> list[str]:
    """Settings with which the example's run takes a second."""
    lacking = LACKING.get(name)
    return [key for key in PHANTOM if not (lacking and key.startswith(lacking))]


def trained(name: str, folder: Path, *, in_a_shell: bool = False) -> Path:
    """The run folder of an example, trained by the command of the page with tiny settings."""
    write(name, folder)
    command = f"{EXAMPLES[name].command} {' '.join(repr(key) for key in tiny(name))}"
    (typed_in_a_shell if in_a_shell else typed)(command, folder)
    (run,) = (file.parent for file in folder.glob("outputs/*/*/*/results.json"))
    assert results(run)["status"] == "finished"
    return run


def test_the_page_has_an_example_of_each_kind() -> None:
    assert sorted(EXAMPLES) == ["dataset", "method", "metric", "network", "view"]
    assert all(EXAMPLES[name].files for name in EXAMPLES)


def test_a_method_is_about_twenty_lines_of_python_and_one_yaml() -> None:
    files = EXAMPLES["method"].files
    assert sorted(Path(path).suffix for path in files) == [".py", ".yaml"]
    assert all(len(text.splitlines()) <= 22 for text in files.values())


def test_a_method_trains_and_is_evaluated(tmp_path: Path) -> None:
    run = trained("method", tmp_path, in_a_shell=True)
    assert {"train/supervised", "train/entropy"} <= set(events(run).Tags()["scalars"])
    evaluation = f"ssl4seg-eval run={run.relative_to(tmp_path)} device=cpu"
    output = refused("eval", *evaluation.split()[1:], cwd=tmp_path)
    assert "config.yaml: could run code" in output
    assert "method._target_: entropy.Entropy" in output
    assert "add trust=true" in output
    evaluation += " trust=true"
    typed(f"PYTHONPATH=mine {evaluation}", tmp_path)
    output = refused("eval", *evaluation.split()[1:], cwd=tmp_path)
    assert "its folder on PYTHONPATH?" in output


def test_a_dataset_is_trained_on(tmp_path: Path) -> None:
    found = results(trained("dataset", tmp_path))
    assert found["dataset"] == "discs"
    assert found["labeled"]["of_cases"] == 20
    assert set(found["test"]["dice"]) == {"mean", "disc"}


def test_a_network_trains_and_its_weights_come_back(tmp_path: Path) -> None:
    run = trained("network", tmp_path)
    assert load(run / "best.pt")["method"]["student.encoder.0.weight"].shape == (5, 1, 3, 3)
    typed(f"PYTHONPATH=mine ssl4seg-eval run={run.relative_to(tmp_path)} device=cpu trust=true", tmp_path)
    assert results(run, "results_test.json")["test"] == results(run)["test"]


def test_a_metric_is_measured_and_chooses_the_model(tmp_path: Path) -> None:
    found = results(trained("metric", tmp_path))
    assert found["selected_by"]["metric"] == "volume_error"
    assert 0 <= found["test"]["volume_error"]["mean"] <= 1


def test_a_view_is_drawn_from(tmp_path: Path) -> None:
    run = trained("view", tmp_path)
    views = yaml.safe_load((run / "config.yaml").read_text())["views"]
    assert (views["weak"]["_target_"], views["strong"][0]["_target_"]) == ("mirror.Mirror", "mirror.Stripes")


@pytest.mark.parametrize(
    ("name", "line"),
    [("method", "method.weight: 0.01  # of the entropy"), ("dataset", "dataset.num_train: 20  # images")],
)
def test_help_lists_what_is_added(name: str, line: str, tmp_path: Path) -> None:
    write(name, tmp_path)
    choice = next(Path(path).stem for path in EXAMPLES[name].files if path.endswith(".yaml"))
    code, output = shell(script("train"), "--config-dir", "mine", f"{name}={choice}", "--help", cwd=tmp_path)
    assert code == 0
    assert line in output
    assert re.search(rf"^    {choice} +[A-Z].*\.$", output, re.MULTILINE)


def test_a_module_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    write("network", tmp_path)
    output = refused("train", "--config-dir", "mine", "network=flat", *tiny("network"), cwd=tmp_path)
    assert "network: cannot be built" in output
    assert "flat" in output
