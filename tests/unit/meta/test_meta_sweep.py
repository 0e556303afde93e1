"""Fences: what lies at or below a writer's watermark is refused, and the answer names what is still referenced."""

from __future__ import annotations

from hashlib import md5

import pytest

from tests.property.sorted_rows import FreedBodies, SortedRows
from titans3.errors import Reason
from titans3.meta.keys import gc_prefix, successor
from titans3.meta.machine import Machine
from titans3.model.command import (
    CompletePart,
    CompleteUpload,
    CreateUpload,
    DataRef,
    DeleteEntry,
    DeleteObjects,
    EnsureShard,
    GcDone,
    PutObject,
    PutPart,
    SweepFence,
)
from titans3.model.version import SINGLE, Extent, Part, Version

GID, BUCKET = 4, 30
WRITER, OTHER = 0x1111_2222_3333_4444, 0x1111_2222_3333_4445


def data_id(sequence: int, writer: int = WRITER) -> bytes:
    return sequence.to_bytes(8, "big") + writer.to_bytes(8, "big")


def extent(sequence: int, writer: int = WRITER) -> Extent:
    return Extent(data_id(sequence, writer), 10, SINGLE, 1, 0)


def version(*extents: Extent) -> Version:
    return Version(1, 0, 0, 5, 10 * len(extents), bytes(16), 0, 0, extents=extents)


@pytest.fixture
def machine() -> Machine:
    made = Machine(SortedRows(), FreedBodies())
    assert made.apply(GID, 1, EnsureShard(BUCKET, 1, 1)).reason == ""
    return made


def test_the_watermark_is_of_its_writer_and_its_group_and_only_rises(machine: Machine) -> None:
    machine.apply(GID, 2, SweepFence(WRITER, 100, ()))
    machine.apply(GID, 3, SweepFence(WRITER, 50, ()))
    cases = [(99, WRITER, False), (100, WRITER, False), (101, WRITER, True), (1, OTHER, True)]
    for index, (sequence, writer, taken) in enumerate(cases, 10):
        outcome = machine.apply(GID, index, PutObject(BUCKET, b"k", version(extent(sequence, writer))))
        assert outcome.reason == ("" if taken else Reason.FENCED), (sequence, writer)
    machine.apply(GID + 1, 1, EnsureShard(BUCKET, 1, 1))
    assert machine.apply(GID + 1, 2, PutObject(BUCKET, b"k", version(extent(50)))).reason == "", "another group"


def test_one_fenced_extent_of_many_refuses_the_whole_commit_and_parts_too(machine: Machine) -> None:
    upload = machine.apply(GID, 2, CreateUpload(BUCKET, b"k", 1, "", bytes(8), {}, {})).data
    machine.apply(GID, 3, SweepFence(WRITER, 100, ()))
    assert machine.apply(GID, 4, PutObject(BUCKET, b"k", version(extent(101), extent(100), extent(102)))).reason == Reason.FENCED
    part = Part(1, 10, bytes(16), 1, (extent(7),))
    assert machine.apply(GID, 5, PutPart(BUCKET, b"k", upload, part)).reason == Reason.FENCED


def test_references_are_found_wherever_they_hang(machine: Machine) -> None:
    """Newest version, older versions past a page, a manifest's rows, an open part; and not in what was replaced or deleted."""
    apply = machine.apply
    for number in range(130):
        assert apply(GID, 10 + number, PutObject(BUCKET, b"many", version(extent(1000 + number)))).reason == ""
    apply(GID, 200, PutObject(BUCKET, b"gone", version(extent(1))))
    newest = machine.objects.newest(GID, BUCKET, b"gone")
    assert newest is not None
    assert apply(GID, 201, DeleteObjects(BUCKET, (DeleteEntry(b"gone", newest.version_id),), 5, bytes(8), "")).entries[0][0] == ""
    upload = apply(GID, 202, CreateUpload(BUCKET, b"big", 1, "", bytes(8), {}, {})).data
    for number in range(1, 13):
        part = Part(number, 10, bytes([number]) * 16, 1, (extent(2000 + number),))
        assert apply(GID, 210 + number, PutPart(BUCKET, b"big", upload, part)).reason == ""
    apply(GID, 230, PutPart(BUCKET, b"big", upload, Part(12, 10, bytes([12]) * 16, 1, (extent(2100),))))
    refs = {
        data_id(1129): DataRef(data_id(1129), BUCKET, b"many", b"", 0), data_id(1000): DataRef(data_id(1000), BUCKET, b"many", b"", 0),
        data_id(2001): DataRef(data_id(2001), BUCKET, b"big", upload, 1), data_id(2100): DataRef(data_id(2100), BUCKET, b"big", upload, 12),
    }
    dead = [
        DataRef(data_id(1), BUCKET, b"gone", b"", 0), DataRef(data_id(2012), BUCKET, b"big", upload, 12),
        DataRef(data_id(999), BUCKET, b"many", b"", 0), DataRef(data_id(5), BUCKET, b"never", b"", 0),
        DataRef(data_id(1000), BUCKET + 1, b"many", b"", 0),
    ]
    answer = apply(GID, 300, SweepFence(WRITER, 5000, (*refs.values(), *dead))).data
    assert {answer[at : at + 16] for at in range(0, len(answer), 16)} == set(refs)
    parts = tuple(CompletePart(number, bytes([number]) * 16) for number in range(1, 13))
    etag = md5(b"".join(part.etag for part in parts)).digest()
    assert apply(GID, 301, CompleteUpload(BUCKET, b"big", upload, parts, 5, bytes(8), etag, 1)).reason == "", "parts came before the fence"
    answer = apply(GID, 302, SweepFence(WRITER, 5000, (refs[data_id(2001)], refs[data_id(2100)]))).data
    assert answer == data_id(2001) + data_id(2100), "now in the manifest's rows"


def test_the_queue_forgets_only_what_it_is_told(machine: Machine) -> None:
    apply = machine.apply
    for number in range(3):
        apply(GID, 10 + number, PutObject(BUCKET, b"k", version(extent(number + 1))))
    newest = machine.objects.newest(GID, BUCKET, b"k")
    assert newest is not None
    apply(GID, 20, DeleteObjects(BUCKET, (DeleteEntry(b"k", newest.version_id),), 5, bytes(8), ""))
    start = gc_prefix(GID)
    rows = machine._rows.scan(start, successor(start), 10)
    assert [(int.from_bytes(key[5:13], "big"), key[13:]) for key, _ in rows] == [(20, data_id(3))]
    apply(GID, 21, GcDone(((19, data_id(3)), (20, data_id(2)))))
    assert len(machine._rows.scan(start, successor(start), 10)) == 1
    apply(GID, 22, GcDone(((20, data_id(3)),)))
    apply(GID, 23, GcDone(((20, data_id(3)),)))
    assert machine._rows.scan(start, successor(start), 10) == []
