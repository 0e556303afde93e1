"""Objects whose rows are lost and whose extents are there: rows for them, as far as the extents tell.

Invariants
* Only where the log has gaps: where it is whole, an extent without a name was never committed, or is deleted.
* Of a key only what is newer than its row, and than a deletion that is known; of several the newest.
* What an extent does not say is lost and said to be: owner, tags, grants, checksums of the client, version id, older versions. It may bring
  back what was deleted, or never committed: too much rather than too little.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping

import msgspec

from titans3.jobs.history import FoundRun, History
from titans3.jobs.revival import Buckets, UploadName, VolumeRevival
from titans3.model.command import CompletePart, CompleteUpload, CreateUpload, PutObject, PutPart
from titans3.model.version import ROW_FORMAT, SINGLE, Extent, Part, Version


class Adopted(msgspec.Struct, frozen=True):
    """An object that has a row again."""

    bucket: int
    key: bytes
    size: int
    time_ms: int


class Body(msgspec.Struct):
    """Extents of one object or part by ordinal, each with the volume it lies on."""

    runs: dict[int, tuple[int, FoundRun]] = {}

    @property
    def is_whole(self) -> bool:
        """Whether none is missing."""
        return bool(self.runs) and len(self.runs) == max(self.runs) + 1 and self.last.is_last

    @property
    def first(self) -> FoundRun:
        """The first."""
        return self.runs[0][1]

    @property
    def last(self) -> FoundRun:
        """The last that is there; with the MD5 if the body is whole."""
        return self.runs[max(self.runs)][1]

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(run.length for _, run in self.runs.values())

    def extents(self) -> tuple[Extent, ...]:
        """As a row names them."""
        return tuple(
            Extent(run.ident.data_id, run.length, SINGLE, volume + 1, run.checksum) for _, (volume, run) in sorted(self.runs.items())
        )


def unnamed_bodies(
    histories: Iterable[tuple[int, History]], named: Mapping[int, Iterable[bytes]], groups: set[int], since: Mapping[bytes, int]
) -> list[Body]:
    """Whole bodies of ``groups`` that no row names, made since the base.

    ``since``: last epoch of the base, by the first bytes of a volume's uuid.
    """
    found: dict[bytes, Body] = {}
    for volume, history in histories:
        known = set(named.get(volume, ()))
        for data_id, run in history.extents.items():
            epoch = int.from_bytes(data_id[12:16], "big")
            if data_id not in known and run.ident.gid in groups and epoch > since.get(data_id[8:12], 0):
                found.setdefault(run.ident.write_id, Body()).runs[run.ident.ordinal] = (volume, run)
    return [body for body in found.values() if body.is_whole and 0 in body.runs]


def adopt(revival: VolumeRevival, bodies: list[Body], buckets: Buckets) -> list[Adopted]:
    """Give rows to those ``bodies`` that belong to groups of a volume and are the newest of their keys."""
    done: list[Adopted] = []
    single: dict[tuple[int, int, bytes], Body] = {}
    uploads: dict[UploadName, dict[int, Body]] = {}
    for body in bodies:
        ident = body.first.ident
        if buckets.was_deleted(ident.bucket) or body.first.ident.data_id in revival.refused_ids:
            continue
        if ident.part:
            parts = uploads.setdefault((ident.gid, ident.bucket, ident.key, ident.upload_id), {})
            if ident.part not in parts or parts[ident.part].first.ident.created_ms < ident.created_ms:
                parts[ident.part] = body
        else:
            name = (ident.gid, ident.bucket, ident.key)
            if name not in single or single[name].first.ident.created_ms < ident.created_ms:
                single[name] = body
    for (gid, _, _), body in sorted(single.items()):
        ident = body.first.ident
        if _is_later(revival, gid, ident.bucket, ident.key, ident.created_ms):
            done.append(_adopt_single(revival, gid, body, buckets))
    for upload in sorted(uploads.keys() | revival.parts.keys()):
        found = _adopt_upload(revival, upload, uploads.get(upload, {}), buckets)
        if found is not None:
            done.append(found)
    return done


def _is_later(revival: VolumeRevival, gid: int, bucket: int, key: bytes, time_ms: int) -> bool:
    newest = revival.machine.objects.newest(gid, bucket, key)
    return time_ms > revival.deleted.get((bucket, key), -1) and (newest is None or time_ms > newest.modified_ms)


def _owner(buckets: Buckets, bucket: int) -> str:
    record = buckets.by_id.get(bucket)
    return "" if record is None else record.owner


def _blob(run: FoundRun) -> tuple[dict[str, str], dict[str, str]]:
    blob = msgspec.msgpack.decode(run.ident.blob) if run.ident.blob else {}
    return blob.get("headers", {}), blob.get("metadata", {})


def _adopt_single(revival: VolumeRevival, gid: int, body: Body, buckets: Buckets) -> Adopted:
    ident = body.first.ident
    headers, metadata = _blob(body.first)
    version = Version(
        ROW_FORMAT, 0, 0, ident.created_ms, body.size, body.last.md5, 0, 0, owner=_owner(buckets, ident.bucket), extents=body.extents(),
        headers=headers, metadata=metadata, nonce=os.urandom(8),
    )  # fmt: skip
    revival.open_shard(gid, ident.bucket, 0, buckets)
    outcome = revival.propose(gid, PutObject(ident.bucket, ident.key, version))
    assert not outcome.reason, outcome
    return Adopted(ident.bucket, ident.key, body.size, ident.created_ms)


def _adopt_upload(revival: VolumeRevival, name: UploadName, bodies: dict[int, Body], buckets: Buckets) -> Adopted | None:
    """An upload whose beginning or parts are lost: completed as its last entry says, or of all the parts there are."""
    gid, bucket, key, upload_id = name
    uploads = revival.machine.uploads
    if name in revival.aborted or buckets.was_deleted(bucket) or uploads.completed(gid, bucket, key, upload_id) is not None:
        return None
    upload, completion = uploads.find(gid, bucket, key, upload_id), revival.completions.get(name)
    if upload is not None and completion is None:
        return None  # it is still open
    parts = {number: _part(number, body) for number, body in bodies.items()} | revival.parts.get(name, {})
    if upload is not None:
        parts |= {part.number: part for part in uploads.parts(gid, upload_id, 0, 1 << 16)}
    numbers = sorted(parts) if completion is None else [item.number for item in completion.parts]
    if not numbers or any(number not in parts for number in numbers):
        return None
    chosen = [parts[number] for number in numbers]
    time_ms = max(part.modified_ms for part in chosen) if completion is None else completion.now_ms
    if not _is_later(revival, gid, bucket, key, time_ms):
        return None
    revival.open_shard(gid, bucket, 0, buckets)
    if upload is None:
        headers, metadata = _blob(bodies[min(bodies)].first) if bodies else ({}, {})
        made = revival.propose(gid, CreateUpload(bucket, key, time_ms, _owner(buckets, bucket), os.urandom(8), headers, metadata))
        assert not made.reason, made
        upload_id = made.data
    for part in chosen:
        if uploads.part(gid, upload_id, part.number) is None:
            outcome = revival.propose(gid, PutPart(bucket, key, upload_id, part))
            assert not outcome.reason, outcome
    etag = hashlib.md5(b"".join(part.etag for part in chosen), usedforsecurity=False).digest()
    listed = tuple(CompletePart(part.number, part.etag) for part in chosen)
    outcome = revival.propose(gid, CompleteUpload(bucket, key, upload_id, listed, time_ms, os.urandom(8), etag, 0))
    assert not outcome.reason, outcome
    return Adopted(bucket, key, sum(part.size for part in chosen), time_ms)


def _part(number: int, body: Body) -> Part:
    return Part(number, body.size, body.last.md5, body.first.ident.created_ms, body.extents())
