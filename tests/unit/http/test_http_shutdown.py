"""The end of TLS connections: not before the peer has what was written, nor later than needed."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import cast

import pytest

from titans3.worker.shutdown import Shutdown
from titans3.worker.wheel import TimerWheel

WRITE_SECONDS = 5.0


class Closing:
    """A transport as seen from above TLS after its ``close()``: it tells nothing of what is queued below."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock, self.aborts = sock, 0

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str) -> socket.socket:
        assert name == "socket"
        return self.sock

    def abort(self) -> None:
        self.aborts += 1


class Scene:
    """A connection that is being shut down, its peer, and a clock that goes as it is told."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ours, self.peer = socket.socketpair()
        self.wheel = TimerWheel(lambda: self.now)
        self.transport = Closing(self.ours)

    def shut_down(self) -> None:
        Shutdown(self.wheel, cast(asyncio.Transport, self.transport), WRITE_SECONDS)

    def pass_seconds(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end and not self.transport.aborts:
            self.now += 0.5
            self.wheel.advance()


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.ours.close()
    made.peer.close()


def test_a_peer_that_has_everything_is_dropped_soon(scene: Scene) -> None:
    scene.shut_down()
    scene.pass_seconds(4)
    assert scene.transport.aborts == 1
    assert scene.now <= 3


def test_what_is_queued_below_tls_while_the_loop_stands_still_is_sent(scene: Scene) -> None:
    scene.shut_down()
    scene.now = 4.0  # the loop stood still; the peer has taken all that the kernel had
    scene.wheel.advance()
    assert not scene.transport.aborts
    scene.ours.send(b"the end of the answer")  # as the transport does at the next turn of the loop
    scene.pass_seconds(3)
    assert not scene.transport.aborts
    assert scene.peer.recv(100) == b"the end of the answer"
    scene.pass_seconds(3)
    assert scene.transport.aborts == 1


def test_a_peer_that_takes_nothing_is_dropped_after_the_write_timeout(scene: Scene) -> None:
    scene.ours.send(b"an answer")
    scene.shut_down()
    scene.pass_seconds(WRITE_SECONDS - 0.5)
    assert not scene.transport.aborts
    scene.pass_seconds(3)
    assert scene.transport.aborts == 1
