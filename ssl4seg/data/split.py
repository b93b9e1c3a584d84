"""The labelled split: which groups (patients) keep their masks in training.

It takes whole groups in their published order, so that a larger split contains every smaller one.
"""

import hashlib
import json
import random
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Any
from unicodedata import normalize

from ssl4seg.data.case import Case
from ssl4seg.data.dataset import Dataset, Split
from ssl4seg.data.formats import ENDINGS
from ssl4seg.data.published import labeled_list
from ssl4seg.errors import UserError
from ssl4seg.keys import expect, number_in
from ssl4seg.userfiles import read_text

SUFFIX = re.compile(r"(_slice_\d+|_leftImg8bit|_gtFine\w*)$")
"""What follows the case's name in the literature's lists: the slice, or the kind of Cityscapes file."""
MAX_LINE = 4096
"""Characters of a line in a list: as many as a path may have."""


@dataclass(frozen=True, kw_only=True)
class LabeledSplit:
    """The training cases, labelled and unlabelled. A case of a labelled group whose mask is missing is unlabelled."""

    labeled: tuple[Case, ...]
    unlabeled: tuple[Case, ...]
    labeled_groups: tuple[str, ...]
    num_groups: int
    words: tuple[str, str] = ("patients", "slices")
    """What messages call groups and images."""
    wanted: float | None = None
    """The ratio that the user asked for; None if it was given otherwise."""

    @property
    def shortage(self) -> str:
        """A message if fewer images have masks than the user asked for, else ""."""
        num_labeled = self.num_labeled_images
        enough = self.wanted is None or num_labeled >= self.wanted * self.num_images
        if enough or any(case.labeled for case in self.unlabeled):
            return ""
        return (
            f"labeled_ratio={self.wanted:g} asks for more than there is: only {num_labeled} of the {self.num_images} "
            f"training {self.words[1]} have a mask; all of them are used"
        )

    @property
    def num_labeled_images(self) -> int:
        return sum(case.num_images for case in self.labeled)

    @property
    def num_images(self) -> int:
        return self.num_labeled_images + sum(case.num_images for case in self.unlabeled)

    def __str__(self) -> str:
        groups, images = self.words
        counts = f"{len(self.labeled_groups)} of {self.num_groups} {groups}"
        return counts if groups == images else f"{counts}, {self.num_labeled_images} of {self.num_images} {images}"

    def as_dict(self) -> dict[str, Any]:
        """The content of split.json; `sha256` is over the two lists of case names."""
        labeled, unlabeled = ([case.name for case in part] for part in (self.labeled, self.unlabeled))
        return {
            "labeled_groups": list(self.labeled_groups),
            "labeled": labeled,
            "unlabeled": unlabeled,
            "num_labeled_images": self.num_labeled_images,
            "num_images": self.num_images,
            "sha256": hashlib.sha256(json.dumps([labeled, unlabeled]).encode()).hexdigest(),
        }


def split_labeled(
    cases: Sequence[Case],
    *,
    ratio: float | None = None,
    num_groups: int | None = None,
    list_file: str | Path | None = None,
    seed: int | None = None,
    words: tuple[str, str] = ("patients", "slices"),
) -> LabeledSplit:
    """Split the training cases by a list of names, else a number of groups, else a ratio.

    Args:
        ratio: as many whole groups are labelled as bring the number of labelled images closest to ratio x all training
            images; at least one, and on a tie the smaller number.
        num_groups: so many groups are labelled.
        list_file: names the labelled groups, see `read_names`; a file, or the name of a published list.
        seed: shuffles the order of the groups first.
        words: what messages call groups and images.
    """
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(case.group, []).append(case)
    order = [group for group, members in groups.items() if any(case.labeled for case in members)]
    if not order:
        raise UserError(f"no labelled case: none of the {len(cases)} training cases has a mask")
    if seed is not None:
        random.Random(seed).shuffle(order)
    if list_file is not None:
        chosen = _listed(str(list_file), groups, order)
    elif num_groups is not None:
        if not 1 <= num_groups <= len(order):
            raise UserError(f"labeled_cases={num_groups}: expected 1 to {len(order)}, the training cases with a mask")
        chosen = order[:num_groups]
    else:
        chosen = order[: _closest(ratio, order, groups)]
    labeled = tuple(case for group in chosen for case in groups[group] if case.labeled)
    taken = {case.name for case in labeled}
    return LabeledSplit(
        labeled=labeled,
        unlabeled=tuple(case for case in cases if case.name not in taken),
        labeled_groups=tuple(chosen),
        num_groups=len(groups),
        words=words,
        wanted=ratio if list_file is None and num_groups is None else None,
    )


def _closest(ratio: float | None, order: Sequence[str], groups: Mapping[str, Sequence[Case]]) -> int:
    """The number of groups that brings the labelled images closest to the ratio."""
    expect("labeled_ratio", ratio, number_in("(0, 1]", "a share of the training images"))
    assert ratio is not None
    target = ratio * sum(case.num_images for members in groups.values() for case in members)
    totals, total = [], 0
    for group in order:
        total += sum(case.num_images for case in groups[group] if case.labeled)
        totals.append(total)
    return 1 + min(range(len(totals)), key=lambda i: (abs(totals[i] - target), i))


def _listed(name: str, groups: Mapping[str, Sequence[Case]], order: Sequence[str]) -> list[str]:
    """Groups that a published list names, in its order: by group, case, slice (`<case>_slice_3`) or path."""
    cases = {case.name: group for group, members in groups.items() for case in members}
    group_of = {group: group for group in groups} | cases
    chosen: dict[str, None] = {}
    source = f"labeled_list={name}"
    for line, case in read_names(labeled_list(name), group_of, source=source, what="training case"):
        if group_of[case] not in order:
            raise UserError(f"{source}: {line!r} has no mask")
        chosen[group_of[case]] = None
    return list(chosen)


def read_names(file: Path, known: Collection[str], *, source: str, what: str, hint: str = "") -> list[tuple[str, str]]:
    """The lines of a list and the known name that each stands for (see `known_name`), in the list's order.

    Only the first word of a line is read, or the whole line if known names contain spaces.

    Args:
        source: what an error calls the list.
        what: what an error calls the named things.
        hint: the end of an error.
    """
    try:
        text = read_text(file, source)
    except UserError as error:
        raise UserError(f"{error}{hint}") from None
    spaced = any(" " in name for name in known)
    lines = {number: line.strip() for number, line in enumerate(text.splitlines(), start=1) if line.strip()}
    if long := [number for number, line in lines.items() if len(line) > MAX_LINE]:
        raise UserError(f"{source}: line {long[0]} has more than {MAX_LINE} characters; expected one name a line{hint}")
    words = {number: line if spaced else line.split()[0] for number, line in lines.items()}
    spelled = {normalize("NFC", name): name for name in known}  # a name may be typed in another Unicode form
    names = {number: spelled.get(known_name(normalize("NFC", word), spelled) or "") for number, word in words.items()}
    if missing := [number for number, name in names.items() if name is None]:
        shown = ", ".join(f"line {number} {words[number]!r}{_nearest(words[number], known)}" for number in missing[:3])
        raise UserError(
            f"{source}: {len(missing)} of the {len(words)} lines name no {what}: "
            f"{shown}{', ...' if len(missing) > 3 else ''}{hint}"
        )
    if not words:
        raise UserError(f"{source}: the file names no {what}{hint}")
    return [(words[number], name) for number, name in names.items() if name is not None]


def known_name(word: str, known: Collection[str]) -> str | None:
    """The known name at the end of a path, without its ending and SUFFIX (`a/NAME_slice_3.h5` -> `NAME`)."""
    parts = PurePosixPath(word).parts
    for first in range(len(parts)):
        path = "/".join(parts[first:])
        bare = path[: len(path) - len(next((end for end in ENDINGS if path.lower().endswith(end)), ""))]
        for name in (path, bare, SUFFIX.sub("", bare)):
            if name in known:
                return name
    return None


def _nearest(word: str, known: Collection[str]) -> str:
    nearest = get_close_matches(PurePosixPath(word).name, known, 1, cutoff=0)
    return f" (nearest: {nearest[0]!r})" if nearest else ""


def check_disjoint(splits: Mapping[Split, Sequence[Case]], remedy: str = Dataset.remedy) -> None:
    """Refuse groups that are in two of train, val and test: a model must not be measured on its training cases.

    Args:
        remedy: what the user should do, for the message.
    """
    places: dict[str, dict[str, list[str]]] = {}
    for split, cases in splits.items():
        for case in cases:
            places.setdefault(case.group, {}).setdefault(split, []).append(case.name)
    twice = {group: cases_in for group, cases_in in places.items() if len(cases_in) > 1}
    if twice:
        group, cases_in = next(iter(twice.items()))
        shown = [
            f"{split}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}" for split, names in cases_in.items()
        ]
        more = f", and so are {len(twice) - 1} more" if len(twice) > 1 else ""
        raise UserError(f"{group} is in both {' and '.join(cases_in)} ({'; '.join(shown)}){more}; {remedy}")
