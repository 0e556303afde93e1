"""The state machine equals a sequential model of S3, is deterministic (I2), deduplicates (I11) and owns every data id once (I12)."""

import random
from hashlib import md5

import msgspec
import pytest

from tests.property.sorted_rows import FreedBodies, SortedRows
from tests.scale import scaled
from titans3.errors import Reason
from titans3.meta.keys import (
    GC,
    MANIFEST,
    OBJECTS,
    PARTS,
    SHARDS,
    TABLE_AT,
    UPLOAD_INDEX,
    UPLOADS,
    VERSIONS,
    gc_key,
)
from titans3.meta.machine import Machine
from titans3.model.command import (
    AbortUpload,
    CompletePart,
    CompleteUpload,
    Condition,
    CreateUpload,
    DataRef,
    DeleteEntry,
    DeleteObjects,
    EnsureShard,
    ExpireUploads,
    GcDone,
    PutObject,
    PutPart,
    Seal,
    SweepFence,
    Unseal,
    decode_command,
    encode_command,
)
from titans3.model.version import INLINE, MANIFEST_ROWS, MARKER, NULL, SINGLE, Extent, Part, Shard, Version

GID = 7
BUCKET = 3
KEYS = [b"a", b"a/b", b"b\0", b"k" * 600]
MIN = 10


class ModelVersion(msgspec.Struct):
    """A version as S3 sees it."""

    seq: int
    null: bool
    marker: bool
    etag: str
    size: int
    ids: list[bytes]
    version_id: str


class ModelPart(msgspec.Struct):
    """A part as S3 sees it."""

    etag: bytes
    size: int
    ids: list[bytes]


class Model:
    """Versions of each key, newest last; uploads by id."""

    def __init__(self):
        self.versioning = 0
        self.sealed = b""
        self.keys: dict[bytes, list[ModelVersion]] = {}
        self.uploads: dict[bytes, tuple[bytes, dict[int, ModelPart]]] = {}
        self.completed: dict[bytes, tuple[bytes, str]] = {}

    def newest(self, key):
        versions = self.keys.get(key)
        return versions[-1] if versions else None

    def add(self, key, version):
        versions = self.keys.setdefault(key, [])
        if version.null:
            versions[:] = [item for item in versions if not item.null]
        versions.append(version)

    def check(self, condition, found):
        """Reason of a refusal, or "" ."""
        live = None if found is None or found.marker else found
        if condition is None:
            return ""
        if condition.if_none_match and live and ("*" in condition.if_none_match or live.etag in condition.if_none_match):
            return Reason.PRECONDITION
        if condition.if_match:
            if live is None:
                return Reason.KEY_ABSENT
            if "*" not in condition.if_match and live.etag not in condition.if_match:
                return Reason.PRECONDITION
        return ""

    def delete(self, index, nonce, entry):
        """(reason, version id, is marker) of one entry."""
        newest = self.newest(entry.key)
        if entry.version_id:
            versions = self.keys.get(entry.key, [])
            found = next((item for item in versions if item.version_id == entry.version_id), None)
            if reason := self.check(entry.condition, found):
                return reason, entry.version_id, False
            if found is None:
                return "", entry.version_id, False
            versions.remove(found)
            if not versions:
                del self.keys[entry.key]
            return "", entry.version_id, found.marker
        if reason := self.check(entry.condition, newest):
            return reason, "", False
        if self.versioning == 0:
            self.keys.pop(entry.key, None)
            return "", "", False
        if newest and newest.marker and newest.seq == index:
            return "", newest.version_id, True
        null = self.versioning == 2
        marker = ModelVersion(index, null, True, "", 0, [], "null" if null else f"{index:016x}{nonce.hex()}")
        self.add(entry.key, marker)
        return "", marker.version_id, True

    def live_ids(self):
        ids = [data_id for versions in self.keys.values() for version in versions for data_id in version.ids]
        ids += [data_id for _, parts in self.uploads.values() for part in parts.values() for data_id in part.ids]
        return ids


class Run:
    """Random commands against machine and model."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.rows, self.bodies = SortedRows(), FreedBodies()
        self.machine = Machine(self.rows, self.bodies)
        self.model = Model()
        self.index = 0
        self.log = []
        self.all_ids = {}
        self.queued = set()
        self.gone = set()
        self.revision = 1
        self.sequence = 0

    # making commands

    def extents(self, inline=None):
        """One inline body, or a few extents; and their ids."""
        rng = self.rng
        inline = rng.random() < 0.5 if inline is None else inline
        count = 1 if inline else rng.choice((1, 2, 3, 12))
        found = []
        for _ in range(count):
            self.sequence += 1
            data_id = self.sequence.to_bytes(8, "big") + b"writerid"
            extent = Extent(data_id, 5, INLINE if inline else SINGLE, 0 if inline else 2, 99)
            self.all_ids[data_id] = extent
            found.append(extent)
        return tuple(found)

    def version(self, extents, size):
        return Version(
            1, 0, 0, self.rng.randrange(1000), size, self.rng.randbytes(16), 0, 0, "owner", extents=extents,
            headers={"content-type": "x"}, nonce=self.rng.randbytes(8),
        )

    def condition(self, key):
        draw = self.rng.random()
        newest = self.model.newest(key)
        etag = newest.etag if newest and not newest.marker else "0" * 32
        if draw < 0.6:
            return None
        if draw < 0.7:
            return Condition(if_none_match=("*",))
        if draw < 0.8:
            return Condition(if_match=(etag,))
        if draw < 0.9:
            return Condition(if_none_match=(etag, "x"))
        return Condition(if_match=("*",))

    def version_id(self, key):
        versions = self.model.keys.get(key, [])
        draw = self.rng.random()
        if versions and draw < 0.6:
            return self.rng.choice(versions).version_id
        return self.rng.choice(("null", "-000000000000001" + "0" * 16, "zz", "0" * 32, "f" * 32))

    # applying

    def apply(self, command):
        self.index += 1
        data = encode_command(command)
        self.log.append(data)
        outcome = self.machine.apply(GID, self.index, decode_command(data))
        return outcome

    def refused(self, ids):
        """Ids of a refused command are nobody's."""
        self.gone.update(ids)

    def put(self):
        model, key = self.model, self.rng.choice(KEYS)
        extents = self.extents() if self.rng.random() < 0.9 else ()
        version = self.version(extents, 5 * len(extents))
        condition = self.condition(key)
        outcome = self.apply(PutObject(BUCKET, key, version, condition))
        ids = [extent.data_id for extent in extents]
        expected = Reason.BUCKET_BUSY if model.sealed else model.check(condition, model.newest(key))
        assert outcome.reason == expected
        if expected:
            return self.refused(ids)
        null = model.versioning != 1
        version_id = "null" if null else f"{self.index:016x}{version.nonce.hex()}"
        assert outcome.version.version_id == version_id
        model.add(key, ModelVersion(self.index, null, False, version.etag.hex(), version.size, ids, version_id))

    def delete(self):
        model = self.model
        entries = []
        for _ in range(self.rng.randrange(1, 4)):
            key = self.rng.choice(KEYS)
            entries.append(DeleteEntry(key, self.version_id(key) if self.rng.random() < 0.5 else "", self.condition(key)))
        nonce = self.rng.randbytes(8)
        outcome = self.apply(DeleteObjects(BUCKET, tuple(entries), self.rng.randrange(1000), nonce, "owner"))
        if model.sealed:
            assert outcome.reason == Reason.BUCKET_BUSY
            return
        expected = [model.delete(self.index, nonce, entry) for entry in entries]
        assert outcome.reason == ""
        assert list(outcome.entries) == [(str(reason), version_id, marker) for reason, version_id, marker in expected]

    def create_upload(self):
        key = self.rng.choice(KEYS)
        outcome = self.apply(CreateUpload(BUCKET, key, self.rng.randrange(1000), "owner", self.rng.randbytes(8), {}, {}))
        if self.model.sealed:
            assert outcome.reason == Reason.BUCKET_BUSY
            return
        self.model.uploads[outcome.data] = (key, {})

    def upload(self):
        if self.model.uploads and self.rng.random() < 0.95:
            upload_id = self.rng.choice(list(self.model.uploads))
            return upload_id, self.model.uploads[upload_id][0]
        return self.rng.randbytes(16), KEYS[0]

    def put_part(self):
        model = self.model
        upload_id, key = self.upload()
        extents = self.extents()
        ids = [extent.data_id for extent in extents]
        part = Part(self.rng.randrange(1, 6), self.rng.choice((5, 15)), self.rng.randbytes(16), 5, extents)
        outcome = self.apply(PutPart(BUCKET, key, upload_id, part))
        if model.sealed or upload_id not in model.uploads:
            assert outcome.reason == (Reason.BUCKET_BUSY if model.sealed else Reason.UPLOAD_ABSENT)
            return self.refused(ids)
        assert outcome.reason == ""
        model.uploads[upload_id][1][part.number] = ModelPart(part.etag, part.size, ids)

    def abort(self):
        upload_id, key = self.upload()
        outcome = self.apply(AbortUpload(BUCKET, key, upload_id))
        if self.model.sealed:
            assert outcome.reason == Reason.BUCKET_BUSY
        elif upload_id not in self.model.uploads:
            assert outcome.reason == Reason.UPLOAD_ABSENT
        else:
            assert outcome.reason == ""
            del self.model.uploads[upload_id]

    def complete(self):
        model, rng = self.model, self.rng
        upload_id, key = self.upload()
        parts = model.uploads[upload_id][1] if upload_id in model.uploads else {}
        numbers = sorted(rng.sample(sorted(parts), rng.randrange(0, len(parts) + 1)))
        if rng.random() < 0.1:
            rng.shuffle(numbers)
        lines = [CompletePart(number, parts[number].etag) for number in numbers]
        if rng.random() < 0.1:
            lines.append(CompletePart(9, b"0" * 16))
        etag = md5(b"".join(line.etag for line in lines)).digest()
        if rng.random() < 0.05:
            etag = bytes(16)
        condition, nonce = self.condition(key), rng.randbytes(8)
        sizes = [parts[number].size for number in numbers]
        outcome = self.apply(
            CompleteUpload(BUCKET, key, upload_id, tuple(lines), rng.randrange(1000), nonce, etag, MIN, condition=condition)
        )
        order = [line.number for line in lines]
        if model.sealed:
            expected = Reason.BUCKET_BUSY
        elif upload_id not in model.uploads:
            expected = Reason.UPLOAD_ABSENT
        elif not lines:
            expected = Reason.PART_INVALID
        elif order != sorted(set(order)):
            expected = Reason.PART_ORDER
        elif 9 in order:
            expected = Reason.PART_INVALID
        elif any(size < MIN for size in sizes[:-1]):
            expected = Reason.PART_TOO_SMALL
        elif etag == bytes(16):
            expected = Reason.PART_INVALID
        else:
            expected = model.check(condition, model.newest(key))
        assert outcome.reason == expected
        if expected:
            return
        null = model.versioning != 1
        version_id = "null" if null else f"{self.index:016x}{nonce.hex()}"
        ids = [data_id for number in numbers for data_id in parts[number].ids]
        made = ModelVersion(self.index, null, False, f"{etag.hex()}-{len(lines)}", sum(sizes), ids, version_id)
        model.add(key, made)
        del model.uploads[upload_id]
        again = self.apply(
            CompleteUpload(BUCKET, key, upload_id, tuple(lines), 0, nonce, etag, MIN, condition=Condition(if_none_match=("*",)))
        )
        assert (again.reason, again.version.etag_text, again.version.version_id) == ("", made.etag, version_id)
        before = outcome.version.modified_ms + rng.randrange(2)
        self.apply(ExpireUploads(BUCKET, before, (rng.randbytes(16), upload_id)))
        has_expired = before > outcome.version.modified_ms
        assert (self.machine.uploads.completed(GID, BUCKET, key, upload_id) is None) == has_expired

    def shard(self):
        model, rng = self.model, self.rng
        draw = rng.random()
        if draw < 0.6:
            self.revision += 1
            model.versioning = rng.choice((1, 2)) if model.versioning else rng.choice((0, 1, 2))
            assert self.apply(EnsureShard(BUCKET, self.revision, model.versioning)).reason == ""
            assert self.apply(EnsureShard(BUCKET, self.revision - 1, 0)).reason == "", "an older read changes nothing"
        elif draw < 0.8:
            count = rng.random() < 0.5
            outcome = self.apply(Seal(BUCKET, b"op", count))
            empty = not model.keys and not (count and model.uploads)
            assert outcome.reason == ("" if empty else Reason.BUCKET_NOT_EMPTY)
            if empty:
                model.sealed = b"op"
        else:
            assert self.apply(Unseal(BUCKET, b"other")).reason == ""
        if model.sealed and rng.random() < 0.7:
            assert self.apply(Unseal(BUCKET, b"op")).reason == ""
            model.sealed = b""

    def gc(self):
        rows = self.rows.scan(gc_key(GID, 0, b""), gc_key(GID, 1 << 60, b""), self.rng.randrange(1, 5))
        done = [(int.from_bytes(key[5:13], "big"), key[13:]) for key, _ in rows]
        for _, data_id in done:
            assert data_id not in self.gone, "queued twice"
            self.gone.add(data_id)
        self.apply(GcDone(tuple(done)))

    def step(self):
        draw = self.rng.random()
        for share, action in (
            (0.40, self.put), (0.58, self.delete), (0.63, self.create_upload), (0.78, self.put_part), (0.81, self.abort),
            (0.88, self.complete), (0.97, self.gc),
        ):
            if draw < share:
                return action()
        return self.shard()

    # checking

    def tables(self):
        found = {}
        for key, value in self.rows.table.items():
            found.setdefault(key[TABLE_AT], []).append((key, value))
        return found

    def verify(self):
        model, tables = self.model, self.tables()
        decode = lambda raw: msgspec.msgpack.decode(raw, type=Version)  # noqa: E731
        held = []
        stored = {}
        for key, raw in tables.get(OBJECTS, []):
            newest = decode(raw)
            stored[key[13:]] = (newest, [])
        by_object = {newest.object_id: older for newest, older in stored.values()}
        assert len(by_object) == len(stored)
        for key, raw in tables.get(VERSIONS, []):
            by_object[int.from_bytes(key[5:13], "big")].append(decode(raw))
        assert stored.keys() == model.keys.keys()
        manifests = {key for key, _ in tables.get(MANIFEST, [])}
        for name, (newest, older) in stored.items():
            assert newest.older == bool(older)
            versions = [*reversed(older), newest]
            assert [(v.seq, v.version_id, bool(v.flags & MARKER), v.size) for v in versions] == [
                (m.seq, m.version_id, m.marker, m.size) for m in model.keys[name]
            ]
            nulls = [v.seq for v in older if v.flags & NULL]
            assert newest.null_seq == (nulls[0] if nulls else 0)
            for version, expected in zip(versions, model.keys[name], strict=True):
                found = self.machine.objects.find(GID, BUCKET, name, expected.version_id)
                assert found is not None and found.seq == expected.seq
                extents = list(version.extents)
                if version.flags & MANIFEST_ROWS:
                    assert not extents
                    extents = [e for part in self.machine.objects.parts(GID, version) for e in part.extents]
                    manifests -= {k for k in manifests if k[5:21] == version.object_id.to_bytes(8, "big") + version.seq.to_bytes(8, "big")}
                assert [extent.data_id for extent in extents] == expected.ids
                held += expected.ids
        assert not manifests, "a manifest row nobody names"
        assert sorted(key[-16:] for key, _ in tables.get(UPLOADS, [])) == sorted(model.uploads)
        assert sorted(key[-16:] for key, _ in tables.get(UPLOAD_INDEX, [])) == sorted(model.uploads)
        parts = {(key[5:21], int.from_bytes(key[21:], "big")) for key, _ in tables.get(PARTS, [])}
        assert parts == {(upload_id, number) for upload_id, (_, found) in model.uploads.items() for number in found}
        queue = [key[13:] for key, _ in tables.get(GC, [])]
        live = model.live_ids()
        everything = live + queue + sorted(self.bodies.freed) + sorted(self.gone)
        assert len(everything) == len(set(everything)), "an id in two places"
        assert set(everything) == set(self.all_ids), "an id was lost"
        self.verify_counters()

    def verify_counters(self):
        shard, model = self.machine.shards.snapshot(GID, BUCKET), self.model
        versions = [version for found in model.keys.values() for version in found]
        assert (shard.keys, shard.versions, shard.markers, shard.stored_bytes) == (
            len(model.keys), sum(not v.marker for v in versions), sum(v.marker for v in versions), sum(v.size for v in versions),
        )
        parts = [part for _, found in model.uploads.values() for part in found.values()]
        assert (shard.uploads, shard.upload_bytes) == (len(model.uploads), sum(part.size for part in parts))


@pytest.mark.parametrize("seed", range(scaled(12, 300)))
def test_machine_equals_model(seed):
    run = Run(seed)
    assert run.apply(EnsureShard(BUCKET, 1, 0)).reason == ""
    for step in range(700):
        run.step()
        if step % 20 == 0:
            run.verify()
    run.verify()
    run.machine.put_dirty()
    raw = dict(run.tables())[SHARDS][0][1]
    assert msgspec.msgpack.decode(raw, type=Shard) == run.machine.shards.snapshot(GID, BUCKET)


@pytest.mark.parametrize("seed", range(scaled(4, 100)))
def test_replay_of_any_prefix_gives_identical_rows(seed):
    run = Run(seed)
    run.apply(EnsureShard(BUCKET, 1, 1))
    run.model.versioning = 1
    for _ in range(300):
        run.step()
    run.machine.put_dirty()
    rows, bodies = SortedRows(), FreedBodies()
    machine = Machine(rows, bodies)
    stops = {run.rng.randrange(1, len(run.log)) for _ in range(8)}
    for index, data in enumerate(run.log, 1):
        machine.apply(GID, index, decode_command(data))
        if index in stops:  # a checkpoint, and a process that begins anew from its rows
            machine.put_dirty()
            times = machine.times
            machine = Machine(rows, bodies)
            machine.times.update(times)
    machine.put_dirty()
    assert rows.table == run.rows.table
    assert bodies.freed == run.bodies.freed


def test_duplicates_have_one_effect():
    rng = random.Random(5)
    rows, bodies = SortedRows(), FreedBodies()
    machine = Machine(rows, bodies)
    machine.apply(GID, 1, EnsureShard(BUCKET, 1, 1))
    sent, index = [], 1
    for number in range(3000):
        if sent and rng.random() < 0.4:
            command, index_of, first = rng.choice(sent[-400:])
            index += 1
            before = dict(rows.table)
            again = machine.apply(GID, index, command)
            assert dict(rows.table) == before
            if number - index_of < 400:
                assert (again.reason, again.index) == (first.reason, first.index)
                assert again.version is None or again.version.version_id == first.version.version_id
                assert again.entries == first.entries and again.data == first.data
            continue
        key, request_id = rng.choice(KEYS), rng.randbytes(16)
        draw = rng.random()
        if draw < 0.5:
            version = Version(1, 0, 0, 5, 0, rng.randbytes(16), 0, 0, nonce=rng.randbytes(8))
            command = PutObject(BUCKET, key, version, None, request_id, index)
        elif draw < 0.8:
            command = DeleteObjects(BUCKET, (DeleteEntry(key),), 5, rng.randbytes(8), "", request_id, index)
        else:
            command = CreateUpload(BUCKET, key, 5, "", rng.randbytes(8), {}, {}, request_id=request_id, known_index=index)
        index += 1
        sent.append((command, number, machine.apply(GID, index, command)))
        if rng.random() < 0.02:
            machine.put_dirty()
            machine = Machine(rows, bodies)
    command, _, _ = sent[0]
    assert machine.apply(GID, index + 1, command).reason == Reason.UNKNOWN_OUTCOME


def test_sweep_answers_references_and_refuses_what_comes_late():
    run = Run(3)
    run.apply(EnsureShard(BUCKET, 1, 1))
    run.model.versioning = 1
    for _ in range(300):
        run.step()
    if run.model.sealed:
        run.apply(Unseal(BUCKET, b"op"))
    owners = {}
    for name, versions in run.model.keys.items():
        owners.update({data_id: (name, b"", 0) for version in versions for data_id in version.ids})
    for upload_id, (name, parts) in run.model.uploads.items():
        owners.update({data_id: (name, upload_id, number) for number, part in parts.items() for data_id in part.ids})
    refs = []
    for data_id in run.all_ids:
        name, upload_id, number = owners.get(data_id, (run.rng.choice(KEYS), b"", 0))
        refs.append(DataRef(data_id, BUCKET, name, upload_id, number))
    writer = int.from_bytes(b"writerid", "big")
    outcome = run.apply(SweepFence(writer, run.sequence, tuple(refs)))
    found = {outcome.data[at : at + 16] for at in range(0, len(outcome.data), 16)}
    assert found == set(owners)
    late = Extent(run.sequence.to_bytes(8, "big") + b"writerid", 5, SINGLE, 1, 0)
    assert run.apply(PutObject(BUCKET, b"a", run.version((late,), 5))).reason == Reason.FENCED
    fresh = Extent((run.sequence + 1).to_bytes(8, "big") + b"writerid", 5, SINGLE, 1, 0)
    assert run.apply(PutObject(BUCKET, b"a", run.version((fresh,), 5))).reason == ""
    run.apply(SweepFence(writer, 1, ()))
    assert run.apply(PutObject(BUCKET, b"a", run.version((late,), 5))).reason == Reason.FENCED


