"""Commands of ssl4seg in processes: as typed (`start`), or forked from one that has done the imports (`forked`).

Each has a time limit. A machine survives a command that forks without end or asks for all of the memory.
"""

import importlib
import multiprocessing
import os
import resource
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 90
"""Of the clock, for any command here: the longest takes 5 s on an idle machine."""
MEMORY = 16 * 2**30
"""Of address space, for one process."""
TASKS = 500
"""Processes and threads on the machine, beyond those of when a command was started."""

MODULES = {
    "train": "ssl4seg.train",
    "eval": "ssl4seg.eval",
    "predict": "ssl4seg.predict",
    "prepare": "ssl4seg.prepare",
    "report": "ssl4seg.report.command",
}


@dataclass(frozen=True)
class Ended:
    """How a command ended; `limit` says which limit it broke, if it did."""

    line: str
    code: int
    output: str
    limit: str = ""

    @property
    def tail(self) -> str:
        return self.output[-1500:].strip()

    @property
    def stopped_while_importing(self) -> bool:
        """Whether Ctrl-C came before `main`, when nothing of the program can answer it yet."""
        return "KeyboardInterrupt" in self.output and "in main\n" not in self.output


class Running:
    """A command as it is typed, in a session of its own, so that its children end with it."""

    def __init__(self, name: str, words: Sequence[object], cwd: Path, limits: Mapping[int, int] | None = None) -> None:
        typed = [sys.executable, "-m", MODULES[name], *map(str, words)]
        self.line = f"cd {shlex.quote(str(cwd))} && {shlex.join(['python', *typed[1:]])}"
        self.log = cwd / f".{name}-{time.monotonic_ns()}.log"
        self.allowed = {resource.RLIMIT_AS: MEMORY, resource.RLIMIT_CORE: 0, **(limits or {})}
        self.tasks = _tasks()
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                typed,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=self._limit,
            )

    def _limit(self) -> None:
        for number, value in self.allowed.items():
            resource.setrlimit(number, (value, value))

    def ended(self, timeout: float = SECONDS) -> Ended:
        """Wait for the end, or kill what breaks a limit."""
        until, broken = time.monotonic() + timeout, ""
        while not broken:
            try:
                self.process.wait(0.2)
                break
            except subprocess.TimeoutExpired:
                if time.monotonic() > until:
                    broken = f"no end within {timeout:.0f} s"
                elif _tasks() > self.tasks + TASKS:
                    broken = f"{TASKS} processes and threads more than before"
        self.kill()
        return Ended(self.line, self.process.returncode, self.log.read_text(errors="replace"), broken)

    def send(self, number: int) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)

    def kill(self) -> None:
        """End the whole session."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def wait_for(self, event: Callable[[], bool], timeout: float = SECONDS) -> bool:
        """Wait until `event` happens (True), or until the command ends."""
        until = time.monotonic() + timeout
        while not event():
            if self.process.poll() is not None or time.monotonic() > until:
                return False
            time.sleep(0.0005)
        return True


def _tasks() -> int:
    return int(Path("/proc/loadavg").read_text().split()[3].split("/")[1])


def run(
    name: str, *words: object, cwd: Path, timeout: float = SECONDS, limits: Mapping[int, int] | None = None
) -> Ended:
    """A command as it is typed, from start to end."""
    return Running(name, words, cwd, limits).ended(timeout)


_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(["ssl4seg.commands.check_folder", "ssl4seg.checkpoint", "ssl4seg.report.figures"])


def forked(target: Callable[..., None], *arguments: Any, log: Path, timeout: float = SECONDS) -> Ended:
    """Call a function in a process that has done the imports; its output goes to a file."""
    process = _server.Process(target=_into, args=(log, target, arguments))
    process.start()
    process.join(timeout)
    limit = ""
    if process.is_alive():
        limit = f"no end within {timeout:.0f} s"
        process.kill()
        process.join()
    code = process.exitcode if process.exitcode is not None else -signal.SIGKILL
    return Ended("", code, log.read_text(errors="replace") if log.exists() else "", limit)


def _into(log: Path, target: Callable[..., None], arguments: Sequence[Any]) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for stream in (1, 2):
        os.dup2(output, stream)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    target(*arguments)


def typed(name: str, words: Sequence[str], cwd: Path) -> None:
    """A command in this process."""
    os.chdir(cwd)
    sys.argv = [f"ssl4seg-{name}", *words]
    importlib.import_module(MODULES[name]).main()


def check(root: Path) -> Ended:
    """`ssl4seg-prepare check ROOT`, forked: 300 folders take a minute, not twenty."""
    words = ["check", str(root), "--sheet", str(root.parent / "sheet.png")]
    ended = forked(typed, "prepare", words, root.parent, log=root.parent / "check.log")
    line = shlex.join(["python", "-m", MODULES["prepare"], *words])
    return Ended(line, ended.code, ended.output, ended.limit)
