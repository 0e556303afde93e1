"""A simulated disk: the engine's file layer in memory, which can lose what was not synced.

* Power loss keeps the content of the last sync of each file and a random subset of the 512-byte sectors written since, and of each
  directory the synced names and a random subset of the changes since. A size that was not synced may be the old or the new one.
* A kill keeps everything, and what was not synced stays unsynced.
* ``cut_at``: the operation with this number is the last that happens; every later one raises ``PowerLoss``.
* ``dropped``: sync call sites that do nothing, to show that each of them matters.
"""

from __future__ import annotations

import asyncio
import errno
import os
import random
import threading
from collections.abc import Callable, Sequence

SECTOR = 512
Piece = bytes | bytearray | memoryview
Done = Callable[[OSError | None], None]


class PowerLoss(OSError):
    """The machine is off."""

    def __init__(self) -> None:
        super().__init__(errno.EIO, "power loss")


class Node:
    """A file: what reads see, what the medium holds, and the sectors that differ."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.durable = bytearray()
        self.dirty: set[int] = set()
        self.links = 1

    def sync(self) -> None:
        size = len(self.data)
        if len(self.durable) > size:
            del self.durable[size:]
        else:
            self.durable.extend(bytes(size - len(self.durable)))
        for sector in self.dirty:
            at = sector * SECTOR
            self.durable[at : at + SECTOR] = self.data[at : at + SECTOR]
        self.dirty.clear()

    def lose(self, chance: random.Random) -> None:
        keep = chance.choice((0.0, 0.2, 0.5, 0.8, 0.95))
        if len(self.data) != len(self.durable) and chance.random() < 0.5:
            self.durable = self.durable[: len(self.data)].ljust(len(self.data), b"\0")
        for sector in sorted(self.dirty):
            at = sector * SECTOR
            if at < len(self.durable) and chance.random() < keep:
                piece = self.data[at : at + SECTOR]
                self.durable[at : at + len(piece)] = piece
        self.data = bytearray(self.durable)
        self.dirty.clear()


class Folder:
    """A directory: names now, names on the medium."""

    def __init__(self) -> None:
        self.names: dict[str, Node | Folder] = {}
        self.durable: dict[str, Node | Folder] = {}

    def lose(self, chance: random.Random) -> None:
        result = dict(self.durable)
        for name in sorted(set(self.names) | set(self.durable)):
            now, before = self.names.get(name), self.durable.get(name)
            if now is not before and chance.random() < 0.5:
                if now is None:
                    del result[name]
                else:
                    result[name] = now
        self.names, self.durable = result, dict(result)
        for item in result.values():
            item.lose(chance)


class SimulatedDisk:
    """Implements ``titans3.engine.files.Files``."""

    def __init__(self) -> None:
        self.root = Folder()
        self.operations = 0
        self.cut_at = -1
        self.off = False
        self.dropped: set[str] = set()
        self.fail_sync: dict[str, int] = {}
        self.sites: set[str] = set()
        self.capacity = 1 << 40
        self.has_syncs = True  # as a kernel that syncs by itself
        self._lock = threading.RLock()
        self._open: dict[int, Node] = {}
        self._locked: set[str] = set()
        self._next_fd = 1000

    # crashes
    def operate(self, happens_at_cut: bool = True) -> None:
        """Count an operation; raises PowerLoss if the machine is off. The operation of the cut itself happens, unless told otherwise."""
        if self.off:
            raise PowerLoss
        self.operations += 1
        if self.operations == self.cut_at:
            self.off = True
            if not happens_at_cut:
                raise PowerLoss

    def restart(self, chance: random.Random | None) -> None:
        """Switch on again: after a power loss (with ``chance``), or after a kill."""
        with self._lock:
            if chance is not None:
                self.root.lose(chance)
            self._open.clear()
            self._locked.clear()
            self.off = False
            self.operations = 0
            self.cut_at = -1

    # Files
    def _folder(self, path: str) -> Folder:
        item: Node | Folder = self.root
        for name in [part for part in path.split("/") if part and part != "."]:
            assert isinstance(item, Folder)
            if name not in item.names:
                raise FileNotFoundError(errno.ENOENT, "no such folder", path)
            item = item.names[name]
        assert isinstance(item, Folder)
        return item

    def _at(self, path: str) -> tuple[Folder, str]:
        parent, _, name = path.rpartition("/")
        return self._folder(parent), name

    def node(self, path: str) -> Node:
        """A file, to flip bits in."""
        folder, name = self._at(path)
        item = folder.names.get(name)
        if not isinstance(item, Node):
            raise FileNotFoundError(errno.ENOENT, "no such file", path)
        return item

    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        with self._lock:
            folder, name = self._at(path)
            if flags & os.O_CREAT:
                self.operate()
                if name in folder.names and flags & os.O_EXCL:
                    raise FileExistsError(errno.EEXIST, "exists", path)
                if name not in folder.names:
                    folder.names[name] = Node()
            elif self.off:
                raise PowerLoss
            node = self.node(path)
            if flags & os.O_TRUNC:
                node.data.clear()
            self._next_fd += 1
            self._open[self._next_fd] = node
            return self._next_fd

    def close(self, fd: int) -> None:
        with self._lock:
            self._open.pop(fd, None)

    def pwritev(self, fd: int, pieces: Sequence[Piece], offset: int) -> int:
        with self._lock:
            self.operate()
            node = self._open[fd]
            data = b"".join(pieces)
            if len(pieces) > 1 and self.operations % 7 == 0:
                data = data[: len(data) // 2 + 1]  # a short write
            end = offset + len(data)
            if len(node.data) < end:
                node.data.extend(bytes(end - len(node.data)))
            node.data[offset:end] = data
            node.dirty.update(range(offset // SECTOR, (end + SECTOR - 1) // SECTOR))
            return len(data)

    def preadv(self, fd: int, buffer: bytearray | memoryview, offset: int, *, nowait: bool = False) -> int:
        with self._lock:
            if self.off:
                raise PowerLoss
            data = self._open[fd].data[offset : offset + len(buffer)]
            buffer[: len(data)] = data
            return len(data)

    def next_data(self, fd: int, offset: int) -> int | None:
        """To a sector, as a file system tells it to a block."""
        with self._lock:
            data = bytes(self._open[fd].data[offset:])
        rest = len(data.lstrip(b"\0"))
        at = offset + len(data) - rest
        return max(offset, at - at % SECTOR) if rest else None

    def begin_write_back(self, fd: int, offset: int, length: int) -> None:
        """Promises nothing."""

    def uncache(self, fd: int, offset: int, length: int) -> None:
        """Nothing is lost by it: what is not on the medium stays."""

    def sync(self, fd: int, site: str) -> None:
        with self._lock:
            self.operate(happens_at_cut=False)
            self.sites.add(site)
            if site in self.fail_sync:
                raise OSError(self.fail_sync[site], "sync failed")
            if site not in self.dropped:
                self._open[fd].sync()

    def syncs(self, loop: asyncio.AbstractEventLoop) -> SimulatedSyncs | None:
        return SimulatedSyncs(self, loop) if self.has_syncs else None

    def sync_dir(self, path: str, site: str) -> None:
        with self._lock:
            self.operate(happens_at_cut=False)
            self.sites.add(site)
            if site not in self.dropped:
                folder = self._folder(path)
                folder.durable = dict(folder.names)

    def allocate(self, fd: int, length: int) -> None:
        with self._lock:
            self.operate()
            node = self._open[fd]
            if self.free_bytes("") < length - len(node.data):
                raise OSError(errno.ENOSPC, "no space left on device")
            if len(node.data) < length:
                node.data.extend(bytes(length - len(node.data)))

    def size(self, fd: int) -> int:
        with self._lock:
            return len(self._open[fd].data)

    def is_linked(self, fd: int) -> bool:
        with self._lock:
            return self._open[fd].links > 0

    def listdir(self, path: str) -> list[str]:
        with self._lock:
            if self.off:
                raise PowerLoss
            return list(self._folder(path).names)

    def mkdir(self, path: str) -> None:
        with self._lock:
            self.operate()
            folder, name = self._at(path)
            if name in folder.names:
                raise FileExistsError(errno.EEXIST, "exists", path)
            folder.names[name] = Folder()

    def unlink(self, path: str) -> None:
        with self._lock:
            self.operate()
            node = self.node(path)
            folder, name = self._at(path)
            del folder.names[name]
            node.links = 0

    def rename(self, source: str, target: str) -> None:
        with self._lock:
            self.operate()
            node = self.node(source)
            folder, name = self._at(source)
            del folder.names[name]
            folder, name = self._at(target)
            folder.names[name] = node

    def free_bytes(self, path: str) -> int:
        with self._lock:
            return self.capacity - _used(self.root)

    def lock(self, path: str) -> int:
        with self._lock:
            if path in self._locked:
                raise BlockingIOError(errno.EAGAIN, "locked")
            self._locked.add(path)
            return self.open(path, os.O_RDWR | os.O_CREAT)


class SimulatedSyncs:
    """Implements ``titans3.engine.kernel_sync.Syncs``: a sync happens some turns of the loop after it was asked for."""

    def __init__(self, disk: SimulatedDisk, loop: asyncio.AbstractEventLoop) -> None:
        self._disk, self._loop, self._detached = disk, loop, False

    def begin(self, fd: int, site: str, done: Done) -> None:
        self._loop.call_later(0.0001, self._sync, fd, site, done)

    def _sync(self, fd: int, site: str, done: Done) -> None:
        error = None
        try:
            self._disk.sync(fd, site)
        except OSError as failure:
            error = failure
        if not self._detached:
            done(error)

    def detach(self) -> None:
        self._detached = True

    def close(self) -> None:
        pass


def _used(folder: Folder) -> int:
    return sum([_used(item) if isinstance(item, Folder) else len(item.data) for item in folder.names.values()])
