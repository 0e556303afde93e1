"""Single keys are linearizable under concurrent clients, with and without versions, while workers and machines die.

``python -m tests.faults.test_linearizable SECONDS [SEED]`` is the long form.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.faults.linearizability import ABSENT, DONE, LOST, REFUSED, Operation, is_linearizable
from tests.faults.server import Server, play_long, play_to_death
from tests.faults.wire import Unknown, Wire

SECONDS = 6.0
SEED = 4077
CLIENTS = 5
LOST_MAX = 6  # of a key: each doubles the orders that the checker may have to try
ROUND = 12  # operations of a client on a key; then the key is left, so that histories stay short


class Client:
    """One client: an operation at a time, on its own connection."""

    def __init__(self, server: Server, number: int, seed: int) -> None:
        self.wire: Wire = server.wire()
        self.number = number
        self.random = random.Random(f"{seed} {number}")
        self.count = 0

    async def work(self, bucket: str, key: str, seen: list[bytes], history: list[Operation]) -> None:
        """One random operation; ``seen`` are bodies that conditions may name."""
        self.count += 1
        kind = self.random.choice(("get", "get", "get", "put", "put", "create", "replace", "replace", "delete", "remove"))
        size = self.random.choice((1, 1, 1, 9_000))  # the larger is more than what travels in the log
        value = b"%d.%d;" % (self.number, self.count) * size if kind in ("put", "create", "replace") else None
        expected = self.random.choice(seen) if kind in ("replace", "remove") and seen else None
        if kind in ("replace", "remove") and expected is None:
            kind = "get"
        headers = {"if-none-match": "*"} if kind == "create" else {}
        if expected is not None:
            headers["if-match"] = f'"{hashlib.md5(expected, usedforsecurity=False).hexdigest()}"'
        method = "GET" if kind == "get" else "DELETE" if kind in ("delete", "remove") else "PUT"
        begin = time.monotonic()
        try:
            status, _, data = await self.wire.call(method, f"/{bucket}/{key}", headers=headers, body=value or b"", timeout=20)
        except Unknown as error:
            if isinstance(error.__cause__, ConnectionRefusedError):
                await asyncio.sleep(0.05)
                return  # nobody has heard of it
            status, data = 599, b""
        end = time.monotonic()
        result = {200: DONE, 204: DONE, 412: REFUSED, 409: REFUSED, 404: ABSENT}.get(status, LOST)
        assert status >= 500 or result != LOST, (kind, status, data)
        if status == 409:
            return  # "in conflict, try again": nothing was done, and nothing is promised about what was there
        if kind == "get" and result == LOST:
            return
        if kind == "get":
            value = data if result == DONE else None
        if value is not None and value not in seen:
            seen.append(value)
        history.append(Operation(kind, begin, end, result, value, expected))
        if result == LOST:
            await asyncio.sleep(0.05)


async def disturb(server: Server, seed: int, until: float) -> int:
    """Kill a worker or everything, again and again; how often."""
    chance, count = random.Random(seed), 0
    while time.monotonic() < until:
        await asyncio.sleep(chance.uniform(0.5, 1.2))
        if chance.random() < 0.3:
            await asyncio.to_thread(server.kill_tree)
            server.start()
        else:
            with contextlib.suppress(ProcessLookupError, IndexError):
                os.kill(chance.choice(server.worker_pids()), signal.SIGKILL)
        await server.wait_ready()
        count += 1
    return count


async def scenario(server: Server, seconds: float, seed: int) -> tuple[list[list[Operation]], int]:
    """(a history for each key, how often something was killed)."""
    server.start()
    await server.wait_ready()
    first = server.wire()
    for bucket in ("plain", "versioned"):
        assert (await first.call("PUT", f"/{bucket}"))[0] == 200
    document = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"
    assert (await first.call("PUT", "/versioned", {"versioning": ""}, body=document))[0] == 200
    await first.end()
    clients = [Client(server, number, seed) for number in range(CLIENTS)]
    histories: list[list[Operation]] = []
    until = time.monotonic() + seconds
    killer = asyncio.ensure_future(disturb(server, seed, until))
    try:
        number = 0
        while time.monotonic() < until:
            number += 1
            bucket, key = ("plain", "versioned")[number % 2], f"key-{number}"
            history: list[Operation] = []
            seen: list[bytes] = []

            async def play(client: Client, bucket: str, key: str, seen: list[bytes], history: list[Operation]) -> None:
                for _ in range(ROUND):
                    if sum(operation.result == LOST for operation in history) < LOST_MAX:
                        await client.work(bucket, key, seen, history)

            async with asyncio.TaskGroup() as group:
                for client in clients:
                    group.create_task(play(client, bucket, key, seen, history))
            histories.append(history)
        kills = await killer
    finally:
        killer.cancel()
        for client in clients:
            await client.wire.end()
    return histories, kills


def judge(histories: list[list[Operation]]) -> tuple[int, int]:
    """(operations, of unknown outcome). AssertionError with the first history that no order explains."""
    for history in histories:
        assert is_linearizable(history), sorted(history, key=lambda operation: operation.begin)
    return sum(map(len, histories)), sum(operation.result == LOST for history in histories for operation in history)


@pytest.mark.timeout(90)
def test_every_key_is_linearizable(tmp_path: Path) -> None:
    histories, kills = play_to_death(tmp_path / "data", scenario, SECONDS, SEED)
    operations, lost = judge(histories)
    assert operations > 300, "too little was done to show anything"
    assert kills >= 2
    assert lost >= 1, "no death has cut off anything"


def main() -> None:
    """The long form: seconds, and a seed to repeat."""
    histories, kills = play_long(scenario)
    operations, lost = judge(histories)
    print(f"{len(histories)} keys, {operations} operations, {lost} of unknown outcome, {kills} kills: linearizable")


if __name__ == "__main__":
    main()
