"""Checkpoints: written atomically, loaded whole and without running code, known by the hash of their weights."""

import hashlib
import logging
import os
import pickle
import zipfile
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ssl4seg.errors import UserError
from ssl4seg.files import writing
from ssl4seg.userfiles import expect_regular

log = logging.getLogger("ssl4seg")

_NUMPY_SCALARS: list[Any] = [
    (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),
    (np.float64(0).__reduce__()[0], "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f8", "f4", "i8", "i4")),
]
"""Functions and types in pickles of NumPy numbers, which public scripts save beside the weights (the best Dice)."""


PREFERRED = ("state_dict", "model_state_dict", "model", "net", "ema", "teacher")
"""Names of a network in a file of several, the first choice first."""

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

    A file named .safetensors holds tensors alone.

    torch.save writes a zip archive with a check sum (CRC-32) of each tensor. torch.load does not compare it, so that a
    bit that has flipped on the disk would become another weight; here it is compared first.
    """
    expect_regular(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
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
        if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:  # torch compresses nothing
            raise zipfile.BadZipFile("it would unpack to more bytes than it has")
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
    """Read the weights of one network: the predictor's from a run's checkpoint, all tensors of any other file.

    Names within wrappers are joined by dots: {"state_dict": {"a": ...}} is "state_dict.a". `fitted` finds the network.
    """
    content = load(path)
    if "method" in content and "predictor" in content:
        prefix = f"{content['predictor']}."
        return {k.removeprefix(prefix): v for k, v in _tensors(content["method"]) if k.startswith(prefix)}
    state = dict(_tensors(content))
    if not state:
        raise UserError(f"{path}: holds no state dict, but {', '.join(map(str, list(content)[:6]))}")
    return state


def _tensors(content: Any) -> Iterator[tuple[str, Tensor]]:
    """(dotted name, tensor) of nested dictionaries, breadth first; each dictionary once, as it may stand in itself."""
    waiting, seen = deque([("", content)]), {id(content)}
    while waiting:
        prefix, value = waiting.popleft()
        for name, item in value.items() if isinstance(value, Mapping) else ():
            if isinstance(item, Tensor):
                yield f"{prefix}{name}", item
            elif id(item) not in seen:
                seen.add(id(item))
                waiting.append((f"{prefix}{name}.", item))


def fitted(
    state: Mapping[str, Tensor],
    expected: Collection[str],
    source: Path | str,
    rename: Callable[[dict[str, Tensor]], Mapping[str, Any]] = dict,
) -> dict[str, Tensor]:
    """The part of a state dict below the prefix with which most of the expected keys are found; the prefix is stripped.

    Public scripts save a network in wrappers ("state_dict."), as a part of another module ("model.", "backbone.") or
    wrapped by torch ("module.", "_orig_mod."). No list can name them all, so the beginning of every key is tried. The
    log says what was stripped.

    Args:
        expected: keys of the network.
        rename: brings keys without the prefix to the names in `expected`.

    Raises:
        UserError: the file holds several such networks, and `PREFERRED` none of them.
    """
    parts = {prefix: _below(state, prefix) for prefix in _prefixes(state, at_least=len(expected) / 2)}
    hits = {prefix: len(set(expected) & set(rename(part))) for prefix, part in parts.items()}
    best = [prefix for prefix, number in hits.items() if number == max(hits.values())]
    best = [prefix for prefix in best if not any(prefix != other and prefix.startswith(other) for other in best)]
    best.sort(key=_rank)
    chosen = best[0]
    if len(best) > 1 and hits[chosen] and _rank(best[0]) == _rank(best[1]):
        names = ", ".join(repr(prefix) for prefix in best[:4])
        raise UserError(f"{source}: holds several networks that fit, below {names}; save the state dict of one")
    if chosen:
        others = len(state) - len(parts[chosen])
        left_out = f"; tensors of other names that are left out: {others}" if others else ""
        log.info(f"{source}: the prefix {chosen!r} of the weights' names is stripped{left_out}")
    return parts[chosen]


def _prefixes(state: Mapping[str, Tensor], *, at_least: float) -> list[str]:
    """The beginnings of keys, up to a dot, that so many keys share; "" is the first."""
    counts: Counter[str] = Counter()
    for key in state:
        counts.update(key[: at + 1] for at, letter in enumerate(key) if letter == ".")
    return ["", *(prefix for prefix, number in counts.items() if number >= at_least)]


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _rank(prefix: str) -> list[int]:
    """The places of a prefix's words in `PREFERRED`; the smallest is the first choice."""
    return [PREFERRED.index(word) if word in PREFERRED else len(PREFERRED) for word in prefix.split(".")[:-1]]


def unlike(state: Collection[str], expected: Collection[str]) -> str:
    """Describe two sets of keys that have nothing in common, by examples."""
    found, wanted = (f"{', '.join([*keys][:3])}, ... ({len(keys)} keys)" for keys in (state, expected))
    return f"it has {found}; expected {wanted}"


def _has_numbers(value: Any) -> bool:
    """Whether it is a tensor with a number in each place: a sparse one and one without data cannot be copied."""
    return isinstance(value, Tensor) and value.layout is torch.strided and not value.is_meta


def load_into(module: nn.Module, state: Mapping[str, Tensor], source: Path | str) -> None:
    """Load all of `state`, or raise a UserError that says how the networks differ."""
    if not (isinstance(state, Mapping) and all(map(_has_numbers, state.values()))):
        raise UserError(f"{source}: holds other things than tensors of numbers where the weights should be")
    own = module.state_dict()
    if not own.keys() & state.keys():
        raise UserError(f"{source}: is a checkpoint of another network: {unlike(state, own)}")
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
