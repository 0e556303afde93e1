"""The data folder: made on first start, checked on every start, held by one supervisor. Layout: docs/formats/data-folder.md.

Invariants
* ``run/lock`` is held (flock) as long as the supervisor lives; nothing in the folder is changed without it.
* A folder is formatted by a plan (``cluster.json.new``) that is written first and finished by whoever comes next; ``cluster.json`` appears
  when every volume and the root's keys are there. So what is missing later is missing, never "not made yet".
* A folder that holds anything else is refused, and so are a newer format, a missing or foreign volume, a network file system, and volumes
  whose ``cluster.json`` is gone.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import string
import uuid
from collections.abc import Mapping

import msgspec

from titans3.clock import Clock
from titans3.config.mounts import mounts, refuse_network
from titans3.engine.files import OsFiles
from titans3.engine.identity import format_volume, read_identity
from titans3.errors import ConfigError, FormatError
from titans3.limits import GROUPS
from titans3.rpc.supervision import VolumePlace
from titans3.supervisor import lock
from titans3.supervisor.lock import lock_folder

FORMAT = 1
VOLUMES_MIN, VOLUMES_MAX = 2, 16
ACCESS_KEY_BYTES, SECRET_KEY_BYTES = 20, 40
ACCESS_KEY_BYTES_MIN, SECRET_KEY_BYTES_MIN = 3, 8
REBUILDING = "run/rebuilding"  # there while offline tools exchange metadata: what lies in the folder is half one thing, half another
_PLAN = "cluster.json.new"
_OURS = frozenset(
    {_PLAN, f"{_PLAN}.new", "cluster.json", "credentials.json", "credentials.json.new", "run", "volumes", "audit", "lost+found"}
)
_ORPHANS_SECONDS = 30.0  # how long workers of a server that was killed may need to finish and let go


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
    root_key: str = ""  # its id, once it is on every volume


class DataFolder:
    """An open data folder; ``close`` or ``release`` ends it."""

    def __init__(self, path: str, cluster: ClusterFile, lock_fd: int, run_fd: int, *, fresh: bool, was_unclean: bool) -> None:
        self.path, self.cluster, self.run_fd = path, cluster, run_fd
        self.fresh, self.was_unclean = fresh, was_unclean
        self._lock_fd = lock_fd

    @property
    def volumes(self) -> tuple[VolumePlace, ...]:
        """Volumes with absolute paths."""
        return tuple(_place(self.path, row) for row in self.cluster.volumes)

    def write_endpoint(self, endpoint: Mapping[str, object]) -> None:
        """Tell tools on this machine where the server listens: ``run/endpoint.json``, 0600."""
        write_json(os.path.join(self.path, "run", "endpoint.json"), endpoint)

    def name_root_key(self, key_id: str) -> None:
        """From here on the folder needs this root key."""
        if self.cluster.root_key != key_id:
            self.cluster = msgspec.structs.replace(self.cluster, root_key=key_id)
            write_json(os.path.join(self.path, "cluster.json"), self.cluster)

    def begin(self) -> None:
        """From here on only ``close`` is a clean end."""
        lock.begin(self._lock_fd)

    def close(self) -> None:
        """A clean end, after the last worker's: the endpoint goes, the lock is free."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self.path, "run", "endpoint.json"))
        lock.end(self._lock_fd)
        self.release()

    def release(self) -> None:
        """Let go without a word: after ``begin`` the next start looks out for workers that are left."""
        os.close(self.run_fd)
        os.close(self._lock_fd)


def is_formatted(path: str) -> bool:
    """Whether a folder was used before."""
    return os.path.exists(os.path.join(path, "cluster.json"))


def open_folder(path: str, clock: Clock, cpus: int, *, make_credentials: bool = True) -> DataFolder:
    """Open, and on first use make, a data folder; with its root's keys unless they are given elsewhere.

    Waits for the workers of a server that was killed. Raises ConfigError, FormatError, DiskError, OSError.
    """
    path = os.path.abspath(path)
    refuse_network(path, mounts())
    os.makedirs(path, mode=0o700, exist_ok=True)
    names = set(os.listdir(path))
    if "cluster.json" not in names:
        if names - _OURS:
            some = ", ".join(sorted(names - _OURS)[:3])
            raise ConfigError(f"{path} is not empty and not a TitanS3 data folder (it holds {some}); give an empty or new folder")
        _refuse_orphaned_volumes(path)
    lock_fd = lock_folder(path)
    try:
        if os.path.exists(os.path.join(path, REBUILDING)):
            raise FormatError(
                f"a `titans3 tools meta restore` or `rebuild` of {path} was interrupted while it exchanged the metadata; run it again"
            )
        fresh = not is_formatted(path)
        cluster = _format(path, clock, cpus, make_credentials=make_credentials) if fresh else read_cluster(path)
        for row in cluster.volumes:
            _check_volume(path, cluster, row)
        unclean = lock.was_unclean(lock_fd)
        lock.wait_volumes([_place(path, row) for row in cluster.volumes], _ORPHANS_SECONDS if unclean else 0.0)
        run_fd = os.open(os.path.join(path, "run"), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except BaseException:
        os.close(lock_fd)
        raise
    return DataFolder(path, cluster, lock_fd, run_fd, fresh=fresh, was_unclean=unclean)


def _place(path: str, row: VolumeRow) -> VolumePlace:
    return VolumePlace(row.index, row.uuid, os.path.join(path, row.path))


def _refuse_orphaned_volumes(path: str) -> None:
    """Volumes without a table and without a plan: a folder whose ``cluster.json`` was lost, not a new one."""
    volumes = os.path.join(path, "volumes")
    if os.path.exists(os.path.join(path, _PLAN)) or not os.path.isdir(volumes):
        return
    found = [name for name in sorted(os.listdir(volumes)) if os.listdir(os.path.join(volumes, name))]
    if found:
        raise FormatError(
            f"{path} holds volumes ({', '.join(found[:3])}) but cluster.json is missing. Bring it back; nothing was changed."
        )


def read_cluster(path: str) -> ClusterFile:
    """``cluster.json`` of a folder. Raises FormatError, also for a newer one."""
    return _read_table(path, os.path.join(path, "cluster.json"))


def _read_table(path: str, name: str) -> ClusterFile:
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
    refuse_network(where, mounts())


def _format(path: str, clock: Clock, cpus: int, *, make_credentials: bool) -> ClusterFile:
    plan = os.path.join(path, _PLAN)
    if os.path.exists(plan):
        cluster = _read_table(path, plan)
    else:
        count = min(max(cpus, VOLUMES_MIN), VOLUMES_MAX)
        rows = tuple(VolumeRow(index, one, f"volumes/{index:04d}") for index, one in enumerate(_volume_uuids(count)))
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
        _check_volume(path, cluster, row)
    if make_credentials and not os.path.exists(os.path.join(path, "credentials.json")):
        _write_credentials(path)
    os.rename(plan, os.path.join(path, "cluster.json"))
    _sync_folder(path)
    _sync_folder(os.path.dirname(path))
    return cluster


def _volume_uuids(count: int) -> list[str]:
    """Uuids that differ in their first four bytes, which are in every data id (see ``docs/formats/segments.md``)."""
    found: dict[str, str] = {}
    while len(found) < count:
        one = str(uuid.uuid4())
        found.setdefault(one[:8], one)
    return list(found.values())


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
    """The root's keys and whether they came from the environment. Raises ConfigError, FormatError (none: says how to make new ones)."""
    given = given_credentials(environment)
    return (read_credentials(folder.path), False) if given is None else (given, True)


def given_credentials(environment: Mapping[str, str]) -> Credentials | None:
    """The root's keys from the environment, if they are there. Raises ConfigError."""
    access, secret = environment.get("TITANS3_ROOT_ACCESS_KEY", ""), environment.get("TITANS3_ROOT_SECRET_KEY", "")
    return _checked(access, secret) if access or secret else None


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
    lock_fd = lock.lock_stopped(path)
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
        with open(fd, "wb", closefd=False) as file:
            file.write(data)
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
