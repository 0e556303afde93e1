"""The audit trail at a real receiver: all of it, in order, whatever is down, killed or badly configured meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conformance.receiver import Delivery, Receiver
from tests.conformance.scraped import TOKEN, Scraped, scrape
from tests.conformance.served import Endpoint, certificate
from tests.faults.server import Server
from titans3.observe.audit import files_of, workers_of
from titans3.observe.board import PID

BEARER = "planted-webhook-token"


@contextmanager
def received(
    folder: Path, *, pair: tuple[str, str] | None = None, workers: int = 2, **settings: str
) -> Iterator[tuple[Endpoint, Receiver]]:
    """A server whose receiver is well."""
    receiver = Receiver(pair)
    receiver.start()
    told = {"WEBHOOK_URL": receiver.url, "WEBHOOK_TOKEN": BEARER, "WEBHOOK_SECONDS": "1s", **settings}
    env = {f"TITANS3_AUDIT__{name}": value for name, value in told.items()}
    server = Server(folder / "data", workers=workers, env=env | {"TITANS3_METRICS__TOKEN": TOKEN})
    try:
        with serving(server) as endpoint:
            yield endpoint, receiver
    finally:
        receiver.stop()


@contextmanager
def serving(server: Server) -> Iterator[Endpoint]:
    server.start()
    try:
        asyncio.run(server.wait_ready())
        yield Endpoint(server, "", server.credentials())
    finally:
        if server.process is not None and server.process.poll() is None:
            server.stop()


def refuse(endpoint: Endpoint, count: int) -> None:
    """So many lines, on the workers that happen to answer."""
    for _ in range(count):
        with contextlib.suppress(OSError):  # of a worker that was killed
            assert endpoint.raw("GET", "/", sign=False).status == 403


def until(condition: Callable[[], object], what: str, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def written(endpoint: Endpoint) -> dict[int, list[int]]:
    """Numbers of the lines in the files, by worker."""
    folder = str(endpoint.server.data / "audit")
    return {
        worker: [json.loads(line)["number"] for path in files_of(folder, worker) for line in Path(path).read_bytes().splitlines()]
        for worker in workers_of(folder)
    }  # fmt: skip


def await_all(endpoint: Endpoint, receiver: Receiver) -> None:
    """Until the receiver has taken every line of the files; those that it took twice are left out."""

    def is_there() -> bool:
        taken = {worker: sorted(set(numbers)) for worker, numbers in receiver.chains().items()}
        return taken == written(endpoint) and bool(taken)

    until(is_there, f"all lines are delivered: {receiver.chains()} of {written(endpoint)}\n{endpoint.server.tail()}")


def in_order(numbers: list[int]) -> bool:
    """Each line after the one before it, but for lines that come again."""
    return all(after <= max(numbers[: at + 1]) + 1 for at, after in enumerate(numbers[1:]))


def scraped(endpoint: Endpoint) -> Scraped:
    return scrape(endpoint.url)


def test_every_line_arrives_once_in_the_order_of_its_chain(tmp_path: Path) -> None:
    with received(tmp_path) as (endpoint, receiver):
        endpoint.admin("PUT", "/config/iam.users_max", {"value": 4999})
        refuse(endpoint, 30)
        await_all(endpoint, receiver)
        assert receiver.chains() == written(endpoint)
        assert all(numbers == list(range(1, len(numbers) + 1)) for numbers in receiver.chains().values())
        assert "titans3:SetConfig" in {line.get("action") for line in receiver.lines()}
        delivery = receiver.taken[0]
        cluster = json.loads((endpoint.server.data / "cluster.json").read_text())["cluster"]
        assert delivery.path == "/in/box"
        told = [delivery.headers[name] for name in ("authorization", "content-type", "titans3-cluster", "titans3-audit-chain")]
        assert told == [f"Bearer {BEARER}", "application/x-ndjson", cluster, str(delivery.lines[0]["worker"])]
        assert delivery.headers["titans3-audit-lines"] == f"{delivery.lines[0]['number']}-{delivery.lines[-1]['number']}"
        until(lambda: scraped(endpoint).total("titans3_audit_webhook_waiting_bytes") == 0, "nothing waits")
        now = scraped(endpoint)
        assert now.total("titans3_audit_webhook_lines_total") == len(receiver.lines()) == now.total("titans3_audit_lines_total")
        assert now.total("titans3_audit_webhook_lag_seconds") == now.total("titans3_audit_webhook_waiting") == 0
        receiver.mood = "small"  # what it refuses as too large comes in smaller pieces
        refuse(endpoint, 25)
        await_all(endpoint, receiver)
        assert receiver.chains() == written(endpoint)
        assert max(len(delivery.lines) for delivery in receiver.seen) > 3
    log = endpoint.server.log.read_text()
    assert "not delivered" not in log and BEARER not in log


def test_a_receiver_that_fails_times_out_and_is_down_gets_everything_when_it_is_back(tmp_path: Path) -> None:
    with received(tmp_path, workers=1) as (endpoint, receiver):
        refuse(endpoint, 3)
        await_all(endpoint, receiver)
        for mood in ("ill", "elsewhere", "silent"):
            receiver.mood = mood
            count = len(receiver.seen)
            refuse(endpoint, 3)
            until(lambda count=count: len(receiver.seen) > count, f"it is asked while {mood}")  # type: ignore[misc]
        now = scraped(endpoint)
        assert now.total("titans3_audit_webhook_waiting") >= 9
        assert now.total("titans3_audit_webhook_waiting_bytes") > 1000
        receiver.stop()
        refuse(endpoint, 3)
        failures = now.total("titans3_audit_webhook_failures_total")
        until(lambda: scraped(endpoint).total("titans3_audit_webhook_failures_total") > failures, "it is tried while it is down", 60)
        assert scraped(endpoint).total("titans3_audit_webhook_lag_seconds") > 1
        receiver.mood = "well"
        receiver.start()
        until(lambda: len(receiver.lines()) >= 15, f"it gets them: {len(receiver.lines())}", 90)
        await_all(endpoint, receiver)
        assert receiver.chains() == written(endpoint)  # once: no failure was taken for an answer
        assert {delivery.path for delivery in receiver.seen} == {"/in/box"}
        until(lambda: "again, after" in endpoint.server.log.read_text(), "it is said")
    log = endpoint.server.log.read_text()
    said = re.findall(r"audit lines are (not delivered|delivered) to (\S+?),? ", log)
    assert said == [("not delivered", f"http://127.0.0.1:{receiver.port}"), ("delivered", f"http://127.0.0.1:{receiver.port}")]
    assert "it answers 500" in log and "in/box" not in log and BEARER not in log


def test_a_new_receiver_gets_the_whole_trail_also_of_workers_that_are_no_more(tmp_path: Path) -> None:
    server = Server(tmp_path / "data", workers=3)
    with serving(server) as endpoint:
        until(lambda: refuse(endpoint, 10) or len(written(endpoint)) == 3, "every worker has a chain")
    receiver = Receiver()
    receiver.start()
    try:
        server.env["TITANS3_AUDIT__WEBHOOK_URL"], server.workers = receiver.url, 1
        with serving(server) as again:
            refuse(again, 1)
            await_all(again, receiver)
            assert receiver.chains() == written(again)
            assert all(numbers == list(range(1, len(numbers) + 1)) for numbers in receiver.chains().values())
            assert "authorization" not in receiver.taken[0].headers
    finally:
        receiver.stop()


def test_a_worker_that_is_killed_after_a_delivery_and_before_its_cursor_repeats_it(tmp_path: Path) -> None:
    killed: list[Delivery] = []
    with received(tmp_path, workers=2) as (endpoint, receiver):

        def kill(delivery: Delivery) -> None:
            if len(killed) < 2:
                killed.append(delivery)  # the receiver takes the lines; nobody hears its answer
                board = endpoint.server.board()
                try:
                    os.kill(board.get(int(delivery.headers["titans3-audit-chain"]), PID), signal.SIGKILL)
                finally:
                    board.close()
                time.sleep(0.2)

        receiver.before = kill
        until(lambda: refuse(endpoint, 5) or len(killed) == 2, "workers are killed", 60)
        asyncio.run(endpoint.server.wait_ready())
        refuse(endpoint, 5)
        await_all(endpoint, receiver)
        assert all(in_order(numbers) for numbers in receiver.chains().values()), receiver.chains()
        assert len(receiver.lines()) > sum(map(len, written(endpoint).values()))  # what nobody heard of came again
        status, verdict = endpoint.admin("POST", "/audit/verify")
        assert (status, verdict["whole"]) == (200, True), verdict


def test_tls_is_checked_against_the_authorities_and_token_and_authorities_change_while_running(tmp_path: Path) -> None:
    for name in ("right", "wrong"):
        (tmp_path / name).mkdir()
    cert, key, authority = certificate(tmp_path / "right")
    *_, other = certificate(tmp_path / "wrong")
    trusted, token = tmp_path / "trusted.pem", tmp_path / "token"
    trusted.write_bytes(Path(other).read_bytes())
    token.write_text("first-webhook-token\n")
    settings = {"WEBHOOK_CA": str(trusted), "WEBHOOK_TOKEN_FILE": str(token), "WEBHOOK_TOKEN": ""}
    with received(tmp_path, pair=(cert, key), workers=1, **settings) as (endpoint, receiver):
        refuse(endpoint, 1)
        until(lambda: "certificate verify failed" in endpoint.server.log.read_text(), "the certificate is refused")
        assert receiver.seen == []
        trusted.write_bytes(Path(authority).read_bytes())
        token.write_text("second-webhook-token\n")
        assert endpoint.server.process is not None
        endpoint.server.process.send_signal(signal.SIGHUP)
        await_all(endpoint, receiver)
        assert {delivery.headers["authorization"] for delivery in receiver.taken} == {"Bearer second-webhook-token"}
    log = endpoint.server.log.read_text()
    assert "first-webhook-token" not in log and "second-webhook-token" not in log
