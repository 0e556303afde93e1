"""Making a volume of a data folder empty again: what would be lost, and the erasure.

Invariants
* The last copy of the root key is never erased.
* Only a volume's own files and folders are erased; a folder that holds anything else is refused. ``volume.json`` goes first and
  comes last: what an interruption leaves is no volume, and formatting it again is safe.
* Data ids are never given twice: the new volume's epochs begin above any that the old one can have had.
"""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack

import msgspec

from titans3.engine.files import OsFiles
from titans3.engine.identity import format_volume, lock_volume
from titans3.engine.segment import number_of
from titans3.errors import ConfigError, DiskError
from titans3.jobs.inventory import look
from titans3.meta.environment import Checkpoint, Environment, Position
from titans3.meta.overlay import Overlay

ROOT_KEY = "root-key.json"
_FOLDERS = ("log", "data", "meta")
_OURS = frozenset((*_FOLDERS, "volume.json", "volume.json.new", ROOT_KEY, f"{ROOT_KEY}.new", "lock", "lost+found"))


class Loss(msgspec.Struct, frozen=True):
    """What formatting a volume loses. ``rows`` by table, -1 bytes alive if the metadata cannot be read."""

    path: str
    state: str
    segments: int
    live_bytes: int
    rows: dict[str, int]
    groups: int
    is_system: bool
    others: tuple[str, ...]

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to lose."""
        rows = any(self.rows.get(name) for name in ("kv", "loc", "seg"))
        return not self.segments and not self.live_bytes and not self.others and not rows

    def lines(self) -> list[str]:
        """For people."""
        told = [f"{self.path} ({self.state}) holds {self.segments} segments"]
        told.append(
            "its metadata cannot be read: what is alive in it is not known"
            if self.live_bytes < 0
            else f"{self.live_bytes} bytes are alive in it"
        )
        if self.rows.get("kv"):
            told.append(f"{self.rows['kv']} rows of {self.groups} groups: the objects whose keys belong there")
        if self.is_system:
            told.append("it is volume 0: every bucket, user, key and policy of the node is in it")
        if self.others:
            told.append(f"and what is no part of a volume: {', '.join(self.others[:5])}")
        return told


def loss_of(path: str, stack: ExitStack, *, group_count: int, is_system: bool) -> Loss:
    """Look at what is there, and keep its lock. Raises VolumeBusy."""
    if not os.path.isdir(path):
        return Loss(path, "missing", 0, 0, {}, group_count, is_system, ())
    others = tuple(sorted(name for name in os.listdir(path) if name not in _OURS and not name.startswith("meta.")))
    with ExitStack() as looking:
        info = look(path, -1, looking)
    stack.callback(OsFiles().close, lock_volume(OsFiles(), path))
    if not info.uuid:  # no identity, but perhaps segments: formatting was interrupted, or volume.json was lost
        count = sum(
            1
            for sub in ("log", "data")
            if os.path.isdir(f"{path}/{sub}")
            for name in os.listdir(f"{path}/{sub}")
            if number_of(name) is not None
        )
        return Loss(path, info.state, count, -1 if count else 0, {}, group_count, is_system, others)
    is_known = info.position is not None or not info.segments
    return Loss(path, info.state, len(info.segments), info.live if is_known else -1, info.rows, group_count, is_system, others)


def blank_volume(path: str, *, cluster: str, uuid: str, index: int, created_ms: int, now_ms: int, others: list[str]) -> None:
    """Erase what a volume holds and make it anew; ``others`` are all volumes of the folder. Its lock is the caller's, if it is there.

    Raises ConfigError (the last root key, strange files), DiskError, OSError.
    """
    files = OsFiles()
    if os.path.isdir(path):
        strange = [name for name in os.listdir(path) if name not in _OURS and not name.startswith("meta.")]
        if strange:
            raise ConfigError(f"{path} holds what is no part of a volume ({', '.join(sorted(strange)[:3])}); take it away first")
        copies = [other for other in others if os.path.exists(f"{other}/{ROOT_KEY}")]
        if copies == [path]:
            raise ConfigError(f"{path} has the only copy of the root key; keep it first: titanctl kms backup FILE")
        for name in ("volume.json", "volume.json.new"):
            if os.path.exists(f"{path}/{name}"):
                files.unlink(f"{path}/{name}")
        files.sync_dir(path, "blank.identity")
        for name in sorted(os.listdir(path)):
            if os.path.isdir(f"{path}/{name}") and name != "lost+found":
                shutil.rmtree(f"{path}/{name}")
            elif name.startswith(ROOT_KEY):
                files.unlink(f"{path}/{name}")
        files.sync_dir(path, "blank.content")
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    identity = format_volume(files, path, cluster=cluster, uuid=uuid, index=index, created_ms=created_ms)
    try:
        environment = Environment(f"{path}/meta", cluster=identity.cluster_bytes, volume=identity.uuid_bytes)
    except OSError as error:
        raise DiskError(f"{path}/meta cannot be made: {error}") from error
    try:
        environment.commit(Overlay(), Checkpoint(Position(0, 0, 0, now_ms // 1000), {}))
    finally:
        environment.close()
