"""Kill a run at random moments, type the same command again, and expect what an unbroken run would have left."""

import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

from attack import Attack
from processes import Running
from runs import WORDS, differences, weights
from verdicts import ACCEPTED, HANG, LOST, REFUSED, TRACEBACK, Verdict, judged, wrong_if

from ssl4seg.errors import UserError
from ssl4seg.run.folder import read_config, read_json

KILLS = 3
"""Of one run, before it may end."""
WRITTEN = ("last.pt", "last.pt", "best.pt")
"""Files whose writing lasts long enough to be seen."""


class Kills(Attack):
    name = "kills"
    per_minute = 3
    size = KILLS

    def strike(self, number: int, random: Random, box: Path) -> list[Verdict]:
        """A series: one run is killed up to KILLS times, and then ends."""
        kind = list(WORDS)[number % len(WORDS)]
        unbroken, folder = self.runs.unbroken(kind), box / "home/run"
        self.runs.place(folder.parent)
        verdicts = []
        for _ in range(KILLS):
            before = present(folder)
            running = Running("train", (*WORDS[kind], "hydra.run.dir=run"), folder.parent)
            name = random.choice(("SIGKILL", "SIGKILL", "SIGTERM", "SIGINT"))
            moment, wait = self._moment(random, folder, self.runs.seconds.get(kind, 5))
            if wait(running):
                running.send(getattr(signal, name))
            verdict = _judged(f"{name} to {kind} {moment}", running, folder, before)
            if verdict is None:  # the run ended before its moment came
                break
            verdicts.append(verdict)
            if verdict.is_fault:
                return verdicts
        lines = tuple(line for verdict in verdicts for line in verdict.commands)
        ended = Running("train", (*WORDS[kind], "hydra.run.dir=run"), folder.parent).ended()
        last = judged(f"{kind} goes on after {'; '.join(v.attack for v in verdicts)}", ended)
        last = replace(last, commands=(*lines, ended.line))
        if last.kind == REFUSED:
            last = replace(last, kind=LOST, text=ended.tail)
        last = wrong_if(last, differences(unbroken, folder) if last.kind == ACCEPTED else ())
        return [*verdicts[:-1], last] if last.is_fault else verdicts

    @staticmethod
    def _moment(random: Random, folder: Path, seconds: float) -> tuple[str, Callable[[Running], bool]]:
        """A moment in words, and a function that waits for it; False if the run ends before.

        A run that is about to end is killed between its test and its results, whatever the moment.
        """
        later, last, tested = random.random(), folder / "last.pt", folder / "cases_test.csv"
        times = [_time(file) for file in (last, tested)]
        match random.choice(("clock", "validated", "validated", "writing", "writing")):
            case "clock":
                return f"after {later * seconds:.2f} s", lambda running: _slept(running, later * seconds)
            case "validated":
                return (
                    f"{later / 4:.2f} s after a checkpoint",
                    lambda running: (
                        running.wait_for(lambda: [_time(last), _time(tested)] != times) and _slept(running, later / 4)
                    ),
                )
            case _:
                name = random.choice(WRITTEN)
                partial = folder / f"{name}.partial"
                return f"while {name} is written", lambda running: running.wait_for(
                    lambda: partial.exists() or _time(tested) != times[1]
                )


def _time(file: Path) -> int:
    return file.stat().st_mtime_ns if file.exists() else 0


def _slept(running: Running, seconds: float) -> bool:
    until = time.monotonic() + seconds
    running.wait_for(lambda: time.monotonic() > until)
    return running.process.poll() is None


def _judged(attack: str, running: Running, folder: Path, before: set[str]) -> Verdict | None:
    """What a struck process left behind; None if it had ended by itself."""
    ended = running.ended()
    if ended.code == 0:
        return None
    verdict = Verdict(ACCEPTED, attack, commands=(f"{ended.line}  # {attack}",))
    by_signal = ended.code in (130, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT)
    if ended.limit or not by_signal or ("Traceback" in ended.output and not ended.stopped_while_importing):
        return replace(judged(attack, ended), kind=HANG if ended.limit else TRACEBACK, text=ended.tail)
    return wrong_if(verdict, lost(folder, before), LOST)


def present(folder: Path) -> set[str]:
    return {file.name for file in folder.glob("*.*") if not file.name.endswith(".partial")}


def lost(folder: Path, before: set[str]) -> list[str]:
    """Files that were there and are gone, and files that are there and not whole."""
    found = [f"{name} is gone" for name in sorted(before - present(folder))]
    readers = {"best.pt": weights, "last.pt": weights, "split.json": read_json, "results.json": read_json}
    for name, read in readers.items():
        try:
            if (folder / name).exists():
                read(folder / name)
        except UserError as error:
            found.append(str(error))
    if (folder / "config.yaml").exists():
        try:
            read_config(folder)
        except UserError as error:
            found.append(str(error))
    return found
