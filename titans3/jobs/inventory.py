"""What a volume is and what lies in it: identity, metadata, segments with what of them is alive. For a volume that no server holds.

Invariants
* Nothing is written. What cannot be read is told in ``state`` and ``problems`` and hides nothing else.
* ``live`` is as of the last checkpoint; ``pending`` entries of the log come behind it and are replayed by the next start.
"""

from __future__ import annotations

import os
from contextlib import ExitStack

import msgspec

from titans3.engine.files import Files, OsFiles
from titans3.engine.identity import read_identity
from titans3.engine.recovery import read_header, was_used
from titans3.engine.segment import FORMAT, KIND_NAMES, SegmentHeader, folder_of, number_of
from titans3.engine.segments import ACTIVE, SegmentRow
from titans3.errors import DiskError, FormatError, VolumeBusy
from titans3.jobs.verify import OfflineVolume, Report, replay_of
from titans3.meta.environment import META_FORMAT, Position

CLEAN, PENDING, DAMAGED, NO_METADATA, MISSING, FOREIGN = "clean", "replay pending", "damaged", "no metadata", "missing", "foreign"
_row = msgspec.msgpack.Decoder(SegmentRow).decode


class SegmentInfo(msgspec.Struct, frozen=True):
    """A segment file. ``state``: open, sealed, unknown (to the metadata: a spare, or made since the last checkpoint), damaged header.

    ``size`` is preallocated, ``allocated`` what the file system gave; ``live`` + ``dead`` is ``size``, -1 where it is not known.
    """

    number: str
    folder: str
    kind: str
    state: str
    size: int
    allocated: int
    live: int = -1
    dead: int = -1
    epoch: int = 0
    created_ms: int = 0
    is_copies: bool = False
    walked: int = 0


class VolumeInfo(msgspec.Struct):
    """A volume; ``formats`` by what has one. Sizes are bytes."""

    index: int
    path: str
    uuid: str = ""
    cluster: str = ""
    created_ms: int = 0
    state: str = MISSING
    formats: dict[str, int] = {}
    has_root_key: bool = False
    epoch: int = 0
    position: Position | None = None
    pending: int = 0
    groups: int = 0
    damaged_groups: dict[int, str] = {}
    tree_bytes: int = 0
    rows: dict[str, int] = {}
    live: int = 0
    dead: int = 0
    size: int = 0
    free: int = 0
    segments: list[SegmentInfo] = []
    problems: list[str] = []

    @property
    def is_well(self) -> bool:
        """Whether a start would serve all of it."""
        return self.state in (CLEAN, PENDING) and not self.problems

    def count(self, folder: str) -> int:
        """Segments in ``log`` or ``data``."""
        return sum(1 for segment in self.segments if segment.folder == folder)


def look(path: str, index: int, stack: ExitStack, *, cluster: str = "", uuid: str = "", files: Files | None = None) -> VolumeInfo:
    """Look at a volume and keep its lock until the end of ``stack``; ``cluster`` and ``uuid`` are what it should be.

    Raises VolumeBusy; everything else that is wrong is in the answer.
    """
    files = files or OsFiles()
    info = VolumeInfo(index, path)
    try:
        identity = read_identity(files, path)
    except (FormatError, OSError) as error:
        info.problems.append(str(error))
        if not isinstance(error, FileNotFoundError) and os.path.exists(f"{path}/volume.json"):
            info.state = FOREIGN
        return info
    info.uuid, info.cluster, info.created_ms, info.index = identity.uuid, identity.cluster, identity.created_ms, identity.index
    info.formats = {"volume": identity.format, "segments": FORMAT, "metadata": META_FORMAT}
    info.has_root_key = os.path.exists(f"{path}/root-key.json")
    info.free = files.free_bytes(path)
    if (cluster and identity.cluster != cluster) or (uuid and identity.uuid != uuid) or (index >= 0 and identity.index != index):
        info.state = FOREIGN
        info.problems.append(
            f"{path} is volume {identity.uuid}, index {identity.index}, of cluster {identity.cluster}; the table says {uuid}, {index}"
        )
        return info
    _look_inside(info, stack, files)
    return info


def _look_inside(info: VolumeInfo, stack: ExitStack, files: Files) -> None:
    report = Report()
    rows: dict[int, SegmentRow] = {}
    try:
        volume = OfflineVolume(info.path, stack, files)
    except VolumeBusy:
        raise
    except (DiskError, FormatError) as error:
        info.state = NO_METADATA
        info.problems.append(str(error))
    else:
        rows = _look_at_rows(info, volume, report)
    for sub in ("log", "data"):
        for name in sorted(files.listdir(f"{info.path}/{sub}")):
            number = number_of(name)
            if number is not None:
                info.segments.append(_segment(files, f"{info.path}/{sub}/{name}", sub, number, rows.get(number), info))
    info.size = sum(segment.size for segment in info.segments)
    info.live = sum(max(0, segment.live) for segment in info.segments)
    info.dead = sum(max(0, segment.dead) for segment in info.segments)
    present = {segment.number for segment in info.segments}
    for number, row in rows.items():
        if row.live and f"{number:016x}" not in present:
            info.problems.append(f"segment {number:016x} is not there, with {row.live} live bytes")
    info.problems += report.findings
    if info.problems and info.state != NO_METADATA:
        info.state = DAMAGED


def _look_at_rows(info: VolumeInfo, volume: OfflineVolume, report: Report) -> dict[int, SegmentRow]:
    """What the metadata says; its ``seg`` rows."""
    environment = volume.environment
    rows = {int.from_bytes(key, "big"): _row(value) for key, value in volume.rows(environment.seg, report)}
    try:
        info.position = environment.position()
        states = environment.groups()
        tree = environment.statistics()
    except DiskError as error:
        info.state = NO_METADATA
        info.problems.append(str(error))
        return rows
    info.epoch = 0 if info.position is None else info.position.epoch
    info.groups = len(states)
    info.damaged_groups = {gid: state.damaged for gid, state in states.items() if state.damaged}
    info.tree_bytes, info.rows = tree.used_bytes, tree.entries
    volume.read_headers(Report())  # what is wrong with headers is told segment by segment
    recovery = replay_of(volume, report)
    info.pending = recovery.records
    info.state = PENDING if info.pending else CLEAN
    info.problems += [f"group {gid} is damaged: {cause}" for gid, cause in (info.damaged_groups | recovery.damaged).items()]
    if recovery.unproven:
        info.problems.append(f"no group is proven whole: {recovery.unproven}")
    info.problems += [
        f"damaged body of bucket id {body.bucket}, key {body.key!r} at byte {body.offset} of {body.path}" for body in recovery.bodies
    ]
    return rows


def _segment(files: Files, path: str, sub: str, number: int, row: SegmentRow | None, info: VolumeInfo) -> SegmentInfo:
    name = f"{number:016x}"
    stat = os.stat(path)
    allocated = stat.st_blocks * 512
    try:
        header = read_header(files, path)
    except (OSError, FormatError) as error:
        info.problems.append(f"{path}: {error}")
        header = None
    if header is None or header.number != number or folder_of(header.kind) != sub or header.volume.hex() != info.uuid.replace("-", ""):
        if was_used(files, path) or header is not None:
            info.problems.append(f"{path}: no valid segment header")
        return SegmentInfo(name, sub, "unknown", "damaged header", stat.st_size, allocated)
    state = "unknown" if row is None else "open" if row.state == ACTIVE else "sealed"
    live = -1 if row is None else row.live
    return SegmentInfo(
        name, sub, kind_name(header), state, header.capacity, allocated, live, -1 if row is None else header.capacity - live, header.epoch,
        header.created_ms, bool(header.flags), 0 if row is None else row.walked,
    )  # fmt: skip


def kind_name(header: SegmentHeader) -> str:
    """log, packed or data."""
    return KIND_NAMES.get(header.kind, "unknown")
