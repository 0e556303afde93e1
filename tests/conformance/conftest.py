"""The two servers of the suite, and a fresh bucket for whoever asks."""

from __future__ import annotations

import asyncio
import itertools
import ssl
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conformance.served import Endpoint, certificate
from tests.faults.server import Server

_numbers = itertools.count(1)


def _serve(server: Server, authority: str = "") -> Iterator[Endpoint]:
    server.start()
    try:
        asyncio.run(server.wait_ready())
        yield Endpoint(server, authority, server.credentials())
    finally:
        assert server.stop() == 0


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """Over HTTP."""
    data = tmp_path_factory.mktemp("conformance") / "data"
    yield from _serve(Server(data, env={"TITANS3_S3__DOMAINS": "s3.localhost"}))


@pytest.fixture(scope="session")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """Over TLS."""
    folder = tmp_path_factory.mktemp("conformance-tls")
    cert, key, authority = certificate(folder)
    env = {"TITANS3_S3__TLS_CERT": cert, "TITANS3_S3__TLS_KEY": key, "TITANS3_S3__DOMAINS": "s3.localhost"}
    trust = ssl.create_default_context(cafile=authority)
    yield from _serve(Server(folder / "data", env=env, tls=trust), authority)


@pytest.fixture(scope="session", params=["plain", "secure"])
def endpoint(request: pytest.FixtureRequest) -> Endpoint:
    """Each test that asks for it runs over both."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Endpoint)
    return found


@pytest.fixture(scope="session")
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
