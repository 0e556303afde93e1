"""Offline verification of the metadata: every row, every reference to bytes, every counter.

Invariants
* Every version and part has its bytes, of the right length and checksum, and shares them with none; every row that hangs on another has it;
  no small body is left that nothing names. Shard counters are what the rows say.
* Volumes are checkpointed each by itself. So after a kill a row may name an extent that was freed for an entry which that row's own
  log still holds: such references are counted as unsettled, not as findings; the replay settles them.
* Where rows are damaged, counters and bodies without a name are not judged.

Memory: about 200 bytes for each key with older versions, each upload and each manifest, beside what ``verify`` keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import lmdb
import msgspec

from titans3.engine.location import EXTENT
from titans3.jobs.verify import OfflineVolume, Report, Stored, check_stored
from titans3.meta.keys import (
    GC,
    MANIFEST,
    OBJECTS,
    PARTS,
    PREFIX_BYTES,
    SHARDS,
    TABLE_AT,
    UPLOADS,
    VERSIONS,
    successor,
    version_prefix,
)
from titans3.meta.rows import RowDamaged
from titans3.model.version import INLINE, MANIFEST_ROWS, MARKER, Extent, Part, Shard, Upload, Version

_version = msgspec.msgpack.Decoder(Version).decode
_part = msgspec.msgpack.Decoder(Part).decode
_parts = msgspec.msgpack.Decoder(tuple[Part, ...]).decode
_shard = msgspec.msgpack.Decoder(Shard).decode
_upload = msgspec.msgpack.Decoder(Upload).decode
_extent = msgspec.msgpack.Decoder(Extent).decode


class _Tally(msgspec.Struct):
    """What a shard's counters should say."""

    keys: int = 0
    versions: int = 0
    markers: int = 0
    stored_bytes: int = 0
    uploads: int = 0
    upload_bytes: int = 0

    def count(self, version: Version) -> None:
        if version.flags & MARKER:
            self.markers += 1
        else:
            self.versions += 1
            self.stored_bytes += version.size


def verify_rows(volumes: Sequence[OfflineVolume], report: Report) -> None:
    """Check every row of every volume; ``volumes`` in index order, each after ``verify_volume``."""
    for index, volume in enumerate(volumes):
        _Rows(volume, index, volumes, report).check()
    for volume in volumes:
        unnamed = [stored for stored in volume.stored.values() if not stored.is_named]
        report.unnamed += sum(1 for stored in unnamed if stored.place.kind == EXTENT)
        bodies = sum(1 for stored in unnamed if stored.place.kind != EXTENT)
        if bodies and not volume.has_damaged_rows:
            report.find(f"{volume.path}: {bodies} small bodies that no row names")


class _Rows:
    """The rows of one volume, taken in the order of the tree; newest versions last, because their keys may be cut over layers."""

    def __init__(self, volume: OfflineVolume, index: int, volumes: Sequence[OfflineVolume], report: Report) -> None:
        self._volume, self._index, self._volumes, self._report = volume, index, volumes, report
        self._prefixes: set[bytes] = set()
        self._shards: dict[tuple[int, int], Shard] = {}
        self._tallies: dict[tuple[int, int], _Tally] = {}
        self._older: dict[bytes, _Tally] = {}  # by prefix of the versions table
        self._uploads: dict[tuple[int, bytes], int] = {}  # by gid and upload id: bucket
        self._manifests: dict[tuple[int, int, int], int] = {}  # by gid, object id and seq: bytes of the parts
        self._of_manifest: list[tuple[bytes, tuple[int, int, int], int]] = []  # row, manifest, size of the version
        self._take: dict[int, Callable[[bytes, bytes], None]] = {
            OBJECTS: self._object, VERSIONS: self._older_version, MANIFEST: self._manifest, UPLOADS: self._upload,
            PARTS: self._open_part, SHARDS: self._shard, GC: self._queued,
        }

    def check(self) -> None:
        """Read and judge everything."""
        volume, report = self._volume, self._report
        for key, value in volume.rows(volume.environment.kv, report):
            take = self._take.get(key[TABLE_AT])
            if take is not None:
                take(key, value)
        for _ in volume.rows(volume.environment.meta, report):
            pass
        for prefix in sorted(self._prefixes):
            self._newest(prefix)
        for key, manifest, size in self._of_manifest:
            found = self._manifests.pop(manifest, None)
            if found != size:
                report.find(f"{_row_name(key)}: a version of {size} bytes with {found or 0} in its manifest")
        if not volume.has_damaged_rows:
            self._judge_counts()

    def _judge_counts(self) -> None:
        report = self._report
        for prefix in self._older:
            report.find(f"{_row_name(prefix)}: older versions of no key")
        for gid, object_id, seq in self._manifests:
            report.find(f"group {gid}: the manifest of version {seq} of object id {object_id} belongs to nothing")
        for gid, bucket in self._tallies.keys() | self._shards.keys():
            shard, tally = self._shards.get((gid, bucket)), self._tallies.get((gid, bucket), _Tally())
            if shard is None:
                report.find(f"group {gid}, bucket id {bucket}: rows without a shard row")
                continue
            for name in _Tally.__struct_fields__:
                counted, found = getattr(shard, name), getattr(tally, name)
                if counted != found:
                    report.find(f"group {gid}, bucket id {bucket}: the shard counts {counted} {name} and has {found}")

    # tables --------------------------------------------------------------------------------------------------------

    def _tally(self, gid: int, bucket: int) -> _Tally:
        return self._tallies.setdefault((gid, bucket), _Tally())

    def _object(self, key: bytes, value: bytes) -> None:
        self._prefixes.add(key[:PREFIX_BYTES])

    def _newest(self, prefix: bytes) -> None:
        """Newest versions of a bucket in a group; keys of any length."""
        environment, gid = self._volume.environment, _gid(prefix)
        tally = self._tally(gid, int.from_bytes(prefix[5:], "big"))
        try:
            with environment.begin() as txn:
                for key, value in environment.layers.scan(txn, prefix, successor(prefix)):
                    version = _version(value)
                    tally.keys += 1
                    tally.count(version)
                    older = self._older.pop(version_prefix(gid, version.object_id), None) if version.older else None
                    if older is not None:
                        tally.versions += older.versions
                        tally.markers += older.markers
                        tally.stored_bytes += older.stored_bytes
                    self._check_version(key, version)
        except RowDamaged:
            self._report.find(f"{self._volume.path}: rows of group {gid} behind a damaged one were not checked")
        except lmdb.Error as error:
            self._report.find(f"{self._volume.path}/meta: the rows of group {gid} cannot be read: {error}")
            self._volume.has_damaged_rows = True

    def _older_version(self, key: bytes, value: bytes) -> None:
        version = _version(value)
        self._older.setdefault(key[:PREFIX_BYTES], _Tally()).count(version)
        self._check_version(key, version)

    def _manifest(self, key: bytes, value: bytes) -> None:
        parts = _parts(value)
        which = _gid(key), int.from_bytes(key[5:PREFIX_BYTES], "big"), int.from_bytes(key[PREFIX_BYTES:-4], "big")
        self._manifests[which] = self._manifests.get(which, 0) + sum(part.size for part in parts)
        for part in parts:
            self._check_bytes(key, part.extents, part.size)

    def _upload(self, key: bytes, value: bytes) -> None:
        _upload(value)
        gid, bucket = _gid(key), int.from_bytes(key[5:PREFIX_BYTES], "big")
        self._uploads[gid, key[-16:]] = bucket
        self._tally(gid, bucket).uploads += 1

    def _open_part(self, key: bytes, value: bytes) -> None:
        part, bucket = _part(value), self._uploads.get((_gid(key), key[5:21]))
        if bucket is not None:
            self._tally(_gid(key), bucket).upload_bytes += part.size
        elif not self._volume.has_damaged_rows:
            self._report.find(f"{_row_name(key)}: a part of no upload")
        self._check_bytes(key, part.extents, part.size)

    def _shard(self, key: bytes, value: bytes) -> None:
        self._shards[_gid(key), int.from_bytes(key[5:PREFIX_BYTES], "big")] = _shard(value)

    def _queued(self, key: bytes, value: bytes) -> None:
        """An extent that waits for the collector: it may be there or not, but nothing else may name it."""
        extent = _extent(value)
        stored = self._stored(extent)
        if stored is not None:
            self._name(key, extent, stored)

    # references ----------------------------------------------------------------------------------------------------

    def _check_version(self, key: bytes, version: Version) -> None:
        if version.flags & MANIFEST_ROWS:
            self._of_manifest.append((key, (_gid(key), version.object_id, version.seq), version.size))
        else:
            self._check_bytes(key, version.extents, version.size)

    def _stored(self, extent: Extent) -> Stored | None:
        place = self._index if extent.policy == INLINE else extent.placement - 1
        return self._volumes[place].stored.get(extent.data_id + b"\0\0") if 0 <= place < len(self._volumes) else None

    def _name(self, key: bytes, extent: Extent, stored: Stored) -> None:
        if stored.is_named:
            self._report.find(f"{_row_name(key)}: its bytes (data id {extent.data_id.hex()}) belong to another row, too")
        stored.is_named = True

    def _check_bytes(self, key: bytes, extents: tuple[Extent, ...], size: int) -> None:
        report = self._report
        if sum(extent.length for extent in extents) != size:
            report.find(f"{_row_name(key)}: {size} bytes, and {sum(extent.length for extent in extents)} in its extents")
        for extent in extents:
            stored = self._stored(extent)
            if stored is None:
                if self._volume.pending and extent.policy != INLINE:
                    report.unsettled += 1
                else:
                    place = self._index if extent.policy == INLINE else extent.placement - 1
                    report.find(f"{_row_name(key)}: its bytes (data id {extent.data_id.hex()}) are not on volume {place}")
                continue
            if not stored.is_known:
                stored.is_known = True
                check_stored(self._volumes[extent.placement - 1], extent.data_id + b"\0\0", stored, report)
            self._name(key, extent, stored)
            if stored.length >= 0 and (stored.length, stored.checksum) != (extent.length, extent.checksum):
                report.find(
                    f"{_row_name(key)}: its bytes (data id {extent.data_id.hex()}) are not the ones it names: "
                    f"{stored.length} bytes, {extent.length} are wanted; checksum {stored.checksum:016x}, {extent.checksum:016x} is wanted"
                )


def _gid(key: bytes) -> int:
    return int.from_bytes(key[:TABLE_AT], "big")


def _row_name(key: bytes) -> str:
    if key[TABLE_AT] == OBJECTS:
        return f"group {_gid(key)}, bucket id {int.from_bytes(key[5:PREFIX_BYTES], 'big')}, key {key[PREFIX_BYTES:]!r}"
    return f"group {_gid(key)}, row {key.hex()}"
