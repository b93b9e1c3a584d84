"""Streams give the same images as stores; steps read ahead come in order, and errors reach the caller."""

import gc
import multiprocessing
import os
import pickle
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import tifffile
import torch
from folders import describe, folder
from natural import shapes, write_shapes
from torch import Tensor

from ssl4seg.data.case import Case, Volume
from ssl4seg.errors import UserError
from ssl4seg.feed.batches import Batches
from ssl4seg.feed.store import Box, Store
from ssl4seg.feed.stream import Ahead, Stream
from ssl4seg.feed.views import CropView
from ssl4seg.run.device import out_of_memory_explained
from ssl4seg.types import Batch

WORKERS = [0, 2]
CROP = CropView(side=32, scale=(0.5, 2.0), flip=0.5)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    return shapes(write_shapes(tmp_path_factory.mktemp("shapes"))).cases("train")


# -- a stream is a store ----------------------------------------------------------------------------------------------


def both(cases: list[Case], *, labels: bool = True) -> tuple[Store, Stream]:
    return Store(cases, num_classes=3, labels=labels, device="cpu"), Stream(cases, num_classes=3, labels=labels)


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("boxes", [None, [Box((3, 5), (20, 30)), Box((0, 0), (30, 1)), Box((0, 3), (9, 40))]])
def test_a_stream_takes_what_a_store_takes(cases, labels, boxes):
    store, stream = both(cases, labels=labels)
    assert len(store) == len(stream) == 8
    assert torch.equal(store.sizes, stream.sizes)
    first, second = (found.take([5, 0, 5], boxes) for found in (store, stream))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert first.image.dtype == second.image.dtype == torch.uint8
    assert second.label.eq(255).all() != labels


def test_a_stream_finds_the_slices_of_volumes(make_case):
    volumes = [make_case("a", np.arange(48.0).reshape(2, 4, 6), np.ones((2, 4, 6))), make_case("b", np.ones((1, 5, 3)))]
    store, stream = both(volumes)
    assert all(torch.equal(a, b) for a, b in zip(store.take([2, 1, 0]), stream.take([2, 1, 0]), strict=True))


def counting(case: Case, read: list[str]) -> Case:
    """The same case, which notes whenever it is read whole."""
    volume = case.read()
    return replace(case, read=lambda: read.append(case.name) or volume, read_image=None)


@pytest.mark.parametrize(("kept", "expected"), [(0, "abcaba"), (1, "abcab"), (2, "abc")])
def test_the_cases_of_last_use_are_kept_up_to_their_bytes(make_case, kept, expected):
    read: list[str] = []
    cases = [counting(make_case(name, np.zeros((3, 4, 4))), read) for name in "abc"]
    size = cases[0].read().image.nbytes
    read.clear()
    stream = Stream(cases, num_classes=2, labels=False, cache_bytes=kept * size)
    stream.take([0, 1, 2, 4, 3, 8, 6, 1, 0, 5, 2])  # of a, b, c, a, b, a
    assert "".join(read) == expected


VOLUMES = 4


def write_volumes(root: Path, kind: str) -> Path:
    """Volumes of two to five slices with numbers of their own range, some with a mask of the colours 0 and 9."""
    rng = np.random.default_rng(0)
    for number in range(VOLUMES):
        image = rng.integers(-300 * number, 900, (2 + number, 20 + number, 30), np.int16)
        label = (image > 100).astype(np.uint8) * 9
        for place, pixels in (("images", image), ("masks", label)) if number else (("images", image),):
            (root / place).mkdir(parents=True, exist_ok=True)
            file = root / place / f"v{number}.{kind}"
            if kind == "h5":
                with h5py.File(file, "w") as written:
                    array = pixels if number < 3 else np.repeat(pixels[:, None], 1 + 2 * (place == "masks"), axis=1)
                    key = "image" if place == "images" else "label"
                    written.create_dataset(key, data=array, chunks=(1, *array.shape[1:]))
            elif kind == "tif":
                tifffile.imwrite(file, pixels, photometric="minisblack")
            else:
                nibabel.save(nibabel.Nifti1Image(pixels.transpose(), np.eye(4)), file)
    return describe(root, colors=[0, 9], ignore_index=7, channels=1)


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("kind", ["h5", "tif", "nii.gz"])
@pytest.mark.parametrize("normalize", ["minmax", "auto", "none"])
def test_volumes_of_every_kind_are_streamed_as_they_are_stored(tmp_path, kind, normalize, labels):
    cases = folder(write_volumes(tmp_path, kind), normalize=normalize, test_ratio=0, val_ratio=0.3).cases("train")
    store = Store(cases, num_classes=2, labels=labels, device="cpu")
    order = [5, 0, 3, 7, 1, 5, 6, 2, 0, 4, 3]
    for kept in (0, 2**20):
        stream = Stream(cases, num_classes=2, labels=labels, cache_bytes=kept)
        for _ in range(2):
            assert all(torch.equal(a, b) for a, b in zip(store.take(order), stream.take(order), strict=True))


def test_after_a_volume_was_read_its_slices_are_read_alone(tmp_path):
    cases = folder(write_volumes(tmp_path, "h5"), test_ratio=0, val_ratio=0.3).cases("train")
    store = Store(cases, num_classes=2, labels=True, device="cpu")
    read: list[str] = []
    stream = Stream([counting(case, read) for case in cases], num_classes=2, labels=True, cache_bytes=0)
    order = list(range(len(store)))
    for _ in range(3):
        assert torch.equal(stream.take(order[::-1]).image, store.take(order[::-1]).image)
    assert sorted(read) == sorted(case.name for case in cases)
    first = cases[0].name
    with h5py.File(tmp_path / f"images/{first}.h5", "r+") as file:
        file["image"][1:] = 0  # what is not asked for may be anything
    stream.take([len(store) - 1])
    assert torch.equal(stream.take([0]).image, store.take([0]).image)


def test_a_faulty_case_is_refused_when_it_is_read(make_case):
    stream = Stream([make_case("p7", np.zeros((1, 4, 4)), np.full((1, 4, 4), 9))], num_classes=2, labels=True)
    with pytest.raises(UserError, match=r"p7: label values \[9\]"):
        stream.take([0])


# -- reading ahead ----------------------------------------------------------------------------------------------------


def item(step: int) -> dict[str, Tensor]:
    return {"step": torch.full((3,), step), "process": torch.tensor(os.getpid())}


def steps(ahead: Ahead, *wanted: int) -> list[int]:
    return [int(ahead(step)["step"][0]) for step in wanted]


@pytest.fixture
def make_ahead():
    made: list[Ahead] = []

    def make(read: Callable[[int], object], num_workers: int | None) -> Ahead:
        made.append(Ahead(read, num_workers=num_workers, pinned=False))
        return made[-1]

    yield make
    for ahead in made:
        ahead.close()


def children() -> set[int]:
    return {process.pid for process in multiprocessing.active_children() if process.pid}


@pytest.mark.parametrize("workers", WORKERS)
def test_items_come_in_the_order_of_the_steps_that_are_asked_for(make_ahead, workers):
    ahead = make_ahead(item, workers)
    wanted = [0, 1, 2, 2, 3, 9, 10, 10, 4, 5, 4, 0, 1]
    assert steps(ahead, *wanted) == wanted


@pytest.mark.parametrize("workers", WORKERS)
def test_a_step_that_is_asked_for_again_is_not_read_again(make_ahead, workers):
    ahead = make_ahead(item, workers)
    assert ahead(7) is ahead(7)


@pytest.mark.parametrize("workers", WORKERS)
def test_after_closing_read_is_asked_anew(make_ahead, workers):
    told = {"add": 0}
    ahead = make_ahead(lambda step: {"step": torch.full((1,), step + told["add"])}, workers)
    assert steps(ahead, 3, 4) == [3, 4]
    told["add"] = 100
    ahead.close()
    assert steps(ahead, 4, 5) == [104, 105]


def test_workers_are_other_processes_and_none_are_this_one(make_ahead):
    alone, several = make_ahead(item, 0), make_ahead(item, 2)
    assert {int(alone(step)["process"]) for step in range(4)} == {os.getpid()}
    found = {int(several(step)["process"]) for step in range(4)}
    assert len(found) == 2
    assert os.getpid() not in found


def test_by_default_there_is_a_worker_for_each_core_but_eight_at_most(make_ahead):
    assert make_ahead(item, None).num_workers == min(len(os.sched_getaffinity(0)), 8)


def test_workers_end_when_they_are_closed_or_forgotten(make_ahead):
    before = children()
    ahead = make_ahead(item, 2)
    ahead(0)
    assert len(children() - before) == 2
    ahead(7)  # out of order: others begin, and these end
    assert len(children() - before) == 2
    ahead.close()
    assert children() == before
    forgotten = Ahead(item, num_workers=1, pinned=False)
    forgotten(0)
    del forgotten
    assert children() == before


@pytest.mark.parametrize("workers", WORKERS)
def test_a_users_mistake_arrives_in_its_own_words_and_where_it_belongs(make_ahead, workers):
    mended = multiprocessing.Value("b", 0)

    def read(step: int) -> dict[str, Tensor]:
        if step == 3 and not mended.value:
            raise UserError("p003.png: is damaged; mend it")
        return item(step)

    ahead = make_ahead(read, workers)
    assert steps(ahead, 0, 1, 2) == [0, 1, 2]
    with pytest.raises(UserError) as caught:
        ahead(3)
    assert str(caught.value) == "p003.png: is damaged; mend it"
    mended.value = 1
    assert steps(ahead, 3, 4) == [3, 4]


def test_a_worker_that_is_killed_is_explained(make_ahead):
    ahead = make_ahead(item, 1)

    def killed() -> None:
        with out_of_memory_explained():
            os.kill(int(ahead(0)["process"]), signal.SIGKILL)
            steps(ahead, *range(1, 100))

    with pytest.raises(UserError, match=r"a process that reads images ahead was killed, .*engine\.num_workers"):
        killed()


def test_ctrl_c_for_the_run_does_not_reach_its_workers(make_ahead):
    ahead = make_ahead(item, 1)
    assert os.getpgid(int(ahead(0)["process"])) != os.getpgrp()


def test_reading_ahead_draws_nothing_from_the_runs_random_numbers(make_ahead):
    before = torch.get_rng_state()
    for workers in WORKERS:
        steps(make_ahead(item, workers), 0, 1, 5)
    assert torch.equal(torch.get_rng_state(), before)


def resident(pid: int) -> int:
    """Bytes of memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def large(step: int) -> dict[str, Tensor]:
    return {**item(step), "image": torch.full((4, 2**20), step, dtype=torch.uint8)}


@pytest.mark.slow
def test_memory_and_open_files_do_not_grow_with_the_steps(make_ahead):
    ahead = make_ahead(large, 1)
    worker = int(ahead(0)["process"])

    def state() -> tuple[int, int, int]:
        gc.collect()
        return resident(os.getpid()), resident(worker), len(os.listdir("/proc/self/fd"))

    for step in range(1, 50):
        ahead(step)
    before = state()
    for step in range(50, 250):  # 800 MB
        ahead(step)
    after = state()
    assert after[0] - before[0] < 200e6
    assert after[1] - before[1] < 200e6
    assert after[2] - before[2] < 10


# -- batches from the disk --------------------------------------------------------------------------------------------


@pytest.fixture
def make_batches(cases):
    made: list[Batches] = []

    def make(kind: int, num_workers: int = 0, **changes: object) -> Batches:
        labeled, unlabeled = both(cases[:3])[kind], both(cases[3:], labels=False)[kind]
        keys = {"sizes": (2, 3), "shape": (32, 32), "weak": CROP, "strong": [], "num_strong": 0, "seed": 0, **changes}
        made.append(Batches(labeled, unlabeled, device=torch.device("cpu"), num_workers=num_workers, **keys))
        return made[-1]

    yield make
    for batches in made:
        batches.close()


def same(a: Batch, b: Batch) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a[:3], b[:3], strict=True))


@pytest.mark.parametrize("workers", WORKERS)
def test_batches_from_the_disk_are_those_from_memory(make_batches, workers):
    memory, disk = make_batches(0), make_batches(1, workers)
    for step in (0, 1, 2, 3, 7, 8, 1):
        assert same(memory(step), disk(step))
    assert memory(0).unlabeled.shape == (3, 3, 32, 32)
    plain = [torch.cat(list(batches.plain())) for batches in (memory, disk)]
    assert torch.equal(*plain)
    assert len(plain[0]) == 5


@pytest.mark.parametrize("workers", WORKERS)
def test_a_restricted_choice_holds_for_what_was_read_ahead_too(make_batches, workers):
    memory, disk = make_batches(0), make_batches(1, workers)
    disk(0)
    for batches in (memory, disk):
        batches.restrict(torch.tensor([1, 4]))
    assert all(same(memory(step), disk(step)) for step in (1, 2))
    for batches in (memory, disk):
        batches.restrict(None)
    assert all(same(memory(step), disk(step)) for step in (3, 4))


def test_what_workers_do_can_be_pickled_where_processes_are_not_forked(make_batches):
    disk = make_batches(1)
    again = pickle.loads(pickle.dumps(disk.ahead.read))
    (a, theta), (b, other) = disk.ahead.read(2)["unlabeled"], again(2)["unlabeled"]
    assert torch.equal(a.image, b.image)
    assert torch.equal(theta, other)


def _image(value: int, dtype: str) -> Volume:
    rng = np.random.default_rng(value)
    picture = rng.integers(0, 256, (1, 3, 20, 30), np.uint8)
    return Volume(picture if dtype == "uint8" else (picture / 255).astype(np.float32), None)


def test_bytes_are_worth_what_the_same_floats_are():
    def batches(dtype: str) -> Batches:
        cases = [
            Case(name=str(i), group=str(i), num_images=1, size=(20, 30), labeled=False, read=partial(_image, i, dtype))
            for i in range(4)
        ]
        store = Store(cases, num_classes=2, labels=True, device="cpu")
        assert store.images[0].dtype == getattr(torch, dtype)
        keys = {"sizes": (4, 0), "shape": (32, 32), "weak": CROP, "strong": [], "num_strong": 0, "seed": 0}
        return Batches(store, None, device=torch.device("cpu"), **keys)

    one, other = batches("uint8")(0).image, batches("float32")(0).image
    assert one.dtype == torch.float32
    assert 0.4 < one[one > 0].mean() < 0.6
    torch.testing.assert_close(one, other)
