"""Cases in, predictions and a table of metrics out. Used by the engine, `ssl4seg-eval` and `ssl4seg-predict`."""

import csv
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy.ndimage import zoom
from torch import Tensor

from ssl4seg.data.case import Case, FloatArray, LabelArray, Volume
from ssl4seg.data.store import Raw
from ssl4seg.errors import UserError
from ssl4seg.metrics import METRICS, Empty, Score, score_classes
from ssl4seg.views import fit, sample

Pixel = TypeVar("Pixel", np.float32, np.uint8)
Predict = Callable[[Tensor], Tensor]
"""[N, C, H, W] -> logits [N, K, H, W]."""


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """From a volume at native size to its label map.

    Args:
        predict: the method's or network's predict, in evaluation mode.
        side: pixels of the network's square input.
        batch_size: slices in one forward pass.
        protocol: "default": linear resize, logits back to native size linearly, then argmax;
            "ssl4mis": slices to the square and label maps back by order-0 zoom, as the literature evaluates.
    """

    predict: Predict
    side: int
    device: torch.device
    batch_size: int = 32
    protocol: str = "default"

    def __post_init__(self) -> None:
        if self.protocol not in ("default", "ssl4mis"):
            raise UserError(f"protocol={self.protocol}: expected default or ssl4mis")

    @torch.inference_mode()
    def __call__(self, image: FloatArray) -> LabelArray:
        """[S, C, H, W] normalised -> [S, H, W] uint8."""
        step = self._zoomed if self.protocol == "ssl4mis" else self._linear
        return np.concatenate([step(image[i : i + self.batch_size]) for i in range(0, len(image), self.batch_size)])

    def _linear(self, image: FloatArray) -> LabelArray:
        slices = torch.from_numpy(image).to(self.device)
        size = torch.tensor([image.shape[-2:]], dtype=torch.float32).expand(len(image), 2)
        raw = Raw(slices, torch.zeros_like(slices[:, 0], dtype=torch.uint8), size)
        square, _ = sample(raw, fit(size), self.side)
        logits = self.predict(square.contiguous(memory_format=torch.channels_last))
        native = F.interpolate(logits, size=image.shape[-2:], mode="bilinear", align_corners=False)
        return native.argmax(dim=1).to(torch.uint8).cpu().numpy()

    def _zoomed(self, image: FloatArray) -> LabelArray:
        square = torch.from_numpy(zoomed(image, (self.side, self.side))).to(self.device)
        label = self.predict(square).argmax(dim=1).to(torch.uint8).cpu().numpy()
        return zoomed(label, image.shape[-2:])


def zoomed(pixels: npt.NDArray[Pixel], size: tuple[int, ...]) -> npt.NDArray[Pixel]:
    """scipy.ndimage.zoom of order 0 of each slice [..., H, W] to `size`; it is separable."""
    rows, columns = (nearest(n, target) for n, target in zip(pixels.shape[-2:], size, strict=True))
    result = pixels[..., rows[:, None], columns]
    result[..., rows < 0, :] = 0
    result[..., columns < 0] = 0
    return result


def nearest(length: int, target: int) -> npt.NDArray[np.intp]:
    """Which of `length` pixels each of `target` pixels shows after scipy.ndimage.zoom of order 0.

    -1 where the last one falls outside by a rounding error (256 -> 216 for one), which zoom fills with 0.
    """
    return np.asarray(zoom(np.arange(1, length + 1), target / length, order=0)) - 1


@dataclass(kw_only=True)
class Table:
    """Scores of cases: `rows` maps a case to its classes' scores, in the order of `classes` (background left out)."""

    classes: Sequence[str]
    unit: str
    rows: dict[str, list[Score]] = field(default_factory=dict)
    forward_seconds: float = 0.0
    seconds: float = 0.0

    def summary(self) -> dict[str, Any]:
        """{"dice": {"mean": .., "<class>": ..}, ...}: mean over cases per class, then over classes; NaN is left out."""
        result: dict[str, Any] = {}
        for m, metric in enumerate(METRICS):
            per_class = {
                name: _mean(scores[k][m] for scores in self.rows.values()) for k, name in enumerate(self.classes)
            }
            result[metric] = {"mean": _mean(per_class.values()), **per_class}
        return result | {"distance_unit": self.unit, "num_cases": len(self.rows)}

    def write_csv(self, path: Path) -> None:
        """A row a case and class."""
        partial = path.with_name(path.name + ".partial")
        with partial.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["case", "class", *METRICS, "distance_unit"])
            for case, scores in self.rows.items():
                for name, values in zip(self.classes, scores, strict=True):
                    writer.writerow([case, name, *(f"{v:.6g}" for v in values), self.unit])
        partial.replace(path)


def _mean(values: Iterable[float]) -> float:
    known = [v for v in values if not math.isnan(v)]
    return sum(known) / len(known) if known else math.nan


def distance_unit(unit: str, volumes: Iterable[Volume]) -> str:
    """ "voxel" or "mm"; `auto` takes mm where every case knows its spacing."""
    if unit not in ("auto", "voxel", "mm"):
        raise UserError(f"metrics.unit={unit}: expected auto, voxel or mm")
    known = all(volume.spacing is not None for volume in volumes)
    if unit == "mm" and not known:
        raise UserError("metrics.unit=mm: not every case has a voxel spacing; use metrics.unit=voxel (or auto)")
    return "mm" if unit == "mm" or (unit == "auto" and known) else "voxel"


def evaluate(
    predictor: Predictor,
    cases: Sequence[tuple[Case, Volume]],
    *,
    classes: Sequence[str],
    unit: str = "auto",
    empty: Empty = "worst",
    part: slice = slice(None),
    keep: Callable[[Case, Volume, LabelArray], None] | None = None,
) -> Table:
    """Predict and score every case; with `part`, only this process's.

    Args:
        classes: all K names, background first.
        unit: "auto", "voxel" or "mm"; with the ssl4mis protocol always voxel.
        empty: policy for empty masks; with the ssl4mis protocol always "zero".
        keep: called with each case and its prediction.
    """
    literal = predictor.protocol == "ssl4mis"
    measured = "voxel" if literal else distance_unit(unit, (volume for _, volume in cases))
    table = Table(classes=classes[1:], unit=measured)
    start = time.perf_counter()
    for case, volume in cases[part]:
        before = time.perf_counter()
        prediction = predictor(volume.image)
        table.forward_seconds += time.perf_counter() - before
        if volume.label is None:
            raise UserError(f"{case.name}: has no mask; the cases of val and test need one")
        spacing = volume.spacing if measured == "mm" else None
        table.rows[case.name] = score_classes(
            prediction, volume.label, len(classes), spacing, "zero" if literal else empty
        )
        if keep:
            keep(case, volume, prediction)
    table.seconds = time.perf_counter() - start
    return table
