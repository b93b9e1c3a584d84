"""Type command lines of real keys with wrong values, typing errors, extremes, escapes and flags in odd places."""

from pathlib import Path
from random import Random

from attack import Attack
from processes import run
from runs import PHANTOM, Runs, copied
from verdicts import ACCEPTED, REFUSED, STRAY, Verdict, judged

from ssl4seg.commands.conf import composed, dotted_keys, group_names

SLOW = ("iterations",)
"""Keys by which a user may ask for years."""

VALUES = (
    *("-1", "0", "1", "2", "7", "1e9", "99999999999", "1e400", "-0.0", "0.5", "1.0000001", "nan", "inf", "-inf"),
    *("null", "true", "yes", "abc", "''", '""', "[]", "{}", "[1,2]", "[[]]", "{a:1}", "{a:{b:{c:1}}}", "[a,null]"),
    *("${seed}", "${nowhere}", "${oc.env:HOME}", "${oc.env:NOWHERE}", "${iterations", "???", "'${seed}'", "1,2"),
    *(
        "../../../../../../../OUTSIDE",
        "/nowhere/at/all",
        "a/b",
        "..",
        ".",
        "~",
        "~nobody/x",
        "'a b'",
        "'a\nb'",
        "con:x",
    ),
    *("'\x1b[31mred\x1b[0m'", "'<script>alert(1)</script>'", "'=1+1'", "'{0}'", "'{x!r}'", "'%s%n'", "a" * 300),
    *(
        "é",
        "日本語",
        "'\u202e'",
        "'\ud83d\ude00'".encode("utf-16", "surrogatepass").decode("utf-16"),
        "'\\ud800'",
        "\\",
        "'",
    ),
    *("range(1,3)", "choice(1,2)", "interval(0,1)", "glob(*)", "shuffle(1,2)", "int(x)", "a=b", "@", "$(id)", "`id`"),
)
FLAGS = (
    *("--help", "--hlep", "-m", "--multirun", "--cfg", "--info", "--config-dir", "--config-dir=/nowhere", "--trust"),
    *(
        "--config-name=nowhere",
        "--config-path=/nowhere",
        "-x",
        "--",
        "-",
        "--resolve",
        "--shell-completion",
        "--version",
    ),
)
CHARACTERS = "abcxyz_.-=[]{}'\"$~@/\\ \té\x01,:"


class Words(Attack):
    name = "words"
    per_minute = 6

    def __init__(self, runs: Runs) -> None:
        super().__init__(runs)
        self.known = {
            command: ([key for key in dotted_keys(composed(command, [])) if key not in SLOW], group_names(command))
            for command in ("train", "eval", "predict")
        }
        """Keys and groups of the commands that have them; Hydra composes in one thread at a time."""

    def strike(self, number: int, random: Random, box: Path) -> list[Verdict]:
        """One command line, typed seven folders below `box`."""
        home = box / "1/2/3/4/5/6/home"
        run_folder = copied(self.runs.unbroken("uamt"), home)
        before = {file for file in box.rglob("*") if run_folder not in file.parents}
        command = random.choice(("train", "train", "train", "train", "eval", "predict", "prepare", "report"))
        words = self._words(command, random)
        ended = run(command, *words, cwd=home)
        verdict = judged(f"{command} {' '.join(words)}"[:150], ended)
        if verdict.kind in (ACCEPTED, REFUSED):
            stray = list(_stray(box, home, before, refused=verdict.kind == REFUSED))
            if stray:
                return [Verdict(STRAY, verdict.attack, "; ".join(stray[:4]), verdict.commands)]
        return [verdict]

    def _words(self, command: str, random: Random) -> list[str]:
        if command in ("prepare", "report"):
            words = {"prepare": ["check", "run"], "report": ["run", "--no-figures"]}[command]
            places = [random.randrange(len(words) + 1) for _ in range(random.randint(1, 2))]
            for place in places:
                words.insert(place, random.choice((*VALUES, *FLAGS)))
            return [word for word in words if "\0" not in word]
        usual = {
            "train": [*PHANTOM, "iterations=2"],
            "eval": ["run=run", "num_threads=1"],
            "predict": ["run=run", "input=run", "output=outputs", "num_threads=1"],
        }[command]
        keys, groups = self.known[command]
        odd = [self._odd(keys, groups, random) for _ in range(random.choice((1, 1, 1, 2, 3)))]
        typed = {word.lstrip("+~").partition("=")[0] for word in odd}
        words = [word for word in _last_of_each(usual) if word.partition("=")[0] not in typed]
        for word in odd:
            words.insert(random.randrange(len(words) + 1), word)
        return words

    @staticmethod
    def _odd(keys: list[str], groups: list[str], random: Random) -> str:
        key = random.choice((*random.choices(keys, k=6), "tag", "tag", *random.choices(groups, k=2)))
        value = random.choice(VALUES)
        match random.choice(("value", "value", "value", "value", "typo", "sign", "flag", "noise")):
            case "value":
                return f"{key}={value}"
            case "typo":
                at = random.randrange(len(key))
                letter = random.choice(("", *CHARACTERS))
                return f"{key[:at]}{letter}{key[at + 1 :]}={value}"
            case "sign":
                return random.choice(
                    (f"~{key}", f"+{key}={value}", f"++{key}={value}", f"~{key}={value}", key, f"={value}")
                )
            case "flag":
                return random.choice(FLAGS)
            case _:
                return "".join(random.choices(CHARACTERS, k=random.randint(1, 30)))


def _last_of_each(words: list[str]) -> list[str]:
    """Each key once, with its last value."""
    return list({word.partition("=")[0]: word for word in words}.values())


def _stray(box: Path, home: Path, before: set[Path], *, refused: bool) -> list[str]:
    """Files outside of the outputs; after a refusal, folders that it made and left empty."""
    found = []
    for path in sorted(set(box.rglob("*")) - before):
        inside = path.relative_to(home).parts[0] if home in path.parents else ""
        if inside in ("run", "outputs", "multirun") or path.name.startswith("."):
            if refused and path.is_dir() and not any(path.iterdir()) and inside != "run" and path.parent != home:
                found.append(f"{path.relative_to(home)} is empty")
        else:
            found.append(f"{path.relative_to(box)} is outside of outputs")
    return found
