"""Usage of buckets: exact, summed over workers, and no thread is left reading when the job is cancelled."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from tests.unit.cluster.workers import Machine, run
from tests.unit.jobs.reclaim import made, put
from titans3.jobs import usage as module
from titans3.jobs.usage import BucketUsage, Usage


def test_the_sum_over_workers_is_what_the_bucket_holds_as_of_the_checkpoint(tmp_path: Path) -> None:
    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await made(machine)
            for number in range(40):
                await put(machine[number % 2], bucket, b"key %d" % number, b"x" * 70_000)
            counts = [Usage(worker.owner) for worker in machine.workers]
            assert [count.age_seconds for count in counts] == [-1.0, -1.0]
            for worker in machine.workers:
                for groups in worker.owner.sets.values():
                    await groups.checkpointer.checkpoint()
            for count in counts:
                assert await count.count() > 0
            parts = [count.largest()[bucket.bucket] for count in counts]
            assert all(0 < part.keys < 40 for part in parts)
            assert parts[0] + parts[1] == BucketUsage(40, 40, 0, 40 * 70_000, 0, 0)
            assert 0 <= counts[0].age_seconds < 30

    run(work)


def test_only_the_largest_are_told_when_there_are_very_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "METRICS_USAGE_BUCKETS_MAX", 2)
    usage = Usage(None)  # type: ignore[arg-type]
    usage.buckets = {number: BucketUsage(stored_bytes=number * 10) for number in (1, 3, 2)}
    assert set(usage.largest()) == {3, 2}


def test_a_job_that_is_cancelled_waits_for_its_thread() -> None:
    async def work() -> None:
        begun, go_on, ended = threading.Event(), threading.Event(), []

        def read() -> None:
            begun.set()
            go_on.wait(10)
            ended.append(True)

        task = asyncio.ensure_future(module._whole(asyncio.get_running_loop().run_in_executor(None, read)))
        await asyncio.to_thread(begun.wait, 10)
        task.cancel()
        await asyncio.sleep(0.05)
        assert not task.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended

    run(work)
