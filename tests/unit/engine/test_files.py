"""What the engine asks of a file system."""

from __future__ import annotations

import os
import random
from pathlib import Path

from titans3.engine.files import OsFiles
from titans3.limits import BLOCK_BYTES, MIB


def test_what_is_passed_over_was_never_written(tmp_path: Path) -> None:
    choose, files = random.Random(7), OsFiles()
    for turn in range(20):
        path = str(tmp_path / f"segment{turn}")
        fd = files.open(path, os.O_RDWR | os.O_CREAT)
        files.allocate(fd, MIB)
        written = bytearray(MIB)
        for _ in range(choose.randrange(4)):
            at, piece = choose.randrange(256) * BLOCK_BYTES, choose.randbytes(choose.randrange(1, 3 * BLOCK_BYTES))
            piece = piece[: MIB - at]
            files.pwritev(fd, [piece], at)
            written[at : at + len(piece)] = piece
        if turn % 2:
            files.sync(fd, "test")
        for offset in range(0, MIB, 16 * BLOCK_BYTES):
            found = files.next_data(fd, offset)
            assert found is None or found >= offset
            assert not any(written[offset:found]), "everything else up to there, or to the end, is zeros"
        files.close(fd)
