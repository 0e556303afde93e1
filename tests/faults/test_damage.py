"""Flipped bits under a stopped server: found when it starts or when they are read, named, and never served.

The cases are those of docs/formats/segments.md, "What recovery does".
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.server import Server, play
from tests.faults.wire import Unknown, Wire

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]
BUCKET = "vault"
NO_CHECKPOINT = {"TITANS3_ENGINE__CHECKPOINT_SECONDS": "1h"}
SMALL = {"TITANS3_ENGINE__LOG_SEGMENT_BYTES": "16MiB", "TITANS3_ENGINE__DATA_SEGMENT_BYTES": "16MiB"}
LARGE = 200_000


def body_of(key: str, size: int) -> bytes:
    return random.Random(key).randbytes(size)


class Vault:
    """A server with known objects, and its files while it is stopped."""

    def __init__(self, folder: Path, env: dict[str, str] | None = None) -> None:
        self.server = Server(folder / "data", env={**SMALL, **(env or {})})
        self.objects: dict[str, bytes] = {}

    def fill(self, *, then: str) -> None:
        """Forty small objects and eight large ones; then a clean ``stop`` or a ``kill``."""
        self.server.start()
        asyncio.run(self._fill())
        if then == "kill":
            self.server.kill_tree()
        else:
            assert self.server.stop() == 0

    async def _fill(self) -> None:
        await self.server.wait_ready()
        wire = self.server.wire()
        assert (await wire.call("PUT", f"/{BUCKET}"))[0] == 200
        for number in range(48):
            key = f"object-{number:04d}-{random.Random(number).getrandbits(48):012x}"
            self.objects[key] = body_of(key, LARGE if number % 6 == 5 else 3000)
            assert (await wire.call("PUT", f"/{BUCKET}/{key}", body=self.objects[key]))[0] == 200
        await wire.end()

    def key(self, *, large: bool) -> str:
        """One in the middle."""
        return [key for key, body in self.objects.items() if (len(body) == LARGE) == large][4]

    def files(self, folder: str) -> list[Path]:
        return sorted((self.server.data / "volumes").glob(f"*/{folder}/*"))

    def find(self, folder: str, needle: bytes) -> tuple[Path, int]:
        """The only place of these bytes."""
        found = [(path, at) for path in self.files(folder) if (at := path.read_bytes().find(needle)) >= 0]
        assert len(found) == 1, found
        return found[0]

    def start(self) -> None:
        self.server.start()
        asyncio.run(self._ready())

    async def _ready(self) -> None:
        await self.server.wait_ready()

    def read(self, *, lax: bool = False) -> dict[str, int]:
        """Status of every key. Whatever is answered 200 must be the bytes that were put. ``lax``: 0 for a worker that died of it."""

        async def run(clients: list[Wire]) -> dict[str, int]:
            found = {}
            for key, body in self.objects.items():
                try:
                    status, _, data = await clients[0].call("GET", f"/{BUCKET}/{key}")
                except Unknown:
                    if not lax:
                        raise
                    status, data = 0, b""
                assert status != 200 or data == body, f"{key}: wrong bytes"
                found[key] = status
            return found

        return play(self.server, 1, run)

    def put(self, key: str) -> tuple[int, bytes]:
        async def run(clients: list[Wire]) -> tuple[int, bytes]:
            status, _, answer = await clients[0].call("PUT", f"/{BUCKET}/{key}", body=b"new")
            return status, answer

        status, answer = play(self.server, 1, run)
        if status == 200:
            self.objects[key] = b"new"
        return status, answer

    def health(self) -> str:
        async def run(clients: list[Wire]) -> str:
            return (await clients[0].call("GET", "/health/cluster"))[2].decode()

        return play(self.server, 1, run)

    def end(self) -> None:
        if self.server.process is not None and self.server.process.poll() is None:
            self.server.kill_tree()


def flip(path: Path, at: int, bit: int = 0) -> None:
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1 << bit]))


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[Vault]:
    made = Vault(tmp_path)
    yield made
    made.end()


@pytest.fixture
def unsaved(tmp_path: Path) -> Iterator[Vault]:
    """Nothing but the log holds what is written: no checkpoint until a clean stop."""
    made = Vault(tmp_path, NO_CHECKPOINT)
    yield made
    made.end()


def assert_only(vault: Vault, bad: str) -> None:
    """One object is damaged, and named in the log; all others are there."""
    found = vault.read()
    assert {key: status for key, status in found.items() if status != 200} == {bad: 500}
    log = vault.server.tail()
    assert "damaged" in log
    assert bad in log, log


@pytest.mark.parametrize("then", ["stop", "kill"])
def test_small_body(unsaved: Vault, then: str) -> None:
    unsaved.fill(then=then)
    key = unsaved.key(large=False)
    path, at = unsaved.find("log", unsaved.objects[key])
    flip(path, at + 1234, 3)
    unsaved.start()
    assert_only(unsaved, key)
    assert unsaved.put(key)[0] == 200, "a damaged body is one bad object; writing it again heals it"


def test_command_after_a_clean_stop_costs_nothing(unsaved: Vault) -> None:
    unsaved.fill(then="stop")
    key = unsaved.key(large=False)
    path, at = unsaved.find("log", key.encode())
    flip(path, at + 2)
    unsaved.start()
    assert set(unsaved.read().values()) == {200}, "the checkpoint holds what the command said"


def test_command_that_replay_needs(unsaved: Vault) -> None:
    unsaved.fill(then="kill")
    key = unsaved.key(large=False)
    path, at = unsaved.find("log", key.encode())
    flip(path, at + 2)
    unsaved.start()
    found = unsaved.read()
    assert found[key] == 503, "not 404: what a damaged group does not know is not known to be absent"
    assert sum(status == 200 for status in found.values()) >= len(found) - 4, found
    status, answer = unsaved.put(key)
    assert status == 503, answer
    assert "damaged" in unsaved.health()
    assert "damaged" in unsaved.server.tail()
    others = [key for key, status in found.items() if status == 200]
    assert 200 in [unsaved.put(other)[0] for other in others[:8]], "other groups take writes"
    assert unsaved.server.stop() == 0
    unsaved.start()
    assert unsaved.put(key)[0] == 503, "a checkpoint does not forget damage"
    assert unsaved.read()[key] == 503


def test_granule(vault: Vault) -> None:
    vault.fill(then="kill")
    key = vault.key(large=True)
    path, at = vault.find("data", vault.objects[key])
    flip(path, at + 100_000)
    vault.start()
    assert_only(vault, key)


@pytest.mark.parametrize("place", ["header", "trailer"])
def test_frame_of_an_extent(vault: Vault, place: str) -> None:
    vault.fill(then="stop")
    key = vault.key(large=True)
    path, at = vault.find("data", vault.objects[key])
    if place == "header":
        flip(path, at - 4096 + 20)  # its data id; one block of header lies before the data
    else:
        trailer = path.read_bytes().find(b"TS3T", at + LARGE)
        flip(path, trailer + 8)
    vault.start()
    found = vault.read()
    assert {k: status for k, status in found.items() if status != 200} == {key: 500}
    assert "damaged body" in vault.server.tail()


def test_header_of_a_data_segment(vault: Vault) -> None:
    vault.fill(then="stop")
    path, _ = vault.find("data", vault.objects[vault.key(large=True)])
    inside = {key for key, body in vault.objects.items() if len(body) == LARGE and path.read_bytes().find(body) >= 0}
    flip(path, 41)
    vault.start()
    found = vault.read()
    assert {key for key, status in found.items() if status == 500} == inside
    assert {status for key, status in found.items() if key not in inside} == {200}
    assert "damaged" in vault.health()
    assert str(path.name) in vault.server.tail()


def test_header_of_the_log(unsaved: Vault) -> None:
    unsaved.fill(then="kill")
    path, _ = unsaved.find("log", unsaved.objects[unsaved.key(large=False)])
    flip(path, 41)
    unsaved.start()
    found = unsaved.read()
    assert set(found.values()) <= {200, 503, 404}, found
    assert "damaged" in unsaved.health()


@pytest.mark.parametrize("name", ["cluster.json", "volume.json"])
def test_identity(vault: Vault, name: str) -> None:
    vault.fill(then="stop")
    path = vault.server.data / name if name == "cluster.json" else next((vault.server.data / "volumes").glob("*/volume.json"))
    text = path.read_bytes()
    flip(path, text.index(b"uuid") + 9 if name == "cluster.json" else len(text) // 2, 1)
    vault.server.start()
    assert vault.server.process is not None
    assert vault.server.process.wait(30) != 0
    assert name in vault.server.tail() or "volume" in vault.server.tail()
    path.write_bytes(text)
    vault.start()
    assert set(vault.read().values()) == {200}


def test_rows_of_the_metadata(vault: Vault) -> None:
    """A flipped bit in a row is found by its checksum; whatever LMDB makes of one in its structure, no wrong byte is served."""
    vault.fill(then="stop")
    key = vault.key(large=False)
    for path in vault.files("meta"):
        at = -1
        while (at := path.read_bytes().find(key.encode(), at + 1)) >= 0:  # pages that LMDB no longer uses hold it too
            flip(path, at + len(key) + 40)
    vault.start()
    found = vault.read()
    assert {k: status for k, status in found.items() if status != 200} == {key: 500}
    assert key in vault.server.tail()
    status, _ = vault.put(key)
    assert status >= 500, "a version that cannot be read cannot be replaced"
    others = [k for k in vault.objects if k != key]
    assert 200 in [vault.put(other)[0] for other in others[:6]], "one row costs one group, not the volume"
    vault.server.kill_tree()
    vault.start()
    assert vault.read()[key] >= 500


def test_pages_of_the_metadata(vault: Vault, tmp_path: Path) -> None:
    """Bits anywhere in the B-tree's structure: the server may refuse to start or to answer, but never answers wrongly."""
    vault.fill(then="stop")
    trees = [path for path in vault.files("meta") if path.name == "data.mdb"]
    whole = [path.read_bytes() for path in trees]
    rng = random.Random(11)
    for _ in range(4):
        for path, content in zip(trees, whole, strict=True):
            path.write_bytes(content)
            pages = [at for at in range(8192, len(content), 4096) if any(content[at + 16 : at + 64])]
            for at in rng.sample(pages, 2):
                flip(path, at + rng.choice((10, 12, 14, 16, 17, 18, 20, 24)), rng.randrange(8))
        vault.server.start()
        try:
            asyncio.run(vault.server.wait_ready(15))
            statuses = vault.read(lax=True)
            assert set(statuses.values()) <= {0, 200, 404, 500, 503}, statuses
        except RuntimeError:
            assert "does not" in vault.server.tail() or "rror" in vault.server.tail()
        vault.end()
