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

    def __init__(self, served: Endpoint, *arguments: str) -> None:
        environment = {
            **os.environ, "AWS_ENDPOINT_URL": served.url, "AWS_ACCESS_KEY_ID": served.keys[0],
            "AWS_SECRET_ACCESS_KEY": served.keys[1], **({"AWS_CA_BUNDLE": served.authority} if served.authority else {}),
        }  # fmt: skip
        self.process = subprocess.Popen(
            [sys.executable, "-m", "titans3.cli.titanctl", *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip

    def end(self) -> str:
        """What it prints from here on."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        with self.process.stdout as out, self.process.stderr as err:
            found, said = out.read(), err.read()
        assert self.process.wait(30) == 0, said
        return found


@pytest.fixture(scope="module")
def served(plain: Endpoint) -> Endpoint:
    """One server is enough: streams are no different over TLS."""
    return plain


@pytest.fixture
def place(served: Endpoint) -> str:
    """A fresh bucket."""
    name = f"watched-{time.monotonic_ns()}"
    served.client().create_bucket(Bucket=name)
    return name


@pytest.fixture
def busy(served: Endpoint, place: str) -> Any:
    """Does a little of everything."""
    client = served.client()

    def work() -> None:
        client.put_object(Bucket=place, Key="watched key", Body=b"x" * 5000)
        client.get_object(Bucket=place, Key="watched key")["Body"].read()
        with refused("NoSuchKey", 404):
            client.get_object(Bucket=place, Key="missing")

    return work


def watched(served: Endpoint, work: Any, *arguments: str) -> list[Any]:
    """What a command prints while ``work`` is done again and again."""
    command = Command(served, *arguments, "--for", "3s", "--json")
    while command.process.poll() is None:
        work()
        time.sleep(0.1)
    return [json.loads(line) for line in command.end().splitlines()]


def test_requests_are_shown_within_a_second(served: Endpoint, place: str, busy: Any) -> None:
    command = Command(served, "trace", "--path", place, "--for", "10s", "--json")
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
def test_filters(served: Endpoint, place: str, busy: Any, arguments: tuple[str, ...], expected: set[tuple[str, int]]) -> None:
    found = watched(served, busy, "trace", "--path", f"/{place}/", *arguments)
    assert {(event["operation"], event["status"]) for event in found} == expected


def test_statistics_and_top(served: Endpoint, place: str, busy: Any) -> None:
    (found,) = watched(served, busy, "trace", "--path", f"/{place}/", "--stats")
    rows = {row["operation"]: row for row in found["operations"]}
    assert 0 < rows["GetObject"]["errors"] < rows["GetObject"]["requests"]
    assert rows["PutObject"]["errors"] == 0
    assert rows["PutObject"]["received"] >= 5000 * rows["PutObject"]["requests"] > 0
    command = Command(served, "top", "--every", "2s", "--count", "2")
    while command.process.poll() is None:
        busy()
        time.sleep(0.1)
    assert "GetObject" in command.end()


def test_logs_of_before_and_of_now(served: Endpoint) -> None:
    command = Command(served, "logs", "-n", "1000", "--for", "2s", "--json")
    found = [json.loads(line) for line in command.end().splitlines()]
    assert found
    assert all(event["level"] in ("debug", "info", "warning", "error") and event["message"] for event in found)
    quiet = Command(served, "logs", "-n", "1000", "--level", "error", "--for", "2s", "--json").end()
    assert all(json.loads(line)["level"] == "error" for line in quiet.splitlines())


def test_wrong_parameters_are_refused(served: Endpoint) -> None:
    for path in ("/trace?status=abc", "/trace?status=600", "/trace?least_milliseconds=x", "/logs?level=loud", "/logs?colour=red"):
        assert code(served.admin("GET", path)) == (400, "ValidationError")
    assert served.admin("GET", "/trace", sign=False)[0] == 403
