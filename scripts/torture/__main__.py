"""Attack the program, count what comes of it, and exit with 1 on any fault.

    scripts/torture.sh [MINUTES] [--seed N] [--only PART[:NUMBER]]

Attack NUMBER of a PART depends on the seed and the number alone (a kill's moment also on the machine's clock), so that
`--only PART:NUMBER` repeats it. MINUTES says how many attacks each part is asked for: what two fast cores do in that
time. All parts proceed alike, and the campaign ends when each has its number; a slow machine takes longer.
"""

import argparse
import os
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from attack import Attack
from damage import Damage
from disks import Disks
from flips import Flips
from inputs import Inputs
from kills import Kills
from runs import Runs
from verdicts import ACCEPTED, FAULTS, REFUSED, Verdict
from words import Words

PARTS: tuple[type[Attack], ...] = (Kills, Flips, Damage, Disks, Inputs, Words)


@dataclass
class Campaign:
    """Makes the attacks that are asked for, in several threads: the work is done by the processes that they start."""

    parts: list[Attack]
    seed: int
    minutes: float
    home: Path
    only: int | None = None
    begun: Counter[str] = field(default_factory=Counter)
    at_work: Counter[str] = field(default_factory=Counter)
    verdicts: dict[str, list[Verdict]] = field(default_factory=lambda: defaultdict(list))
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, jobs: int) -> None:
        with ThreadPoolExecutor(jobs) as pool:
            for work in [pool.submit(self._work) for _ in range(jobs)]:
                work.result()

    def _work(self) -> None:
        while True:
            with self.lock:
                if self.only is not None and self.begun:
                    return
                part = min(self.parts, key=self._progress)
                if self.only is None and self._progress(part) >= self.minutes:
                    return
                number = self.only if self.only is not None else self.begun[part.name]
                self.begun[part.name] += 1
                self.at_work[part.name] += 1
            self._strike(part, number)

    def _progress(self, part: Attack) -> float:
        """How much of what it is asked for a part has, in minutes."""
        return (len(self.verdicts[part.name]) + part.size * self.at_work[part.name]) / part.per_minute

    def _strike(self, part: Attack, number: int) -> None:
        box, start = self.home / f"{part.name}-{number}", time.monotonic()
        box.mkdir()
        verdicts = part.strike(number, Random(f"{self.seed} {part.name} {number}"), box)
        with self.lock:
            self.at_work[part.name] -= 1
            self.verdicts[part.name] += verdicts
            self.seconds[part.name] += time.monotonic() - start
            faults = [verdict for verdict in verdicts if verdict.is_fault]
            for verdict in faults:
                print(self._described(verdict, f"{part.name}:{number}"), flush=True)
        if not faults:
            shutil.rmtree(box)

    def _described(self, verdict: Verdict, name: str) -> str:
        again = f"scripts/torture.sh --seed {self.seed} --only {name}"
        lines = [f"FAULT ({verdict.kind}) {verdict.attack}", *verdict.text.splitlines(), *verdict.commands]
        return "\n    ".join([*lines, f"again: {again}"])

    def table(self) -> str:
        """Counts of each part; what was asked for is in proportion to the minutes."""
        kinds = (REFUSED, ACCEPTED, *FAULTS)
        head = f"{'':9}{'asked':>7}{'tried':>7}" + "".join(f"{kind:>11}" for kind in kinds) + f"{'seconds':>9}"
        lines = [head]
        for part in self.parts:
            counts = Counter(verdict.kind for verdict in self.verdicts[part.name])
            asked = 0 if self.only is not None else round(part.per_minute * self.minutes)
            cells = "".join(f"{counts[kind]:>11}" for kind in kinds)
            tried, seconds = counts.total(), self.seconds[part.name]
            lines.append(f"{part.name:9}{asked:>7}{tried:>7}{cells}{seconds:>9.0f}")
        return "\n".join([*lines, *(f"  {kind}: {meaning}" for kind, meaning in FAULTS.items())])

    @property
    def faults(self) -> int:
        return sum(verdict.is_fault for verdicts in self.verdicts.values() for verdict in verdicts)


def arguments() -> argparse.Namespace:
    names = ", ".join(part.name for part in PARTS)
    parser = argparse.ArgumentParser(
        "scripts/torture.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "minutes", nargs="?", type=float, default=20.0, metavar="MINUTES", help="what is asked for; default 20"
    )
    parser.add_argument("--seed", type=int, default=0, help="of everything random; default 0")
    parser.add_argument("--only", metavar="PART[:NUMBER]", help=f"one part, or one of its attacks: {names}")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="attacks at a time; default: CPU cores")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    chosen, _, number = (given.only or "").partition(":")
    kinds = [part for part in PARTS if chosen in ("", part.name)]
    if not kinds:
        sys.exit(f"error: --only {given.only}: there is no such part")
    home = Path(tempfile.mkdtemp(prefix="torture-"))
    runs = Runs(home)
    campaign = Campaign(
        [part(runs) for part in kinds], given.seed, given.minutes, home, int(number) if number else None
    )
    start = time.monotonic()
    campaign.run(given.jobs)
    minutes = (time.monotonic() - start) / 60
    print(f"\nseed {given.seed}, {minutes:.1f} minutes, {given.jobs} at a time\n{campaign.table()}")
    for part in campaign.parts:
        if part.note:
            print(f"{part.name}: {part.note}")
    if campaign.faults:
        sys.exit(f"{campaign.faults} faults; what each left is in {home}")
    shutil.rmtree(home)
    print("no fault")


if __name__ == "__main__":
    main()
