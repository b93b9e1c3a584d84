"""Networks compiled by torch.compile: `engine.compile`."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import nn

from ssl4seg.errors import UserError
from ssl4seg.networks.base import Network

Mode = Literal[False, "default", "reduce-overhead"]


def compile_networks(method: nn.Module, mode: Mode, device: torch.device) -> None:
    """Compile the encoders and decoders of all networks of a method, in place, for training mode.

    Methods take networks apart, so `encode` and `pyramid` are compiled rather than `forward`. Both stay attributes that
    no state dict holds. In evaluation mode, where sizes vary from case to case, networks run as they are.

    Raises:
        UserError: this machine lacks what the mode needs.
    """
    if mode == "reduce-overhead" and device.type != "cuda":
        raise UserError(
            f"engine.compile=reduce-overhead: replays CUDA graphs, but the run is on {device.type}; "
            "use engine.compile=default, or false"
        )
    check_compiler(mode, device)
    for network in [module for module in method.modules() if isinstance(module, Network)]:
        for name in ("encode", "pyramid"):
            setattr(network, name, _in_training(network, getattr(network, name), mode))


def _in_training(network: Network, plain: Callable[[Any], Any], mode: Mode) -> Callable[[Any], Any]:
    compiled = torch.compile(plain, mode=str(mode))

    def call(maps: Any) -> Any:
        return compiled(maps) if network.training else plain(maps)

    return call


def mark_step(mode: Mode) -> None:
    """Called before a step: from here on, replayed CUDA graphs may write over what those of the last step returned."""
    if mode == "reduce-overhead":
        torch.compiler.cudagraph_mark_step_begin()


def check_compiler(mode: Mode, device: torch.device) -> None:
    """Compile a sum on the device, because what a compiler lacks is known only when it is called.

    Raises:
        UserError: with the reason.
    """
    try:
        torch.compile(lambda x: x + 1)(torch.zeros(8, device=device))
    except Exception as error:  # of many kinds, by what is missing
        cause: BaseException = error
        while cause.__cause__:
            cause = cause.__cause__
        reason = next((line.strip() for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
        raise UserError(
            f"engine.compile={mode}: PyTorch cannot compile for {device.type} on this machine ({reason}). It needs a "
            "C++ compiler (g++, or another that the environment variable CXX names), and Triton for a GPU; install it, "
            "or set engine.compile=false"
        ) from None
