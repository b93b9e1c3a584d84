"""The embedded volumes: a function of the seed alone, isotropic, with three structures each."""

import numpy as np
import pytest
from scipy import ndimage

from ssl4seg.data.case import Volume, checked
from ssl4seg.data.phantom_volume import SIDE, PhantomVolume

KEYS = {"classes": ["background", "core", "wall", "duct"], "num_classes": 4, "channels": 1, "image_size": [32] * 3}


def phantom(**changes: object) -> PhantomVolume:
    return PhantomVolume(**{"num_train": 4, "num_val": 1, "num_test": 1, "seed": 0, **KEYS, **changes})


@pytest.fixture(scope="module")
def volumes() -> list[Volume]:
    return [case.read() for case in phantom().cases("train")]


def test_a_volume_is_the_same_whenever_it_is_read_and_another_with_another_seed(volumes):
    again, other = (phantom(seed=seed).cases("train")[0].read() for seed in (0, 1))
    assert np.array_equal(again.image, volumes[0].image)
    assert np.array_equal(again.label, volumes[0].label)
    assert other.image.shape != volumes[0].image.shape or not np.array_equal(other.image, volumes[0].image)


def test_every_volume_is_complete_and_as_large_as_announced(volumes):
    for case, volume in zip(phantom().cases("train"), volumes, strict=True):
        checked(volume, case.name, 4)
        assert volume.image.shape == (1, 1, *case.size)
        assert all(SIDE[0] <= side <= SIDE[1] for side in case.size)
        assert case.spacing == (1, 1, 1)
        assert (volume.image.min(), volume.image.max()) == (0, 1)


def test_the_wall_encloses_the_core_and_the_duct_is_one_piece_beside_them(volumes):
    for _, (label,) in volumes:
        assert {*np.unique(label)} == {0, 1, 2, 3}
        around = ndimage.binary_dilation(label == 1) & (label != 1)
        assert {*np.unique(label[around])} == {2}
        assert ndimage.label(label == 3, np.ones((3, 3, 3)))[1] == 1


def test_structures_have_no_preferred_axis_over_many_volumes():
    labels = [case.read().label[0] > 0 for case in phantom(num_train=30).cases("train")]
    spreads = np.mean([np.argwhere(label).std(axis=0) for label in labels], axis=0)
    assert spreads.max() / spreads.min() < 1.3


def test_with_one_number_the_volumes_are_slices(volumes):
    case = phantom(image_size=32).cases("train")[0]
    assert len(case.size) == 2
    assert np.array_equal(case.read().label.transpose(2, 1, 0), volumes[0].label[0])
