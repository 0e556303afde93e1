"""Who may talk to whom, which commands may be proposed, and what happens to an entry that this build does not know."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.unit.cluster.workers import SELDOM, SMALL, Machine, Worker, made_volume, run
from titans3.clock import SystemClock
from titans3.cluster import messages as m
from titans3.cluster.groups import GroupSet
from titans3.cluster.messages import FEATURE_LEVEL
from titans3.engine.record import Record
from titans3.engine.volume import Volume
from titans3.errors import ClientError, DiskError, FormatError, InvariantError, Reason
from titans3.model.command import Command, EnsureShard, encode_command
from titans3.model.control import FEATURE_LEVEL_KEY
from titans3.rpc.link import connect, socket_path


class Later(Command, frozen=True, gc=False):
    """A command of a newer build."""

    OP: ClassVar[int] = 200
    LEVEL: ClassVar[int] = 99
    word: str = "what it means nobody here knows"


def levels(machine: Machine) -> list[int]:
    return [worker.dispatcher.feature_level for worker in machine.workers]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def in_force(machine: Machine) -> bytes:
    record = await machine[1].control.get(FEATURE_LEVEL_KEY)
    assert record is not None
    return record.value


def test_the_first_start_writes_what_its_code_knows_and_everybody_follows(tmp_path: Path) -> None:
    async def work() -> None:
        async with Machine(tmp_path, count=3) as machine:
            assert await in_force(machine) == b"%d" % FEATURE_LEVEL
            assert levels(machine) == [FEATURE_LEVEL] * 3
            with pytest.raises(AssertionError, match="Later is above the feature level"):
                await machine[1].dispatcher.propose(1, Later())

    run(work)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_the_level_rises_when_the_last_worker_has_new_code_and_never_falls(tmp_path: Path, order: tuple[int, ...]) -> None:
    async def work() -> None:
        async with Machine(tmp_path, count=3, level=1) as machine:
            for number, me in enumerate(order):
                assert await in_force(machine) == b"1"
                assert levels(machine) == [1, 1, 1], number
                await machine[me].close()
                await asyncio.sleep(0.05)
                assert await in_force_of(machine, but=me) == b"1"  # one that is away has said nothing
                await machine.start(me, level=3 if me == 1 else 2)
            await until(lambda: levels(machine) == [2, 2, 2])
            assert await in_force(machine) == b"2"
            await machine[0].kill()  # and it is in the log
            await machine.start(0, level=2)
            assert levels(machine) == [2, 2, 2]

    run(work)


async def in_force_of(machine: Machine, but: int) -> bytes:
    """The record as a worker that is there has it in its cache."""
    return machine[1 if but != 1 else 2].control.cache.records[FEATURE_LEVEL_KEY].value


@pytest.mark.parametrize("me", [0, 1])
def test_a_worker_with_older_code_does_not_start(tmp_path: Path, me: int) -> None:
    async def work() -> None:
        async with Machine(tmp_path, level=1) as machine:
            await machine[0].control.cas([(FEATURE_LEVEL_KEY, b"1")], {})
            for each in (0, 1):
                await machine[each].close()
                await machine.start(each, level=2)
            await until(lambda: levels(machine) == [2, 2])
            await machine[me].close()
            with pytest.raises(FormatError, match="at feature level 2 and this build knows 1: a newer TitanS3 has to be started here"):
                await machine.start(me, level=1)
            await machine[me].close()
            await machine.start(me, level=2)

    run(work)


def test_a_worker_stops_when_the_level_rises_above_its_code(tmp_path: Path) -> None:
    async def work() -> None:
        async with Machine(tmp_path, level=1) as machine:
            seen: list[dict[str, Any]] = []
            asyncio.get_running_loop().set_exception_handler(lambda loop, context: seen.append(context))
            record = await machine[0].control.get(FEATURE_LEVEL_KEY)
            assert record is not None
            machine[0].greeting.level = 2  # so this one knows it, the other does not
            await machine[0].control.cas([(FEATURE_LEVEL_KEY, b"2")], {FEATURE_LEVEL_KEY: record.rev})
            assert [type(context["exception"]) for context in seen] == [InvariantError]
            assert levels(machine) == [2, 1]

    run(work)


# links ------------------------------------------------------------------------------------------------------------------


async def wrong(machine: Machine, monkeypatch: pytest.MonkeyPatch, how: str) -> Worker:
    """Worker 1 again, of another cluster or with another protocol."""
    await machine[1].close()
    worker = machine.workers[1] = Worker(machine, 1, cluster="another" if how == "cluster" else machine[0].greeting.cluster)
    if how == "protocol":
        real = worker.greeting._on_hello
        worker.server.handlers[m.HELLO] = lambda meta, body: (_with_protocol(real(meta, body)[0]), b"")
    await worker.open()
    return worker


def _with_protocol(meta: bytes) -> bytes:
    assert meta[1] == m.PROTOCOL  # first element of the array
    return meta[:1] + bytes([m.PROTOCOL + 1]) + meta[2:]


@pytest.mark.parametrize("how", ["cluster", "protocol"])
def test_a_link_to_a_stranger_is_refused_and_the_log_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    async def work() -> None:
        async with Machine(tmp_path, feature=False) as machine:
            await wrong(machine, monkeypatch, how)
            word = "this worker of 'another'" if how == "cluster" else "it speaks protocol 2, this worker 1"
            with caplog.at_level(logging.ERROR, "titans3"):
                for _ in range(3):
                    with pytest.raises(ClientError) as caught:
                        await machine[0].dispatcher.propose(1, EnsureShard(1, 1, 0))
                    assert caught.value.reason in (Reason.UNAVAILABLE, Reason.SLOW_DOWN)
                    assert await machine[0].siblings.link_once(1) is None
            told = [record.message for record in caplog.records if word in record.message]
            assert told and len(told) == 1, caplog.messages  # not once for every request
            assert machine[0].siblings.link_nowait(1) is None

    run(work)


def test_a_connection_says_who_it_is_before_anything_else(tmp_path: Path) -> None:
    async def work() -> None:
        async with Machine(tmp_path) as machine:
            link = await connect(socket_path(machine.run_fd, 1), lambda: None)

            async def asked(kind: int, meta: bytes) -> str:
                with pytest.raises(ClientError) as caught:
                    await link.call(kind, meta)
                assert caught.value.reason is Reason.UNAVAILABLE
                return str(caught.value)

            greeting, encode = machine[0].greeting, m.msgspec.msgpack.encode
            assert await asked(m.CONTROL_GET, b"/x") == "a greeting comes first"
            assert "it speaks protocol 9" in await asked(m.HELLO, encode(m.Hello(9, 0, 1, greeting.cluster)))
            assert "it is of cluster ''" in await asked(m.HELLO, encode((1, 0, 1)))  # a build that did not say its cluster
            assert "not among the siblings" in await asked(m.HELLO, encode(m.Hello(1, 1, 1, greeting.cluster)))
            assert "not among the siblings" in await asked(m.HELLO, encode(m.Hello(1, 5, 1, greeting.cluster)))
            assert "no greeting" in await asked(m.HELLO, b"\xc1")
            assert await asked(m.PROPOSE, b"") == "a greeting comes first"
            welcome = await greeting.greet(1, link)
            assert (welcome.protocol, welcome.feature_level, welcome.cluster) == (1, FEATURE_LEVEL, greeting.cluster)
            assert "op 200 format 1 is not known" in await asked(m.PROPOSE, encode(m.Propose(1, encode_command(Later()))))
            link.abort()

    run(work)


# entries ----------------------------------------------------------------------------------------------------------------


async def opened(path: str) -> GroupSet:
    groups = GroupSet(Volume(path, options=SMALL), SystemClock(), SELDOM)
    await groups.open()
    return groups


@pytest.mark.parametrize("command", [encode_command(Later()), b"\x00\x02\x02\x93\x07\x01\x00", b"\x00\x02\x01\x91\xa1x"])
def test_an_entry_that_is_not_known_is_never_skipped(tmp_path: Path, command: bytes) -> None:
    """An op, a format and fields of a newer build, written into the log: the volume is not opened, again and again."""

    async def work() -> None:
        path = made_volume(tmp_path, 0)
        groups = await opened(path)
        for gid in (1, 2):
            await groups.propose(gid, EnsureShard(7, 1, 0))
        state = groups._states[1]
        groups._pending[1, 2] = await _unknown(groups)
        groups.volume.append(Record(1, 2, state.term, state.applied_term, command, b"", bytes(16)))
        await groups.volume.drain()
        groups._pending.clear()
        copy = tmp_path / "copy"
        shutil.copytree(path, copy)
        await groups.close(checkpoint=False)
        for _ in range(2):
            with pytest.raises(FormatError, match=r"group 1, index 2: .*a newer TitanS3 has to be started here"):
                await opened(str(copy))

    run(work)


async def _unknown(groups: GroupSet) -> Any:
    """What stands for the proposal of an entry that was put into the log by hand."""
    groups.propose(3, EnsureShard(7, 1, 0))
    pending = groups._pending[3, 1]
    await pending.future
    return pending


def test_a_command_without_an_apply_stops_the_process(tmp_path: Path) -> None:
    async def work() -> None:
        seen: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: seen.append(context))
        groups = await opened(made_volume(tmp_path, 0))
        await groups.propose(1, EnsureShard(7, 1, 0))
        with pytest.raises(DiskError, match="cannot be applied"):
            await groups.propose(1, Later())
        assert [type(context["exception"]) for context in seen] == [InvariantError]  # the worker's handler ends the process
        with pytest.raises(ClientError):  # and until it has, nothing goes on
            groups.propose(1, EnsureShard(7, 2, 0))
        await groups.close(checkpoint=False)

    run(work)
