"""Checkpoints: whole or not there, loaded without running anything, and refused with a reason."""

import hashlib
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ssl4seg import checkpoint
from ssl4seg.errors import UserError

STATE = {"weight": torch.arange(6.0).view(2, 3), "bias": torch.tensor([1.0, 2.0])}


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "last.pt"


# -- writing ----------------------------------------------------------------------------------------------------------


def test_what_is_saved_is_loaded(file):
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1, momentum=0.9)
    checkpoint.save({"method": STATE, "step": 7, "best": {"dice": [0.5, None]}, "o": optimizer.state_dict()}, file)
    loaded = checkpoint.load(file)
    assert same(loaded["method"], STATE)
    assert (loaded["step"], loaded["best"]) == (7, {"dice": [0.5, None]})
    assert loaded["o"] == optimizer.state_dict()
    assert [path.name for path in file.parent.iterdir()] == ["last.pt"]


class Breaks:
    """Fails while it is pickled, when a part of the file is written."""

    def __reduce__(self) -> Any:
        raise RuntimeError("half-way")


def test_a_failure_in_the_middle_of_writing_leaves_the_earlier_file(file):
    checkpoint.save(STATE, file)
    before = file.read_bytes()
    with pytest.raises(RuntimeError, match="half-way"):
        checkpoint.save({"large": torch.zeros(100_000), "bad": Breaks()}, file)
    assert file.read_bytes() == before
    checkpoint.save({"bias": torch.zeros(1)}, file)  # and what is left behind does not hinder the next one
    assert same(checkpoint.load(file), {"bias": torch.zeros(1)})


@pytest.mark.linux
def test_a_full_disk_is_told_and_leaves_the_earlier_file(file):
    checkpoint.save(STATE, file)
    os.symlink("/dev/full", f"{file}.partial")  # every write fails with ENOSPC
    with pytest.raises(UserError, match=r"last\.pt: cannot be written \(No space left on device\)"):
        checkpoint.save({"large": torch.zeros(100_000)}, file)
    assert same(checkpoint.load(file), STATE)


def test_a_folder_that_is_gone_is_told(file):
    with pytest.raises(UserError, match="cannot be written"):
        checkpoint.save(STATE, file.parent / "gone" / "last.pt")


# -- refusing to read -------------------------------------------------------------------------------------------------


class Evil:
    """Pickled, it makes a folder when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def write_pickle(content: object, file: Path) -> None:
    file.write_bytes(pickle.dumps(content, protocol=2))


@pytest.mark.parametrize("write", [torch.save, write_pickle])
def test_pickled_code_is_refused_and_never_run(file, tmp_path, write):
    write({"state_dict": STATE, "extra": Evil(tmp_path / "run")}, file)
    for read in (checkpoint.load, checkpoint.network_state):
        with pytest.raises(UserError, match="could run anything, and is refused"):
            read(file)
    assert not (tmp_path / "run").exists()
    torch.load(file, weights_only=False) if write is torch.save else pickle.loads(file.read_bytes())
    assert (tmp_path / "run").exists()  # it would have run


def test_numpy_numbers_beside_the_weights_are_read(file):
    torch.save({"best": np.float64(0.5), "step": np.int64(3)}, file)
    assert checkpoint.load(file) == {"best": 0.5, "step": 3}


@pytest.mark.parametrize("content", [nn.Linear(2, 2), {"when": np.datetime64("2020-01-01")}])
def test_objects_are_refused_with_the_way_out(file, content):
    torch.save(content, file)
    with pytest.raises(UserError, match=r"torch\.save\(model\.state_dict\(\), FILE\)"):
        checkpoint.load(file)


def test_a_truncated_file_is_called_damaged_wherever_it_ends(file):
    checkpoint.save(STATE, file)
    whole = file.read_bytes()
    for length in range(0, len(whole), 29):
        file.write_bytes(whole[:length])
        with pytest.raises(UserError, match="is not a checkpoint, or is damaged"):
            checkpoint.load(file)


@pytest.mark.slow
def test_no_flipped_bit_becomes_another_weight(file):
    """One bit of each byte of the file, every bit of the bytes of its directory."""
    checkpoint.save({"method": STATE, "large": torch.arange(100.0), "step": 7}, file)
    whole, refused = file.read_bytes(), 0
    directory = whole.index(b"PK\x01\x02")
    flips = [(at, bit) for at in range(len(whole)) for bit in (range(8) if at >= directory else [at % 8])]
    for at, bit in flips:
        file.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << bit)]) + whole[at + 1 :])
        try:
            loaded = checkpoint.load(file)
        except UserError:
            refused += 1
        else:  # padding, dates
            assert same(loaded["method"], STATE)
            assert (loaded["step"], torch.equal(loaded["large"], torch.arange(100.0))) == (7, True)
    assert refused > 432  # the bytes of the three tensors alone


def test_a_check_sum_that_does_not_hold_is_told_with_its_part(file):
    checkpoint.save(STATE, file)
    whole = file.read_bytes()
    at = whole.index(np.arange(6, dtype="<f4").tobytes())
    file.write_bytes(whole[: at + 9] + bytes([whole[at + 9] ^ 4]) + whole[at + 10 :])
    torch.load(file, weights_only=True)  # which sees nothing
    with pytest.raises(UserError, match=r"last\.pt: .*is damaged \(the check sum of .*data/0 does not hold\)"):
        checkpoint.load(file)


@pytest.mark.parametrize("content", [b"", b"\x80\x02", b"a text file\n", b"\x89PNG\r\n\x1a\n", bytes(1000)])
def test_something_else_is_no_checkpoint(file, content):
    file.write_bytes(content)
    with pytest.raises(UserError, match="is not a checkpoint, or is damaged"):
        checkpoint.load(file)


@pytest.mark.parametrize("read", [checkpoint.load, checkpoint.network_state])
def test_a_fifo_is_not_opened(file, read):
    os.mkfifo(file)
    with pytest.raises(UserError, match=r"last\.pt: is a FIFO"):
        read(file)


def test_a_zip_archive_that_would_grow_is_not_unpacked(file):
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**7))
    assert file.stat().st_size < 20_000
    with pytest.raises(UserError, match="it would unpack to more bytes than it has"):
        checkpoint.load(file)


def test_dictionaries_that_repeat_or_hold_themselves_end(file):
    state: dict[str, Any] = dict(STATE)
    for _ in range(60):  # 2^60 paths lead to the tensors
        state = {"a": state, "b": state}
    inner: dict[str, Any] = dict(STATE)
    inner["again"] = inner
    for content, prefix in ((state, "a." * 60), (inner, "")):
        torch.save(content, file)
        assert same(checkpoint.network_state(file), {f"{prefix}{key}": value for key, value in STATE.items()})


@pytest.mark.parametrize(
    "state",
    [
        *(3, [1], {"weight": 3}, {"weight": STATE["weight"], "bias": "b"}),
        *({**STATE, "weight": other} for other in (STATE["weight"].to_sparse(), STATE["weight"].to("meta"))),
    ],
)
def test_what_is_no_state_dict_is_refused(state):
    with pytest.raises(UserError, match=r"best\.pt: holds other things than tensors"):
        checkpoint.load_into(nn.Linear(3, 2), state, "best.pt")


def test_a_missing_file_is_told(file):
    with pytest.raises(UserError, match="there is no such checkpoint"):
        checkpoint.load(file)


def test_a_bare_tensor_is_no_dictionary(file):
    torch.save(torch.ones(2), file)
    with pytest.raises(UserError, match="holds a Tensor, not a dictionary"):
        checkpoint.load(file)


# -- the weights of one network ---------------------------------------------------------------------------------------

RUN = {"student.weight": torch.zeros(2, 3), "student.bias": torch.zeros(2)} | {
    f"teacher.network.{key}": value for key, value in STATE.items()
}


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        OrderedDict(STATE),
        *({name: STATE, "epoch": 3} for name in ("state_dict", "model_state_dict", "model", "net", "ema", "teacher")),
        {f"module.{key}": value for key, value in STATE.items()},
        {"model": {f"module.{key}": value for key, value in STATE.items()}},
        {"format": 1, "method": RUN, "predictor": "teacher.network"},
        *({f"{prefix}{key}": v for key, v in STATE.items()} for prefix in ("_orig_mod.", "model.", "network.", "net.")),
        {"model_state": STATE, "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}, "lr": 0.1}},
        {"checkpoint": {"weights": {f"model._orig_mod.module.{key}": value for key, value in STATE.items()}}},
        {"epoch": 3, **STATE},
        {"state_dict": {f"model.{key}": value for key, value in STATE.items()} | {"loss.weight": torch.ones(2)}},
        {"student": {key: value + 1 for key, value in STATE.items()}, "teacher": STATE},
    ],
)
def test_the_state_dict_is_found_in_its_wrapping(file, content):
    torch.save(content, file)
    assert same(checkpoint.fitted(checkpoint.network_state(file), [*STATE], file), STATE)


def test_the_log_says_what_was_stripped_and_left_out(caplog):
    caplog.set_level("INFO", "ssl4seg")
    state = {f"model.net.{key}": value for key, value in STATE.items()}
    assert same(checkpoint.fitted(state | {"loss.weight": torch.ones(2)}, [*STATE], "a.pt"), STATE)
    told = (
        "a.pt: the prefix 'model.net.' of the weights' names is stripped; tensors of other names that are left out: 1"
    )
    assert caplog.messages == [told]
    checkpoint.fitted(STATE, [*STATE], "b.pt")
    assert len(caplog.messages) == 1


def test_of_two_networks_that_fit_none_is_taken():
    state = {f"{name}.{key}": value for name in ("first", "second") for key, value in STATE.items()}
    with pytest.raises(UserError, match=r"a\.pt: holds several networks that fit, below 'first\.', 'second\.'; save"):
        checkpoint.fitted(state, [*STATE], "a.pt")


@pytest.mark.parametrize("content", [{}, {"epoch": 3, "lr": 0.1}, {"state_dict": {}}, {"state_dict": {"epoch": 3}}])
def test_a_file_without_state_dict_is_refused(file, content):
    torch.save(content, file)
    with pytest.raises(UserError, match="holds no state dict"):
        checkpoint.network_state(file)


# -- the hash of weights ----------------------------------------------------------------------------------------------


def test_the_hash_is_of_names_types_shapes_and_bytes():
    text = b"bias torch.float32 (2,)\n" + np.array([1, 2], "<f4").tobytes()
    text += b"weight torch.float32 (2, 3)\n" + np.arange(6, dtype="<f4").tobytes()
    assert checkpoint.hash_of(STATE) == hashlib.sha256(text).hexdigest()
    assert checkpoint.hash_of(dict(reversed(STATE.items()))) == checkpoint.hash_of(STATE)


@pytest.mark.parametrize(
    "other",
    [
        {**STATE, "weight": STATE["weight"].view(3, 2)},
        {**STATE, "bias": STATE["bias"].view(torch.int32)},
        {**STATE, "bias": torch.tensor([1.0, 2.0000002])},
        {"weight": STATE["weight"], "Bias": STATE["bias"]},
        {**STATE, "more": torch.zeros(())},
    ],
)
def test_other_weights_have_another_hash(other):
    assert checkpoint.hash_of(other) != checkpoint.hash_of(STATE)


def test_every_type_of_tensor_has_a_hash():
    kinds = (torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.bool)
    hashes = {checkpoint.hash_of({"a": torch.ones(3, dtype=kind)}) for kind in kinds}
    hashes |= {checkpoint.hash_of({"a": tensor}) for tensor in (torch.ones(()), torch.ones(0))}
    assert len(hashes) == 7
    image = torch.rand(2, 3, 4, 5)
    strided = image.contiguous(memory_format=torch.channels_last)
    assert checkpoint.hash_of({"a": strided}) == checkpoint.hash_of({"a": image})


# -- loading into a network -------------------------------------------------------------------------------------------


def test_load_into_copies_every_value():
    layer = nn.Linear(3, 2)
    checkpoint.load_into(layer, STATE, "best.pt")
    assert same(layer.state_dict(), STATE)


@pytest.mark.parametrize(
    ("state", "fault"),
    [
        ({"weight": STATE["weight"]}, "lacks bias"),
        ({**STATE, "gamma": torch.ones(1)}, "has gamma, unknown here"),
        ({**STATE, "weight": torch.ones(4, 3)}, r"weight is \(4, 3\), expected \(2, 3\)"),
        ({"weight": STATE["weight"], "a": STATE["bias"], "b": STATE["bias"]}, r"lacks bias; has a, .*; has b, unknown"),
        (
            {"a.x": STATE["bias"], "b": STATE["bias"]},
            r"it has a\.x, b, \.\.\. \(2 keys\); expected weight, bias, \.\.\. ",
        ),
    ],
)
def test_a_checkpoint_of_another_network_is_refused_and_changes_nothing(state, fault):
    layer = nn.Linear(3, 2)
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    with pytest.raises(UserError, match=f"best.pt: is a checkpoint of another network: .*{fault}"):
        checkpoint.load_into(layer, state, "best.pt")
    assert same(layer.state_dict(), before)
