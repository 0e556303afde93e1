"""The offline commands as an operator uses them: a server is filled, ended, damaged, mended, started; every object is read back."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import botocore.config
import botocore.exceptions
import pytest

from tests.faults.server import TITANS3, Server

SMALL_ENGINE = {
    "TITANS3_ENGINE__LOG_SEGMENT_BYTES": "16MiB", "TITANS3_ENGINE__DATA_SEGMENT_BYTES": "16MiB", "TITANS3_ENGINE__SMALL_BODY_BYTES": "1MiB",
    "TITANS3_ENGINE__CHECKPOINT_SECONDS": "0.1", "TITANS3_ENGINE__RESERVE_BYTES": "1MiB",
}  # fmt: skip
LONG = bool(os.environ.get("TITANS3_LONG"))
pytestmark = pytest.mark.timeout(600)  # some thirty processes after each other, seconds each on a busy machine; one has 120 s
Objects = dict[tuple[str, str], bytes]


def tools(*arguments: str | Path, code: int = 0) -> str:
    """Standard output of ``titans3 tools …``, which must end with ``code`` and never with a traceback."""
    done = run_tools(*arguments)
    assert done.returncode == code, (arguments, done)
    return done.stdout


def run_tools(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([TITANS3, "tools", *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def told(*arguments: str | Path, code: int = 0) -> Any:
    """The same with --json, decoded."""
    return json.loads(tools(*arguments, "--json", code=code))


class Node:
    """A data folder, a server on it at times, and what must be in it."""

    def __init__(self, data: Path, env: dict[str, str] | None = None) -> None:
        self.server = Server(data, env={"TITANS3_LOG__LEVEL": "warning", **SMALL_ENGINE, **(env or {})})
        self.data = data
        self.objects: Objects = {}
        self.rng = random.Random(11)
        self.s3: Any = None

    def start(self) -> None:
        self.server.start()
        asyncio.run(self.server.wait_ready())
        access, secret = self.server.credentials()
        config = botocore.config.Config(retries={"total_max_attempts": 3}, s3={"addressing_style": "path"})
        self.s3 = boto3.client(
            "s3", endpoint_url=f"http://127.0.0.1:{self.server.port}", region_name="us-east-1", aws_access_key_id=access,
            aws_secret_access_key=secret, config=config,
        )  # fmt: skip

    def stop(self) -> None:
        assert self.server.stop() == 0, self.server.tail()

    def put(self, bucket: str, key: str, size: int, **options: Any) -> None:
        body = self.rng.randbytes(size)
        self.s3.put_object(Bucket=bucket, Key=key, Body=body, **options)
        self.objects[bucket, key] = body

    def delete(self, bucket: str, key: str) -> None:
        self.s3.delete_object(Bucket=bucket, Key=key)
        del self.objects[bucket, key]

    def upload(self, bucket: str, key: str, sizes: list[int]) -> None:
        upload = self.s3.create_multipart_upload(Bucket=bucket, Key=key, Metadata={"kind": "parts"})["UploadId"]
        bodies = [self.rng.randbytes(size) for size in sizes]
        parts = [
            {"PartNumber": n, "ETag": self.s3.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=n, Body=body)["ETag"]}
            for n, body in enumerate(bodies, 1)
        ]
        self.s3.complete_multipart_upload(Bucket=bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": parts})
        self.objects[bucket, key] = b"".join(bodies)

    def fill(self, bucket: str, prefix: str = "") -> None:
        """Objects around every threshold, overwritten and deleted ones, a multipart object, a key that is cut over layers."""
        self.s3.create_bucket(Bucket=bucket)
        for number, size in enumerate((0, 1, 3000, 70_000, 1 << 20, (1 << 20) + 1, 2_500_000)):
            self.put(bucket, f"{prefix}size-{size}", size, Metadata={"n": str(number)}, ContentType="text/x-test")
        for number in range(20):
            self.put(bucket, f"{prefix}many/{number}", 500 + number)
        self.put(bucket, prefix + "x" * 900, 700)
        self.put(bucket, prefix + "ü·☃/a b", 10)
        for number in range(0, 20, 4):
            self.put(bucket, f"{prefix}many/{number}", 800)
        for number in range(1, 20, 4):
            self.delete(bucket, f"{prefix}many/{number}")
        self.put(bucket, f"{prefix}gone", 1_500_000)
        self.delete(bucket, f"{prefix}gone")
        self.upload(bucket, f"{prefix}parts", [5 << 20, 5 << 20, 1000])

    def roll(self, bucket: str) -> None:
        """Write and delete until the logs of both volumes have let go of the segments they had."""
        used = [path for volume in self.data.glob("volumes/*/log") for path in sorted(volume.glob("*.seg"))[:-2]]  # the last two are spares
        for number in range(40):
            self.s3.put_object(Bucket=bucket, Key=f"roll/{number}", Body=self.rng.randbytes((1 << 20) - 100))
        for number in range(40):
            self.s3.delete_object(Bucket=bucket, Key=f"roll/{number}")
        deadline = time.monotonic() + 30
        while any(path.exists() for path in used):  # compaction and unlinking follow checkpoints
            assert time.monotonic() < deadline, "the log keeps its segments"
            self.put(bucket, "roll/tick", 10)
            time.sleep(0.05)

    def read(self) -> Objects:
        """Everything that is listed, read to its end."""
        found: Objects = {}
        for bucket in self.s3.list_buckets()["Buckets"]:
            name = bucket["Name"]
            for page in self.s3.get_paginator("list_objects_v2").paginate(Bucket=name):
                for item in page.get("Contents", ()):
                    body = self.s3.get_object(Bucket=name, Key=item["Key"])["Body"].read()
                    assert len(body) == item["Size"]
                    found[name, item["Key"]] = body
        return found

    def etags(self) -> dict[tuple[str, str], str]:
        """ETag of everything that is listed."""
        pages = (
            (bucket["Name"], page) for bucket in self.s3.list_buckets()["Buckets"]
            for page in self.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket["Name"])
        )  # fmt: skip
        return {(name, item["Key"]): item["ETag"] for name, page in pages for item in page.get("Contents", ())}

    def check(self, expected: Objects | None = None) -> None:
        """Start, read everything back, write something, stop; the folder is clean afterwards."""
        self.start()
        found, wanted = self.read(), self.objects if expected is None else expected
        assert found.keys() == wanted.keys(), (sorted(found.keys() ^ wanted.keys()))
        assert found == wanted
        for bucket in {bucket for bucket, _ in wanted}:
            for number in range(4):
                self.s3.put_object(Bucket=bucket, Key=f"after/{number}", Body=b"after" * number)
                assert self.s3.get_object(Bucket=bucket, Key=f"after/{number}")["Body"].read() == b"after" * number
                self.s3.delete_object(Bucket=bucket, Key=f"after/{number}")
        self.stop()
        tools("meta", "verify", "--data", self.data)

    def copy(self, target: Path) -> Node:
        """A copy of the stopped folder."""
        subprocess.run(["cp", "-r", "--sparse=always", self.data, target], check=True)
        other = Node(target)
        other.objects = dict(self.objects)
        return other

    def lose_metadata(self, *volumes: int) -> None:
        for index in volumes:
            shutil.rmtree(self.data / f"volumes/{index:04d}/meta")

    def refuse(self, *words: str, volumes: str = "*") -> None:
        """A start that ends by itself, says these words and no traceback, and unlinks no segment of volumes that are refused.

        A volume that is whole may have been opened by another worker before the end, and begins a new log then.
        """
        before = sorted(self.data.glob(f"volumes/{volumes}/*/*.seg"))
        assert before
        said = len(self.server.tail())
        self.server.start()
        assert self.server.process is not None
        assert self.server.process.wait(30) == 1
        text = self.server.tail()[said:]
        assert "Traceback" not in text, text
        assert all(word in text for word in words), text
        assert sorted(self.data.glob(f"volumes/{volumes}/*/*.seg")) == before

    def close(self) -> None:
        if self.server.process is not None and self.server.process.poll() is None:
            self.server.kill_tree()


MakeNode = Callable[..., Node]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[MakeNode]:
    made: list[Node] = []

    def make_one(name: str = "data", source: Node | None = None) -> Node:
        made.append(Node(tmp_path / name) if source is None else source.copy(tmp_path / name))
        return made[-1]

    yield make_one
    for node in made:
        node.close()


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Node, Path]:
    """A folder after a clean stop, with a snapshot of it; tests copy it."""
    folder = tmp_path_factory.mktemp("tools")
    node = Node(folder / "data")
    try:
        node.start()
        for command in COMMANDS:
            done = run_tools(*command, "--data", node.data)
            assert (done.returncode, done.stdout) == (1, ""), done
            assert "in use by another server" in done.stderr
        node.fill("things")
        node.stop()
    finally:
        node.close()
    summary = told("meta", "snapshot", folder / "snapshot", "--data", node.data)
    assert summary["replayed"] == 0
    assert not summary["damaged"]
    return node, folder / "snapshot"


COMMANDS = (
    ("disk", "ls"), ("disk", "info", "0"), ("disk", "format", "0", "--erase"), ("disk", "verify"), ("disk", "inspect", "things/a"),
    ("meta", "verify"), ("meta", "snapshot", "/tmp/no-such-snapshot"), ("meta", "rebuild", "--overwrite"), ("meta", "dump"),
)  # fmt: skip


def test_ls_and_info_say_what_a_volume_is(filled: tuple[Node, Path], make: MakeNode) -> None:
    node = make(source=filled[0])
    seen = told("disk", "ls", "--data", node.data)
    assert [volume["state"] for volume in seen["volumes"]] == ["clean", "clean"]
    assert all(volume["live"] + volume["dead"] <= volume["size"] for volume in seen["volumes"])
    assert sum(volume["live"] for volume in seen["volumes"]) > sum(map(len, node.objects.values()))
    cluster = json.loads((node.data / "cluster.json").read_text())
    assert [volume["uuid"] for volume in seen["volumes"]] == [row["uuid"] for row in cluster["volumes"]]
    table = tools("disk", "ls", "--data", node.data).splitlines()
    assert len(table) == 4
    assert " clean " in table[2]
    info = told("disk", "info", "0", "--data", node.data)
    both = info["segments"] + told("disk", "info", "1", "--data", node.data)["segments"]
    assert {segment["kind"] for segment in both} == {"log", "data"}
    assert sum(max(0, segment["live"]) for segment in info["segments"]) == info["live"] == seen["volumes"][0]["live"]
    assert info["segments"] == told("disk", "info", node.data / "volumes/0000")["segments"]
    assert "checkpoint after batch" in tools("disk", "info", "1", "--data", node.data)
    node.lose_metadata(0)
    (node.data / "volumes/0001/volume.json").unlink()
    seen = told("disk", "ls", "--data", node.data, code=1)
    assert [volume["state"] for volume in seen["volumes"]] == ["no metadata", "missing"]
    assert "2" in run_tools("disk", "info", "2", "--data", node.data).stderr


def test_a_kill_is_seen_and_nothing_is_changed(make: MakeNode) -> None:
    node = make()
    node.server.env["TITANS3_ENGINE__CHECKPOINT_SECONDS"] = "3600"
    node.start()
    node.fill("things")
    node.server.kill_tree()
    before = {path: path.stat().st_mtime_ns for path in node.data.rglob("*") if path.suffix in (".seg", ".json")}
    seen = told("disk", "ls", "--data", node.data)
    assert {volume["state"] for volume in seen["volumes"]} == {"replay pending"}
    summary = told("meta", "snapshot", node.data.parent / "snapshot", "--data", node.data)
    assert summary["replayed"] == sum(volume["pending"] for volume in seen["volumes"]) > 0
    rows = [json.loads(line) for line in tools("meta", "dump", "--data", node.data, "--table", "objects").splitlines()]
    assert {(row["bucket"], row["key"]) for row in rows} == node.objects.keys()
    assert {path: path.stat().st_mtime_ns for path in before} == before
    for index in (0, 1) if LONG else (1,):  # the log has everything, so nothing is lost
        other = make(f"lost-{index}", source=node)
        other.lose_metadata(index)
        done = told("meta", "rebuild", "--data", other.data)
        assert (done["complete"], done["volumes"][0]["is_whole"]) == (True, True)
    node.lose_metadata(0, 1)
    assert told("meta", "restore", node.data.parent / "snapshot", "--data", node.data)["complete"]
    node.check()
    if LONG:
        other.check()


def test_a_snapshot_is_private_whole_and_of_this_folder(filled: tuple[Node, Path], make: MakeNode, tmp_path: Path) -> None:
    source, snapshot = filled
    node = make(source=source)
    assert stat.S_IMODE(snapshot.stat().st_mode) == 0o600
    mine = tmp_path / "mine"
    made = told("meta", "snapshot", mine, "--data", node.data)
    raw = mine.read_bytes()
    assert made["bytes"] == len(raw)
    assert run_tools("meta", "snapshot", mine, "--data", node.data).returncode == 1
    tools("meta", "snapshot", mine, "--data", node.data, "--replace")
    assert sorted(path.name for path in tmp_path.iterdir() if "mine" in path.name) == ["mine"]
    node.lose_metadata(0)
    mine.write_bytes(raw[:-1])
    done = run_tools("meta", "restore", mine, "--data", node.data)
    assert done.returncode == 1
    assert "no whole snapshot" in done.stderr
    assert not (node.data / "volumes/0000/meta").exists()
    table = json.loads((node.data / "cluster.json").read_text())
    table["volumes"][1]["uuid"] = table["volumes"][1]["uuid"][::-1]
    (node.data / "cluster.json").write_text(json.dumps(table))
    assert "another data folder" in run_tools("meta", "restore", snapshot, "--data", node.data).stderr


def test_restore_brings_back_the_snapshot_and_what_the_log_holds(filled: tuple[Node, Path], make: MakeNode) -> None:
    source, snapshot = filled
    node = make(source=source)
    node.start()
    node.fill("later", "p/")
    for key in ("many/2", "size-70000", "parts"):
        node.delete("things", key)
    node.put("things", "size-3000", 4000)
    node.server.kill_tree()
    ways = (lambda at: os.truncate(at, 8192), lambda at: at.write_bytes(b""), lambda at: at.unlink())
    for damage in ways if LONG else ways[:1]:
        other = make(f"damaged-{len(list(node.data.parent.iterdir()))}", source=node)
        damage(other.data / "volumes/0000/meta/data.mdb")
        plan = told("meta", "restore", snapshot, "--data", other.data, "--dry-run")
        assert [volume["index"] for volume in plan["volumes"]] == [0]
        assert not list(other.data.glob("volumes/*/meta.*"))
        done = told("meta", "restore", snapshot, "--data", other.data)
        assert done["complete"]
        assert done["volumes"][0]["revival"]["replayed"] > 0
        if LONG:
            other.check()
    refused = run_tools("meta", "restore", snapshot, "--data", node.data)
    assert refused.returncode == 1
    assert "--overwrite" in refused.stderr
    assert told("meta", "restore", snapshot, "--data", node.data, "--overwrite")["complete"]
    assert len(list(node.data.glob("volumes/*/meta.replaced-*"))) == 2
    node.check()


def test_restore_without_the_log_goes_back_and_names_what_is_gone(filled: tuple[Node, Path], make: MakeNode) -> None:
    source, snapshot = filled
    node = make(source=source)
    before = dict(node.objects)
    node.start()
    node.s3.create_bucket(Bucket="later")
    node.put("later", "new", 100)
    node.put("things", "new-large", 3_000_000)
    node.put("things", "size-3000", 50)
    node.delete("things", "size-2500000")
    node.delete("things", "many/2")
    if LONG:
        node.roll("things")
    node.stop()
    done = told("meta", "restore", snapshot, "--data", node.data, "--overwrite", "--no-replay", code=1)
    lost = {("things", one["key"]) for one in done["lost"]}
    assert lost < before.keys()
    assert not lost or LONG  # nothing was unlinked yet: what was deleted is still in the segments
    assert sum(volume["revival"]["dropped"] for volume in done["volumes"]) > 0
    assert done["left"]["bodies"] >= 1  # new-large
    node.check({name: body for name, body in before.items() if name not in lost})


def test_rebuild_when_the_log_has_gaps_brings_back_what_segments_tell(make: MakeNode) -> None:
    node = make()
    node.start()
    node.fill("things")
    node.stop()
    snapshot = node.data.parent / "snapshot"
    tools("meta", "snapshot", snapshot, "--data", node.data)
    node.start()
    node.fill("later", "q/")
    node.put("things", "fresh-large", 2_000_000, Metadata={"a": "b"}, ContentType="text/x-large")
    node.put("things", "size-70000", 71_000)
    for key in ("size-2500000", "many/3"):
        node.delete("things", key)
    node.roll("things")
    etags = node.etags()
    node.stop()
    assert node.objects["later", "q/size-0"] == node.objects["things", "size-0"] == b""
    buckets = {"recovered-1": "things", "recovered-2": "later"}
    small = {("things", "many/3")} | {(bucket, f"{p}many/{n}") for bucket, p in (("things", ""), ("later", "q/")) for n in range(1, 20, 4)}
    cases: tuple[Any, ...] = (
        ("with", ("--snapshot", snapshot), {("later", "q/size-0")}, {("later", "q/gone"), ("things", "size-2500000")}, {"2"}),
        (
            "without", (), {("later", "q/size-0"), ("things", "size-0")},
            {("later", "q/gone"), ("things", "gone"), ("things", "size-2500000")}, {"1", "2"},
        ),
    )  # fmt: skip
    for name, options, gone, undone, recovered in cases if LONG else cases[:1]:
        other = make(name, source=node)
        other.lose_metadata(0, 1)
        other.refuse("meta is gone", "`titans3 tools meta restore SNAPSHOT`")  # and copies that only metadata names stay
        done = told("meta", "rebuild", *options, "--data", other.data, code=1)
        assert done["named_buckets"].keys() == recovered
        assert any("deletions" in note for note in done["notes"])
        other.start()
        found = {(buckets.get(bucket, bucket), key): body for (bucket, key), body in other.read().items()}
        assert node.objects.keys() - found.keys() == gone  # an empty object is nothing but its row
        assert found.keys() - node.objects.keys() <= undone | small  # deletions in the gaps
        assert all(found[key] == body for key, body in node.objects.items() if key not in gone)
        seen = {(buckets.get(bucket, bucket), key): etag for (bucket, key), etag in other.etags().items()}
        assert all(seen[key] == etag for key, etag in etags.items() if key not in gone)
        for bucket in other.s3.list_buckets()["Buckets"]:
            if buckets.get(bucket["Name"], bucket["Name"]) == "things":
                head = other.s3.head_object(Bucket=bucket["Name"], Key="fresh-large")
                assert (head["Metadata"], head["ContentType"]) == ({"a": "b"}, "text/x-large")
                other.s3.put_object(Bucket=bucket["Name"], Key="after", Body=b"after")
        other.s3.create_bucket(Bucket="quite-new")
        other.stop()
        tools("meta", "verify", "--data", other.data)


def test_versions_survive_a_rebuild(make: MakeNode) -> None:
    node = make()
    node.start()
    node.s3.create_bucket(Bucket="versions")
    node.put("versions", "a", 10)
    node.s3.put_bucket_versioning(Bucket="versions", VersioningConfiguration={"Status": "Enabled"})
    for size in (20, 2_000_000, 30):
        node.put("versions", "a", size)
    node.put("versions", "b", 5)
    node.delete("versions", "b")
    node.upload("versions", "c", [5 << 20, 77])
    node.put("versions", "c", 1)

    def seen() -> list[Any]:
        page = node.s3.list_object_versions(Bucket="versions")
        return [(v["Key"], v["VersionId"], v.get("ETag"), v["IsLatest"]) for v in page["Versions"] + page["DeleteMarkers"]]

    before = seen()
    bodies = {one[:2]: node.s3.get_object(Bucket="versions", Key=one[0], VersionId=one[1])["Body"].read() for one in before if one[2]}
    node.server.kill_tree()
    node.lose_metadata(0, 1)
    assert told("meta", "rebuild", "--data", node.data)["complete"]
    node.start()
    assert seen() == before
    for (key, version), body in bodies.items():
        assert node.s3.get_object(Bucket="versions", Key=key, VersionId=version)["Body"].read() == body
    node.stop()
    tools("meta", "verify", "--data", node.data)


def test_format_refuses_and_says_what_would_be_lost(filled: tuple[Node, Path], make: MakeNode) -> None:
    source, snapshot = filled
    node = make(source=source)
    before = sorted(node.data.rglob("*"))
    refused = run_tools("disk", "format", "1", "--data", node.data)
    assert refused.returncode == 1
    assert "--erase" in refused.stderr
    assert "bytes are alive in it" in refused.stderr
    assert sorted(node.data.rglob("*")) == before
    (node.data / "volumes/0001/diary").write_text("mine")
    assert "diary" in run_tools("disk", "format", "1", "--data", node.data, "--erase").stderr
    (node.data / "volumes/0001/diary").unlink()
    key = node.data / "volumes/0000/root-key.json"
    kept = key.read_bytes()
    key.unlink()
    assert "only copy of the root key" in run_tools("disk", "format", "1", "--data", node.data, "--erase").stderr
    key.write_bytes(kept)
    assert sorted(node.data.rglob("*")) == before
    cluster = json.loads((node.data / "cluster.json").read_text())
    done = told("disk", "format", "1", "--data", node.data, "--erase")
    assert done["formatted"]
    assert done["loss"]["segments"] > 0
    identity = json.loads((node.data / "volumes/0001/volume.json").read_text())
    assert (identity["uuid"], identity["cluster"]) == (cluster["volumes"][1]["uuid"], cluster["cluster"])
    assert told("disk", "format", "1", "--data", node.data)["loss"]["segments"] == 0
    done = told("meta", "restore", snapshot, "--data", node.data, code=1)  # of volume 1; rows of volume 0 that name bytes there stay
    assert [volume["index"] for volume in done["volumes"]] == [1]
    lost = {(one["bucket"], one["key"]) for one in done["lost"]}
    node.start()
    found: Objects = {}
    statuses: dict[tuple[str, str], int] = {}
    for name in node.objects:
        try:
            found[name] = node.s3.get_object(Bucket=name[0], Key=name[1])["Body"].read()
        except botocore.exceptions.ClientError as error:
            statuses[name] = error.response["ResponseMetadata"]["HTTPStatusCode"]
    assert all(status == (404 if name in lost else 500) for name, status in statuses.items())
    assert lost
    assert found
    assert not lost & found.keys()
    assert all(node.objects[name] == body for name, body in found.items())
    node.put("things", "new", 100_000)
    node.put("things", "new", 2_000_000)
    node.stop()


def test_a_missing_volume_can_be_made(filled: tuple[Node, Path], make: MakeNode) -> None:
    node = make(source=filled[0])
    shutil.rmtree(node.data / "volumes/0001")
    assert told("disk", "ls", "--data", node.data, code=1)["volumes"][1]["state"] == "missing"
    assert told("disk", "format", "1", "--data", node.data)["formatted"]
    assert stat.S_IMODE((node.data / "volumes/0001").stat().st_mode) == 0o700
    assert told("disk", "ls", "--data", node.data)["volumes"][1]["state"] == "clean"
    assert "there is no volume 7" in run_tools("disk", "format", "7", "--data", node.data).stderr


def test_inspect_shows_what_matches_and_what_does_not(filled: tuple[Node, Path], make: MakeNode, tmp_path: Path) -> None:
    node = make(source=filled[0])
    for key, kind in (("size-3000", "record"), ("size-2500000", "extent")):
        body = node.objects["things", key]
        out = tmp_path / key
        shown = told("disk", "inspect", f"things/{key}", "--data", node.data, "--save", out)
        assert out.read_bytes() == body
        assert stat.S_IMODE(out.stat().st_mode) == 0o600
        assert all(check["matches"] for piece in shown["pieces"] for check in piece["checks"])
        piece = next(piece for piece in shown["pieces"] if piece["kind"] == kind)
        told_place = told("ring", "locate", f"things/{key}", "--data", node.data)["version"]["extents"][0]
        assert (told_place["offset"], told_place["segment"]) == (piece["offset"], Path(piece["path"]).name)
        assert body[:64].hex() not in json.dumps(shown)
        path, offset = Path(piece["path"]), piece["offset"]
        volume = path.parent.parent
        same = told("disk", "inspect", "--volume", volume, "--segment", path.stem, "--offset", str(offset))
        assert [one["offset"] for one in same["pieces"]] == [one["offset"] for one in shown["pieces"]]
        listed = told("disk", "inspect", "--volume", volume, "--segment", path.stem)["contents"]
        assert any(entry["offset"] == offset and key in entry["what"] for entry in listed)
        with path.open("r+b") as file:
            raw = path.read_bytes()
            at = raw.index(body[1000:1100], offset)
            file.seek(at)
            file.write(bytes((raw[at] ^ 4,)))
        text = tools("disk", "inspect", f"things/{key}", "--data", node.data, code=1)
        assert "DOES NOT MATCH" in text
        assert run_tools("disk", "inspect", f"things/{key}", "--data", node.data, "--save", out).returncode == 1  # never over a file
    for arguments in ((), ("things",), ("things/absent",), ("things/a", "--offset", "1"), ("--volume", "0", "--segment", "zz")):
        assert run_tools("disk", "inspect", *arguments, "--data", node.data).returncode == 1


def test_no_secret_is_shown(filled: tuple[Node, Path], make: MakeNode, tmp_path: Path) -> None:
    node = make(source=filled[0])
    out = tmp_path / "rows"
    tools("meta", "dump", "--data", node.data, "--out", out)
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    text = out.read_text()
    assert text == tools("meta", "dump", "--data", node.data)
    rows = [json.loads(line) for line in text.splitlines()]
    access, secret = node.server.credentials()
    credential = next(row["value"] for row in rows if row.get("record") == f"/credentials/{access}")
    assert credential["sealed"].keys() == {"bytes", "sha256"}
    log = sorted((node.data / "volumes/0000/log").glob("*.seg"))[0]
    at = next(
        entry["offset"] for entry in told("disk", "inspect", "--volume", "0", "--segment", log.stem, "--data", node.data)["contents"]
        if "Cas" in entry["what"]
    )  # fmt: skip
    shown = told("disk", "inspect", "--volume", "0", "--segment", log.stem, "--offset", str(at), "--data", node.data)
    assert shown["pieces"][1]["fields"]["command"]["name"] == "Cas"
    assert secret not in text + json.dumps(shown)
    for options, wanted in (
        (("--bucket", "things", "--prefix", "many/", "--table", "objects"), {key for _, key in node.objects if key.startswith("many/")}),
        (("--group", "-1", "--table", "objects"), set()),
    ):
        lines = [json.loads(line) for line in tools("meta", "dump", "--data", node.data, *options).splitlines()]
        assert {line["key"] for line in lines} == wanted
    assert "no table nonsense" in run_tools("meta", "dump", "--data", node.data, "--table", "nonsense").stderr


def test_a_restore_that_was_cut_short_is_not_served(filled: tuple[Node, Path], make: MakeNode) -> None:
    source, snapshot = filled
    node = make(source=source)
    for index in (0, 1):  # as a kill between the two exchanges leaves it
        node.lose_metadata(index)
    assert told("meta", "restore", snapshot, "--data", node.data)["complete"]
    node.lose_metadata(1)
    (node.data / "run/rebuilding").touch()
    node.server.start()
    assert node.server.process is not None
    assert node.server.process.wait(20) == 1
    assert "was interrupted" in node.server.tail()
    assert told("meta", "restore", snapshot, "--data", node.data)["complete"]
    node.check()


def test_metadata_that_lmdb_cannot_read_refuses_the_start_and_is_restored(filled: tuple[Node, Path], make: MakeNode) -> None:
    source, snapshot = filled
    node = make(source=source)
    (node.data / "volumes/0001/meta/data.mdb").write_bytes(b"nothing that LMDB knows" * 1000)
    node.refuse("volumes/0001/meta cannot be opened", "`titans3 tools meta restore SNAPSHOT`", volumes="0001")
    assert told("meta", "restore", snapshot, "--data", node.data)["complete"]
    node.check()


def test_metadata_that_a_refused_start_made_anew_is_restored(filled: tuple[Node, Path], make: MakeNode) -> None:
    source, snapshot = filled
    node = make(source=source)
    node.lose_metadata(1)
    node.refuse("volumes/0001/meta is gone", "`titans3 tools meta restore SNAPSHOT`", volumes="0001")
    assert (node.data / "volumes/0001/meta/data.mdb").exists()
    plan = told("meta", "restore", snapshot, "--data", node.data, "--dry-run")
    assert [volume["index"] for volume in plan["volumes"]] == [1]
    assert told("meta", "restore", snapshot, "--data", node.data)["complete"]
    node.check()


def test_a_damaged_log_is_rebuilt_and_its_groups_take_writes_again(make: MakeNode) -> None:
    node = make()
    node.server.env["TITANS3_ENGINE__CHECKPOINT_SECONDS"] = "3600"
    node.start()
    node.s3.create_bucket(Bucket="things")
    for number in range(200):
        node.put("things", f"k{number}", 2000 + number)
    node.server.kill_tree()
    body = node.objects["things", "k100"]
    path = next(path for path in node.data.glob("volumes/*/log/*.seg") if body in path.read_bytes())
    raw = path.read_bytes()
    at = raw.index(body) - 40  # in its command
    with path.open("r+b") as file:
        file.seek(at)
        file.write(bytes((raw[at] ^ 1,)))
    index = int(path.parent.parent.name)
    seen = told("disk", "ls", "--data", node.data, code=1)["volumes"][index]
    assert seen["state"] == "damaged"
    done = told("meta", "rebuild", "--data", node.data, code=1)
    assert [volume["index"] for volume in done["volumes"]] == [index]
    gaps = done["volumes"][0]["revival"]["gaps"]
    assert sum(gap["last"] - gap["first"] + 1 for gap in gaps) <= 1  # none, if it was the last entry of its group
    del node.objects["things", "k100"]
    node.check()


SEEDS = range(40) if LONG else (2,)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", SEEDS)
def test_any_history_is_restored_or_its_loss_is_named(make: MakeNode, seed: int) -> None:
    """Writes, a snapshot, more writes, an end; then some volumes lose their metadata. What is not told as lost is there, byte for byte."""
    rng = random.Random(seed)
    node = make()
    node.rng = random.Random(seed)

    touched: set[tuple[str, str]] = set()

    def work(count: int) -> None:
        keys = [f"k{number}" for number in range(30)]
        for _ in range(count):
            key, what = rng.choice(keys), rng.random()
            touched.add(("bucket", key))
            if what < 0.2 and ("bucket", key) in node.objects:
                node.delete("bucket", key)
            elif what < 0.25:
                node.upload("bucket", key, [5 << 20, rng.randrange(2000)])
            else:
                node.put("bucket", key, rng.choice((0, 10, 3000, 900_000, 1_200_000)))

    node.start()
    node.s3.create_bucket(Bucket="bucket")
    work(40)
    node.stop()
    touched.clear()
    before, snapshot = dict(node.objects), node.data.parent / "snapshot"
    tools("meta", "snapshot", snapshot, "--data", node.data)
    node.start()
    work(40)
    has_gaps = rng.random() < 0.5
    if has_gaps:
        node.roll("bucket")
    if rng.random() < 0.5:
        node.server.kill_tree()
    else:
        node.stop()
    volumes = rng.choice(((0,), (1,), (0, 1)))
    node.lose_metadata(*volumes)
    command = rng.choice((("restore", snapshot), ("rebuild", "--snapshot", snapshot)))
    done = run_tools("meta", *command, "--data", node.data, "--json")
    outcome = json.loads(done.stdout)
    assert outcome["complete"] == (done.returncode == 0)
    assert has_gaps or outcome["complete"]
    lost = {(one["bucket"], one["key"]) for one in outcome["lost"]}
    node.start()
    found = node.read()
    node.stop()
    assert not lost & (found.keys() - touched)
    tools("meta", "verify", "--data", node.data)
    if outcome["complete"]:
        assert found == node.objects
    for name, body in found.items():
        assert body == node.objects.get(name) or name in before or command[0] == "rebuild", name
    if command[0] == "rebuild":  # whatever has bytes is found by them
        assert all(found.get(name) == body for name, body in node.objects.items() if body)
    for name, body in before.items():
        if name not in touched:
            assert name not in lost
            assert found.get(name) == body, name
