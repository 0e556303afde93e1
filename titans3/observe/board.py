"""The board: one shared memory page set on which every worker writes its own numbers and everybody reads all.

Invariants
* A slot has one writer; values are aligned 64-bit integers, so a reader sees an old or a new value, never half of one.
* The supervisor makes it (memfd) and survives every worker; ``clear`` blanks what a dead worker left.
* Numbers that everybody needs without a call live here: liveness, connections for balancing, state and space of volumes.

Layout, in 64-bit words: 8 of header (magic, format, workers, volumes, active workers, idle processors), 16 a worker, 40 a volume (the
last 32 are text, for people: it may be read while it is written), then ``sent[from][to]`` and ``taken[at][from]``, the connections
handed from worker to worker.
"""

from __future__ import annotations

import mmap
import os

from msgspec import Struct

_MAGIC = 0x54_53_33_42_4F_41_52_44
_FORMAT = 1
_HEADER = 8
_WORKER = 16
_VOLUME = 40
_CAUSE_AT, _CAUSE_BYTES = 8, 256
_ACTIVE, _IDLE = 4, 5  # words of the header
_SHARES = 1000  # what a share is told in

# Words of a worker
BEAT, STATE, CONNECTIONS, REQUESTS, CLIENT_ERRORS, SERVER_ERRORS, PID = range(7)

# States of a worker
DOWN, STARTING, OPEN, SERVING, DRAINING = range(5)
WORKER_STATES = ("down", "starting", "open", "serving", "draining")

# States of a volume, by the names the engine gives them
VOLUME_STATES = ("closed", "opening", "ok", "full", "damaged", "failed")


class VolumeSlot(Struct, frozen=True):
    """State and bytes of a volume; ``cause`` says why it is not ok."""

    state: str
    live: int
    dead: int
    log: int
    reserve: int
    free: int
    cause: str = ""


class Board:
    """Words of a board of so many workers and volumes."""

    def __init__(self, fd: int, workers: int, volumes: int) -> None:
        """Map the board behind a descriptor; the size must fit."""
        self.fd, self.workers, self.volumes = fd, workers, volumes
        self._map = mmap.mmap(fd, _bytes(workers, volumes))
        self._words = memoryview(self._map).cast("Q")
        self._volume_base = _HEADER + _WORKER * workers
        self._sent_base = self._volume_base + _VOLUME * volumes
        self._taken_base = self._sent_base + workers * workers

    @staticmethod
    def make(workers: int, volumes: int) -> Board:
        """A new board; its descriptor is inheritable by name only (pass it on)."""
        fd = os.memfd_create("titans3-board", os.MFD_CLOEXEC)
        os.ftruncate(fd, _bytes(workers, volumes))
        board = Board(fd, workers, volumes)
        board._words[0:4] = memoryview(bytes(32)).cast("Q")
        board._words[0], board._words[1], board._words[2], board._words[3] = _MAGIC, _FORMAT, workers, volumes
        return board

    @staticmethod
    def read(path: str) -> Board:
        """The board of a running server, to look at. Raises ValueError if it is none, OSError."""
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        raw = os.pread(fd, 32, 0)
        head = memoryview(raw.ljust(32, b"\0")).cast("Q")
        if head[0] != _MAGIC or head[1] != _FORMAT or os.fstat(fd).st_size < _bytes(head[2], head[3]):
            os.close(fd)
            raise ValueError(f"{path} is no board of this version")
        return Board(fd, head[2], head[3])

    # workers -------------------------------------------------------------------------------------------------------

    def get(self, worker: int, word: int) -> int:
        """A word of a worker."""
        return self._words[_HEADER + _WORKER * worker + word]

    def put(self, worker: int, word: int, value: int) -> None:
        """Set a word of a worker; only that worker does, or the supervisor when it is dead."""
        self._words[_HEADER + _WORKER * worker + word] = value

    def beat(self, worker: int) -> None:
        """The loop of this worker turns."""
        self._words[_HEADER + _WORKER * worker + BEAT] += 1

    def clear(self, worker: int) -> None:
        """A worker is dead: nobody hands it connections, what it held is gone. Handed ones that it did not take stay counted."""
        for word in (STATE, CONNECTIONS, PID):
            self.put(worker, word, 0)

    # balancing -----------------------------------------------------------------------------------------------------

    @property
    def active(self) -> int:
        """How many workers, the first by number, are active: they take connections and own the volumes. The supervisor sets it."""
        return self._words[_ACTIVE] or self.workers

    @active.setter
    def active(self, count: int) -> None:
        self._words[_ACTIVE] = count

    @property
    def idle(self) -> float | None:
        """The share of the processors that nobody used of late, or that the loops could not; ``None`` until the supervisor has seen it."""
        told = self._words[_IDLE]
        return (told - 1) / _SHARES if told else None

    @idle.setter
    def idle(self, share: float) -> None:
        self._words[_IDLE] = 1 + round(min(max(share, 0.0), 1.0) * _SHARES)

    def load(self, worker: int) -> int:
        """Connections a worker has, with those on their way to it."""
        count = self.workers
        load = self._words[_HEADER + _WORKER * worker + CONNECTIONS]
        for other in range(count):
            sent = self._words[self._sent_base + other * count + worker]
            load += (sent - self._words[self._taken_base + worker * count + other]) & 0xFFFFFFFF
        return load

    def sent(self, sender: int, receiver: int, count: int = 1) -> None:
        """``sender`` handed connections over (or, with -1, could not after all)."""
        at = self._sent_base + sender * self.workers + receiver
        self._words[at] = (self._words[at] + count) & 0xFFFFFFFF

    def taken(self, receiver: int, sender: int) -> None:
        """``receiver`` has a connection that ``sender`` handed over."""
        at = self._taken_base + receiver * self.workers + sender
        self._words[at] = (self._words[at] + 1) & 0xFFFFFFFF

    # volumes -------------------------------------------------------------------------------------------------------

    def put_volume(self, volume: int, slot: VolumeSlot) -> None:
        """State of a volume; its owner does."""
        base = self._volume_base + _VOLUME * volume
        self._words[base] = VOLUME_STATES.index(slot.state)
        for offset, value in enumerate((slot.live, slot.dead, slot.log, slot.reserve, slot.free), 1):
            self._words[base + offset] = max(value, 0)
        cause = slot.cause.encode()[:_CAUSE_BYTES].ljust(_CAUSE_BYTES, b"\0")
        text = self._words[base + _CAUSE_AT : base + _VOLUME]
        if text.tobytes() != cause:
            text[:] = memoryview(cause).cast("Q")

    def volume(self, volume: int) -> VolumeSlot:
        """State of a volume."""
        base = self._volume_base + _VOLUME * volume
        words = self._words[base : base + 6].tolist()
        cause = self._words[base + _CAUSE_AT : base + _VOLUME].tobytes().rstrip(b"\0").decode(errors="replace")
        state, live, dead, log, reserve, free = words
        return VolumeSlot(VOLUME_STATES[state], live, dead, log, reserve, free, cause)

    def close(self) -> None:
        """Unmap and close."""
        self._words.release()
        self._map.close()
        os.close(self.fd)


def _bytes(workers: int, volumes: int) -> int:
    words = _HEADER + _WORKER * workers + _VOLUME * volumes + 2 * workers * workers
    return (words * 8 + 4095) // 4096 * 4096
