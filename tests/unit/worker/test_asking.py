"""Whose request a log line belongs to, over real connections that are served at the same time."""

from __future__ import annotations

import asyncio
import logging
import re
import socket

import pytest
import uvloop

from titans3.http.message import Request, Response
from titans3.observe.asking import Attribution
from titans3.worker.context import ConnectionContext

_logger = logging.getLogger("titans3.deep")


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.addFilter(Attribution())
        self.lines: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((record.getMessage(), record.__dict__.get("request_id", "")))


@pytest.fixture
def kept() -> Kept:
    return Kept()


async def deep(word: str) -> None:
    await asyncio.sleep(0.02)
    _logger.warning("%s, in a task", word)


async def handle(request: Request) -> Response:
    """Logs at once, after a wait and in a task, without a word about the request."""
    word = request.target.decode()
    _logger.warning("%s, at once", word)
    await asyncio.sleep(0.01)
    _logger.warning("%s, later", word)
    await asyncio.gather(deep(word), deep(word))
    return Response(200)


def test_lines_of_any_depth_say_whose_they_are(kept: Kept) -> None:
    async def client(context: ConnectionContext, name: str) -> list[tuple[str, str]]:
        """Two requests, pipelined, on a connection; what was asked and the id of its answer."""
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        await context.loop.connect_accepted_socket(context.protocol, theirs)
        reader, writer = await asyncio.open_connection(sock=ours)
        writer.write(b"".join(b"GET /%s/%d HTTP/1.1\r\nHost: x\r\n\r\n" % (name.encode(), number) for number in range(2)))
        found = []
        for number in range(2):
            head = await reader.readuntil(b"\r\n\r\n")
            match = re.search(rb"x-amz-request-id: (\w+)", head, re.IGNORECASE)
            assert match is not None
            found.append((f"/{name}/{number}", match[1].decode()))
        writer.close()
        return found

    async def work() -> list[tuple[str, str]]:
        context = ConnectionContext(handle, asyncio.get_running_loop())
        context.start()
        answers = await asyncio.gather(*(client(context, name) for name in ("a", "b", "c")))
        _logger.warning("nobody's")
        context.stop()
        return [item for answer in answers for item in answer]

    logging.getLogger("titans3.deep").addHandler(kept)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            asked = runner.run(asyncio.wait_for(work(), 20))
    finally:
        logging.getLogger("titans3.deep").removeHandler(kept)
    assert len({request_id for _, request_id in asked}) == 6
    expected = [("nobody's", "")]
    for target, request_id in asked:
        expected += [(f"{target}, at once", request_id), (f"{target}, later", request_id)] + [(f"{target}, in a task", request_id)] * 2
    assert sorted(kept.lines) == sorted(expected)
