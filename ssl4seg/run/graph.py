"""The network of a run as a graph that runs without ssl4seg: ONNX, or a program of torch.export."""

import contextlib
import io
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ssl4seg.errors import UserError, optional_package
from ssl4seg.files import writing
from ssl4seg.methods.base import Method

OPSET = 20
"""Of ONNX."""
NAMES = {2: ("height", "width"), 3: ("x", "y", "z")}
"""Of the axes of images."""
ROUNDING = 1e-4
"""Probabilities of the graph and of the network may differ by this much."""
FACTS = "facts.json"
"""The file with the facts inside of a .pt2."""

Runner = Callable[[Tensor], Tensor]
"""Images [N, C, *X] -> logits [N, K, *X]"""


class GraphError(UserError):
    """A traced program does not become a file that runs."""


class Predicting(nn.Module):
    """What a method predicts with, as a module that owns all networks in it.

    Args:
        method: in evaluation mode.
    """

    def __init__(self, method: Method) -> None:
        super().__init__()
        owner = next(method.predictor.parameters(), None) is not None and type(method).predict is Method.predict
        self.network: nn.Module = method.predictor if owner else method
        self.call: Runner = method.predict if not owner else method.predictor

    def forward(self, image: Tensor) -> Tensor:
        """[N, C, *X] -> logits [N, K, *X]."""
        return self.call(image)


def traced(
    network: nn.Module, channels: int, shape: Sequence[int]
) -> Iterator[tuple[ExportedProgram, tuple[str, ...]]]:
    """Trace a network on the CPU, with as many free dimensions as it allows, then with fewer and fewer.

    Args:
        channels: C of the images.
        shape: of the training input.

    Yields:
        A program, and the names of the dimensions in which images may differ from the training input: batch, and
        those of NAMES.

    Raises:
        UserError: the network does something that cannot be traced.
    """
    names = NAMES[len(shape)]
    reason = ""
    found = False
    with_sizes = (("batch", *names), names) if all(getattr(x, "free_sizes", True) for x in network.modules()) else ()
    for free in (*with_sizes, ("batch",), ()):
        image = torch.rand(2 if "batch" in free else 1, channels, *shape)
        try:
            with warnings.catch_warnings(action="ignore"), torch.no_grad():
                program = torch.export.export(network, (image,), dynamic_shapes=(_dims(free, names),), strict=False)
                other = image_of_another_size(image, free)
                same = torch.allclose(program.module()(other), network(other), atol=1e-3)
        except Exception as error:  # PyTorch raises errors of many kinds where a dimension cannot be free
            reason = (str(error) or type(error).__name__).splitlines()[0]
            continue
        if same:
            found = True
            yield program, free
        else:
            reason = "the traced network computes something else"
    if not found:
        raise UserError(f"the network cannot be traced by torch.export ({reason[:200]}); use format=weights")


def image_of_another_size(image: Tensor, free: Sequence[str]) -> Tensor:
    """An image [N, C, *X] in a batch of one, and half as long again along each axis, where the dimensions are free."""
    image = image[:1] if "batch" in free else image
    names = NAMES[image.ndim - 2]
    sides = [3 * n // 2 + 1 if name in free else n for name, n in zip(names, image.shape[2:], strict=True)]
    mode = "trilinear" if image.ndim == 5 else "bilinear"
    return nn.functional.interpolate(image, size=sides, mode=mode, align_corners=False)


def _dims(free: Sequence[str], names: Sequence[str]) -> dict[int, object]:
    places = {"batch": 0, **{name: place for place, name in enumerate(names, 2)}}
    return {place: Dim.AUTO(min=1) if name == "batch" else Dim.AUTO for name, place in places.items() if name in free}


def save_pt2(program: ExportedProgram, file: Path, facts: Mapping[str, object]) -> None:
    """Write a .pt2 with the facts as JSON in its extra file FACTS."""
    with writing(file) as partial, partial.open("wb") as handle:
        torch.export.save(program, handle, extra_files={FACTS: json.dumps(facts)})


def expect_onnx() -> None:
    """Refuse where the packages of ssl4seg[export] are missing."""
    with optional_package("format=onnx", "export"):
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401  # torch.onnx uses it


def save_onnx(program: ExportedProgram, file: Path, facts: Mapping[str, object]) -> None:
    """Write an ONNX file, with the facts as JSON texts in its metadata.

    Raises:
        GraphError: ONNX lacks an operation of the network.
    """
    quiet = warnings.catch_warnings(action="ignore")
    with _graph("the network cannot be exported"), quiet, contextlib.redirect_stdout(io.StringIO()):
        onnx = torch.onnx.export(
            program, dynamo=True, opset_version=OPSET, input_names=["image"], output_names=["logits"], verbose=False
        )
    assert onnx is not None
    onnx.model.metadata_props.update({key: json.dumps(value) for key, value in facts.items()})
    with writing(file) as partial:
        onnx.save(partial)


def runner_of_pt2(file: Path) -> Runner:
    """The program of a file."""
    run: Runner = torch.export.load(file).module()
    return run


def runner_of_onnx(file: Path) -> Runner:
    """The file in onnxruntime, on the CPU.

    Raises:
        GraphError: onnxruntime cannot read the file or, in a call, cannot run it.
    """
    import onnxruntime

    quiet = onnxruntime.SessionOptions()
    quiet.log_severity_level = 4  # the errors that it prints are raised as well

    def run(image: Tensor) -> Tensor:
        with _graph("onnxruntime cannot run it"):
            return torch.from_numpy(session.run(["logits"], {"image": image.numpy()})[0])

    with _graph("onnxruntime cannot read it"):
        session = onnxruntime.InferenceSession(file, quiet, providers=["CPUExecutionProvider"])
    return run


@contextlib.contextmanager
def _graph(fault: str) -> Iterator[None]:
    """Raise a GraphError for errors of the exporter and of onnxruntime, which are of many kinds."""
    try:
        yield
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise GraphError(f"{fault} ({reason[:200]})") from None


@torch.no_grad()
def largest_difference(run: Runner, network: nn.Module, images: Sequence[Tensor]) -> float:
    """The largest difference of a probability between a graph and the network, over all pixels of some images."""
    pairs = [(run(image).softmax(dim=1), network(image).softmax(dim=1)) for image in images]
    return max(float((ours - theirs).abs().max()) for ours, theirs in pairs)
