"""The log read back: torn tails cut at every byte, a flipped bit in every byte, damage told by group."""

from __future__ import annotations

import os

import msgspec
import pytest

from tests.faults.powerloss_disk import SimulatedDisk
from titans3.engine.batch import Digest, encode_batch
from titans3.engine.logwalk import LogFile, LogWalk, PositionLost
from titans3.engine.record import Record, body_matches, padded, segment_start
from titans3.engine.recovery import Recovery, Replay
from titans3.engine.segment import CONTENT, LOG, SegmentHeader, segment_name
from titans3.limits import KIB
from titans3.model.command import PutObject, encode_command
from titans3.model.version import Version

CAPACITY = 40 * KIB


def entry(gid: int, index: int, key: bytes, body: bytes) -> Record:
    """A put of a small object."""
    command = encode_command(PutObject(9, key, Version(1, 1, 0, 0, len(body), bytes(16), 0, 0)))
    return Record(gid, index, 1, 1, command, body, index.to_bytes(8, "big") + gid.to_bytes(8, "big"))


class Written(msgspec.Struct):
    """A batch as it lies in the file."""

    segment: int
    offset: int
    length: int
    used: int  # bytes before the padding
    records: list[Record]

    def places(self) -> list[int]:
        """Every offset that holds framing or content, and some of the padding."""
        end = self.offset + self.length
        padding = range(self.offset + self.used, end - 32, 61)
        return [*range(self.offset, self.offset + self.used), *padding, *range(end - 32, end)]


class BuiltLog:
    """A log made batch by batch, without threads."""

    def __init__(self) -> None:
        self.disk = SimulatedDisk()
        self.disk.mkdir("/log")
        self.files: list[LogFile] = []
        self.batches: list[Written] = []
        self._digest: Digest = {}
        self._end = (0, 0, 0)

    def segment(self) -> None:
        number = len(self.files) + 1
        header = SegmentHeader(LOG, 0, bytes(16), number, 1000 + number, 1, CAPACITY, 0)
        path = f"/log/{segment_name(number)}"
        fd = self.disk.open(path, os.O_RDWR | os.O_CREAT)
        self.disk.allocate(fd, CAPACITY)
        self.disk.pwritev(fd, (header.pack(),), 0)
        self.files.append(LogFile(header, path))

    def batch(self, *records: Record) -> Written:
        number = len(self.batches) + 1
        last = self.files[-1].header
        segment, end, batch = self._end
        group = list(records)
        offset = end
        if segment != last.number:
            group.insert(0, segment_start(segment, end, batch))
            offset = CONTENT
        encoded = encode_batch(
            group, salt=last.salt, offset=offset, epoch=1, number=number, previous_segment=segment, digest=self._digest
        )
        data = self.disk.node(self.files[-1].path).data
        data[offset : offset + encoded.length] = b"".join(encoded.pieces)
        self._digest = encoded.digest
        self._end = (last.number, offset + encoded.length, number)
        written = Written(last.number, offset, encoded.length, encoded.offsets[-1] + padded(group[-1].stored_bytes) - offset, list(records))
        self.batches.append(written)
        return written

    def replay(self, after: int = 0) -> tuple[Recovery, list[Record]]:
        """Replay from behind batch number ``after``."""
        start = (0, 0, 0)
        if after:
            before = self.batches[after - 1]
            start = (before.segment, before.offset + before.length, after)
        fresh = [LogFile(file.header, file.path) for file in self.files]
        walk = LogWalk(self.disk, fresh, segment=start[0], offset=start[1], batch=start[2])
        run = Replay(walk, Recovery(damaged={}, bodies=[], lost=[]))
        records = [record for chunk in run.chunks() for record, _, _ in chunk]
        return run.recovery, records


def same(found: Record, written: Record) -> bool:
    """Whether a record came back as it was written, body included."""
    return (found.gid, found.index, found.term, found.command, bytes(found.body), found.data_id) == (
        written.gid, written.index, written.term, written.command, bytes(written.body), written.data_id
    )


def two_segments() -> BuiltLog:
    """Three batches in one segment, two in the next."""
    log = BuiltLog()
    log.segment()
    log.batch(entry(1, 1, b"a", b"A" * 100), entry(2, 1, b"b", b"B" * 200))
    log.batch(entry(1, 2, b"c", b"C" * 50), entry(3, 1, b"d", b""))
    log.batch(entry(2, 2, b"e", b"E" * 400))
    log.segment()
    log.batch(entry(1, 3, b"f", b"F" * 10))
    log.batch(entry(3, 2, b"g", b"G" * 300), entry(1, 4, b"h", b"H" * 7))
    return log


def test_round_trip_over_segments_and_from_every_position() -> None:
    log = two_segments()
    for after in range(6):
        recovery, records = log.replay(after)
        expected = [record for batch in log.batches[after:] for record in batch.records]
        assert len(records) == len(expected)
        assert all(map(same, records, expected))
        assert (recovery.cause, recovery.torn, recovery.bodies) == ("", "", [])


def test_a_tail_torn_at_any_byte_is_cut_and_nothing_else() -> None:
    log = two_segments()
    last = log.batches[-1]
    data = log.disk.node(log.files[-1].path).data
    whole = bytes(data[last.offset : last.offset + last.length])
    before = [record for batch in log.batches[:-1] for record in batch.records]
    for kept in [*[at - last.offset for at in last.places()], last.length]:
        torn = whole[:kept].ljust(last.length, b"\0")
        data[last.offset : last.offset + last.length] = torn
        recovery, records = log.replay()
        expected = before + (last.records if torn == whole else [])
        assert len(records) == len(expected), kept
        assert all(map(same, records, expected))
        assert recovery.cause == ""
        assert not recovery.bodies


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_flipped_bit_is_named_and_never_replayed_as_truth(number: int) -> None:
    log = two_segments()
    batch = log.batches[number - 1]
    data = log.disk.node(log.files[batch.segment - 1].path).data
    by_name = {(record.gid, record.index): record for item in log.batches for record in item.records}
    for at in batch.places():
        data[at] ^= 0x10
        recovery, records = log.replay()
        got = {(record.gid, record.index) for record in records}
        for record in records:
            written = by_name[record.gid, record.index]
            if not same(record, written):
                assert not body_matches(record), "only a body may differ, and then its checksum says so"
                assert [(item.bucket, item.key) for item in recovery.bodies] == [(9, key_of(written))]
        for name in by_name.keys() - got:
            assert recovery.is_damaged(name[0]), f"byte {at}: entry {name} is missing in silence"
        if recovery.unproven:
            assert not records or number > 1
        for gid in recovery.damaged:
            assert gid in {record.gid for record in batch.records}, "a group the batch did not touch"
        data[at] ^= 0x10
    assert log.replay()[0].cause == ""


def key_of(record: Record) -> bytes:
    """The key in an entry's command."""
    return msgspec.msgpack.decode(record.command[3:])[1]


def test_a_damaged_record_damages_its_group_alone() -> None:
    log = two_segments()
    batch = log.batches[1]
    data = log.disk.node(log.files[0].path).data
    at = data.find(batch.records[0].command, batch.offset)
    data[at] ^= 1
    recovery, records = log.replay()
    assert set(recovery.damaged) == {1}
    assert [(record.gid, record.index) for record in records] == [(1, 1), (2, 1), (3, 1), (2, 2), (3, 2)]


def test_a_lost_header_of_a_batch_between_valid_ones_damages_what_the_next_digest_names() -> None:
    log = two_segments()
    batch = log.batches[1]
    data = log.disk.node(log.files[0].path).data
    data[batch.offset : batch.offset + batch.length] = bytes(batch.length)
    recovery, records = log.replay()
    assert set(recovery.damaged) == {1, 3}
    assert [(record.gid, record.index) for record in records] == [(1, 1), (2, 1), (2, 2)]


def test_two_lost_batches_leave_nothing_proven() -> None:
    log = two_segments()
    data = log.disk.node(log.files[0].path).data
    first, second = log.batches[1], log.batches[2]
    data[first.offset : second.offset + second.length] = bytes(first.length + second.length)
    recovery, records = log.replay()
    assert recovery.unproven
    assert recovery.is_damaged(77)
    assert [(record.gid, record.index) for record in records] == [(1, 1), (2, 1)]


def test_the_last_batch_of_a_segment_is_not_a_torn_tail_when_the_next_segment_goes_on() -> None:
    log = two_segments()
    batch = log.batches[2]
    data = log.disk.node(log.files[0].path).data
    data[batch.offset : batch.offset + batch.length] = bytes(batch.length)
    recovery, _ = log.replay()
    assert set(recovery.damaged) == {2}


def test_a_torn_tail_left_behind_by_an_earlier_recovery_is_passed_over() -> None:
    log = two_segments()
    end = log.batches[2].offset + log.batches[2].length
    data = log.disk.node(log.files[0].path).data
    data[end : end + 3000] = os.urandom(3000)
    recovery, records = log.replay()
    assert recovery.cause == ""
    assert len(records) == 8


def test_bytes_of_a_body_never_pass_for_framing() -> None:
    log = BuiltLog()
    log.segment()
    first = log.batch(entry(1, 1, b"a", b"A" * 5000))
    copy = bytes(log.disk.node(log.files[0].path).data[: first.offset + first.length])
    log.batch(entry(1, 2, b"whole segment as a body", copy + copy))
    tail = log.batch(entry(1, 3, b"c", b"C" * 5000))
    data = log.disk.node(log.files[0].path).data
    data[tail.offset : tail.offset + 4096] = bytes(4096)
    recovery, records = log.replay()
    assert [record.index for record in records] == [1, 2]
    assert recovery.cause == ""


def test_a_position_that_is_not_in_the_log_is_refused() -> None:
    log = two_segments()
    for segment, offset, batch in ((7, 8192, 3), (1, 8192, 5), (1, 12288 + 4096 * 9, 3)):
        files = [LogFile(file.header, file.path) for file in log.files]
        with pytest.raises(PositionLost):
            list(LogWalk(log.disk, files, segment=segment, offset=offset, batch=batch))
    files = [LogFile(file.header, file.path) for file in log.files[1:]]
    with pytest.raises(PositionLost):
        list(LogWalk(log.disk, files, segment=0, offset=0, batch=0))
