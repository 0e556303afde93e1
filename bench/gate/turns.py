"""What a piece of work costs the processor beside a reference of the same kind, turn by turn in the same run.

A busy machine makes both slower. What tells is the ratio of neighbouring turns, and of these the median: a turn that was disturbed is
one of many. The references use nothing of the project, so that nothing it changes makes them faster or slower. Changing them, or how
often they do it, makes every budget meaningless: ``bench gate --update``.
"""

from __future__ import annotations

import gc
import statistics
import struct
import time
from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256

_TURN_SECONDS = 0.001
_HEAD = b"GET /bucket/9xdEMCkV/%06d.rnd HTTP/1.1\r\nhost: 127.0.0.1:9000\r\nx-amz-date: 20260131T120000Z\r\nuser-agent: reference\r\n\r\n"
_MIB = bytes(1 << 20)
_TARGET = bytearray(1 << 20)


class _Item:
    """A small object with slots."""

    __slots__ = ("fields", "method", "name", "size")

    def __init__(self, method: str, name: bytes, fields: dict[bytes, bytes]) -> None:
        self.method, self.name, self.fields = method, name, fields
        self.size = int(fields.get(b"content-length", b"0"))

    def line(self) -> bytes:
        return b"%b %d" % (self.name, self.size)


def _parsed(data: bytes) -> _Item:
    lines = data[: data.index(b"\r\n\r\n")].split(b"\r\n")
    fields = {}
    for line in lines[1:]:
        name, _, value = line.partition(b": ")
        fields[name] = value
    return _Item("GET", lines[0].split(b" ")[1], fields)


def requests() -> None:
    """A hundred times what a request is made of: small objects, methods, dictionaries, bytes, a hash."""
    kept: OrderedDict[bytes, tuple[int, bytes]] = OrderedDict()
    for number in range(100):
        item = _parsed(_HEAD % number)
        digest = sha256(item.line()).digest()
        first, _ = struct.unpack_from(">II", digest)
        key = b"\0\1" + item.name
        if key not in kept:
            kept[key] = first, digest
        kept.move_to_end(key)
        answer = [b"HTTP/1.1 200 OK"]
        answer.extend(b"%b: %b" % pair for pair in item.fields.items() if pair[0] != b"host")
        assert len(b"\r\n".join(answer)) > len(kept) // 100


def hashed() -> None:
    """SHA-256 of a mebibyte."""
    sha256(_MIB).digest()


def copied() -> None:
    """A mebibyte, sixteen times."""
    for _ in range(16):
        _TARGET[:] = _MIB


def _seconds(work: Callable[[], None], times: int) -> float:
    """Of this thread's processor time, for each of so many."""
    begin = time.thread_time_ns()
    for _ in range(times):
        work()
    return (time.thread_time_ns() - begin) / 1e9 / times


def _times(work: Callable[[], None]) -> int:
    """How often it is done in a turn."""
    return max(1, round(_TURN_SECONDS / min(_seconds(work, 1) for _ in range(3))))


def compared(
    play: Callable[[], None], reference: Callable[[], None], turns: int, prepare: Callable[[], None] | None = None
) -> float:
    """The median of the ratios of a turn to the mean of the references before and after it. What is prepared is played once a turn."""
    if prepare is not None:
        prepare()
    play()
    times, each = 1 if prepare is not None else _times(play), _times(reference)
    ratios = []
    gc.collect()
    before = _seconds(reference, each)
    for _ in range(turns):
        if prepare is not None:
            prepare()
        taken = _seconds(play, times)
        after = _seconds(reference, each)
        ratios.append(2 * taken / (before + after))
        before = after
    return statistics.median(ratios)
