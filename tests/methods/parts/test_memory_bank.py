"""The memory bank against plain lists, and the ways in which its vectors and pixels are drawn."""

from collections import deque

import pytest
import torch
import torch.nn.functional as F

from ssl4seg.methods.parts.memory_bank import MemoryBank, nth_true, spread_index, uniform_index

SIZES, CHANNELS = (5, 3, 7), 4


def contents(bank: MemoryBank) -> list[list[tuple[float, ...]]]:
    """The vectors in each queue, in no order."""
    rows = [bank.vectors[a : a + n] for a, n in zip(bank.first.tolist(), bank.held.tolist(), strict=True)]
    return [sorted(map(tuple, row.tolist())) for row in rows]


@pytest.mark.parametrize("num", [1, 2, 4, 9])
def test_each_queue_holds_its_last_valid_vectors(num):
    bank, queues = MemoryBank(SIZES, CHANNELS), [deque(maxlen=size) for size in SIZES]
    for _ in range(6):
        vectors, valid = torch.randn(3, num, CHANNELS), torch.rand(3, num) < 0.6
        bank.push(vectors, valid)
        for queue, row, there in zip(queues, F.normalize(vectors, dim=2).half(), valid, strict=True):
            queue.extend(map(tuple, row[there].tolist()))
        assert contents(bank) == [sorted(queue) for queue in queues]
        assert bank.held.tolist() == [len(queue) for queue in queues]
        assert bank.vectors[-1].eq(0).all()


def test_vectors_are_drawn_from_their_own_queue_all_of_them_and_zeros_from_an_empty_one():
    bank = MemoryBank(SIZES, CHANNELS)
    bank.push(torch.randn(3, 4, CHANNELS), torch.tensor([[1, 1, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0]]).bool())
    drawn = bank.draw(200)
    assert (drawn.shape, drawn.dtype) == ((3, 200, CHANNELS), torch.float32)
    for row, held in zip(drawn[:2], contents(bank), strict=False):
        assert sorted({tuple(vector) for vector in row.tolist()}) == held
    assert drawn[2].eq(0).all()
    torch.testing.assert_close(drawn[:2].norm(dim=2), torch.ones(2, 200), atol=1e-3, rtol=0)


def test_another_bank_goes_on_from_the_state_of_the_first():
    bank, other = MemoryBank(SIZES, CHANNELS), MemoryBank(SIZES, CHANNELS)
    steps = [(torch.randn(3, 4, CHANNELS), torch.rand(3, 4) < 0.5) for _ in range(4)]
    for step in steps[:2]:
        bank.push(*step)
    other.load_state_dict(bank.state_dict())
    for step in steps[2:]:
        bank.push(*step)
        other.push(*step)
    assert all(torch.equal(a, b) for a, b in zip(bank.buffers(), other.buffers(), strict=True))


def test_uniform_indices_are_uniform_and_0_where_there_are_none():
    index = uniform_index(torch.tensor([4, 1, 0]), 4000)
    assert index[0].bincount().tolist() == pytest.approx([1000] * 4, abs=120)
    assert index[1:].eq(0).all()


def test_spread_indices_are_all_that_there_are_or_one_of_each_part():
    index, there = spread_index(torch.tensor([3, 5, 20, 0]), 5)
    assert there.sum(dim=1).tolist() == [3, 5, 5, 0]
    assert index[0][there[0]].tolist() == [0, 1, 2]
    assert index[1].tolist() == [0, 1, 2, 3, 4]
    assert index[2].div(4, rounding_mode="floor").tolist() == [0, 1, 2, 3, 4]
    assert index[3].eq(0).all()


def test_nth_true_counts_the_true_elements_of_each_row():
    mask = torch.tensor([[0, 1, 1, 0, 1], [0, 0, 0, 0, 0], [1, 0, 0, 0, 0]]).bool()
    index = torch.tensor([[2, 0, 1], [0, 0, 0], [0, 0, 0]])
    assert nth_true(mask, index).tolist() == [[4, 1, 2], [4, 4, 4], [0, 0, 0]]
