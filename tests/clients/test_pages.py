"""docs/backup.md and docs/upgrade.md hold as written: every command is run as it stands, and what comes of it is compared."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.clients.machine import BIN, Machine, blocks_of
from tests.conformance.served import drain
from tests.faults.server import Server
from tests.faults.test_rolling import Client
from tests.faults.wire import Wire
from tests.pages import Block
from titans3.cluster.messages import FEATURE_LEVEL

ELSEWHERE = "https://backup.example.org:9000"
PASSPHRASE = "nine words that only the operator knows"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def client(machine: Machine, access_key: str = "", secret_key: str = "") -> Any:
    if not access_key:
        record = json.loads((machine.data / "credentials.json").read_text())
        access_key, secret_key = record["access_key"], record["secret_key"]
    return boto3.client(
        "s3", endpoint_url=f"http://127.0.0.1:{machine.port}", region_name="us-east-1", aws_access_key_id=access_key,
        aws_secret_access_key=secret_key, config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}),
    )  # fmt: skip


def stored(s3: Any) -> dict[tuple[str, str], tuple[bytes, str, dict[str, str]]]:
    """Bytes, type and user metadata of everything."""
    found = {}
    for bucket in s3.list_buckets()["Buckets"]:
        name = bucket["Name"]
        for item in drain(s3, "list_objects_v2", "Contents", Bucket=name):
            answer = s3.get_object(Bucket=name, Key=item["Key"])
            found[name, item["Key"]] = (answer["Body"].read(), answer["ContentType"], answer["Metadata"])
    return found


def configure(machine: Machine) -> None:
    (machine.config / "titans3.toml").write_text(
        f'[s3]\nlisten = ["127.0.0.1:{machine.port}"]\n[node]\nworkers = 2\n[kms]\npassphrase_file = "{machine.config}/passphrase"\n'
    )
    (machine.config / "passphrase").write_text(PASSPHRASE + "\n")


# backup ----------------------------------------------------------------------------------------------------------------


class Backup:
    """The story of docs/backup.md: a step before and after each block, named by its heading."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.every_day = next(block for block in blocks_of("backup.md") if block.text.startswith("for bucket"))
        machine.run("systemctl start titans3")
        self.fill()

    def fill(self) -> None:
        s3 = client(self.machine)
        for bucket in ("photos", "other.things"):
            s3.create_bucket(Bucket=bucket)
        for number, size in enumerate((0, 1, 5_000, 70_000, 3_000_000)):
            body = bytes((number + at * at) % 251 for at in range(1000)) * (size // 1000 + 1)
            meta = {"n": str(size)}
            s3.put_object(Bucket="photos", Key=f"2026/size {size} ü", Body=body[:size], ContentType="image/x-test", Metadata=meta)
        s3.upload_file(str(self.large()), "photos", "2026/parts")
        s3.put_object(Bucket="other.things", Key="a/b", Body=b"elsewhere")
        printed = self.machine.run(f"{BIN}/titanctl user add alice --policy readonly --json", TITANS3_DATA=str(self.machine.data))
        self.alice = json.loads(printed.splitlines()[0])
        self.expected = stored(s3)
        assert len(self.expected) == 7

    def large(self) -> Path:
        path = self.machine.root / "large"
        path.write_bytes(bytes(range(256)) * (20 << 12))
        return path

    def check(self) -> None:
        """Everything is there as it was, and alice may read it."""
        assert stored(client(self.machine)) == self.expected
        assert self.answer_to_alice() == 200

    def answer_to_alice(self) -> int:
        """The status of a request with the key that she got at first."""
        try:
            client(self.machine, self.alice["access_key"], self.alice["secret_key"]).head_bucket(Bucket="photos")
        except ClientError as error:
            return int(error.response["ResponseMetadata"]["HTTPStatusCode"])
        return 200

    def stop(self) -> None:
        self.machine.run("systemctl stop titans3")

    def nothing(self) -> None:
        """No loss before this one."""

    # losses

    def lose_objects(self) -> None:
        s3 = client(self.machine)
        s3.delete_object(Bucket="photos", Key="2026/parts")
        s3.delete_object(Bucket="photos", Key="2026/size 0 ü")
        s3.put_object(Bucket="photos", Key="2026/size 5000 ü", Body=b"by mistake")

    def lose_metadata(self) -> None:
        s3 = client(self.machine)
        s3.put_object(Bucket="photos", Key="2026/after the snapshot", Body=b"only the log has it", ContentType="image/x-test")
        self.expected = stored(s3)
        self.stop()
        (self.machine.data / "volumes/0000/meta/data.mdb").write_bytes(b"no metadata" * 10_000)
        shutil.rmtree(self.machine.data / "volumes/0001/meta")
        said = self.machine.refused()
        assert "meta cannot be opened" in said or "is gone" in said  # whichever worker is the first to find out
        assert "titans3 tools meta restore SNAPSHOT" in said and "Traceback" not in said

    def lose_root_key(self) -> None:
        self.stop()
        for path in self.machine.data.glob("volumes/*/root-key.json"):
            path.unlink()
        assert "titanctl kms restore FILE" in self.machine.refused()

    def lose_root_key_for_good(self) -> None:
        self.stop()
        shutil.copytree(self.machine.data, self.machine.root / "kept")
        self.lose_root_key()

    def without_root_key(self) -> None:
        assert stored(client(self.machine)) == self.expected
        assert self.answer_to_alice() == 503
        assert "does not open under this root key" in self.machine.tail()
        made = json.loads(self.machine.run("titanctl key create --user alice --json").splitlines()[0])
        client(self.machine, made["access_key"], made["secret_key"]).head_bucket(Bucket="photos")
        self.stop()  # and back to the folder of before, which the next loss is of
        shutil.rmtree(self.machine.data)
        (self.machine.root / "kept").rename(self.machine.data)

    def lose_small_files(self) -> None:
        for name, words in (("cluster.json", "cluster.json is missing"), ("credentials.json", "credentials.json is missing")):
            path, away = self.machine.data / name, self.machine.root / "away"
            path.rename(away)
            assert words in self.machine.refused()
            away.rename(path)
        (self.machine.data / "cluster.json").unlink()
        (self.machine.data / "credentials.json").unlink()

    def lose_disk(self) -> None:
        client(self.machine).put_object(Bucket="photos", Key="2026/after the copy", Body=b"only the other store has it")
        self.expected = stored(client(self.machine))
        self.machine.play(self.every_day)
        self.stop()
        (self.machine.data / "cluster.json").unlink()

    def lose_all(self) -> None:
        shutil.rmtree(self.machine.root / "srv/titans3.lost")

    def objects_alone(self) -> None:
        assert self.answer_to_alice() == 403
        assert stored(client(self.machine)) == self.expected


STORY: dict[tuple[str, int], tuple[Callable[[Backup], None], Callable[[Backup], None]]] = {
    ("Backup", 0): (Backup.nothing, Backup.nothing),
    ("Once: the root key and the two small files", 0): (Backup.nothing, Backup.check),
    ("Every day: objects into another store", 0): (Backup.nothing, Backup.nothing),
    ("Every day: objects into another store", 1): (Backup.nothing, Backup.check),
    ("Every week: a snapshot of the metadata", 0): (Backup.nothing, Backup.check),
    ("A copy of the whole folder", 0): (Backup.nothing, Backup.check),
    ("A copy of the whole folder", 1): (Backup.nothing, Backup.check),
    ("Objects that were deleted or overwritten", 0): (Backup.lose_objects, Backup.check),
    ("Metadata of a volume", 0): (Backup.lose_metadata, Backup.check),
    ("The root key", 0): (Backup.lose_root_key, Backup.check),
    ("The root key", 1): (Backup.lose_root_key_for_good, Backup.without_root_key),
    ("The two small files", 0): (Backup.lose_small_files, Backup.check),
    ("The disk, with a copy of the folder", 0): (Backup.lose_disk, Backup.nothing),
    ("The disk, with a copy of the folder", 1): (Backup.nothing, Backup.check),
    ("The disk, with nothing but the other store", 0): (Backup.lose_all, Backup.nothing),
    ("The disk, with nothing but the other store", 1): (Backup.nothing, Backup.objects_alone),
}


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "elsewhere")
    server.start()
    try:
        asyncio.run(server.wait_ready())
        yield server
    finally:
        assert server.stop() == 0


def test_the_backup_page_brings_back_what_is_lost(tmp_path: Path, elsewhere: Server) -> None:
    machine = Machine(tmp_path / "machine", **{ELSEWHERE: f"http://127.0.0.1:{elsewhere.port}"})
    machine.installed()
    configure(machine)
    (machine.config / "elsewhere.keys").write_text("\n".join(elsewhere.credentials()) + "\n")
    assert [(block.heading, block.number) for block in blocks_of("backup.md")] == list(STORY)
    try:
        backup = Backup(machine)
        for block in blocks_of("backup.md"):
            before, after = STORY[block.heading, block.number]
            before(backup)
            machine.play(block)
            after(backup)
        assert {path.stat().st_mode & 0o077 for path in (machine.root / "backup/titans3").glob("*.json")} == {0}
    finally:
        machine.close()


# upgrade ---------------------------------------------------------------------------------------------------------------


class Traffic:
    """Clients of test_rolling.py in a thread: they note every answer that is not what it must be."""

    def __init__(self, machine: Machine) -> None:
        self._machine, self._stop = machine, threading.Event()
        self.failures: list[str] = []
        self.done = 0
        self._thread = threading.Thread(target=lambda: asyncio.run(self._work()))

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    async def _work(self) -> None:
        record = json.loads((self._machine.data / "credentials.json").read_text())
        keys = record["access_key"], record["secret_key"]
        clients = [Client(number, Wire("127.0.0.1", self._machine.port, *keys)) for number in range(4)]
        stop = asyncio.Event()
        tasks = [asyncio.create_task(one.work(stop)) for one in clients]
        while not self._stop.is_set():
            await asyncio.sleep(0.05)
            self.done = sum(one.done for one in clients)
        stop.set()
        await asyncio.gather(*tasks)
        self.failures = [failure for one in clients for failure in one.failures]
        for one in clients:
            await one.wire.end()


class Upgrade:
    """The story of docs/upgrade.md: two versions of one feature level, and one of the next."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        machine.source("titans3-old", "0.1.0", FEATURE_LEVEL)
        machine.source("titans3", "0.1.1", FEATURE_LEVEL)
        machine.run("/opt/titans3/bin/pip install /usr/src/titans3-old\nsystemctl start titans3")
        client(machine).create_bucket(Bucket="load")
        self.printed = ""

    def info(self) -> str:
        return self.machine.run("titanctl info", TITANS3_DATA=str(self.machine.data))

    def workers(self) -> set[int]:
        shown = json.loads(self.machine.run("titanctl status --json", TITANS3_DATA=str(self.machine.data)))
        return {worker["pid"] for worker in shown["workers"]}

    def wait_said(self, words: str, since: int) -> None:
        deadline = time.monotonic() + 60
        while words not in (said := self.machine.log.read_bytes()[since:].decode()):
            assert time.monotonic() < deadline, f"{words!r} is not in {said}"
            time.sleep(0.05)

    def play(self, block: Block, words: str) -> None:
        """A block under load that ends with a rolling restart, of which the log says these words."""
        since = len(self.machine.log.read_bytes())
        with Traffic(self.machine) as traffic:
            self.machine.play(block)
            self.wait_said(words, since)
            done = traffic.done
            deadline = time.monotonic() + 20
            while traffic.done < done + 20:
                assert time.monotonic() < deadline, "nothing is answered any more"
                time.sleep(0.05)
        assert traffic.failures == []


def test_the_upgrade_page_leads_from_version_to_version_and_back(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "machine")
    machine.installable()
    configure(machine)
    before, rolling, stopping, back, again = blocks = blocks_of("upgrade.md")
    assert [block.heading for block in blocks] == [
        "Before", "Without a failed request", "With a stop", "Going back", "Going back",
    ]  # fmt: skip
    later = FEATURE_LEVEL + 1
    try:
        upgrade = Upgrade(machine)
        shown = machine.play(before)
        assert "titans3 0.1.0" in shown and f"feature level {FEATURE_LEVEL}" in shown and "healthy" in shown
        first = upgrade.workers()
        upgrade.play(rolling, "rolling restart done")
        assert "TitanS3 0.1.1, healthy" in upgrade.info() and not first & upgrade.workers()
        upgrade.play(back, "rolling restart done")
        assert "TitanS3 0.1.0, healthy" in upgrade.info()

        machine.source("titans3", "0.2.0", later)
        machine.play(stopping)
        shown = upgrade.info()
        assert "TitanS3 0.2.0, healthy" in shown and f"feature level {later}" in shown
        second = upgrade.workers()
        upgrade.play(back, f"rolling restart ended early: the code that is installed knows feature level {FEATURE_LEVEL}")
        assert upgrade.workers() == second, "nobody was replaced"
        machine.run("systemctl stop titans3")
        assert f"this data is at feature level {later} and this build knows {FEATURE_LEVEL}" in machine.refused()
        machine.play(again)
        machine.run("systemctl start titans3")
        assert "TitanS3 0.2.0, healthy" in upgrade.info()
    finally:
        machine.close()
