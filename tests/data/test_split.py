"""The labelled split: published figures, and its promises as properties."""

import json
import os
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssl4seg.data.case import Case
from ssl4seg.data.split import LabeledSplit, check_disjoint, split_labeled
from ssl4seg.errors import UserError

Groups = list[list[tuple[int, bool]]]
"""For each group its cases: number of images, and whether there is a mask."""

GROUPS = st.lists(
    st.lists(st.tuples(st.integers(1, 12), st.booleans()), min_size=1, max_size=3), min_size=1, max_size=9
)
SOME = GROUPS.filter(lambda groups: any(labeled for group in groups for _, labeled in group))
RATIO = st.floats(0.001, 1)


def cases_of(groups: Groups) -> list[Case]:
    return [
        Case(
            name=f"p{g:02d}_frame{c:02d}",
            group=f"p{g:02d}",
            num_images=num,
            size=(4, 4),
            labeled=labeled,
            read=lambda: 1 / 0,
        )
        for g, group in enumerate(groups)
        for c, (num, labeled) in enumerate(group)
    ]


def names(cases: tuple[Case, ...]) -> list[str]:
    return [case.name for case in cases]


# -- published figures ------------------------------------------------------------------------------------------------

MILESTONES = [(1, 32), (3, 68), (7, 136), (14, 256), (21, 396), (28, 512), (35, 664), (70, 1312)]
"""Slices of the first so many ACDC patients, as the literature counts them."""


def acdc() -> list[Case]:
    """70 patients of two volumes each, with the milestones' slices spread evenly between them."""
    slices: list[int] = []
    for patients, total in MILESTONES:
        new, rest = patients - len(slices), total - sum(slices)
        slices += [rest * (i + 1) // new - rest * i // new for i in range(new)]
    return cases_of([[(n // 2, True), (n - n // 2, True)] for n in slices])


@pytest.mark.parametrize(
    ("ratio", "patients", "slices"),
    [(0.05, 3, 68), (0.1, 7, 136), (0.19, 14, 256), (0.2, 14, 256), (0.3, 21, 396), (0.5, 35, 664), (1, 70, 1312)],
)
def test_ratios_give_the_published_acdc_splits(ratio, patients, slices):
    split = split_labeled(acdc(), ratio=ratio)
    assert str(split) == f"{patients} of 70 patients, {slices} of 1312 slices"
    assert split.labeled_groups == tuple(f"p{i:02d}" for i in range(patients))


@pytest.mark.parametrize(("patients", "slices"), MILESTONES)
def test_labeled_cases_counts_patients(patients, slices):
    split = split_labeled(acdc(), ratio=0.1, num_groups=patients)
    assert (len(split.labeled_groups), split.num_labeled_images, split.num_images) == (patients, slices, 1312)


# -- properties -------------------------------------------------------------------------------------------------------


@given(SOME, RATIO, st.one_of(st.none(), st.integers(0, 99)))
def test_the_parts_are_disjoint_and_complete_and_only_masks_label(groups, ratio, seed):
    cases = cases_of(groups)
    split = split_labeled(cases, ratio=ratio, seed=seed)
    assert sorted(names(split.labeled) + names(split.unlabeled)) == sorted(names(tuple(cases)))
    assert all(case.labeled for case in split.labeled)
    # Whole groups: a labelled group's cases are unlabelled only where their mask is missing.
    assert not any(case.labeled for case in split.unlabeled if case.group in split.labeled_groups)
    assert {case.group for case in split.labeled} == set(split.labeled_groups) != set()
    assert (split.num_groups, split.num_images) == (len(groups), sum(n for group in groups for n, _ in group))


@given(SOME, RATIO)
def test_the_ratio_takes_the_groups_that_come_closest(groups, ratio):
    target = ratio * sum(n for group in groups for n, _ in group)
    masked = [sum(n for n, labeled in group if labeled) for group in groups if any(labeled for _, labeled in group)]
    errors = [abs(sum(masked[:k]) - target) for k in range(1, len(masked) + 1)]
    split = split_labeled(cases_of(groups), ratio=ratio)
    assert abs(split.num_labeled_images - target) == min(errors)
    assert len(split.labeled_groups) == 1 + errors.index(min(errors))  # the fewest on a tie


@given(SOME, RATIO, RATIO, st.one_of(st.none(), st.integers(0, 99)))
def test_splits_of_the_same_seed_are_nested(groups, a, b, seed):
    less, more = (split_labeled(cases_of(groups), ratio=ratio, seed=seed) for ratio in sorted((a, b)))
    assert more.labeled_groups[: len(less.labeled_groups)] == less.labeled_groups
    assert set(names(less.labeled)) <= set(names(more.labeled))


def test_a_split_seed_shuffles_the_patients_and_repeats():
    orders = [split_labeled(acdc(), ratio=1, seed=seed).labeled_groups for seed in (None, 0, 0, 1)]
    assert orders[1] == orders[2]
    assert len(set(orders)) == 3
    assert len({tuple(sorted(order)) for order in orders}) == 1


def test_a_tie_takes_the_smaller_number():
    # 10 + 10 of 60 images: a quarter is 15, five away from both.
    split = split_labeled(cases_of([[(10, True)], [(10, True)], [(40, True)]]), ratio=0.25)
    assert split.num_labeled_images == 10


def test_a_tiny_ratio_still_labels_one_patient():
    assert len(split_labeled(acdc(), ratio=1e-6).labeled_groups) == 1


def test_cases_without_mask_count_as_images_but_are_never_labelled():
    cases = cases_of([[(5, False)], [(5, True), (5, False)], [(5, True)]])
    split = split_labeled(cases, ratio=1)
    assert names(split.labeled) == ["p01_frame00", "p02_frame00"]
    assert names(split.unlabeled) == ["p00_frame00", "p01_frame01"]
    assert str(split) == "2 of 3 patients, 10 of 20 slices"


# -- split.json -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "shortage"),
    [
        (0.9, "labeled_ratio=0.9 asks for more than there is: only 4 of the 16 training slices have a mask; all"),
        (0.3, "labeled_ratio=0.3 asks for more"),
        (0.25, ""),
        (0.1, ""),
    ],
)
def test_a_ratio_beyond_the_masks_that_there_are_is_told(ratio, shortage):
    cases = cases_of([[(4, True)], [(4, False)], [(4, False)], [(4, False)]])
    split = split_labeled(cases, ratio=ratio)
    assert split.num_labeled_images == 4
    assert split.shortage.startswith(shortage)
    assert bool(split.shortage) == bool(shortage)
    assert not split_labeled(cases, ratio=ratio, num_groups=1).shortage


def test_a_ratio_that_falls_short_by_less_than_a_patient_is_not():
    assert not split_labeled(cases_of([[(5, True)], [(5, True)]]), ratio=0.6).shortage


def test_split_json_names_every_case_and_the_hash_tells_splits_apart():
    first, again, other = (split_labeled(acdc(), num_groups=n).as_dict() for n in (7, 7, 8))
    assert json.loads(json.dumps(first)) == first == again
    assert (len(first["labeled"]), len(first["unlabeled"])) == (14, 126)
    assert (first["num_labeled_images"], first["num_images"]) == (136, 1312)
    assert len(first["sha256"]) == 64
    assert first["sha256"] != other["sha256"]


# -- lists ------------------------------------------------------------------------------------------------------------

THREE = [[(4, True), (4, True)], [(4, True), (4, True)], [(4, False)]]


def listed(tmp_path, text: str) -> LabeledSplit:
    (tmp_path / "list.txt").write_text(text)
    return split_labeled(cases_of(THREE), ratio=1, num_groups=1, list_file=tmp_path / "list.txt")


@pytest.mark.parametrize(
    "line",
    [
        "p01",
        "p01_frame00",
        "p01_frame01_slice_3",
        "p01_frame00.h5",
        "data/slices/p01_frame00_slice_2.h5",
        " p01 1.0 \n",
    ],
)
def test_a_list_may_name_patients_volumes_slices_or_files(tmp_path, line):
    split = listed(tmp_path, f"\n{line}\n")
    assert names(split.labeled) == ["p01_frame00", "p01_frame01"]


def test_a_list_has_its_own_order_and_may_repeat_itself(tmp_path):
    lines = ["p01_frame00_slice_0", "p00_frame01", "p01_frame00_slice_1", "p00"]
    assert listed(tmp_path, "\n".join(lines)).labeled_groups == ("p01", "p00")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("p00\np07\n", "1 of the 2 lines name no training case: line 2 'p07' \\(nearest: 'p0[0-2]'\\)"),
        ("p02\n", "'p02' has no mask"),
        ("\n\n", "names no training case"),
        ("p0\n", "name no training case"),
        ("p011_frame00\n", "name no training case"),
        ("p01_frame07\n", "line 1 'p01_frame07' \\(nearest: 'p01_frame0[01]'\\)"),
        ("p01_slice_x\n", "name no training case"),
        ("p01.v2\n", "name no training case"),
    ],
)
def test_a_list_that_does_not_fit_is_refused(tmp_path, text, fault):
    with pytest.raises(UserError, match=rf"labeled_list=.*{fault}"):
        listed(tmp_path, text)


def named(*cases: str) -> list[Case]:
    """Cases of these names, each a group of its own."""
    return [replace(cases_of([[(1, True)]])[0], name=name, group=name) for name in cases]


def test_no_other_name_is_taken_for_one_that_it_begins_with(tmp_path):
    cases = named("cell", "cell_2", "dog", "a")
    for line in ("cell_3", "dog_is_a_cat.png", "a_2", "cell.old", "cell_mask.png"):
        (tmp_path / "list.txt").write_text(f"cell_2\n{line}\n")
        with pytest.raises(UserError, match=rf"labeled_list=.*line 2 {line!r}"):
            split_labeled(cases, list_file=tmp_path / "list.txt")
    (tmp_path / "list.txt").write_text("cell_2.PNG\nimages/a.tif\n")
    assert split_labeled(cases, list_file=tmp_path / "list.txt").labeled_groups == ("cell_2", "a")


def test_a_name_that_is_there_is_not_shortened(tmp_path):
    (tmp_path / "list.txt").write_text("a_slice_1.h5\nx/b\n")
    split = split_labeled(named("a", "a_slice_1", "b", "x/b"), list_file=tmp_path / "list.txt")
    assert split.labeled_groups == ("a_slice_1", "x/b")


def test_names_may_hold_spaces(tmp_path):
    (tmp_path / "list.txt").write_text("cell 2\n")
    cases = named("cell", "cell 2")
    assert split_labeled(cases, list_file=tmp_path / "list.txt").labeled_groups == ("cell 2",)
    (tmp_path / "list.txt").write_text("cell 3\n")
    with pytest.raises(UserError, match=r"line 1 'cell 3' \(nearest: 'cell 2'\)"):
        split_labeled(cases, list_file=tmp_path / "list.txt")


@pytest.mark.parametrize(
    ("name", "words"), [("missing.txt", "there is no such file"), (".", "is a folder; only regular")]
)
def test_a_list_that_cannot_be_read_is_refused(tmp_path, name, words):
    with pytest.raises(UserError, match=rf"labeled_list=.*{words}"):
        split_labeled(cases_of(THREE), list_file=tmp_path / name)


def test_a_list_may_begin_with_a_byte_order_mark_and_spell_names_in_another_unicode_form(tmp_path):
    cases = named("caf\u00e9", "b", "c")
    (tmp_path / "list.txt").write_bytes("\ufeffb\ncafe\u0301.png\n".encode())
    assert split_labeled(cases, list_file=tmp_path / "list.txt").labeled_groups == ("b", "caf\u00e9")


def test_a_list_that_is_no_list_of_names_is_refused_at_once(tmp_path):
    (tmp_path / "list.txt").write_text("b\n" + "a/" * 10**6)
    with pytest.raises(
        UserError, match=r"labeled_list=.*: line 2 has more than 4096 characters; expected one name a line"
    ):
        split_labeled(named("a", "b"), list_file=tmp_path / "list.txt")
    os.mkfifo(tmp_path / "fifo.txt")
    with pytest.raises(UserError, match=r"labeled_list=.*fifo\.txt: is a FIFO; only regular files are read"):
        split_labeled(named("a", "b"), list_file=tmp_path / "fifo.txt")


def test_a_list_in_another_encoding_is_refused(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00p")
    with pytest.raises(UserError, match=r"labeled_list=.*cannot be read"):
        split_labeled(cases_of(THREE), list_file=tmp_path / "list.txt")


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ({"ratio": 0}, "labeled_ratio=0"),
        ({"ratio": 1.01}, "labeled_ratio=1.01"),
        ({"ratio": float("nan")}, "labeled_ratio=nan"),
        ({"ratio": None}, "labeled_ratio=None"),
        ({"num_groups": 0}, "labeled_cases=0: expected 1 to 2"),
        ({"num_groups": 3}, "labeled_cases=3: expected 1 to 2"),
    ],
)
def test_an_impossible_wish_is_refused_by_its_key(keys, fault):
    with pytest.raises(UserError, match=fault):
        split_labeled(cases_of(THREE), **keys)


def test_a_dataset_without_masks_is_refused():
    with pytest.raises(UserError, match="none of the 2 training cases has a mask"):
        split_labeled(cases_of([[(4, False)], [(4, False)]]), ratio=1)


def test_a_patient_in_two_splits_is_refused():
    train, rest = cases_of([[(4, True)], [(4, True)]]), cases_of([[(4, True)]])
    words = rf"p00 is in both train and test \(train: {train[0].name}; test: {rest[0].name}\); mend the lists"
    with pytest.raises(UserError, match=words):
        check_disjoint({"train": train, "val": [], "test": rest})
    with pytest.raises(UserError, match=r"and so are 1 more; keep them apart"):
        check_disjoint({"train": train, "val": train}, "keep them apart")


@given(st.permutations(range(9)), st.integers(1, 4), st.integers(5, 8))
def test_patients_of_their_own_pass(order, first, second):
    cases = cases_of([[(1, True), (2, True)]] * 9)
    parts = [{f"p{i:02d}" for i in part} for part in (order[:first], order[first:second], order[second:])]
    check_disjoint(
        {
            split: [c for c in cases if c.group in part]
            for split, part in zip(("train", "val", "test"), parts, strict=True)
        }
    )


@given(SOME, st.randoms(use_true_random=False))
def test_the_order_of_the_cases_within_groups_changes_no_group(groups, rng: random.Random):
    cases = cases_of(groups)
    within = {group: rng.random() for group in {case.name for case in cases}}
    shuffled = sorted(cases, key=lambda case: (case.group, within[case.name]))
    one, other = (split_labeled(some, ratio=0.4) for some in (cases, shuffled))
    assert one.labeled_groups == other.labeled_groups
    assert set(names(one.labeled)) == set(names(other.labeled))
