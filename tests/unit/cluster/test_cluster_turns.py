"""Pieces of work take turns of the loop: in order, one in each, and what else is ready runs between them."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from titans3.cluster.turns import Turns


@pytest.mark.asyncio
async def test_one_piece_in_a_turn_and_others_between_them() -> None:
    turns, seen, turn = Turns(), [], 0
    loop = asyncio.get_running_loop()

    def count() -> None:
        nonlocal turn
        turn += 1
        if len(seen) < 5:
            loop.call_soon(count)

    async def piece(name: int) -> None:
        await turns.wait()
        seen.append((name, turn))

    loop.call_soon(count)
    await asyncio.gather(*(piece(name) for name in range(5)))
    assert [name for name, _ in seen] == [0, 1, 2, 3, 4]
    at = [number for _, number in seen]
    assert len({*at}) == 5 and at[-1] - at[0] <= 6, at


@pytest.mark.asyncio
async def test_nobody_waits_who_is_alone() -> None:
    turns = Turns()
    for _ in range(3):
        waiting = turns.wait()
        with contextlib.suppress(StopIteration):
            waiting.send(None)
            raise AssertionError("it waited")
        await asyncio.sleep(0)


@pytest.mark.asyncio
async def test_who_was_cancelled_takes_no_turn() -> None:
    turns, seen = Turns(), []

    async def piece(name: int) -> None:
        await turns.wait()
        seen.append(name)

    tasks = [asyncio.create_task(piece(name)) for name in range(4)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    tasks[3].cancel()
    async with asyncio.timeout(5):
        await asyncio.gather(*tasks, return_exceptions=True)
        assert seen == [0, 2]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await piece(9)
    assert seen == [0, 2, 9]


@pytest.mark.asyncio
async def test_who_needs_no_task_takes_turns_with_the_others() -> None:
    turns, seen = Turns(), []

    async def piece(name: int) -> None:
        await turns.wait()
        seen.append(name)

    turns.take(lambda: seen.append(0))
    assert seen == [0]  # nobody was there
    turns.take(lambda: seen.append(1))
    waiting = asyncio.create_task(piece(2))
    await asyncio.sleep(0)  # the turn of 1; then 2 waits
    turns.take(lambda: seen.append(3))
    assert seen == [0, 1]
    async with asyncio.timeout(5):
        while len(seen) < 4:
            await asyncio.sleep(0)
    assert seen == [0, 1, 2, 3]
    await waiting
    await asyncio.sleep(0)
    turns.take(lambda: seen.append(4))
    assert seen[-1] == 4
