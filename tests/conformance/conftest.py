"""The two servers of the suite, and a fresh bucket for whoever asks."""

from __future__ import annotations

import asyncio
import itertools
import json
import ssl
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.served import Endpoint, certificate
from tests.faults.server import Server
from titans3.s3.handlers import HANDLERS

RESULTS = Path(__file__).parent / "results.json"

_numbers = itertools.count(1)
_shown: dict[str, int] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-results", action="store_true", help="write into results.json how many tests show each operation")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if call.when == "call" and report.passed:
        for name in {name for mark in item.iter_markers("operation") for name in mark.args}:
            assert name in HANDLERS or name == "OPTIONS", f"{item.nodeid}: there is no operation {name}"
            _shown[name] = _shown.get(name, 0) + 1
    return report


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Results are written by a run in which everything passed."""
    if session.config.getoption("--write-results", default=False) and exitstatus == 0:
        RESULTS.write_text(json.dumps(_shown, indent=1, sort_keys=True) + "\n")


def _serve(server: Server, authority: str = "") -> Iterator[Endpoint]:
    server.start()
    try:
        asyncio.run(server.wait_ready())
        yield Endpoint(server, authority, server.credentials())
    finally:
        assert server.stop() == 0


@pytest.fixture(scope="package")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """Over HTTP."""
    data = tmp_path_factory.mktemp("conformance") / "data"
    yield from _serve(Server(data, env={"TITANS3_S3__DOMAINS": "s3.localhost"}))


@pytest.fixture(scope="package")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """Over TLS."""
    folder = tmp_path_factory.mktemp("conformance-tls")
    cert, key, authority = certificate(folder)
    env = {"TITANS3_S3__TLS_CERT": cert, "TITANS3_S3__TLS_KEY": key, "TITANS3_S3__DOMAINS": "s3.localhost"}
    trust = ssl.create_default_context(cafile=authority)
    yield from _serve(Server(folder / "data", env=env, tls=trust), authority)


@pytest.fixture(scope="package", params=["plain", "secure"])
def endpoint(request: pytest.FixtureRequest) -> Endpoint:
    """Each test that asks for it runs over both."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Endpoint)
    return found


@pytest.fixture(scope="package")
def s3(endpoint: Endpoint) -> Any:
    """A boto3 client of the root; it never repeats a request."""
    return endpoint.client()


@pytest.fixture
def bucket(s3: Any) -> str:
    """A fresh bucket."""
    name = f"b{next(_numbers)}-conformance"
    s3.create_bucket(Bucket=name)
    return name


@pytest.fixture
def versioned(s3: Any, bucket: str) -> str:
    """A fresh bucket with versioning enabled."""
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    return bucket
