"""Metadata of a stopped node made anew from a snapshot, the log and the segments: restore and rebuild.

Invariants
* New environments are made beside the old ones and take their places when all are whole and synced; the old ones are kept aside.
* From the first exchange to the last ``run/rebuilding`` says so, and a server does not start: half a restore is never served.
* A row is kept only if its bytes are there; what is taken away, left out or not known is in ``Outcome``.
* Volumes that are no targets keep their rows. They get ``loc`` rows for extents that are named again.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack

import msgspec

from titans3.engine.files import OsFiles
from titans3.engine.identity import lock_volume, read_identity
from titans3.engine.location import Location, loc_key, pack_location
from titans3.engine.segments import FORMAT, SEALED, SegmentRow, counted, seg_key
from titans3.errors import DiskError, FormatError, VolumeBusy
from titans3.jobs.adoption import Adopted, Body, adopt, unnamed_bodies
from titans3.jobs.history import History
from titans3.jobs.replay import Replayed
from titans3.jobs.revival import Buckets, Revival, VolumeRevival
from titans3.jobs.snapshot import Summary, rows_of_volume
from titans3.jobs.verify import OfflineVolume, Report, replay_of
from titans3.limits import BUCKET_SHARDS, SYSTEM_GROUP
from titans3.meta.control import get_record, list_records, store_revision
from titans3.meta.environment import Checkpoint
from titans3.meta.keys import (
    MANIFEST,
    MIN_REVISION,
    OBJECTS,
    PARTS,
    PREFIX_BYTES,
    SHARDS,
    TABLE_AT,
    UPLOADS,
    VERSIONS,
    store_revision_key,
    successor,
    version_prefix,
)
from titans3.meta.overlay import Overlay
from titans3.meta.walk import walk
from titans3.model.command import AbortUpload, Cas, DeleteEntry, DeleteObjects
from titans3.model.control import BucketRecord, bucket_of
from titans3.model.identity import ROOT_ACCOUNT
from titans3.model.version import INLINE, MANIFEST_ROWS, Extent, Part, Shard, Upload, Version
from titans3.ring.ownership import SYSTEM_VOLUME, Ownership

MARK = "run/rebuilding"
_version = msgspec.msgpack.Decoder(Version).decode
_part = msgspec.msgpack.Decoder(Part).decode
_parts = msgspec.msgpack.Decoder(tuple[Part, ...]).decode
_shard = msgspec.msgpack.Decoder(Shard).decode
_upload = msgspec.msgpack.Decoder(Upload).decode
_segment = msgspec.msgpack.Decoder(SegmentRow).decode
_encode = msgspec.msgpack.Encoder().encode


class Plan(msgspec.Struct, frozen=True):
    """What to do. ``targets``: indexes of volumes. ``snapshot``: file and summary.

    ``adopt``: bring back extents without a name.
    """

    folder: str
    volumes: tuple[str, ...]
    group_volume: tuple[int, ...]
    targets: tuple[int, ...]
    snapshot: tuple[str, Summary] | None = None
    replay: bool = True
    adopt: bool = False
    dry_run: bool = False
    now_ms: int = 0
    region: str = "us-east-1"


class LostVersion(msgspec.Struct, frozen=True):
    """A version whose bytes are gone; its row was taken away. ``upload_id``: of an open upload instead."""

    bucket: int
    key: bytes
    version_id: str
    size: int
    upload_id: bytes = b""


class VolumeOutcome(msgspec.Struct):
    """A target. ``is_whole``: the log holds everything since the base, so nothing is missing. ``kept``: where its old metadata is now."""

    index: int
    is_whole: bool
    missing_batches: int
    revival: Revival
    problems: list[str]
    kept: str = ""


class Outcome(msgspec.Struct):
    """What became of everything. ``left``: (objects or parts, bytes) whose bytes are there without a row, made since the snapshot."""

    volumes: list[VolumeOutcome] = []
    names: dict[int, str] = {}
    objects: int = 0
    lost: list[LostVersion] = []
    adopted: list[Adopted] = []
    named_buckets: dict[int, str] = {}
    left: tuple[int, int] = (0, 0)
    notes: list[str] = []

    @property
    def is_complete(self) -> bool:
        """Whether nothing is missing that was acknowledged."""
        return not self.lost and all(one.is_whole and not one.revival.undecided and not one.revival.dropped for one in self.volumes)


def unfit(path: str) -> str:
    """Why the metadata of a volume cannot be used, empty if it can. Raises VolumeBusy, FormatError for a folder that is no volume."""
    read_identity(OsFiles(), path)
    report = Report()
    with ExitStack() as stack:
        try:
            volume = OfflineVolume(path, stack)
        except VolumeBusy:
            raise
        except (DiskError, FormatError) as error:
            return str(error)
        environment = volume.environment
        for database in (environment.meta, environment.kv, environment.loc, environment.seg):
            for _ in volume.rows(database, report):
                pass
        if not report.findings:
            damaged = next((state.damaged for state in environment.groups().values() if state.damaged), "")
            if damaged:
                return f"a group is damaged: {damaged}"
            volume.read_headers(Report())  # a data segment that is damaged is no matter of the rows
            recovery = replay_of(volume, report)
            position = environment.position()
            if (position is None or not position.batch) and not recovery.batches:
                return f"{path}/meta is empty: the volume was formatted and never used"
            if position is None:  # a start that was refused left it; what the log holds is not all that it held
                return f"{path}/meta was made anew and knows nothing of the segments that are there"
            return recovery.unproven or next(iter(recovery.damaged.values()), "") or "".join(report.findings[:1])
    return report.findings[0]


class Rebuild:
    """One run. ``run`` does it; locks of the volumes are held until the end of ``stack``."""

    def __init__(self, plan: Plan, stack: ExitStack) -> None:
        self._plan = plan
        self._files = OsFiles()
        self._owners = Ownership(plan.group_volume, (0,) * len(plan.volumes))
        self.outcome = Outcome()
        self._kept: dict[int, Replayed] = {}
        self._histories: dict[int, History] = {}
        self._revivals: dict[int, VolumeRevival] = {}
        self._prepare(stack)

    def _prepare(self, stack: ExitStack) -> None:
        plan = self._plan
        for index, path in enumerate(plan.volumes):
            if index in plan.targets:
                stack.callback(self._files.close, lock_volume(self._files, path))
                shutil.rmtree(f"{path}/meta.new", ignore_errors=True)
            else:
                replayed = self._kept[index] = Replayed(OfflineVolume(path, stack))
                stack.callback(replayed.close)
            self._histories[index] = History(path)
        for index in plan.targets:
            revival = self._revivals[index] = VolumeRevival(index, self._histories[index], f"{plan.volumes[index]}/meta.new")
            stack.callback(revival.close)
            if plan.snapshot is not None:
                file, summary = plan.snapshot
                head = next(head for head in summary.volumes if head.index == index)
                revival.load(rows_of_volume(file, index), head.position, head.groups)

    def run(self) -> Outcome:
        """Make everything, then exchange. Raises DiskError, FormatError, OSError; the old metadata is in place then, or ``MARK`` is."""
        plan = self._plan
        self._replay()
        buckets = self._buckets()
        if plan.adopt:
            self._adopt(buckets)
        else:
            bodies = self._unnamed()
            self.outcome.left = (len(bodies), sum(body.size for body in bodies))
        for revival in self._revivals.values():
            revival.close_shards(buckets)
        self._drop_buckets(buckets)
        self._drop_lost()
        self._name_buckets()
        self._raise_revisions()
        self._place()
        for index, revival in self._revivals.items():
            self.outcome.volumes.append(
                VolumeOutcome(
                    index, revival.is_whole, revival.history.missing_from(revival.base.batch), revival.done, revival.history.problems
                )
            )
        self.outcome.names = {bucket: record.name for bucket, record in self._buckets().by_id.items()} | self.outcome.named_buckets
        self._note_losses()
        if plan.dry_run:
            for index in plan.targets:
                self._revivals[index].close()
                shutil.rmtree(f"{plan.volumes[index]}/meta.new")
        else:
            self._exchange()
        return self.outcome

    def _note_losses(self) -> None:
        """What cannot be told one by one, because the entries that would tell it are gone."""
        outcome, has_base = self.outcome, self._plan.snapshot is not None
        if all(one.is_whole for one in outcome.volumes):
            return
        since = "since the snapshot" if has_base else "ever"
        outcome.notes.append(
            f"the log has gaps: deletions and overwrites made {since} may be undone,"
            " empty objects and changes of tags and grants may be missing"
        )
        if any(one.index == SYSTEM_VOLUME and not one.is_whole for one in outcome.volumes):
            outcome.notes.append(
                f"the control plane is incomplete: buckets, their configuration, accounts, users, keys and policies made or changed {since}"
                " are there only as far as the log still held them"
            )
        if not self._plan.adopt and outcome.left[0]:
            outcome.notes.append("`titans3 tools meta rebuild --snapshot FILE --overwrite` looks for objects in what lies without a row")

    # rows ----------------------------------------------------------------------------------------------------------

    def _replay(self) -> None:
        """The control plane first: who the buckets are decides what shards look like."""
        order = sorted(self._revivals.items())
        for is_system in (True, False):
            buckets = Buckets({}, False) if is_system else self._buckets()
            for _, revival in order:
                entries = revival.wanted(system=is_system)
                if self._plan.replay:
                    revival.replay(entries, buckets)
                else:
                    revival.skip(entries)

    def _control(self) -> Replayed | VolumeRevival:
        return self._kept[SYSTEM_VOLUME] if SYSTEM_VOLUME in self._kept else self._revivals[SYSTEM_VOLUME]

    def _buckets(self) -> Buckets:
        control = self._control()
        records = [bucket_of(record) for record in list_records(control.view, SYSTEM_GROUP, "/buckets/")]
        is_whole = isinstance(control, Replayed) or control.is_whole or not self._plan.replay
        return Buckets({record.bucket: record for record in records}, is_whole)

    def _rows(self, index: int) -> Iterator[tuple[bytes, bytes]]:
        """Logical rows of a volume as they will be."""
        if index in self._kept:
            yield from self._kept[index].rows()
            return
        revival = self._revivals[index]
        revival.settle(always=True)
        with revival.environment.begin() as transaction:
            yield from revival.environment.layers.rows(transaction)

    def _extents(self, index: int) -> Iterator[tuple[bytes, bytes, Extent]]:
        """(key, value, extent) of every row of a volume that needs bytes."""
        for key, value in self._rows(index):
            for extent in extents_of(key, value):
                yield key, value, extent

    def _volume_of(self, index: int, extent: Extent) -> int:
        return index if extent.policy == INLINE else extent.placement - 1

    def _find(self, index: int, extent: Extent) -> Location | None:
        """Where an extent's bytes lie, if they are those that a row names."""
        history = self._histories.get(self._volume_of(index, extent))
        if history is None:
            return None
        found = history.bodies.get(extent.data_id) if extent.policy == INLINE else history.extents.get(extent.data_id)
        return None if found is None or found.checksum != extent.checksum else found.place

    def _named(self) -> dict[int, set[bytes]]:
        """Data ids that rows of all volumes name, by the volume they lie on."""
        named: dict[int, set[bytes]] = {index: set() for index in self._histories}
        for index in self._histories:
            for _, _, extent in self._extents(index):
                named.setdefault(self._volume_of(index, extent), set()).add(extent.data_id)
        return named

    # what no row names ---------------------------------------------------------------------------------------------

    def _unnamed(self) -> list[Body]:
        plan = self._plan
        groups = {
            gid
            for gid in (*range(len(plan.group_volume)), SYSTEM_GROUP)
            if (revival := self._revivals.get(self._owners.volume_of(gid))) is not None and (not revival.is_whole or not plan.replay)
        }
        if not groups:
            return []
        since: dict[bytes, int] = {}
        if plan.snapshot is not None:
            uuids = {name.index: name.uuid for name in plan.snapshot[1].head.volumes}
            since = {uuids[head.index][:4]: head.position.epoch for head in plan.snapshot[1].volumes}
        return unnamed_bodies(self._histories.items(), self._named(), groups, since)

    def _adopt(self, buckets: Buckets) -> None:
        bodies = self._unnamed()
        for index, revival in self._revivals.items():
            if not revival.is_whole:
                revival.patchy.update(gid for gid in range(len(self._plan.group_volume)) if self._owners.volume_of(gid) == index)
                mine = [body for body in bodies if self._owners.volume_of(body.first.ident.gid) == index]
                self.outcome.adopted += adopt(revival, mine, buckets)

    # what has no bytes ---------------------------------------------------------------------------------------------

    def _drop_lost(self) -> None:
        for index, revival in self._revivals.items():
            lost = [(key, value) for key, value, extent in self._extents(index) if self._find(index, extent) is None]
            if lost:
                self._drop(index, revival, lost)

    def _drop(self, index: int, revival: VolumeRevival, lost: list[tuple[bytes, bytes]]) -> None:
        """Delete versions by their ids, abort uploads: by the state machine, so that counters and what hangs on them stay true."""
        hanging = {(_gid(key), _number(key)) for key, _ in lost if key[TABLE_AT] in (VERSIONS, MANIFEST)}
        uploads = {(_gid(key), key[5:21]) for key, _ in lost if key[TABLE_AT] == PARTS}
        dropped: dict[tuple[int, int, bytes, str], LostVersion] = {}
        for key, value in lost:
            if key[TABLE_AT] == OBJECTS:
                self._note(dropped, key, _version(value))
        for key, value in self._rows(index):
            table, gid = key[TABLE_AT], _gid(key)
            if table == OBJECTS and (gid, (newest := _version(value)).object_id) in hanging:
                for version in self._versions_of(revival, gid, newest):
                    extents = (
                        [extent for part in revival.machine.objects.parts(gid, version) for extent in part.extents]
                        if version.flags & MANIFEST_ROWS else version.extents
                    )  # fmt: skip
                    if any(self._find(index, extent) is None for extent in extents):
                        self._note(dropped, key, version)
            elif table == UPLOADS and (gid, key[-16:]) in uploads:
                bucket, upload = _number(key), _upload(value)
                self.outcome.lost.append(LostVersion(bucket, upload.key, "", 0, key[-16:]))
                outcome = revival.propose(gid, AbortUpload(bucket, upload.key, key[-16:]))
                assert not outcome.reason, outcome
        for (gid, bucket, name, version_id), gone in dropped.items():
            outcome = revival.propose(gid, DeleteObjects(bucket, (DeleteEntry(name, version_id),), 0, bytes(8)))
            assert not outcome.reason, outcome
            assert not outcome.entries[0][0], outcome
            self.outcome.lost.append(gone)

    def _note(self, dropped: dict[tuple[int, int, bytes, str], LostVersion], key: bytes, version: Version) -> None:
        bucket, name = _number(key), key[PREFIX_BYTES:]
        dropped[_gid(key), bucket, name, version.version_id] = LostVersion(bucket, name, version.version_id, version.size)

    @staticmethod
    def _versions_of(revival: VolumeRevival, gid: int, newest: Version) -> Iterator[Version]:
        yield newest
        prefix = version_prefix(gid, newest.object_id)
        for _, value in list(walk(revival.view, prefix, successor(prefix))):
            yield _version(value)

    # buckets -------------------------------------------------------------------------------------------------------

    def _shards(self, index: int) -> Iterator[tuple[int, int, Shard]]:
        for key, value in self._rows(index):
            if key[TABLE_AT] == SHARDS:
                yield _gid(key), _number(key), _shard(value)

    def _drop_buckets(self, buckets: Buckets) -> None:
        """Shards of buckets that were deleted since."""
        for index, revival in self._revivals.items():
            for gid, bucket, _ in list(self._shards(index)):
                if buckets.was_deleted(bucket):
                    revival.drop_bucket(gid, bucket)

    def _name_buckets(self) -> None:
        """A name for every bucket whose record is lost and that holds something: reachable again, under the root's account."""
        revival = self._revivals.get(SYSTEM_VOLUME)
        if revival is None:
            return
        buckets = self._buckets()
        if buckets.is_whole:
            return
        nameless: set[int] = set()
        highest = max(buckets.by_id, default=0)
        for index in self._histories:
            for _, bucket, shard in self._shards(index):
                highest = max(highest, bucket)
                if bucket not in buckets.by_id and (shard.keys or shard.uploads):
                    nameless.add(bucket)
        for bucket in sorted(nameless):
            name = f"recovered-{bucket}"
            record = BucketRecord(1, bucket, name, ROOT_ACCOUNT, self._plan.region, self._plan.now_ms, BUCKET_SHARDS)
            revival.propose(SYSTEM_GROUP, Cas(((f"/buckets/{name}", _encode(record)), (f"/ids/{bucket:020d}", name.encode())), {}))
            self.outcome.named_buckets[bucket] = name
        counter = get_record(revival.view, SYSTEM_GROUP, "/ids/bucket")
        following = 1 if counter is None else int(counter.value)
        if highest >= following:
            revival.propose(SYSTEM_GROUP, Cas((("/ids/bucket", b"%d" % (highest + 1)),), {}))

    def _raise_revisions(self) -> None:
        """A bucket's record is never older than what its shards were told: a later change has to reach them."""
        revival = self._revivals.get(SYSTEM_VOLUME)
        if revival is None:
            return
        told: dict[int, int] = {}
        least = 0
        for index in self._histories:
            for key, value in self._rows(index):
                if key[TABLE_AT] == SHARDS:
                    bucket, revision = _number(key), _shard(value).revision
                    told[bucket] = max(told.get(bucket, 0), revision)
                    least = max(least, revision)
                elif key[TABLE_AT] == MIN_REVISION:
                    least = max(least, int.from_bytes(value, "big"))
        view = revival.view
        if store_revision(view, SYSTEM_GROUP) < least:
            view.put(store_revision_key(SYSTEM_GROUP), least.to_bytes(8, "big"))
        for record in list(self._buckets().by_id.values()):
            if record.revision < told.get(record.bucket, 0):
                plain = _encode(msgspec.structs.replace(record, revision=0))
                revival.propose(SYSTEM_GROUP, Cas(((f"/buckets/{record.name}", plain),), {}))

    # places --------------------------------------------------------------------------------------------------------

    def _place(self) -> None:
        named = self._named()
        epochs = {index: history.end.epoch for index, history in self._histories.items()}
        if self._plan.snapshot is not None:
            for head in self._plan.snapshot[1].volumes:
                epochs[head.index] = max(epochs[head.index], head.position.epoch)
        for index, replayed in self._kept.items():
            if not self._plan.dry_run:
                self._place_again(replayed, self._histories[index], named[index])
        for index, revival in self._revivals.items():
            history = self._histories[index]
            mine = [data_id for data_id in named[index] if data_id in history.bodies or data_id in history.extents]
            self.outcome.objects += sum(1 for key, _ in self._rows(index) if key[TABLE_AT] == OBJECTS)
            revival.place(sorted(mine), epochs[index] + 1)

    def _place_again(self, replayed: Replayed, history: History, named: set[bytes]) -> None:
        """``loc`` rows of a kept volume for extents that are named and have none: freed since, and still there."""
        environment = replayed.volume.environment
        overlay, rows = Overlay(), dict[int, SegmentRow]()
        stored = {int.from_bytes(key, "big"): _segment(value) for key, value in environment.rows_of(environment.seg)}
        for data_id in sorted(named):
            found = history.extents.get(data_id)
            if found is None or replayed.view.get_loc(loc_key(data_id)) is not None:
                continue
            place = found.place
            header = history.segments[place.segment].header
            row = rows.get(place.segment) or stored.get(place.segment)
            row = row or SegmentRow(FORMAT, header.kind, header.flags, SEALED, header.capacity)
            row.live += counted(place)
            row.freed = [offset for offset in row.freed if offset != place.offset]
            rows[place.segment] = row
            overlay.put_loc(loc_key(data_id), pack_location(place.segment, place.offset, place.length, place.kind))
        if rows:
            for number, row in rows.items():
                overlay.seg[seg_key(number)] = _encode(row)
            position = environment.position()
            assert position is not None
            environment.commit(overlay, Checkpoint(position, {}))

    # the exchange --------------------------------------------------------------------------------------------------

    def _exchange(self) -> None:
        plan, files = self._plan, self._files
        for revival in self._revivals.values():
            revival.close()
        mark = os.path.join(plan.folder, MARK)
        fd = os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.fsync(fd)
        os.close(fd)
        files.sync_dir(os.path.dirname(mark), "rebuild.mark")
        for outcome in self.outcome.volumes:
            path = plan.volumes[outcome.index]
            if os.path.isdir(f"{path}/meta"):
                outcome.kept = f"{path}/meta.replaced-{plan.now_ms}"
                files.rename(f"{path}/meta", outcome.kept)
            files.rename(f"{path}/meta.new", f"{path}/meta")
            files.sync_dir(path, "rebuild.exchange")
        files.unlink(mark)
        files.sync_dir(os.path.dirname(mark), "rebuild.mark")


def extents_of(key: bytes, value: bytes) -> tuple[Extent, ...]:
    """What a row needs bytes of; rows of the GC queue need none."""
    table = key[TABLE_AT]
    if table in (OBJECTS, VERSIONS):
        return _version(value).extents
    if table == MANIFEST:
        return tuple(extent for part in _parts(value) for extent in part.extents)
    return _part(value).extents if table == PARTS else ()


def _gid(key: bytes) -> int:
    return int.from_bytes(key[:TABLE_AT], "big")


def _number(key: bytes) -> int:
    """Bucket id or object id of a row."""
    return int.from_bytes(key[TABLE_AT + 1 : PREFIX_BYTES], "big")
