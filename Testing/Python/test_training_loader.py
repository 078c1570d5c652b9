"""The endless stream of samples, and reading it ahead."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from LiverMarginLib.errors import InputError  # noqa: E402
from LiverMarginLib.training.determinism import Purpose, keyed_rng  # noqa: E402
from LiverMarginLib.training.loader import BatchLoader, SampleOrder  # noqa: E402


def read(index: int, sample: int) -> dict[str, np.ndarray]:
    """An item that tells where it came from, with a random number as an augmentation would draw it."""
    return {"index": np.array(index), "draw": np.array(keyed_rng(0, Purpose.AUGMENTATION, sample).random())}


def read_but_not_five(index: int, sample: int) -> dict[str, np.ndarray]:
    if index == 5:
        raise InputError("Slice 5 is corrupt; export it again.")
    return read(index, sample)


def test_every_pass_of_the_stream_has_every_slice_once() -> None:
    order = SampleOrder([3, 4, 5, 8, 9], seed=1)
    passes = [[order[5 * n + k] for k in range(5)] for n in range(4)]
    assert all(sorted(one) == [3, 4, 5, 8, 9] for one in passes)
    assert len({tuple(one) for one in passes}) > 1, "the passes are not shuffled"
    assert [SampleOrder([3, 4, 5, 8, 9], seed=2)[k] for k in range(20)] != [order[k] for k in range(20)]


@pytest.mark.parametrize("world", [1, 2, 4])
def test_processes_share_each_batch_without_overlap(world: int) -> None:
    order = SampleOrder(range(10), seed=0)
    whole = list(order.steps(0, 6, 8))
    shares = [list(order.steps(0, 6, 8, rank, world)) for rank in range(world)]
    for step, batch in enumerate(whole):
        assert sorted(key for share in shares for key in share[step]) == sorted(batch)
        assert all(len(share[step]) == 8 // world for share in shares)


def test_the_stream_goes_on_from_any_step() -> None:
    order = SampleOrder(range(7), seed=0)
    assert list(order.steps(3, 9, 4)) == list(order.steps(0, 9, 4))[3:]


def test_keyed_streams_differ_by_seed_purpose_and_number() -> None:
    draws = {
        keyed_rng(seed, purpose, number).random()
        for seed in (0, 1, 2**63 - 1)
        for purpose in Purpose
        for number in (0, 1, 2, 10**9)
    }
    assert len(draws) == 3 * len(Purpose) * 4


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_whoever_reads_them(workers: int) -> None:
    order = SampleOrder(range(10), seed=0)
    before = torch.get_rng_state()
    with BatchLoader(read, order.steps(0, 5, 4), workers) as batches:
        found = [(batch.samples, batch.tensors["index"].tolist(), batch.tensors["draw"].tolist()) for batch in batches]
    assert torch.equal(torch.get_rng_state(), before), "reading drew from the generator of the dropout"
    expected = []
    for keys in order.steps(0, 5, 4):
        items = [read(*key) for key in keys]
        expected.append(
            ([s for _, s in keys], [int(i["index"]) for i in items], [float(i["draw"]) for i in items]),
        )
    assert found == expected


@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_reader_says_arrives_unchanged(workers: int) -> None:
    with BatchLoader(read_but_not_five, [[(4, 0)], [(5, 1)], [(6, 2)]], workers) as batches:
        assert next(batches).samples == [0]
        with pytest.raises(InputError) as caught:
            next(batches)
    assert str(caught.value) == "Slice 5 is corrupt; export it again."


def test_reading_runs_ahead_but_not_away() -> None:
    done: list[int] = []

    def slow(index: int, sample: int) -> dict[str, np.ndarray]:
        done.append(index)
        return {"index": np.array(index)}

    with BatchLoader(slow, [[(n, n)] for n in range(100)], prefetch=3) as batches:
        next(batches)
        deadline = time.monotonic() + 5
        while len(done) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)
        assert 4 <= len(done) <= 6
    assert not any(thread.name == "read-ahead" for thread in threading.enumerate())
