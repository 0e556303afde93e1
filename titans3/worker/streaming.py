"""An answer that goes out piece by piece.

Invariants
* The head goes with the first piece, so that what goes wrong until then can still be answered.
* Never a wrong length: a source that gives more or fewer bytes than it said ends the connection.
* A piece takes a turn of the loop (``cluster/turns.py``): its two mebibytes take it as long as twenty small requests do.
* The source is closed, whatever happens.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from titans3.cluster.turns import Turns
from titans3.http.message import BodySource, Response

logger = logging.getLogger("titans3.http")


class Sender(Protocol):
    """The connection, as far as it is needed here."""

    @property
    def turns(self) -> Turns:
        """Pieces of all connections of the worker."""

    @property
    def is_serving(self) -> bool:
        """The client still waits for this answer."""

    @property
    def request_id(self) -> str:
        """For the log."""

    def begin_pieces(self, response: Response, length: int | None) -> None:
        """Send the head. Without a length and without chunks the connection closes behind the answer."""

    def send_piece(self, *parts: bytes | memoryview, size: int) -> None:
        """Send one; ``size``: how much of it is body."""

    def room(self) -> asyncio.Future[None] | None:
        """``None`` if the transport takes more, else a future to await: it does, or the connection is gone."""

    def broke_off(self) -> None:
        """Count an answer that failed midway."""


async def send_pieces(sender: Sender, response: Response, source: BodySource, *, can_chunk: bool) -> bool:
    """Whether all of it was sent. Raises what the source raised before anything was."""
    length = source.length
    chunked = length < 0 and can_chunk
    left = length
    started = False
    turns = sender.turns
    try:
        while True:
            if started and (turn := turns.ask()) is not None:
                await turn
            piece = source.next_nowait()
            if piece is None:
                piece = await source.next()
            if not sender.is_serving:
                return False
            if not started:
                headers = [*response.headers, (b"transfer-encoding", b"chunked")] if chunked else response.headers
                ready = Response(response.status, headers, close=response.close or (length < 0 and not chunked), block=response.block)
                sender.begin_pieces(ready, length if length >= 0 else None)
                started = True
            if piece is None:
                break
            size = len(piece)
            left -= size
            if length >= 0 and left < 0:
                logger.error("a body source gave more than its length", extra={"request_id": sender.request_id})
                return False
            if not chunked:
                sender.send_piece(piece, size=size)
            elif size:
                sender.send_piece(b"%x\r\n" % size, piece, b"\r\n", size=size)
            if (room := sender.room()) is not None:
                await room
                if not sender.is_serving:
                    return False
        if chunked:
            sender.send_piece(b"0\r\n\r\n", size=0)
        return length < 0 or left == 0
    except Exception:
        if not started:
            raise
        sender.broke_off()
        logger.exception("a response body failed midway", extra={"request_id": sender.request_id})
        return False
    finally:
        source.close()
