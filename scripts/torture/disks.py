"""Fill the disk under a run: it says which file could not be written, keeps its last checkpoint, and goes on later."""

import re
import resource
import subprocess
from dataclasses import replace
from pathlib import Path
from random import Random

from attack import Attack
from kills import lost, present
from processes import run
from runs import WORDS, Runs, differences
from verdicts import ACCEPTED, LOST, REFUSED, TRACEBACK, Verdict, judged, wrong_if


class Disks(Attack):
    name = "disks"
    per_minute = 0.6

    def __init__(self, runs: Runs) -> None:
        super().__init__(runs)
        self.can_mount = _mounted(self.runs.home / "tmpfs", "size=1m")
        if self.can_mount:
            _unmounted(self.runs.home / "tmpfs")
        self.note = (
            "tmpfs and file size limits" if self.can_mount else "file size limits alone: no tmpfs can be mounted"
        )

    def strike(self, number: int, random: Random, box: Path) -> list[Verdict]:
        """A run on a disk that is too small for it, then the same run with enough space."""
        kind = ("uamt", "streamed", "stages")[number % 3]
        unbroken, home = self.runs.unbroken(kind), self.runs.place(box / "home")
        words = (*WORDS[kind], "hydra.run.dir=run")
        size = sum(file.stat().st_size for file in unbroken.rglob("*") if file.is_file())
        largest = (unbroken / "last.pt").stat().st_size
        if self.can_mount and number % 2 == 0:
            kib = random.randint(8, size // 1024)
            attack, limits = f"{kind} on a tmpfs of {kib} KiB", {}
            _mounted(home / "run", f"size={kib}k")
        else:
            limit = random.randint(1000, largest)
            attack, limits = f"{kind} with files of at most {limit} bytes", {resource.RLIMIT_FSIZE: limit}
        try:
            ended = run("train", *words, cwd=home, limits=limits)
            first = judged(attack, ended)
            if first.kind == REFUSED and not re.search(r"error: \S*run\b\S*: ", ended.output):
                first = replace(first, kind=TRACEBACK, text=f"no file is named\n{ended.tail}")
            if first.kind in (REFUSED, ACCEPTED):
                first = wrong_if(replace(first, kind=ACCEPTED), lost(home / "run", present(home / "run")), LOST)
            if first.is_fault:
                return [first]
            curves = "logger=tensorboard: cannot go on" not in ended.output  # else they have a gap, as was said
            if not limits:
                subprocess.run(["mount", "-o", "remount,size=64m", home / "run"], check=True)
            ended = run("train", *words, cwd=home)
            second = judged(f"{attack}; then with enough space", ended)
            if second.kind == REFUSED:
                second = replace(second, kind=LOST, text=ended.tail)
            second = replace(second, commands=(*first.commands, *second.commands))
            differing = differences(unbroken, home / "run", curves=curves) if second.kind == ACCEPTED else ()
            return [wrong_if(second, differing)]
        finally:
            if not limits:
                _unmounted(home / "run")


def _mounted(place: Path, option: str) -> bool:
    place.mkdir(parents=True, exist_ok=True)
    try:
        return (
            subprocess.run(["mount", "-t", "tmpfs", "-o", option, "tmpfs", place], capture_output=True).returncode == 0
        )
    except OSError:  # no such program
        return False


def _unmounted(place: Path) -> None:
    subprocess.run(["umount", "-l", place], capture_output=True)
