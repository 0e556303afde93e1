"""The connection over real sockets on uvloop: framing, pipelining, Expect, bodies that end early, slow and rude clients, TLS."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import socket
import ssl
import struct
import time
from collections.abc import Iterator

import pytest
import trustme
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.http.wire_server import Client, Server, random_body, request, serving
from titans3.limits import BODY_BUFFER_BYTES, DRAIN_BYTES_MAX, HEAD_BYTES_MAX
from titans3.worker.buffers import BufferPool, BufferStatistics
from titans3.worker.connection import Connection
from titans3.worker.context import Timeouts

MIB = 1 << 20


@pytest.fixture(scope="module")
def shared() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def client(shared: Server) -> Iterator[Client]:
    with Client(shared.port) as made:
        yield made


def chunked(data: bytes, size: int) -> bytes:
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


# framing and keep-alive


def test_keep_alive_and_standard_headers(client: Client) -> None:
    ids = set()
    for _ in range(3):
        client.send(request("GET /"))
        reply = client.reply()
        assert (reply.status, reply.body) == (200, b"hello")
        assert reply.headers["server"] == "TitanS3"
        assert reply.headers["date"].endswith("GMT")
        assert "connection" not in reply.headers
        assert reply.headers["x-amz-id-2"]
        ids.add(reply.headers["x-amz-request-id"])
    assert len(ids) == 3


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(("status", "body"), [(200, b"body"), (204, b""), (304, b""), (412, b"body"), (416, b"body")])
def test_bodies_by_status(client: Client, method: str, status: int, body: bytes) -> None:
    client.send(request(f"{method} /status?{status}") + request("GET /"))
    reply = client.reply(method)
    assert reply.status == status
    assert reply.headers["etag"] == '"e"'
    assert reply.headers.get("content-length") == ("4" if body else None)
    assert reply.body == (body if method == "GET" else b"")
    assert client.reply().body == b"hello"


def test_head_of_a_source_sends_its_length_alone(client: Client, shared: Server) -> None:
    client.send(request("HEAD /stream?3,1000") + request("GET /"))
    assert client.reply("HEAD").headers["content-length"] == "3000"
    assert client.reply().body == b"hello"
    assert shared.toy.sources[-1].closed == 1


def test_http_1_0(shared: Server) -> None:
    with Client(shared.port) as client:
        client.send(b"GET / HTTP/1.0\r\n\r\n")
        assert client.reply().headers["connection"] == "close"
        assert client.is_closed()
    with Client(shared.port) as client:
        client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert client.reply().headers["connection"] == "keep-alive"
        client.send(b"GET /unknown?2,10 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert client.rest().endswith(b"\r\n\r\n" + b"\1" * 10 + b"\2" * 10)


def test_connection_close_is_honoured(client: Client) -> None:
    client.send(request("GET /", "Connection: close"))
    assert client.reply().headers["connection"] == "close"
    assert client.is_closed()


@pytest.mark.parametrize("path", ["stream", "slow_stream", "unknown"])
@pytest.mark.parametrize(("count", "size"), [(0, 10), (1, 1), (7, 1000), (6, MIB)])
def test_streams(client: Client, shared: Server, path: str, count: int, size: int) -> None:
    client.send(request(f"GET /{path}?{count},{size}") + request("GET /"))
    reply = client.reply()
    assert reply.body == b"".join(bytes([at]) * size for at in range(1, count + 1))
    assert client.reply().body == b"hello"
    assert shared.toy.sources[-1].closed == 1


@pytest.mark.parametrize(("target", "sent"), [("/short", 20), ("/long", 30), ("/fail?2", 20)])
def test_a_source_that_breaks_its_promise_ends_the_connection(client: Client, shared: Server, target: str, sent: int) -> None:
    client.send(request(f"GET {target}") + request("GET /"))
    try:
        rest = client.rest()
    except ConnectionResetError:
        rest = b""
    assert rest.count(b"HTTP/1.1") <= 1
    assert len(rest.partition(b"\r\n\r\n")[2]) <= sent
    assert shared.toy.sources[-1].closed == 1


def test_a_source_that_fails_at_once_is_answered(client: Client, shared: Server) -> None:
    client.send(request("GET /fail?0"))
    assert client.reply().status == 500
    assert shared.toy.sources[-1].closed == 1


# request bodies


@pytest.mark.parametrize("size", [1, 4096, 65536, 65537, 200_000, MIB, 5 * MIB + 1])
@pytest.mark.parametrize("path", ["echo", "late_echo", "sum"])
def test_bodies_of_known_length(client: Client, path: str, size: int) -> None:
    data = random_body(size)
    client.send(request(f"PUT /{path}", body=data) + request("GET /"))
    reply = client.reply()
    if path == "sum":
        total, digest, largest = reply.body.decode().split()
        assert (int(total), digest) == (size, hashlib.sha256(data).hexdigest())
        assert min(size, BODY_BUFFER_BYTES // 2) <= int(largest) <= min(size, BODY_BUFFER_BYTES)
    else:
        assert reply.body == data
    assert client.reply().body == b"hello"


def test_who_has_nothing_to_do_gets_half_a_buffer_and_who_is_busy_a_whole_one(client: Client) -> None:
    whole, half, length = BODY_BUFFER_BYTES, BODY_BUFFER_BYTES // 2, 7 * MIB
    client.send(request("PUT /pieces?1", body=bytes(length)))
    assert [int(size) for size in client.reply().body.split()] == [half, whole, whole, length - half - 2 * whole]
    client.send(request("PUT /pieces?0", body=bytes(length)))
    sizes = [int(size) for size in client.reply().body.split()]
    assert sizes[0] == half
    assert set(sizes[:-1]) <= {half, whole}
    assert sum(sizes) == length
    for little in (1000, 65536):  # a mebibyte in signed chunks is one piece, and needs one buffer
        client.send(request("PUT /pieces?1", body=bytes(half + little)))
        assert client.reply().body == str(half + little).encode()
    client.send(request("PUT /pieces?1", body=bytes(half + 65537)))
    assert client.reply().body == f"{half} 65537".encode()


@pytest.mark.parametrize("size", [0, 1, 5000, 3 * MIB + 7])
@pytest.mark.parametrize("chunk", [100, 65536])
@pytest.mark.parametrize("path", ["echo", "late_echo", "sum"])
def test_chunked_bodies(client: Client, path: str, chunk: int, size: int) -> None:
    data = random_body(size)
    client.send(request(f"PUT /{path}", "Transfer-Encoding: chunked") + chunked(data, chunk) + request("GET /"))
    reply = client.reply()
    expected = data if path != "sum" else f"{size} {hashlib.sha256(data).hexdigest()}".encode()
    assert reply.body[: len(expected)] == expected
    assert client.reply().body == b"hello"


@given(st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_split_of_the_bytes_gives_the_same_answers(shared: Server, data: st.DataObject) -> None:
    body = bytes(range(256)) * 5
    stream = (
        request("PUT /echo", body=body)
        + b"\r\n"
        + request("PUT /sum", "Transfer-Encoding: chunked")
        + chunked(body, 300)
        + request("GET /")
        + request("PUT /ignore", body=body)
        + request("GET /stream?2,10")
    )
    cuts = sorted(set(data.draw(st.lists(st.integers(1, len(stream) - 1), max_size=6))))
    pieces = [stream[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    with Client(shared.port) as client:
        client.send(*pieces, pause=0.002)
        replies = [client.reply() for _ in range(5)]
    assert [reply.status for reply in replies] == [200, 200, 200, 403, 200]
    assert replies[0].body == body
    assert replies[1].body.split()[0] == str(len(body)).encode()
    assert replies[4].body == b"\1" * 10 + b"\2" * 10


def test_pipelining_in_order_and_bounded(shared: Server) -> None:
    with Client(shared.port) as client:
        client.send(request("GET /wait?50") + b"".join(request(f"GET /stream?1,{size}") for size in range(1, 200)))
        assert client.reply().body == b"waited"
        assert [len(client.reply().body) for _ in range(199)] == list(range(1, 200))
    with Client(shared.port) as client:
        client.send(request("GET /wait?300"))
        client.sock.setblocking(False)
        sent = 0
        end = time.monotonic() + 0.25
        while time.monotonic() < end:
            try:
                sent += client.sock.send(b"x" * 65536)
            except BlockingIOError:
                time.sleep(0.005)
        held = shared.call(lambda: max(len(one._pending) for one in shared.context.connections))
        assert isinstance(held, int)
        assert held <= 512 * 1024
        assert sent < 64 * MIB


def test_a_small_body_with_its_head_never_suspends(shared: Server) -> None:
    """No task is made: the answer is there in the same turn of the loop."""
    made: list[object] = []
    factory = shared.loop.get_task_factory()
    shared.call(shared.loop.set_task_factory, lambda loop, coro, **_: made.append(coro) or __import__("asyncio").Task(coro, loop=loop))
    with Client(shared.port) as client:
        data = random_body(4096)
        before = len(made)
        client.send(request("PUT /echo", body=data))
        assert client.reply().body == data
        assert len(made) == before
    shared.call(shared.loop.set_task_factory, factory)


# Expect, unread bodies


def test_continue_comes_with_the_first_read_only(client: Client, shared: Server) -> None:
    before = shared.context.counters.continues
    client.send(request("PUT /echo", "Expect: 100-continue", "Content-Length: 5"))
    assert client.reply().status == 100
    client.send(b"12345" + request("PUT /echo", "Expect: 100-continue", body=b"early"))
    assert client.reply().body == b"12345"
    assert client.reply().body == b"early"  # the body was already there: no 100
    assert shared.context.counters.continues == before + 1


def test_expect_with_an_empty_body_is_continued_or_closed(client: Client) -> None:
    """botocore keeps the status of a final answer to an expectation for the next request of the connection."""
    client.send(request("PUT /echo", "Expect: 100-continue", "Content-Length: 0"))
    assert client.reply().status == 100
    assert client.reply().status == 200
    client.send(request("PUT /ignore", "Expect: 100-continue", "Content-Length: 0"))
    reply = client.reply()
    assert (reply.status, reply.headers["connection"]) == (403, "close")
    assert client.is_closed()


def test_expect_answered_without_reading_closes(client: Client) -> None:
    client.send(request("PUT /ignore", "Expect: 100-continue", "Content-Length: 500000000"))
    reply = client.reply()
    assert (reply.status, reply.headers["connection"]) == (403, "close")
    assert client.is_closed()


@pytest.mark.parametrize("path", ["ignore", "late_ignore", "one_piece"])
@pytest.mark.parametrize("size", [100, 70_000, DRAIN_BYTES_MAX])
@pytest.mark.parametrize("coding", ["length", "chunked"])
def test_a_short_unread_body_keeps_the_connection(client: Client, path: str, size: int, coding: str) -> None:
    data = bytes(size)
    if coding == "length":
        client.send(request(f"PUT /{path}", body=data))
    else:
        client.send(request(f"PUT /{path}", "Transfer-Encoding: chunked") + chunked(data, 60_000))
    client.send(request("GET /"))
    assert client.reply().status in (200, 403)
    assert client.reply().body == b"hello"


@pytest.mark.parametrize("coding", ["length", "chunked"])
def test_a_long_unread_body_gets_its_answer_before_the_close(shared: Server, coding: str) -> None:
    """The client sends 20 MiB that nobody reads and must still see 403 instead of a reset."""
    for _ in range(3):
        with Client(shared.port) as client:
            data = bytes(20 * MIB)
            if coding == "length":
                wire = request("PUT /ignore", body=data)
            else:
                wire = request("PUT /ignore", "Transfer-Encoding: chunked") + chunked(data, MIB)
            client.send(wire)
            assert client.reply().status == 403
            assert client.is_closed()


# things that go wrong


@pytest.mark.parametrize("size", [10, 65536, 3 * MIB])
def test_a_truncated_body_raises_in_the_handler_and_is_answered(client: Client, shared: Server, size: int) -> None:
    client.send(request("PUT /sum", f"Content-Length: {size}") + bytes(size - 5))
    client.sock.shutdown(socket.SHUT_WR)
    reply = client.reply()
    assert (reply.status, reply.body) == (400, b"body_short")
    assert reply.headers["connection"] == "close"
    assert client.is_closed()


def test_a_vanished_client_fails_the_read(shared: Server) -> None:
    shared.toy.events.clear()
    client = Client(shared.port)
    client.send(request("PUT /sum", "Content-Length: 1000000") + bytes(1000))
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    time.sleep(0.05)
    client.sock.close()
    shared.wait_until(lambda: "client error body_short" in shared.toy.events)


@pytest.mark.parametrize(("method", "event"), [("GET", "cancelled"), ("PUT", "waited")])
def test_only_reads_are_cancelled_when_the_client_goes(shared: Server, method: str, event: str) -> None:
    shared.toy.events.clear()
    client = Client(shared.port)
    client.send(request(f"{method} /wait?300"))
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    time.sleep(0.05)
    client.sock.close()
    shared.wait_until(lambda: shared.toy.events == [event])


@pytest.mark.parametrize("target", ["/raise", "/late_raise", "/split"])
def test_a_failing_handler_is_a_500_without_detail(client: Client, target: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        client.send(request(f"GET {target}"))
        reply = client.reply()
    assert reply.status == 500
    assert b"<Code>InternalError</Code>" in reply.body
    assert f"<RequestId>{reply.headers['x-amz-request-id']}</RequestId>".encode() in reply.body
    assert b"secret" not in reply.body
    assert client.is_closed()
    assert [record.exc_info for record in caplog.records]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GARBAGE\r\n\r\n", 400),
        (b"\x00\xff\xfe" * 20 + b"\r\n\r\n", 400),
        (b"GET / HTTP/1.1\n\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"GET /" + b"a" * (HEAD_BYTES_MAX + 1), 414),
        (b"GET / HTTP/1.1\r\nHost: h\r\nA: " + b"a" * HEAD_BYTES_MAX, 431),
        (b"GET / HTTP/1.1\r\nHost: h\r\n" + b"A: a\r\n" * 200 + b"\r\n", 431),
        (
            b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            b"GET /smuggled HTTP/1.1\r\n\r\n",
            400,
        ),
    ],
)
def test_protocol_errors_are_answered_once_and_closed(client: Client, shared: Server, data: bytes, status: int) -> None:
    before = shared.context.counters.protocol_errors
    client.send(data)
    reply = client.reply()
    assert reply.status == status
    assert b"<Error><Code>" in reply.body
    assert reply.headers["connection"] == "close"
    assert client.is_closed()
    assert shared.context.counters.protocol_errors == before + 1
    assert b"/smuggled" not in shared.toy.paths


def test_broken_chunking_fails_the_read_and_closes(client: Client) -> None:
    client.send(request("PUT /echo", "Transfer-Encoding: chunked") + b"5\r\nabcdeX\r\n0\r\n\r\n" + request("GET /"))
    reply = client.reply()
    assert (reply.status, reply.body) == (400, b"body_framing")
    assert client.is_closed()


def test_a_tls_hello_on_the_plain_port_is_told(client: Client) -> None:
    client.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"r" * 50)
    reply = client.reply()
    assert reply.status == 400
    assert b"TLS" in reply.body
    assert client.is_closed()


# time


def test_timeouts() -> None:
    quick = Timeouts(head=0.2, idle=0.3, body=0.2, write=0.3, drain=0.2)
    with serving(timeouts=quick) as server:
        with Client(server.port) as idle, Client(server.port) as slow_head, Client(server.port) as slow_body, Client(server.port) as drain:
            slow_head.send(b"GET / HT")
            slow_body.send(request("PUT /echo", "Content-Length: 10") + b"123")
            drain.send(request("PUT /ignore", "Content-Length: 10") + b"123")
            assert slow_head.reply().status == 408
            reply = slow_body.reply()
            assert (reply.status, reply.body, reply.headers["connection"]) == (400, b"body_slow", "close")
            assert slow_body.is_closed()
            assert drain.reply().status == 403
            assert drain.is_closed()
            assert idle.is_closed()
        with Client(server.port) as dripping:  # a byte now and then is no way around the head timeout
            start = time.monotonic()
            with pytest.raises(OSError):
                for _ in range(100):
                    dripping.send(b"G")
                    time.sleep(0.02)
            assert time.monotonic() - start < 1.5
        with Client(server.port, receive_bytes=4096) as stuck:
            stuck.send(request("GET /stream?100,1000000"))
            server.wait_until(lambda: server.context.counters.aborted == 1)
        server.wait_until(lambda: not server.context.connections)
        assert server.toy.sources[-1].closed == 1
        assert server.context.statistics().timeouts >= 5


def test_a_slow_reader_that_makes_progress_gets_everything() -> None:
    with serving(timeouts=Timeouts(idle=0.8, write=0.8)) as server, Client(server.port, receive_bytes=65536) as client:
        client.send(request("GET /stream?6,1000000"))
        total = 0
        while total < 6_000_000:
            got = len(client.sock.recv(300_000))
            assert got, "closed early"
            total += got
            time.sleep(0.08)  # more than the timeout in all
        assert total > 6_000_000


def test_backpressure_and_waiting_for_buffers() -> None:
    """Two bodies at a time may be received; the others wait, and all of them arrive."""
    with serving(pool=BufferPool(buffers_max=4, kept=2)) as server:
        clients = [Client(server.port) for _ in range(6)]
        data = random_body(4 * MIB)
        for client in clients:
            client.sock.setblocking(False)
        waiting = dict.fromkeys(clients, request("PUT /sum", body=data))
        while waiting:
            for client, rest in list(waiting.items()):
                try:
                    sent = client.sock.send(rest[:100_000])
                except BlockingIOError:
                    continue
                waiting[client] = rest[sent:]
                if not waiting[client]:
                    del waiting[client]
        for client in clients:
            client.sock.settimeout(10)
            assert client.reply().body.split()[1].decode() == hashlib.sha256(data).hexdigest()
            client.sock.close()
        statistics = server.context.pool.statistics()
        assert (statistics.admitted, statistics.waiting) == (0, 0)
        assert statistics.waits > 0
        assert statistics.free <= 2


class Coming:
    """A body that wants to be received."""

    def __init__(self, share: int) -> None:
        self.share, self.admitted = share, False

    def on_admitted(self) -> None:
        self.admitted = True


def test_bodies_are_admitted_by_the_buffers_that_they_may_need_in_the_order_that_they_came() -> None:
    pool = BufferPool(buffers_max=6)
    three, two, other, small, last = (Coming(share) for share in (3, 2, 3, 1, 3))
    assert pool.admit(three)
    assert pool.admit(two)
    assert not pool.admit(other)
    assert not pool.admit(small), "there is room for it, but another came before"
    assert not pool.admit(last)
    pool.leave(three)
    assert (other.admitted, small.admitted, last.admitted) == (True, True, False)
    pool.leave(two)
    assert not last.admitted
    pool.leave(small)
    assert last.admitted
    assert pool.statistics() == BufferStatistics(2, 0, 0, 3)
    gone, next_one = Coming(3), Coming(1)
    assert not pool.admit(gone)
    assert not pool.admit(next_one)
    pool.give_up(gone)
    assert (gone.admitted, next_one.admitted) == (False, False), "all six are taken"
    pool.leave(last)
    assert next_one.admitted
    assert not pool.admit(gone)
    assert not pool.admit(small)
    small.admitted = False
    pool.give_up(gone)
    assert small.admitted, "who waited behind it need not wait any more"


def test_free_buffers_are_kept_for_the_bodies_that_are_under_way() -> None:
    pool = BufferPool(buffers_max=30, kept=2)
    bodies = [Coming(3) for _ in range(4)]
    for body in bodies:
        assert pool.admit(body)
    buffers = [pool.take() for _ in range(12)]
    for buffer in buffers:
        pool.give(buffer)
    assert pool.statistics().free == 12
    assert {id(pool.take()) for _ in range(12)} == set(map(id, buffers))
    for buffer in buffers:
        pool.give(buffer)
    free = []
    for body in bodies:
        pool.leave(body)
        free.append(pool.statistics().free)
    assert free == [9, 6, 3, 2]


# drain and hand over


def test_drain_finishes_the_request_and_closes() -> None:
    with serving() as server, Client(server.port) as busy, Client(server.port) as idle:
        idle.send(request("GET /"))
        idle.reply()
        busy.send(request("GET /wait?200"))
        server.wait_until(lambda: b"/wait?200" in server.toy.paths)
        server.call(server.context.begin_drain)
        assert idle.is_closed()
        reply = busy.reply()
        assert (reply.body, reply.headers["connection"]) == (b"waited", "close")
        assert busy.is_closed()
        server.wait_until(lambda: not server.context.connections)


def test_a_drain_answers_a_request_that_came_before_it_and_was_not_read() -> None:
    with serving() as server, Client(server.port) as client, Client(server.port) as fresh:
        client.send(request("GET /"))
        client.reply()
        server.wait_until(lambda: len(server.context.connections) == 2)

        def both() -> None:
            client.send(request("PUT /echo", body=b"in time"))
            fresh.send(request("PUT /echo", body=b"in time too"))
            server.context.begin_drain()

        server.call(both)
        for each, body in ((client, b"in time"), (fresh, b"in time too")):
            reply = each.reply()
            assert (reply.body, reply.headers["connection"]) == (body, "close")
            assert each.is_closed()


def test_only_a_connection_that_is_idle_for_so_long_and_has_nothing_to_read_is_closed() -> None:
    with serving() as server, Client(server.port) as client:
        client.send(request("GET /stream?3,1000"))
        client.reply()
        (connection,) = server.context.connections
        server.call(connection.close_idle, 10.0)
        client.send(request("GET /"))
        client.reply()
        answered = time.monotonic()

        def close_while_a_request_is_here() -> None:
            client.send(request("PUT /echo", body=b"in time"))
            connection.close_idle(0.0)

        server.call(close_while_a_request_is_here)
        assert client.reply().body == b"in time"

        def close_when_idle() -> bool:
            connection.close_idle(0.2)
            return not server.context.connections

        server.wait_until(close_when_idle)
        assert time.monotonic() - answered > 0.15  # a tick is 20 ms here
        assert client.is_closed()


def test_a_request_that_came_while_the_loop_stood_still_is_answered_though_its_connection_was_idle_for_too_long() -> None:
    with serving(timeouts=Timeouts(idle=0.3)) as server, Client(server.port) as client:
        client.send(request("GET /"))
        client.reply()

        def stand_still() -> None:
            time.sleep(0.6)
            client.send(request("PUT /echo", body=b"in time"))
            server.context.wheel.advance()

        server.call(stand_still)
        assert client.reply().body == b"in time"
        assert client.is_closed()


def test_too_many_connections_are_told_so() -> None:
    with serving(connections_max=2) as server, Client(server.port) as first, Client(server.port) as second:
        for client in (first, second):
            client.send(request("GET /"))
            client.reply()
        with Client(server.port) as third:
            assert third.reply().status == 503
            assert third.is_closed()
        first.send(request("GET /"))
        assert first.reply().status == 200


def test_every_answer_is_reported_with_status_and_bytes() -> None:
    told: list[tuple[bytes, int, int]] = []
    with serving() as server:
        server.context.on_answered = lambda made, status, _, sent, *__: told.append((made.path, status, sent))
        with Client(server.port) as client:
            for line in ("GET /", "GET /stream?3,1000", "HEAD /status?200", "GET /late_raise"):
                client.send(request(line))
                client.reply(line.split()[0])
        client = Client(server.port)
        client.send(request("GET /wait?5000"))
        server.wait_until(lambda: server.toy.paths[-1] == b"/wait?5000")
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.sock.close()
        server.wait_until(lambda: len(told) == 5)
    assert told == [(b"/", 200, 5), (b"/stream", 200, 3000), (b"/status", 200, 0), (b"/late_raise", 500, 0), (b"/wait", 0, 0)]


def test_a_whole_answer_is_reported_when_the_client_has_taken_it() -> None:
    told: list[tuple[bytes, int, int, float]] = []
    with serving() as server:
        server.context.on_answered = lambda made, status, _, sent, seconds, __: told.append((made.path, status, sent, seconds))
        with Client(server.port, receive_bytes=65536) as client:
            client.send(request("GET /view?16000000") + request("GET /"))
            server.wait_until(lambda: server.toy.paths == [b"/view?16000000"])
            time.sleep(0.3)
            assert told == []
            assert server.toy.paths == [b"/view?16000000"]  # the next request waits, too
            assert client.reply().body == bytes(16_000_000)
            assert client.reply().body == b"hello"
            server.wait_until(lambda: len(told) == 2)
        assert [event[:3] for event in told] == [(b"/view", 200, 16_000_000), (b"/", 200, 5)]
        assert told[0][3] > 0.3
        with Client(server.port, receive_bytes=65536) as client:
            client.send(request("GET /view?16000000"))
            client._until(b"\r\n\r\n")
        server.wait_until(lambda: len(told) == 3)
        server.wait_until(lambda: not server.context.connections)
        assert server.context.counters.aborted == 1


def test_bytes_of_a_body_are_reported_however_it_came() -> None:
    told: list[int] = []
    with serving() as server, Client(server.port) as client:
        server.context.on_answered = lambda made, status, received, *_: told.append(received)
        client.send(request("PUT /echo", body=b"with its head"))
        client.reply("PUT")
        client.send(request("PUT /echo", "Content-Length: 10"))
        client.send(b"afterwards")
        client.reply("PUT")
        client.send(request("PUT /echo", body=b"first") + request("GET /") + request("PUT /echo", body=b"second"))
        for method in ("PUT", "GET", "PUT"):
            client.reply(method)
        server.wait_until(lambda: len(told) == 5)
    assert told == [13, 10, 5, 0, 6]


def test_an_idle_connection_can_be_handed_over() -> None:
    taken: list[int | None] = []
    with serving() as server, serving() as sibling, Client(server.port) as client:
        client.send(request("GET /"))
        client.reply()

        def take(connection: Connection) -> None:
            connection.hand_over(lambda descriptor: taken.append(os.dup(descriptor)) or True)

        server.context.on_idle = take
        server.call(server.context.begin_drain)
        descriptor = taken[0]
        assert descriptor is not None
        server.wait_until(lambda: not server.context.connections)

        async def adopt() -> None:
            await sibling.loop.connect_accepted_socket(sibling.context.protocol, socket.socket(fileno=descriptor))

        import asyncio

        asyncio.run_coroutine_threadsafe(adopt(), sibling.loop).result(5)
        client.send(request("PUT /echo", body=b"to the sibling"))
        assert client.reply().body == b"to the sibling"
        assert sibling.toy.paths == [b"/echo"]


def test_a_connection_goes_after_its_answer_while_others_are_to_have_it() -> None:
    """What is asked for at once is answered here first, and nothing says that the connection ends."""
    taken: list[int] = []
    with serving() as server, Client(server.port) as client, Client(server.port) as quiet:
        for one in (client, quiet):
            one.send(request("GET /"))
            one.reply()

        def take(connection: Connection) -> None:
            connection.hand_over(lambda descriptor: taken.append(os.dup(descriptor)) or True)

        server.call(lambda: server.context.shed(take))
        assert not taken, "only what is used moves"
        client.send(request("PUT /echo", body=b"one") + request("PUT /echo", body=b"two"))
        for body in (b"one", b"two"):
            reply = client.reply()
            assert (reply.body, reply.headers.get("connection")) == (body, None)
        server.wait_until(lambda: len(server.context.connections) == 1)
        assert len(taken) == 1
        server.call(lambda: server.context.shed(None))
        quiet.send(request("PUT /echo", body=b"here"))
        assert quiet.reply().body == b"here"
        assert len(server.context.connections) == 1
        os.close(taken[0])


def test_a_connection_whose_last_answer_is_on_its_way_is_handed_over_when_it_is_out() -> None:
    """Its head did not say that the connection ends: the client may send its next request right after the last byte."""
    for pieces in range(5, 100, 5):  # more than the kernel's buffers take, and not so much more that the handler waits
        with serving() as server, Client(server.port, receive_bytes=4096) as client:
            client.send(request(f"GET /stream?{pieces},100000"))
            server.wait_until(lambda: server.context.counters.bytes_out > 0)
            time.sleep(0.1)
            (connection,) = server.context.connections
            if server.context.counters.bytes_out < pieces * 100_000 or connection.is_idle:
                continue
            taken: list[Connection] = []
            server.context.on_idle = taken.append
            server.call(server.context.begin_drain)
            assert not taken
            reply = client.reply()
            assert (len(reply.body), reply.headers.get("connection")) == (pieces * 100_000, None)
            server.wait_until(lambda connection=connection: connection.is_idle)
            client.send(request("PUT /echo", body=b"next"))
            reply = client.reply()
            assert (reply.body, reply.headers["connection"]) == (b"next", "close")
            return
    pytest.fail("no answer was on its way")


def test_ten_thousand_idle_connections_would_stay_small() -> None:
    """No buffer per idle connection: 300 of them cost less than 8 KiB each in this process, clients included."""
    import tracemalloc

    with serving() as server:
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        clients = [Client(server.port) for _ in range(300)]
        for client in clients:
            client.send(request("GET /"))
            client.reply()
        grown = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        for client in clients:
            client.sock.close()
        assert grown / 300 < 8192


# TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def secure(authority: trustme.CA) -> Iterator[Server]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with serving(tls=context) as server:
        yield server


@pytest.fixture
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def test_tls(secure: Server, trusting: ssl.SSLContext) -> None:
    with Client(secure.port, trusting) as client:
        client.send(request("GET /"))
        assert client.reply().headers["x-secure"] == "yes"
        data = random_body(3 * MIB + 11)
        client.send(request("PUT /echo", body=data[:5000]))
        assert client.reply().body == data[:5000]
        client.send(request("PUT /sum", "Transfer-Encoding: chunked") + chunked(data, 65536))
        assert client.reply().body.split()[1].decode() == hashlib.sha256(data).hexdigest()
        client.send(request("PUT /sum", body=data) + request("GET /slow_stream?5,1000000"))
        assert client.reply().body.split()[1].decode() == hashlib.sha256(data).hexdigest()
        assert len(client.reply().body) == 5_000_000
        client.send(request("PUT /echo", "Expect: 100-continue", "Content-Length: 5"))
        assert client.reply().status == 100
        client.send(b"12345")
        assert client.reply().body == b"12345"


def test_tls_early_answer_to_a_long_body(secure: Server, trusting: ssl.SSLContext) -> None:
    with Client(secure.port, trusting) as client:
        client.send(request("PUT /ignore", body=bytes(4 * MIB)))
        assert client.reply().status == 403
        assert client.rest() == b""


def test_plain_http_on_the_tls_port_does_no_harm(secure: Server, trusting: ssl.SSLContext) -> None:
    with Client(secure.port) as client:
        client.send(request("GET /"))
        with contextlib.suppress(ConnectionResetError):
            assert b"HTTP/1.1 200" not in client.rest()
    with Client(secure.port, trusting) as client:
        client.send(request("GET /"))
        assert client.reply().status == 200


def test_nothing_leaks_descriptors(shared: Server) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        with Client(shared.port) as client:
            client.send(request("GET /", "Connection: close"))
            client.rest()
    shared.wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before + 3)
