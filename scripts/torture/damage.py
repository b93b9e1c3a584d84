"""Damage a file of a run folder, then type a command: it refuses, or does what it would have done before."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
from attack import Attack
from PIL import Image
from processes import Ended, run
from runs import WORDS, copied, differences, differing, results, rows, weights
from verdicts import Verdict, judged, wrong_if

FILES = (
    *("best.pt", "last.pt", "results.json", "split.json", "config.yaml"),
    *("cases_val.csv", "cases_test.csv", "train.log", "tensorboard"),
)
HARMS = ("cut", "cut", "emptied", "removed", "bit flipped", "zeros", "of another run", "a folder")
WARNINGS = ("is not the one that was tested", "starts anew", "damaged", "left out", "tensorboard", "cannot be read")
"""Words with which a command says that it does not go by the file."""


class Damage(Attack):
    name = "damage"
    per_minute = 4

    def strike(self, number: int, random: Random, box: Path) -> list[Verdict]:
        """One harm to one file, and one command."""
        name, harm = FILES[number % len(FILES)], random.choice(HARMS)
        command = random.choice(("train", "train", "eval", "report"))
        whole = self.runs.unbroken("uamt")
        source = self.runs.stopped("uamt") if command == "train" and random.random() < 0.6 else whole
        run_folder = copied(source, box / "home")
        file = next((run_folder / name).iterdir()) if name == "tensorboard" else run_folder / name
        if not file.exists():  # a stopped run has no results yet
            return []
        if harm == "of another run" and not name.endswith(".pt"):
            harm = "cut"  # a user who copies scores or settings gets them
        harmed(file, harm, random, self.runs.unbroken("supervised") / name)
        what = f"{file.name} of a {'finished' if source == whole else 'stopped'} run: {harm}; {command}"
        words = {"train": (*WORDS["uamt"], "hydra.run.dir=run"), "eval": ("run=run",), "report": ("run",)}[command]
        ended = run(command, *words, cwd=run_folder.parent)
        return [wrong_if(judged(what, ended), self._differences(command, name, whole, run_folder, ended))]

    def _differences(self, command: str, name: str, whole: Path, found: Path, ended: Ended) -> Iterator[str]:
        """What an accepted command did otherwise than on a whole folder, and did not tell."""
        if ended.code:
            return
        told = any(words in ended.output for words in WARNINGS)
        if command == "train":
            yield from self._train(name, whole, found, told, finished="is finished" in ended.output)
        elif command == "eval" and not told:
            expected = self._once("eval", whole, "run=run")
            for path in differing(results(expected, "results_test.json"), results(found, "results_test.json")):
                yield f"results_test.json{path}"
            if rows(expected / "cases_test.csv") != rows(found / "cases_test.csv"):
                yield "cases_test.csv differs"
        elif command == "report" and not told:
            expected = self._once("report", whole, "run")
            if (expected / "report.csv").read_text() != (found / "report.csv").read_text():
                yield "report.csv differs"
            for figure in sorted((expected / "figures").glob("*.png")):
                if not _same_picture(figure, found / "figures" / figure.name):
                    yield f"{figure.name} differs"

    def _train(self, name: str, whole: Path, found: Path, told: bool, *, finished: bool) -> Iterator[str]:
        if finished:  # nothing was read but results.json and split.json
            if name == "results.json":
                yield from (f"results.json{path}" for path in differing(results(whole), results(found)))
        elif told:  # best.pt may be another one, which was said
            yield from (
                f"last.pt{path}"
                for path in differing(weights(whole / "last.pt")["method"], weights(found / "last.pt")["method"])
            )
        else:
            yield from differences(whole, found, curves=name != "tensorboard")

    def _once(self, command: str, whole: Path, *words: str) -> Path:
        """The folder of the unbroken run after a command."""
        place = self.runs.home / f"damage-{command}"
        with self.runs.lock:
            if not place.exists():
                copied(whole, place)
                ended = run(command, *words, cwd=place)
                if ended.code:
                    raise SystemExit(f"error: {command} of an unbroken run failed: {ended.line}\n{ended.output}")
        return place / "run"


def harmed(file: Path, harm: str, random: Random, other: Path) -> None:
    """Do one of HARMS to a file; `other` is the same file of another run."""
    content = file.read_bytes()
    at = random.randrange(len(content) or 1)
    match harm:
        case "cut":
            file.write_bytes(content[:at])
        case "emptied":
            file.write_bytes(b"")
        case "removed":
            file.unlink()
        case "bit flipped":
            file.write_bytes(content[:at] + bytes([content[at] ^ 1 << random.randrange(8)]) + content[at + 1 :])
        case "zeros":
            file.write_bytes(content[:at] + bytes(len(content[at : at + 512])) + content[at + 512 :])
        case "of another run":
            shutil.copyfile(other, file)
        case "a folder":
            file.unlink()
            file.mkdir()


def _same_picture(a: Path, b: Path) -> bool:
    return b.exists() and np.array_equal(np.asarray(Image.open(a)), np.asarray(Image.open(b)))
