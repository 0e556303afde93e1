"""What a volume needs of its metadata, and the real one: an LMDB environment under a view.

Invariant: the position and the rows that belong to it become durable together, or not at all (I3). The power-loss tests put
a model with atomic commits in this place, and only the files beside it lose sectors.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from titans3.engine.identity import VolumeIdentity
from titans3.engine.segments import LocalRows
from titans3.errors import DiskError
from titans3.meta.environment import Checkpoint, Environment, Position
from titans3.meta.overlay import Overlay
from titans3.meta.view import View
from titans3.rpc.marks import VolumeMarks


class VolumeMeta(Protocol):
    """The metadata of one volume as the engine sees it."""

    @property
    def rows(self) -> LocalRows:
        """``loc`` and ``seg`` rows as of now."""

    def position(self) -> Position | None: ...
    def stored_segments(self) -> Iterable[tuple[bytes, bytes]]:
        """``seg`` rows of the last checkpoint."""

    def persist(self, position: Position) -> None:
        """The position alone, synced; before anything is served. Raises DiskError."""

    def close(self) -> None: ...


class StoredMeta:
    """LMDB. ``environment`` and ``view`` are for the state machine and the checkpointer."""

    def __init__(self, folder: str, identity: VolumeIdentity, marks: VolumeMarks | None = None) -> None:
        try:
            self.environment = Environment(
                f"{folder}/meta", cluster=identity.cluster_bytes, volume=identity.uuid_bytes
            )
        except OSError as error:
            raise DiskError(f"{folder}/meta cannot be opened: {error}") from error
        self.view = View(self.environment, marks)

    @property
    def rows(self) -> LocalRows:
        return self.view

    def position(self) -> Position | None:
        return self.environment.position()

    def stored_segments(self) -> Iterable[tuple[bytes, bytes]]:
        return self.environment.rows_of(self.environment.seg)

    def persist(self, position: Position) -> None:
        self.environment.commit(Overlay(), Checkpoint(position, {}))

    def close(self) -> None:
        self.view.close()
        self.environment.close()
