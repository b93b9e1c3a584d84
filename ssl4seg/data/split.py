"""The labelled split: which groups (patients) keep their masks. Whole groups, in published order, nested."""

import hashlib
import json
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl4seg.data.case import Case
from ssl4seg.data.dataset import Split
from ssl4seg.errors import UserError


@dataclass(frozen=True, kw_only=True)
class LabeledSplit:
    """The training cases, parted. A case of a labelled group whose mask is missing is unlabelled."""

    labeled: tuple[Case, ...]
    unlabeled: tuple[Case, ...]
    labeled_groups: tuple[str, ...]
    num_groups: int
    words: tuple[str, str] = ("patients", "slices")
    """What groups and images are called."""

    @property
    def num_labeled_images(self) -> int:
        return sum(case.num_images for case in self.labeled)

    @property
    def num_images(self) -> int:
        return self.num_labeled_images + sum(case.num_images for case in self.unlabeled)

    def __str__(self) -> str:
        groups, images = self.words
        told = f"{len(self.labeled_groups)} of {self.num_groups} {groups}"
        return told if groups == images else f"{told}, {self.num_labeled_images} of {self.num_images} {images}"

    def as_dict(self) -> dict[str, Any]:
        """What split.json holds; `sha256` is over the two lists of case names."""
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
    """Part the training cases by `labeled_list`, else `labeled_cases`, else `labeled_ratio`.

    The ratio takes as many whole groups, in order, as bring the number of labelled images closest to
    ratio x all training images (at least one group; the smaller number on a tie). `seed` shuffles the order first.
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
        chosen = _listed(Path(list_file), groups, order)
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
    )


def _closest(ratio: float | None, order: Sequence[str], groups: Mapping[str, Sequence[Case]]) -> int:
    if ratio is None or not 0 < ratio <= 1:
        raise UserError(f"labeled_ratio={ratio}: expected a number in (0, 1], the share of labelled training images")
    target = ratio * sum(case.num_images for members in groups.values() for case in members)
    totals, total = [], 0
    for group in order:
        total += sum(case.num_images for case in groups[group] if case.labeled)
        totals.append(total)
    return 1 + min(range(len(totals)), key=lambda i: (abs(totals[i] - target), i))


def _listed(file: Path, groups: Mapping[str, Sequence[Case]], order: Sequence[str]) -> list[str]:
    """Groups that a published list names, in its order: by group, case, slice (`<case>_slice_3`) or path.

    Only the first word of a line counts: `JPEGImages/ID.jpg SegmentationClass/ID.png` names the image ID.
    """
    try:
        lines = [line.split() for line in file.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"labeled_list={file}: cannot be read ({error})") from None
    names = {group: group for group in groups} | {case.name: g for g, members in groups.items() for case in members}
    chosen: dict[str, None] = {}
    for words in lines:
        name = known_name(words[0], names)
        if name is None:
            raise UserError(f"labeled_list={file}: {words[0]!r} names no training case (they look like {order[0]!r})")
        if names[name] not in order:
            raise UserError(f"labeled_list={file}: {words[0]!r} has no mask")
        chosen[names[name]] = None
    if not chosen:
        raise UserError(f"labeled_list={file}: the file names no case")
    return list(chosen)


def known_name(word: str, known: Collection[str]) -> str | None:
    """The known name that a path ends in, but for endings that begin with _ or . (`a/NAME_slice_3.h5` -> `NAME`)."""
    for name in (word, Path(word).name):
        while name not in known and (cut := max(name.rfind("_"), name.rfind("."))) > name.rfind("/") + 1:
            name = name[:cut]
        if name in known:
            return name
    return None


def check_disjoint(splits: Mapping[Split, Sequence[Case]]) -> None:
    """Refuse a group that occurs in two of train, val and test: what is measured must not have been trained on."""
    seen: dict[str, str] = {}
    for split, cases in splits.items():
        for group in {case.group for case in cases}:
            if group in seen:
                raise UserError(f"{group} is in both {seen[group]} and {split}; mend the lists of the dataset")
            seen[group] = split
