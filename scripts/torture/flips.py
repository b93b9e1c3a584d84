"""Flip single bits of the files of a run folder; a reader must refuse the file, or read what was written."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

from attack import Attack
from processes import forked
from runs import missing
from verdicts import ACCEPTED, HANG, REFUSED, TRACEBACK, WRONG, Verdict

from ssl4seg import checkpoint
from ssl4seg.errors import UserError
from ssl4seg.run.folder import read_config, read_json

BATCH = 40
SECONDS = 20
"""For reading one file."""


READERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "last.pt": checkpoint.load,
    "best.pt": checkpoint.load,
    "results.json": read_json,
    "split.json": read_json,
    "config.yaml": lambda file: read_config(file.parent),
}
"""The program's own reader of each file."""


class Flips(Attack):
    name = "flips"
    per_minute = 100
    size = BATCH

    def strike(self, number: int, random: Random, box: Path) -> list[Verdict]:
        """Flip BATCH bits of a file, one after the other, in one forked process."""
        name = ("last.pt", "best.pt", "last.pt", "results.json", "config.yaml", "split.json")[number % 6]
        unbroken = self.runs.unbroken("uamt") / name
        bits = [random.randrange(8 * unbroken.stat().st_size) for _ in range(BATCH)]
        ended = forked(flip_all, unbroken, bits, box, log=box / "log", timeout=BATCH * SECONDS)
        lines = [line.removeprefix("verdict ") for line in ended.output.splitlines() if line.startswith("verdict ")]
        found = [Verdict(*json.loads(line)) for line in lines]
        if len(found) < BATCH:
            attack = f"bit {bits[len(found)]} of {unbroken} flipped"
            found.append(Verdict(HANG if ended.limit else TRACEBACK, attack, ended.tail))
        return found


def flip_all(unbroken: Path, bits: list[int], box: Path) -> None:
    """Print a verdict for each bit."""
    content, read = unbroken.read_bytes(), READERS[unbroken.name]
    expected, file = read(unbroken), box / unbroken.name
    signal.signal(signal.SIGALRM, _too_long)
    for bit in bits:
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        file.write_bytes(flipped)
        kind, text = _outcome(read, file, expected)
        attack = f"bit {bit} of {unbroken.name} flipped"
        again = f"printf '\\{flipped[bit // 8]:03o}' | dd of={unbroken.name} bs=1 seek={bit // 8} conv=notrunc"
        print("verdict", json.dumps([kind, attack, text, [again]]), flush=True)


def _outcome(read: Callable[[Path], dict[str, Any]], file: Path, expected: dict[str, Any]) -> tuple[str, str]:
    signal.alarm(SECONDS)
    try:
        differences = missing(expected, read(file))
    except UserError:
        return REFUSED, ""
    except TimeoutError as error:
        return HANG, str(error)
    except BaseException as error:
        return TRACEBACK, f"{type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
    return (WRONG, f"differs at {', '.join(differences[:4])}") if differences else (ACCEPTED, "")


def _too_long(number: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"no end within {SECONDS} s")
