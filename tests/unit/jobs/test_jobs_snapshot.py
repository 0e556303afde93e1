"""The snapshot file: what was written is read, and any byte that changed, any cut, any addition is noticed."""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from titans3.errors import ConfigError, FormatError
from titans3.jobs.snapshot import (
    Head,
    VolumeHead,
    VolumeName,
    VolumeRows,
    check_snapshot,
    rows_of_volume,
    write_snapshot,
)
from titans3.meta.environment import GroupState, Position

RNG = random.Random(8)
ROWS = [[(RNG.randbytes(30), RNG.randbytes(RNG.randrange(2000))) for _ in range(count)] for count in (0, 3000)]
HEAD = Head(1, b"c" * 16, 5, "1.0", "ab", (VolumeName(0, b"u" * 16), VolumeName(1, b"v" * 16)))
GROUPS = {3: GroupState(1, 0, 7, 1, 9), 0xFFFF_FFFF: GroupState(damaged="so")}


def volumes() -> list[VolumeRows]:
    return [VolumeRows(VolumeHead(index, Position(1, 2, 3, 4 + index), GROUPS), ROWS[index]) for index in (0, 1)]


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "snapshot"
    written = write_snapshot(str(path), HEAD, volumes())
    assert (written.rows, written.bytes) == (3000, path.stat().st_size)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    summary = check_snapshot(str(path))
    assert (summary.head, summary.rows) == (HEAD, 3000)
    assert [volume.position.epoch for volume in summary.volumes] == [4, 5]
    assert summary.volumes[0].groups[3].applied == 7
    assert [list(rows_of_volume(str(path), index)) for index in (0, 1)] == ROWS
    with pytest.raises(ConfigError, match="is there already"):
        write_snapshot(str(path), HEAD, volumes())


def test_a_writer_that_fails_leaves_the_file_of_before(tmp_path: Path) -> None:
    path = tmp_path / "snapshot"
    write_snapshot(str(path), HEAD, volumes())
    before = path.read_bytes()

    def rows() -> Iterator[tuple[bytes, bytes]]:
        yield b"key", b"value"
        raise FormatError("a damaged row")

    with pytest.raises(FormatError):
        write_snapshot(str(path), HEAD, [VolumeRows(VolumeHead(0, Position(0, 0, 0, 0), {}), rows())], replace=True)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["snapshot"]


def test_any_change_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "snapshot"
    few = [VolumeRows(VolumeHead(index, Position(1, 2, 3, 4), GROUPS), ROWS[1][:2]) for index in (0, 1)]
    write_snapshot(str(path), HEAD, few)
    raw = path.read_bytes()
    rng = random.Random(1)
    changed = [raw[:at] + bytes((raw[at] ^ 1 << rng.randrange(8),)) + raw[at + 1 :] for at in range(0, len(raw), 7)]
    cut = [raw[:at] for at in range(0, len(raw), 11)]
    for damaged in (*changed, *cut, raw + b"\0"):
        path.write_bytes(damaged)
        with pytest.raises(FormatError):
            check_snapshot(str(path))
    path.write_bytes(raw)
    check_snapshot(str(path))


def test_a_volume_that_is_missing_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "snapshot"
    write_snapshot(str(path), HEAD, volumes()[:1])
    with pytest.raises(FormatError, match="every volume"):
        check_snapshot(str(path))
