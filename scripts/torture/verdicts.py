"""What came of an attack: refused with a message, accepted rightly, or one of five kinds of fault."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from processes import Ended

REFUSED, ACCEPTED = "refused", "accepted"
TRACEBACK, HANG, LOST, WRONG, STRAY = "traceback", "hang", "lost", "wrong", "stray"
FAULTS = {
    TRACEBACK: "a traceback, a crash, or a failure without a message",
    HANG: "no end within the time limit, or processes without end",
    LOST: "a file or a step that was written is gone or damaged",
    WRONG: "other content was taken without a word",
    STRAY: "files outside of the outputs, empty folders, or control characters for the terminal",
}


@dataclass(frozen=True)
class Verdict:
    """One attack: its kind, and for a fault what was seen and the commands that show it."""

    kind: str
    attack: str
    text: str = ""
    commands: tuple[str, ...] = ()

    @property
    def is_fault(self) -> bool:
        return self.kind in FAULTS


def judged(attack: str, ended: Ended) -> Verdict:
    """Judge a command by how it ended alone: whoever can compare results goes on from ACCEPTED."""
    verdict = Verdict(ACCEPTED, attack, commands=(ended.line,))
    if ended.limit:
        return replace(verdict, kind=HANG, text=f"{ended.limit}\n{ended.tail}")
    if "Traceback (most recent call last)" in ended.output and not ended.stopped_while_importing:
        return replace(verdict, kind=TRACEBACK, text=ended.tail)
    if "\x1b" in ended.output:
        return replace(verdict, kind=STRAY, text=f"control characters in the output: {ended.tail!r}")
    if ended.code == 0:
        return verdict
    if ended.code > 0 and re.search("^(.*: )?error: ", ended.output, re.MULTILINE):
        return replace(verdict, kind=REFUSED)
    return replace(verdict, kind=TRACEBACK, text=f"exit {ended.code} without a message\n{ended.tail}")


def wrong_if(verdict: Verdict, differences: Iterable[str], kind: str = WRONG) -> Verdict:
    """An accepted attack is a fault if anything differs from what it should be."""
    found = list(differences)
    if verdict.kind != ACCEPTED or not found:
        return verdict
    more = f" and {len(found) - 4} more" if len(found) > 4 else ""
    return replace(verdict, kind=kind, text=f"{'; '.join(found[:4])}{more}")
