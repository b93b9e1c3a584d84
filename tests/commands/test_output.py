"""What ssl4seg-predict would write is settled before it predicts: the value of unsure pixels, and free places."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from ssl4seg.commands.output import Output
from ssl4seg.data.masks import MaskReader, as_held
from ssl4seg.errors import UserError


def output(folder: Path, targets: dict[str, str] | None = None, data: dict[str, Any] | None = None, **keys) -> Output:
    """The output of a run on a folder with classes a, b."""
    dataset = {"_target_": "ssl4seg.data.folder.Folder", "classes": ["a", "b"], "colors": None, **(data or {})}
    usual = {"format": "masks", "probabilities": False, "min_confidence": None, "overlay": False}
    settings: Any = SimpleNamespace(
        **{**usual, "mask_values": "classes", "input": "in", "output": str(folder), "dataset": dataset, **keys}
    )
    return Output(settings, {folder / mask: Path(image) for mask, image in (targets or {}).items()})


@pytest.mark.parametrize(
    ("data", "keys"),
    [
        ({}, {"classes": ["a", "b"], "ignore_index": 255}),
        ({"colors": [0, 128]}, {"classes": ["a", "b"], "colors": [0, 128], "ignore_index": 255}),
        ({"colors": [0, 255], "ignore_index": 7}, {"classes": ["a", "b"], "colors": [0, 255], "ignore_index": 7}),
        (
            {"colors": ["#000000", "#ff0000"], "ignore_color": "#00ff00"},
            {"classes": ["a", "b"], "colors": ["#000000", "#ff0000"], "ignore_color": "#00ff00"},
        ),
    ],
)
def test_dataset_yaml_reads_unsure_pixels_as_ignored(tmp_path: Path, data: dict, keys: dict) -> None:
    written = output(tmp_path, data=data, min_confidence=0.8, mask_values="dataset")
    assert yaml.safe_load(written.description) == keys
    label = np.array([[[0, 1, 2]]], np.uint8)  # the last is unsure
    held = as_held(label, written.mask_colors or [0, 1, 255])
    reader = MaskReader(num_classes=2, **{"colors": None, **{k: v for k, v in keys.items() if k != "classes"}})
    codes = held if held.ndim == 3 else held[..., 0].astype(int) * 65536 + held[..., 1].astype(int) * 256 + held[..., 2]
    if held.ndim == 4:
        codes = np.where(codes > 0, codes + 2**30, codes)
    assert reader.label(codes, tmp_path / "a.png").tolist() == [[[0, 1, 255]]]


@pytest.mark.parametrize(
    ("data", "keys", "named"),
    [
        ({"colors": [0, 255]}, {"min_confidence": 0.8, "mask_values": "dataset"}, "would have the value 255, which is"),
        ({}, {"format": "coco", "mask_values": "dataset"}, "mask_values=dataset: .* format=coco writes none"),
        ({}, {"format": "labelme"}, "a.png exist.s. already, perhaps with someone's work in it"),
        ({}, {"min_confidence": 0.8}, "dataset.yaml: would be overwritten"),
        ({}, {"overlay": True}, "in/a_overlay.png: what is predicted on it has the name of a file .* in/a.png"),
    ],
)
def test_what_would_be_lost_or_means_nothing_is_refused(tmp_path: Path, data: dict, keys: dict, named: str) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "dataset.yaml").write_text("classes: [mine]\n")
    with pytest.raises(UserError, match=named):
        output(tmp_path, {"a.png": "in/a.png", "a_overlay.png": "in/a_overlay.png"}, data, **keys)
    assert output(tmp_path, {"a.png": "in/a.png"}).description == ""  # masks are written again
