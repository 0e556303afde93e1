"""What every driver of the control plane promises, written against the protocol alone.

A driver joins by a harness in DRIVERS; every test runs through each of the harness's doors (the deciding worker, another one).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Protocol

import pytest

from tests.unit.cluster.workers import Machine, run
from titans3.cluster.control.interface import Compacted, Conflict, ControlPlane, NotSupported
from titans3.errors import ClientError, Reason
from titans3.model.control import Event, Rec


class Harness(Protocol):
    """A running control plane with several doors."""

    def door(self, number: int) -> ControlPlane:
        """0: where decisions are made, if the driver has such a place; 1 and 2: elsewhere."""

    async def forget_events(self) -> None:
        """Make events up to now unavailable to watchers that ask for them from now on."""

    async def restart(self) -> None:
        """Everything that is not durable is lost."""


class SystemHarness:
    """Three workers; worker 0 owns the system group."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def door(self, number: int) -> ControlPlane:
        return self._machine[number].control

    async def forget_events(self) -> None:
        for me in range(3):
            await self._restart(me)

    async def restart(self) -> None:
        await self._restart(0)

    async def _restart(self, me: int) -> None:
        await self._machine[me].kill()
        await self._machine.start(me)


@asynccontextmanager
async def system(folder: Path) -> AsyncIterator[Harness]:
    async with Machine(folder, count=3, volumes=2, feature=False) as machine:  # an empty store
        yield SystemHarness(machine)


DRIVERS = {"system": system}
Test = Callable[[Harness, ControlPlane, ControlPlane], Awaitable[None]]


@pytest.fixture(params=[(driver, door) for driver in DRIVERS for door in (0, 1)], ids=lambda param: f"{param[0]}-door{param[1]}")
def check(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Test], None]:
    """Runs a test with a driver: (harness, the door under test, another door)."""
    driver, door = request.param

    def go(test: Test) -> None:
        async def work() -> None:
            async with DRIVERS[driver](tmp_path) as harness:
                await test(harness, harness.door(door), harness.door(2 if door else 1))

        run(work)

    return go


Check = Callable[[Test], None]


async def taken(events: AsyncIterator[Event], count: int) -> list[Event]:
    """The next events of a watch."""
    return [await asyncio.wait_for(anext(events), 5) for _ in range(count)]


def test_what_is_not_there(check: Check) -> None:
    async def test(harness: Harness, control: ControlPlane, other: ControlPlane) -> None:
        assert await control.get("/a") is None
        assert await control.list("/a") == ([], 0)
        status = await control.status()
        assert "driver" in status

    check(test)


def test_a_change_is_seen_through_every_door_when_it_is_answered(check: Check) -> None:
    async def test(harness: Harness, control: ControlPlane, other: ControlPlane) -> None:
        for number in range(20):
            writer, reader = (control, other) if number % 2 else (other, control)
            revision = await writer.cas([("/x", b"%d" % number)], {"/x": -1})
            for door in (reader, writer):
                assert await door.get("/x") == Rec("/x", b"%d" % number, revision)
                assert await door.list("/x") == ([Rec("/x", b"%d" % number, revision)], revision)

    check(test)


def test_revisions_rise_and_each_record_has_the_one_that_wrote_it(check: Check) -> None:
    async def test(harness: Harness, control: ControlPlane, other: ControlPlane) -> None:
        first = await control.cas([("/a", b"1"), ("/b", b"1")], {})
        second = await other.cas([("/b", b"2")], {"/b": first})
        assert second > first > 0
        assert await control.list("/") == ([Rec("/a", b"1", first), Rec("/b", b"2", second)], second)
        third = await control.cas([("/a", None)], {"/a": first})
        assert third > second
        assert await other.list("/") == ([Rec("/b", b"2", second)], third)
        again = await other.cas([("/a", b"new")], {"/a": 0})
        assert await control.get("/a") == Rec("/a", b"new", again)

    check(test)


def test_cas_changes_all_or_nothing_and_the_conflict_names_its_key(check: Check) -> None:
    async def test(harness: Harness, control: ControlPlane, other: ControlPlane) -> None:
        first = await control.cas([("/a", b"1")], {"/a": 0})
        before = await other.list("/")
        for expect, culprit in (
            ({"/a": 0}, "/a"), ({"/a": first + 1}, "/a"), ({"/a": first, "/b": first}, "/b"), ({"/c": 7}, "/c"),
        ):
            with pytest.raises(Conflict) as caught:
                await control.cas([("/a", b"2"), ("/b", b"2"), ("/d", b"2")], expect)
            assert caught.value.key == culprit
        assert await other.list("/") == before
        await control.cas([("/a", b"2"), ("/b", b"2")], {"/a": first, "/b": 0, "/c": -1})
        assert [rec.value for rec in (await other.list("/"))[0]] == [b"2", b"2"]

    check(test)


def test_list_is_by_prefix_in_key_order(check: Check) -> None:
    async def test(harness: Harness, control: ControlPlane, other: ControlPlane) -> None:
        keys = ["/b/2", "/b/10", "/b", "/ba", "/a/1", "/b/ü"]
        await control.cas([(key, key.encode()) for key in keys], {})
        assert [rec.key for rec in (await other.list("/b/"))[0]] == ["/b/10", "/b/2", "/b/ü"]
        assert [rec.key for rec in (await control.list("/b"))[0]] == ["/b", "/b/10", "/b/2", "/b/ü", "/ba"]
        assert len((await control.list(""))[0]) == 6
        assert (await control.list("/zzz"))[0] == []

    check(test)


def test_a_list_of_many_megabytes_is_whole(check: Check) -> None:
    async def test(harness: Harness, control: ControlPlane, other: ControlPlane) -> None:
        for number in range(12):
            await control.cas([(f"/big/{number:02d}", bytes([number]) * 1_000_000)], {})
        records, _ = await control.list("/big/")
        assert [(rec.key, rec.value[:1]) for rec in records] == [(f"/big/{n:02d}", bytes([n])) for n in range(12)]
        assert records == (await other.list("/big/"))[0]

    check(test)


def test_a_counter_by_cas_from_every_door_loses_nothing(check: Check) -> None:
    async def test(harness: Harness, control: ControlPlane, other: ControlPlane) -> None:
        done: list[int] = []

        async def count(door: ControlPlane, times: int) -> None:
            while times:
                known = await door.get("/n")
                value = 0 if known is None else int(known.value)
                with suppress(Conflict):
                    done.append(await door.cas([("/n", b"%d" % (value + 1))], {"/n": 0 if known is None else known.rev}))
                    times -= 1

        await asyncio.gather(*(count(door, 10) for door in (control, other, control, other)))
        found = await other.get("/n")
        assert found is not None
        assert int(found.value) == 40
        assert len(set(done)) == 40
        assert found.rev == max(done)

    check(test)


def test_a_watch_shows_every_change_once_in_order(check: Check) -> None:
    async def test(harness: Harness, control: ControlPlane, other: ControlPlane) -> None:
        start = await control.cas([("/w/0", b"before")], {})
        watch = control.watch("/w/", start)
        first = asyncio.ensure_future(taken(watch, 2))
        one = await other.cas([("/w/1", b"1"), ("/elsewhere", b"x"), ("/w/2", b"2")], {})
        two = await control.cas([("/elsewhere", b"y")], {})
        three = await other.cas([("/w/1", None)], {})
        assert await first == [Event("/w/1", b"1", one), Event("/w/2", b"2", one)]
        assert await taken(watch, 1) == [Event("/w/1", None, three)]
        assert two < three
        late = other.watch("", start)
        assert [event.rev for event in await taken(late, 5)] == [one, one, one, two, three]

    check(test)


def test_a_slow_watcher_misses_nothing_while_it_is_busy_with_an_event(check: Check) -> None:
    async def test(harness: Harness, control: ControlPlane, other: ControlPlane) -> None:
        start = await control.cas([("/w/a", b""), ("/w/b", b"")], {})
        watch = control.watch("/w/", start - 1)
        found = await taken(watch, 1)  # the watcher holds the first of two events
        for number in range(5):
            await other.cas([("/w/c", b"%d" % number)], {})
        found += await taken(watch, 6)
        assert [(event.key, event.value) for event in found] == [
            ("/w/a", b""), ("/w/b", b""), *[("/w/c", b"%d" % number) for number in range(5)],
        ]

    check(test)


def test_a_watch_from_the_future_waits_for_it(check: Check) -> None:
    async def test(harness: Harness, control: ControlPlane, other: ControlPlane) -> None:
        start = await control.cas([("/w", b"0")], {})
        watch = control.watch("/w", start + 1)
        waiting = asyncio.ensure_future(taken(watch, 1))
        await other.cas([("/w", b"1")], {})
        await asyncio.sleep(0.05)
        assert not waiting.done()
        revision = await other.cas([("/w", b"2")], {})
        assert await waiting == [Event("/w", b"2", revision)]

    check(test)


def test_a_watch_that_asks_for_forgotten_events_is_compacted(check: Check) -> None:
    async def test(harness: Harness, control: ControlPlane, other: ControlPlane) -> None:
        for number in range(3):
            await control.cas([("/w", b"%d" % number)], {})
        await harness.forget_events()
        for door in (harness.door(0), harness.door(1)):
            with pytest.raises(Compacted):
                await taken(door.watch("/w", 0), 1)
            records, revision = await door.list("/w")  # and lists again
            assert [rec.value for rec in records] == [b"2"]
            watch = door.watch("/w", revision)
            new = await door.cas([("/w", b"new")], {})
            assert await taken(watch, 1) == [Event("/w", b"new", new)]
            await door.cas([("/w", b"2")], {})

    check(test)


def test_what_was_answered_is_durable(check: Check) -> None:
    async def test(harness: Harness, control: ControlPlane, other: ControlPlane) -> None:
        revision = await control.cas([("/a", b"1"), ("/b", b"2")], {"/a": 0})
        last = await other.cas([("/b", None)], {"/b": revision})
        await harness.restart()
        for door in (harness.door(0), harness.door(1)):
            assert await door.list("/") == ([Rec("/a", b"1", revision)], last)
        assert await harness.door(1).cas([("/c", b"")], {"/a": revision}) > last

    check(test)


def test_leases_work_or_are_not_supported(check: Check) -> None:
    async def test(harness: Harness, control: ControlPlane, other: ControlPlane) -> None:
        try:
            lease = await control.lease(5.0)
        except NotSupported:
            with pytest.raises(NotSupported):
                await control.cas_leased(None, "/l", b"", 0)  # type: ignore[arg-type]
            assert await control.get("/l") is None
            return
        await control.cas_leased(lease, "/l", b"mine", 0)
        assert (await other.get("/l")) is not None
        await lease.revoke()
        assert await other.get("/l") is None

    check(test)


def test_close_ends_watchers_and_can_be_repeated(check: Check) -> None:
    async def test(harness: Harness, control: ControlPlane, other: ControlPlane) -> None:
        start = await control.cas([("/w", b"0")], {})

        async def watching() -> list[Event]:
            return [event async for event in control.watch("/w", start - 1)]

        watcher = asyncio.ensure_future(watching())
        await asyncio.sleep(0.02)
        await control.close()
        assert [event.value for event in await asyncio.wait_for(watcher, 2)] == [b"0"]
        await control.close()

    check(test)


# what only the driver of one machine promises ---------------------------------------------------------------------------


def test_system_caches_of_all_workers_have_a_change_when_it_is_answered(tmp_path: Path) -> None:
    async def work() -> None:
        async with Machine(tmp_path, count=3, volumes=2, feature=False) as machine:
            for number in range(6):
                revision = await machine[number % 3].control.cas([("/k", b"%d" % number)], {})
                assert [worker.control.cache.records["/k"].value for worker in machine.workers] == [b"%d" % number] * 3
                assert {worker.control.cache.revision for worker in machine.workers} == {revision}

    run(work)


def test_system_a_sibling_that_is_not_there_delays_nobody(tmp_path: Path) -> None:
    async def work() -> None:
        async with Machine(tmp_path, count=3, volumes=2, feature=False) as machine:
            await machine[2].kill()
            started = asyncio.get_running_loop().time()
            for number in range(5):
                await machine[1].control.cas([("/k", b"%d" % number)], {})
            assert asyncio.get_running_loop().time() - started < 5.0  # waiting for it would be two seconds each
            fresh = await machine.start(2)
            assert fresh.control.cache.records["/k"].value == b"4"

    run(work)


def test_system_a_worker_that_missed_a_change_lists_again_before_it_says_yes(tmp_path: Path) -> None:
    async def work() -> None:
        async with Machine(tmp_path, count=2, volumes=1, feature=False) as machine:
            await machine[0].control.cas([("/k", b"0")], {})
            machine[1].control.cache.revision -= 1  # as if an event had been lost on the way
            machine[1].control.cache.records.clear()
            await machine[0].control.cas([("/l", b"1")], {})
            assert sorted(machine[1].control.cache.records) == ["/k", "/l"]

    run(work)


def test_system_a_change_waits_while_the_owner_moves_and_is_refused_when_it_is_dead(tmp_path: Path) -> None:
    async def work() -> None:
        async with Machine(tmp_path, count=2, volumes=1, feature=False) as machine:
            machine.moving(0)
            await machine[0].close()
            control = machine[1].control
            waits = [asyncio.ensure_future(control.cas([("/k", b"1")], {"/k": 0})), asyncio.ensure_future(control.get("/k"))]
            await asyncio.sleep(0.3)
            assert not any(wait.done() for wait in waits)
            await machine.start(0)
            machine.moving()
            assert await waits[0] == 1
            await waits[1]
            await machine[0].kill()
            with pytest.raises(ClientError) as caught:
                await control.cas([("/k", b"2")], {})
            assert caught.value.reason is Reason.SLOW_DOWN
            with pytest.raises(ClientError):
                await control.list("/")
            await machine.start(0)
            assert (await control.list("/"))[0] == [Rec("/k", b"1", 1)]

    run(work)


@pytest.mark.parametrize("applied", [True, False])
def test_system_a_change_whose_answer_was_lost_has_one_effect(tmp_path: Path, applied: bool) -> None:
    from titans3.cluster.messages import CONTROL_CAS

    async def work() -> None:
        async with Machine(tmp_path, count=2, volumes=1, feature=False) as machine:
            server = machine[0].server
            real = server.handlers[CONTROL_CAS]
            tries = 0

            async def breaks(meta: bytes, body: bytes, caller: object) -> tuple[bytes, bytes]:
                answer = await real(meta, body) if applied else (b"", b"")  # type: ignore[misc]
                caller.abort()  # type: ignore[attr-defined]
                return answer

            def handler(meta: bytes, body: bytes) -> object:
                nonlocal tries
                tries += 1
                return breaks(meta, body, server.caller) if tries == 1 else real(meta, body)

            server.handlers[CONTROL_CAS] = handler  # type: ignore[assignment]
            assert await machine[1].control.cas([("/n", b"1")], {"/n": 0}) == 1  # applied twice it would conflict
            assert tries == 2
            assert await machine[1].control.list("/") == ([Rec("/n", b"1", 1)], 1)

    run(work)
