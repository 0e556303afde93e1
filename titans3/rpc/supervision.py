"""What supervisor and worker say to each other: one message per datagram of a socket pair (SOCK_SEQPACKET).

Invariants
* End of file on the worker's end means that the supervisor is gone: the worker stops by itself and releases its volumes.
* A message is whole or not there; its size is bounded by MESSAGE_BYTES_MAX.
* The root secret and the root key travel here and nowhere else: not in arguments, not in the environment.
"""

from __future__ import annotations

import socket

import msgspec

from titans3.config.schema import Config
from titans3.errors import PeerError

MESSAGE_BYTES_MAX = 128 * 1024


class VolumePlace(msgspec.Struct, array_like=True, frozen=True):
    """A row of the volume table, its path absolute."""

    index: int
    uuid: str
    path: str


class Start(msgspec.Struct, tag="start", frozen=True):
    """First message. Descriptors are numbers that the worker inherited."""

    worker: int
    workers: int
    config: Config
    cluster: str
    volumes: tuple[VolumePlace, ...]
    group_volume: tuple[int, ...]
    owners: tuple[int, ...]
    root_access_key: str
    root_secret: str
    root_key: bytes
    listeners: tuple[int, ...]
    run_fd: int
    board_fd: int
    inbox_fd: int
    outbox_fds: tuple[int, ...]
    standby: bool = False  # load everything, open nothing until OpenVolumes
    marks_fd: int = -1  # -1: an older supervisor


class OpenVolumes(msgspec.Struct, tag="open", frozen=True):
    """Open the volumes you own; answered by Opened or Failed."""


class Moving(msgspec.Struct, tag="moving", frozen=True):
    """Workers whose volumes are between two processes: hold their requests."""

    workers: tuple[int, ...]


class Owners(msgspec.Struct, tag="owners", frozen=True):
    """Who owns which volume from now on: volume index → worker."""

    owners: tuple[int, ...]


class Release(msgspec.Struct, tag="release", frozen=True):
    """Close a volume for a sibling, while serving; answered by Released. Everybody was told that the sibling is moving."""

    volume: int
    to: int


class Adopt(msgspec.Struct, tag="adopt", frozen=True):
    """Open a volume that a sibling released; answered by Adopted or Failed. ``closed_at``: as in Released."""

    volume: int
    closed_at: tuple[int, ...] = ()


class Serve(msgspec.Struct, tag="serve", frozen=True):
    """Every volume is open: accept connections. ``buckets`` are made if they are not there."""

    buckets: tuple[str, ...] = ()


class Drain(msgspec.Struct, tag="drain", frozen=True):
    """Accept no more, finish what is in flight within ``seconds``, keep serving siblings; answered by Drained.

    ``hand_over``: a successor comes; idle connections go to siblings, or wait for it. A second one may shorten the time.
    """

    seconds: float
    hand_over: bool = False


class Close(msgspec.Struct, tag="close", frozen=True):
    """Checkpoint, close the volumes, exit."""


class Checkpoint(msgspec.Struct, tag="checkpoint", frozen=True):
    """Checkpoint every volume while serving; answered by Checkpointed."""


class Reload(msgspec.Struct, tag="reload", frozen=True):
    """New configuration; what can change while running does (certificates, log level)."""

    config: Config


class Loaded(msgspec.Struct, tag="loaded", frozen=True):
    """The worker's code is loaded. ``level``: the feature level it knows; 0 of code that does not say. ``moves``: whether it knows active
    workers, and can release and adopt volumes."""

    level: int = 0
    moves: bool = False


class Opened(msgspec.Struct, tag="opened", frozen=True):
    """The worker's volumes are open and recovered."""

    seconds: float


class Serving(msgspec.Struct, tag="serving", frozen=True):
    """The worker accepts connections."""


class Checkpointed(msgspec.Struct, tag="checkpointed", frozen=True):
    """Done."""


class Released(msgspec.Struct, tag="released", frozen=True):
    """A volume is closed after so many seconds in which nobody served it; ``done`` false: it is busy and stays.

    ``closed_at``: segment, offset, batch and epoch of the checkpoint that holds everything; empty: its log has more.
    """

    volume: int
    seconds: float
    done: bool
    closed_at: tuple[int, ...] = ()


class Adopted(msgspec.Struct, tag="adopted", frozen=True):
    """A released volume is open here after so many seconds."""

    volume: int
    seconds: float


class Drained(msgspec.Struct, tag="drained", frozen=True):
    """No request is in flight here; ``cut`` were when the time was over."""

    cut: int


class Failed(msgspec.Struct, tag="failed", frozen=True):
    """The worker cannot start; ``refused``: trying again will not help, an operator must act."""

    message: str
    refused: bool


class Wanted(msgspec.Struct, tag="wanted", frozen=True):
    """An administrator asked this worker for ``restart`` (all workers, one after the other) or ``stop``."""

    order: str


ToWorker = Start | OpenVolumes | Moving | Owners | Release | Adopt | Serve | Drain | Close | Checkpoint | Reload
ToSupervisor = Loaded | Opened | Serving | Checkpointed | Released | Adopted | Drained | Failed | Wanted

_encode = msgspec.msgpack.Encoder().encode
_to_worker = msgspec.msgpack.Decoder(ToWorker)
_to_supervisor = msgspec.msgpack.Decoder(ToSupervisor)


def pair() -> tuple[socket.socket, socket.socket]:
    """Supervisor's and worker's end."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)


def send(sock: socket.socket, message: ToWorker | ToSupervisor) -> None:
    """Send a message. Raises PeerError when the other end is gone."""
    data = _encode(message)
    assert len(data) <= MESSAGE_BYTES_MAX, len(data)
    try:
        sock.send(data)
    except OSError as error:
        raise PeerError(f"the other end does not listen: {error}") from error


def receive_order(sock: socket.socket) -> ToWorker | None:
    """A message to a worker; ``None`` at the end. Raises BlockingIOError."""
    data = _receive(sock)
    return None if not data else _to_worker.decode(data)


def receive_report(sock: socket.socket) -> ToSupervisor | None:
    """A message to the supervisor; ``None`` at the end. Raises BlockingIOError."""
    data = _receive(sock)
    return None if not data else _to_supervisor.decode(data)


def _receive(sock: socket.socket) -> bytes:
    try:
        return sock.recv(MESSAGE_BYTES_MAX)
    except ConnectionResetError:
        return b""
