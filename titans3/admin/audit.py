"""The audit trail: look at it, and prove that nothing was changed in it.

Invariant: reading is done by threads; the trail that is being written is not disturbed.
"""

from __future__ import annotations

import asyncio
import os
import re
from typing import Any

import msgspec

from titans3.admin.call import AdminCall
from titans3.admin.route import Route
from titans3.limits import MIB
from titans3.observe.audit import AuditTrail, Broken, Head, anchor_key, events, head_of, verify, workers_of
from titans3.observe.delivery import lines_after, number_before
from titans3.query.errors import QueryError

_LIMIT, _LIMIT_MAX = 100, 10_000
_PAGE_BYTES_MAX = 4 * MIB
_SINCE_MAX = 2**42  # milliseconds, in the year 2109


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
    limit, since = _number(call, "limit", _LIMIT, _LIMIT_MAX), _number(call, "since_ms", 0, _SINCE_MAX)
    return await asyncio.get_running_loop().run_in_executor(None, events, trail.folder, workers_of(trail.folder), since, limit)


class ChainEnd(msgspec.Struct):
    """The chain of a worker: how many lines it has; those since the moment that was asked for are behind line ``after``."""

    worker: int
    lines: int
    after: int


async def list_chains(call: AdminCall) -> list[ChainEnd]:
    call.authorize("audit", everywhere=True)
    trail = _trail(call)
    await trail.write()
    return await asyncio.get_running_loop().run_in_executor(None, _chains, trail.folder, _number(call, "since_ms", 0, _SINCE_MAX))


def _chains(folder: str, since_ms: int) -> list[ChainEnd]:
    return [ChainEnd(worker, head_of(folder, worker).number, number_before(folder, worker, since_ms)) for worker in workers_of(folder)]


async def list_chain(call: AdminCall) -> list[msgspec.Raw]:
    call.authorize("audit", everywhere=True)
    trail = _trail(call)
    if not re.fullmatch("[0-9]{1,4}", call.names["worker"]):
        raise QueryError("ValidationError", "A chain is named by the number of its worker.")
    worker, after, limit = int(call.names["worker"]), _number(call, "after", 0, 2**53), _number(call, "limit", _LIMIT_MAX, _LIMIT_MAX)
    lines = await asyncio.get_running_loop().run_in_executor(None, _page, trail.folder, worker, after, limit)
    return [msgspec.Raw(line) for line in lines]


def _page(folder: str, worker: int, after: int, limit: int) -> list[bytes]:
    return lines_after(folder, worker, after, head_of(folder, worker), lines_max=limit, bytes_max=_PAGE_BYTES_MAX)


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
    Route(
        "GET", "/audit/chains", "titans3:ReadAudit", list_chains, "How far the chains go; with `since_ms`, from where on to read them",
        gives=ChainEnd, many=True, query=("since_ms",),
    ),
    Route(
        "GET", "/audit/chains/{worker}", "titans3:ReadAudit", list_chain,
        "Lines of a chain in their order, those behind line `after`; at most `limit`, up to 10,000 and 4 MiB",
        gives=dict[str, Any], many=True, query=("after", "limit"),
    ),
    Route("POST", "/audit/verify", "titans3:VerifyAudit", verify_audit, "Check every line of the audit trail", gives=Verified),
)  # fmt: skip
