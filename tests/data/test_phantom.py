"""The embedded dataset: a function of its seed alone, and shaped as its documentation says."""

import numpy as np
import pytest

from ssl4seg.data.case import Volume, checked
from ssl4seg.data.phantom import MAX_PATIENTS, PIXEL, SIDE, SLICES, THICKNESS, Phantom, body
from ssl4seg.data.split import check_disjoint
from ssl4seg.errors import UserError

KEYS = {"classes": ["background", "rv", "myo", "lv"], "num_classes": 4, "channels": 1, "image_size": 64}


def phantom(**changes: object) -> Phantom:
    return Phantom(**{"num_train": 6, "num_val": 2, "num_test": 2, "seed": 0, **KEYS, **changes})


@pytest.fixture(scope="module")
def volumes() -> list[Volume]:
    """Three patients, both phases of each."""
    return [case.read() for case in phantom().cases("train")[:6]]


def same(a: Volume, b: Volume) -> bool:
    return np.array_equal(a.image, b.image) and np.array_equal(a.label, b.label)


def test_a_volume_is_the_same_whenever_it_is_read(volumes):
    cases = phantom().cases("train")[:6]
    body.cache_clear()
    assert all(same(case.read(), volume) for case, volume in reversed(list(zip(cases, volumes, strict=True))))


def test_the_numbers_of_patients_change_no_patient():
    for split in ("train", "val", "test"):
        few, many = phantom().cases(split), phantom(num_train=9, num_val=5, num_test=7).cases(split)
        assert [case.name for case in many[: len(few)]] == [case.name for case in few]
        assert same(few[-1].read(), many[len(few) - 1].read())


def test_seed_and_difficulty_make_other_volumes(volumes):
    for changed in (phantom(seed=1), phantom(difficulty=0.5)):
        assert not same(changed.cases("train")[0].read(), volumes[0])


def test_every_volume_is_complete_and_as_large_as_announced(volumes):
    for case, (image, label) in zip(phantom().cases("train"), volumes, strict=False):
        checked(Volume(image, label), case.name, 4)
        slices, channels, rows, columns = image.shape
        assert case.num_images == slices
        assert SLICES[0] <= slices <= SLICES[1]
        assert channels == 1
        assert all(SIDE[0] <= side <= SIDE[1] for side in (rows, columns))
        assert (image.dtype, label.dtype) == (np.float32, np.uint8)
        assert (image.min(), image.max()) == (0, 1)


def test_every_volume_shows_every_class_and_the_base_all_of_them(volumes):
    for _, label in volumes:
        assert set(np.unique(label)) == set(np.unique(label[0])) == {0, 1, 2, 3}
        assert (label == 0).mean() > 0.5


def test_spacing_is_that_of_slices_and_square_pixels():
    for case in phantom().cases("train"):
        thickness, row, column = case.spacing
        assert thickness == THICKNESS
        assert PIXEL[0] <= row == column <= PIXEL[1]


def test_a_patients_two_phases_share_size_and_position_and_the_heart_contracts(volumes):
    for ed, es in zip(volumes[::2], volumes[1::2], strict=True):
        assert ed.image.shape == es.image.shape
        assert (es.label == 3).sum() < (ed.label == 3).sum()
        assert not np.array_equal(ed.image, es.image)


def test_a_case_belongs_to_its_patient():
    cases = phantom().cases("train")
    assert len(cases) == 12
    assert [(case.name, case.group) for case in cases[:2]] == [
        ("phantom0000_ed", "phantom0000"),
        ("phantom0000_es", "phantom0000"),
    ]
    assert all(case.labeled for case in cases)


def test_splits_are_disjoint_even_at_their_largest():
    largest = phantom()
    firsts = {"train": 0, "val": MAX_PATIENTS, "test": 2 * MAX_PATIENTS}
    largest.numbers = {split: range(first, first + MAX_PATIENTS) for split, first in firsts.items()}
    assert phantom(num_train=MAX_PATIENTS, num_val=MAX_PATIENTS, num_test=MAX_PATIENTS).numbers == largest.numbers
    check_disjoint({split: phantom().cases(split) for split in ("train", "val", "test")})
    numbers = [number for split in largest.numbers.values() for number in split]
    assert len(set(numbers)) == 3 * MAX_PATIENTS


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_train", 0),
        ("num_val", 1001),
        ("num_test", -1),
        ("seed", -1),
        ("difficulty", 2.1),
        ("difficulty", -0.1),
        ("channels", 3),
        ("image_size", 8),
        ("num_classes", 3),
        ("normalize", "z-score"),
    ],
)
def test_a_wrong_value_is_refused_by_its_key(key, value):
    with pytest.raises(UserError, match=rf"dataset\.{key}"):
        phantom(**{key: value})


def test_its_values_lie_in_0_to_1_and_are_scaled_as_the_keys_say():
    as_drawn, zscores, cut = (
        phantom(**keys).cases("train")[0].read().image
        for keys in ({"normalize": "none"}, {"normalize": "zscore"}, {"normalize": "none", "window": [0.2, 0.5]})
    )
    assert (as_drawn.min(), as_drawn.max()) == (0, 1)
    assert np.array_equal(phantom(normalize="minmax").cases("train")[0].read().image, as_drawn)
    assert zscores == pytest.approx((as_drawn - as_drawn.mean()) / as_drawn.std(), abs=1e-5)
    assert np.array_equal(cut, as_drawn.clip(np.float32(0.2), np.float32(0.5)))
