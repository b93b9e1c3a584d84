"""A GPU that computes nothing, on a machine without one: it refuses what a real one would refuse, and it counts what
would wait for it.

Tensors on "cuda" are PyTorch's fake tensors, which have a shape, a type and a device but no values. Tensors on the CPU
are real, and so are the random numbers that a step draws there. PyTorch's backward pass asks the driver for its
streams, so it does not run here; each parameter that it would reach gets a gradient.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Self
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

import ssl4seg
from ssl4seg.augment import photometric

aten = torch.ops.aten
PACKAGE = Path(ssl4seg.__file__).parent
CUDA = torch.device("cuda", 0)
INDEXING = (aten.index.Tensor, aten.index_put_.default, aten.index_put.default)


class FakeGPU(TorchDispatchMode):
    """Runs what is on the CPU there; on "cuda" finds shapes and types alone.

    A number that the CPU asks of the GPU is 0; a mask holds half of its places. Both are waits: the CPU stands still
    until the GPU has done everything that it was given before. So is a copy between them, unless it goes to the GPU and
    is told not to block.

    Raises:
        RuntimeError: an operation on "cuda" gets a tensor that was left on the CPU.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fake, self.stack = FakeTensorMode(), ExitStack()
        self.waits: list[str] = []
        """Of each wait the function of the package and the operation, as "methods.bcp.labels: mask"."""

    def __enter__(self) -> Self:
        self.stack.enter_context(self.fake)  # with this mode PyTorch looks for no driver
        self.stack.enter_context(mock.patch("torch.autograd.backward", _backward))
        self.stack.enter_context(mock.patch("torch.autograd.grad", _gradients))
        # A generator of the GPU needs a driver. What it would draw has no values here.
        self.stack.enter_context(mock.patch.object(photometric, "Generator", _generator))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.stack.close()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not _any(_is_on_gpu, (*args, *kwargs.values())):
            with no_dispatch():
                return func(*args, **kwargs)
        if (crossed := self._crossed(func, args, kwargs)) is not None:
            return crossed
        if func in INDEXING:
            args = (args[0], self._places(args[1]), *args[2:])
        if _any(_is_real, (*args, *kwargs.values())):
            args, kwargs = tree_map(partial(self._seen, func), (args, kwargs))
        kwargs.pop("generator", None)
        return func(*args, **kwargs)

    def _crossed(self, func: Any, args: Any, kwargs: Any) -> Any:
        """What the CPU learns from the GPU, or a tensor on its new device; None for all other operations."""
        if func is aten._local_scalar_dense.default:
            self._wait("number")
            return 0.0 if args[0].is_floating_point() else False if args[0].dtype is torch.bool else 0
        if func is aten.nonzero.default:
            self._wait("nonzero")
            return _empty((args[0].numel() // 2, args[0].ndim), torch.int64)
        if func is aten.bincount.default:
            self._wait("bincount")
            return _empty(args[2:] or (kwargs["minlength"],), torch.int64)
        if func is aten._to_copy.default:
            source, device, dtype = args[0], kwargs.get("device") or args[0].device, kwargs.get("dtype")
            if source.device.type == device.type:
                return None
            if device.type == "cpu" or not kwargs.get("non_blocking"):
                self._wait(f"copy to {device.type}")
            if device.type == "cpu":
                with no_dispatch():
                    return torch.zeros(source.shape, dtype=dtype or source.dtype)
            return _empty(source.shape, dtype or source.dtype)
        if func is aten.copy_.default and _is_real(args[0]) != _is_real(args[1]):
            if _is_real(args[0]) or not (args[2:] or (kwargs.get("non_blocking"),))[0]:
                self._wait(f"copy to {args[0].device.type}")
            return args[0]
        return None

    def _places(self, indices: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Indices on the GPU, in which masks have become the places that they hold."""
        places: list[Tensor | None] = []
        for index in indices:
            if index is not None and index.dtype in (torch.bool, torch.uint8):
                self._wait("mask")
                places += [_empty((index.numel() // 2,), torch.int64) for _ in range(index.ndim)]
            elif index is not None and _is_real(index):
                self._wait("copy to cuda")  # PyTorch makes it without a word
                places.append(_empty(index.shape, index.dtype))
            else:
                places.append(index)
        return places

    def _seen(self, func: Any, leaf: Any) -> Any:
        """A number on the CPU may take part in an operation of the GPU, a longer tensor may not."""
        if not _is_real(leaf):
            return leaf
        if leaf.ndim:
            raise RuntimeError(f"{func} of the GPU got a tensor {list(leaf.shape)} on the CPU in {caller()}")
        return self.fake.from_tensor(leaf)

    def _wait(self, operation: str) -> None:
        self.waits.append(f"{caller()}: {operation}")

    @contextmanager
    def waiting(self) -> Iterator[list[str]]:
        """Collect the waits of a block."""
        before, self.waits = self.waits, []
        yield self.waits
        self.waits = before

    @staticmethod
    def take(module: nn.Module) -> None:
        """Move a module's parameters and buffers to the GPU, in place; tensors that are neither stay."""
        for part in module.modules():
            for name, parameter in part._parameters.items():
                if parameter is not None:
                    moved = _empty(parameter.shape, parameter.dtype)
                    part._parameters[name] = nn.Parameter(moved, requires_grad=parameter.requires_grad)
            for name, buffer in part._buffers.items():
                if buffer is not None:
                    part._buffers[name] = _empty(buffer.shape, buffer.dtype)


def _any(test: Callable[[Any], bool], value: Any) -> bool:
    """Whether a value, or one in its lists, passes the test."""
    return any(_any(test, part) for part in value) if isinstance(value, list | tuple) else test(value)


def _is_on_gpu(value: Any) -> bool:
    return isinstance(value, FakeTensor) or (isinstance(value, torch.device) and value.type == CUDA.type)


def _is_real(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and not isinstance(leaf, FakeTensor)


def _empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=CUDA)


def _like(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor)


def _backward(tensors: Tensor, *args: Any, **kwargs: Any) -> None:
    """Give a gradient to each parameter from which the loss was computed."""
    nodes, seen = [tensors.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is not None and node not in seen:
            seen.add(node)
            nodes += [following for following, _ in node.next_functions]
            if (parameter := getattr(node, "variable", None)) is not None:
                parameter.grad = _like(parameter)


def _generator(device: torch.device) -> torch.Generator:
    return torch.Generator()


def _gradients(outputs: Any, inputs: Tensor | Sequence[Tensor], **more: Any) -> list[Tensor]:
    return [_like(x) for x in ([inputs] if isinstance(inputs, Tensor) else inputs)]


def caller() -> str:
    """The innermost function of the package that is being called, as "methods.bcp.labels"."""
    frame = sys._getframe()
    while frame.f_back and not Path(frame.f_code.co_filename).is_relative_to(PACKAGE):
        frame = frame.f_back
    if not frame.f_back:
        return "a test"
    file = Path(frame.f_code.co_filename).relative_to(PACKAGE).with_suffix("")
    return ".".join((*file.parts, frame.f_code.co_qualname.split(".<locals>")[0]))
