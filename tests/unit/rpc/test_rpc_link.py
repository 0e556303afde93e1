"""Links over real Unix sockets: many calls at once, failures as they were raised, broken connections, bounds."""

from __future__ import annotations

import asyncio
import contextvars
import os
import socket
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import uvloop

from titans3.errors import ClientError, InvariantError, PeerError, Reason
from titans3.limits import FRAME_BYTES_MAX, KIB, MIB
from titans3.rpc import link as links
from titans3.rpc.frame import FAILURE, REPLY, REQUEST, Frames, encode_head
from titans3.rpc.link import (
    Answer,
    Failure,
    Link,
    LinkServer,
    PeerGone,
    PeerLost,
    connect,
    decode_failure,
    encode_failure,
)

Work = Callable[[], Awaitable[None]]
ECHO, SLOW, FAIL, BUG, LATE_BUG, BIG, NEVER, SINK, UNKNOWN = range(1, 10)


@pytest.fixture(params=["uvloop", "asyncio"])
def run(request: pytest.FixtureRequest) -> Callable[[Work], None]:
    """Runs a coroutine on each of the two loops."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def go(work: Work) -> None:
        with warnings.catch_warnings(), asyncio.Runner(loop_factory=factory) as runner:
            warnings.simplefilter("ignore", ResourceWarning)  # as an error it hangs the close of uvloop when a test has failed
            runner.run(asyncio.wait_for(work(), 10))

    return go


class Peer:
    """A server with handlers of every kind."""

    def __init__(self) -> None:
        self.server = LinkServer()
        self.gate = asyncio.Event()
        self.started = 0
        self.server.handlers.update({
            ECHO: lambda meta, body: (meta, body), SLOW: self._slow, FAIL: self._fail, BUG: self._bug, LATE_BUG: self._late_bug,
            BIG: lambda meta, body: (b"", bytes(int(meta))), NEVER: self._never, SINK: lambda meta, body: (b"", b""),
        })

    async def _slow(self, meta: bytes, body: bytes) -> Answer:
        self.started += 1
        await asyncio.sleep(float(meta))
        return meta, body

    def _fail(self, meta: bytes, body: bytes) -> Answer:
        raise ClientError(Reason.PART_TOO_SMALL, "too small", part=3, name="n", hidden=object())

    def _bug(self, meta: bytes, body: bytes) -> Answer:
        raise KeyError("x")

    async def _late_bug(self, meta: bytes, body: bytes) -> Answer:
        raise ValueError("y")

    async def _never(self, meta: bytes, body: bytes) -> Answer:
        self.started += 1
        await self.gate.wait()
        return b"", b""


@asynccontextmanager
async def linked(path: str) -> AsyncIterator[tuple[Peer, Link]]:
    peer = Peer()
    await peer.server.start(path)
    link = await connect(path, lambda: None)
    try:
        yield peer, link
    finally:
        peer.gate.set()
        link.abort()
        await peer.server.close()
        await asyncio.sleep(0)


def at(tmp_path: Path) -> str:
    return str(tmp_path / "worker-0.sock")


def test_many_calls_at_once_get_their_own_answers(run: Callable[[Work], None], tmp_path: Path) -> None:
    async def work() -> None:
        async with linked(at(tmp_path)) as (_, link):
            bodies = [os.urandom(size) for size in (0, 1, 100, 4 * KIB, 64 * KIB, MIB)] * 20
            waits = [link.call(ECHO, b"%d" % n, body) for n, body in enumerate(bodies)]
            waits += [link.call(SLOW, b"0.0%d" % (9 - n)) for n in range(10)]
            answers = await asyncio.gather(*waits)
            assert answers[: len(bodies)] == [(b"%d" % n, body) for n, body in enumerate(bodies)]
            assert [meta for meta, _ in answers[len(bodies) :]] == [b"0.0%d" % (9 - n) for n in range(10)]
            assert link.waiting == 0

    run(work)


def test_a_body_that_is_a_view_arrives(run: Callable[[Work], None], tmp_path: Path) -> None:
    async def work() -> None:
        async with linked(at(tmp_path)) as (_, link):
            data = bytearray(os.urandom(MIB))
            assert (await link.call(ECHO, b"", memoryview(data)[3:-3]))[1] == data[3:-3]

    run(work)


def test_errors_come_back_as_they_were_raised(run: Callable[[Work], None], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        async with linked(at(tmp_path)) as (_, link):
            with pytest.raises(ClientError) as caught:
                await link.call(FAIL, b"")
            assert caught.value.reason is Reason.PART_TOO_SMALL
            assert caught.value.message == "too small"
            assert caught.value.fields == {"part": 3, "name": "n"}
            with pytest.raises(ClientError) as caught:
                await link.call(UNKNOWN, b"")
            assert caught.value.reason is Reason.UNAVAILABLE

    run(work)


@pytest.mark.parametrize("kind", [BUG, LATE_BUG])
def test_a_handler_that_fails_answers_unknown_outcome_and_the_link_lives(
    run: Callable[[Work], None], tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: int
) -> None:
    async def work() -> None:
        async with linked(at(tmp_path)) as (_, link):
            before, failed, after = link.call(ECHO, b"a"), link.call(kind, b""), link.call(ECHO, b"b")
            assert (await before)[0] == b"a"
            with pytest.raises(ClientError) as caught:
                await failed
            assert caught.value.reason is Reason.UNKNOWN_OUTCOME
            assert (await after)[0] == b"b"
            assert link.is_open

    run(work)
    assert "failed" in caplog.text


def test_an_invariant_error_reaches_the_loop(run: Callable[[Work], None], tmp_path: Path) -> None:
    async def work() -> None:
        seen: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: seen.append(context.get("exception")))
        async with linked(at(tmp_path)) as (peer, link):
            async def broken(meta: bytes, body: bytes) -> Answer:
                raise InvariantError("no")

            peer.server.handlers[BUG] = broken
            waiting = link.call(BUG, b"")
            await asyncio.sleep(0.05)
            assert [type(error) for error in seen] == [InvariantError]
            assert not waiting.done()
            waiting.cancel()

    run(work)


def test_an_answer_that_does_not_fit_a_frame_is_a_failure_not_a_hang(
    run: Callable[[Work], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        async with linked(at(tmp_path)) as (_, link):
            with pytest.raises(ClientError) as caught:
                await link.call(BIG, b"%d" % FRAME_BYTES_MAX)
            assert caught.value.reason is Reason.UNAVAILABLE
            with pytest.raises(ClientError) as caught:
                link.call(ECHO, b"", bytes(FRAME_BYTES_MAX))
            assert caught.value.reason is Reason.TOO_LARGE
            assert link.waiting == 0
            assert len((await link.call(BIG, b"%d" % (FRAME_BYTES_MAX - 16)))[1]) == FRAME_BYTES_MAX - 16

    run(work)


def test_a_cancelled_call_leaves_nothing_behind(run: Callable[[Work], None], tmp_path: Path) -> None:
    async def work() -> None:
        async with linked(at(tmp_path)) as (peer, link):
            async def one() -> Answer:
                return await link.call(NEVER, b"")

            task = asyncio.ensure_future(one())
            await asyncio.sleep(0.05)
            assert (peer.started, link.waiting) == (1, 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            peer.gate.set()
            assert (await link.call(ECHO, b"still"))[0] == b"still"
            assert link.waiting == 0

    run(work)


def test_calls_sent_before_the_break_are_lost_and_those_after_are_gone(run: Callable[[Work], None], tmp_path: Path) -> None:
    async def work() -> None:
        lost: list[bool] = []
        async with linked(at(tmp_path)) as (peer, _):
            link = await connect(at(tmp_path), lambda: lost.append(True))
            sent = [link.call(NEVER, b"") for _ in range(3)]
            await asyncio.sleep(0.05)
            assert peer.started == 3
            link.abort()  # as if the peer died: what is sent from now on never leaves
            with pytest.raises(PeerGone):
                link.call(ECHO, b"")
            for future in sent:
                with pytest.raises(PeerLost):
                    await future
            assert lost == [True]
            assert not link.is_open
            with pytest.raises(PeerGone):
                link.call(ECHO, b"")

    run(work)


def test_a_call_of_the_same_turn_as_the_break_never_left(run: Callable[[Work], None], tmp_path: Path) -> None:
    async def work() -> None:
        async with linked(at(tmp_path)) as (peer, link):
            unsent = link.call(NEVER, b"")
            link.abort()
            with pytest.raises(PeerGone):
                await unsent
            await asyncio.sleep(0.05)
            assert peer.started == 0

    run(work)


def test_a_peer_that_dies_in_the_middle_of_an_answer_loses_the_call(run: Callable[[Work], None], tmp_path: Path) -> None:
    async def work() -> None:
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        server.bind(at(tmp_path))
        server.listen()
        server.setblocking(False)
        link = await connect(at(tmp_path), lambda: None)
        loop = asyncio.get_running_loop()
        other, _ = await loop.sock_accept(server)
        first, second = link.call(ECHO, b"1"), link.call(ECHO, b"2")
        frames = Frames()
        asked = []
        while len(asked) < 2:
            asked += frames.feed(await loop.sock_recv(other, 65536))
        answer = encode_head(ECHO, REPLY, asked[0][2], b"1", 0)
        half = encode_head(ECHO, REPLY, asked[1][2], b"2", 100) + b"only a part"
        await loop.sock_sendall(other, answer + half)
        other.close()
        server.close()
        assert await first == (b"1", b"")
        with pytest.raises(PeerLost):
            await second

    run(work)


@pytest.mark.parametrize(
    "answer",
    [b"\xff" * 64, encode_head(1, REQUEST, 1, b"", 0), encode_head(1, 9, 1, b"", 0), encode_head(1, FAILURE, 1, b"\xc1", 0)],
    ids=["length", "request", "flag", "failure"],
)
def test_nonsense_from_the_answering_end_closes_the_link(
    run: Callable[[Work], None], tmp_path: Path, answer: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        server.bind(at(tmp_path))
        server.listen()
        server.setblocking(False)
        link = await connect(at(tmp_path), lambda: None)
        loop = asyncio.get_running_loop()
        other, _ = await loop.sock_accept(server)
        waiting = link.call(ECHO, b"")
        await loop.sock_recv(other, 100)
        await loop.sock_sendall(other, answer)
        with pytest.raises(PeerLost):
            await waiting
        assert not link.is_open
        other.close()
        server.close()

    run(work)
    assert "nonsense" in caplog.text


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\xff" * 20, encode_head(1, REPLY, 1, b"", 0)])
def test_nonsense_from_the_calling_end_closes_that_connection_alone(
    run: Callable[[Work], None], tmp_path: Path, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        async with linked(at(tmp_path)) as (peer, link):
            reader, writer = await asyncio.open_unix_connection(at(tmp_path))
            writer.write(sent)
            assert await reader.read() == b""
            writer.close()
            assert (await link.call(ECHO, b"fine"))[0] == b"fine"
            assert len(peer.server.connections) == 1

    run(work)


def test_failures_of_a_newer_build_are_understood() -> None:
    from msgspec.msgpack import encode

    known = decode_failure(encode_failure(ClientError(Reason.LOCKED, "m", until=5)))
    assert (known.reason, known.message, known.fields) == (Reason.LOCKED, "m", {"until": 5})
    strange = decode_failure(encode(Failure("from_the_future", "m", {"reason": 1, "self": 2, "x": 3})))
    assert (strange.reason, strange.fields) == (Reason.UNKNOWN_OUTCOME, {"x": 3})
    with pytest.raises(PeerError):
        decode_failure(b"\x01")


def test_bytes_that_wait_to_be_sent_are_bounded(
    run: Callable[[Work], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "SEND_BYTES_MAX", 4 * MIB)

    async def work() -> None:
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        server.bind(at(tmp_path))
        server.listen()
        link = await connect(at(tmp_path), lambda: None)  # nobody reads
        waits: list[asyncio.Future[Answer]] = []
        with pytest.raises(ClientError) as caught:
            waits.extend(link.call(SINK, b"", bytes(MIB)) for _ in range(100))
        assert caught.value.reason is Reason.SLOW_DOWN
        assert len(waits) == 4  # also within one turn of the loop
        await asyncio.sleep(0.02)
        with pytest.raises(ClientError):
            while True:
                waits.append(link.call(SINK, b"", bytes(MIB)))
        assert len(waits) <= 5
        await asyncio.sleep(0)
        link.abort()
        assert {type(error) for error in await asyncio.gather(*waits, return_exceptions=True)} == {PeerLost}
        server.close()

    run(work)


def test_calls_that_wait_for_an_answer_are_bounded(
    run: Callable[[Work], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "CALLS_MAX", 10)

    async def work() -> None:
        async with linked(at(tmp_path)) as (peer, link):
            waits = [link.call(NEVER, b"") for _ in range(10)]
            with pytest.raises(ClientError):
                link.call(NEVER, b"")
            peer.gate.set()
            await asyncio.gather(*waits)
            assert await link.call(ECHO, b"again") == (b"again", b"")

    run(work)


def test_a_server_that_has_enough_in_hand_stops_reading_and_goes_on_later(
    run: Callable[[Work], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "SERVE_BYTES_MAX", 4 * MIB)

    async def work() -> None:
        async with linked(at(tmp_path)) as (peer, link):
            waits = [link.call(NEVER, b"", bytes(MIB)) for _ in range(30)]
            async with asyncio.timeout(5):
                while peer.started < 4:
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.2)
            assert peer.started <= 8  # the limit, and what one read brought
            peer.gate.set()
            await asyncio.gather(*waits)
            assert peer.started == 30

    run(work)


def test_a_server_stops_reading_while_its_answers_are_not_taken(
    run: Callable[[Work], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "SERVE_BYTES_MAX", 4 * MIB)

    async def work() -> None:
        async with linked(at(tmp_path)) as (peer, _):
            served = 0

            def big(meta: bytes, body: bytes) -> Answer:
                nonlocal served
                served += 1
                return b"", bytes(MIB)

            peer.server.handlers[BIG] = big
            loop = asyncio.get_running_loop()
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.setblocking(False)
            await loop.sock_connect(sock, at(tmp_path))
            for number in range(40):
                await loop.sock_sendall(sock, encode_head(BIG, REQUEST, number, b"", 0))
                await asyncio.sleep(0.002)
            await asyncio.sleep(0.1)
            assert served < 15
            frames, got = Frames(), 0
            while got < 40:
                got += len(frames.feed(await loop.sock_recv(sock, MIB)))
            assert served == 40
            sock.close()

    run(work)


def test_a_closing_server_finishes_what_it_has_and_refuses_the_rest(run: Callable[[Work], None], tmp_path: Path) -> None:
    async def work() -> None:
        async with linked(at(tmp_path)) as (peer, link):
            slow = link.call(SLOW, b"0.1", b"done")
            await asyncio.sleep(0.03)
            closing = asyncio.ensure_future(peer.server.close())
            await asyncio.sleep(0)
            with pytest.raises(ClientError) as caught:
                await link.call(ECHO, b"")
            assert caught.value.reason is Reason.SLOW_DOWN
            assert caught.value.fields == {"moving": 1}
            assert (await slow)[1] == b"done"
            await closing
            with pytest.raises(OSError):
                await connect(at(tmp_path), lambda: None)

    run(work)


def test_only_processes_of_this_user_are_answered(
    run: Callable[[Work], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        async with linked(at(tmp_path)) as (peer, link):
            assert await link.call(ECHO, b"") == (b"", b"")
            real = links._same_user
            monkeypatch.setattr(links, "_same_user", lambda sock: False)
            with pytest.raises(PermissionError):
                await connect(at(tmp_path), lambda: None)
            reader, writer = await asyncio.open_unix_connection(at(tmp_path))
            writer.write(encode_head(ECHO, REQUEST, 1, b"", 0))
            with suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()
            monkeypatch.setattr(links, "_same_user", real)
            assert await link.call(ECHO, b"") == (b"", b"")
            assert len(peer.server.connections) == 1
            assert os.stat(at(tmp_path)).st_mode & 0o777 == 0o600

    run(work)
    assert "another user" in caplog.text


def test_the_server_names_the_caller_and_tells_when_it_is_gone(run: Callable[[Work], None], tmp_path: Path) -> None:
    async def work() -> None:
        async with linked(at(tmp_path)) as (peer, link):
            callers: list[object] = []
            gone: list[object] = []
            peer.server.on_lost.append(gone.append)

            def who(meta: bytes, body: bytes) -> Answer:
                callers.append(peer.server.caller)
                return b"", b""

            peer.server.handlers[SINK] = who
            other = await connect(at(tmp_path), lambda: None)
            for each in (link, other, link):
                await each.call(SINK, b"")
            assert callers[0] is callers[2]
            assert callers[0] is not callers[1]
            assert peer.server.caller is None
            other.abort()
            await asyncio.sleep(0.05)
            assert gone == [callers[1]]

    run(work)


def test_a_call_tells_whose_request_it_belongs_to_only_where_that_is_understood(run: Callable[[Work], None], tmp_path: Path) -> None:
    whose: contextvars.ContextVar[bytes] = contextvars.ContextVar("whose", default=b"nobody's")

    async def work() -> None:
        async with linked(at(tmp_path)) as (peer, link):

            def within(said: bytes) -> contextvars.Context:
                context = contextvars.copy_context()
                context.run(whose.set, said)
                return context

            async def late(meta: bytes, body: bytes) -> Answer:
                await asyncio.sleep(0.001)
                return whose.get() + meta, body

            peer.server.handlers[ECHO] = lambda meta, body: (whose.get() + meta, body)
            peer.server.handlers[SLOW] = late
            assert await link.call_within(b"mine", ECHO, b"!", b"body") == (b"nobody's!", b"body")
            link.takes_whose = True
            assert await link.call_within(b"mine", ECHO, b"!", b"body") == (b"nobody's!", b"body")  # it takes it, and nobody there cares
            peer.server.within = within
            calls = [link.call_within(b"mine", SLOW, b"!", b"a"), link.call(SLOW, b"!", b"b"), link.call_within(b"yours", ECHO, b"!")]
            assert await asyncio.gather(*calls) == [(b"mine!", b"a"), (b"nobody's!", b"b"), (b"yours!", b"")]

    run(work)
