"""What the admin API sees of the server around it: workers, volumes, configuration, and orders for the supervisor."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol

import msgspec
import psutil

from titans3 import __version__
from titans3.admin.call import AdminCall
from titans3.admin.route import Route
from titans3.cluster.control.cache import ControlCache
from titans3.cluster.identities import iso_seconds
from titans3.cluster.settings import Settings
from titans3.config.schema import Config
from titans3.http.message import BodySource
from titans3.model.control import BucketRecord
from titans3.observe.audit import AuditTrail
from titans3.observe.board import CLIENT_ERRORS, CONNECTIONS, PID, REQUESTS, SERVER_ERRORS, STATE, WORKER_STATES, Board
from titans3.ring.ownership import Ownership
from titans3.rpc.supervision import VolumePlace


class Watcher(Protocol):
    """Makes the streams of live views."""

    def trace(self, operations: tuple[str, ...], status: str, path: str, least_seconds: float, *, errors: bool) -> BodySource: ...
    def logs(self, level: str, last: int) -> BodySource: ...


class WorkerShown(msgspec.Struct):
    """A worker process; counters are since it started."""

    worker: int
    pid: int
    state: str
    connections: int
    requests: int
    client_errors: int
    server_errors: int


class VolumeShown(msgspec.Struct):
    """A volume; sizes in bytes. ``cause`` says why it is not ok."""

    volume: int
    state: str
    worker: int
    live_bytes: int
    dead_bytes: int
    log_bytes: int
    reserve_bytes: int
    free_bytes: int
    cause: str


class Tolerance(msgspec.Struct):
    """What may be lost at a time without losing anything that was acknowledged."""

    processes: str
    volumes: int
    text: str


class Info(msgspec.Struct):
    """A running server. ``healthy``: every worker serves and every volume is ok."""

    version: str
    cluster: str
    region: str
    healthy: bool
    started: str
    uptime_seconds: int
    feature_level: int
    tolerance: Tolerance
    workers: list[WorkerShown]
    volumes: list[VolumeShown]
    buckets: int
    accounts: int


class Server:
    """Handed in by whoever builds the worker."""

    def __init__(
        self, *, cluster: str, config: Config, board: Board, ownership: Ownership, volumes: tuple[VolumePlace, ...], cache: ControlCache,
        settings: Settings,
        feature_level: Callable[[], int], order: Callable[[str], None], audit: AuditTrail | None = None, audit_key: bytes = b"",
        watcher: Watcher | None = None,
    ) -> None:  # fmt: skip
        """``order`` takes ``restart`` or ``stop`` to the supervisor."""
        self.audit, self.audit_key, self.watcher = audit, audit_key, watcher
        self.cluster, self.config, self.board = cluster, config, board
        self.ownership, self.volumes = ownership, volumes
        self.cache, self.settings, self.feature_level, self.order = cache, settings, feature_level, order
        self._started = psutil.Process(os.getppid()).create_time()

    @property
    def owners(self) -> list[int]:
        """The worker of each volume, now."""
        return self.ownership.owners

    def buckets_of(self, account: str) -> list[BucketRecord]:
        """The buckets an account owns, by name."""
        return sorted((bucket for bucket in self.cache.buckets.values() if bucket.owner == account), key=lambda bucket: bucket.name)

    def info(self, now_ms: int) -> Info:
        """As of now."""
        board = self.board
        workers = [self._worker(worker) for worker in range(board.workers)]
        volumes = [self._volume(index) for index in range(board.volumes)]
        accounts = sum(key.startswith("/accounts/") for key in self.cache.records)
        healthy = all(worker.state == "serving" for worker in workers) and all(volume.state == "ok" for volume in volumes)
        text = (
            "Whatever process dies or power fails, nothing that was acknowledged is lost. "
            "There is one copy of everything: a volume that is lost takes what is on it."
        )
        return Info(
            __version__, self.cluster, self.config.s3.region, healthy, iso_seconds(int(self._started * 1000)),
            max(0, now_ms // 1000 - int(self._started)), self.feature_level(), Tolerance("all", 0, text), workers, volumes,
            len(self.cache.buckets), accounts,
        )  # fmt: skip

    def _worker(self, worker: int) -> WorkerShown:
        get = self.board.get
        return WorkerShown(
            worker, get(worker, PID), WORKER_STATES[get(worker, STATE)], get(worker, CONNECTIONS), get(worker, REQUESTS),
            get(worker, CLIENT_ERRORS), get(worker, SERVER_ERRORS),
        )  # fmt: skip

    def _volume(self, index: int) -> VolumeShown:
        slot = self.board.volume(index)
        return VolumeShown(index, slot.state, self.owners[index], slot.live, slot.dead, slot.log, slot.reserve, slot.free, slot.cause)


class Ordered(msgspec.Struct):
    """An order that the supervisor was given; the server carries it out after this answer."""

    ordered: str


async def get_info(call: AdminCall) -> Info:
    call.authorize("server", everywhere=True)
    return call.server.info(call.now_ms)


async def restart(call: AdminCall) -> Ordered:
    """One worker after the other, without a failed request."""
    call.authorize("server", everywhere=True)
    call.server.order("restart")
    return Ordered("restart")


async def stop(call: AdminCall) -> Ordered:
    call.authorize("server", everywhere=True)
    call.server.order("stop")
    return Ordered("stop")


ROUTES = (
    Route("GET", "/info", "titans3:ServerInfo", get_info, "The server: what may fail, workers, volumes", gives=Info),
    Route(
        "POST", "/service/restart", "titans3:ServiceRestart", restart, "Replace the workers one after the other, without a failed request",
        gives=Ordered, status=202,
    ),
    Route("POST", "/service/stop", "titans3:ServiceStop", stop, "Finish what is in flight and stop", gives=Ordered, status=202),
)  # fmt: skip
