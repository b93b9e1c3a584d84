"""Predict cases and score the predictions. The engine, `ssl4seg-eval` and `ssl4seg-predict` use this."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import zoom

from ssl4seg.data.case import Case, FloatArray, ImageArray, LabelArray, Spacing, Volume
from ssl4seg.data.dataset import Dataset
from ssl4seg.errors import UserError
from ssl4seg.feed.views import as_float
from ssl4seg.scoring.inference import Inference, Predict
from ssl4seg.scoring.metrics import metric_table
from ssl4seg.scoring.postprocess.base import Given, Step, check_steps
from ssl4seg.scoring.tables import Table, empty_table

Pixel = TypeVar("Pixel", np.float32, np.uint8)

LITERAL = ("ssl4mis", "la")
"""Protocols that measure as the literature does."""
NO_TEST = "dataset={}: test has no masks to score by; the model is tested on val, on which it was chosen"


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """Turns a volume at native size into its label map.

    Args:
        predict: the method's or network's predict, in evaluation mode.
        inference: brings images of native size to the network and logits back.
        batch_size: slices in one forward pass.
        protocol: "default" runs `inference`, then argmax; "ssl4mis" brings slices to the square and label maps back by
            order-0 zoom, as the literature on ACDC evaluates; "la" runs `literal_windows`, as that on volumes does.
        steps: the steps of post-processing in their order; with either protocol they work at native size.
        classes: names of the classes, for steps whose keys name classes.
        background: whether class 0 belongs to nothing, see `Dataset`.
    """

    predict: Predict
    inference: Inference
    device: torch.device
    batch_size: int = 32
    protocol: str = "default"
    steps: Sequence[Step] = ()
    classes: Sequence[str] = ()
    background: bool = True

    def __post_init__(self) -> None:
        if self.protocol == "ssl4mis" and len(self.inference.shape) > 2:
            raise UserError("protocol=ssl4mis resizes slices; evaluate volumes with protocol=default or la")
        if self.protocol == "la" and len(self.inference.shape) < 3:
            raise UserError("protocol=la slides windows over volumes; evaluate slices with protocol=default or ssl4mis")
        check_steps(
            self.steps,
            probabilities=self.protocol != "ssl4mis",
            classes=self.classes,
            background=self.background,
        )

    def __call__(self, image: ImageArray, spacing: Spacing | None = None) -> LabelArray:
        """[S, C, *X] normalised -> [S, *X] uint8, post-processed; spacing in mm."""
        label, probability = self.bare(image)
        return self.processed(label, Given(image, probability, spacing))

    @torch.inference_mode()
    def bare(self, image: ImageArray, *, probabilities: bool = False) -> tuple[LabelArray, FloatArray | None]:
        """The label map before post-processing, and the probabilities [S, K, *X] where a step reads them.

        Args:
            probabilities: return them in any case; protocol="ssl4mis" has none.
        """
        wanted = probabilities or any(step.reads_probabilities for step in self.steps)
        batches = (image[i : i + self.batch_size] for i in range(0, len(image), self.batch_size))
        parts = [self._zoomed(b) if self.protocol == "ssl4mis" else self._native(b, wanted) for b in batches]
        labels, per_part = zip(*parts, strict=True)
        arrays = [p for p in per_part if p is not None]
        return np.concatenate(labels), np.concatenate(arrays) if arrays else None

    def processed(self, label: LabelArray, given: Given) -> LabelArray:
        """The label map after all steps."""
        for step in self.steps:
            label = step(label, given)
        return label

    def _native(self, image: ImageArray, probabilities: bool) -> tuple[LabelArray, FloatArray | None]:
        scores = self.inference(self.predict, as_float(torch.from_numpy(image).to(self.device)))
        label = scores.argmax(dim=1).to(torch.uint8).cpu().numpy()
        if not probabilities:
            return label, None
        return label, (scores if self.inference.averages else scores.softmax(dim=1)).float().cpu().numpy()

    def _zoomed(self, image: ImageArray) -> tuple[LabelArray, None]:
        square = as_float(torch.from_numpy(zoomed(image, self.inference.shape)).to(self.device))
        label = self.predict(square).argmax(dim=1).to(torch.uint8).cpu().numpy()
        return zoomed(label, image.shape[-2:]), None


def zoomed(pixels: npt.NDArray[Pixel], size: tuple[int, ...]) -> npt.NDArray[Pixel]:
    """Resize each slice [..., H, W] to `size` as scipy.ndimage.zoom of order 0 does, one axis after the other."""
    rows, columns = (nearest(n, target) for n, target in zip(pixels.shape[-2:], size, strict=True))
    result = pixels[..., rows[:, None], columns]
    result[..., rows < 0, :] = 0
    result[..., columns < 0] = 0
    return result


def nearest(length: int, target: int) -> npt.NDArray[np.intp]:
    """For each of `target` pixels the number of its source among `length` pixels, in scipy.ndimage.zoom of order 0.

    -1 if a rounding error puts the last source outside (as for 256 -> 216); zoom fills such a pixel with 0.
    """
    return np.asarray(zoom(np.arange(1, length + 1), target / length, order=0)) - 1


@dataclass(frozen=True, kw_only=True)
class Measures:
    """The keys of `metrics`: which metrics are measured, and how.

    Args:
        unit: the unit of distances: voxel, mm or auto (mm if every case knows its spacing).
        empty: the policy for empty masks, see `metrics.score`.
        distances: whether HD95 and ASD are measured on datasets that are scored by pixels too.
        more: dotted names of the user's own metrics.
    """

    unit: str = "auto"
    empty: str = "worst"
    distances: bool = False
    more: Sequence[str] = ()


def distance_unit(unit: str, cases: Iterable[Case]) -> str:
    """The unit of distances, "voxel" or "mm"; `auto` is mm if every case knows its spacing.

    Raises:
        UserError: mm is asked for, but a case has no spacing.
    """
    known = all(case.spacing is not None for case in cases)
    if unit == "mm" and not known:
        raise UserError("metrics.unit=mm: not every case has a voxel spacing; use metrics.unit=voxel (or auto)")
    return "mm" if unit == "mm" or (unit == "auto" and known) else "voxel"


def table_of(dataset: Dataset, cases: Sequence[Case], measures: Measures, protocol: str = "default") -> Table:
    """An empty table by `dataset.scoring`; the literature's protocols measure in voxels and score empty masks with 0.

    Raises:
        UserError: the cases cannot be measured in mm, or a metric of the user's own cannot be imported.
    """
    literal = protocol in LITERAL
    measured = dataset.scoring == "cases" or measures.distances
    return empty_table(
        dataset.scoring,
        dataset.classes,
        metric_table(measures.more).values(),
        background=dataset.background,
        distances=measures.distances,
        unit=distance_unit(measures.unit, cases) if measured and not literal else "voxel",
        empty="zero" if literal else measures.empty,
    )


def evaluate(
    predictor: Predictor,
    cases: Sequence[tuple[Case, Volume]],
    table: Table,
    *,
    part: slice = slice(None),
    keep: Callable[[Case, Volume, LabelArray], None] | None = None,
    bare: Table | None = None,
) -> None:
    """Predict every case and add its scores to the table.

    A case that was cropped or resampled as it was read is scored on its file's own grid: each voxel of the file gets
    the label of the nearest voxel of the prediction, and class 0 outside of what was read.

    Args:
        part: the cases of this process.
        keep: is called with each case, its volume and its prediction.
        bare: a table that gets the scores before post-processing.
    """
    start = time.perf_counter()
    for case, volume in cases[part]:
        before = time.perf_counter()
        label, probability = predictor.bare(volume.image)
        table.forward_seconds += time.perf_counter() - before
        before = time.perf_counter()
        prediction = predictor.processed(label, Given(volume.image, probability, case.spacing))
        table.postprocess_seconds += time.perf_counter() - before
        truth, spacing, back = _truth(case, volume)
        table.add(case.name, back(prediction), truth, spacing)
        if bare:
            bare.add(case.name, back(label), truth, spacing)
        if keep:
            keep(case, volume, prediction)
    table.seconds = time.perf_counter() - start


def _truth(case: Case, volume: Volume) -> tuple[LabelArray, Spacing | None, Callable[[LabelArray], LabelArray]]:
    """The mask of a case on its file's own grid, its spacing, and how a prediction is brought there."""
    assert volume.label is not None  # `data.reading.OnDemand` refuses a case without a mask
    if case.place is None:
        return volume.label, case.spacing, lambda label: label
    assert case.read_label is not None
    return case.read_label(), case.place.spacing, case.place.back
