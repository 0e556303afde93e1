"""Jobs start, fail, start again and stop."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.unit.cluster.workers import run
from titans3.errors import DiskError, InvariantError
from titans3.jobs.runner import Jobs, JobStatistics


def test_a_job_that_fails_is_told_and_starts_again(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        tries: list[int] = []

        async def shaky() -> None:
            tries.append(1)
            if len(tries) < 3:
                raise DiskError("not now")

        async def steady() -> None:
            await asyncio.Event().wait()

        jobs = Jobs(restart_seconds=0.01)
        jobs.add("shaky", shaky)
        jobs.add("steady", steady)
        jobs.start()
        jobs.start()
        await asyncio.sleep(0.005)
        assert jobs.statistics()[0] == JobStatistics("shaky", False, 1, "DiskError('not now')")
        await asyncio.sleep(0.1)
        assert len(tries) == 3
        assert jobs.statistics() == (JobStatistics("shaky", False, 2, ""), JobStatistics("steady", True, 0, ""))
        await jobs.stop()
        assert not any(job.running for job in jobs.statistics())
        jobs.start()
        await asyncio.sleep(0)
        assert jobs.statistics()[1].running, "they can be started again"
        await jobs.stop()

    run(work)
    assert caplog.text.count("job shaky ended by an error") == 2


def test_a_broken_invariant_goes_to_the_loop() -> None:
    async def work() -> None:
        heard: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: heard.append(context))

        async def broken() -> None:
            raise InvariantError("two and two")

        jobs = Jobs(restart_seconds=0.0)
        jobs.add("broken", broken)
        jobs.start()
        await asyncio.sleep(0.05)
        assert len(heard) == 1
        assert isinstance(heard[0]["exception"], InvariantError)
        await jobs.stop()

    run(work)
