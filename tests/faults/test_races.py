"""Races through different workers of a live server: conditions decide once, incarnations of a bucket never mix, bytes never mix."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.faults.server import Server, play
from tests.faults.wire import Unknown, Wire

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]
WRITERS = 32
ANY = {"if-none-match": "*"}


@contextmanager
def running(folder: Path, workers: int = 2) -> Iterator[Server]:
    folder.mkdir(exist_ok=True)
    server = Server(folder / "data", workers=workers)
    server.start()
    try:
        asyncio.run(server.wait_ready())
        yield server
        assert server.stop() == 0, server.tail()
    finally:
        if server.process is not None and server.process.poll() is None:
            server.kill_tree()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("races")) as made:
        yield made


async def bucket(wire: Wire, name: str) -> None:
    status, _, answer = await wire.call("PUT", f"/{name}")
    assert status == 200, answer


async def ask(clients: list[Wire]) -> list[int]:
    answers = await asyncio.gather(*(wire.call("GET", "/") for wire in clients))
    return [status for status, _, _ in answers]


def test_ready_is_true_for_every_worker_and_a_stop_right_then_is_quick(tmp_path: Path) -> None:
    for attempt in range(4):
        with running(tmp_path / str(attempt)) as fresh:
            assert play(fresh, 8, ask) == [200] * 8
            assert fresh.stop(10) == 0


def test_one_of_many_creators_wins(server: Server) -> None:
    async def race(clients: list[Wire]) -> None:
        await bucket(clients[0], "creators")
        for number in range(12):
            size = (100, 70_000)[number % 2]
            bodies = [bytes([writer]) * size for writer in range(WRITERS)]
            answers = await asyncio.gather(
                *(wire.call("PUT", f"/creators/k{number}", headers=ANY, body=body) for wire, body in zip(clients, bodies, strict=True))
            )
            found = Counter(status for status, _, _ in answers)
            assert found[200] == 1, found
            assert found[200] + found[412] + found[409] == WRITERS, found
            winner = next(place for place, answer in enumerate(answers) if answer[0] == 200)
            _, _, data = await clients[0].call("GET", f"/creators/k{number}")
            assert data == bodies[winner]

    play(server, WRITERS, race)


def test_a_counter_counts_every_success(server: Server) -> None:
    async def race(clients: list[Wire]) -> int:
        await bucket(clients[0], "counter")
        await clients[0].call("PUT", "/counter/n", body=b"0")
        wins = 0

        async def increment(wire: Wire) -> None:
            nonlocal wins
            for _ in range(25):
                _, headers, data = await wire.call("GET", "/counter/n")
                assert hashlib.md5(data).hexdigest() == headers["etag"].strip('"')
                status, _, answer = await wire.call(
                    "PUT", "/counter/n", headers={"if-match": headers["etag"]}, body=str(int(data) + 1).encode()
                )
                assert status in (200, 409, 412), (status, answer)
                wins += status == 200

        await asyncio.gather(*(increment(wire) for wire in clients))
        _, _, data = await clients[0].call("GET", "/counter/n")
        assert int(data) == wins
        return wins

    assert play(server, 16, race) >= 25


def test_a_bucket_made_again_has_nothing_of_the_old_and_loses_nothing_new(server: Server) -> None:
    play(server, 7, _bucket_race)


async def _bucket_race(clients: list[Wire]) -> None:
    """Writers put and delete what they put; a remover deletes the bucket whenever that is allowed, and makes it again."""
    rng = random.Random(7)
    stop = asyncio.Event()
    held: dict[str, str] = {}  # acknowledged and not deleted: key -> body
    deletions = 0
    await bucket(clients[0], "phoenix")

    async def writer(number: int, wire: Wire) -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            key, body = f"w{number}", f"{number}/{turn}" + "x" * rng.choice((0, 70_000))
            status, _, answer = await wire.call("PUT", f"/phoenix/{key}", body=body.encode())
            if status == 200:
                held[key] = body
                await asyncio.sleep(rng.random() * 0.004)
                found, _, data = await wire.call("GET", f"/phoenix/{key}")
                assert (found, data.decode()) == (200, body), f"{key}: an acknowledged object is {found}"
                status, _, answer = await wire.call("DELETE", f"/phoenix/{key}")
                assert status == 204, (status, answer)
                del held[key]
            else:
                assert status in (404, 409, 503), (status, answer)
            await asyncio.sleep(rng.random() * 0.03)

    async def remover(wire: Wire) -> None:
        nonlocal deletions
        while not stop.is_set():
            status, _, answer = await wire.call("DELETE", "/phoenix")
            assert status in (204, 404, 409, 503), (status, answer)
            if status == 204:
                deletions += 1
                assert not held, f"the bucket went with {sorted(held)} in it"
                for _ in range(200):
                    status, _, answer = await wire.call("PUT", "/phoenix")
                    if status == 200:
                        break
                    assert status in (409, 503), (status, answer)
                    await asyncio.sleep(0.01)
                status, _, listed = await wire.call("GET", "/phoenix", {"list-type": "2"})
                assert status == 200
                known = {f"w{number}" for number in range(6)}
                assert {item.text for item in ElementTree.fromstring(listed).iter() if item.tag.endswith("}Key")} <= known
            await asyncio.sleep(rng.random() * 0.02)

    async with asyncio.TaskGroup() as group:
        for number in range(6):
            group.create_task(writer(number, clients[number]))
        group.create_task(remover(clients[6]))
        await asyncio.sleep(5)
        stop.set()
    assert deletions >= 3, "the race must happen"
    status, _, listed = await clients[6].call("GET", "/phoenix", {"list-type": "2"})
    assert status == 200
    assert b"<Contents>" not in listed, "an object of an older incarnation"


def test_an_upload_is_completed_once(server: Server) -> None:
    async def race(clients: list[Wire]) -> None:
        await bucket(clients[0], "uploads")
        for number in range(8):
            path = f"/uploads/k{number}"
            _, _, xml = await clients[0].call("POST", path, {"uploads": ""})
            upload = ElementTree.fromstring(xml).findtext("{*}UploadId") or ""
            data = bytes([number]) * 90_000
            _, headers, _ = await clients[0].call("PUT", path, {"partNumber": "1", "uploadId": upload}, body=data)
            listed = f"<Part><PartNumber>1</PartNumber><ETag>{headers['etag']}</ETag></Part>"
            body = f"<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>".encode()
            calls = [wire.call("POST", path, {"uploadId": upload}, body=body) for wire in clients[:-1]]
            calls.append(clients[-1].call("DELETE", path, {"uploadId": upload}))
            answers = await asyncio.gather(*calls)
            good = [answer for status, _, answer in answers[:-1] if status == 200 and b"<Error>" not in answer]
            bad = [(status, answer) for status, _, answer in answers[:-1] if status != 200 or b"<Error>" in answer]
            assert all(status == 404 or b"NoSuchUpload" in answer for status, answer in bad), bad
            assert len({ElementTree.fromstring(answer).findtext("{*}ETag") for answer in good}) <= 1
            status, _, found = await clients[0].call("GET", path)
            aborted = answers[-1][0] == 204 and not good
            assert (status == 404) if aborted else (status == 200 and found == data), (status, answers[-1])
            _, _, left = await clients[0].call("GET", "/uploads", {"uploads": ""})
            assert b"<Upload>" not in left

    play(server, 12, race)


@pytest.mark.parametrize("size", [3_000, 200_000])
def test_readers_of_an_overwritten_object_see_one_version(server: Server, size: int) -> None:
    async def race(clients: list[Wire]) -> int:
        name = f"mixed{size}"
        await bucket(clients[0], name)
        stop = asyncio.Event()
        reads = 0

        async def write(number: int, wire: Wire) -> None:
            turn = 0
            while not stop.is_set():
                turn += 1
                status, _, _ = await wire.call("PUT", f"/{name}/k", body=bytes([number * 20 + turn % 20]) * (size + turn % 7))
                assert status == 200

        async def read(wire: Wire) -> None:
            nonlocal reads
            while not stop.is_set():
                try:
                    status, headers, data = await wire.call("GET", f"/{name}/k")
                except Unknown:  # overwritten and freed under the reader: cut, never mixed
                    continue
                if status == 404:
                    continue
                assert status == 200, (status, data[:300])
                assert headers["etag"] == f'"{hashlib.md5(data).hexdigest()}"', "bytes of two versions"
                reads += 1

        async with asyncio.TaskGroup() as group:
            for number, wire in enumerate(clients[:4]):
                group.create_task(write(number, wire))
            for wire in clients[4:]:
                group.create_task(read(wire))
            await asyncio.sleep(2)
            stop.set()
        return reads

    assert play(server, 8, race) > 20
