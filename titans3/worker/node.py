"""One worker's parts, built and joined: volumes, groups, links, control plane, store, gateway, connections.

Invariants
* This is the only place that knows all floors. Parts get what they need handed in; none looks for another.
* Volumes are opened before the worker's socket is there, and closed after it is gone: a sibling never reaches a half-open volume.
* The owner of the system volume makes the root credential and the wanted buckets; the others find them in their caches.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable
from functools import partial

import msgspec

from titans3.admin.door import AdminApi
from titans3.admin.server import Server
from titans3.clock import SystemClock
from titans3.cluster.buckets import Buckets
from titans3.cluster.control.system import SystemControl
from titans3.cluster.directory import Directory
from titans3.cluster.dispatch import Dispatcher
from titans3.cluster.feature import FeatureLevel
from titans3.cluster.greeting import Greeting
from titans3.cluster.groups import GroupSet
from titans3.cluster.identities import Identities
from titans3.cluster.node_store import NodeStore
from titans3.cluster.quota import Grantor
from titans3.cluster.settings import Settings
from titans3.config.schema import Config
from titans3.crypto.root_key import RootKey
from titans3.engine.files import OsFiles
from titans3.engine.hot import Hot
from titans3.engine.metadata import StoredMeta
from titans3.engine.reader import ExtentReader
from titans3.engine.volume import VolumeOptions
from titans3.errors import ClientError, ConfigError, DiskError, FormatError, PeerError, Reason, VolumeBusy
from titans3.http.forwarded import TrustedProxies
from titans3.http.hashing import BodyHashing
from titans3.jobs.collector import Collector
from titans3.jobs.expiry import Expiry
from titans3.jobs.last_used import LastUsedWriter
from titans3.jobs.runner import Jobs
from titans3.jobs.sweep import Sweep
from titans3.jobs.usage import Usage
from titans3.limits import GROUPS
from titans3.long_work import LongWork
from titans3.meta.checkpoint import CheckpointOptions
from titans3.meta.environment import Position
from titans3.model.identity import ROOT_ACCOUNT
from titans3.observe.board import SERVING, STATE, Board, VolumeSlot
from titans3.observe.process import Collections, read_machine, read_process
from titans3.observe.requests import RequestCounters
from titans3.query.door import QueryApi
from titans3.ring.ownership import SYSTEM_VOLUME, Ownership
from titans3.rpc.link import LinkServer, socket_path
from titans3.rpc.marks import IS_ORDERED, Marks, VolumeMarks
from titans3.rpc.supervision import Released, Start, VolumePlace
from titans3.s3.call import Context
from titans3.threads import background_threads
from titans3.worker.accept import Acceptor
from titans3.worker.certificates import expiry, server_context
from titans3.worker.context import ConnectionContext, Timeouts
from titans3.worker.lag import LoopLag
from titans3.worker.metrics import read_server, read_worker
from titans3.worker.observers import Answered, Observers, audit_key
from titans3.worker.parts import choose_parts
from titans3.worker.scrape import Scrape
from titans3.worker.watch import Watch

BUSY_SECONDS_MAX = 60.0  # workers of a supervisor that was killed finish what they have and let go of their volumes
ROOT_SECONDS_MAX = 10.0
SWEEP_SECONDS = 1.0
RELEASE_SECONDS_MAX = 0.25  # how long a volume that a sibling is to own waits for the end of large bodies: calls to the sibling are held
_RELEASE_POLL_SECONDS = 0.02
_JOBS_OF_VOLUMES = ("collector", "sweep", "expiry", "usage")
_logger = logging.getLogger("titans3.worker")


class Node:
    """See the module."""

    def __init__(self, start: Start, board: Board, moving: set[int], order: Callable[[str], None]) -> None:
        """``moving``: workers whose volumes are between two processes; the caller keeps it true. ``order``: tells the supervisor."""
        self.start, self.board, self.me = start, board, start.worker
        config = start.config
        self.clock = SystemClock()
        self.loop = asyncio.get_running_loop()
        proxies = TrustedProxies(config.s3.trusted_proxies)
        parts = self.parts = choose_parts(config.tracing, start.cluster[:8], self.me, self.clock, proxies)
        self.server = LinkServer()
        self.ownership = Ownership(start.group_volume, start.owners)
        self.hot = Hot(config.engine.hot_bytes)
        self.owner = parts.owner(self.ownership, self.server, self.hot)
        self.siblings = parts.siblings(start.run_fd, self.me, start.workers)
        self.siblings.moving = moving
        greeting = Greeting(self.server, start.cluster, self.me, start.workers)
        self.dispatcher = Dispatcher(self.owner, self.siblings, greeting)
        self.marks = Marks(start.marks_fd, len(start.volumes)) if start.marks_fd >= 0 else None
        for place in start.volumes:
            if start.owners[place.index] != self.me:
                self._read_there(place)
        self.control = SystemControl(self.siblings, self.server, lambda: self.ownership.owners[SYSTEM_VOLUME])
        self.feature = FeatureLevel(self.control, greeting, self.dispatcher)
        self.buckets = Buckets(self.control, self.dispatcher, self.clock.wall_ms)
        self.owner.bucket_by_id = self.buckets.by_id
        self.owner.now_ms = self.clock.wall_ms
        self.grantor = Grantor(self.dispatcher, self.buckets.by_id, self.server)
        self.owner.grow = self.grantor.grow
        self.reader = ExtentReader(self.dispatcher.locate, lambda index: start.volumes[index].path)
        self.identities = Identities(self.control.cache, RootKey(start.root_key), self.clock)
        self.settings = Settings(self.control.cache)
        self.directory = Directory(self.control, self.identities, self.settings, self.clock)
        self.store = NodeStore(
            self.dispatcher, self.control, self.buckets, self.reader, self.clock.wall_ms, identities=self.identities,
            small_body_bytes=config.engine.small_body_bytes, default_ownership=config.s3.object_ownership,
        )
        self.requests = RequestCounters()
        data = os.path.dirname(os.readlink(f"/proc/self/fd/{start.run_fd}"))
        required_region = config.s3.region if config.s3.require_region else None
        self.body_threads = background_threads("body")
        self.work = LongWork(lambda: board.idle)
        self.hashing = BodyHashing(self.body_threads, self.work, with_lanes=config.node.digest_lanes)
        context = Context(self.store, self.clock, config.s3.region, self.hashing, required_region, proxies, self.settings)
        self.observers = Observers(
            config, data, self.me, self.requests, self.clock, root_key=RootKey(start.root_key), identities=self.identities,
            control=self.control, proxies=proxies, hear=self._hear, cluster=start.cluster, workers=start.workers,
        )
        audit = self.observers.administrated
        self.watch = Watch(self.siblings, self.server, self.observers, self.clock, self.me)
        server = Server(
            cluster=start.cluster, config=config, board=board, ownership=self.ownership, volumes=tuple(start.volumes),
            cache=self.control.cache, settings=self.settings, feature_level=lambda: self.dispatcher.feature_level, order=order,
            audit=self.observers.audit, audit_key=audit_key(RootKey(start.root_key)), watcher=self.watch,
        )
        self.admin_api = AdminApi(context, self.directory, server, audit)
        self.query_api = QueryApi(context, self.directory, audit)
        self.gateway = parts.gateway(
            self.store, self.clock, hashing=self.hashing, region=config.s3.region, domains=tuple(config.s3.domains),
            required_region=required_region, host_id=start.cluster[:8], health=self.health, admin=self.admin_api.answer,
            metrics=lambda request: self.scrape.handle(request), query_api=self.query_api.answer, proxies=proxies,
            settings=self.settings, signature_v2=config.s3.signature_v2,
        )
        handler = self.gateway.handle if parts.tracer is None else parts.tracer.tracing(self.gateway.handle)
        self.context = ConnectionContext(
            handler, self.loop, host_id=start.cluster[:8], clock=self.clock,
            connections_max=config.http.connections_max,
            timeouts=Timeouts(
                config.http.head_seconds, config.http.idle_seconds, config.http.body_seconds, config.http.write_seconds,
                config.http.drain_seconds,
            ),
        )
        self.context.on_answered = self._answered
        self.acceptor = Acceptor(
            self.context, board, self.me, [_adopted(fd) for fd in start.listeners], _adopted(start.inbox_fd),
            [_adopted(fd) for fd in start.outbox_fds], server_context(config.s3),
        )
        self.lag = LoopLag(self.loop, self.clock)
        self.collections = Collections()
        self.process_started = round(self.clock.wall_ms() / 1000 - read_machine().uptime + read_process().started, 1)
        self.certificate_expiry = expiry(config.s3)
        self.usage = Usage(self.owner)
        self.scrape = Scrape(
            self.siblings, self.server, self.requests, self.usage, self.clock, config=config.metrics, own=lambda: read_worker(self),
            server=lambda: read_server(self), buckets=lambda: self.control.cache.buckets,
        )
        self.collector = Collector(self.owner, self.dispatcher, self.ownership.volume_of, GROUPS)
        self.sweep = Sweep(self.owner, self.dispatcher, self.control)
        self.expiry = Expiry(self.owner, self.dispatcher, self.ownership.volume_of, GROUPS)
        self.jobs = Jobs()
        self.jobs.add("collector", self.collector.run)
        self.jobs.add("sweep", self.sweep.run)
        self.jobs.add("expiry", self.expiry.run)
        self.jobs.add("feature level", self.feature.run)
        self.jobs.add("last used", LastUsedWriter(self.control, self.identities, self.clock, config.s3.region).run)
        self.jobs.add("usage", self.usage.run)
        self.observers.add_jobs(self.jobs)
        if parts.tracer is not None:
            self.observers.watch(parts.tracer.answered)
            parts.serve_traced(self.server)
        self._started = False
        self.adopted = 0  # volumes of other workers that this one opened

    def _hear(self, answered: Answered) -> None:
        """What connections call after each answer."""
        self._answered = answered
        context = getattr(self, "context", None)  # the first time it is not there yet
        if context is not None:
            context.on_answered = answered

    # volumes -------------------------------------------------------------------------------------------------------

    async def open_volumes(self, unwanted: asyncio.Event) -> float:
        """Open, recover and offer the volumes of this worker; the seconds it took. Raises DiskError, FormatError.

        ``unwanted``: volumes that another process still holds are no longer waited for.
        """
        begin = time.monotonic()
        mine = [place for place in self.start.volumes if self.start.owners[place.index] == self.me]
        opened = await asyncio.gather(*(self._open_volume(place, unwanted) for place in mine))
        for place, groups in zip(mine, opened, strict=True):
            self.owner.sets[place.index] = groups
        self.control.local = self.owner.sets.get(SYSTEM_VOLUME)
        if self.control.local is not None:
            await self.feature.check()  # before a sibling is answered
        self.observers.open()
        await self.server.start(socket_path(self.start.run_fd, self.me))
        self.show()
        return time.monotonic() - begin

    async def _open_volume(self, place: VolumePlace, unwanted: asyncio.Event, closed_at: Position | None = None) -> GroupSet:
        engine = self.start.config.engine
        options = VolumeOptions(
            log_segment_bytes=engine.log_segment_bytes, data_segment_bytes=engine.data_segment_bytes,
            reserve_bytes=engine.reserve_bytes, kernel_sync=engine.kernel_sync, cache_written_bytes=engine.cache_written_bytes,
            sharing=_sharing(place.path, [other.path for other in self.start.volumes]),
        )
        checkpoints = CheckpointOptions(engine.checkpoint_rows, engine.checkpoint_bytes, engine.checkpoint_seconds)
        marks: VolumeMarks | None = None if self.marks is None else self.marks.of(place.index)
        deadline = time.monotonic() + BUSY_SECONDS_MAX
        waiting = False
        while True:
            open_meta = partial(StoredMeta, marks=marks)
            volume = self.parts.volume(place.path, options=options, clock=self.clock, open_meta=open_meta, work=self.work)
            groups = self.parts.group_set(volume, self.clock, checkpoints)
            try:
                recovery = await groups.open(closed_at)
            except VolumeBusy:
                if time.monotonic() > deadline or unwanted.is_set():
                    raise
                if not waiting:
                    _logger.warning("%s is still held by a process of an earlier server; waiting for it to let go", place.path)
                waiting = True
                await asyncio.sleep(0.05)
                continue
            if groups.volume.identity.uuid != place.uuid:
                await groups.close(checkpoint=False)
                raise FormatError(f"{place.path} is another volume than the volume table says")
            _logger.debug("volume %d: %s", place.index, recovery)
            return groups

    def _read_there(self, place: VolumePlace) -> None:
        """From now on a sibling owns the volume, and this worker reads there what it can."""
        if self.marks is not None and IS_ORDERED:
            neighbour = self.parts.neighbour(place.path, self.marks.of(place.index), OsFiles(), self.hot)
            self.dispatcher.neighbours[place.index] = neighbour

    async def release(self, volume: int, to: int, unwanted: asyncio.Event) -> Released:
        """Close a volume for a sibling, while serving.

        It stays while large bodies are being written to it, unless they end within RELEASE_SECONDS_MAX. Raises DiskError.
        """
        groups = self.owner.sets.get(volume)
        if groups is None or groups.failure is not None or volume == SYSTEM_VOLUME:
            return Released(volume, 0.0, done=False)
        deadline = self.loop.time() + RELEASE_SECONDS_MAX
        self.owner.leaving = volume
        try:
            while True:
                while self.owner.has_sinks_on(volume):
                    if self.loop.time() > deadline or unwanted.is_set():
                        return Released(volume, 0.0, done=False)
                    await asyncio.sleep(_RELEASE_POLL_SECONDS)
                await groups.checkpointer.checkpoint()
                await self.jobs.stop(*_JOBS_OF_VOLUMES)  # none is in the middle of what it does there
                if groups.failure is None and not self.owner.has_sinks_on(volume):
                    break
                self.jobs.start()
                if groups.failure is not None:
                    return Released(volume, 0.0, done=False)
            begin = self.loop.time()
            self.ownership.owners[volume] = to  # whoever asks from now on waits for the sibling
            del self.owner.sets[volume]
            await groups.close()
            if groups.failure is not None:  # it stays this worker's, which opens it again or says why not
                raise groups.failure
            self.board.put_volume(volume, VolumeSlot("closed", 0, 0, 0, 0, 0))
            self._read_there(self.start.volumes[volume])
            self.jobs.start()
        finally:
            self.owner.leaving = -1
        closed_at = groups.volume.closed_at
        return Released(
            volume, self.loop.time() - begin, done=True, closed_at=() if closed_at is None else msgspec.structs.astuple(closed_at)
        )

    async def adopt(self, volume: int, closed_at: tuple[int, ...], unwanted: asyncio.Event) -> float:
        """Open a volume that a sibling released; the seconds it took. Raises DiskError, FormatError."""
        begin = self.loop.time()
        if (neighbour := self.dispatcher.neighbours.pop(volume, None)) is not None:
            neighbour.close()  # a process has one environment of a tree
        self.ownership.owners[volume] = self.me
        self.owner.sets[volume] = await self._open_volume(
            self.start.volumes[volume], unwanted, Position(*closed_at) if closed_at else None
        )
        self.adopted += 1
        self.show()
        return self.loop.time() - begin

    async def close_volumes(self) -> list[str]:
        """Let siblings go, checkpoint, close; what went wrong with volumes. What was acknowledged is in their logs either way."""
        await self.jobs.stop()
        await self.observers.close()
        if self.parts.tracer is not None:
            await self.loop.run_in_executor(None, self.parts.tracer.close)
        self.watch.close()
        await self.buckets.close()
        await self.control.close()
        await self.server.close()
        await self.siblings.close()
        for neighbour in self.dispatcher.neighbours.values():
            neighbour.close()
        self.control.local = None
        sets, self.owner.sets = self.owner.sets, {}
        closed = await asyncio.gather(*(groups.close() for groups in sets.values()), return_exceptions=True)
        self.body_threads.shutdown(wait=False)
        failures = []
        for index, error in zip(sets, closed, strict=True):
            self.board.put_volume(index, VolumeSlot("closed", 0, 0, 0, 0, 0))
            if isinstance(error, FAILURES):
                failures.append(f"volume {index} was not closed in order: {error}")
            elif error is not None:
                raise error
        return failures

    async def checkpoint(self) -> None:
        """Checkpoint every volume of this worker."""
        await asyncio.gather(*(groups.checkpointer.checkpoint() for groups in self.owner.sets.values()))

    # serving -------------------------------------------------------------------------------------------------------

    async def serve(self, buckets: tuple[str, ...]) -> None:
        """Fill the caches, make what has to be there, accept."""
        start = self.start
        if not self._started:
            await self.control.start()
            await self.feature.start()
            if self.control.local is not None:
                await self.directory.ensure_root(start.root_access_key, start.root_secret)
            else:
                await self._await_root()
            self.buckets.start()
            self._sweep()
            self.context.start()
            for name in buckets:
                await self._ensure_bucket(name)
            self.jobs.start()
            self.lag.start()
            self.collections.start()
            self._started = True
        self.owner.draining = False
        self.context.shed(None)
        self.acceptor.start()
        self.board.put(self.me, STATE, SERVING)

    def _sweep(self) -> None:
        """Let go of segments that were unlinked: an open descriptor keeps their space."""
        self.reader.sweep()
        for neighbour in self.dispatcher.neighbours.values():
            neighbour.sweep()
        self.loop.call_later(SWEEP_SECONDS, self._sweep)

    async def _await_root(self) -> None:
        """Until this worker's cache has the root's keys: a server that is ready knows them in every worker."""
        start, cache = self.start, self.control.cache

        def is_here() -> bool:
            try:
                caller = self.identities.find(start.root_access_key)
            except ClientError:
                return False
            return caller is not None and caller.secret == start.root_secret

        try:
            async with asyncio.timeout(ROOT_SECONDS_MAX):
                while not is_here():
                    await cache.wait_beyond(cache.revision)
        except TimeoutError:
            _logger.warning(
                "the root credential is not here after %.0f s; requests signed with it are refused until it is", ROOT_SECONDS_MAX
            )

    async def _ensure_bucket(self, name: str) -> None:
        for _ in range(50):
            try:
                _, made = await self.buckets.create(name, ROOT_ACCOUNT, self.start.config.s3.region)
            except ClientError as error:
                if error.reason not in (Reason.SLOW_DOWN, Reason.BUCKET_BUSY):
                    raise ConfigError(f"bucket {name} cannot be made: {error}") from error
                await asyncio.sleep(0.1)
            else:
                if made:
                    _logger.info("bucket %s made", name)
                return
        raise ConfigError(f"bucket {name} cannot be made: its shards do not answer")

    # health --------------------------------------------------------------------------------------------------------

    def show(self) -> None:
        """State and space of this worker's volumes onto the board."""
        for index, groups in self.owner.sets.items():
            space = groups.volume.space()
            state, cause = str(groups.volume.state), groups.volume.cause
            if state == "ok" and (damaged := groups.statistics().damaged):
                state, cause = "damaged", f"{damaged} groups damaged: {groups.damage()}"
            self.board.put_volume(index, VolumeSlot(state, space.live, space.dead, space.log, space.reserve, space.free, cause))

    def reload(self, config: Config) -> None:
        """Take up what changes while running. Raises ConfigError for a certificate that does not load; all else is taken up then."""
        self.scrape.config = config.metrics
        self.observers.reload(config)
        self.acceptor.tls = server_context(config.s3)
        self.certificate_expiry = expiry(config.s3)

    def health(self, word: str) -> tuple[bool, str]:
        """``live``: this process answers. ``ready``: every key can be reached. ``cluster``: and nothing is wrong anywhere."""
        if word == "live":
            return True, "live"
        board = self.board
        volumes = [board.volume(index) for index in range(board.volumes)]
        states = [volume.state for volume in volumes]
        not_open = [
            index for index, state in enumerate(states)
            if state in ("closed", "opening") and self.ownership.owners[index] not in self.siblings.moving  # held, not refused
        ]  # fmt: skip
        if word == "ready":
            if self.context.draining:
                return False, "draining"
            return not not_open, "ready" if not not_open else f"volumes not open: {', '.join(map(str, not_open))}"
        down = [worker for worker in range(board.workers) if board.get(worker, STATE) != SERVING]
        lines = [f"volume {index}: {slot.state}{': ' if slot.cause else ''}{slot.cause}" for index, slot in enumerate(volumes)]
        lines += [f"worker {worker}: not serving" for worker in down]
        return not down and all(state == "ok" for state in states), "\n".join(lines)


def _sharing(path: str, paths: list[str]) -> int:
    """How many of ``paths`` are on the file system of ``path``, which is one of them."""
    device = os.stat(path).st_dev
    return sum(os.stat(other).st_dev == device for other in paths)


def _adopted(fd: int) -> socket.socket:
    """An inherited descriptor as a socket."""
    sock = socket.socket(fileno=fd)
    sock.setblocking(False)
    os.set_inheritable(fd, False)
    return sock


REFUSALS = (FormatError, ConfigError)
FAILURES = (DiskError, OSError, ClientError, PeerError)
