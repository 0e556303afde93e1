"""The timer wheel never fires early and at most two ticks late; the eager driver passes everything through."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from titans3.worker.eager import resumed
from titans3.worker.wheel import NEVER, TimerWheel


class Entry:
    """Remembers when it fired."""

    def __init__(self, wheel: TimerWheel) -> None:
        self.deadline = NEVER
        self.wheel_tick, self.wheel_from = -1, NEVER
        self.fired: list[float] = []
        self._wheel = wheel

    def on_deadline(self) -> None:
        self.fired.append(self._wheel.now)


@given(st.lists(st.tuples(st.floats(0, 200), st.one_of(st.none(), st.floats(0.01, 300))), min_size=1, max_size=20))
def test_deadlines(steps: list[tuple[float, float | None]]) -> None:
    """Each step lets time pass, then sets the deadline anew (or switches it off)."""
    now = [1000.0]
    wheel = TimerWheel(lambda: now[0], tick_seconds=0.5)
    entry = Entry(wheel)
    deadline = NEVER
    fired = 0
    for passed, seconds in [*steps, (1000.0, None)]:
        end = now[0] + passed
        while now[0] < end:
            now[0] = min(end, now[0] + 0.5)
            wheel.advance()
            if len(entry.fired) > fired:
                fired += 1
                assert deadline <= entry.fired[-1] <= deadline + 1.5
                deadline = NEVER
            assert deadline > now[0] - 1.5
        if seconds is None:
            wheel.set(entry, NEVER)
            deadline = NEVER
        else:
            wheel.set(entry, wheel.now + seconds)
            deadline = wheel.now + seconds
    assert sum(len(slot) for slot in wheel._slots) <= len(steps) + 1


def test_a_wheel_that_slept_fires_what_it_missed() -> None:
    now = [0.0]
    wheel = TimerWheel(lambda: now[0], tick_seconds=0.5)
    entries = [Entry(wheel) for _ in range(300)]
    for number, entry in enumerate(entries):
        wheel.set(entry, number / 2)
    now[0] = 1e6
    wheel.advance()
    now[0] += 100
    wheel.advance()
    assert all(len(entry.fired) == 1 for entry in entries)


async def story(log: list[str]) -> str:
    try:
        await asyncio.sleep(0)
        log.append("slept")
        await asyncio.wait_for(asyncio.sleep(0.001), 5)
        raise KeyError("inner")
    except KeyError:
        log.append("caught")
    try:
        await asyncio.sleep(10)
    except asyncio.CancelledError:
        log.append("cancelled")
        raise
    return "never"


def test_a_resumed_coroutine_sleeps_raises_and_is_cancelled() -> None:
    log: list[str] = []

    async def main() -> None:
        coroutine = story(log)
        task = asyncio.get_running_loop().create_task(resumed(coroutine, coroutine.send(None)))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert log == ["slept", "caught", "cancelled"]


def test_a_resumed_coroutine_returns_and_fails() -> None:
    async def returns() -> int:
        await asyncio.sleep(0.001)
        return 7

    async def fails() -> int:
        await asyncio.sleep(0.001)
        raise OSError("late")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        first = returns()
        assert await loop.create_task(resumed(first, first.send(None))) == 7
        second = fails()
        with pytest.raises(OSError, match="late"):
            await loop.create_task(resumed(second, second.send(None)))

    asyncio.run(main())
