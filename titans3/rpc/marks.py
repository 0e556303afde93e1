"""What of a volume may be newer than its B-tree: memory that the workers of a machine share, so that any of them reads the rest. Hot.

Invariants
* The owner of a volume marks an object's row before it answers whoever wrote it, and takes the mark off after the checkpoint that holds
  the row was committed. So whoever finds a row unmarked and begins to read the B-tree *after that* sees all that was acknowledged.
* There are two generations, as there are an active and a frozen overlay: an overlay marks its own, and takes all of it off at once.
* A mark may stand for several rows (SLOTS of a hash): then somebody asks the owner in vain. None is ever missing.
* ``epoch`` is odd while nobody keeps the marks: from the opening of a volume until its log is replayed, and after its owner has gone.
  A reader compares it before and after it looks at marks.
* Only on processors that let loads and stores of one process be seen in their order (x86-64) does anybody read by marks.

Layout, a volume: 64 bytes of header (epoch, 64 bits), then twice SLOTS bytes by row and GROUPS bytes by group.
Made by the supervisor (memfd).
"""

from __future__ import annotations

import mmap
import os
import platform
from collections.abc import Sequence

from xxhash import xxh3_64_intdigest

from titans3.limits import GROUPS

SLOTS = 1 << 17
_MASK = SLOTS - 1
_HEADER = 64
_GENERATION = SLOTS + GROUPS
_VOLUME = _HEADER + 2 * _GENERATION
_BLANK = bytes(_GENERATION)
IS_ORDERED = platform.machine() in ("x86_64", "AMD64")


class Generation:
    """Marks of one overlay."""

    __slots__ = ("_cells",)

    def __init__(self, cells: memoryview) -> None:
        self._cells = cells

    def mark(self, key: bytes) -> None:
        """An object's row (its logical key) is not in the B-tree as it is now."""
        cells = self._cells
        cells[xxh3_64_intdigest(key) & _MASK] = 1
        cells[SLOTS + (key[2] << 8 | key[3])] = 1  # a key begins with its group

    def clear(self) -> None:
        """All of it is in the B-tree."""
        self._cells[:] = _BLANK


class VolumeMarks:
    """Marks of one volume: ``opening``, ``ready``, ``closing`` and the generations are its owner's, the rest is for siblings."""

    __slots__ = ("_cells", "_epoch", "_kept", "generations")

    def __init__(self, region: memoryview) -> None:
        self._epoch = region[:8].cast("Q")
        self._cells = region[_HEADER:]
        self.generations = (Generation(self._cells[:_GENERATION]), Generation(self._cells[_GENERATION:]))
        self._kept = False

    def opening(self) -> None:
        """From now on this process owns the volume; nobody reads by marks until ``ready``."""
        self.withdraw()
        for generation in self.generations:
            generation.clear()

    def ready(self) -> None:
        """Every row that is not in the B-tree is marked, and will be."""
        self._kept = True
        self.assure()

    def assure(self) -> None:
        """Say so again, if the end of an earlier owner was noticed late."""
        if self._kept and self._epoch[0] & 1:
            self._epoch[0] += 1

    def closing(self) -> None:
        """This process does not keep the marks any more."""
        self._kept = False
        self.withdraw()

    def withdraw(self) -> None:
        """Nobody keeps the marks."""
        if not self._epoch[0] & 1:
            self._epoch[0] += 1

    # for siblings --------------------------------------------------------------------------------------------------

    def is_stored(self, key: bytes) -> bool:
        """Whether a B-tree transaction that begins now has all that was acknowledged of an object's row."""
        epoch = self._epoch
        before = epoch[0]
        slot = xxh3_64_intdigest(key) & _MASK
        cells = self._cells
        return not (before & 1 or cells[slot] or cells[_GENERATION + slot] or epoch[0] != before)

    def are_stored(self, gids: Sequence[int]) -> bool:
        """The same of all objects of some groups."""
        before = self._epoch[0]
        cells = self._cells
        if before & 1:
            return False
        for gid in gids:
            if cells[SLOTS + gid] or cells[_GENERATION + SLOTS + gid]:
                return False
        return self._epoch[0] == before


class Marks:
    """Of all volumes of a machine."""

    def __init__(self, fd: int, volumes: int) -> None:
        """Map what ``make`` made."""
        self.fd = fd
        self._map = mmap.mmap(fd, _VOLUME * volumes)
        self._memory = memoryview(self._map)

    @staticmethod
    def make(volumes: int) -> Marks:
        """New ones; the descriptor is passed on by name."""
        fd = os.memfd_create("titans3-marks", os.MFD_CLOEXEC)
        os.ftruncate(fd, _VOLUME * volumes)
        marks = Marks(fd, volumes)
        for volume in range(volumes):
            marks.of(volume).withdraw()
        return marks

    def of(self, volume: int) -> VolumeMarks:
        """Those of a volume, by its index."""
        return VolumeMarks(self._memory[volume * _VOLUME : (volume + 1) * _VOLUME])
