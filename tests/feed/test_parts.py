"""Of a volume on the disk a step reads the part that its view shows, and gets what a store holds, to the last bit."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from folders import describe, folder
from h5py import Dataset

from ssl4seg.data.case import Case
from ssl4seg.data.h5_volumes import H5Volumes
from ssl4seg.errors import UserError
from ssl4seg.feed.batches import Batches
from ssl4seg.feed.store import Box, Store
from ssl4seg.feed.stream import Stream
from ssl4seg.feed.views import PatchView
from ssl4seg.types import Batch

SIZES = [(24, 20, 16), (13, 28, 17), (18, 18, 30), (40, 9, 21), (22, 22, 22)]
CHUNK = 6


def write(file: Path, number: int, *, backwards: bool) -> None:
    """A volume x, y, z of its own range of numbers, or stored z, y, x."""
    rng = np.random.default_rng(number)
    image = (rng.random(SIZES[number], np.float32) - 0.5) * 10**number
    arrays = {"image": image, "label": (image > 0).astype(np.uint8)}
    file.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(file, "w") as h5:
        for key, array in arrays.items():
            chunks = tuple(min(CHUNK, n) for n in array.shape)
            h5.create_dataset(key, data=array.T if backwards else array, chunks=chunks, compression="gzip")


def of_folder(root: Path, **keys: object) -> list[Case]:
    for number in range(len(SIZES)):
        write(root / f"images/v{number}.h5", number, backwards=keys["h5_axes"] == "zyx")
    describe(root, classes=["background", "organ"])
    return folder(root, image_size=[16, 16, 16], test_ratio=0, val_ratio=0.2, **keys).cases("train")


def of_la(root: Path, normalize: str) -> list[Case]:
    names = [f"v{number}" for number in range(len(SIZES))]
    for number, name in enumerate(names):
        write(root / f"data/{name}.h5", number, backwards=False)
    (root / "train.list").write_text("\n".join(names[:4]))
    (root / "test.list").write_text(names[4])
    place = {"files": "data/{}.h5", "train_list": "train.list", "test_list": "test.list", "name": "la"}
    keys = {"classes": ["background", "atrium"], "num_classes": 2, "channels": 1, "image_size": [16, 16, 16]}
    return H5Volumes(root=str(root), val_cases=1, normalize=normalize, **place, **keys).cases("train")


DATASETS = {
    "la": lambda root: of_la(root, "none"),
    "la, scaled": lambda root: of_la(root, "minmax"),
    "folder": lambda root: of_folder(root, h5_axes="xyz", normalize="minmax"),
    "folder, slices first": lambda root: of_folder(root, h5_axes="zyx", normalize="auto"),
}
VIEWS = {
    "cut out": PatchView(size=(16, 16, 16), foreground=0.5),
    "all at once": PatchView(
        size=(16, 16, 16), flips=(0, 2), turns=((0, 1),), rotate=0.7, scale=(0.6, 1.5), mirror=True, fill_label=255
    ),
}


def batches(kind: type[Store] | type[Stream], cases: list[Case], view: PatchView, num_workers: int = 0) -> Batches:
    first = {"device": "cpu"} if kind is Store else {"cache_bytes": 0}
    labeled, unlabeled = (kind(cases, num_classes=2, labels=labels, **first) for labels in (True, False))
    keys = {"sizes": (2, 2), "shape": (16, 16, 16), "weak": view, "strong": [], "num_strong": 0, "seed": 0}
    return Batches(labeled, unlabeled, device=torch.device("cpu"), num_workers=num_workers, **keys)


def same(a: Batch, b: Batch) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a[:3], b[:3], strict=True))


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("dataset", DATASETS)
def test_patches_from_the_disk_are_those_from_memory(tmp_path, dataset, view):
    cases = DATASETS[dataset](tmp_path)
    memory, disk = (batches(kind, cases, VIEWS[view]) for kind in (Store, Stream))
    assert all(same(memory(step), disk(step)) for step in range(8))


@pytest.mark.parametrize("dataset", ["la", "folder, slices first"])
def test_two_processes_that_read_ahead_give_the_same_patches_also_of_steps_out_of_order(tmp_path, dataset):
    """Each process has read some volumes whole and others not yet: who reads what changes no value."""
    cases = DATASETS[dataset](tmp_path)
    memory, disk = (batches(kind, cases, VIEWS["all at once"], num) for kind, num in ((Store, 0), (Stream, 2)))
    try:
        assert all(same(memory(step), disk(step)) for step in (0, 1, 2, 3, 4, 5, 1, 2))
    finally:
        disk.close()


@pytest.mark.parametrize("dataset", DATASETS)
def test_only_the_part_is_asked_of_the_file(tmp_path, dataset, monkeypatch):
    """After both volumes were read once, and the second is the one that is kept."""
    cases = DATASETS[dataset](tmp_path)
    box = Box((3, 2, 5), (9, 8, 12))
    stream = Stream(cases, num_classes=2, labels=True, cache_bytes=0)
    expected = stream.take([0], [box])
    stream.take([1])
    asked: list[int] = []
    get = Dataset.__getitem__
    monkeypatch.setattr(Dataset, "__getitem__", lambda self, index: asked.append((got := get(self, index)).size) or got)
    assert all(torch.equal(a, b) for a, b in zip(stream.take([0], [box]), expected, strict=True))
    assert asked == [6 * 6 * 7] * 2  # of the image and of the label


@pytest.mark.parametrize("dataset", ["la", "folder, slices first"])
def test_what_lies_elsewhere_in_the_file_is_not_read(tmp_path, dataset):
    """The last piece of the compressed array is damaged: whoever reads it fails."""
    cases = DATASETS[dataset](tmp_path)
    box = Box((0, 0, 0), (8, 8, 8))
    stream = Stream(cases, num_classes=2, labels=True, cache_bytes=0)
    expected = stream.take([0], [box])
    stream.take([1])
    file = cases[0].files[0]
    with h5py.File(file) as h5:
        last = h5["image"].id.get_chunk_info(h5["image"].id.get_num_chunks() - 1)
    with file.open("r+b") as bytes_of_it:
        bytes_of_it.seek(last.byte_offset)
        bytes_of_it.write(b"\0" * last.size)
    assert torch.equal(stream.take([0], [box]).image, expected.image)
    with pytest.raises(UserError, match=rf"{file.name}: cannot be read as h5"):
        stream.take([0])


def test_a_part_is_checked_as_the_whole_was(tmp_path):
    cases = DATASETS["la"](tmp_path)
    stream = Stream(cases, num_classes=2, labels=True, cache_bytes=0)
    stream.take([0])
    stream.take([1])
    with h5py.File(cases[0].files[0], "r+") as h5:
        h5["image"][0, 0, 0] = np.nan
    stream.take([0], [Box((1, 1, 1), (4, 4, 4))])
    with pytest.raises(UserError, match=f"{cases[0].name}: the image holds 1 NaN"):
        stream.take([0], [Box((0, 0, 0), (4, 4, 4))])
