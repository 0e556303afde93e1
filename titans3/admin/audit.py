"""The audit trail: look at it, and prove that nothing was changed in it.

Invariant: reading is done by threads; the trail that is being written is not disturbed.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import msgspec

from titans3.admin.call import AdminCall
from titans3.admin.route import Route
from titans3.observe.audit import AuditTrail, Broken, Head, anchor_key, events, verify, workers_of
from titans3.query.errors import QueryError

_LIMIT, _LIMIT_MAX = 100, 10_000


class ChainShown(msgspec.Struct):
    """The chain of a worker: how many lines were checked, and what is wrong with it, empty if nothing is."""

    worker: int
    lines: int
    problem: str


class Verified(msgspec.Struct):
    """``whole``: every chain is, up to the end that the control plane keeps."""

    whole: bool
    chains: list[ChainShown]


async def verify_audit(call: AdminCall) -> Verified:
    call.authorize("audit", everywhere=True)
    trail = _trail(call)
    await trail.write()
    anchors: dict[int, Head] = {}
    for key, rec in call.server.cache.records.items():
        if key.startswith(anchor_key(0)[:-1]):
            _, number, digest = msgspec.msgpack.decode(rec.value, type=tuple[int, int, str])
            anchors[int(key.rpartition("/")[2])] = Head(number, digest)
    workers = sorted({*workers_of(trail.folder), *anchors})
    loop = asyncio.get_running_loop()
    chains = [
        await loop.run_in_executor(None, _check, trail.folder, worker, call.server.audit_key, anchors.get(worker)) for worker in workers
    ]
    return Verified(not any(chain.problem for chain in chains), chains)


def _check(folder: str, worker: int, key: bytes, anchor: Head | None) -> ChainShown:
    try:
        return ChainShown(worker, verify(folder, worker, key, anchor).number, "")
    except Broken as broken:
        return ChainShown(worker, 0, str(broken))
    except OSError as error:
        return ChainShown(worker, 0, f"{os.fspath(error.filename or folder)}: {error.strerror}")


async def list_audit(call: AdminCall) -> list[dict[str, Any]]:
    call.authorize("audit", everywhere=True)
    trail = _trail(call)
    await trail.write()
    limit, since = _number(call, "limit", _LIMIT, _LIMIT_MAX), _number(call, "since_ms", 0, 2**53)
    return await asyncio.get_running_loop().run_in_executor(None, events, trail.folder, workers_of(trail.folder), since, limit)


def _number(call: AdminCall, name: str, default: int, most: int) -> int:
    text = call.query.get(name, str(default))
    if not text.isascii() or not text.isdecimal() or int(text) > most:
        raise QueryError("ValidationError", f"{name} is a whole number up to {most}.")
    return int(text)


def _trail(call: AdminCall) -> AuditTrail:
    if call.server.audit is None:
        raise QueryError("NoSuchEntity", "This server keeps no audit trail: audit.enabled is false.")
    return call.server.audit


ROUTES = (
    Route(
        "GET", "/audit", "titans3:ReadAudit", list_audit, "The last events, oldest first; `since_ms`, and `limit` up to 10,000",
        gives=dict[str, Any], many=True, query=("since_ms", "limit"),
    ),
    Route("POST", "/audit/verify", "titans3:VerifyAudit", verify_audit, "Check every line of the audit trail", gives=Verified),
)  # fmt: skip
