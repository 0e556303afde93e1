"""A volume's identity, its format on disk, and its lock. Layout: docs/formats/data-folder.md.

Invariants
* ``volume.json`` is written to a temporary name, synced, renamed, and the folder synced; a half-made volume has none.
* One process holds a volume: an flock for life on ``lock`` (I7). The kernel releases it when the process is gone.
"""

from __future__ import annotations

import os

import msgspec

from titans3.engine.files import Files, read_at, write_all
from titans3.errors import DiskError, FormatError, VolumeBusy

FORMAT = 1
_IDENTITY_BYTES_MAX = 4096


class VolumeIdentity(msgspec.Struct, frozen=True):
    """``volume.json``. ``cluster`` and ``uuid`` are 32 hex digits, or with dashes as uuid.UUID prints them."""

    format: int
    cluster: str
    uuid: str
    index: int
    created_ms: int

    @property
    def uuid_bytes(self) -> bytes:
        """16 bytes."""
        return bytes.fromhex(self.uuid.replace("-", ""))

    @property
    def cluster_bytes(self) -> bytes:
        """16 bytes."""
        return bytes.fromhex(self.cluster.replace("-", ""))


def format_volume(files: Files, path: str, *, cluster: str, uuid: str, index: int, created_ms: int) -> VolumeIdentity:
    """Make an empty volume. Raises FormatError if the folder already holds one, DiskError."""
    identity = VolumeIdentity(FORMAT, cluster, uuid, index, created_ms)
    if len(identity.uuid_bytes) != 16 or len(identity.cluster_bytes) != 16:
        raise FormatError(f"cluster {cluster!r} and volume {uuid!r} must be uuids")
    try:
        try:
            files.mkdir(path)
        except FileExistsError:
            if "volume.json" in files.listdir(path):
                raise FormatError(f"{path} already holds a volume") from None
        for sub in ("log", "data", "meta"):
            if sub not in files.listdir(path):
                files.mkdir(f"{path}/{sub}")
        temporary = f"{path}/volume.json.new"
        fd = files.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        try:
            write_all(files, fd, (msgspec.json.format(msgspec.json.encode(identity)) + b"\n",), 0)
            files.sync(fd, "identity.file")
        finally:
            files.close(fd)
        files.rename(temporary, f"{path}/volume.json")
        files.sync_dir(path, "identity.name")
        files.sync_dir(os.path.dirname(path.rstrip("/")) or ".", "identity.folder")
    except OSError as error:
        raise DiskError(f"{path} cannot be formatted: {error}") from error
    return identity


def read_identity(files: Files, path: str) -> VolumeIdentity:
    """Identity of the volume in ``path``. Raises FormatError if there is none, it is not ours or newer."""
    try:
        fd = files.open(f"{path}/volume.json", os.O_RDONLY)
    except FileNotFoundError:
        raise FormatError(f"{path} holds no volume: volume.json is missing") from None
    try:
        raw = bytes(read_at(files, fd, _IDENTITY_BYTES_MAX, 0))
    finally:
        files.close(fd)
    try:
        form = msgspec.json.decode(raw).get("format")
        if not isinstance(form, int) or form > FORMAT:
            raise FormatError(f"{path} has format {form}, which is newer than this build reads ({FORMAT})")
        return msgspec.json.decode(raw, type=VolumeIdentity)
    except (msgspec.MsgspecError, AttributeError) as error:
        raise FormatError(f"{path}/volume.json is not readable: {error}") from error


def lock_volume(files: Files, path: str) -> int:
    """Take the volume for this process; the descriptor to close at the end. Raises VolumeBusy, DiskError."""
    try:
        return files.lock(f"{path}/lock")
    except BlockingIOError:
        raise VolumeBusy(f"{path} is in use: another process holds its lock") from None
    except OSError as error:
        raise DiskError(f"{path} cannot be locked: {error}") from error
