"""The published lists: their lengths, their names, which lies in which, and how labeled_list takes one."""

import re
from itertools import pairwise

import pytest

from ssl4seg.data.case import Case, Volume
from ssl4seg.data.published import labeled_list, published_lists
from ssl4seg.data.split import split_labeled
from ssl4seg.errors import UserError

LISTS = {name: file.read_text().split() for name, file in published_lists().items()}
BLENDED = {"1_16": 662, "1_8": 1323, "1_4": 2646, "1_2": 5291}  # of 10,582
LENGTHS = {
    **{f"voc2012/{number}": number for number in (92, 183, 366, 732, 1464)},
    **{f"voc2012/{name}": number for name, number in BLENDED.items()},
    **{f"voc2012/u2pl_{name}": number for name, number in BLENDED.items()},
    **{f"cityscapes/{name}": number for name, number in (("1_30", 100), ("1_16", 186), ("1_8", 372))},
    **{f"cityscapes/{name}": number for name, number in (("1_4", 744), ("1_2", 1488))},
}
CITIES = (
    "aachen bochum bremen cologne darmstadt dusseldorf erfurt hamburg hanover jena krefeld monchengladbach strasbourg "
    "stuttgart tubingen ulm weimar zurich"
)
"""The cities of Cityscapes' train."""


def case(name: str) -> Case:
    def read() -> Volume:
        raise AssertionError("no pixel is needed")

    return Case(name=name, group=name, num_images=1, size=(8, 8), labeled=True, read=read)


def test_each_list_names_as_many_images_as_is_published_and_none_twice():
    assert {name: len(set(images)) for name, images in LISTS.items()} == LENGTHS
    assert {name: len(images) for name, images in LISTS.items()} == LENGTHS


def test_the_names_are_those_of_the_datasets():
    voc = {image for name, images in LISTS.items() if name.startswith("voc2012") for image in images}
    assert not [image for image in voc if not re.fullmatch(r"20(07|08|09|10|11)_\d{6}", image)]
    streets = {image for name, images in LISTS.items() if name.startswith("cityscapes") for image in images}
    assert not [image for image in streets if not re.fullmatch(r"[a-z]+_\d{6}_\d{6}", image)]
    assert {image.partition("_")[0] for image in streets} == {*CITIES.split()}


@pytest.mark.parametrize(
    "chain",
    [
        *(["92", "1464"], ["183", "1464"], ["366", "1464"], ["732", "1464"]),
        ["1_16", "1_8", "1_4", "1_2"],
        ["u2pl_1_16", "u2pl_1_8", "1464", "u2pl_1_4"],  # the images with the finer masks come first
        ["u2pl_1_8", "1464", "u2pl_1_2"],
    ],
)
def test_lists_of_voc_lie_in_each_other(chain):
    sets = [{*LISTS[f"voc2012/{name}"]} for name in chain]
    assert all(small < large for small, large in pairwise(sets))


def test_lists_of_cityscapes_lie_in_each_other():
    sets = [{*LISTS[f"cityscapes/{name}"]} for name in ("1_16", "1_8", "1_4", "1_2")]
    assert all(small < large for small, large in pairwise(sets))


def test_a_name_labels_its_images_in_the_published_order():
    cases = [case(name) for name in LISTS["voc2012/1464"]]  # in the order of train.txt
    split = split_labeled(cases, list_file="voc2012/92", words=("images", "images"))
    assert split.labeled_groups == tuple(LISTS["voc2012/92"])
    assert split.labeled_groups[:2] == ("2007_000733", "2010_004493")
    assert str(split) == "92 of 1464 images"


def test_a_list_of_another_dataset_is_refused_with_its_name():
    with pytest.raises(UserError, match=r"^labeled_list=cityscapes/1_16: 186 of the 186 lines name no training case"):
        split_labeled([case("2007_000032")], list_file="cityscapes/1_16")


def test_an_unknown_name_is_answered_with_all_names_and_the_nearest():
    with pytest.raises(UserError) as refusal:
        labeled_list("voc2012/93")
    first, second = str(refusal.value).splitlines()
    assert first == (
        "labeled_list=voc2012/93: there is no such file, and no published list of this name; did you mean voc2012/92?"
    )
    assert second.removeprefix("published lists: ").split(", ") == list(LENGTHS)[13:] + sorted(
        list(LENGTHS)[:13], key=lambda name: (LENGTHS[name], name)
    )


def test_a_file_of_the_users_own_comes_before_a_published_list(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "voc2012" / "92"
    own.mkdir(parents=True)
    assert labeled_list("voc2012/92") == published_lists()["voc2012/92"]  # a folder is no list
    own.rmdir()
    own.write_text("mine\n")
    assert labeled_list("voc2012/92").resolve() == own
