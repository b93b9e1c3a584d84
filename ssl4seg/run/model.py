"""A trained model: the network of a run, or of several runs together, from images to labels and probabilities."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torch import nn

from ssl4seg.data.case import FloatArray, ImageArray, LabelArray, Spacing, Volume, checked
from ssl4seg.data.dataset import shape_of
from ssl4seg.data.grid import Place, grid_of
from ssl4seg.data.images import as_in_file
from ssl4seg.data.intensities import scaling_of
from ssl4seg.data.items import facts_of, in_axes, pixels_of
from ssl4seg.data.orientation import Space
from ssl4seg.data.volumes import as_stored, placed, sliced
from ssl4seg.errors import UserError
from ssl4seg.keys import IGNORE, Key, expect, is_list, is_number
from ssl4seg.methods.base import Method
from ssl4seg.run.assemble import postprocess_of, predictor_of
from ssl4seg.run.device import fabric_of, out_of_memory_explained
from ssl4seg.run.load import load_run
from ssl4seg.run.settings import Config, TrainedSettings
from ssl4seg.scoring.postprocess.base import Given
from ssl4seg.scoring.predictor import Predictor

ALIKE: Mapping[str, Any] = {
    "classes": None,
    "channels": None,
    "channel_files": False,
    "orientation": "stored",
    "slice_axis": "z",
    "h5_axes": "zyx",
    "spacing": None,
    "crop": None,
}
"""Keys of the dataset that runs must share if their probabilities are averaged, with what an absent key means."""

SPACING = Key(
    lambda value: is_list(value) and len(value) == 3 and all(is_number(mm) and mm > 0 for mm in value),
    "three numbers above 0: mm between slices, rows and columns, or along x, y and z",
)


class Prediction(NamedTuple):
    """What `Model.predict` returns."""

    labels: LabelArray
    """Numbers of classes, in the axes of the image without its channels."""
    probabilities: FloatArray | None
    """[K, axes of the labels], or [S, K, H, W] for slices [S, C, H, W]; None unless they were asked for."""


class Found(NamedTuple):
    """An image and what was predicted on it: slices [S, *X] with two axes, or one image with three.

    All are on the grid on which the run's dataset reads volumes.
    """

    image: ImageArray
    """[S, C, *X], scaled as the (first) run's dataset is."""
    label: LabelArray
    """[S, *X]"""
    probability: FloatArray | None
    """[S, K, *X]"""
    place: Place
    """Where the image lies in its file or array."""

    def unsure_below(self, confidence: float) -> "Found":
        """The same with IGNORE in each pixel whose most probable class has less than `confidence`."""
        assert self.probability is not None
        sure = self.probability.max(axis=1) >= confidence
        return self._replace(label=np.where(sure, self.label, IGNORE).astype(np.uint8))

    def own_label(self) -> LabelArray:
        """The label on the input's own grid."""
        label: LabelArray = self.place.back(self.label)
        return label

    def own_probability(self) -> FloatArray | None:
        """The probabilities on the input's own grid, of the nearest voxel; class 0 has 1 outside of what was read."""
        if self.probability is None:
            return None
        slices, classes, *read = self.probability.shape
        whole = self.place.back(self.probability.reshape(-1, *read)).reshape(slices, classes, *self.place.shape)
        whole[:, 0] += self.place.back(np.ones((1, *read), np.uint8)) == 0
        return whole


class Member(NamedTuple):
    """One run of a model."""

    settings: TrainedSettings
    method: Method
    predictor: Predictor


class Model:
    """The trained model of a run; of several runs their probabilities are averaged before post-processing.

    Args:
        runs: the settings of each; post-processing is that of the first.

    Raises:
        UserError: a run has no checkpoint, or cannot be averaged with the first.
    """

    def __init__(self, runs: Sequence[TrainedSettings]) -> None:
        for other in runs[1:]:
            _expect_alike(runs[0], other)
        self.members = tuple(_member(settings) for settings in runs)
        self.data: Config = runs[0].dataset
        self.channels: int = self.data["channels"]
        self.axes = len(shape_of(self.data["image_size"]))
        self.space = Space(*(self.data.get(key, ALIKE[key]) for key in Space._fields))

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; the place of a name is the number in the labels."""
        return tuple(self.data["classes"])

    @property
    def network(self) -> nn.Module:
        """The network that predicts: [N, C, *X] -> logits [N, K, *X]. It standardises by `dataset.mean` itself.

        Raises:
            UserError: the model has the networks of several runs.
        """
        if len(self.members) > 1:
            raise UserError(f"the model averages {len(self.members)} runs; load one run to have its network")
        return self.members[0].method.predictor

    def predict(
        self,
        image: npt.ArrayLike | str | Path | Sequence[Path],
        *,
        spacing: Sequence[float] | None = None,
        probabilities: bool = False,
    ) -> Prediction:
        """Predict an image at its native size, as `ssl4seg-predict` does.

        Args:
            image: an array, the path of a file, or a list of the paths of one image's channel files. Arrays are
                [H, W] (of one channel), [C, H, W] or slices [S, C, H, W]; for a run on volumes [X, Y, Z] or
                [C, X, Y, Z]. Intensities are as files hold them, because the model scales them (`dataset.normalize`);
                in uint8 255 stands for 1, as in a picture.
            spacing: of an array in mm, for `dataset.spacing` and for steps of post-processing that measure: between
                slices, rows and columns, or along x, y and z. A file's own counts.
            probabilities: whether to return them too.

        Returns:
            Labels, in the axes of the array without its channels. Of a file in the axes of its array: [X, Y, Z] for
            NIfTI, else [S, H, W] or [H, W].

        Raises:
            UserError: the image has another shape or other channels than the run's, or cannot be read.
        """
        with out_of_memory_explained():
            if files := _files(image):
                return self._of_file(files, probabilities)
            return self._of_array(np.asarray(image), spacing, probabilities)

    def of_files(self, files: Sequence[Path], *, probabilities: bool = False) -> Found:
        """Read an image whose channels lie in one file or in several, and predict it."""
        pixels, spacing = self._read(files)
        return self._found(pixels, spacing, str(files[0]), probabilities)

    def image_of(self, files: Sequence[Path]) -> ImageArray:
        """Read an image as `of_files` does, and return it as the (first) run's network gets it: [S, C, *X], scaled."""
        pixels, spacing = self._read(files)
        return self._placed(pixels, spacing, str(files[0]))[0]

    def _read(self, files: Sequence[Path]) -> tuple[ImageArray, Spacing | None]:
        """The pixels of an image as its files hold them, in the run's axes, and their spacing.

        Raises:
            UserError: the run was trained on volumes, and the image is none.
        """
        pixels = pixels_of(files, self.channels, space=self.space)
        spacing = facts_of(files, self.channels, self.space).spacing
        pixels, spacing = in_axes(pixels, files[0], spacing, self.data)
        if self.axes == 3 and 1 in pixels.shape[2:]:
            size = " x ".join(map(str, pixels.shape[2:]))
            raise UserError(
                f"{files[0]}: is {size} and so no volume, but the run was trained on volumes "
                f"(dataset.image_size={self.data['image_size']}); give volumes, or a run on slices"
            )
        return pixels, spacing

    def slices(self, found: npt.NDArray[Any], file: Path) -> npt.NDArray[Any]:
        """What was predicted on a file, [S, ...] with two axes as it is, [1, ..., X, Y, Z] as slices [S, ..., H, W]."""
        if self.axes == 2:
            return found
        stored = self._stored(file)
        if found.ndim == 4:
            return sliced(found, stored=stored)
        return np.stack([sliced(part[None], stored=stored) for part in found[0]], axis=1)

    def _stored(self, file: Path) -> bool:
        return as_stored(file, self.data.get("h5_axes", ALIKE["h5_axes"]))

    def probabilities_in(self, found: Found, file: Path) -> FloatArray | None:
        """The probabilities [K, ...] in the axes of the array that the file holds."""
        if (probability := found.own_probability()) is None:
            return None
        each = np.moveaxis(self.slices(probability, file), 1, 0)
        return np.stack([as_in_file(part, file, space=self.space) for part in each])

    def _of_file(self, files: Sequence[Path], probabilities: bool) -> Prediction:
        found = self.of_files(files, probabilities=probabilities)
        labels = as_in_file(self.slices(found.own_label(), files[0]), files[0], space=self.space)
        return Prediction(labels, self.probabilities_in(found, files[0]))

    def _of_array(self, image: npt.NDArray[Any], spacing: Sequence[float] | None, probabilities: bool) -> Prediction:
        if spacing is not None:
            expect("spacing", list(spacing), SPACING)
        distances = None if spacing is None else (float(spacing[0]), float(spacing[1]), float(spacing[2]))
        found = self._found(self._stacked(image), distances, "the array", probabilities)
        label, probability = found.own_label(), found.own_probability()
        if self.axes == 2 and image.ndim == 4:
            return Prediction(label, probability)
        return Prediction(label[0], None if probability is None else probability[0])

    def _stacked(self, image: npt.NDArray[Any]) -> ImageArray:
        """An array as [S, C, *X], float32 or uint8."""
        letters = "H, W" if self.axes == 2 else "X, Y, Z"
        bare, stack = image.ndim == self.axes and self.channels == 1, image.ndim == 4 and self.axes == 2
        fits = bare or stack or image.ndim == self.axes + 1
        whole = image[None, None] if bare else image if stack else image[None]
        if not fits or whole.shape[1] != self.channels or 0 in image.shape:
            expected = [f"[{letters}]"] * (self.channels == 1) + [f"[{self.channels}, {letters}]"]
            expected += [f"slices [S, {self.channels}, {letters}]"] * (self.axes == 2)
            raise UserError(
                f"the array has shape {list(image.shape)}; the run was trained with {self.channels} channel(s): "
                f"expected {' or '.join(expected)}"
            )
        if image.dtype.kind not in "iuf":
            raise UserError(f"the array holds {image.dtype}; expected numbers, integers or floating point")
        return whole if whole.dtype == np.uint8 else whole.astype(np.float32)

    def _found(self, pixels: ImageArray, spacing: Spacing | None, source: str, probabilities: bool) -> Found:
        """Predict pixels [S, C, *X] as files hold them.

        Args:
            spacing: along the axes of the pixels, in mm.
        """
        first, *others = self.members
        image, place = self._placed(pixels, spacing, source)
        label, probability = first.predictor.bare(image, probabilities=probabilities or bool(others))
        if others and probability is not None:
            for member in others:
                scaled = placed(pixels, place, scaling_of(member.settings.dataset))
                more = member.predictor.bare(scaled, probabilities=True)[1]
                assert more is not None
                probability += more
            probability /= len(self.members)
            label = probability.argmax(axis=1).astype(np.uint8)
        label = first.predictor.processed(label, Given(image, probability, place.spacing_read))
        return Found(image, label, probability, place)

    def _placed(self, pixels: ImageArray, spacing: Spacing | None, source: str) -> tuple[ImageArray, Place]:
        """Pixels on the grid and in the scale of the (first) run, and where they lie in their file or array."""
        place = grid_of(self.data).place(source, pixels.shape[2:], spacing, lambda: pixels)
        image = placed(pixels, place, scaling_of(self.data))
        checked(Volume(image, None), source, self.data["num_classes"], self.channels)
        return image, place


def _member(settings: TrainedSettings) -> Member:
    fabric = fabric_of(device=settings.device, precision=settings.precision, num_threads=settings.num_threads)
    method = load_run(Path(settings.run), settings, settings.checkpoint, fabric.device)
    steps = postprocess_of(settings.postprocess)
    return Member(
        settings, method, predictor_of(method, fabric, settings, batch_size=settings.eval_batch_size, steps=steps)
    )


def _expect_alike(first: TrainedSettings, other: TrainedSettings) -> None:
    """Refuse a run whose probabilities cannot be averaged with the first's."""
    pairs = [
        (f"dataset.{key}", *(run.dataset.get(key, default) for run in (other, first))) for key, default in ALIKE.items()
    ]
    pairs.append(("number of axes", *(len(shape_of(run.dataset["image_size"])) for run in (other, first))))
    for what, there, here in pairs:
        if there != here:
            raise UserError(
                f"run={other.run}: its {what} is {there}, that of run={first.run} is {here}; only the probabilities of "
                "runs on the same classes, channels and axes are averaged"
            )


def _files(image: Any) -> list[Path]:
    """The files that an image is read from; none if it is an array."""
    if isinstance(image, str | Path):
        return [Path(image)]
    if isinstance(image, list | tuple) and image and all(isinstance(part, str | Path) for part in image):
        return [Path(part) for part in image]
    return []
