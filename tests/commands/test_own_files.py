"""Mistakes in YAMLs of one's own (--config-dir): refused with their file, the key and the nearest right one."""

from pathlib import Path

import pytest
from helpers import PHANTOM, run

from ssl4seg.commands.words import check
from ssl4seg.errors import UserError

GLOBAL = "# @package _global_\n# My own.\n"
DISCS = """
dataset:
  _target_: discs.Discs
  root: /data
  classes: [background, disc]
  num_classes: 2
  channels: 1
  image_size: 64
recipe:
  iterations: 300
  batch_size: 4
"""
CLASS = """
from functools import partial

import numpy as np

from ssl4seg.data.case import Case, Volume
from ssl4seg.data.dataset import Dataset


def read(number):
    return Volume(np.full((1, 1, 32, 32), number / 8, np.float32), np.eye(32, dtype=np.uint8)[None])


class Discs(Dataset):
    name = "discs"

    def __init__(self, *, root, **common):
        super().__init__(**common)

    def cases(self, split):
        numbers = {"train": (0, 1, 2, 3), "val": (4,), "test": (5,)}[split]
        return [
            Case(name=f"c{n}", group=f"c{n}", num_images=1, size=(32, 32), labeled=True, read=partial(read, n))
            for n in numbers
        ]
"""


def own(folder: Path, file: str, text: str) -> Path:
    """A folder for --config-dir with one file."""
    (folder / "mine" / file).parent.mkdir(parents=True)
    (folder / "mine" / file).write_text(text)
    (folder / "mine/discs.py").write_text(CLASS)
    return folder / "mine"


@pytest.mark.parametrize(
    ("file", "text", "told"),
    [
        (
            "dataset/my.yaml",
            GLOBAL + DISCS.replace("recipe", "recpie"),
            r"there is no key 'recpie'; did you mean recipe\?",
        ),
        (
            "dataset/my.yaml",
            GLOBAL + DISCS.replace("batch_size", "bach_size"),
            r"there is no key 'recipe\.bach_size'; did you mean recipe\.batch_size\?",
        ),
        (
            "dataset/my.yaml",
            f"{GLOBAL}{DISCS}itterations: 3\n",
            r"there is no key 'itterations'; did you mean iterations\?",
        ),
        ("dataset/my.yaml", DISCS, r"has dataset: within dataset; begin the file with `# @package _global_`"),
        ("method/my.yaml", "# Mine.\nweight: 3\n", r"names no class; method needs _target_: MODULE\.CLASS"),
        ("method/my.yaml", "# Mine.\nweight: [3\n", r"line 3: is no YAML \(expected "),
        ("engine/my.yaml", "log_evry: 3\n", r"there is no key 'engine\.log_evry'; did you mean engine\.log_every\?"),
        ("views/my.yaml", "strog: []\n", r"there is no key 'views\.strog'; did you mean views\.strong\?"),
        ("experiment/my.yaml", "iterations: 3\n", r"lacks the first line `# @package _global_`"),
        ("experiment/my.yaml", f"{GLOBAL}iteratons: 3\n", r"there is no key 'iteratons'; did you mean iterations\?"),
        (
            "experiment/my.yaml",
            f"{GLOBAL}transfer: {{freeze: 3}}\n",
            r"there is no key 'transfer\.freeze'; did you mean transfer\.freeze_encoder\?",
        ),
    ],
)
def test_a_key_that_nothing_reads_is_refused_with_its_file(tmp_path, file, text, told):
    mine = own(tmp_path, file, text)
    group = file.split("/")[0]
    with pytest.raises(UserError, match=rf"{mine}/{file}: {told}"):
        check("train", [f"{group}=my"], [mine], sweep=False)


def test_so_it_is_in_a_sweep(tmp_path):
    mine = own(tmp_path, "method/my.yaml", "# Mine.\nweight: 3\n")
    with pytest.raises(UserError, match=rf"{mine}/method/my.yaml: names no class"):
        check("train", ["method=supervised,my"], [mine], sweep=True)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("dataset/my.yaml", GLOBAL + DISCS + "defaults:\n  - override /views: natural\n"),
        ("method/my.yaml", "# Mine.\ndefaults:\n  - uamt\n"),
        ("optimizer/my.yaml", "_target_: torch.optim.SGD\nlr: 0.1\nnesterov: true\n"),
        ("experiment/my.yaml", f"{GLOBAL}iterations: 3\noptimizer:\n  dampening: 0.1\n"),
        ("hydra/launcher/my.yaml", "_target_: hydra._internal.core_plugins.basic_launcher.BasicLauncher\n"),
    ],
)
def test_a_key_that_something_reads_is_not(tmp_path, file, text):
    group, _, _ = file.rpartition("/")
    check("train", [f"{group}=my", "trust=true"], [own(tmp_path, file, text)], sweep=False)


def test_a_value_left_to_the_user_is_asked_for_until_it_is_typed(tmp_path):
    mine = own(tmp_path, "dataset/my.yaml", GLOBAL + DISCS.replace("/data", "???"))
    with pytest.raises(UserError, match=r"^dataset\.root is not set .*: type dataset\.root=VALUE$"):
        check("train", ["dataset=my"], [mine], sweep=False)
    check("train", ["dataset=my", "dataset.root=/data"], [mine], sweep=False)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("root: /data", "root: ???", "error: dataset.root is not set"),
        ("channels: 1", "channels: 3", "error: c0: the image has 1 channel(s), but dataset.channels=3; set dataset.ch"),
        (
            "num_classes: 2",
            "num_classes: 2\n  normalise: none",
            "error: dataset.normalise: discs.Discs takes no such key; did you mean dataset.normalize?",
        ),
        ("discs.Discs", "discs.Disks", "error: dataset: cannot be built: discs has no Disks; did you mean Discs?"),
        ("discs.Discs", "disks.Discs", "error: dataset: cannot be built: No module named 'disks'; is its folder on PY"),
    ],
)
def test_a_dataset_of_ones_own_is_refused_without_a_run_folder(tmp_path, old, new, told):
    mine = own(tmp_path, "dataset/my.yaml", GLOBAL + DISCS.replace(old, new))
    words = [word for word in PHANTOM if "dataset.num" not in word]
    arguments = ["--config-dir", mine, "dataset=my", *words, "labeled_ratio=0.5"]
    code, output = run("train", *arguments, cwd=tmp_path, env={"PYTHONPATH": str(mine)})
    assert code == 1
    assert output.splitlines()[-1].startswith(told), output
    assert "Traceback" not in output
    assert "Error getting class" not in output
    assert not [*tmp_path.glob("outputs/*")]
