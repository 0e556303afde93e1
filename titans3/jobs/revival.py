"""One volume's rows made anew: a snapshot's or none, then the entries its segments still hold, in order, through the state machine.

Invariants
* While a group's entries follow one another they are applied as on any start. From the first that is missing on the group is *patchy*:
  a shard that is not there is made, a copy by compaction counts as committed, and a quota holds nothing up. What cannot be decided is
  left out and counted.
* Counters, version ids and references are made by the machine that makes them while serving.
* The rows go into an environment of their own, beside the volume's; the volume's is not touched.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from titans3.engine.record import Record
from titans3.engine.segment import LOG
from titans3.engine.segments import Segments
from titans3.errors import FormatError
from titans3.jobs.history import Entry, History
from titans3.limits import OVERLAY_BYTES, OVERLAY_ROWS, SYSTEM_GROUP
from titans3.meta.control import get_record, store_revision
from titans3.meta.environment import Checkpoint, Environment, GroupState, Position
from titans3.meta.keys import (
    PREFIX_BYTES,
    completed_prefix,
    control_key,
    manifest_prefix,
    object_prefix,
    part_prefix,
    store_revision_key,
    successor,
    upload_index_prefix,
    upload_prefix,
    version_prefix,
)
from titans3.meta.machine import Machine
from titans3.meta.overlay import Overlay
from titans3.meta.view import View
from titans3.meta.walk import walk
from titans3.model.command import (
    AbortUpload,
    Cas,
    Command,
    CompleteUpload,
    DeleteObjects,
    EnsureShard,
    Outcome,
    Purge,
    PutObject,
    PutPart,
    Seal,
    decode_command,
)
from titans3.model.control import BucketRecord, Rec
from titans3.model.version import INLINE, Part

_SNAPSHOT_ROWS = 20_000  # at a time
NOWHERE = Position(0, 0, 0, 0)
_encode = msgspec.msgpack.Encoder().encode
UploadName = tuple[int, int, bytes, bytes]  # gid, bucket id, key, upload id


class Gap(msgspec.Struct, frozen=True):
    """Entries ``first`` … ``last`` of a group that no segment holds."""

    group: int
    first: int
    last: int


class Revival(msgspec.Struct):
    """What became of the entries. ``undecided``: why entries were left out that an owner with all rows might have applied."""

    snapshot_rows: int = 0
    replayed: int = 0
    patched: int = 0
    gaps: list[Gap] = []
    undecided: dict[str, int] = {}
    dropped: int = 0  # entries that came after the snapshot and were not wanted
    of_deleted_buckets: int = 0
    deleted_buckets: int = 0  # shards of buckets that are not there any more, taken away


class VolumeRevival:
    """Rows of one volume in the making."""

    def __init__(self, index: int, history: History, folder: str) -> None:
        """``folder``: where the new environment is made; it must be empty or absent."""
        identity = history.identity
        self.index, self.history, self.done = index, history, Revival()
        self.environment = Environment(folder, cluster=identity.cluster_bytes, volume=identity.uuid_bytes)
        self.states: dict[int, GroupState] = {}
        self.base = NOWHERE
        self.view = View(self.environment)
        self.machine = Machine(self.view, self)
        self.patchy: set[int] = set()
        self.deleted: dict[tuple[int, bytes], int] = {}  # when a patchy group last deleted a key, ms
        self.refused_ids: set[bytes] = set()
        self.parts: dict[UploadName, dict[int, Part]] = {}  # of uploads whose beginning is lost
        self.completions: dict[UploadName, CompleteUpload] = {}
        self.aborted: set[UploadName] = set()

    def free(self, data_id: bytes) -> int:
        """A small body is dead: nothing to do, places are given at the end to what has a name."""
        return 0

    # the base ------------------------------------------------------------------------------------------------------

    def load(self, rows: Iterable[tuple[bytes, bytes]], position: Position, groups: dict[int, GroupState]) -> None:
        """Take a snapshot's rows of this volume: (key, value) of logical rows."""
        self.view.close()
        overlay = Overlay()
        for key, value in rows:
            overlay.put(key, value)
            self.done.snapshot_rows += 1
            if overlay.rows >= _SNAPSHOT_ROWS:
                self.environment.commit(overlay, Checkpoint(NOWHERE, {}))
                overlay = Overlay()
        self.environment.commit(overlay, Checkpoint(NOWHERE, {}))
        self.view = View(self.environment)
        self.machine = Machine(self.view, self)
        self.base = position
        self.states = {gid: msgspec.structs.replace(state) for gid, state in groups.items()}
        self.machine.times.update({gid: state.time_ms for gid, state in groups.items()})

    @property
    def is_whole(self) -> bool:
        """Whether the log holds everything that came after the base."""
        return self.history.is_whole_from(self.base.batch)

    def state(self, gid: int) -> GroupState:
        """Of a group."""
        return self.states.setdefault(gid, GroupState())

    # the log -------------------------------------------------------------------------------------------------------

    def wanted(self, *, system: bool) -> list[Entry]:
        """Entries behind the base, by group and index: of the system group, or of all others."""
        found = [
            entry
            for (gid, index), entry in self.history.entries.items()
            if (gid == SYSTEM_GROUP) == system and index > self.state(gid).applied
        ]
        return sorted(found, key=lambda entry: (entry.gid, entry.index))

    def replay(self, entries: list[Entry], buckets: Buckets) -> None:
        """Apply entries that ``wanted`` gave. Raises DiskError, FormatError."""
        for entry, record in self.history.read(entries):
            state = self.state(entry.gid)
            state.damaged = ""
            if entry.index > state.applied + 1:
                self.patchy.add(entry.gid)
                self.done.gaps.append(Gap(entry.gid, state.applied + 1, entry.index - 1))
            if entry.gid in self.patchy:
                self._patch(entry, record, buckets)
            else:
                self.machine.apply(record.gid, record.index, _command(record))
                self.done.replayed += 1
            state.applied, state.applied_term, state.term = record.index, record.term, max(state.term, record.term)
            self.settle()

    def skip(self, entries: list[Entry]) -> None:
        """Leave entries out: the groups go on behind them."""
        for entry, record in self.history.read(entries):
            state = self.state(entry.gid)
            state.applied, state.applied_term, state.term = record.index, record.term, max(state.term, record.term)
            state.damaged = ""
            self.done.dropped += 1

    def propose(self, gid: int, command: Command) -> Outcome:
        """Apply a command that is in no log: the next entry of the group."""
        state = self.state(gid)
        outcome = self.machine.apply(gid, state.applied + 1, command)
        state.applied += 1
        self.settle()
        return outcome

    def settle(self, *, always: bool = False) -> None:
        """Put the overlay into the environment when it is large."""
        active = self.view.active
        if always or active.rows > OVERLAY_ROWS or active.bytes > OVERLAY_BYTES:
            self.machine.put_dirty()
            frozen = self.view.freeze()
            assert frozen is not None
            self.environment.commit(frozen, Checkpoint(NOWHERE, {}))
            self.view.thaw()

    # patchy groups -------------------------------------------------------------------------------------------------

    def _patch(self, entry: Entry, record: Record, buckets: Buckets) -> None:
        command = _command(record)
        if isinstance(command, Cas):
            self._compare_and_set(entry.gid, command)
            self.done.patched += 1
            return
        bucket = getattr(command, "bucket", 0)
        if bucket and not isinstance(command, EnsureShard | Seal | Purge):
            if buckets.was_deleted(bucket):
                self.done.of_deleted_buckets += 1
                return
            self.open_shard(entry.gid, bucket, getattr(command, "revision", 0), buckets)
        if isinstance(command, PutObject) and entry.is_copy:
            command = msgspec.structs.replace(command, condition=None)
        outcome = self.machine.apply(record.gid, record.index, command)
        if isinstance(command, DeleteObjects):
            self.deleted.update({(bucket, item.key): command.now_ms for item in command.entries if not item.version_id})
        if outcome.reason:
            self._left_out(entry.gid, command, str(outcome.reason))
        self.done.patched += 1

    def _left_out(self, gid: int, command: Command, reason: str) -> None:
        """Keep what may join later; count the rest."""
        if isinstance(command, PutPart | CompleteUpload | AbortUpload):
            name = (gid, command.bucket, command.key, command.upload_id)
            if isinstance(command, PutPart):
                self.parts.setdefault(name, {})[command.part.number] = command.part
            elif isinstance(command, CompleteUpload):
                self.completions[name] = command
            else:
                self.aborted.add(name)
            return
        if isinstance(command, PutObject):
            self.refused_ids.update(extent.data_id for extent in command.version.extents if extent.policy != INLINE)
        label = f"{type(command).__name__}: {reason}"
        self.done.undecided[label] = self.done.undecided.get(label, 0) + 1

    def open_shard(self, gid: int, bucket: int, revision: int, buckets: Buckets) -> None:
        """A shard that takes what patchy entries say."""
        shards = self.machine.shards
        shard = shards.find(gid, bucket)
        if shard is None or shard.revision < revision:
            record = buckets.by_id.get(bucket)
            versioning = record.versioning if record is not None else 0 if shard is None else shard.versioning
            self.machine.apply(gid, self.state(gid).applied, EnsureShard(bucket, max(revision, shards.min_revision(gid)), versioning))
            shard = shards.find(gid, bucket)
        assert shard is not None
        shard.quota = 0  # until ``close_shards``

    def close_shards(self, buckets: Buckets) -> None:
        """The buckets' quotas hold again; grants are made anew when they are needed."""
        for bucket in buckets.by_id.values():
            for gid in sorted(self.patchy):
                shard = self.machine.shards.find(gid, bucket.bucket)
                if shard is not None and shard.quota != bucket.quota:
                    shard.quota, shard.grant = bucket.quota, 0
                    self.machine.shards.dirty.add((gid, bucket.bucket))

    def _compare_and_set(self, gid: int, command: Cas) -> None:
        """A ``Cas`` behind a gap: a record that is older than expected, or not there, is one whose change is lost."""
        revision = store_revision(self.view, gid)
        for key, expected in command.expect.items():
            record = get_record(self.view, gid, key)
            if record is not None and expected >= 0 and record.rev > expected:
                label = "Cas: conflict"
                self.done.undecided[label] = self.done.undecided.get(label, 0) + 1
                return
            revision = max(revision, expected)
        for key, value in command.ops:
            if value is None:
                self.view.delete(control_key(gid, key))
            else:
                self.view.put(control_key(gid, key), _encode(Rec(key, value, revision + 1)))
        self.view.put(store_revision_key(gid), (revision + 1).to_bytes(8, "big"))

    def drop_bucket(self, gid: int, bucket: int) -> None:
        """Take away every row of a bucket that was deleted: nobody could reach them, and their bytes would never come back."""
        view = self.view
        for row, raw in list(walk(view, prefix := object_prefix(gid, bucket), successor(prefix))):
            object_id = self.machine.objects.decode(raw).object_id
            for hanging in (version_prefix(gid, object_id), manifest_prefix(gid, object_id, 0)[:PREFIX_BYTES]):
                for key, _ in list(walk(view, hanging, successor(hanging))):
                    view.delete(key)
            view.delete(row)
        for row, _ in list(walk(view, prefix := upload_prefix(gid, bucket), successor(prefix))):
            for key, _ in list(walk(view, parts := part_prefix(gid, row[-16:]), successor(parts))):
                view.delete(key)
            view.delete(row)
        for prefix in (upload_index_prefix(gid, bucket), completed_prefix(gid, bucket)):
            for row, _ in list(walk(view, prefix, successor(prefix))):
                view.delete(row)
        self.machine.shards.remove(gid, bucket)
        self.done.deleted_buckets += 1
        self.settle()

    # the end -------------------------------------------------------------------------------------------------------

    def place(self, names: Iterable[bytes], epoch: int) -> None:
        """Give every named data id its ``loc`` row, every segment its ``seg`` row, and the groups and the log's end their places.

        ``names`` are of this volume and were found in its segments.
        """
        history = self.history
        segments = Segments(self.view)
        for number, file in history.segments.items():
            if file.header.kind != LOG or number <= history.end.segment:  # the others are spares
                segments.add(number, file.header.kind, file.header.capacity, file.header.flags)
        for data_id in names:
            body = history.bodies.get(data_id) or history.extents[data_id]
            segments.put(data_id, body.place)
            self.settle()
        for number in segments.table:
            segments.seal(number)
        segments.write_rows()
        self.settle(always=True)
        for gid, state in self.states.items():
            state.time_ms, state.damaged = self.machine.times.get(gid, 0), ""
        end = history.end
        self.environment.commit(Overlay(), Checkpoint(Position(end.segment, end.offset, end.batch, epoch), self.states))

    def close(self) -> None:
        """Close the environment."""
        self.view.close()
        self.environment.close()


class Buckets(msgspec.Struct):
    """Buckets as the control plane has them. ``is_whole``: what it does not name was deleted."""

    by_id: dict[int, BucketRecord]
    is_whole: bool

    def was_deleted(self, bucket: int) -> bool:
        """Whether a bucket id certainly has no bucket any more."""
        return self.is_whole and bucket not in self.by_id


def _command(record: Record) -> Command:
    try:
        return decode_command(record.command)
    except (LookupError, msgspec.MsgspecError) as error:
        raise FormatError(f"group {record.gid}, index {record.index}: {error}; a newer TitanS3 has to read this") from error
