"""GC queue and sweep fences at apply.

Invariants
* A data id at or below its writer's watermark is refused from the fence on, so a late commit cannot meet the sweep; no clock is trusted.
* A candidate counts as referenced if a version, manifest, part or GC row of the named key or upload still names it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from titans3.meta.keys import fence_key, gc_key, part_key, successor, version_prefix
from titans3.meta.objects import Objects
from titans3.model.command import DataRef, GcDone, Outcome, SweepFence
from titans3.model.version import MANIFEST_ROWS, Version

if TYPE_CHECKING:
    from titans3.meta.machine import Rows


class Sweep:
    """Fences and the queue of one volume's groups."""

    def __init__(self, rows: Rows, objects: Objects) -> None:
        self._rows, self._objects = rows, objects

    def is_fenced(self, gid: int, data_id: bytes) -> bool:
        """Whether a data id lies at or below its writer's watermark."""
        raw = self._rows.get(fence_key(gid, int.from_bytes(data_id[8:16], "big")))
        return raw is not None and data_id[:8] <= raw

    def fence(self, gid: int, index: int, command: SweepFence) -> Outcome:
        """Raise the watermark; answer which candidates are referenced."""
        key = fence_key(gid, command.writer)
        raw = self._rows.get(key)
        mark = command.watermark.to_bytes(8, "big")
        if raw is None or raw < mark:
            self._rows.put(key, mark)
        found = [ref.data_id for ref in command.candidates if self._is_referenced(gid, ref)]
        return Outcome("", index, None, (), b"".join(found))

    def _is_referenced(self, gid: int, ref: DataRef) -> bool:
        if ref.upload_id:
            raw = self._rows.get(part_key(gid, ref.upload_id, ref.part))
            if raw is not None and ref.data_id in raw:
                return True
        newest = self._objects.newest(gid, ref.bucket, ref.key)
        if newest is None:
            return False
        if self._names(gid, newest, ref.data_id):
            return True
        prefix = version_prefix(gid, newest.object_id)
        start, stop = prefix, successor(prefix)
        while newest.older:
            rows = self._rows.scan(start, stop, 100)
            if any(self._names(gid, self._objects.decode(raw), ref.data_id) for _, raw in rows):
                return True
            if len(rows) < 100:
                break
            start = rows[-1][0] + b"\0"
        return False

    def _names(self, gid: int, version: Version, data_id: bytes) -> bool:
        if version.flags & MANIFEST_ROWS:
            return any(extent.data_id == data_id for part in self._objects.parts(gid, version) for extent in part.extents)
        return any(extent.data_id == data_id for extent in version.extents)

    def done(self, gid: int, index: int, command: GcDone) -> Outcome:
        """Queue rows whose data is gone."""
        for seq, data_id in command.rows:
            self._rows.delete(gc_key(gid, seq, data_id))
        return Outcome(index=index)
