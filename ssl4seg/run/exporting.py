"""Write a run's trained model as a file, and check it on images of the run's dataset."""

import logging
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ssl4seg.axes import interpolated
from ssl4seg.data.case import checked
from ssl4seg.data.dataset import Dataset, shape_of
from ssl4seg.errors import UserError
from ssl4seg.feed.views import as_float
from ssl4seg.files import writing
from ssl4seg.methods.base import Method
from ssl4seg.run.graph import (
    OPSET,
    ROUNDING,
    GraphError,
    Predicting,
    expect_onnx,
    image_of_another_size,
    largest_difference,
    runner_of_onnx,
    runner_of_pt2,
    save_onnx,
    save_pt2,
    traced,
)
from ssl4seg.run.settings import ExportSettings

log = logging.getLogger("ssl4seg")

CHECKED = 3
"""Images on which an export is compared with its network, if the dataset has as many."""


def write_weights(method: Method, file: Path) -> None:
    """Write the state dict of the network that predicts as safetensors."""
    state = method.predictor.state_dict()
    if not state:
        raise UserError(
            "format=weights: the run predicts with several networks together; choose one "
            "(method.predict_with=student), or use format=onnx or pt2"
        )
    with writing(file) as partial:
        save_file({name: value.contiguous().clone() for name, value in state.items()}, partial, {"format": "pt"})
    log.info(f"written: {file}, {sum(value.numel() for value in state.values()):,} numbers")


def write_graph(
    method: Method, settings: ExportSettings, file: Path, images: Sequence[Tensor], spacing: Sequence[float] | None
) -> None:
    """Write the graph and compare it with the network; where they differ, try one with fewer free dimensions.

    Args:
        images: one to CHECKED of the dataset, [1, C, *X] of the training input's size.
        spacing: of the first of them.
    """
    if settings.format == "onnx":
        expect_onnx()
    network = Predicting(method).eval()
    save, runner = {"onnx": (save_onnx, runner_of_onnx), "pt2": (save_pt2, runner_of_pt2)}[settings.format]
    fault = ""
    for program, free in traced(network, settings.dataset["channels"], shape_of(settings.dataset["image_size"])):
        try:
            save(program, file, facts(method, settings, free, spacing))
            difference = largest_difference(runner(file), network, _three(images, free))
        except GraphError as error:
            fault = str(error)
        else:
            if difference <= ROUNDING:  # NaN is not
                break
            fault = (
                "probabilities of the exported graph differ from those of the network by "
                f"{difference:.2g} on images of {settings.dataset['_target_']}; at most {ROUNDING:g} is accepted"
            )
        file.unlink(missing_ok=True)
        log.info(f"format={settings.format} with {', '.join(free) or 'no dimension'} free: {fault}")
    else:
        raise UserError(f"format={settings.format}: {fault}. No file was kept; use format=weights, or another network")
    fixed = f"; {', '.join(free)} may differ from the training input" if free else "; the input has one size"
    log.info(f"written: {file}, {file.stat().st_size / 2**20:,.2f} MiB{fixed}")
    on = f"{len(images)} images" if len(images) > 1 else "one image"
    log.info(f"checked on {on}: probabilities differ by at most {difference:.2g} (accepted: {ROUNDING:g})")


def _three(images: Sequence[Tensor], free: Sequence[str]) -> list[Tensor]:
    """Three images; the second in a batch of two, the third of another size, where these are free. Few recur."""
    three = [images[place % len(images)] for place in range(CHECKED)]
    if "batch" in free:
        three[1] = torch.cat(three[:2])
    three[2] = image_of_another_size(three[2], free)
    return three


def facts(
    method: Method, settings: ExportSettings, free: Sequence[str], spacing: Sequence[float] | None
) -> dict[str, Any]:
    """What a user of the file must know; docs/export.md describes each entry."""
    data, student = settings.dataset, method.student
    mean, std = (None if values is None else values.flatten().tolist() for values in (student.mean, student.std))
    return {
        "classes": list(data["classes"]),
        "channels": data["channels"],
        "input_size": list(shape_of(data["image_size"])),
        "free": list(free),
        "crop": data.get("crop"),
        "window": data.get("window"),
        "normalize": data["normalize"],
        "mean": mean,
        "std": std,
        "spacing": None if spacing is None else list(spacing),
        "inference": str(settings.inference["_target_"]).rpartition(".")[2].lower(),
        "run": settings.run,
        "opset": OPSET if settings.format == "onnx" else None,
        "ssl4seg": version("ssl4seg"),
    }


def images_of(dataset: Dataset) -> tuple[list[Tensor], Sequence[float] | None]:
    """The middle slice, or the volume, of up to three cases of val (else of train), at the training input's size."""
    cases = dataset.cases("val") or dataset.cases("train")
    images = []
    for case in cases[:CHECKED]:
        pixels = checked(case.volume(label=False), case.name, dataset.num_classes, dataset.channels).image
        middle = as_float(torch.from_numpy(pixels[len(pixels) // 2][None]))
        images.append(interpolated(middle, dataset.image_size))
    return images, cases[0].spacing
