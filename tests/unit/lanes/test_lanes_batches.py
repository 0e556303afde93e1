"""Pieces that wait for their MD5: batches, whom they wait for, and what happens when threads are gone."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from titans3.lanes import batches as batches_module
from titans3.lanes import digests, native
from titans3.lanes.batches import STEP_BYTES, WAIT_SECONDS_MAX, Md5Batches
from titans3.lanes.digests import Lanes, Md5
from titans3.limits import KIB
from titans3.long_work import LongWork

pytestmark = pytest.mark.skipif(not native.instructions(), reason="this processor has neither AVX-512 nor AVX2")

here = threading.get_ident()


class Delayed(Lanes):
    """Lanes whose processor is taken away for a while in each batch; notes how many bodies each had."""

    def __init__(self, made: Lanes, seconds: float) -> None:
        self.__dict__.update(made.__dict__)
        self.seconds = seconds
        self.sizes: list[int] = []
        self.lengths: list[int] = []
        self.threads: set[int] = set()

    def update_all(self, batch: Sequence[tuple[Md5, memoryview]]) -> None:
        self.sizes.append(len(batch))
        self.lengths += [len(piece) for _, piece in batch]
        self.threads.add(threading.get_ident())
        time.sleep(self.seconds)
        super().update_all(batch)


@pytest.fixture
def lanes() -> Delayed:
    made = digests.load()
    assert made is not None
    return Delayed(made, 0.0)


async def body(batches: Md5Batches, pieces: list[bytes], pause: float = 0.0) -> None:
    md5 = batches.begin()
    try:
        for piece in pieces:
            await asyncio.sleep(pause)
            await batches.update(md5, memoryview(piece))
        assert batches.digest(md5) == hashlib.md5(b"".join(pieces), usedforsecurity=False).digest()
    finally:
        batches.end(md5)


@pytest.mark.asyncio
async def test_bodies_that_come_together_share_batches(lanes: Delayed) -> None:
    lanes.seconds = 0.005
    with ThreadPoolExecutor(2) as pool:
        batches = Md5Batches(lanes, pool, LongWork())
        await asyncio.gather(*(body(batches, [os.urandom(3001) for _ in range(5)]) for _ in range(40)))
    assert sum(lanes.sizes) == batches.pieces == 200
    assert batches.batches == len(lanes.sizes) < 60
    assert max(lanes.sizes) == lanes.most


@pytest.mark.asyncio
async def test_on_an_idle_machine_nobody_waits(lanes: Delayed) -> None:
    """A body that stalls holds nobody up: its neighbour's pieces are batches of their own, at once."""
    with ThreadPoolExecutor(2) as pool:
        batches = Md5Batches(lanes, pool, LongWork(lambda: 0.5))
        stalled = [batches.begin() for _ in range(9)]
        await body(batches, [b"x" * 5000] * 20)
        for md5 in stalled:
            batches.end(md5)
    assert lanes.sizes == [1] * 20
    assert here not in lanes.threads


@pytest.mark.asyncio
async def test_on_a_busy_machine_a_batch_waits_for_who_is_expected_and_not_for_long(lanes: Delayed) -> None:
    batches = Md5Batches(lanes, None, LongWork(lambda: 0.0))
    await asyncio.gather(*(body(batches, [b"x" * 100] * 6, pause=0.002 * number) for number in range(8)))
    assert len(lanes.sizes) <= 18, lanes.sizes  # eight alone would make 48
    assert lanes.threads == {here}
    stalled = [batches.begin() for _ in range(9)]
    begin = time.monotonic()
    await body(batches, [b"x"] * 20)
    took = time.monotonic() - begin
    assert took < 20 * WAIT_SECONDS_MAX * 0.6  # they are waited for twice, not twenty times
    for md5 in stalled:
        batches.end(md5)
    lanes.threads.clear()
    with ThreadPoolExecutor(2) as pool:
        batches = Md5Batches(lanes, pool, LongWork(lambda: 0.0))
        await body(batches, [b"x"] * 20)  # alone: threads, and nobody to wait for
    assert here not in lanes.threads


@pytest.mark.asyncio
async def test_many_slow_bodies_do_not_hold_up_a_fast_one(lanes: Delayed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches_module, "SLOW_SECONDS", 0.05)
    batches = Md5Batches(lanes, None, LongWork(lambda: 0.0))
    slow = [asyncio.ensure_future(body(batches, [b"x"] * 9, pause=0.15)) for _ in range(6)]
    await asyncio.sleep(0.4)  # each was late once
    begin = time.monotonic()
    await body(batches, [b"x"] * 12)
    took = time.monotonic() - begin
    await asyncio.gather(*slow)
    assert took < 12 * WAIT_SECONDS_MAX, took  # now and then with one of theirs before it, but without a wait


@pytest.mark.asyncio
async def test_on_the_loop_large_pieces_go_in_steps_and_others_join(lanes: Delayed) -> None:
    batches = Md5Batches(lanes, None, LongWork(lambda: 0.0))
    large = [[os.urandom(77), os.urandom(3 * STEP_BYTES + 1000 * number)] for number in range(5)]
    small = [[os.urandom(999)] * 4 for _ in range(3)]
    await asyncio.gather(*(body(batches, pieces) for pieces in large), *(body(batches, pieces, pause=0.001) for pieces in small))
    assert max(lanes.lengths) <= STEP_BYTES + 64 * KIB
    assert len(lanes.lengths) == batches.pieces >= 5 * 4 + 12
    assert len(lanes.sizes) == batches.batches


@pytest.mark.asyncio
async def test_who_gives_up_between_steps_lets_the_others_go_on(lanes: Delayed) -> None:
    batches = Md5Batches(lanes, None, LongWork(lambda: 0.0))
    tasks = [asyncio.ensure_future(body(batches, [os.urandom(4 * STEP_BYTES)])) for _ in range(4)]
    while not lanes.sizes:
        await asyncio.sleep(0)
    tasks[0].cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(outcome, asyncio.CancelledError) for outcome in done] == [True, False, False, False]
    assert not batches._waiting


@pytest.mark.asyncio
async def test_who_gives_up_lets_the_others_go_on(lanes: Delayed) -> None:
    lanes.seconds = 0.02
    with ThreadPoolExecutor(2) as pool:
        batches = Md5Batches(lanes, pool, LongWork())
        tasks = [asyncio.ensure_future(body(batches, [os.urandom(500)] * 3)) for _ in range(8)]
        await asyncio.sleep(0.01)
        for task in tasks[::2]:
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(outcome, asyncio.CancelledError) for outcome in done] == [True, False] * 4


@pytest.mark.asyncio
async def test_without_threads_a_piece_is_an_error_and_not_for_ever(lanes: Delayed) -> None:
    pool = ThreadPoolExecutor(2)
    batches = Md5Batches(lanes, pool, LongWork())
    pool.shutdown()
    with pytest.raises(RuntimeError):
        await asyncio.wait_for(body(batches, [b"x"]), 5)


@pytest.mark.asyncio
async def test_an_error_in_the_thread_is_everybodys(lanes: Delayed) -> None:
    with ThreadPoolExecutor(2) as pool:
        batches = Md5Batches(lanes, pool, LongWork())
        lanes.seconds = -1.0  # time.sleep refuses it
        outcomes = await asyncio.gather(*(body(batches, [b"x"]) for _ in range(3)), return_exceptions=True)
        assert all(isinstance(outcome, ValueError) for outcome in outcomes)
        lanes.seconds = 0.0
        await body(batches, [b"y"])
