"""A control plane in memory: one dict, revisions, and the cache that workers have."""

from __future__ import annotations

from collections.abc import Sequence

from titans3.cluster.control.cache import ControlCache
from titans3.cluster.control.interface import Conflict, Op
from titans3.model.control import Event, Rec


class MemoryControl:
    """``get``, ``list`` and ``cas`` of a ControlPlane. Changes are in the cache when they are answered."""

    def __init__(self) -> None:
        self.cache = ControlCache()
        self.cache.replace([], 0)

    async def get(self, key: str) -> Rec | None:
        return self.cache.records.get(key)

    async def list(self, prefix: str) -> tuple[list[Rec], int]:
        found = sorted(rec.key for rec in self.cache.records.values() if rec.key.startswith(prefix))
        return [self.cache.records[key] for key in found], self.cache.revision

    async def cas(self, ops: Sequence[Op], expect: dict[str, int]) -> int:
        return self.cas_nowait(ops, expect)

    def cas_nowait(self, ops: Sequence[Op], expect: dict[str, int]) -> int:
        for key, revision in expect.items():
            rec = self.cache.records.get(key)
            if revision != -1 and (0 if rec is None else rec.rev) != revision:
                raise Conflict(key)
        revision = self.cache.revision + 1
        assert self.cache.follow(revision - 1, revision, [Event(key, value, revision) for key, value in ops])
        return revision
