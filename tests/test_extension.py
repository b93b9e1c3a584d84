"""What users add from outside the package, in files of their own."""

import os
import re
from pathlib import Path

import pytest
from helpers import PHANTOM, events, load, refused, results, script, shell, succeed

from ssl4seg.cli import choices, conf_dir

README = (Path(__file__).parents[1] / "README.md").read_text()


def example() -> tuple[dict[str, str], str]:
    """The files of the README's section on methods, by path, and its command."""
    section = README.partition("## A method of your own")[2].partition("\n## ")[0]
    files = dict(re.findall(r"`(mine/\S+)`:\n\n```\w+\n(.*?)```", section, re.DOTALL))
    command = re.search(r"^    (PYTHONPATH=.*)$", section, re.MULTILINE)
    assert command
    return files, command[1]


@pytest.mark.parametrize("group", ["method", "network"])
@pytest.mark.parametrize("page", ["README.md", "docs/{}s.md"])
def test_the_pages_name_every_method_and_network_and_no_other(page: str, group: str) -> None:
    text = (Path(__file__).parents[1] / page.format(group)).read_text()
    section = text.partition(f"\n## {group.title()}s\n")[2].partition("\n## ")[0] or text.partition("\n## ")[0]
    rows = "\n".join(line for line in section.splitlines() if line.startswith("|") and f"`{group}=`" not in line)
    named = re.findall(r"`(\w+)`", rows) if page == "README.md" else re.findall(r"^\| `(\w+)`", rows, re.MULTILINE)
    assert sorted(named) == choices(group, [conf_dir()])


def test_the_method_of_the_readme_is_about_twenty_lines_of_python_and_one_yaml() -> None:
    files, _ = example()
    assert sorted(Path(name).suffix for name in files) == [".py", ".yaml"]
    assert all(len(text.splitlines()) <= 22 for text in files.values())


def test_the_method_of_the_readme_trains_by_the_command_of_the_readme(tmp_path: Path) -> None:
    files, command = example()
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    path = {"PATH": f"{Path(script('train')).parent}{os.pathsep}{os.environ['PATH']}"}
    tiny = " ".join(f"'{override}'" for override in PHANTOM)
    code, output = shell("sh", "-c", f"{command} {tiny}", cwd=tmp_path, env=path)
    assert code == 0, output
    (run,) = (file.parent for file in tmp_path.glob("outputs/phantom/*/*/results.json"))
    assert results(run)["method"] in command
    evaluation = f"PYTHONPATH=mine ssl4seg-eval run={run.relative_to(tmp_path)} device=cpu"
    code, output = shell("sh", "-c", evaluation, cwd=tmp_path, env=path)
    assert code == 0, output
    assert "its folder on PYTHONPATH?" in shell("sh", "-c", evaluation.partition(" ")[2], cwd=tmp_path, env=path).output
    scalars = events(run).Tags()["scalars"]
    assert {"train/supervised", "train/entropy"} <= set(scalars)


NETWORK = '''
from torch import nn

from ssl4seg.networks.base import Network


class Flat(Network):
    """Two convolutions at full resolution."""

    def __init__(self, *, in_channels, num_classes, width):
        super().__init__(in_channels=in_channels, num_classes=num_classes)
        self.encoder = nn.Sequential(nn.Conv2d(in_channels, width, 3, padding=1), nn.ReLU())
        self.decoder, self.head = nn.Identity(), nn.Conv2d(width, num_classes, 1)

    @property
    def feature_channels(self):
        return (self.encoder[0].out_channels,)

    def features(self, image):
        return [self.encoder(image)]

    @property
    def pyramid_channels(self):
        return self.feature_channels

    def pyramid(self, features):
        return features
'''


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    (tmp_path / "mine/network").mkdir(parents=True)
    (tmp_path / "mine/flat.py").write_text(NETWORK)
    (tmp_path / "mine/network/flat.yaml").write_text(
        "# Two convolutions.\n_target_: flat.Flat\nwidth: 5  # channels\nweights: null\n"
    )
    return tmp_path


OTHERS = [key for key in PHANTOM if not key.startswith("network")]


def test_a_network_from_outside_trains_evaluates_and_predicts(mine: Path) -> None:
    path = {"PYTHONPATH": str(mine / "mine")}
    arguments = ("--config-dir", "mine", "network=flat", "method=mean_teacher", *OTHERS)
    succeed("train", *arguments, cwd=mine, env=path)
    run = mine / "outputs/phantom/mean_teacher/flat-0.1-s0"
    assert load(run / "best.pt")["method"]["student.encoder.0.weight"].shape == (5, 1, 3, 3)
    succeed("eval", f"run={run}", "device=cpu", "precision=32", cwd=mine, env=path)
    assert results(run, "results_test.json")["test"] == results(run)["test"]


def test_help_lists_what_is_added(mine: Path) -> None:
    code, output = shell(script("train"), "--config-dir", "mine", "network=flat", "--help", cwd=mine)
    assert code == 0
    assert re.search(r"^    flat +Two convolutions\.$", output, re.MULTILINE)
    assert "network.width: 5  # channels" in output


def test_a_module_that_cannot_be_imported_is_named(mine: Path) -> None:
    output = refused("train", "--config-dir", "mine", "network=flat", *OTHERS, cwd=mine)
    assert "network: cannot be built" in output
    assert "flat" in output
