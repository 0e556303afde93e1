"""Structures field by field: what the engine writes holds; one flipped bit in any of them is told, and by the check that guards it."""

from __future__ import annotations

from pathlib import Path

import pytest

from titans3.engine.batch import encode_batch
from titans3.engine.extent import ExtentIdent, Granules, granted_bytes, header_bytes, pack_header, pack_trailer
from titans3.engine.files import OsFiles
from titans3.engine.record import Record, hard_state
from titans3.engine.segment import CONTENT, DATA, LOG, SegmentHeader, segment_name, segment_number
from titans3.jobs.dissect import Piece, contents, dissect, save_body
from titans3.model.command import PutObject, encode_command
from titans3.model.version import Version

FILES = OsFiles()
SALT = 0x1234_5678_9ABC_DEF0
BODY = bytes(range(256)) * 1000
DATA_ID = bytes(range(16))


def header(kind: int) -> SegmentHeader:
    return SegmentHeader(kind, 0, b"v" * 16, segment_number(1, 1), SALT, 1, 1 << 20, 7)


@pytest.fixture
def log(tmp_path: Path) -> tuple[Path, list[int]]:
    command = encode_command(PutObject(3, b"the key", Version(1, 0, 0, 0, 500, bytes(16), 0, 0)))
    records = [Record(5, 1, 1, 0, command, BODY[:500], DATA_ID), hard_state(5, 1, 0)]
    batch = encode_batch(records, salt=SALT, offset=CONTENT, epoch=1, number=1, previous_segment=0, digest={5: (1, 1)})
    path = tmp_path / segment_name(segment_number(1, 1))
    path.write_bytes((header(LOG).pack() + b"".join(batch.pieces)).ljust(1 << 20, b"\0"))
    return path, batch.offsets


@pytest.fixture
def data(tmp_path: Path) -> Path:
    ident = ExtentIdent(DATA_ID, 5, 3, b"the key", DATA_ID)
    granted = granted_bytes(ident, len(BODY))
    granules = Granules()
    granules.update(memoryview(BODY))
    last, _ = pack_trailer(DATA_ID, len(BODY), granules.finish(), salt=SALT, flags=1, blob=b"")
    extent = pack_header(ident, salt=SALT, offset=CONTENT, granted=granted) + BODY
    path = tmp_path / segment_name(segment_number(1, 1))
    path.write_bytes((header(DATA).pack() + extent.ljust(granted - len(last), b"\0") + last).ljust(1 << 20, b"\0"))
    return path


def flipped(path: Path, at: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


def broken(pieces: list[Piece]) -> set[tuple[str, str]]:
    return {(piece.kind, check.name) for piece in pieces for check in piece.checks if not check.holds}


def test_a_log_is_shown_as_it_was_written(log: tuple[Path, list[int]], tmp_path: Path) -> None:
    path, offsets = log
    segment, batch, *records = dissect(FILES, str(path), CONTENT)
    assert not broken([segment, batch, *records])
    assert (batch.fields["batch"], batch.fields["digest"]) == (1, {"5": [1, 1]})
    assert [record.offset for record in records] == offsets
    assert records[0].fields["command"]["key"] == "the key"  # type: ignore[index]
    assert records[0].fields["data id"] == DATA_ID.hex()
    assert [entry.offset for entry in contents(FILES, str(path))] == offsets
    assert "the key" in contents(FILES, str(path))[0].what
    pieces = dissect(FILES, str(path), offsets[0])
    assert save_body(FILES, pieces, str(tmp_path / "out")) == 500
    assert (tmp_path / "out").read_bytes() == BODY[:500]
    with pytest.raises(FileExistsError):
        save_body(FILES, pieces, str(tmp_path / "out"))


def test_a_flipped_bit_in_a_log_is_told_by_its_check(log: tuple[Path, list[int]]) -> None:
    path, (first, second) = log
    for at, offset, expected in (
        (50, CONTENT, ("segment", "header checksum")),
        (CONTENT + 20, CONTENT, ("batch", "header checksum")),
        (CONTENT + 66, CONTENT, ("batch", "digest checksum")),
        (second - 20, first, ("record", "body checksum")),
        (first + 13, first, ("record", "record checksum")),
        (first + 100, first, ("record", "record checksum")),
        (second + 82, CONTENT, ("batch", "records")),
    ):
        flipped(path, at)
        assert expected in broken(dissect(FILES, str(path), offset)), (at, expected)
        flipped(path, at)
    assert not broken(dissect(FILES, str(path), CONTENT))
    assert broken(dissect(FILES, str(path), CONTENT + 8)) == {("unknown", "batch, record or extent")}
    assert broken(dissect(FILES, str(path), 1 << 21)) == {("unknown", "batch, record or extent")}


def test_an_extent_and_its_damage(data: Path, tmp_path: Path) -> None:
    segment, extent, trailer = dissect(FILES, str(data), CONTENT)
    assert not broken([segment, extent, trailer])
    assert (extent.fields["key"], trailer.fields["data length"]) == ("the key", len(BODY))
    assert save_body(FILES, [segment, extent, trailer], str(tmp_path / "out")) == len(BODY)
    assert (tmp_path / "out").read_bytes() == BODY
    start = CONTENT + header_bytes(ExtentIdent(DATA_ID, 5, 3, b"the key", DATA_ID))
    flipped(data, start + 70_000)
    pieces = dissect(FILES, str(data), CONTENT)
    assert broken(pieces) == {("trailer", "granules that match")}
    assert pieces[2].fields["damaged granules"] == [1]
    flipped(data, start + 70_000)
    flipped(data, trailer.offset - 3)
    assert {("trailer", "trailer checksum"), ("trailer", "root checksum")} <= broken(dissect(FILES, str(data), CONTENT))
    flipped(data, CONTENT + 122)
    assert ("extent", "header checksum") in broken(dissect(FILES, str(data), CONTENT))
