"""Folds: every patient is tested once and validates once, none is in two parts, and a seed deals them anew."""

from dataclasses import replace

import numpy as np
import pytest

from ssl4seg.data.case import Case, Volume
from ssl4seg.data.dataset import Dataset
from ssl4seg.data.folds import Folded, folded, undivided
from ssl4seg.errors import UserError
from ssl4seg.keys import FOLD


def case(name: str, group: str, *, labeled: bool = True) -> Case:
    value = float(len(name))
    read = lambda: Volume(np.full((1, 1, 4, 4), value, np.float32), None)  # noqa: E731
    return Case(name=name, group=group, num_images=1, size=(4, 4), labeled=labeled, read=read)


class Patients(Dataset):
    """Seven patients p0 ... p6 of two cases each; p1 has one mask, p9 none."""

    name = "patients"

    def cases(self, split):
        of_split = {"train": ("p4", "p9", "p1", "p0", "p6"), "val": ("p5",), "test": ("p2", "p3")}
        return [
            case(f"{group}_{part}", group, labeled=group != "p9" and (group, part) != ("p1", "b"))
            for group in of_split[split]
            for part in "ab"
        ]


def patients(**keys) -> Patients:
    return Patients(classes=["no", "yes"], num_classes=2, channels=1, image_size=16, **keys)


def groups(dataset: Dataset, split) -> list[str]:
    return sorted({case.group for case in dataset.cases(split)})


def test_three_folds_by_hand() -> None:
    """Sorted p0 ... p6 are dealt in turn: p0 p3 p6, p1 p4, p2 p5; p9 has no mask and always trains."""
    first, second, third = (Folded(patients(), f"{number}/3") for number in (1, 2, 3))
    assert [groups(fold, "test") for fold in (first, second, third)] == [["p0", "p3", "p6"], ["p1", "p4"], ["p2", "p5"]]
    assert [groups(fold, "val") for fold in (first, second, third)] == [["p1", "p4"], ["p2", "p5"], ["p0", "p3", "p6"]]
    assert groups(first, "train") == ["p2", "p5", "p9"]
    assert [case.name for case in second.cases("test")] == ["p1_a", "p4_a", "p4_b"]  # p1_b has no mask
    assert first.tested_on == "test"
    assert first.as_dict()["test"] == ["p0_a", "p0_b", "p3_a", "p3_b", "p6_a", "p6_b"]
    assert (first.name, first.num_classes, first.words) == ("patients", 2, patients().words)


@pytest.mark.parametrize("seed", [None, 0, 1])
@pytest.mark.parametrize("of", [3, 5, 7])
def test_every_patient_is_tested_in_one_fold_and_validates_in_one(of: int, seed: int | None) -> None:
    folds = [Folded(patients(), f"{number}/{of}", seed) for number in range(1, of + 1)]
    everyone = [f"p{number}" for number in range(7)]
    for split in ("test", "val"):
        assert sorted(group for fold in folds for group in groups(fold, split)) == everyone
    for fold in folds:
        parts = [groups(fold, split) for split in ("train", "val", "test")]
        assert sorted(group for part in parts for group in part) == [*everyone, "p9"]
    assert folds[0].as_dict() == Folded(patients(), f"1/{of}", seed).as_dict()
    assert (folds[0].as_dict() == Folded(patients(), f"1/{of}", 2).as_dict()) is False


def test_mean_and_std_are_those_of_the_folds_own_training_images() -> None:
    """Every image of these is constant: 1 of the cases that train, 100 of the others."""

    class Bright(Patients):
        def cases(self, split):
            held = ("p0", "p1", "p3", "p4", "p6")  # the test and val of fold 1

            def of(group):
                value = 100.0 if group in held else 1.0
                return lambda: Volume(np.full((1, 1, 4, 4), value, np.float32), None)

            return [replace(case, read=of(case.group)) for case in super().cases(split)]

    whole = Bright(classes=["no", "yes"], num_classes=2, channels=1, image_size=16, mean="auto", std="auto")
    statistics = Folded(whole, "1/3").statistics()
    assert statistics is not None
    assert statistics.mean == pytest.approx([1.0])


def test_a_dataset_with_a_test_of_its_own_too_few_patients_and_equal_names_are_refused() -> None:
    published = patients()
    published.published_test = True
    with pytest.raises(UserError, match=r"dataset\.fold=1/3: patients has a test of its own"):
        Folded(published, "1/3")
    with pytest.raises(UserError, match=r"dataset\.fold=1/8: each fold needs a case with a mask, but there are 7"):
        Folded(patients(), "1/8")

    class Twice(Patients):
        def cases(self, split):
            return super().cases("val")

    twice = Twice(classes=["no", "yes"], num_classes=2, channels=1, image_size=16)
    with pytest.raises(UserError, match=r"dataset\.fold=1/3: two cases are called p5_a, in different splits"):
        Folded(twice, "1/3")


def test_keys_choose_the_fold_and_without_one_the_dataset_stays() -> None:
    whole = patients()
    assert folded(whole, {"fold": None, "fold_seed": 3}) is whole
    assert isinstance(folded(whole, {"fold": "2/3", "fold_seed": None}), Folded)
    assert undivided({"root": "x", "fold": "2/3", "fold_seed": 1}) == {"root": "x"}
    good = ("1/3", "3/3", "12/20")
    assert all(map(FOLD.fits, good))
    assert not any(map(FOLD.fits, ("0/3", "4/3", "1/2", "2", "2/", "a/5", "1/3 ", 0.4, 2)))
