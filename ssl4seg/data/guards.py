"""What every reader of image files asks first: a regular file, plain numbers, a spacing, no more pixels than memory."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ssl4seg.data.case import Spacing
from ssl4seg.errors import UserError
from ssl4seg.memory import free_memory
from ssl4seg.userfiles import expect_regular

MANY_BYTES = 2**26
"""Arrays up to this size are read without a look at the machine's memory."""


@contextmanager
def named_faults(path: Path, kind: str) -> Iterator[None]:
    """Turn every error in the block into a UserError that names the file: damaged files raise errors of many types.

    What is no regular file is refused before the block opens it.
    """
    expect_regular(path)
    try:
        yield
    except UserError:
        raise
    except MemoryError as error:
        reason = str(error) or "what a header declares cannot be allocated"
        raise UserError(f"{path}: its pixels do not fit in the memory of this machine ({reason})") from None
    except Exception as error:
        if not path.exists():
            raise UserError(f"{path}: there is no such file") from None
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise UserError(f"{path}: cannot be read as {kind}, perhaps truncated ({reason})") from None


def checked_spacing(values: Any, path: Path) -> Spacing:
    """Three spacings, each finite and above 0.

    Raises:
        UserError: names the file and the axis.
    """
    axes = ("slices", "rows", "columns")
    flat = np.asarray(values, float).ravel()
    if len(flat) != 3:
        raise UserError(f"{path}: has {len(flat)} spacings; expected 3, in mm between {', '.join(axes)}")
    for axis, value in zip(axes, flat.tolist(), strict=True):
        if not (math.isfinite(value) and value > 0):
            raise UserError(
                f"{path}: the spacing between {axis} is {value:g} mm; expected a finite number above 0: mend the header"
            )
    slices, rows, columns = flat.tolist()
    return slices, rows, columns


def expect_numbers(path: Path, dtype: np.dtype[Any]) -> None:
    """Refuse strings, complex numbers, records, references and whatever else is no plain number."""
    if dtype.kind not in "biuf":
        raise UserError(f"{path}: holds values of type {dtype}; expected bool, whole numbers or float")


def expect_memory(path: Path, shape: Sequence[int], dtype: np.dtype[Any], *, scaled: bool) -> None:
    """Refuse an array that its header declares larger than memory, before a byte of it is decoded.

    Args:
        scaled: whether a copy in float32 follows, as of all but pictures of 8 bit.
    """
    need = math.prod(shape) * (dtype.itemsize + 4 * scaled)
    if need <= MANY_BYTES:
        return
    free = free_memory()
    if free is not None and need > free:
        size = " x ".join(map(str, shape))
        raise UserError(
            f"{path}: declares {size} values of {dtype}, which take {need / 2**30:.3g} GiB of memory to read; this "
            f"machine has {free / 2**30:.3g} GiB free: divide, crop or shrink the file, or take a larger machine; "
            "engine.resident_gib=0 and a lower engine.num_workers (in eval resident_gib=0) leave more memory free"
        )
