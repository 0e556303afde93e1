"""The audit trail's chain: whole through restarts and torn ends, broken by whatever is changed."""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from titans3.clock import SystemClock
from titans3.observe.audit import (
    LINE_BYTES_MAX,
    REFUSALS_MAX,
    AuditTrail,
    Broken,
    Head,
    events,
    files_of,
    verify,
    workers_of,
)

KEY = b"k" * 32


def trail(path: Path, worker: int = 0, *, file_bytes: int = 1 << 20) -> AuditTrail:
    made = AuditTrail(str(path), worker, KEY, SystemClock(), file_bytes=file_bytes)
    made.open()
    return made


def write(path: Path, count: int, worker: int = 0, *, file_bytes: int = 1 << 20, name: str = "e") -> Head:
    async def work() -> Head:
        made = trail(path, worker, file_bytes=file_bytes)
        for at in range(count):
            await made.record_now({"event": f"{name}{at}", "who": 'é\n"\\'})
        await made.close()
        return made.head

    return asyncio.run(work())


def test_a_chain_goes_on_over_restarts_and_files(tmp_path: Path) -> None:
    write(tmp_path, 3)
    head = write(tmp_path, 20, file_bytes=2000)
    assert verify(str(tmp_path), 0, KEY) == head
    assert head.number == 23
    assert len(files_of(str(tmp_path), 0)) > 2
    write(tmp_path, 2, worker=11)
    assert workers_of(str(tmp_path)) == [0, 11]
    assert all(Path(name).stat().st_mode & 0o777 == 0o600 for name in files_of(str(tmp_path), 0))
    assert [event["event"] for event in events(str(tmp_path), [0, 11], 0, 3)][-1] == "e1"


def test_a_torn_end_is_cut_and_the_chain_goes_on(tmp_path: Path) -> None:
    write(tmp_path, 3)
    path = Path(files_of(str(tmp_path), 0)[-1])
    path.write_bytes(path.read_bytes() + b'{"number": 4, "befo')
    assert verify(str(tmp_path), 0, KEY).number == 3
    assert write(tmp_path, 1).number == 4
    assert verify(str(tmp_path), 0, KEY).number == 4


def changed(change: Callable[[list[bytes]], list[bytes]]) -> Callable[[Path], None]:
    def work(path: Path) -> None:
        path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))

    return work


def forged(lines: list[bytes]) -> list[bytes]:
    """Somebody without the key makes the hashes anew."""
    from titans3.observe.audit import hash_of

    out, before = [], "0" * 64
    for line in lines:
        event = json.loads(line)
        event["who"] = "nobody" if event["number"] == 2 else event["who"]
        event["before"] = before
        event["hash"] = before = hash_of(b"another key".ljust(32), event)
        out.append(json.dumps(event).encode() + b"\n")
    return out


@pytest.mark.parametrize("damage", [
    changed(lambda lines: [*lines[:1], lines[1].replace(b"e1", b"x1"), *lines[2:]]),
    changed(lambda lines: [lines[0], *lines[2:]]),
    changed(lambda lines: lines[1:]),
    changed(lambda lines: [lines[1], lines[0], *lines[2:]]),
    changed(lambda lines: [*lines[:2], b"{}\n", *lines[2:]]),
    changed(lambda lines: [*lines[:2], b"no json\n", *lines[2:]]),
    changed(lambda lines: [*lines, lines[-1]]),
    changed(forged),
])  # fmt: skip
def test_what_is_changed_is_seen(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    write(tmp_path, 5)
    damage(Path(files_of(str(tmp_path), 0)[0]))
    with pytest.raises(Broken):
        verify(str(tmp_path), 0, KEY)


def test_a_cut_or_remade_chain_is_seen_by_the_kept_end(tmp_path: Path) -> None:
    head = write(tmp_path / "a", 5)
    assert verify(str(tmp_path / "a"), 0, KEY, head) == head
    changed(lambda lines: lines[:3])(Path(files_of(str(tmp_path / "a"), 0)[0]))
    assert verify(str(tmp_path / "a"), 0, KEY).number == 3
    with pytest.raises(Broken):
        verify(str(tmp_path / "a"), 0, KEY, head)
    write(tmp_path / "b", 7, name="other")
    with pytest.raises(Broken):
        verify(str(tmp_path / "b"), 0, KEY, head)


def test_too_many_refusals_are_counted(tmp_path: Path) -> None:
    async def work() -> None:
        made = trail(tmp_path)
        for _ in range(10 * REFUSALS_MAX):
            made.refused({"event": "refused"})
        await made.write()
        assert made.statistics().suppressed >= 8 * REFUSALS_MAX
        await asyncio.sleep(1.1)
        made.refused({"event": "refused"})
        await made.close()

    asyncio.run(work())
    found = events(str(tmp_path), [0], 0, 10_000)
    assert sum(event["event"] == "refused" for event in found) + sum(event.get("count", 0) for event in found) == 10 * REFUSALS_MAX + 1


def test_what_cannot_be_written_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        made = trail(tmp_path)
        await made.record_now({"event": "first"})
        with monkeypatch.context() as patch:
            patch.setattr("os.fdatasync", _fails)
            with pytest.raises(OSError):
                await made.record_now({"event": "second"})
        assert verify(str(tmp_path), 0, KEY).number == 1
        await made.record_now({"event": "third"})
        await made.close()

    asyncio.run(work())
    assert [event["event"] for event in events(str(tmp_path), [0], 0, 10)] == ["first", "second", "third"]
    assert verify(str(tmp_path), 0, KEY).number == 3


def test_who_stops_waiting_leaves_the_chain_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that is told to stop cancels its job, a client that goes away its request; the write is in a thread meanwhile."""

    async def work() -> Head:
        made = trail(tmp_path)
        synced = os.fdatasync
        monkeypatch.setattr("os.fdatasync", lambda fd: (time.sleep(0.2), synced(fd)))
        for at in range(3):
            waits = asyncio.create_task(made.record_now({"event": f"cut {at}"}))
            await asyncio.sleep(0.1)
            waits.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits
        made.record({"event": "last"})
        await made.close()
        return made.head

    head = asyncio.run(work())
    assert head.number == 4
    assert verify(str(tmp_path), 0, KEY) == head


def test_a_file_that_cannot_be_opened_leaves_the_one_before_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a number that may be another file's by then."""

    async def work() -> None:
        made = trail(tmp_path, file_bytes=300)
        await made.record_now({"event": "first", "details": "x" * 300})  # the next one needs another file
        opened = os.open
        monkeypatch.setattr("os.open", lambda path, *rest: opened(path, *rest) if "audit.0." not in str(path) else _fails(0))
        with pytest.raises(OSError):
            await made.record_now({"event": "second"})
        monkeypatch.undo()
        others = [os.open(tmp_path / f"other{number}", os.O_RDWR | os.O_CREAT) for number in range(3)]
        await made.record_now({"event": "third"})
        for fd in others:
            assert os.fstat(fd).st_size == 0
            os.close(fd)
        await made.close()

    asyncio.run(work())
    assert verify(str(tmp_path), 0, KEY).number == 3


def test_who_comes_while_it_closes_is_written_or_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> list[object]:
        made = trail(tmp_path)
        synced = os.fdatasync
        monkeypatch.setattr("os.fdatasync", lambda fd: (time.sleep(0.1), synced(fd)))
        made.record({"event": "before"})
        closing = asyncio.create_task(made.close())
        await asyncio.sleep(0.05)
        late = asyncio.create_task(made.record_now({"event": "meanwhile"}))
        outcomes = await asyncio.gather(closing, late, return_exceptions=True)
        with pytest.raises(OSError, match="closed"):
            await made.record_now({"event": "after"})
        assert made.statistics().waiting == 1
        return list(outcomes)

    assert asyncio.run(work()) == [None, None]
    assert [event["event"] for event in events(str(tmp_path), [0], 0, 10)] == ["before", "meanwhile"]
    assert verify(str(tmp_path), 0, KEY).number == 2


def _fails(fd: int) -> None:
    raise OSError(28, "No space left on device")


def test_a_line_is_bounded_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    async def work() -> None:
        made = trail(tmp_path)
        await made.record_now({"event": "done", "details": {"body": {str(at): "\1" * 4096 for at in range(60)}}})
        await made.record_now({"event": "done", "details": {"body": "x" * 4096}})
        await made.close()

    asyncio.run(work())
    large, small = Path(files_of(str(tmp_path), 0)[0]).read_bytes().splitlines(keepends=True)
    assert len(large) <= LINE_BYTES_MAX and re.fullmatch(r"\d{7} bytes", json.loads(large)["details"]["left out"])
    assert json.loads(small)["details"] == {"body": "x" * 4096}
    assert write(tmp_path, 1).number == 3
    assert verify(str(tmp_path), 0, KEY).number == 3
