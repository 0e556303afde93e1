"""The data folder: made on first start, checked on every start, held by one supervisor. Layout: docs/formats/data-folder.md.

Invariants
* ``run/lock`` is held (flock) as long as the supervisor lives; nothing in the folder is changed without it.
* A folder is formatted by a plan (``cluster.json.new``) that is written first and finished by whoever comes next; ``cluster.json`` appears
  when every volume is there. So a volume that is missing later is missing, never "not made yet".
* A folder that holds anything else is refused, and so are a newer format, a missing or foreign volume, a network file system.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import string
import uuid
from collections.abc import Mapping

import msgspec

from titans3.clock import Clock
from titans3.engine.files import OsFiles
from titans3.engine.identity import format_volume, read_identity
from titans3.errors import ConfigError, FormatError
from titans3.limits import GROUPS
from titans3.rpc.supervision import VolumePlace

FORMAT = 1
VOLUMES_MIN, VOLUMES_MAX = 2, 16
ACCESS_KEY_BYTES, SECRET_KEY_BYTES = 20, 40
ACCESS_KEY_BYTES_MIN, SECRET_KEY_BYTES_MIN = 3, 8
_PLAN = "cluster.json.new"
_OURS = frozenset({_PLAN, "cluster.json", "credentials.json", "credentials.json.new", "run", "volumes", "lost+found"})
NETWORK_FILE_SYSTEMS = frozenset(
    "9p afs beegfs ceph cifs coda davfs fuse.ceph fuse.glusterfs fuse.rclone fuse.s3fs fuse.sshfs gfs2 glusterfs lustre ncpfs nfs nfs4 "
    "ocfs2 smb2 smb3 smbfs".split()
)


class Credentials(msgspec.Struct, frozen=True):
    """``credentials.json``: the root's keys."""

    access_key: str
    secret_key: str
    format: int = FORMAT


class VolumeRow(msgspec.Struct, frozen=True):
    """A volume in ``cluster.json``; ``path`` is relative to the folder, or absolute."""

    index: int
    uuid: str
    path: str


class ClusterFile(msgspec.Struct, frozen=True):
    """``cluster.json``."""

    format: int
    cluster: str
    groups: int
    created_ms: int
    volumes: tuple[VolumeRow, ...]
    group_volume: tuple[int, ...]


class DataFolder:
    """An open data folder. ``close`` lets go of its lock."""

    def __init__(self, path: str, cluster: ClusterFile, lock_fd: int, run_fd: int, *, fresh: bool, was_unclean: bool) -> None:
        self.path, self.cluster, self.run_fd = path, cluster, run_fd
        self.fresh, self.was_unclean = fresh, was_unclean
        self._lock_fd = lock_fd

    @property
    def volumes(self) -> tuple[VolumePlace, ...]:
        """Volumes with absolute paths."""
        return tuple(
            VolumePlace(row.index, row.uuid, os.path.join(self.path, row.path)) for row in self.cluster.volumes
        )

    def write_endpoint(self, endpoint: Mapping[str, object]) -> None:
        """Tell tools on this machine where the server listens: ``run/endpoint.json``, 0600."""
        write_json(os.path.join(self.path, "run", "endpoint.json"), endpoint)

    def close(self) -> None:
        """A clean end: the endpoint goes, the lock is free."""
        path = os.path.join(self.path, "run", "endpoint.json")
        if os.path.exists(path):
            os.unlink(path)
        os.close(self.run_fd)
        os.close(self._lock_fd)


def open_folder(path: str, clock: Clock, cpus: int) -> DataFolder:
    """Open, and on first use make, a data folder. Raises ConfigError, FormatError, DiskError, OSError."""
    path = os.path.abspath(path)
    os.makedirs(path, mode=0o700, exist_ok=True)
    refuse_network(path, _mounts())
    names = set(os.listdir(path))
    if "cluster.json" not in names and names - _OURS:
        some = ", ".join(sorted(names - _OURS)[:3])
        raise ConfigError(f"{path} is not empty and not a TitanS3 data folder (it holds {some}); give an empty or new folder")
    lock_fd = lock_folder(path)
    try:
        was_unclean = os.path.exists(os.path.join(path, "run", "endpoint.json"))
        fresh = "cluster.json" not in os.listdir(path)
        cluster = _format(path, clock, cpus) if fresh else read_cluster(path)
        for row in cluster.volumes:
            _check_volume(path, cluster, row)
        run_fd = os.open(os.path.join(path, "run"), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except BaseException:
        os.close(lock_fd)
        raise
    return DataFolder(path, cluster, lock_fd, run_fd, fresh=fresh, was_unclean=was_unclean)


def lock_folder(path: str) -> int:
    """Take the folder for this process. Raises ConfigError naming who has it."""
    os.makedirs(os.path.join(path, "run"), mode=0o700, exist_ok=True)
    fd = os.open(os.path.join(path, "run", "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(fd, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(fd)
        raise ConfigError(f"{path} is in use by another server (process {holder}); one folder has one server") from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, b"%d\n" % os.getpid(), 0)
    return fd


def read_cluster(path: str) -> ClusterFile:
    """``cluster.json`` of a folder. Raises FormatError, also for a newer one."""
    name = os.path.join(path, "cluster.json")
    try:
        with open(name, "rb") as file:
            raw = file.read()
        form = msgspec.json.decode(raw)["format"]
        if not isinstance(form, int) or form > FORMAT:
            raise FormatError(
                f"{path} was written by a newer version: format {form}, this build reads up to {FORMAT}. Nothing was changed."
            )
        cluster = msgspec.json.decode(raw, type=ClusterFile)
    except FileNotFoundError:
        raise FormatError(f"{path} holds no TitanS3 data: cluster.json is missing") from None
    except (msgspec.MsgspecError, KeyError, TypeError) as error:
        raise FormatError(f"{name} is not readable: {error}") from error
    indexes = [row.index for row in cluster.volumes]
    if indexes != list(range(len(indexes))) or len(cluster.group_volume) != GROUPS or cluster.groups != GROUPS:
        raise FormatError(f"{name}: the volume table or the group table is not whole")
    if not all(0 <= volume < len(indexes) for volume in cluster.group_volume):
        raise FormatError(f"{name}: the group table names a volume that the volume table does not have")
    return cluster


def _check_volume(path: str, cluster: ClusterFile, row: VolumeRow) -> None:
    where = os.path.join(path, row.path)
    if not os.path.isdir(where) or not os.path.exists(os.path.join(where, "volume.json")):
        raise FormatError(
            f"volume {row.index} of {len(cluster.volumes)} is missing: expected at {where} with uuid {row.uuid}. Bring it back "
            "(is its disk mounted?); without it its keys cannot be read, and none is served."
        )
    identity = read_identity(OsFiles(), where)
    if (identity.uuid, identity.cluster, identity.index) != (row.uuid, cluster.cluster, row.index):
        raise FormatError(
            f"{where} is another volume: it says uuid {identity.uuid}, index {identity.index}, the table says {row.uuid}, {row.index}"
        )
    refuse_network(where, _mounts())


def _format(path: str, clock: Clock, cpus: int) -> ClusterFile:
    plan = os.path.join(path, _PLAN)
    if os.path.exists(plan):
        with open(plan, "rb") as file:
            cluster = msgspec.json.decode(file.read(), type=ClusterFile)
    else:
        count = min(max(cpus, VOLUMES_MIN), VOLUMES_MAX)
        rows = tuple(VolumeRow(index, str(uuid.uuid4()), f"volumes/{index:04d}") for index in range(count))
        cluster = ClusterFile(
            FORMAT, str(uuid.uuid4()), GROUPS, clock.wall_ms(), rows, tuple(group % count for group in range(GROUPS))
        )
        write_json(plan, cluster)
    os.makedirs(os.path.join(path, "volumes"), mode=0o700, exist_ok=True)
    files = OsFiles()
    for row in cluster.volumes:
        where = os.path.join(path, row.path)
        if not os.path.exists(os.path.join(where, "volume.json")):
            format_volume(
                files, where, cluster=cluster.cluster, uuid=row.uuid, index=row.index, created_ms=cluster.created_ms
            )
    os.rename(plan, os.path.join(path, "cluster.json"))
    _sync_folder(path)
    _sync_folder(os.path.dirname(path))
    return cluster


# credentials -----------------------------------------------------------------------------------------------------------


def read_credentials(path: str) -> Credentials:
    """``credentials.json`` of a folder. Raises FormatError."""
    name = os.path.join(path, "credentials.json")
    try:
        with open(name, "rb") as file:
            return msgspec.json.decode(file.read(), type=Credentials)
    except FileNotFoundError:
        raise FormatError(f"{name} is missing; `titans3 credentials reset --data {path}` makes new ones") from None
    except msgspec.MsgspecError as error:
        raise FormatError(f"{name} is not readable: {error}; `titans3 credentials reset --data {path}` makes new ones") from error


def root_credentials(folder: DataFolder, environment: Mapping[str, str]) -> tuple[Credentials, bool]:
    """The root's keys and whether they came from the environment; made on first start. Raises ConfigError."""
    access, secret = environment.get("TITANS3_ROOT_ACCESS_KEY", ""), environment.get("TITANS3_ROOT_SECRET_KEY", "")
    if access or secret:
        return _checked(access, secret), True
    if not os.path.exists(os.path.join(folder.path, "credentials.json")):
        if not folder.fresh and not folder.was_unclean:
            return read_credentials(folder.path), False  # says how to make new ones
        _write_credentials(folder.path)
    return read_credentials(folder.path), False


def _checked(access: str, secret: str) -> Credentials:
    if not access or not secret:
        missing = "TITANS3_ROOT_SECRET_KEY" if access else "TITANS3_ROOT_ACCESS_KEY"
        raise ConfigError(f"{missing} is missing: the two are given together")
    if not (len(access) >= ACCESS_KEY_BYTES_MIN and access.isascii() and access.isprintable() and not set(access) & set("/,= ")):
        raise ConfigError(
            f"TITANS3_ROOT_ACCESS_KEY: at least {ACCESS_KEY_BYTES_MIN} printable ASCII characters without '/', ',', '=' and spaces"
        )
    if len(secret) < SECRET_KEY_BYTES_MIN:
        raise ConfigError(f"TITANS3_ROOT_SECRET_KEY: at least {SECRET_KEY_BYTES_MIN} characters")
    return Credentials(access, secret)


def reset_credentials(path: str) -> Credentials:
    """New root keys for a server that is not running. Raises ConfigError (it is), FormatError (no data folder)."""
    path = os.path.abspath(path)
    read_cluster(path)
    lock_fd = lock_folder(path)
    try:
        return _write_credentials(path)
    finally:
        os.close(lock_fd)


def _write_credentials(path: str) -> Credentials:
    letters = string.ascii_uppercase + string.digits
    credentials = Credentials(
        "TS" + "".join(secrets.choice(letters) for _ in range(ACCESS_KEY_BYTES - 2)),
        "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(SECRET_KEY_BYTES)),
    )
    write_json(os.path.join(path, "credentials.json"), credentials)
    return credentials


# files -----------------------------------------------------------------------------------------------------------------


def write_json(path: str, value: object) -> None:
    """Durably, 0600: temporary name, sync, rename, sync of the folder."""
    temporary = path + ".new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(fd, 0o600)
        data = msgspec.json.format(msgspec.json.encode(value)) + b"\n"
        assert os.write(fd, data) == len(data)
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(temporary, path)
    _sync_folder(os.path.dirname(path))


def _sync_folder(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _mounts() -> str:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return file.read()


def file_system(path: str, mounts: str) -> str:
    """Type of the file system that holds a path, from the text of ``/proc/self/mountinfo``; empty if it is not told."""
    real = os.path.realpath(path)
    best, found = -1, ""
    for line in mounts.splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split(" ")
        if len(fields) < 5 or not right:
            continue
        point = fields[4].encode("utf-8", "surrogateescape").decode("unicode_escape")
        inside = point == "/" or real == point or real.startswith(point + "/")
        if inside and len(point) >= best:  # of two mounts on one point the later one is seen
            best, found = len(point), right.split(" ")[0]
    return found


def refuse_network(path: str, mounts: str) -> None:
    """Raises ConfigError for a network file system: locks, mmap and fsync do not mean there what durability needs."""
    kind = file_system(path, mounts)
    if kind in NETWORK_FILE_SYSTEMS:
        raise ConfigError(f"{path} lies on a network file system ({kind}); locks and syncs do not hold there. Use a local disk.")
