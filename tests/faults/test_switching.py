"""Versioning is switched on and off while both workers take writes: a write that begins after a switch was answered follows it.

Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/manage-versioning-examples.html
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.faults.server import Server
from tests.faults.wire import Wire

SECONDS = 6.0
WRITERS = 6
NAMESPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"


@dataclass
class Write:
    """A PUT or DELETE and the id it was given (empty: none)."""

    begin: float
    end: float
    key: str
    version_id: str
    marker: bool


@dataclass
class Switch:
    begin: float
    end: float
    state: str


def allowed(write: Write, switches: list[Switch]) -> set[str]:
    """The states that a write may have followed: the last one answered before it began, and every one under way during it."""
    before = [switch for switch in switches if switch.end <= write.begin]
    states = {before[-1].state if before else "never"}
    return states | {switch.state for switch in switches if switch.begin <= write.end and switch.end > write.begin}


async def listing(wire: Wire) -> list[tuple[str, str]]:
    """(key, version id) of every version and marker."""
    found: list[tuple[str, str]] = []
    query = {"versions": ""}
    while True:
        status, _, data = await wire.call("GET", "/bucket", query)
        assert status == 200, data
        root = ET.fromstring(data)
        items = [item for item in root if item.tag in (NAMESPACE + "Version", NAMESPACE + "DeleteMarker")]
        found += [(item.findtext(NAMESPACE + "Key") or "", item.findtext(NAMESPACE + "VersionId") or "") for item in items]
        if root.findtext(NAMESPACE + "IsTruncated") == "false":
            return found
        query["key-marker"] = root.findtext(NAMESPACE + "NextKeyMarker") or ""
        query["version-id-marker"] = root.findtext(NAMESPACE + "NextVersionIdMarker") or ""


async def scenario(server: Server) -> tuple[list[Write], list[Switch], list[tuple[str, str]]]:
    server.start()
    await server.wait_ready()
    first = server.wire()
    assert (await first.call("PUT", "/bucket"))[0] == 200
    until = time.monotonic() + SECONDS
    writes: list[Write] = []
    switches: list[Switch] = []

    async def write(number: int) -> None:
        wire, chance = server.wire(), random.Random(number)
        while time.monotonic() < until:
            key, size = f"k{chance.randrange(12)}", chance.choice((1, 1, 80_000))
            method = "DELETE" if chance.random() < 0.2 else "PUT"
            begin = time.monotonic()
            status, fields, data = await wire.call(method, f"/bucket/{key}", body=b"x" * size if method == "PUT" else b"")
            assert status in (200, 204), data
            version_id, is_marker = fields.get("x-amz-version-id", ""), "x-amz-delete-marker" in fields
            writes.append(Write(begin, time.monotonic(), key, version_id, is_marker))
        await wire.end()

    async def switch() -> None:
        wire, number = server.wire(), 0
        while time.monotonic() < until:
            await asyncio.sleep(0.05)
            number += 1
            state = ("Suspended", "Enabled")[number % 2]
            body = f"<VersioningConfiguration><Status>{state}</Status></VersioningConfiguration>".encode()
            begin = time.monotonic()
            status, _, data = await wire.call("PUT", "/bucket", {"versioning": ""}, body=body)
            assert status == 200, data
            switches.append(Switch(begin, time.monotonic(), state))
        await wire.end()

    async with asyncio.TaskGroup() as group:
        for number in range(WRITERS):
            group.create_task(write(number))
        group.create_task(switch())
    found = await listing(first)
    await first.end()
    return writes, switches, found


@pytest.mark.timeout(60)
def test_every_write_follows_the_switch_before_it_and_no_version_is_lost(tmp_path: Path) -> None:
    server = Server(tmp_path / "data")
    try:
        writes, switches, found = asyncio.run(scenario(server))
    finally:
        if server.process is not None:
            server.kill_tree()
    assert len(switches) > 20
    assert len(writes) > 500
    followed = set()
    for write in writes:
        is_unique = write.version_id not in ("", "null")
        states = allowed(write, switches)
        assert ("Enabled" in states) if is_unique else (states != {"Enabled"}), (write, states)
        if states == {"Suspended"} and not is_unique:
            followed.add("Suspended")
        if states == {"Enabled"}:
            followed.add("Enabled")
    assert followed == {"Enabled", "Suspended"}, "too few writes were not beside a switch"
    unique = [(write.key, write.version_id) for write in writes if write.version_id not in ("", "null")]
    assert len(set(unique)) == len(unique)
    assert set(unique) == {item for item in found if item[1] != "null"}
    nulls = [key for key, version_id in found if version_id == "null"]
    assert len(nulls) == len(set(nulls))
