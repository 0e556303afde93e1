"""The control plane's records at apply: compare-and-set over revisions.

Invariant: the store revision rises by one with every successful ``Cas``, and every record carries the revision that wrote it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from titans3.errors import Reason
from titans3.meta.keys import control_key, control_prefix, store_revision_key, successor
from titans3.meta.refusal import Refused
from titans3.model.command import Cas, Outcome
from titans3.model.control import Rec

if TYPE_CHECKING:
    from titans3.meta.machine import Rows

ANY = -1
_decode = msgspec.msgpack.Decoder(Rec).decode
_encode = msgspec.msgpack.Encoder().encode


def store_revision(rows: Rows, gid: int) -> int:
    """Revision of the last successful change."""
    raw = rows.get(store_revision_key(gid))
    return 0 if raw is None else int.from_bytes(raw, "big")


def get_record(rows: Rows, gid: int, key: str) -> Rec | None:
    """One record."""
    raw = rows.get(control_key(gid, key))
    return None if raw is None else _decode(raw)


def list_records(rows: Rows, gid: int, prefix: str) -> list[Rec]:
    """All records whose key starts with ``prefix``, ascending."""
    start = control_key(gid, prefix)
    stop = successor(start) if prefix else successor(control_prefix(gid))
    found: list[Rec] = []
    while True:
        page = rows.scan(start, stop, 1000)
        found.extend(_decode(raw) for _, raw in page)
        if len(page) < 1000:
            return found
        start = page[-1][0] + b"\0"


def apply_cas(rows: Rows, gid: int, index: int, command: Cas) -> Outcome:
    """All expectations hold, or CONFLICT naming the first that does not; then all puts and deletes."""
    for key, expected in command.expect.items():
        if expected == ANY:
            continue
        record = get_record(rows, gid, key)
        if (0 if record is None else record.rev) != expected:
            raise Refused(Reason.CONFLICT, key)
    revision = store_revision(rows, gid) + 1
    for key, value in command.ops:
        if value is None:
            rows.delete(control_key(gid, key))
        else:
            rows.put(control_key(gid, key), _encode(Rec(key, value, revision)))
    rows.put(store_revision_key(gid), revision.to_bytes(8, "big"))
    return Outcome("", index, None, (), revision.to_bytes(8, "big"))
