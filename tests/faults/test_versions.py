"""Random operations on a versioned, a suspended and an unversioned bucket, through both workers, with crashes in between.

Each bucket is driven by one client that compares the whole order of versions with a sequential model after every operation; an
operation that a crash has cut off happened or did not. ``python -m tests.faults.test_versions SECONDS [SEED]`` is the long form.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote
from xml.etree import ElementTree as ET

import pytest

from tests.faults.server import Server, play_long, play_to_death
from tests.faults.version_model import NULL, UNKNOWN, BucketModel, Listing, Version
from tests.faults.wire import Unknown

SECONDS = 7.0
_LATE_SECONDS = 30.0  # until a crash has cut something off
SEED = 20261
KEYS = ("a", "b/c", "b d", "ü")
STATUS = {1: "Enabled", 2: "Suspended"}
NAMESPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"
STRANGE_ID = "0" * 32


class Lost(Exception):
    """The outcome of an operation is not known: broken, or answered 5xx."""


def tags_of(data: bytes) -> list[str | None]:
    """Values of a Tagging document."""
    return [item.text for item in ET.fromstring(data).iter(NAMESPACE + "Value")]


class Driver:
    """One bucket, its model and a client on two connections."""

    def __init__(self, server: Server, bucket: str, state: int, seed: int) -> None:
        self.server, self.bucket = server, bucket
        self.random = random.Random(f"{seed} {bucket}")
        self.model = BucketModel(state)
        self.wires = [server.wire() for _ in range(2)]
        self.steps = self.doubts = self.bodies = 0

    async def call(
        self, method: str, path: str, query: dict[str, str] | None = None, headers: dict[str, str] | None = None, body: bytes = b""
    ) -> tuple[int, dict[str, str], bytes]:
        """An answer that is not 5xx. Raises Lost."""
        wire = self.random.choice(self.wires)
        try:
            status, fields, data = await wire.call(method, f"/{self.bucket}{path}", query, headers, body)
        except Unknown as error:
            raise Lost from error
        if status >= 500:
            raise Lost
        return status, fields, data

    async def sure(
        self, method: str, path: str, query: dict[str, str] | None = None, body: bytes = b""
    ) -> tuple[int, dict[str, str], bytes]:
        """An answer of something that can be repeated; waits for the server to come back."""
        for _ in range(600):
            with contextlib.suppress(Lost):
                return await self.call(method, path, query, body=body)
            await asyncio.sleep(0.05)
        raise AssertionError(f"no answer to {method} {path}")

    async def begin(self) -> None:
        """The bucket in its state."""
        assert (await self.sure("PUT", ""))[0] == 200
        if self.model.state:
            await self.switch(1)
            if self.model.state == 2:
                await self.switch(2)

    async def switch(self, state: int) -> None:
        document = f"<VersioningConfiguration><Status>{STATUS[state]}</Status></VersioningConfiguration>".encode()
        assert (await self.sure("PUT", "", {"versioning": ""}, document))[0] == 200

    async def listing(self) -> Listing:
        """Everything, in pages of odd sizes, in the server's order."""
        found: Listing = []
        query = {"versions": "", "max-keys": str(self.random.choice((3, 7, 1000)))}
        while True:
            status, _, data = await self.sure("GET", "", query)
            assert status == 200, data
            root = ET.fromstring(data)
            for item in root:
                if item.tag in (NAMESPACE + "Version", NAMESPACE + "DeleteMarker"):
                    key, version_id = item.findtext(NAMESPACE + "Key"), item.findtext(NAMESPACE + "VersionId")
                    assert key is not None and version_id is not None
                    found.append((key, version_id, item.tag == NAMESPACE + "DeleteMarker"))
            if root.findtext(NAMESPACE + "IsTruncated") == "false":
                return found
            query["key-marker"] = root.findtext(NAMESPACE + "NextKeyMarker") or ""
            query["version-id-marker"] = root.findtext(NAMESPACE + "NextVersionIdMarker") or ""

    def some_version(self) -> tuple[str, Version | None]:
        """A key, and one of its versions if it has any."""
        key = self.random.choice(KEYS)
        versions = self.model.keys.get(key)
        return key, self.random.choice(versions) if versions else None

    def _body(self) -> bytes:
        self.bodies += 1
        text = f"{self.bucket} {self.bodies} ".encode()
        return text * self.random.choice((1, 1, 1, 500, 10_000))  # 10,000: more than what travels in the log

    async def step(self) -> None:
        """One operation, and the comparison."""
        self.steps += 1
        operation = self.random.choices(
            (self.put, self.delete, self.delete_version, self.delete_many, self.copy, self.multipart, self.tag, self.turn, self.read),
            (8, 4, 4, 2, 3, 1, 2, 1, 4),
        )[0]
        before = self.model.fork()
        try:
            await operation()
        except Lost:
            self.doubts += 1
            after, self.model = self.model, before
            await self._settle(after)
        found = await self.listing()
        assert self.model.matches(found), f"{operation.__name__}: {found} is not {self.model.listing()}"

    async def _settle(self, after: BucketModel) -> None:
        """What was cut off happened, or it did not."""
        await asyncio.sleep(0.2)  # what another worker has in hand comes to its end
        found = await self.listing()
        likely = [model for model in (self.model, after) if model.matches(found)]
        assert likely, f"{found} is neither {self.model.listing()} nor {after.listing()}"
        for model in likely:
            if await self._holds(model):
                self.model = model
                return
        raise AssertionError("what is listed has other bodies or tags")

    async def _holds(self, model: BucketModel) -> bool:
        """Whether versions are what the model says: a null version that was overwritten is listed like the one before it."""
        return all([
            await self._is_stored(key, version) for key, versions in model.keys.items() for version in versions if version.body is not None
        ])

    async def _is_stored(self, key: str, version: Version) -> bool:
        query = {"versionId": version.version_id}
        status, _, data = await self.sure("GET", f"/{key}", query)
        _, _, tagging = await self.sure("GET", f"/{key}", {"tagging": "", **query})
        return (status, data) == (200, version.body) and tags_of(tagging) == list(version.tags.values())

    # operations: each changes the model as if it succeeded before it asks, so that ``after`` is there when the answer is not

    def _new_id(self, fields: dict[str, str], key: str) -> None:
        """Learn the id of the newest version from an answer."""
        version = self.model.newest(key)
        assert version is not None
        given = fields.get("x-amz-version-id", NULL)
        if version.version_id == UNKNOWN:
            assert given not in (NULL, *(other.version_id for other in self.model.keys[key])), given
            version.version_id = given
        else:
            assert given == NULL

    async def put(self) -> None:
        key, body = self.random.choice(KEYS), self._body()
        self.model.put(key, body, UNKNOWN)
        status, fields, data = await self.call("PUT", f"/{key}", body=body)
        assert status == 200, data
        self._new_id(fields, key)

    async def delete(self) -> None:
        key = self.random.choice(KEYS)
        self.model.delete(key, UNKNOWN)
        status, fields, data = await self.call("DELETE", f"/{key}")
        assert status == 204, data
        assert fields.get("x-amz-delete-marker") == ("true" if self.model.state else None)
        if self.model.state:
            self._new_id(fields, key)

    async def delete_version(self) -> None:
        key, version = self.some_version()
        version_id = STRANGE_ID if version is None else version.version_id
        self.model.delete_version(key, version_id)
        status, fields, data = await self.call("DELETE", f"/{key}", {"versionId": version_id})
        assert status == 204, data
        assert fields.get("x-amz-delete-marker") == ("true" if version is not None and version.body is None else None)

    async def delete_many(self) -> None:
        """Versions of one key at once: keys of several groups are not deleted in one step, and a crash may come between."""
        key = self.random.choice(KEYS)
        versions = [version.version_id for version in self.model.keys.get(key, [])]
        chosen = [(key, version_id) for version_id in self.random.sample(versions, min(len(versions), 3))]
        if not chosen:
            return
        for key, version_id in chosen:
            self.model.delete_version(key, version_id)
        items = "".join(f"<Object><Key>{key}</Key><VersionId>{version_id}</VersionId></Object>" for key, version_id in chosen)
        body = f"<Delete>{items}</Delete>".encode()
        digest = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
        wire = self.random.choice(self.wires)
        try:
            status, _, data = await wire.call("POST", f"/{self.bucket}", {"delete": ""}, {"content-md5": digest}, body)
        except Unknown as error:
            raise Lost from error
        if status >= 500 or b"<Error>" in data:
            raise Lost
        assert status == 200, data

    async def copy(self) -> None:
        source, version = self.some_version()
        target = self.random.choice(KEYS)
        if version is None or version.body is None or (target == source and version is self.model.newest(source)):
            return
        self.model.put(target, version.body, UNKNOWN)
        newest = self.model.newest(target)
        assert newest is not None
        newest.tags = dict(version.tags)
        headers = {"x-amz-copy-source": quote(f"{self.bucket}/{source}") + f"?versionId={version.version_id}"}
        status, fields, data = await self.call("PUT", f"/{target}", headers=headers)
        assert status == 200, data
        self._new_id(fields, target)

    async def multipart(self) -> None:
        key, body = self.random.choice(KEYS), self._body()
        _, _, data = await self.call("POST", f"/{key}", {"uploads": ""})
        upload = ET.fromstring(data).findtext(NAMESPACE + "UploadId") or ""
        _, fields, _ = await self.call("PUT", f"/{key}", {"partNumber": "1", "uploadId": upload}, body=body)
        part = f"<Part><PartNumber>1</PartNumber><ETag>{fields['etag']}</ETag></Part>"
        document = f"<CompleteMultipartUpload>{part}</CompleteMultipartUpload>"
        self.model.put(key, body, UNKNOWN)
        status, fields, data = await self.call("POST", f"/{key}", {"uploadId": upload}, body=document.encode())
        assert status == 200, data
        self._new_id(fields, key)

    async def tag(self) -> None:
        key, version = self.some_version()
        if version is None or version.body is None:
            return
        value = str(self.steps)
        document = f"<Tagging><TagSet><Tag><Key>step</Key><Value>{value}</Value></Tag></TagSet></Tagging>".encode()
        status, _, data = await self.sure("PUT", f"/{key}", {"tagging": "", "versionId": version.version_id}, document)
        assert status == 200, data
        version.tags = {"step": value}

    async def turn(self) -> None:
        """A bucket that knows versions is suspended or enabled again."""
        if self.model.state:
            self.model.state = 3 - self.model.state
            await self.switch(self.model.state)

    async def read(self) -> None:
        key, version = self.some_version()
        if self.random.random() < 0.5:
            version = self.model.newest(key)
            query: dict[str, str] = {}
        elif version is not None:
            query = {"versionId": version.version_id}
        status, fields, data = await self.sure("GET", f"/{key}", query if version is not None else {})
        if version is None:
            assert status == 404
        elif version.body is None:
            assert status == (405 if query else 404)
            assert fields["x-amz-delete-marker"] == "true"
        else:
            assert status == 200, data
            assert data == version.body, f"{key}: {data[:20]!r} is not {(version.body or b'')[:20]!r}"
            assert fields.get("x-amz-tagging-count") == (str(len(version.tags)) if version.tags else None)

    async def finish(self) -> None:
        """Every version's body and tags."""
        assert self.model.matches(await self.listing())
        for key, versions in self.model.keys.items():
            for version in versions:
                status, _, data = await self.sure("GET", f"/{key}", {"versionId": version.version_id})
                assert (status, data if status == 200 else None) == (200 if version.body is not None else 405, version.body)
                if version.body is not None:
                    _, _, data = await self.sure("GET", f"/{key}", {"tagging": "", "versionId": version.version_id})
                    assert tags_of(data) == list(version.tags.values())

    async def end(self) -> None:
        for wire in self.wires:
            await wire.end()


async def crash(server: Server, chance: random.Random, is_over: Callable[[], bool]) -> int:
    """Kill everything, or one worker, now and then; how often."""
    count = 0
    while not is_over():
        await asyncio.sleep(chance.uniform(0.4, 1.5))
        if chance.random() < 0.6:
            await asyncio.to_thread(server.kill_tree)
            server.start()
        else:
            pids = server.worker_pids()
            if pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(chance.choice(pids), signal.SIGKILL)
        await server.wait_ready()
        count += 1
    return count


async def scenario(server: Server, seconds: float, seed: int) -> tuple[int, int, int]:
    """(operations, of unknown outcome, crashes)."""
    server.start()
    await server.wait_ready()
    drivers = [Driver(server, name, state, seed) for name, state in (("never", 0), ("enabled", 1), ("suspended", 2))]
    until = time.monotonic() + seconds

    def is_over() -> bool:
        """In time, but not before a crash has cut something off, if that comes soon."""
        late = time.monotonic() - until
        return late > _LATE_SECONDS or (late > 0 and any(driver.doubts for driver in drivers))

    async def drive(driver: Driver) -> None:
        await driver.begin()
        while not is_over():
            await driver.step()

    try:
        async with asyncio.TaskGroup() as group:
            crashes = group.create_task(crash(server, random.Random(seed), is_over))
            for driver in drivers:
                group.create_task(drive(driver))
        for driver in drivers:
            await driver.finish()
        return sum(driver.steps for driver in drivers), sum(driver.doubts for driver in drivers), crashes.result()
    finally:
        for driver in drivers:
            await driver.end()


@pytest.mark.timeout(90)
def test_versions_equal_the_model_through_crashes(tmp_path: Path) -> None:
    steps, doubts, crashes = play_to_death(tmp_path / "data", scenario, SECONDS, SEED)
    assert steps > 100, "too little was done to show anything"
    assert crashes >= 2
    assert doubts >= 1, "no crash has cut off anything"


def main() -> None:
    """The long form: seconds, and a seed to repeat."""
    steps, doubts, crashes = play_long(scenario)
    print(f"{steps} operations, {doubts} of unknown outcome, {crashes} crashes: everything equals the model")


if __name__ == "__main__":
    main()
