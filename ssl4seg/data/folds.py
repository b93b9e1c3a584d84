"""Cross-validation: a dataset in k folds, of which one is tested, the next one validates and the others train."""

import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ssl4seg.data.case import Case
from ssl4seg.data.dataset import SPLITS, Dataset, Split
from ssl4seg.errors import UserError

KEYS = ("fold", "fold_seed")
"""The keys of `dataset` that choose a fold; no dataset's constructor takes them."""


class Fold(NamedTuple):
    """Fold `number` of `of`, counted from 1."""

    number: int
    of: int

    @classmethod
    def parsed(cls, text: str) -> "Fold":
        """ "2/5": the second of five; `keys.FOLD` has checked it."""
        number, of = text.split("/")
        return cls(int(number), int(of))


class Folded(Dataset):
    """One fold of a dataset, as a dataset: every case with a mask is in the test of exactly one fold, and in one val.

    The groups (patients) that have a mask are sorted by name, or shuffled by a seed, and dealt in turn: the first to
    fold 1, the second to fold 2, ... Fold i tests on these groups of its own; those of the next fold (after the last:
    the first) validate; all others train, and so do groups without any mask. A case without a mask whose group tests
    or validates is left out.

    Args:
        whole: the dataset; the cases of its own splits are pooled.
        fold: "2/5".
        seed: shuffles the groups; None leaves them sorted.

    Raises:
        UserError: the dataset has a published test, or too few groups.
    """

    def __init__(self, whole: Dataset, fold: str, seed: int | None = None) -> None:
        self.__dict__ |= vars(whole)  # its classes, channels, scaling, ...
        self.name, self.words, self.remedy = whole.name, whole.words, whole.remedy  # type: ignore[misc]  # of the object
        self.whole, self.fold = whole, Fold.parsed(fold)
        if whole.published_test:
            raise UserError(
                f"dataset.fold={fold}: {whole.name} has a test of its own, which models are compared on; leave "
                "dataset.fold out"
            )
        self.tested_on = "test"
        self._splits = _dealt(_pooled(whole, fold), self.fold, seed)

    def cases(self, split: Split) -> list[Case]:
        return self._splits[split]

    def as_dict(self) -> dict[str, Any]:
        """The entry `fold` of split.json."""
        held = {split: [case.name for case in self._splits[split]] for split in ("val", "test")}
        return {"number": self.fold.number, "of": self.fold.of, **held}


def folded(dataset: Dataset, keys: Mapping[str, Any]) -> Dataset:
    """The fold of a dataset that `keys`, the group `dataset`, choose; without `fold` the dataset itself."""
    return dataset if keys.get("fold") is None else Folded(dataset, keys["fold"], keys.get("fold_seed"))


def undivided(keys: Mapping[str, Any]) -> dict[str, Any]:
    """The keys without those of folds: the dataset as a whole."""
    return {key: value for key, value in keys.items() if key not in KEYS}


def _pooled(whole: Dataset, fold: str) -> list[Case]:
    """All cases of a dataset.

    Raises:
        UserError: cases of two splits have the same name, by which scores are told apart.
    """
    cases: dict[str, Case] = {}
    for split in SPLITS:
        for case in whole.cases(split):
            if case.name in cases:
                raise UserError(
                    f"dataset.fold={fold}: two cases are called {case.name}, in different splits; rename one of them"
                )
            cases[case.name] = case
    return [*cases.values()]


def _dealt(cases: Sequence[Case], fold: Fold, seed: int | None) -> dict[Split, list[Case]]:
    """The cases of each split."""
    groups: dict[str, list[Case]] = {}
    for case in sorted(cases, key=lambda case: (case.group, case.name)):
        groups.setdefault(case.group, []).append(case)
    order = [group for group, members in groups.items() if any(case.labeled for case in members)]
    if len(order) < fold.of:
        raise UserError(
            f"dataset.fold={fold.number}/{fold.of}: each fold needs a case with a mask, but there are {len(order)}; "
            "give fewer folds"
        )
    if seed is not None:
        random.Random(seed).shuffle(order)
    place: dict[str, Split] = dict.fromkeys(order[fold.number - 1 :: fold.of], "test")
    place |= dict.fromkeys(order[fold.number % fold.of :: fold.of], "val")
    unlabeled = [group for group in groups if group not in order]
    splits: dict[Split, list[Case]] = {split: [] for split in SPLITS}
    for group in [*order, *unlabeled]:
        split = place.get(group, "train")
        splits[split] += [case for case in groups[group] if case.labeled or split == "train"]
    return splits
