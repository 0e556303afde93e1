"""Shards of a bucket: ensure and its revision rule, seal, purge, and records of the control plane."""

from __future__ import annotations

import pytest

from tests.property.sorted_rows import FreedBodies, SortedRows
from titans3.errors import InvariantError, Reason
from titans3.meta.control import ANY, get_record, list_records, store_revision
from titans3.meta.keys import SHARDS, TABLE_AT
from titans3.meta.machine import Machine
from titans3.model.command import (
    Cas,
    Command,
    CreateUpload,
    DeleteEntry,
    DeleteObjects,
    EnsureShard,
    Noop,
    Outcome,
    Purge,
    PutObject,
    PutPart,
    Seal,
    Unseal,
)
from titans3.model.version import SINGLE, Extent, Part, Shard, Version

GID, BUCKET = 4, 30
PUT = PutObject(BUCKET, b"k", Version(1, 0, 0, 5, 0, bytes(16), 0, 0))


class Group:
    """One group and its log."""

    def __init__(self) -> None:
        self.rows = SortedRows()
        self.machine = Machine(self.rows, FreedBodies())
        self.index = 0

    def apply(self, command: Command) -> Outcome:
        self.index += 1
        return self.machine.apply(GID, self.index, command)

    def shard(self) -> Shard:
        found = self.machine.shards.snapshot(GID, BUCKET)
        assert found is not None
        return found

    def restart(self) -> None:
        self.machine.put_dirty()
        self.machine = Machine(self.rows, FreedBodies())


def cas(expect: dict[str, int], *ops: tuple[str, bytes | None]) -> Cas:
    return Cas(ops, expect)


def ready() -> Group:
    group = Group()
    assert group.apply(EnsureShard(BUCKET, 5, 0)).reason == ""
    return group


def test_nothing_is_written_without_a_shard() -> None:
    group = Group()
    for command in (PUT, DeleteObjects(BUCKET, (DeleteEntry(b"k"),), 1, bytes(8), ""), CreateUpload(BUCKET, b"k", 1, "", bytes(8), {}, {})):
        assert group.apply(command).reason == Reason.SHARD_ABSENT
    assert not group.rows.table


@pytest.mark.parametrize("restarted", [False, True])
def test_ensure_takes_the_newest_revision_and_keeps_the_counters(restarted: bool) -> None:
    group = ready()
    group.apply(PUT)
    for revision, versioning, expected in ((4, 2, (5, 0)), (5, 2, (5, 0)), (6, 1, (6, 1)), (5, 0, (6, 1)), (6, 0, (6, 1)), (9, 2, (9, 2))):
        assert group.apply(EnsureShard(BUCKET, revision, versioning)).reason == ""
        if restarted:
            group.restart()
        assert (group.shard().revision, group.shard().versioning) == expected
        assert (group.shard().keys, group.shard().versions) == (1, 1)


def test_a_purge_raises_the_floor_below_which_a_bucket_cannot_come_back() -> None:
    group = ready()
    assert group.apply(Purge(BUCKET, b"op", 8, 100)).reason == Reason.BUCKET_BUSY, "only what is sealed"
    assert group.apply(Seal(BUCKET, b"op")).reason == ""
    assert group.apply(Purge(BUCKET, b"another", 8, 100)).reason == Reason.BUCKET_BUSY
    assert group.apply(Purge(BUCKET, b"op", 8, 100)).reason == ""
    group.restart()
    assert not [key for key in group.rows.table if key[TABLE_AT] == SHARDS]
    for revision in (1, 5, 7):
        assert group.apply(EnsureShard(BUCKET, revision, 0)).reason == Reason.SHARD_ABSENT
        assert group.apply(PUT).reason == Reason.SHARD_ABSENT
    assert group.apply(Purge(BUCKET, b"op", 6, 100)).reason == "", "a repeat of the purge, and an older one"
    assert group.machine.shards.min_revision(GID) == 8, "the floor never sinks"
    assert group.apply(EnsureShard(BUCKET + 1, 8, 0)).reason == "", "who read after the deletion may go on"
    group.apply(EnsureShard(BUCKET + 2, 9, 0))
    group.apply(Seal(BUCKET + 2, b"op"))
    group.apply(Purge(BUCKET + 2, b"op", 20, 100))
    assert group.apply(EnsureShard(BUCKET + 1, 10, 1)).reason == "", "a bucket that is there is updated whatever the floor"


def test_a_seal_refuses_writes_until_it_is_undone_by_its_own_operation() -> None:
    group = ready()
    assert group.apply(Seal(BUCKET, b"one")).reason == ""
    assert group.apply(Seal(BUCKET, b"one")).reason == "", "a repeat"
    assert group.apply(Seal(BUCKET, b"two")).reason == Reason.BUCKET_BUSY
    assert group.apply(PUT).reason == Reason.BUCKET_BUSY
    group.apply(EnsureShard(BUCKET, 50, 1))
    assert group.apply(PUT).reason == Reason.BUCKET_BUSY, "a newer revision does not break the seal"
    group.restart()
    group.apply(Unseal(BUCKET, b"two"))
    assert group.apply(PUT).reason == Reason.BUCKET_BUSY
    group.apply(Unseal(BUCKET, b"one"))
    assert group.apply(PUT).reason == ""
    assert group.apply(Seal(BUCKET, b"three")).reason == Reason.BUCKET_NOT_EMPTY
    assert group.apply(PUT).reason == "", "a refused seal does not seal"


def test_a_shard_that_never_was_is_sealed_against_late_writers() -> None:
    group = Group()
    assert group.apply(Seal(BUCKET, b"op")).reason == ""
    group.apply(EnsureShard(BUCKET, 5, 0))
    assert group.apply(PUT).reason == Reason.BUCKET_BUSY


def test_a_purge_goes_in_steps_and_frees_every_part_once() -> None:
    group = ready()
    ids = []
    for number in range(5):
        upload = group.apply(CreateUpload(BUCKET, b"k%d" % number, 1, "", bytes(8), {}, {})).data
        for part in range(1, 8):
            ids.append(b"%08d" % len(ids) + bytes(8))
            extent = Extent(ids[-1], 5, SINGLE, 1, 0)
            assert group.apply(PutPart(BUCKET, b"k%d" % number, upload, Part(part, 5, bytes(16), 1, (extent,)))).reason == ""
    assert group.apply(Seal(BUCKET, b"op", True)).reason == Reason.BUCKET_NOT_EMPTY, "uploads count if asked"
    assert group.apply(Seal(BUCKET, b"op")).reason == ""
    steps = 0
    while group.apply(Purge(BUCKET, b"op", 9, 4)).data == b"more":
        steps += 1
        assert group.shard().upload_bytes >= 0
        group.restart()
    assert 8 < steps < 40
    group.restart()
    tables = {key[TABLE_AT] for key in group.rows.table}
    assert tables == {0x42, 0x50}, "minimum revision and GC queue are all that is left"
    queued = [key[13:] for key in group.rows.table if key[TABLE_AT] == 0x50]
    assert sorted(queued) == sorted(ids)


def test_an_unknown_command_stops_and_a_noop_does_nothing() -> None:
    class Unknown(Command, frozen=True):
        pass

    group = Group()
    assert group.apply(Noop()) == Outcome(index=1)
    with pytest.raises((LookupError, InvariantError)):
        group.apply(Unknown())
    assert not group.rows.table


def test_records_change_only_if_every_expectation_holds() -> None:
    group = Group()
    assert group.apply(cas({"/buckets/a": 0}, ("/buckets/a", b"A"), ("/ids/bucket", b"2"))).reason == ""
    assert store_revision(group.rows, GID) == 1
    refused = group.apply(cas({"/ids/bucket": 1, "/buckets/a": 0}, ("/buckets/a", b"B")))
    assert (refused.reason, refused.message) == (Reason.CONFLICT, "/buckets/a")
    assert store_revision(group.rows, GID) == 1, "a refused change has no revision"
    assert group.apply(cas({"/buckets/a": 1, "/ids/bucket": ANY}, ("/buckets/a", None), ("/buckets/b", b"B"))).reason == ""
    assert get_record(group.rows, GID, "/buckets/a") is None
    record = get_record(group.rows, GID, "/buckets/b")
    assert record is not None
    assert (record.key, record.value, record.rev) == ("/buckets/b", b"B", 2)
    assert group.apply(cas({"/buckets/a": 1})).reason == Reason.CONFLICT, "a deleted record has revision 0"
    assert group.apply(cas({"/buckets/a": 0}, ("/buckets/a", b"again"))).data == (3).to_bytes(8, "big")


def test_a_listing_of_records_ends_at_its_prefix_and_knows_no_page() -> None:
    group = Group()
    names = [f"/buckets/b{number:04}" for number in range(2500)]
    for start in range(0, 2500, 500):
        group.apply(cas({}, *[(name, b"x") for name in names[start : start + 500]]))
    group.apply(cas({}, ("/bucket", b"less"), ("/bucketsz", b"more"), ("/buckets/", b"itself"), ("/\U0010ffff", b"last")))
    assert [record.key for record in list_records(group.rows, GID, "/buckets/")] == ["/buckets/", *names]
    assert len(list_records(group.rows, GID, "")) == 2504
    assert list_records(group.rows, GID, "/none") == []
    assert list_records(group.rows, GID + 1, "") == []
