"""Export every network of conf/network and print the table of docs/export.md: `python scripts/export_networks.py`.

Untrained networks with three classes and their smallest encoders, whose batch norm has seen ten batches, on random
images of 64 x 64, volumes of 32 x 32 x 32. A row says which dimensions stay free in the program of torch.export and in
the ONNX file, and by how much their probabilities differ from those of the network. Names on the command line (`unet
fpn unet:3`) choose rows.
"""

import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from ssl4seg.commands.conf import choices, composed, conf_dir
from ssl4seg.errors import UserError
from ssl4seg.networks.base import FOR_VOLUMES
from ssl4seg.run.assemble import network_maker
from ssl4seg.run.graph import (
    ROUNDING,
    GraphError,
    image_of_another_size,
    largest_difference,
    runner_of_onnx,
    save_onnx,
    traced,
)

RESNETS = ("deeplabv3plus", "fpn", "pspnet", "smp_unet", "unetplusplus", "upernet")
SMALL = {**dict.fromkeys(RESNETS, "network.encoder=resnet18"), "segformer": "network.encoder=mit_b0"}
"""The word that chooses the smallest encoder."""


def row(name: str, axes: int) -> str:
    """A row of the table."""
    torch.manual_seed(0)
    keys = dict(composed("run", [f"network={name}", *filter(None, [SMALL.get(name)])])["network"])
    keys = {key: None if key == "encoder_weights" else value for key, value in keys.items()}
    network = network_maker(keys, 1, 3, axes=axes, load=False)()
    shape = (64, 64) if axes == 2 else (32, 32, 32)
    with torch.no_grad():  # without statistics of batch norm the logits of an untrained network are huge
        for _ in range(10):
            network(torch.rand(2, 1, *shape))
    network.eval()
    pt2 = ""
    try:
        for program, free in traced(network, 1, shape):
            images = [torch.rand(1, 1, *shape)]
            images.append(image_of_another_size(images[0], free))
            dimensions = ", ".join(free) or "none"
            pt2 = pt2 or f"{dimensions} | {largest_difference(program.module(), network, images):.0e}"
            accepted, onnx = of_onnx(program, network, images)
            if accepted:
                return f"| `{name}` | {axes} | {pt2} | {dimensions} | {onnx} |"
    except UserError as error:
        return f"| `{name}` | {axes} | none | no: {error} | none | no |"
    return f"| `{name}` | {axes} | {pt2} | none | {onnx} |"


def of_onnx(program: ExportedProgram, network: nn.Module, images: list[Tensor]) -> tuple[bool, str]:
    """Whether the ONNX file computes the same, and the difference or what is in the way."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.onnx")
        try:
            save_onnx(program, file, {})
            difference = largest_difference(runner_of_onnx(file), network, images)
        except GraphError as error:
            return False, f"no: {error}"
    return difference <= ROUNDING, f"{difference:.0e}"


def main() -> None:
    torch.set_num_threads(1)
    every = [(name, 2) for name in choices("network", [conf_dir()])] + [(name, 3) for name in FOR_VOLUMES]
    named = [(word.split(":")[0], int((word + ":2").split(":")[1])) for word in sys.argv[1:]]
    print(
        "| network | axes | free in pt2 | difference | free in ONNX | difference |\n|---|---|---|---|---|---|",
        flush=True,
    )
    for name, axes in named or every:
        print(row(name, axes), flush=True)


if __name__ == "__main__":
    main()
