"""Calls between workers: kinds and their msgpack arrays. Fields are only ever appended; PROTOCOL rises when that is not enough."""

from __future__ import annotations

import msgspec

from titans3.model.command import Outcome
from titans3.model.control import Event, Rec

PROTOCOL = 1
LEVEL_FIRST = 1  # what every build knows
FEATURE_LEVEL = 4  # the highest level whose commands this build knows
ACL_LEVEL = 2  # versions and uploads may have access control lists
QUOTA_LEVEL = 3  # buckets may have quotas
EXPIRY_LEVEL = 4  # results of completed uploads may be expired by a job

HELLO = 1
PUT = 2
PROPOSE = 3
FIND = 4
LIST = 5
PARTS_OF = 6
UPLOAD = 7
PARTS = 8
COMPLETED = 9
UPLOADS = 10
LOCATE = 11
BODY = 12
FREE = 13
SINK_OPEN = 20
SINK_WRITE = 21
SINK_FINISH = 22
SINK_ABANDON = 23
CONTROL_GET = 30
CONTROL_LIST = 31
CONTROL_CAS = 32
EVENTS = 33
WATCH = 41
METRICS = 40  # a worker's numbers, for whoever is asked for all
USAGE = 42
QUOTA_ASK = 43


class Hello(msgspec.Struct, array_like=True):
    """First call on a link. ``feature_level``: the highest that the caller's code knows. The protocol stays the first field."""

    protocol: int
    worker: int
    feature_level: int
    cluster: str = ""


class Welcome(msgspec.Struct, array_like=True):
    """Answer to Hello: ``applied`` is the applied index of each group of the answering worker.

    ``takes_whose``: frames may tell whose request they belong to (see ``rpc.frame``).
    """

    protocol: int
    feature_level: int
    applied: dict[int, int]
    cluster: str = ""
    takes_whose: bool = False


class Propose(msgspec.Struct, array_like=True):
    """PUT and PROPOSE: an encoded command for a group; PUT's small body is the frame's body.

    ``known``: the group's applied index as the sender knew it before its first try; ``repeat``: an earlier try may have been applied.
    """

    gid: int
    command: bytes
    known: int = 0
    repeat: bool = False


class Proposed(msgspec.Struct, array_like=True):
    """Answer to PUT and PROPOSE: the outcome, and the group's applied index with it."""

    outcome: Outcome
    applied: int


class Find(msgspec.Struct, array_like=True):
    """Newest or named version of a key; ``body``: with the small body."""

    gid: int
    bucket: int
    key: bytes
    version_id: str
    body: bool


class ListShards(msgspec.Struct, array_like=True):
    """A page over several shards of one owner; ``versions``: of all versions, ``after`` a position of ``meta.version_pages``."""

    gids: tuple[int, ...]
    bucket: int
    prefix: bytes
    delimiter: bytes
    after: bytes
    want: int
    versions: bool = False


class VersionRef(msgspec.Struct, array_like=True):
    """A version by row identity."""

    gid: int
    object_id: int
    seq: int


class UploadRef(msgspec.Struct, array_like=True):
    """An upload; ``after``/``limit`` for its parts."""

    gid: int
    bucket: int
    key: bytes
    upload_id: bytes
    after: int = 0
    limit: int = 0


class ListUploads(msgspec.Struct, array_like=True):
    """Uploads over several shards of one owner."""

    gids: tuple[int, ...]
    bucket: int
    prefix: bytes
    after_key: bytes
    after_upload: bytes
    want: int


class DataId(msgspec.Struct, array_like=True):
    """Data ids of a volume."""

    volume: int
    data_ids: tuple[bytes, ...]


class SinkOpen(msgspec.Struct, array_like=True):
    """Start a large body on a sibling's volume."""

    gid: int
    bucket: int
    key: bytes
    length: int | None
    upload_id: bytes
    part: int
    headers: dict[str, str]
    metadata: dict[str, str]


class SinkRef(msgspec.Struct, array_like=True):
    """An open sink; ``md5`` at the end."""

    sink: int
    md5: bytes = b""


class UsageAsk(msgspec.Struct, array_like=True):
    """Counters of a bucket's shards in groups of one owner."""

    gids: tuple[int, ...]
    bucket: int


class QuotaAsk(msgspec.Struct, array_like=True):
    """A shard wants to grow by ``growth`` bytes; asked of whoever serves shard 0 of the bucket."""

    bucket: int
    gid: int
    growth: int


class ControlCas(msgspec.Struct, array_like=True):
    """A compare-and-set; ``known`` and ``repeat`` as in Propose."""

    ops: tuple[tuple[str, bytes | None], ...]
    expect: dict[str, int]
    request_id: bytes
    known: int = 0
    repeat: bool = False


class ControlDone(msgspec.Struct, array_like=True):
    """Answer to a compare-and-set: the new revision, and the system group's applied index with it."""

    revision: int
    applied: int


class ControlList(msgspec.Struct, array_like=True):
    """A page of records by prefix, behind a key."""

    prefix: str
    after: str = ""


class Events(msgspec.Struct, array_like=True):
    """Changes of the control plane; ``previous`` is the revision they follow."""

    previous: int
    revision: int
    events: tuple[Event, ...]


class Records(msgspec.Struct, array_like=True):
    """A page of records at a revision; ``applied`` is the system group's applied index."""

    records: tuple[Rec, ...]
    revision: int
    applied: int = 0
    more: bool = False
