"""What all attacks have in common."""

from abc import ABC, abstractmethod
from pathlib import Path
from random import Random

from runs import Runs
from verdicts import Verdict


class Attack(ABC):
    """A part of the campaign. Attack `number` depends on the seed, the part's name and the number alone."""

    name: str
    per_minute: float
    """How many verdicts a minute of the campaign asks for."""
    size: int = 1
    """How many verdicts one attack gives, about."""
    note: str = ""
    """What the table does not say."""

    def __init__(self, runs: Runs) -> None:
        self.runs = runs

    @abstractmethod
    def strike(self, number: int, random: Random, box: Path) -> list[Verdict]:
        """Make one attack, or a series of them, in the empty folder `box`; `runs` are shared and left as they are."""
