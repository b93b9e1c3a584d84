"""Collapse: one class swallows what the unlabelled images teach. It is told while it happens, with the key to turn."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from ssl4seg.run.record import SCREEN_ONLY

log = logging.getLogger("ssl4seg")

LEAST = 1 / 8
"""Other classes are swallowed where they hold less than this part of their share in the labelled masks: on the phantom,
which is 89 % background, from 98.6 % background on. (Its runs that collapsed had 98.7 to 100 %.)"""

LASTING = 0.25
"""Share of the run for which it must last, because every network begins with one class everywhere, and an EMA teacher
leaves it later: that of uamt on the phantom, 7 labelled patients, after step 150 of 500, for a test Dice of 80 %."""

KINDS = {"share": "pseudo-labels", "predicted": "predictions of unlabelled images"}
"""The prefixes of the diagnosis's shares of classes, and what they are shares of."""


class Collapse:
    """Watches the shares of the classes at each validation.

    Args:
        classes: the names of all K classes.
        expected: the share of each class in the labelled masks, [K]; empty if there is nothing to watch.
    """

    def __init__(self, classes: Sequence[str], expected: Sequence[float]) -> None:
        self.expected = dict(zip(classes, expected, strict=True)) if expected else {}
        self.state: dict[str, Any] = {}
        """The collapse of the last validation: class, kind, share, since and told; part of last.pt."""

    def watch(self, step: int, total: int, scores: Mapping[str, float], remedy: str) -> None:
        """Take the scores of the diagnosis after `step` of `total` steps, and tell of a collapse or of its end.

        The screen hears of it at each validation while it lasts, train.log once.

        Args:
            remedy: see `Method.remedy`.
        """
        kind, name, share = self.swallowing(scores)
        told = self.state.get("told", False)
        if told and not name:
            log.info(f"{self.state['kind']} hold other classes than {self.state['class']} again")
        if self.state.get("class") != name:
            self.state = {"class": name, "kind": kind, "since": step, "told": False} if name else {}
            return
        if not name:
            return
        self.state["share"], since = share, self.state["since"]
        if step - since >= LASTING * total:
            told, self.state["told"] = self.state["told"], True
            log.warning(
                f"{kind} are {100 * share:.3g} % {name} since step {since} (labelled masks: "
                f"{100 * self.expected[name]:.0f} %); try {remedy or 'a lower weight of the unlabelled images'}",
                extra=SCREEN_ONLY if told else None,
            )

    def swallowing(self, scores: Mapping[str, float]) -> tuple[str, str, float]:
        """What is watched, the class that swallows the others in it, and its share; ("", "", 0) if none does."""
        for prefix, kind in KINDS.items():
            for name, expected in self.expected.items():
                share = scores.get(f"{prefix}/{name}", 0.0)
                if 1 - share < LEAST * (1 - expected):
                    return kind, name, share
        return "", "", 0.0

    @property
    def result(self) -> dict[str, Any] | None:
        """The collapse in which the run has ended, for results.json; None if it has not."""
        return {k: self.state[k] for k in ("class", "share", "since")} if self.state.get("told") else None
