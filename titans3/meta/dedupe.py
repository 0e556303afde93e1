"""Results of identified commands, so that a repeat has one effect (I11).

Invariants
* The last 512 identified results of a group are kept, in a ring of 16 chunk rows of 32; a chunk is put when it changed, at the freeze.
* A command whose id is not in the ring, but whose proposer first saw an applied index from before the ring's oldest entry, is
  refused with UNKNOWN_OUTCOME: its first try may have been forgotten.
"""

from __future__ import annotations

import msgspec

from titans3.errors import Reason
from titans3.limits import DEDUPE_CHUNK, DEDUPE_RESULTS
from titans3.meta.keys import dedupe_key
from titans3.model.command import Outcome

_CHUNKS = DEDUPE_RESULTS // DEDUPE_CHUNK


class Result(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One remembered result."""

    request_id: bytes
    index: int
    outcome: Outcome
    place: int


class _Ring:
    __slots__ = ("by_id", "count", "dirty", "slots")

    def __init__(self) -> None:
        self.slots: list[Result | None] = [None] * DEDUPE_RESULTS
        self.by_id: dict[bytes, Result] = {}
        self.count = 0
        self.dirty: set[int] = set()

    def put(self, result: Result) -> None:
        slot = result.place % DEDUPE_RESULTS
        old = self.slots[slot]
        if old is not None:
            self.by_id.pop(old.request_id, None)
        self.slots[slot] = result
        self.by_id[result.request_id] = result


class Dedupe:
    """Rings of the groups of one volume, read when a group is first asked."""

    def __init__(self, rows: object) -> None:
        self._rows = rows
        self._rings: dict[int, _Ring] = {}
        self._dirty: set[int] = set()
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(tuple[Result, ...]).decode

    def _ring(self, gid: int) -> _Ring:
        ring = self._rings.get(gid)
        if ring is None:
            ring = self._rings[gid] = _Ring()
            found: list[Result] = []
            for chunk in range(_CHUNKS):
                raw = self._rows.get(dedupe_key(gid, chunk))  # type: ignore[attr-defined]
                if raw is not None:
                    found.extend(self._decode(raw))
            for result in sorted(found, key=lambda item: item.place):
                ring.put(result)
                ring.count = result.place + 1
        return ring

    def has(self, gid: int, request_id: bytes) -> bool:
        """Whether a result is remembered."""
        return request_id in self._ring(gid).by_id

    def find(self, gid: int, request_id: bytes, known_index: int) -> Outcome | None:
        """The remembered outcome, or UNKNOWN_OUTCOME when it may have been forgotten; ``None``: go on and apply."""
        ring = self._ring(gid)
        known = ring.by_id.get(request_id)
        if known is not None:
            return known.outcome
        if ring.count > DEDUPE_RESULTS:
            oldest = ring.slots[ring.count % DEDUPE_RESULTS]
            assert oldest is not None
            if known_index < oldest.index:
                return Outcome(reason=Reason.UNKNOWN_OUTCOME)
        return None

    def remember(self, gid: int, request_id: bytes, index: int, outcome: Outcome) -> None:
        """Keep a result."""
        ring = self._ring(gid)
        ring.put(Result(request_id, index, outcome, ring.count))
        ring.dirty.add(ring.count % DEDUPE_RESULTS // DEDUPE_CHUNK)
        ring.count += 1
        self._dirty.add(gid)

    def put_dirty(self) -> None:
        """Put the chunks that changed."""
        for gid in self._dirty:
            ring = self._rings[gid]
            for chunk in ring.dirty:
                part = ring.slots[chunk * DEDUPE_CHUNK : (chunk + 1) * DEDUPE_CHUNK]
                row = self._encode([item for item in part if item is not None])
                self._rows.put(dedupe_key(gid, chunk), row)  # type: ignore[attr-defined]
            ring.dirty.clear()
        self._dirty.clear()
