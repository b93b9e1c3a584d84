"""TensorBoard's event files: what a damaged one has lost.

A file is a sequence of records: length (8 bytes), its check sum (4), an event, its check sum (4). Every reader stops at
the first damage, without a word.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from google.protobuf.message import DecodeError  # type: ignore[import-untyped,unused-ignore]
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

from ssl4seg.userfiles import expect_regular


class _Span(NamedTuple):
    """The steps of an event file."""

    start: int
    """The step from which its process went on; later values in earlier files do not count."""
    last: int
    """The step of the last value that can be read."""
    whole: bool


def losses(folder: Path, step: int) -> Iterator[str]:
    """Say which values up to step `step` the event files of a folder have lost."""
    files = sorted(folder.glob("events*"))
    if not files and step:
        yield f"{folder}: the event files are gone; the curves begin at step {step + 1}"
    spans = [_span(file) for file in files]
    ends = [*(span.start for span in spans[1:]), step + 1]
    for file, span, end in zip(files, spans, ends, strict=False):
        if not span.whole and span.last + 1 < end:
            yield (
                f"{file}: is damaged; the curves have no values of it from step {span.last + 1} to {end - 1} "
                "(weights and scores do not depend on it)"
            )


def _span(file: Path) -> _Span:
    expect_regular(file)
    content = file.read_bytes()
    start = last = position = 0
    while position < len(content):
        header = content[position : position + 12]
        if len(header) < 12 or struct.unpack("<I", header[8:])[0] != masked_crc32c(header[:8]):
            return _Span(start, last, whole=False)
        end = position + 12 + struct.unpack("<Q", header[:8])[0]
        if end + 4 > len(content):
            return _Span(start, last, whole=False)
        try:
            event = Event.FromString(content[position + 12 : end])
        except DecodeError:
            return _Span(start, last, whole=False)
        start = event.step if event.HasField("session_log") else start
        last = event.step if event.HasField("summary") else last
        position = end + 4
    return _Span(start, last, whole=position > 0)
