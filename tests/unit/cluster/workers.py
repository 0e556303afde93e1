"""Several workers of one machine in one process: real volumes, real sockets, the floors below ``worker`` joined as it joins them."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import uvloop

from titans3.clock import SystemClock
from titans3.cluster.buckets import Buckets
from titans3.cluster.control.system import SystemControl
from titans3.cluster.directory import Directory
from titans3.cluster.dispatch import Dispatcher
from titans3.cluster.feature import FeatureLevel
from titans3.cluster.greeting import Greeting
from titans3.cluster.groups import GroupSet
from titans3.cluster.identities import Identities
from titans3.cluster.messages import FEATURE_LEVEL
from titans3.cluster.node_store import NodeStore
from titans3.cluster.owner import Owner
from titans3.cluster.quota import Grantor
from titans3.cluster.settings import Settings
from titans3.cluster.siblings import Siblings
from titans3.crypto.root_key import RootKey
from titans3.engine.files import OsFiles
from titans3.engine.hot import Hot
from titans3.engine.identity import format_volume
from titans3.engine.reader import ExtentReader
from titans3.engine.volume import Volume, VolumeOptions
from titans3.limits import GROUPS, KIB, MIB
from titans3.meta.checkpoint import CheckpointOptions
from titans3.model.control import BucketRecord
from titans3.model.version import ROW_FORMAT, Version
from titans3.ring.ownership import Ownership
from titans3.ring.placement import ring_hash
from titans3.rpc.link import LinkServer, socket_path

T = TypeVar("T")
CLUSTER = str(uuid.UUID(int=7))
SMALL = VolumeOptions(
    log_segment_bytes=4 * MIB, data_segment_bytes=8 * MIB, own_segment_bytes_min=4 * MIB, reserve_bytes=0, compact=False,
)
SELDOM = CheckpointOptions(seconds=3600.0)


def run(work: Callable[[], Awaitable[T]], seconds: float = 30) -> T:
    """Run a test's coroutine on the loop that workers use."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(asyncio.wait_for(work(), seconds))


def made_volume(path: Path, index: int) -> str:
    """A new volume; its path."""
    place = path / f"{index:04d}"
    format_volume(OsFiles(), str(place), cluster=CLUSTER, uuid=str(uuid.UUID(int=(100 + index) << 96)), index=index, created_ms=1)
    return str(place)


class Worker:
    """What ``worker/node.py`` builds, without HTTP."""

    def __init__(self, machine: Machine, me: int, *, level: int = FEATURE_LEVEL, cluster: str = CLUSTER) -> None:
        """``level``: the feature level that its code knows."""
        self.machine, self.me = machine, me
        self.clock = SystemClock()
        self.server = LinkServer()
        self.ownership = Ownership(machine.group_volume, machine.owners)
        self.owner = Owner(self.ownership, self.server, Hot(32 << 20))
        self.siblings = Siblings(machine.run_fd, me, machine.count)
        self.greeting = Greeting(self.server, cluster, me, machine.count, level)
        self.dispatcher = Dispatcher(self.owner, self.siblings, self.greeting)
        self.control = SystemControl(self.siblings, self.server, lambda: self.ownership.owners[0])
        self.feature = FeatureLevel(self.control, self.greeting, self.dispatcher)
        self._raising: asyncio.Task[None] | None = None
        self.buckets = Buckets(self.control, self.dispatcher, self.clock.wall_ms)
        self.owner.bucket_by_id = self.buckets.by_id
        self.owner.now_ms = self.clock.wall_ms
        self.owner.grow = Grantor(self.dispatcher, self.buckets.by_id, self.server).grow
        self.reader = ExtentReader(self.dispatcher.locate, lambda index: machine.paths[index])
        self.identities = Identities(self.control.cache, RootKey(bytes(32)), self.clock)
        self.directory = Directory(self.control, self.identities, Settings(self.control.cache), self.clock)
        self.store = NodeStore(
            self.dispatcher, self.control, self.buckets, self.reader, self.clock.wall_ms, identities=self.identities,
            part_bytes_min=machine.part_bytes_min,
        )  # fmt: skip

    async def open(self) -> None:
        """Open the volumes of this worker, listen."""
        for index, owner in enumerate(self.machine.owners):
            if owner == self.me:
                groups = GroupSet(Volume(self.machine.paths[index], options=SMALL, clock=self.clock), self.clock, SELDOM)
                await groups.open()
                self.owner.sets[index] = groups
        self.control.local = self.owner.sets.get(0)
        if self.control.local is not None:
            await self.feature.check()
        await self.server.start(socket_path(self.machine.run_fd, self.me))

    async def serve(self) -> None:
        """Fill the cache, follow and raise the feature level."""
        await self.control.start()
        if not self.machine.feature:
            return
        await self.feature.start()
        self._raising = asyncio.ensure_future(self.feature.run())

    async def _stop_raising(self) -> None:
        if self._raising is not None:
            self._raising.cancel()
            await asyncio.wait([self._raising])

    async def close(self) -> None:
        """In the order of ``Node.close_volumes``."""
        await self._stop_raising()
        await self.buckets.close()
        await self.control.close()
        await self.server.close()
        await self.siblings.close()
        await self._close_sets(checkpoint=True)

    async def kill(self) -> None:
        """Gone at once: nothing in flight is answered, nothing is checkpointed; what was flushed is in the log."""
        self.server.closing = True
        assert self.server._server is not None
        self.server._server.close()
        for connection in list(self.server.connections):
            connection.abort()  # type: ignore[attr-defined]
        await self._stop_raising()
        await self.buckets.close()
        await self.control.close()
        await self.siblings.close()
        os.unlink(socket_path(self.machine.run_fd, self.me))
        await self._close_sets(checkpoint=False)

    async def _close_sets(self, *, checkpoint: bool) -> None:
        self.control.local = None
        sets, self.owner.sets = self.owner.sets, {}
        for groups in sets.values():
            await groups.close(checkpoint=checkpoint)


class Machine:
    """``count`` workers over ``volumes`` volumes: ``async with Machine(tmp_path) as machine``. ``feature``: they keep a feature level."""

    def __init__(
        self, folder: Path, count: int = 2, volumes: int = 2, *, part_bytes_min: int = 64 * KIB, feature: bool = True,
        level: int = FEATURE_LEVEL,
    ) -> None:  # fmt: skip
        self.count, self.feature, self.level = count, feature, level
        self.owners = [index % count for index in range(volumes)]
        self.group_volume = [gid % volumes for gid in range(GROUPS)]
        self.part_bytes_min = part_bytes_min
        run_folder = folder / "run"
        run_folder.mkdir()
        self.run_fd = os.open(run_folder, os.O_RDONLY | os.O_DIRECTORY)
        self.paths = [made_volume(folder, index) for index in range(volumes)]
        self.workers: list[Worker] = []

    async def __aenter__(self) -> Machine:
        self.workers = [Worker(self, me, level=self.level) for me in range(self.count)]
        for worker in self.workers:
            await worker.open()
        for worker in self.workers:
            await worker.serve()
        return self

    async def __aexit__(self, *_: object) -> None:
        for worker in reversed(self.workers):
            await worker.close()
        os.close(self.run_fd)

    def __getitem__(self, me: int) -> Worker:
        return self.workers[me]

    async def start(self, me: int, *, level: int = FEATURE_LEVEL) -> Worker:
        """A fresh process in the place of a worker that was closed or killed."""
        worker = self.workers[me] = Worker(self, me, level=level)
        await worker.open()
        await worker.serve()
        return worker

    def moving(self, *workers: int) -> None:
        """What the supervisor tells everybody during a rolling restart."""
        for worker in self.workers:
            worker.siblings.moving = set(workers)

    def key_on(self, bucket: BucketRecord, me: int, word: str = "key") -> bytes:
        """A key whose group is owned by a worker."""
        number = 0
        while True:
            key = f"{word}-{number}".encode()
            if self.owners[self.group_volume[ring_hash(bucket.bucket, key, bucket.shards)]] == me:
                return key
            number += 1


def version(body: bytes = b"", **fields: object) -> Version:
    """A version as a handler proposes it."""
    import hashlib

    etag = hashlib.md5(body, usedforsecurity=False).digest()
    return Version(ROW_FORMAT, 0, 0, 0, len(body), etag, 0, 0, **fields)  # type: ignore[arg-type]
