"""What a run was trained on: a hash over the cases of a dataset and their files, which a moved folder keeps."""

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from ssl4seg.data.case import Case
from ssl4seg.data.dataset import Split
from ssl4seg.errors import UserError

WHOLE_BYTES = 2 * 2**30
"""Files of a dataset up to this size together are hashed whole; of a larger one the heads and the sizes are."""
HEAD_BYTES = 2**16


def fingerprint(splits: Mapping[Split, Sequence[Case]]) -> str:
    """SHA-256 over split, name and group of every case, and name, size and content of its files, masks too.

    The folders of the files do not count: data that were moved are the same data. "" if no case has files: such data
    follow from the configuration.

    Raises:
        UserError: a file cannot be read.
    """
    files = [file for cases in splits.values() for case in cases for file in case.files]
    if not files:
        return ""
    whole = sum(_size(file) for file in files) <= WHOLE_BYTES
    with ThreadPoolExecutor(16) as pool:
        hashes = dict(zip(files, pool.map(partial(_content, whole=whole), files), strict=True))
    digest = hashlib.sha256()
    for split, cases in splits.items():
        for case in cases:
            parts = [part for file in case.files for part in (file.name, str(_size(file)), hashes[file])]
            digest.update("\0".join([split, case.name, case.group, *parts, "\n"]).encode(errors="surrogateescape"))
    return digest.hexdigest()


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None


def _content(file: Path, *, whole: bool) -> str:
    try:
        with file.open("rb") as opened:
            if whole:
                return hashlib.file_digest(opened, "sha256").hexdigest()
            return hashlib.sha256(opened.read(HEAD_BYTES)).hexdigest()
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
