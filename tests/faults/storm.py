"""Storms of clients against a server that is killed: after every restart each acknowledged operation is there with its bytes.

``python -m tests.faults.storm --rounds 200 --acks 2000`` is the long form; ``test_storm.py`` runs a short one in CI.
With ``--failpoints`` each round kills at a random hit of the next named failpoint (``failpoints.py``).

What is held against the server, per key (each key has one client, so its operations are in sequence):

* an acknowledged state must be what is read, unless an operation of unknown outcome may have changed it;
* an operation of unknown outcome is there wholly or not at all;
* a listing shows exactly the keys that can be read, with their sizes;
* the server is ready within ``READY_SECONDS``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import random
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import psutil

from tests.faults.server import Server
from tests.faults.wire import Unknown, Wire


class Shape(NamedTuple):
    """What clients write: so many keys each times the endings, sizes in bytes with their weights."""

    keys: int
    endings: tuple[str, ...]
    sizes: tuple[int, ...]
    weights: tuple[int, ...]


SPREAD = Shape(
    40, ("", "/", "//x", " é"),
    (0, 1, 100, 4095, 4096, 4097, 16384, 65535, 65536, 65537, 300_000, 1 << 20, (1 << 20) + 1, 3_000_000),
    (2, 4, 12, 6, 20, 6, 8, 4, 4, 4, 3, 2, 2, 1),
)
MODES = ("worker", "worker", "supervisor", "tree")
BUCKET = "storm"
State = tuple[int, int] | None  # (size, tag), None absent


def body_of(size: int, tag: int) -> bytes:
    """The bytes of a state."""
    return random.Random(tag).randbytes(size)


class Key:
    """What may be read under one key."""

    __slots__ = ("maybe", "sure")

    def __init__(self) -> None:
        self.sure: State = None
        self.maybe: list[State] = []


class Storm:
    """Clients, their keys, and the verdicts."""

    def __init__(self, server: Server, *, clients: int, seed: int, shape: Shape = SPREAD) -> None:
        self.server, self.clients, self.shape = server, clients, shape
        self.rng = random.Random(seed)
        self.keys: dict[str, Key] = {}
        self.acks = 0
        self.unknown = 0
        self.refused = 0
        self.tag = 0
        self.touched: set[str] = set()

    def _key(self, name: str) -> Key:
        self.touched.add(name)
        return self.keys.setdefault(name, Key())

    async def _settle(self, name: str, state: State, status: int, good: tuple[int, ...]) -> None:
        key = self._key(name)
        if status in good:
            key.sure = state
            self.acks += 1
        elif status >= 500:
            key.maybe.append(state)
            self.refused += 1
            await asyncio.sleep(0.02)
        else:
            raise AssertionError(f"{name}: unexpected status {status}")

    async def client(self, number: int, wire: Wire, stop: asyncio.Event) -> None:
        """One client until ``stop`` or a broken connection."""
        rng = random.Random(self.rng.random())
        shape = self.shape
        while not stop.is_set():
            name = f"c{number}/k{rng.randrange(shape.keys)}" + rng.choice(shape.endings)
            self.tag += 1
            tag = self.tag
            size = rng.choices(shape.sizes, shape.weights)[0]
            draw = rng.random()
            pending: State = (size, tag)
            try:
                if draw < 0.70:
                    status, headers, _ = await wire.call("PUT", f"/{BUCKET}/{name}", body=body_of(size, tag))
                    if status == 200:
                        assert headers["etag"] == f'"{hashlib.md5(body_of(size, tag)).hexdigest()}"'
                    await self._settle(name, pending, status, (200,))
                elif draw < 0.88:
                    pending = None
                    status, _, _ = await wire.call("DELETE", f"/{BUCKET}/{name}")
                    await self._settle(name, None, status, (204,))
                elif draw < 0.94:
                    await self._multipart(wire, name, size, tag)
                else:
                    source = f"c{number}/k{rng.randrange(shape.keys)}"
                    known = self.keys.get(source)
                    if known is None or known.maybe or known.sure is None or source == name:
                        continue
                    pending = known.sure
                    status, _, _ = await wire.call(
                        "PUT", f"/{BUCKET}/{name}", headers={"x-amz-copy-source": f"/{BUCKET}/{source}"}
                    )
                    await self._settle(name, pending, status, (200,))
            except Unknown:
                self._key(name).maybe.append(pending)
                self.unknown += 1
                await asyncio.sleep(0.02)

    async def _multipart(self, wire: Wire, name: str, size: int, tag: int) -> None:
        path = f"/{BUCKET}/{name}"
        status, _, xml = await wire.call("POST", path, {"uploads": ""})
        if status != 200:
            self.refused += 1
            return
        upload = ElementTree.fromstring(xml).findtext("{*}UploadId") or ""
        data = body_of(size, tag)
        status, headers, _ = await wire.call("PUT", path, {"partNumber": "1", "uploadId": upload}, body=data)
        if status != 200:
            self.refused += 1
            return
        listed = f"<Part><PartNumber>1</PartNumber><ETag>{headers['etag']}</ETag></Part>"
        xml = f"<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>".encode()
        status, _, answer = await wire.call("POST", path, {"uploadId": upload}, body=xml)
        if status == 200 and b"<Error>" in answer:
            status = 500
        await self._settle(name, (size, tag), status, (200,))

    async def round(self, acks: int, mode: str) -> dict[str, float]:
        """Storm until ``acks`` acknowledgements, kill by ``mode``, come back, verify."""
        target = self.acks + acks
        begin = time.monotonic()
        async with self.blowing():
            while self.acks < target:
                assert time.monotonic() - begin < 300, f"{self.acks} of {target} acknowledgements in 300 s"
                await asyncio.sleep(0.005)
            await asyncio.sleep(self.rng.random() * 0.02)
            self.kill(mode)
        stormed = time.monotonic() - begin
        if mode != "worker":
            self.server.start()
        ready = await self.server.wait_ready()
        checked = await self.verify()
        return {"storm": stormed, "ready": ready, "checked": checked}

    @contextlib.asynccontextmanager
    async def blowing(self) -> AsyncIterator[None]:
        """Clients at work while the block runs; what one of them finds wrong ends it."""
        wire = self.server.wire()
        stop = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(self.clients):
                    group.create_task(self.client(number, wire, stop))
                yield
                stop.set()
        finally:
            wire.close()

    def kill(self, mode: str) -> None:
        """One disaster."""
        if mode == "worker":
            psutil.Process(self.rng.choice(self.server.worker_pids())).kill()
        elif mode == "supervisor":
            orphans = self.server.kill_supervisor()
            _, alive = psutil.wait_procs(orphans, timeout=20)
            assert not alive, "workers went on without their supervisor"
        else:
            self.server.kill_tree()

    async def verify(self) -> int:
        """Read every key touched since the last verify, and compare a full listing."""
        wire = self.server.wire()
        names = sorted(self.touched)
        self.touched.clear()
        todo = iter(names)
        await asyncio.gather(*(self._verify_some(wire, todo) for _ in range(self.clients)))
        listed = await self.listing(wire)
        expected = {name: key.sure[0] for name, key in self.keys.items() if key.sure is not None}
        assert listed == expected, (
            f"listing differs: missing {sorted(set(expected) - set(listed))[:5]}, "
            f"extra {sorted(set(listed) - set(expected))[:5]}"
        )
        wire.close()
        return len(names)

    async def _verify_some(self, wire: Wire, todo: Iterator[str]) -> None:
        for name in todo:
            key = self.keys[name]
            status, data = await self._read(wire, name)
            allowed = [key.sure, *key.maybe]
            if status == 404:
                found: State = None
                assert None in allowed, f"{name}: acknowledged {key.sure} is gone"
            else:
                assert status == 200, f"{name}: status {status}"
                matches = [s for s in allowed if s is not None and s[0] == len(data) and body_of(*s) == data]
                assert matches, f"{name}: {len(data)} bytes that are none of {allowed}"
                found = matches[0]
            key.sure, key.maybe = found, []

    async def _read(self, wire: Wire, name: str) -> tuple[int, bytes]:
        for _ in range(400):
            try:
                status, _, data = await wire.call("GET", f"/{BUCKET}/{name}")
            except Unknown:
                status, data = 503, b""
            if status != 503:
                return status, data
            await asyncio.sleep(0.05)
        raise AssertionError(f"{name}: no answer for 20 s after the restart")

    async def listing(self, wire: Wire) -> dict[str, int]:
        """Every key and size, page by page."""
        found: dict[str, int] = {}
        token = ""
        while True:
            query = {"list-type": "2", "max-keys": "700"} | ({"continuation-token": token} if token else {})
            status, _, xml = await wire.call("GET", f"/{BUCKET}", query)
            assert status == 200, (status, xml[:300])
            root = ElementTree.fromstring(xml)
            for item in root.iterfind("{*}Contents"):
                found[item.findtext("{*}Key") or ""] = int(item.findtext("{*}Size") or "-1")
            token = root.findtext("{*}NextContinuationToken") or ""
            if root.findtext("{*}IsTruncated") != "true":
                return found


async def run(folder: Path, *, rounds: int, acks: int, clients: int, seed: int, workers: int = 2) -> None:
    """Rounds of storm, kill and verify; prints one line a round."""
    server = Server(folder / "data", workers=workers)
    server.start()
    await server.wait_ready()
    try:
        storm = Storm(server, clients=clients, seed=seed)
        wire = server.wire()
        status, _, _ = await wire.call("PUT", f"/{BUCKET}")
        assert status == 200
        wire.close()
        for number in range(rounds):
            mode = MODES[number % len(MODES)]
            result = await storm.round(acks, mode)
            print(
                f"round {number + 1}/{rounds} {mode:10s} storm {result['storm']:.1f} s  ready {result['ready']:.2f} s  "
                f"checked {result['checked']:.0f} keys  acks {storm.acks} unknown {storm.unknown} refused {storm.refused}",
                flush=True,
            )
        assert server.stop() == 0
    finally:
        if server.process is not None and server.process.poll() is None:
            server.kill_tree()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--acks", type=int, default=2000)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--failpoints", action="store_true", help="kill at named failpoints; --acks and --clients do not apply")
    parser.add_argument("--keep", metavar="FOLDER", help="data folder and log go here and stay")
    options = parser.parse_args()
    print(f"seed {options.seed}")
    with contextlib.ExitStack() as stack:
        folder = options.keep or stack.enter_context(tempfile.TemporaryDirectory(prefix="titans3-storm-"))
        Path(folder).mkdir(exist_ok=True)
        if options.failpoints:
            from tests.faults import failpoints  # it builds on this module

            asyncio.run(failpoints.run(Path(folder), rounds=options.rounds, seed=options.seed, workers=options.workers))
            return
        asyncio.run(
            run(
                Path(folder), rounds=options.rounds, acks=options.acks, clients=options.clients, seed=options.seed,
                workers=options.workers,
            )
        )


if __name__ == "__main__":
    main()
