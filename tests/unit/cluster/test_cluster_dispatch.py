"""Calls between workers: local and remote, held while an owner moves, repeated when an answer was lost, sinks of siblings."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import lmdb
import pytest

from tests.unit.cluster.workers import SELDOM, SMALL, Machine, Worker, run, version
from titans3.cluster import groups as groups_module
from titans3.cluster import messages as m
from titans3.cluster import siblings as sibling_module
from titans3.cluster import sinks as sink_module
from titans3.cluster.groups import GroupSet
from titans3.engine.files import OsFiles
from titans3.engine.hot import Hot
from titans3.engine.neighbour import Neighbour
from titans3.engine.volume import Volume
from titans3.errors import ClientError, Reason
from titans3.limits import DEDUPE_RESULTS, KIB, MIB
from titans3.meta.keys import object_key
from titans3.model.command import Condition, CreateUpload, DeleteEntry, DeleteObjects, PutObject
from titans3.model.control import BucketRecord
from titans3.model.version import decode_rows
from titans3.ring.placement import ring_hash
from titans3.rpc.link import Answer
from titans3.rpc.marks import Marks

NEW = Condition(if_none_match=("*",))


async def bucket_of(machine: Machine, name: str = "bucket") -> BucketRecord:
    record, made = await machine[0].store.create_bucket(name, "me", "us-east-1")
    assert made
    return record


def gid_of(bucket: BucketRecord, key: bytes) -> int:
    return ring_hash(bucket.bucket, key, bucket.shards)


async def refused(call: Awaitable[object]) -> ClientError:
    with pytest.raises(ClientError) as caught:
        await call
    return caught.value


class Breaks:
    """Breaks the connection of the first ``times`` calls of a kind: before the real handler runs, or after it, instead of the answer."""

    def __init__(self, worker: Worker, kind: int, *, applied: bool, times: int = 1) -> None:
        self.server, self.times, self.applied, self.tries = worker.server, times, applied, 0
        self.then: Callable[[], Awaitable[object]] | None = None
        self.broken = asyncio.Event()
        self.real = worker.server.handlers[kind]
        worker.server.handlers[kind] = self._handler  # type: ignore[assignment]

    def _handler(self, meta: bytes, body: bytes) -> object:
        self.tries += 1
        if self.tries > self.times:
            return self.real(meta, body)
        return self._break(meta, body, self.server.caller)

    async def _break(self, meta: bytes, body: bytes, caller: object) -> Answer:
        if self.applied:
            found = self.real(meta, body)
            if not isinstance(found, tuple):
                await found
        if self.then is not None:
            await self.then()
        caller.abort()  # type: ignore[attr-defined]
        self.broken.set()
        return b"", b""


def test_local_calls_cost_no_hop_and_remote_ones_cost_one(tmp_path: Path) -> None:
    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await bucket_of(machine)
            store = machine[0].store
            for owner in (0, 1):
                key = machine.key_on(bucket, owner)
                before = machine[0].siblings.hops
                put = await store.put(bucket, key, version(b"abc"), b"abc", None)
                found = await store.find(bucket, key, body=True)
                assert (found.version, found.body) == (put, b"abc")
                assert machine[0].siblings.hops - before == (0 if owner == 0 else 2)
                assert (await machine[1].store.find(bucket, key, body=True)).body == b"abc"

    run(work)


def test_calls_wait_for_a_moving_owner_and_reach_its_successor(tmp_path: Path) -> None:
    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await bucket_of(machine)
            key = machine.key_on(bucket, 1)
            store = machine[0].store
            await store.put(bucket, key, version(b"1"), b"1", None)
            machine.moving(1)
            await machine[1].close()
            waits = [
                asyncio.ensure_future(store.find(bucket, key, body=True)),
                asyncio.ensure_future(store.put(bucket, machine.key_on(bucket, 1, "new"), version(b"2"), b"2", NEW)),
                asyncio.ensure_future(store.delete(bucket, [DeleteEntry(machine.key_on(bucket, 1, "x"))], "me")),
                asyncio.ensure_future(store.list_objects(bucket, prefix=b"", delimiter=b"", after=b"", limit=10)),
            ]
            await store.put(bucket, machine.key_on(bucket, 0), version(b""), b"", None)  # other keys are not touched
            await asyncio.sleep(0.3)
            assert not any(wait.done() for wait in waits)
            assert machine[0].siblings.held == 4
            await machine.start(1)
            machine.moving()
            found, _, _, page = await asyncio.gather(*waits)
            assert found.body == b"1"
            assert key in [name for name, _ in page.keys]

    run(work)


def test_a_call_is_held_no_longer_than_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sibling_module, "MOVE_SECONDS_MAX", 0.4)

    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await bucket_of(machine)
            key = machine.key_on(bucket, 1)
            machine.moving(1)
            started = asyncio.get_running_loop().time()
            error = await refused(machine[0].store.put(bucket, key, version(b""), b"", None))
            assert error.reason is Reason.SLOW_DOWN
            assert 0.35 < asyncio.get_running_loop().time() - started < 1.0
            machine.moving()
            await machine[0].store.put(bucket, key, version(b""), b"", None)

    run(work)


def test_a_call_is_held_for_as_long_as_its_owner_moves_and_then_no_longer_than_for_a_dead_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sibling_module, "HOLD_SECONDS_MAX", 0.2)

    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await bucket_of(machine)
            key = machine.key_on(bucket, 1)
            machine.moving(1)
            await machine[1].close()
            waiting = asyncio.ensure_future(machine[0].store.put(bucket, key, version(b"1"), b"1", None))
            await asyncio.sleep(0.6)  # slow disks, a busy machine
            assert not waiting.done()
            await machine.start(1)
            machine.moving()
            await waiting
            machine.moving(1)
            await machine[1].close()
            waiting = asyncio.ensure_future(machine[0].store.put(bucket, key, version(b"2"), b"2", None))
            await asyncio.sleep(0.3)
            machine.moving()  # the new process died
            assert (await refused(waiting)).reason is Reason.SLOW_DOWN
            await machine.start(1)

    run(work)


def test_a_held_call_follows_its_volume_to_another_worker_and_to_this_one(tmp_path: Path) -> None:
    async def work() -> None:
        async with Machine(tmp_path, count=3, volumes=3) as machine:
            bucket = await bucket_of(machine)
            key, other = machine.key_on(bucket, 1, "a"), machine.key_on(bucket, 1, "b")
            await machine[0].store.put(bucket, key, version(b"old"), b"old", None)
            machine.moving(1)
            await machine[1].kill()
            waits = [
                asyncio.ensure_future(machine[2].store.put(bucket, key, version(b"new"), b"new", None)),
                asyncio.ensure_future(machine[0].store.put(bucket, other, version(b"here"), b"here", NEW)),
                asyncio.ensure_future(machine[0].store.find(bucket, machine.key_on(bucket, 1, "c"), body=True)),
            ]
            await asyncio.sleep(0.1)
            groups = GroupSet(Volume(machine.paths[1], options=SMALL), machine[0].clock, SELDOM)
            await groups.open()
            machine[0].owner.sets[1] = groups
            machine.owners[1] = 0
            for worker in (machine[0], machine[2]):
                worker.ownership.owners[1] = 0
            machine.moving()
            outcomes = await asyncio.gather(*waits, return_exceptions=True)
            assert isinstance(outcomes[2], ClientError)
            assert outcomes[2].reason is Reason.KEY_ABSENT
            assert (await machine[2].store.find(bucket, key, body=True)).body == b"new"
            assert (await machine[2].store.find(bucket, other, body=True)).body == b"here"
            machine.workers[1] = Worker(machine, 1)
            machine.owners[1] = 0
            await machine[1].open()

    run(work)


def test_a_dead_sibling_is_refused_soon_and_costs_its_own_keys_alone(tmp_path: Path) -> None:
    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await bucket_of(machine)
            mine, other = machine.key_on(bucket, 0), machine.key_on(bucket, 1)
            store = machine[0].store
            await machine[1].kill()
            started = asyncio.get_running_loop().time()
            for call in (
                store.put(bucket, other, version(b""), b"", None),
                store.find(bucket, other),
                store.delete(bucket, [DeleteEntry(other)], ""),
                store.list_objects(bucket, prefix=b"", delimiter=b"", after=b"", limit=5),
            ):
                assert (await refused(call)).reason is Reason.SLOW_DOWN
            assert asyncio.get_running_loop().time() - started < 3.0
            await store.put(bucket, mine, version(b"m"), b"m", None)
            some = await store.delete(bucket, [DeleteEntry(mine), DeleteEntry(other)], "")
            assert some == [("", "", False), ("slow_down", "", False)]
            await machine.start(1)
            await store.put(bucket, other, version(b"o"), b"o", None)

    run(work)


@pytest.mark.parametrize("applied", [True, False])
@pytest.mark.parametrize("restart", [True, False])
def test_a_write_whose_answer_was_lost_is_repeated_and_applied_once(tmp_path: Path, applied: bool, restart: bool) -> None:
    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await bucket_of(machine)
            key = machine.key_on(bucket, 1)
            gid, store = gid_of(bucket, key), machine[0].store
            breaks = Breaks(machine[1], m.PUT, applied=applied)
            waiting = asyncio.ensure_future(store.put(bucket, key, version(b"once"), b"once", NEW))
            if restart:
                breaks.then = machine[1].kill
                await breaks.broken.wait()
                await asyncio.sleep(0.6)  # longer than a new call would wait for a sibling that is not there
                assert not waiting.done()
                await machine.start(1)
            put = await waiting  # applied twice, the second would fail its condition
            groups = machine[1].owner.sets[1]
            shard = groups.machine.shards.snapshot(gid, bucket.bucket)
            assert shard is not None
            assert (shard.keys, shard.versions, shard.stored_bytes) == (1, 1, 4)
            assert (await store.find(bucket, key, body=True)).body == b"once"
            assert (await store.find(bucket, key)).version == put

    run(work)


def test_commands_without_a_body_have_one_effect_too(tmp_path: Path) -> None:
    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await bucket_of(machine)
            key = machine.key_on(bucket, 1)
            gid = gid_of(bucket, key)
            breaks = Breaks(machine[1], m.PROPOSE, applied=True, times=2)
            create = CreateUpload(bucket.bucket, key, 1, "", b"12345678", {}, {})
            first = await machine[0].dispatcher.propose(gid, create)
            assert breaks.tries == 3
            assert first.reason == ""
            shard = machine[1].owner.sets[1].machine.shards.snapshot(gid, bucket.bucket)
            assert shard is not None
            assert shard.uploads == 1

    run(work)


def test_reads_are_asked_again_when_the_connection_breaks(tmp_path: Path) -> None:
    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await bucket_of(machine)
            key = machine.key_on(bucket, 1)
            await machine[0].store.put(bucket, key, version(b"r"), b"r", None)
            Breaks(machine[1], m.FIND, applied=False)
            assert (await machine[0].store.find(bucket, key, body=True)).body == b"r"

    run(work)


async def fill_window(machine: Machine, bucket: BucketRecord, key: bytes, count: int) -> None:
    """Identified results of a key's group, proposed where it is owned."""
    gid = gid_of(bucket, key)
    owner = machine[1].owner
    groups = owner.sets[1]
    for _ in range(count):
        command = PutObject(bucket.bucket, b"fill", version(), request_id=os.urandom(16), known_index=groups.applied(gid))
        groups.propose(gid, command)
    await groups.volume.drain()


def test_a_repeat_to_a_busy_group_is_in_its_window_though_this_worker_never_wrote_there(tmp_path: Path) -> None:
    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await bucket_of(machine)
            key = machine.key_on(bucket, 1)
            await fill_window(machine, bucket, key, 2 * DEDUPE_RESULTS)
            await machine[0].kill()
            fresh = await machine.start(0)  # knows of no group
            await fresh.siblings.link(1)
            await asyncio.sleep(0.05)
            breaks = Breaks(machine[1], m.PUT, applied=False)
            await fresh.store.put(bucket, key, version(b"x"), b"x", NEW)
            assert breaks.tries == 2

    run(work)


def test_a_first_try_is_never_too_late_however_long_this_worker_heard_nothing_of_the_group(tmp_path: Path) -> None:
    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await bucket_of(machine)
            key = machine.key_on(bucket, 1)
            await machine[0].store.put(bucket, key, version(b"1"), b"1", None)
            await fill_window(machine, bucket, key, 2 * DEDUPE_RESULTS)
            await machine[0].store.put(bucket, key, version(b"2"), b"2", None)
            await machine[0].store.delete(bucket, [DeleteEntry(key)], "me")

    run(work)


@pytest.mark.parametrize("applied", [True, False])
def test_a_repeat_that_left_its_window_is_refused_and_not_applied(tmp_path: Path, applied: bool) -> None:
    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await bucket_of(machine)
            key = machine.key_on(bucket, 1)
            breaks = Breaks(machine[1], m.PUT, applied=applied)
            breaks.then = lambda: fill_window(machine, bucket, key, DEDUPE_RESULTS + 1)
            error = await refused(machine[0].store.put(bucket, key, version(b"x"), b"x", None))
            assert error.reason is Reason.UNKNOWN_OUTCOME
            assert breaks.tries == 2
            stored = machine[1].owner.find_row(gid_of(bucket, key), bucket.bucket, key, "")
            assert (stored is not None) is applied

    run(work)


def test_a_lost_write_to_an_owner_that_does_not_come_back_has_an_unknown_outcome(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sibling_module, "HOLD_SECONDS_MAX", 0.8)

    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await bucket_of(machine)
            key = machine.key_on(bucket, 1)
            store = machine[0].store
            breaks = Breaks(machine[1], m.PUT, applied=True)
            waiting = asyncio.ensure_future(store.put(bucket, key, version(b"x"), b"x", None))
            breaks.then = machine[1].kill
            assert (await refused(waiting)).reason is Reason.UNKNOWN_OUTCOME
            assert (await refused(store.put(bucket, key, version(b"x"), b"x", None))).reason is Reason.SLOW_DOWN
            await machine.start(1)
            assert (await store.find(bucket, key, body=True)).body == b"x"

    run(work)


@pytest.mark.parametrize("seed", range(3))
def test_a_counter_over_links_that_break_all_the_time_counts_every_success_once(tmp_path: Path, seed: int) -> None:
    async def work() -> None:
        choose = random.Random(seed)
        async with Machine(tmp_path, count=3, volumes=2) as machine:
            bucket = await bucket_of(machine)
            key = machine.key_on(bucket, 1)
            await machine[0].store.put(bucket, key, version(b"0"), b"0", NEW)
            done = unknown = 0

            async def count(worker: Worker) -> None:
                nonlocal done, unknown
                for _ in range(40):
                    try:
                        found = await worker.store.find(bucket, key, body=True)
                    except ClientError as error:
                        assert error.reason is Reason.SLOW_DOWN  # noqa: PT017 - on a machine that is so busy that no link lasts for a call
                        continue
                    assert found.body is not None
                    body = b"%d" % (int(found.body) + 1)
                    try:
                        same = Condition(if_match=(found.version.etag_text,))
                        await worker.store.put(bucket, key, version(body), body, same)
                        done += 1
                    except ClientError as error:
                        unknown += error.reason is Reason.UNKNOWN_OUTCOME

            async def breaks() -> None:
                while True:
                    await asyncio.sleep(choose.random() * 0.004)
                    link = choose.choice((machine[0], machine[2])).siblings.link_nowait(1)
                    if link is not None:
                        link.abort()

            breaking = asyncio.ensure_future(breaks())
            await asyncio.gather(count(machine[0]), count(machine[2]), count(machine[0]), count(machine[1]))
            breaking.cancel()
            found = await machine[0].store.find(bucket, key, body=True)
            assert found.body is not None
            assert done <= int(found.body) <= done + unknown
            assert done > 40

    run(work)


def test_too_much_under_way_is_slow_down_through_a_sibling_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups_module, "GROUP_UNCOMMITTED_BYTES_MAX", 50 * KIB)

    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await bucket_of(machine)
            key = machine.key_on(bucket, 1)
            await machine[0].siblings.link(1)
            body = bytes(10 * KIB)
            calls = [machine[0].store.put(bucket, key, version(body), body, None) for _ in range(12)]  # they arrive together
            results = await asyncio.gather(*calls, return_exceptions=True)
            reasons = {error.reason for error in results if isinstance(error, ClientError)}
            assert reasons == {Reason.SLOW_DOWN}
            assert any(not isinstance(result, BaseException) for result in results)
            await machine[0].store.put(bucket, key, version(b"again"), b"again", None)

    run(work)


def test_a_delete_of_many_keys_goes_to_all_owners(tmp_path: Path) -> None:
    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await bucket_of(machine)
            keys = [b"k%d" % number for number in range(300)]
            await asyncio.gather(*(machine[0].store.put(bucket, key, version(), b"", None) for key in keys))
            results = await machine[1].store.delete(bucket, [DeleteEntry(key) for key in [*keys, b"absent"]], "me")
            assert len(results) == 301
            assert {result[0] for result in results[:-1]} == {""}
            page = await machine[0].store.list_objects(bucket, prefix=b"", delimiter=b"", after=b"", limit=10)
            assert page.keys == []

    run(work)


def test_feature_level_holds_commands_back(tmp_path: Path) -> None:
    async def work() -> None:
        async with Machine(tmp_path, count=1, volumes=1) as machine:
            machine[0].dispatcher.feature_level = 0
            with pytest.raises(AssertionError, match="feature level"):
                await machine[0].dispatcher.propose(1, DeleteObjects(1, (), 1, b"12345678"))

    run(work)


# large bodies of a worker without a volume ------------------------------------------------------------------------------


def front(tmp_path: Path) -> Machine:
    """Worker 2 owns no volume."""
    machine = Machine(tmp_path, count=3, volumes=2)
    assert 2 not in machine.owners
    return machine


def sink_sizes(machine: Machine) -> list[int]:
    return [len(worker.owner.sinks) for worker in machine.workers]


def test_a_large_body_goes_to_a_siblings_volume_and_comes_back(tmp_path: Path) -> None:
    async def work() -> None:
        async with front(tmp_path) as machine:
            bucket = await bucket_of(machine)
            for length in (5 * MIB + 17, None):
                body = os.urandom(5 * MIB + 17)
                digest = hashlib.sha256()
                sink = await machine[2].store.sink(bucket, b"big", length=length, headers={}, metadata={})
                for start in range(0, len(body), MIB):
                    await sink.write(memoryview(body)[start : start + MIB], (digest,))
                assert digest.digest() == hashlib.sha256(body).digest()
                extents = await sink.finish(hashlib.md5(body).digest())
                await machine[2].store.put(bucket, b"big", version(body, extents=extents), b"", None)
                assert sink_sizes(machine) == [0, 0, 0]
                for worker in machine.workers:
                    found = await worker.store.find(bucket, b"big")
                    for start, size in ((0, len(body)), (MIB - 3, 7), (len(body) - 1, 1)):
                        assert await read(worker, bucket, b"big", found.version, start, size) == body[start : start + size]

    run(work)


async def read(worker: Worker, bucket: BucketRecord, key: bytes, of: object, start: int, size: int) -> bytes:
    source = worker.store.open(bucket, key, of, start, size)  # type: ignore[arg-type]
    data = b""
    while (piece := await source.next()) is not None:
        data += piece
    source.close()
    return data


def test_a_free_that_waits_for_a_checkpoint_does_not_hold_up_a_worker_that_closes(tmp_path: Path) -> None:
    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await bucket_of(machine)
            sink = await machine[1].store.sink(bucket, b"big", length=MIB, headers={}, metadata={})
            await sink.write(memoryview(bytes(MIB)), ())
            (extent,) = await sink.finish(bytes(16))
            freeing = asyncio.ensure_future(machine[0].dispatcher.free(1, [extent.data_id]))
            await asyncio.sleep(0.05)
            machine.moving(1)
            started = asyncio.get_running_loop().time()
            await machine[1].close()
            assert asyncio.get_running_loop().time() - started < 1.0
            assert not freeing.done()
            successor = await machine.start(1)
            machine.moving()
            await asyncio.sleep(0.1)
            assert successor.owner.sets[1].volume.locate(extent.data_id) is None
            await successor.owner.sets[1].checkpointer.checkpoint()
            await asyncio.wait_for(freeing, 2)

    run(work)


def test_sinks_of_a_front_that_dies_are_abandoned(tmp_path: Path) -> None:
    async def work() -> None:
        async with front(tmp_path) as machine:
            bucket = await bucket_of(machine)
            sinks = [await machine[2].store.sink(bucket, b"k%d" % n, length=None, headers={}, metadata={}) for n in range(6)]
            for sink in sinks:
                await sink.write(memoryview(bytes(64 * KIB)), ())
            assert sum(sink_sizes(machine)) == 6
            for link in machine[2].siblings._links.values():
                link.abort()
            await asyncio.sleep(0.05)
            assert sink_sizes(machine) == [0, 0, 0]
            assert sum(worker.owner.sinks.abandoned for worker in machine.workers) == 6
            assert (await refused(sinks[0].write(memoryview(b"more"), ()))).reason is Reason.SLOW_DOWN
            assert (await refused(sinks[1].finish(bytes(16)))).reason is Reason.SLOW_DOWN

    run(work)


def test_a_sink_that_nobody_writes_to_is_abandoned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink_module, "SINK_IDLE_SECONDS", 0.2)
    monkeypatch.setattr(sink_module, "_SWEEP_SECONDS", 0.05)

    async def work() -> None:
        async with front(tmp_path) as machine:
            bucket = await bucket_of(machine)
            idle, busy = [await machine[2].store.sink(bucket, key, length=None, headers={}, metadata={}) for key in (b"idle", b"busy")]
            await idle.write(memoryview(b"x" * 1000), ())
            for _ in range(10):
                await busy.write(memoryview(b"y" * 1000), ())
                await asyncio.sleep(0.05)
            assert sum(sink_sizes(machine)) == 1
            assert sum(extent.length for extent in await busy.finish(bytes(16))) == 10_000
            assert (await refused(idle.write(memoryview(b"x"), ()))).reason is Reason.SLOW_DOWN

    run(work)


def test_sinks_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink_module, "SINKS_MAX", 3)

    async def work() -> None:
        async with Machine(tmp_path, count=2, volumes=1) as machine:
            bucket = await bucket_of(machine)
            sinks = [await machine[1].store.sink(bucket, b"k", length=None, headers={}, metadata={}) for _ in range(4)]
            for sink in sinks[:3]:
                await sink.write(memoryview(b"x"), ())
            assert (await refused(sinks[3].write(memoryview(b"x"), ()))).reason is Reason.SLOW_DOWN
            sinks[0].abandon()
            await asyncio.sleep(0.05)
            await sinks[3].write(memoryview(b"x"), ())

    run(work)


def test_a_full_volume_is_named_as_that_through_a_sibling(tmp_path: Path) -> None:
    async def work() -> None:
        async with Machine(tmp_path, count=2, volumes=1) as machine:
            bucket = await bucket_of(machine)
            sink = await machine[1].store.sink(bucket, b"k", length=None, headers={}, metadata={})
            await sink.write(memoryview(bytes(MIB)), ())
            machine[0].owner.sets[0].volume._room = 10
            assert (await refused(sink.write(memoryview(bytes(3 * MIB)), ()))).reason is Reason.VOLUME_FULL
            assert sink_sizes(machine) == [0, 0]
            other = await machine[1].store.sink(bucket, b"k", length=MIB, headers={}, metadata={})
            assert (await refused(other.write(memoryview(bytes(MIB)), ()))).reason is Reason.VOLUME_FULL
            assert (await refused(machine[1].store.put(bucket, b"k", version(b"123" * 9), b"123" * 9, None))).reason is Reason.VOLUME_FULL
            await machine[1].store.delete(bucket, [DeleteEntry(b"k")], "me")  # deletes go on

    run(work)


def test_bytes_of_a_refused_commit_are_freed(tmp_path: Path) -> None:
    async def work() -> None:
        async with Machine(tmp_path, count=2, volumes=1) as machine:
            bucket = await bucket_of(machine)
            await machine[1].store.put(bucket, b"k", version(b"there"), b"there", None)
            sink = await machine[1].store.sink(bucket, b"k", length=MIB, headers={}, metadata={})
            await sink.write(memoryview(bytes(MIB)), ())
            extents = await sink.finish(bytes(16))
            volume = machine[0].owner.sets[0].volume
            assert volume.locate(extents[0].data_id) is not None
            error = await refused(machine[1].store.put(bucket, b"k", version(bytes(MIB), extents=extents), b"", NEW))
            assert error.reason is Reason.PRECONDITION
            sink.abandon()
            await asyncio.sleep(0.05)
            assert volume.locate(extents[0].data_id) is None
            sink.abandon()
            await machine[0].owner.sets[0].checkpointer.checkpoint()

    run(work)


def test_a_siblings_volume_that_cannot_be_read_here_is_listed_by_its_owner(tmp_path: Path) -> None:
    """The neighbour reads a copy of the sibling's tree, first as it is, then with a damaged row."""

    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await bucket_of(machine)
            store = machine[0].store
            keys = sorted(b"key-%03d" % number for number in range(200))
            for key in keys:
                await store.put(bucket, key, version(b""), b"", None)
            await machine[1].owner.sets[1].checkpointer.checkpoint()
            copy = tmp_path / "copy"
            shutil.copytree(Path(machine.paths[1]) / "meta", copy / "meta")
            marks = Marks(Marks.make(2).fd, 2).of(1)
            neighbour = Neighbour(str(copy), marks, OsFiles(), Hot(0))
            machine[0].dispatcher.neighbours = {1: neighbour}

            async def listed() -> int:
                """Pages that the neighbour lent for a listing, which is always whole."""
                before = neighbour.reads
                found, after, truncated = [], b"", True
                while truncated:
                    page = await store.list_objects(bucket, prefix=b"", delimiter=b"", after=after, limit=70)
                    found, after, truncated = found + page.keys, page.after, page.truncated
                assert [key for key, _ in found] == keys
                assert {row.size for row in decode_rows([row for _, row in found])} == {0}
                return neighbour.reads - before

            assert await listed() == 0, "nobody keeps the marks"
            marks.opening()
            marks.ready()
            assert await listed() == 3
            neighbour.close()
            damaged = next(key for key in keys if machine.owners[machine.group_volume[gid_of(bucket, key)]] == 1)
            row = object_key(gid_of(bucket, damaged), bucket.bucket, damaged)
            with lmdb.open(str(copy / "meta"), max_dbs=8, map_size=1 << 40) as env:
                kv = env.open_db(b"kv")
                with env.begin(write=True) as txn:
                    stored = txn.get(row, db=kv)
                    txn.put(row, stored[:-1] + bytes((stored[-1] ^ 1,)), db=kv)
            neighbour._again_at = 0.0
            assert await listed() > 0, "tried, and given up for the owner"
            neighbour.close()

    run(work)
