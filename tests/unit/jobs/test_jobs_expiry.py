"""Results of completed uploads: kept for a week for clients that repeat, then removed though nothing more is uploaded to their bucket."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.cluster.test_cluster_store import complete, upload_parts
from tests.unit.cluster.workers import Machine, Worker, run
from tests.unit.jobs.reclaim import made
from titans3.cluster.groups import GroupSet
from titans3.jobs import expiry as module
from titans3.jobs.expiry import Expiry
from titans3.limits import GROUPS
from titans3.meta.uploads import COMPLETED_MS


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(module, "ROWS_PER_TURN", 3)


def expiry(worker: Worker) -> Expiry:
    return Expiry(worker.owner, worker.dispatcher, worker.ownership.volume_of, GROUPS)


async def checkpoint(machine: Machine) -> None:
    for worker in machine.workers:
        for groups in worker.owner.sets.values():
            await groups.checkpointer.checkpoint()


def pass_time(machine: Machine, milliseconds: int) -> None:
    for worker in machine.workers:
        worker.owner.now_ms = lambda worker=worker: worker.clock.wall_ms() + milliseconds  # type: ignore[misc]


def test_results_go_after_a_week_and_not_before(tmp_path: Path) -> None:
    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await made(machine)
            keys = [machine.key_on(bucket, number % 2, f"k{number // 8}") for number in range(16)]  # several in a group
            done = [(key, upload_id, await complete(machine[0], bucket, key, upload_id, parts)) for key in keys
                    for upload_id, parts in [await upload_parts(machine, bucket, key, {1: b"whole"})]]  # fmt: skip
            jobs = [expiry(worker) for worker in machine.workers]
            pass_time(machine, COMPLETED_MS + 60_000)
            assert [await job.round() for job in jobs] == [0, 0], "what no checkpoint holds is too young"
            await checkpoint(machine)
            pass_time(machine, COMPLETED_MS - 60_000)
            assert [await job.round() for job in jobs] == [0, 0]
            for key, upload_id, version in done:
                assert await machine[1].store.completed(bucket, key, upload_id) == version
            pass_time(machine, COMPLETED_MS + 60_000)
            assert [await job.round() for job in jobs] == [8, 8]
            for key, upload_id, _ in done:
                assert await machine[1].store.completed(bucket, key, upload_id) is None
            for key, _, version in done[-2:]:
                assert (await machine[0].store.find(bucket, key)).version == version
            await checkpoint(machine)
            assert [await job.round() for job in jobs] == [0, 0]
            assert [(job.statistics().rounds, job.statistics().removed, job.statistics().failures) for job in jobs] == [(4, 8, 0)] * 2

    run(work)


def test_a_damaged_group_holds_up_no_other_and_an_older_worker_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await made(machine)
            names = [machine.key_on(bucket, 1, name) for name in ("a", "b", "c", "d")]
            for key in names:
                upload_id, parts = await upload_parts(machine, bucket, key, {1: b"whole"})
                await complete(machine[0], bucket, key, upload_id, parts)
            await checkpoint(machine)
            pass_time(machine, COMPLETED_MS + 60_000)
            job = expiry(machine[1])
            machine[1].dispatcher.feature_level = 3
            assert await job.round() == 0
            assert job.statistics().rounds == 0
            machine[1].dispatcher.feature_level = 4
            groups = machine[1].owner.sets[1]
            gids = {gid for gid in range(GROUPS) if groups.environment.completed_rows(gid, b"", 10)}
            held = len(groups.environment.completed_rows(min(gids), b"", 10))
            with monkeypatch.context() as patch:
                patch.setattr(GroupSet, "damage_of", lambda self, gid: "damaged" if gid == min(gids) else "")
                assert await job.round() == 4 - held
            await checkpoint(machine)
            assert await job.round() == held

    run(work)
