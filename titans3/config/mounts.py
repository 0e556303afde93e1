"""Which file system a path lies on, and which of them a data folder must not lie on. Pure but for ``mounts``."""

from __future__ import annotations

import os

from titans3.errors import ConfigError

NETWORK_FILE_SYSTEMS = frozenset(
    "9p afs beegfs ceph cifs coda davfs fuse.ceph fuse.glusterfs fuse.rclone fuse.s3fs fuse.sshfs gfs2 glusterfs lustre ncpfs nfs nfs4 "
    "ocfs2 smb2 smb3 smbfs".split()
)


def mounts() -> str:
    """The text of ``/proc/self/mountinfo``, see proc(5)."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return file.read()


def file_system(path: str, text: str) -> str:
    """Type of the file system that holds a path (which need not be there yet), from mountinfo; empty if it is not told."""
    real = os.path.realpath(path)
    best, found = -1, ""
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split(" ")
        if len(fields) < 5 or not right:
            continue
        point = _unescaped(fields[4])
        inside = point == "/" or real == point or real.startswith(point + "/")
        if inside and len(point) >= best:  # of two mounts on one point the later one is seen
            best, found = len(point), right.split(" ")[0]
    return found


def _unescaped(field: str) -> str:
    """The kernel writes space, tab, newline and backslash of a path as ``\\040`` and the like, other bytes as they are."""
    raw = field.encode("utf-8", "surrogateescape")
    for code in (b"\\040", b"\\011", b"\\012", b"\\043", b"\\134"):
        raw = raw.replace(code, bytes([int(code[1:], 8)]))
    return raw.decode("utf-8", "surrogateescape")


def refuse_network(path: str, text: str) -> None:
    """Raises ConfigError for a network file system: locks, mmap and fsync do not mean there what durability needs."""
    kind = file_system(path, text)
    if kind in NETWORK_FILE_SYSTEMS:
        raise ConfigError(f"{path} lies on a network file system ({kind}); locks and syncs do not hold there. Use a local disk.")
