"""Checkpoints: written atomically, loaded whole and without running code, known by the hash of their weights."""

import hashlib
import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssl4seg.errors import UserError
from ssl4seg.files import writing

_NUMPY_SCALARS: list[Any] = [
    (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),
    (np.float64(0).__reduce__()[0], "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f8", "f4", "i8", "i4")),
]
"""Functions and types in pickles of NumPy numbers, which public scripts save beside the weights (the best Dice)."""


FOLDER = 0x10
"""The attribute of a folder in a zip archive."""


def save(content: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint atomically: at any moment `path` holds the whole earlier file or the whole new one."""
    with writing(path) as partial, partial.open("wb") as file:
        try:
            torch.save(dict(content), file)
        except RuntimeError as error:  # at the end PyTorch misses what could not be written, and says that alone
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None
        file.flush()
        os.fsync(file.fileno())


def load(path: Path) -> dict[str, Any]:
    """Read tensors and plain values to the CPU. A file that holds pickled code is refused; the code never runs.

    torch.save writes a zip archive with a check sum (CRC-32) of each tensor. torch.load does not compare it, so that a
    bit that has flipped on the disk would become another weight; here it is compared first.
    """
    try:
        _check_sums(path)
        with torch.serialization.safe_globals(_NUMPY_SCALARS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such checkpoint") from None
    except pickle.UnpicklingError as error:
        if "Unsupported operand" in str(error):  # bytes that no pickle contains
            raise UserError(f"{path}: is not a checkpoint, or is damaged") from None
        raise UserError(
            f"{path}: holds pickled code or objects, which could run anything, and is refused; "
            "save a plain state dict with torch.save(model.state_dict(), FILE)"
        ) from None
    except Exception as error:  # other files raise many kinds of error, struct.error among them
        reason = (str(error) or type(error).__name__).splitlines()[0][:120]  # the message is empty for an empty file
        raise UserError(f"{path}: is not a checkpoint, or is damaged ({reason})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, not a dictionary of tensors")
    return content


def _check_sums(path: Path) -> None:
    """Raise if a part of a zip archive is not the one that was written; other kinds of file have no check sums."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        if (part := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"the check sum of {part} does not hold")
        for entry in archive.infolist():  # torch reads nothing of an entry that is marked as a folder
            if entry.external_attr & FOLDER:
                raise zipfile.BadZipFile(f"{entry.filename} is marked as a folder")


def hash_of(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of the names, types, shapes and bytes of all tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def network_state(path: Path) -> dict[str, Tensor]:
    """Read the weights of one network: the predictor's from a run's checkpoint, the state dict from any other file.

    Public scripts save a bare state dict or wrap it under a name such as "model". The prefix "module.", which
    DistributedDataParallel adds, is removed.
    """
    content = load(path)
    if "method" in content and "predictor" in content:
        prefix = f"{content['predictor']}."
        return {k.removeprefix(prefix): v for k, v in content["method"].items() if k.startswith(prefix)}
    for name in ("state_dict", "model_state_dict", "model", "net", "ema", "teacher"):
        if isinstance(content.get(name), dict):
            content = content[name]
            break
    if not content or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"{path}: holds no state dict, but {', '.join(map(str, list(content)[:6]))}")
    return {key.removeprefix("module."): value for key, value in content.items()}


def load_into(module: nn.Module, state: Mapping[str, Tensor], source: Path | str) -> None:
    """Load all of `state`, or raise a UserError that says how the networks differ."""
    own = module.state_dict()
    faults = [f"lacks {key}" for key in own if key not in state]
    faults += [f"has {key}, unknown here" for key in state if key not in own]
    faults += [
        f"{key} is {tuple(state[key].shape)}, expected {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    if faults:
        more = f" (and {len(faults) - 3} more)" if len(faults) > 3 else ""
        raise UserError(f"{source}: is a checkpoint of another network: {'; '.join(faults[:3])}{more}")
    module.load_state_dict(dict(state))
