"""The board: one writer a slot, everybody reads, what is on its way is counted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from titans3.observe.board import BEAT, CONNECTIONS, PID, REQUESTS, SERVING, STATE, Board, VolumeSlot


def test_two_mappings_of_one_board_see_the_same() -> None:
    board = Board.make(3, 5)
    with_reader = Board.read(f"/proc/{os.getpid()}/fd/{board.fd}")
    assert (with_reader.workers, with_reader.volumes) == (3, 5)
    for worker in range(3):
        board.put(worker, REQUESTS, 2**63 + worker)
        board.beat(worker)
    for volume in range(5):
        board.put_volume(volume, VolumeSlot("ok", volume, 2, 3, 4, 2**50))
    assert [with_reader.get(worker, REQUESTS) for worker in range(3)] == [2**63, 2**63 + 1, 2**63 + 2]
    assert [with_reader.get(worker, BEAT) for worker in range(3)] == [1, 1, 1]
    assert [with_reader.volume(volume) for volume in range(5)] == [VolumeSlot("ok", n, 2, 3, 4, 2**50) for n in range(5)]
    with_reader.close()
    board.close()


def test_every_worker_is_active_until_somebody_says_otherwise() -> None:
    board = Board.make(3, 5)
    reader = Board.read(f"/proc/{os.getpid()}/fd/{board.fd}")
    assert reader.active == 3
    board.active = 1
    assert (reader.active, reader.workers, reader.volumes, reader.get(0, BEAT)) == (1, 3, 5, 0)
    reader.close()
    board.close()


def test_what_is_handed_over_counts_until_it_is_taken() -> None:
    board = Board.make(3, 2)
    board.put(1, CONNECTIONS, 4)
    board.sent(0, 1)
    board.sent(2, 1)
    board.sent(2, 1)
    assert [board.load(worker) for worker in range(3)] == [0, 7, 0]
    board.taken(1, 2)
    board.sent(0, 1, -1)  # it did not go after all
    assert board.load(1) == 5
    board.clear(1)  # a dead worker's connections are gone, what lies in its mailbox is not
    assert board.load(1) == 1
    board.taken(1, 2)
    assert board.load(1) == 0
    board.close()


def test_counters_of_what_was_handed_over_may_wrap() -> None:
    board = Board.make(2, 2)
    for _ in range(3):
        board.sent(0, 1, 0x7FFFFFFF)
    for _ in range(3):
        board._words[board._taken_base + 2] = board._words[board._sent_base + 1]
    assert board.load(1) == 0
    board.sent(0, 1)
    assert board.load(1) == 1
    board.close()


def test_a_dead_worker_is_blank_but_for_its_counters() -> None:
    board = Board.make(1, 1)
    for word, value in ((STATE, SERVING), (PID, 7), (CONNECTIONS, 3), (REQUESTS, 9)):
        board.put(0, word, value)
    board.clear(0)
    assert [board.get(0, word) for word in (STATE, PID, CONNECTIONS, REQUESTS)] == [0, 0, 0, 9]
    board.close()


@pytest.mark.parametrize("content", [b"", b"short", bytes(4096)])
def test_what_is_no_board_is_told_from_one(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ValueError, match="is no board"):
        Board.read(str(tmp_path / "file"))
    assert len(os.listdir("/proc/self/fd")) == before
