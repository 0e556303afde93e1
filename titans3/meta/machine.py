"""The state machine: applies commands to the rows of a volume, in log order. Hot: every write goes through ``apply``.

Invariants
* Deterministic (I2): nothing here reads a clock, draws a random number or looks at anything but rows and command.
* A refused command changes nothing but the dedupe ring; one refused with SHARD_ABSENT or QUOTA not even that.
* Shard counters and the dedupe ring are kept in memory and put as rows by ``put_dirty`` right before a freeze, so the rows of a
  checkpoint are those of its log prefix.
* A command that this build does not know raises InvariantError: the worker stops.

The families live in ``objects``, ``uploads``, ``buckets``, ``sweep`` and ``control``; this module is the table of commands.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from titans3.errors import InvariantError, Reason
from titans3.meta.buckets import Shards
from titans3.meta.control import apply_cas
from titans3.meta.dedupe import Dedupe
from titans3.meta.objects import Objects
from titans3.meta.refusal import Refused
from titans3.meta.sweep import Sweep
from titans3.meta.uploads import Uploads
from titans3.model.command import (
    AbortUpload,
    Cas,
    Command,
    CompleteUpload,
    CreateUpload,
    DeleteObjects,
    EnsureShard,
    ExpireUploads,
    GcDone,
    Noop,
    Outcome,
    Purge,
    PutObject,
    PutPart,
    QuotaFence,
    QuotaGrant,
    Seal,
    SweepFence,
    Unseal,
    UpdateVersion,
)

_TRIED_AGAIN = (Reason.SHARD_ABSENT, Reason.QUOTA)  # what the owner mends before it proposes the same again


class Rows(Protocol):
    """The view as the machine uses it."""

    def get(self, key: bytes) -> bytes | None: ...
    def put(self, key: bytes, value: bytes) -> None: ...
    def delete(self, key: bytes) -> None: ...
    def scan(self, start: bytes, stop: bytes, limit: int) -> list[tuple[bytes, bytes]]: ...


class Bodies(Protocol):
    """Replica-local effects on small bodies in the log."""

    def free(self, data_id: bytes) -> int: ...


class Machine:
    """State of the groups of one volume."""

    def __init__(self, rows: Rows, bodies: Bodies) -> None:
        self.times: dict[int, int] = {}
        self.shards = Shards(rows)
        self.dedupe = Dedupe(rows)
        self.objects = Objects(rows, bodies, self.shards, self.times)
        self.uploads = Uploads(rows, self.objects, self.shards)
        self.sweep = Sweep(rows, self.objects)
        self.objects.fences = self.sweep
        self._rows = rows
        self._apply: dict[type[Command], Callable[[int, int, Any], Outcome]] = {
            Noop: lambda _gid, index, _command: Outcome(index=index),
            EnsureShard: self.shards.ensure,
            Seal: self.shards.seal,
            Unseal: self.shards.unseal,
            Purge: self.uploads.purge,
            PutObject: self.objects.put_object,
            DeleteObjects: self.objects.delete_objects,
            CreateUpload: self.uploads.create,
            PutPart: self.uploads.put_part,
            AbortUpload: self.uploads.abort,
            CompleteUpload: self.uploads.complete,
            SweepFence: self.sweep.fence,
            GcDone: self.sweep.done,
            UpdateVersion: self.objects.update_version,
            QuotaFence: self.shards.quota_fence,
            QuotaGrant: self.shards.quota_grant,
            ExpireUploads: self.uploads.expire,
            Cas: lambda gid, index, command: apply_cas(rows, gid, index, command),
        }

    def apply(self, gid: int, index: int, command: Command) -> Outcome:
        """Outcome of a command. A body in the entry's record is kept by the caller exactly when ``reason`` is empty.

        Raises InvariantError for a command that is not in the table.
        """
        request_id: bytes = getattr(command, "request_id", b"")
        if request_id:
            known = self.dedupe.find(gid, request_id, command.known_index)  # type: ignore[attr-defined]
            if known is not None:
                return known
        apply = self._apply.get(type(command))
        if apply is None:
            raise InvariantError(f"command {type(command).__name__} has no apply")
        try:
            outcome = apply(gid, index, command)
        except Refused as refused:
            outcome = Outcome(reason=refused.reason, index=index, message=refused.message, version=refused.version)
        if request_id and outcome.reason not in _TRIED_AGAIN:
            self.dedupe.remember(gid, request_id, index, outcome)
        return outcome

    def is_repeat(self, gid: int, command: Command) -> bool:
        """Whether ``apply`` would answer from the dedupe ring (its record's body is then dead)."""
        request_id: bytes = getattr(command, "request_id", b"")
        return bool(request_id) and self.dedupe.has(gid, request_id)

    def put_dirty(self) -> None:
        """Put rows kept in memory; right before the overlay is frozen."""
        self.shards.put_dirty()
        self.dedupe.put_dirty()
