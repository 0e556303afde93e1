"""Keys that are switched off: at once on every worker under load; after the stated bound on one that is cut off. Orders by the admin API.

docs/identity.md states the bounds.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from botocore.exceptions import BotoCoreError, ClientError

from tests.conformance.served import Endpoint
from tests.faults.server import Server, until
from titans3.cluster.control.cache import POLL_SECONDS, STALE_SECONDS_MAX

THREADS = 8


@contextmanager
def serving(path: Path) -> Iterator[Endpoint]:
    server = Server(path / "data")
    server.start()
    try:
        asyncio.run(server.wait_ready())
        yield Endpoint(server, "", server.credentials())
    finally:
        server.stop()


def user_with_key(endpoint: Endpoint) -> tuple[str, str]:
    iam = endpoint.client(service="iam")
    iam.create_user(UserName="worker")
    iam.attach_user_policy(UserName="worker", PolicyArn="arn:aws:iam::aws:policy/readwrite")
    made = iam.create_access_key(UserName="worker")["AccessKey"]
    return made["AccessKeyId"], made["SecretAccessKey"]


def test_a_revoked_key_stops_on_every_worker_with_the_answer(tmp_path: Path) -> None:
    with serving(tmp_path) as endpoint:
        endpoint.client().create_bucket(Bucket="load")
        keys = user_with_key(endpoint)
        asked: list[tuple[float, bool]] = []  # when a request began, and whether it was let in
        strange: list[str] = []
        stop = threading.Event()

        def load() -> None:
            client = endpoint.client(keys=keys)
            while not stop.is_set():
                begin = time.monotonic()
                code = ""
                try:
                    client.put_object(Bucket="load", Key=f"k{len(asked) % 50}", Body=b"x" * 1000)
                except ClientError as error:
                    code = error.response["Error"]["Code"]
                if code not in ("", "InvalidAccessKeyId"):
                    strange.append(code)
                asked.append((begin, not code))

        threads = [threading.Thread(target=load) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        iam = endpoint.client(service="iam")
        switches: list[tuple[float, float, bool]] = []  # begin and end of each switch, and what it switched to
        for turn in range(10):
            time.sleep(0.2)
            begin = time.monotonic()
            iam.update_access_key(UserName="worker", AccessKeyId=keys[0], Status="Active" if turn % 2 else "Inactive")
            switches.append((begin, time.monotonic(), bool(turn % 2)))
        time.sleep(0.2)
        end = time.monotonic()
        stop.set()
        for thread in threads:
            thread.join(30)
        seen = {True: 0, False: 0}
        for (_, done, state), (following, _, _) in zip(switches, [*switches[1:], (end, end, True)], strict=True):
            between = [let_in for begin, let_in in asked if done < begin and begin < following - 0.1]
            seen[state] += len(between)
            assert all(let_in is state for let_in in between), (state, between.count(not state), len(between))
        assert min(seen.values()) > 20, seen
        assert not strange


def test_a_worker_that_is_cut_off_lets_nobody_but_the_root_in(tmp_path: Path) -> None:
    with serving(tmp_path) as endpoint:
        endpoint.client().create_bucket(Bucket="bucket")
        keys = user_with_key(endpoint)
        owner = endpoint.server.worker_pids()[0]

        def head(keys: tuple[str, str]) -> int:
            """Status of a HEAD of the bucket by the worker that is not stopped."""
            for _ in range(20):
                client = endpoint.client(keys=keys, connect_timeout=1, read_timeout=0.5)
                try:
                    return int(client.head_bucket(Bucket="bucket")["ResponseMetadata"]["HTTPStatusCode"])
                except ClientError as error:
                    return int(error.response["ResponseMetadata"]["HTTPStatusCode"])
                except BotoCoreError:
                    continue  # it came to the one that is stopped
            raise AssertionError("nobody answers")

        os.kill(owner, signal.SIGSTOP)
        try:
            begin = time.monotonic()
            assert head(keys) == 200
            statuses = []
            while (status := head(keys)) == 200:
                statuses.append(status)
                assert time.monotonic() - begin < 2 * STALE_SECONDS_MAX + 5
                time.sleep(0.2)
            assert status == 503
            assert time.monotonic() - begin < 2 * STALE_SECONDS_MAX + 2 * POLL_SECONDS
            assert head(endpoint.keys) == 200
        finally:
            os.kill(owner, signal.SIGCONT)
        asyncio.run(until(lambda: head(keys) == 200, 30, "the key works again"))


@pytest.mark.slow
def test_restart_and_stop_by_the_admin_api(tmp_path: Path) -> None:
    with serving(tmp_path) as endpoint:
        server = endpoint.server
        before = set(server.worker_pids())
        client = endpoint.client()
        client.create_bucket(Bucket="bucket")
        assert endpoint.admin("POST", "/service/restart") == (202, {"ordered": "restart"})
        failures = []

        def work() -> bool:
            try:
                client.put_object(Bucket="bucket", Key="k", Body=b"x")
            except (ClientError, BotoCoreError) as error:
                failures.append(error)
            return not before & set(server.worker_pids()) and "rolling restart done" in server.tail()

        asyncio.run(until(work, 60, "every worker is another"))
        assert not failures
        assert endpoint.admin("POST", "/service/stop") == (202, {"ordered": "stop"})
        process = server.process
        assert process is not None
        assert process.wait(60) == 0


@pytest.mark.slow
def test_titanctl_restart_is_back_when_every_worker_is_new(tmp_path: Path) -> None:
    with serving(tmp_path) as endpoint:
        server = endpoint.server
        keys = {"AWS_ACCESS_KEY_ID": endpoint.keys[0], "AWS_SECRET_ACCESS_KEY": endpoint.keys[1]}
        env = {**os.environ, **keys, "AWS_ENDPOINT_URL": endpoint.url}

        def restart(*options: str) -> subprocess.CompletedProcess[str]:
            line = [sys.executable, "-m", "titans3.cli.titanctl", "service", "restart", *options]
            return subprocess.run(line, env=env, capture_output=True, text=True, timeout=120, check=False)

        before = set(server.worker_pids())
        done = restart("--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == {"ordered": "restart", "workers": len(before)}
        after = set(server.worker_pids())
        assert not before & after
        asyncio.run(until(lambda: "rolling restart done" in server.tail(), 30, "the supervisor is done, too"))
        late = restart("--timeout", "0")
        assert late.returncode == 1
        assert "it is not done" in late.stderr
        asyncio.run(until(lambda: not after & set(server.worker_pids()), 60, "it is done all the same"))
