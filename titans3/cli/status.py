"""What ``titanctl status`` shows: workers and volumes of a running server, read from its board without asking anybody.

Invariants
* The board is shared memory that the supervisor holds open: it is there exactly while the server is, also when no worker answers.
* A reader writes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from titans3.cli.endpoint import Endpoint, start_word
from titans3.errors import ConfigError
from titans3.observe.board import (
    CLIENT_ERRORS,
    CONNECTIONS,
    PID,
    REQUESTS,
    SERVER_ERRORS,
    STATE,
    WORKER_STATES,
    Board,
    VolumeSlot,
)

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


class WorkerRow(msgspec.Struct, frozen=True):
    """A worker process; counters are since it started. ``client_errors`` are 4xx answers, ``server_errors`` 5xx."""

    worker: int
    pid: int
    state: str
    connections: int
    requests: int
    client_errors: int
    server_errors: int


class VolumeRow(msgspec.Struct, frozen=True):
    """A volume; sizes in bytes."""

    volume: int
    state: str
    live: int
    dead: int
    log: int
    reserve: int
    free: int


class Status(msgspec.Struct, frozen=True):
    """A running server. ``active``: how many of the workers, the first by number, take connections and own volumes."""

    url: str
    pid: int
    version: str
    workers: tuple[WorkerRow, ...]
    volumes: tuple[VolumeRow, ...]
    active: int


def status_of(folder: str, endpoint: Endpoint) -> Status:
    """The server that ``run/endpoint.json`` of a folder tells of. Raises ConfigError when it is not there any more."""
    try:
        board = Board.read(endpoint.board)
    except (OSError, ValueError) as error:
        word = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        raise ConfigError(
            f"the server of {folder} (process {endpoint.pid}) is not there any more: {word}; it was killed. "
            f"Start it again: {start_word(folder)}"
        ) from None
    try:
        workers = tuple(_worker(board, worker) for worker in range(board.workers))
        volumes = tuple(_volume(index, board.volume(index)) for index in range(board.volumes))
        active = min(board.active, board.workers)
    finally:
        board.close()
    return Status(endpoint.url, endpoint.pid, endpoint.version, workers, volumes, active)


def _worker(board: Board, worker: int) -> WorkerRow:
    state, pid, connections, requests, client_errors, server_errors = (
        board.get(worker, word) for word in (STATE, PID, CONNECTIONS, REQUESTS, CLIENT_ERRORS, SERVER_ERRORS)
    )
    return WorkerRow(worker, pid, WORKER_STATES[state], connections, requests, client_errors, server_errors)


def _volume(index: int, slot: VolumeSlot) -> VolumeRow:
    return VolumeRow(index, slot.state, slot.live, slot.dead, slot.log, slot.reserve, slot.free)


def table(status: Status) -> str:
    """For people."""
    workers: list[tuple[str, ...]] = [("worker", "pid", "state", "connections", "requests", "4xx", "5xx")]
    workers += [
        (str(row.worker), str(row.pid or "-"), row.state, *map(str, (row.connections, row.requests, row.client_errors, row.server_errors)))
        for row in status.workers
    ]  # fmt: skip
    volumes: list[tuple[str, ...]] = [("volume", "state", "live", "dead", "log", "reserve", "free")]
    volumes += [
        (str(row.volume), row.state, *map(size, (row.live, row.dead, row.log, row.reserve, row.free))) for row in status.volumes
    ]
    head = f"TitanS3 {status.version} at {status.url}, supervisor {status.pid}"
    if status.active < len(status.workers):
        head += f", {status.active} of {len(status.workers)} workers active"
    return "\n".join([head, "", *_columns(workers), "", *_columns(volumes)])


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def size(count: int) -> str:
    """Bytes for people: ``0 B``, ``1.5 GiB``."""
    value, unit = float(count), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{count} B" if unit == 0 else f"{value:.1f} {_UNITS[unit]}"
