"""ssl4seg-export: the files predict what the run predicts, without ssl4seg; and what differs is refused."""

import ast
import json
import re
import shlex
import shutil
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from folders import write_root
from helpers import MACHINE, PHANTOM, refused, results, small_network, succeed
from hydra.core.override_parser.overrides_parser import OverridesParser
from timm.layers import resample_abs_pos_embed
from torch import nn

import ssl4seg
from ssl4seg.axes import interpolated
from ssl4seg.commands.repeating import _written
from ssl4seg.data.intensities import normalized
from ssl4seg.data.phantom import THICKNESS, Patient
from ssl4seg.errors import UserError
from ssl4seg.methods.parts.two_networks import MeanOf
from ssl4seg.methods.supervised import Supervised
from ssl4seg.run.assemble import network_maker
from ssl4seg.run.exporting import write_graph
from ssl4seg.run.graph import (
    ROUNDING,
    Predicting,
    image_of_another_size,
    largest_difference,
    runner_of_onnx,
    runner_of_pt2,
    save_onnx,
    save_pt2,
    traced,
)
from ssl4seg.run.settings import ExportSettings

PAGE = Path(__file__).parents[2] / "docs/export.md"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of an untrained network that standardises its input, with its ONNX file and its weights."""
    folder = tmp_path_factory.mktemp("exported")
    succeed(
        "train", *PHANTOM, "labeled_ratio=1", "optimizer.lr=0", "dataset.mean=[0.3]", "dataset.std=[0.2]", cwd=folder
    )
    run = folder / "outputs/phantom/supervised/unet-1-s0"
    told = succeed("export", f"run={run}", "format=onnx", "num_threads=1", cwd=folder)
    assert difference_in(told) < 1e-5
    assert "batch, height, width may differ from the training input" in told
    succeed("export", f"run={run}", "format=weights", cwd=folder)
    return run


def difference_in(told: str) -> float:
    """The difference that an export prints; val has two cases."""
    found = re.search(r"checked on 2 images: probabilities differ by at most (\S+)", told)
    assert found, told
    return float(found[1])


def facts_in(file: Path) -> dict[str, Any]:
    """The metadata of an ONNX file."""
    found = onnxruntime.InferenceSession(file).get_modelmeta().custom_metadata_map
    return {key: json.loads(text) for key, text in found.items()}


def test_the_example_of_the_page_predicts_what_the_run_predicts(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    imported = [node for node in ast.walk(ast.parse(example)) if isinstance(node, ast.Import)]
    assert [name.name for node in imported for name in node.names] == ["json", "numpy", "onnxruntime"]
    monkeypatch.chdir(tmp_path)
    Path("model.onnx").symlink_to(exported / "export/model.onnx")
    image = np.random.default_rng(0).random((50, 37))
    np.save("image.npy", image)
    assert sum(map(bool, example.splitlines())) <= 20
    names: dict[str, Any] = {}
    exec(compile(example, str(PAGE), "exec"), names)
    labels = np.load("labels.npy")
    expected = ssl4seg.load(exported, *MACHINE).predict(image).labels
    assert len(np.unique(expected)) > 1
    assert (labels == expected).mean() > 0.999
    for normalize, (low, high) in product(("none", "auto", "minmax"), ((0.0, 1.0), (0.2, 0.8), (-2.0, 9.0))):
        names["facts"]["normalize"] = normalize
        pixels = low + (high - low) * image
        np.testing.assert_allclose(names["scaled"](pixels), normalized(pixels[None, None], normalize)[0], atol=1e-6)
        picture = np.uint8(255 * np.stack([image, image**2, 1 - image], axis=2).clip(low, high))
        channels = torch.from_numpy(normalized(np.float32(picture.transpose(2, 0, 1)[None] / 255), normalize))
        scaled = names["scaled"](picture)
        np.testing.assert_allclose(scaled, channels[0], atol=1e-6)
        for size in ((32, 32), (64, 20)):
            np.testing.assert_allclose(names["resized"](scaled, size), interpolated(channels, size)[0], atol=1e-5)


def test_the_file_says_what_its_user_must_know(exported: Path) -> None:
    facts = facts_in(exported / "export/model.onnx")
    named = re.findall(r"^\| ([a-z_0-9, ]+) \| .* \|$", PAGE.read_text().partition("## The check")[0], re.MULTILINE)[1:]
    assert {*facts} == {key for line in named for key in line.split(", ")}
    assert facts["classes"] == ["background", "right_ventricle", "myocardium", "left_ventricle"]
    assert (facts["input_size"], facts["normalize"], facts["inference"]) == ([32, 32], "minmax", "resized")
    assert [*facts["mean"], *facts["std"]] == pytest.approx([0.3, 0.2])
    assert facts["free"] == ["batch", "height", "width"]
    pixel = Patient.draw(0, 1000, 1.0).pixel  # the first patient of val
    assert facts["spacing"] == [THICKNESS, pixel, pixel]
    (opset,) = (each.version for each in onnx.load(exported / "export/model.onnx").opset_import if not each.domain)
    assert facts["opset"] == opset


def test_a_pt2_predicts_what_the_run_predicts_and_says_what_the_onnx_says(exported: Path, tmp_path: Path) -> None:
    words = (f"run={exported}", "format=pt2", f"output={tmp_path}", "num_threads=1")
    assert difference_in(succeed("export", *words, cwd=tmp_path)) < 1e-5
    found = {"facts.json": ""}
    program = torch.export.load(tmp_path / "model.pt2", extra_files=found).module()
    assert json.loads(found["facts.json"]) == {**facts_in(exported / "export/model.onnx"), "opset": None}
    image = torch.rand(2, 1, 48, 40)
    network = ssl4seg.load(exported, *MACHINE).network
    torch.testing.assert_close(program(image).softmax(1), network(image).softmax(1), atol=1e-5, rtol=0)


def test_exported_weights_score_as_the_run_by_the_command_of_their_card(exported: Path, tmp_path: Path) -> None:
    card = (exported / "export/README.md").read_text()
    split = results(exported, "split.json")
    classes = "right_ventricle, myocardium, left_ventricle"
    assert card.partition("## Data\n\n")[2].partition("\n\n")[0].splitlines() == [
        "- dataset: phantom",
        f"- classes: background, {classes}",
        "- channels: 1; training input: 32 x 32 pixels; intensities: normalize=minmax",
        "- labelled: 4 of 4 cases",
        f"- SHA-256 of the split: {split['sha256']}",  # of what is drawn there is no file
    ]
    assert "The model is the one that is best on val by Dice." in card
    assert f"| test | Dice | {classes} | {results(exported)['test']['dice']['mean']:.4g} |" in card
    assert scored_by_the_command_of_its_card(exported, tmp_path) == results(exported)["test"]


def scored_by_the_command_of_its_card(run: Path, home: Path, root: Path = Path()) -> Any:
    """The scores on test by the command that the card of a run's weights prints, DIR replaced by the folder `root`."""
    card = (run / "export/README.md").read_text()
    (line,) = re.findall(r"^    ssl4seg-eval (.*)$", card, re.MULTILINE)
    words = [word.replace("dataset.root=DIR", f"dataset.root={root}") for word in shlex.split(line)]
    assert words[0] == "network.weights=model.safetensors"
    shutil.copy(run / "export/model.safetensors", home)
    succeed("eval", *words, "device=cpu", "num_threads=1", f"output={home / 'again'}", cwd=home)
    return results(home / "again", "results_test.json")["test"]


def test_the_command_of_a_card_holds_every_key_that_its_score_depends_on(tmp_path: Path) -> None:
    root = write_root(tmp_path / "discs", name="my_discs", window=[20, 200], group=r"(p\d)_")
    own = (
        "dataset.image_size=48",
        "dataset.window=none",
        "dataset.test_ratio=0.4",
        "dataset.seed=3",
        "dataset.mean=none",
        "dataset.std=none",
    )
    how = ("inference=sliding", "inference.window=32", "inference.overlap=0.6", "metrics.distances=true")
    few = [word for word in PHANTOM if not word.startswith("dataset")]
    words = ("dataset=folder", f"dataset.root={root}", *own, *how, "metrics.empty=nan", "labeled_ratio=1", "tag=a")
    succeed("train", *few, *words, cwd=tmp_path)
    run = tmp_path / "outputs/my_discs/supervised/unet-1-s0-a"
    told = succeed("export", f"run={run}", "format=weights", cwd=tmp_path)
    assert "README.md" in told
    again = scored_by_the_command_of_its_card(run, tmp_path, root)
    assert again == results(run)["test"]
    card = (run / "export/README.md").read_text()
    assert f"- SHA-256 of the data: {results(run, 'split.json')['data_sha256']}\n" in card
    assert "The model is the one that is best on val by foreground IoU." in card
    rows = [line for line in card.splitlines() if line.startswith("| test |")]
    assert rows[0] == f"| test | foreground IoU | disc | {again['iou']['foreground_mean']:.4g} |"
    assert f"| test | mIoU | ground, disc | {again['iou']['mean']:.4g} |" in rows


@pytest.mark.parametrize(
    "value",
    [None, True, 3, 1e-05, "a b", "null", "1.5", r"(p\d+)_", 'a "b" \\', ["x", None, [1, 2]], {"dog": "a", "b": None}],
)
def test_a_value_is_written_as_hydra_reads_it(value: Any) -> None:
    (read,) = OverridesParser.create().parse_overrides([f"key={_written(value)}"])
    assert read.value() == value


def test_a_network_of_volumes_keeps_its_size_free_and_its_numbers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    keys = small_network("unet") | {"channels": [4, 8], "dropout": [0, 0]}
    network = network_maker(keys, 1, 3, axes=3, load=False)().eval()
    program, free = next(traced(network, 1, (16, 16, 16)))
    assert free == ("batch", "x", "y", "z")
    image = torch.rand(3, 1, 16, 16, 16)
    images = [image, image_of_another_size(image, free)]
    assert images[1].shape == (1, 1, 25, 25, 25)
    save_pt2(program, tmp_path / "model.pt2", {"classes": ["a", "b"]})
    assert largest_difference(runner_of_pt2(tmp_path / "model.pt2"), network, images) < 1e-5
    found = {"facts.json": ""}
    torch.export.load(tmp_path / "model.pt2", extra_files=found)
    assert json.loads(found["facts.json"]) == {"classes": ["a", "b"]}
    save_onnx(program, tmp_path / "model.onnx", {})
    assert largest_difference(runner_of_onnx(tmp_path / "model.onnx"), network, images) < ROUNDING


def test_no_size_is_left_free_where_tracing_it_takes_minutes() -> None:
    class Slow(nn.Conv2d):
        free_sizes = False

    free = [free for _, free in traced(nn.Sequential(Slow(1, 2, 1)), 1, (8, 8))]
    assert free == [("batch",), ()]


def test_the_difference_is_that_of_probabilities() -> None:
    """Logits (0, 0) against (0, ln 3): 1/2 against 1/4 and 3/4."""
    image = torch.zeros(1, 1, 2, 2)
    shifted = torch.tensor([0.0, np.log(3)]).view(1, 2, 1, 1)
    ours, theirs = (lambda x: x.repeat(1, 2, 1, 1)), (lambda x: x + shifted)
    assert largest_difference(ours, theirs, [image]) == pytest.approx(0.25)


class Small(nn.Conv2d):
    """A network of one convolution that does not standardise."""

    mean = std = None

    def __init__(self):
        super().__init__(1, 2, 1)


class Drifting(Small):
    """Its logits rise a little with each call, which a traced graph cannot know."""

    calls = 0

    def forward(self, image):
        self.calls += 1
        return super().forward(image) + torch.tensor([0, 9e-4 * self.calls]).view(1, 2, 1, 1)


class Pooling(Small):
    """Its logits are averages over fifths of the image, whose borders ONNX cannot compute from a free size."""

    def forward(self, image):
        means = nn.functional.adaptive_avg_pool2d(super().forward(image), 5)
        return nn.functional.interpolate(means, image.shape[2:])


def write(network: type[Small], kind: str, file: Path) -> None:
    """Export a supervised run of a network on images of 16 x 16."""
    method = Supervised(network=network).eval()
    data = {"classes": ["a", "b"], "channels": 1, "image_size": 16, "normalize": "none", "_target_": "discs.Discs"}
    settings = ExportSettings(
        dataset=data,
        network={},
        method={},
        inference={"_target_": "ssl4seg.scoring.inference.Whole"},
        device="cpu",
        precision="32",
        num_threads=1,
        run="run",
        format=kind,
        output=None,
        checkpoint="best",
    )
    write_graph(method, settings, file, [torch.rand(1, 1, 16, 16)], None)


def test_a_graph_that_differs_is_removed_and_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.pt2"
    with pytest.raises(UserError, match=r"differ from those of the network by .*on images of discs\.Discs"):
        write(Drifting, "pt2", file)
    assert not file.exists()


def test_a_dimension_that_onnx_cannot_leave_free_is_fixed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "model.onnx"
    with caplog.at_level("INFO", "ssl4seg"):
        write(Pooling, "onnx", file)
    assert "format=onnx with batch, height, width free: onnxruntime cannot run it" in caplog.text
    assert "batch may differ from the training input" in caplog.text
    assert "checked on one image" in caplog.text
    assert facts_in(file)["free"] == ["batch"]
    assert onnxruntime.InferenceSession(file).get_inputs()[0].shape[1:] == [1, 16, 16]


def test_resampled_positions_are_those_of_timm(tmp_path: Path) -> None:
    """onnxscript before 0.7.1 computed another antialiased cubic: vit_dpt was off by 0.05."""

    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.grid = nn.Parameter(torch.randn(1, 9 * 9, 3))

        def forward(self, image):
            new = resample_abs_pos_embed(self.grid, [*image.shape[2:]], num_prefix_tokens=0)
            return image + new.reshape(1, *image.shape[2:], 3).permute(0, 3, 1, 2)

    torch.manual_seed(0)
    network = Positions()
    program, free = next(traced(network, 3, (4, 5)))
    save_onnx(program, tmp_path / "model.onnx", {})
    images = [torch.rand(1, 3, *size) for size in ((4, 5), (6, 8), (9, 9), (13, 20))]
    assert free == ("batch", "height", "width")
    assert largest_difference(runner_of_onnx(tmp_path / "model.onnx"), network, images) < 1e-5


def test_two_networks_that_predict_together_are_one_graph() -> None:
    class Both(Supervised):
        def __init__(self):
            super().__init__(network=lambda: nn.Conv2d(1, 2, 1))
            self.peer = nn.Conv2d(1, 2, 1)
            self.mean = MeanOf(self.student, self.peer)

        predictor = property(lambda self: self.mean)

    method = Both().eval()
    program, _ = next(traced(Predicting(method), 1, (8, 8)))
    image = torch.rand(2, 1, 8, 8)
    assert largest_difference(program.module(), method.predict, [image]) < ROUNDING
    p = (method.student(image).softmax(1) + method.peer(image).softmax(1)) / 2
    torch.testing.assert_close(program.module()(image).softmax(1), p)


def test_export_names_what_is_wrong(exported: Path, tmp_path: Path) -> None:
    assert "run not set" in refused("export", "format=pt2", cwd=tmp_path)
    assert "one of onnx, pt2, weights" in refused("export", f"run={exported}", "format=torch", cwd=tmp_path)
    told = refused("export", f"run={exported}", "inference=sliding", cwd=tmp_path)
    assert "ssl4seg-export does not depend on inference" in told
    told = refused("export", f"run=[{exported},{exported}]", cwd=tmp_path)
    assert "expected the folder of one run" in told
