"""Live trace and logs of a running server, by titanctl and by the admin API: what comes, what filters keep, that it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any

import pytest

from tests.conformance.served import Endpoint, refused
from tests.conformance.test_admin import code


class Command:
    """titanctl in a process of its own, following a server."""

    def __init__(self, endpoint: Endpoint, *arguments: str) -> None:
        environment = {
            **os.environ, "AWS_ENDPOINT_URL": endpoint.url, "AWS_ACCESS_KEY_ID": endpoint.keys[0],
            "AWS_SECRET_ACCESS_KEY": endpoint.keys[1], **({"AWS_CA_BUNDLE": endpoint.authority} if endpoint.authority else {}),
        }  # fmt: skip
        self.process = subprocess.Popen(
            [sys.executable, "-m", "titans3.cli.titanctl", *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip

    def end(self) -> str:
        out, err = self.process.communicate(timeout=30)
        assert self.process.returncode == 0, err
        return out


@pytest.fixture
def busy(endpoint: Endpoint, bucket: str) -> Any:
    """Does a little of everything."""
    client = endpoint.client()

    def work() -> None:
        client.put_object(Bucket=bucket, Key="watched key", Body=b"x" * 5000)
        client.get_object(Bucket=bucket, Key="watched key")["Body"].read()
        with refused("NoSuchKey", 404):
            client.get_object(Bucket=bucket, Key="missing")

    return work


def watched(endpoint: Endpoint, work: Any, *arguments: str, rounds: int = 4) -> list[Any]:
    command = Command(endpoint, *arguments, "--for", "5s", "--json")
    time.sleep(2)
    for _ in range(rounds):
        work()
        time.sleep(0.1)
    return [json.loads(line) for line in command.end().splitlines()]


def test_requests_are_shown_within_a_second(endpoint: Endpoint, bucket: str, busy: Any) -> None:
    command = Command(endpoint, "trace", "--path", bucket, "--for", "10s", "--json")
    assert command.process.stdout is not None
    time.sleep(3)  # until it listens
    busy()
    begin = time.monotonic()
    first = json.loads(command.process.stdout.readline())
    assert time.monotonic() - begin < 1
    rest = [json.loads(line) for line in command.end().splitlines()]
    found = {(event["operation"], event["status"], event["error"]) for event in (first, *rest)}
    assert found == {("PutObject", 200, ""), ("GetObject", 200, ""), ("GetObject", 404, "NoSuchKey")}
    assert first["operation"] == "PutObject"
    assert first["received"] >= 5000
    assert first["requester"].endswith(":root")
    assert "watched" in first["target"]


@pytest.mark.parametrize(("arguments", "expected"), [
    (("--operation", "putobject"), {("PutObject", 200)}), (("--status", "4xx"), {("GetObject", 404)}),
    (("--errors",), {("GetObject", 404)}), (("--status", "200", "-o", "GetObject"), {("GetObject", 200)}), (("--longer", "20s"), set()),
])  # fmt: skip
def test_filters(endpoint: Endpoint, bucket: str, busy: Any, arguments: tuple[str, ...], expected: set[tuple[str, int]]) -> None:
    found = watched(endpoint, busy, "trace", "--path", f"/{bucket}/", *arguments)
    assert {(event["operation"], event["status"]) for event in found} == expected


def test_statistics_and_top(endpoint: Endpoint, bucket: str, busy: Any) -> None:
    (found,) = watched(endpoint, busy, "trace", "--path", f"/{bucket}/", "--stats")
    rows = {row["operation"]: row for row in found["operations"]}
    assert (rows["GetObject"]["requests"], rows["GetObject"]["errors"], rows["PutObject"]["requests"]) == (8, 4, 4)
    command = Command(endpoint, "top", "--every", "3s", "--count", "1")
    time.sleep(1.5)
    busy()
    assert "GetObject" in command.end()


def test_logs_of_before_and_of_now(endpoint: Endpoint) -> None:
    command = Command(endpoint, "logs", "-n", "1000", "--for", "2s", "--json")
    found = [json.loads(line) for line in command.end().splitlines()]
    assert found
    assert all(event["level"] in ("debug", "info", "warning", "error") and event["message"] for event in found)
    quiet = Command(endpoint, "logs", "-n", "1000", "--level", "error", "--for", "2s", "--json").end()
    assert all(json.loads(line)["level"] == "error" for line in quiet.splitlines())


def test_wrong_parameters_are_refused(endpoint: Endpoint) -> None:
    for path in ("/trace?status=abc", "/trace?status=600", "/trace?least_milliseconds=x", "/logs?level=loud", "/logs?colour=red"):
        assert code(endpoint.admin("GET", path)) == (400, "ValidationError")
    assert endpoint.admin("GET", "/trace", sign=False)[0] == 403
