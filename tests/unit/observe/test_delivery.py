"""Where a receiver is in a chain: nothing left out, nothing out of order, whatever happens to files and cursor."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.observe.test_audit import write
from titans3.observe.audit import Head, files_of, head_of
from titans3.observe.delivery import Batch, Cursor, cursor_name, keep_cursor, lock_chain, next_lines, read_cursor

MANY = 1 << 20


def take(path: Path, cursor: Cursor, *, end: Head | None = None, lines: int = MANY, size: int = MANY) -> Batch:
    return next_lines(str(path), 0, cursor, end or head_of(str(path), 0), lines_max=lines, bytes_max=size)


def numbers(batch: Batch) -> list[int]:
    return [json.loads(line)["number"] for line in batch.data.splitlines()]


def whole(path: Path, cursor: Cursor, **bounds: int) -> tuple[list[int], Cursor, int]:
    """All that is left, how many batches it took."""
    found: list[int] = []
    for rounds in range(1000):
        batch = take(path, cursor, **bounds)
        if not batch.count:
            return found, cursor, rounds
        assert batch.first == numbers(batch)[0] and batch.problems == ()
        found += numbers(batch)
        keep_cursor(str(path), 0, batch.after)
        cursor = read_cursor(str(path), 0)
        assert cursor == batch.after
    raise AssertionError("it does not end")


@pytest.mark.parametrize(("bounds", "batches"), [({}, 1), ({"lines": 7}, 4), ({"size": 1}, 25), ({"size": 2000}, None)])
def test_batches_are_bounded_and_go_on_over_files(tmp_path: Path, bounds: dict[str, int], batches: int | None) -> None:
    write(tmp_path, 25, file_bytes=1500)
    assert len(files_of(str(tmp_path), 0)) > 3
    found, cursor, rounds = whole(tmp_path, Cursor(), **bounds)
    assert found == list(range(1, 26))
    assert batches in (None, rounds)
    write(tmp_path, 5, file_bytes=1500)
    assert whole(tmp_path, cursor, **bounds)[0] == [26, 27, 28, 29, 30]
    assert take(tmp_path, read_cursor(str(tmp_path), 0)).waiting_bytes == 0


def test_lines_that_are_not_on_the_disk_yet_and_torn_ones_are_not_taken(tmp_path: Path) -> None:
    head = write(tmp_path, 3)
    write(tmp_path, 3)
    path = Path(files_of(str(tmp_path), 0)[0])
    path.write_bytes(path.read_bytes() + b'{"number": 7')
    assert head_of(str(tmp_path), 0).number == 6
    first = take(tmp_path, Cursor(), end=head)
    assert numbers(first) == [1, 2, 3]
    assert first.waiting_bytes == path.stat().st_size
    assert numbers(take(tmp_path, first.after)) == [4, 5, 6]


def test_files_that_were_moved_away_after_their_delivery_are_not_missed(tmp_path: Path) -> None:
    write(tmp_path, 20, file_bytes=1500)
    _, cursor, _ = whole(tmp_path, Cursor())
    for name in files_of(str(tmp_path), 0)[:-1]:
        Path(name).unlink()
    write(tmp_path, 2, file_bytes=1500)
    batch = take(tmp_path, cursor)
    assert (numbers(batch), batch.problems) == ([21, 22], ())


def test_files_that_were_moved_away_before_their_delivery_are_said(tmp_path: Path) -> None:
    write(tmp_path, 20, file_bytes=1500)
    cursor = take(tmp_path, Cursor(), lines=2).after
    gone = files_of(str(tmp_path), 0)[1]
    Path(gone).unlink()
    batch = take(tmp_path, cursor)
    assert numbers(batch)[-1] == 20 and len(numbers(batch)) < 18
    assert len(batch.problems) == 1 and "does not follow line" in batch.problems[0]


@pytest.mark.parametrize("lines", [2, 5, 9])
def test_a_chain_that_was_made_anew_is_delivered_from_its_beginning(tmp_path: Path, lines: int) -> None:
    write(tmp_path, 5)
    _, cursor, _ = whole(tmp_path, Cursor())
    for name in files_of(str(tmp_path), 0):
        Path(name).rename(tmp_path / "elsewhere")
    write(tmp_path, lines, name="other", file_bytes=1 << 19)
    for name in files_of(str(tmp_path), 0):  # the same second gives the same name; another one does not
        Path(name).rename(name.replace(".jsonl", "0.jsonl"))
    batch = take(tmp_path, cursor)
    assert numbers(batch) == list(range(1, lines + 1))
    assert len(batch.problems) == 1 and "from its beginning" in batch.problems[0]
    assert take(tmp_path, batch.after).count == 0


def test_a_line_that_is_none_is_left_out_and_said(tmp_path: Path) -> None:
    write(tmp_path, 4)
    path = Path(files_of(str(tmp_path), 0)[0])
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], b"no JSON\n", *lines[2:]]))
    batch = take(tmp_path, Cursor())
    assert numbers(batch) == [1, 2, 3, 4]
    assert len(batch.problems) == 1 and "a line that is none" in batch.problems[0]


def test_one_process_delivers_a_chain(tmp_path: Path) -> None:
    lock_chain(str(tmp_path), 0)
    lock_chain(str(tmp_path), 1)
    with pytest.raises(BlockingIOError):
        lock_chain(str(tmp_path), 0)


def test_a_cursor_is_durable_its_owners_alone_and_refused_when_damaged(tmp_path: Path) -> None:
    assert read_cursor(str(tmp_path), 0) == Cursor()
    keep_cursor(str(tmp_path), 0, Cursor(3, "h", "f", 9))
    path = Path(cursor_name(str(tmp_path), 0))
    assert path.stat().st_mode & 0o777 == 0o600
    assert json.loads(path.read_text()) == {"number": 3, "hash": "h", "file": "f", "offset": 9, "format": 1}
    for damaged in ("", "{", '{"format":2}', '{"number":-1}'):
        path.write_text(damaged)
        with pytest.raises(ValueError):
            read_cursor(str(tmp_path), 0)
