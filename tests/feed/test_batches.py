"""Order, store and batches: every step is a pure function of the seed, and each process has its part of it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor

from ssl4seg.errors import UserError
from ssl4seg.feed.batches import Batches
from ssl4seg.feed.store import Order, Store
from ssl4seg.feed.views import WeakView
from ssl4seg.keys import IGNORE
from ssl4seg.seeding import generator, seed_of
from ssl4seg.types import Batch

STILL = WeakView(rot90_flip=0, rotate=0, max_angle=0)
RECIPE = WeakView(rot90_flip=0.5, rotate=1, max_angle=20)


# -- seeds and order --------------------------------------------------------------------------------------------------


@given(st.lists(st.one_of(st.integers(), st.text("ab", max_size=3)), max_size=4))
def test_a_seed_depends_on_every_word_and_on_their_order(words):
    assert 0 <= seed_of(*words) < 2**63
    assert seed_of(*words) == seed_of(*words) != seed_of(*words, 0)
    assert seed_of(*words, "a", "b") != seed_of(*words, "b", "a") != seed_of(*words, "ba")


@given(st.integers(1, 50), st.integers(0, 5))
def test_every_epoch_is_a_permutation(num, epoch):
    order = Order(num, 0, "labeled")
    assert sorted(order[epoch * num + i] for i in range(num)) == list(range(num))


def test_order_is_stateless_and_fresh_in_every_epoch_stream_and_seed():
    order = Order(20, 0, "labeled")
    forward = [order[i] for i in range(60)]
    assert [order[i] for i in reversed(range(60))] == forward[::-1]
    others = [[Order(20, *words)[i] for i in range(20)] for words in ((0, "unlabeled"), (1, "labeled"))]
    epochs = [forward[:20], forward[20:40], forward[40:], *others]
    assert len({tuple(epoch) for epoch in epochs}) == 5


# -- store ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def store(make_case) -> Store:
    """Slices 0, 1 of 4 x 6 pixels with a mask; 2 of 5 x 3 without one."""
    cases = [
        make_case("a", torch.arange(48).view(2, 4, 6), torch.ones(2, 4, 6)),
        make_case("b", torch.full((1, 5, 3), 7)),
    ]
    return Store(cases, num_classes=2, labels=True, device="cpu")


def test_store_keeps_every_slice_in_order(store):
    assert len(store) == 3
    assert store.sizes.tolist() == [[4, 6], [4, 6], [5, 3]]
    assert store.nbytes == (48 + 15) * 4 + 48


def test_taken_images_are_padded_at_the_bottom_right(store):
    image, label, size = store.take([2, 1, 2])
    assert image.shape == (3, 1, 5, 6)
    assert torch.equal(image[0], image[2])
    assert image[0, 0, :, :3].eq(7).all()
    assert image[0].sum() == 15 * 7
    assert torch.equal(image[1, 0, :4], torch.arange(24.0, 48).view(4, 6))
    assert label[0].eq(IGNORE).all()  # no mask
    assert label[1, :4].eq(1).all()
    assert label[1, 4].eq(IGNORE).all()  # padding
    assert size.tolist() == [[5, 3], [4, 6], [5, 3]]


def test_images_of_one_size_come_as_they_are_in_the_order_that_is_asked_for(store):
    image, label, size = store.take([1, 0, 1])
    assert torch.equal(image[:, 0], torch.arange(48.0).view(2, 4, 6)[[1, 0, 1]])
    assert (image.is_contiguous(), label.dtype, label.eq(1).all()) == (True, torch.uint8, True)
    assert size.tolist() == [[4, 6]] * 3
    image[0] = -1
    assert store.take([1])[0].ge(0).all()  # a copy: the store stays as it is


def test_a_store_without_labels_holds_no_mask(make_case):
    store = Store(
        [make_case("a", torch.zeros(2, 4, 4), torch.ones(2, 4, 4))], num_classes=2, labels=False, device="cpu"
    )
    assert store.labels == [None, None]
    assert store.take([0]).label.eq(IGNORE).all()


@pytest.mark.parametrize(
    ("image", "label", "fault"),
    [
        (torch.full((1, 4, 4), torch.nan), None, "16 NaN or infinite"),
        (torch.zeros(1, 4, 4), torch.full((1, 4, 4), 9), r"label values \[9\]"),
        (torch.zeros(1, 4, 4), torch.zeros(1, 4, 5), "differ in shape"),
        (torch.zeros(1, 0, 4), None, "has shape"),
    ],
)
def test_a_faulty_case_is_refused_by_its_name(make_case, image, label, fault):
    with pytest.raises(UserError, match=f"patient7: .*{fault}"):
        Store([make_case("patient7", image, label)], num_classes=2, labels=True, device="cpu")


def test_the_ignored_value_is_no_fault(make_case):
    label = torch.tensor([[[0, 1], [IGNORE, 1]]])
    store = Store([make_case("a", torch.zeros(1, 2, 2), label)], num_classes=2, labels=True, device="cpu")
    assert torch.equal(store.take([0]).label.long(), label)


# -- batches ----------------------------------------------------------------------------------------------------------


def brighter(image: Tensor, generator: Generator) -> Tensor:
    return image + 1 + torch.rand(len(image), 1, 1, 1, generator=generator)


@pytest.fixture
def make_batches(make_case):
    """Eight labelled and twelve unlabelled images; each is its number, so that one sees which images a batch holds."""

    def numbered(count: int, first: int) -> Store:
        shapes = [(16, 16), (12, 20), (24, 10), (17, 13)]
        cases = [
            make_case(f"c{first + i}", torch.full((1, *shapes[i % 4]), first + i), torch.ones(1, *shapes[i % 4]))
            for i in range(count)
        ]
        return Store(cases, num_classes=2, labels=first == 1, device="cpu")

    labeled, unlabeled = numbered(8, 1), numbered(12, 101)

    def make(**changes: object) -> Batches:
        keys = {"sizes": (4, 4), "shape": (16, 16), "weak": RECIPE, "strong": [brighter], "num_strong": 0, "seed": 0}
        streams = [labeled, changes.pop("unlabeled", unlabeled)]
        return Batches(*streams, **{**keys, "device": torch.device("cpu"), **changes})

    return make


def tensors(batch: Batch) -> list[Tensor]:
    return [batch.image, batch.label, batch.unlabeled, *batch.strong]


def same(a: Batch, b: Batch) -> bool:
    return all(torch.equal(x, y) for x, y in zip(tensors(a), tensors(b), strict=True))


def numbers(images: Tensor) -> list[int]:
    """The numbers of these images: each number fills the middle of its image."""
    return [round(image[0, 8, 8].item()) for image in images]


def test_a_batch_has_the_contracts_shapes_types_and_memory(make_batches):
    image, label, unlabeled, strong = make_batches(sizes=(3, 5), num_strong=2)(0)
    assert (image.shape, label.shape, unlabeled.shape) == ((3, 1, 16, 16), (3, 16, 16), (5, 1, 16, 16))
    assert [view.shape for view in strong] == [unlabeled.shape] * 2
    assert (image.dtype, label.dtype, unlabeled.dtype) == (torch.float32, torch.int64, torch.float32)
    assert image.is_contiguous(memory_format=torch.channels_last)
    assert unlabeled.is_contiguous(memory_format=torch.channels_last)


def test_a_step_is_a_function_of_seed_and_step_alone(make_batches):
    first, again = make_batches(num_strong=2), make_batches(num_strong=2)
    forward = [first(step) for step in range(5)]
    backward = [again(step) for step in reversed(range(5))]
    assert all(same(a, b) for a, b in zip(forward, reversed(backward), strict=True))
    assert not same(forward[0], forward[1])
    assert not same(forward[0], make_batches(num_strong=2, seed=1)(0))


def test_each_stream_shows_every_image_once_in_an_epoch(make_batches):
    batches = make_batches(weak=STILL)
    steps = [batches(step) for step in range(6)]
    labeled = [number for batch in steps for number in numbers(batch.image)]
    unlabeled = [number for batch in steps for number in numbers(batch.unlabeled)]
    assert sorted(labeled[:8]) == sorted(labeled[8:16]) == list(range(1, 9))
    assert sorted(unlabeled[:12]) == sorted(unlabeled[12:]) == list(range(101, 113))


def test_an_image_looks_different_each_time(make_batches):
    # One image, again and again: its corners are cut differently by every rotation.
    batches = make_batches(weak=WeakView(rot90_flip=0, rotate=1, max_angle=20), sizes=(8, 4))
    views = torch.cat([batches(step).image for step in range(3)])
    first = torch.stack([view for view in views if numbers(view[None]) == [1]])
    assert len(first.unique(dim=0)) == 3


@pytest.mark.parametrize("world", [2, 4])
def test_the_parts_of_the_processes_are_the_global_batch(make_batches, world):
    whole = make_batches(sizes=(8, 4))(3)
    parts = [make_batches(sizes=(8 // world, 4 // world), rank=rank, world=world)(3) for rank in range(world)]
    for name in ("image", "label", "unlabeled"):
        together = torch.cat([getattr(part, name) for part in parts])
        torch.testing.assert_close(together, getattr(whole, name), atol=1e-3, rtol=0)


def test_the_unlabelled_stream_shifts_nothing_in_the_labelled_one(make_batches):
    batches = [make_batches(), make_batches(sizes=(4, 9), num_strong=2), make_batches(unlabeled=None, sizes=(4, 0))]
    one, *others = [made(1) for made in batches]
    for other in others:
        assert torch.equal(one.image, other.image)
        assert torch.equal(one.label, other.label)


def test_without_unlabelled_images_there_are_none(make_batches):
    assert make_batches(unlabeled=None, sizes=(4, 0))(0).unlabeled.shape == (0, 1, 16, 16)


def test_strong_views_are_pixel_aligned_with_the_weak_one_and_differ(make_batches):
    batch = make_batches(num_strong=2)(0)
    shifts = [(view - batch.unlabeled).flatten(1) for view in batch.strong]
    for shift in shifts:
        torch.testing.assert_close(shift, shift[:, :1].expand_as(shift), atol=1e-4, rtol=0)
    assert len(torch.cat(shifts)[:, 0].unique()) == 8


def test_the_fill_label_is_that_of_the_view(make_batches):
    batch = make_batches(weak=WeakView(rot90_flip=0, rotate=1, max_angle=20, scale=(0.5, 0.5), fill_label=IGNORE))(0)
    assert set(batch.label.unique().tolist()) == {1, IGNORE}
    assert torch.equal(batch.label == IGNORE, batch.image[:, 0] == 0)


def test_a_method_with_strong_views_needs_operations(make_batches):
    with pytest.raises(UserError, match=r"views\.strong is empty"):
        make_batches(num_strong=1, strong=[])


def test_generators_of_the_same_words_draw_the_same():
    a, b = (torch.rand(5, generator=generator(0, "noise", 7)) for _ in range(2))
    assert torch.equal(a, b)
